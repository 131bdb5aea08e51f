//! Counters, gauges and a histogram, in the OpenMetrics text format.
//!
//! What a request touches is counted by its worker in cells of its own: no lock, no memory, no line of cache that another
//! worker writes. A scrape adds the workers up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, &'static str)>;

/// The process's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Why a request can end as it does: the codes of refusals, and how bodies end.
    reasons: Arc<[&'static str]>,
    /// The cells of each worker.
    workers: Mutex<Vec<Arc<Cells>>>,
    /// Requests that used a credential, by caller.
    callers: Mutex<BTreeMap<String, u64>>,
    /// Client connections that ended because what came was no HTTP, before there was a request to answer.
    pub malformed_connections: Counter,
    /// Bodies of upstreams that ended too early.
    pub upstream_truncated: Counter,
    /// Requests whose client went away or broke off before the end.
    pub request_aborted: Counter,
    /// Access lines that were dropped because the log could not keep up.
    pub access_lines_dropped: Counter,
    /// Client connections that are open.
    pub open_connections: Gauge,
    /// Times the configuration was loaded again.
    pub reloads: Counter,
}

/// The classes of statuses, and what stands for a client that had gone before it could be answered.
const CLASSES: [&str; 6] = ["gone", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// The upper bounds of the histogram's buckets in microseconds; the last one has none.
const BOUNDS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// The reason of what has a reason that nobody named at the start.
const OTHER: &str = "other";
/// How many callers are told apart; all that come after them are one.
const MOST_CALLERS: usize = 1_000;

impl Metrics {
    /// Counters for requests that end for these reasons, refusal codes among them.
    pub fn for_codes(reasons: impl IntoIterator<Item = &'static str>) -> Self {
        Metrics { reasons: reasons.into_iter().collect(), ..Metrics::default() }
    }

    /// Cells for one more worker.
    pub fn request_counters(&self) -> RequestCounters {
        let cells = Arc::new(Cells::new(self.reasons.len()));
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cells));
        RequestCounters { reasons: Arc::clone(&self.reasons), cells, one_thread: PhantomData }
    }

    /// Counts requests of a caller that used a credential. Workers count for themselves and hand over now and then.
    pub fn used_by(&self, caller: &str, requests: u64) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        match callers.get_mut(caller) {
            Some(count) => *count += requests,
            None => {
                let caller = if callers.len() < MOST_CALLERS { caller } else { OTHER };
                *callers.entry(caller.to_owned()).or_default() += requests;
            }
        }
    }

    fn register_callers(&self, registry: &mut Registry) {
        let requests = Family::<Vec<(&'static str, String)>, Counter>::default();
        for (caller, count) in &*self.callers.lock().unwrap_or_else(PoisonError::into_inner) {
            requests.get_or_create(&vec![("caller", caller.clone())]).inc_by(*count);
        }
        let help = "Requests that used a credential, by API key, a few seconds late";
        registry.register("caller_requests", help, requests);
    }

    /// Everything, as text, with counters that others keep: name, what it counts, value.
    pub fn render(&self, counted_elsewhere: impl IntoIterator<Item = (&'static str, &'static str, u64)>) -> String {
        let mut registry = Registry::with_prefix("sidekey");
        self.register_requests(&mut registry);
        self.register_callers(&mut registry);
        registry.register(
            "malformed_connections",
            "Connections that did not speak HTTP",
            self.malformed_connections.clone(),
        );
        registry.register("upstream_truncated", "Upstream bodies cut short", self.upstream_truncated.clone());
        registry.register("request_aborted", "Requests broken off by their client", self.request_aborted.clone());
        registry.register("access_lines_dropped", "Access lines dropped", self.access_lines_dropped.clone());
        registry.register("open_connections", "Open client connections", self.open_connections.clone());
        registry.register("reloads", "Times the configuration was loaded again", self.reloads.clone());
        for (name, help, value) in counted_elsewhere {
            let counter = Counter::<u64>::default();
            counter.inc_by(value);
            registry.register(name, help, counter);
        }
        let mut text = String::new();
        let _infallible = encode(&mut text, &registry);
        text
    }

    /// What the workers have counted. Every class and every refusal is there from the start; a class with a reason once
    /// there was one.
    fn register_requests(&self, registry: &mut Registry) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |place: Place| workers.iter().map(|cells| cells.cell(place).load(Ordering::Relaxed)).sum::<u64>();
        let (requests, refusals) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        for (class, status) in CLASSES.into_iter().enumerate() {
            requests.get_or_create(&vec![("status", status)]).inc_by(sum(Place::Request { class, reason: 0 }));
            for (reason, name) in self.reasons.iter().copied().chain([OTHER]).enumerate() {
                let count = sum(Place::Request { class, reason: reason + 1 });
                if count > 0 {
                    requests.get_or_create(&vec![("status", status), ("reason", name)]).inc_by(count);
                }
            }
        }
        for (code, name) in self.reasons.iter().copied().enumerate() {
            refusals.get_or_create(&vec![("code", name)]).inc_by(sum(Place::Refusal { code }));
        }
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let added = Added {
            seconds: sum(Place::AddedNanoseconds) as f64 / 1e9,
            buckets: bounds.enumerate().map(|(bucket, bound)| (bound, sum(Place::Added { bucket }))).collect(),
        };
        registry.register("requests", "Requests by class of status, and by reason where there is one", requests);
        registry.register("refusals", "Answers of Sidekey's own by code", refusals);
        registry.register_with_unit("added", "Time that Sidekey added to a relayed request", Unit::Seconds, added);
    }
}

/// The time added, as it is encoded. `prometheus_client`'s own histogram takes a lock for each observation.
#[derive(Debug)]
struct Added {
    seconds: f64,
    /// Upper bounds, and how many lie between each and the one before.
    buckets: Vec<(f64, u64)>,
}

impl EncodeMetric for Added {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.seconds, count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// What is counted in one cell.
#[derive(Clone, Copy)]
enum Place {
    /// Requests; reason 0 is none, the last one any other.
    Request { class: usize, reason: usize },
    /// Answers of Sidekey's own.
    Refusal { code: usize },
    /// Requests to which that much time was added.
    Added { bucket: usize },
    /// All that time.
    AddedNanoseconds,
}

/// Two lines of cache, because processors fetch them in pairs: nobody else's numbers lie in them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line([AtomicU64; 16]);

/// The numbers of one worker. Only that worker writes them.
#[derive(Debug)]
struct Cells {
    reasons: usize,
    lines: Box<[Line]>,
}

impl Cells {
    fn new(reasons: usize) -> Self {
        let count = Self::before_requests() + CLASSES.len() * (reasons + 2) + reasons;
        Cells { reasons, lines: (0..count.div_ceil(16)).map(|_| Line::default()).collect() }
    }

    /// What almost every request touches comes first and lies together.
    const fn before_requests() -> usize {
        1 + BOUNDS.len() + 1
    }

    fn cell(&self, place: Place) -> &AtomicU64 {
        let refusals = Self::before_requests() + CLASSES.len() * (self.reasons + 2);
        let index = match place {
            Place::AddedNanoseconds => 0,
            Place::Added { bucket } => 1 + bucket,
            Place::Request { class, reason } => Self::before_requests() + CLASSES.len() * reason + class,
            Place::Refusal { code } => refusals + code,
        };
        &self.lines[index / 16].0[index % 16]
    }

    /// Adds to a cell that nobody else writes: a load and a store, and no bus is locked.
    fn add(&self, place: Place, number: u64) {
        let cell = self.cell(place);
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
    }
}

/// The way to the cells of one worker. Neither `Clone` nor `Sync`: they have one writer.
#[derive(Debug)]
pub struct RequestCounters {
    reasons: Arc<[&'static str]>,
    cells: Arc<Cells>,
    one_thread: PhantomData<Cell<()>>,
}

impl RequestCounters {
    /// Counts a request that was answered with this status, or whose client had gone, and why.
    pub fn count(&self, status: Option<u16>, reason: Option<&'static str>) {
        let class = status.map_or(0, |status| usize::from(status / 100).clamp(1, 5));
        let reason = reason.map_or(0, |reason| 1 + self.position(reason).unwrap_or(self.reasons.len()));
        self.cells.add(Place::Request { class, reason }, 1);
    }

    /// Counts an answer of Sidekey's own.
    pub fn refused(&self, code: &'static str) {
        if let Some(code) = self.position(code) {
            self.cells.add(Place::Refusal { code }, 1);
        }
    }

    /// Notes the time that was added to a relayed request.
    pub fn added(&self, time: Duration) {
        let nanoseconds = time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into());
        let bucket = BOUNDS.iter().position(|bound| nanoseconds <= bound * 1_000).unwrap_or(BOUNDS.len());
        self.cells.add(Place::Added { bucket }, 1);
        self.cells.add(Place::AddedNanoseconds, nanoseconds);
    }

    fn position(&self, reason: &str) -> Option<usize> {
        self.reasons.iter().position(|known| *known == reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The samples of a name, labels sorted.
    fn samples(metrics: &Metrics, name: &str) -> Vec<String> {
        let text = metrics.render([]);
        let mut samples: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("sidekey_"))
            .filter(|line| line.starts_with(name))
            .collect();
        samples.sort_unstable();
        samples.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn the_workers_are_added_up() {
        let metrics = Metrics::for_codes(["rate_limited", "client_gone"]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let counters = metrics.request_counters();
                scope.spawn(move || {
                    for _ in 0..1_000 {
                        counters.count(Some(200), None);
                        counters.count(Some(429), Some("rate_limited"));
                        counters.refused("rate_limited");
                    }
                    counters.count(None, Some("client_gone"));
                    counters.count(Some(999), Some("never heard of"));
                });
            }
        });
        assert_eq!(
            samples(&metrics, "requests_total"),
            [
                "requests_total{status=\"1xx\"} 0",
                "requests_total{status=\"2xx\"} 4000",
                "requests_total{status=\"3xx\"} 0",
                "requests_total{status=\"4xx\",reason=\"rate_limited\"} 4000",
                "requests_total{status=\"4xx\"} 0",
                "requests_total{status=\"5xx\",reason=\"other\"} 4",
                "requests_total{status=\"5xx\"} 0",
                "requests_total{status=\"gone\",reason=\"client_gone\"} 4",
                "requests_total{status=\"gone\"} 0",
            ]
        );
        assert_eq!(
            samples(&metrics, "refusals_total"),
            ["refusals_total{code=\"client_gone\"} 0", "refusals_total{code=\"rate_limited\"} 4000"]
        );
    }

    #[test]
    fn every_number_has_a_cell_of_its_own() {
        let cells = Cells::new(3);
        let requests = (0..CLASSES.len()).flat_map(|class| (0..5).map(move |reason| Place::Request { class, reason }));
        let added = (0..=BOUNDS.len()).map(|bucket| Place::Added { bucket });
        let refusals = (0..3).map(|code| Place::Refusal { code });
        let places: Vec<_> = requests.chain(added).chain(refusals).chain([Place::AddedNanoseconds]).collect();
        for place in &places {
            cells.add(*place, 1);
        }
        assert!(places.iter().all(|place| cells.cell(*place).load(Ordering::Relaxed) == 1));
        assert!(places.len() <= cells.lines.len() * 16 && places.len() > cells.lines.len() * 16 - 16);
    }

    #[test]
    fn the_time_added_falls_into_its_bucket() {
        let metrics = Metrics::default();
        let (one, other) = (metrics.request_counters(), metrics.request_counters());
        for micros in [0, 50, 51, 100, 2_000, 10_000_000] {
            one.added(Duration::from_micros(micros));
        }
        other.added(Duration::from_nanos(50_001));
        other.added(Duration::from_secs(11));
        let samples = samples(&metrics, "added_seconds");
        for expected in [
            "added_seconds_bucket{le=\"0.00005\"} 2",
            "added_seconds_bucket{le=\"0.0001\"} 5",
            "added_seconds_bucket{le=\"0.001\"} 5",
            "added_seconds_bucket{le=\"0.0025\"} 6",
            "added_seconds_bucket{le=\"5.0\"} 6",
            "added_seconds_bucket{le=\"10.0\"} 7",
            "added_seconds_bucket{le=\"+Inf\"} 8",
            "added_seconds_count 8",
        ] {
            assert!(samples.iter().any(|sample| sample == expected), "{expected}: {samples:#?}");
        }
        let sum = samples.iter().find_map(|sample| sample.strip_prefix("added_seconds_sum ")).unwrap();
        assert!((sum.parse::<f64>().unwrap() - 21.002_251_001).abs() < 1e-9, "{sum}");
    }
}
