//! The gate: who may ask at a listener.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HOST, HeaderName, ORIGIN};

use super::error::ProxyError;
use super::tag::Tag;
use super::target::Form;
use crate::directory::scope::Scope;
use crate::model::origin::{Host, Origin, Scheme};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a listener asks of its callers.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Whether callers show a key.
    pub trust: Trust,
    /// The bounds of a caller without one.
    pub scope: Scope,
    /// Whether web pages must be kept out: on TCP listeners that trust their network.
    pub keeps_browsers_out: bool,
    /// Host values that are ours beside IP literals and `localhost`.
    pub host_names: Vec<String>,
    /// Web origins that may ask all the same.
    pub allow_origins: Vec<String>,
}

/// Why callers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// They are on a network, or hold a socket, that only callers of this scope can reach.
    Local,
    /// They show an API key.
    Key,
}

impl Gate {
    /// Keeps web pages out. `authority` is what HTTP/2 has in the place of `Host`.
    pub fn check_browser(&self, headers: &HeaderMap, authority: Option<&str>, form: &Form) -> Result<(), ProxyError> {
        if !self.keeps_browsers_out {
            return Ok(());
        }
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let allowed = |origin: &str| self.allow_origins.iter().any(|allowed| allowed == origin);
        let from_page = match text(&ORIGIN) {
            Some(origin) => !allowed(origin) || headers.get_all(ORIGIN).iter().count() > 1,
            // Not one line that says otherwise, wherever it stands.
            None => headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "none"),
        };
        let host = authority.or_else(|| text(&HOST));
        // A name that an attacker made resolve to us (DNS rebinding) still stands in Host.
        let foreign_host = *form == Form::Origin && host.is_some_and(|host| !self.is_own_host(host));
        if from_page || foreign_host { Err(ProxyError::BrowserRequest) } else { Ok(()) }
    }

    fn is_own_host(&self, host: &str) -> bool {
        match Origin::from_authority(Scheme::Http, host).map(|origin| origin.host) {
            Ok(Host::Address(IpAddr::V4(_) | IpAddr::V6(_))) => true,
            Ok(Host::Name(name)) => {
                *name == *"localhost" || self.host_names.iter().any(|own| own.eq_ignore_ascii_case(&name))
            }
            Err(_) => false,
        }
    }

    /// Who asks. No API keys exist yet, so a key that is shown is unknown, wherever it is shown.
    pub fn caller(&self, tag: &Tag) -> Result<&Scope, ProxyError> {
        match (tag.shows_key, self.trust) {
            (true, _) => Err(ProxyError::KeyUnknown),
            (false, Trust::Key) => Err(ProxyError::KeyMissing),
            (false, Trust::Local) => Ok(&self.scope),
        }
    }
}
