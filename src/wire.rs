//! HTTP/1.1 on the wire, the same for both ends: heads parsed once and strictly, bodies decoded and framed anew, byte
//! streams with what was read and not yet used, and what is to be written and not yet taken.
//!
//! Nothing here decides: it tells what stands on the wire, or that it is no HTTP. What is lenient in a parser and would
//! be read differently by the next one is refused: bare LF in a request, two framings, a length that is a list, a chunk
//! that does not end where it says. A connection holds no buffer while it is idle; reads land in a scratch area of the
//! thread, and only what must wait is kept.

pub mod body;
pub mod deadline;
pub mod fields;
pub mod head;
mod lines;
mod names;
pub mod scratch;
pub mod source;
pub mod stream;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use body::Step;
pub use body::{BodyError, Decoder, Encoder};
pub use deadline::Deadline;
pub use fields::Fields;
pub use head::{Framing, HeadError, RequestHead, ResponseHead};
pub use source::{Chunk, Size, Source};
pub use stream::Stream;

/// What was read from a stream and is not used yet.
///
/// Bytes stay in the scratch area they were read into while they are being used; what must wait for more is moved to
/// memory of its own size, so that a connection that stands still holds no more than it was sent.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    used: usize,
    end: usize,
}

impl Inbox {
    /// What is there.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.used..self.end]
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.used == self.end
    }

    /// Marks bytes as used. Memory is given back as soon as everything is.
    pub fn consume(&mut self, count: usize) {
        self.used += count;
        if self.is_empty() {
            self.release();
        }
    }

    fn release(&mut self) {
        scratch::give_back(std::mem::take(&mut self.bytes));
        (self.used, self.end) = (0, 0);
    }

    /// Reads once, behind what is there: how many bytes came, 0 at the end of the stream. There is always room for some
    /// as long as less than [`scratch::READ`] bytes are unread; with more nothing is read and 0 bytes came.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.is_empty() {
            self.bytes = scratch::area();
        } else if self.bytes.len() < scratch::READ || self.end == scratch::READ {
            return self.poll_grow(cx, stream);
        }
        let outcome = poll_read(cx, stream, &mut self.bytes[self.end..]);
        match &outcome {
            Poll::Ready(Ok(count)) => self.end += count,
            _ => self.shrink(),
        }
        if self.is_empty() {
            self.release();
        }
        outcome
    }

    /// Reads behind what waits in memory of its own. That memory grows by doubling, so that a head that comes byte by byte
    /// is not copied once for each.
    fn poll_grow(&mut self, cx: &mut Context<'_>, stream: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
        self.shrink();
        let mut area = scratch::area();
        let outcome = poll_read(cx, stream, &mut area[..scratch::READ.saturating_sub(self.unread().len())]);
        if let Poll::Ready(Ok(count)) = &outcome {
            self.bytes.drain(..self.used);
            self.bytes.extend_from_slice(&area[..*count]);
            (self.used, self.end) = (0, self.bytes.len());
        }
        scratch::give_back(area);
        outcome
    }

    /// Moves what is to wait out of the scratch area.
    pub fn shrink(&mut self) {
        if self.bytes.len() == scratch::READ && self.unread().len() < scratch::READ && !self.is_empty() {
            let rest = self.unread().to_vec();
            self.release();
            self.end = rest.len();
            self.bytes = rest;
        }
    }

    /// Takes everything, for whoever reads the stream from here on.
    pub fn take(&mut self) -> Vec<u8> {
        let rest = self.unread().to_vec();
        self.release();
        rest
    }
}

/// Reads once into `room`: how many bytes came, 0 at the end of the stream.
pub fn poll_read(
    cx: &mut Context<'_>,
    stream: &mut (impl AsyncRead + Unpin),
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(room);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// What is to be written to a stream and was not taken yet.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    written: usize,
    /// A TLS stream may hold records back until it is flushed.
    unflushed: bool,
    taken: u64,
}

/// A piece this large goes to the stream from where it lies; smaller ones are gathered.
const LARGE: usize = 8 * 1024;

impl Outbox {
    /// Whether everything was taken.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// How many bytes the stream has taken in all.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The same for another stream, which has taken nothing yet.
    #[must_use]
    pub fn rewound(self) -> Self {
        Outbox { written: 0, taken: 0, unflushed: false, ..self }
    }

    /// Where to append.
    pub fn stage(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = scratch::buffer();
        }
        &mut self.bytes
    }

    /// Writes `data`, or keeps what the stream does not take now. Errors are found by the next flush.
    pub fn write(&mut self, cx: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin), mut data: &[u8]) {
        if self.bytes.is_empty() && data.len() >= LARGE {
            while !data.is_empty() {
                match Pin::new(&mut *stream).poll_write(cx, data) {
                    Poll::Ready(Ok(count)) if count > 0 => {
                        data = &data[count..];
                        self.taken += count as u64;
                        self.unflushed = true;
                    }
                    _ => break,
                }
            }
        }
        if !data.is_empty() {
            self.stage().extend_from_slice(data);
        }
    }

    /// Writes what is there; ready when the stream has taken all of it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.taken += count as u64;
            self.unflushed = true;
        }
        scratch::recycle(std::mem::take(&mut self.bytes));
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Why the rest of a body cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyFailure {
    /// What came is not framed as announced.
    #[error(transparent)]
    Misframed(#[from] BodyError),
    /// The stream ended before the body did.
    #[error("the stream ended before the body")]
    CutOff,
    /// The stream failed.
    #[error("the stream failed: {}", .0.kind())]
    Io(#[from] io::Error),
}

/// Hands over all of a body that is there, as [`Source::poll_chunks`] does.
pub fn poll_body(
    cx: &mut Context<'_>,
    stream: &mut (impl AsyncRead + Unpin),
    inbox: &mut Inbox,
    decoder: &mut Decoder,
    take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
) -> Poll<Result<(), BodyFailure>> {
    let mut handed = false;
    loop {
        let step = match decoder.step(inbox.unread()) {
            // What came before is handed over first; the decoder fails again.
            Err(_) if handed => return Poll::Ready(Ok(())),
            step => step?,
        };
        match step {
            Step::Data(range) => {
                let end = range.end;
                take(cx, Chunk::Data(&inbox.unread()[range]));
                inbox.consume(end);
                handed = true;
            }
            Step::End(count) => {
                inbox.consume(count);
                let trailers = decoder.take_trailers()?;
                take(cx, Chunk::End(trailers));
                return Poll::Ready(Ok(()));
            }
            Step::More => {
                inbox.consume(inbox.unread().len());
                if handed {
                    return Poll::Ready(Ok(()));
                }
                match ready!(inbox.poll_fill(cx, stream))? {
                    0 if decoder.ends_with_stream() => decoder.finish(),
                    0 => return Poll::Ready(Err(BodyFailure::CutOff)),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
