//! Signing in at an identity provider.
//!
//! A sign-in begins here, goes to the provider's page, and comes back to the browser in which it began with a code.

pub mod provider;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query as Pairs, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Control;
use super::cookie::{self, Kind};
use super::error::AdminError;
use super::form::Form;
use super::people::{HOME, Refused, Visitor};
use super::underway::{Most, PATIENCE, Underway};
use super::{invite, pages, sign_in};
use crate::model::id::OrganizationId;
use crate::model::user::{Email, SignInMethod, UserStatus};
use crate::upstream::outbound::Outbound;
use crate::vault::change::link::{NewProof, Person};
use crate::vault::change::session::Proof;
use crate::vault::token;
use provider::{Challenge, Provider, ProviderError, Settings, Subject};

/// How many sign-ins may be under way, and how many of them from one address.
const MOST: Most = Most { all: 4_096, of_one: 16 };

/// Sign-ins at an identity provider.
pub struct Oidc {
    provider: Provider,
    underway: Underway<IpAddr, Begun>,
}

/// A sign-in under way.
struct Begun {
    challenge: Challenge,
    organization: Option<OrganizationId>,
    /// The invitation that is followed by it.
    link: Option<SecretString>,
}

impl Oidc {
    /// Nothing is asked of the provider until somebody wants to sign in.
    pub fn new(settings: Settings, outbound: Outbound) -> Self {
        Oidc { provider: Provider::new(settings, outbound), underway: Underway::new(MOST) }
    }
}

/// Whom to sign in at the identity provider.
#[derive(ToSchema)]
#[schema(as = ProviderSignIn)]
pub struct BeginBody {
    /// By id or key; the one called `default` where it is not said.
    pub organization: Option<String>,
    /// What stands behind the `#` of an invitation.
    pub token: Option<String>,
}

/// Where to go to be signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = ProviderAddress)]
pub struct Begin {
    authorize_url: String,
}

/// Begins to sign somebody in at the identity provider; or, with the token of an invitation, to follow that.
///
/// The browser that asked goes to the address in the answer. It is brought back to `/oidc/callback`, and only it.
#[utoipa::path(post, path = "/api/v1/sign-in/oidc", security(()), request_body = BeginBody, responses(
    (status = 200, description = "Where to go.", body = Begin, headers(("Set-Cookie" = String))),
    (status = 404), (status = 409), (status = 410), (status = 422), (status = 429), (status = 502), (status = 503)
))]
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    visitor: Visitor,
    mut form: Form,
) -> Result<Response, AdminError> {
    let organization: Option<String> = form.parsed("organization");
    let link = form.secret("token");
    form.finish()?;
    let oidc = control.people.oidc.as_ref().ok_or(AdminError::NotFound("identity provider"))?;
    let database = control.vault.database()?;
    let (organization, link) = match link {
        Some(link) => {
            let (link, opened) = invite::look(&control, &visitor, Some(link)).await?;
            if opened.user.is_none_or(|user| user.method != SignInMethod::Oidc) {
                return Err(AdminError::Conflict("this link is followed with a password".to_owned()));
            }
            (Some(opened.organization), Some(link))
        }
        None => {
            let named = organization.as_deref().unwrap_or(HOME);
            (database.organization(named).await?.map(|organization| organization.id), None)
        }
    };
    let text = token::random_text;
    let challenge = Challenge { state: text()?, nonce: text()?, verifier: text()? };
    let browser = text()?;
    let authorize_url = oidc.provider.authorize_url(&challenge).await.map_err(|error| {
        tracing::warn!(error = chain(&error), "nobody can sign in at the identity provider");
        AdminError::ProviderUnavailable
    })?;
    let mut response = Json(Begin { authorize_url }).into_response();
    let transport = control.people.settings.transport;
    cookie::set(response.headers_mut(), Kind::SignIn, transport, &browser, PATIENCE);
    let state = challenge.state.clone();
    oidc.underway.keep(state, visitor.address, Some(browser), Begun { challenge, organization, link });
    Ok(response)
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What the provider's page sends somebody back with.
#[derive(Deserialize)]
pub struct Back {
    state: Option<String>,
    code: Option<String>,
    /// RFC 9207.
    iss: Option<String>,
}

/// Why a sign-in at the provider came to nothing: what a person is told.
enum Failed {
    /// Nobody has begun it here, or it has ended.
    Unknown,
    /// The provider, or the person at its page, has said no.
    Refused,
    /// The account is none of ours.
    Stranger,
    /// Something else.
    Error(AdminError),
}

impl From<AdminError> for Failed {
    fn from(error: AdminError) -> Self {
        Failed::Error(error)
    }
}

/// `GET /oidc/callback`: where the provider sends people back to. The answer is a page: a redirect would still count as
/// the provider's navigation, and the session's cookie would not travel with it.
pub(super) async fn end(
    State(control): State<Arc<Control>>,
    visitor: Visitor,
    back: Result<Pairs<Back>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let transport = control.people.settings.transport;
    let ended = match back {
        Ok(Pairs(back)) => finish(Arc::clone(&control), visitor, back).await,
        Err(_) => Err(Failed::Unknown),
    };
    let mut response = match ended {
        Ok(signed_in) => {
            let mut page = pages::signed_in();
            for cookie in signed_in.headers().get_all(header::SET_COOKIE) {
                page.headers_mut().append(header::SET_COOKIE, cookie.clone());
            }
            page
        }
        Err(Failed::Unknown) => pages::told(StatusCode::BAD_REQUEST, pages::Told::Unknown),
        Err(Failed::Refused) => pages::told(StatusCode::UNAUTHORIZED, pages::Told::Refused),
        Err(Failed::Stranger) => pages::told(StatusCode::FORBIDDEN, pages::Told::Stranger),
        Err(Failed::Error(error)) => {
            let status = error.into_response().status();
            pages::told(status, pages::Told::Failed)
        }
    };
    cookie::clear(response.headers_mut(), Kind::SignIn, transport);
    response
}

async fn finish(control: Arc<Control>, visitor: Visitor, back: Back) -> Result<Response, Failed> {
    let (control, visitor) = (&*control, &visitor);
    let oidc = control.people.oidc.as_ref().ok_or(Failed::Unknown)?;
    let begun = under_way(control, oidc, &visitor.headers, back.state.as_deref()).ok_or(Failed::Unknown)?;
    let Begun { challenge, organization, link } = begun;
    let issuer = oidc.provider.issuer();
    let refused = |reason| Refused { organization, user: None, reason };
    let database = control.vault.database().map_err(AdminError::from)?;
    let (Some(code), true) = (back.code, back.iss.is_none_or(|named| named == issuer)) else {
        control.people.note_refusal(database, visitor, refused("oidc_refused")).await;
        return Err(Failed::Refused);
    };
    let subject = match oidc.provider.redeem(code, &challenge).await {
        Ok(subject) => subject,
        Err(error) => {
            tracing::warn!(error = chain(&error), "a sign-in at the identity provider failed");
            control.people.note_refusal(database, visitor, refused("oidc_failed")).await;
            return Err(match error {
                ProviderError::Unreachable(_) => Failed::Error(AdminError::ProviderUnavailable),
                _ => Failed::Refused,
            });
        }
    };
    if let Some(link) = link {
        return bind(control, visitor, link, issuer, subject).await;
    }
    let found = match organization {
        Some(organization) => database.user_of_subject(organization, issuer, &subject.subject).await,
        None => Ok(None),
    };
    match found.map_err(AdminError::from)? {
        Some(user) if user.status == UserStatus::Active => {
            let proof = Proof::Subject { issuer: issuer.to_owned(), subject: subject.subject };
            Ok(sign_in::open(control, visitor, user, proof).await?)
        }
        found => {
            let user = found.map(|user| user.id);
            control.people.note_refusal(database, visitor, Refused { user, ..refused("oidc_stranger") }).await;
            Err(Failed::Stranger)
        }
    }
}

fn under_way(control: &Control, oidc: &Oidc, headers: &HeaderMap, state: Option<&str>) -> Option<Begun> {
    let browser = cookie::read_text(headers, Kind::SignIn, control.people.settings.transport);
    oidc.underway.take(state?, browser.as_deref())
}

/// Follows an invitation as whom the provider has signed in: they must have the address that was invited, so that a
/// link that was passed on does not make somebody else that user.
async fn bind(
    control: &Control,
    visitor: &Visitor,
    link: SecretString,
    issuer: &str,
    subject: Subject,
) -> Result<Response, Failed> {
    let database = control.vault.database().map_err(AdminError::from)?;
    let opened = database.link(&link).await.map_err(AdminError::from)?.ok_or(Failed::Unknown)?;
    let Some(user) = opened.user else { return Err(Failed::Unknown) };
    let verified: Option<Email> = subject.verified_email.and_then(|email| email.parse().ok());
    if verified.as_ref() != Some(&user.email) {
        let refused =
            Refused { organization: Some(user.organization), user: Some(user.id), reason: "oidc_other_email" };
        control.people.note_refusal(database, visitor, refused).await;
        return Err(Failed::Stranger);
    }
    let proof = NewProof::Subject { issuer: issuer.to_owned(), subject: subject.subject };
    Ok(invite::follow(control, visitor, link, proof, Person::default()).await?)
}
