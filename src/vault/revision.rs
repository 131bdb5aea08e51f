//! Revisions: how a cache knows that what it holds is still true.
//!
//! Every stored object has a cell with a number that moves when the object changes. Whoever caches something takes a
//! [`Stamp`] of all it will read *before* reading it; the cached thing is used only while each cell still shows the
//! stamped number. So a load that began before a change can never bring the old state back, and a change cools
//! nothing but what was read from the changed object.
//!
//! Cells live while somebody holds them: an object that nobody has cached costs nothing. What is declared is one object
//! with one cell, however much of it there is: it changes as a whole, and is so cheap to read again that cells of its
//! own for each part would cost more than they save.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
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
    /// How many requests the callers of an organization may make together.
    Ceiling(OrganizationId),
    /// An API key.
    ApiKey(ApiKeyId),
    /// What a slug means to every organization that has none of its own.
    SystemIntegration(Key),
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
    clock: Arc<Clock>,
}

/// What all stamps share.
#[derive(Debug, Default)]
struct Clock {
    /// Moves with every change, after the cell of what changed: while it stands still, so do all cells, and whoever has
    /// looked at its stamps need not look again.
    epoch: AtomicU64,
    /// Moves with every change, whether or not anybody has cached what was changed.
    changes: AtomicU64,
    /// The revision of all that is declared; odd while it is being replaced.
    declared: AtomicU64,
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

    /// A number that differs from what it was before where anything has changed. Read it before you look at stamps:
    /// while it is the same, they need not be looked at again.
    pub fn epoch(&self) -> u64 {
        self.clock.epoch.load(Ordering::Acquire)
    }

    /// How many changes there were. What was read while this stood still, and stamped before it is looked at again, is
    /// as it was when it was stamped, also where nobody knew what to stamp before it was read.
    pub fn changes(&self) -> u64 {
        self.clock.changes.load(Ordering::Acquire)
    }

    /// Says that an object has changed. Call it after the change is durable and before it is acknowledged.
    pub fn advance(&self, subject: &Subject) {
        // Before the cell: who finds no change counted takes the stamp of a cell that is still to move.
        self.clock.changes.fetch_add(1, Ordering::AcqRel);
        let cells = self.shard(subject).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(subject).and_then(Weak::upgrade) {
            cell.fetch_add(2, Ordering::Release);
            self.clock.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Replaces what is declared, and with it several objects, so that it becomes visible at once. While that is done
    /// their revisions are odd, and nothing that is read of them then is ever current: so old facts cannot meet a new
    /// secret, nor new facts an old one.
    pub fn redeclare(&self, subjects: impl IntoIterator<Item = Subject>, replace: impl FnOnce()) {
        let cells: Vec<_> = subjects.into_iter().map(|subject| self.cell(subject)).collect();
        let step = || {
            self.clock.changes.fetch_add(1, Ordering::AcqRel);
            for cell in cells.iter().map(|cell| &**cell).chain([&self.clock.declared]) {
                cell.fetch_add(1, Ordering::AcqRel);
            }
            self.clock.epoch.fetch_add(1, Ordering::AcqRel);
        };
        step();
        replace();
        step();
        drop(cells);
        self.sweep();
    }

    /// Forgets the cells that nobody holds: a large configuration touches many that nobody has cached.
    fn sweep(&self) {
        for shard in &self.shards {
            let mut cells = shard.lock().unwrap_or_else(PoisonError::into_inner);
            cells.retain(|_, cell| cell.strong_count() > 0);
            cells.shrink_to_fit();
        }
    }
}

/// The revision a cell shows, [`NEVER`] while it is being changed.
fn settled(cell: &AtomicU64) -> u64 {
    match cell.load(Ordering::Acquire) {
        changing if changing % 2 == 1 => NEVER,
        revision => revision,
    }
}

/// The revisions that something was read at.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// The revision of what is declared, where it was read from that.
    declared: Option<(Arc<Clock>, u64)>,
    /// Few, and kept beside everything that is cached.
    cells: Box<[(Arc<AtomicU64>, u64)]>,
}

impl Stamp {
    /// Adds an object that is about to be read.
    pub fn take(&mut self, revisions: &Revisions, subject: Subject) {
        let cell = revisions.cell(subject);
        let revision = settled(&cell);
        let mut cells = std::mem::take(&mut self.cells).into_vec();
        cells.push((cell, revision));
        self.cells = cells.into();
    }

    /// The stamp of all that is declared, and nothing else.
    pub(super) fn of_declared(revisions: &Revisions) -> Stamp {
        let revision = settled(&revisions.clock.declared);
        Stamp { declared: Some((Arc::clone(&revisions.clock), revision)), cells: Box::default() }
    }

    /// Whether it was taken of what is declared, and of nothing else.
    pub fn is_of_declared(&self) -> bool {
        self.declared.is_some() && self.cells.is_empty()
    }

    /// Whether nothing that was read has changed since.
    pub fn is_current(&self) -> bool {
        self.declared.as_ref().is_none_or(|(clock, revision)| clock.declared.load(Ordering::Acquire) == *revision)
            && self.cells.iter().all(|(cell, revision)| cell.load(Ordering::Acquire) == *revision)
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
        revisions.redeclare([subject.clone()], || {
            assert!(!before.is_current());
            during = stamp();
            assert!(!during.is_current());
        });
        assert!(!before.is_current() && !during.is_current());
        assert!(stamp().is_current());
    }

    #[test]
    fn what_is_declared_is_one_object() {
        let revisions = Revisions::default();
        let before = Stamp::of_declared(&revisions);
        let epoch = revisions.epoch();
        assert!(before.is_of_declared() && before.is_current());
        revisions.advance(&Subject::Connection(ConnectionId::generate()));
        assert_eq!(revisions.epoch(), epoch, "nobody has cached what was changed");
        let mut during = Stamp::default();
        revisions.redeclare([], || {
            assert!(!before.is_current());
            during = Stamp::of_declared(&revisions);
        });
        assert!(!before.is_current() && !during.is_current());
        assert!(Stamp::of_declared(&revisions).is_current());
        assert_ne!(revisions.epoch(), epoch);
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
