//! One request as an HTTP/2 stream: awaited with deadlines, judged when it fails.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::body::UpstreamBody;
use super::connection::{Http2, Slot};
use super::error::UpstreamError;
use super::flight::{Flight, StreamBody};
use super::http1::Failed;
use super::pool::Destination;
use super::upload::{Progress, Upload, WireBody};
use super::{Answer, Deadlines, Outgoing};
use crate::clock::{Instant, sleep_until};
use crate::wire::{Fields, ResponseHead};

/// Sends a request as a stream of its own and waits for the head of its answer.
pub(super) async fn attempt(
    destination: &Rc<Destination>,
    slot: Slot,
    request: &mut Outgoing,
    deadlines: &Deadlines,
    reused: bool,
) -> Result<Answer, Failed> {
    let length = request.length();
    let (body, upload) = WireBody::new(request.body.take());
    let message = written(destination, request, length, body).map_err(Failed::Finally)?;
    let flight = Flight::new(slot, upload.clone());
    let read_before = flight.bytes_read();
    let Some(connection) = flight.connection() else {
        return Err(Failed::Finally(UpstreamError::Closed("no connection".into())));
    };
    match over_http2(connection, message, upload.as_ref(), deadlines).await {
        Ok(response) => accept(response, flight, deadlines).map_err(Failed::Finally),
        Err(Unanswered::Deadline(error)) => {
            flight.suspect(read_before);
            Err(Failed::Finally(error))
        }
        Err(Unanswered::Error(error, safety)) => Err(judge(*error, safety, reused, request, flight)),
    }
}

/// The request as HTTP/2 has it: `:scheme` and `:authority` in the place of `Host`.
fn written(
    destination: &Destination,
    request: &Outgoing,
    length: Option<u64>,
    body: WireBody,
) -> Result<Request<WireBody>, UpstreamError> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(destination.uri_scheme());
    parts.authority = Some(destination.authority.clone());
    let unwritable = |_| UpstreamError::Unsendable("its path cannot be written into a request");
    parts.path_and_query = Some(request.path.as_str().parse().map_err(unwritable)?);
    let mut message = Request::new(body);
    *message.method_mut() = request.method.clone();
    // All three are there and each is valid by its type; that is all a URI asks for.
    *message.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *message.version_mut() = Version::HTTP_2;
    let mut headers = request.fields.to_map();
    for (name, value) in request.injected.headers() {
        headers.append(name.clone(), value.clone());
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *message.headers_mut() = headers;
    Ok(message)
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

/// Turns a failure into an error, or into the request to send again: hyper hands back a message it has not begun to
/// write, and the peer may say that it did not process the stream.
fn judge(
    mut error: TrySendError<Request<WireBody>>,
    safety: Safety,
    reused: bool,
    request: &mut Outgoing,
    mut flight: Flight,
) -> Failed {
    if let Some(source) = flight.upload.as_ref().and_then(|upload| upload.take_failure()) {
        return Failed::Finally(UpstreamError::RequestBody(source));
    }
    if reused {
        if let Some(unsent) = error.take_message() {
            flight.upload = None; // The body goes on in another flight: it is not to be cancelled with this one.
            request.body = unsent.into_body().into_source();
            return Failed::Again(None);
        }
        if safety == Safety::Repeatable && flight.upload.is_none() {
            return Failed::Again(None);
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

/// Ties the body of a response to its stream.
fn accept(response: Response<Incoming>, flight: Flight, deadlines: &Deadlines) -> Result<Answer, UpstreamError> {
    let (parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UpstreamError::Malformed("a 101 nobody asked for".into()));
    }
    let head =
        ResponseHead { status: parts.status, version: Version::HTTP_2, fields: Fields::from_map(&parts.headers) };
    // HTTP/2 has checked that lengths agree with what comes; here it is only that there is one.
    head.framing(&Method::GET).map_err(|why| UpstreamError::Malformed(why.to_owned()))?;
    let body = UpstreamBody::http2(StreamBody::new(incoming, flight, deadlines.idle));
    Ok(Answer { head, body, switched: None })
}
