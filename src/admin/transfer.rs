//! Export and import: integrations, what is filled in once for them, and connections, by their stable keys and without
//! secrets, from one organization to another.
//!
//! An import is judged once, as a plan: a dry run shows it, and what is applied is that plan and nothing else.

mod difference;
mod given;
mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Control;
use super::actor::Actor;
use super::condition::settled;
use super::document::Bulk;
use super::error::AdminError;
use super::request::Own;
use crate::model::connection::{Connection, Visibility};
use crate::model::id::{ConnectionRef, OrganizationId};
use crate::model::integration::{Integration, Limit, Values};
use crate::model::name::{FieldName, Key};
use crate::vault::change::Change;
use crate::vault::change::import::Import;
use crate::vault::list::{Owner, Page};
use difference::Difference;
use given::Given;
use plan::Plan;

/// How many things an export has and an import takes: all of them are written at once, and others wait meanwhile.
const MOST: usize = 2_000;
/// How many are read at once.
const BATCH: u32 = 500;
/// The version of the documents.
const VERSION: u64 = 1;

/// Integrations and connections, without secrets and without anything that means something in one organization only.
#[derive(Serialize, ToSchema)]
#[schema(as = Transfer)]
pub struct Exported {
    /// The version of this format: 1.
    #[schema(minimum = 1, maximum = 1)]
    version: u64,
    /// Each as `POST /integrations` takes it.
    #[schema(required = false)]
    integrations: Vec<Value>,
    /// What is filled in once for all connections of an integration, also of one that is not among these.
    #[schema(required = false)]
    values: Vec<Filled>,
    /// Each as `POST /connections` takes it, without what belongs to one organization only.
    #[schema(required = false)]
    connections: Vec<Value>,
}

/// What is filled in once for all connections of an integration.
#[derive(Serialize, ToSchema)]
#[schema(as = TransferValues)]
pub struct Filled {
    /// The slug of the integration.
    integration: Key,
    /// As `PUT /integrations/{slug}/values` takes them.
    #[schema(value_type = BTreeMap<FieldName, String>)]
    values: Values,
}

/// Which things are exported.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// Only this integration, what is filled in for it, and the connections that use it.
    #[param(nullable = false)]
    integration: Option<String>,
}

/// Exports the organization's own integrations and connections by their keys, without secrets, and what it has filled in
/// once for integrations.
///
/// What is declared in the configuration, what every organization has, and what is one person's own, stays where it is.
/// More than 2,000 things are exported integration by integration.
#[utoipa::path(get, path = "/export", params(Part), responses(
    (status = 200, description = "A document that an import takes.", body = Exported)
))]
pub(super) async fn export(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(part): Own<Part>,
) -> Result<Json<Exported>, AdminError> {
    let is_part = |slug: &Key| part.integration.as_deref().is_none_or(|wanted| wanted == slug.as_str());
    let organization = actor.organization;
    let integrations = integrations(&control, organization).await?;
    let integrations = integrations.into_iter().filter(|integration| is_part(&integration.slug));
    let mut known = Known::default();
    let mut values = Vec::new();
    for (slug, filled) in control.vault.database()?.all_integration_values(organization).await? {
        if is_part(&slug)
            && let Some(integration) = known.find(&control, organization, &slug).await?
        {
            let filled = public(integration, &filled);
            values.extend((!filled.is_empty()).then_some(Filled { integration: slug, values: filled }));
        }
    }
    let mut connections = Vec::new();
    for mut connection in self::connections(&control, organization).await? {
        if is_part(&connection.integration) {
            // A field may have become secret since it was filled in.
            if let Some(integration) = known.find(&control, organization, &connection.integration).await? {
                connection.values.retain(|name, _| !is_secret(integration, name));
            }
            connections.push(written(&connection));
        }
    }
    let integrations = integrations.map(|integration| integration.document).collect();
    let exported = Exported { version: VERSION, integrations, values, connections };
    let count = exported.integrations.len() + exported.values.len() + exported.connections.len();
    if count > MOST {
        return Err(AdminError::Conflict(format!(
            "there are {count} integrations, values and connections, and an export has {MOST} at most; name one \
             integration"
        )));
    }
    Ok(Json(exported))
}

/// The integrations that were looked up already.
#[derive(Default)]
struct Known(HashMap<Key, Option<Arc<Integration>>>);

impl Known {
    async fn find(
        &mut self,
        control: &Control,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<&Integration>, AdminError> {
        if !self.0.contains_key(slug) {
            let found = control.vault.integration(organization, slug).await?;
            self.0.insert(slug.clone(), found);
        }
        Ok(self.0.get(slug).and_then(Option::as_deref))
    }
}

/// The organization's own integrations, but those above which a declared one stands.
async fn integrations(control: &Control, organization: OrganizationId) -> Result<Vec<Integration>, AdminError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    let declared = control.vault.declared();
    loop {
        let page = Page { limit: BATCH, cursor: cursor.as_deref() };
        let list = control.vault.database()?.own_integrations(organization, page).await?;
        all.extend(list.items.into_iter().filter(|integration| declared.author(&integration.slug).is_none()));
        match list.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

/// The stored connections that are the organization's and not one person's, but those above which a declared one stands.
async fn connections(control: &Control, organization: OrganizationId) -> Result<Vec<Connection>, AdminError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    let declared = control.vault.declared();
    let is_exported = |one: &Connection| {
        let reference = ConnectionRef::Key(one.key.clone());
        one.sharing.visibility == Visibility::Organization
            && declared.connection(organization, one.customer.as_ref(), &reference).is_none()
    };
    loop {
        let page = Page { limit: BATCH, cursor: cursor.as_deref() };
        let list = control.vault.database()?.connections(organization, Owner::Anyone, page).await?;
        all.extend(list.items.into_iter().filter(is_exported));
        match list.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

fn is_secret(integration: &Integration, name: &FieldName) -> bool {
    integration.fields.iter().any(|field| field.name == *name && field.secret)
}

/// Those of the values that hold: of fields that an integration has, and that are not secret.
fn public(integration: &Integration, values: &Values) -> Values {
    let holds = |name: &FieldName| integration.fields.iter().any(|field| field.name == *name && !field.secret);
    values.iter().filter(|(name, _)| holds(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A connection as an import takes it.
fn written(connection: &Connection) -> Value {
    let Connection { customer, key, name, integration, auth, values, limit, sharing, .. } = connection;
    let limit = limit.map(|Limit { per_second, burst }| json!({ "per_second": per_second, "burst": burst }));
    let mut table = BTreeMap::from([("key", json!(key)), ("integration", json!(integration))]);
    let optional =
        [("customer", json!(customer)), ("name", json!(name)), ("auth", json!(auth)), ("limit", json!(limit))];
    table.extend(optional.into_iter().filter(|(_, value)| !value.is_null()));
    if !values.is_empty() {
        table.insert("values", json!(values));
    }
    if !sharing.labels.is_empty() {
        table.insert("labels", json!(sharing.labels));
    }
    if sharing.exposed {
        table.insert("exposed", json!(true));
    }
    json!(table)
}

/// How an import is made.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Mode {
    /// Whether only the difference is shown, and nothing is changed.
    #[param(nullable = false)]
    dry_run: Option<bool>,
}

/// What an import does, or would do.
#[derive(Serialize, ToSchema)]
#[schema(as = ImportResult)]
pub struct Imported {
    /// Whether it was done.
    applied: bool,
    /// How many things are new.
    created: usize,
    /// How many are replaced by something else.
    replaced: usize,
    /// How many are the same already.
    unchanged: usize,
    /// What becomes of each: of the integrations, then of what is filled in for them, then of the connections, in the
    /// order of the document.
    changes: Vec<Difference>,
}

/// Imports integrations and connections as an export has them: all of them, or none.
///
/// What is there under the same key is replaced and keeps its id and its credentials; nothing is deleted, and what is
/// filled in for integrations that `values` does not name stays. Credentials and secrets are entered afterwards. A dry
/// run refuses what the import would refuse: what is declared, every organization's or one person's own is not replaced.
#[utoipa::path(post, path = "/import", params(Mode), request_body = Exported, responses(
    (status = 200, description = "The difference.", body = Imported)
))]
pub(super) async fn import(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(mode): Own<Mode>,
    Bulk(document): Bulk,
) -> Result<Json<Imported>, AdminError> {
    let given = document.read(Given::read)?;
    let applied = !mode.dry_run.unwrap_or(false);
    settled(|| async {
        let plan = Plan::make(&control, actor.organization, &given).await?;
        check_import(&actor, plan.import.as_ref())?;
        if let Some(import) = plan.import.filter(|_| applied) {
            control.commit(&actor, Change::Import(import)).await?;
        }
        Ok(Json(told(applied, plan.changes)))
    })
    .await
}

/// A key imports only connections that its own scope covers.
fn check_import(actor: &Actor, import: Option<&Import>) -> Result<(), AdminError> {
    let mut connections = import.into_iter().flat_map(|import| &import.connections);
    if connections.all(|connection| actor.covers(connection)) { Ok(()) } else { Err(AdminError::OutOfScope) }
}

fn told(applied: bool, changes: Vec<Difference>) -> Imported {
    let count = |action: &str| changes.iter().filter(|change| change.action == action).count();
    let (created, replaced, unchanged) = (count("create"), count("replace"), count("same"));
    Imported { applied, created, replaced, unchanged, changes }
}
