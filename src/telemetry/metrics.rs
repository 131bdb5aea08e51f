//! Counters and gauges, in the OpenMetrics text format.
//!
//! Every counter that a request touches exists from the start, so that counting takes neither a lock nor memory.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// The process's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests by the class of their status, in the order of [`CLASSES`].
    requests: Family<Labels, Counter>,
    /// Answers of Sidekey's own by code.
    refusals: Family<Labels, Counter>,
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

impl Metrics {
    /// Counters for these refusal codes.
    pub fn for_codes(codes: impl IntoIterator<Item = &'static str>) -> Self {
        let metrics = Metrics::default();
        for class in CLASSES {
            drop(metrics.requests.get_or_create(&[("status", class)]));
        }
        for code in codes {
            drop(metrics.refusals.get_or_create(&[("code", code)]));
        }
        metrics
    }

    /// Counters of one worker or of all: they are shared.
    pub fn request_counters(&self) -> RequestCounters {
        RequestCounters(CLASSES.map(|class| self.requests.get_or_create_owned(&[("status", class)])))
    }

    /// Counts an answer of Sidekey's own.
    pub fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&[("code", code)]).inc();
    }

    /// Everything, as text, with counters that others keep: name, what it counts, value.
    pub fn render(&self, counted_elsewhere: impl IntoIterator<Item = (&'static str, &'static str, u64)>) -> String {
        let mut registry = Registry::with_prefix("sidekey");
        registry.register("requests", "Requests by class of status", self.requests.clone());
        registry.register("refusals", "Answers of Sidekey's own by code", self.refusals.clone());
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
}

/// Handles of the request counters, to count without looking them up.
#[derive(Debug)]
pub struct RequestCounters([Counter; CLASSES.len()]);

impl RequestCounters {
    /// Counts a request that was answered with this status, or whose client had gone.
    pub fn count(&self, status: Option<u16>) {
        let class = status.map_or(0, |status| usize::from(status / 100).clamp(1, 5));
        self.0[class].inc();
    }
}
