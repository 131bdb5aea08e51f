//! What is measured, and how it is shown.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Fault;
use crate::fill::{Filled, LARGE, OTHER, RARE, connection_key};
use crate::http::{Client, upstream};
use crate::server::Server;
use crate::uses::{hot, round, use_keys};

/// How often the server is started.
const STARTS: usize = 5;
/// How many more clients use all of them: each worker has a table of its own.
const CLIENTS: usize = 6;
/// How many changes are made of each kind.
const CHANGES: usize = 100;
/// How often each page is read.
const READS: usize = 40;
/// The largest page there is.
const PAGE: usize = 200;

/// Durations of one kind.
pub(crate) struct Times(Vec<Duration>);

/// The figures of one vault.
pub(crate) struct Figures {
    count: usize,
    rows: Vec<(String, String)>,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Times(times)
    }

    /// The least time that is not exceeded by so many of a hundred.
    fn percentile(&self, hundredths: usize) -> Duration {
        let place = (self.0.len() * hundredths).div_ceil(100).max(1) - 1;
        self.0.get(place).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |hundredths| self.percentile(hundredths).as_secs_f64() * 1e3;
        write!(out, "{:.2} / {:.2} ms", ms(50), ms(99))
    }
}

impl Figures {
    /// Starts the server with a vault and measures everything.
    pub(crate) fn measure(program: &Path, filled: &Filled) -> Result<Self, Fault> {
        let upstream = upstream()?;
        let mut figures = Figures { count: filled.count, rows: Vec::new() };
        figures.row("organizations", filled.organizations);
        figures.row("connections of the largest one", filled.large());
        figures.row("vault on disk", format!("{:.0} MiB", filled.size()? as f64 / 1_048_576.0));
        let mut starts = Vec::new();
        for _ in 0..STARTS {
            let server = Server::start(program, filled, upstream)?;
            starts.push(server.start);
            server.stop()?;
        }
        figures.row("start until ready, p50 / p99", Times::of(starts));
        let server = Server::start(program, filled, upstream)?;
        figures.row("resident after the start", mib(server.memory("VmRSS")?));
        figures.requests(&server, filled)?;
        figures.changes(&server, filled, "change")?;
        figures.pages(&server, filled)?;
        figures.row("resident at the end", mib(server.memory("VmRSS")?));
        server.stop()?;
        Ok(figures)
    }

    fn row(&mut self, name: &str, value: impl ToString) {
        eprintln!("{:>9}  {name}: {}", self.count, value.to_string());
        self.rows.push((name.to_owned(), value.to_string()));
    }

    fn requests(&mut self, server: &Server, filled: &Filled) -> Result<(), Fault> {
        let hot = hot(filled);
        let mut client = Client::to(server.keyed)?;
        use_keys(&mut client, filled)?;
        let cold = round(&mut client, &hot)?;
        let warm = round(&mut client, &hot)?;
        let usual = Times::of(warm).percentile(50);
        self.row("request, warm, p50", format!("{:.3} ms", usual.as_secs_f64() * 1e3));
        self.row("cold request, extra, p50 / p99", extra(cold, usual));
        let mut large = Client::to(server.large)?;
        let distinct: Vec<_> = (0..filled.large()).step_by((filled.large() / 2_000).max(1)).collect();
        let distinct: Vec<_> = distinct.into_iter().map(|number| (LARGE, None, number)).collect();
        let cold = round(&mut large, &distinct)?;
        let usual = Times::of(round(&mut large, &distinct)?).percentile(50);
        self.row("the same in the largest organization", extra(cold, usual));
        for _ in 0..CLIENTS {
            round(&mut Client::to(server.keyed)?, &hot)?;
        }
        self.row(&format!("resident, hot connections: {}", hot.len() + distinct.len()), mib(server.memory("VmRSS")?));
        Ok(())
    }

    fn changes(&mut self, server: &Server, filled: &Filled, name: &str) -> Result<(), Fault> {
        let fields = authorization(filled)?;
        let mut admin = Client::to(server.admin)?;
        let mut kinds: [Vec<Duration>; 4] = Default::default();
        let began = Instant::now();
        for number in 0..CHANGES {
            let known = connection_key(number * filled.large() / CHANGES);
            let fresh = format!("fresh-{number}");
            let document = format!(r#"{{"key":"{fresh}","integration":"example"}}"#);
            let replaced = format!(r#"{{"integration":"example","name":"{number}","values":{{"region":"us"}}}}"#);
            let at = |what: &str| format!("/api/v1/connections{what}?organization={LARGE}");
            let steps = [
                (format!("POST {}", at("")), Some(document)),
                (format!("PUT {}", at(&format!("/{known}"))), Some(replaced)),
                (
                    format!("PUT {}", at(&format!("/{fresh}/credentials/production"))),
                    Some(format!(r#"{{"token":"t{number}"}}"#)),
                ),
                (format!("DELETE {}", at(&format!("/{fresh}"))), None),
            ];
            for ((target, body), times) in steps.into_iter().zip(&mut kinds) {
                times.push(admin.succeed(&target, &fields, body.as_deref())?.took);
            }
        }
        let spent = began.elapsed() / u32::try_from(4 * CHANGES)?;
        self.row(&format!("{name}, mean"), format!("{:.2} ms", spent.as_secs_f64() * 1e3));
        self.row(&format!("{name}, p50 / p99"), Times::of(kinds.iter().flatten().copied().collect()));
        for (kind, times) in ["create", "replace", "credential", "delete"].iter().zip(kinds) {
            self.row(&format!("  {kind}"), Times::of(times));
        }
        Ok(())
    }

    fn pages(&mut self, server: &Server, filled: &Filled) -> Result<(), Fault> {
        let fields = authorization(filled)?;
        let mut admin = Client::to(server.admin)?;
        let middle = format!("&cursor=%2F{}", connection_key(filled.large() / 2));
        let small = &filled.keyed.last().ok_or("a key")?.0;
        let lists = [
            ("page of 200 connections, first", "connections", LARGE, String::new()),
            ("  from the middle", "connections", LARGE, middle),
            ("  of a small organization", "connections", small.as_str(), String::new()),
            ("  by a rare label", "connections", LARGE, format!("&label={RARE}")),
            ("  by a label that nothing has", "connections", LARGE, "&label=nothing".to_owned()),
            ("  by a rare integration", "connections", LARGE, format!("&integration={OTHER}")),
            ("  by being exposed", "connections", LARGE, "&exposed=true".to_owned()),
            ("page of 200 organizations", "organizations", "", "&cursor=tenant-00005".to_owned()),
            ("page of 200 events", "audit", LARGE, String::new()),
            ("  by action", "audit", LARGE, "&action=integration.create".to_owned()),
            ("page of 200 integrations", "integrations", LARGE, String::new()),
        ];
        for (name, list, organization, more) in lists {
            let of = if organization.is_empty() { String::new() } else { format!("&organization={organization}") };
            let target = format!("GET /api/v1/{list}?limit={PAGE}{of}{more}");
            let mut times = Vec::new();
            for _ in 0..READS {
                times.push(admin.succeed(&target, &fields, None)?.took);
            }
            self.row(&format!("{name}, p50 / p99"), Times::of(times));
        }
        Ok(())
    }
}

fn extra(cold: Vec<Duration>, usual: Duration) -> Times {
    Times::of(cold.into_iter().map(|took| took.saturating_sub(usual)).collect())
}

fn authorization(filled: &Filled) -> Result<String, Fault> {
    let key = fs::read_to_string(filled.folder.join("admin.key"))?;
    Ok(format!("X-API-Key: {}\r\n", key.trim()))
}

fn mib(kib: u64) -> String {
    format!("{:.0} MiB", kib as f64 / 1024.0)
}

/// Prints the figures of all vaults beside each other.
pub(crate) fn print(measured: &[Figures]) {
    let heads: Vec<String> = measured.iter().map(|figures| format!("{} connections", figures.count)).collect();
    println!("| | {} |", heads.join(" | "));
    println!("|---|{}", "---|".repeat(heads.len()));
    let Some(first) = measured.first() else { return };
    for (place, (name, _)) in first.rows.iter().enumerate() {
        let values: Vec<&str> =
            measured.iter().filter_map(|figures| figures.rows.get(place)).map(|(_, value)| value.as_str()).collect();
        println!("| {} | {} |", name.trim_start(), values.join(" | "));
    }
}
