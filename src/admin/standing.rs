//! How connections stand: for each environment whether its credential can be used, since when, and why not.
//!
//! A stored credential is opened for it, to see whether it opens and which hosts it is bound to: a status that says
//! `active` of what every request refuses would be worse than none. What a page of connections needs is read at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::Control;
use super::error::AdminError;
use crate::credentials::injection::referenced_secrets;
use crate::directory::route::Route;
use crate::model::connection::Connection;
use crate::model::field::Field;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::integration::Integration;
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, FieldName, Key, SecretKey};
use crate::model::oauth::{ACCESS_TOKEN, Granted, REFRESH_TOKEN};
use crate::vault::Held;
use crate::vault::query::ConnectionFacts;

/// How a connection stands in one environment.
#[derive(Serialize, ToSchema)]
pub struct Standing {
    status: Status,
    /// Since when, where that is known.
    since: Option<Moment>,
    /// Each field of the auth method, and whether it is set.
    fields: BTreeMap<FieldName, bool>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// When it was used last; it is written now and then (`proxy.usage_interval`).
    last_used_at: Option<Moment>,
    /// When the credential ends to be of use, where that is known.
    expires_at: Option<Moment>,
    /// The tokens that an authorization server has given out for it, where one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    grant: Option<Grant>,
}

/// What is known of tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenGrant)]
struct Grant {
    /// What they may be used for, in the provider's words.
    scopes: Vec<String>,
    /// When they were given out.
    obtained_at: Moment,
    /// When the access token ends, where that is known; with a refresh token another one takes its place.
    expires_at: Option<Moment>,
}

impl From<&Granted> for Grant {
    fn from(granted: &Granted) -> Self {
        Grant {
            scopes: granted.scopes.clone(),
            obtained_at: Moment::from_milliseconds(granted.obtained_at),
            expires_at: granted.expires_at.map(Moment::from_milliseconds),
        }
    }
}

impl Standing {
    /// When the credential ends to be of use, where that is known.
    pub(super) fn expires_at(&self) -> Option<Moment> {
        self.expires_at
    }

    /// When it was used last.
    pub(super) fn last_used_at(&self) -> Option<Moment> {
        self.last_used_at
    }
}

/// Whether a credential can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Active,
    /// A field is not set yet.
    Incomplete,
    /// It must be entered again.
    Expired,
    /// It cannot be used, or was refused when it was used last.
    Error,
}

/// What a slug means, and since when it leads where it leads.
struct Slug {
    integration: Result<Arc<Integration>, String>,
    moved_at: Option<Moment>,
}

/// A credential, none, or why it cannot be read.
type Looked = Result<Option<Held>, String>;

/// Why a secret that a credential refers to cannot be used in an environment.
type Lacking = HashMap<(EnvironmentName, SecretKey), String>;

/// Everything that says how some connections of an organization stand.
pub(super) struct Board {
    environments: Vec<EnvironmentName>,
    slugs: HashMap<Key, Slug>,
    facts: HashMap<ConnectionId, ConnectionFacts>,
    credentials: HashMap<(ConnectionId, EnvironmentName), Looked>,
    lacking: Lacking,
}

impl Board {
    /// Reads what is known of connections.
    pub(super) async fn of(
        control: &Control,
        organization: OrganizationId,
        connections: &[Arc<Connection>],
    ) -> Result<Board, AdminError> {
        let database = control.vault.database()?;
        let ids: Vec<ConnectionId> = connections.iter().map(|connection| connection.id).collect();
        let mut board = Board {
            environments: database.environments(organization).await?,
            slugs: HashMap::new(),
            facts: database.connection_facts(organization, &ids).await?,
            credentials: HashMap::new(),
            lacking: HashMap::new(),
        };
        for (name, stored) in database.credentials(organization, &ids).await? {
            board.credentials.insert(name, stored.map(Held::from).map(Some).map_err(|error| error.to_string()));
        }
        let declared = control.vault.declared();
        for connection in connections {
            if !board.slugs.contains_key(&connection.integration) {
                let slug = slug(control, organization, &connection.integration).await?;
                board.slugs.insert(connection.integration.clone(), slug);
            }
            for environment in declared.environments(connection.id) {
                let held = control.vault.credential(connection, environment).await?;
                board.credentials.insert((connection.id, environment.clone()), Ok(held));
            }
        }
        board.lacking = lacking(control, organization, &board.credentials).await?;
        Ok(board)
    }

    /// The connection together with its integration, or why they do not hold together.
    pub(super) fn route(&self, connection: &Arc<Connection>) -> Result<Route, String> {
        let slug = &connection.integration;
        let missing = || format!("its integration {slug} does not exist");
        let integration = self.slugs.get(slug).ok_or_else(missing)?.integration.clone()?;
        Route::new(Arc::clone(connection), integration)
    }

    /// What is known of a connection beside what people wrote.
    pub(super) fn facts(&self, connection: ConnectionId) -> ConnectionFacts {
        self.facts.get(&connection).cloned().unwrap_or_default()
    }

    /// How a connection stands in each environment: those of the organization, and those that a file declares.
    pub(super) fn standings(&self, connection: &Arc<Connection>) -> BTreeMap<EnvironmentName, Standing> {
        let route = self.route(connection);
        let declared =
            self.credentials.keys().filter(|(id, _)| *id == connection.id).map(|(_, environment)| environment);
        let names = self.environments.iter().chain(declared);
        names.map(|name| (name.clone(), self.standing(connection, &route, name))).collect()
    }

    /// Why a secret that a credential refers to cannot be used, where one cannot.
    fn lacking_secret(&self, held: &Held, environment: &EnvironmentName) -> Option<&str> {
        if self.lacking.is_empty() {
            return None;
        }
        let keys = referenced_secrets(held.credential.fields().values());
        keys.into_iter().find_map(|key| self.lacking.get(&(environment.clone(), key))).map(String::as_str)
    }

    fn standing(
        &self,
        connection: &Connection,
        route: &Result<Route, String>,
        environment: &EnvironmentName,
    ) -> Standing {
        let nothing = ConnectionFacts::default();
        let facts = self.facts.get(&connection.id).unwrap_or(&nothing);
        let looked = self.credentials.get(&(connection.id, environment.clone())).unwrap_or(&Ok(None));
        let changed_at = facts.stored_at.map(|(_, changed)| Moment::from_milliseconds(changed));
        let moved_at = self.slugs.get(&connection.integration).and_then(|slug| slug.moved_at).max(changed_at);
        let used = facts.uses.get(environment);
        let mut standing = Standing {
            status: Status::Error,
            since: moved_at,
            fields: BTreeMap::new(),
            reason: None,
            last_used_at: used.map(|used| Moment::from_milliseconds(used.used_at)),
            expires_at: None,
            grant: None,
        };
        let (route, held) = match (route, looked) {
            (Ok(route), Ok(held)) => (route, held.as_ref()),
            (Err(why), _) | (_, Err(why)) => {
                standing.reason = Some(why.clone());
                return standing;
            }
        };
        let is_set = |field: &Field| held.is_some_and(|held| held.credential.fields().contains_key(&field.name));
        standing.fields = expected(route).map(|field| (field.name.clone(), is_set(field))).collect();
        let entered_at = facts.entries.get(environment).map(|entry| Moment::from_milliseconds(entry.entered_at));
        standing.expires_at = held.and_then(Held::ends_at).map(Moment::from_milliseconds);
        let granted = held.and_then(|held| held.granted.as_ref());
        standing.grant = granted.map(Grant::from);
        let bound = held.and_then(|held| held.origins.as_ref());
        let has_expired = standing.expires_at.filter(|at| *at <= Moment::now());
        let refused = used.and_then(|used| used.refused.as_ref());
        let moved = bound.is_some_and(|bound| route.bindings().iter().any(|binding| !bound.contains(binding)));
        let no_secret = || self.lacking_secret(held?, environment);
        let is_declared = facts.stored_at.is_none();
        let lacks = expected(route).any(|field| route.auth().needs(field, is_declared) && !is_set(field));
        let (status, since, reason) = if moved {
            let reason = "the hosts have changed since it was entered; enter it again";
            (Status::Expired, moved_at.max(entered_at), Some(reason.to_owned()))
        } else if lacks {
            (Status::Incomplete, incomplete_since(facts, environment, entered_at), None)
        } else if let Some(signed_out) = signed_out(route, held, entered_at) {
            signed_out
        } else if let Some(at) = has_expired {
            (Status::Expired, Some(at), Some("the credential has expired; enter it again".to_owned()))
        } else if let Some(why) = no_secret() {
            (Status::Error, None, Some(why.to_owned()))
        } else if let Some(refused) = refused {
            (Status::Error, Some(Moment::from_milliseconds(refused.since)), Some(refused.reason.clone()))
        } else {
            (Status::Active, entered_at, None)
        };
        (standing.status, standing.since, standing.reason) = (status, since, reason);
        standing
    }
}

/// Since it was entered, or removed, the later of them; without either since the connection was made.
fn incomplete_since(
    facts: &ConnectionFacts,
    environment: &EnvironmentName,
    entered_at: Option<Moment>,
) -> Option<Moment> {
    let removed_at = facts.removals.get(environment).map(|at| Moment::from_milliseconds(*at));
    let made_at = facts.stored_at.map(|(made, _)| Moment::from_milliseconds(made));
    entered_at.max(removed_at).or(made_at)
}

/// Looks up every secret that the credentials refer to, once in each environment.
async fn lacking(
    control: &Control,
    organization: OrganizationId,
    credentials: &HashMap<(ConnectionId, EnvironmentName), Looked>,
) -> Result<Lacking, AdminError> {
    let held = credentials.iter().filter_map(|((_, environment), looked)| {
        let held = looked.as_ref().ok()?.as_ref()?;
        Some((environment, referenced_secrets(held.credential.fields().values())))
    });
    let wanted: HashSet<(EnvironmentName, SecretKey)> =
        held.flat_map(|(environment, keys)| keys.into_iter().map(|key| (environment.clone(), key))).collect();
    let mut lacking = Lacking::new();
    for (environment, key) in wanted {
        let why = match control.vault.secret(organization, &key, &environment).await {
            Ok(Some(_)) => continue,
            Ok(None) => format!("the secret {key} has no value in {environment}"),
            Err(error) if error.is_corrupt() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        lacking.insert((environment, key), why);
    }
    Ok(lacking)
}

async fn slug(control: &Control, organization: OrganizationId, slug: &Key) -> Result<Slug, AdminError> {
    let integration = match control.vault.integration(organization, slug).await {
        Ok(Some(integration)) => Ok(integration),
        Ok(None) => Err(format!("its integration {slug} does not exist")),
        Err(error) if error.is_corrupt() => Err(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let moved_at = match control.vault.declared().moved_at(slug) {
        Some(moved_at) => Some(moved_at),
        None => {
            let facts = control.vault.database()?.integration_facts(organization, slug).await?;
            facts.map(|facts| Moment::from_milliseconds(facts.moved_at))
        }
    };
    Ok(Slug { integration, moved_at })
}

/// How a connection stands for which nobody is signed in at its provider, where somebody has to be.
fn signed_out(
    route: &Route,
    held: Option<&Held>,
    entered_at: Option<Moment>,
) -> Option<(Status, Option<Moment>, Option<String>)> {
    if let Some(Granted { obtained_at, refused: Some(code), .. }) = held.and_then(|held| held.granted.as_ref()) {
        let reason = format!("the provider does not take the sign-in any more ({code}); authorize it again");
        return Some((Status::Expired, Some(Moment::from_milliseconds(*obtained_at)), Some(reason)));
    }
    let mut set = held.into_iter().flat_map(|held| held.credential.fields().keys());
    let is_signed_in = set.any(|field| matches!(field.as_str(), ACCESS_TOKEN | REFRESH_TOKEN));
    let has_to_be = route.auth().oauth.as_ref().is_some_and(|oauth| oauth.is_signed_in());
    let reason = "nobody has signed in yet; authorize the connection";
    (has_to_be && !is_signed_in).then(|| (Status::Incomplete, entered_at, Some(reason.to_owned())))
}

/// The fields that a credential has.
pub(super) fn expected(route: &Route) -> impl Iterator<Item = &Field> {
    route.auth().credential_fields(&route.integration.fields)
}
