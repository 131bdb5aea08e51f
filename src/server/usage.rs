//! Writes to the vault what workers have counted.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::proxy::usage::{Counted, Use, Verdict};
use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;
use crate::vault::audit::usage::{LOCAL, Usage};
use crate::vault::usage::{self, Use as Noted};

/// How many counters are kept while the vault cannot be written. Beyond that the oldest are lost, which is told.
const MOST: usize = 65_536;

/// How many counters are written together: changes wait for it.
const TOGETHER: usize = 200;

/// Writes what comes, until nobody is left who could send more. Call it on the control runtime.
pub(super) fn record(vault: Vault, metrics: Arc<Metrics>, mut taken: UnboundedReceiver<Counted>) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        let mut waiting = Vec::new();
        while let Some(uses) = taken.recv().await {
            let mut uses: Vec<Use> = uses.into_uses().collect();
            while let Ok(more) = taken.try_recv() {
                uses.extend(more.into_uses());
            }
            // What stands together is written together. A few at a time: what is not cached yet is read by this same
            // runtime, for requests that wait for it.
            uses.sort_by_key(|one| one.connection);
            for some in uses.chunks(TOGETHER) {
                count_callers(&metrics, some);
                note_all(&vault, some).await;
                tokio::task::yield_now().await;
            }
            waiting.extend(uses.into_iter().map(counter));
            // The oldest stay first.
            waiting.sort_by_key(|one| (one.hour, one.organization, one.connection));
            let Ok(database) = vault.database() else {
                waiting.clear();
                continue;
            };
            while !waiting.is_empty() {
                let together = waiting.len().min(TOGETHER);
                if let Err(error) = database.add_usage(&waiting[..together]).await {
                    let lost = waiting.len().saturating_sub(MOST);
                    waiting.drain(..lost);
                    tracing::warn!(%error, lost, "the use of credentials could not be recorded yet");
                    break;
                }
                waiting.drain(..together);
            }
        }
    })
}

async fn note_all(vault: &Vault, uses: &[Use]) {
    let (Ok(database), declared) = (vault.database(), vault.declared()) else { return };
    let noted: Vec<Noted> = uses.iter().map(note).collect();
    if let Err(error) = database.note_uses(noted, move |id| declared.declares(id)).await {
        tracing::warn!(%error, "when connections were used last could not be noted");
    }
}

fn count_callers(metrics: &Metrics, uses: &[Use]) {
    for one in uses {
        match one.caller {
            Some(caller) => caller.with_text(|caller| metrics.used_by(caller, one.count)),
            None => metrics.used_by(LOCAL, one.count),
        }
    }
}

fn counter(one: Use) -> Usage {
    Usage {
        organization: one.organization,
        connection: one.connection,
        environment: one.environment,
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
        workflows: one.workflows.iter().map(|(workflow, second)| (workflow.clone(), milliseconds(*second))).collect(),
    }
}

fn milliseconds(second: u64) -> i64 {
    i64::try_from(second.saturating_mul(1_000)).unwrap_or(i64::MAX)
}
