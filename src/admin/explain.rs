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
use crate::model::id::ConnectionId;
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, Key};
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
    /// `environment`, `customer`, `connection`, `host`, `method`, `path`, `limits` or `credential`.
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
/// It is decided by what decides about requests on the proxy port, for a caller whose scope is this connection in this
/// environment. Nothing is sent, and no limit is spent. Callers of the proxy port ask for themselves, with the header
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
    let (method, path, wanted): (Method, String, _) = document.read(|reader| {
        let path = reader.text("path").unwrap_or("/");
        if path.len() > LONGEST {
            reader.problem("path", format!("expected at most {LONGEST} bytes"));
        }
        if path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            reader.problem("path", "a path has no spaces and no control characters");
        }
        let method: Option<Method> = if reader.has("method") { reader.parsed("method") } else { Some(Method::GET) };
        Some((method?, path.to_owned(), reader.parsed::<EnvironmentName>("environment")))
    })?;
    let connection = connections::find(&control, &actor, &query, &named).await?;
    let environment = environment(&control, actor.organization, &connection, wanted).await?;
    let trial = Trial { gate: gate(&connection, &environment), method, path, fields: explain_tags(), body: None };
    let explanation = control.bench.explain(trial).await.ok_or(AdminError::Vault(VaultError::Stopped))?;
    Ok(Json(explanation).into_response())
}

/// The request asks for no environment and no customer: the gate knows one connection in one environment.
fn explain_tags() -> Vec<(&'static str, String)> {
    vec![("sidekey-explain", "1".to_owned())]
}
