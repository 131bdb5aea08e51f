//! An encrypted stream to an upstream: the socket and, above it, the [`Session`].
//!
//! Made for a connection that is mostly idle and, when it is not, should cost two system calls an exchange: one read
//! with much room takes everything that has arrived, one write sends everything that was given. Between calls the
//! connection keeps only what the reader had no room for, what the socket did not take, and a record that is not whole
//! yet. It does not spawn, does not buffer writes and has no deadlines of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Peer, READ_AT_ONCE, RECORD_ON_WIRE, SealError, Session, with_scratch};

/// An encrypted stream to an upstream.
///
/// A write is taken whole, up to 64 KiB, once what came before it is with the socket: bytes count as written when they
/// are encrypted, and at most that much is kept. A flush, the next write or a read sends the rest. An end of the
/// connection that the peer did not announce is [`io::ErrorKind::UnexpectedEof`], so a truncated answer never looks
/// complete.
pub struct ClientStream<S> {
    socket: S,
    session: Session,
    reading: Reading,
    writing: Writing,
    /// Who waits for the socket to take what is kept. A read by another task must not take its place there.
    writer: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Reading {
    Open,
    /// The peer said that it sends no more.
    Ended,
    Failed(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    /// We said that we send no more.
    Ended,
    Failed,
}

/// Why nothing more can be read. Shows nothing that the peer wrote.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Failure {
    #[error("the peer closed the connection without announcing it")]
    Truncated,
    #[error("the peer ended the connection with the alert {0:?}")]
    Alert(AlertDescription),
    #[error("the peer broke the rules of TLS")]
    Protocol,
    #[error("the connection failed: {0}")]
    Socket(io::ErrorKind),
}

/// What went wrong at the connection, as it was found.
#[derive(Debug)]
pub(super) enum Fault {
    /// The peer closed the connection without announcing it.
    Truncated,
    /// The peer broke TLS, sent an alert or, in the handshake, is not acceptable.
    Tls(rustls::Error),
    /// The system's word on the socket.
    Socket(io::Error),
}

impl<S> std::fmt::Debug for ClientStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientStream").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// A stream whose handshake is still to be made.
    pub(super) fn new(config: Arc<ClientConfig>, name: ServerName<'static>, socket: S) -> Result<Self, Fault> {
        let session = Session::new(config, name).map_err(Fault::Tls)?;
        Ok(ClientStream { socket, session, reading: Reading::Open, writing: Writing::Open, writer: None })
    }

    /// The protocol agreed on by ALPN.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.session.protocol()
    }

    /// How many bytes of memory are held between two calls.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.session.held()
    }

    /// Makes the handshake: ready when the peer is verified and our last message is with the socket. An alert for the
    /// peer is tried once.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let sent = self.poll_send(cx)?;
            if !self.session.is_handshaking() {
                ready!(sent);
                return Pin::new(&mut self.socket).poll_flush(cx).map_err(Fault::Socket);
            }
            // Nobody has room for plaintext here; what comes with the last message waits for the first read.
            let received = ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])));
            if matches!(received, Err(Fault::Tls(_))) {
                let _tried = self.poll_send(cx);
            }
            received?;
        }
    }

    /// Reads once from the socket and takes what it brings: perhaps no plaintext, perhaps the peer's end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, plain: &mut ReadBuf<'_>) -> Poll<Result<(), Fault>> {
        with_scratch(|scratch| {
            let kept = self.session.incoming().len();
            // Room for what the reader can take and for a whole record, so that nothing is decrypted only to be kept;
            // in any case more than small answers need: a read that does not fill its buffer has emptied the socket.
            let room = plain.remaining().max(RECORD_ON_WIRE).max(kept + RECORD_ON_WIRE / 4).min(READ_AT_ONCE);
            if kept >= room {
                let error = rustls::InvalidMessage::HandshakePayloadTooLarge;
                return Poll::Ready(Err(Fault::Tls(error.into())));
            }
            scratch[..kept].copy_from_slice(self.session.incoming());
            let mut space = ReadBuf::new(&mut scratch[kept..room]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space)).map_err(Fault::Socket)?;
            let count = space.filled().len();
            if count == 0 {
                return Poll::Ready(Err(Fault::Truncated));
            }
            let peer = self.session.absorb(&mut scratch[..kept + count], plain).map_err(Fault::Tls)?;
            if peer == Peer::Ended {
                self.reading = Reading::Ended;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends what is kept; ready when nothing is.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.session.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, self.session.outgoing.waiting())) {
                Ok(0) => return Poll::Ready(Err(Fault::Socket(io::ErrorKind::WriteZero.into()))),
                Ok(count) => self.session.outgoing.take(count),
                Err(error) => return Poll::Ready(Err(Fault::Socket(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is kept, for a writer.
    fn poll_send_for_writer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing == Writing::Failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match self.poll_send(cx) {
            Poll::Pending => {
                if !self.writer.as_ref().is_some_and(|writer| writer.will_wake(cx.waker())) {
                    self.writer = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Poll::Ready(result) => {
                self.writer = None;
                Poll::Ready(result.map_err(|fault| self.write_failed(fault.into())))
            }
        }
    }

    /// Sends what is kept, for a reader: the answer that it waits for may depend on it. A failure is the next writer's
    /// to hear, since the peer may have answered before it hung up.
    fn send_for_reader(&mut self, cx: &mut Context<'_>) {
        let another_waits = self.writer.as_ref().is_some_and(|writer| !writer.will_wake(cx.waker()));
        if self.session.outgoing.is_empty() || another_waits {
            return;
        }
        if let Poll::Ready(Err(fault)) = self.poll_send(cx) {
            self.write_failed(fault.into());
        }
    }

    fn write_failed(&mut self, error: io::Error) -> io::Error {
        self.writing = Writing::Failed;
        self.session.outgoing = Default::default();
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        error
    }

    /// Remembers why reading ended, and ends writing where TLS itself is broken.
    fn read_failed(&mut self, cx: &mut Context<'_>, fault: Fault) {
        self.reading = Reading::Failed(Failure::from(&fault));
        if matches!(fault, Fault::Tls(_)) {
            // The alert, tried once: nobody will come to flush it.
            let _tried = self.poll_send(cx);
            self.write_failed(fault.into());
        }
    }

    fn poll_read_plain(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        while buffer.filled().len() == before {
            match self.reading {
                Reading::Open => {}
                Reading::Ended => break,
                Reading::Failed(failure) => return Poll::Ready(Err(failure.into())),
            }
            self.send_for_reader(cx);
            match ready!(self.poll_receive(cx, buffer)) {
                // Something to answer may have come with it: a renegotiation to refuse.
                Ok(()) => self.send_for_reader(cx),
                Err(fault) => self.read_failed(cx, fault),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let kept = stream.session.plaintext.waiting();
        if kept.is_empty() {
            return stream.poll_read_plain(cx, buffer);
        }
        let count = kept.len().min(buffer.remaining());
        buffer.put_slice(&kept[..count]);
        stream.session.plaintext.take(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if stream.writing == Writing::Ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(stream.poll_send_for_writer(cx))?;
        with_scratch(|sealed| {
            let (taken, length) = match stream.session.seal(slices, sealed) {
                Ok(sealed) => sealed,
                Err(error) => return Poll::Ready(Err(stream.write_failed(error.into()))),
            };
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            match Pin::new(&mut stream.socket).poll_write(cx, &sealed[..length]) {
                Poll::Ready(Ok(count)) => stream.session.outgoing.push(&sealed[count..length]),
                Poll::Pending => stream.session.outgoing.push(&sealed[..length]),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(stream.write_failed(error))),
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_send_for_writer(cx))?;
        Pin::new(&mut stream.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.writing == Writing::Open {
            match stream.session.end() {
                Ok(()) => stream.writing = Writing::Ended,
                Err(error) => drop(stream.write_failed(error.into())),
            }
        }
        if stream.writing == Writing::Ended {
            ready!(stream.poll_send_for_writer(cx))?;
        }
        match ready!(Pin::new(&mut stream.socket).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl From<&Fault> for Failure {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Truncated => Failure::Truncated,
            Fault::Socket(error) => Failure::Socket(error.kind()),
            // A number without a name would be the peer's own word.
            Fault::Tls(rustls::Error::AlertReceived(AlertDescription::Unknown(_))) => Failure::Protocol,
            Fault::Tls(rustls::Error::AlertReceived(alert)) => Failure::Alert(*alert),
            Fault::Tls(_) => Failure::Protocol,
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::Truncated => io::ErrorKind::UnexpectedEof,
            Failure::Alert(_) | Failure::Protocol => io::ErrorKind::InvalidData,
            Failure::Socket(kind) => kind,
        };
        io::Error::new(kind, failure)
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Socket(error) => error,
            other => Failure::from(&other).into(),
        }
    }
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, error)
    }
}
