//! What the metrics tell about requests: how many by status and reason, and how long Sidekey held them up.

use serde_json::json;

use crate::api::{self, API};
use crate::harness::sink::Step;
use crate::harness::{Raw, Script, Sidekey, Sink, get, soon};

/// Waits until a sample is what it should be: a request is counted when it is over, which its client may see earlier.
async fn counted(server: &Sidekey, sample: &str, expected: f64) {
    soon(&format!("{sample} {expected}"), async { while server.metric(sample).await != expected {} }).await;
}

#[tokio::test]
async fn requests_are_counted_by_status_and_reason_over_all_workers() {
    let sink = Sink::https().await;
    sink.on("/cut", Script::cut_in_body(10, "half", Step::Fin));
    sink.on("/missing", Script::respond(404, &[], "not here"));
    sink.on("/stall", Script::stall());
    let server = api::with(&sink, |config| {
        config.set("proxy.threads", 3);
    })
    .await;
    for _ in 0..30 {
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    }
    for _ in 0..7 {
        assert_eq!(get(server.proxy(), "/missing", &[API]).await.status, 404);
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "nobody")]).await.status, 404);
    }
    let mut raw = Raw::connect(server.proxy()).await;
    raw.request("GET", "/cut", &[API], "").await;
    assert!(raw.try_response().await.is_err());
    let mut gone = Raw::connect(server.proxy()).await;
    gone.request("GET", "/stall", &[API], "").await;
    sink.request_where("the request", |seen| seen.target == "/stall").await;
    gone.reset();

    counted(&server, "sidekey_requests_total{status=\"2xx\"}", 30.0).await;
    counted(&server, "sidekey_requests_total{status=\"4xx\"}", 7.0).await;
    counted(&server, "sidekey_requests_total{status=\"4xx\",reason=\"connection_unknown\"}", 7.0).await;
    counted(&server, "sidekey_requests_total{status=\"2xx\",reason=\"upstream_truncated\"}", 1.0).await;
    counted(&server, "sidekey_requests_total{status=\"gone\",reason=\"client_gone\"}", 1.0).await;
    counted(&server, "sidekey_refusals_total{code=\"connection_unknown\"}", 7.0).await;
    assert_eq!(server.metric("sidekey_requests_total{status=\"5xx\"}").await, 0.0);
    assert!(!server.metrics().await.contains("\"other\""), "every reason has a name");
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_time_added_is_that_of_relayed_requests() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let mut added = 0;
    for _ in 0..20 {
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        get(server.proxy(), "/", &[("Sidekey-Connection", "nobody")]).await;
    }
    for line in server.access_lines(40).await {
        if line["status"] == json!(200) {
            added += line["added_us"].as_u64().expect("a number");
        }
    }
    counted(&server, "sidekey_added_seconds_count", 20.0).await;
    counted(&server, "sidekey_added_seconds_bucket{le=\"+Inf\"}", 20.0).await;
    // Lines tell whole microseconds.
    let seconds = server.metric("sidekey_added_seconds_sum").await;
    let (least, most) = (added as f64 / 1e6 - 1e-9, (added + 20) as f64 / 1e6);
    assert!((least..=most).contains(&seconds), "{least} {seconds} {most}");
    server.finish(&[]).await;
}
