//! One type for every kind of stream a test holds, with the rude endings TCP allows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connected stream.
pub enum Socket {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP, either side.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Socket {
    /// Ends the connection by RST where the transport has one, dropping what was not sent.
    pub fn reset(self) {
        if let Some(tcp) = self.tcp() {
            tcp.set_zero_linger().expect("zero linger on an open socket");
        }
    }

    /// Sends FIN and nothing before it: a TLS session is cut without its `close_notify`.
    pub fn cut(&self) {
        // A peer that is gone already cannot be told so.
        let _ = match self {
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Self::Tls(stream) => rustix::net::shutdown(stream.get_ref().0, rustix::net::Shutdown::Write),
        };
    }

    /// What TLS agreed on, as `(version, ALPN protocol)`; `None` in clear.
    pub fn agreed(&self) -> Option<(String, Option<String>)> {
        let Self::Tls(stream) = self else { return None };
        let session = stream.get_ref().1;
        let version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
        Some((version, session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())))
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
