//! The admin port: its own listener, on the control runtime, read by the same rules as the proxy port.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::bind::{Sockets, take};
use super::connection::Protocol;
use super::strict::Strict;
use super::{StartError, assemble};
use crate::admin::{self, Control, Peer};
use crate::clock;
use crate::config::{Address, AdminSettings};
use crate::telemetry::metrics::Metrics;
use crate::tls::ServerTls;

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
        let Sockets::Tcp(mut listeners) = take(&Address::Tcp(settings.address), 0)?.listen(1)? else { return Ok(None) };
        let listener = listeners.swap_remove(0);
        let address = listener.local_addr()?;
        Ok(Some(AdminPort { listener, address, tls: assemble::listener_tls(settings.tls.as_ref())? }))
    }

    /// Serves it in a local task until the server drains.
    pub(super) fn serve(
        self,
        control: Arc<Control>,
        head_timeout: Duration,
        drain: CancellationToken,
    ) -> Result<SocketAddr, StartError> {
        let listener = TcpListener::from_std(self.listener)?;
        let metrics = Arc::clone(&control.metrics);
        let protocol = Rc::new(Protocol::new(head_timeout, Arc::clone(&metrics)));
        let router = admin::router(control);
        let (address, tls) = (self.address, self.tls);
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
                let (protocol, metrics) = (Rc::clone(&protocol), Arc::clone(&metrics));
                let (router, drain) = (router.clone(), drain.clone());
                let connection = Connection { protocol, router, metrics, peer, head_timeout, drain };
                let tls = tls.clone();
                tokio::task::spawn_local(async move {
                    match tls {
                        None => connection.serve(stream).await,
                        Some(tls) => {
                            if let Ok(Ok((stream, _))) = clock::timeout(head_timeout, tls.accept(stream)).await {
                                connection.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(address)
    }
}

struct Connection {
    protocol: Rc<Protocol>,
    router: Router,
    metrics: Arc<Metrics>,
    peer: SocketAddr,
    head_timeout: Duration,
    drain: CancellationToken,
}

impl Connection {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let (stream, verdict) = Strict::new(stream, self.head_timeout);
        let asked = Cell::new(0);
        let answer = |mut request: Request<Incoming>| {
            asked.set(asked.get() + 1);
            request.extensions_mut().insert(Peer(self.peer));
            if let Some(why) = verdict.on(asked.get()) {
                self.metrics.malformed_connections.inc();
                request.extensions_mut().insert(why);
            }
            let answered = self.router.clone().oneshot(request);
            async move { answered.await.unwrap_or_else(|never| match never {}) }
        };
        Box::pin(self.protocol.serve(stream, self.drain, answer)).await;
    }
}
