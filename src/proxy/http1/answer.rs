//! Writing an answer to a client.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{StatusCode, Version};

use super::client::Client;
use super::{Asked, Terms};
use crate::model::header::Known;
use crate::proxy::body::{AnswerBody, BrokenOff};
use crate::proxy::{Answer, head};
use crate::upstream::UpstreamBody;
use crate::wire::body::write_length;
use crate::wire::{Chunk, Encoder, Fields, Size, Source};

/// What is left when an answer was written.
pub(super) struct Written {
    /// An upload that goes on although its answer has ended.
    pub(super) upload: Option<UpstreamBody>,
    pub(super) keeps_alive: bool,
}

/// How the end of an answer is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has no body.
    Head,
    Length(u64),
    Chunked,
    /// By the end of the connection, to a client of HTTP/1.0.
    Connection,
}

/// Who did not hold out.
enum Lost {
    Client,
    Upstream,
    /// Neither: what the answer rests on was revoked.
    Right,
}

/// Writes an answer; `None` where the client or the upstream did not hold out to its end.
pub(super) async fn write(client: &Rc<Client>, terms: &Terms, asked: &Asked, answer: &mut Answer) -> Option<Written> {
    let Answer { status, fields, body, closes, .. } = answer;
    let end = match body.size() {
        _ if head::has_no_body(*status, &asked.method) => End::Head,
        Size::Exact(length) => End::Length(length),
        Size::Open if asked.version == Version::HTTP_10 => End::Connection,
        Size::Open => End::Chunked,
    };
    let keeps_alive = asked.keeps_alive
        && !*closes
        && end != End::Connection
        && !terms.draining.get()
        && (client.is_reading_body() || client.drain_buffered());
    client.stage(|out| write_head(out, asked, *status, fields, end, keeps_alive));
    drop(std::mem::take(fields));
    client.ends_with_connection(end == End::Connection);
    let mut flow = Flow { client, write_timeout: terms.write_timeout, end, body, is_new: true, ended: false };
    match poll_fn(|cx| flow.poll(cx)).await {
        Ok(()) => client.ends_with_connection(false),
        Err(Lost::Client) => {
            body.lost();
            return None;
        }
        Err(Lost::Right) => {
            // What can go out at once does. A client that takes nothing is not waited for.
            let _taken = poll_fn(|cx| Poll::Ready(client.poll_flush(cx, terms.write_timeout).is_ready())).await;
            return None;
        }
        Err(Lost::Upstream) => {
            // What came goes out; then the connection is broken off, so that it does not look complete.
            let _gone = poll_fn(|cx| client.poll_flush(cx, terms.write_timeout)).await;
            return None;
        }
    }
    Some(Written { upload: body.take_upload(), keeps_alive })
}

/// The body of an answer on its way.
struct Flow<'a> {
    client: &'a Client,
    write_timeout: Duration,
    end: End,
    body: &'a mut AnswerBody,
    is_new: bool,
    ended: bool,
}

impl Flow<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        loop {
            // What is there already goes into one write with the head.
            if !std::mem::replace(&mut self.is_new, false) {
                match self.client.poll_flush(cx, self.write_timeout) {
                    Poll::Ready(Ok(())) if self.ended => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Lost::Client)),
                    Poll::Pending => {
                        // A client that reads nothing before it has sent everything would wait for us for ever.
                        self.body.poll_upload(cx);
                        return self.body.poll_revoked(cx).map(|()| Err(Lost::Right));
                    }
                }
                if self.poll_body(cx)?.is_pending() {
                    return self.client.poll_gone(cx, false).map(|()| Err(Lost::Client));
                }
            } else if self.end == End::Head {
                self.ended = true;
            } else if self.poll_body(cx)?.is_ready() {
                continue;
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Lost> {
        let encoder = if self.end == End::Chunked { Encoder::Chunked } else { Encoder::Plain };
        let (client, ended) = (self.client, &mut self.ended);
        let polled = self.body.poll_chunks(cx, &mut |cx, chunk| match chunk {
            Chunk::Data(data) => client.write(cx, encoder, data),
            Chunk::End(trailers) => {
                client.stage(|out| encoder.end(out, trailers.as_deref()));
                *ended = true;
            }
        });
        match polled {
            Poll::Ready(Ok(())) => {
                // All that was announced has come; the end itself may come later, and nobody needs to wait for it.
                *ended |= matches!(self.end, End::Length(_)) && self.body.size().is_none();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(BrokenOff::ByUpstream(_))) => Err(Lost::Upstream),
            Poll::Ready(Err(BrokenOff::Revoked)) => Err(Lost::Right),
            Poll::Pending => Ok(Poll::Pending),
        }
    }
}

fn write_head(out: &mut Vec<u8>, asked: &Asked, status: StatusCode, fields: &Fields, end: End, keeps_alive: bool) {
    let is_old = asked.version == Version::HTTP_10;
    out.extend_from_slice(if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    fields.render(out);
    match end {
        End::Length(length) => write_length(out, length),
        End::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        End::Head | End::Connection => {}
    }
    match (is_old, keeps_alive) {
        _ if status == StatusCode::SWITCHING_PROTOCOLS => {}
        (_, false) => out.extend_from_slice(b"connection: close\r\n"),
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        _ => {}
    }
    // RFC 9110 §6.6.1: whoever passes an answer on without a date gives it one.
    if !fields.has(Known::Date) {
        DATE.with_borrow_mut(|date| out.extend_from_slice(date.line().as_bytes()));
    }
    out.extend_from_slice(b"\r\n");
}

thread_local! {
    static DATE: RefCell<DateLine> = RefCell::default();
}

/// The text of the second is made once for all answers of that second.
#[derive(Default)]
struct DateLine {
    second: u64,
    text: String,
}

impl DateLine {
    fn line(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second {
            self.text = format!("date: {}\r\n", httpdate::fmt_http_date(now));
            self.second = second;
        }
        &self.text
    }
}
