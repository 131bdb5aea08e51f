//! WebSockets: two upgraded connections, joined until one ends.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::record::Record;

const BUFFER: usize = 16 * 1024;

/// Asks the upstream to become a WebSocket.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Tells the client that it is one.
pub(super) fn accept(headers: &mut HeaderMap) {
    ask(headers);
}

/// Joins the two ends in a task of its own. It ends when either side does, or when nothing moves in either direction
/// for as long as a client may stand still; then both are closed.
pub(super) fn start(client: OnUpgrade, upstream: OnUpgrade, idle: Duration, mut record: Record) {
    tokio::task::spawn_local(async move {
        let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
        let (client, upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        let (from_client, to_client) = tokio::io::split(client);
        let (from_upstream, to_upstream) = tokio::io::split(upstream);
        let sent = record.request_bytes().clone();
        let up = copy(from_client, to_upstream, idle, |bytes| sent.set(sent.get() + bytes as u64));
        let down = copy(from_upstream, to_client, idle, |bytes| record.passed_on(bytes));
        let (_up, _down) = tokio::join!(up, down);
    });
}

/// Copies until the end, an error or a standstill, then closes the direction.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    idle: Duration,
    mut moved: impl FnMut(usize),
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::time::timeout(idle, from.read(&mut buffer)).await.unwrap_or(Ok(0))?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        moved(read);
    }
}
