//! The stream under HTTP/2, which remembers whether anything came: a connection on which nothing did while somebody
//! waited may be dead.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What went through a connection, in bytes of HTTP.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    read: Cell<u64>,
    /// Whom to wake at the next read, once.
    on_read: RefCell<Option<Waker>>,
}

impl Traffic {
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Wakes `waker` once when something is read.
    pub(super) fn wake_on_read(&self, waker: &Waker) {
        *self.on_read.borrow_mut() = Some(waker.clone());
    }
}

/// A stream whose traffic is counted.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    traffic: Rc<Traffic>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, traffic: Rc<Traffic>) -> Self {
        Counted { stream, traffic }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.traffic.read.set(self.traffic.read.get() + count as u64);
            if let Some(waker) = self.traffic.on_read.borrow_mut().take() {
                waker.wake();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
