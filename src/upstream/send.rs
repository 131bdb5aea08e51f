//! One request on one connection: written as the protocol wants it, awaited with deadlines, judged when it fails.
//!
//! Whether a request may be sent again is decided here and nowhere else. hyper hands back a message it has not begun to
//! write; everything else is judged by the bytes that went through the connection.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::{Instant, sleep_until};

use super::Deadlines;
use super::body::{Flight, UpstreamBody};
use super::connection::{Http1, Http2};
use super::error::UpstreamError;
use super::pool::{Destination, Lease, Leased};
use super::upload::{Progress, Upload, WireBody};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What the caller wants of the connection afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A response.
    Exchange,
    /// To leave HTTP with a `101`.
    Upgrade,
}

/// A request not yet in the form of a protocol.
pub(super) struct Message {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) body: WireBody,
}

/// Why an attempt gave no response.
pub(super) enum Failed {
    /// The request had no effect, and here it is: it may be sent once more.
    Again(Message),
    /// It stays failed.
    Finally(UpstreamError),
}

impl Message {
    /// The same request again, for one without a body.
    fn copy(&self) -> Self {
        Message {
            method: self.method.clone(),
            target: self.target.clone(),
            headers: self.headers.clone(),
            body: WireBody::empty(),
        }
    }

    fn into_http1(mut self, destination: &Destination, purpose: Purpose) -> Request<WireBody> {
        if purpose == Purpose::Exchange {
            strip_connection_fields(&mut self.headers);
        }
        if frame_by_length(&mut self.headers, &self.method, &self.body) == Framing::Open {
            self.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        self.headers.insert(HOST, destination.host_header.clone());
        self.into_request(Uri::from, Version::HTTP_11)
    }

    fn into_http2(mut self, destination: &Destination) -> Request<WireBody> {
        if strip_connection_fields(&mut self.headers) == Trailers::Wanted {
            self.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        self.headers.remove(HOST);
        frame_by_length(&mut self.headers, &self.method, &self.body);
        let full = |target: PathAndQuery| {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(destination.uri_scheme());
            parts.authority = Some(destination.authority.clone());
            parts.path_and_query = Some(target);
            // All three are there and each is valid by its type; that is all a URI asks for.
            Uri::from_parts(parts).unwrap_or_default()
        };
        self.into_request(full, Version::HTTP_2)
    }

    fn into_request(self, uri: impl FnOnce(PathAndQuery) -> Uri, version: Version) -> Request<WireBody> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = uri(self.target);
        *request.version_mut() = version;
        *request.headers_mut() = self.headers;
        request
    }

    /// What hyper handed back unsent.
    fn from_request(request: Request<WireBody>) -> Self {
        let (parts, body) = request.into_parts();
        let target = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Message { method: parts.method, target, headers: parts.headers, body }
    }
}

#[derive(PartialEq, Eq)]
enum Trailers {
    Wanted,
    NotWanted,
}

/// Takes out what belongs to a connection (RFC 9110 §7.6.1), whatever the caller left in.
fn strip_connection_fields(headers: &mut HeaderMap) -> Trailers {
    let trailers = headers.remove(TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if trailers { Trailers::Wanted } else { Trailers::NotWanted }
}

#[derive(PartialEq, Eq)]
enum Framing {
    Length,
    Open,
}

/// Makes `Content-Length` say what the body says of itself. Two lengths for one message would let one message end where
/// another begins.
fn frame_by_length(headers: &mut HeaderMap, method: &Method, body: &WireBody) -> Framing {
    let known = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let Some(length) = known else {
        return if headers.contains_key(CONTENT_LENGTH) { Framing::Length } else { Framing::Open };
    };
    let expected = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    if length > 0 || expected || headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Framing::Length
}

/// Sends `message` on a leased connection and waits for the response head.
pub(super) async fn attempt(
    destination: &Rc<Destination>,
    leased: Leased,
    message: Message,
    upload: Option<&Arc<Upload>>,
    deadlines: &Deadlines,
    purpose: Purpose,
) -> Result<Response<UpstreamBody>, Failed> {
    let copy = (leased.reused && upload.is_none()).then(|| message.copy());
    let home = (purpose == Purpose::Exchange).then(|| Rc::clone(destination));
    let mut flight = Flight::new(leased.lease, home, upload.cloned());
    let read_before = flight.bytes_read();
    let outcome = match flight.lease() {
        Some(Lease::Http1(connection)) => {
            let request = message.into_http1(destination, purpose);
            over_http1(connection, request, upload, deadlines).await
        }
        Some(Lease::Http2(slot)) => {
            let request = message.into_http2(destination);
            over_http2(slot.connection(), request, upload, deadlines).await
        }
        None => return Err(Failed::Finally(UpstreamError::Closed("no connection".into()))),
    };
    let failed = match outcome {
        Ok(response) => return accept(response, flight, deadlines, purpose).map_err(Failed::Finally),
        Err(Unanswered::Deadline(error)) => {
            flight.suspect(read_before);
            Failed::Finally(error)
        }
        Err(Unanswered::Error(error, safety)) => {
            let copy = copy.filter(|_| safety == Safety::Repeatable);
            judge(*error, copy, leased.reused, upload)
        }
    };
    if matches!(failed, Failed::Again(_)) {
        flight.upload = None; // The body goes on in another flight: it is not to be cancelled with this one.
    }
    Err(failed)
}

async fn over_http1(
    connection: &mut Http1,
    request: Request<WireBody>,
    upload: Option<&Arc<Upload>>,
    deadlines: &Deadlines,
) -> Result<Response<Incoming>, Unanswered> {
    let idempotent = is_idempotent(request.method());
    let (read, written) = (connection.traffic.read(), connection.traffic.written());
    let response = connection.sender.try_send_request(request);
    await_head(response, upload, deadlines).await.map_err(|error| {
        let unwritten = connection.traffic.written() == written;
        let unanswered = connection.traffic.read() == read;
        error.judged(|_| unwritten || (unanswered && idempotent))
    })
}

async fn over_http2(
    connection: &Http2,
    request: Request<WireBody>,
    upload: Option<&Arc<Upload>>,
    deadlines: &Deadlines,
) -> Result<Response<Incoming>, Unanswered> {
    let response = connection.sender.clone().try_send_request(request);
    await_head(response, upload, deadlines).await.map_err(|error| {
        error.judged(|error| {
            drain_after(error, connection);
            was_not_processed(error)
        })
    })
}

/// RFC 9110 §9.2.2, of those that are sent at all.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// Why there is no response head.
enum Unanswered {
    Deadline(UpstreamError),
    Error(Box<TrySendError<Request<WireBody>>>, Safety),
}

/// Whether a request whose message hyper did not hand back may be sent again, provided it has no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safety {
    Repeatable,
    Unknown,
}

impl Unanswered {
    fn judged(self, is_repeatable: impl FnOnce(&hyper::Error) -> bool) -> Self {
        match self {
            Unanswered::Error(error, _) if is_repeatable(error.error()) => Unanswered::Error(error, Safety::Repeatable),
            other => other,
        }
    }
}

/// Waits for the response head. Its deadline runs from the moment the upstream has the whole request; before that,
/// the idle deadline runs while the upstream takes nothing of what is there for it. While the body's own source has
/// nothing to give, no clock runs here: that wait is the source's.
async fn await_head<F>(
    response: F,
    upload: Option<&Arc<Upload>>,
    deadlines: &Deadlines,
) -> Result<Response<Incoming>, Unanswered>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<WireBody>>>>,
{
    let mut response = pin!(response);
    let handed_over = Instant::now();
    let mut timer = pin!(sleep_until(handed_over + deadlines.response));
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
            let failed = |error| Unanswered::Error(Box::new(error), Safety::Unknown);
            return Poll::Ready(outcome.map_err(failed));
        }
        if let Some(upload) = upload {
            upload.watch(cx.waker());
        }
        loop {
            let progress = upload.map_or(Progress::Done(handed_over), |upload| upload.progress());
            let (due, expiry) = match progress {
                Progress::Done(at) => (at + deadlines.response, Some(UpstreamError::ResponseTimeout)),
                Progress::Blocked(since) => (since + deadlines.idle, Some(UpstreamError::IdleTimeout)),
                // Looked at again after a while; a standstill that begins meanwhile is due later than that.
                Progress::Starved => (Instant::now() + deadlines.idle, None),
            };
            // Moving a timer to an earlier time is needed at once, to a later one only when it fires.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match expiry {
                Some(error) if Instant::now() >= due => return Poll::Ready(Err(Unanswered::Deadline(error))),
                _ => timer.as_mut().reset(due),
            }
        }
    })
    .await
}

/// Turns a failure into an error, or into the request to send again. `copy` is there if sending it again is safe.
fn judge(
    mut error: TrySendError<Request<WireBody>>,
    copy: Option<Message>,
    reused: bool,
    upload: Option<&Arc<Upload>>,
) -> Failed {
    if let Some(source) = upload.and_then(|upload| upload.take_failure()) {
        return Failed::Finally(UpstreamError::RequestBody(source));
    }
    if reused {
        if let Some(unsent) = error.take_message() {
            return Failed::Again(Message::from_request(unsent));
        }
        if let Some(copy) = copy {
            return Failed::Again(copy);
        }
    }
    Failed::Finally(classify(error.error()))
}

fn classify(error: &hyper::Error) -> UpstreamError {
    let broken_rules = find::<h2::Error>(error).is_some_and(h2::Error::is_library);
    if error.is_parse() || broken_rules {
        UpstreamError::Malformed(describe(error))
    } else {
        UpstreamError::Closed(describe(error))
    }
}

/// Whether the peer has said that it did nothing with the stream (RFC 9113 §8.7). h2 gives the peer's GOAWAY as the
/// error of exactly those streams that lie beyond the last one the peer names.
fn was_not_processed(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    })
}

/// After a refusal or an error of the whole connection, the next stream is better off elsewhere.
fn drain_after(error: &hyper::Error, connection: &Http2) {
    let one_stream_only = find::<h2::Error>(error).is_some_and(h2::Error::is_reset) && !was_not_processed(error);
    if !one_stream_only {
        connection.drain();
    }
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What went wrong, in words that contain nothing the peer wrote (a GOAWAY may carry any text).
pub(super) fn describe(error: &hyper::Error) -> String {
    if let Some(error) = find::<h2::Error>(error) {
        return error.reason().map_or_else(|| "http/2 error".to_owned(), |reason| reason.description().to_owned());
    }
    match find::<io::Error>(error) {
        Some(cause) => format!("{error} ({})", cause.kind()),
        None => error.to_string(),
    }
}

/// Checks a response head and ties the body to its connection.
fn accept(
    response: Response<Incoming>,
    flight: Flight,
    deadlines: &Deadlines,
    purpose: Purpose,
) -> Result<Response<UpstreamBody>, UpstreamError> {
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        if purpose == Purpose::Exchange {
            return Err(UpstreamError::Malformed("a 101 nobody asked for".into()));
        }
        flight.depart();
        return Ok(Response::from_parts(parts, UpstreamBody::upgraded(incoming)));
    }
    check_framing(&mut parts.headers)?;
    parts.extensions = Extensions::new(); // hyper's own notes, such as a reason phrase, are of no use further on
    Ok(Response::from_parts(parts, UpstreamBody::new(incoming, flight, deadlines.idle)))
}

/// Refuses a response two readers could take for different ones (RFC 9112 §6.3).
fn check_framing(headers: &mut HeaderMap) -> Result<(), UpstreamError> {
    let malformed = |reason: &str| Err(UpstreamError::Malformed(reason.to_owned()));
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        if headers.contains_key(CONTENT_LENGTH) {
            return malformed("both transfer-encoding and content-length");
        }
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || headers.get_all(TRANSFER_ENCODING).iter().count() > 1 {
            return malformed("a transfer coding other than chunked");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let Some(first) = lengths.next().map(<[u8]>::trim_ascii) else {
        return Ok(());
    };
    let mut repeated = false;
    for other in lengths {
        repeated = true;
        if other.trim_ascii() != first {
            return malformed("two different content-lengths");
        }
    }
    if first.is_empty() || !first.iter().all(u8::is_ascii_digit) {
        return malformed("a content-length that is no number");
    }
    if repeated {
        let one = HeaderValue::from_bytes(first);
        let Ok(one) = one else { return malformed("a content-length that is no number") };
        headers.insert(CONTENT_LENGTH, one);
    }
    Ok(())
}
