//! Which call needs which permission: every call of the API is a line of [`CALLS`].
//!
//! It is judged by the route that matched, before anything is looked up and before the body is read, so a refusal tells
//! nothing of what exists. A call that has no line is refused to everybody: a route that was forgotten here does not
//! work, instead of working for all.

use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use super::error::AdminError;
use crate::model::role::Permission;

/// The prefix under which the calls stand.
pub(super) const PREFIX: &str = "/api/v1";

/// A method, a route as the router knows it without `PREFIX`, and what it needs.
pub type Call = (Method, &'static str, Permission);

/// Every call that asks who is there.
pub const CALLS: &[Call] = &[
    (Method::GET, "/roles", Permission::ReadRoles),
    (Method::GET, "/organizations", Permission::ReadOrganizations),
    (Method::POST, "/organizations", Permission::ManageOrganizations),
    (Method::GET, "/organizations/{organization}", Permission::ReadOrganizations),
    (Method::PUT, "/organizations/{organization}", Permission::EditOrganization),
    (Method::DELETE, "/organizations/{organization}", Permission::ManageOrganizations),
    (Method::GET, "/users", Permission::ReadUsers),
    (Method::POST, "/users", Permission::ManageUsers),
    (Method::GET, "/users/{user}", Permission::ReadUsers),
    (Method::PUT, "/users/{user}", Permission::ManageUsers),
    (Method::DELETE, "/users/{user}", Permission::ManageUsers),
    (Method::PUT, "/users/{user}/roles", Permission::ManageUsers),
    (Method::POST, "/users/{user}/invite", Permission::ManageUsers),
    (Method::POST, "/users/{user}/disable", Permission::ManageUsers),
    (Method::POST, "/users/{user}/enable", Permission::ManageUsers),
    (Method::GET, "/users/{user}/sessions", Permission::ReadUsers),
    (Method::DELETE, "/users/{user}/sessions", Permission::ManageUsers),
    (Method::GET, "/sessions", Permission::ManageOwnSessions),
    (Method::DELETE, "/sessions/{session}", Permission::ManageOwnSessions),
    (Method::GET, "/me", Permission::ManageOwnSessions),
    (Method::PUT, "/me/password", Permission::ManageOwnSessions),
    (Method::GET, "/organizations/{organization}/limits", Permission::ReadOrganizations),
    (Method::PUT, "/organizations/{organization}/limits", Permission::ManageOrganizations),
    (Method::GET, "/environments", Permission::ReadEnvironments),
    (Method::POST, "/environments", Permission::ManageEnvironments),
    (Method::GET, "/environments/{environment}", Permission::ReadEnvironments),
    (Method::PUT, "/environments/{environment}", Permission::ManageEnvironments),
    (Method::DELETE, "/environments/{environment}", Permission::ManageEnvironments),
    (Method::GET, "/integrations", Permission::ReadIntegrations),
    (Method::POST, "/integrations", Permission::ManageIntegrations),
    (Method::GET, "/integrations/{slug}", Permission::ReadIntegrations),
    (Method::PUT, "/integrations/{slug}", Permission::ManageIntegrations),
    (Method::DELETE, "/integrations/{slug}", Permission::ManageIntegrations),
    (Method::GET, "/integrations/{slug}/versions", Permission::ReadIntegrations),
    (Method::GET, "/integrations/{slug}/versions/{number}", Permission::ReadIntegrations),
    (Method::GET, "/integrations/{slug}/values", Permission::ReadIntegrations),
    (Method::PUT, "/integrations/{slug}/values", Permission::ManageIntegrations),
    (Method::GET, "/connections", Permission::ReadConnections),
    (Method::POST, "/connections", Permission::ManageConnections),
    (Method::GET, "/connections/{connection}", Permission::ReadConnections),
    (Method::PUT, "/connections/{connection}", Permission::ManageConnections),
    (Method::DELETE, "/connections/{connection}", Permission::ManageConnections),
    (Method::GET, "/connections/{connection}/credentials/{environment}", Permission::ReadConnections),
    (Method::PUT, "/connections/{connection}/credentials/{environment}", Permission::ManageConnections),
    (Method::DELETE, "/connections/{connection}/credentials/{environment}", Permission::ManageConnections),
    (Method::POST, "/connections/{connection}/test", Permission::TestConnections),
    (Method::POST, "/connections/{connection}/explain", Permission::ExplainConnections),
    (Method::POST, "/connections/{connection}/authorize", Permission::ManageConnections),
    (Method::POST, "/connections/{connection}/revoke", Permission::ManageConnections),
    (Method::GET, "/secrets", Permission::ReadSecrets),
    (Method::POST, "/secrets", Permission::ManageSecrets),
    (Method::GET, "/secrets/{key}", Permission::ReadSecrets),
    (Method::PUT, "/secrets/{key}", Permission::ManageSecrets),
    (Method::DELETE, "/secrets/{key}", Permission::ManageSecrets),
    (Method::PUT, "/secrets/{key}/values/{environment}", Permission::ManageSecrets),
    (Method::DELETE, "/secrets/{key}/values/{environment}", Permission::ManageSecrets),
    (Method::GET, "/api-keys", Permission::ReadApiKeys),
    (Method::POST, "/api-keys", Permission::ManageApiKeys),
    (Method::GET, "/api-keys/{api_key}", Permission::ReadApiKeys),
    (Method::PUT, "/api-keys/{api_key}", Permission::ManageApiKeys),
    (Method::PUT, "/api-keys/{api_key}/limits", Permission::ManageApiKeys),
    (Method::PUT, "/api-keys/{api_key}/scope", Permission::ManageApiKeys),
    (Method::POST, "/api-keys/{api_key}/suspend", Permission::ManageApiKeys),
    (Method::POST, "/api-keys/{api_key}/resume", Permission::ManageApiKeys),
    (Method::POST, "/api-keys/{api_key}/revoke", Permission::ManageApiKeys),
    (Method::POST, "/api-keys/{api_key}/rotate", Permission::ManageApiKeys),
    (Method::GET, "/export", Permission::Export),
    (Method::POST, "/import", Permission::Import),
    (Method::GET, "/audit", Permission::ReadAudit),
    (Method::GET, "/audit/export", Permission::ReadAudit),
    (Method::GET, "/audit/verify", Permission::ReadAudit),
    (Method::GET, "/audit/usage", Permission::ReadAudit),
    (Method::GET, "/tap", Permission::Tap),
];

/// What a method on a matched route needs.
#[derive(Debug)]
pub(super) enum Needs {
    /// This.
    Permission(Permission),
    /// The route does not know the method; these are the ones that it knows.
    OtherMethod(String),
    /// Nobody has said: the route is not in the table.
    Unlisted,
}

/// What a call needs. `route` is as the router matched it.
pub(super) fn needs(method: &Method, route: &str) -> Needs {
    let route = route.strip_prefix(PREFIX).unwrap_or(route);
    // The router answers HEAD as it answers GET.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut known = Vec::new();
    for (of, _, permission) in CALLS.iter().filter(|(_, path, _)| *path == route) {
        if of == method {
            return Needs::Permission(*permission);
        }
        known.push(of.as_str());
        if of == Method::GET {
            known.push("HEAD");
        }
    }
    if known.is_empty() { Needs::Unlisted } else { Needs::OtherMethod(known.join(",")) }
}

/// The answer to a method that a route does not know.
pub(super) fn other_method(known: &str) -> Response {
    let mut response = AdminError::MethodNotAllowed.into_response();
    if let Ok(known) = HeaderValue::try_from(known) {
        response.headers_mut().insert(header::ALLOW, known);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_stands_there_once() {
        for (at, (method, route, _)) in CALLS.iter().enumerate() {
            let again = CALLS[at + 1..].iter().any(|(other, path, _)| (other, path) == (method, route));
            assert!(!again, "{method} {route} is there twice");
        }
    }

    #[test]
    fn what_is_not_listed_is_nobodys() {
        assert!(matches!(needs(&Method::GET, "/api/v1/nope"), Needs::Unlisted));
        assert!(matches!(needs(&Method::HEAD, "/api/v1/roles"), Needs::Permission(Permission::ReadRoles)));
        match needs(&Method::PATCH, "/api/v1/secrets") {
            Needs::OtherMethod(known) => assert_eq!(known, "GET,HEAD,POST"),
            other => panic!("{other:?}"),
        }
    }
}
