//! OAuth2: the access token that a credential stands for now, and a new one where that has come to its end.
//!
//! It happens while a credential is loaded, which is done once for all who wait for it and is finished whoever hangs up.
//! A new token is stored before it is used, and kept until it can be: a refresh token that was given up is never the only
//! one that is known. What the client's own secret is enough for stays in memory: one request gets it again.

pub mod endpoint;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::fields::resolved;
use super::injection::{Secrets, referenced_secrets};
use super::{Missing, Owner, Read};
use crate::directory::route::Route;
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, FieldName};
use crate::model::oauth::{ACCESS_TOKEN, CLIENT_ID, CLIENT_SECRET, Endpoints, Granted, OAuth, REFRESH_TOKEN, SCOPES};
use crate::model::version::Version;
use crate::upstream::outbound::Outbound;
use crate::vault::audit::Author;
use crate::vault::change::Change;
use crate::vault::change::tokens::{Obtained, Occasion, Tokens};
use crate::vault::error::DatabaseError;
use crate::vault::revision::Stamp;
use crate::vault::usage::{Use, Verdict};
use crate::vault::{Held, Vault, VaultError};
use endpoint::{Answer, Ask, Client, Question, Server, TokenError};
pub(super) use turns::Turn;
use turns::{Turns, Unsaved};

/// How long before its end an access token is not used for a new request any more; a tenth of its life where that is
/// less.
const MARGIN: Duration = Duration::from_secs(60);
/// How soon a token endpoint that failed is asked again, where it does not say so itself.
const SOON: Duration = Duration::from_secs(5);
/// How soon one is asked again that refused what people have entered; no endpoint puts us off for longer.
const LATER: Duration = Duration::from_secs(60);

/// How long a token may be used, while no other one can be had, of which nobody knows when it ends.
const UNKNOWN: Duration = Duration::from_secs(60 * 60);

/// An authorization server as a connection uses it.
pub struct Provider<'a> {
    /// What the integration says of it.
    pub oauth: &'a OAuth,
    /// Where it is.
    pub endpoints: Endpoints,
    /// The scopes that are asked for; empty for none.
    pub scope: String,
}

impl<'a> Provider<'a> {
    /// That of a route, where its auth method is OAuth2.
    pub fn of(route: &'a Route) -> Option<Self> {
        let oauth = route.auth().oauth.as_deref()?;
        let endpoints = oauth.endpoints(|name| route.value(name)).ok()?;
        let scope = oauth.scope(&route.integration, public(route, SCOPES));
        Some(Provider { oauth, endpoints, scope })
    }

    /// How it is asked.
    pub fn server<'b>(&'b self, outbound: &'b Outbound) -> Server<'b> {
        Server { outbound, oauth: self.oauth, endpoints: &self.endpoints, scope: &self.scope }
    }
}

fn public<'a>(route: &'a Route, name: &str) -> Option<&'a str> {
    name.parse().ok().and_then(|name: FieldName| route.value(&name))
}

/// A field of a credential.
fn field<'a>(held: &'a Held, name: &str) -> Option<(&'a FieldName, &'a SecretString)> {
    held.credential.fields().iter().find(|(field, _)| field.as_str() == name)
}

/// What people have entered for a connection in an environment, and the client that it makes.
pub struct Entered {
    /// As it is stored.
    pub held: Held,
    /// Its references to secrets are resolved.
    pub client: Client,
}

impl Entered {
    /// Whether there is anything that the provider could take back.
    pub fn is_signed_in(&self) -> bool {
        [ACCESS_TOKEN, REFRESH_TOKEN].iter().any(|name| field(&self.held, name).is_some())
    }

    /// Has the provider take its tokens back, the refresh token first.
    pub async fn revoke(&self, route: &Route, outbound: &Outbound) -> Result<(), TokenError> {
        let Some(provider) = Provider::of(route) else { return Ok(()) };
        let token = |name: &str| field(&self.held, name).map(|(_, token)| token);
        provider.server(outbound).revoke_both(&self.client, token(REFRESH_TOKEN), token(ACCESS_TOKEN)).await
    }

    /// Reads it, or says what is missing.
    pub async fn read(
        vault: &Vault,
        route: &Route,
        environment: &EnvironmentName,
    ) -> Result<Result<Self, Missing>, VaultError> {
        let owner = Owner { connection: route.connection.id, environment: environment.clone() };
        let read = Read::of(vault, route, &owner, &mut Stamp::default()).await?;
        Ok(read.and_then(|Read { held, secrets }| {
            let client = client(route, &held, &secrets)?;
            Ok(Entered { held, client })
        }))
    }
}

/// The client of a credential.
fn client(route: &Route, held: &Held, secrets: &Secrets) -> Result<Client, Missing> {
    let read = |name: &str| match field(held, name) {
        Some((field, value)) => resolved(field, value, secrets).map(Some),
        None => Ok(public(route, name).map(|text| Zeroizing::new(text.to_owned()))),
    };
    let read = |name: &str| read(name).map_err(|error| Missing::Corrupt(error.to_string()));
    // It is part of an address that a browser is shown.
    if field(held, CLIENT_ID).is_some_and(|(_, value)| !referenced_secrets([value]).is_empty()) {
        return Err(Missing::Corrupt("its client_id refers to a secret, and is none".to_owned()));
    }
    let (id, secret) = (read(CLIENT_ID)?, read(CLIENT_SECRET)?);
    Ok(Client { id: id.ok_or_else(|| Missing::Corrupt("it has no client_id".to_owned()))?, secret })
}

/// What an answer comes to at this moment, as it is stored.
pub fn granted(answer: &Answer, asked_for: &str, before: Option<&Granted>) -> Granted {
    let now = Moment::now();
    let scopes = answer.scope.clone().or_else(|| before.map(|before| before.scopes.clone()));
    let asked_for = || asked_for.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    let end = |seconds: i64| now.milliseconds().saturating_add(seconds.saturating_mul(1_000));
    Granted {
        obtained_at: now.milliseconds(),
        expires_at: answer.life.map(end),
        scopes: scopes.unwrap_or_else(asked_for),
        refused: None,
    }
}

/// How a credential stands with its tokens.
pub(super) enum Standing {
    /// It can be used, until then where that is known.
    Usable(Option<Instant>),
    /// A new token is due; the one that is there can be used until then.
    Due(Option<Instant>),
    /// A person must act.
    Missing(Missing),
}

/// How a credential stands at this moment.
pub(super) fn standing(oauth: &OAuth, held: &Held, owner: &Owner) -> Standing {
    if !oauth.is_signed_in() {
        return Standing::Due(None);
    }
    if let Some(code) = held.granted.as_ref().and_then(|granted| granted.refused.clone()) {
        return Standing::Missing(Missing::SignedOut(code));
    }
    let can_refresh = field(held, REFRESH_TOKEN).is_some();
    // Nobody knows how long a token lives that people have brought: there is another one to be had.
    if can_refresh && held.granted.is_none() {
        return Standing::Due(field(held, ACCESS_TOKEN).and_then(|_| Instant::now().checked_add(UNKNOWN)));
    }
    if field(held, ACCESS_TOKEN).is_none() {
        return match can_refresh {
            true => Standing::Due(None),
            false => Standing::Missing(Missing::SignIn(owner.environment.clone())),
        };
    }
    let Some((obtained_at, ends)) = held.granted.as_ref().and_then(|g| Some((g.obtained_at, g.expires_at?))) else {
        return Standing::Usable(None);
    };
    let left = Moment::from_milliseconds(ends).since(Moment::now());
    let life = Moment::from_milliseconds(ends).since(Moment::from_milliseconds(obtained_at));
    let (now, margin) = (Instant::now(), MARGIN.min(life / 10));
    match can_refresh {
        true if left <= margin => Standing::Due((!left.is_zero()).then(|| now + left)),
        true => Standing::Usable(now.checked_add(left - margin)),
        // Once it has ended, so has the credential.
        false => Standing::Usable(now.checked_add(left)),
    }
}

/// What came of asking for a token.
#[derive(Clone)]
pub(super) enum Came {
    /// It is stored: read the credential again.
    Stored,
    /// The credential is another one meanwhile: begin again.
    Overtaken,
    /// It is kept nowhere else: use it, until then.
    Token(SecretString, Option<Instant>),
    /// The one that is there still does, until then.
    Spared(Instant),
    /// There is none, and none is asked for until then.
    Missing(Missing, Instant),
}

impl Came {
    /// Whether it is worth knowing without asking again.
    fn holds(&self) -> bool {
        match self {
            Came::Stored | Came::Overtaken => false,
            Came::Token(_, until) => until.is_none_or(|until| Instant::now() < until),
            Came::Spared(until) | Came::Missing(_, until) => Instant::now() < *until,
        }
    }
}

/// Asks authorization servers for tokens and stores what they give out.
pub(super) struct Errands {
    pub(super) vault: Vault,
    outbound: Outbound,
    turns: Turns,
}

/// Whether something was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Yes,
    /// The credential is another one meanwhile.
    Overtaken,
    /// There is none any more.
    Gone,
}

/// For what a token is asked.
pub(super) struct Errand<'a> {
    pub(super) route: &'a Route,
    pub(super) owner: &'a Owner,
    pub(super) held: &'a Held,
    pub(super) secrets: &'a Secrets,
    /// The version in which the credential was read.
    pub(super) version: Option<Version>,
    /// Until when the token that is there can be used.
    pub(super) spare: Option<Instant>,
}

impl Errands {
    pub(super) fn new(vault: Vault, outbound: Outbound) -> Self {
        Errands { vault, outbound, turns: Turns::default() }
    }

    /// Waits until nobody else asks for tokens for a credential.
    pub(super) async fn turn(&self, owner: &Owner) -> Turn {
        self.turns.of(owner).await
    }

    /// Stores what could not be stored before: only then may another token be asked for.
    pub(super) async fn catch_up(&self, owner: &Owner, turn: &mut Turn) -> Result<(), VaultError> {
        match turn.unsaved.take() {
            Some(unsaved) => self.store(owner, unsaved, turn).await.map(drop),
            None => Ok(()),
        }
    }

    /// Waits for all who ask, and stores what could not be stored before.
    pub(super) async fn settle(&self) {
        for owner in self.turns.sweep() {
            let mut turn = self.turns.of(&owner).await;
            if let Err(error) = self.catch_up(&owner, &mut turn).await {
                let Owner { connection, environment } = &owner;
                tracing::error!(%connection, %environment, %error, "tokens that were given out are not stored yet");
            }
        }
    }

    /// Stores it, or keeps it for later where that cannot be.
    async fn store(&self, owner: &Owner, unsaved: Unsaved, turn: &mut Turn) -> Result<Stored, VaultError> {
        let Owner { connection, environment } = owner.clone();
        let Unsaved { obtained, organization, version } = &unsaved;
        let (organization, obtained) = (*organization, Arc::clone(obtained));
        let change = Change::StoreTokens { organization, connection, environment, obtained };
        let change = Change::Judged { at: *version, change: Box::new(change) };
        match self.vault.commit(&Author::system("system"), change).await {
            Ok(_) => Ok(Stored::Yes),
            Err(VaultError::Database(DatabaseError::Outdated)) => Ok(Stored::Overtaken),
            Err(VaultError::Database(DatabaseError::NotFound(_))) => Ok(Stored::Gone),
            Err(error) => {
                turn.unsaved = Some(unsaved);
                Err(error)
            }
        }
    }

    /// Asks for a token.
    pub(super) async fn run(&self, errand: &Errand<'_>, turn: &mut Turn) -> Result<Came, VaultError> {
        let Errand { route, held, secrets, .. } = errand;
        let Some(provider) = Provider::of(route) else {
            return Ok(Came::Missing(Missing::Corrupt("its addresses do not hold together".to_owned()), later(LATER)));
        };
        let client = match client(route, held, secrets) {
            Ok(client) => client,
            Err(missing) => return Ok(Came::Missing(missing, later(LATER))),
        };
        let ask = match field(held, REFRESH_TOKEN).filter(|_| provider.oauth.is_signed_in()) {
            Some((_, token)) => Ask::Refresh(token),
            None => Ask::Client,
        };
        let server = provider.server(&self.outbound);
        let question = match server.question(&client, &ask) {
            Ok(question) => question,
            Err(error) => return Ok(Came::Missing(Missing::of(&error), later(LATER))),
        };
        let digest = question.digest();
        if let Some(known) = turn.known(&digest) {
            return Ok(known);
        }
        let came = self.ask(errand, (&provider, &client), question, turn).await?;
        if !matches!(came, Came::Stored | Came::Overtaken) {
            turn.remember(digest, &came);
        }
        Ok(came)
    }

    async fn ask(
        &self,
        errand: &Errand<'_>,
        (provider, client): (&Provider<'_>, &Client),
        question: Question,
        turn: &mut Turn,
    ) -> Result<Came, VaultError> {
        match provider.server(&self.outbound).put(question).await {
            Ok(answer) if !provider.oauth.is_signed_in() => {
                self.note(errand, None).await;
                let life = Duration::from_secs(answer.life.unwrap_or_default().unsigned_abs());
                Ok(Came::Token(answer.access, Instant::now().checked_add(life - MARGIN.min(life / 10))))
            }
            Ok(answer) => self.keep(errand, provider, (client, answer), turn).await,
            Err(error) => {
                if let Some(code) = error.is_final().filter(|_| provider.oauth.is_signed_in()) {
                    return self.give_up(errand, code.to_owned(), turn).await;
                }
                self.tell(errand, &error).await;
                let until = later(patience(&error));
                Ok(match errand.spare {
                    Some(spare) => Came::Spared(until.min(spare)),
                    None => Came::Missing(Missing::of(&error), until),
                })
            }
        }
    }

    async fn keep(
        &self,
        errand: &Errand<'_>,
        provider: &Provider<'_>,
        (client, answer): (&Client, Answer),
        turn: &mut Turn,
    ) -> Result<Came, VaultError> {
        let granted = granted(&answer, &provider.scope, errand.held.granted.as_ref());
        let tokens = Tokens { access: answer.access.clone(), refresh: answer.refresh.clone() };
        let obtained = Obtained { tokens: Some(tokens), granted, occasion: Occasion::Refresh };
        let stored = self.store(errand.owner, errand.unsaved(obtained), turn).await?;
        // What was stored in their place may be of the same grant, which some providers take back as a whole.
        if stored == Stored::Gone {
            let server = provider.server(&self.outbound);
            if let Err(error) = server.revoke_both(client, answer.refresh.as_ref(), Some(&answer.access)).await {
                tracing::warn!(%error, "tokens that nobody will use could not be revoked");
            }
        }
        Ok(if stored == Stored::Yes { Came::Stored } else { Came::Overtaken })
    }

    /// The sign-in is over: no token will be given out for it again.
    async fn give_up(&self, errand: &Errand<'_>, code: String, turn: &mut Turn) -> Result<Came, VaultError> {
        let scopes = errand.held.granted.as_ref().map(|granted| granted.scopes.clone()).unwrap_or_default();
        let obtained_at = Moment::now().milliseconds();
        let granted = Granted { obtained_at, expires_at: None, scopes, refused: Some(code) };
        let obtained = Obtained { tokens: None, granted, occasion: Occasion::Refresh };
        let stored = self.store(errand.owner, errand.unsaved(obtained), turn).await?;
        Ok(if stored == Stored::Yes { Came::Stored } else { Came::Overtaken })
    }

    /// Tells the log, and whoever asks how the connection stands where people must act.
    async fn tell(&self, errand: &Errand<'_>, error: &TokenError) {
        let connection = &errand.route.connection;
        let environment = &errand.owner.environment;
        tracing::warn!(connection = %connection.id, %environment, %error, "no access token was given out");
        if matches!(error, TokenError::Refused(_)) {
            self.note(errand, Some(&error.to_string())).await;
        }
    }

    /// Notes why the authorization server refuses what people have entered, or that it does not.
    async fn note(&self, errand: &Errand<'_>, refusal: Option<&str>) {
        let connection = &errand.route.connection;
        let Ok(database) = self.vault.database() else { return };
        let now = Moment::now().milliseconds();
        let one = Use {
            organization: connection.organization,
            connection: connection.id,
            environment: errand.owner.environment.clone(),
            used_at: now,
            verdict: refusal.map_or(Verdict::Taken(now), |_| Verdict::Refused(now)),
            reason: refusal.map(str::to_owned),
            workflows: Vec::new(),
        };
        let vault = self.vault.clone();
        if let Err(error) = database.note_uses(vec![one], move |id| vault.declares(id)).await {
            tracing::warn!(%error, "whether an authorization server takes a client could not be noted");
        }
    }
}

impl Errand<'_> {
    fn unsaved(&self, obtained: Obtained) -> Unsaved {
        let organization = self.route.connection.organization;
        Unsaved { obtained: Arc::new(obtained), organization, version: self.version }
    }
}

impl Missing {
    fn of(error: &TokenError) -> Self {
        match error {
            TokenError::Timeout => Missing::TokenTimeout,
            other => Missing::TokenEndpoint(other.to_string()),
        }
    }
}

/// How soon whoever failed is asked again.
pub fn patience(error: &TokenError) -> Duration {
    match error {
        TokenError::Refused(_) => LATER,
        TokenError::Failed { retry_after, .. } => retry_after.unwrap_or(SOON).clamp(SOON, LATER),
        TokenError::Timeout => SOON,
    }
}

fn later(patience: Duration) -> Instant {
    Instant::now() + patience
}
