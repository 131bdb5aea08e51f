//! How figures are judged: the page that stands beside the peers, and the gate over instructions. What measures them is in
//! `benches/`; here nothing is measured, so that nothing depends on the machine.

#[path = "../../benches/instructions/figure.rs"]
mod figure;
#[path = "../../benches/relay/report.rs"]
mod report;
#[path = "../../benches/relay/runs.rs"]
mod runs;

use figure::{Figure, Verdict};
use report::{Measured, Side};
use runs::{Runs, calls, idle_kib, ratio};

fn figure(instructions: f64) -> Figure {
    Figure {
        instructions,
        architecture: "x86_64".to_owned(),
        features: ["aes", "avx2"].map(str::to_owned).into(),
        valgrind: "valgrind-3.19.0".to_owned(),
        rustc: "rustc 1.95.0".to_owned(),
    }
}

#[test]
fn instructions_may_move_by_five_percent_either_way() {
    let recorded = figure(10_000.0);
    for (now, verdict) in [
        (9_510.0, Verdict::Same),
        (10_490.0, Verdict::Same),
        (9_490.0, Verdict::Moved),
        (10_510.0, Verdict::Moved),
        (13_000.0, Verdict::Moved),
    ] {
        assert_eq!(figure(now).beside(&recorded), verdict, "{now}");
        // What disturbs a run only adds to it: only a figure that is too high is looked at again.
        assert_eq!(figure(now).is_dearer(&recorded), now > 10_500.0, "{now}");
    }
}

#[test]
fn another_processor_is_told_and_judged_by_its_kind() {
    let recorded = figure(10_000.0);
    let elsewhere = |now: f64| Figure { features: ["aes"].map(str::to_owned).into(), ..figure(now) };
    assert_eq!(elsewhere(11_900.0).beside(&recorded), Verdict::SameElsewhere);
    assert_eq!(elsewhere(10_000.0).beside(&recorded), Verdict::SameElsewhere);
    assert_eq!(elsewhere(12_100.0).beside(&recorded), Verdict::Moved);
    let arm = Figure { architecture: "aarch64".to_owned(), ..figure(10_000.0) };
    assert_eq!(arm.beside(&recorded), Verdict::Incomparable);
}

#[test]
fn a_recorded_figure_is_read_as_it_was_written() {
    let recorded = figure(12_345.0);
    assert_eq!(Figure::parse(&recorded.to_string()), Ok(recorded.clone()));
    for line in ["instructions: 12345", "architecture: x86_64", "features: aes avx2"] {
        let without = recorded.to_string().replace(line, "");
        assert!(Figure::parse(&without).is_err(), "{line}");
    }
    for wrong in ["-1", "0", "many", "NaN", "inf"] {
        let text = recorded.to_string().replace("12345", wrong);
        assert!(Figure::parse(&text).is_err(), "{wrong}");
    }
}

#[test]
fn only_features_that_choose_code_are_recorded() {
    let cpuinfo = "processor\t: 0\nflags\t\t: fpu aes avx2 hypervisor erms\nbugs\t\t: spectre_v1\n";
    let features: Vec<String> = figure::features(cpuinfo).into_iter().collect();
    assert_eq!(features, ["aes", "avx2", "erms"]);
    assert!(figure::features("").is_empty());
}

/// As the rig writes it. Sidekey's ratios beside nginx, which is the better one in A, are 0.5, 0.8 and 0.9.
const RUNS: &str = r#"{
    "A": {
        "nginx": [{"n": 20000, "err": 0, "secs": 2.0, "rps": 10000.0, "p50": 50.0, "p99": 90.0, "cpu_us": 20.0, "pss": 9.0, "base": 8.0},
                  {"n": 20000, "err": 0, "rps": 10000.0, "p50": 50.0, "p99": 90.0, "cpu_us": 10.0, "pss": 9.0, "base": 8.0},
                  {"n": 20000, "err": 0, "rps": 10000.0, "p50": 50.0, "p99": 90.0, "cpu_us": 20.0, "pss": 9.0, "base": 8.0}],
        "haproxy": [{"n": 20000, "err": 0, "rps": 9000.0, "p50": 50.0, "p99": 90.0, "cpu_us": 30.0, "pss": 9.0, "base": 8.0},
                    {"n": 20000, "err": 2, "rps": 9000.0, "p50": 50.0, "p99": 90.0, "cpu_us": 30.0, "pss": 9.0, "base": 8.0},
                    {"n": 20000, "err": 0, "rps": 9000.0, "p50": 50.0, "p99": 90.0, "cpu_us": 30.0, "pss": 9.0, "base": 8.0}],
        "envoy": [{"n": 20000, "err": 0, "rps": 5000.0, "p50": 90.0, "p99": 180.0, "cpu_us": 60.0, "pss": 9.0, "base": 8.0},
                  {"n": 20000, "err": 0, "rps": 5000.0, "p50": 90.0, "p99": 180.0, "cpu_us": 64.0, "pss": 9.0, "base": 8.0},
                  {"n": 20000, "err": 0, "rps": 5000.0, "p50": 90.0, "p99": 180.0, "cpu_us": 50.0, "pss": 9.0, "base": 8.0}],
        "sidekey": [{"n": 20000, "err": 0, "rps": 11000.0, "p50": 50.0, "p99": 80.0, "cpu_us": 18.0, "pss": 9.0, "base": 8.0},
                    {"n": 20000, "err": 0, "rps": 11000.0, "p50": 50.0, "p99": 80.0, "cpu_us": 8.0, "pss": 9.0, "base": 8.0},
                    {"n": 20000, "err": 0, "rps": 11000.0, "p50": 50.0, "p99": 80.0, "cpu_us": 10.0, "pss": 9.0, "base": 8.0}]
    },
    "B": {
        "nginx": [{"n": 20000, "err": 0, "rps": 10000.0, "cpu_us": 20.0}, {"n": 20000, "err": 0, "rps": 10000.0, "cpu_us": 20.0}],
        "sidekey": [{"n": 20000, "err": 0, "rps": 10000.0, "cpu_us": 10.0}]
    }
}"#;

const IDLE: &str = r#"{
    "E": {
        "nginx": [{"open": 5000, "bad": 0, "pss": 13.0, "base": 8.0}],
        "sidekey": [{"open": 5000, "bad": 0, "pss": 28.0, "base": 8.0}]
    }
}"#;

const TRACED: &str = r#"{"A": {"sidekey": [{"n": 1000, "strace": "% time     seconds  usecs/call     calls    errors syscall\n------ ----------- ----------- --------- --------- ----------------\n 60.00    0.010000           5      3000           sendto\n 40.00    0.005000           5      2700        12 recvfrom\n------ ----------- ----------- --------- --------- ----------------\n100.00    0.015000           5      5700        12 total\n"}]}}"#;

fn measured() -> Measured {
    let runs = |text: &str| Runs::parse(text).expect("what a rig writes");
    Measured {
        facts: vec![("CPU".to_owned(), "a made-up one".to_owned())],
        scenarios: ["A", "B", "E"].map(str::to_owned).into(),
        peers: ["nginx", "haproxy", "envoy", "sidekey"].map(str::to_owned).into(),
        seconds: 2.0,
        one_core: runs(RUNS).with(runs(IDLE)),
        in_turns: [
            runs(
                r#"{"A": {"nginx": [{"rps": 5000.0, "cpu_us": 20.0}], "sidekey": [{"rps": 10000.0, "cpu_us": 10.0}]}}"#,
            )
            .with(runs(r#"{"A": {"sidekey": [{"rps": 10000.0, "cpu_us": 10.0}]}}"#)),
            runs(
                r#"{"A": {"nginx": [{"rps": 6000.0, "cpu_us": 25.0}], "sidekey": [{"rps": 20000.0, "cpu_us": 14.0}, {"rps": 15000.0, "cpu_us": 14.0}]}}"#,
            ),
        ],
        traced: runs(TRACED),
        instructions: vec![("nginx".to_owned(), 36_600.0), ("sidekey".to_owned(), 20_001.0)],
    }
}

#[test]
fn runs_are_compared_in_pairs() {
    let runs = measured().one_core;
    let cpu = |run: &runs::Run| run.cpu_us;
    assert_eq!(runs.least("A", &["nginx", "haproxy"], cpu), Some("nginx"));
    let beside_nginx = |scenario| ratio(runs.of(scenario, "sidekey"), runs.of(scenario, "nginx"), cpu);
    let paired = beside_nginx("A").expect("as many runs of each");
    assert_eq!((paired.least, paired.median, paired.most, paired.count), (0.5, 0.8, 0.9, 3));
    assert_eq!(beside_nginx("B"), None, "a run is missing: there are no pairs");
    assert_eq!(runs.least("C1", &["nginx"], cpu), None);
    assert_eq!(runs.failures("A", "haproxy"), 2);
    let memory = runs.spread("E", "sidekey", idle_kib).expect("a run");
    assert!((memory.median - 4.096).abs() < 1e-9, "{memory:?}");
}

#[test]
fn system_calls_are_those_of_the_whole_load() {
    let traced = measured().traced;
    let run = &traced.of("A", "sidekey")[0];
    // 5,700 calls; 1,000 requests were counted in two of three seconds.
    assert_eq!(calls(run, 2.0), Some(3.8));
    assert_eq!(calls(&runs::Run::default(), 2.0), None);
}

#[test]
fn a_bound_is_met_when_the_range_reaches_it() {
    for (worst_to_best, verdict) in [
        ([0.70, 0.65, 0.60], "met, by every run"),
        ([0.72, 0.69, 0.60], "met, by the median"),
        ([0.80, 0.75, 0.70], "met, by the best run only"),
        ([0.80, 0.75, 0.71], "**not met**"),
    ] {
        assert_eq!(Side::AtMost.verdict(worst_to_best, 0.70), verdict, "{worst_to_best:?}");
    }
    assert_eq!(Side::AtLeast.verdict([0.9, 1.0, 1.1], 1.0), "met, by the median");
    assert_eq!(Side::AtLeast.verdict([0.8, 0.9, 0.99], 1.0), "**not met**");
}

/// The whole page, as a reader sees it.
#[test]
fn the_page_says_what_was_measured() {
    insta::assert_snapshot!(measured().page());
}
