//! Roles: which there are, and what each may do.

use std::collections::BTreeMap;

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::request::Items;
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
#[utoipa::path(get, path = "/roles", responses((status = 200, description = "All of them.", body = Items<View>)))]
pub(super) async fn list() -> Json<Items<View>> {
    let view = |role: Role| {
        let grants = Permission::ALL.iter().map(|permission| (permission.as_str(), role.grant(*permission)));
        View { role, permissions: grants.collect() }
    };
    Json(Items { items: Role::ALL.map(view).into(), next: None })
}
