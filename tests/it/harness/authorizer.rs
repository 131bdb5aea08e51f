//! An OAuth2 authorization server on a sink: it holds whoever asks it to what the RFCs demand, and remembers all of it.
//!
//! Its token endpoint believes nothing: a code counts once, for the client, address and verifier it was made for; a
//! client says who it is in the one way it is registered with; a refresh token that was used is noticed when it comes
//! again, and takes all that was given out beside it along. What was wrong is kept as a *fault*, so that a test can
//! assert that there was none. What it answers next can be scripted, or held back until the test lets it go. It has no
//! page for people: a test hands the address that a browser would open to [`Authorizer::consent`].

mod form;
pub mod journey;
mod ledger;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Value, json};

use super::board::Board;
use super::canary::Canary;
use super::config::Config;
use super::sink::{Gate, Script, Seen, Sink, Step};
pub use form::Form;
pub use ledger::{Asked, ClientAuth, Issued, Terms};
use ledger::{Consent, Ledger, Next};

/// The name of the server.
pub const AUTHORIZER: &str = "auth.example.test";

/// The client it knows from the beginning: it authenticates by HTTP Basic.
pub const CLIENT: &str = "sidekey";

/// An authorization server.
pub struct Authorizer {
    /// What answers for it.
    pub sink: Sink,
    /// The secret of [`CLIENT`].
    pub secret: Canary,
    /// What every access token begins with.
    pub access: Canary,
    /// What every refresh token begins with.
    pub refresh: Canary,
    /// What every code begins with.
    pub code: Canary,
    ledger: Arc<Board<Ledger>>,
}

/// What comes back from the provider's page.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The whole address of the callback.
    pub address: String,
    /// Its path and query.
    pub path: String,
    /// The code in it.
    pub code: String,
    /// The state in it.
    pub state: String,
}

impl Authorizer {
    /// Starts it.
    pub async fn start() -> Self {
        let sink = Sink::builder().tls(&[AUTHORIZER]).start().await;
        let [secret, access, refresh, code] = ["secret", "access", "refresh", "code"].map(Canary::new);
        let ledger = Arc::new(Board::new(Ledger::new([&access, &refresh, &code].map(Canary::text))));
        let (token, revoke) = (Arc::clone(&ledger), Arc::clone(&ledger));
        sink.on("/token", Script::decided(move |seen| token_endpoint(&token, seen)));
        sink.on("/revoke", Script::decided(move |seen| revocation_endpoint(&revoke, seen)));
        let authorizer = Self { sink, secret, access, refresh, code, ledger };
        authorizer.register(CLIENT, Some(authorizer.secret.text()), ClientAuth::Basic);
        authorizer
    }

    /// Lets `config` reach it by its name.
    pub fn pin(&self, config: &mut Config) {
        config.pin(AUTHORIZER, self.sink.addr);
    }

    /// What must be in nothing that is written or shown.
    pub fn canaries(&self) -> [&Canary; 4] {
        [&self.secret, &self.access, &self.refresh, &self.code]
    }

    /// Makes a client known, by the one way in which it says who it is.
    pub fn register(&self, id: &str, secret: Option<&str>, auth: ClientAuth) {
        self.ledger.update(|ledger| ledger.register(id, secret, auth));
    }

    /// Changes what it grants from now on.
    pub fn terms(&self, change: impl FnOnce(&mut Terms)) {
        self.ledger.update(|ledger| change(&mut ledger.terms));
    }

    /// Somebody opens `address` and consents; panics where it is no authorization request as it has to be.
    #[track_caller]
    pub fn consent(&self, address: &str) -> Answer {
        let (at, query) = address.split_once('?').unwrap_or_else(|| panic!("no query in {address}"));
        assert_eq!(at, format!("https://{AUTHORIZER}/authorize"));
        assert!(!query.contains('#'), "{address}");
        let form = Form::parse(query).unwrap_or_else(|fault| panic!("{fault}: {address}"));
        for secret in ["client_secret", "code_verifier", "access_token", "refresh_token"] {
            assert_eq!(form.get(secret), None, "{address}");
        }
        let must = |name: &str| form.get(name).unwrap_or_else(|| panic!("no {name} in {address}")).to_owned();
        assert_eq!((must("response_type").as_str(), must("code_challenge_method").as_str()), ("code", "S256"));
        let (challenge, state) = (must("code_challenge"), must("state"));
        let is_base64url = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        assert!(challenge.len() == 43 && is_base64url(&challenge), "{address}");
        assert!(state.len() >= 22, "a state of 128 bits and more: {address}");
        let (client, redirect_uri) = (must("client_id"), must("redirect_uri"));
        let consent = Consent::of(&client, &redirect_uri, &challenge, form.get("scope"));
        let code = self.ledger.update(|ledger| ledger.consent(consent));
        let path = redirect_uri.splitn(4, '/').nth(3).unwrap_or_else(|| panic!("no path in {redirect_uri}"));
        let path = format!("/{path}?code={code}&state={}", form::encoded(&state));
        Answer { address: format!("{redirect_uri}?code={code}&state={}", form::encoded(&state)), path, code, state }
    }

    /// Tokens of [`CLIENT`], as somebody brings them along who has signed in elsewhere.
    pub fn issue(&self) -> Issued {
        self.ledger.update(|ledger| ledger.issue(CLIENT, None))
    }

    /// The next request for tokens is answered by `script` instead, whatever it says; calls queue up.
    pub fn next(&self, script: Script) {
        self.ledger.update(|ledger| ledger.next.push_back(Next::Script(script)));
    }

    /// Every request for tokens is answered so from now on, where nothing is queued; `None` lets it work again.
    pub fn always(&self, script: Option<Script>) {
        self.ledger.update(|ledger| ledger.always = script);
    }

    /// The next request for tokens takes effect at once, and is answered when the gate is opened.
    pub fn hold_answer(&self) -> Gate {
        let gate = Gate::shut();
        self.ledger.update(|ledger| ledger.next.push_back(Next::HoldAnswer(gate.clone())));
        gate
    }

    /// The next request for tokens waits for the gate before it takes effect.
    pub fn hold_request(&self) -> Gate {
        let gate = Gate::shut();
        self.ledger.update(|ledger| ledger.next.push_back(Next::HoldRequest(gate.clone())));
        gate
    }

    /// The next revocation is answered by `script` instead, and revokes nothing; calls queue up.
    pub fn next_revocation(&self, script: Script) {
        self.ledger.update(|ledger| ledger.next_revocations.push_back(script));
    }

    /// How many requests for tokens came.
    pub fn count(&self) -> usize {
        self.ledger.read(|ledger| ledger.asked.len())
    }

    /// A request for tokens, counted from 0, now or when it comes.
    pub async fn asked(&self, number: usize) -> Asked {
        self.ledger.wait("a request for tokens", |ledger| ledger.asked.get(number).cloned()).await
    }

    /// A request for revocation, counted from 0, now or when it comes.
    pub async fn revocation(&self, number: usize) -> Asked {
        self.ledger.wait("a request for revocation", |ledger| ledger.revocations.get(number).cloned()).await
    }

    /// How many requests for revocation came.
    pub fn revocation_count(&self) -> usize {
        self.ledger.read(|ledger| ledger.revocations.len())
    }

    /// The tokens it gave out last; panics where it gave none.
    #[track_caller]
    pub fn issued(&self) -> Issued {
        self.ledger.read(|ledger| ledger.issued.last().cloned()).expect("tokens were given out")
    }

    /// Waits until no refresh token that it gave out is good any more.
    pub async fn none_is_good(&self) {
        let is_none = |ledger: &mut Ledger| ledger.issued.iter().all(|issued| !issued.is_good()).then_some(());
        self.ledger.wait("the end of every refresh token", is_none).await;
    }

    /// How often a refresh token came that had been used before.
    pub fn reused(&self) -> usize {
        self.ledger.read(|ledger| ledger.reused)
    }

    /// What was wrong with what it was asked, in words.
    pub fn faults(&self) -> Vec<String> {
        self.ledger.read(|ledger| ledger.faults.clone())
    }

    /// Asserts that whoever asked kept to the protocol, byte for byte, and used no refresh token twice.
    #[track_caller]
    pub fn assert_content(&self) {
        assert_eq!((self.faults(), self.reused()), (Vec::new(), 0));
        self.sink.assert_strict();
    }
}

/// An OAuth2 error (RFC 6749 §5.2).
pub fn refusal(status: u16, error: &str) -> Script {
    let body = json!({ "error": error, "error_description": "<script>described</script>" });
    Script::respond(status, &JSON, body.to_string())
}

/// Another place than was asked for.
pub fn redirect(status: u16, location: &str) -> Script {
    Script::respond(status, &[("location", location)], "")
}

const JSON: [(&str, &str); 2] = [("content-type", "application/json"), ("cache-control", "no-store")];

fn token_endpoint(ledger: &Arc<Board<Ledger>>, seen: &Seen) -> Script {
    let asked = Asked::read(seen);
    let next = ledger.update(|ledger| {
        ledger.asked.push(asked.clone());
        ledger.next.pop_front().or_else(|| ledger.always.clone().map(Next::Script))
    });
    match next {
        None => grant(ledger, &asked, Script::new()),
        Some(Next::Script(script)) => script,
        Some(Next::HoldAnswer(gate)) => grant(ledger, &asked, Script::new().gate(&gate)),
        Some(Next::HoldRequest(gate)) => {
            let ledger = Arc::clone(ledger);
            let decided = Step::Decide(Arc::new(move |_| grant(&ledger, &asked, Script::new())));
            Script::new().gate(&gate).then(decided)
        }
    }
}

/// What is right to answer, behind `before`.
fn grant(ledger: &Board<Ledger>, asked: &Asked, before: Script) -> Script {
    match ledger.update(|ledger| ledger.grant(asked)) {
        Ok(document) => before.answer(200, &JSON, document),
        Err((status, error)) => before.answer(status, &JSON, json!({ "error": error }).to_string()),
    }
}

fn revocation_endpoint(ledger: &Board<Ledger>, seen: &Seen) -> Script {
    let asked = Asked::read(seen);
    ledger.update(|ledger| {
        ledger.revocations.push(asked.clone());
        if let Some(script) = ledger.next_revocations.pop_front() {
            return script;
        }
        match ledger.revoke(&asked) {
            Ok(()) => Script::respond(200, &[], ""),
            Err((status, error)) => refusal(status, error),
        }
    })
}

/// What an authorization request or a token request says, as JSON, for a test that looks at all of it at once.
pub fn pairs(form: &Form) -> Value {
    form.pairs.iter().cloned().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}
