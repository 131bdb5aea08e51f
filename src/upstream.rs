//! Sending a request to an upstream: pooled HTTP/1.1 and HTTP/2 over verified TLS, at addresses that may be dialled.
//!
//! One [`Upstream`] for each worker thread; nothing here is shared between threads but the [`Settings`]. It lives on a
//! local runtime: connections are driven by local tasks. It decides nothing about credentials and knows no caller; it takes
//! a request as it is to be and an origin that is already allowed, and refuses addresses that nobody may reach.
//!
//! A request is sent once. It is sent again by itself one time only, on a connection that had been used before, and only
//! if it cannot have had an effect or may have it twice: see [`Upstream::send`]. Environment variables that name a proxy
//! are not looked at.

mod body;
mod connect;
mod connection;
mod error;
mod flight;
mod guard;
mod http1;
mod http2;
pub mod outbound;
mod pool;
mod resolve;
mod traffic;
mod upload;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use tokio::task::{AbortHandle, spawn_local};
use zeroize::Zeroizing;

pub use crate::tls::HandshakeError;
pub use body::UpstreamBody;
pub use error::{BoxError, DnsError, Exchange, UpstreamError};
pub use http1::Switched;
pub use resolve::Resolver;

use crate::clock::{Instant, MissedTickBehavior, interval};
use crate::model::header::Known;
use crate::model::origin::Origin;
use crate::tls::{ClientTls, Negotiated, Offer};
use crate::wire::body::write_length;
use crate::wire::{Encoder, Fields, ResponseHead, Size, Source};
use connect::{DialLimits, dial};
use http1::{Came, Failed, Http1};
use pool::{Kept, Lease, Leased, Pool};

/// How upstreams are reached; the same for all workers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Until a connection is there: waiting for a place in the pool, resolving and connecting together.
    pub connect_timeout: Duration,
    /// For the TLS handshake.
    pub tls_timeout: Duration,
    /// For the resolver, within `connect_timeout`.
    pub resolve_timeout: Duration,
    /// From the moment the request is sent until the response head.
    pub response_timeout: Duration,
    /// While nothing moves in the middle of a body.
    pub idle_timeout: Duration,
    /// How long a connection is kept without a request.
    pub pool_idle_timeout: Duration,
    /// How old a connection may be to get a new request.
    pub pool_max_age: Duration,
    /// How many idle HTTP/1.1 connections are kept for an origin by each worker.
    pub pool_max_idle_per_host: usize,
    /// Names (in lower case) that are not resolved but found here, with the port to dial. Judged like any address.
    pub hosts: HashMap<String, SocketAddr>,
    /// Networks that may be dialled although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// Where Sidekey listens itself; never dialled.
    pub own_listeners: Vec<SocketAddr>,
    /// Whom to trust.
    pub tls: ClientTls,
    /// Who knows the addresses of other names.
    pub resolver: Resolver,
}

/// The deadlines of one request, each already the shortest that applies.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Until a connection is there; see [`Settings::connect_timeout`].
    pub connect: Duration,
    /// Until the response head, counted from the end of the request.
    pub response: Duration,
    /// While nothing moves in the middle of a body.
    pub idle: Duration,
}

impl From<&Settings> for Deadlines {
    fn from(settings: &Settings) -> Self {
        Deadlines {
            connect: settings.connect_timeout,
            response: settings.response_timeout,
            idle: settings.idle_timeout,
        }
    }
}

/// The way to all upstreams from one worker thread. Dropping it closes what is idle; responses being read go on.
pub struct Upstream {
    settings: Arc<Settings>,
    pool: Rc<Pool>,
    sweeper: AbortHandle,
}

impl Upstream {
    /// Makes an empty pool and starts the task that clears it. Needs to be called on a local runtime.
    pub fn new(settings: Arc<Settings>) -> Self {
        let pool = Rc::new(Pool::default());
        let sweeper = spawn_local(sweep(Rc::clone(&pool), settings.pool_idle_timeout)).abort_handle();
        Upstream { settings, pool, sweeper }
    }

    /// Sends a request and gives the response as soon as its head is there. What happened on the way is written into
    /// `record`, also where there is no response.
    ///
    /// `request` has its method, path and fields as they are to arrive, byte for byte (its body is taken); `Host` (or `:scheme` and
    /// `:authority`) is the origin's, and the framing is the body's. The body must bound the time it takes to give its
    /// next piece: while it has nothing, no deadline of ours runs.
    ///
    /// On a connection that had served a request before, it is sent once more, on another connection, if nothing of it
    /// was written, or if it has no body, its method is idempotent (GET, HEAD, OPTIONS, PUT, DELETE) and nothing
    /// was answered; over HTTP/2 only if the peer says that it did not process the stream.
    pub async fn send(
        &self,
        origin: &Origin,
        request: &mut Outgoing,
        deadlines: &Deadlines,
        record: &mut Exchange,
    ) -> Result<Answer, UpstreamError> {
        request.check()?;
        let destination = self.pool.destination(origin, &self.settings)?;
        let (mut kept, mut staged) = (Kept::Any, None);
        loop {
            let leased = destination.lease(self.dial_limits(deadlines), kept).await?;
            note(record, &leased);
            let outcome = match leased.lease {
                Lease::Http1(connection) => {
                    let (staged, came) =
                        (staged.take(), Came { reused: leased.reused, is_watched: leased.reused, at: leased.at });
                    let purpose = Purpose::Exchange;
                    http1::attempt(connection, &destination, request, staged, deadlines, purpose, came).await
                }
                // What is staged cannot be taken apart again, and without it the body would begin in its middle.
                Lease::Http2(_) if staged.as_ref().is_some_and(|staged| staged.holds_body) => {
                    return Err(UpstreamError::Closed(
                        "before it took the request, and has changed its protocol".into(),
                    ));
                }
                Lease::Http2(slot) => {
                    Box::pin(http2::attempt(&destination, slot, request, deadlines, leased.reused)).await
                }
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(Failed::Again(rest)) if record.attempts == 1 => {
                    staged = rest;
                    kept = Kept::NoIdle;
                }
                Err(Failed::Again(_)) => {
                    return Err(UpstreamError::Closed("twice before it took the request".into()));
                }
                Err(Failed::Finally(error)) => return Err(error),
            }
        }
    }

    /// Sends a request that asks to leave HTTP (WebSocket), on a connection of its own that offers HTTP/1.1 only. The
    /// request brings its `Connection` and `Upgrade` fields. A `101` comes with the stream; any other response is as from
    /// [`Upstream::send`]. Never sent again.
    pub async fn send_upgrade(
        &self,
        origin: &Origin,
        request: &mut Outgoing,
        deadlines: &Deadlines,
        record: &mut Exchange,
    ) -> Result<Answer, UpstreamError> {
        request.check()?;
        let destination = self.pool.destination(origin, &self.settings)?;
        let start = Instant::now();
        let dialling = dial(&self.settings, origin, Offer::Http1, self.dial_limits(deadlines).begin());
        let (stream, agreed) = Box::pin(dialling).await?;
        if agreed != Negotiated::Http1 {
            return Err(UpstreamError::Malformed("a protocol nobody offered".into()));
        }
        *record = Exchange { attempts: 1, reused: false, connected_in: Some(start.elapsed()) };
        let connection = Http1::new(stream, self.settings.pool_max_age);
        let (purpose, came) = (Purpose::Upgrade, Came { reused: false, is_watched: false, at: Instant::now() });
        match http1::attempt(connection, &destination, request, None, deadlines, purpose, came).await {
            Ok(answer) => Ok(answer),
            Err(Failed::Again(_)) => Err(UpstreamError::Closed("before it took the request".into())),
            Err(Failed::Finally(error)) => Err(error),
        }
    }

    /// Opens a connection to an origin as a request would and drops it: whether it could be reached. Nothing is sent but
    /// what the handshake needs.
    pub async fn reach(&self, origin: &Origin) -> Result<(), UpstreamError> {
        let deadlines = self.dial_limits(&Deadlines::from(&*self.settings)).begin();
        dial(&self.settings, origin, Offer::Http2OrHttp1, deadlines).await.map(drop)
    }

    fn dial_limits(&self, deadlines: &Deadlines) -> DialLimits {
        // A handshake longer than the whole wait for a response makes no sense.
        DialLimits { connect: deadlines.connect, tls: self.settings.tls_timeout.min(deadlines.response) }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

fn note(record: &mut Exchange, leased: &Leased) {
    record.attempts += 1;
    record.reused = leased.reused;
    record.connected_in = leased.connected_in;
}

/// What is wanted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A response.
    Exchange,
    /// To leave HTTP with a `101`.
    Upgrade,
}

/// Fields that many requests share, rendered once for either version of HTTP.
pub trait Injected {
    /// As lines of HTTP/1.1, each with its line break.
    fn lines(&self) -> &[u8];
    /// As names and values, the values marked as sensitive.
    fn headers(&self) -> &[(HeaderName, HeaderValue)];
}

/// Nothing.
impl Injected for () {
    fn lines(&self) -> &[u8] {
        &[]
    }

    fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &[]
    }
}

/// A request as it is to arrive.
pub struct Outgoing {
    /// Neither TRACE, which would show the credential to whoever reads the answer, nor CONNECT, which would make the
    /// connection a tunnel.
    pub method: Method,
    /// Path and query. They may hold a credential.
    pub path: Zeroizing<String>,
    /// Its fields, without `Host`, `Content-Length` and those that belong to a connection (but for `Connection` and
    /// `Upgrade` of [`Upstream::send_upgrade`]).
    pub fields: Fields,
    /// Fields that hold a credential, behind the others.
    pub injected: Arc<dyn Injected>,
    /// `None` where it has no body.
    pub body: Option<Box<dyn Source<Error = BoxError>>>,
}

impl Outgoing {
    fn check(&self) -> Result<(), UpstreamError> {
        if matches!(self.method, Method::TRACE | Method::CONNECT) {
            return Err(UpstreamError::Unsendable("its method is not sent upstream"));
        }
        if !self.path.starts_with('/') {
            return Err(UpstreamError::Unsendable("it has no path"));
        }
        Ok(())
    }

    /// What `Content-Length` says: what the body says of itself. Two lengths for one message would let one message end
    /// where another begins.
    fn length(&self) -> Option<u64> {
        let expected = matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        match self.body.as_ref().map(|body| body.size()) {
            Some(Size::Exact(length)) => Some(length),
            Some(Size::Open) => None,
            None => expected.then_some(0),
        }
    }

    /// Writes the head as HTTP/1.1 has it.
    fn render(&self, authority: &str, encoder: Encoder, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.path.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(authority.as_bytes());
        out.extend_from_slice(b"\r\n");
        self.fields.render(out);
        out.extend_from_slice(self.injected.lines());
        // RFC 9110 §10.1.4: what `TE` says is for this hop.
        if self.fields.has(Known::Te) {
            out.extend_from_slice(b"connection: te\r\n");
        }
        if let Some(length) = self.length() {
            write_length(out, length);
        }
        if encoder == Encoder::Chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A response of an upstream.
pub struct Answer {
    /// Its head, as it came. What frames the body, `Content-Length` apart, means nothing for whoever passes it on.
    pub head: ResponseHead,
    /// Its body.
    pub body: UpstreamBody,
    /// The stream, where the response was a `101` that was asked for.
    pub switched: Option<Box<Switched>>,
}

/// Clears the pool now and then, traffic or not.
async fn sweep(pool: Rc<Pool>, idle_timeout: Duration) {
    let period = (idle_timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(15));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pool.sweep();
    }
}

#[cfg(test)]
mod tests;
