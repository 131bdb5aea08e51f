//! Ending what is open and was revoked: a stream whose connection, credential or key is no more.
//!
//! A request carries the number of revocations that its worker knew of when it began: one comparison tells that there
//! were none since. Only who waits in the middle of a body leaves a waker, so that a stream on which nothing moves is
//! ended too.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::error::ProxyError;
use super::record::Reporter;
use crate::clock;
use crate::credentials::Missing;
use crate::directory::{Admission, Shown};
use crate::vault::Vault;
use crate::vault::revoked::Revoked;

/// What one worker knows of revocations, and who of it waits.
pub struct Revoking {
    vault: Vault,
    /// How many there were when it last looked.
    count: Cell<u64>,
    waiting: RefCell<Waiting>,
}

/// A place for each who waits, and those that nobody has.
#[derive(Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Revoking {
    /// Of what is revoked in this vault.
    pub fn new(vault: Vault) -> Self {
        Revoking { vault, count: Cell::default(), waiting: RefCell::default() }
    }

    /// Ends what is open and was revoked so long ago, for as long as it is polled; without a time nothing of it.
    pub async fn keep_ending(&self, within: Option<Duration>) {
        let Some(within) = within else { return pending().await };
        let mut count = self.vault.revocations().subscribe();
        while count.changed().await.is_ok() {
            // Who revokes many things revokes them one after the other, and what is open is looked at once for all.
            clock::sleep(within / 2).await;
            self.count.set(*count.borrow_and_update());
            let waiting: Vec<Waker> = self.waiting.borrow_mut().places.iter_mut().filter_map(Option::take).collect();
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// What of it was revoked, after so many and after it began.
    fn revoked(&self, since: u64, holding: &Holding<'_>) -> Option<Revoked> {
        let (id, environment) = (holding.admission.route.id, &holding.admission.environment);
        self.vault.revocations().find_since(since, |revoked, at| {
            at >= holding.began
                && match revoked {
                    Revoked::Connection(connection) => *connection == id,
                    Revoked::Credential(connection, of) => *connection == id && of == environment,
                    Revoked::Key(key) => holding.shown.is_some_and(|shown| shown.key.id == *key),
                }
        })
    }

    fn wait(&self, place: &Cell<u32>, cx: &Context<'_>) {
        let Waiting { places, free } = &mut *self.waiting.borrow_mut();
        if place.get() == NOWHERE {
            place.set(free.pop().unwrap_or(places.len() as u32));
            if places.len() == place.get() as usize {
                places.push(None);
            }
        }
        let kept = &mut places[place.get() as usize];
        if !kept.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *kept = Some(cx.waker().clone());
        }
    }

    fn forget(&self, place: u32) {
        let Waiting { places, free } = &mut *self.waiting.borrow_mut();
        places[place as usize] = None;
        free.push(place);
    }
}

/// What an exchange rests on.
pub(super) struct Holding<'a> {
    pub(super) began: Instant,
    pub(super) admission: &'a Admission,
    pub(super) shown: Option<&'a Rc<Shown>>,
}

/// No place among those who wait.
const NOWHERE: u32 = u32::MAX;

/// What an exchange that is under way has seen of revocations.
pub(super) struct Seen {
    /// How many, as far as the number goes into so few bits.
    count: Cell<u32>,
    place: Cell<u32>,
}

impl Seen {
    /// Of an exchange that begins now.
    pub(super) fn now(revoking: &Revoking) -> Self {
        Seen { count: Cell::new(revoking.count.get() as u32), place: Cell::new(NOWHERE) }
    }

    /// Whether there were any that were not looked at yet.
    pub(super) fn is_old(&self, revoking: &Revoking) -> bool {
        self.count.get() != revoking.count.get() as u32
    }

    /// What of it was revoked since the last look, as its caller is told.
    #[cold]
    pub(super) fn look(&self, revoking: &Revoking, holding: &Holding<'_>) -> Option<ProxyError> {
        let now = revoking.count.get();
        let since = now.saturating_sub(u64::from((now as u32).wrapping_sub(self.count.replace(now as u32))));
        Some(match revoking.revoked(since, holding)? {
            Revoked::Connection(_) => ProxyError::ConnectionUnknown,
            Revoked::Credential(_, environment) => ProxyError::Missing(Missing::Credential(environment)),
            Revoked::Key(_) => ProxyError::KeyUnknown,
        })
    }

    /// Asks to be woken when something is revoked.
    pub(super) fn wait(&self, revoking: &Revoking, cx: &Context<'_>) {
        revoking.wait(&self.place, cx);
    }

    /// Does not wait any more.
    pub(super) fn forget(&self, revoking: &Revoking) {
        if self.place.get() != NOWHERE {
            revoking.forget(self.place.replace(NOWHERE));
        }
    }
}

/// The same for what goes on without its record, or while that is used for something else.
pub struct Revocable {
    reporter: Rc<Reporter>,
    began: Instant,
    admission: Option<Admission>,
    shown: Option<Rc<Shown>>,
    seen: Seen,
}

impl Revocable {
    /// Of an exchange that has seen so much.
    pub(super) fn new(
        reporter: Rc<Reporter>,
        began: Instant,
        admission: Option<Admission>,
        shown: Option<Rc<Shown>>,
        seen: &Seen,
    ) -> Self {
        let seen = Seen { count: seen.count.clone(), place: Cell::new(NOWHERE) };
        Revocable { reporter, began, admission, shown, seen }
    }

    /// Whether it is.
    pub fn is_revoked(&self) -> bool {
        let Revocable { reporter, began, admission, shown, seen } = self;
        let holding = admission.as_ref().map(|admission| Holding { began: *began, admission, shown: shown.as_ref() });
        seen.is_old(&reporter.revoking)
            && holding.is_some_and(|holding| seen.look(&reporter.revoking, &holding).is_some())
    }

    /// Ready when it is; wakes the task for that.
    pub fn poll_revoked(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_revoked() {
            return Poll::Ready(());
        }
        self.seen.wait(&self.reporter.revoking, cx);
        Poll::Pending
    }

    /// Resolves when it is.
    pub async fn revoked(&self) {
        poll_fn(|cx| self.poll_revoked(cx)).await;
    }
}

impl Drop for Revocable {
    fn drop(&mut self) {
        self.seen.forget(&self.reporter.revoking);
    }
}
