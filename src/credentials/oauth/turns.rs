//! Turns: of all who want a token for a credential one asks, and what came of it is there for whoever is next, also where
//! the one who asked has hung up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Came, Owner};
use crate::model::id::OrganizationId;
use crate::model::version::Version;
use crate::vault::change::tokens::Obtained;

/// Below this many slots none is looked for that could go.
const FEW: usize = 64;

/// The turns of all credentials.
#[derive(Default)]
pub(super) struct Turns(Mutex<Table>);

#[derive(Default)]
struct Table {
    slots: HashMap<Owner, Arc<AsyncMutex<Slot>>>,
    /// As many slots as call for a look at which of them can go.
    many: usize,
}

/// What is known of the tokens of a credential beside what is stored.
#[derive(Default)]
pub(in crate::credentials) struct Slot {
    /// What could not be stored yet: the vault may be full for a while, and a provider gives tokens out once.
    pub(super) unsaved: Option<Unsaved>,
    last: Option<Last>,
}

/// Tokens that are not stored yet.
pub(super) struct Unsaved {
    pub(super) obtained: Arc<Obtained>,
    pub(super) organization: OrganizationId,
    pub(super) version: Option<Version>,
}

/// What came of the last question.
struct Last {
    question: [u8; 32],
    came: Came,
}

/// The turn of whoever asks.
pub(in crate::credentials) type Turn = OwnedMutexGuard<Slot>;

impl Slot {
    /// What came of this question, where that still holds.
    pub(super) fn known(&self, question: &[u8; 32]) -> Option<Came> {
        let last = self.last.as_ref().filter(|last| last.question == *question)?;
        last.came.holds().then(|| last.came.clone())
    }

    /// Keeps what came of a question.
    pub(super) fn remember(&mut self, question: [u8; 32], came: &Came) {
        self.last = Some(Last { question, came: came.clone() });
    }

    fn is_needed(&self) -> bool {
        self.unsaved.is_some() || self.last.as_ref().is_some_and(|last| last.came.holds())
    }
}

impl Turns {
    /// Waits until nobody else asks for tokens for a credential.
    pub(super) async fn of(&self, owner: &Owner) -> Turn {
        let slot = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if table.slots.len() >= table.many.max(FEW) {
                table.sweep();
            }
            Arc::clone(table.slots.entry(owner.clone()).or_default())
        };
        slot.lock_owned().await
    }

    /// Forgets what is of no use any more, and says whose turns there are.
    pub(super) fn sweep(&self) -> Vec<Owner> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.sweep();
        table.slots.keys().cloned().collect()
    }
}

impl Table {
    /// Drops the slots that nobody needs. One that only the table holds stays so while the table is locked.
    fn sweep(&mut self) {
        self.slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| slot.is_needed()));
        self.many = 2 * self.slots.len();
    }
}
