//! Writes to the vault what workers have counted.

mod put_down;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::proxy::usage::{Handed, Use, Verdict, Wanted};
use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;
use crate::vault::audit::usage::{LOCAL, Usage};
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::usage::{self, Use as Noted};

/// How many counters are kept while the vault cannot be written. Beyond that the oldest are lost, which is told.
const MOST: usize = 65_536;

/// How many uses are written together: changes wait for it, and so do requests whose connection is not cached yet, which
/// is read by this same runtime.
const TOGETHER: usize = 200;

/// How many uses are put down together: they are recorded together too, with the next start.
const PUT_DOWN: usize = 4_096;

/// Writes what comes, until nobody is left who could send more; before that, what an earlier process has put down. Once
/// the server `stops`, what comes is put down for the next one. Call it on the control runtime.
pub(super) fn record(
    vault: Vault,
    metrics: Arc<Metrics>,
    mut taken: UnboundedReceiver<Handed>,
    stops: CancellationToken,
) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        let database = vault.database().ok();
        if let Some(database) = database
            && let Err(error) = sort_out(&vault, database, &stops).await
        {
            tracing::warn!(%error, "what was put down of the use of credentials could not be recorded yet");
        }
        let mut waiting = Waiting::default();
        while let Some(handed) = taken.recv().await {
            waiting.take(handed, &metrics);
            let Some(database) = database else {
                waiting = Waiting::default();
                continue;
            };
            loop {
                while let Ok(more) = taken.try_recv() {
                    waiting.take(more, &metrics);
                }
                let written = match stops.is_cancelled() {
                    true => waiting.put_down(database).await,
                    false => waiting.write_some(&vault, database).await,
                };
                if let Err(error) = written {
                    let lost = waiting.let_go();
                    tracing::warn!(%error, lost, "the use of credentials could not be recorded yet");
                    break;
                }
                if waiting.uses.is_empty() {
                    break;
                }
            }
        }
        let Some(database) = database.filter(|_| !waiting.uses.is_empty()) else { return };
        if let Err(error) = waiting.put_down(database).await {
            let lost = waiting.uses.len();
            tracing::error!(%error, lost, "the use of credentials was not recorded, and is lost");
        }
    })
}

/// What is not written yet.
#[derive(Default)]
struct Waiting {
    uses: Vec<Use>,
    /// Who waits for some of it.
    wanted: Vec<Wanted>,
}

impl Waiting {
    fn take(&mut self, handed: Handed, metrics: &Metrics) {
        let begun = self.uses.len();
        self.uses.extend(handed.counted.into_uses());
        count_callers(metrics, &self.uses[begun..]);
        self.wanted.extend(handed.wanted);
    }

    /// Writes what somebody waits for, all of it, and then as much as is written together.
    async fn write_some(&mut self, vault: &Vault, database: &Database) -> Result<(), DatabaseError> {
        // What stands together is written together; the oldest stay first.
        let connections: Vec<_> = self.wanted.iter().map(|wanted| wanted.connection).collect();
        self.uses.sort_unstable_by_key(|one| (!connections.contains(&one.connection), one.hour, one.connection));
        let first = self.uses.partition_point(|one| connections.contains(&one.connection));
        let mut left = first.max(1);
        while left > 0 && !self.uses.is_empty() {
            let together = TOGETHER.min(self.uses.len());
            record_all(vault, database, &self.uses[..together], None).await?;
            self.uses.drain(..together);
            left = left.saturating_sub(together);
        }
        self.wanted.clear();
        Ok(())
    }

    /// Puts all of it down for the next start, as it lies: a server that stops is waited for.
    async fn put_down(&mut self, database: &Database) -> Result<(), DatabaseError> {
        while !self.uses.is_empty() {
            let together = PUT_DOWN.min(self.uses.len());
            database.put_down(put_down::write(&self.uses[..together])).await?;
            self.uses.drain(..together);
        }
        self.wanted.clear();
        Ok(())
    }

    /// Gives up waiting for the vault: who waits judges by what is written, and the oldest uses go where they are too
    /// many. Gives how many those were.
    fn let_go(&mut self) -> usize {
        self.wanted.clear();
        let lost = self.uses.len().saturating_sub(MOST);
        self.uses.drain(..lost);
        lost
    }
}

/// Records what was put down.
async fn sort_out(vault: &Vault, database: &Database, stops: &CancellationToken) -> Result<(), DatabaseError> {
    while let Some(batch) = database.oldest_put_down().await?.filter(|_| !stops.is_cancelled()) {
        let mut uses = put_down::read(&batch.uses).unwrap_or_else(|| {
            tracing::error!(batch.id, "what was put down of the use of credentials cannot be read, and is lost");
            Vec::new()
        });
        uses.sort_unstable_by_key(|one| (one.hour, one.connection));
        record_all(vault, database, &uses, Some(batch.id)).await?;
    }
    Ok(())
}

async fn record_all(
    vault: &Vault,
    database: &Database,
    uses: &[Use],
    put_down: Option<i64>,
) -> Result<(), DatabaseError> {
    let declared = vault.declared();
    database.note_uses(uses.iter().map(note).collect(), move |id| declared.declares(id)).await?;
    let counters: Vec<Usage> = uses.iter().map(counter).collect();
    database.add_usage(&counters, put_down).await
}

fn count_callers(metrics: &Metrics, uses: &[Use]) {
    let mut local = 0;
    for one in uses {
        match one.caller {
            Some(caller) => caller.with_text(|caller| metrics.used_by(caller, one.count)),
            None => local += one.count,
        }
    }
    if local > 0 {
        metrics.used_by(LOCAL, local);
    }
}

fn counter(one: &Use) -> Usage {
    Usage {
        organization: one.organization,
        connection: one.connection,
        environment: one.environment.clone(),
        caller: one.caller,
        hour: i64::try_from(one.hour).unwrap_or(i64::MAX),
        count: i64::try_from(one.count).unwrap_or(i64::MAX),
        last: milliseconds(one.last),
    }
}

/// What is noted of the connection itself.
fn note(one: &Use) -> Noted {
    let verdict = match one.verdict {
        None => usage::Verdict::Unknown,
        Some((Verdict::Taken, second)) => usage::Verdict::Taken(milliseconds(second)),
        Some((Verdict::Refused, second)) => usage::Verdict::Refused(milliseconds(second)),
    };
    Noted {
        organization: one.organization,
        connection: one.connection,
        environment: one.environment.clone(),
        used_at: milliseconds(one.last),
        verdict,
        reason: None,
        workflows: one.workflows.iter().map(|(workflow, second)| (workflow.clone(), milliseconds(*second))).collect(),
    }
}

fn milliseconds(second: u64) -> i64 {
    i64::try_from(second.saturating_mul(1_000)).unwrap_or(i64::MAX)
}
