//! The admin port: its own listener, on the control runtime, read by the same rules as the proxy port.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::bind::BoundTcp;
use super::connection::Protocol;
use super::streams::Outgoing;
use super::strict::Strict;
use super::{StartError, assemble};
use crate::admin::{self, Control, Peer};
use crate::clock;
use crate::config::AdminSettings;
use crate::telemetry::metrics::Metrics;
use crate::tls::ServerTls;

impl Outgoing for Body {}

/// A bound admin port.
pub(super) struct AdminPort {
    listener: std::net::TcpListener,
    /// Where it is.
    pub(super) address: SocketAddr,
    /// TLS, where it has a certificate.
    pub(super) tls: Option<Arc<ServerTls>>,
}

impl AdminPort {
    /// Takes the address; `None` where the admin port is off.
    pub(super) fn bind(settings: &AdminSettings) -> Result<Option<Self>, StartError> {
        if !settings.enabled {
            return Ok(None);
        }
        let bound = BoundTcp::take(settings.address)?;
        let address = bound.address;
        let listener = bound.listen(1)?.swap_remove(0);
        Ok(Some(AdminPort { listener, address, tls: assemble::listener_tls(settings.tls.as_ref())? }))
    }

    /// Serves it in a local task until the server drains.
    pub(super) fn serve(self, service: Service, drain: CancellationToken) -> Result<SocketAddr, StartError> {
        let listener = TcpListener::from_std(self.listener)?;
        let (address, tls, service) = (self.address, self.tls, Rc::new(service));
        tokio::task::spawn_local(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = drain.cancelled() => return,
                };
                let Ok((stream, peer)) = accepted else {
                    clock::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (service, drain, tls) = (Rc::clone(&service), drain.clone(), tls.clone());
                tokio::task::spawn_local(async move {
                    match tls {
                        None => service.serve(stream, peer, drain).await,
                        Some(tls) => {
                            if let Ok(Ok((stream, _))) = clock::timeout(service.head_timeout, tls.accept(stream)).await
                            {
                                service.serve(stream, peer, drain).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(address)
    }
}

/// What answers at the admin port.
pub(super) struct Service {
    protocol: Protocol,
    router: Router,
    metrics: Arc<Metrics>,
    head_timeout: Duration,
}

impl Service {
    /// Makes all that answers: every call and their description, which takes some milliseconds.
    pub(super) fn new(control: Arc<Control>, head_timeout: Duration, write_timeout: Duration) -> Self {
        let metrics = Arc::clone(&control.metrics);
        let protocol = Protocol::new(head_timeout, write_timeout, Arc::clone(&metrics));
        Service { protocol, router: admin::router(control), metrics, head_timeout }
    }

    async fn serve<S>(&self, stream: S, peer: SocketAddr, drain: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, verdict) = Strict::new(stream, self.head_timeout);
        let asked = Cell::new(0);
        let answer = |mut request: Request<Incoming>| {
            asked.set(asked.get() + 1);
            request.extensions_mut().insert(Peer(peer));
            if let Some(why) = verdict.on(asked.get()) {
                self.metrics.malformed_connections.inc();
                request.extensions_mut().insert(why);
            }
            let answered = self.router.clone().oneshot(request);
            async move { answered.await.unwrap_or_else(|never| match never {}) }
        };
        Box::pin(self.protocol.serve(stream, drain, answer)).await;
    }
}
