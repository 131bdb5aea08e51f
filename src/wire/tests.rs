//! Streams that give and take as a test says.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Waker;
use std::time::Duration;

use tokio::time::{Instant, advance};

use super::head::Scan;
use super::*;

/// Gives these pieces, then what `end` says; takes so many bytes at once, and nothing when it is 0.
#[derive(Default)]
struct Scripted {
    pieces: VecDeque<Vec<u8>>,
    ends: bool,
    takes: usize,
    /// The lengths of what was offered and what was taken.
    offered: Vec<usize>,
    taken: Vec<u8>,
}

impl AsyncRead for Scripted {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.pieces.pop_front() {
            Some(mut piece) => {
                let rest = piece.split_off(piece.len().min(buffer.remaining()));
                buffer.put_slice(&piece);
                if !rest.is_empty() {
                    self.pieces.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
            None if self.ends => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.offered.push(bytes.len());
        let count = bytes.len().min(std::mem::take(&mut self.takes));
        if count == 0 {
            return Poll::Pending;
        }
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn giving(pieces: &[&[u8]], ends: bool) -> Scripted {
    Scripted { pieces: pieces.iter().map(|piece| piece.to_vec()).collect(), ends, ..Scripted::default() }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[test]
fn what_waits_keeps_its_bytes_in_memory_of_its_own_size() {
    let mut stream = giving(&[b"GET / ", b"HTTP"], false);
    let mut inbox = Inbox::default();
    assert!(matches!(inbox.poll_fill(&mut cx(), &mut stream), Poll::Ready(Ok(6))));
    inbox.consume(4);
    assert!(matches!(inbox.poll_fill(&mut cx(), &mut stream), Poll::Ready(Ok(4))));
    assert!(inbox.poll_fill(&mut cx(), &mut stream).is_pending());
    assert_eq!((inbox.unread(), inbox.bytes.len()), (&b"/ HTTP"[..], 6));
    inbox.consume(6);
    assert_eq!((inbox.bytes.capacity(), inbox.is_empty()), (0, true), "nothing is held while it is idle");
    assert!(inbox.poll_fill(&mut cx(), &mut stream).is_pending());
    assert_eq!(inbox.bytes.capacity(), 0);
}

#[test]
fn a_rest_that_nobody_asks_for_gives_the_scratch_area_back() {
    let mut stream = giving(&[b"onetwo"], false);
    let mut inbox = Inbox::default();
    assert!(inbox.poll_fill(&mut cx(), &mut stream).is_ready());
    inbox.consume(3);
    inbox.shrink();
    assert_eq!((inbox.unread(), inbox.bytes.len()), (&b"two"[..], 3));
    assert_eq!(inbox.take(), b"two");
    assert!(inbox.is_empty());
}

#[test]
fn what_was_read_is_never_more_than_one_area() {
    let piece = vec![b'x'; scratch::READ];
    let mut stream = giving(&[&piece, b"y"], false);
    let mut inbox = Inbox::default();
    assert!(matches!(inbox.poll_fill(&mut cx(), &mut stream), Poll::Ready(Ok(scratch::READ))));
    inbox.consume(1);
    assert!(matches!(inbox.poll_fill(&mut cx(), &mut stream), Poll::Ready(Ok(1))));
    assert_eq!((inbox.unread().len(), inbox.unread().last()), (scratch::READ, Some(&b'y')));
}

#[test]
fn a_large_piece_goes_out_from_where_it_lies_and_small_ones_together() {
    let mut stream = Scripted { takes: usize::MAX, ..Scripted::default() };
    let mut outbox = Outbox::default();
    outbox.write(&mut cx(), &mut stream, &[b'x'; LARGE]);
    assert_eq!((stream.offered.as_slice(), outbox.bytes.capacity()), (&[LARGE][..], 0));
    outbox.stage().extend_from_slice(b"head");
    outbox.write(&mut cx(), &mut stream, b"body");
    stream.takes = usize::MAX;
    assert!(outbox.poll_flush(&mut cx(), &mut stream).is_ready());
    assert_eq!(stream.offered, [LARGE, 8]);
    assert_eq!((outbox.taken(), outbox.bytes.capacity(), outbox.is_empty()), (LARGE as u64 + 8, 0, true));
}

#[test]
fn what_is_taken_piecemeal_arrives_once_and_in_order() {
    let data: Vec<u8> = (0..LARGE * 2).map(|number| number as u8).collect();
    let mut stream = Scripted { takes: 5000, ..Scripted::default() };
    let mut outbox = Outbox::default();
    outbox.write(&mut cx(), &mut stream, &data);
    outbox.stage().extend_from_slice(b"end");
    while outbox.poll_flush(&mut cx(), &mut stream).is_pending() {
        assert!(!outbox.is_empty());
        stream.takes = 3000;
    }
    assert_eq!(stream.taken, [&data[..], b"end"].concat());
    assert_eq!(outbox.taken(), stream.taken.len() as u64);
}

#[test]
fn what_is_rewound_goes_out_again_from_its_first_byte() {
    let mut stream = Scripted { takes: 2, ..Scripted::default() };
    let mut outbox = Outbox::default();
    outbox.stage().extend_from_slice(b"hello");
    assert!(outbox.poll_flush(&mut cx(), &mut stream).is_pending());
    let mut outbox = outbox.rewound();
    let mut other = Scripted { takes: 9, ..Scripted::default() };
    assert!(outbox.poll_flush(&mut cx(), &mut other).is_ready());
    assert_eq!((other.taken.as_slice(), outbox.taken()), (&b"hello"[..], 5));
}

/// All of a body: its bytes, its trailers, and what is left behind it.
async fn whole(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, Vec<u8>), BodyFailure> {
    let (mut stream, mut inbox, mut decoder) = (giving(pieces, true), Inbox::default(), Decoder::new(framing));
    let (mut body, mut ended) = (Vec::new(), None);
    while ended.is_none() {
        let mut take = |_: &mut Context<'_>, chunk: Chunk<'_>| match chunk {
            Chunk::Data(data) => body.extend_from_slice(data),
            Chunk::End(trailers) => ended = Some(trailers.map_or(0, |trailers| trailers.len())),
        };
        poll_fn(|cx| poll_body(cx, &mut stream, &mut inbox, &mut decoder, &mut take)).await?;
    }
    Ok((body, ended.unwrap(), inbox.take()))
}

#[tokio::test]
async fn a_body_ends_where_it_says_and_never_before() {
    let chunked: &[&[u8]] = &[b"5\r\nhe", b"llo\r\n0\r", b"\nx-a: 1\r\n\r", b"\nnext"];
    let (body, trailers, rest) = whole(Framing::Chunked, chunked).await.unwrap();
    assert_eq!((&*body, trailers, &*rest), (&b"hello"[..], 1, &b"next"[..]));
    let (body, _, rest) = whole(Framing::Length(5), &[b"he", b"llonext"]).await.unwrap();
    assert_eq!((&*body, &*rest), (&b"hello"[..], &b"next"[..]));
    assert_eq!(whole(Framing::UntilClose, &[b"he", b"llo"]).await.unwrap().0, b"hello");
    assert_eq!(whole(Framing::Length(0), &[b"next"]).await.unwrap(), (Vec::new(), 0, Vec::new()));
    for (framing, piece) in
        [(Framing::Length(6), &b"hello"[..]), (Framing::Chunked, b"5\r\nhello\r\n"), (Framing::Chunked, b"0\r\n")]
    {
        assert!(matches!(whole(framing, &[piece]).await, Err(BodyFailure::CutOff)), "{piece:?}");
    }
    let misframed = whole(Framing::Chunked, &[b"5\r\nhello0\r\n\r\n"]).await;
    assert!(matches!(misframed, Err(BodyFailure::Misframed(BodyError::ChunkEnd))));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_looked_through_no_more_than_twice() {
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    for number in 0..90 {
        head.extend_from_slice(format!("x-{number}: {}\r\n", "v".repeat(300)).as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let mut scan = Scan::default();
    let (mut looked, mut found) = (0, false);
    for end in 1..=head.len() {
        if scan.is_due(&head[..end]) {
            looked += end;
            found = RequestHead::parse(&head[..end]).unwrap().is_some();
        }
    }
    assert!(found, "its end was seen at once");
    assert!(looked <= 3 * head.len(), "{looked} of {}: twice on the way, once at the end", head.len());
}

#[test]
fn lines_that_end_in_lf_alone_are_found_when_their_head_ends() {
    let head = b"GET / HTTP/1.1\nHost: h\n\n";
    let mut scan = Scan::default();
    let due: Vec<usize> = (1..=head.len()).filter(|end| scan.is_due(&head[..*end])).collect();
    assert_eq!(due.last(), Some(&head.len()));
    assert!(RequestHead::parse(head).is_err() && RequestHead::parse(&head[..16]).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_neither_early_nor_late_and_can_be_moved_both_ways() {
    const SECOND: Duration = Duration::from_secs(1);
    let start = Instant::now();
    let mut deadline = Deadline::default();
    // Later: the timer that fires first is not the end.
    assert!(deadline.poll(&mut cx(), start + SECOND).is_pending());
    poll_fn(|cx| deadline.poll(cx, start + 3 * SECOND)).await;
    assert_eq!(Instant::now() - start, 3 * SECOND);
    // Once more after it has fired.
    poll_fn(|cx| deadline.poll(cx, start + 9 * SECOND)).await;
    assert_eq!(Instant::now() - start, 9 * SECOND);
    // Earlier.
    assert!(deadline.poll(&mut cx(), start + 60 * SECOND).is_pending());
    poll_fn(|cx| deadline.poll(cx, start + 10 * SECOND)).await;
    assert_eq!(Instant::now() - start, 10 * SECOND);
    advance(SECOND).await;
    assert!(deadline.poll(&mut cx(), start).is_ready(), "what is past is over at once");
}
