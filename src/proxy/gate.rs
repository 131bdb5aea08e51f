//! The gate: who may ask at a listener.

use super::error::ProxyError;
use super::head::Named;
use super::tag::Tag;
use super::target::Form;
use crate::directory::scope::Scope;
use crate::model::header::Known;
use crate::model::origin::{HostText, OriginError};
use crate::wire::Fields;

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
    /// Keeps web pages out. `host` is the one that the request says it is for.
    pub fn check_browser(&self, fields: &Fields, host: Named<'_>, form: &Form) -> Result<(), ProxyError> {
        if !self.keeps_browsers_out {
            return Ok(());
        }
        let allowed = |origin: &[u8]| self.allow_origins.iter().any(|allowed| allowed.as_bytes() == origin);
        let mut origins = fields.values(Known::Origin);
        let from_page = match origins.next() {
            Some(origin) => !allowed(origin) || origins.next().is_some(),
            // Not one line that says otherwise, wherever it stands.
            None => fields.values(Known::FetchSite).any(|site| site != b"none"),
        };
        // A name that an attacker made resolve to us (DNS rebinding) still stands in Host.
        let foreign_host = *form == Form::Origin && host.is_some_and(|host| !self.is_own_host(host));
        if from_page || foreign_host { Err(ProxyError::BrowserRequest) } else { Ok(()) }
    }

    fn is_own_host(&self, host: Result<HostText<'_>, OriginError>) -> bool {
        match host {
            Ok(HostText::Address(_)) => true,
            Ok(HostText::Name(name)) => {
                name.eq_ignore_ascii_case("localhost")
                    || self.host_names.iter().any(|own| own.eq_ignore_ascii_case(name))
            }
            Err(_) => false,
        }
    }

    /// Who asks. No API keys exist yet, so a key that is shown is unknown, wherever it is shown.
    pub fn caller(&self, tag: &Tag<'_>) -> Result<&Scope, ProxyError> {
        match (tag.shows_key, self.trust) {
            (true, _) => Err(ProxyError::KeyUnknown),
            (false, Trust::Key) => Err(ProxyError::KeyMissing),
            (false, Trust::Local) => Ok(&self.scope),
        }
    }
}
