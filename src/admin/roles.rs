//! Roles: which there are, and what each may do.

use std::collections::BTreeMap;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::Paging;
use super::request::{Items, Query};
use crate::model::role::{Grant, Permission, Role};

/// A role as it is shown: its row of the table.
#[derive(Serialize, ToSchema)]
#[schema(as = RoleRow)]
pub struct View {
    role: Role,
    /// `all` for everything in the organization, `own` for what the actor owns.
    #[schema(value_type = BTreeMap<String, Grant>)]
    permissions: BTreeMap<&'static str, Grant>,
}

/// Lists the roles with what each may do, the mightiest first.
///
/// It is the table that calls are judged by.
#[utoipa::path(get, path = "/roles", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(query: Query) -> Json<Items<View>> {
    let view = |role: Role| {
        let grants = Permission::ALL.iter().map(|permission| (permission.as_str(), role.grant(*permission)));
        View { role, permissions: grants.collect() }
    };
    let seen = Role::ALL.iter().position(|role| role.as_str() == query.cursor()).map_or(0, |at| at + 1);
    let limit = usize::try_from(query.page().limit).unwrap_or(usize::MAX);
    let page: Vec<Role> = Role::ALL.into_iter().skip(seen).take(limit).collect();
    let next = page.last().filter(|_| Role::ALL.len() > seen + page.len()).map(|last| last.as_str().to_owned());
    Json(Items { items: page.into_iter().map(view).collect(), next })
}
