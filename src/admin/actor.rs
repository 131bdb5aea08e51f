//! Who asks. Judged before a body is read, before a name is looked up, and before a route is found.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;

use super::Control;
use super::error::AdminError;
use super::request::Query;
use crate::model::id::{ApiKeyId, OrganizationId};
use crate::vault::audit::Author;

/// The role that may do everything in every organization: the bootstrap key's.
const SUPER_ADMIN: &str = "super_admin";

/// Somebody who may do what they ask, and the organization they ask about.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The key they showed.
    pub key: ApiKeyId,
    /// The one that `?organization=` names, else their own.
    pub organization: OrganizationId,
}

impl Actor {
    /// As the audit log names them.
    pub(super) fn author(&self) -> Author {
        Author { actor: self.key.to_string(), address: None, request_id: String::new() }
    }
}

/// Lets a request in with its [`Actor`], or answers why not.
pub(super) async fn admit(State(control): State<Arc<Control>>, mut request: Request, next: Next) -> Response {
    match identify(&control, request.headers(), request.uri()).await {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

async fn identify(control: &Control, headers: &HeaderMap, uri: &Uri) -> Result<Actor, AdminError> {
    let presented = presented(headers)?;
    let known = control.vault.database()?.authenticate(&presented).await?;
    let key = known.ok_or(AdminError::Unauthenticated)?;
    if !key.roles.iter().any(|role| role == SUPER_ADMIN) {
        return Err(AdminError::RoleInsufficient(SUPER_ADMIN));
    }
    let organization = match Query::read(uri)?.organization {
        None => key.organization,
        Some(named) => {
            let found = control.vault.organization(&named).await?;
            found.ok_or(AdminError::NotFound("organization"))?.id
        }
    };
    Ok(Actor { key: key.id, organization })
}

/// The API key of a request. What does not begin as one is somebody else's business, such as a front proxy's; two
/// different ones leave open who asks.
fn presented(headers: &HeaderMap) -> Result<SecretString, AdminError> {
    let plain = headers.get_all("x-api-key").iter().map(|value| value.as_bytes());
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
    });
    let mut keys = plain.chain(bearer).map(<[u8]>::trim_ascii).filter(|key| key.starts_with(b"apk_"));
    let key = keys.next().ok_or(AdminError::Unauthenticated)?;
    if keys.any(|other| other != key) {
        return Err(AdminError::Unauthenticated);
    }
    std::str::from_utf8(key).map(SecretString::from).map_err(|_| AdminError::Unauthenticated)
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = AdminError;

    /// A route outside of the layer that admits has nobody to offer.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        parts.extensions.get::<Actor>().cloned().ok_or(AdminError::Unauthenticated)
    }
}
