//! The fuzz targets' judges. Bytes go through the real data plane, from a client's socket to an upstream's or back, on
//! one thread; what comes out is read by the strict oracle of the integration tests and compared with what a reader of
//! our own makes of what went in. A panic anywhere is a finding, and so is an exchange that does not end.

mod reading;
mod stage;
#[path = "../../tests/it/harness/strict.rs"]
#[allow(dead_code, unreachable_pub, reason = "the oracle of the integration tests, as it is")]
mod strict;

use reading::Reply;
use stage::{HOST, Plan, Seen, TOKEN, conversation};

/// A request that must get through after whatever came before.
const SURVIVOR: &[u8] = b"GET /survivor HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The first byte says where the rest is cut in two pieces.
fn pieces(data: &[u8]) -> Option<[&[u8]; 2]> {
    let (&at, bytes) = data.split_first()?;
    let (before, behind) = bytes.split_at(usize::from(at).min(bytes.len()));
    Some([before, behind])
}

/// Client bytes, to the relay, to a strict upstream. The first byte of `data` cuts the rest in two pieces.
pub fn client_to_sink(data: &[u8]) {
    let Some(sent) = pieces(data) else { return };
    let outcome = conversation(Plan::Obedient, &[&sent, &[SURVIVOR]]);
    let survivor = reading::reply(&outcome.answers[1], "GET");
    let survivor = survivor.expect("a well-formed answer to the survivor").expect("an answer to the survivor");
    assert!(survivor.complete && survivor.status == 200 && survivor.body == b"ok", "{survivor:?}");
    if !outcome.answers[0].is_empty() {
        let method = if data[1..].trim_ascii_start().starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        reading::reply(&outcome.answers[0], method).expect("a well-formed answer");
    }
    if let Some(violation) = outcome.violations.first() {
        panic!("the upstream received what is malformed: {violation}");
    }
    let mut seen = outcome.seen;
    let survivor = seen.iter().rposition(|seen| seen.complete && seen.target == "/survivor");
    seen.remove(survivor.expect("the survivor arrived"));
    for seen in &seen {
        judge_request(seen);
    }
    // Each request that arrived is one that was asked, in the same order; some were answered by Sidekey itself.
    let mut asked = reading::requests(&data[1..]).into_iter();
    for seen in seen {
        let is_it = |asked: &reading::Asked| {
            asked.method == seen.method
                && asked.body.starts_with(&seen.body)
                && (!seen.complete || asked.complete && asked.body.len() == seen.body.len())
        };
        assert!(asked.any(|asked| is_it(&asked)), "nobody asked this: {seen:?}");
    }
}

/// It carries the credential once, names the upstream's host, and none of it was meant for Sidekey.
fn judge_request(seen: &Seen) {
    let all = |name: &str| strict::all(&seen.fields, name);
    assert_eq!(all("authorization"), [format!("Bearer {TOKEN}")], "{seen:?}");
    assert_eq!(all("host"), [HOST], "{seen:?}");
    for (name, _) in seen.fields.iter().chain(&seen.trailers) {
        let name = name.to_ascii_lowercase().replace('_', "-");
        assert!(!name.starts_with("sidekey-") && name != "proxy-authorization", "{seen:?}");
    }
    assert!(strict::all(&seen.trailers, "authorization").is_empty(), "{seen:?}");
}

/// Upstream bytes, to the relay, to a client. The first byte of `data` says how the client asks, the second cuts the
/// rest in two pieces.
pub fn upstream_to_client(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let Some(sent) = pieces(rest) else { return };
    let method = ["GET", "HEAD", "POST", "GET"][usize::from(how & 3)];
    let minor = 1 - (how >> 2 & 1);
    let answered = reading::answer(&rest[1..], method);
    // Where the answer says itself how long it is, the connection may stay open behind it.
    let stays = how & 8 != 0 && answered.as_ref().is_some_and(|answered| answered.complete && !answered.until_close);
    let body = if method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
    let request = format!("{method} /fuzzed HTTP/1.{minor}\r\nHost: localhost\r\nConnection: close\r\n{body}");
    let plan = Plan::Scripted { bytes: sent.map(<[u8]>::to_vec), stays };
    let outcome = conversation(plan, &[&[request.as_bytes()], &[SURVIVOR]]);
    let reply = reading::reply(&outcome.answers[0], method).expect("a well-formed answer, or a part of one");
    if let Some(reply) = reply {
        judge_reply(&reply, answered.as_ref(), minor);
    }
    let survivor = reading::reply(&outcome.answers[1], "GET");
    let survivor = survivor.expect("a well-formed answer to the survivor").expect("an answer to the survivor");
    assert!(survivor.complete && survivor.status == 200 && survivor.body == b"ok", "{survivor:?}");
}

/// It is Sidekey's own, and whole; or it is the upstream's, and no more of it than came.
fn judge_reply(reply: &Reply, answered: Option<&reading::Answered>, minor: u8) {
    if let Some(code) = strict::all(&reply.fields, "sidekey-error").first() {
        assert!(reply.complete, "half an answer of Sidekey's own: {reply:?}");
        let named = format!("\"code\":\"{code}\"");
        let body = String::from_utf8_lossy(&reply.body);
        assert!(reply.body.is_empty() || body.contains(&named), "an upstream's answer as Sidekey's own: {reply:?}");
        assert_ne!(*code, "internal", "{reply:?}");
        return;
    }
    let answered = answered.unwrap_or_else(|| panic!("no upstream answered this: {reply:?}"));
    assert_eq!(reply.status, answered.status, "{reply:?}");
    assert!(answered.body.starts_with(&reply.body), "{reply:?} {answered:?}");
    // Of a body that ends with its connection nobody can tell, on a socket that has no reset.
    if reply.complete && !(minor == 0 && reply.until_close) {
        assert!(answered.complete && answered.body.len() == reply.body.len(), "it looks whole: {reply:?} {answered:?}");
    }
}

#[cfg(test)]
mod tests {
    /// What fuzzing found worth keeping, once more, without its engine.
    fn judge_all(target: &str, judge: fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let files: Vec<_> = std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("a file")).collect();
        assert!(files.len() > 10, "{}", files.len());
        for file in files {
            let input = std::fs::read(file.path()).expect("a readable file");
            let judged = std::panic::catch_unwind(|| judge(&input));
            assert!(judged.is_ok(), "{}", file.path().display());
        }
    }

    #[test]
    fn client_to_sink() {
        judge_all("client_to_sink", super::client_to_sink);
    }

    #[test]
    fn upstream_to_client() {
        judge_all("upstream_to_client", super::upstream_to_client);
    }
}
