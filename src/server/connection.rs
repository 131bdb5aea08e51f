//! Connections that hyper reads: those of the admin port, and those of the proxy port that speak HTTP/2.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::streams::{Outgoing, Streams, Told};
use crate::clock::{self, HyperTimer};
use crate::telemetry::metrics::Metrics;

/// The largest head that is read, and what hyper buffers for it. It takes 100 fields at most, by itself.
const LARGEST_HEAD: usize = 64 * 1024;
const MOST_STREAMS: u32 = 100;

/// How connections are read.
pub struct Protocol {
    builder: auto::Builder<Streams>,
    head_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Protocol {
    /// HTTP/1.1, of which the heads were judged and bounded before, and HTTP/2 with prior knowledge. Twice `head_timeout`
    /// bounds the time until the first request: who judges heads is patient once before a head begins and once with it.
    /// A stream of HTTP/2 whose client takes nothing of an answer for `write_timeout` is reset.
    pub fn new(head_timeout: Duration, write_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        let mut builder = auto::Builder::new(Streams { write_timeout });
        builder.http1().timer(HyperTimer).header_read_timeout(None).max_buf_size(LARGEST_HEAD).half_close(true);
        builder
            .http2()
            .timer(HyperTimer)
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(16 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        Protocol { builder, head_timeout, metrics }
    }

    /// Serves a connection until it ends, or until `drain` and then what was begun.
    pub async fn serve<I, F, A, B>(&self, stream: I, drain: CancellationToken, answer: A)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn(Request<Incoming>) -> F,
        F: Future<Output = Response<B>> + 'static,
        B: Outgoing<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    {
        let begun = Cell::new(false);
        let service = service_fn(|request| {
            begun.set(true);
            let answered = answer(request);
            async move { Ok::<_, Infallible>(answered.await.map(Told::new)) }
        });
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        // hyper has no deadline for the beginning of HTTP/2.
        let mut first = pin!(clock::sleep(2 * self.head_timeout));
        let mut waits_for_first = true;
        let mut drains = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = first.as_mut(), if waits_for_first => {
                    waits_for_first = false;
                    if !begun.get() {
                        return;
                    }
                }
                () = drain.cancelled(), if !drains => {
                    drains = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            self.note(&*error);
        }
    }

    /// hyper answers what is no HTTP by itself (400, 414, 431) and closes; this is where it is counted.
    fn note(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) {
        let parse = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
        if parse {
            self.metrics.malformed_connections.inc();
            tracing::debug!(error = %error.to_string().escape_debug(), "a connection did not speak HTTP");
        }
    }
}
