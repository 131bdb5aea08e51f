//! More requests than the server takes at once: one too many is told so at once, and none keeps its place when it ends.

use crate::api::{self, API};
use crate::harness::sink::{Gate, Step};
use crate::harness::{Client, Script, Sidekey, Sink, get, problem, soon};

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

/// OV-15: what is too much is refused before anything is done for it, what was begun goes on, and afterwards all is well.
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
