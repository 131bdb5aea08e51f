//! Credentials: entered, replaced and deleted. Nothing here can show one.
//!
//! What is entered is tried before it is stored: it must fit the fields of the connection's auth method, and every
//! value must be able to stand where it goes on the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Control;
use super::actor::Actor;
use super::condition::{Shown, tagged};
use super::connections::{check_reach, find, route};
use super::document::{Given, SecretFields};
use super::environments;
use super::error::AdminError;
use super::openapi::OfCustomer;
use super::request::{At, Own, Query, wrong};
use super::standing::{Board, Standing, expected};
use crate::credentials::injection::{Injection, Secrets, referenced_secrets};
use crate::directory::route::Route;
use crate::model::credential::{Credential, Piece, pieces};
use crate::model::document::Problem;
use crate::model::field::Field;
use crate::model::moment::Moment;
use crate::model::name::{FieldName, NameError};
use crate::model::oauth::{ACCESS_TOKEN, CLIENT_ID};
use crate::model::role::Permission;
use crate::vault::VaultError;
use crate::vault::change::Change;

/// When a credential ends to be of use.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Expiry {
    /// When it ends to be of use (RFC 3339), where that is known. From then on its status is `expired`, and requests are
    /// refused without being sent.
    #[param(nullable = false, value_type = Option<Moment>)]
    expires_at: Option<String>,
}

impl Expiry {
    fn read(&self) -> Result<Option<Moment>, AdminError> {
        let read = self.expires_at.as_deref().map(str::parse).transpose();
        read.map_err(|error: NameError| wrong(format!("expires_at: {error}")))
    }
}

/// The longest value of a field.
const LONGEST: usize = 64 * 1024;

/// Shows which fields of a credential are set.
#[utoipa::path(get, path = "/connections/{connection}/credentials/{environment}", params(OfCustomer), responses(
    (status = 200, description = "How the connection stands in the environment.", body = Standing,
        headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At((named, environment)): At<(String, String)>,
) -> Result<Shown<Standing>, AdminError> {
    let connection = find(&control, &actor, &query, &named).await?;
    let board = Board::of(&control, actor.organization, std::slice::from_ref(&connection)).await?;
    let standing = board.standings(&connection).remove(environment.as_str());
    let standing = standing.ok_or(AdminError::NotFound("environment"))?;
    let version = board.facts(connection.id).entries.get(environment.as_str()).map(|entry| entry.version);
    Ok(Shown(standing, version))
}

/// Enters a credential: the fields of the connection's auth method, such as `{"token": "…"}`.
///
/// All fields are replaced. What is entered is tried before it is stored: every value must be able to stand where it
/// goes on the wire. It never comes back. A value that refers to a secret (`@@SECRET:KEY@@`) needs the permission
/// `secrets.use` too.
#[utoipa::path(put, path = "/connections/{connection}/credentials/{environment}",
    params(OfCustomer, Expiry), request_body = BTreeMap<FieldName, String>,
    responses((status = 204, description = "It is entered.", headers(("ETag" = String)))))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    Own(expiry): Own<Expiry>,
    At((named, environment)): At<(String, String)>,
    fields: SecretFields,
) -> Result<Response, AdminError> {
    let expires_at = expiry.read()?;
    let connection = find(&control, &actor, &query, &named).await?;
    check_reach(&actor, &connection)?;
    if control.vault.declares(connection.id) {
        return Err(VaultError::Declared(format!("the connection {}", connection.key)).into());
    }
    let environment = environments::find(&control, actor.organization, &environment).await?;
    let route = route(&control, &connection).await?;
    let route = route.map_err(|why| AdminError::Conflict(format!("the connection cannot be used: {why}")))?;
    check_references(&actor, &fields)?;
    let credential = check(&route, fields)?;
    let change = Change::PutCredential {
        organization: actor.organization,
        connection: connection.id,
        environment,
        credential,
        origins: route.bindings(),
        expires_at: expires_at.map(Moment::milliseconds),
    };
    let outcome = control.commit(&actor, change).await?;
    Ok(tagged(StatusCode::NO_CONTENT.into_response(), outcome.version))
}

/// Deletes a credential.
#[utoipa::path(delete, path = "/connections/{connection}/credentials/{environment}", params(OfCustomer),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    At((named, environment)): At<(String, String)>,
) -> Result<StatusCode, AdminError> {
    let connection = find(&control, &actor, &query, &named).await?;
    check_reach(&actor, &connection)?;
    let connection = connection.id;
    let environment = environment.parse().map_err(|_| AdminError::NotFound("environment"))?;
    let change = Change::DeleteCredential { organization: actor.organization, connection, environment };
    control.commit(&actor, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who enters a reference to a secret says where the secret goes: a connection may lead wherever a field of its base URL
/// does. So it takes a permission of its own, which is judged by what stands there and not by whether there is such a
/// secret.
fn check_references(actor: &Actor, fields: &SecretFields) -> Result<(), AdminError> {
    if actor.may(Permission::UseSecrets) {
        return Ok(());
    }
    let holds_one = |given: &Given| matches!(given, Given::Text(value) if !referenced_secrets([value]).is_empty());
    let referring = fields.0.iter().filter(|(_, given)| holds_one(given));
    let detail = |name: &str| format!("the value of `{}` refers to a secret", name.escape_debug());
    let problems: Vec<Problem> = referring.map(|(name, _)| problem(Some(name), detail(name))).collect();
    if problems.is_empty() { Ok(()) } else { Err(AdminError::Ungranted(Permission::UseSecrets, problems)) }
}

/// The credential that was given, where it fits and every value can go where it goes. All mistakes at once.
fn check(route: &Route, given: SecretFields) -> Result<Credential, AdminError> {
    let is_given = |field: &Field| given.0.iter().any(|(name, _)| name == field.name.as_str());
    let mut problems: Vec<Problem> = expected(route)
        .filter(|field| route.auth().needs(field, false) && !is_given(field))
        .map(|field| problem(None, format!("the field `{}` is missing", field.name)))
        .collect();
    let mut values = BTreeMap::new();
    for (name, given) in given.0 {
        match check_field(route, &name, given) {
            Ok((name, value)) => drop(values.insert(name, value)),
            Err(detail) => problems.push(problem(Some(&name), detail)),
        }
    }
    if problems.is_empty() {
        problems = try_out(route, &values);
    }
    if problems.is_empty() { Ok(Credential::new(values)) } else { Err(AdminError::Invalid(problems)) }
}

fn problem(field: Option<&str>, detail: String) -> Problem {
    let pointer = field.map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")));
    Problem { pointer: pointer.unwrap_or_default(), detail }
}

fn check_field(route: &Route, name: &str, given: Given) -> Result<(FieldName, SecretString), String> {
    let Some(field) = expected(route).find(|field| field.name.as_str() == name) else {
        let names: Vec<&str> = expected(route).map(|field| field.name.as_str()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(format!("the auth method `{}` has no such field; there are: {there}", route.auth().method));
    };
    // It is part of the address where somebody signs in.
    let is_shown = route.auth().oauth.is_some() && name == CLIENT_ID;
    match given {
        Given::Text(value) if is_shown && !referenced_secrets([&value]).is_empty() => {
            Err("the value is shown where somebody signs in, and refers to no secret".to_owned())
        }
        Given::Text(value) => check_text(field, &value).map(|()| (field.name.clone(), value)),
        Given::Other(found) => Err(format!(
            "expected a text, found {found}; values from files and variables are declared in the configuration"
        )),
    }
}

#[expect(clippy::disallowed_methods, reason = "a value must fit its field before anybody relies on it")]
fn check_text(field: &Field, value: &SecretString) -> Result<(), String> {
    let text = value.expose_secret();
    if text.is_empty() && field.required {
        return Err("the value is empty".to_owned());
    }
    if text.len() > LONGEST {
        return Err("the value is longer than 64 KiB".to_owned());
    }
    let pieces = pieces(text).map_err(|error| error.to_string())?;
    // What a secret will hold is not known before it is looked up.
    let refers = pieces.iter().any(|piece| matches!(piece, Piece::Secret(_)));
    if refers { Ok(()) } else { field.check(text) }
}

/// Renders what was given as every request would, with stand-ins for the secrets it refers to. Where that fails, each
/// value is tried among stand-ins for the others, to tell which of them it is.
fn try_out(route: &Route, values: &BTreeMap<FieldName, SecretString>) -> Vec<Problem> {
    let stand_in = || SecretString::from("x");
    let mut values = values.clone();
    // What an authorization server will give out is not there yet.
    let tokens =
        route.auth().fields.iter().filter(|field| route.auth().oauth.is_some() && field.name.as_str() == ACCESS_TOKEN);
    for token in tokens {
        values.entry(token.name.clone()).or_insert_with(stand_in);
    }
    let whole = Credential::new(values.clone());
    let secrets: Secrets =
        referenced_secrets(whole.fields().values()).into_iter().map(|key| (key, stand_in())).collect();
    let Err(together) = Injection::render(route, &whole, &secrets) else { return Vec::new() };
    let alone = |name: &FieldName| {
        let among = |(other, value): (&FieldName, &SecretString)| {
            (other.clone(), if other == name { value.clone() } else { stand_in() })
        };
        let credential = Credential::new(values.iter().map(among).collect());
        Injection::render(route, &credential, &secrets).err()
    };
    let guilty = values.keys().filter_map(|name| Some(problem(Some(name.as_str()), alone(name)?.to_string())));
    let problems: Vec<Problem> = guilty.collect();
    if problems.is_empty() { vec![problem(None, together.to_string())] } else { problems }
}
