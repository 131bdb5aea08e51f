//! The gate: who may ask at a listener.

use std::rc::Rc;

use super::error::ProxyError;
use super::head::Named;
use super::target::Form;
use crate::directory::scope::Scope;
use crate::directory::{Caller, Shown};
use crate::model::header::Known;
use crate::model::origin::{HostText, OriginError};
use crate::wire::Fields;

/// What a listener asks of its callers.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Whether callers show a key.
    pub trust: Trust,
    /// The bounds of every caller.
    pub scope: Scope,
    /// Whether a caller without a key may ask what would become of a request.
    pub explains: bool,
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

    /// Who asks, where no key was shown.
    pub fn keyless(&self) -> Result<Caller<'_>, ProxyError> {
        match self.trust {
            Trust::Key => Err(ProxyError::KeyMissing),
            Trust::Local => Ok(Caller::of(&self.scope)),
        }
    }

    /// Who asks, where this key was shown. At a listener that trusts its network it must be of the listener's
    /// organization; another one's is told as any that is unknown.
    pub fn holder(&self, shown: Rc<Shown>) -> Result<Caller<'_>, ProxyError> {
        match self.trust {
            Trust::Local if shown.key.organization != self.scope.organization => Err(ProxyError::KeyUnknown),
            Trust::Local | Trust::Key => Ok(Caller::with_key(&self.scope, shown)),
        }
    }
}
