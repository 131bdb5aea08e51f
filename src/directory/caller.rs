//! Callers: the bounds of a listener, and within them those of the key that was shown there.

use std::rc::Rc;

use http::Method;

use super::rate::Limiter;
use super::scope::Scope;
use super::table::Shown;
use crate::model::api_key::{ApiKey, MethodName};
use crate::model::connection::Connection;
use crate::model::glob::Glob;
use crate::model::id::{OrganizationId, Reference};
use crate::model::name::{CustomerName, EnvironmentName};
use crate::model::path::{PathPattern, canonical};

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    listener: &'a Scope,
    shown: Option<Rc<Shown>>,
}

impl<'a> Caller<'a> {
    /// Whoever reaches a listener that trusts its network.
    pub fn of(listener: &'a Scope) -> Self {
        Caller { listener, shown: None }
    }

    /// Whoever shows a key at a listener.
    pub fn with_key(listener: &'a Scope, shown: Rc<Shown>) -> Self {
        Caller { listener, shown: Some(shown) }
    }

    /// The key that was shown.
    pub fn shown(&self) -> Option<&Rc<Shown>> {
        self.shown.as_ref()
    }

    fn key(&self) -> Option<&ApiKey> {
        self.shown.as_ref().map(|shown| &*shown.key)
    }

    /// The organization it acts for: its key's, else the listener's.
    pub fn organization(&self) -> OrganizationId {
        self.key().map_or(self.listener.organization, |key| key.organization)
    }

    /// The connection that is meant where a request names none.
    pub fn connection(&self) -> Option<Reference<'a>> {
        self.listener.connection.as_ref().map(Reference::from)
    }

    /// The environment of a request: the one it names, else the key's, else the listener's. `None` where it may not be
    /// used, by the one or by the other.
    pub fn environment(&self, named: Option<&EnvironmentName>) -> Option<EnvironmentName> {
        let Some(key) = self.key() else { return self.listener.environment(named) };
        let wanted = named.or(key.terms.environment.as_ref()).unwrap_or(&self.listener.environment);
        let of_key = key.terms.environments();
        let in_listener = match &*self.listener.environments {
            // The listener leaves it to the keys; one that names none has the listener's own.
            [] => of_key.is_some() || *wanted == self.listener.environment,
            environments => environments.contains(wanted),
        };
        (in_listener && of_key.is_none_or(|environments| environments.contains(wanted))).then(|| wanted.clone())
    }

    /// Whether a customer is inside.
    pub fn covers_customer(&self, customer: &CustomerName) -> bool {
        let of_key = |key: &ApiKey| key.terms.scope.customers.iter().any(|glob| glob.matches(customer.as_str()));
        self.listener.covers_customer(customer) && self.key().is_none_or(of_key)
    }

    /// Whether a connection is inside. A personal one is so for its owner only, whatever names it.
    pub(super) fn covers(&self, connection: &Connection) -> bool {
        let owner = || self.key().map_or(self.listener.owner, |key| key.terms.owner);
        if connection.keeper().is_some_and(|keeper| !keeper.is(owner())) {
            return false;
        }
        let in_key = |key: &ApiKey| connection.is_named_by(&key.terms.scope.connections);
        self.listener.covers(connection)
            && self.key().is_none_or(in_key)
            && connection.customer.as_ref().is_none_or(|customer| self.covers_customer(customer))
    }

    /// Whether every connection is inside that is no customer's and nobody's own.
    pub(super) fn covers_all(&self) -> bool {
        let in_key = |key: &ApiKey| key.terms.scope.connections.iter().any(Glob::is_everything);
        self.listener.covers_all() && self.key().is_none_or(in_key)
    }

    /// Whether it may ask what would become of a request: what its key says, else the listener's word.
    pub fn may_explain(&self, at_listener: bool) -> bool {
        self.key().map_or(at_listener, |key| key.terms.scope.explain)
    }

    /// Which rules cover a connection, in words; `None` where it is outside.
    pub fn covering_rule(&self, connection: &Connection) -> Option<String> {
        if !self.covers(connection) {
            return None;
        }
        let of_listener = first(&self.listener.connections, connection)?;
        let of_key = self.key().and_then(|key| first(&key.terms.scope.connections, connection));
        Some(match of_key {
            Some(of_key) if of_listener.is_everything() => format!("the key covers `{of_key}`"),
            Some(of_key) => format!("the key covers `{of_key}`, and the listener `{of_listener}`"),
            None => format!("the listener covers `{of_listener}`"),
        })
    }

    /// Why a connection is outside, in words: for who administers the key, and never for the caller.
    pub fn refusing_rule(&self, connection: &Connection) -> String {
        let owner = self.key().map_or(self.listener.owner, |key| key.terms.owner);
        if connection.keeper().is_some_and(|keeper| !keeper.is(owner)) {
            return "it is personal, and the key does not belong to its owner".to_owned();
        }
        let own = self.key().map_or(&self.listener.connections, |key| &key.terms.scope.connections);
        if !connection.is_named_by(own) {
            let all = own.iter().map(|glob| format!("`{glob}`")).collect::<Vec<_>>().join(", ");
            let all = if all.is_empty() { "none at all".to_owned() } else { all };
            return format!("the key's connections do not name it; they are {all}");
        }
        "its customer is not among those of the key".to_owned()
    }

    /// The environments that its key names, in words; `None` where it names none and has the listener's.
    pub fn environments_of_key(&self) -> Option<String> {
        let environments = self.key()?.terms.environments()?;
        Some(environments.iter().map(EnvironmentName::as_str).collect::<Vec<_>>().join(", "))
    }

    /// What each rule of its key says to a request; nothing where it has none. `path` is as in `allows`.
    pub fn rules(&self, method: &Method, path: &str) -> Vec<Ruling> {
        let Some(key) = self.key() else { return Vec::new() };
        let scope = &key.terms.scope;
        let mut rulings = Vec::new();
        if let Some(methods) = &scope.methods {
            let passed = methods.iter().any(|own| own.as_str() == method.as_str());
            let all = methods.iter().map(MethodName::as_str).collect::<Vec<_>>().join(", ");
            rulings.push(Ruling { about: "method", passed, text: format!("the key allows {all}") });
        }
        if let Some(paths) = &scope.paths {
            let canonical = canonical(path);
            let found = canonical.as_ref().and_then(|path| paths.iter().find(|pattern| pattern.matches(path)));
            let text = match (found, &canonical) {
                (Some(pattern), Some(path)) => format!("the key allows `{pattern}`, which `{path}` matches"),
                (_, Some(path)) => format!("none of the key's patterns matches `{path}`"),
                (_, None) => "the path can be read in more than one way, which no rule allows".to_owned(),
            };
            rulings.push(Ruling { about: "path", passed: found.is_some(), text });
        }
        rulings
    }

    /// The limits of its key.
    pub(super) fn limiters(&self) -> &[Limiter] {
        self.shown.as_ref().map_or(&[], |shown| &shown.limiters)
    }

    /// Whether a rule must judge what is asked for.
    pub fn has_rules(&self) -> bool {
        self.key().is_some_and(|key| key.terms.scope.methods.is_some() || key.terms.scope.paths.is_some())
    }

    /// Whether its rules let a request pass. `path` is the upstream's, as it goes on the wire, without its query.
    pub(super) fn allows(&self, method: &Method, path: &str) -> bool {
        let Some(key) = self.key() else { return true };
        let scope = &key.terms.scope;
        let by_method = |methods: &Vec<MethodName>| methods.iter().any(|own| own.as_str() == method.as_str());
        let by_path = |patterns: &Vec<PathPattern>| {
            canonical(path).is_some_and(|path| patterns.iter().any(|pattern| pattern.matches(&path)))
        };
        scope.methods.as_ref().is_none_or(by_method) && scope.paths.as_ref().is_none_or(by_path)
    }
}

/// What a rule says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// `key`, `method` or `path`.
    pub about: &'static str,
    /// Whether it lets the request pass.
    pub passed: bool,
    /// The rule, in words.
    pub text: String,
}

/// The first of these globs that names a connection.
fn first<'g>(globs: &'g [Glob], connection: &Connection) -> Option<&'g Glob> {
    globs.iter().find(|glob| connection.is_named_by(std::slice::from_ref(*glob)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::cache::Limits;
    use super::super::keys::Holder;
    use super::super::rate::Rates;
    use super::super::{Directory, Table};
    use super::*;
    use crate::model::api_key::{KeyScope, KeyStatus, KeyTerms, RequestLimits};
    use crate::model::connection::{ConnectionDraft, Sharing, Visibility};
    use crate::model::document::{Problems, Reader};
    use crate::model::id::{ApiKeyId, ConnectionId, UserId};
    use crate::model::moment::Moment;
    use crate::model::role::Role;
    use crate::vault::Vault;
    use crate::vault::api_key::LENGTH;
    use crate::vault::revision::Stamp;

    fn holder(owner: Option<UserId>, connections: &[&str]) -> Arc<Holder> {
        let scope = KeyScope {
            connections: connections.iter().map(|glob| glob.parse().unwrap()).collect(),
            ..KeyScope::default()
        };
        let terms = KeyTerms {
            name: "caller".to_owned(),
            roles: [Role::Caller].into_iter().collect(),
            limits: RequestLimits::default(),
            environment: None,
            scope,
            owner,
            expires_at: None,
        };
        let key = ApiKey {
            id: ApiKeyId::generate(),
            organization: OrganizationId::derived("default"),
            status: KeyStatus::Active,
            terms,
            created_at: Moment::now(),
            rotated_at: None,
            last_used_at: None,
        };
        Arc::new(Holder::new(Arc::new(key), &Rates::default(), Stamp::default()))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn table() -> Table<()> {
        let limits = Limits { entries: 10, time_to_live: MINUTE, time_to_idle: MINUTE };
        Directory::new(Vault::without_database(), limits, tokio::runtime::Handle::current()).table()
    }

    fn shown(owner: Option<UserId>, connections: &[&str]) -> Rc<Shown> {
        table().keys.insert(&[b'a'; LENGTH], holder(owner, connections), Instant::now() + MINUTE)
    }

    /// AK-02: a worker that has verified a key takes neither its secret with another id, nor its id with another secret.
    #[tokio::test]
    async fn a_verified_key_is_known_by_both_its_parts_ak_02() {
        let (vault, table, holder) = (Vault::without_database(), table(), holder(None, &["*"]));
        let text = |id: ApiKeyId, letter: &str| format!("{id}_{}", letter.repeat(43));
        let presented = text(holder.key.id, "s");
        let known = |text: &str| table.keys.get(text.as_bytes(), vault.revisions(), Instant::now()).is_some();
        assert!(!known(&presented));
        table.keys.insert(presented.as_bytes(), Arc::clone(&holder), Instant::now() + MINUTE);
        assert!(known(&presented));
        for other in [
            text(ApiKeyId::generate(), "s"),
            text(holder.key.id, "t"),
            format!("{presented}s"),
            presented.replace("_s", "-s"),
        ] {
            assert!(!known(&other), "{other}");
        }
    }

    fn listener(owner: Option<UserId>) -> Scope {
        Scope {
            organization: OrganizationId::derived("default"),
            environment: "production".parse().unwrap(),
            environments: Vec::new(),
            connections: vec![Glob::everything()],
            customers: Vec::new(),
            connection: None,
            owner,
        }
    }

    /// TN-06: whose a personal connection is says the key's owner, and no header.
    #[tokio::test]
    async fn a_personal_connection_is_its_owners_whatever_names_it_tn_06() {
        let (ada, bob) = (UserId::generate(), UserId::generate());
        let problems = Problems::default();
        let draft = serde_json::json!({ "key": "mine", "integration": "crm" });
        let draft = ConnectionDraft::read(&Reader::new(&draft, "", &problems).unwrap()).unwrap();
        let mut connection = draft.into_connection(ConnectionId::generate(), OrganizationId::derived("default"));
        connection.sharing = Sharing { visibility: Visibility::Personal, owner: Some(ada), ..Sharing::default() };
        let id = connection.id.to_string();
        let everything = ["*", "mine", &id];
        let listener = listener(None);
        let covers =
            |owner, connections: &[&str]| Caller::with_key(&listener, shown(owner, connections)).covers(&connection);
        assert!(covers(Some(ada), &everything));
        assert!(!covers(Some(ada), &["other"]), "the scope holds for the owner too");
        assert!(!covers(Some(bob), &everything));
        assert!(!covers(None, &everything));
        assert!(!Caller::of(&listener).covers(&connection));
        connection.sharing.owner = None;
        assert!(!Caller::with_key(&listener, shown(None, &everything)).covers(&connection), "nobody's is nobody's");
    }
}
