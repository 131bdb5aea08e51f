//! What was revoked, for whoever keeps something open that rests on it.
//!
//! New requests need none of this: what has changed is looked up again ([`revision`](super::revision)). A stream that is
//! open is looked up nowhere, so it is told here that its key, its connection or its credential is no more. Another
//! value of a secret, a narrower scope and an end that was known beforehand are no revocations.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::model::id::{ApiKeyId, ConnectionId};
use crate::model::name::EnvironmentName;

/// Something that may not be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A connection that was deleted.
    Connection(ConnectionId),
    /// A credential that was deleted.
    Credential(ConnectionId, EnvironmentName),
    /// A key that was revoked or suspended.
    Key(ApiKeyId),
}

/// How many are kept for who has not looked yet: far more than are revoked before a worker looks, and a stream with it.
const MOST: usize = 65_536;

/// What was revoked lately, in order.
#[derive(Debug)]
pub struct Revocations {
    recent: Mutex<VecDeque<(Revoked, Instant)>>,
    /// How many there were since the start.
    count: watch::Sender<u64>,
}

impl Default for Revocations {
    fn default() -> Self {
        Revocations { recent: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Revocations {
    /// Tells how many there were, and when there are more.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// The first one after so many of which this is true; it is told what was revoked and when.
    pub fn find_since(&self, count: u64, is_it: impl Fn(&Revoked, Instant) -> bool) -> Option<Revoked> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let new = usize::try_from(self.count.borrow().saturating_sub(count)).unwrap_or(usize::MAX);
        let old = recent.len().saturating_sub(new);
        recent.iter().skip(old).find(|(revoked, at)| is_it(revoked, *at)).map(|(revoked, _)| revoked.clone())
    }

    /// Tells of more. Call it after the change holds for new requests: those that begin later rest on what is there now.
    pub(super) fn tell(&self, revoked: impl IntoIterator<Item = Revoked>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, now) = (recent.len(), Instant::now());
        recent.extend(revoked.into_iter().map(|revoked| (revoked, now)));
        let more = recent.len() - before;
        if more > 0 {
            let surplus = recent.len().saturating_sub(MOST);
            recent.drain(..surplus);
            self.count.send_modify(|count| *count += more as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_later_finds_what_was_told_meanwhile() {
        let (revocations, key) = (Revocations::default(), || Revoked::Key(ApiKeyId::generate()));
        let mut told = revocations.subscribe();
        let keys = [key(), key(), key()];
        let find = |since, key: &Revoked| revocations.find_since(since, |revoked, _| revoked == key).is_some();
        assert!(!find(0, &keys[0]));
        revocations.tell([]);
        assert!(!told.has_changed().unwrap());
        revocations.tell(keys[..1].to_vec());
        revocations.tell(keys[1..].to_vec());
        assert_eq!(*told.borrow_and_update(), 3);
        assert!(keys.iter().all(|key| find(0, key)));
        assert!(find(1, &keys[1]) && !find(1, &keys[0]) && !find(3, &keys[2]));
        revocations.tell((1..MOST).map(|_| key()));
        assert!(find(0, &keys[2]) && !find(0, &keys[1]), "memory is bounded");
    }
}
