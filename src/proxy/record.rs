//! The record of a request: what the access log and the counters are told when it is over.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::body::BrokenOff;
use super::usage::{Used, Uses, Verdict};
use crate::directory::Permit;
use crate::directory::route::Route;
use crate::model::id::ConnectionRef;
use crate::model::name::EnvironmentName;
use crate::telemetry::access_log::{AccessBuffer, Entry, Named};
use crate::telemetry::metrics::{Metrics, RequestCounters};
use crate::telemetry::request_id::{RequestId, RequestIds};
use crate::upstream::{Exchange, UpstreamError};

/// The reason of a request whose client went away before its end, whether or not there was anybody left to answer.
const CLIENT_GONE: &str = "client_gone";

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
    ids: RequestIds,
    places: Places,
}

/// How many requests one worker has under way, of those that it takes.
struct Places {
    taken: Cell<usize>,
    most: usize,
}

impl Reporter {
    /// For one worker, which takes this many requests at once.
    pub fn new(access: AccessBuffer, metrics: Arc<Metrics>, uses: Uses, most: usize) -> Self {
        let counters = metrics.request_counters();
        let places = Places { taken: Cell::new(0), most };
        Reporter { access, metrics, counters, uses, ids: RequestIds::default(), places }
    }
}

/// One request. When it is dropped, its line is written and it is counted.
pub struct Record {
    reporter: Rc<Reporter>,
    request_id: RequestId,
    method: Method,
    started: Instant,
    asked: Option<ConnectionRef>,
    admitted: Option<Admitted>,
    workflow: Option<String>,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    sent: Option<Instant>,
    answered: Option<Instant>,
    head_passed: Option<Instant>,
    /// Made where a body is counted, so that a request without one allocates nothing for it.
    request_bytes: OnceCell<Rc<Cell<u64>>>,
    response_bytes: u64,
    reused: bool,
    complete: bool,
    /// Whether it is one of those that the worker takes at once.
    has_place: bool,
}

struct Admitted {
    route: Arc<Route>,
    environment: EnvironmentName,
    /// Which of the route's origins.
    origin: usize,
}

impl Record {
    /// Begins the record of a request whose head has just been read.
    pub fn begin(reporter: Rc<Reporter>, method: Method) -> Self {
        let started = Instant::now();
        Record {
            request_id: reporter.ids.next(started),
            reporter,
            method,
            started,
            asked: None,
            admitted: None,
            workflow: None,
            status: None,
            reason: None,
            sent: None,
            answered: None,
            head_passed: None,
            request_bytes: OnceCell::new(),
            response_bytes: 0,
            reused: false,
            complete: false,
            has_place: false,
        }
    }

    /// Takes a place among the requests that are under way, until the record is dropped; false where all are taken.
    #[must_use]
    pub fn take_place(&mut self) -> bool {
        let Places { taken, most } = &self.reporter.places;
        self.has_place = taken.get() < *most;
        taken.set(taken.get() + usize::from(self.has_place));
        self.has_place
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// Where the bytes of its body are counted.
    pub fn request_bytes(&self) -> &Rc<Cell<u64>> {
        self.request_bytes.get_or_init(Rc::default)
    }

    /// It named this connection.
    pub fn asked(&mut self, connection: &ConnectionRef, workflow: Option<String>) {
        self.asked = Some(connection.clone());
        self.workflow = workflow;
    }

    /// It was admitted.
    pub fn admitted(&mut self, permit: &Permit) {
        let route = permit.route();
        self.admitted = Some(Admitted {
            route: Arc::clone(route),
            environment: permit.environment().clone(),
            origin: route.origin_index(&permit.target().origin),
        });
    }

    /// It goes to the upstream now.
    pub fn sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// The upstream has answered, or has failed to.
    pub fn returned(&mut self, exchange: &Exchange) {
        self.answered = Some(Instant::now());
        self.reused = exchange.reused;
    }

    /// An answer is on its way.
    pub fn answered(&mut self, status: StatusCode, reason: Option<&'static str>) {
        self.status = Some(status);
        self.reason = reason;
        self.head_passed = Some(Instant::now());
        if let Some(code) = reason {
            self.reporter.counters.refused(code);
        }
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
        BrokenOff(error)
    }

    /// The client went away before it had all of the answer.
    pub fn lost(&mut self) {
        self.complete = false;
    }

    /// The answer went out to its end.
    pub fn completed(&mut self) {
        self.complete = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let taken = &self.reporter.places.taken;
        taken.set(taken.get() - usize::from(self.has_place));
        let now = Instant::now();
        if !self.complete && self.reason.is_none() {
            self.reason = Some(CLIENT_GONE);
        }
        // Gone while the answer was on its way, or already in the middle of its own body.
        if self.reason == Some(CLIENT_GONE) {
            self.reporter.metrics.request_aborted.inc();
        }
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map(|(from, to)| to.duration_since(from)).unwrap_or_default()
        };
        let upstream_wait = between(self.sent, self.answered);
        let until_head = self.head_passed.unwrap_or(now).duration_since(self.started);
        let added = until_head.checked_sub(upstream_wait).unwrap_or(Duration::ZERO);
        let counters = &self.reporter.counters;
        counters.count(self.status.map(|status| status.as_u16()), self.reason);
        // Of a request that was refused, or whose client had gone before the answer, this is not what relaying costs.
        if self.answered.is_some() && self.head_passed.is_some() {
            counters.added(added);
        }
        if let Some(admitted) = self.admitted.as_ref().filter(|_| self.sent.is_some()) {
            let connection = &admitted.route.connection;
            let (organization, connection) = (connection.organization, connection.id);
            // A reason stands beside a status of our own, and beside an answer that broke off.
            let status = self.status.filter(|_| self.reason.is_none());
            let used = Used {
                organization,
                connection,
                environment: &admitted.environment,
                caller: None,
                verdict: status.and_then(Verdict::of),
                workflow: self.workflow.as_deref(),
            };
            self.reporter.uses.count(used, now);
        }
        let asked = self.asked.as_ref().filter(|_| self.admitted.is_none()).map(ToString::to_string);
        let connection = match (&self.admitted, &asked) {
            (Some(admitted), _) => Named::Used {
                names: admitted.route.names(),
                environment: admitted.environment.as_str(),
                upstream: admitted.route.authority(admitted.origin),
            },
            (None, Some(asked)) => Named::Asked(asked),
            (None, None) => Named::Nothing,
        };
        self.reporter.access.write(&Entry {
            request_id: self.request_id,
            ended: now,
            caller: "local",
            connection,
            workflow: self.workflow.as_deref(),
            method: self.method.as_str(),
            status: self.status.map(|status| status.as_u16()),
            reason: self.reason,
            total: now.duration_since(self.started),
            upstream_wait,
            added,
            request_bytes: self.request_bytes.get().map_or(0, |bytes| bytes.get()),
            response_bytes: self.response_bytes,
            reused: self.reused,
        });
    }
}
