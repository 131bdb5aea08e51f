//! Revisions: how a cache knows that what it holds is still true.
//!
//! Every stored object has a cell with a number that moves when the object changes. Whoever caches something takes a
//! [`Stamp`] of all it will read *before* reading it; the cached thing is used only while each cell still shows the
//! stamped number. So a load that began before a change can never bring the old state back, and a change cools
//! nothing but what was read from the changed object.
//!
//! Cells live while somebody holds them: an object that nobody has cached costs nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::{CustomerName, EnvironmentName, Key, SecretKey};

/// What can change on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Which connection a key names: moves when one is created, renamed or deleted.
    Name(OrganizationId, Option<CustomerName>, Key),
    /// The facts of a connection.
    Connection(ConnectionId),
    /// What a slug means to an organization.
    Integration(OrganizationId, Key),
    /// The credential of a connection in one environment.
    Credential(ConnectionId, EnvironmentName),
    /// The value of a secret in one environment.
    Secret(OrganizationId, SecretKey, EnvironmentName),
}

const SHARDS: usize = 16;
/// The revision of what was read while it was being changed.
const NEVER: u64 = u64::MAX;

type Cells = HashMap<Subject, Weak<AtomicU64>>;

/// The cells of everything that somebody has cached.
#[derive(Debug, Default)]
pub struct Revisions {
    shards: [Mutex<Cells>; SHARDS],
    hasher: RandomState,
    /// Moves with every change, after the cell of what changed: while it stands still, so do all cells, and whoever has
    /// looked at its cells need not look again.
    epoch: Arc<AtomicU64>,
}

impl Revisions {
    fn shard(&self, subject: &Subject) -> &Mutex<Cells> {
        let hash = self.hasher.hash_one(subject) as usize;
        &self.shards[hash % SHARDS]
    }

    fn cell(&self, subject: Subject) -> Arc<AtomicU64> {
        let mut cells = self.shard(&subject).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(&subject).and_then(Weak::upgrade) {
            return cell;
        }
        // Dead cells are swept when the table would grow, so its size follows what is cached.
        if cells.len() == cells.capacity() {
            cells.retain(|_, cell| cell.strong_count() > 0);
        }
        let cell = Arc::new(AtomicU64::new(0));
        cells.insert(subject, Arc::downgrade(&cell));
        cell
    }

    /// Says that an object has changed. Call it after the change is durable and before it is acknowledged.
    pub fn advance(&self, subject: &Subject) {
        let cells = self.shard(subject).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(subject).and_then(Weak::upgrade) {
            cell.fetch_add(2, Ordering::Release);
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Makes a change of several objects that becomes visible at once. While it is made their revisions are odd, and
    /// nothing that is read of them then is ever current: so old facts cannot meet a new secret, nor new facts an old
    /// one.
    pub fn change(&self, subjects: impl IntoIterator<Item = Subject>, change: impl FnOnce()) {
        let cells: Vec<_> = subjects.into_iter().map(|subject| self.cell(subject)).collect();
        let step = || {
            for cell in &cells {
                cell.fetch_add(1, Ordering::AcqRel);
            }
            self.epoch.fetch_add(1, Ordering::AcqRel);
        };
        step();
        change();
        step();
    }
}

/// The revisions that something was read at.
#[derive(Debug, Default)]
pub struct Stamp {
    cells: Vec<(Arc<AtomicU64>, u64)>,
    epoch: Option<Arc<AtomicU64>>,
    /// The epoch at which the cells were last seen to be as stamped, plus one; 0 before they were looked at.
    looked: AtomicU64,
}

impl Clone for Stamp {
    fn clone(&self) -> Self {
        Stamp { cells: self.cells.clone(), epoch: self.epoch.clone(), looked: AtomicU64::new(0) }
    }
}

impl Stamp {
    /// Adds an object that is about to be read.
    pub fn take(&mut self, revisions: &Revisions, subject: Subject) {
        let cell = revisions.cell(subject);
        let revision = match cell.load(Ordering::Acquire) {
            changing if changing % 2 == 1 => NEVER,
            revision => revision,
        };
        self.cells.push((cell, revision));
        self.epoch.get_or_insert_with(|| Arc::clone(&revisions.epoch));
        self.looked = AtomicU64::new(0);
    }

    /// Whether nothing that was read has changed since.
    pub fn is_current(&self) -> bool {
        let Some(epoch) = &self.epoch else { return true };
        // The epoch is read before the cells: a change in between moves it on, and the cells are looked at again.
        let now = epoch.load(Ordering::Acquire).wrapping_add(1);
        if self.looked.load(Ordering::Relaxed) == now {
            return true;
        }
        let current = self.cells.iter().all(|(cell, revision)| cell.load(Ordering::Acquire) == *revision);
        if current {
            self.looked.store(now, Ordering::Relaxed);
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_moves_only_what_it_touches() {
        let revisions = Revisions::default();
        let (one, other) =
            (Subject::Connection(ConnectionId::generate()), Subject::Connection(ConnectionId::generate()));
        let mut stamp = Stamp::default();
        stamp.take(&revisions, one.clone());
        revisions.advance(&other);
        assert!(stamp.is_current());
        revisions.advance(&one);
        assert!(!stamp.is_current());
    }

    #[test]
    fn what_is_read_during_a_change_is_never_current() {
        let revisions = Revisions::default();
        let subject = Subject::Connection(ConnectionId::generate());
        let stamp = || {
            let mut stamp = Stamp::default();
            stamp.take(&revisions, subject.clone());
            stamp
        };
        let before = stamp();
        assert!(before.is_current());
        let mut during = Stamp::default();
        revisions.change([subject.clone()], || {
            assert!(!before.is_current());
            during = stamp();
            assert!(!during.is_current());
        });
        assert!(!before.is_current() && !during.is_current());
        assert!(stamp().is_current());
    }

    #[test]
    fn the_table_follows_what_is_cached() {
        let revisions = Revisions::default();
        for _ in 0..100_000 {
            Stamp::default().take(&revisions, Subject::Connection(ConnectionId::generate()));
        }
        let cells: usize = revisions.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(cells < 1_000, "{cells} cells kept for nobody");
    }
}
