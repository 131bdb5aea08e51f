//! The keys that a worker has verified, by their fingerprints.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashTable;

use super::NEVER;
use crate::directory::cache::Limits;
use crate::directory::fingerprint::Fingerprints;
use crate::directory::keys::Holder;
use crate::vault::api_key::{LENGTH, PUBLIC};
use crate::vault::revision::Revisions;

/// A key that was presented to this worker and verified.
#[derive(Debug)]
pub struct Shown {
    /// Of its secret part; its public part is its holder's name.
    fingerprint: u128,
    /// The epoch at which its holder was last seen to be current.
    looked: Cell<u64>,
    expires: Instant,
    used: Cell<bool>,
    holder: Arc<Holder>,
}

impl Deref for Shown {
    type Target = Holder;

    fn deref(&self) -> &Holder {
        &self.holder
    }
}

impl Shown {
    /// A key that nobody presented: who administers it asks what would become of it if somebody did.
    pub(in crate::directory) fn supposed(holder: Arc<Holder>, expires: Instant) -> Rc<Self> {
        Rc::new(Shown { fingerprint: 0, looked: Cell::new(NEVER), expires, used: Cell::new(false), holder })
    }

    fn is(&self, fingerprint: u128, public: &[u8]) -> bool {
        self.fingerprint == fingerprint && self.holder.name.as_bytes() == public
    }

    /// Whether its holder is as it was. One comparison while nothing at all has changed.
    fn is_current(&self, revisions: &Revisions) -> bool {
        // The epoch is read before the stamp: a change in between moves it on, and the stamp is looked at again.
        let now = revisions.epoch();
        if self.looked.get() == now {
            return true;
        }
        let holds = self.holder.is_current();
        self.looked.set(if holds { now } else { NEVER });
        holds
    }
}

/// The keys of one worker.
pub(in crate::directory) struct Keys {
    shown: RefCell<HashTable<Rc<Shown>>>,
    fingerprints: Fingerprints,
    limits: Limits,
}

/// What stands before the last `_` of a presented text, which is no secret, and what stands behind it.
fn parts(presented: &[u8]) -> Option<(&[u8], &[u8])> {
    let (public, secret) = presented.split_at_checked(PUBLIC).filter(|_| presented.len() == LENGTH)?;
    Some((public.strip_suffix(b"_")?, secret))
}

/// A fingerprint is as good as random: half of it finds the place, all of it is compared.
fn place(fingerprint: u128) -> u64 {
    fingerprint as u64
}

impl Keys {
    pub(super) fn new(limits: Limits) -> Self {
        Keys { shown: RefCell::default(), fingerprints: Fingerprints::new(), limits }
    }

    /// The holder of a text that was verified before. A text of another length is none, and is not even read.
    pub(in crate::directory) fn get(&self, presented: &[u8], revisions: &Revisions, now: Instant) -> Option<Rc<Shown>> {
        let (public, secret) = parts(presented)?;
        let fingerprint = self.fingerprints.of(secret);
        let table = self.shown.borrow();
        let shown = table.find(place(fingerprint), |shown| shown.is(fingerprint, public))?;
        if now >= shown.expires || !shown.is_current(revisions) {
            return None;
        }
        shown.used.set(true);
        Some(Rc::clone(shown))
    }

    /// Keeps a text that was verified just now.
    pub(in crate::directory) fn insert(&self, presented: &[u8], holder: Arc<Holder>, expires: Instant) -> Rc<Shown> {
        let (public, secret) = parts(presented).unwrap_or_default();
        let fingerprint = self.fingerprints.of(secret);
        let shown = Rc::new(Shown { fingerprint, looked: Cell::new(NEVER), expires, used: Cell::new(true), holder });
        let mut table = self.shown.borrow_mut();
        if let Ok(known) = table.find_entry(place(fingerprint), |shown| shown.is(fingerprint, public)) {
            known.remove();
        }
        if table.len() as u64 >= self.limits.entries {
            table.retain(|shown| shown.used.take());
            if table.len() as u64 >= self.limits.entries {
                table.clear();
            }
        }
        table.insert_unique(place(fingerprint), Rc::clone(&shown), |shown| place(shown.fingerprint));
        shown
    }

    /// Forgets what was not used since the last sweep, is over or has changed.
    pub(super) fn sweep(&self, now: Instant) {
        let mut table = self.shown.borrow_mut();
        table.retain(|shown| shown.used.take() && now < shown.expires && shown.holder.is_current());
        if table.len() < table.capacity() / 4 {
            table.shrink_to_fit(|shown| place(shown.fingerprint));
        }
    }
}
