//! Whoever waits for a connection to be opened takes one that is given back meanwhile: with a handshake to come, that is
//! nearly always there first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Destination;
use crate::upstream::http1::Http1;

/// Those who wait for a connection, in the order they came.
#[derive(Default)]
pub(super) struct Queue(RefCell<VecDeque<Rc<Place>>>);

/// The place of one of them.
#[derive(Default)]
struct Place {
    given: Cell<Option<Box<Http1>>>,
    waker: Cell<Option<Waker>>,
}

impl Queue {
    /// Gives a connection to who has waited longest; gives it back where nobody waits.
    pub(super) fn give(&self, connection: Box<Http1>) -> Option<Box<Http1>> {
        let Some(place) = self.0.borrow_mut().pop_front() else { return Some(connection) };
        place.given.set(Some(connection));
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len_for_test(&self) -> usize {
        self.0.borrow().len()
    }
}

/// One who waits. Dropped, it leaves what it was given to the others.
pub(super) struct Waiting<'d> {
    destination: &'d Destination,
    place: Rc<Place>,
}

impl<'d> Waiting<'d> {
    /// Takes the last place.
    pub(super) fn begin(destination: &'d Destination) -> Self {
        let place = Rc::default();
        destination.waiting.0.borrow_mut().push_back(Rc::clone(&place));
        Waiting { destination, place }
    }

    /// Waits for a connection that can take a request. It is given at most one.
    pub(super) fn poll_given(&self, cx: &mut Context<'_>) -> Poll<Box<Http1>> {
        if let Some(mut connection) = self.place.given.take()
            && connection.is_quiet(cx)
        {
            return Poll::Ready(connection);
        }
        self.place.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.destination.waiting.0.borrow_mut().retain(|place| !Rc::ptr_eq(place, &self.place));
        if let Some(connection) = self.place.given.take() {
            self.destination.keep(connection);
        }
    }
}
