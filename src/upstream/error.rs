//! Why an exchange with an upstream failed, and what is worth saying about one.
//!
//! The enum is closed: whoever answers the caller matches it once. Messages name what happened and never quote a query,
//! a header value or a body.

use std::error::Error;
use std::time::Duration;

use crate::tls::HandshakeError;

/// A boxed cause, as hyper and `http_body` hand them on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why an upstream gave no (complete) response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The name has no address, or the resolver did not say in time.
    #[error("the upstream's name does not resolve: {0}")]
    Dns(DnsError),
    /// No address of the host may be dialled.
    #[error("the upstream's address may not be dialled")]
    AddressProhibited,
    /// No connection in time, waiting for one to become free included.
    #[error("no connection to the upstream in time")]
    ConnectTimeout,
    /// The address does not take connections or cannot be reached.
    #[error("the upstream does not take connections: {0}")]
    Refused(String),
    /// The TLS handshake took too long.
    #[error("the TLS handshake with the upstream took too long")]
    TlsTimeout,
    /// The TLS handshake failed.
    #[error("no verified TLS with the upstream: {0}")]
    Tls(#[source] HandshakeError),
    /// The request was sent completely and no response head came in time.
    #[error("no response from the upstream in time")]
    ResponseTimeout,
    /// In the middle of a body nothing moved for too long: the upstream sent nothing more, or took nothing more.
    #[error("the upstream stopped in the middle of a message")]
    IdleTimeout,
    /// The connection ended before a full response head. Whether the request took effect is not known.
    #[error("the upstream closed the connection before it answered: {0}")]
    Closed(String),
    /// The response is not HTTP as it should be.
    #[error("the upstream's response is malformed: {0}")]
    Malformed(String),
    /// The body of the request failed at its source: the caller's side, not the upstream's.
    #[error("the request body failed at its source")]
    RequestBody(#[source] BoxError),
    /// The response body ended before its end.
    #[error("the upstream's response body was cut off: {0}")]
    Body(String),
    /// The request is one that is never sent (TRACE, CONNECT) or cannot be written. Nothing was dialled.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The resolver did not answer in time.
    #[error("the resolver did not answer in time")]
    Timeout,
    /// The resolver answered with an error, such as "no such name".
    #[error("{0}")]
    Failed(String),
    /// The name exists and has no address.
    #[error("it has no address")]
    NoAddress,
}

/// What happened on the way of one request, whether it ended well or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// How often the request was given to a connection: 0 if none could be had, 2 if it was sent again.
    pub attempts: u8,
    /// Whether the last connection had served a request before.
    pub reused: bool,
    /// How long the last connection took from the look-up to the handshake's end; `None` if it was reused.
    pub connected_in: Option<Duration>,
}
