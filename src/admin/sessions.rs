//! Sessions: seeing and ending them; one's own account.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::error::AdminError;
use super::form::Form;
use super::openapi::Paging;
use super::request::{At, Items, Query};
use super::throttle::Attempt;
use super::users::{self, View};
use crate::model::document::Problem;
use crate::model::id::{OrganizationId, SessionId, UserId};
use crate::model::moment::Moment;
use crate::model::role::{Permission, Role, Roles};
use crate::model::user::{Email, UserRef};
use crate::vault::change::Change;
use crate::vault::change::session::SessionChange;
use crate::vault::change::user::{UserChange, UserKey};
use crate::vault::password;
use crate::vault::query::user::SessionRecord;

/// A session as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    id: SessionId,
    user: UserId,
    email: Email,
    address: String,
    agent: String,
    created_at: Moment,
    used_at: Moment,
    expires_at: Moment,
    /// Whether it is the one that asks.
    current: bool,
}

/// A password and the one that takes its place.
#[derive(ToSchema)]
pub struct NewPassword {
    /// The one that holds.
    #[schema(write_only)]
    pub old: String,
    /// At least 12 characters.
    #[schema(min_length = 12, max_length = 512, write_only)]
    pub new: String,
}

/// Who asks.
#[derive(Serialize, ToSchema)]
pub struct Me {
    /// The id of the key or user.
    id: String,
    organization: OrganizationId,
    #[schema(value_type = Vec<Role>)]
    roles: Roles,
    /// Where somebody is signed in.
    user: Option<View>,
    session: Option<SessionId>,
}

/// Shows who asks, and what they may do.
#[utoipa::path(get, path = "/me", responses((status = 200, description = "Who asks.", body = Me)))]
pub(super) async fn me(State(control): State<Arc<Control>>, actor: Actor) -> Result<Json<Me>, AdminError> {
    let user = match actor.owner {
        Some(user) => control.vault.database()?.user(actor.own_organization, &UserRef::Id(user)).await?,
        None => None,
    };
    Ok(Json(Me {
        id: actor.who.to_string(),
        organization: actor.own_organization,
        roles: actor.roles,
        user: user.map(View::from),
        session: actor.session,
    }))
}

/// Changes one's own password. It ends one's other sessions.
///
/// Only who is signed in has one: a key is refused.
#[utoipa::path(put, path = "/me/password", request_body = NewPassword, responses(
    (status = 204, description = "It is changed."), (status = 401), (status = 429)
))]
pub(super) async fn set_password(
    State(control): State<Arc<Control>>,
    actor: Actor,
    mut form: Form,
) -> Result<StatusCode, AdminError> {
    let (old, new) = (form.secret("old"), form.secret("new"));
    let (old, new) = (form.required("old", old), form.required("new", new));
    form.finish()?;
    let (Some(old), Some(new)) = (old, new) else { return Err(AdminError::SignInRefused) };
    // A key is not a person: only who is signed in has a password to change.
    let (Some(_), Some(id)) = (actor.session, actor.owner) else { return Err(AdminError::RoleInsufficient) };
    let (people, database) = (&control.people, control.vault.database()?);
    let record = database.user(actor.own_organization, &UserRef::Id(id)).await?.ok_or(AdminError::NotFound("user"))?;
    let found = database.user_with_password(actor.own_organization, &record.user.email).await?;
    let (_, hash) = found.ok_or(AdminError::NotFound("user"))?;
    let Some(hash) = hash else {
        return Err(AdminError::Conflict("you sign in at the identity provider and have no password here".to_owned()));
    };
    password::judge(&new, &record.user.email)
        .map_err(|weak| AdminError::Invalid(vec![Problem { pointer: "/new".to_owned(), detail: weak.to_string() }]))?;
    let mark = format!("session {id}");
    let attempt = Attempt { account: "", address: actor.address, known_browser: Some(&mark) };
    people.throttle.take(attempt).map_err(AdminError::SignInThrottled)?;
    if !people.passwords.verify(database, Some(hash.clone()), old).await? {
        return Err(AdminError::SignInRefused);
    }
    people.throttle.give_back(attempt);
    let new = people.passwords.hash(database, new).await?;
    let user = UserKey { organization: actor.own_organization, id };
    let change = UserChange::SetPassword { user, old: hash, new, keep: actor.session };
    control.commit(&actor, Change::User(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists one's own sessions.
///
/// A key that belongs to nobody sees those of the organization, if it may see users.
#[utoipa::path(get, path = "/sessions", params(Paging), responses(
    (status = 200, description = "A page of them, the oldest first.", body = Items<SessionView>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<SessionView>>, AdminError> {
    match actor.owner {
        Some(user) => page(&control, actor.own_organization, &actor, Some(user), &query).await,
        None if actor.may(Permission::ReadUsers) => page(&control, actor.organization, &actor, None, &query).await,
        None => Ok(Json(Items { items: Vec::new(), next: None })),
    }
}

/// Lists the sessions of a user.
#[utoipa::path(get, path = "/users/{user}/sessions", params(Paging), responses(
    (status = 200, description = "A page of them, the oldest first.", body = Items<SessionView>)
))]
pub(super) async fn list_of_user(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    query: Query,
) -> Result<Json<Items<SessionView>>, AdminError> {
    let user = users::find(&control, &actor, &named).await?.user.id;
    page(&control, actor.organization, &actor, Some(user), &query).await
}

async fn page(
    control: &Control,
    organization: OrganizationId,
    actor: &Actor,
    of: Option<UserId>,
    query: &Query,
) -> Result<Json<Items<SessionView>>, AdminError> {
    let idle = control.people.settings.session_idle;
    let list = control.vault.database()?.sessions(organization, of, idle, query.page()).await?;
    Ok(Json(Items::from(list).map(|session| view(session, actor.session))))
}

fn view(session: SessionRecord, current: Option<SessionId>) -> SessionView {
    SessionView {
        id: session.id,
        user: session.user,
        email: session.email,
        address: session.address,
        agent: session.agent,
        created_at: Moment::from_milliseconds(session.created_at),
        used_at: Moment::from_milliseconds(session.used_at),
        expires_at: Moment::from_milliseconds(session.expires_at),
        current: current == Some(session.id),
    }
}

/// Ends a session: one's own, or anybody's for whoever manages users.
#[utoipa::path(delete, path = "/sessions/{session}", responses((status = 204, description = "It has ended.")))]
pub(super) async fn end(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let session = named.parse().map_err(|_| AdminError::NotFound("session"))?;
    let (organization, of) = match actor.may(Permission::ManageUsers) {
        true => (actor.organization, None),
        false => (actor.own_organization, Some(actor.owner.ok_or(AdminError::NotFound("session"))?)),
    };
    control.commit(&actor, Change::Session(SessionChange::End { organization, of, session })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Signs a user out everywhere.
#[utoipa::path(delete, path = "/users/{user}/sessions", responses((status = 204, description = "They have ended.")))]
pub(super) async fn end_of_user(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let record = users::find(&control, &actor, &named).await?;
    let change = UserChange::EndSessions { user: users::key(&actor, &record), by: actor.roles };
    control.commit(&actor, Change::User(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}
