//! What a request for a hot connection costs the processor, with few connections stored and with many.

use std::path::Path;

use crate::Fault;
use crate::fill::Filled;
use crate::http::{Client, upstream};
use crate::server::Server;
use crate::uses::{HOT, Use, hot, round, use_keys};

/// How often each server is asked for all that is hot, in turns: a run beside another tells more than both alone.
const ROUNDS: usize = 15;

/// A server whose hot connections are being used.
struct Asked<'a> {
    server: Server,
    client: Client,
    hot: Vec<Use<'a>>,
}

impl Asked<'_> {
    /// Processor time of the whole server for each request of a round, in microseconds.
    fn cost(&mut self) -> Result<f64, Fault> {
        let before = self.server.processor_time()?;
        round(&mut self.client, &self.hot)?;
        let spent = self.server.processor_time()?.saturating_sub(before);
        Ok(spent.as_secs_f64() * 1e6 / self.hot.len() as f64)
    }
}

/// Measures all vaults that store as many as are to be hot beside the first of them, and prints a row for each.
pub(crate) fn print(program: &Path, vaults: &[Filled]) -> Result<(), Fault> {
    let vaults: Vec<&Filled> = vaults.iter().filter(|filled| filled.count >= HOT).collect();
    let upstream = upstream()?;
    let mut asked = Vec::new();
    for filled in &vaults {
        let server = Server::start(program, filled, upstream)?;
        let mut client = Client::to(server.keyed)?;
        use_keys(&mut client, filled)?;
        asked.push(Asked { server, client, hot: hot(filled) });
    }
    let least = asked.iter().map(|one| one.hot.len()).min().unwrap_or_default();
    for one in &mut asked {
        one.hot.truncate(least);
        round(&mut one.client, &one.hot)?;
    }
    let mut costs = vec![Vec::new(); asked.len()];
    for _ in 0..ROUNDS {
        for (one, costs) in asked.iter_mut().zip(&mut costs) {
            costs.push(one.cost()?);
        }
    }
    println!("\n| stored | processor time of a request, {least} hot | beside the first |\n|---|---|---|");
    for (filled, own) in vaults.iter().zip(&costs) {
        let ratios = own.iter().zip(&costs[0]).map(|(own, first)| own / first).collect();
        println!("| {} | {} | {} |", filled.count, spread(own.clone(), 1), spread(ratios, 3));
    }
    asked.into_iter().try_for_each(|one| one.server.stop())
}

/// The median, and the half of the figures that is nearest to it.
fn spread(mut figures: Vec<f64>, digits: usize) -> String {
    figures.sort_by(f64::total_cmp);
    let at = |quarter: usize| figures[(figures.len() - 1) * quarter / 4];
    format!("{:.digits$} ({:.digits$} to {:.digits$})", at(2), at(1), at(3))
}
