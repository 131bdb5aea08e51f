//! API keys: who holds one may do what its roles say, and may use on the proxy port what its scope says.
//!
//! A key is `apk_` + id + `_` + 43 base62 characters. Only the vault ever sees the whole of it; here are the facts.

use std::num::NonZeroU32;

use serde::Serialize;

use super::document::Reader;
use super::glob::Glob;
use super::id::{ApiKeyId, OrganizationId, UserId};
use super::moment::Moment;
use super::name::{EnvironmentName, NameError};
use super::path::PathPattern;
use super::role::{Role, Roles};

/// The most entries of each list of a scope.
const MOST: usize = 256;
/// The most requests that a limit may name: as many as a clock of nanoseconds can tell apart.
const LARGEST_LIMIT: u32 = 100_000_000;

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// It may.
    Active,
    /// It may not, until it is resumed.
    Suspended,
    /// It may not, for ever.
    Revoked,
}

impl KeyStatus {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyStatus::Active => "active",
            KeyStatus::Suspended => "suspended",
            KeyStatus::Revoked => "revoked",
        }
    }
}

impl std::str::FromStr for KeyStatus {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let all = [KeyStatus::Active, KeyStatus::Suspended, KeyStatus::Revoked];
        all.into_iter().find(|status| status.as_str() == text).ok_or(NameError("no status of a key"))
    }
}

/// How many requests may be made: so many at once, and then one each time that the minute or hour has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestLimits {
    /// In a minute.
    pub per_minute: Option<NonZeroU32>,
    /// In an hour.
    pub per_hour: Option<NonZeroU32>,
}

impl RequestLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        self.per_minute.is_none() && self.per_hour.is_none()
    }

    /// Reads `per_minute` and `per_hour`; what is absent is not limited.
    pub fn read(reader: &Reader<'_>) -> Self {
        RequestLimits::default().amended(reader)
    }

    /// These as a document changes them: what it does not say stays, `null` takes a limit away.
    pub fn amended(&self, reader: &Reader<'_>) -> Self {
        let number = |key| {
            let number = reader.number(key, 1..=LARGEST_LIMIT.into())?;
            u32::try_from(number).ok().and_then(NonZeroU32::new)
        };
        RequestLimits {
            per_minute: amended(reader, "per_minute", self.per_minute, number),
            per_hour: amended(reader, "per_hour", self.per_hour, number),
        }
    }

    /// Which of these are above a ceiling, each with it.
    pub fn above(&self, ceiling: &RequestLimits) -> Vec<(&'static str, NonZeroU32)> {
        let pairs =
            [("per_minute", self.per_minute, ceiling.per_minute), ("per_hour", self.per_hour, ceiling.per_hour)];
        pairs
            .into_iter()
            .filter_map(|(name, own, top)| top.filter(|top| own > Some(*top)).map(|top| (name, top)))
            .collect()
    }

    /// Whether these let through no more than others: a limit that the others have is there, and no larger.
    pub fn within(&self, others: &RequestLimits) -> bool {
        let fits = |own: Option<NonZeroU32>, other: Option<NonZeroU32>| {
            other.is_none_or(|other| own.is_some_and(|own| own <= other))
        };
        fits(self.per_minute, others.per_minute) && fits(self.per_hour, others.per_hour)
    }
}

/// What a key may be used for on the proxy port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyScope {
    /// Ids, keys or globs; `*` is every one that is not personal.
    pub connections: Vec<Glob>,
    /// Methods as they stand in requests; `None` is every one.
    pub methods: Option<Vec<MethodName>>,
    /// Paths of upstreams, base path included; `None` is every one.
    pub paths: Option<Vec<PathPattern>>,
    /// What a request may name; `None` is the key's own environment, else the listener's.
    pub environments: Option<Vec<EnvironmentName>>,
    /// The customers a request may name: names or globs.
    pub customers: Vec<Glob>,
    /// Whether a request may ask what would become of it instead of being sent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub explain: bool,
}

impl Default for KeyScope {
    /// Every connection that is no customer's, in one environment.
    fn default() -> Self {
        KeyScope {
            connections: vec![Glob::everything()],
            methods: None,
            paths: None,
            environments: None,
            customers: Vec::new(),
            explain: false,
        }
    }
}

impl KeyScope {
    /// Reads a scope; what is absent is as in [`KeyScope::default`].
    pub fn read(reader: &Reader<'_>) -> Self {
        KeyScope::default().amended(reader)
    }

    /// This one as a document changes it: what it does not say stays, `null` makes it as in [`KeyScope::default`].
    pub fn amended(self, reader: &Reader<'_>) -> Self {
        for list in ["connections", "methods", "paths", "environments", "customers"] {
            if reader.value(list).and_then(serde_json::Value::as_array).is_some_and(|items| items.len() > MOST) {
                reader.problem(list, format!("expected at most {MOST} entries"));
            }
        }
        let absent = KeyScope::default();
        KeyScope {
            connections: amended(reader, "connections", self.connections, |key| {
                if reader.has(key) { reader.parsed_list(key) } else { absent.connections }
            }),
            methods: amended(reader, "methods", self.methods, |key| reader.has(key).then(|| reader.parsed_list(key))),
            paths: amended(reader, "paths", self.paths, |key| reader.has(key).then(|| reader.parsed_list(key))),
            environments: amended(reader, "environments", self.environments, |key| {
                reader.has(key).then(|| reader.parsed_list(key))
            }),
            customers: amended(reader, "customers", self.customers, |key| reader.parsed_list(key)),
            explain: amended(reader, "explain", self.explain, |key| reader.flag(key).unwrap_or(false)),
        }
    }

    /// Whether everything that this allows another one allows too. `false` may also mean that it cannot be told.
    pub fn within(&self, other: &KeyScope) -> bool {
        all_in(&self.connections, &other.connections, Glob::contains_connections_of)
            && all_in(&self.customers, &other.customers, Glob::contains)
            && narrowed(self.methods.as_deref(), other.methods.as_deref(), |own, other| own == other)
            && narrowed(self.paths.as_deref(), other.paths.as_deref(), PathPattern::contains)
            && (other.explain || !self.explain)
    }
}

/// What a document says of a key, `null` included, else what was.
fn amended<T>(reader: &Reader<'_>, key: &'static str, before: T, read: impl FnOnce(&'static str) -> T) -> T {
    if reader.says(key) { read(key) } else { before }
}

/// The roles that a document names: at least one.
fn roles(reader: &Reader<'_>) -> Roles {
    let roles: Vec<Role> = reader.parsed_list("roles");
    if roles.is_empty() {
        reader.problem("roles", "expected at least one role");
    }
    roles.into_iter().collect()
}

/// What was read of a table, of which nothing else is to be asked.
fn finished<T>(read: T, table: Reader<'_>) -> T {
    table.finish();
    read
}

/// Whether each of `own` is in one of `others`.
fn all_in<T>(own: &[T], others: &[T], contains: impl Fn(&T, &T) -> bool) -> bool {
    own.iter().all(|own| others.iter().any(|other| contains(other, own)))
}

/// The same where `None` is everything.
fn narrowed<T>(own: Option<&[T]>, others: Option<&[T]>, contains: impl Fn(&T, &T) -> bool) -> bool {
    match (own, others) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(own), Some(others)) => all_in(own, others, contains),
    }
}

/// A method as it stands in requests: a token, which is case-sensitive (RFC 9110 §9.1). In lower case nobody would ever
/// send it, so that is told and not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MethodName(Box<str>);

impl MethodName {
    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for MethodName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_method =
            (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if is_method {
            Ok(MethodName(text.into()))
        } else {
            Err(NameError("a method is written in capitals, such as GET"))
        }
    }
}

/// What may be changed of a key while it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTerms {
    /// As a person reads it.
    pub name: String,
    /// What its holder may do.
    pub roles: Roles,
    /// How many requests may be made with it.
    pub limits: RequestLimits,
    /// The environment that is meant where a request names none.
    pub environment: Option<EnvironmentName>,
    /// What it may be used for on the proxy port.
    pub scope: KeyScope,
    /// The user whose personal connections it may use.
    pub owner: Option<UserId>,
    /// After this it is of no use.
    pub expires_at: Option<Moment>,
}

impl KeyTerms {
    /// Reads them; what is absent is nothing, but for a scope, which is everybody's, and for roles.
    pub fn read(reader: &Reader<'_>) -> Option<Self> {
        let absent = KeyTerms {
            name: String::new(),
            roles: [Role::Caller].into_iter().collect(),
            limits: RequestLimits::default(),
            environment: None,
            scope: KeyScope::default(),
            owner: None,
            expires_at: None,
        };
        absent.amended(reader)
    }

    /// These as a document changes them: what it does not say stays, so that nothing is widened by leaving it out;
    /// `null` takes it away. The name is always said.
    pub fn amended(self, reader: &Reader<'_>) -> Option<Self> {
        reader.demand("name");
        let name = reader.label("name", 200).map(str::to_owned);
        if name.as_ref().is_some_and(String::is_empty) {
            reader.problem("name", "expected a name");
        }
        let roles = if reader.has("roles") { roles(reader) } else { self.roles };
        let limits = amended(reader, "limits", self.limits, |key| {
            let within = |table: Reader<'_>| finished(self.limits.amended(&table), table);
            reader.table(key).map(within).unwrap_or_default()
        });
        let scope = if reader.says("scope") {
            let within = |table: Reader<'_>| finished(self.scope.amended(&table), table);
            reader.table("scope").map(within).unwrap_or_default()
        } else {
            self.scope
        };
        Some(KeyTerms {
            name: name?,
            roles,
            limits,
            environment: amended(reader, "environment", self.environment, |key| reader.parsed(key)),
            scope,
            owner: amended(reader, "owner", self.owner, |key| reader.parsed(key)),
            expires_at: amended(reader, "expires_at", self.expires_at, |key| reader.parsed(key)),
        })
    }

    /// The environments that a request may name with the key, where it names them at all; else it is the listener's.
    pub fn environments(&self) -> Option<&[EnvironmentName]> {
        self.scope.environments.as_deref().or_else(|| self.environment.as_ref().map(std::slice::from_ref))
    }

    /// Whether there is anything that its holder may not do with it and would do in another way: it has a limit, an
    /// environment, an end or a scope. That it names no customers bounds nobody: it is so where nothing is said.
    pub fn is_bounded(&self) -> bool {
        let KeyScope { connections, methods, paths, environments, .. } = &self.scope;
        let is_wide = connections.iter().any(Glob::is_everything) && methods.is_none() && paths.is_none();
        !is_wide
            || environments.is_some()
            || self.environment.is_some()
            || !self.limits.is_none()
            || self.expires_at.is_some()
    }

    /// Whether whoever has other terms may give these: no role, scope, limit or lifetime that those do not have. A key
    /// that is no caller's, and whose scope nobody has narrowed, has no scope to keep to.
    pub fn within(&self, others: &KeyTerms) -> bool {
        let is_bound = others.roles.has(Role::Caller) || others.scope != KeyScope::default();
        others.roles.cover(self.roles)
            && self.limits.within(&others.limits)
            && (!is_bound || self.scope.within(&others.scope))
            && narrowed(self.environments(), others.environments(), |own, other| own == other)
            && others.expires_at.is_none_or(|end| self.expires_at.is_some_and(|own| own <= end))
            && (self.owner.is_none() || self.owner == others.owner || (others.owner.is_none() && !others.is_bounded()))
    }
}

/// An API key as far as anybody may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public part.
    pub id: ApiKeyId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Whether it may be used.
    pub status: KeyStatus,
    /// What it may be used for.
    pub terms: KeyTerms,
    /// When it was made.
    pub created_at: Moment,
    /// When its secret was replaced last.
    pub rotated_at: Option<Moment>,
    /// When it was used last, to about ten seconds.
    pub last_used_at: Option<Moment>,
}

impl ApiKey {
    /// Whether it may be used at a moment.
    pub fn is_valid(&self, now: Moment) -> bool {
        self.status == KeyStatus::Active && self.terms.expires_at.is_none_or(|end| now < end)
    }
}
