//! A client's TCP stream, with the two things that TCP knows and hyper does not ask for.
//!
//! While a request is answered hyper does not read, so that a client may close its sending side and still be answered;
//! it would not notice either that a client is gone. And the answer to an HTTP/1.0 client may end with the connection:
//! one that broke off must not end like one that is complete.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::body::Unfinished;

/// A TCP stream whose `flush` fails once the peer has reset it. Dropped while an answer is [`Unfinished`], it ends by a
/// reset.
pub struct ClientStream {
    tcp: TcpStream,
    unfinished: Unfinished,
}

impl ClientStream {
    /// Takes a stream over.
    pub fn new(tcp: TcpStream, unfinished: Unfinished) -> Self {
        ClientStream { tcp, unfinished }
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

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.unfinished.is_set() {
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
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
