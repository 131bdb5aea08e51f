//! Permits: the proof that a caller may use a connection for a request, and where that request goes.

use std::sync::Arc;

use super::route::Route;
use super::scope::Scope;
use crate::model::name::EnvironmentName;
use crate::model::origin::{Origin, Scheme};

/// Proof that this caller may use this connection for this request. Made by [`Route::admit`] and nowhere else, not
/// `Clone`, and spent when the credential is applied.
#[derive(Debug)]
pub struct Permit {
    route: Arc<Route>,
    environment: EnvironmentName,
    target: Target,
}

/// Where a permitted request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// One of the route's origins.
    pub origin: Origin,
    /// Whether the base path stands in front of the request's own path.
    pub below_base: bool,
    /// Path and query of the request as they came: empty, or beginning with `/` or `?`.
    pub rest: String,
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
}

impl Route {
    /// Decides whether a caller may send this request over this connection. Does not wait.
    pub fn admit(
        self: &Arc<Self>,
        scope: &Scope,
        environment: EnvironmentName,
        aim: &Aim,
        rest: String,
    ) -> Result<Permit, Denied> {
        if !scope.covers(&self.connection) {
            return Err(Denied::OutOfScope);
        }
        let (origin, below_base) = match aim {
            Aim::Base => (self.base.origin().clone(), true),
            Aim::Origin(origin) => (self.allowed(origin).ok_or(Denied::Host)?, false),
            Aim::Forward { origin } => {
                let upgraded = (origin.scheme == Scheme::Http).then(|| upgrade(origin));
                let found = upgraded.and_then(|origin| self.allowed(&origin)).or_else(|| self.allowed(origin));
                (found.ok_or(Denied::Host)?, false)
            }
        };
        if !below_base && self.base.path().contains('{') {
            return Err(Denied::PathCredential);
        }
        let target = Target { origin, below_base, rest };
        Ok(Permit { route: Arc::clone(self), environment, target })
    }

    fn allowed(&self, origin: &Origin) -> Option<Origin> {
        self.origins.iter().find(|allowed| *allowed == origin).cloned()
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
        &self.route
    }

    /// Whose credential is used.
    pub fn environment(&self) -> &EnvironmentName {
        &self.environment
    }

    /// Where the request goes.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::connection::ConnectionDraft;
    use crate::model::document::{Problems, Reader};
    use crate::model::id::{ConnectionId, IntegrationId, OrganizationId};
    use crate::model::integration::Integration;

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
        }
    }

    fn admitted(aim: &Aim) -> Result<String, Denied> {
        let permit = route().admit(&scope("*"), "production".parse().unwrap(), aim, "/x".to_owned())?;
        Ok(permit.target().origin.to_string())
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
        let denied = route().admit(&scope("other-*"), "production".parse().unwrap(), &aim, String::new());
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
