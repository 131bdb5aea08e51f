//! Bodies as they are handed on, whichever protocol they come in on.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// What is known of a body before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Exactly so many bytes are still to come.
    Exact(u64),
    /// Its end is told when it comes.
    Open,
}

impl Size {
    /// Whether nothing is to come.
    pub fn is_none(self) -> bool {
        self == Size::Exact(0)
    }
}

/// A piece of a body.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// Bytes; valid only while they are handed over.
    Data(&'a [u8]),
    /// The end, with trailer fields where there are some. Comes once.
    End(Option<Box<HeaderMap>>),
}

/// Where a body comes from.
pub trait Source {
    /// Why it could not be read to its end.
    type Error;

    /// What is known of the rest.
    fn size(&self) -> Size;

    /// Hands over all that is there, piece by piece, in one call. Ready when something was handed over, the end included;
    /// nothing comes after the end. Whoever takes must take everything.
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), Self::Error>>;
}

impl<S: Source + ?Sized> Source for Box<S> {
    type Error = S::Error;

    fn size(&self) -> Size {
        (**self).size()
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), S::Error>> {
        (**self).poll_chunks(cx, take)
    }
}

/// A source as a body of the `http_body` traits, for hyper.
pub struct AsBody<S> {
    source: Option<S>,
    ended: bool,
    data: Vec<u8>,
    trailers: Option<Box<HeaderMap>>,
}

impl<S: Source> AsBody<S> {
    /// Wraps a source.
    pub fn new(source: S) -> Self {
        AsBody { ended: source.size().is_none(), source: Some(source), data: Vec::new(), trailers: None }
    }

    /// The source, unless it has failed.
    pub fn source_mut(&mut self) -> Option<&mut S> {
        self.source.as_mut()
    }

    /// The source, unless it has failed.
    pub fn into_source(self) -> Option<S> {
        self.source
    }
}

impl<S: Source + Unpin> Body for AsBody<S> {
    type Data = Bytes;
    type Error = S::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, S::Error>>> {
        let this = &mut *self;
        // A piece may be empty (a frame of HTTP/2 without data), which is not the end.
        while this.data.is_empty() {
            let Some(source) = this.source.as_mut().filter(|_| !this.ended) else {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))));
            };
            let (data, trailers, ended) = (&mut this.data, &mut this.trailers, &mut this.ended);
            let handed = ready!(source.poll_chunks(cx, &mut |_, chunk| match chunk {
                Chunk::Data(bytes) => data.extend_from_slice(bytes),
                Chunk::End(fields) => {
                    *trailers = fields;
                    *ended = true;
                }
            }));
            if let Err(error) = handed {
                (this.source, this.data) = (None, Vec::new());
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(&mut this.data))))))
    }

    fn is_end_stream(&self) -> bool {
        (self.ended || self.source.is_none()) && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.source.as_ref().filter(|_| !self.ended).map(Source::size) {
            Some(Size::Exact(length)) => SizeHint::with_exact(length),
            Some(Size::Open) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// A body of the `http_body` traits as a source.
pub struct FromBody<B> {
    body: B,
    ended: bool,
}

impl<B> FromBody<B> {
    /// Wraps a body.
    pub fn new(body: B) -> Self {
        FromBody { body, ended: false }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Source for FromBody<B> {
    type Error = B::Error;

    fn size(&self) -> Size {
        if self.ended || self.body.is_end_stream() {
            return Size::Exact(0);
        }
        self.body.size_hint().exact().map_or(Size::Open, Size::Exact)
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), B::Error>> {
        if self.ended {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        let (data, trailers) = match frame.map(Frame::into_data) {
            Some(Ok(data)) => (Some(data), None),
            Some(Err(other)) => (None, other.into_trailers().ok()),
            None => (None, None),
        };
        let goes_on = data.is_some() && !self.body.is_end_stream();
        if let Some(data) = data {
            take(cx, Chunk::Data(&data));
        }
        if !goes_on {
            self.ended = true;
            take(cx, Chunk::End(trailers.map(Box::new)));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt;

    use super::*;

    /// Gives these frames, one each time it is asked.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from(text))
    }

    #[tokio::test]
    async fn an_empty_piece_is_not_the_end() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let frames = [data("a"), data(""), data(""), data("b"), Frame::trailers(trailers)];
        let body = AsBody::new(FromBody::new(Frames(frames.into())));
        let whole = body.collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "1");
        assert_eq!(whole.to_bytes(), "ab");
    }

    #[tokio::test]
    async fn what_failed_gives_nothing_more_and_its_source_is_gone() {
        struct Failing;
        impl Source for Failing {
            type Error = &'static str;
            fn size(&self) -> Size {
                Size::Open
            }
            fn poll_chunks(
                &mut self,
                cx: &mut Context<'_>,
                take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
            ) -> Poll<Result<(), &'static str>> {
                take(cx, Chunk::Data(b"half"));
                Poll::Ready(Err("broken"))
            }
        }
        let mut body = AsBody::new(Failing);
        assert_eq!(body.frame().await.unwrap().unwrap_err(), "broken");
        assert!(body.frame().await.is_none() && body.is_end_stream() && body.into_source().is_none());
    }
}
