//! Opening a connection: resolve, judge the addresses, dial one of them, make the handshake.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Settings;
use super::error::{DnsError, UpstreamError};
use super::guard::Guard;
use crate::clock::{Instant, timeout, timeout_at};
use crate::model::origin::{Host, Origin, Scheme};
use crate::tls::{Negotiated, Offer};
use crate::wire::Stream;

/// How long a dial may take, whenever it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialLimits {
    /// For resolving and connecting, waiting for a place to begin included.
    pub(super) connect: Duration,
    /// For the handshake.
    pub(super) tls: Duration,
}

impl DialLimits {
    /// The deadlines of a dial that begins now.
    pub(super) fn begin(self) -> DialDeadlines {
        DialDeadlines { connect_by: Instant::now() + self.connect, tls: self.tls }
    }
}

/// The deadlines of one dial.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialDeadlines {
    /// When resolving and connecting must be done.
    pub(super) connect_by: Instant,
    /// How long the handshake may take.
    pub(super) tls: Duration,
}

/// Opens a connection to `origin` and agrees on an HTTP version.
pub(super) async fn dial(
    settings: &Settings,
    origin: &Origin,
    offer: Offer,
    deadlines: DialDeadlines,
) -> Result<(Stream, Negotiated), UpstreamError> {
    let addresses = resolve(settings, origin, deadlines.connect_by).await?;
    let guard = Guard { allow_networks: &settings.allow_networks, own_listeners: &settings.own_listeners };
    let permitted: Vec<SocketAddr> = addresses.into_iter().filter(|address| guard.permits(*address)).collect();
    if permitted.is_empty() {
        return Err(UpstreamError::AddressProhibited);
    }
    let stream = connect_one_of(&permitted, deadlines.connect_by).await?;
    // Heads and small bodies go out in writes of their own; waiting to merge them would cost a round trip. Where this
    // fails the peer has hung up already, and what is tried next tells how.
    let _hung_up = stream.set_nodelay(true);
    match origin.scheme {
        Scheme::Http => Ok((Stream::Tcp(stream), Negotiated::Http1)),
        Scheme::Https => handshake(settings, origin, offer, stream, deadlines.tls).await,
    }
}

/// The addresses of an origin: its own literal, a pinned one, or what the resolver says. Not yet judged, not empty.
async fn resolve(settings: &Settings, origin: &Origin, connect_by: Instant) -> Result<Vec<SocketAddr>, UpstreamError> {
    let name = match &origin.host {
        Host::Address(ip) => return Ok(vec![SocketAddr::new(*ip, origin.port)]),
        Host::Name(name) => name,
    };
    if let Some(pinned) = settings.hosts.get(&**name) {
        return Ok(vec![*pinned]);
    }
    let limit = settings.resolve_timeout.min(connect_by.saturating_duration_since(Instant::now()));
    if limit.is_zero() {
        return Err(UpstreamError::Dns(DnsError::Timeout)); // not left to who is faster
    }
    let found = timeout(limit, settings.resolver.resolve(name, origin.port)).await;
    found.unwrap_or(Err(DnsError::Timeout)).map_err(UpstreamError::Dns)
}

/// Dials the addresses in turn. The time left is shared among those not yet tried, so that a first one that swallows
/// packets does not use up the chance of the second.
async fn connect_one_of(addresses: &[SocketAddr], connect_by: Instant) -> Result<TcpStream, UpstreamError> {
    let mut failure = UpstreamError::ConnectTimeout;
    for (tried, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let left = connect_by.saturating_duration_since(now);
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = UpstreamError::Refused(error.to_string()),
            Err(_) => failure = UpstreamError::ConnectTimeout,
        }
    }
    Err(failure)
}

async fn handshake(
    settings: &Settings,
    origin: &Origin,
    offer: Offer,
    stream: TcpStream,
    limit: Duration,
) -> Result<(Stream, Negotiated), UpstreamError> {
    let literal;
    let name = match &origin.host {
        Host::Name(name) => &**name,
        Host::Address(ip) => {
            literal = ip.to_string();
            &literal
        }
    };
    let (stream, agreed) = timeout(limit, settings.tls.connect(stream, name, offer))
        .await
        .map_err(|_| UpstreamError::TlsTimeout)?
        .map_err(UpstreamError::Tls)?;
    Ok((Stream::Verified(Box::new(stream)), agreed))
}
