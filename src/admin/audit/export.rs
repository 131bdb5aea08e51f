//! Events as JSON lines, as many as there are: read a page at a time, while they are taken.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::View;
use crate::vault::audit::{Chain, Filter, Order};
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::list::Page;

/// How many events are read at once.
const BATCH: u32 = 500;

/// The answer that an export is. What fails in its middle breaks it off.
pub(super) fn stream(database: Database, chain: Chain, filter: Filter) -> Response {
    // One batch waits while the one before is taken: whoever reads slowly holds no more memory than that.
    let (sender, pages) = channel(1);
    tokio::spawn(async move {
        if let Err(error) = read(&database, chain, &filter, &sender).await {
            tracing::error!(%error, "an export of the audit log broke off");
            let _gone = sender.send(Err(error)).await;
        }
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::new(Pages(pages))).into_response()
}

async fn read(
    database: &Database,
    chain: Chain,
    filter: &Filter,
    sender: &Sender<Result<Bytes, DatabaseError>>,
) -> Result<(), DatabaseError> {
    let mut cursor: Option<String> = None;
    loop {
        let page = Page { limit: BATCH, cursor: cursor.as_deref() };
        let list = database.events(chain, filter, Order::OldestFirst, page).await?;
        let mut lines = Vec::new();
        for event in list.items {
            // Numbers, texts and tables of texts: nothing of it can fail to be written.
            let _infallible = serde_json::to_writer(&mut lines, &View::from(event));
            lines.push(b'\n');
        }
        if !lines.is_empty() && sender.send(Ok(lines.into())).await.is_err() {
            return Ok(());
        }
        cursor = list.next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

struct Pages(Receiver<Result<Bytes, DatabaseError>>);

impl http_body::Body for Pages {
    type Data = Bytes;
    type Error = DatabaseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DatabaseError>>> {
        self.0.poll_recv(context).map(|page| page.map(|page| page.map(Frame::data)))
    }
}
