//! What the rig measured: runs of each peer in each scenario, and what can be said of them together.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// One run, as the rig writes it. What a scenario does not have is not there.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Run {
    /// CPU time of the proxy for a request, in µs.
    pub(crate) cpu_us: Option<f64>,
    /// Requests a second.
    pub(crate) rps: Option<f64>,
    /// The median of the latencies, in µs.
    pub(crate) p50: Option<f64>,
    /// The 99th percentile of the latencies, in µs.
    pub(crate) p99: Option<f64>,
    /// The proportional set size at the end, in MiB.
    pub(crate) pss: Option<f64>,
    /// The same before the load.
    pub(crate) base: Option<f64>,
    /// Idle clients that were open.
    pub(crate) open: Option<f64>,
    /// Requests that failed.
    #[serde(default)]
    pub(crate) err: u64,
    /// Idle clients that were not served.
    #[serde(default)]
    pub(crate) bad: u64,
    /// Requests that were counted.
    pub(crate) n: Option<f64>,
    /// The summary of `strace -c`.
    pub(crate) strace: Option<String>,
}

/// Scenario, peer, runs in their order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Runs(BTreeMap<String, BTreeMap<String, Vec<Run>>>);

/// A figure of a run.
pub(crate) type Figure = fn(&Run) -> Option<f64>;

/// The median of some values, the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The most.
    pub(crate) most: f64,
    /// Of how many values.
    pub(crate) count: usize,
}

impl Runs {
    /// Reads what the rig wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// These, and then others.
    pub(crate) fn with(mut self, others: Runs) -> Self {
        for (scenario, peers) in others.0 {
            let own = self.0.entry(scenario).or_default();
            for (peer, runs) in peers {
                own.entry(peer).or_default().extend(runs);
            }
        }
        self
    }

    /// The runs of a peer in a scenario.
    pub(crate) fn of(&self, scenario: &str, peer: &str) -> &[Run] {
        self.0.get(scenario).and_then(|peers| peers.get(peer)).map_or(&[], Vec::as_slice)
    }

    /// A figure of a peer in a scenario.
    pub(crate) fn spread(&self, scenario: &str, peer: &str, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.of(scenario, peer).iter().filter_map(figure))
    }

    /// Which of some peers has the least of a figure, by its median.
    pub(crate) fn least<'p>(&self, scenario: &str, peers: &[&'p str], figure: Figure) -> Option<&'p str> {
        let medians = peers.iter().filter_map(|peer| Some((*peer, self.spread(scenario, peer, figure)?.median)));
        medians.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(peer, _)| peer)
    }

    /// Requests that failed and clients that were not served.
    pub(crate) fn failures(&self, scenario: &str, peer: &str) -> u64 {
        self.of(scenario, peer).iter().map(|run| run.err + run.bad).sum()
    }
}

/// How a figure stands to another's, in each pair of runs that followed each other. `None` where they cannot be paired,
/// because one of them lacks a run.
pub(crate) fn ratio(own: &[Run], others: &[Run], figure: Figure) -> Option<Spread> {
    if own.len() != others.len() {
        return None;
    }
    let ratios = own.iter().zip(others).map(|(own, other)| Some(figure(own)? / figure(other)?));
    Spread::of(ratios.collect::<Option<Vec<_>>>()?.into_iter())
}

impl Spread {
    /// `None` of no values.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Spread { median, least, most, count: values.len() })
    }
}

/// With as many digits behind the point as asked for: `14.1 (13.9 to 15.0)`.
impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = out.precision().unwrap_or(1);
        write!(out, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}

/// Memory that an idle client takes, in KiB.
pub(crate) fn idle_kib(run: &Run) -> Option<f64> {
    Some((run.pss? - run.base?) * 1024.0 / run.open?)
}

/// System calls for a request. The rig counts during the whole load, which begins a second before requests are counted.
pub(crate) fn calls(run: &Run, seconds: f64) -> Option<f64> {
    let calls: f64 = run.strace.as_deref()?.lines().filter_map(calls_of_line).sum();
    (calls > 0.0).then_some(calls / (run.n? * (seconds + 1.0) / seconds))
}

/// `% time, seconds, usecs/call, calls, [errors,] syscall`; not the line of the totals.
fn calls_of_line(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_row = words.len() >= 5 && words.last() != Some(&"total");
    words.get(3).filter(|_| is_row)?.parse().ok()
}
