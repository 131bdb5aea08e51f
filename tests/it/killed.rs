//! A server that is killed in the middle of changes: what it answered is there afterwards, and nothing is half there.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::json;

use crate::admin::{bearer, integration};
use crate::harness::{Canary, Reply, Sidekey, Sink, get};

/// How often it is killed.
const ROUNDS: usize = 6;

/// What somebody wrote, as far as they know.
#[derive(Default)]
struct Journal {
    begun: AtomicUsize,
    answered: AtomicUsize,
}

/// Makes one change after the other, and notes which were answered.
async fn write(journal: &Journal, change: impl AsyncFn(usize) -> Reply) {
    loop {
        let number = journal.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let reply = change(number).await;
        assert!(reply.status < 300, "change {number}: {} {}", reply.status, reply.text());
        journal.answered.store(number, Ordering::SeqCst);
    }
}

/// ST-01, with fewer rounds.
#[tokio::test]
async fn what_was_answered_outlives_a_kill_and_nothing_is_half_written_st_01() {
    let (sink, canary) = (Sink::https().await, Canary::new("token"));
    let mut server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    let token = |number: usize| format!("{}-{number}-", canary.text());
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token(0) })).await;
    let (tokens, secrets) = (Journal::default(), Journal::default());
    for round in 0..ROUNDS {
        let (admin, first) = (server.admin(), secrets.begun.load(Ordering::SeqCst) + 1);
        let path = "connections/crm/credentials/production";
        let entering = write(&tokens, async |number| admin.put(path, json!({ "token": token(number) })).await);
        let creating = write(&secrets, async |number| admin.put(&format!("secrets/KEY_{number}"), json!({})).await);
        let enough = secrets.answered.load(Ordering::SeqCst) + 3 + 5 * round;
        let killing = async {
            // After another number of changes in each round, and wherever the next ones are then.
            while secrets.answered.load(Ordering::SeqCst) < enough {
                tokio::task::yield_now().await;
            }
            server.process().signal(Signal::KILL);
        };
        tokio::select! {
            () = entering => {}
            () = creating => {}
            () = killing => {}
        }
        server.kill().await;
        server.restart().await;

        let admin = server.admin();
        for number in first..=secrets.begun.load(Ordering::SeqCst) {
            let is_there = admin.get(&format!("secrets/KEY_{number}")).await.status == 200;
            let was_answered = number <= secrets.answered.load(Ordering::SeqCst);
            assert!(is_there || !was_answered, "round {round}: KEY_{number} was answered");
        }
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await;
        assert_eq!(reply.status, 200, "round {round}: {}", reply.text());
        let sent = sink.requests().pop().expect("a request");
        let possible = tokens.answered.load(Ordering::SeqCst)..=tokens.begun.load(Ordering::SeqCst);
        let sent = sent.header("authorization").expect("a credential");
        assert!(possible.clone().any(|n| sent == format!("Bearer {}", token(n))), "{sent}: not of {possible:?}");
        let log = admin.get("audit/verify").await.json();
        assert_eq!(log["intact"], true, "round {round}: {log}");
    }
    server.finish(&[&canary]).await;
}
