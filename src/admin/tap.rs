//! The tap: requests as they pass the proxy port, as Server-Sent Events. What is told of each is its access line, and
//! nothing else.
//!
//! Who was let in is judged again twice a second for as long as they watch; where they would not be let in any more, what
//! waits for them is thrown away and the stream ends. Opening a tap is audited: it is no change, and shows everybody's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc::{Permit, Receiver, Sender, channel};
use tracing::Instrument;
use utoipa::IntoParams;

use super::Control;
use super::actor::{self, Actor};
use super::connections::find;
use super::error::AdminError;
use super::openapi::OfCustomer;
use super::request::{Own, Query};
use crate::clock::{Instant, Interval, MissedTickBehavior, interval, interval_at, timeout};
use crate::model::name::Key;
use crate::proxy::tap::{Batch, Tap, Watched};
use crate::vault::audit::{Chain, Notice};

/// How often something is sent where nothing passes, so that proxies in between keep the stream open.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often it is judged again whether who watches may, and how long that may take.
const LOOK: Duration = Duration::from_millis(500);

/// What is shown.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only requests over this connection, by id or key, and those that were refused and named it so.
    #[param(nullable = false, value_type = Option<Key>)]
    connection: Option<String>,
}

/// Shows requests as they pass, until the reader hangs up.
///
/// Each is an event `request` when it has ended, whose data is its access line: never a path, query, header value or
/// body. A request is its connection's organization's; where it was refused its key's, else its listener's. A reader that
/// is too slow misses some: an event `dropped` stands where they are missing, with `{"count": n}`. A comment comes every
/// 15 seconds at least. The stream ends with an event `end` and `{"reason": "not_permitted"}` within a second after the
/// key or session is not good for it any more, or `{"reason": "draining"}` when the server stops. 16 may be open at once, 8
/// of them of one organization; one whose reader has gone is noticed by the next two things that are sent. That one is
/// opened is audited.
#[utoipa::path(get, path = "/tap", params(Filter, OfCustomer), responses(
    (status = 200, description = "Events, for as long as they are read.", body = String,
        content_type = "text/event-stream"),
    (status = 429),
))]
pub(super) async fn open(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    Own(filter): Own<Filter>,
    parts: Parts,
) -> Result<Response, AdminError> {
    let connection = match &filter.connection {
        Some(named) => Some(find(&control, &actor, &query, named).await?),
        None => None,
    };
    let watched = Watched {
        organization: actor.organization,
        connection: connection.as_ref().map(|connection| (connection.id, connection.key.clone())),
    };
    let tap = control.taps.open(watched).ok_or(AdminError::TooManyTaps)?;
    let notice = Notice {
        chain: Chain::Organization(actor.organization),
        action: "tap.open",
        object: connection.map_or_else(|| actor.organization.to_string(), |connection| connection.id.to_string()),
        detail: json!({}),
    };
    control.vault.database()?.record_event(&actor.author(), notice).await?;
    // One frame waits while the one before is taken; all else waits in the tap, which has a bound.
    let (sender, frames) = channel(1);
    let pumping = async move { pump(&control, &actor, &parts, tap, &sender).await };
    tokio::spawn(pumping.in_current_span());
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], axum::body::Body::new(Frames(frames))).into_response())
}

/// Hands on what passes until nobody reads it, the server drains, or who reads may not any more.
async fn pump(control: &Control, actor: &Actor, parts: &Parts, tap: Tap, sender: &Sender<Bytes>) {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reason = loop {
        tokio::select! {
            biased;
            () = tap.drained() => break "draining",
            () = sender.closed() => return,
            _ = look.tick() => {
                if timeout(LOOK, actor::holds(control, actor, parts)).await.ok().flatten().is_none() {
                    break "not_permitted";
                }
            }
            due = due(&tap, sender, &mut heartbeat) => match due {
                Some((place, text)) => place.send(text.into()),
                None => return,
            }
        }
    };
    // Whoever takes nothing is not told: the stream ends for them all the same.
    drop(tap);
    let _full = sender.try_send(format!("event: end\ndata: {}\n\n", json!({ "reason": reason })).into());
}

/// What is to be sent next, once there is a place for it: until then it waits where there is a bound. `None` where
/// nobody reads any more.
async fn due<'a>(
    tap: &Tap,
    sender: &'a Sender<Bytes>,
    heartbeat: &mut Interval,
) -> Option<(Permit<'a, Bytes>, Vec<u8>)> {
    let place = sender.reserve().await.ok()?;
    let text = tokio::select! {
        biased;
        () = tap.filled() => events(&tap.take()),
        _ = heartbeat.tick() => b": \n\n".to_vec(),
    };
    Some((place, text))
}

/// A batch as it is sent.
fn events(batch: &Batch) -> Vec<u8> {
    const BEFORE: &[u8] = b"event: request\ndata: ";
    let mut text = Vec::with_capacity(batch.lines.len() * 5 / 4);
    for line in batch.lines.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(BEFORE);
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    if batch.dropped > 0 {
        text.extend_from_slice(format!("event: dropped\ndata: {}\n\n", json!({ "count": batch.dropped })).as_bytes());
    }
    text
}

struct Frames(Receiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::OrganizationId;
    use crate::proxy::tap::Taps;

    #[test]
    fn a_line_is_an_event_and_what_is_missing_is_told_behind_them() {
        let batch = Batch { lines: b"{\"a\":1}\n{\"b\":2}\n".to_vec(), dropped: 3 };
        let text = String::from_utf8(events(&batch)).unwrap();
        let request = |line: &str| format!("event: request\ndata: {line}\n\n");
        let told = [request("{\"a\":1}"), request("{\"b\":2}"), "event: dropped\ndata: {\"count\":3}\n\n".to_owned()];
        assert_eq!(text, told.concat());
        assert_eq!(events(&Batch::default()), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn something_is_sent_at_once_and_then_every_fifteen_seconds() {
        let watched = Watched { organization: OrganizationId::derived("default"), connection: None };
        let tap = Taps::default().open(watched).unwrap_or_else(|| panic!("there is a place"));
        let ((sender, _frames), mut heartbeat) = (channel(1), interval(HEARTBEAT));
        let begun = Instant::now();
        for seconds in [0, 15, 30] {
            let (_, text) = due(&tap, &sender, &mut heartbeat).await.unwrap();
            assert_eq!((text, begun.elapsed().as_secs()), (b": \n\n".to_vec(), seconds));
        }
    }
}
