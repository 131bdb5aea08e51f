//! Sending a request to an upstream: pooled HTTP/1.1 and HTTP/2 over verified TLS, at addresses that may be dialled.
//!
//! One [`Upstream`] for each worker thread; nothing here is shared between threads but the [`Settings`]. It lives on a
//! `LocalSet`: connections are driven by local tasks. It decides nothing about credentials and knows no caller; it takes
//! a request as it is to be and an origin that is already allowed, and refuses addresses that nobody may reach.
//!
//! A request is sent once. It is sent again by itself one time only, on a connection that had been used before, and only
//! if it cannot have had an effect or may have it twice: see [`Upstream::send`]. Environment variables that name a proxy
//! are not looked at.

mod body;
mod connect;
mod connection;
mod error;
mod guard;
mod pool;
mod send;
mod upload;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use ipnet::IpNet;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use crate::tls::HandshakeError;
pub use body::UpstreamBody;
pub use error::{BoxError, DnsError, Exchange, UpstreamError};

use crate::model::origin::Origin;
use crate::tls::{ClientTls, Negotiated, Offer};
use connect::{DialDeadlines, dial};
use connection::Http1;
use pool::{Kept, Lease, Leased, Pool};
use send::{Failed, Message, Purpose, attempt};
use upload::WireBody;

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
    /// Makes an empty pool and starts the task that clears it. Needs to be called on a `LocalSet`.
    pub fn new(settings: Arc<Settings>) -> Self {
        let pool = Rc::new(Pool::default());
        let sweeper = spawn_local(sweep(Rc::clone(&pool), settings.pool_idle_timeout)).abort_handle();
        Upstream { settings, pool, sweeper }
    }

    /// Sends a request and gives the response as soon as its head is there. What happened on the way is written into
    /// `record`, also where there is no response.
    ///
    /// `request` has its method, its fields without `Host`, and a URI of path and query only; these arrive byte for
    /// byte. Fields that belong to a connection are taken out, `Host` (or `:scheme` and `:authority`) is the origin's,
    /// and the framing is the body's. The body must bound the time it takes to give its next frame: while it has
    /// nothing, no deadline of ours runs.
    ///
    /// On a connection that had served a request before, it is sent once more, on another connection, if nothing of it
    /// was written, or if it has no body, its method is idempotent (GET, HEAD, OPTIONS, PUT, DELETE) and nothing
    /// was answered; over HTTP/2 only if the peer says that it did not process the stream.
    pub async fn send<B>(
        &self,
        origin: &Origin,
        request: Request<B>,
        deadlines: &Deadlines,
        record: &mut Exchange,
    ) -> Result<Response<UpstreamBody>, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut message, upload) = open(request)?;
        let destination = self.pool.destination(origin, &self.settings)?;
        let mut kept = Kept::Any;
        loop {
            let leased = destination.lease(self.dial_deadlines(deadlines), kept).await?;
            note(record, &leased);
            match attempt(&destination, leased, message, upload.as_ref(), deadlines, Purpose::Exchange).await {
                Ok(response) => return Ok(response),
                Err(Failed::Again(again)) if record.attempts == 1 => {
                    message = again;
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
    /// request brings its `Connection` and `Upgrade` fields; all its fields are sent as they are. A `101` carries
    /// `hyper::upgrade::OnUpgrade` in its extensions; any other response is as from [`Upstream::send`]. Never sent again.
    pub async fn send_upgrade<B>(
        &self,
        origin: &Origin,
        request: Request<B>,
        deadlines: &Deadlines,
        record: &mut Exchange,
    ) -> Result<Response<UpstreamBody>, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (message, upload) = open(request)?;
        let destination = self.pool.destination(origin, &self.settings)?;
        let start = Instant::now();
        let dialling = dial(&self.settings, origin, Offer::Http1, self.dial_deadlines(deadlines));
        let (wire, agreed) = Box::pin(dialling).await?;
        if agreed != Negotiated::Http1 {
            return Err(UpstreamError::Malformed("a protocol nobody offered".into()));
        }
        let lease = Lease::Http1(Http1::start_upgradable(wire).await?);
        let leased = Leased { lease, reused: false, connected_in: Some(start.elapsed()) };
        note(record, &leased);
        match attempt(&destination, leased, message, upload.as_ref(), deadlines, Purpose::Upgrade).await {
            Ok(response) => Ok(response),
            Err(Failed::Again(_)) => Err(UpstreamError::Closed("before it took the request".into())),
            Err(Failed::Finally(error)) => Err(error),
        }
    }

    /// Opens a connection to an origin as a request would and drops it: whether it could be reached. Nothing is sent but
    /// what the handshake needs.
    pub async fn reach(&self, origin: &Origin) -> Result<(), UpstreamError> {
        let deadlines = self.dial_deadlines(&Deadlines::from(&*self.settings));
        dial(&self.settings, origin, Offer::Http2OrHttp1, deadlines).await.map(drop)
    }

    fn dial_deadlines(&self, deadlines: &Deadlines) -> DialDeadlines {
        DialDeadlines {
            connect_by: Instant::now() + deadlines.connect,
            // A handshake longer than the whole wait for a response makes no sense.
            tls: self.settings.tls_timeout.min(deadlines.response),
        }
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

type Opened = (Message, Option<Arc<upload::Upload>>);

/// Takes a request apart, unless it is one that is never sent: TRACE would show the credential to whoever reads the
/// answer, CONNECT would make the connection a tunnel.
fn open<B>(request: Request<B>) -> Result<Opened, UpstreamError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    if matches!(parts.method, Method::TRACE | Method::CONNECT) {
        return Err(UpstreamError::Unsendable("its method is not sent upstream"));
    }
    let target = parts.uri.into_parts().path_and_query.ok_or(UpstreamError::Unsendable("it has no path"))?;
    let (body, upload) = WireBody::new(body);
    Ok((Message { method: parts.method, target, headers: parts.headers, body }, upload))
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
