//! Connections as somebody writes them: what they must be to fit their integration, and who may share them how.

use std::sync::Arc;

use super::super::Control;
use super::super::actor::Actor;
use super::super::document::Document;
use super::super::error::AdminError;
use super::{administers, invalid};
use crate::directory::route::Route;
use crate::model::connection::{Connection, ConnectionDraft, Sharing, SharingDraft, Visibility};
use crate::model::document::Problem;
use crate::model::id::ConnectionId;
use crate::model::integration::Integration;
use crate::model::role::Grant;
use crate::model::user::UserRef;

/// A connection as it was written, its shape checked.
pub(super) struct Draft {
    /// What files may say too.
    pub connection: ConnectionDraft,
    /// What is said here only.
    pub sharing: SharingDraft,
}

impl Draft {
    /// Reads a document. All mistakes at once.
    pub(super) fn read(document: &Document) -> Result<Self, AdminError> {
        document.read(|reader| {
            let (connection, sharing) = (ConnectionDraft::read(reader), SharingDraft::read(reader));
            Some(Draft { connection: connection?, sharing })
        })
    }

    /// The connection this makes in somebody's name, where it fits its integration. `before` is what it replaces.
    pub(super) async fn fit(
        self,
        control: &Control,
        actor: &Actor,
        before: Option<&Connection>,
    ) -> Result<Connection, AdminError> {
        let Draft { connection: draft, sharing } = self;
        let Some(integration) = control.vault.integration(actor.organization, &draft.integration).await? else {
            return Err(invalid("/integration", format!("there is no integration {}", draft.integration)));
        };
        let mut problems: Vec<Problem> = check_method(&draft, &integration).into_iter().collect();
        problems.extend(integration.check_values(&draft.values).into_iter().map(|(field, detail)| {
            // A value that is missing has no place of its own.
            let given = draft.values.contains_key(&field);
            let pointer = if given { format!("/values/{field}") } else { "/values".to_owned() };
            Problem { pointer, detail: format!("`{field}`: {detail}") }
        }));
        let sharing = share(actor, sharing, before, &mut problems);
        if let Some(owner) = sharing.owner
            && before.is_none_or(|before| before.sharing.owner != Some(owner))
            && control.vault.database()?.user(actor.organization, &UserRef::Id(owner)).await?.is_none()
        {
            problems.push(Problem { pointer: "/owner".to_owned(), detail: "there is no such user".to_owned() });
        }
        if !problems.is_empty() {
            return Err(AdminError::Invalid(problems));
        }
        let id = before.map_or_else(ConnectionId::generate, |before| before.id);
        let connection = Connection { sharing, ..draft.into_connection(id, actor.organization) };
        let route = Route::new(Arc::new(connection.clone()), integration);
        route.map_err(|why| invalid("", why))?;
        Ok(connection)
    }
}

/// Who may share a connection how. What is not said stays as it is, so that nothing becomes everybody's by accident; who
/// manages only their own connections makes personal ones.
fn share(actor: &Actor, draft: SharingDraft, before: Option<&Connection>, problems: &mut Vec<Problem>) -> Sharing {
    let SharingDraft { visibility, owner, labels, exposed } = draft;
    let was = before.map(|before| &before.sharing);
    let first = if actor.grant == Grant::Own { Visibility::Personal } else { Visibility::Organization };
    let visibility = visibility.unwrap_or_else(|| was.map_or(first, |was| was.visibility));
    let before = was.map(|was| was.owner);
    let owner = owner.or_else(|| before.unwrap_or(actor.owner));
    let mut wrong = |pointer: &str, detail: &str| {
        problems.push(Problem { pointer: pointer.to_owned(), detail: detail.to_owned() });
    };
    if before != Some(owner) && owner != actor.owner && !administers(actor) {
        wrong("/owner", "only administrators of the organization give connections to others");
    }
    if visibility == Visibility::Personal && owner.is_none() {
        wrong("/visibility", "a personal connection needs an owner; an API key has one where it belongs to a user");
    }
    Sharing { visibility, owner, labels, exposed }
}

fn check_method(draft: &ConnectionDraft, integration: &Integration) -> Option<Problem> {
    let methods = || integration.auth.iter().map(|auth| auth.method.as_str()).collect::<Vec<_>>().join(", ");
    let (pointer, detail) = match &draft.auth {
        Some(method) if integration.auth_method(method).is_none() => {
            ("/auth", format!("{} has no such auth method; there are: {}", integration.slug, methods()))
        }
        None if integration.auth.len() != 1 => {
            ("", format!("the key `auth` is missing; {} has several: {}", integration.slug, methods()))
        }
        _ => return None,
    };
    Some(Problem { pointer: pointer.to_owned(), detail })
}
