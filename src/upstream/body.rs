//! The body of a response, whichever protocol it comes in on.

use std::task::{Context, Poll};

use super::error::UpstreamError;
use super::flight::StreamBody;
use super::http1::Transfer;
use crate::wire::source::FromBody;
use crate::wire::{Chunk, Size, Source};

/// A response body. Gives its connection back when it was read to its end; dropped earlier, it closes an HTTP/1.1
/// connection and resets an HTTP/2 stream. While it is asked for more and nothing comes for the idle deadline (and no
/// upload moves either), it fails with [`UpstreamError::IdleTimeout`].
pub struct UpstreamBody(Content);

enum Content {
    Empty,
    Http1(Box<Transfer>),
    Http2(Box<FromBody<StreamBody>>),
}

impl UpstreamBody {
    pub(super) fn empty() -> Self {
        UpstreamBody(Content::Empty)
    }

    pub(super) fn http1(mut transfer: Box<Transfer>) -> Self {
        if transfer.ends_with_head() {
            return Self::empty();
        }
        UpstreamBody(Content::Http1(transfer))
    }

    pub(super) fn http2(body: StreamBody) -> Self {
        UpstreamBody(Content::Http2(Box::new(FromBody::new(body))))
    }

    /// Whether the response has ended and its request has not: see [`settle`](Self::settle).
    pub fn is_early(&self) -> bool {
        matches!(&self.0, Content::Http1(transfer) if transfer.is_early())
    }

    /// Lets the request go on while nothing is asked of the response.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Content::Http1(transfer) = &mut self.0 {
            transfer.poll_meanwhile(cx);
        }
    }

    /// After an early response: lets the request go on as long as it moves, so that the connection can be used again.
    pub async fn settle(self) {
        if let Content::Http1(transfer) = self.0
            && transfer.is_early()
        {
            Box::pin(transfer.settle()).await;
        }
    }
}

impl Source for UpstreamBody {
    type Error = UpstreamError;

    fn size(&self) -> Size {
        match &self.0 {
            Content::Empty => Size::Exact(0),
            Content::Http1(transfer) => transfer.size(),
            Content::Http2(body) => body.size(),
        }
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), UpstreamError>> {
        match &mut self.0 {
            Content::Empty => {
                take(cx, Chunk::End(None));
                Poll::Ready(Ok(()))
            }
            Content::Http1(transfer) => transfer.poll_chunks(cx, take),
            Content::Http2(body) => body.poll_chunks(cx, take),
        }
    }
}
