//! How people come in: what the calls of signing in, of invitations and of sessions share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::cookie::{self, Kind, Transport};
use super::error::AdminError;
use super::guard;
use super::mail::Mailer;
use super::oidc::Oidc;
use super::throttle::{Attempt, Rates, Throttle};
use super::users::View;
use super::{Control, Peer};
use crate::model::id::{EventId, OrganizationId, UserId};
use crate::model::user::User;
use crate::telemetry::request_id::RequestId;
use crate::vault::Vault;
use crate::vault::audit::{Author, Chain, Notice};
use crate::vault::change::Change;
use crate::vault::change::link::NewLink;
use crate::vault::change::session::{NewSession, SessionChange};
use crate::vault::change::user::UserChange;
use crate::vault::database::Database;
use crate::vault::password::Passwords;
use crate::vault::query::user::{Look, SessionRecord};
use crate::vault::token::NewToken;

/// The organization that is meant where somebody who signs in names none.
pub(super) const HOME: &str = "default";

/// How long a browser keeps the mark that an account was signed in there.
const BROWSER_REMEMBERED: Duration = Duration::from_secs(180 * 86_400);

/// How many refused sign-ins are recorded one by one; beyond it they are counted, and the next record says how many.
const RECORDED_REFUSALS: Rates = Rates { per_account: 120, per_address: 120 };

/// How people come in, as it is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where people find this port: scheme, host and port, without a slash at the end.
    pub url: String,
    /// Whether that is over https.
    pub transport: Transport,
    /// How long a session lives that nobody uses.
    pub session_idle: Duration,
    /// How long a session lives at most.
    pub session_lifetime: Duration,
    /// How long an invitation can be followed.
    pub invite_lifetime: Duration,
    /// How long a link for a super admin can be followed.
    pub admin_link_lifetime: Duration,
    /// How often somebody may try to sign in.
    pub rates: Rates,
}

/// What signing in needs.
pub struct People {
    /// As configured.
    pub settings: Settings,
    /// The identity provider, where there is one.
    pub oidc: Option<Oidc>,
    /// The mail server, where there is one.
    pub mail: Option<Mailer>,
    pub(super) passwords: Passwords,
    pub(super) throttle: Throttle,
    recorded: Throttle,
    unrecorded: AtomicU64,
}

impl People {
    /// Nobody has tried anything yet.
    pub fn new(settings: Settings, oidc: Option<Oidc>, mail: Option<Mailer>) -> Self {
        People {
            throttle: Throttle::new(settings.rates),
            recorded: Throttle::new(RECORDED_REFUSALS),
            unrecorded: AtomicU64::new(0),
            passwords: Passwords::default(),
            settings,
            oidc,
            mail,
        }
    }

    /// A session that is about to begin.
    pub(super) fn session(&self, visitor: &Visitor) -> Result<NewSession, AdminError> {
        Ok(NewSession {
            token: NewToken::session()?,
            address: visitor.address.to_string(),
            agent: visitor.agent.clone(),
            expires_at: later(self.settings.session_lifetime),
        })
    }

    /// A one-time link that is about to be given to somebody.
    pub fn link(&self, lifetime: Duration) -> Result<NewLink, AdminError> {
        Ok(NewLink { token: NewToken::link()?, expires_at: later(lifetime) })
    }

    /// A link as a person opens it. The token stands behind the `#`, which no browser sends anywhere: it is in no log.
    #[expect(clippy::disallowed_methods, reason = "a one-time link is shown to whoever asked for it, once")]
    pub fn url_of(&self, link: &SecretString) -> String {
        format!("{}/invite#{}", self.settings.url, link.expose_secret())
    }

    /// Makes a link that makes a super admin, or lets one back in. For who owns the vault's files; nobody else is asked.
    pub async fn admin_link(&self, vault: &Vault, organization: &str, author: &Author) -> Result<String, AdminError> {
        let organization = vault.database()?.organization(organization).await?;
        let organization = organization.ok_or(AdminError::NotFound("organization"))?.id;
        let link = self.link(self.settings.admin_link_lifetime)?;
        let url = self.url_of(&link.token.text);
        vault.commit(author, Change::User(UserChange::AdminLink { organization, link })).await?;
        Ok(url)
    }

    /// The mark of this browser, where this user was signed in there before.
    pub(super) async fn known_browser(
        &self,
        database: &Database,
        headers: &HeaderMap,
        user: UserId,
    ) -> Result<Option<String>, AdminError> {
        let Some(cookie) = cookie::read_text(headers, Kind::Browser, self.settings.transport) else { return Ok(None) };
        let Some((mark, tag)) = cookie.rsplit_once('.') else { return Ok(None) };
        let is_ours = mark.starts_with(&format!("{user}.")) && tag == self.browser_tag(database, mark).await?;
        Ok(is_ours.then(|| mark.to_owned()))
    }

    async fn browser_tag(&self, database: &Database, mark: &str) -> Result<String, AdminError> {
        let tag = database.tag("known browser", mark).await?;
        Ok(tag.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The answer to somebody who is signed in now: their session and the mark of their browser.
    pub(super) async fn welcome(
        &self,
        database: &Database,
        user: UserId,
        session: &SecretString,
        view: View,
    ) -> Result<Response, AdminError> {
        let mut response = Json(view).into_response();
        let Settings { transport, session_lifetime, .. } = self.settings;
        let mark = format!("{user}.{}", EventId::generate());
        let marked = format!("{mark}.{}", self.browser_tag(database, &mark).await?);
        let headers = response.headers_mut();
        cookie::set_secret(headers, Kind::Session, transport, session, session_lifetime);
        cookie::set(headers, Kind::Browser, transport, &marked, BROWSER_REMEMBERED);
        Ok(response)
    }

    /// Records that a sign-in was refused; what comes too fast is counted instead. `object` is a user's id, or says that
    /// there is none: what somebody wrote as an address may be their password.
    pub(super) async fn note_refusal(&self, database: &Database, visitor: &Visitor, refused: Refused) {
        let all = Attempt { account: "", address: IpAddr::from([0; 4]), known_browser: None };
        if self.recorded.take(all).is_err() {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unrecorded = self.unrecorded.swap(0, Ordering::Relaxed);
        let notice = Notice {
            chain: refused.organization.map_or(Chain::Vault, Chain::Organization),
            action: "session.refuse",
            object: refused.user.map_or_else(|| "unknown".to_owned(), |user| user.to_string()),
            detail: json!({ "reason": refused.reason, "not_recorded_before": unrecorded }),
        };
        if let Err(error) = database.record_event(&visitor.author("anonymous"), notice).await {
            self.unrecorded.fetch_add(unrecorded + 1, Ordering::Relaxed);
            tracing::warn!(%error, "a refused sign-in was not recorded");
        }
    }
}

/// A sign-in that was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub organization: Option<OrganizationId>,
    pub user: Option<UserId>,
    pub reason: &'static str,
}

fn later(lifetime: Duration) -> i64 {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + lifetime;
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

/// Somebody who asks without being signed in.
pub(super) struct Visitor {
    /// Where they ask from.
    pub address: IpAddr,
    /// What their browser calls itself.
    pub agent: String,
    /// As they sent them.
    pub headers: HeaderMap,
    request_id: RequestId,
}

impl Visitor {
    /// As the audit log names whoever turned out to ask.
    pub(super) fn author(&self, actor: &str) -> Author {
        Author { actor: actor.to_owned(), address: Some(self.address), request_id: self.request_id.as_str().to_owned() }
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        let address = parts.extensions.get::<Peer>().ok_or(AdminError::Unauthenticated)?.0.ip().to_canonical();
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        Ok(Visitor {
            address,
            agent: agent.chars().take(200).collect(),
            headers: parts.headers.clone(),
            request_id: guard::request_id(parts)?,
        })
    }
}

/// Who is signed in, by the cookie of a request. A request that changes something must come from a page of ours and be
/// JSON where it has a body: a browser sends cookies with other people's forms, too (the cookie's own `SameSite` holds
/// only between sites, and another port of this host is no other site).
pub(super) async fn signed_in(
    control: &Control,
    method: &Method,
    headers: &HeaderMap,
    look: Look,
) -> Result<Option<(SessionRecord, User)>, AdminError> {
    let Settings { transport, session_idle, .. } = control.people.settings;
    let Some(token) = cookie::read(headers, Kind::Session, transport) else { return Ok(None) };
    if !matches!(*method, Method::GET | Method::HEAD) {
        check_own_page(headers)?;
    }
    Ok(control.vault.database()?.session(&token, session_idle, look).await?)
}

/// Refuses what no page of ours sends.
pub(super) fn check_own_page(headers: &HeaderMap) -> Result<(), AdminError> {
    // A foreign `Origin` was refused before; every browser sends one of the two with such a request.
    let same_site = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
    if !same_site && !headers.contains_key(header::ORIGIN) {
        return Err(AdminError::OriginNotAllowed);
    }
    let is_json = |value: &HeaderValue| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    };
    if headers.get_all(header::CONTENT_TYPE).iter().all(is_json) { Ok(()) } else { Err(AdminError::MediaType) }
}

/// Ends the session, where there is one, and makes the browser forget it.
#[utoipa::path(post, path = "/api/v1/sign-out", security(()), responses(
    (status = 204, description = "Nobody is signed in.", headers(("Set-Cookie" = String))),
    (status = 409), (status = 415), (status = 503)
))]
pub(super) async fn sign_out(State(control): State<Arc<Control>>, visitor: Visitor) -> Result<Response, AdminError> {
    if let Some((session, user)) = signed_in(&control, &Method::POST, &visitor.headers, Look::InUse).await? {
        let end = SessionChange::End { organization: user.organization, of: Some(user.id), session: session.id };
        control.vault.commit(&visitor.author(&user.id.to_string()), Change::Session(end)).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    cookie::clear(response.headers_mut(), Kind::Session, control.people.settings.transport);
    Ok(response)
}
