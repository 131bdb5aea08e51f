//! Explaining a connection: what would become of a request over it, and why. Nothing is sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Method;
use utoipa::ToSchema;

use super::actor::Actor;
use super::document::Document;
use super::error::AdminError;
use super::openapi::OfCustomer;
use super::request::{At, Query};
use super::trials::{environment, gate};
use super::{Control, connections};
use crate::model::connection::Connection;
use crate::model::document::{Problem, Reader};
use crate::model::glob::Glob;
use crate::model::id::{ApiKeyId, ConnectionId};
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, Key};
use crate::model::role::Permission;
use crate::proxy::gate::Gate;
use crate::proxy::trial::Trial;
use crate::vault::VaultError;

/// The longest path that is explained; the proxy port takes none that is longer.
const LONGEST: usize = 32 * 1024;

/// The request that is meant.
#[derive(ToSchema)]
#[schema(as = ExplanationOrder)]
pub struct Body {
    /// Its method; `GET` where it is not said.
    #[schema(nullable = false, pattern = "^[A-Z-]{1,32}$")]
    pub method: Option<String>,
    /// Its path and query below the base URL; `/` where it is not said.
    #[schema(nullable = false, max_length = 32768)]
    pub path: Option<String>,
    /// The environment; the designer's where it is not said.
    #[schema(nullable = false)]
    pub environment: Option<EnvironmentName>,
    /// The id of an API key: the request is explained as its holder's, which needs the permission `api_keys.read`. The
    /// environment is the key's own then, where none is said and the key has one.
    #[schema(nullable = false)]
    pub api_key: Option<ApiKeyId>,
}

/// What would become of a request.
#[derive(ToSchema)]
#[schema(as = Explanation)]
pub struct View {
    /// Whether it would be sent.
    pub permitted: bool,
    /// Who asks.
    pub caller: String,
    /// Its method.
    pub method: String,
    /// Where it would go, masked.
    pub url: Option<String>,
    /// Which connection's credential it would carry.
    pub connection: Option<ConnectionId>,
    /// The key of that connection.
    pub key: Option<Key>,
    /// In which environment.
    pub environment: Option<EnvironmentName>,
    /// What decided, in this order.
    pub decisions: Vec<Decision>,
    /// Why it would be refused.
    pub refusal: Option<Refusal>,
    /// What would be injected, masked.
    pub injections: Vec<Injected>,
    /// The limits that hold, and what is left of each.
    pub limits: Vec<Allowance>,
    /// When the credential ends to be of use, where that is known.
    pub credential_expires_at: Option<Moment>,
    /// When the caller's key does.
    pub key_expires_at: Option<Moment>,
}

/// One thing that was decided.
#[derive(ToSchema)]
#[schema(as = Decision)]
pub struct Decision {
    /// `key` (where one is asked about), `environment`, `customer`, `connection`, `host`, `method`, `path`, `limits` or `credential`.
    pub about: String,
    /// Whether it let the request pass.
    pub passed: bool,
    /// Which rule it was, and why.
    pub rule: String,
}

/// Why a request would be refused: as its caller would be told.
#[derive(ToSchema)]
#[schema(as = ExplainedRefusal)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The code.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// Something that would be injected.
#[derive(ToSchema)]
#[schema(as = ExplainedInjection)]
pub struct Injected {
    /// `header`, `query`, `cookie`, `path` or `body`.
    pub r#in: String,
    /// The name there.
    pub name: String,
    /// Its value, masked.
    pub value: String,
}

/// A limit, and how it stands.
#[derive(ToSchema)]
#[schema(as = ExplainedLimit)]
pub struct Allowance {
    /// `connection`, `key_per_minute`, `key_per_hour`, `organization_per_minute` or `organization_per_hour`.
    pub of: String,
    /// So many requests at once.
    pub requests: u32,
    /// In how many seconds as many come back.
    pub seconds: u64,
    /// How many would pass now.
    pub left: u32,
    /// In how many milliseconds the next one passes, where none would now.
    pub wait_ms: Option<u64>,
}

/// Tells what would become of a request over a connection, and why.
///
/// It is decided by what decides about requests on the proxy port: for a caller whose scope is this connection in this
/// environment, or for the holder of an API key, with its scope, limits and expiry, at a listener that leaves everything
/// to keys. Nothing is sent, and no limit is spent. Callers of the proxy port ask for themselves, with the header
/// `Sidekey-Explain: 1`, where their key allows it.
#[utoipa::path(post, path = "/connections/{connection}/explain", params(OfCustomer), request_body = Body, responses(
    (status = 200, description = "What would become of it.", body = View)
))]
pub(super) async fn explain(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    query: Query,
    document: Document,
) -> Result<Response, AdminError> {
    let order = document.read(Order::read)?;
    if order.key.is_some() && !actor.may(Permission::ReadApiKeys) {
        return Err(AdminError::Ungranted(Permission::ReadApiKeys, vec![problem("an API key is asked about")]));
    }
    let connection = connections::find(&control, &actor, &query, &named).await?;
    connections::check_scope(&actor, &connection)?;
    let trial = order.trial(&control, &actor, &connection).await?;
    let explanation = control.bench.explain(trial).await.ok_or(AdminError::Vault(VaultError::Stopped))?;
    Ok(Json(explanation).into_response())
}

fn problem(detail: &str) -> Problem {
    Problem { pointer: "/api_key".to_owned(), detail: detail.to_owned() }
}

/// What is asked for, its shape checked.
struct Order {
    method: Method,
    path: String,
    environment: Option<EnvironmentName>,
    key: Option<ApiKeyId>,
}

impl Order {
    fn read(reader: &Reader<'_>) -> Option<Self> {
        let path = reader.text("path").unwrap_or("/");
        if path.len() > LONGEST {
            reader.problem("path", format!("expected at most {LONGEST} bytes"));
        }
        if path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            reader.problem("path", "a path has no spaces and no control characters");
        }
        let method: Option<Method> = if reader.has("method") { reader.parsed("method") } else { Some(Method::GET) };
        let (environment, key) = (reader.parsed("environment"), reader.parsed("api_key"));
        Some(Order { method: method?, path: path.to_owned(), environment, key })
    }

    /// The request, and in whose name it is.
    async fn trial(self, control: &Control, actor: &Actor, connection: &Connection) -> Result<Trial, AdminError> {
        let Order { method, path, environment: wanted, key } = self;
        let organization = actor.organization;
        let mut fields = vec![("sidekey-explain", "1".to_owned())];
        let Some(id) = key else {
            // It asks for no environment and no customer: the gate knows one connection in one environment.
            let environment = environment(control, organization, connection, wanted).await?;
            return Ok(Trial { gate: gate(connection, &environment), key, method, path, fields, body: None });
        };
        let key = control.vault.database()?.api_key(organization, id).await?;
        let key = key.ok_or_else(|| AdminError::Invalid(vec![problem("there is no such API key")]))?;
        fields.extend(wanted.iter().map(|environment| ("sidekey-environment", environment.to_string())));
        fields.extend(connection.customer.iter().map(|customer| ("sidekey-customer", customer.to_string())));
        let environment = match (wanted, key.terms.environment.clone()) {
            (None, Some(of_key)) => of_key,
            (wanted, _) => environment(control, organization, connection, wanted).await?,
        };
        Ok(Trial { gate: open_gate(connection, &environment), key: Some(id), method, path, fields, body: None })
    }
}

/// A listener that leaves everything to keys, where `environment` is meant by keys that name none.
fn open_gate(connection: &Connection, environment: &EnvironmentName) -> Gate {
    let mut gate = gate(connection, environment);
    gate.scope.environments = Vec::new();
    gate.scope.connections = vec![Glob::everything()];
    gate.scope.customers = vec![Glob::everything()];
    gate
}
