//! The same over HTTP/2: an upstream that speaks nothing else, and a client with many streams.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{Request, Response};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{CONNECTIONS, Fault};

/// How many streams the client has at once.
const STREAMS: usize = 16;
/// How many requests it sends on each, one behind another.
const REQUESTS: usize = 500;
/// What some of them bring along.
const BODY: [u8; 700] = [b'x'; 700];

/// Starts the upstream, in a thread of its own.
pub(crate) fn start(mut tls: ServerConfig) -> Result<SocketAddr, Fault> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || runtime.block_on(accept_all(listener, &TlsAcceptor::from(Arc::new(tls)))));
    Ok(address)
}

async fn accept_all(listener: std::net::TcpListener, tls: &TlsAcceptor) -> Result<(), Fault> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let shaking = tls.accept(stream);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(shaking.await?).await?;
            while let Some(asked) = connection.accept().await {
                let (request, respond) = asked?;
                tokio::spawn(answer(request, respond));
            }
            Ok::<(), Fault>(())
        });
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece?.len())?;
    }
    let head = Response::builder().header("content-type", "application/json").header("x-ratelimit-remaining", "4987");
    let mut stream = respond.send_response(head.body(()).unwrap_or_default(), false)?;
    stream.send_data(Bytes::from_static(&[b'x'; 1024]), true)
}

/// Sends everything, and reads every answer to its end. Each second request goes on over HTTP/2.
pub(crate) fn send_all(proxy: SocketAddr) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (sender, connection) = h2::client::handshake(TcpStream::connect(proxy).await?).await?;
        tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for number in 0..STREAMS {
            streams.spawn(send(sender.clone(), proxy, number));
        }
        while let Some(sent) = streams.join_next().await {
            sent??;
        }
        Ok(())
    })
}

async fn send(sender: SendRequest<Bytes>, proxy: SocketAddr, number: usize) -> Result<(), Fault> {
    for round in 0..REQUESTS {
        let slug = if round % 2 == 0 { "tls" } else { "two" };
        let connection = format!("{slug}-{}", (round * 7 + number * 13) % CONNECTIONS);
        let has_body = round % 5 == 0;
        let request = Request::builder()
            .method(if has_body { "POST" } else { "GET" })
            .uri(format!("http://{proxy}/repos/octo/hello/issues/1024"))
            .header("user-agent", "octokit-rest.js/20.0.2 Node.js/20.11")
            .header("accept", "application/vnd.github+json")
            .header("x-connection-id", connection)
            .header("content-length", if has_body { BODY.len() } else { 0 })
            .body(())?;
        let mut sender = sender.clone().ready().await?;
        let (answer, mut upload) = sender.send_request(request, !has_body)?;
        if has_body {
            upload.send_data(Bytes::from_static(&BODY), true)?;
        }
        let answer = answer.await?;
        let status = answer.status();
        let (mut body, mut told) = (answer.into_body(), Vec::new());
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            told.extend_from_slice(&piece);
        }
        if status != 200 {
            return Err(format!("{slug} over HTTP/2: {status} {}", String::from_utf8_lossy(&told)).into());
        }
    }
    Ok(())
}
