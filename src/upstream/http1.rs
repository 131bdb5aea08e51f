//! HTTP/1.1 to an upstream: one connection, one exchange at a time, driven by whoever waits for its answer. No task and
//! no buffer belongs to a connection that is idle.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, StatusCode};

use super::body::UpstreamBody;
use super::error::{BoxError, UpstreamError};
use super::pool::Destination;
use super::{Answer, Deadlines, Outgoing, Purpose};
use crate::clock::Instant;
use crate::wire::head::Scan;
use crate::wire::{
    BodyFailure, Chunk, Deadline, Decoder, Encoder, Framing, Inbox, Outbox, ResponseHead, Size, Source, Stream,
    poll_body, poll_read,
};

/// The most interim responses that are read before the final one.
const MOST_INTERIM: usize = 100;

/// A connection.
#[derive(Debug)]
pub(super) struct Http1 {
    stream: Stream,
    inbox: Inbox,
    outbox: Outbox,
    deadline: Deadline,
    /// When it is too old for a new request.
    pub(super) retires: Instant,
}

impl Http1 {
    /// A new connection, which gets requests for so long.
    pub(super) fn new(stream: Stream, age: Duration) -> Box<Self> {
        let (inbox, outbox, deadline) = Default::default();
        Box::new(Http1 { stream, inbox, outbox, deadline, retires: Instant::now() + age })
    }

    /// Whether it can take a request: it is open, and nothing came on it unasked. Where nothing has happened since it
    /// was used, this asks the runtime and not the system. Where it can, the task is woken by what comes from now on.
    pub(super) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        self.inbox.is_empty() && poll_read(cx, &mut self.stream, &mut [0]).is_pending()
    }
}

/// Why an attempt gave no response.
pub(super) enum Failed {
    /// The request cannot have had an effect, or may have it twice: it may be sent once more, what was staged of it
    /// first.
    Again(Option<Box<Staged>>),
    /// It stays failed.
    Finally(UpstreamError),
}

/// The beginning of a request as HTTP/1.1 has it, of which nothing was written.
pub(super) struct Staged {
    outbox: Outbox,
    encoder: Encoder,
    /// Whether some of the body is in it, and nowhere else.
    pub(super) holds_body: bool,
}

/// The stream of a connection that has left HTTP, and what was read from it already.
#[derive(Debug)]
pub struct Switched {
    /// The stream.
    pub stream: Stream,
    /// What came behind the head of the `101`.
    pub unread: Vec<u8>,
}

/// Where the request's body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// The upstream takes nothing more of what is there for it.
    Blocked(Instant),
    /// Whoever gives the body has nothing at the moment.
    Starved(Instant),
    /// Everything was taken.
    Done(Instant),
    /// The upstream takes nothing more at all, since then; it may have said why.
    Broken(Instant),
}

impl Upload {
    /// Since when it stands so.
    fn since(self) -> Instant {
        match self {
            Upload::Blocked(at) | Upload::Starved(at) | Upload::Done(at) | Upload::Broken(at) => at,
        }
    }
}

/// An exchange that was begun. Dropped before its end it takes the connection with it.
pub(super) struct Transfer {
    /// There until it is given back.
    connection: Option<Box<Http1>>,
    home: Rc<Destination>,
    method: Method,
    body: Option<Box<dyn Source<Error = BoxError>>>,
    encoder: Encoder,
    /// Whether nothing was asked of the body yet.
    is_new: bool,
    /// Whether the task is woken by what comes on the connection, which had nothing to give when it was asked.
    is_watched: bool,
    /// Whether it has given something.
    holds_body: bool,
    upload: Upload,
    decoder: Decoder,
    deadlines: Deadlines,
    /// Why the request's body cannot be had, found while nobody asked.
    failure: Option<BoxError>,
    /// Since when the next piece of the answer is awaited.
    waiting: Option<Instant>,
    persistent: bool,
}

/// How a connection came to its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    /// Whether it had served one before.
    pub(super) reused: bool,
    /// Whether the task has asked in this poll [whether it is quiet](Http1::is_quiet), and so need not ask again.
    pub(super) is_watched: bool,
    /// When.
    pub(super) at: Instant,
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn attempt(
    connection: Box<Http1>,
    home: &Rc<Destination>,
    request: &mut Outgoing,
    staged: Option<Box<Staged>>,
    deadlines: &Deadlines,
    purpose: Purpose,
    came: Came,
) -> Result<Answer, Failed> {
    let mut transfer = Box::new(Transfer::new(connection, home, request, staged, *deadlines, came));
    let had_body = transfer.body.is_some();
    let before = transfer.taken();
    let mut scan = Scan::default();
    let mut interim = 0;
    let error = match poll_fn(|cx| transfer.poll_head(cx, &mut scan, &mut interim)).await {
        Ok(head) => return transfer.accept(head, purpose).map_err(Failed::Finally),
        Err(error) => error,
    };
    let Some(mut connection) = transfer.connection.take().filter(|_| came.reused) else {
        return Err(Failed::Finally(error));
    };
    let silent = connection.inbox.is_empty() && interim == 0;
    match error {
        UpstreamError::Closed(_) if connection.outbox.taken() == before => {
            request.body = transfer.body.take();
            let outbox = std::mem::take(&mut connection.outbox).rewound();
            let staged = Staged { outbox, encoder: transfer.encoder, holds_body: transfer.holds_body };
            Err(Failed::Again(Some(Box::new(staged))))
        }
        UpstreamError::Closed(_) if silent && !had_body && is_idempotent(&request.method) => Err(Failed::Again(None)),
        error => Err(Failed::Finally(error)),
    }
}

/// RFC 9110 §9.2.2, of those that are sent at all.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn closed(error: &io::Error) -> UpstreamError {
    UpstreamError::Closed(error.kind().to_string())
}

impl Transfer {
    fn new(
        mut connection: Box<Http1>,
        home: &Rc<Destination>,
        request: &mut Outgoing,
        staged: Option<Box<Staged>>,
        deadlines: Deadlines,
        came: Came,
    ) -> Self {
        let (encoder, holds_body) = match staged {
            Some(staged) => {
                connection.outbox = staged.outbox;
                (staged.encoder, staged.holds_body)
            }
            None => {
                let is_open = request.body.as_ref().is_some_and(|body| body.size() == Size::Open);
                let encoder = if is_open { Encoder::Chunked } else { Encoder::Plain };
                request.render(home.authority.as_str(), encoder, connection.outbox.stage());
                (encoder, false)
            }
        };
        let body = request.body.take();
        Transfer {
            connection: Some(connection),
            home: Rc::clone(home),
            method: request.method.clone(),
            body,
            encoder,
            is_new: true,
            is_watched: came.is_watched,
            holds_body,
            upload: Upload::Blocked(came.at),
            decoder: Decoder::new(Framing::Length(0)),
            deadlines,
            failure: None,
            waiting: None,
            persistent: false,
        }
    }

    fn taken(&self) -> u64 {
        self.connection.as_ref().map_or(0, |connection| connection.outbox.taken())
    }

    /// Moves the request's body on as far as it goes now.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        if matches!(self.upload, Upload::Done(_) | Upload::Broken(_)) {
            return Poll::Ready(Ok(()));
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(())) };
        let Http1 { stream, outbox, .. } = &mut **connection;
        let began = self.is_new.then_some(self.upload.since());
        loop {
            let taken = outbox.taken();
            let (encoder, holds_body) = (self.encoder, &mut self.holds_body);
            let mut starved = false;
            // What the source has now goes into one write with what is there already.
            if self.is_new || outbox.is_empty() {
                self.is_new = false;
                let mut ended = self.body.is_none();
                if let Some(body) = &mut self.body {
                    let outcome = body.poll_chunks(cx, &mut |cx, chunk| match (chunk, encoder) {
                        (Chunk::Data(data), Encoder::Plain) => outbox.write(cx, stream, data),
                        (Chunk::Data(data), Encoder::Chunked) => encoder.data(outbox.stage(), data),
                        (Chunk::End(trailers), _) => {
                            encoder.end(outbox.stage(), trailers.as_deref());
                            ended = true;
                        }
                    });
                    match outcome {
                        Poll::Ready(Ok(())) => *holds_body = true,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(UpstreamError::RequestBody(error))),
                        Poll::Pending => starved = true,
                    }
                }
                if ended {
                    self.body = None;
                }
            }
            match outbox.poll_flush(cx, stream) {
                Poll::Ready(Ok(())) if self.body.is_none() => {
                    // What goes out at once is out when it began: the clock need not be asked again.
                    self.upload = Upload::Done(began.unwrap_or_else(Instant::now));
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) if starved => {
                    if outbox.taken() > taken || !matches!(self.upload, Upload::Starved(_)) {
                        self.upload = Upload::Starved(Instant::now());
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.upload = Upload::Broken(Instant::now());
                    return Poll::Ready(Err(closed(&error)));
                }
                Poll::Pending => {
                    if outbox.taken() > taken || !matches!(self.upload, Upload::Blocked(_)) {
                        self.upload = Upload::Blocked(Instant::now());
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        scan: &mut Scan,
        interim: &mut usize,
    ) -> Poll<Result<ResponseHead, UpstreamError>> {
        let uploading = self.poll_upload(cx);
        if let Poll::Ready(Err(error @ UpstreamError::RequestBody(_))) = uploading {
            return Poll::Ready(Err(error));
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Err(UpstreamError::Closed("no connection".into())));
        };
        loop {
            // Empty lines are no head, and must not be looked through again and again.
            while connection.inbox.unread().starts_with(b"\r\n") {
                connection.inbox.consume(2);
            }
            let unread = connection.inbox.unread();
            if !unread.is_empty() && scan.is_due(unread) {
                let malformed = |error: crate::wire::HeadError| UpstreamError::Malformed(error.to_string());
                if let Some((head, length)) = ResponseHead::parse(unread).map_err(malformed)? {
                    connection.inbox.consume(length);
                    if head.status == StatusCode::SWITCHING_PROTOCOLS || !head.status.is_informational() {
                        return Poll::Ready(Ok(head));
                    }
                    *scan = Scan::default();
                    *interim += 1;
                    if *interim > MOST_INTERIM {
                        return Poll::Ready(Err(UpstreamError::Malformed("more than 100 interim responses".into())));
                    }
                    continue;
                }
            }
            if std::mem::take(&mut self.is_watched) {
                break;
            }
            match connection.inbox.poll_fill(cx, &mut connection.stream) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(UpstreamError::Closed("end of stream".into()))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(closed(&error))),
                Poll::Pending => break,
            }
        }
        let (due, error) = match self.upload {
            Upload::Done(at) => (at + self.deadlines.response, UpstreamError::ResponseTimeout),
            Upload::Blocked(since) => (since + self.deadlines.idle, UpstreamError::IdleTimeout),
            // While the body's own source has nothing to give, no clock runs here: that wait is the source's.
            Upload::Starved(_) => return Poll::Pending,
            // What it said before it hung up may be there and not announced yet; so is its end.
            Upload::Broken(at) => (at + self.deadlines.idle, UpstreamError::Closed("it takes nothing more".into())),
        };
        connection.deadline.poll(cx, due).map(|()| Err(error))
    }

    /// Checks a response head and goes over to its body.
    fn accept(mut self: Box<Self>, head: ResponseHead, purpose: Purpose) -> Result<Answer, UpstreamError> {
        let malformed = |why: &str| UpstreamError::Malformed(why.to_owned());
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let connection = self.connection.take().filter(|_| purpose == Purpose::Upgrade);
            let Some(mut connection) = connection else { return Err(malformed("a 101 nobody asked for")) };
            let unread = connection.inbox.take();
            let switched = Some(Box::new(Switched { stream: connection.stream, unread }));
            return Ok(Answer { head, body: UpstreamBody::empty(), switched });
        }
        let framing = head.framing(&self.method).map_err(malformed)?;
        self.decoder = Decoder::new(framing);
        self.persistent =
            purpose == Purpose::Exchange && framing != Framing::UntilClose && head.fields.keep_alive(head.version);
        Ok(Answer { head, body: UpstreamBody::http1(self), switched: None })
    }

    /// Whether nothing of the answer is to come, and of the request neither.
    fn is_over(&self) -> bool {
        self.decoder.is_done() && matches!(self.upload, Upload::Done(_))
    }

    /// Gives the connection back where the exchange ended with the head of its answer; whether it did.
    pub(super) fn ends_with_head(&mut self) -> bool {
        let ended = self.is_over();
        if ended {
            self.land();
        }
        ended
    }

    /// Gives the connection back, if it can be used again.
    fn land(&mut self) {
        let is_reusable = self.persistent && self.is_over();
        let Some(connection) = self.connection.take() else { return };
        if is_reusable && connection.inbox.is_empty() && connection.outbox.is_empty() {
            self.home.keep(connection);
        }
    }

    pub(super) fn size(&self) -> Size {
        if self.connection.is_none() { Size::Exact(0) } else { self.decoder.size() }
    }

    /// Moves the request's body on. Its failure is told when the answer is asked for more.
    pub(super) fn poll_meanwhile(&mut self, cx: &mut Context<'_>) {
        if self.failure.is_none()
            && let Poll::Ready(Err(UpstreamError::RequestBody(error))) = self.poll_upload(cx)
        {
            self.failure = Some(error);
        }
    }

    pub(super) fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), UpstreamError>> {
        self.poll_meanwhile(cx);
        if let Some(error) = self.failure.take() {
            self.connection = None;
            return Poll::Ready(Err(UpstreamError::RequestBody(error)));
        }
        let Some(connection) = &mut self.connection else { return Poll::Pending };
        let Http1 { stream, inbox, .. } = &mut **connection;
        match poll_body(cx, stream, inbox, &mut self.decoder, take) {
            Poll::Ready(Ok(())) => {
                self.waiting = None;
                if self.decoder.is_done() && matches!(self.upload, Upload::Done(_) | Upload::Broken(_)) {
                    self.land();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(failure)) => {
                self.connection = None;
                let what = match failure {
                    BodyFailure::CutOff => "the connection ended".to_owned(),
                    other => other.to_string(),
                };
                Poll::Ready(Err(UpstreamError::Body(what)))
            }
            Poll::Pending => {
                let since = *self.waiting.get_or_insert_with(Instant::now);
                let due = since.max(self.upload.since()) + self.deadlines.idle;
                ready!(connection.deadline.poll(cx, due));
                self.connection = None;
                Poll::Ready(Err(UpstreamError::IdleTimeout))
            }
        }
    }

    /// Whether the answer has ended and the request has not.
    pub(super) fn is_early(&self) -> bool {
        self.connection.is_some() && self.decoder.is_done()
    }

    /// After an early answer: what is still being uploaded gets its time as long as it moves.
    pub(super) async fn settle(mut self) {
        let done = poll_fn(|cx| {
            if !self.is_early() || self.failure.is_some() || self.poll_upload(cx).is_ready() {
                return Poll::Ready(());
            }
            let due = self.upload.since() + self.deadlines.idle;
            self.connection.as_mut().map_or(Poll::Ready(()), |connection| connection.deadline.poll(cx, due))
        });
        done.await;
        self.land();
    }
}
