//! The data plane: [`Proxy::handle`], the life of a request. Read this first.
//!
//! A request is tagged, admitted, given its credential, sent, and its answer streamed back. Everything that can refuse
//! it comes before a credential is opened, and the credential comes last, so that nothing in the request can remove,
//! duplicate or shadow it. `handle` cannot fail: every way to stop is one [`ProxyError`] and becomes an answer.

pub mod body;
pub mod error;
pub mod gate;
pub mod head;
pub mod record;
pub mod tag;
pub mod target;
mod tunnel;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRAILER};
use http::request::Parts;
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::task::TaskTracker;

use crate::credentials::apply::Destination;
use crate::credentials::{Credentials, Injection, Injections, Local, ResolveError};
use crate::directory::{Aim, Denied, Directory, Kept, LookupError, Name, Permit};
use crate::upstream::{Deadlines, Exchange, Upstream, UpstreamError};

use body::{AnswerBody, RequestBody, TrailerSieve};
pub use error::{Asked, ProxyError};
use gate::Gate;
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
    tunnels: TaskTracker,
}

/// An upstream's answer, or the two ends of a tunnel that begins with it.
struct Relayed {
    response: Response<crate::upstream::UpstreamBody>,
    injection: Arc<Injection>,
    client: Option<OnUpgrade>,
}

impl Proxy {
    /// A worker's data plane; call it on the worker's local runtime. WebSockets live in tasks of `tunnels`.
    pub fn new(shared: Arc<Shared>, upstream: Upstream, reporter: Rc<Reporter>, tunnels: TaskTracker) -> Self {
        let known = shared.directory.table();
        Proxy { shared, upstream, known, reporter, tunnels }
    }

    /// Forgets what was not used lately.
    pub fn sweep(&self) {
        self.known.sweep();
    }

    /// Answers a request that came in at a listener with this gate. Cannot fail, and a panic costs one request.
    pub async fn handle(&self, gate: &Gate, request: Request<Incoming>) -> Response<AnswerBody> {
        let mut record = Record::begin(Rc::clone(&self.reporter), request.method().clone());
        let version = request.version();
        let is_absolute = version != Version::HTTP_2 && request.uri().scheme().is_some();
        let asked = if is_absolute { Asked::AsProxy } else { Asked::Directly };
        let relayed = caught(self.boxed_relay(gate, request, &mut record)).await;
        let outcome = relayed.unwrap_or(Err(ProxyError::Internal));
        match outcome {
            Ok(relayed) => self.answer(relayed, record),
            Err(error) => refuse(&error, asked, version, record),
        }
    }

    /// [`relay`](Self::relay) on the heap: hyper moves the future of a request about, and this one is large.
    fn boxed_relay<'a>(
        &'a self,
        gate: &'a Gate,
        request: Request<Incoming>,
        record: &'a mut Record,
    ) -> Pin<Box<impl Future<Output = Result<Relayed, ProxyError>> + 'a>> {
        Box::pin(self.relay(gate, request, record))
    }

    async fn relay(&self, gate: &Gate, request: Request<Incoming>, record: &mut Record) -> Result<Relayed, ProxyError> {
        let (mut parts, body) = request.into_parts();
        head::check(&parts)?;
        let mut requested = Requested::parse(&parts.uri, parts.version)?;
        let tag = Tag::take(&mut parts.headers, &mut requested, &self.shared.settings.connection_headers)?;
        gate.check_browser(&parts.headers, parts.uri.authority().map(|a| a.as_str()), &requested.form)?;
        let (permit, injection) = self.authorize(gate, &tag, &requested, record).await?;
        let wants_websocket = head::asks_for_websocket(&parts);
        let client = parts.extensions.remove::<OnUpgrade>().filter(|_| wants_websocket);
        let nominated = head::clean_request(&mut parts, permit.route().integration.forward_authorization);
        let deadlines = self.deadlines(&permit, &tag);
        let sieve = TrailerSieve { forbidden: injection.header_names().chain(nominated).collect() };
        let body = self.prepare_body(&injection, &mut parts.headers, body, sieve, record).await?;
        let destination = injection.apply(permit, &mut parts.headers);
        record.sent();
        let mut exchange = Exchange::default();
        let sent = self.send(destination, parts, body, &deadlines, &mut exchange, client.is_some()).await;
        record.returned(&exchange);
        Ok(Relayed { response: sent?, injection, client })
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
        for _overtaken in 0..4 {
            let (kept, permit) = self.admit(gate, tag, requested, record).await?;
            record.admitted(&permit);
            match self.shared.credentials.resolve(&kept, &permit).await {
                Ok(injection) => return Ok((permit, injection)),
                Err(ResolveError::Overtaken) => {}
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
        let permit = kept.admit(scope, environment, &aim, requested.rest.clone()).map_err(|denied| match denied {
            Denied::OutOfScope => ProxyError::ConnectionUnknown,
            Denied::Host => ProxyError::HostNotAllowed,
            Denied::PathCredential => ProxyError::TargetInvalid(
                "this connection's credential is part of its base path: send the path below it",
            ),
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
        headers: &mut HeaderMap,
        body: Incoming,
        sieve: TrailerSieve,
        record: &Record,
    ) -> Result<RequestBody, ProxyError> {
        let settings = &self.shared.settings;
        let count = Rc::clone(record.request_bytes());
        let Some(media) = injection.media() else {
            return Ok(RequestBody::stream(body, settings.body_idle_timeout, sieve, count));
        };
        let unsupported = |why: &str| ProxyError::BodyUnsupported(why.to_owned());
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(unsupported("a compressed body cannot take it; send it uncompressed"));
        }
        if head::describes_body_ambiguously(headers) {
            return Err(unsupported("its media type must be named once, in Content-Type"));
        }
        let is_empty = body.is_end_stream();
        let of_media =
            headers.get(CONTENT_TYPE).is_some_and(|value| value.to_str().is_ok_and(|text| media.matches(text)));
        let held = Box::pin(body::hold(body, settings.body_buffer, settings.body_idle_timeout, &count)).await?;
        if !(of_media || is_empty || held.is_empty()) {
            return Err(ProxyError::BodyUnsupported(format!("it must be {}", media.as_str())));
        }
        let filled =
            injection.fill_body(media, &held).map_err(|error| ProxyError::BodyUnsupported(error.to_string()))?;
        headers.remove(TRAILER);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(filled.len()));
        if !of_media {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.as_str()));
        }
        Ok(RequestBody::Held(Some(Bytes::from_owner(zeroize::Zeroizing::new(filled)))))
    }

    async fn send(
        &self,
        destination: Destination,
        parts: Parts,
        body: RequestBody,
        deadlines: &Deadlines,
        exchange: &mut Exchange,
        upgrade: bool,
    ) -> Result<Response<crate::upstream::UpstreamBody>, ProxyError> {
        let invalid = |_| ProxyError::TargetInvalid("the target holds characters that cannot be forwarded");
        let uri: Uri = destination.path.as_str().parse().map_err(invalid)?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.headers;
        let sent = if upgrade {
            tunnel::switch(request.headers_mut());
            Box::pin(self.upstream.send_upgrade(&destination.origin, request, deadlines, exchange)).await
        } else {
            self.upstream.send(&destination.origin, request, deadlines, exchange).await
        };
        sent.map_err(|error| match error {
            UpstreamError::RequestBody(source) => body::client_error(&source),
            other => ProxyError::Upstream(other),
        })
    }

    /// Passes an upstream's answer on.
    fn answer(&self, relayed: Relayed, mut record: Record) -> Response<AnswerBody> {
        let Relayed { response, injection, client } = relayed;
        let (mut parts, body) = response.into_parts();
        head::clean_answer(&mut parts.headers, &injection);
        record.answered(parts.status, None);
        let upstream = parts.extensions.remove::<OnUpgrade>();
        // What a connection of ours knows of the upstream's is nothing to the client's.
        parts.extensions.clear();
        parts.version = Version::default();
        if let (Some(client), Some(upstream), http::StatusCode::SWITCHING_PROTOCOLS) = (client, upstream, parts.status)
        {
            tunnel::switch(&mut parts.headers);
            record.completed();
            let idle = self.shared.settings.tunnel_idle_timeout;
            self.tunnels.spawn_local(tunnel::join(client, upstream, idle, record));
            return Response::from_parts(parts, AnswerBody::empty());
        }
        Response::from_parts(parts, AnswerBody::upstream(body, record))
    }
}

fn unavailable(error: &crate::vault::VaultError) -> ProxyError {
    tracing::error!(%error, "the vault could not be read");
    ProxyError::VaultUnavailable
}

/// Answers with a problem document.
fn refuse(error: &ProxyError, asked: Asked, version: Version, mut record: Record) -> Response<AnswerBody> {
    if matches!(error, ProxyError::Upstream(_) | ProxyError::Internal) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(request_id = record.request_id(), code = error.code(), %error, source, "a request failed");
    }
    let (mut parts, body) = error.answer(record.request_id(), asked).into_parts();
    record.answered(parts.status, Some(error.code()));
    if version == Version::HTTP_2 {
        parts.headers.remove(http::header::CONNECTION);
    }
    Response::from_parts(parts, AnswerBody::own(body, record))
}

/// Runs a future and catches its panic: a defect costs one request and not the connection, the worker or the process.
async fn caught<F: Future>(mut future: Pin<Box<F>>) -> Option<F::Output> {
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
        assert!(caught(Box::pin(async { panic!("a defect") })).await.is_none());
        assert_eq!(caught(Box::pin(async { 7 })).await, Some(7));
    }
}
