//! The audit log: who did what, when and from where; whether the log is as it was written; how often credentials were
//! used.

mod export;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::Control;
use super::actor::Actor;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{Items, Own, Query, wrong};
use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
use crate::model::moment::Moment;
use crate::model::name::EnvironmentName;
use crate::model::role::Role;
use crate::vault::audit::usage::{LOCAL, Usage, UsageFilter};
use crate::vault::audit::{Broken, Chain, Filter, Kept, Order, Reason, Recorded};

/// An event as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEvent)]
pub struct View {
    /// Its number among the events of its organization, from 1 and without a gap.
    #[schema(minimum = 1)]
    sequence: i64,
    /// Its id.
    id: String,
    /// When it was recorded.
    at: Moment,
    /// Who: an API key, a user, or a part of Sidekey that acts by itself.
    actor: String,
    /// What they did, such as `connection.create`.
    action: String,
    /// To what: an id, or a name.
    object: String,
    /// From which address, where it came through a network.
    address: Option<String>,
    /// In which request, where there was one.
    request_id: Option<String>,
    /// What changed, as it was; `null` where there was nothing. Never a secret.
    before: Option<Value>,
    /// What changed, as it became; `null` where there is nothing any more. Never a secret.
    after: Option<Value>,
    /// What else is told of it.
    detail: Map<String, Value>,
}

impl From<Recorded> for View {
    fn from(event: Recorded) -> Self {
        View {
            sequence: event.sequence,
            id: event.id,
            at: Moment::from_milliseconds(event.at),
            actor: event.actor,
            action: event.action,
            object: event.object,
            address: event.address,
            request_id: Some(event.request_id).filter(|id| !id.is_empty()),
            before: event.before,
            after: event.after,
            detail: event.detail,
        }
    }
}

/// Which events are asked for.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Only those of this actor.
    #[param(nullable = false)]
    actor: Option<String>,
    /// Only this action, or those that begin as it does where it ends with `*`.
    #[param(nullable = false)]
    action: Option<String>,
    /// Only those about this object.
    #[param(nullable = false)]
    object: Option<String>,
    /// Not before this moment (RFC 3339).
    #[param(nullable = false)]
    since: Option<String>,
    /// Before this moment (RFC 3339).
    #[param(nullable = false)]
    until: Option<String>,
}

impl Wanted {
    fn filter(self) -> Result<Filter, AdminError> {
        let Wanted { actor, action, object, since, until } = self;
        Ok(Filter { actor, action, object, since: moment(since)?, until: moment(until)? })
    }
}

fn moment(text: Option<String>) -> Result<Option<i64>, AdminError> {
    let parsed = text.map(|text| text.parse().map(Moment::milliseconds)).transpose();
    parsed.map_err(|error: crate::model::name::NameError| wrong(error.to_string()))
}

/// Whose events are asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfChain {
    /// For super admins: `vault` for the events of the vault as a whole, or the id of an organization, also of one that
    /// was deleted.
    #[param(nullable = false)]
    chain: Option<String>,
}

impl OfChain {
    fn chain(&self, actor: &Actor) -> Result<Chain, AdminError> {
        let Some(named) = &self.chain else { return Ok(Chain::Organization(actor.organization)) };
        if !actor.roles.has(Role::SuperAdmin) {
            return Err(AdminError::RoleInsufficient);
        }
        match named.as_str() {
            "vault" => Ok(Chain::Vault),
            id => {
                let id: Result<OrganizationId, _> = id.parse();
                id.map(Chain::Organization).map_err(|_| wrong("chain is `vault` or an organization's id".to_owned()))
            }
        }
    }
}

/// Lists the events of the organization, the newest first.
#[utoipa::path(get, path = "/audit", params(Paging, Wanted, OfChain), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    Own(wanted): Own<Wanted>,
    Own(of): Own<OfChain>,
) -> Result<Json<Items<View>>, AdminError> {
    let (chain, filter) = (of.chain(&actor)?, wanted.filter()?);
    let list = control.vault.database()?.events(chain, &filter, Order::NewestFirst, query.page()).await?;
    Ok(Json(Items::from(list).map(View::from)))
}

/// Exports the events of the organization as JSON lines, the oldest first.
///
/// An export that is cut short ends without the end of its body, so that nobody takes a part for the whole.
#[utoipa::path(get, path = "/audit/export", params(Wanted, OfChain), responses(
    (status = 200, description = "One event a line.", body = String, content_type = "application/jsonl")
))]
pub(super) async fn export(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(wanted): Own<Wanted>,
    Own(of): Own<OfChain>,
) -> Result<Response, AdminError> {
    let (chain, filter) = (of.chain(&actor)?, wanted.filter()?);
    Ok(export::stream(control.vault.database()?.clone(), chain, filter))
}

/// What a verification has found.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditVerification)]
pub struct Verification {
    /// Whether every event is as it was written, and none is missing.
    intact: bool,
    /// How many events there are.
    #[schema(minimum = 0)]
    count: i64,
    /// The HMAC of the last one.
    head: String,
    /// The first place where the log is not as it was written.
    broken: Option<Place>,
}

/// Where the log is not as it was written.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditBreak)]
pub struct Place {
    /// The number of the event.
    sequence: i64,
    /// Its id, where there is one in that place.
    event: Option<String>,
    /// `removed`, `altered`, `added`, `key_lost` or `cut`.
    reason: &'static str,
    /// The same for people.
    detail: &'static str,
}

impl From<Broken> for Place {
    fn from(broken: Broken) -> Self {
        let (reason, detail) = match broken.reason {
            Reason::Removed => ("removed", "the event of this number is not there"),
            Reason::Altered => ("altered", "the event was altered, or comes from another place"),
            Reason::Added => ("added", "there is an event that does not belong to the log"),
            Reason::KeyLost => ("key_lost", "the key that vouches for this event is damaged, so nobody can tell"),
            Reason::Cut => ("cut", "what you have kept is not in the log: its end was cut off or replaced"),
        };
        Place { sequence: broken.sequence, event: broken.event, reason, detail }
    }
}

/// What was kept of an earlier verification.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Earlier {
    /// The `count` of an earlier verification that was kept elsewhere, together with its `head`.
    #[param(nullable = false, minimum = 0)]
    count: Option<i64>,
    /// The `head` of that verification.
    #[param(nullable = false, pattern = "^[0-9a-f]{64}$")]
    head: Option<String>,
}

/// Verifies that no event was removed, altered or moved.
///
/// Keep `count` and `head` where whoever can write the vault's file cannot: shown to a later verification, they tell
/// also that the end of the log was cut off.
#[utoipa::path(get, path = "/audit/verify", params(Earlier, OfChain), responses(
    (status = 200, description = "What was found.", body = Verification)
))]
pub(super) async fn verify(
    State(control): State<Arc<Control>>,
    actor: Actor,
    Own(earlier): Own<Earlier>,
    Own(of): Own<OfChain>,
) -> Result<Json<Verification>, AdminError> {
    let kept = match (earlier.count, earlier.head) {
        (None, None) => None,
        (Some(count), Some(head)) if count >= 0 => Some(Kept { count, head }),
        _ => return Err(wrong("count and head are given together, as a verification returned them".to_owned())),
    };
    let found = control.vault.database()?.verify_audit(of.chain(&actor)?, kept.as_ref()).await?;
    let broken = found.broken.map(Place::from);
    Ok(Json(Verification { intact: broken.is_none(), count: found.count, head: found.head, broken }))
}

/// How often a caller used a connection in one hour.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct Counter {
    /// When the hour began.
    hour: Moment,
    /// The connection.
    connection: ConnectionId,
    /// In which environment.
    environment: EnvironmentName,
    /// The caller's key, or `local` for callers who need none.
    caller: String,
    /// How many requests carried its credential.
    #[schema(minimum = 1)]
    count: i64,
    /// When the last one ended.
    last: Moment,
}

impl From<Usage> for Counter {
    fn from(usage: Usage) -> Self {
        Counter {
            hour: Moment::from_milliseconds(usage.hour.saturating_mul(3_600_000)),
            connection: usage.connection,
            environment: usage.environment,
            caller: usage.caller.map_or_else(|| LOCAL.to_owned(), |caller| caller.to_string()),
            count: usage.count,
            last: Moment::from_milliseconds(usage.last),
        }
    }
}

/// Which counters are asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Used {
    /// Only those of this connection, by its id.
    #[param(nullable = false)]
    connection: Option<String>,
    /// Only those of this caller: the id of an API key, or `local`.
    #[param(nullable = false)]
    caller: Option<String>,
    /// Not before the hour of this moment (RFC 3339).
    #[param(nullable = false)]
    since: Option<String>,
    /// Hours that begin before this moment (RFC 3339).
    #[param(nullable = false)]
    until: Option<String>,
}

/// Lists how often credentials were used: by connection, environment, caller and hour, the newest hour first.
///
/// The counters follow the requests within seconds and are kept for 400 days.
#[utoipa::path(get, path = "/audit/usage", params(Paging, Used), responses(
    (status = 200, description = "A page of counters.", body = Items<Counter>)
))]
pub(super) async fn usage(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
    Own(used): Own<Used>,
) -> Result<Json<Items<Counter>>, AdminError> {
    let connection = used.connection.map(|id| id.parse()).transpose();
    let connection: Option<ConnectionId> =
        connection.map_err(|_| wrong("connection is a connection's id".to_owned()))?;
    if used.caller.as_deref().is_some_and(|caller| caller != LOCAL && caller.parse::<ApiKeyId>().is_err()) {
        return Err(wrong("caller is an API key's id or `local`".to_owned()));
    }
    let filter =
        UsageFilter { connection, caller: used.caller, since: moment(used.since)?, until: moment(used.until)? };
    let list = control.vault.database()?.usage(actor.organization, &filter, query.page()).await?;
    Ok(Json(Items::from(list).map(Counter::from)))
}
