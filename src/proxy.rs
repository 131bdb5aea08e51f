//! The data plane: [`Proxy::handle`], the life of a request. Read this first.
//!
//! A request is tagged, admitted, given its credential, sent, and its answer streamed back. Everything that can refuse
//! it comes before a credential is opened, and the credential comes last, so that nothing in the request can remove,
//! duplicate or shadow it. `handle` cannot fail: every way to stop is one [`ProxyError`] and becomes an answer.

pub mod body;
pub mod error;
pub mod gate;
pub mod head;
pub mod http1;
pub mod http2;
pub mod record;
pub mod tag;
pub mod target;
mod tunnel;
pub mod usage;

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Method, StatusCode, Version};
use zeroize::Zeroizing;

use crate::credentials::apply::Destination;
use crate::credentials::{Credentials, Injection, Injections, Local, ResolveError};
use crate::directory::{Aim, Denied, Directory, Kept, LookupError, Name, Permit};
use crate::model::header::Known;
use crate::model::origin::Origin;
use crate::upstream::{self, BoxError, Deadlines, Exchange, Injected, Outgoing, Switched, Upstream, UpstreamError};
use crate::wire::{Fields, RequestHead, Source};

use body::{AnswerBody, ClientBody, Held, RequestBody, TrailerSieve};
pub use error::{Asked, ProxyError};
use gate::Gate;
use head::Nominated;
use record::{Record, Reporter};
use tag::Tag;
use target::{Form, Requested};

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
    pub connection_headers: Vec<HeaderName>,
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
    pub tunnel: Option<Box<(Switched, Record)>>,
}

/// An upstream's answer.
struct Relayed {
    answer: upstream::Answer,
    injection: Arc<Injection>,
    method: Method,
}

impl Proxy {
    /// A worker's data plane; call it on the worker's local runtime.
    pub fn new(shared: Arc<Shared>, upstream: Upstream, reporter: Rc<Reporter>) -> Self {
        let known = shared.directory.table();
        Proxy { shared, upstream, known, reporter }
    }

    /// How requests are treated.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Forgets what was not used lately.
    pub fn sweep(&self) {
        self.known.sweep();
    }

    /// Answers a request that came in at a listener with this gate. Cannot fail, and a panic costs one request.
    pub async fn handle(&self, gate: &Gate, request: Request) -> Answer {
        let mut record = Record::begin(Rc::clone(&self.reporter), request.head.method.clone());
        let is_absolute = request.head.version != Version::HTTP_2 && !request.head.target().starts_with(b"/");
        let asked = if is_absolute && request.fault.is_none() { Asked::AsProxy } else { Asked::Directly };
        let relayed = caught(pin!(self.relay(gate, request, &mut record))).await;
        match relayed.unwrap_or(Err(ProxyError::Internal)) {
            Ok(relayed) => answer(relayed, record),
            Err(error) => refuse(&error, asked, record),
        }
    }

    async fn relay(&self, gate: &Gate, request: Request, record: &mut Record) -> Result<Relayed, ProxyError> {
        let Request { mut head, body, fault } = request;
        if let Some(fault) = fault {
            return Err(fault);
        }
        head::check(&head)?;
        if !record.take_place() {
            return Err(ProxyError::Overloaded);
        }
        let mut requested = Requested::parse(&head)?;
        let tag = Tag::take(&mut head.fields, &mut requested, &self.shared.settings.connection_headers)?;
        gate.check_browser(&head, &requested.form)?;
        let (permit, injection) = self.authorize(gate, &tag, &requested, record).await?;
        let switches = head::asks_for_websocket(&head);
        let nominated = head::clean_request(&mut head, permit.route().integration.forward_authorization);
        let deadlines = self.deadlines(&permit, &tag);
        let body = self.prepare_body(&injection, &mut head.fields, body, nominated, record).await?;
        let Destination { origin, path } = injection.apply(permit, &mut head.fields);
        let RequestHead { method, fields, .. } = head;
        let injected = Arc::clone(&injection) as Arc<dyn Injected>;
        let mut outgoing = Outgoing { method: method.clone(), path, fields, injected, body };
        record.sent();
        let mut exchange = Exchange::default();
        let sent = self.send(&origin, &mut outgoing, &deadlines, &mut exchange, switches).await;
        record.returned(&exchange);
        Ok(Relayed { answer: sent?, injection, method })
    }

    /// Admits a request and resolves its credential. Where the connection changes in between, it is admitted again: a
    /// credential is never used with the facts of another revision.
    async fn authorize(
        &self,
        gate: &Gate,
        tag: &Tag,
        requested: &Requested,
        record: &mut Record,
    ) -> Result<(Permit, Arc<Injection>), ProxyError> {
        let mut overtaken = None;
        for _ in 0..4 {
            let (kept, permit) = self.admit(gate, tag, requested, overtaken, record).await?;
            record.admitted(&permit);
            match self.shared.credentials.resolve(&kept, &permit).await {
                Ok(injection) => return Ok((permit, injection)),
                Err(ResolveError::Overtaken) => overtaken = Some(permit),
                Err(ResolveError::Missing(missing)) => return Err(ProxyError::Missing(missing)),
                Err(ResolveError::Vault(error)) => return Err(unavailable(&error)),
            }
        }
        Err(ProxyError::VaultUnavailable)
    }

    /// Everything that can refuse the request, in the order that CONTRACT gives, before a credential is opened.
    async fn admit(
        &self,
        gate: &Gate,
        tag: &Tag,
        requested: &Requested,
        overtaken: Option<Permit>,
        record: &mut Record,
    ) -> Result<(Rc<Kept<Injections>>, Permit), ProxyError> {
        let scope = gate.caller(tag)?;
        let reference =
            tag.connection.clone().or_else(|| scope.connection.clone()).ok_or(ProxyError::ConnectionMissing)?;
        record.asked(&reference, tag.workflow.clone());
        let environment = scope.environment(tag.environment.as_ref()).ok_or(ProxyError::EnvironmentNotPermitted)?;
        if tag.customer.as_ref().is_some_and(|customer| !scope.covers_customer(customer)) {
            return Err(ProxyError::ConnectionUnknown);
        }
        let name = Name { organization: scope.organization, customer: tag.customer.clone(), reference };
        let kept = self.shared.directory.route(&self.known, &name).await.map_err(|error| match error {
            LookupError::Unknown => ProxyError::ConnectionUnknown,
            LookupError::Broken(why) => ProxyError::Broken(why),
            LookupError::Vault(error) => unavailable(&error),
        })?;
        let aim = match (&requested.form, &tag.upstream) {
            (Form::Absolute(origin), _) => Aim::Forward { origin: origin.clone() },
            (Form::Origin, Some(origin)) => Aim::Origin(origin.clone()),
            (Form::Origin, None) => Aim::Base,
        };
        let rest = requested.rest.clone();
        let permit = kept.admit(scope, environment, &aim, rest, overtaken).map_err(|denied| match denied {
            Denied::OutOfScope => ProxyError::ConnectionUnknown,
            Denied::Host => ProxyError::HostNotAllowed,
            Denied::PathCredential => ProxyError::TargetInvalid(
                "this connection's credential is part of its base path: send the path below it",
            ),
            Denied::Limited(exceeded) => ProxyError::RateLimited(exceeded),
        })?;
        Ok((kept, permit))
    }

    /// The server's deadlines, the integration's where it has its own, and what the request shortens.
    fn deadlines(&self, permit: &Permit, tag: &Tag) -> Deadlines {
        let own = permit.route().integration.timeouts;
        let server = self.shared.settings.deadlines;
        let response = own.response.unwrap_or(server.response);
        Deadlines {
            connect: own.connect.unwrap_or(server.connect),
            response: tag.timeout.map_or(response, |timeout| timeout.min(response)),
            idle: own.idle.unwrap_or(server.idle),
        }
    }

    /// The body as it is streamed, or held in memory with the credential in it.
    async fn prepare_body(
        &self,
        injection: &Injection,
        fields: &mut Fields,
        body: Option<ClientBody>,
        nominated: Nominated,
        record: &Record,
    ) -> Result<Option<Box<dyn Source<Error = BoxError>>>, ProxyError> {
        let settings = &self.shared.settings;
        let streamed =
            |body, sieve| RequestBody::new(body, settings.body_idle_timeout, sieve, Rc::clone(record.request_bytes()));
        let Some(media) = injection.media() else {
            let Some(body) = body else { return Ok(None) };
            let sieve = TrailerSieve { forbidden: injection.header_names().chain(nominated).collect() };
            return Ok(Some(Box::new(streamed(body, sieve))));
        };
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
            Some(body) => Box::pin(streamed(body, TrailerSieve::default()).hold(settings.body_buffer)).await?,
            None => Vec::new(),
        };
        if !(of_media || held.is_empty()) {
            return Err(ProxyError::BodyUnsupported(format!("it must be {}", media.as_str())));
        }
        let filled =
            injection.fill_body(media, &held).map_err(|error| ProxyError::BodyUnsupported(error.to_string()))?;
        fields.drop_if(|line| line.known == Known::Trailer || line.known == Known::ContentType && !of_media);
        if !of_media {
            fields.push(b"content-type", media.as_str().as_bytes());
        }
        Ok(Some(Box::new(Held(Some(Bytes::from_owner(Zeroizing::new(filled)))))))
    }

    async fn send(
        &self,
        origin: &Origin,
        outgoing: &mut Outgoing,
        deadlines: &Deadlines,
        exchange: &mut Exchange,
        switches: bool,
    ) -> Result<upstream::Answer, ProxyError> {
        let sent = if switches {
            tunnel::switch(&mut outgoing.fields);
            Box::pin(self.upstream.send_upgrade(origin, outgoing, deadlines, exchange)).await
        } else {
            self.upstream.send(origin, outgoing, deadlines, exchange).await
        };
        sent.map_err(|error| match error {
            UpstreamError::RequestBody(source) => {
                source.downcast_ref().map_or(ProxyError::ClientGone, body::client_error)
            }
            other => ProxyError::Upstream(other),
        })
    }
}

/// Passes an upstream's answer on.
fn answer(relayed: Relayed, mut record: Record) -> Answer {
    let Relayed { answer, injection, method } = relayed;
    let status = answer.head.status;
    let mut fields = answer.head.fields;
    head::clean_answer(&mut fields, status, &method, &injection);
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

fn unavailable(error: &crate::vault::VaultError) -> ProxyError {
    tracing::error!(%error, "the vault could not be read");
    ProxyError::VaultUnavailable
}

/// Answers with a problem document.
fn refuse(error: &ProxyError, asked: Asked, mut record: Record) -> Answer {
    if matches!(error, ProxyError::Upstream(_) | ProxyError::Internal) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(request_id = record.request_id(), code = error.code(), %error, source, "a request failed");
    }
    let (mut parts, body) = error.answer(record.request_id(), asked).into_parts();
    record.answered(parts.status, Some(error.code()));
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
