//! More requests than the server takes at once: one too many is told so at once, and none keeps its place when it ends.

use crate::api::{self, API};
use crate::attack::{SMUGGLED, Stage, TAG, Table};
use crate::h2_frames::{END_HEADERS, HEADERS, REQUEST, SETTINGS, block, frame};
use crate::harness::sink::{Gate, Step};
use crate::harness::{Client, Raw, Script, Sidekey, Sink, get, problem, soon};

/// As many requests as [`limited`] takes at once.
const MOST: i32 = 10;

async fn limited(sink: &Sink) -> Sidekey {
    api::with(sink, |config| {
        config.set("proxy.threads", 1).set("proxy.max_requests", MOST);
    })
    .await
}

/// Requests that stay under way until the gate opens.
async fn fill(server: &Sidekey, sink: &Sink, gate: &Gate) -> Vec<Client> {
    let mut held = Vec::new();
    let first = sink.count();
    for number in 0..MOST {
        let path = format!("/held/{first}/{number}");
        sink.on(&path, Script::new().gate(gate).then(Step::Echo));
        let mut client = Client::connect(server.proxy()).await;
        client.request("GET", &path, &[API], "").await;
        sink.request_where("a held request", |seen| seen.target == path).await;
        held.push(client);
    }
    held
}

/// OV-15, by counts instead of by load: what is too much is refused before anything is done for it, what was begun goes on, and afterwards all is well.
#[tokio::test]
async fn one_request_too_many_is_told_so_at_once() {
    let sink = Sink::https().await;
    let server = limited(&sink).await;
    for _ in 0..2 {
        let gate = Gate::shut();
        let mut held = fill(&server, &sink, &gate).await;
        let before = sink.count();
        for _ in 0..5 * MOST {
            let refused = get(server.proxy(), "/", &[API]).await;
            let told = problem(&refused);
            assert_eq!((told.status, told.code.as_str()), (503, "overloaded"));
            assert_eq!(refused.header("retry-after"), Some("1"));
        }
        assert_eq!(sink.count(), before, "nothing of them goes upstream");
        gate.open();
        for client in &mut held {
            assert_eq!(client.response().await.status, 200);
        }
        for _ in 0..2 * MOST {
            assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        }
    }
    server.finish(&[]).await;
}

/// H1-45, of this answer.
#[tokio::test]
async fn the_body_of_a_request_too_many_is_never_a_request() {
    let stage = Stage::before(Sink::https().await, |config| {
        config.set("proxy.threads", 1).set("proxy.max_requests", MOST).bearer("api", "t");
    })
    .await;
    let (gate, mut table) = (Gate::shut(), Table::default());
    let mut held = fill(&stage.server, &stage.sink, &gate).await;
    for (name, body) in [
        ("all of it", format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len())),
        ("a part of it", format!("Content-Length: 1000000\r\n\r\n{SMUGGLED}")),
        ("chunked", format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())),
    ] {
        let outcome = stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}{body}")).await;
        let once = outcome.statuses() == [503] && outcome.code() == Some("overloaded");
        table.row(name, once && outcome.seen.is_empty(), &outcome);
    }
    gate.open();
    for client in &mut held {
        assert_eq!(client.response().await.status, 200);
    }
    table.check();
    stage.server.finish(&[&stage.token]).await;
}

/// OV-11, with 50 clients of each kind: what they make the server hold, beside what they have sent. A connection of HTTP/2
/// has a hundred requests under way, each with a connection to its upstream; so it is given 32 KiB for each of them.
#[tokio::test]
async fn no_client_makes_the_server_hold_much_more_than_it_sends() {
    const CLIENTS: u64 = 50;
    let long = "x".repeat(200);
    let more: [(&[u8], &[u8]); 20] = [(b"x-long", long.as_bytes()); 20];
    let fields = block(&[&REQUEST[..], &more].concat());
    let streams = (0..100).flat_map(|number| frame(HEADERS, END_HEADERS, 2 * number + 1, &fields));
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    let post = |rest: &str, filler: &str, length: usize| {
        format!("POST /p HTTP/1.1\r\n{TAG}{rest}{}", filler.repeat(length / filler.len())).into_bytes()
    };
    for (name, requests, bytes) in [
        ("one byte", 1, b"G".to_vec()),
        ("a head without end", 1, post("X-Long: ", "x", 60 << 10)),
        ("an extension without end", 1, post("Transfer-Encoding: chunked\r\n\r\n1;", "x", 12 << 10)),
        ("trailers without end", 1, post("Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: 1\r\n", 2 << 10)),
        ("a body without end", 1, post("Content-Length: 9999999\r\n\r\n", "x", 256 << 10)),
        ("streams without end", 100, preface.into_iter().chain(streams).collect()),
    ] {
        let stage = Stage::before(Sink::builder().keep(1000).start().await, |config| {
            config.set("proxy.threads", 1);
        })
        .await;
        let (before, _) = stage.server.memory();
        let mut held = Vec::new();
        for _ in 0..CLIENTS {
            let mut raw = Raw::connect(stage.server.proxy()).await;
            raw.try_send(&bytes).await.expect("it is taken");
            held.push(raw);
        }
        // The one worker has read from each of them when it has answered this.
        stage.survives().await;
        let (_, highest) = stage.server.memory();
        let (grown, sent) = (highest.saturating_sub(before), CLIENTS * bytes.len() as u64);
        let most = (1 << 20).max(requests * (32 << 10));
        assert!(grown <= CLIENTS * most, "{name}: {} KiB a client", (grown / CLIENTS) >> 10);
        assert!(bytes.len() == 1 || grown <= 100 * sent, "{name}: {grown} bytes for {sent}");
        drop(held);
        stage.server.finish(&[&stage.token]).await;
    }
}

/// RL-06, with 100 requests instead of 10,000: whoever goes away at whatever point takes no place with them.
#[tokio::test]
async fn requests_whose_clients_went_away_keep_no_place() {
    let sink = Sink::https().await;
    let server = limited(&sink).await;
    let gate = Gate::shut();
    for point in 0..100 {
        let path = format!("/never/{point}");
        sink.on(&path, Script::new().gate(&gate).then(Step::Echo));
        let mut client = Client::connect(server.proxy()).await;
        match point % 4 {
            0 => client.request("GET", &path, &[API], "").await,
            1 => {
                client.request("GET", &path, &[API], "").await;
                sink.request_where("it has come", |seen| seen.target == path).await;
            }
            2 => client.request("POST", "/", &[API], "body").await,
            _ => {
                client.request("GET", "/", &[API], "").await;
                client.head().await;
            }
        }
        drop(client);
        // So that every one of them finds a place to lose.
        if point % MOST == MOST - 1 {
            let all_gone = async { while server.metric("sidekey_open_connections").await > 0.0 {} };
            soon("the end of every connection", all_gone).await;
        }
    }
    let open = Gate::shut();
    let mut held = fill(&server, &sink, &open).await;
    assert_eq!(problem(&get(server.proxy(), "/", &[API]).await).code, "overloaded");
    open.open();
    for client in &mut held {
        assert_eq!(client.response().await.status, 200);
    }
    gate.open();
    server.finish(&[]).await;
}
