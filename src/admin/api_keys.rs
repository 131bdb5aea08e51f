//! API keys: made, limited, suspended and revoked; their text is shown once.
//!
//! Nobody makes or changes a key that may do more than they may themselves, nor gets the new secret of one: a key that
//! manages keys cannot lift itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::actor::Actor;
use super::condition::{Shown as Tagged, settled, tagged};
use super::document::Document;
use super::error::AdminError;
use super::openapi::Paging;
use super::request::{At, Items, Query};
use crate::model::api_key::{ApiKey, KeyScope, KeyStatus, KeyTerms, RequestLimits};
use crate::model::document::Problem;
use crate::model::glob::check_connections;
use crate::model::id::{ApiKeyId, UserId};
use crate::model::moment::Moment;
use crate::model::name::EnvironmentName;
use crate::model::role::{Role, Roles};
use crate::model::user::UserRef;
use crate::vault::api_key::PlainKey;
use crate::vault::change::{ApiKeyChange, Change};
use crate::vault::derived;

/// An API key as it is shown. Its secret is in none of these.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct View {
    id: ApiKeyId,
    /// What its text begins with.
    prefix: String,
    name: String,
    #[schema(value_type = Status)]
    status: KeyStatus,
    #[schema(value_type = Vec<Role>)]
    roles: Roles,
    owner: Option<UserId>,
    environment: Option<EnvironmentName>,
    #[schema(value_type = Scope)]
    scope: KeyScope,
    #[schema(value_type = Limits)]
    limits: RequestLimits,
    created_at: Moment,
    rotated_at: Option<Moment>,
    last_used_at: Option<Moment>,
    expires_at: Option<Moment>,
}

impl From<ApiKey> for View {
    fn from(key: ApiKey) -> Self {
        let ApiKey { id, status, terms, created_at, rotated_at, last_used_at, .. } = key;
        let KeyTerms { name, roles, limits, environment, scope, owner, expires_at } = terms;
        let prefix = format!("{id}_");
        View {
            id,
            prefix,
            name,
            status,
            roles,
            owner,
            environment,
            scope,
            limits,
            created_at,
            rotated_at,
            last_used_at,
            expires_at,
        }
    }
}

/// Whether a key may be used; a revoked one never again.
#[derive(ToSchema)]
#[schema(as = ApiKeyStatus, rename_all = "snake_case")]
pub enum Status {
    /// It may.
    Active,
    /// It may not, until it is resumed.
    Suspended,
    /// It may not, for ever.
    Revoked,
}

/// What a key may be used for on the proxy port.
#[derive(ToSchema)]
#[schema(as = ApiKeyScope)]
pub struct Scope {
    /// Ids, keys, or globs in which `*` stands for any text; a glob names ids only where it begins with `conn_`.
    /// `["*"]` where it is not said, which covers no personal connection but those of the key's owner.
    #[schema(required = false)]
    pub connections: Vec<String>,
    /// Methods, in capitals; all where it is not said.
    pub methods: Option<Vec<String>>,
    /// Paths of upstreams, base path included, in which `*` stands for any text; all where it is not said. A request
    /// whose path could be read in two ways is refused where there are any.
    pub paths: Option<Vec<String>>,
    /// What a request may name; the key's own environment, else the listener's, where it is not said.
    pub environments: Option<Vec<EnvironmentName>>,
    /// Customers or globs; none where it is not said.
    #[schema(required = false)]
    pub customers: Vec<String>,
    /// Whether a request may ask what would become of it (`Sidekey-Explain: 1`); not where it is not said.
    #[schema(nullable = false)]
    pub explain: Option<bool>,
}

/// How many requests may be made at the proxy port; those at the admin port are not counted. So many at once, and then
/// one each time there is room for.
#[derive(ToSchema)]
#[schema(as = RequestLimits)]
pub struct Limits {
    /// In a minute; not limited where it is not said.
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub per_minute: Option<u32>,
    /// In an hour; not limited where it is not said.
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub per_hour: Option<u32>,
}

/// An API key as it is written. A change leaves as it is what it does not say.
#[derive(ToSchema)]
#[schema(as = NewApiKey)]
pub struct Body {
    /// As a person reads it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// What its holder may do; `["caller"]` where it is not said.
    #[schema(nullable = false, min_items = 1)]
    pub roles: Option<Vec<Role>>,
    /// The user whose personal connections it may use.
    pub owner: Option<UserId>,
    /// The environment that is meant where a request names none.
    pub environment: Option<EnvironmentName>,
    /// What it may be used for.
    pub scope: Option<Scope>,
    /// How many requests may be made with it.
    pub limits: Option<Limits>,
    /// After this it is of no use.
    pub expires_at: Option<Moment>,
}

/// A key together with its text.
#[derive(Serialize, ToSchema)]
#[schema(as = ShownApiKey)]
pub struct Shown {
    #[serde(flatten)]
    view: View,
    /// The whole text, shown this once. Absent where an answer is repeated for its `Idempotency-Key`.
    #[schema(required = false)]
    key: String,
}

/// For how long an old secret is still of use.
#[derive(ToSchema)]
#[schema(as = ApiKeyRotation)]
pub struct Rotation {
    /// Such as `60s`; at most a week. Not at all where it is not said.
    pub grace: Option<String>,
}

/// What a view shows and nobody sets.
const SHOWN_ONLY: [&str; 6] = ["id", "prefix", "status", "created_at", "rotated_at", "last_used_at"];

/// The longest time that an old secret may be of use.
const LONGEST_GRACE: Duration = Duration::from_secs(7 * 86_400);

/// Lists the API keys of the organization, the oldest first.
#[utoipa::path(get, path = "/api-keys", params(Paging), responses(
    (status = 200, description = "A page of them.", body = Items<View>)
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    actor: Actor,
    query: Query,
) -> Result<Json<Items<View>>, AdminError> {
    let list = control.vault.database()?.api_keys(actor.organization, query.page()).await?;
    Ok(Json(Items::from(list).map(View::from)))
}

/// Creates an API key, and shows its text this once.
#[utoipa::path(post, path = "/api-keys", request_body = Body, responses(
    (status = 201, description = "It is there.", body = Shown, headers(("Location" = String), ("ETag" = String)))
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    actor: Actor,
    document: Document,
) -> Result<Response, AdminError> {
    let terms = document.read(KeyTerms::read)?;
    check(&control, &actor, &terms, None).await?;
    let plain = PlainKey::generate()?;
    let (id, text) = (plain.id, plain.text().clone());
    let organization = actor.organization;
    let change = ApiKeyChange::Create { organization, plain, terms: Box::new(terms) };
    control.commit(&actor, Change::ApiKey(change)).await?;
    let key = find(&control, &actor, id).await?;
    let version = derived::of_api_key(&key);
    let mut response = tagged((StatusCode::CREATED, Json(shown(key, &text))).into_response(), Some(version));
    if let Ok(place) = HeaderValue::try_from(format!("/api/v1/api-keys/{id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// Shows an API key, without its text.
#[utoipa::path(get, path = "/api-keys/{api_key}", responses(
    (status = 200, description = "The key.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Tagged<View>, AdminError> {
    Ok(viewed(find(&control, &actor, parse(&named)?).await?))
}

/// Changes what an API key may do. Its text stays, as does what is not said; `null` takes away what is said of it, such
/// as a limit, and makes a scope that of a new key.
#[utoipa::path(put, path = "/api-keys/{api_key}", request_body = Body, responses(
    (status = 200, description = "It is so.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Tagged<View>, AdminError> {
    let document = document.without(&SHOWN_ONLY);
    edit(&control, &actor, &named, |before| document.read(|reader| before.clone().amended(reader))).await
}

/// Changes the limits of an API key. What is not said stays; `null` takes a limit away.
#[utoipa::path(put, path = "/api-keys/{api_key}/limits", request_body = Limits, responses(
    (status = 200, description = "It is so.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn limit(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Tagged<View>, AdminError> {
    edit(&control, &actor, &named, |before| {
        let limits = document.read(|reader| Some(before.limits.amended(reader)))?;
        Ok(KeyTerms { limits, ..before.clone() })
    })
    .await
}

/// Changes what an API key may be used for on the proxy port. What is not said stays; `null` makes it as for a new key.
#[utoipa::path(put, path = "/api-keys/{api_key}/scope", request_body = Scope, responses(
    (status = 200, description = "It is so.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn narrow(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Tagged<View>, AdminError> {
    edit(&control, &actor, &named, |before| {
        let scope = document.read(|reader| Some(before.scope.clone().amended(reader)))?;
        Ok(KeyTerms { scope, ..before.clone() })
    })
    .await
}

/// Suspends an API key: it is of no use until it is resumed.
#[utoipa::path(post, path = "/api-keys/{api_key}/suspend", responses(
    (status = 200, description = "It is so.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn suspend(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Tagged<View>, AdminError> {
    set_status(&control, &actor, &named, KeyStatus::Suspended).await
}

/// Resumes a suspended API key.
#[utoipa::path(post, path = "/api-keys/{api_key}/resume", responses(
    (status = 200, description = "It is so.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn resume(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Tagged<View>, AdminError> {
    set_status(&control, &actor, &named, KeyStatus::Active).await
}

/// Revokes an API key, for ever.
#[utoipa::path(post, path = "/api-keys/{api_key}/revoke", responses(
    (status = 200, description = "It is so.", body = View, headers(("ETag" = String)))
))]
pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
) -> Result<Tagged<View>, AdminError> {
    set_status(&control, &actor, &named, KeyStatus::Revoked).await
}

/// Gives an API key another secret, and shows its text this once.
#[utoipa::path(post, path = "/api-keys/{api_key}/rotate", request_body = Rotation, responses(
    (status = 200, description = "It is so.", body = Shown, headers(("ETag" = String)))
))]
pub(super) async fn rotate(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(named): At<String>,
    document: Document,
) -> Result<Tagged<Shown>, AdminError> {
    let id = parse(&named)?;
    settled(|| async {
        let before = find(&control, &actor, id).await?;
        if !covers(&actor, &before.terms) {
            return Err(AdminError::AboveOwn);
        }
        let grace = document.read(|reader| Some(reader.duration("grace").unwrap_or_default()))?;
        if grace > LONGEST_GRACE {
            return Err(invalid("/grace", "an old secret is of use for a week at most"));
        }
        let plain = PlainKey::of(id)?;
        let text = plain.text().clone();
        let change = ApiKeyChange::Rotate { organization: actor.organization, plain, grace };
        let key = store(&control, &actor, &before, change).await?;
        let version = derived::of_api_key(&key);
        Ok(Tagged(shown(key, &text), Some(version)))
    })
    .await
}

fn viewed(key: ApiKey) -> Tagged<View> {
    let version = derived::of_api_key(&key);
    Tagged(key.into(), Some(version))
}

/// Gives a key the terms that are made from those it has.
async fn edit(
    control: &Control,
    actor: &Actor,
    named: &str,
    edited: impl Fn(&KeyTerms) -> Result<KeyTerms, AdminError>,
) -> Result<Tagged<View>, AdminError> {
    let id = parse(named)?;
    settled(|| async {
        let before = find(control, actor, id).await?;
        let terms = edited(&before.terms)?;
        if !covers(actor, &before.terms) {
            return Err(AdminError::AboveOwn);
        }
        check(control, actor, &terms, Some(&before.terms)).await?;
        let change = ApiKeyChange::Edit { organization: actor.organization, id, terms: Box::new(terms) };
        Ok(viewed(store(control, actor, &before, change).await?))
    })
    .await
}

/// Changes a key that is still as it was when the change was judged, and reads it again.
async fn store(control: &Control, actor: &Actor, before: &ApiKey, change: ApiKeyChange) -> Result<ApiKey, AdminError> {
    control.commit_judged(actor, Some(derived::of_api_key(before)), Change::ApiKey(change)).await?;
    find(control, actor, before.id).await
}

async fn set_status(
    control: &Control,
    actor: &Actor,
    named: &str,
    status: KeyStatus,
) -> Result<Tagged<View>, AdminError> {
    let id = parse(named)?;
    settled(|| async {
        let before = find(control, actor, id).await?;
        let may = match status {
            KeyStatus::Active => covers(actor, &before.terms),
            // To stop a key takes no more than its roles: it gives nobody anything.
            KeyStatus::Suspended | KeyStatus::Revoked => actor.roles.cover(before.terms.roles),
        };
        if !may {
            return Err(AdminError::AboveOwn);
        }
        let change = ApiKeyChange::SetStatus { organization: actor.organization, id, status };
        Ok(viewed(store(control, actor, &before, change).await?))
    })
    .await
}

/// Whether an actor has everything that these terms give.
fn covers(actor: &Actor, terms: &KeyTerms) -> bool {
    match &actor.key {
        Some(key) => terms.within(&key.terms),
        None => actor.roles.cover(terms.roles),
    }
}

/// Checks terms that somebody wants to give. What a key has already is not looked at again: a ceiling may have been
/// lowered, and a moment may have passed.
async fn check(
    control: &Control,
    actor: &Actor,
    terms: &KeyTerms,
    before: Option<&KeyTerms>,
) -> Result<(), AdminError> {
    let is_new = |differs: fn(&KeyTerms, &KeyTerms) -> bool| before.is_none_or(|before| differs(before, terms));
    let ceiling = control.vault.ceiling(actor.organization);
    let above = |(limit, top): (&str, std::num::NonZeroU32)| Problem {
        pointer: format!("/limits/{limit}"),
        detail: format!("the organization's own limit is {top}"),
    };
    let mut problems = Vec::new();
    if is_new(|before, terms| before.limits != terms.limits) {
        problems.extend(terms.limits.above(&ceiling).into_iter().map(above));
    }
    if is_new(|before, terms| before.expires_at != terms.expires_at)
        && terms.expires_at.is_some_and(|end| end <= control.vault.now())
    {
        problems.push(Problem { pointer: "/expires_at".to_owned(), detail: "this is over already".to_owned() });
    }
    if let Some(owner) = terms.owner
        && control.vault.database()?.user(actor.organization, &UserRef::Id(owner)).await?.is_none()
    {
        problems.push(Problem { pointer: "/owner".to_owned(), detail: "there is no such user".to_owned() });
    }
    problems.extend(unknown(control, actor, terms, before).await?);
    if !problems.is_empty() {
        return Err(AdminError::Invalid(problems));
    }
    if covers(actor, terms) { Ok(()) } else { Err(AdminError::AboveOwn) }
}

/// What newly names no connection that could ever be, or no environment of the organization.
async fn unknown(
    control: &Control,
    actor: &Actor,
    terms: &KeyTerms,
    before: Option<&KeyTerms>,
) -> Result<Vec<Problem>, AdminError> {
    let mut problems = Vec::new();
    let had = before.map(|before| &before.scope);
    for (index, glob) in terms.scope.connections.iter().enumerate() {
        if had.is_none_or(|had| !had.connections.contains(glob))
            && let Err(detail) = check_connections(&glob.to_string())
        {
            problems.push(Problem { pointer: format!("/scope/connections/{index}"), detail });
        }
    }
    let named = terms.scope.environments.iter().flatten().enumerate();
    let named = named.map(|(index, name)| (format!("/scope/environments/{index}"), name));
    let own = terms.environment.iter().map(|name| ("/environment".to_owned(), name));
    let held = |name| {
        before.is_some_and(|before| {
            before.environment.as_ref() == Some(name)
                || before.scope.environments.iter().flatten().any(|had| had == name)
        })
    };
    let new: Vec<_> = named.chain(own).filter(|(_, name)| !held(name)).collect();
    if !new.is_empty() {
        let known = control.vault.database()?.environment_list(actor.organization).await?;
        for (pointer, name) in new {
            if !known.iter().any(|known| known.name == *name) {
                problems.push(Problem { pointer, detail: "there is no such environment".to_owned() });
            }
        }
    }
    Ok(problems)
}

async fn find(control: &Control, actor: &Actor, id: ApiKeyId) -> Result<ApiKey, AdminError> {
    let found = control.vault.database()?.api_key(actor.organization, id).await?;
    found.ok_or(AdminError::NotFound("API key"))
}

fn parse(named: &str) -> Result<ApiKeyId, AdminError> {
    named.parse().map_err(|_| AdminError::NotFound("API key"))
}

#[expect(clippy::disallowed_methods, reason = "a new key is exposed in the one answer that shows it")]
fn shown(key: ApiKey, text: &secrecy::SecretString) -> Shown {
    Shown { view: key.into(), key: text.expose_secret().to_owned() }
}

fn invalid(pointer: &str, detail: &str) -> AdminError {
    AdminError::Invalid(vec![Problem { pointer: pointer.to_owned(), detail: detail.to_owned() }])
}
