//! The record of a request: what the access log and the counters are told when it is over.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::body::{BrokenOff, Upload};
use super::error::{ProxyError, REVOKED};
use super::revoked::{Holding, Revocable, Revoking, Seen};
use super::tap::{About, Passed, Taps};
use super::usage::{Used, Uses, Verdict};
use crate::directory::{Admission, Shown};
use crate::model::id::{ConnectionRef, OrganizationId, Reference};
use crate::telemetry::access_log::{AccessBuffer, Entry, Named};
use crate::telemetry::clock::{Clock, Moment};
use crate::telemetry::metrics::{Metrics, RequestCounters};
use crate::telemetry::request_id::{RequestId, RequestIds};
use crate::upstream::{Exchange, UpstreamError};

/// The reason of a request whose client went away before its end, whether or not there was anybody left to answer.
const CLIENT_GONE: &str = "client_gone";

/// Who needed no key, in access lines.
const LOCAL: &str = "local";

/// What one worker tells about its requests.
pub struct Reporter {
    /// Lines on their way to the log.
    pub access: AccessBuffer,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// This worker's part of those that every request touches.
    counters: RequestCounters,
    /// What requests used.
    pub uses: Uses,
    /// What is revoked while requests are under way.
    pub revoking: Revoking,
    /// Who watches requests as they pass.
    taps: Taps,
    ids: RequestIds,
    clock: Cell<Clock>,
    places: Places,
}

/// How many requests one worker has under way, of those that it takes.
struct Places {
    taken: Cell<usize>,
    most: usize,
}

impl Reporter {
    /// For one worker, which takes this many requests at once.
    pub fn new(
        access: AccessBuffer,
        metrics: Arc<Metrics>,
        uses: Uses,
        revoking: Revoking,
        taps: Taps,
        most: usize,
    ) -> Self {
        let counters = metrics.request_counters();
        let places = Places { taken: Cell::new(0), most };
        let (ids, clock) = (RequestIds::default(), Cell::new(Clock::new()));
        Reporter { access, metrics, counters, uses, revoking, taps, ids, clock, places }
    }

    fn time_of_day(&self, instant: Instant) -> Moment {
        let mut clock = self.clock.get();
        let moment = clock.at(instant);
        self.clock.set(clock);
        moment
    }
}

/// One request. When it is dropped, its line is written and it is counted.
pub struct Record {
    reporter: Rc<Reporter>,
    request_id: RequestId,
    method: Method,
    started: Instant,
    connection: Asked,
    /// Whose the listener is that has refused it; aside, as most are relayed.
    listener: Option<Box<OrganizationId>>,
    /// The key that was shown.
    shown: Option<Rc<Shown>>,
    workflow: Option<Box<str>>,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    upstream: Upstream,
    /// What Sidekey added until the answer's head could be passed on.
    added: Option<Duration>,
    /// Made where a body is counted, so that a request without one allocates nothing for it.
    request_bytes: OnceCell<Rc<Upload>>,
    response_bytes: u64,
    complete: bool,
    /// Whether it is one of those that the worker takes at once.
    has_place: bool,
    /// What it has seen of revocations.
    seen: Seen,
}

/// How far a request came to its connection.
enum Asked {
    Nothing,
    /// It named this one.
    Named(Box<ConnectionRef>),
    /// It may use this one.
    Admitted(Admission),
}

/// How far a request came to its upstream.
enum Upstream {
    Unsent,
    Sent(Instant),
    /// It has answered, or has failed to.
    Returned {
        at: Instant,
        waited: Duration,
        reused: bool,
    },
}

impl Record {
    /// Begins the record of a request whose head has just been read.
    ///
    /// It goes with its request from hand to hand, so it lies in a place of its own.
    pub fn begin(reporter: Rc<Reporter>, method: Method) -> Box<Self> {
        let started = Instant::now();
        Box::new(Record {
            request_id: reporter.ids.next(reporter.time_of_day(started)),
            seen: Seen::now(&reporter.revoking),
            reporter,
            method,
            started,
            connection: Asked::Nothing,
            listener: None,
            shown: None,
            workflow: None,
            status: None,
            reason: None,
            upstream: Upstream::Unsent,
            added: None,
            request_bytes: OnceCell::new(),
            response_bytes: 0,
            complete: false,
            has_place: false,
        })
    }

    /// Takes a place among the requests that are under way, until the record is dropped; false where all are taken.
    #[must_use]
    pub fn take_place(&mut self) -> bool {
        let Places { taken, most } = &self.reporter.places;
        self.has_place = taken.get() < *most;
        taken.set(taken.get() + usize::from(self.has_place));
        self.has_place
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// Where the bytes of its body are counted.
    pub fn request_bytes(&self) -> &Rc<Upload> {
        self.request_bytes.get_or_init(Rc::default)
    }

    /// Whoever sent it has shown this key.
    pub fn shown(&mut self, shown: Option<&Rc<Shown>>) {
        self.shown = shown.cloned();
    }

    /// Whoever sent it says this name.
    pub fn said(&mut self, workflow: Option<&str>) {
        self.workflow = workflow.map(Box::from);
    }

    /// It named this connection, and it is not decided yet, or never will be, whether it may use it.
    pub fn asked(&mut self, connection: Reference<'_>) {
        self.connection = connection.try_into().map_or(Asked::Nothing, |named| Asked::Named(Box::new(named)));
    }

    /// It is not relayed; the listener it came in at is this organization's.
    pub fn kept_at(&mut self, listener: OrganizationId) {
        self.listener = Some(Box::new(listener));
    }

    /// It was admitted.
    pub fn admitted(&mut self, admission: Admission) {
        self.connection = Asked::Admitted(admission);
    }

    /// To what it was admitted.
    pub fn admission(&self) -> Option<&Admission> {
        match &self.connection {
            Asked::Admitted(admission) => Some(admission),
            Asked::Nothing | Asked::Named(_) => None,
        }
    }

    /// It goes to the upstream now.
    pub fn sent(&mut self) {
        self.upstream = Upstream::Sent(Instant::now());
    }

    /// The upstream has answered, or has failed to.
    pub fn returned(&mut self, exchange: &Exchange) {
        let Upstream::Sent(sent) = self.upstream else { return };
        let at = Instant::now();
        self.upstream = Upstream::Returned { at, waited: at.duration_since(sent), reused: exchange.reused };
    }

    /// An answer is on its way: the upstream's, or for this reason one of Sidekey's own.
    pub fn answered(&mut self, status: StatusCode, reason: Option<&'static str>) {
        self.status = Some(status);
        self.reason = reason;
        if let Some(code) = reason {
            self.reporter.counters.refused(code);
        }
        let (passed, waited) = match self.upstream {
            // An answer that is relayed goes out as soon as it is there: the clock need not be asked again.
            Upstream::Returned { at, waited, .. } if reason.is_none() => (at, waited),
            Upstream::Returned { waited, .. } => (Instant::now(), waited),
            Upstream::Unsent | Upstream::Sent(_) => (Instant::now(), Duration::ZERO),
        };
        self.added = Some(passed.duration_since(self.started).saturating_sub(waited));
    }

    /// Bytes of the answer's body were passed on.
    pub fn passed_on(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// The upstream's body ended too early.
    pub fn cut_off(&mut self, error: UpstreamError) -> BrokenOff {
        self.complete = true;
        self.reason = Some(match error {
            UpstreamError::IdleTimeout => "upstream_idle",
            _ => "upstream_truncated",
        });
        self.reporter.metrics.upstream_truncated.inc();
        BrokenOff::ByUpstream(error)
    }

    /// What it rests on that was revoked meanwhile, as its caller is told. One comparison while nothing is.
    pub fn revoked(&self) -> Option<ProxyError> {
        let (seen, revoking) = (&self.seen, &self.reporter.revoking);
        if !seen.is_old(revoking) {
            return None;
        }
        let holding = Holding { began: self.started, admission: self.admission()?, shown: self.shown.as_ref() };
        seen.look(revoking, &holding)
    }

    /// The same for who waits; wakes the task when something is revoked.
    pub fn poll_revoked(&self, cx: &Context<'_>) -> Poll<ProxyError> {
        if let Some(error) = self.revoked() {
            return Poll::Ready(error);
        }
        self.seen.wait(&self.reporter.revoking, cx);
        Poll::Pending
    }

    /// The same for what goes on without the record.
    pub fn revocable(&self) -> Revocable {
        let admission = self.admission().cloned();
        Revocable::new(Rc::clone(&self.reporter), self.started, admission, self.shown.clone(), &self.seen)
    }

    /// Lets what is still to come of its body go on without it.
    pub fn leave_upload(&self) {
        if let Some(upload) = self.request_bytes.get().filter(|upload| !upload.has_ended()) {
            upload.go_on(self.revocable());
        }
    }

    /// Whether some of its body may still come.
    pub fn is_uploading(&self) -> bool {
        self.request_bytes.get().is_some_and(|upload| !upload.has_ended())
    }

    /// Its answer was broken off because what it rests on was revoked.
    pub fn end_revoked(&mut self) -> BrokenOff {
        self.complete = true;
        self.reason = Some(REVOKED);
        BrokenOff::Revoked
    }

    /// The client went away before it had all of the answer.
    pub fn lost(&mut self) {
        self.complete = false;
    }

    /// The answer went out to its end.
    pub fn completed(&mut self) {
        self.complete = true;
    }

    /// Counts a use of its connection, if anything of it may have reached the upstream.
    #[inline]
    fn count_use(&self, ended: Moment) {
        let Asked::Admitted(admission) = &self.connection else { return };
        if matches!(self.upstream, Upstream::Unsent) {
            return;
        }
        // A reason stands beside a status of our own, and beside an answer that broke off.
        let status = self.status.filter(|_| self.reason.is_none());
        let used = Used {
            organization: admission.route.organization,
            connection: admission.route.id,
            environment: &admission.environment,
            caller: self.shown.as_ref().map(|shown| shown.key.id),
            verdict: status.and_then(Verdict::of),
            workflow: self.workflow.as_deref(),
        };
        self.reporter.uses.count(&used, ended.second);
    }

    /// Its connection as the access line has it; `asked` takes the text of one that was named only.
    #[inline]
    fn named<'a>(&'a self, asked: &'a mut String) -> Named<'a> {
        match &self.connection {
            Asked::Admitted(admission) => Named::Used {
                names: admission.route.names(),
                environment: admission.environment.as_str(),
                upstream: admission.authority(),
            },
            Asked::Named(named) => {
                *asked = named.to_string();
                Named::Asked(asked)
            }
            Asked::Nothing => Named::Nothing,
        }
    }

    /// What taps choose it by. It is its connection's organization's; where it was not admitted its key's, else its
    /// listener's.
    #[cold]
    fn passed(&self) -> Option<Passed<'_>> {
        let of_key = self.shown.as_ref().map(|shown| shown.key.organization);
        let of_either = of_key.or(self.listener.as_deref().copied());
        let (organization, about) = match &self.connection {
            Asked::Admitted(admission) => (Some(admission.route.organization), About::Used(admission.route.id)),
            Asked::Named(named) => (of_either, About::Asked(named)),
            Asked::Nothing => (of_either, About::Nothing),
        };
        Some(Passed { organization: organization?, about })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.seen.forget(&self.reporter.revoking);
        let taken = &self.reporter.places.taken;
        taken.set(taken.get() - usize::from(self.has_place));
        let now = Instant::now();
        let ended = self.reporter.time_of_day(now);
        if !self.complete && self.reason.is_none() {
            self.reason = Some(CLIENT_GONE);
        }
        // Gone while the answer was on its way, or already in the middle of its own body.
        if self.reason == Some(CLIENT_GONE) {
            self.reporter.metrics.request_aborted.inc();
        }
        let (upstream_wait, reused, has_returned) = match self.upstream {
            Upstream::Returned { waited, reused, .. } => (waited, reused, true),
            Upstream::Unsent | Upstream::Sent(_) => (Duration::ZERO, false, false),
        };
        let total = now.duration_since(self.started);
        let counters = &self.reporter.counters;
        let status = self.status.map(|status| status.as_u16());
        counters.count(status, self.reason);
        // Of a request that was refused, or whose client had gone before the answer, this is not what relaying costs.
        if let Some(added) = self.added.filter(|_| has_returned) {
            counters.added(added);
        }
        self.count_use(ended);
        let mut asked = String::new();
        let entry = Entry {
            request_id: self.request_id,
            ended,
            caller: self.shown.as_ref().map_or(LOCAL, |shown| &shown.name),
            connection: self.named(&mut asked),
            workflow: self.workflow.as_deref(),
            method: self.method.as_str(),
            status,
            reason: self.reason,
            total,
            upstream_wait,
            added: self.added.unwrap_or_else(|| total.saturating_sub(upstream_wait)),
            request_bytes: self.request_bytes.get().map_or(0, |upload| upload.bytes()),
            response_bytes: self.response_bytes,
            reused,
        };
        self.reporter.access.write(&entry);
        if self.reporter.taps.are_open()
            && let Some(passed) = self.passed()
        {
            self.reporter.taps.tell(&passed, &entry);
        }
    }
}
