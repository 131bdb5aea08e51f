//! Signing in by a password.
//!
//! Whatever is wrong (no such account, no password, another password, a disabled account) is told in the same words
//! after the same work, so that nobody finds out who has an account here.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::error::AdminError;
use super::form::Form;
use super::people::{HOME, Refused, Visitor};
use super::throttle::Attempt;
use super::users::View;
use crate::model::user::{Email, User, UserStatus};
use crate::vault::VaultError;
use crate::vault::change::Change;
use crate::vault::change::session::{Proof, SessionChange};
use crate::vault::change::user::UserKey;
use crate::vault::error::DatabaseError;
use crate::vault::password::PasswordHash;

/// What somebody signs in with.
#[derive(ToSchema)]
pub struct Credentials {
    /// By id or key; the one called `default` where it is not said.
    pub organization: Option<String>,
    /// Their address.
    pub email: Email,
    /// Their password.
    #[schema(write_only)]
    pub password: String,
}

/// The ways to sign in.
#[derive(Serialize, ToSchema)]
#[schema(as = WaysToSignIn)]
pub struct Ways {
    password: bool,
    /// Whether there is an identity provider.
    oidc: bool,
}

/// Tells which ways to sign in there are.
#[utoipa::path(get, path = "/api/v1/sign-in", security(()), responses(
    (status = 200, description = "The ways.", body = Ways)
))]
pub(super) async fn ways(State(control): State<Arc<Control>>) -> Json<Ways> {
    Json(Ways { password: true, oidc: control.people.oidc.is_some() })
}

/// Signs somebody in by a password: the answer sets the cookie of a session.
///
/// What is wrong is not told: no such account, another password and a disabled account are one answer.
#[utoipa::path(post, path = "/api/v1/sign-in", security(()), request_body = Credentials, responses(
    (status = 200, description = "They are signed in.", body = View, headers(("Set-Cookie" = String))),
    (status = 401), (status = 409), (status = 422), (status = 429), (status = 503)
))]
pub(super) async fn by_password(
    State(control): State<Arc<Control>>,
    visitor: Visitor,
    mut form: Form,
) -> Result<Response, AdminError> {
    let organization: Option<String> = form.parsed("organization");
    let (email, password) = (form.parsed("email"), form.secret("password"));
    let (email, password) = (form.required("email", email), form.required("password", password));
    form.finish()?;
    let (Some(email), Some(password)) = (email, password) else { return Err(AdminError::SignInRefused) };
    let (user, hash) = prove(&control, &visitor, organization.as_deref(), &email, password).await?;
    open(&control, &visitor, user, Proof::Password(hash)).await
}

/// Opens a session for somebody who has proved who they are, and tells them who that is.
pub(super) async fn open(
    control: &Control,
    visitor: &Visitor,
    user: User,
    proof: Proof,
) -> Result<Response, AdminError> {
    let session = control.people.session(visitor)?;
    let token = session.token.text.clone();
    let key = UserKey { organization: user.organization, id: user.id };
    let change = Change::Session(SessionChange::Open { user: key, proof, session });
    let opened = control.vault.commit(&visitor.author(&user.id.to_string()), change).await;
    match opened {
        // What was proved does not hold any more: it was changed while it was looked at.
        Err(VaultError::Database(DatabaseError::NotPermitted(_) | DatabaseError::NotFound(_))) => {
            Err(AdminError::SignInRefused)
        }
        Err(error) => Err(error.into()),
        Ok(_) => control.people.welcome(control.vault.database()?, user.id, &token, View::of(user)).await,
    }
}

/// The user whose password this is, with the hash it was compared with.
async fn prove(
    control: &Control,
    visitor: &Visitor,
    organization: Option<&str>,
    email: &Email,
    password: SecretString,
) -> Result<(User, PasswordHash), AdminError> {
    let (people, database) = (&control.people, control.vault.database()?);
    let named = organization.unwrap_or(HOME);
    let organization = database.organization(named).await?.map(|organization| organization.id);
    let found = match organization {
        Some(organization) => database.user_with_password(organization, email).await?,
        None => None,
    };
    let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
    let known_browser = match &user {
        Some(user) => people.known_browser(database, &visitor.headers, user.id).await?,
        None => None,
    };
    let account = match organization {
        Some(organization) => format!("{organization} {email}"),
        None => format!("{named} {email}"),
    };
    let attempt = Attempt { account: &account, address: visitor.address, known_browser: known_browser.as_deref() };
    let refused = |reason| Refused { organization, user: user.as_ref().map(|user| user.id), reason };
    if let Err(wait) = people.throttle.take(attempt) {
        people.note_refusal(database, visitor, refused("throttled")).await;
        return Err(AdminError::SignInThrottled(wait));
    }
    let is_right = people.passwords.verify(database, hash.clone(), password).await?;
    match (&user, hash) {
        (Some(user), Some(hash)) if is_right && user.status == UserStatus::Active => {
            people.throttle.give_back(attempt);
            Ok((user.clone(), hash))
        }
        _ => {
            people.note_refusal(database, visitor, refused("refused")).await;
            Err(AdminError::SignInRefused)
        }
    }
}
