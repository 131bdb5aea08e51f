//! Over TLS: identity, truncation, and that a connection is nobody else's.

use super::*;
use crate::tls::{HandshakeError, ServerStream, ServerTls};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn accept_http1(listener: &TcpListener, tls: &ServerTls) -> ServerStream<TcpStream> {
    tls.accept(hold(listener).await).await.unwrap().0
}

/// Serves one response on one connection and hangs up with or without `close_notify`.
async fn answer_to_the_end(notify: bool, answer: &str) -> Result<String, UpstreamError> {
    let ca = Ca::new();
    let tls = ca.server(&["api.test"]);
    let (listener, address) = listen().await;
    // The upgrade path offers HTTP/1.1 only, which a server that prefers HTTP/2 then takes.
    let (upstream, deadlines) = upstream(settings(ca.client(), address));
    let server = async {
        let mut stream = accept_http1(&listener, &tls).await;
        read_request(&mut stream).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        if notify {
            stream.shutdown().await.unwrap();
        }
    };
    let api = origin("https://api.test");
    let mut record = Exchange::default();
    let mut request = outgoing(get("/"));
    let (response, ()) = tokio::join!(upstream.send_upgrade(&api, &mut request, &deadlines, &mut record), server);
    text(received(response?)).await
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_needs_close_notify() {
    on_local(async {
        let open_ended = "HTTP/1.1 200 OK\r\n\r\nhalf of it";
        assert_eq!(answer_to_the_end(true, open_ended).await.unwrap(), "half of it");
        let error = answer_to_the_end(false, open_ended).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Body(_)), "{error}");
        assert_eq!(answer_to_the_end(false, OK).await.unwrap(), "ok", "a length of its own is enough");
    })
    .await;
}

#[tokio::test]
async fn a_wrong_name_or_an_unknown_issuer_is_a_certificate_error() {
    on_local(async {
        let ca = Ca::new();
        let tls = ca.server(&["api.test"]);
        for (client, target) in [
            (ca.client(), "https://wrong.test".to_owned()),
            (Ca::new().client(), "https://api.test".to_owned()),
            (ca.client(), "https://127.0.0.1".to_owned()),
        ] {
            let (listener, address) = listen().await;
            let (upstream, deadlines) = upstream(settings(client, address));
            let target = if target.contains("127") { format!("{target}:{}", address.port()) } else { target };
            let api = origin(&target);
            let server = async { tls.accept(hold(&listener).await).await.is_err() };
            let (outcome, refused) = tokio::join!(upstream.send_noted(&api, get("/"), &deadlines), server);
            let error = outcome.unwrap_err();
            assert!(matches!(error, UpstreamError::Tls(HandshakeError::Certificate(_))), "{target}: {error}");
            assert!(refused);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_without_tls_is_a_protocol_error() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let server = async { hold(&listener).await.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap() };
        let api = origin("https://api.test");
        let (outcome, ()) = tokio::join!(upstream.send_noted(&api, get("/"), &deadlines), server);
        assert!(matches!(outcome, Err(UpstreamError::Tls(HandshakeError::Protocol(_)))), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn a_literal_address_is_verified_as_what_it_is() {
    on_local(async {
        let ca = Ca::new();
        let tls = ca.server(&["127.0.0.1"]);
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(settings(ca.client(), address));
        let api = origin(&format!("https://127.0.0.1:{}", address.port()));
        let server = async {
            let mut stream = accept_http1(&listener, &tls).await;
            let request = read_request(&mut stream).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            (request, stream)
        };
        let mut record = Exchange::default();
        let mut request = outgoing(get("/"));
        let (response, (request, _held)) =
            tokio::join!(upstream.send_upgrade(&api, &mut request, &deadlines, &mut record), server);
        assert_eq!(text(received(response.unwrap())).await.unwrap(), "ok");
        assert_fields(&request, "GET / HTTP/1.1", &[&format!("host: {address}")]);
    })
    .await;
}

#[tokio::test]
async fn two_names_at_one_address_share_nothing() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&[OK, OK], &[OK, OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        for (name, connection) in [("api.test", 0), ("b.test", 1), ("api.test", 0), ("b.test", 1)] {
            let response = upstream.send_noted(&origin(&format!("http://{name}")), get("/"), &deadlines).await.unwrap();
            text(response).await.unwrap();
            let (used, request) = requests.recv().await.unwrap();
            assert_eq!(used, connection);
            assert!(request.contains(&format!("host: {name}\r\n")));
        }
    })
    .await;
}
