//! Signing a connection in at its provider (OAuth2, RFC 6749 §4.1 with PKCE).
//!
//! It begins with a call of the API by somebody who may enter the connection's credential, goes on at the provider's
//! page, and ends here when the provider sends the same browser back with a code. Nothing that comes back is believed but
//! by the state that was kept; whoever began it is judged again before the code is spent.

pub(super) mod start;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query as Pairs, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tracing::Instrument;
use utoipa::ToSchema;

use super::actor::{self, Actor, Who};
use super::connections::{check_reach, find, route, viewer};
use super::cookie::{self, Kind};
use super::document::Document;
use super::error::AdminError;
use super::openapi::OfCustomer;
use super::request::{At, Query};
use super::underway::{Most, PATIENCE, Underway};
use super::{Control, Transport, pages, trials};
use crate::credentials::oauth::endpoint::{self, Ask, Beginning};
use crate::credentials::oauth::{Entered, Provider, granted};
use crate::directory::route::Route;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId};
use crate::model::moment::Moment;
use crate::model::name::EnvironmentName;
use crate::vault::VaultError;
use crate::vault::change::Change;
use crate::vault::change::tokens::{Obtained, Occasion, Tokens};
use crate::vault::token;

/// How many may be under way, and how many of one who begins them.
const MOST: Most = Most { all: 16_384, of_one: 64 };
/// The longest address at a provider: it is kept until somebody has gone there.
const LONGEST_ADDRESS: usize = 8_192;
/// Where somebody comes out who said nothing.
const DONE: &str = "/oauth/done";

/// What was begun and has not ended.
pub struct Authorizations(Underway<(OrganizationId, Who), Begun>);

impl Default for Authorizations {
    fn default() -> Self {
        Authorizations(Underway::new(MOST))
    }
}

/// A sign-in of a connection under way.
struct Begun {
    /// What another browser goes on with, until one has.
    ticket: Option<String>,
    authorize_url: String,
    verifier: String,
    /// Whose answer ends it, where that is said.
    issuer: Option<String>,
    /// Who began it, with the essence of the request that they did it by.
    actor: Actor,
    parts: Parts,
    connection: ConnectionId,
    environment: EnvironmentName,
    /// When what people entered for it was entered.
    entered_at: i64,
    return_to: String,
}

/// What is signed in.
#[derive(ToSchema)]
#[schema(as = AuthorizationOrder)]
pub struct Body {
    /// In this environment; in the designer's where it is not said.
    #[schema(nullable = false)]
    pub environment: Option<EnvironmentName>,
    /// Where the browser goes at the end: a path of this server, and `/` for anything else. Where nothing is said, a page
    /// that says that it is done.
    #[schema(nullable = false)]
    pub return_to: Option<String>,
}

/// Where to go to sign a connection in.
#[derive(Serialize, ToSchema)]
#[schema(as = Authorization)]
pub struct View {
    /// The provider's page, for the very browser that made this request: it holds the cookie of the answer.
    authorize_url: String,
    /// The way there for another browser: a page that says what is signed in, and asks. The browser that goes on from it,
    /// which one can once, is then the one that ends it.
    start_url: String,
    /// Until when.
    expires_at: Moment,
}

/// Begins to sign a connection in at its provider (OAuth2, authorization code with PKCE).
///
/// What the client is known by there (`client_id`, `client_secret`) is entered as the credential before. The browser comes
/// back to `/oauth/callback`, and its tokens are stored as part of the credential. A sign-in is ended once, within ten
/// minutes, by the browser that began it, and while whoever asked may still do so.
#[utoipa::path(post, path = "/connections/{connection}/authorize", params(OfCustomer), request_body = Body, responses(
    (status = 200, description = "Where to go.", body = View, headers(("Set-Cookie" = String))),
    (status = 409)
))]
pub(super) async fn authorize(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
    parts: Parts,
    document: Document,
) -> Result<Response, AdminError> {
    let (environment, return_to) =
        document.read(|reader| Some((reader.parsed("environment"), reader.text("return_to").map(str::to_owned))))?;
    let connection = find(&control, &actor, &query, &named).await?;
    check_reach(&actor, &connection)?;
    if control.vault.declares(connection.id) {
        return Err(VaultError::Declared(format!("the connection {}", connection.key)).into());
    }
    let environment = trials::environment(&control, actor.organization, &connection, environment).await?;
    let place = Place { connection, environment };
    let (route, entered, entered_at) = place.read(&control).await?;
    let provider = Provider::of(&route).ok_or_else(not_oauth)?;
    let text = token::random_text;
    let (state, verifier, ticket) = (text()?, text()?, text()?);
    let transport = control.people.settings.transport;
    let browser = browser(&parts.headers, transport)?;
    let redirect = redirect(&control);
    let beginning = Beginning { state: &state, verifier: &verifier, redirect: &redirect };
    let Provider { oauth, endpoints, scope } = &provider;
    let authorize_url = endpoint::authorize_url(oauth, endpoints, scope, &entered.client.id, &beginning);
    let authorize_url = authorize_url.ok_or_else(not_oauth)?;
    if authorize_url.len() > LONGEST_ADDRESS {
        return Err(AdminError::Conflict(format!(
            "the address at the provider is longer than {LONGEST_ADDRESS} bytes"
        )));
    }
    let issuer = oauth.issuer.as_ref().map(|issuer| issuer.render(|name| route.value(name))).transpose();
    let issuer = issuer.map_err(|error| AdminError::Conflict(error.to_string()))?;
    let start_url = format!("{}/oauth/start/{ticket}", control.people.settings.url);
    let expires_at = Moment::now().after(PATIENCE);
    let mut response = Json(View { authorize_url: authorize_url.clone(), start_url, expires_at }).into_response();
    cookie::set(response.headers_mut(), Kind::Authorize, transport, &browser, PATIENCE);
    let (by, return_to) = ((actor.organization, actor.who), own_path(return_to));
    let (actor, parts) = actor::essence(&control, actor, &parts);
    let Place { connection, environment } = place;
    let (ticket, connection) = (Some(ticket), connection.id);
    let begun =
        Begun { ticket, authorize_url, verifier, issuer, actor, parts, connection, environment, entered_at, return_to };
    control.authorizations.0.keep(state, by, Some(browser), begun);
    Ok(response)
}

fn not_oauth() -> AdminError {
    AdminError::Conflict("nobody signs in for this auth method: it is not oauth2 with authorization_code".to_owned())
}

/// Where the provider sends people back to. It is said by the configuration, whatever a request calls this server.
fn redirect(control: &Control) -> String {
    format!("{}/oauth/callback", control.people.settings.url)
}

/// What the cookie of a browser holds, or will: one is enough for all that it has begun.
fn browser(headers: &HeaderMap, transport: Transport) -> Result<String, AdminError> {
    match cookie::read_text(headers, Kind::Authorize, transport).filter(|text| token::is_random_text(text)) {
        Some(browser) => Ok(browser),
        None => Ok(token::random_text()?),
    }
}

/// A path of this server: browsers take `//` and `/\` for another host, and drop control characters.
fn own_path(given: Option<String>) -> String {
    let is_own = |path: &String| {
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        plain && path.starts_with('/') && !path.starts_with("//") && path.len() <= 2_048
    };
    match given {
        Some(path) if is_own(&path) => path,
        Some(_) => "/".to_owned(),
        None => DONE.to_owned(),
    }
}

/// A connection in an environment.
struct Place {
    connection: Arc<Connection>,
    environment: EnvironmentName,
}

impl Place {
    /// The connection's route, and what was entered for it and when.
    async fn read(&self, control: &Control) -> Result<(Route, Entered, i64), AdminError> {
        let conflict = |why: String| AdminError::Conflict(why);
        let route = route(control, &self.connection).await?;
        let route = route.map_err(|why| conflict(format!("the connection cannot be used: {why}")))?;
        if route.auth().oauth.as_ref().is_none_or(|oauth| !oauth.is_signed_in()) {
            return Err(not_oauth());
        }
        let entry = control.vault.credential_entry(&self.connection, &self.environment).await?;
        let entered = Entered::read(&control.vault, &route, &self.environment).await?;
        let entered = entered.map_err(|missing| conflict(missing.to_string()))?;
        let none = || conflict(format!("enter the credential for {} first: its client_id", self.environment));
        Ok((route, entered, entry.ok_or_else(none)?.entered_at))
    }
}

/// Who only asks what is there, as programs do that show a link, uses nothing up.
fn looked() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]).into_response()
}

/// 303, so that nothing is sent along (RFC 9700 §4.12).
fn led(address: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(address) = HeaderValue::from_str(address) {
        response.headers_mut().insert(header::LOCATION, address);
    }
    response
}

/// `GET /oauth/done`
pub(super) async fn done() -> Response {
    pages::told(StatusCode::OK, pages::Told::Authorized)
}

/// What the provider sends somebody back with.
#[derive(Deserialize)]
pub(super) struct Back {
    state: Option<String>,
    code: Option<String>,
    /// What it says may quote anything, so nothing of it is shown.
    error: Option<String>,
    /// Whose answer it is (RFC 9207).
    iss: Option<String>,
}

/// Why nothing came of it: what a person is told.
enum Failed {
    /// Nobody has begun it in this browser, or it has ended.
    Unknown,
    /// The provider, or the person at its page, has said no.
    Refused,
    /// The provider did not answer as it should.
    Provider,
    /// It is not as it was when this began.
    Changed,
    /// Something else.
    Error(AdminError),
}

impl<E: Into<AdminError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed::Error(error.into())
    }
}

/// `GET /oauth/callback`: where providers send people back to.
pub(super) async fn end(
    State(control): State<Arc<Control>>,
    method: Method,
    headers: HeaderMap,
    back: Result<Pairs<Back>, axum::extract::rejection::QueryRejection>,
) -> Response {
    if method == Method::HEAD {
        return looked();
    }
    let ended = match back {
        Ok(Pairs(back)) => finish(Arc::clone(&control), &headers, back).await,
        Err(_) => Err(Failed::Unknown),
    };
    let transport = control.people.settings.transport;
    let browser = cookie::read_text(&headers, Kind::Authorize, transport);
    let has_others = browser.is_some_and(|browser| control.authorizations.0.is_of(&browser));
    let mut response = answer(ended);
    if !has_others {
        cookie::clear(response.headers_mut(), Kind::Authorize, transport);
    }
    response
}

fn answer(ended: Result<String, Failed>) -> Response {
    match ended {
        Ok(return_to) => led(&return_to),
        Err(Failed::Unknown) => pages::told(StatusCode::BAD_REQUEST, pages::Told::Unknown),
        Err(Failed::Refused) => pages::told(StatusCode::UNAUTHORIZED, pages::Told::NotAuthorized),
        Err(Failed::Provider) => pages::told(StatusCode::BAD_GATEWAY, pages::Told::NotAuthorized),
        Err(Failed::Changed) => pages::told(StatusCode::CONFLICT, pages::Told::Changed),
        Err(Failed::Error(error)) => pages::told(error.into_response().status(), pages::Told::Failed),
    }
}

async fn finish(control: Arc<Control>, headers: &HeaderMap, back: Back) -> Result<String, Failed> {
    let browser = cookie::read_text(headers, Kind::Authorize, control.people.settings.transport);
    let begun = back.state.and_then(|state| control.authorizations.0.take(&state, browser.as_deref()));
    let begun = begun.ok_or(Failed::Unknown)?;
    if begun.issuer.is_some() && begun.issuer != back.iss {
        let (connection, issuer) = (begun.connection, begun.issuer.as_deref());
        tracing::warn!(%connection, issuer, "a sign-in was answered by another issuer than its own, or by none");
        return Err(Failed::Unknown);
    }
    let nothing = || if back.error.is_some() { Failed::Refused } else { Failed::Unknown };
    let code = back.code.filter(|code| !code.is_empty() && back.error.is_none()).ok_or_else(nothing)?;
    let return_to = begun.return_to.clone();
    // What the provider gives out for the code it gives out once: it is stored whoever hangs up.
    let redeeming = async move { redeem(&control, begun, &code).await };
    let redeemed = tokio::spawn(redeeming.in_current_span()).await;
    redeemed.unwrap_or(Err(Failed::Provider)).map(|()| return_to)
}

async fn redeem(control: &Control, begun: Begun, code: &str) -> Result<(), Failed> {
    let Begun { actor, parts, connection, environment, entered_at, verifier, .. } = begun;
    let actor = actor::holds(control, &actor, &parts).await.ok_or(Failed::Changed)?;
    let organization = actor.organization;
    let found = control.vault.connection(organization, None, &ConnectionRef::Id(connection)).await?;
    // As it is found where somebody begins: by who they are now, and as the connection is now.
    let found = found.filter(|found| viewer(&actor).sees(found) && check_reach(&actor, found).is_ok());
    let place = Place { connection: found.ok_or(Failed::Changed)?, environment };
    let (route, entered, now_entered_at) = place.read(control).await?;
    let Some(provider) = Provider::of(&route).filter(|_| now_entered_at == entered_at) else {
        return Err(Failed::Changed);
    };
    let redirect = redirect(control);
    let ask = Ask::Code { code, verifier: &verifier, redirect: &redirect };
    let answer = provider.server(&control.outbound).token(&entered.client, ask).await.map_err(|error| {
        tracing::warn!(%connection, environment = %place.environment, %error, "a connection was not signed in");
        Failed::Provider
    })?;
    let granted = granted(&answer, &provider.scope, None);
    let tokens = Some(Tokens { access: answer.access, refresh: answer.refresh });
    let obtained = Arc::new(Obtained { tokens, granted, occasion: Occasion::SignIn { entered_at } });
    let environment = place.environment;
    let change = Change::StoreTokens { organization, connection, environment, obtained: Arc::clone(&obtained) };
    match control.vault.commit(&actor.author(), change).await.map_err(AdminError::from) {
        Ok(_) => Ok(()),
        Err(AdminError::Outdated | AdminError::NotFound(_)) => {
            let tokens = obtained.tokens.as_ref();
            let (refresh, access) = (tokens.and_then(|t| t.refresh.as_ref()), tokens.map(|tokens| &tokens.access));
            let server = provider.server(&control.outbound);
            if let Err(error) = server.revoke_both(&entered.client, refresh, access).await {
                tracing::warn!(%connection, %error, "tokens that nobody will use could not be revoked");
            }
            Err(Failed::Changed)
        }
        Err(error) => Err(error.into()),
    }
}
