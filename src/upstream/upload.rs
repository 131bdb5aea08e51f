//! The body of a request on its way to the wire, and what is known about its progress.
//!
//! Connections are shared by requests with bodies of any type, so a body is boxed here. What hyper takes out of it is
//! followed until the layer below has accepted it: that is how a slow upload is told from an upstream that takes
//! nothing more, and when the wait for a response begins.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::error::BoxError;
use crate::clock::Instant;
use crate::wire::source::{AsBody, Source};

/// Where an upload stands, for those who set deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything was accepted, at this time.
    Done(Instant),
    /// The upstream has not accepted anything more since this time although there is something for it.
    Blocked(Instant),
    /// Whoever gives the body has nothing at the moment; the upstream has accepted everything so far.
    Starved,
}

const WANTED: u8 = 0;
const STARVED: u8 = 1;
const ENDED: u8 = 2;
const CANCELLED: u8 = 3;

/// The progress of one body. hyper asks data to be `Send`, so this counts in atomics although one thread uses it.
#[derive(Debug)]
pub(super) struct Upload {
    start: Instant,
    stage: AtomicU8,
    /// Bytes taken from the body and not yet accepted below.
    outstanding: AtomicU64,
    /// When something last moved, in microseconds after `start`.
    moved: AtomicU64,
    failure: Mutex<Option<BoxError>>,
    /// Who waits for the end of the upload.
    watcher: Mutex<Option<Waker>>,
    /// Who waits for the next frame of the body.
    taker: Mutex<Option<Waker>>,
}

impl Upload {
    fn new() -> Arc<Self> {
        Arc::new(Upload {
            start: Instant::now(),
            stage: AtomicU8::new(WANTED),
            outstanding: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            failure: Mutex::new(None),
            watcher: Mutex::new(None),
            taker: Mutex::new(None),
        })
    }

    pub(super) fn progress(&self) -> Progress {
        match (self.stage.load(Relaxed), self.outstanding.load(Relaxed)) {
            (ENDED | CANCELLED, 0) => Progress::Done(self.last_moved()),
            (STARVED, 0) => Progress::Starved,
            _ => Progress::Blocked(self.last_moved()),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.progress(), Progress::Done(_))
    }

    pub(super) fn last_moved(&self) -> Instant {
        self.start + Duration::from_micros(self.moved.load(Relaxed))
    }

    /// The error the body itself gave, once.
    pub(super) fn take_failure(&self) -> Option<BoxError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Wakes `waker` once when everything was accepted.
    pub(super) fn watch(&self, waker: &Waker) {
        keep(&self.watcher, waker);
    }

    /// Nobody waits for the response any more: the next look into the body finds an error, which resets the stream.
    pub(super) fn cancel(&self) {
        if self.stage.load(Relaxed) != ENDED {
            self.stage.store(CANCELLED, Relaxed);
            wake(&self.taker);
        }
    }

    /// Enters a stage, with `count` more bytes on their way. Time begins only where nothing was on its way before:
    /// what the upstream has not taken does not get younger by what is put behind it.
    fn enter(&self, stage: u8, count: usize) {
        let before = self.outstanding.load(Relaxed);
        self.stage.store(stage, Relaxed);
        self.outstanding.store(before + count as u64, Relaxed);
        if before == 0 {
            self.touch();
        }
    }

    fn touch(&self) {
        let after = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved.store(after, Relaxed);
        if self.is_done() {
            wake(&self.watcher);
        }
    }

    fn accepted(&self, count: usize) {
        self.outstanding.store(self.outstanding.load(Relaxed).saturating_sub(count as u64), Relaxed);
        self.touch();
    }
}

fn keep(slot: &Mutex<Option<Waker>>, waker: &Waker) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *slot {
        Some(kept) => kept.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}

fn wake(slot: &Mutex<Option<Waker>>) {
    let waker = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

type Given = Box<dyn Source<Error = BoxError>>;

/// The one body type all connections carry.
pub(super) struct WireBody {
    source: Option<(AsBody<Given>, Arc<Upload>)>,
}

impl WireBody {
    /// Takes a request's body, if it has one; the progress is there unless it has none.
    pub(super) fn new(body: Option<Given>) -> (Self, Option<Arc<Upload>>) {
        let Some(body) = body else { return (WireBody { source: None }, None) };
        let upload = Upload::new();
        (WireBody { source: Some((AsBody::new(body), Arc::clone(&upload))) }, Some(upload))
    }

    /// What is left of the body, of which nothing was taken.
    pub(super) fn into_source(self) -> Option<Given> {
        self.source.and_then(|(body, _)| body.into_source())
    }
}

impl Body for WireBody {
    type Data = WireData;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<WireData>, BoxError>>> {
        let Some((source, upload)) = &mut self.source else {
            return Poll::Ready(None);
        };
        if upload.stage.load(Relaxed) == CANCELLED {
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        let Poll::Ready(next) = Pin::new(&mut *source).poll_frame(cx) else {
            keep(&upload.taker, cx.waker());
            upload.enter(STARVED, 0);
            return Poll::Pending;
        };
        match next {
            Some(Ok(frame)) => {
                let last = frame.is_trailers() || source.is_end_stream();
                upload.enter(if last { ENDED } else { WANTED }, frame.data_ref().map_or(0, Bytes::len));
                let upload = Arc::clone(upload);
                Poll::Ready(Some(Ok(frame.map_data(|bytes| WireData { bytes, upload }))))
            }
            Some(Err(error)) => {
                *upload.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                upload.enter(CANCELLED, 0);
                Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())))
            }
            None => {
                upload.enter(ENDED, 0);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(|(source, _)| source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.source.as_ref().map_or(SizeHint::with_exact(0), |(source, _)| source.size_hint())
    }
}

/// A piece of a body that reports what the layer below accepts of it.
#[derive(Debug)]
pub(super) struct WireData {
    bytes: Bytes,
    upload: Arc<Upload>,
}

impl Buf for WireData {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.upload.accepted(count);
    }
}

impl Drop for WireData {
    fn drop(&mut self) {
        // What is thrown away with a dead stream is not waited for.
        let rest = self.bytes.remaining();
        if rest > 0 {
            self.upload.accepted(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use tokio::time::advance;

    use super::*;
    use crate::wire::source::FromBody;

    const SECOND: Duration = Duration::from_secs(1);

    /// Gives what is there; `None` among it means "nothing at the moment".
    struct Steps(VecDeque<Option<&'static str>>);

    impl Body for Steps {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.pop_front() {
                Some(Some(data)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(data))))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn wire(steps: impl Into<VecDeque<Option<&'static str>>>) -> (WireBody, Option<Arc<Upload>>) {
        WireBody::new(Some(Box::new(FromBody::new(Steps(steps.into())))))
    }

    fn next(body: &mut WireBody) -> Poll<Option<Result<Frame<WireData>, BoxError>>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn next_data(body: &mut WireBody) -> WireData {
        let Poll::Ready(Some(Ok(frame))) = next(body) else { panic!("no frame") };
        frame.into_data().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_accepted_does_not_get_younger_by_what_comes_behind_it() {
        let (mut body, upload) = wire([Some("ab"), Some("cd"), None]);
        let upload = upload.unwrap();
        let start = Instant::now();
        advance(SECOND).await;
        let mut first = next_data(&mut body);
        assert_eq!(upload.progress(), Progress::Blocked(start + SECOND));
        advance(SECOND).await;
        let second = next_data(&mut body);
        assert!(next(&mut body).is_pending());
        assert_eq!(upload.progress(), Progress::Blocked(start + SECOND), "nothing was accepted since");
        first.advance(1);
        assert_eq!(upload.progress(), Progress::Blocked(start + 2 * SECOND));
        first.advance(1);
        drop(second);
        assert_eq!(upload.progress(), Progress::Starved);
        advance(SECOND).await;
        assert!(matches!(next(&mut body), Poll::Ready(None)));
        assert_eq!(upload.progress(), Progress::Done(start + 3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_done_when_the_last_byte_is_accepted_not_when_it_is_taken() {
        let (mut body, upload) = wire([Some("ab")]);
        let upload = upload.unwrap();
        let start = Instant::now();
        let mut data = next_data(&mut body);
        assert!(matches!(next(&mut body), Poll::Ready(None)));
        assert_eq!(upload.progress(), Progress::Blocked(start));
        advance(SECOND).await;
        data.advance(2);
        assert_eq!(upload.progress(), Progress::Done(start + SECOND));
    }

    #[tokio::test]
    async fn a_cancelled_body_gives_an_error_that_resets_a_stream() {
        let (mut body, upload) = wire([Some("ab"), Some("cd")]);
        next_data(&mut body);
        upload.unwrap().cancel();
        let Poll::Ready(Some(Err(error))) = next(&mut body) else { panic!("not cancelled") };
        assert_eq!(error.downcast_ref::<h2::Error>().unwrap().reason(), Some(h2::Reason::CANCEL));
    }
}
