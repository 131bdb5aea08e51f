//! WebSockets: two upgraded connections, joined until one ends.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::record::Record;
use crate::clock::{Instant, timeout, timeout_at};
use crate::wire::Fields;
use crate::wire::stream::Rewound;

const BUFFER: usize = 16 * 1024;

/// Says that a connection becomes a WebSocket: asks the upstream for it, and tells the client that it is one.
pub(super) fn switch(fields: &mut Fields) {
    fields.push(b"connection", b"upgrade");
    fields.push(b"upgrade", b"websocket");
}

/// Joins the two ends until both have closed their side, one has broken, nothing has moved in either direction for
/// `idle`, one of them takes nothing more for as long, or what they rest on is revoked.
pub(super) async fn join(client: Rewound, upstream: Rewound, idle: Duration, mut record: Box<Record>) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_upstream, to_upstream) = tokio::io::split(upstream);
    let revocable = record.revocable();
    let sent = record.request_bytes().clone();
    let last_moved = Cell::new(Instant::now());
    let up = copy(from_client, to_upstream, idle, &last_moved, |bytes| sent.add(bytes));
    let down = copy(from_upstream, to_client, idle, &last_moved, |bytes| record.passed_on(bytes));
    // An end that broke takes the other with it, which would otherwise wait for a peer that is gone.
    let joined = async { tokio::try_join!(up, down) };
    let is_revoked = tokio::select! {
        _broken = joined => false,
        () = revocable.revoked() => true,
    };
    if is_revoked {
        record.end_revoked();
    }
}

/// Copies until the end, an error or a standstill of both directions, then closes this one.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    idle: Duration,
    last_moved: &Cell<Instant>,
    mut moved: impl FnMut(usize),
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match timeout_at(last_moved.get() + idle, from.read(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) if last_moved.get().elapsed() < idle => continue,
            Err(_) => 0,
        };
        if read == 0 {
            return timeout(idle, to.shutdown()).await?;
        }
        // A TLS stream takes bytes that it has not sent yet; the last of a message must not wait for the next.
        timeout(idle, async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        })
        .await??;
        last_moved.set(Instant::now());
        moved(read);
    }
}
