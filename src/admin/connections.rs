//! Connections: created, shown, shared, renamed, replaced and deleted. Their credentials have a file of their own.

mod draft;
pub mod revoke;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, settled, tagged};
use super::document::Document;
use super::error::AdminError;
use super::integrations::Source;
use super::openapi::{Forced, Limit, OfCustomer, Paging};
use super::request::{At, Items, Own, Query, stored, wrong};
use super::standing::{Board, Standing};
use crate::clock;
use crate::directory::route::Route;
use crate::model::connection::{Connection, Label};
use crate::model::document::Problem;
use crate::model::id::{ConnectionId, ConnectionRef, UserId};
use crate::model::integration::Values;
use crate::model::moment::Moment;
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key, NameError};
use crate::model::role::Role;
use crate::model::version::Version;
use crate::vault::VaultError;
use crate::vault::change::resource::Force;
use crate::vault::change::{Change, PutMode, resource};
use crate::vault::list::{List, Owner, Viewer, Wanted};
use crate::vault::query::ConnectionFacts;

use draft::Draft;

/// A connection as it is shown. Of its credentials it tells which fields are set.
#[derive(Serialize, ToSchema)]
#[schema(as = Connection)]
pub struct View {
    id: ConnectionId,
    key: Key,
    customer: Option<CustomerName>,
    name: Option<String>,
    integration: Key,
    auth: Option<Key>,
    #[schema(value_type = BTreeMap<FieldName, String>)]
    values: Values,
    /// The values that hold: its own, else those that the organization has filled in for all connections of the
    /// integration, else the integration's.
    effective_values: BTreeMap<FieldName, String>,
    #[schema(value_type = Option<Limit>)]
    limit: Option<Value>,
    /// `personal`: only its owner and administrators see it, and only its owner's keys use it.
    #[schema(pattern = "^(organization|personal)$")]
    visibility: &'static str,
    owner: Option<UserId>,
    labels: Vec<Label>,
    /// Whether it may be offered in an embedded builder.
    exposed: bool,
    source: Source,
    environments: BTreeMap<EnvironmentName, Standing>,
    /// When it was used last, in any environment; it is written now and then (`proxy.usage_interval`).
    last_used_at: Option<Moment>,
    /// The workflows that have used it in the last 30 days, those that did last first; at most 100 of them.
    used_by: Vec<String>,
    /// How many workflows have used it in the last 30 days.
    used_by_count: u32,
    /// When the first of its credentials ends to be of use, where that is known.
    expires_at: Option<Moment>,
    /// Absent where it is declared.
    created_at: Option<Moment>,
    /// Absent where it is declared.
    updated_at: Option<Moment>,
}

/// A connection as it is written.
#[derive(ToSchema)]
#[schema(as = NewConnection)]
pub struct Body {
    /// Its key, unique in its organization and customer; the path says it already where there is one. Another key than
    /// in the path renames it.
    pub key: Option<Key>,
    /// Whose it is, where the organization serves many; the query may say it instead.
    pub customer: Option<CustomerName>,
    /// As a person reads it.
    #[schema(max_length = 200)]
    pub name: Option<String>,
    /// The slug of its integration.
    pub integration: Key,
    /// The auth method; needed where the integration has several.
    pub auth: Option<Key>,
    /// The values of the integration's public fields.
    pub values: Option<BTreeMap<FieldName, String>>,
    /// Its own limit, instead of the integration's.
    pub limit: Option<Limit>,
    /// Who may see and use it. Where it is not said it stays as it is; a new one is the organization's, or personal
    /// where a member makes it.
    #[schema(pattern = "^(organization|personal)$")]
    pub visibility: Option<String>,
    /// Whose it is; only administrators give it to somebody else. Where it is not said it stays as it is.
    pub owner: Option<UserId>,
    /// What people file it under.
    #[schema(max_items = 32)]
    pub labels: Option<Vec<Label>>,
    /// Whether it may be offered in an embedded builder.
    pub exposed: Option<bool>,
}

/// Which connections are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Of this integration only.
    #[param(nullable = false, value_type = Option<Key>)]
    integration: Option<String>,
    /// With this label only.
    #[param(nullable = false, value_type = Option<Label>)]
    label: Option<String>,
    /// Only those that may be offered in an embedded builder, or only the others.
    #[param(nullable = false)]
    exposed: Option<bool>,
}

/// How long it may take until what was counted is written: all of it is, where the vault is well, in far less.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a view shows and nobody sets.
pub const SHOWN_ONLY: [&str; 10] = [
    "id",
    "source",
    "environments",
    "effective_values",
    "last_used_at",
    "used_by",
    "used_by_count",
    "expires_at",
    "created_at",
    "updated_at",
];

fn view(control: &Control, board: &Board, connection: &Arc<Connection>) -> View {
    let (route, environments) = (board.route(connection), board.standings(connection));
    let ConnectionFacts { stored_at, workflow_count, workflows, .. } = board.facts(connection.id);
    let only_method = || route.as_ref().ok().map(|route| route.auth().method.clone());
    let limit = connection.limit.map(|limit| json!({ "per_second": limit.per_second, "burst": limit.burst }));
    let effective = |route: &Route| {
        let public = route.integration.fields.iter().filter(|field| !field.secret);
        public.filter_map(|field| Some((field.name.clone(), route.value(&field.name)?.to_owned()))).collect()
    };
    let sharing = &connection.sharing;
    View {
        id: connection.id,
        key: connection.key.clone(),
        customer: connection.customer.clone(),
        name: connection.name.clone(),
        integration: connection.integration.clone(),
        auth: connection.auth.clone().or_else(only_method),
        values: connection.values.clone(),
        effective_values: route.as_ref().map(effective).unwrap_or_default(),
        limit,
        visibility: sharing.visibility.as_str(),
        owner: sharing.owner,
        labels: sharing.labels.clone(),
        exposed: sharing.exposed,
        source: if control.vault.declares(connection.id) { Source::Declared } else { Source::Stored },
        last_used_at: environments.values().filter_map(Standing::last_used_at).max(),
        expires_at: environments.values().filter_map(Standing::expires_at).min(),
        environments,
        used_by: workflows,
        used_by_count: workflow_count,
        created_at: stored_at.map(|(made, _)| Moment::from_milliseconds(made)),
        updated_at: stored_at.map(|(_, changed)| Moment::from_milliseconds(changed)),
    }
}

async fn shown(control: &Control, connection: &Arc<Connection>) -> Result<Shown<View>, AdminError> {
    let board = Board::of(control, connection.organization, std::slice::from_ref(connection)).await?;
    Ok(Shown(view(control, &board, connection), board.facts(connection.id).version))
}

/// Lists the connections: the organization's own and its customers', or those of one customer.
#[utoipa::path(get, path = "/connections", params(Paging, OfCustomer, Filter), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    Own(filter): Own<Filter>,
) -> Result<Json<Items<View>>, AdminError> {
    let integration: Option<Key> = filter.integration.as_deref().map(parse).transpose()?;
    let label: Option<Label> = filter.label.as_deref().map(parse).transpose()?;
    let wanted = Wanted {
        owner: query.customer.as_ref().map_or(Owner::Anyone, Owner::Customer),
        viewer: viewer(&actor),
        integration: integration.as_ref(),
        label: label.as_ref(),
        exposed: filter.exposed,
    };
    let list = control.vault.database()?.connections_like(actor.organization, &wanted, query.page()).await?;
    let stored = List { items: list.items.into_iter().map(Arc::new).collect(), next: list.next };
    let name = |connection: &Arc<Connection>| {
        let customer = connection.customer.as_ref().map(|customer| customer.as_str().to_owned());
        (customer.unwrap_or_default(), connection.key.to_string())
    };
    let (customer, key) = query.cursor().split_once('/').unwrap_or_default();
    let after = (customer.to_owned(), key.to_owned());
    let declared = control.vault.declared();
    let behind = declared
        .connections()
        .filter(|connection| connection.organization == actor.organization)
        .filter(|connection| wanted.includes(connection) && name(connection) > after)
        .cloned();
    let page = query.merge(behind, stored, name, |(customer, key)| format!("{customer}/{key}"));
    let board = Board::of(&control, actor.organization, &page.items).await?;
    Ok(Json(page.map(|connection| view(&control, &board, &connection))))
}

/// Creates a connection, without a credential.
#[utoipa::path(post, path = "/connections", params(OfCustomer), request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    document: Document,
) -> Result<Response, AdminError> {
    let customer = query.customer.as_ref().map(CustomerName::as_str);
    let draft = Draft::read(&document.without(&SHOWN_ONLY).or("customer", customer))?;
    if query.customer.is_some() && draft.connection.customer != query.customer {
        return Err(invalid("/customer", "the query names another customer"));
    }
    let connection = draft.fit(&control, &actor, None).await?;
    check_made(&actor, &connection)?;
    store(&control, &actor, connection, InPlaceOf::Nothing).await
}

/// Shows a connection.
#[utoipa::path(get, path = "/connections/{connection}", params(OfCustomer), responses(
    (status = 200, description = "The connection.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
) -> Result<Shown<View>, AdminError> {
    let connection = find(&control, &actor, &query, &named).await?;
    shown(&control, &connection).await
}

/// Creates or replaces a connection by its key, or replaces it by its id.
///
/// A replaced connection keeps its id and its credentials; another key in the document renames it.
#[utoipa::path(put, path = "/connections/{connection}", params(OfCustomer), request_body = Body, responses(
    (status = 200, description = "It is replaced.", body = View, headers(("ETag" = String))),
    (status = 201, description = "It is there.", body = View, headers(("Location" = String), ("ETag" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
    document: Document,
) -> Result<Response, AdminError> {
    settled(|| replace_as_seen(&control, &actor, &query, &named, document.clone())).await
}

async fn replace_as_seen(
    control: &Control,
    actor: &Actor,
    query: &Query,
    named: &str,
    document: Document,
) -> Result<Response, AdminError> {
    let reference = parse_reference(named)?;
    let seen = match seen(control, actor, query, named).await {
        Ok(seen) => Some(seen),
        // What the actor does not see is in the way all the same, which the vault tells when this is stored.
        Err(AdminError::NotFound(_)) if matches!(reference, ConnectionRef::Key(_)) => None,
        Err(error) => return Err(error),
    };
    let (before, at) = seen.unzip();
    let key = match (&before, reference) {
        (Some(before), _) => before.key.clone(),
        (None, ConnectionRef::Key(key)) => key,
        (None, ConnectionRef::Id(_)) => return Err(AdminError::NotFound("connection")),
    };
    let customer = before.as_ref().map_or_else(|| query.customer.clone(), |before| before.customer.clone());
    let document = document.without(&SHOWN_ONLY).or("key", Some(key.as_str()));
    let draft = Draft::read(&document.or("customer", customer.as_ref().map(CustomerName::as_str)))?;
    if draft.connection.key != key && before.is_none() {
        return Err(invalid("/key", format!("there is no connection {key} to rename; the path names the new one")));
    }
    if draft.connection.customer != customer {
        return Err(invalid("/customer", "a customer's connection is named by its id, or by its key with ?customer="));
    }
    if let Some(before) = &before {
        check_reach(actor, before)?;
    }
    let connection = draft.fit(control, actor, before.as_deref()).await?;
    check_made(actor, &connection)?;
    store(control, actor, connection, at.map_or(InPlaceOf::Nothing, InPlaceOf::Seen)).await
}

/// Deletes a connection with its credentials.
///
/// One that workflows have used in the last 30 days is a conflict that says how many they are, unless it is forced.
#[utoipa::path(delete, path = "/connections/{connection}", params(OfCustomer, Forced), responses(
    (status = 204, description = "It is gone."),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    settled(|| async {
        let (connection, at) = seen(&control, &actor, &query, &named).await?;
        check_reach(&actor, &connection)?;
        let (organization, force) = (actor.organization, query.force);
        if force == Force::No {
            // Which workflows have used it is judged by the vault, which is told only now and then.
            let written = clock::timeout(PATIENCE, control.unwritten.write(connection.id)).await;
            written.map_err(|_| AdminError::Vault(VaultError::Stopped))?;
        }
        let change = resource::Change::DeleteConnection { organization, connection: connection.id, force };
        control.commit_judged(&actor, at, Change::Resource(change)).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Instead of what a connection is stored.
enum InPlaceOf {
    /// There is none yet.
    Nothing,
    /// The one that was looked at, in this version.
    Seen(Option<Version>),
}

/// Stores a connection.
async fn store(
    control: &Control,
    actor: &Actor,
    connection: Connection,
    in_place_of: InPlaceOf,
) -> Result<Response, AdminError> {
    let (customer, key) = (connection.customer.clone(), connection.key.clone());
    let put = |mode| Change::PutConnection { connection: Box::new(connection), mode };
    let committed = match in_place_of {
        InPlaceOf::Nothing => control.commit(actor, put(PutMode::Create)).await,
        InPlaceOf::Seen(at) => control.commit_judged(actor, at, put(PutMode::Update)).await,
    };
    let outcome = match committed {
        Err(error @ AdminError::Conflict(_)) => return Err(taken(control, actor, customer, key, error).await?),
        outcome => outcome?,
    };
    let id = outcome.connection.ok_or(AdminError::NotFound("connection"))?;
    let connection = control.vault.connection(actor.organization, None, &ConnectionRef::Id(id)).await?;
    let connection = connection.ok_or(AdminError::NotFound("connection"))?;
    let Shown(view, _) = shown(control, &connection).await?;
    Ok(tagged(stored(outcome.created, &format!("connections/{id}"), view), outcome.version))
}

/// Why a connection cannot have its key. One that the actor does not see is not called theirs to look at: that there is
/// one cannot be kept from whoever wants its key, whose it is can.
async fn taken(
    control: &Control,
    actor: &Actor,
    customer: Option<CustomerName>,
    key: Key,
    error: AdminError,
) -> Result<AdminError, AdminError> {
    let reference = ConnectionRef::Key(key.clone());
    let there = control.vault.connection(actor.organization, customer.as_ref(), &reference).await?;
    let is_hidden = there.is_some_and(|there| !viewer(actor).sees(&there));
    let detail = || format!("the key {key} is taken by a connection that you may not see; choose another one");
    Ok(if is_hidden { AdminError::Conflict(detail()) } else { error })
}

/// Whether somebody administers the organization they ask about.
fn administers(actor: &Actor) -> bool {
    actor.roles.has(Role::OrgAdmin) || actor.roles.has(Role::SuperAdmin)
}

/// Whose personal connections somebody sees.
pub(super) fn viewer(actor: &Actor) -> Viewer {
    if administers(actor) { Viewer::Administrator } else { Viewer::User(actor.owner) }
}

/// Who manages only what they own touches nothing else, and a key nothing outside its scope.
pub(super) fn check_reach(actor: &Actor, connection: &Connection) -> Result<(), AdminError> {
    check_scope(actor, connection)?;
    if actor.reaches(connection.sharing.owner) { Ok(()) } else { Err(AdminError::RoleInsufficient) }
}

/// What is outside the scope of a key is not there for it.
pub(super) fn check_scope(actor: &Actor, connection: &Connection) -> Result<(), AdminError> {
    if actor.covers(connection) { Ok(()) } else { Err(AdminError::NotFound("connection")) }
}

/// A key makes no connection, by another name either, that its own scope does not cover.
fn check_made(actor: &Actor, connection: &Connection) -> Result<(), AdminError> {
    if !actor.covers(connection) {
        return Err(AdminError::OutOfScope);
    }
    check_reach(actor, connection)
}

fn parse<T: std::str::FromStr<Err = NameError>>(text: &str) -> Result<T, AdminError> {
    text.parse().map_err(|error: NameError| wrong(error.to_string()))
}

fn invalid(pointer: &str, detail: impl Into<String>) -> AdminError {
    AdminError::Invalid(vec![Problem { pointer: pointer.to_owned(), detail: detail.into() }])
}

fn parse_reference(named: &str) -> Result<ConnectionRef, AdminError> {
    named.parse().map_err(|_| AdminError::NotFound("connection"))
}

/// The connection that a path names, with its version: that is read first, so that it is never newer.
async fn seen(
    control: &Control,
    actor: &Actor,
    query: &Query,
    named: &str,
) -> Result<(Arc<Connection>, Option<Version>), AdminError> {
    let id = find(control, actor, query, named).await?.id;
    let at = match control.vault.database() {
        Ok(database) => database.connection_version(actor.organization, id).await?,
        Err(_) => None,
    };
    Ok((find(control, actor, query, named).await?, at))
}

/// The connection that a path names, for the customer that the query names, where the actor sees it.
pub(super) async fn find(
    control: &Control,
    actor: &Actor,
    query: &Query,
    named: &str,
) -> Result<Arc<Connection>, AdminError> {
    let reference = parse_reference(named)?;
    let found = control.vault.connection(actor.organization, query.customer.as_ref(), &reference).await?;
    let of_customer = |connection: &Arc<Connection>| query.customer.is_none() || connection.customer == query.customer;
    found
        .filter(of_customer)
        .filter(|connection| viewer(actor).sees(connection))
        .ok_or(AdminError::NotFound("connection"))
}

/// The connection together with its integration, or why they do not hold together.
pub(super) async fn route(
    control: &Control,
    connection: &Arc<Connection>,
) -> Result<Result<Route, String>, AdminError> {
    match control.vault.integration(connection.organization, &connection.integration).await {
        Ok(Some(integration)) => Ok(Route::new(Arc::clone(connection), integration)),
        Ok(None) => Ok(Err(format!("its integration {} does not exist", connection.integration))),
        Err(error) if error.is_corrupt() => Ok(Err(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The environments in which a connection may have a credential. Files may declare credentials for others too.
pub(super) async fn environments_of(
    control: &Control,
    connection: &Connection,
) -> Result<BTreeSet<EnvironmentName>, AdminError> {
    let stored = control.vault.database()?.environments(connection.organization).await?;
    let declared = control.vault.declared();
    Ok(stored.into_iter().chain(declared.environments(connection.id).cloned()).collect())
}
