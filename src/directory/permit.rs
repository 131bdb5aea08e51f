//! Permits: the proof that a caller may use a connection for a request, and where that request goes.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Method;

use super::caller::Caller;
use super::rate::{Allowance, Counted, Exceeded, Limiter, count};
use super::route::Route;
use super::table::Shown;
use crate::model::name::EnvironmentName;
use crate::model::origin::{Origin, Scheme};

/// Proof that this caller may use this connection for this request. Made by [`Route::admit`] and nowhere else, not
/// `Clone`, and spent when the credential is applied.
#[derive(Debug)]
pub struct Permit {
    admission: Admission,
    /// Whether the base path stands in front of the request's own path.
    below_base: bool,
    /// That it was counted by every limit that holds for it.
    counted: Counted,
    /// Whose key's limits were among them.
    shown: Option<Rc<Shown>>,
}

/// To what a request was admitted: all that is left to tell of a permit once it is spent.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The connection's route.
    pub route: Arc<Route>,
    /// The environment of the credential.
    pub environment: EnvironmentName,
    /// Which of the route's origins the request goes to.
    origin: usize,
}

impl Admission {
    /// Where the request goes: one of the route's origins.
    pub fn origin(&self) -> &Origin {
        &self.route.origins[self.origin]
    }

    /// Host and port of it, as they are logged.
    pub fn authority(&self) -> &str {
        self.route.authority(self.origin)
    }
}

/// What would become of a request; see [`Route::preview`].
#[derive(Debug)]
pub struct Preview {
    /// To what it would be admitted.
    pub admission: Admission,
    /// Whether the base path stands in front of the request's own path.
    pub below_base: bool,
    /// How each limit that holds for it stands.
    pub allowances: Vec<Allowance>,
}

impl Preview {
    /// The limit that would refuse it now: the one that does so for longest.
    pub fn exceeded(&self) -> Option<Exceeded> {
        self.allowances.iter().filter_map(Allowance::exceeded).max_by_key(|exceeded| exceeded.wait)
    }
}

/// Where a request wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Below the connection's base URL.
    Base,
    /// To one of its other origins, the path as given (`Sidekey-Upstream`).
    Origin(Origin),
    /// To an origin a forward-proxy client wrote. It cannot write `https` there, so `http` means https where that is
    /// allowed.
    Forward {
        /// What was written, with the port that its scheme implies.
        origin: Origin,
    },
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The connection is not in the caller's scope; the answer is that of a connection that does not exist.
    #[error("the connection is not in the caller's scope")]
    OutOfScope,
    /// The origin is none of the connection's.
    #[error("the credential of this connection may not go to that host")]
    Host,
    /// The credential is a part of the base path, and the request brings a path of its own.
    #[error("this connection's credential is part of the base path; use /c/<connection>/… or the header instead")]
    PathCredential,
    /// The caller's rules do not let this method or path pass.
    #[error("the key's rules do not allow this method or path")]
    Rule,
    /// A limit was reached.
    #[error("more requests than {} allows", .0.holder.in_words())]
    Limited(Exceeded),
}

/// What a request wants to do with a connection.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Whose credential.
    pub environment: EnvironmentName,
    /// Where it goes.
    pub aim: Aim,
    /// Its method.
    pub method: &'a Method,
    /// Its path and query, as they came.
    pub rest: &'a str,
    /// Whether it asks its upstream to take it for a request of another method or path.
    pub is_disguised: bool,
}

impl Route {
    /// Decides whether a caller may send this request over this connection, the limits last. Does not wait.
    ///
    /// `overtaken` is what the same request was permitted before a change overtook it: no limit is spent twice. `now` is
    /// this moment, or one so short before that nothing was waited for in between.
    pub fn admit(
        self: &Arc<Self>,
        caller: &Caller<'_>,
        wanted: Wanted<'_>,
        now: Instant,
        overtaken: Option<Permit>,
    ) -> Result<Permit, Denied> {
        let (origin, below_base) = self.judge(caller, &wanted)?;
        let counted = self.count(caller, now, overtaken)?;
        let admission = Admission { route: Arc::clone(self), environment: wanted.environment, origin };
        Ok(Permit { admission, below_base, counted, shown: caller.shown().cloned() })
    }

    /// What [`admit`](Self::admit) would say, without counting anything and without a permit.
    pub fn preview(self: &Arc<Self>, caller: &Caller<'_>, wanted: Wanted<'_>, now: Instant) -> Result<Preview, Denied> {
        let (origin, below_base) = self.judge(caller, &wanted)?;
        let limiters = caller.limiters().iter().chain(&*self.limiters);
        let allowances = limiters.map(|limiter| limiter.allowance(now)).collect();
        let admission = Admission { route: Arc::clone(self), environment: wanted.environment, origin };
        Ok(Preview { admission, below_base, allowances })
    }

    /// Everything that can refuse a request but its limits: which of the origins it goes to, and whether below the base
    /// path.
    fn judge(&self, caller: &Caller<'_>, wanted: &Wanted<'_>) -> Result<(usize, bool), Denied> {
        // What most callers may use is everything, which needs no look at the connection.
        let covered = !self.is_reserved && caller.covers_all() || caller.covers(&self.connection);
        if !covered {
            return Err(Denied::OutOfScope);
        }
        let origin = match &wanted.aim {
            Aim::Base => 0,
            Aim::Origin(origin) => self.allowed(origin).ok_or(Denied::Host)?,
            Aim::Forward { origin } => {
                let upgraded = (origin.scheme == Scheme::Http).then(|| upgrade(origin));
                let found = upgraded.and_then(|origin| self.allowed(&origin)).or_else(|| self.allowed(origin));
                found.ok_or(Denied::Host)?
            }
        };
        let below_base = wanted.aim == Aim::Base;
        if !below_base && self.base.path().contains('{') {
            return Err(Denied::PathCredential);
        }
        if caller.has_rules() && (wanted.is_disguised || !caller.allows(wanted.method, &self.path_judged(wanted))) {
            return Err(Denied::Rule);
        }
        Ok((origin, below_base))
    }

    /// The path that a caller's rules judge: as it goes to the upstream, with a placeholder in the place of a credential
    /// that is a part of it.
    pub fn path_judged<'w>(&self, wanted: &Wanted<'w>) -> Cow<'w, str> {
        let end = memchr::memchr(b'?', wanted.rest.as_bytes()).unwrap_or(wanted.rest.len());
        let path = &wanted.rest[..end];
        let base = if wanted.aim == Aim::Base { self.base.path() } else { "" };
        match (base, path) {
            ("", "") => Cow::Borrowed("/"),
            ("", path) => Cow::Borrowed(path),
            (base, path) => Cow::Owned(format!("{base}{path}")),
        }
    }

    /// Counts a request that everything else lets pass. What was counted before a change is given back first: the name
    /// may mean another connection now.
    fn count(&self, caller: &Caller<'_>, now: Instant, overtaken: Option<Permit>) -> Result<Counted, Denied> {
        if let Some(Permit { admission, counted, shown, .. }) = overtaken {
            let of_key: &[Limiter] = shown.as_ref().map_or(&[], |shown| &shown.limiters);
            counted.refund(of_key.iter().chain(&*admission.route.limiters));
        }
        let limiters = [caller.limiters(), &*self.limiters];
        // One that began later may have been counted before this one: what is not there for `now` may be there by now.
        count(limiters, now).or_else(|_| count(limiters, Instant::now())).map_err(Denied::Limited)
    }

    /// Which of its origins this one is, if it is one. The base URL's is the first.
    fn allowed(&self, origin: &Origin) -> Option<usize> {
        self.origins.iter().position(|allowed| allowed == origin)
    }
}

/// What a plain origin means over https: port 80 is 443, any other stays.
fn upgrade(origin: &Origin) -> Origin {
    let port = if origin.port == Scheme::Http.default_port() { Scheme::Https.default_port() } else { origin.port };
    Origin { scheme: Scheme::Https, host: origin.host.clone(), port }
}

impl Permit {
    /// The connection.
    pub fn route(&self) -> &Arc<Route> {
        &self.admission.route
    }

    /// Whose credential is used.
    pub fn environment(&self) -> &EnvironmentName {
        &self.admission.environment
    }

    /// Whether the base path stands in front of the request's own path.
    pub fn is_below_base(&self) -> bool {
        self.below_base
    }

    /// To what the request is admitted.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Gives the permit up: what it admitted to is all that is left.
    pub fn spend(self) -> Admission {
        self.admission
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rate::{Quota, Rates};
    use super::super::scope::Scope;
    use super::*;
    use crate::model::connection::ConnectionDraft;
    use crate::model::document::{Problems, Reader};
    use crate::model::id::{ConnectionId, IntegrationId, OrganizationId};
    use crate::model::integration::{Integration, Limit};

    /// A limited connection, with its limiter.
    fn limited(per_second: u32, burst: u32) -> Route {
        let mut route = Arc::into_inner(route()).unwrap();
        let quota = Quota::new(Limit { per_second, burst });
        route.limiters = [Rates::default().limiter(route.connection.id, quota)].into();
        route
    }

    fn wanted(aim: Aim) -> Wanted<'static> {
        let environment = "production".parse().unwrap();
        Wanted { environment, aim, method: &Method::GET, rest: "", is_disguised: false }
    }

    fn ask(route: &Arc<Route>, connections: &str, overtaken: Option<Permit>) -> Result<Permit, Denied> {
        route.admit(&Caller::of(&scope(connections)), wanted(Aim::Base), Instant::now(), overtaken)
    }

    #[test]
    fn the_limit_comes_last_so_that_nobody_else_can_use_it_up() {
        let route = Arc::new(limited(1, 1));
        for _ in 0..3 {
            assert_eq!(ask(&route, "other-*", None).unwrap_err(), Denied::OutOfScope);
            let elsewhere = Aim::Origin(Origin::parse("evil.test").unwrap());
            let denied = route.admit(&Caller::of(&scope("*")), wanted(elsewhere), Instant::now(), None);
            assert_eq!(denied.unwrap_err(), Denied::Host);
        }
        assert!(ask(&route, "*", None).is_ok());
        assert!(matches!(ask(&route, "*", None), Err(Denied::Limited(_))));
    }

    #[test]
    fn a_request_that_began_before_another_one_and_is_counted_after_it_finds_what_is_left() {
        let (route, began) = (Arc::new(limited(1, 2)), Instant::now().checked_sub(Duration::from_millis(100)).unwrap());
        assert!(ask(&route, "*", None).is_ok());
        assert!(route.admit(&Caller::of(&scope("*")), wanted(Aim::Base), began, None).is_ok());
        assert!(matches!(ask(&route, "*", None), Err(Denied::Limited(_))));
    }

    #[test]
    fn a_request_that_a_change_overtook_is_counted_once() {
        let route = Arc::new(limited(1, 2));
        let mut overtaken = None;
        for _ in 0..4 {
            overtaken = Some(ask(&route, "*", overtaken).unwrap());
        }
        let (other, _second) = (Arc::new(limited(1, 1)), ask(&route, "*", None).unwrap());
        assert!(matches!(ask(&route, "*", None), Err(Denied::Limited(_))));
        // The name means another connection now: that one's limit counts, and the first one's does not.
        let moved = ask(&other, "*", overtaken).unwrap();
        assert!(matches!(ask(&other, "*", None), Err(Denied::Limited(_))));
        assert!(ask(&route, "*", None).is_ok());
        drop(moved);
    }

    /// A connection to `https://api.example.test/v1`, `https://files.example.test:8443` and `http://plain.example.test`.
    fn route() -> Arc<Route> {
        let document = serde_json::json!({
            "slug": "api", "base_url": "https://api.example.test/v1", "plaintext": true,
            "hosts": ["files.example.test:8443", "http://plain.example.test"],
            "auth": [{ "method": "none", "type": "none" }],
        });
        let integration = Integration::parse(&document, IntegrationId::generate()).unwrap();
        let problems = Problems::default();
        let draft = serde_json::json!({ "key": "api", "integration": "api" });
        let draft = ConnectionDraft::read(&Reader::new(&draft, "", &problems).unwrap()).unwrap();
        let connection = draft.into_connection(ConnectionId::generate(), OrganizationId::generate());
        Arc::new(Route::new(Arc::new(connection), Arc::new(integration)).unwrap())
    }

    fn scope(connections: &str) -> Scope {
        let production: EnvironmentName = "production".parse().unwrap();
        Scope {
            organization: OrganizationId::generate(),
            environment: production.clone(),
            environments: vec![production],
            connections: vec![connections.parse().unwrap()],
            customers: Vec::new(),
            connection: None,
            owner: None,
        }
    }

    fn admitted(aim: &Aim) -> Result<String, Denied> {
        let permit = route().admit(&Caller::of(&scope("*")), wanted(aim.clone()), Instant::now(), None)?;
        Ok(permit.admission().origin().to_string())
    }

    fn forward(origin: &str) -> Result<String, Denied> {
        admitted(&Aim::Forward { origin: Origin::parse(origin).unwrap() })
    }

    #[test]
    fn a_plain_url_means_https_where_that_is_allowed() {
        assert_eq!(forward("http://api.example.test").unwrap(), "https://api.example.test");
        assert_eq!(forward("http://files.example.test:8443").unwrap(), "https://files.example.test:8443");
        assert_eq!(forward("http://plain.example.test").unwrap(), "http://plain.example.test");
        assert_eq!(forward("https://plain.example.test").unwrap_err(), Denied::Host);
        assert_eq!(forward("http://files.example.test").unwrap_err(), Denied::Host);
    }

    #[test]
    fn a_connection_outside_the_scope_is_denied_first() {
        let aim = Aim::Origin(Origin::parse("evil.test").unwrap());
        let denied = route().admit(&Caller::of(&scope("other-*")), wanted(aim), Instant::now(), None);
        assert_eq!(denied.unwrap_err(), Denied::OutOfScope);
    }

    proptest::proptest! {
        #[test]
        fn no_text_leads_a_credential_to_another_host(
            text in "(https?://)?([a-z.]{0,12}(api|files|plain)\\.example\\.test[a-z.@/#?%\\\\]{0,6}(:[0-9]{1,5})?|\\PC{1,24})"
        ) {
            let allowed = ["https://api.example.test", "https://files.example.test:8443", "http://plain.example.test"];
            if let Ok(origin) = Origin::parse(&text) {
                for aim in [Aim::Origin(origin.clone()), Aim::Forward { origin }] {
                    if let Ok(admitted) = admitted(&aim) {
                        proptest::prop_assert!(allowed.contains(&admitted.as_str()), "{} led to {}", text, admitted);
                    }
                }
            }
        }
    }
}
