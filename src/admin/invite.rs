//! One-time links: what one is for, and following it.
//!
//! The token comes in the body and never in a path, so it is in no log. Looking at a link does not use it up; a mail
//! server that opens every link in a mail gets a page and nothing else.

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
use super::people::Visitor;
use super::throttle::Attempt;
use super::users::View;
use crate::model::document::Problem;
use crate::model::name::Key;
use crate::model::user::{Email, SignInMethod, UserRef};
use crate::vault::change::Change;
use crate::vault::change::link::{NewProof, Person};
use crate::vault::change::user::UserChange;
use crate::vault::password;
use crate::vault::query::user::OpenLink;

/// The token of a link.
#[derive(ToSchema)]
#[schema(as = LinkToken)]
pub struct Token {
    /// What stands behind the `#` of the link.
    pub token: String,
}

/// What somebody follows a link with.
#[derive(ToSchema)]
pub struct Acceptance {
    /// What stands behind the `#` of the link.
    pub token: String,
    /// At least 12 characters.
    #[schema(min_length = 12, max_length = 512, write_only)]
    pub password: String,
    /// Needed for a link that makes a super admin.
    pub email: Option<Email>,
    /// As a person reads it.
    #[schema(max_length = 100)]
    pub first_name: Option<String>,
    /// As a person reads it.
    #[schema(max_length = 100)]
    pub last_name: Option<String>,
}

/// What a link is for.
#[derive(Serialize, ToSchema)]
#[schema(as = LinkPurpose)]
pub struct Purpose {
    /// `invite`, or `admin` for one that makes a super admin.
    purpose: &'static str,
    organization: Option<Key>,
    email: Option<Email>,
    first_name: Option<String>,
    last_name: Option<String>,
    method: SignInMethod,
}

/// Tells what a link is for. It can still be followed afterwards.
#[utoipa::path(post, path = "/api/v1/invite", security(()), request_body = Token, responses(
    (status = 200, description = "What it is for.", body = Purpose),
    (status = 404), (status = 409), (status = 410), (status = 422), (status = 429), (status = 503)
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    visitor: Visitor,
    mut form: Form,
) -> Result<Json<Purpose>, AdminError> {
    let token = form.secret("token");
    let token = form.required("token", token);
    form.finish()?;
    let OpenLink { organization, user } = look(&control, &visitor, token).await?.1;
    let organization = control.vault.organization(&organization.to_string()).await?.map(|found| found.key);
    let purpose = if user.is_some() { "invite" } else { "admin" };
    let method = user.as_ref().map_or(SignInMethod::Password, |user| user.method);
    let (email, names) = match user {
        Some(user) => (Some(user.email), (Some(user.first_name), Some(user.last_name))),
        None => (None, (None, None)),
    };
    Ok(Json(Purpose { purpose, organization, email, first_name: names.0, last_name: names.1, method }))
}

/// Follows a link: uses it up, sets the password of whoever holds it, and signs them in.
///
/// Of two who follow it at once one is let in; the other is told 409, and whoever comes later 410.
#[utoipa::path(post, path = "/api/v1/invite/accept", security(()), request_body = Acceptance, responses(
    (status = 200, description = "They are signed in.", body = View, headers(("Set-Cookie" = String))),
    (status = 404), (status = 409), (status = 410), (status = 422), (status = 429), (status = 503)
))]
pub(super) async fn accept(
    State(control): State<Arc<Control>>,
    visitor: Visitor,
    mut form: Form,
) -> Result<Response, AdminError> {
    let (token, password) = (form.secret("token"), form.secret("password"));
    let person = Person {
        email: form.parsed("email"),
        first_name: form.label("first_name"),
        last_name: form.label("last_name"),
    };
    let (token, password) = (form.required("token", token), form.required("password", password));
    form.finish()?;
    let (token, link) = look(&control, &visitor, token).await?;
    let email = match (&link.user, &person.email) {
        (Some(user), Some(email)) if user.email != *email => {
            return Err(wrong("/email", "this link is for another address"));
        }
        (Some(user), _) if user.method == SignInMethod::Oidc => {
            return Err(AdminError::Conflict(format!("{} signs in at the identity provider", user.email)));
        }
        (Some(user), _) => user.email.clone(),
        (None, Some(email)) => email.clone(),
        (None, None) => return Err(wrong("", "the key `email` is missing")),
    };
    let Some(password) = password else { return Err(AdminError::SignInRefused) };
    password::judge(&password, &email).map_err(|weak| wrong("/password", &weak.to_string()))?;
    let hash = control.people.passwords.hash(control.vault.database()?, password).await?;
    follow(&control, &visitor, token, NewProof::Password(hash), person).await
}

/// Uses a link up: whoever holds it is that user from now on, and signed in.
pub(super) async fn follow(
    control: &Control,
    visitor: &Visitor,
    link: SecretString,
    proof: NewProof,
    person: Person,
) -> Result<Response, AdminError> {
    let database = control.vault.database()?;
    let opened = database.link(&link).await?.ok_or(AdminError::NotFound("link"))?;
    let session = control.people.session(visitor)?;
    let token = session.token.text.clone();
    // Whoever follows it is whom it lets in; where it makes a user, nobody has an id yet.
    let actor = opened.user.map_or_else(|| "admin-link".to_owned(), |user| user.id.to_string());
    let change = Change::User(UserChange::Accept { link, proof, person, session });
    let outcome = control.vault.commit(&visitor.author(&actor), change).await?;
    let user = outcome.user.ok_or(AdminError::NotFound("user"))?;
    let record = database.user(opened.organization, &UserRef::Id(user)).await?;
    let record = record.ok_or(AdminError::NotFound("user"))?;
    control.people.welcome(database, user, &token, View::from(record)).await
}

/// A link that can be followed. An address that tries many is slowed down like one that tries passwords.
pub(super) async fn look(
    control: &Control,
    visitor: &Visitor,
    token: Option<SecretString>,
) -> Result<(SecretString, OpenLink), AdminError> {
    let account = format!("links {}", visitor.address);
    let attempt = Attempt { account: &account, address: visitor.address, known_browser: None };
    control.people.throttle.take(attempt).map_err(AdminError::SignInThrottled)?;
    let token = token.ok_or(AdminError::NotFound("link"))?;
    let link = control.vault.database()?.link(&token).await?.ok_or(AdminError::NotFound("link"))?;
    control.people.throttle.give_back(attempt);
    Ok((token, link))
}

fn wrong(pointer: &str, detail: &str) -> AdminError {
    AdminError::Invalid(vec![Problem { pointer: pointer.to_owned(), detail: detail.to_owned() }])
}
