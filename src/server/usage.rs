//! Writes to the vault what workers have counted.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::proxy::usage::Use;
use crate::vault::Vault;
use crate::vault::audit::usage::Usage;

/// How many counters are kept while the vault cannot be written. Beyond that the oldest are lost, which is told.
const MOST: usize = 65_536;

/// Writes what comes, until nobody is left who could send more. Call it on the control runtime.
pub(super) fn record(vault: Vault, mut taken: UnboundedReceiver<Vec<Use>>) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        let mut waiting = Vec::new();
        while let Some(uses) = taken.recv().await {
            waiting.extend(uses.into_iter().map(usage));
            while let Ok(more) = taken.try_recv() {
                waiting.extend(more.into_iter().map(usage));
            }
            let Ok(database) = vault.database() else {
                waiting.clear();
                continue;
            };
            match database.add_usage(&waiting).await {
                Ok(()) => waiting.clear(),
                Err(error) => {
                    let lost = waiting.len().saturating_sub(MOST);
                    waiting.drain(..lost);
                    tracing::warn!(%error, lost, "the use of credentials could not be recorded yet");
                }
            }
        }
    })
}

fn usage(one: Use) -> Usage {
    Usage {
        organization: one.organization,
        connection: one.connection,
        environment: one.environment,
        caller: one.caller,
        hour: i64::try_from(one.hour).unwrap_or(i64::MAX),
        count: i64::try_from(one.count).unwrap_or(i64::MAX),
        last: i64::try_from(one.last.saturating_mul(1_000)).unwrap_or(i64::MAX),
    }
}
