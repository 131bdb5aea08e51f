//! Users: inviting them, giving them roles, disabling and deleting them.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, tagged};
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Query, stored};
use crate::model::document::Reader;
use crate::model::id::{OrganizationId, UserId};
use crate::model::moment::Moment;
use crate::model::role::{Role, Roles};
use crate::model::user::{Email, SignInMethod, User, UserRef, UserStatus};
use crate::model::version::Version;
use crate::vault::change::Change;
use crate::vault::change::user::{UserChange, UserKey};
use crate::vault::derived;
use crate::vault::query::user::UserRecord;

/// A user as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct View {
    id: UserId,
    organization: OrganizationId,
    email: Email,
    first_name: String,
    last_name: String,
    method: SignInMethod,
    #[schema(value_type = Vec<Role>)]
    roles: Roles,
    status: UserStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Moment>,
    last_sign_in_at: Option<Moment>,
}

/// Somebody who is to be invited.
#[derive(ToSchema)]
#[schema(as = NewUser)]
pub struct Body {
    /// Unique in the organization.
    pub email: Email,
    /// As a person reads it.
    #[schema(max_length = 100)]
    pub first_name: Option<String>,
    /// As a person reads it.
    #[schema(max_length = 100)]
    pub last_name: Option<String>,
    /// `password` where it is not said.
    pub method: Option<SignInMethod>,
    /// At least one.
    #[schema(min_items = 1)]
    pub roles: Vec<Role>,
}

/// What may be changed of a user.
#[derive(ToSchema)]
#[schema(as = UserEdit)]
pub struct Edit {
    /// As a person reads it.
    #[schema(max_length = 100)]
    pub first_name: Option<String>,
    /// As a person reads it.
    #[schema(max_length = 100)]
    pub last_name: Option<String>,
    /// All of them from now on.
    #[schema(min_items = 1)]
    pub roles: Option<Vec<Role>>,
}

/// The roles of a user.
#[derive(ToSchema)]
#[schema(as = UserRoles)]
pub struct RolesBody {
    /// All of them from now on.
    #[schema(min_items = 1)]
    pub roles: Vec<Role>,
}

/// What a view shows and nobody sets.
const SHOWN_ONLY: [&str; 8] =
    ["id", "organization", "email", "method", "status", "created_at", "last_sign_in_at", "sessions"];

impl View {
    /// A user who has just signed in.
    pub(super) fn of(user: User) -> Self {
        let User { id, organization, email, first_name, last_name, method, roles, status } = user;
        View {
            id,
            organization,
            email,
            first_name,
            last_name,
            method,
            roles,
            status,
            created_at: None,
            last_sign_in_at: None,
        }
    }
}

impl From<UserRecord> for View {
    fn from(record: UserRecord) -> Self {
        View {
            created_at: Some(Moment::from_milliseconds(record.created_at)),
            last_sign_in_at: record.last_sign_in_at.map(Moment::from_milliseconds),
            ..View::of(record.user)
        }
    }
}

/// A user who was given a link.
#[derive(Serialize, ToSchema)]
pub struct Invited {
    #[serde(flatten)]
    user: View,
    /// To be opened once, by the user; whoever opens it is the user from then on. Absent where an answer is repeated for
    /// its `Idempotency-Key`.
    #[schema(required = false)]
    link: String,
    link_expires_at: Moment,
    mail: Mailed,
    /// Told in `ETag`.
    #[serde(skip)]
    #[schema(ignore)]
    version: Version,
}

/// What became of the mail with the link.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mailed {
    /// The mail server has taken it.
    Sent,
    /// It has not; the log says why.
    Failed,
    /// No mail server is configured.
    Off,
}

/// Lists the users of the organization.
#[utoipa::path(get, path = "/users", params(Paging), responses(
    (status = 200, description = "A page of them, by address.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    let list = control.vault.database()?.users(actor.organization, query.page()).await?;
    Ok(Json(Items::from(list).map(View::from)))
}

/// Invites somebody: makes the user and a link that lets them in once.
///
/// The link is sent to them where a mail server is configured, and shown here, once. Nobody gives a role that they do
/// not have themselves.
#[utoipa::path(post, path = "/users", request_body = Body, responses(
    (status = 201, description = "They are invited.", body = Invited, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn invite(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    actor.require_unbounded()?;
    let has_provider = control.people.oidc.is_some();
    let user = document.read(|reader| {
        let (email, names) = (reader.required("email"), names(reader));
        let method = reader.parsed("method");
        if method == Some(SignInMethod::Oidc) && !has_provider {
            reader.problem("method", "no identity provider is configured ([admin.oidc])");
        }
        let roles = roles(reader);
        Some(User {
            id: UserId::generate(),
            organization: actor.organization,
            email: email?,
            first_name: names.0.unwrap_or_default(),
            last_name: names.1.unwrap_or_default(),
            method: method.unwrap_or(SignInMethod::Password),
            roles: roles?,
            status: UserStatus::Invited,
        })
    })?;
    let (email, change) =
        (user.email.clone(), |link| UserChange::Invite { user: Box::new(user), link, by: actor.roles });
    let invited = give_link(&control, &actor, &email, change).await?;
    let (place, version) = (format!("users/{}", invited.user.id), invited.version);
    Ok(tagged(stored(true, &place, invited), Some(version)))
}

/// Makes a new link for a user, and sends it; earlier ones are of no use any more.
///
/// Whoever follows it sets a new password, or names their account at the identity provider anew.
#[utoipa::path(post, path = "/users/{user}/invite", responses(
    (status = 200, description = "The new link.", body = Invited)
))]
pub(super) async fn renew(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Json<Invited>, AdminError> {
    actor.require_unbounded()?;
    let record = find(&control, &actor, &named).await?;
    let (user, email) = (key(&actor, &record), record.user.email);
    let change = |link| UserChange::Renew { user, link, by: actor.roles };
    Ok(Json(give_link(&control, &actor, &email, change).await?))
}

async fn give_link(
    control: &Control,
    actor: &Actor,
    email: &Email,
    change: impl FnOnce(crate::vault::change::link::NewLink) -> UserChange,
) -> Result<Invited, AdminError> {
    let people = &control.people;
    let link = people.link(people.settings.invite_lifetime)?;
    let (url, expires_at) = (people.url_of(&link.token.text), Moment::from_milliseconds(link.expires_at));
    control.commit(actor, Change::User(change(link))).await?;
    let record = find(control, actor, email.as_str()).await?;
    let mail = match &people.mail {
        None => Mailed::Off,
        Some(mailer) => match mailer.invite(&record.user, &url, &expires_at.to_string()).await {
            Ok(()) => Mailed::Sent,
            Err(error) => {
                tracing::warn!(user = %record.user.id, %error, "the mail with an invitation was not sent");
                Mailed::Failed
            }
        },
    };
    let version = derived::of_user(&record.user);
    Ok(Invited { user: record.into(), link: url, link_expires_at: expires_at, mail, version })
}

/// Shows a user.
#[utoipa::path(get, path = "/users/{user}", responses(
    (status = 200, description = "The user.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Shown<View>, AdminError> {
    Ok(shown(find(&control, &actor, &named).await?))
}

/// Changes the names and roles of a user; what is not there stays as it is.
///
/// Other roles end the user's sessions. Nobody gives or changes roles above their own, and one active super admin
/// always stays.
#[utoipa::path(put, path = "/users/{user}", request_body = Edit, responses(
    (status = 200, description = "As they are now.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn edit(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Shown<View>, AdminError> {
    let (names, roles) = document.without(&SHOWN_ONLY).read(|reader| {
        let names = names(reader);
        let roles = if reader.has("roles") { Some(roles(reader)?) } else { None };
        Some((names, roles))
    })?;
    if roles.is_some() {
        actor.require_unbounded()?;
    }
    let record = find(&control, &actor, &named).await?;
    let user = key(&actor, &record);
    let (first_name, last_name) = names;
    let change = UserChange::Edit { user, first_name, last_name, roles, by: actor.roles };
    changed(&control, &actor, record, change).await
}

/// Gives a user other roles: these are all of them from now on. It ends the user's sessions.
#[utoipa::path(put, path = "/users/{user}/roles", request_body = RolesBody, responses(
    (status = 200, description = "As they are now.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn set_roles(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Shown<View>, AdminError> {
    actor.require_unbounded()?;
    let roles = document.read(roles)?;
    let record = find(&control, &actor, &named).await?;
    let user = key(&actor, &record);
    let change = UserChange::Edit { user, first_name: None, last_name: None, roles: Some(roles), by: actor.roles };
    changed(&control, &actor, record, change).await
}

/// Disables a user: their sessions end, and they sign in no more.
#[utoipa::path(post, path = "/users/{user}/disable", responses(
    (status = 200, description = "As they are now.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn disable(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Shown<View>, AdminError> {
    let record = find(&control, &actor, &named).await?;
    let change = UserChange::Disable { user: key(&actor, &record), by: actor.roles };
    changed(&control, &actor, record, change).await
}

/// Lets a disabled user sign in again.
#[utoipa::path(post, path = "/users/{user}/enable", responses(
    (status = 200, description = "As they are now.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn enable(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Shown<View>, AdminError> {
    actor.require_unbounded()?;
    let record = find(&control, &actor, &named).await?;
    let change = UserChange::Enable { user: key(&actor, &record), by: actor.roles };
    changed(&control, &actor, record, change).await
}

/// Deletes a user with their sessions.
#[utoipa::path(delete, path = "/users/{user}", responses((status = 204, description = "They are gone.")))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let record = find(&control, &actor, &named).await?;
    let change = UserChange::Delete { user: key(&actor, &record), by: actor.roles };
    control.commit(&actor, Change::User(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn changed(
    control: &Control,
    actor: &Actor,
    record: UserRecord,
    change: UserChange,
) -> Result<Shown<View>, AdminError> {
    control.commit(actor, Change::User(change)).await?;
    Ok(shown(find(control, actor, &record.user.id.to_string()).await?))
}

fn shown(record: UserRecord) -> Shown<View> {
    let version = derived::of_user(&record.user);
    Shown(record.into(), Some(version))
}

/// A user of the organization that is asked about, by id or address.
pub(super) async fn find(control: &Control, actor: &Actor, named: &str) -> Result<UserRecord, AdminError> {
    let reference = UserRef::from_str(named).map_err(|_| AdminError::NotFound("user"))?;
    let record = control.vault.database()?.user(actor.organization, &reference).await?;
    record.ok_or(AdminError::NotFound("user"))
}

pub(super) fn key(actor: &Actor, record: &UserRecord) -> UserKey {
    UserKey { organization: actor.organization, id: record.user.id }
}

fn names(reader: &Reader<'_>) -> (Option<String>, Option<String>) {
    let name = |key| reader.label(key, 100).map(str::to_owned);
    (name("first_name"), name("last_name"))
}

/// One role at least: without one a user could do nothing.
fn roles(reader: &Reader<'_>) -> Option<Roles> {
    let roles: Vec<Role> = reader.parsed_list("roles");
    if reader.list("roles").is_empty() {
        reader.problem("roles", "expected a list of roles; GET /api/v1/roles tells which there are");
    }
    (!roles.is_empty()).then(|| roles.into_iter().collect())
}
