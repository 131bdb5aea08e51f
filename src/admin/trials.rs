//! Trying a connection: the test request of its integration, through the very path that every request takes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::actor::Actor;
use super::document::Document;
use super::error::AdminError;
use super::openapi::OfCustomer;
use super::request::{At, Query};
use super::{Control, connections};
use crate::directory::route::Route;
use crate::directory::scope::Scope;
use crate::model::connection::Connection;
use crate::model::document::Problem;
use crate::model::id::{ConnectionRef, OrganizationId};
use crate::model::integration::{Assertion, Condition, TestRequest};
use crate::model::name::EnvironmentName;
use crate::proxy::gate::{Gate, Trust};
use crate::proxy::trial::{MOST_SHOWN, Outcome, Trial, Tried};
use crate::vault::VaultError;
use crate::vault::usage::{Use, Verdict};

/// Which environment is meant.
#[derive(ToSchema)]
#[schema(as = TestOrder)]
pub struct Body {
    /// Its name; the designer's where it is not said.
    #[schema(nullable = false)]
    pub environment: Option<EnvironmentName>,
}

/// What came of a test.
#[derive(Serialize, ToSchema)]
#[schema(as = TestResult)]
pub struct View {
    /// Whether the upstream answered as the integration expects.
    passed: bool,
    /// In which environment.
    environment: EnvironmentName,
    /// The status of the upstream's answer, where there was one.
    status: Option<u16>,
    /// How long the answer took, in milliseconds.
    latency_ms: u64,
    /// Why it did not pass.
    reason: Option<String>,
    /// The code of the refusal, as a caller of the proxy would see it, where nothing came from the upstream.
    code: Option<&'static str>,
    /// What the upstream said: at most 2 KiB, without the credential.
    said: Option<Said>,
    /// As the request stands in the access log.
    request_id: String,
}

/// What an upstream said.
#[derive(Serialize, ToSchema)]
#[schema(as = TestAnswer)]
pub struct Said {
    /// The type of the body, as the upstream declared it.
    content_type: Option<String>,
    /// The beginning of the body.
    body: String,
    /// Whether there was more of it.
    is_cut: bool,
}

/// Sends the test request of a connection's integration with its credential, and moves the connection's status.
///
/// It is counted against the connection's limit like any request.
#[utoipa::path(post, path = "/connections/{connection}/test", params(OfCustomer), request_body = Body, responses(
    (status = 200, description = "What came of it, passed or not.", body = View)
))]
pub(super) async fn test(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    query: Query,
    document: Document,
) -> Result<Json<View>, AdminError> {
    let named_environment: Option<EnvironmentName> = document.read(|reader| Some(reader.parsed("environment")))?;
    let connection = connections::find(&control, &actor, &query, &named).await?;
    connections::check_reach(&actor, &connection)?;
    let environment = environment(&control, actor.organization, &connection, named_environment).await?;
    let route = connections::route(&control, &connection).await?.map_err(AdminError::Conflict)?;
    let test = route.integration.test.as_ref().ok_or_else(|| {
        AdminError::Conflict(format!(
            "the integration {} has no test request; add `test` to it",
            connection.integration
        ))
    })?;
    let trial = trial(&route, &connection, &environment, test)?;
    let tried = control.bench.attempt(trial).await.ok_or(AdminError::Vault(VaultError::Stopped))?;
    let view = view(tried, test, environment.clone());
    note(&control, &connection, environment, &view).await?;
    Ok(Json(view))
}

/// The environment that is meant: one that the connection can have a credential in.
pub(super) async fn environment(
    control: &Control,
    organization: OrganizationId,
    connection: &Connection,
    named: Option<EnvironmentName>,
) -> Result<EnvironmentName, AdminError> {
    let wrong = |detail: &str| {
        AdminError::Invalid(vec![Problem { pointer: "/environment".to_owned(), detail: detail.to_owned() }])
    };
    match named {
        Some(named) => {
            let known = connections::environments_of(control, connection).await?;
            known.into_iter().find(|known| *known == named).ok_or_else(|| wrong("there is no such environment"))
        }
        None => {
            let all = control.vault.database()?.environment_list(organization).await?;
            let designers = all.into_iter().find(|environment| environment.designer);
            designers
                .map(|environment| environment.name)
                .ok_or_else(|| wrong("name an environment: none of the organization's is marked as the designer's"))
        }
    }
}

/// Whoever may ask about this connection in this environment, and nothing else.
pub(super) fn gate(connection: &Connection, environment: &EnvironmentName) -> Gate {
    let id = connection.id.to_string();
    let glob = |text: &str| text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    Gate {
        trust: Trust::Local,
        keeps_browsers_out: false,
        host_names: Vec::new(),
        allow_origins: Vec::new(),
        explains: true,
        scope: Scope {
            organization: connection.organization,
            environment: environment.clone(),
            environments: vec![environment.clone()],
            connections: vec![glob(&id)],
            customers: connection.customer.iter().map(|customer| glob(customer.as_str())).collect(),
            connection: Some(ConnectionRef::Id(connection.id)),
            owner: connection.sharing.owner,
        },
    }
}

fn trial(
    route: &Route,
    connection: &Connection,
    environment: &EnvironmentName,
    test: &TestRequest,
) -> Result<Trial, AdminError> {
    let path = test.path.render(|name| route.value(name));
    let path = path.map_err(|error| AdminError::Conflict(format!("the path of the test request: {error}")))?;
    let fields = test.body.iter().map(|_| ("content-type", "application/json".to_owned())).collect();
    Ok(Trial {
        gate: gate(connection, environment),
        key: None,
        method: test.method.clone(),
        path: path.to_string(),
        fields,
        body: test.body.clone().map(Into::into),
    })
}

fn view(tried: Tried, test: &TestRequest, environment: EnvironmentName) -> View {
    let latency_ms = u64::try_from(tried.latency.as_millis()).unwrap_or(u64::MAX);
    let view = |passed, status, reason, code, said| View {
        passed,
        environment,
        status,
        latency_ms,
        reason,
        code,
        said,
        request_id: tried.request_id,
    };
    match tried.outcome {
        Outcome::Refused { code, detail } => view(false, None, Some(detail), Some(code), None),
        Outcome::Answered { status, content_type, body, is_cut } => {
            let reason = failure(test, status, &body, is_cut);
            view(reason.is_none(), Some(status), reason, None, Some(said(content_type, &body, is_cut)))
        }
    }
}

/// Why an answer is not the one that is expected.
fn failure(test: &TestRequest, status: u16, body: &[u8], is_cut: bool) -> Option<String> {
    if !test.status.contains(&status) {
        let expected = test.status.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
        return Some(format!("the upstream answered with {status} where {expected} was expected"));
    }
    let Assertion { pointer, condition } = test.assert.as_ref()?;
    let document: Value = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(_) if is_cut => return Some("the upstream's answer is too long to look into".to_owned()),
        Err(_) => return Some("the upstream's answer is not JSON".to_owned()),
    };
    let found = document.pointer(pointer).filter(|value| !value.is_null());
    let holds = match condition {
        Condition::Equals(expected) => found.unwrap_or(&Value::Null) == expected,
        Condition::Exists(expected) => found.is_some() == *expected,
    };
    (!holds).then(|| format!("{pointer} of the upstream's answer is not what is expected"))
}

fn said(content_type: Option<String>, body: &[u8], is_cut: bool) -> Said {
    let text = String::from_utf8_lossy(body);
    let end = text.floor_char_boundary(MOST_SHOWN);
    Said { content_type, body: text[..end].to_owned(), is_cut: is_cut || end < text.len() }
}

/// Moves the status: what the upstream said of the credential holds as it would of any request's. What kept the
/// request from the upstream says nothing of the credential.
async fn note(
    control: &Control,
    connection: &Connection,
    environment: EnvironmentName,
    view: &View,
) -> Result<(), AdminError> {
    let now = crate::model::moment::Moment::now().milliseconds();
    let verdict = match (view.passed, view.status) {
        (true, _) => Verdict::Taken(now),
        (false, Some(401)) => Verdict::Refused(now),
        (false, Some(_)) => Verdict::Failed(now),
        (false, None) => return Ok(()),
    };
    let Connection { organization, id, .. } = *connection;
    let one =
        Use { organization, connection: id, environment, used_at: now, verdict, reason: None, workflows: Vec::new() };
    let declared = control.vault.declared();
    Ok(control.vault.database()?.note_uses(vec![one], move |id| declared.declares(id)).await?)
}
