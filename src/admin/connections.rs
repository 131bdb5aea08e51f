//! Connections: created, shown, replaced and deleted. Their credentials have a file of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::credentials::{Standing, standing};
use super::document::Document;
use super::error::AdminError;
use super::integrations::Source;
use super::openapi::{Forced, Limit, OfCustomer, Paging};
use super::request::{At, Items, Query, stored};
use crate::directory::route::Route;
use crate::model::connection::{Connection, ConnectionDraft};
use crate::model::document::Problem;
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId};
use crate::model::integration::{Integration, Values};
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key};
use crate::vault::change::{Change, PutMode, resource};
use crate::vault::list::{List, Owner};

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
    #[schema(value_type = Option<Limit>)]
    limit: Option<Value>,
    source: Source,
    environments: BTreeMap<EnvironmentName, Standing>,
}

/// A connection as it is written.
#[derive(ToSchema)]
#[schema(as = NewConnection)]
pub struct Body {
    /// Its key, unique in its organization and customer, for ever; the path says it already where there is one.
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
}

/// What a view shows and nobody sets.
const SHOWN_ONLY: [&str; 3] = ["id", "source", "environments"];

async fn view(control: &Control, connection: &Arc<Connection>) -> Result<View, AdminError> {
    let route = route(control, connection).await?;
    let mut environments = BTreeMap::new();
    for name in environments_of(control, connection).await? {
        let standing = standing(control, connection, &route, &name).await?;
        environments.insert(name, standing);
    }
    let only_method = || route.as_ref().ok().map(|route| route.auth().method.clone());
    let limit = connection.limit.map(|limit| json!({ "per_second": limit.per_second, "burst": limit.burst }));
    Ok(View {
        id: connection.id,
        key: connection.key.clone(),
        customer: connection.customer.clone(),
        name: connection.name.clone(),
        integration: connection.integration.clone(),
        auth: connection.auth.clone().or_else(only_method),
        values: connection.values.clone(),
        limit,
        source: if control.vault.declares(connection.id) { Source::Declared } else { Source::Stored },
        environments,
    })
}

/// Lists the connections: the organization's own and its customers', or those of one customer.
#[utoipa::path(get, path = "/connections", params(Paging, OfCustomer), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    let owner = query.customer.as_ref().map_or(Owner::Anyone, Owner::Customer);
    let list = control.vault.database()?.connections(actor.organization, owner, query.page()).await?;
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
        .filter(|connection| query.customer.is_none() || connection.customer == query.customer)
        .filter(|connection| name(connection) > after)
        .cloned();
    let page = query.merge(behind, stored, name, |(customer, key)| format!("{customer}/{key}"));
    let mut items = Vec::with_capacity(page.items.len());
    for connection in &page.items {
        items.push(view(&control, connection).await?);
    }
    Ok(Json(Items { items, next: page.next }))
}

/// Creates a connection, without a credential.
#[utoipa::path(post, path = "/connections", params(OfCustomer), request_body = Body, responses(
    (status = 201, description = "It is there.", body = View, headers(("Location" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    document: Document,
) -> Result<Response, AdminError> {
    let customer = query.customer.as_ref().map(CustomerName::as_str);
    let draft = document.without(&SHOWN_ONLY).or("customer", customer).read(ConnectionDraft::read)?;
    if query.customer.is_some() && draft.customer != query.customer {
        return Err(invalid("/customer", "the query names another customer"));
    }
    store(&control, &actor, draft, PutMode::Create).await
}

/// Shows a connection.
#[utoipa::path(get, path = "/connections/{connection}", params(OfCustomer), responses(
    (status = 200, description = "The connection.", body = View)
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
) -> Result<Json<View>, AdminError> {
    let connection = find(&control, &actor, &query, &named).await?;
    Ok(Json(view(&control, &connection).await?))
}

/// Creates or replaces a connection by its key, or replaces it by its id.
///
/// A replaced connection keeps its id and its credentials.
#[utoipa::path(put, path = "/connections/{connection}", params(OfCustomer), request_body = Body, responses(
    (status = 200, description = "It is replaced.", body = View),
    (status = 201, description = "It is there.", body = View, headers(("Location" = String))),
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
    document: Document,
) -> Result<Response, AdminError> {
    let (key, customer) = match parse_reference(&named)? {
        ConnectionRef::Key(key) => (key, query.customer),
        ConnectionRef::Id(_) => {
            let connection = find(&control, &actor, &query, &named).await?;
            (connection.key.clone(), connection.customer.clone())
        }
    };
    let document = document.without(&SHOWN_ONLY).or("key", Some(key.as_str()));
    let draft = document.or("customer", customer.as_ref().map(CustomerName::as_str)).read(ConnectionDraft::read)?;
    if draft.key != key {
        return Err(invalid("/key", format!("the key cannot be changed; the path names {key}")));
    }
    if draft.customer != customer {
        return Err(invalid("/customer", "a customer's connection is named by its id, or by its key with ?customer="));
    }
    store(&control, &actor, draft, PutMode::Replace).await
}

/// Deletes a connection with its credentials.
#[utoipa::path(delete, path = "/connections/{connection}", params(OfCustomer, Forced), responses(
    (status = 204, description = "It is gone.")
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At(named): At<String>,
) -> Result<StatusCode, AdminError> {
    let connection = find(&control, &actor, &query, &named).await?.id;
    let (organization, force) = (actor.organization, query.force);
    let change = resource::Change::DeleteConnection { organization, connection, force };
    control.commit(&actor, Change::Resource(change)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn store(
    control: &Control,
    actor: &Actor,
    draft: ConnectionDraft,
    mode: PutMode,
) -> Result<Response, AdminError> {
    let connection = fit(control, actor.organization, draft).await?;
    let outcome = control.commit(actor, Change::PutConnection { connection: Box::new(connection), mode }).await?;
    let id = outcome.connection.ok_or(AdminError::NotFound("connection"))?;
    let connection = control.vault.connection(actor.organization, None, &ConnectionRef::Id(id)).await?;
    let connection = connection.ok_or(AdminError::NotFound("connection"))?;
    Ok(stored(outcome.created, &format!("connections/{id}"), view(control, &connection).await?))
}

/// The connection a draft makes, where it fits its integration.
async fn fit(
    control: &Control,
    organization: OrganizationId,
    draft: ConnectionDraft,
) -> Result<Connection, AdminError> {
    let Some(integration) = control.vault.integration(organization, &draft.integration).await? else {
        return Err(invalid("/integration", format!("there is no integration {}", draft.integration)));
    };
    let mut problems: Vec<Problem> = check_method(&draft, &integration).into_iter().collect();
    problems.extend(integration.check_values(&draft.values).into_iter().map(|(field, detail)| {
        // A value that is missing has no place of its own.
        let pointer = if draft.values.contains_key(&field) { format!("/values/{field}") } else { "/values".to_owned() };
        Problem { pointer, detail: format!("`{field}`: {detail}") }
    }));
    if !problems.is_empty() {
        return Err(AdminError::Invalid(problems));
    }
    let connection = draft.into_connection(ConnectionId::generate(), organization);
    let route = Route::new(Arc::new(connection.clone()), integration);
    route.map_err(|why| invalid("", why))?;
    Ok(connection)
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

fn invalid(pointer: &str, detail: impl Into<String>) -> AdminError {
    AdminError::Invalid(vec![Problem { pointer: pointer.to_owned(), detail: detail.into() }])
}

fn parse_reference(named: &str) -> Result<ConnectionRef, AdminError> {
    named.parse().map_err(|_| AdminError::NotFound("connection"))
}

/// The connection that a path names, for the customer that the query names.
pub(super) async fn find(
    control: &Control,
    actor: &Actor,
    query: &Query,
    named: &str,
) -> Result<Arc<Connection>, AdminError> {
    let reference = parse_reference(named)?;
    let found = control.vault.connection(actor.organization, query.customer.as_ref(), &reference).await?;
    let of_customer = |connection: &Arc<Connection>| query.customer.is_none() || connection.customer == query.customer;
    found.filter(of_customer).ok_or(AdminError::NotFound("connection"))
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
