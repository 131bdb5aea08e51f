//! The data plane: [`Proxy::handle`], the life of a request. Read this first.
//!
//! A request is tagged, admitted, given its credential, sent, and its answer streamed back. Everything that can refuse
//! it comes before a credential is opened, and the credential comes last, so that nothing in the request can remove,
//! duplicate or shadow it. `handle` cannot fail: every way to stop is one [`ProxyError`] and becomes an answer.

mod authorize;
pub mod body;
pub mod error;
pub mod explain;
pub mod gate;
pub mod head;
pub mod http1;
pub mod http2;
pub mod record;
pub mod revoked;
pub mod tag;
pub mod tap;
pub mod target;
pub mod trial;
mod tunnel;
pub mod usage;

use std::ops::DerefMut;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use zeroize::Zeroizing;

use crate::credentials::body::Media;
use crate::credentials::{Credentials, Injection, Local};
use crate::directory::{Admission, Directory};
use crate::model::header::{Known, Meanings, Names};
use crate::model::integration::Integration;
use crate::upstream::{self, BoxError, Deadlines, Exchange, Injected, Outgoing, Switched, Upstream, UpstreamError};
use crate::wire::{Fields, RequestHead, Source};

use authorize::{Authorized, Decided};
use body::{AnswerBody, ClientBody, Held, RequestBody, TrailerSieve};
pub use error::{Asked, ProxyError};
use explain::Explanation;
use gate::Gate;
use head::{LastHost, Nominated};
use record::{Record, Reporter};

/// What every worker shares.
pub struct Shared {
    /// Facts.
    pub directory: Directory,
    /// Secrets.
    pub credentials: Credentials,
    /// How requests are treated.
    pub settings: Settings,
}

/// How requests are treated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The headers that may name a connection.
    pub connection_headers: Names,
    /// The largest body that is held in memory to put a credential into it.
    pub body_buffer: u64,
    /// How long a client's body may stand still.
    pub body_idle_timeout: Duration,
    /// How long a WebSocket may be quiet in both directions.
    pub tunnel_idle_timeout: Duration,
    /// The deadlines of a request where its integration has none.
    pub deadlines: Deadlines,
}

/// One worker's data plane. It lives on one thread.
pub struct Proxy {
    shared: Arc<Shared>,
    upstream: Upstream,
    known: Local,
    last_host: LastHost,
    reporter: Rc<Reporter>,
}

/// A request as it came in, on whichever wire.
pub struct Request {
    /// Its head.
    pub head: RequestHead,
    /// Its body, if it has one.
    pub body: Option<ClientBody>,
    /// What is wrong with it although there is a head: it is refused, and this is what its caller is told.
    pub fault: Option<ProxyError>,
}

impl Request {
    /// A request whose head could not be read.
    pub fn unreadable(fault: ProxyError) -> Self {
        Request { head: RequestHead::unreadable(), body: None, fault: Some(fault) }
    }
}

/// What a request is answered with, on whichever wire.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Its fields, without those that frame the body or belong to a connection.
    pub fields: Fields,
    /// Its body, which carries the request's record.
    pub body: AnswerBody,
    /// Whether nothing that follows on the client's connection can be trusted to be a request.
    pub closes: bool,
    /// The upstream's end of a tunnel that begins with this answer, and the record of the request that asked for it.
    pub tunnel: Option<Box<(Switched, Box<Record>)>>,
}

/// An upstream's answer.
struct Relayed {
    answer: upstream::Answer,
    injection: Arc<Injection>,
}

impl Proxy {
    /// A worker's data plane; call it on the worker's local runtime.
    pub fn new(shared: Arc<Shared>, upstream: Upstream, reporter: Rc<Reporter>) -> Self {
        let known = shared.directory.table();
        Proxy { shared, upstream, known, last_host: LastHost::default(), reporter }
    }

    /// How requests are treated.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Makes routes and credentials of what is declared, so that the first requests after a start are as quick as the
    /// next. What cannot be made yet, or not without waiting, is left to the first request.
    pub fn make_ready(&self) {
        let Shared { directory, credentials, .. } = &*self.shared;
        let mut connections = 0_usize;
        let made = AssertUnwindSafe(|| {
            directory.make_ready(&self.known, |kept| {
                credentials.make_ready(kept);
                connections += 1;
            });
        });
        match std::panic::catch_unwind(made) {
            Ok(()) => tracing::debug!(connections, "what is declared is ready in this worker"),
            Err(_) => tracing::error!("a declared connection could not be made ready; its requests will say why"),
        }
    }

    /// Forgets what was not used lately.
    pub fn sweep(&self) {
        self.known.sweep();
    }

    /// Answers a request that came in at a listener with this gate. Cannot fail, and a panic costs one request.
    pub async fn handle(&self, gate: &Gate, request: &mut Request) -> Answer {
        let mut record = Record::begin(Rc::clone(&self.reporter), request.head.method.clone());
        let is_absolute = request.head.version != Version::HTTP_2 && !request.head.target().starts_with(b"/");
        let asked = if is_absolute && request.fault.is_none() { Asked::AsProxy } else { Asked::Directly };
        let relayed = caught(pin!(self.relay(gate, request, &mut record))).await;
        // What nobody has taken of its body nobody reads any more.
        drop(request.body.take());
        let error = match relayed {
            Some(Ok(relayed)) => return answer(relayed, &request.head.method, record),
            Some(Err(error)) => error,
            None => ProxyError::Internal,
        };
        record.kept_at(gate.scope.organization);
        match error {
            ProxyError::Explained(explanation) => explained(&explanation, record),
            error => refuse(&error, asked, record),
        }
    }

    async fn relay(&self, gate: &Gate, request: &mut Request, record: &mut Record) -> Result<Relayed, ProxyError> {
        let Authorized { permit, injection, path, timeout } = match self.authorize(gate, request, record)? {
            Decided::Now(authorized) => authorized,
            Decided::Later(waiting) => waiting.await?,
        };
        let Request { head, body, .. } = request;
        let switches = head::asks_for_websocket(head);
        let integration = &permit.route().integration;
        let nominated =
            head::clean_request(head, &self.shared.settings.connection_headers, integration.forward_authorization);
        let deadlines = self.deadlines(integration, timeout);
        let body = match injection.media() {
            None => body.take().map(|body| self.stream_body(&injection, body, nominated, record)),
            Some(media) => {
                record.admitted(permit.admission().clone());
                let held = Box::pin(self.hold_body(&injection, media, &mut head.fields, body.take(), record));
                Some(unless_revoked(record, held).await??)
            }
        };
        record.admitted(injection.apply(permit, &mut head.fields));
        still_holds(record)?;
        let (method, fields) = (head.method.clone(), std::mem::take(&mut head.fields));
        let injected = Arc::clone(&injection) as Arc<dyn Injected>;
        let mut outgoing = Outgoing { method, path, fields, injected, body };
        record.sent();
        let mut exchange = Exchange::default();
        let origin = record.admission().map(Admission::origin).ok_or(ProxyError::Internal)?;
        // What is rare is boxed, and nothing stands in between: a request's future is moved about.
        let has_body = outgoing.body.is_some();
        let sent = if switches {
            tunnel::switch(&mut outgoing.fields);
            Box::pin(self.upstream.send_upgrade(origin, &mut outgoing, &deadlines, &mut exchange)).await.map_err(unsent)
        } else {
            let sending = pin!(self.upstream.send(origin, &mut outgoing, &deadlines, &mut exchange));
            match has_body {
                true => unless_revoked(record, sending).await.and_then(|sent| sent.map_err(unsent)),
                // Whoever waits for an answer's head alone is not woken: it has its deadline, and is not passed on then.
                false => sending.await.map_err(unsent),
            }
        };
        record.returned(&exchange);
        let answer = sent?;
        still_holds(record)?;
        Ok(Relayed { answer, injection })
    }

    /// The server's deadlines, the integration's where it has its own, and what the request shortens.
    fn deadlines(&self, integration: &Integration, timeout: Option<Duration>) -> Deadlines {
        let own = integration.timeouts;
        let server = self.shared.settings.deadlines;
        let response = own.response.unwrap_or(server.response);
        Deadlines {
            connect: own.connect.unwrap_or(server.connect),
            response: timeout.map_or(response, |timeout| timeout.min(response)),
            idle: own.idle.unwrap_or(server.idle),
        }
    }

    /// The body as it is streamed.
    fn stream_body(
        &self,
        injection: &Injection,
        body: ClientBody,
        nominated: Nominated,
        record: &Record,
    ) -> Box<dyn Source<Error = BoxError>> {
        let sieve = TrailerSieve { forbidden: injection.header_names().cloned().chain(nominated).collect() };
        let idle = self.shared.settings.body_idle_timeout;
        Box::new(RequestBody::new(body, idle, sieve, Rc::clone(record.request_bytes())))
    }

    /// The body, held in memory, with the credential in it.
    async fn hold_body(
        &self,
        injection: &Injection,
        media: Media,
        fields: &mut Fields,
        body: Option<ClientBody>,
        record: &Record,
    ) -> Result<Box<dyn Source<Error = BoxError>>, ProxyError> {
        let settings = &self.shared.settings;
        let unsupported = |why: &str| ProxyError::BodyUnsupported(why.to_owned());
        if fields.has(Known::ContentEncoding) {
            return Err(unsupported("a compressed body cannot take it; send it uncompressed"));
        }
        if head::describes_body_ambiguously(fields) {
            return Err(unsupported("its media type must be named once, in Content-Type"));
        }
        let of_media = fields
            .values(Known::ContentType)
            .any(|value| std::str::from_utf8(value).is_ok_and(|text| media.matches(text)));
        let held = match body {
            Some(body) => {
                let count = Rc::clone(record.request_bytes());
                let body = RequestBody::new(body, settings.body_idle_timeout, TrailerSieve::default(), count);
                body.hold(settings.body_buffer).await?
            }
            None => Vec::new(),
        };
        if !(of_media || held.is_empty()) {
            return Err(ProxyError::BodyUnsupported(format!("it must be {}", media.as_str())));
        }
        let filled =
            injection.fill_body(media, &held).map_err(|error| ProxyError::BodyUnsupported(error.to_string()))?;
        fields.drop_known(Meanings::of(&[Known::Trailer]));
        if !of_media {
            fields.drop_known(Meanings::of(&[Known::ContentType]));
            fields.push(b"content-type", media.as_str().as_bytes());
        }
        Ok(Box::new(Held(Some(Bytes::from_owner(Zeroizing::new(filled))))))
    }
}

/// Why a request got no answer.
fn unsent(error: UpstreamError) -> ProxyError {
    match error {
        UpstreamError::RequestBody(source) => source.downcast_ref().map_or(ProxyError::ClientGone, body::client_error),
        other => ProxyError::Upstream(other),
    }
}

/// Stops what rests on something that was revoked since it began.
fn still_holds(record: &Record) -> Result<(), ProxyError> {
    record.revoked().map_or(Ok(()), |error| Err(ProxyError::Revoked(Box::new(error))))
}

/// Gives up what a request with a body waits for when what it rests on is revoked.
fn unless_revoked<T>(
    record: &Record,
    mut work: Pin<impl DerefMut<Target: Future<Output = T>>>,
) -> impl Future<Output = Result<T, ProxyError>> {
    std::future::poll_fn(move |cx| match work.as_mut().poll(cx) {
        Poll::Pending if record.is_uploading() => {
            record.poll_revoked(cx).map(|error| Err(ProxyError::Revoked(Box::new(error))))
        }
        other => other.map(Ok),
    })
}

/// Passes an upstream's answer on.
fn answer(relayed: Relayed, method: &Method, mut record: Box<Record>) -> Answer {
    let Relayed { answer, injection } = relayed;
    let status = answer.head.status;
    let mut fields = answer.head.fields;
    head::clean_answer(&mut fields, status, method, &injection);
    record.answered(status, None);
    if let Some(switched) = answer.switched {
        tunnel::switch(&mut fields);
        record.completed();
        return Answer {
            status,
            fields,
            body: AnswerBody::empty(),
            closes: true,
            tunnel: Some(Box::new((*switched, record))),
        };
    }
    Answer { status, fields, body: AnswerBody::upstream(answer.body, record), closes: false, tunnel: None }
}

/// Answers with what would have become of the request.
fn explained(explanation: &Explanation, mut record: Box<Record>) -> Answer {
    // Texts, numbers and tables of them: nothing of it can fail to be written.
    let document = serde_json::to_vec(explanation).unwrap_or_default();
    record.answered(StatusCode::OK, None);
    let mut fields = Fields::default();
    fields.push(b"content-type", b"application/json");
    fields.push(b"cache-control", b"no-store");
    fields.push(b"sidekey-request-id", record.request_id().as_bytes());
    // What came of its body was not read.
    Answer {
        status: StatusCode::OK,
        fields,
        body: AnswerBody::own(document.into(), record),
        closes: true,
        tunnel: None,
    }
}

/// Answers with a problem document.
fn refuse(error: &ProxyError, asked: Asked, mut record: Box<Record>) -> Answer {
    if matches!(error, ProxyError::Upstream(_) | ProxyError::Internal) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(request_id = record.request_id(), code = error.code(), %error, source, "a request failed");
    }
    let (mut parts, body) = error.answer(record.request_id(), asked).into_parts();
    record.answered(parts.status, Some(error.reason()));
    let closes = parts.headers.remove(http::header::CONNECTION).is_some();
    let fields = Fields::from_map(&parts.headers);
    Answer { status: parts.status, fields, body: AnswerBody::own(body, record), closes, tunnel: None }
}

/// Runs a future and catches its panic: a defect costs one request and not the connection, the worker or the process.
async fn caught<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_logged_by_the_hook) => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        assert!(caught(pin!(async { panic!("a defect") })).await.is_none());
        assert_eq!(caught(pin!(async { 7 })).await, Some(7));
    }
}
