//! A stage for attacks: one server before one scripted upstream, bytes sent as they are, and what became of them.
//!
//! An attack is judged by what the upstream received, by what the client was told, and by whether the connection ended.
//! Tables collect what went wrong, so that one run shows every row that fails. `finish` runs the oracles that hold
//! after every attack: everything the upstream received was well formed, no canary got out, the server ends well.

use crate::harness::client::Address;
use crate::harness::sink::Seen;
use crate::harness::wires::{Version, wires};
use crate::harness::{Canary, Config, Raw, Reply, Sidekey, Sink, client};

/// A server with the connection `c1` to an upstream, and the canary that is its credential.
pub(crate) struct Stage {
    pub(crate) server: Sidekey,
    pub(crate) sink: Sink,
    pub(crate) token: Canary,
}

/// The head lines every well-formed request to `c1` needs.
pub(crate) const TAG: &str = "Host: localhost\r\nSidekey-Connection: c1\r\n";

/// A request that must never be one: the body of another message.
pub(crate) const SMUGGLED: &str = "GET /SMUG HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: c1\r\n\r\n";

impl Stage {
    /// A bearer connection `c1` to a TLS upstream.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, described further.
    pub(crate) async fn with(describe: impl FnOnce(&mut Config)) -> Self {
        Self::before(Sink::https().await, describe).await
    }

    /// The same before an upstream of the test's own.
    pub(crate) async fn before(sink: Sink, describe: impl FnOnce(&mut Config)) -> Self {
        let token = Canary::new("c1");
        let server = Sidekey::with(|config| {
            config.to(&sink).bearer("c1", token.text());
            describe(config);
        })
        .await;
        Stage { server, sink, token }
    }

    /// Sends bytes on a connection of their own and says what became of them. The client does not hang up: where the
    /// server keeps the connection open, that is noted, and only then does the client end its side.
    pub(crate) async fn attack(&self, bytes: impl AsRef<[u8]>) -> Outcome {
        self.exchange(bytes.as_ref(), Client::Stays).await
    }

    /// Sends one well-formed request over the run's wire. Over HTTP/2 its stream has ended with its answer, as an
    /// HTTP/1.1 connection ends after an answer that says so.
    pub(crate) async fn ask(&self, text: impl AsRef<[u8]>) -> Outcome {
        if wires().client == Version::Http1 {
            return self.attack(text).await;
        }
        let before = self.sink.count();
        let reply = client::ask(self.server.proxy(), text).await;
        let seen = self.sink.requests().split_off(before);
        Outcome { replies: vec![reply], partial: None, closed: true, seen }
    }

    /// `attack` by a client that ends its side at once.
    pub(crate) async fn attack_and_end(&self, bytes: impl AsRef<[u8]>) -> Outcome {
        self.exchange(bytes.as_ref(), Client::EndsAtOnce).await
    }

    async fn exchange(&self, bytes: &[u8], client: Client) -> Outcome {
        let before = self.sink.count();
        let outcome = exchange(&self.server.proxy(), bytes, client).await;
        Outcome { seen: self.sink.requests().split_off(before), ..outcome }
    }

    /// A clean request on a new socket, after whatever came before, still reaches the upstream as it is.
    pub(crate) async fn survives(&self) {
        let reply = client::get(self.server.proxy(), "/survivor", &[("Sidekey-Connection", "c1")]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["target"], "/survivor");
    }

    /// Every request the upstream saw that was no survivor's.
    pub(crate) fn forwarded(&self) -> Vec<Seen> {
        self.sink.requests().into_iter().filter(|seen| seen.target != "/survivor").collect()
    }

    /// The oracles that hold after every attack.
    pub(crate) async fn finish(self) {
        self.survives().await;
        self.sink.assert_strict();
        for seen in self.sink.requests() {
            assert!(!seen.target.contains("SMUG"), "a smuggled request arrived: {seen:?}");
            let credential = format!("Bearer {}", self.token.text());
            if seen.all("authorization") != [credential.as_str()] {
                panic!("not exactly the one credential in {} {}", seen.method, seen.target);
            }
        }
        self.server.finish(&[&self.token]).await;
    }
}

/// When the client ends its side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Once the server has kept the connection open.
    Stays,
    EndsAtOnce,
}

/// Sends bytes on a connection of their own, and says what was answered.
pub(crate) async fn exchange(address: &Address, bytes: &[u8], client: Client) -> Outcome {
    let mut raw = Raw::connect(address).await;
    // A server that has seen enough may end the connection while we still send.
    let sent = raw.try_send(bytes).await;
    let mut outcome = Outcome { closed: client == Client::Stays, ..Outcome::default() };
    let mut open = sent.is_ok();
    if client == Client::EndsAtOnce && open {
        open = raw.try_finish().await.is_ok();
    }
    loop {
        match raw.try_response().await {
            Ok(reply) => {
                let ends = reply.all("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
                outcome.replies.push(reply);
                if !ends && client == Client::Stays && open {
                    outcome.closed = false;
                    open = raw.try_finish().await.is_err();
                }
            }
            Err(broken) => {
                outcome.partial = broken.partial;
                return outcome;
            }
        }
    }
}

/// What became of an attack.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The whole answers, in their order.
    pub(crate) replies: Vec<Reply>,
    /// An answer that broke off.
    pub(crate) partial: Option<Reply>,
    /// Whether the server ended the connection although the client had not.
    pub(crate) closed: bool,
    /// What reached the upstream meanwhile.
    pub(crate) seen: Vec<Seen>,
}

impl Outcome {
    /// The statuses of the answers.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.replies.iter().map(|reply| reply.status).collect()
    }

    /// The only answer; panics where there is another number of them.
    pub(crate) fn reply(&self) -> &Reply {
        assert_eq!(self.replies.len(), 1, "not one answer: {self:?}");
        &self.replies[0]
    }

    /// The code of Sidekey's own answer.
    pub(crate) fn code(&self) -> Option<&str> {
        self.replies.last().and_then(|reply| reply.header("sidekey-error"))
    }

    /// One answer of Sidekey's own with this status, the connection ended, nothing forwarded.
    pub(crate) fn is_refused(&self, status: u16) -> bool {
        self.statuses() == [status] && self.code().is_some() && self.closed && self.seen.is_empty()
    }

    /// The refusal of what is no well-formed message.
    pub(crate) fn is_malformed(&self) -> bool {
        self.is_refused(400) && self.code() == Some("request_malformed")
    }

    /// At most that refusal, the connection ended, nothing forwarded.
    pub(crate) fn is_cut(&self) -> bool {
        (self.replies.is_empty() || self.is_malformed()) && self.closed && self.seen.is_empty()
    }

    /// One 200, and one request at the upstream.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.statuses() == [200] && self.seen.len() == 1 && self.seen[0].complete
    }
}

/// Rows of a table that did not come out as they should.
#[derive(Default)]
pub(crate) struct Table {
    wrong: Vec<String>,
}

impl Table {
    /// Notes a row, and what became of it where that was wrong.
    pub(crate) fn row(&mut self, name: impl std::fmt::Debug, holds: bool, outcome: &Outcome) {
        if !holds {
            let heads: Vec<_> = outcome.seen.iter().map(|seen| seen.raw_head.escape_ascii().to_string()).collect();
            self.wrong.push(format!(
                "{name:?}: statuses {:?}, code {:?}, closed {}, broken off {}, forwarded {heads:?}",
                outcome.statuses(),
                outcome.code(),
                outcome.closed,
                outcome.partial.is_some(),
            ));
        }
    }

    /// Panics where a row was wrong.
    #[track_caller]
    pub(crate) fn check(self) {
        assert!(self.wrong.is_empty(), "{} rows are wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}
