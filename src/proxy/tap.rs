//! Taps: administrators watch requests as they pass, in the words of their access lines.
//!
//! A worker asks one number whether anybody does; while nobody does that is all. Where somebody does, the line is
//! rendered once and laid down for each of them. A worker never waits for a reader: what has no room is counted, and the
//! reader is told how much it was. Who may watch, and how lines reach them, is nothing that is known here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId};
use crate::model::name::Key;
use crate::telemetry::access_log::Entry;

/// How many taps are open at once.
const MOST: usize = 16;
/// How many of them are one organization's, so that none takes the places of all others.
const MOST_OF_ONE: usize = 8;
/// How many bytes of lines wait for one reader.
const ROOM: usize = 256 * 1024;

/// Every tap of the process.
#[derive(Clone, Default)]
pub struct Taps(Arc<All>);

#[derive(Default)]
struct All {
    /// How many there are. It decides nothing but whether it is worth looking, so no order is asked of it.
    count: AtomicUsize,
    readers: RwLock<Vec<Arc<Reader>>>,
    drain: CancellationToken,
}

/// What a tap shows.
#[derive(Debug)]
pub struct Watched {
    /// Requests of this organization.
    pub organization: OrganizationId,
    /// Only those over this connection, and those that were refused and named it by its id or key.
    pub connection: Option<(ConnectionId, Key)>,
}

/// What a request that has ended is chosen by.
#[derive(Debug)]
pub struct Passed<'a> {
    /// Whose it is.
    pub organization: OrganizationId,
    /// Its connection.
    pub about: About<'a>,
}

/// How far a request came to its connection.
#[derive(Debug)]
pub enum About<'a> {
    /// It named none.
    Nothing,
    /// It named this one, and was not admitted.
    Asked(&'a ConnectionRef),
    /// It was admitted to this one.
    Used(ConnectionId),
}

/// An open tap; it is closed when this is dropped.
pub struct Tap {
    all: Arc<All>,
    reader: Arc<Reader>,
}

/// What has passed since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// JSON lines, in the order in which the requests ended.
    pub lines: Vec<u8>,
    /// How many more there were, behind these, for which there was no room.
    pub dropped: u64,
}

struct Reader {
    watched: Watched,
    waiting: Mutex<Batch>,
    filled: Notify,
}

impl Taps {
    /// No taps yet; they end when the server drains.
    pub fn new(drain: CancellationToken) -> Self {
        Taps(Arc::new(All { drain, ..All::default() }))
    }

    /// Opens a tap: what ends from now on is shown. `None` where there are as many as there may be.
    pub fn open(&self, watched: Watched) -> Option<Tap> {
        let mut readers = self.0.readers.write().unwrap_or_else(PoisonError::into_inner);
        let of_one = readers.iter().filter(|reader| reader.watched.organization == watched.organization).count();
        if readers.len() >= MOST || of_one >= MOST_OF_ONE {
            return None;
        }
        let reader = Arc::new(Reader { watched, waiting: Mutex::default(), filled: Notify::new() });
        readers.push(Arc::clone(&reader));
        self.0.count.store(readers.len(), Ordering::Relaxed);
        Some(Tap { all: Arc::clone(&self.0), reader })
    }

    /// Whether there are any.
    #[inline]
    pub fn are_open(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) != 0
    }

    /// Shows a request that has ended to whoever watches it.
    #[cold]
    pub fn tell(&self, passed: &Passed<'_>, entry: &Entry<'_>) {
        let readers = self.0.readers.read().unwrap_or_else(PoisonError::into_inner);
        let mut line = Vec::new();
        for reader in readers.iter().filter(|reader| reader.watched.shows(passed)) {
            if line.is_empty() {
                entry.append_json(&mut line);
            }
            reader.lay_down(&line);
        }
    }
}

impl Watched {
    fn shows(&self, passed: &Passed<'_>) -> bool {
        let is_it = |(id, key): &(ConnectionId, Key)| match passed.about {
            About::Used(used) => used == *id,
            About::Asked(ConnectionRef::Id(asked)) => asked == id,
            About::Asked(ConnectionRef::Key(asked)) => asked == key,
            About::Nothing => false,
        };
        passed.organization == self.organization && self.connection.as_ref().is_none_or(is_it)
    }
}

impl Reader {
    fn waiting(&self) -> MutexGuard<'_, Batch> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lay_down(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        let was_empty = waiting.lines.is_empty();
        // Behind a line that had no room none is laid down: how many are missing is told where they are missing.
        if waiting.dropped > 0 || waiting.lines.len() + line.len() > ROOM {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }
}

impl Tap {
    /// Resolves when there is something to take.
    pub async fn filled(&self) {
        self.reader.filled.notified().await;
    }

    /// Takes what is there; it may be nothing.
    pub fn take(&self) -> Batch {
        std::mem::take(&mut *self.reader.waiting())
    }

    /// Resolves when the server drains.
    pub async fn drained(&self) {
        self.all.drain.cancelled().await;
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut readers = self.all.readers.write().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
        self.all.count.store(readers.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(organization: &str) -> Watched {
        Watched { organization: OrganizationId::derived(organization), connection: None }
    }

    fn tap(taps: &Taps, watched: Watched) -> Tap {
        taps.open(watched).unwrap_or_else(|| panic!("there is a place"))
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let taps = Taps::default();
        assert!(!taps.are_open());
        let mut open: Vec<Tap> = (0..MOST_OF_ONE).map(|_| tap(&taps, watched("a"))).collect();
        assert!(taps.open(watched("a")).is_none(), "one organization has its part");
        open.extend((MOST_OF_ONE..MOST).map(|_| tap(&taps, watched("b"))));
        assert!(taps.open(watched("c")).is_none(), "all have theirs");
        open.pop();
        assert!(taps.open(watched("c")).is_some());
        open.clear();
        assert!(!taps.are_open());
    }

    #[test]
    fn a_reader_that_is_behind_is_told_how_much_it_missed() {
        let taps = Taps::default();
        let tap = tap(&taps, watched("a"));
        let half = vec![b'x'; ROOM / 2];
        for _ in 0..3 {
            tap.reader.lay_down(&half);
        }
        // One that would fit again is missing all the same: it would seem to stand before those that are.
        tap.reader.lay_down(b"");
        assert_eq!(tap.take(), Batch { lines: [half.clone(), half].concat(), dropped: 2 });
        tap.reader.lay_down(b"y");
        assert_eq!(tap.take(), Batch { lines: b"y".to_vec(), dropped: 0 });
        assert_eq!(tap.take(), Batch::default());
    }

    #[test]
    fn a_tap_shows_its_organization_and_its_connection_only() {
        let organization = OrganizationId::derived("a");
        let [this, other] = [(); 2].map(|()| ConnectionId::generate());
        let [key, another]: [ConnectionRef; 2] = ["crm", "erp"].map(|key| key.parse().unwrap());
        let [id, other_id] = [this, other].map(ConnectionRef::Id);
        let one = Watched { connection: Some((this, "crm".parse().unwrap())), ..watched("a") };
        let all = watched("a");
        for (about, is_this) in [
            (About::Used(this), true),
            (About::Used(other), false),
            (About::Asked(&key), true),
            (About::Asked(&id), true),
            (About::Asked(&another), false),
            (About::Asked(&other_id), false),
            (About::Nothing, false),
        ] {
            let passed = Passed { organization, about };
            assert_eq!((one.shows(&passed), all.shows(&passed)), (is_this, true), "{passed:?}");
            let elsewhere = Passed { organization: OrganizationId::derived("b"), ..passed };
            assert!(!one.shows(&elsewhere) && !all.shows(&elsewhere), "{elsewhere:?}");
        }
    }
}
