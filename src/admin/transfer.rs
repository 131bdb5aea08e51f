//! Export and import: integrations and connections by their stable keys, without secrets, from one organization to
//! another.

mod difference;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Control;
use super::actor::Actor;
use super::document::Bulk;
use super::error::AdminError;
use super::request::Own;
use crate::directory::route::Route;
use crate::model::connection::{Connection, ConnectionDraft, Sharing, SharingDraft, Visibility};
use crate::model::document::{Problem, Reader};
use crate::model::id::{ConnectionId, ConnectionRef, IntegrationId, OrganizationId};
use crate::model::integration::{Integration, Limit, Values};
use crate::model::name::Key;
use crate::vault::change::Change;
use crate::vault::change::import::Import;
use crate::vault::list::{Owner, Page};
use difference::{Difference, compare};

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
    integrations: Vec<Value>,
    /// Each as `POST /connections` takes it, without what belongs to one organization only.
    connections: Vec<Value>,
}

/// Which things are exported.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// Only this integration, and the connections that use it.
    #[param(nullable = false)]
    integration: Option<String>,
}

/// Exports the organization's integrations and connections by their keys, without secrets.
///
/// What is declared in the configuration, and what is one person's own, stays where it is. More than 2,000 things are
/// exported integration by integration.
#[utoipa::path(get, path = "/export", params(Part), responses(
    (status = 200, description = "A document that an import takes.", body = Exported)
))]
pub(super) async fn export(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(part): Own<Part>,
) -> Result<Json<Exported>, AdminError> {
    let is_part = |slug: &Key| part.integration.as_deref().is_none_or(|wanted| wanted == slug.as_str());
    let integrations = integrations(&control, actor.organization).await?;
    let integrations = integrations.into_iter().filter(|integration| is_part(&integration.slug));
    let connections = connections(&control, actor.organization).await?;
    let connections = connections.into_iter().filter(|connection| is_part(&connection.integration));
    let exported = Exported {
        version: VERSION,
        integrations: integrations.map(|integration| integration.document).collect(),
        connections: connections.map(|connection| written(&connection)).collect(),
    };
    let count = exported.integrations.len() + exported.connections.len();
    if count > MOST {
        return Err(AdminError::Conflict(format!(
            "there are {count} integrations and connections, and an export has {MOST} at most; name one integration"
        )));
    }
    Ok(Json(exported))
}

async fn integrations(control: &Control, organization: OrganizationId) -> Result<Vec<Integration>, AdminError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = Page { limit: BATCH, cursor: cursor.as_deref() };
        let list = control.vault.database()?.integrations(organization, page).await?;
        all.extend(list.items);
        match list.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

/// The stored connections that are the organization's and not one person's.
async fn connections(control: &Control, organization: OrganizationId) -> Result<Vec<Connection>, AdminError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = Page { limit: BATCH, cursor: cursor.as_deref() };
        let list = control.vault.database()?.connections(organization, Owner::Anyone, page).await?;
        all.extend(list.items.into_iter().filter(|one| one.sharing.visibility == Visibility::Organization));
        match list.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
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
    /// What becomes of each, in the order of the document.
    changes: Vec<Difference>,
}

/// Imports integrations and connections as an export has them: all of them, or none.
///
/// What is there under the same key is replaced and keeps its id and its credentials; nothing is deleted. Credentials
/// and secrets are entered afterwards.
#[utoipa::path(post, path = "/import", params(Mode), request_body = Exported, responses(
    (status = 200, description = "The difference.", body = Imported)
))]
pub(super) async fn import(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(mode): Own<Mode>,
    Bulk(document): Bulk,
) -> Result<Json<Imported>, AdminError> {
    let (integrations, drafts) = document.read(read)?;
    let organization = actor.organization;
    let there = There::find(&control, organization, &integrations, &drafts).await?;
    let connections = there.fit(organization, &integrations, drafts)?;
    let changes: Vec<Difference> = integrations
        .iter()
        .map(|integration| compare::integration(there.integrations.get(&integration.slug), &there.filled(integration)))
        .chain(connections.iter().map(|connection| {
            let key = (connection.customer.clone(), connection.key.clone());
            let before = there.connections.get(&key).map(|before| written(before));
            compare::connection(before.as_ref(), &written(connection), connection)
        }))
        .collect();
    let is_changed: Vec<bool> = changes.iter().map(Difference::changes_something).collect();
    let count = |action: &str| changes.iter().filter(|change| change.action == action).count();
    let (created, replaced, unchanged) = (count("create"), count("replace"), count("same"));
    let applied = !mode.dry_run.unwrap_or(false);
    if applied && created + replaced > 0 {
        let mut wanted = is_changed.into_iter();
        let integrations = integrations.into_iter().filter(|_| wanted.next() == Some(true)).collect();
        let connections = connections.into_iter().filter(|_| wanted.next() == Some(true)).collect();
        let import = Import { organization, integrations, connections, credentials: Vec::new() };
        control.commit(&actor, Change::Import(import)).await?;
    }
    Ok(Json(Imported { applied, created, replaced, unchanged, changes }))
}

/// A connection of a document, and where it stands there.
struct Draft {
    pointer: String,
    connection: ConnectionDraft,
    sharing: SharingDraft,
}

/// Reads the document: every mistake of it at once.
fn read(reader: &Reader<'_>) -> Option<(Vec<Integration>, Vec<Draft>)> {
    if reader.number("version", VERSION..=VERSION).is_none() && !reader.has("version") {
        reader.problem("version", format!("the key `version` is missing; it is {VERSION}"));
    }
    let (mut integrations, mut drafts) = (Vec::<Integration>::new(), Vec::<Draft>::new());
    let (given, connections) = (reader.list("integrations"), reader.list("connections"));
    if given.len() + connections.len() > MOST {
        reader.problem("connections", format!("an import has {MOST} integrations and connections at most"));
        return None;
    }
    for (pointer, item) in given {
        let Some(inner) = Reader::new(item, &pointer, reader.problems()) else { continue };
        if let Some(integration) = Integration::read(inner, item, IntegrationId::generate()) {
            if integrations.iter().any(|other| other.slug == integration.slug) {
                reader.problems().add(pointer, format!("the integration {} is there twice", integration.slug));
            }
            integrations.push(integration);
        }
    }
    for (pointer, item) in connections {
        let Some(inner) = Reader::new(item, &pointer, reader.problems()) else { continue };
        let (connection, sharing) = (ConnectionDraft::read(&inner), SharingDraft::read(&inner));
        inner.finish();
        if sharing.visibility.is_some() || sharing.owner.is_some() {
            let detail = "an import is for the organization: no visibility and no owner".to_owned();
            reader.problems().add(pointer.clone(), detail);
        }
        let Some(connection) = connection else { continue };
        let same = |other: &Draft| {
            (&other.connection.key, &other.connection.customer) == (&connection.key, &connection.customer)
        };
        if drafts.iter().any(same) {
            reader.problems().add(pointer.clone(), format!("the connection {} is there twice", connection.key));
        }
        drafts.push(Draft { pointer, connection, sharing });
    }
    Some((integrations, drafts))
}

/// What is there already of what a document names.
struct There {
    /// With the organization's values filled in.
    integrations: HashMap<Key, Arc<Integration>>,
    /// What the organization has filled in once for all connections of an integration: it stays.
    values: HashMap<Key, Values>,
    connections: HashMap<(Option<crate::model::name::CustomerName>, Key), Arc<Connection>>,
}

impl There {
    async fn find(
        control: &Control,
        organization: OrganizationId,
        integrations: &[Integration],
        drafts: &[Draft],
    ) -> Result<Self, AdminError> {
        let mut there = There { integrations: HashMap::new(), values: HashMap::new(), connections: HashMap::new() };
        for Integration { slug, .. } in integrations {
            if let Some((values, _)) = control.vault.database()?.integration_values(organization, slug).await? {
                there.values.insert(slug.clone(), values);
            }
        }
        let used = drafts.iter().map(|draft| &draft.connection.integration);
        for slug in integrations.iter().map(|integration| &integration.slug).chain(used) {
            if !there.integrations.contains_key(slug)
                && let Some(found) = control.vault.integration(organization, slug).await?
            {
                there.integrations.insert(slug.clone(), found);
            }
        }
        for Draft { connection, .. } in drafts {
            let reference = ConnectionRef::Key(connection.key.clone());
            let found = control.vault.connection(organization, connection.customer.as_ref(), &reference).await?;
            if let Some(found) = found {
                there.connections.insert((connection.customer.clone(), connection.key.clone()), found);
            }
        }
        Ok(there)
    }

    /// An integration of the document as it will be there.
    fn filled(&self, integration: &Integration) -> Integration {
        self.values.get(&integration.slug).map_or_else(|| integration.clone(), |values| integration.filled(values))
    }

    /// The connections that the drafts make, each with its integration: that of the document, or the one that is there.
    fn fit(
        &self,
        organization: OrganizationId,
        integrations: &[Integration],
        drafts: Vec<Draft>,
    ) -> Result<Vec<Connection>, AdminError> {
        let mut problems = Vec::new();
        let mut connections = Vec::with_capacity(drafts.len());
        let given: HashMap<&Key, Arc<Integration>> =
            integrations.iter().map(|integration| (&integration.slug, Arc::new(self.filled(integration)))).collect();
        for Draft { pointer, connection: draft, sharing } in drafts {
            let before = self.connections.get(&(draft.customer.clone(), draft.key.clone()));
            let slug = draft.integration.clone();
            let mut connection = draft.into_connection(ConnectionId::generate(), organization);
            connection.sharing = Sharing { labels: sharing.labels, exposed: sharing.exposed, ..Sharing::default() };
            // Whose it is stays as it is.
            if let Some(before) = before {
                connection.sharing.visibility = before.sharing.visibility;
                connection.sharing.owner = before.sharing.owner;
            }
            let integration = given.get(&slug).or_else(|| self.integrations.get(&slug));
            let why = match integration {
                None => Some(format!("there is no integration {slug}, neither here nor in the document")),
                Some(integration) => Route::new(Arc::new(connection.clone()), Arc::clone(integration)).err(),
            };
            problems.extend(why.map(|detail| Problem { pointer, detail }));
            connections.push(connection);
        }
        if problems.is_empty() { Ok(connections) } else { Err(AdminError::Invalid(problems)) }
    }
}
