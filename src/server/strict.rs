//! HTTP/1.1 of the admin port, judged by the parser of the proxy port before hyper reads it.
//!
//! hyper repairs what two readers could take for two messages (two framings, a length that is there twice) and answers
//! what it cannot read without a document. So every head is parsed here first, and every body is followed to its end, to
//! know where the next head begins. What passes goes on byte for byte. In the place of a head that does not pass, hyper
//! is given a request of ours, the last one; it is answered by what was wrong, in its turn behind those that came before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::admin::error::Unreadable;
use crate::clock::Instant;
use crate::wire::body::Step;
use crate::wire::head::Scan;
use crate::wire::{Deadline, Decoder, Framing, HeadError, Inbox, RequestHead};

/// What every connection of HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What stands for a head that does not pass.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// How long, and for how many bytes, a connection that is to be closed is still read, so that the reset that closing
/// would cause does not destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Which request of a connection stands for what was no request, counted from 1, and what was wrong with that.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<OnceLock<(u64, Unreadable)>>);

impl Verdict {
    /// What is wrong with the request of this number.
    pub(super) fn on(&self, number: u64) -> Option<Unreadable> {
        self.0.get().filter(|(refused, _)| *refused == number).map(|(_, why)| *why)
    }
}

/// A client's stream of which only requests that pass are read.
pub(super) struct Strict<S> {
    stream: S,
    inbox: Inbox,
    /// How many of the bytes in the inbox have passed.
    passed: usize,
    state: State,
    /// How many heads were given to hyper.
    heads: u64,
    verdict: Verdict,
    scan: Scan,
    /// Bounds a head, and the wait for one.
    head_timeout: Duration,
    deadline: Deadline,
    since: Option<Instant>,
    head_begun: bool,
    /// How many bytes are still read for nobody.
    lingers: Option<usize>,
}

enum State {
    /// Nobody knows yet which protocol is spoken.
    First,
    Head,
    Body(Box<Decoder>),
    /// HTTP/2: its frames are hyper's to judge.
    Through,
    /// A head did not pass; this much of what stands for it was not read yet.
    Refused(&'static [u8]),
    Ended,
}

/// What a look at the inbox has found.
enum Look {
    /// Something to hand on, or nothing more ever.
    Done,
    /// More must come.
    More,
    /// The state has changed.
    Again,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Strict<S> {
    /// Takes a stream over. A head may take `head_timeout`, and so may the time until one begins.
    pub(super) fn new(stream: S, head_timeout: Duration) -> (Self, Verdict) {
        let verdict = Verdict::default();
        let strict = Strict {
            stream,
            inbox: Inbox::default(),
            passed: 0,
            state: State::First,
            heads: 0,
            verdict: verdict.clone(),
            scan: Scan::default(),
            head_timeout,
            deadline: Deadline::default(),
            since: None,
            head_begun: false,
            lingers: None,
        };
        (strict, verdict)
    }

    /// Waits until there are bytes that have passed, or there will be none.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed == 0 {
            match self.look()? {
                Look::Done => break,
                Look::Again => {}
                Look::More => match self.inbox.poll_fill(cx, &mut self.stream) {
                    Poll::Ready(Ok(0)) => self.state = State::Ended,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => ready!(self.poll_patience(cx)),
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    fn look(&mut self) -> io::Result<Look> {
        let unread = self.inbox.unread();
        match &mut self.state {
            State::Through if unread.is_empty() => return Ok(Look::More),
            State::Through => self.passed = unread.len(),
            State::Refused(_) | State::Ended => {}
            State::First => {
                let preface = &PREFACE[..unread.len().min(PREFACE.len())];
                if unread.is_empty() || unread.starts_with(preface) && preface.len() < PREFACE.len() {
                    return Ok(Look::More);
                }
                self.state = if unread.starts_with(preface) { State::Through } else { State::Head };
                return Ok(Look::Again);
            }
            State::Head => return Ok(self.look_at_head()),
            State::Body(decoder) => match decoder.step(unread) {
                Ok(Step::Data(range)) => self.passed = range.end,
                Ok(Step::More) if unread.is_empty() => return Ok(Look::More),
                Ok(Step::More) => self.passed = unread.len(),
                Ok(Step::End(count)) => {
                    // Before the last of it passes: trailers that are none make it no body.
                    decoder.take_trailers().map_err(misframed)?;
                    (self.passed, self.state) = (count, State::Head);
                    return Ok(Look::Again);
                }
                Err(error) => return Err(misframed(error)),
            },
        }
        Ok(Look::Done)
    }

    fn look_at_head(&mut self) -> Look {
        while self.inbox.unread().starts_with(b"\r\n") {
            self.inbox.consume(2);
        }
        let unread = self.inbox.unread();
        if unread.is_empty() || !self.scan.is_due(unread) {
            return Look::More;
        }
        match RequestHead::parse(unread) {
            Ok(None) => return Look::More,
            Err(error) => self.refuse(error.into()),
            Ok(Some((head, length))) => match judge(&head) {
                Err(why) => self.refuse(Unreadable::Malformed(why)),
                Ok(framing) => {
                    self.state = State::Body(Box::new(Decoder::new(framing)));
                    (self.passed, self.scan) = (length, Scan::default());
                    (self.since, self.head_begun) = (None, false);
                    self.heads += 1;
                }
            },
        }
        Look::Done
    }

    fn refuse(&mut self, why: Unreadable) {
        self.heads += 1;
        let _only_once = self.verdict.0.set((self.heads, why));
        self.state = State::Refused(STAND_IN);
    }

    /// Waits as long as a head, or the time until there is one, may take. Bodies have a deadline where they are read.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.state, State::First | State::Head) {
            return Poll::Pending;
        }
        let begun = !self.inbox.is_empty();
        if begun && !self.head_begun {
            // A head has a time of its own, however long the connection was idle before.
            (self.head_begun, self.since) = (true, None);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.deadline.poll(cx, since + self.head_timeout));
        if begun {
            self.refuse(Unreadable::TooSlow)
        } else {
            self.state = State::Ended
        }
        Poll::Ready(())
    }

    /// Whether nothing of what the client has sent is unread.
    fn is_clean(&self) -> bool {
        self.inbox.is_empty() && !matches!(self.state, State::Body(_) | State::Refused(_))
    }
}

/// How the end of the body of a request is told, where both of us read the same request.
fn judge(head: &RequestHead) -> Result<Framing, &'static str> {
    if Uri::try_from(head.target()).is_err() {
        return Err("the target is not a path or URL");
    }
    head.framing()
}

fn misframed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl From<HeadError> for Unreadable {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(why) => Unreadable::Malformed(why),
            HeadError::TooLarge => Unreadable::HeadTooLarge,
            HeadError::TargetTooLong => Unreadable::TargetTooLong,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Strict<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = this.poll_passed(cx);
        if let State::Refused(rest) = &mut this.state
            && this.passed == 0
        {
            let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *rest = later;
        }
        let count = this.passed.min(buffer.remaining());
        buffer.put_slice(&this.inbox.unread()[..count]);
        this.inbox.consume(count);
        this.passed -= count;
        // What waits does not do so in the area that every connection reads into.
        this.inbox.shrink();
        outcome
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.head_begun {
            // The time until the next request begins with the end of this one.
            this.since = None;
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.head_begun {
            this.since = None;
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            (this.lingers, this.since) = (Some(if this.is_clean() { 0 } else { LINGER_BYTES }), None);
        }
        let since = *this.since.get_or_insert_with(Instant::now);
        while this.lingers.is_some_and(|left| left > 0) {
            this.inbox.consume(this.inbox.unread().len());
            match this.inbox.poll_fill(cx, &mut this.stream) {
                Poll::Ready(Ok(0) | Err(_)) => break,
                Poll::Ready(Ok(count)) => this.lingers = this.lingers.map(|left| left.saturating_sub(count)),
                Poll::Pending => {
                    ready!(this.deadline.poll(cx, since + LINGER));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
