//! `benches/RESULTS.md`: what was measured, on what, and how it stands to what must be reached.

use super::runs::{Figure, Run, Runs, calls, idle_kib, ratio};

/// Who is measured.
pub(crate) const OWN: &str = "sidekey";
/// Whom it is compared with: the better of these.
pub(crate) const PEERS: [&str; 2] = ["nginx", "haproxy"];
/// Peers that take a multiple: they are measured where it says most, and a request must only be dearer over them.
pub(crate) const FAR: [&str; 2] = ["envoy", "pingora"];
/// The scenario whose system calls are counted.
pub(crate) const CALLS_IN: &str = "A";

/// All that goes into the page.
pub(crate) struct Measured {
    /// On what, with which programs: names and values.
    pub(crate) facts: Vec<(String, String)>,
    /// The scenarios, in their order.
    pub(crate) scenarios: Vec<String>,
    /// The peers, in their order.
    pub(crate) peers: Vec<String>,
    /// How long a run was.
    pub(crate) seconds: f64,
    /// One core for the proxy.
    pub(crate) one_core: Runs,
    /// One core and two, in turns.
    pub(crate) in_turns: [Runs; 2],
    /// One run with `strace` beside it.
    pub(crate) traced: Runs,
    /// User instructions for a request, for each peer that was counted.
    pub(crate) instructions: Vec<(String, f64)>,
}

/// On which side of its bound a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    /// The less, the better.
    AtMost,
    /// The more, the better.
    AtLeast,
}

struct Bound {
    scenario: &'static str,
    name: &'static str,
    figure: Figure,
    peers: &'static [&'static str],
    side: Side,
    bound: f64,
}

const fn cpu(scenario: &'static str, bound: f64) -> Bound {
    Bound { scenario, name: "CPU a request", figure: cpu_us, peers: &PEERS, side: Side::AtMost, bound }
}

/// Beside one of those that are far.
const fn cheaper(scenario: &'static str, peer: &'static [&'static str]) -> Bound {
    Bound { peers: peer, ..cpu(scenario, 1.0) }
}

const fn rate(scenario: &'static str) -> Bound {
    Bound { scenario, name: "requests/s", figure: rps, peers: &["nginx"], side: Side::AtLeast, bound: 1.0 }
}

/// What must be reached beside the peers.
const BOUNDS: [Bound; 13] = [
    cpu("A", 0.75),
    cheaper("A", &["envoy"]),
    cheaper("A", &["pingora"]),
    cpu("B", 0.70),
    cheaper("B", &["envoy"]),
    cheaper("B", &["pingora"]),
    cpu("C1", 0.95),
    rate("C1"),
    cpu("C2", 0.70),
    rate("C2"),
    Bound { scenario: "D", name: "p99", figure: p99, peers: &PEERS, side: Side::AtMost, bound: 1.0 },
    cpu("R25", 0.85),
    cpu("R25t", 0.80),
];

/// User instructions for a request, at the most.
const INSTRUCTIONS: f64 = 20_000.0;
/// System calls for a request, at the most.
const CALLS: f64 = 4.1;
/// Memory for an idle client, at the most, in KiB.
const IDLE: f64 = 2.0;
/// Requests a second on two cores, beside one: at the least.
const SPEED_UP: f64 = 1.8;
/// Else the CPU of a request on two cores is that on one, give or take this.
const SAME_CPU: f64 = 0.1;

fn cpu_us(run: &Run) -> Option<f64> {
    run.cpu_us
}

fn rps(run: &Run) -> Option<f64> {
    run.rps
}

fn p50(run: &Run) -> Option<f64> {
    run.p50
}

fn p99(run: &Run) -> Option<f64> {
    run.p99
}

fn pss(run: &Run) -> Option<f64> {
    run.pss
}

impl Side {
    /// How a figure stands to its bound: all of its range, its median, or its best run only.
    pub(crate) fn verdict(self, worst_to_best: [f64; 3], bound: f64) -> &'static str {
        let holds = |value: f64| match self {
            Side::AtMost => value <= bound,
            Side::AtLeast => value >= bound,
        };
        match worst_to_best.map(holds) {
            [true, ..] => "met, by every run",
            [_, true, _] => "met, by the median",
            [_, _, true] => "met, by the best run only",
            _ => "**not met**",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Side::AtMost => "≤",
            Side::AtLeast => "≥",
        }
    }
}

impl Measured {
    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut page = String::from(INTRODUCTION);
        page += "\n| | |\n|---|---|\n";
        for (name, value) in &self.facts {
            page += &format!("| {name} | {value} |\n");
        }
        page += &self.beside_the_peers();
        page += &self.absolute();
        page += &self.cores();
        page +=
            "\n## Every figure\n\nMedian, and the range of the runs. CPU is the proxy's, latencies are the client's.\n";
        for scenario in self.scenarios.iter().filter(|scenario| *scenario != "E") {
            page += &self.scenario(&self.one_core, scenario, "");
            page += &self.scenario(&self.in_turns[1], scenario, ", two cores");
        }
        page + LIMITS
    }

    fn beside_the_peers(&self) -> String {
        let mut text = String::from(
            "\n## Beside the peers\n\nThe better of nginx and HAProxy is who has the better median. Each run of Sidekey is divided by the peer's run of the same round; a bound counts as met when the range reaches it.\n\n\
             | scenario | figure | beside | ratio (range) | bound | |\n|---|---|---|---|---|---|\n",
        );
        for Bound { scenario, name, figure, peers, side, bound } in
            BOUNDS.iter().filter(|bound| self.scenarios.iter().any(|scenario| scenario == bound.scenario))
        {
            let Some(peer) = self.one_core.least(scenario, peers, *figure) else {
                let peers = peers.join(" or ");
                text += &format!("| {scenario} | {name} | {peers} | not measured | {} {bound:.2} | |\n", side.sign());
                continue;
            };
            let sign = side.sign();
            let of = |peer| self.one_core.of(scenario, peer);
            text += &match ratio(of(OWN), of(peer), *figure) {
                Some(ratio) => {
                    let order = match side {
                        Side::AtMost => [ratio.most, ratio.median, ratio.least],
                        Side::AtLeast => [ratio.least, ratio.median, ratio.most],
                    };
                    let verdict = side.verdict(order, *bound);
                    format!("| {scenario} | {name} | {peer} | {ratio:.2} | {sign} {bound:.2} | {verdict} |\n")
                }
                None => format!("| {scenario} | {name} | {peer} | a run is missing | {sign} {bound:.2} | |\n"),
            };
        }
        text
    }

    /// What has no noise, and memory.
    fn absolute(&self) -> String {
        let mut text = String::from(
            "\n## What has no clock\n\nMedians; instructions and system calls are counted three times.\n\n| figure | bound |",
        );
        let columns = [&format!(" {OWN} |"), " |"];
        let is_other = |peer: &&str| *peer != OWN && !FAR.contains(peer);
        let others: Vec<&str> = self.peers.iter().map(String::as_str).filter(is_other).collect();
        text += columns[0];
        text += columns[1];
        text += &others.iter().map(|peer| format!(" {peer} |")).collect::<String>();
        text += &format!("\n|{}\n", "---|".repeat(4 + others.len()));
        let mut row = |name: &str, bound: f64, digits: usize, figure: &dyn Fn(&str) -> Option<f64>| {
            let told = |peer: &str| figure(peer).map_or("–".to_owned(), |value| format!("{value:.digits$}"));
            let verdict = figure(OWN)
                .map_or("", |value| Side::AtMost.verdict([value; 3], bound).split(',').next().unwrap_or_default());
            text += &format!("| {name} | ≤ {bound} | {} | {verdict} |", told(OWN));
            text += &others.iter().map(|peer| format!(" {} |", told(peer))).collect::<String>();
            text += "\n";
        };
        let instructions =
            |peer: &str| self.instructions.iter().find(|(counted, _)| counted == peer).map(|(_, count)| *count);
        row("user instructions a request (plain, 1,000/s)", INSTRUCTIONS, 0, &instructions);
        let traced = |peer: &str| Some(self.traced.spread(CALLS_IN, peer, |run| calls(run, self.seconds))?.median);
        row(&format!("system calls a request ({CALLS_IN})"), CALLS, 2, &traced);
        let idle = |peer: &str| Some(self.one_core.spread("E", peer, idle_kib)?.median);
        row("memory of an idle client, KiB (E)", IDLE, 2, &idle);
        text
    }

    fn cores(&self) -> String {
        let mut text = String::from(
            "\n## Two cores beside one\n\nThe client and the upstream use the same two cores, so there is no second core for the proxy alone: requests/s can hardly double. Each run on two cores is divided by the run on one core before it; what the peers lose shows what the machine takes.\n\n\
             | scenario | peer | requests/s | CPU a request | bound | |\n|---|---|---|---|---|---|\n",
        );
        let [one, two] = &self.in_turns;
        for (scenario, peer) in
            self.scenarios.iter().flat_map(|scenario| self.peers.iter().map(move |peer| (scenario, peer)))
        {
            let beside = |figure: Figure| ratio(two.of(scenario, peer), one.of(scenario, peer), figure);
            let (Some(rate), Some(cpu)) = (beside(rps), beside(cpu_us)) else { continue };
            let is_same = cpu.least <= 1.0 + SAME_CPU && cpu.most >= 1.0 - SAME_CPU;
            let (bound, verdict) = match rate.most >= SPEED_UP || is_same {
                _ if peer != OWN => (String::new(), ""),
                true => (format!("≥ {SPEED_UP:.2}, or the same CPU ± 10 %"), "met"),
                false => (format!("≥ {SPEED_UP:.2}, or the same CPU ± 10 %"), "**not met**"),
            };
            text += &format!("| {scenario} | {peer} | {rate:.2} | {cpu:.2} | {bound} | {verdict} |\n");
        }
        text
    }

    fn scenario(&self, runs: &Runs, scenario: &str, suffix: &str) -> String {
        if self.peers.iter().all(|peer| runs.of(scenario, peer).is_empty()) {
            return String::new();
        }
        let mut text = format!(
            "\n### {scenario}: {}{suffix}\n\n| peer | CPU µs a request | requests/s | p50 µs | p99 µs | memory MiB | runs | failed |\n|---|---|---|---|---|---|---|---|\n",
            meaning(scenario)
        );
        for peer in self.peers.iter().filter(|peer| !runs.of(scenario, peer).is_empty()) {
            let told = |figure: Figure, digits: usize| {
                runs.spread(scenario, peer, figure).map_or("–".to_owned(), |spread| format!("{spread:.digits$}"))
            };
            let (cpu, rate, p50, p99) = (told(cpu_us, 1), told(rps, 0), told(p50, 0), told(p99, 0));
            let (memory, count) = (told(pss, 0), runs.of(scenario, peer).len());
            let failed = runs.failures(scenario, peer);
            text += &format!("| {peer} | {cpu} | {rate} | {p50} | {p99} | {memory} | {count} | {failed} |\n");
        }
        text
    }
}

fn meaning(scenario: &str) -> &'static str {
    match scenario {
        "A" => "saturation, 64 clients, 1 KiB answers, plain upstream",
        "B" => "saturation, 64 clients, 1 KiB answers, TLS 1.3 upstream",
        "C1" => "saturation, 32 clients, 100 KiB answers, TLS 1.3 upstream",
        "C2" => "saturation, 32 clients, 100 KiB requests, TLS 1.3 upstream",
        "D" => "2,000 requests/s, 64 clients, TLS 1.3 upstream",
        "R25" => "25,000 requests/s, 64 clients, plain upstream",
        "R25t" => "25,000 requests/s, 64 clients, TLS 1.3 upstream",
        _ => "see the rig",
    }
}

const INTRODUCTION: &str = "\
# Sidekey beside nginx, HAProxy, Envoy and Pingora

`SIDEKEY_RIG=<folder of the rig> cargo bench --bench relay` measures all of this anew and writes this file; nothing in it
was written by hand. The peers run beside Sidekey in every round, on the same work: look a connection up among 10,000,
refuse unknown ones, replace the caller's credential with the connection's, forward over kept connections.
";

const LIMITS: &str = "
## Read before quoting

* One machine, with the client and the upstream on it. Under about 10 % is no finding (15 to 30 % for C1 and C2), and
  the CPU that a request takes depends on the load: compare within one table only.
* The peers do less. They look up, limit, replace and forward; Sidekey also guards addresses, scopes and hosts, writes an
  access line for every request (to the null device), counts its metrics and has a deadline for each step of its own.
  Their access logs are off. Nobody asks for an API key: the README says what one adds.
* nginx and HAProxy are those of the distribution, Envoy is that of its Python package, Pingora a small proxy of the rig
  on that library, each with a configuration for this work; another may suit them better. The last two take part in A and
  B, on one core.
* A request is as small as an API call is. Large bodies are C1 and C2.
* The connections are declared, and Sidekey makes what they need when it starts, as its peers read their tables then. So
  no figure has any of that in it: neither a first use, nor in an idle client's memory the entry of its connection.
* The release build is laid out by a profile of requests much like A, B and C (`scripts/profile`).
";
