//! Who asks, and whether they may. Judged before a body is read and before a name is looked up; only that a path is no
//! route at all is told to everybody whom we know.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use utoipa::openapi::OpenApi;

use super::condition::Condition;
use super::cookie::{self, Kind};
use super::error::AdminError;
use super::guard;
use super::openapi;
use super::organizations;
use super::people;
use super::permission::{self, Needs};
use super::request::Query;
use super::{Control, Peer};
use crate::model::api_key::ApiKey;
use crate::model::connection::Connection;
use crate::model::id::{ApiKeyId, OrganizationId, SessionId, UserId};
use crate::model::role::{Grant, Permission, Roles};
use crate::model::user::UserStatus;
use crate::telemetry::request_id::RequestId;
use crate::vault::answer::Once;
use crate::vault::api_key::KnownKey;
use crate::vault::audit::Author;
use crate::vault::query::user::Look;

/// Somebody we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The holder of an API key.
    Key(ApiKeyId),
    /// Somebody who is signed in.
    User(UserId),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Key(id) => id.fmt(f),
            Who::User(id) => id.fmt(f),
        }
    }
}

/// Somebody we know, before it is asked what they want.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Their key or user.
    pub who: Who,
    /// What they may do.
    pub roles: Roles,
    /// Their own organization.
    pub organization: OrganizationId,
    /// The user behind it: a signed-in one, or the owner of a key.
    pub owner: Option<UserId>,
    /// The session that a signed-in user asks with.
    pub session: Option<SessionId>,
    /// The key that was shown, where one was.
    pub key: Option<Arc<ApiKey>>,
}

/// Somebody who may do what they ask, and the organization they ask about.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Their key or user.
    pub who: Who,
    /// What they may do.
    pub roles: Roles,
    /// The organization that `?organization=` names, else their own.
    pub organization: OrganizationId,
    /// Their own organization.
    pub own_organization: OrganizationId,
    /// The user behind it: a signed-in one, or the owner of a key. What they own is this user's.
    pub owner: Option<UserId>,
    /// The session that a signed-in user asks with.
    pub session: Option<SessionId>,
    /// The key that was shown, where one was: nobody makes a key with it that may do more.
    pub key: Option<Arc<ApiKey>>,
    /// Where the request came from.
    pub address: IpAddr,
    /// The request's own id, as its answer and the audit log name it.
    pub request_id: RequestId,
    /// For how much this call is granted; [`Grant::Own`] limits it to what `owner` owns.
    pub grant: Grant,
    /// The request, where its sender may send it again.
    pub(super) once: Option<Box<Once>>,
    /// How the thing must be that is changed.
    pub(super) condition: Condition,
}

impl Actor {
    /// As the audit log names them.
    pub(super) fn author(&self) -> Author {
        Author {
            actor: self.who.to_string(),
            address: Some(self.address),
            request_id: self.request_id.as_str().to_owned(),
        }
    }

    /// Whether they may do this for everything in the organization. For what a call needs beside its route's
    /// permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.roles.grant(permission) == Grant::All
    }

    /// As [`may`](Self::may), and what refuses it otherwise.
    pub fn require(&self, permission: Permission) -> Result<(), AdminError> {
        if self.may(permission) { Ok(()) } else { Err(AdminError::RoleInsufficient) }
    }

    /// Refuses a key that has bounds: a person whom it lets in has none.
    pub fn require_unbounded(&self) -> Result<(), AdminError> {
        match &self.key {
            Some(key) if key.terms.is_bounded() => Err(AdminError::Bounded),
            _ => Ok(()),
        }
    }

    /// Whether a connection is inside the scope of the key that was shown, where one was.
    pub fn covers(&self, connection: &Connection) -> bool {
        self.key.as_ref().is_none_or(|key| connection.is_named_by(&key.terms.scope.connections))
    }

    /// Whether this call may touch something of this owner.
    pub fn reaches(&self, owner: Option<UserId>) -> bool {
        match self.grant {
            Grant::All => true,
            Grant::Own => owner.is_some() && owner == self.owner,
            Grant::None => false,
        }
    }
}

/// Lets a request in with its [`Actor`], or answers why not.
pub(super) async fn admit(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match judge(&control, &parts, Look::InUse).await {
        Ok(Judged::Admitted(actor)) => {
            parts.extensions.insert(actor);
            next.run(Request::from_parts(parts, body)).await
        }
        Ok(Judged::NoRoute) => AdminError::NotFound("resource").into_response(),
        Ok(Judged::OtherMethod(known)) => permission::other_method(&known),
        Err(error) => error.into_response(),
    }
}

/// Who somebody is now who was let in with this request: `None` where they would not be let in with it any more, as who
/// they were and for the same organization. What they may do now can be less. That it is looked at is no use of their
/// session.
pub(super) async fn holds(control: &Control, actor: &Actor, parts: &Parts) -> Option<Actor> {
    match judge(control, parts, Look::Aside).await {
        Ok(Judged::Admitted(now)) => {
            Some(now).filter(|now| (now.who, now.organization) == (actor.who, actor.organization))
        }
        _ => None,
    }
}

/// Somebody who was let in, and as much of their request as [`holds`] looks at, which is little however much they sent:
/// what it said beside who sends it and which organization it is about was judged.
pub(super) fn essence(control: &Control, actor: Actor, parts: &Parts) -> (Actor, Parts) {
    let (mut kept, ()) = Request::new(()).into_parts();
    kept.method = parts.method.clone();
    if actor.organization != actor.own_organization {
        kept.uri = format!("/?organization={}", actor.organization).parse().unwrap_or_default();
    }
    let transport = control.people.settings.transport;
    let (proof, value) = match presented_text(&parts.headers) {
        Ok(Some(key)) => (HeaderName::from_static("x-api-key"), HeaderValue::from_bytes(key).ok()),
        _ => (header::COOKIE, cookie::only(&parts.headers, Kind::Session, transport)),
    };
    if let Some(mut value) = value {
        value.set_sensitive(true);
        kept.headers.insert(proof, value);
        // A cookie is believed of our own pages only, which its request was found to come from.
        kept.headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    }
    keep_extension::<MatchedPath>(parts, &mut kept);
    keep_extension::<Arc<OpenApi>>(parts, &mut kept);
    keep_extension::<Peer>(parts, &mut kept);
    keep_extension::<RequestId>(parts, &mut kept);
    (Actor { once: None, condition: Condition::none(), ..actor }, kept)
}

fn keep_extension<T: Clone + Send + Sync + 'static>(parts: &Parts, kept: &mut Parts) {
    if let Some(value) = parts.extensions.get::<T>() {
        kept.extensions.insert(value.clone());
    }
}

enum Judged {
    Admitted(Actor),
    NoRoute,
    OtherMethod(String),
}

async fn judge(control: &Control, parts: &Parts, look: Look) -> Result<Judged, AdminError> {
    let identity = identify(control, &parts.method, &parts.headers, look).await?;
    let Some(route) = parts.extensions.get::<MatchedPath>() else { return Ok(Judged::NoRoute) };
    let permission = match permission::needs(&parts.method, route.as_str()) {
        Needs::Permission(permission) => permission,
        Needs::OtherMethod(known) => return Ok(Judged::OtherMethod(known)),
        Needs::Unlisted => return Err(AdminError::RoleInsufficient),
    };
    let grant = identity.roles.grant(permission);
    if grant == Grant::None {
        return Err(AdminError::RoleInsufficient);
    }
    if let Some(api) = parts.extensions.get::<Arc<OpenApi>>() {
        openapi::check_query(api, &parts.method, route.as_str(), &parts.uri)?;
    }
    let address = parts.extensions.get::<Peer>().ok_or(AdminError::Unauthenticated)?.0.ip().to_canonical();
    Ok(Judged::Admitted(Actor {
        organization: organization(control, &identity, &parts.uri).await?,
        who: identity.who,
        roles: identity.roles,
        own_organization: identity.organization,
        owner: identity.owner,
        session: identity.session,
        key: identity.key,
        address,
        request_id: guard::request_id(parts)?,
        grant,
        once: None,
        condition: if parts.method.is_safe() { Condition::none() } else { Condition::read(&parts.headers)? },
    }))
}

/// The organization that is asked about. Whose only is their own is told of another one what is told of none.
async fn organization(control: &Control, identity: &Identity, uri: &Uri) -> Result<OrganizationId, AdminError> {
    let Some(named) = Query::read(uri)?.organization else { return Ok(identity.organization) };
    Ok(organizations::reached(control, identity.organization, identity.roles, &named).await?.id)
}

/// Who asks: by an API key, else by the cookie of a session.
async fn identify(control: &Control, method: &Method, headers: &HeaderMap, look: Look) -> Result<Identity, AdminError> {
    let Some(presented) = presented(headers)? else { return signed_in(control, method, headers, look).await };
    let KnownKey { key, .. } = control.vault.authenticate(&presented).await?.ok_or(AdminError::Unauthenticated)?;
    Ok(Identity {
        who: Who::Key(key.id),
        roles: key.terms.roles,
        organization: key.organization,
        owner: key.terms.owner,
        session: None,
        key: Some(key),
    })
}

async fn signed_in(
    control: &Control,
    method: &Method,
    headers: &HeaderMap,
    look: Look,
) -> Result<Identity, AdminError> {
    let found = people::signed_in(control, method, headers, look).await?;
    let (session, user) = found.ok_or(AdminError::Unauthenticated)?;
    // An invited user has no session, and a disabled one lost theirs; looked at again, as it costs nothing.
    if user.status != UserStatus::Active {
        return Err(AdminError::Unauthenticated);
    }
    Ok(Identity {
        who: Who::User(user.id),
        roles: user.roles,
        organization: user.organization,
        owner: Some(user.id),
        session: Some(session.id),
        key: None,
    })
}

/// The API key of a request.
fn presented(headers: &HeaderMap) -> Result<Option<SecretString>, AdminError> {
    let Some(key) = presented_text(headers)? else { return Ok(None) };
    std::str::from_utf8(key).map(|key| Some(SecretString::from(key))).map_err(|_| AdminError::Unauthenticated)
}

/// What is shown as an API key. What does not begin as one is somebody else's business, such as a front proxy's; two
/// different ones leave open who asks.
fn presented_text(headers: &HeaderMap) -> Result<Option<&[u8]>, AdminError> {
    let plain = headers.get_all("x-api-key").iter().map(|value| value.as_bytes());
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
    });
    let mut keys = plain.chain(bearer).map(<[u8]>::trim_ascii).filter(|key| key.starts_with(b"apk_"));
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.any(|other| other != key) { Err(AdminError::Unauthenticated) } else { Ok(Some(key)) }
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = AdminError;

    /// A route outside of the layer that admits has nobody to offer.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        parts.extensions.get::<Actor>().cloned().ok_or(AdminError::Unauthenticated)
    }
}
