//! A client's TCP stream, with the two things that TCP knows and hyper does not ask for.
//!
//! While a request is answered hyper does not read, so that a client may close its sending side and still be answered;
//! it would not notice either that a client is gone. And the answer to an HTTP/1.0 client may end with the connection:
//! one that broke off must not end like one that is complete.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::proxy::body::Unfinished;

/// How long a client that has closed its sending side is left alone before it is asked whether it is still there, and
/// how long between two questions.
const FIRST_QUESTION: Duration = Duration::from_millis(400);
const NEXT_QUESTION: Duration = Duration::from_secs(1);
/// How long after a question its answer, a reset, is looked for.
const ANSWER: Duration = Duration::from_millis(100);
/// A client that still listens drops it (RFC 9110 §15.2.1); the system of one that is gone answers by a reset.
const QUESTION: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether a client waits for the head of an HTTP/1.1 answer, so that an interim response may be sent to it.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Says whether it does now.
    pub fn set(&self, waits: bool) {
        self.0.store(waits, Relaxed);
    }
}

/// What the one who answers a client tells its stream.
#[derive(Clone, Debug, Default)]
pub struct Signs {
    /// Whether an answer that ends with the connection is on its way.
    pub unfinished: Unfinished,
    /// Whether the client waits for the head of an answer.
    pub waiting: Waiting,
}

/// The questions to a client that has sent FIN: one that only sends nothing more, and one that is gone, look the same
/// until something is sent to them.
struct Questions {
    next: Pin<Box<Sleep>>,
    answer_due: bool,
}

/// A TCP stream whose `flush` fails once the peer has reset it, or is found to be gone while it waits. Dropped while an answer is [`Unfinished`], it ends by a
/// reset.
pub struct ClientStream {
    tcp: TcpStream,
    signs: Signs,
    questions: Option<Questions>,
}

impl ClientStream {
    /// Takes a stream over.
    pub fn new(tcp: TcpStream, signs: Signs) -> Self {
        ClientStream { tcp, signs, questions: None }
    }

    /// The reset of a peer that is gone. A peer that merely sends nothing more leaves no error behind.
    fn poll_reset(&self, cx: &mut Context<'_>) -> io::Result<()> {
        // Asking also arranges that whoever flushes is woken when something comes, be it a reset.
        if self.tcp.poll_read_ready(cx).is_ready()
            && let Some(error) = self.tcp.take_error()?
        {
            return Err(error);
        }
        Ok(())
    }
}

impl ClientStream {
    /// Finds out whether a client that has sent FIN while it waits for an answer is still there.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.signs.waiting.0.load(Relaxed) || !self.has_sent_fin(cx) {
            self.questions = None;
            return Ok(());
        }
        let questions = self
            .questions
            .get_or_insert_with(|| Questions { next: Box::pin(sleep(FIRST_QUESTION)), answer_due: false });
        while questions.next.as_mut().poll(cx).is_ready() {
            // A reset that has come meanwhile was found before this was called.
            let pause = if questions.answer_due { NEXT_QUESTION } else { ANSWER };
            if !questions.answer_due {
                match self.tcp.try_write(QUESTION) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    // Half a question would end up inside the answer.
                    Ok(written) if written < QUESTION.len() => return Err(io::ErrorKind::WriteZero.into()),
                    _ => {}
                }
            }
            questions.answer_due = !questions.answer_due;
            questions.next.as_mut().reset(Instant::now() + pause);
        }
        Ok(())
    }

    fn has_sent_fin(&self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        matches!(self.tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte)), Poll::Ready(Ok(0)))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.signs.unfinished.is_set() {
            // Where even this fails the stream is gone already.
            let _gone = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_reset(cx)?;
        self.poll_gone(cx)?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
