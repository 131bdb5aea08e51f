//! Connections kept for the next request, per origin.
//!
//! A pool belongs to one `Upstream`, and an `Upstream` has exactly one TLS identity, so two requests share a connection
//! only if origin and TLS identity are equal. HTTP/1.1: the connection used last is used next, so that those not needed
//! grow old. HTTP/2: streams go to the first connection with room, one more is opened when all are full.
//!
//! While the protocol is unknown or HTTP/2, one dial at a time: the others of a burst wait and find its streams. Over
//! HTTP/1.1 whoever waits for a dial takes a connection that is given back before it is done, and the dialled one is kept
//! for the next.

mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;
use http::uri::{Authority, Scheme as UriScheme};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;

use super::Settings;
use super::connect::{DialDeadlines, DialLimits, dial};
use super::connection::{Http2, Slot};
use super::error::UpstreamError;
use super::http1::Http1;
use crate::clock::{Instant, timeout, timeout_at};
use crate::model::origin::{Origin, Scheme};
use crate::tls::{Negotiated, Offer};
use waiting::{Queue, Waiting};

/// All destinations that have connections or had some a moment ago.
#[derive(Default)]
pub(super) struct Pool {
    destinations: RefCell<HashMap<Origin, Rc<Destination>>>,
}

impl Pool {
    pub(super) fn destination(
        &self,
        origin: &Origin,
        settings: &Arc<Settings>,
    ) -> Result<Rc<Destination>, UpstreamError> {
        if let Some(known) = self.destinations.borrow().get(origin) {
            return Ok(Rc::clone(known));
        }
        let new = Rc::new(Destination::new(origin, settings)?);
        self.destinations.borrow_mut().insert(origin.clone(), Rc::clone(&new));
        Ok(new)
    }

    /// Closes what was idle for too long or is too old, and forgets destinations that have nothing left.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.destinations.borrow_mut().retain(|_, destination| {
            destination.sweep(now);
            !destination.is_empty() || Rc::strong_count(destination) > 1
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.destinations.borrow().len()
    }
}

/// A connection to send one request on.
pub(super) enum Lease {
    Http1(Box<Http1>),
    Http2(Slot),
}

/// A lease and how it came about.
pub(super) struct Leased {
    pub(super) lease: Lease,
    pub(super) reused: bool,
    pub(super) connected_in: Option<Duration>,
    /// When it was there.
    pub(super) at: Instant,
}

struct Idle {
    connection: Box<Http1>,
    /// When it is idle for too long.
    until: Instant,
}

/// One origin: its connections and what every request to it needs.
pub(super) struct Destination {
    pub(super) settings: Arc<Settings>,
    pub(super) origin: Origin,
    pub(super) authority: Authority,
    protocol: Cell<Option<Negotiated>>,
    idle: RefCell<VecDeque<Idle>>,
    /// Who waits for a connection to be opened.
    waiting: Queue,
    shared: RefCell<Vec<Rc<Http2>>>,
    gate: Arc<Semaphore>,
}

impl Destination {
    fn new(origin: &Origin, settings: &Arc<Settings>) -> Result<Self, UpstreamError> {
        let authority = origin.authority();
        let unwritable = |_| UpstreamError::Unsendable("its host cannot be written into a request");
        Ok(Destination {
            settings: Arc::clone(settings),
            authority: Authority::try_from(authority).map_err(|_| unwritable(()))?,
            // In clear there is no ALPN, and HTTP/2 without it is not tried.
            protocol: Cell::new((origin.scheme == Scheme::Http).then_some(Negotiated::Http1)),
            origin: origin.clone(),
            idle: RefCell::default(),
            waiting: Queue::default(),
            shared: RefCell::default(),
            gate: Arc::new(Semaphore::new(1)),
        })
    }

    pub(super) fn uri_scheme(&self) -> UriScheme {
        match self.origin.scheme {
            Scheme::Https => UriScheme::HTTPS,
            Scheme::Http => UriScheme::HTTP,
        }
    }

    /// A connection for one request: a kept one, else a new one. (Opening one is boxed: with a handshake in it, it
    /// would make the future of every request large.)
    pub(super) async fn lease(self: &Rc<Self>, limits: DialLimits, kept: Kept) -> Result<Leased, UpstreamError> {
        if let Some(leased) = self.take(kept).await {
            return Ok(leased);
        }
        Box::pin(self.dial(limits.begin(), kept)).await
    }

    async fn dial(self: &Rc<Self>, deadlines: DialDeadlines, kept: Kept) -> Result<Leased, UpstreamError> {
        match (self.protocol.get(), kept) {
            (Some(Negotiated::Http1), Kept::Any) => return self.open_or_take(deadlines).await,
            (Some(Negotiated::Http1), Kept::NoIdle) => return self.open(deadlines, None).await,
            (Some(Negotiated::Http2) | None, _) => {}
        }
        let permit = timeout_at(deadlines.connect_by, Arc::clone(&self.gate).acquire_owned())
            .await
            .map_err(|_| UpstreamError::ConnectTimeout)?;
        let Ok(permit) = permit else {
            return Err(UpstreamError::Closed("the pool is closed".into()));
        };
        // While waiting somebody may have opened a connection with room, or learned that it is HTTP/1.1.
        if let Some(leased) = self.take(kept).await {
            return Ok(leased);
        }
        let permit = (self.protocol.get() != Some(Negotiated::Http1)).then_some(permit);
        self.open(deadlines, permit).await
    }

    /// A kept connection, at once.
    fn take(&self, kept: Kept) -> impl Future<Output = Option<Leased>> {
        poll_fn(move |cx| Poll::Ready(self.take_now(cx, kept)))
    }

    fn take_now(&self, cx: &mut Context<'_>, kept: Kept) -> Option<Leased> {
        let now = Instant::now();
        let reused = |lease| Leased { lease, reused: true, connected_in: None, at: now };
        if kept == Kept::Any
            && let Some(connection) = self.take_idle(cx, now)
        {
            return Some(reused(Lease::Http1(connection)));
        }
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            return None;
        }
        shared.retain(|connection| connection.is_open() && now - connection.born < self.settings.pool_max_age);
        shared.iter().find_map(Http2::slot).map(Lease::Http2).map(reused)
    }

    fn take_idle(&self, cx: &mut Context<'_>, now: Instant) -> Option<Box<Http1>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, until }) = idle.pop_back() {
            if now >= until {
                idle.clear(); // the others are idle for longer
                return None;
            }
            if now < connection.retires && connection.is_quiet(cx) {
                return Some(connection);
            }
        }
        None
    }

    /// Opens a connection, or takes one that is given back before it is there.
    async fn open_or_take(self: &Rc<Self>, deadlines: DialDeadlines) -> Result<Leased, UpstreamError> {
        let destination = Rc::clone(self);
        let mut opening = Box::pin(async move { destination.open(deadlines, None).await });
        let waiting = Waiting::begin(self);
        let first = poll_fn(|cx| match waiting.poll_given(cx) {
            Poll::Ready(connection) => Poll::Ready(Err(connection)),
            Poll::Pending => opening.as_mut().poll(cx).map(Ok),
        });
        let connection = match first.await {
            Ok(opened) => return opened,
            Err(connection) => connection,
        };
        // What was begun is needed next time: as many were under way at once.
        let destination = Rc::clone(self);
        spawn_local(async move {
            if let Ok(Leased { lease: Lease::Http1(connection), .. }) = opening.await {
                destination.keep(connection);
            }
        });
        Ok(Leased { lease: Lease::Http1(connection), reused: true, connected_in: None, at: Instant::now() })
    }

    async fn open(
        self: &Rc<Self>,
        deadlines: DialDeadlines,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Leased, UpstreamError> {
        let start = Instant::now();
        let (stream, protocol) = dial(&self.settings, &self.origin, Offer::Http2OrHttp1, deadlines).await?;
        self.protocol.set(Some(protocol));
        let lease = match protocol {
            Negotiated::Http1 => Lease::Http1(Http1::new(stream, self.settings.pool_max_age)),
            Negotiated::Http2 => {
                let connection = Http2::start(stream).await?;
                let slot = connection.first_slot();
                self.shared.borrow_mut().push(Rc::clone(&connection));
                // The gate stays shut until the peer has said how many streams it takes: a burst would else be queued
                // on a connection that takes ten.
                let limit = self.settings.connect_timeout;
                spawn_local(async move {
                    if timeout(limit, connection.settle()).await.is_err() {
                        connection.assume_settled();
                    }
                    drop(permit);
                });
                Lease::Http2(slot)
            }
        };
        let at = Instant::now();
        Ok(Leased { lease, reused: false, connected_in: Some(at - start), at })
    }

    /// Keeps an HTTP/1.1 connection that is ready for another request, or gives it to who waits for one.
    pub(super) fn keep(&self, connection: Box<Http1>) {
        let now = Instant::now();
        if self.settings.pool_max_idle_per_host == 0 || now >= connection.retires {
            return;
        }
        let Some(connection) = self.waiting.give(connection) else { return };
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.settings.pool_max_idle_per_host {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, until: now + self.settings.pool_idle_timeout });
    }

    fn sweep(&self, now: Instant) {
        let mut cx = Context::from_waker(Waker::noop());
        self.idle.borrow_mut().retain_mut(|Idle { connection, until }| {
            now < *until && now < connection.retires && connection.is_quiet(&mut cx)
        });
        self.shared.borrow_mut().retain(|connection| {
            connection.is_open()
                && now - connection.born < self.settings.pool_max_age
                && connection.idle_since().is_none_or(|since| now - since < self.settings.pool_idle_timeout)
        });
    }

    #[cfg(test)]
    pub(super) fn has_idle_for_test(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    #[cfg(test)]
    pub(super) fn waiting_for_test(&self) -> usize {
        self.waiting.len_for_test()
    }

    #[cfg(test)]
    pub(super) fn shared_for_test(&self) -> Vec<Rc<Http2>> {
        self.shared.borrow().clone()
    }

    fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }
}

/// Which kept connections will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Any of them.
    Any,
    /// No idle HTTP/1.1 connection: one has just turned out to be dead, and its neighbours are as old.
    NoIdle,
}
