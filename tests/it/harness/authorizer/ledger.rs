//! What an authorization server knows: its clients, what was consented to, what it gave out and what became of it.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::form::{Form, decoded};
use crate::harness::sink::{Fields, Gate, Script, Seen};

/// How a client says who it is (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// By HTTP Basic, id and secret each encoded as in a form.
    Basic,
    /// By `client_id` and `client_secret` in the form.
    Body,
    /// By `client_id` alone: it has no secret.
    None,
}

/// What is granted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// `expires_in` as it is written into the answer; left out where there is none.
    pub expires_in: Option<String>,
    /// The scope that is granted instead of what was asked for.
    pub scope: Option<String>,
    /// Whether the answer says the scope.
    pub says_scope: bool,
    /// Whether a refresh gives a new refresh token, and uses up the old one.
    pub rotates: bool,
}

/// A request to one of the endpoints.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its form.
    pub form: Form,
    /// Its headers.
    pub headers: Fields,
    /// What is wrong with it already before anybody looks who asks.
    fault: Option<String>,
}

/// Tokens that were given out together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The access token.
    pub access_token: String,
    /// The refresh token; empty where there is none.
    pub refresh_token: String,
    client: String,
    /// The first of those that came from one another has its own number here.
    family: usize,
    scope: Option<String>,
    used: bool,
    revoked: bool,
}

impl Issued {
    /// Whether somebody could refresh by it.
    pub(super) fn is_good(&self) -> bool {
        !self.refresh_token.is_empty() && !self.used && !self.revoked
    }
}

/// What somebody consented to.
pub(super) struct Consent {
    client: String,
    redirect_uri: String,
    challenge: String,
    scope: Option<String>,
    used: bool,
}

impl Consent {
    pub(super) fn of(client: &str, redirect_uri: &str, challenge: &str, scope: Option<&str>) -> Self {
        let [client, redirect_uri, challenge] = [client, redirect_uri, challenge].map(str::to_owned);
        Self { client, redirect_uri, challenge, scope: scope.map(str::to_owned), used: false }
    }
}

/// What becomes of the next request for tokens.
pub(super) enum Next {
    Script(Script),
    HoldAnswer(Gate),
    HoldRequest(Gate),
}

struct Client {
    secret: Option<String>,
    auth: ClientAuth,
}

/// All of it.
pub(super) struct Ledger {
    pub(super) terms: Terms,
    pub(super) next: VecDeque<Next>,
    pub(super) always: Option<Script>,
    pub(super) next_revocations: VecDeque<Script>,
    pub(super) asked: Vec<Asked>,
    pub(super) revocations: Vec<Asked>,
    pub(super) issued: Vec<Issued>,
    pub(super) reused: usize,
    pub(super) faults: Vec<String>,
    clients: BTreeMap<String, Client>,
    consents: BTreeMap<String, Consent>,
    // What access tokens, refresh tokens and codes begin with.
    names: [String; 3],
}

/// The status and the code of a refusal.
type Refused = (u16, &'static str);

impl Asked {
    /// Reads a request, whatever it is.
    pub(super) fn read(seen: &Seen) -> Self {
        let (form, fault) = match Form::parse(&seen.text()) {
            _ if seen.method != "POST" => (Form::default(), Some(format!("by {}", seen.method))),
            _ if seen.target.contains('?') => (Form::default(), Some(format!("a query: {}", seen.target))),
            Ok(form) => (form, None),
            Err(fault) => (Form::default(), Some(fault)),
        };
        let is_form = |value: &str| value.split(';').next() == Some("application/x-www-form-urlencoded");
        let typed = seen.header("content-type").is_some_and(is_form);
        let fault = fault.or_else(|| (!typed).then(|| "it is not said to be a form".to_owned()));
        let headers = seen.fields().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { form, headers, fault }
    }

    /// The value of a parameter; panics where there is none.
    #[track_caller]
    pub fn must(&self, name: &str) -> &str {
        self.form.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.form))
    }

    /// The only value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = crate::harness::strict::all(&self.headers, name);
        assert!(values.len() <= 1, "{name} came more than once: {values:?}");
        values.first().copied()
    }

    /// Who asks by HTTP Basic.
    fn basic(&self) -> Option<Result<(String, String), String>> {
        let value = self.header("authorization")?;
        let read = || {
            let encoded = value.strip_prefix("Basic ").ok_or("another scheme than Basic")?;
            let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
            let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
            let (id, secret) = text.split_once(':').ok_or("no colon")?;
            Ok((decoded(id)?, decoded(secret)?))
        };
        Some(read())
    }
}

impl Ledger {
    pub(super) fn new(names: [&str; 3]) -> Self {
        let terms = Terms { expires_in: Some("3600".to_owned()), scope: None, says_scope: true, rotates: true };
        Self {
            terms,
            next: VecDeque::new(),
            always: None,
            next_revocations: VecDeque::new(),
            asked: Vec::new(),
            revocations: Vec::new(),
            issued: Vec::new(),
            reused: 0,
            faults: Vec::new(),
            clients: BTreeMap::new(),
            consents: BTreeMap::new(),
            names: names.map(str::to_owned),
        }
    }

    pub(super) fn register(&mut self, id: &str, secret: Option<&str>, auth: ClientAuth) {
        self.clients.insert(id.to_owned(), Client { secret: secret.map(str::to_owned), auth });
    }

    /// A code for what somebody consented to.
    pub(super) fn consent(&mut self, consent: Consent) -> String {
        let code = format!("{}.{}", self.names[2], self.consents.len());
        self.consents.insert(code.clone(), consent);
        code
    }

    /// New tokens, of a family of their own.
    pub(super) fn issue(&mut self, client: &str, scope: Option<String>) -> Issued {
        let family = self.issued.len();
        self.add(client, family, scope, true)
    }

    fn add(&mut self, client: &str, family: usize, scope: Option<String>, can_refresh: bool) -> Issued {
        let number = self.issued.len();
        let refresh_token = if can_refresh { format!("{}.{number}", self.names[1]) } else { String::new() };
        let issued = Issued {
            access_token: format!("{}.{number}", self.names[0]),
            refresh_token,
            client: client.to_owned(),
            family,
            scope,
            used: false,
            revoked: false,
        };
        self.issued.push(issued.clone());
        issued
    }

    /// The document of a grant, or why there is none, which is a fault where the asker is to blame.
    pub(super) fn grant(&mut self, asked: &Asked) -> Result<String, Refused> {
        let client = self.client(asked)?;
        match asked.form.get("grant_type") {
            Some("authorization_code") => self.by_code(&client, asked),
            Some("refresh_token") => self.by_refresh_token(&client, asked),
            Some("client_credentials") => {
                let scope = asked.form.get("scope").map(str::to_owned);
                let family = self.issued.len();
                let issued = self.add(&client, family, scope, false);
                Ok(self.document(&issued))
            }
            other => self.fault(format!("the grant type {other:?}"), (400, "unsupported_grant_type")),
        }
    }

    /// A token goes; that it is unknown is no mistake (RFC 7009 §2.2).
    pub(super) fn revoke(&mut self, asked: &Asked) -> Result<(), Refused> {
        let client = self.client(asked)?;
        let Some(token) = asked.form.get("token") else {
            return self.fault("no token to revoke".to_owned(), (400, "invalid_request"));
        };
        let of_refresh = self.issued.iter().find(|issued| issued.refresh_token == token).map(|issued| issued.family);
        for issued in self.issued.iter_mut().filter(|issued| issued.client == client) {
            issued.revoked |= issued.access_token == token || Some(issued.family) == of_refresh;
        }
        Ok(())
    }

    /// Who asks, shown in the one way that is theirs.
    fn client(&mut self, asked: &Asked) -> Result<String, Refused> {
        if let Some(fault) = &asked.fault {
            return self.fault(fault.clone(), (400, "invalid_request"));
        }
        let (id, secret) = (asked.form.get("client_id"), asked.form.get("client_secret"));
        let (shown, by) = match (asked.basic(), id, secret) {
            (Some(Ok((id, secret))), None, None) => ((id, Some(secret)), ClientAuth::Basic),
            (None, Some(id), Some(secret)) => ((id.to_owned(), Some(secret.to_owned())), ClientAuth::Body),
            (None, Some(id), None) => ((id.to_owned(), None), ClientAuth::None),
            (basic, ..) => {
                let told = format!("the client does not say who it is in one way: {basic:?} {id:?}");
                return self.fault(told, (401, "invalid_client"));
            }
        };
        match self.clients.get(&shown.0) {
            Some(client) if client.auth == by && client.secret == shown.1 => Ok(shown.0),
            Some(client) => {
                let told = format!("{shown:?} by {by:?} instead of {:?} by {:?}", client.secret, client.auth);
                self.fault(told, (401, "invalid_client"))
            }
            None => self.fault(format!("an unknown client: {shown:?}"), (401, "invalid_client")),
        }
    }

    fn by_code(&mut self, client: &str, asked: &Asked) -> Result<String, Refused> {
        let refused = (400, "invalid_grant");
        let code = asked.form.get("code").unwrap_or_default();
        let Some(consent) = self.consents.get_mut(code) else {
            return self.fault(format!("an unknown code: {code}"), refused);
        };
        let was_used = std::mem::replace(&mut consent.used, true);
        let verifier = asked.form.get("code_verifier").unwrap_or_default();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let wrong = [
            (was_used, "a code a second time"),
            (consent.client != client, "a code of another client"),
            (asked.form.get("redirect_uri") != Some(&consent.redirect_uri), "another redirect_uri"),
            (challenge != consent.challenge, "a code_verifier that is not the challenge's"),
            (!(43..=128).contains(&verifier.len()) || !verifier.bytes().all(is_unreserved), "an odd code_verifier"),
        ];
        let scope = consent.scope.clone();
        if let Some((_, told)) = wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            return self.fault(told.to_owned(), refused);
        }
        let issued = self.issue(client, scope);
        Ok(self.document(&issued))
    }

    fn by_refresh_token(&mut self, client: &str, asked: &Asked) -> Result<String, Refused> {
        let token = asked.form.get("refresh_token").unwrap_or_default().to_owned();
        let known = self.issued.iter().position(|issued| !token.is_empty() && issued.refresh_token == token);
        let Some(old) = known.map(|at| self.issued[at].clone()).filter(|old| old.client == client) else {
            return self.fault(format!("an unknown refresh token: {token}"), (400, "invalid_grant"));
        };
        if old.used {
            self.reused += 1;
            self.issued
                .iter_mut()
                .filter(|issued| issued.family == old.family)
                .for_each(|issued| issued.revoked = true);
        }
        if old.used || old.revoked {
            return Err((400, "invalid_grant"));
        }
        let issued = self.add(client, old.family, old.scope.clone(), self.terms.rotates);
        if self.terms.rotates {
            self.issued.iter_mut().filter(|issued| issued.refresh_token == token).for_each(|issued| issued.used = true);
        }
        Ok(self.document(&issued))
    }

    fn document(&self, issued: &Issued) -> String {
        let mut document = json!({ "access_token": issued.access_token, "token_type": "Bearer" });
        if !issued.refresh_token.is_empty() {
            document["refresh_token"] = issued.refresh_token.as_str().into();
        }
        let scope = self.terms.scope.clone().or_else(|| issued.scope.clone());
        if let Some(scope) = scope.filter(|_| self.terms.says_scope) {
            document["scope"] = scope.into();
        }
        // As it is written: a number need not be one that fits into ours.
        let lifetime = self.terms.expires_in.as_ref().map_or(String::new(), |text| format!(",\"expires_in\":{text}"));
        let text = document.to_string();
        format!("{}{lifetime}}}", text.trim_end_matches('}'))
    }

    fn fault<T>(&mut self, told: String, refused: Refused) -> Result<T, Refused> {
        self.faults.push(told);
        Err(refused)
    }
}
