//! Where the proxy port is, and which caller's key is shown there.
//!
//! A caller's key is another one than the administrator's that commands show to the admin port: programs are given
//! keys with the role `caller` and no more, and a key that manages is nothing that the proxy port should see.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::Options;
use crate::cli::access::{Place, check_clear, chosen_profile, given_key, parse_origin, read_key};
use crate::cli::{Before, Failure, reachable};
use crate::config::{Address, Config, Environment};
use crate::model::origin::{Host, Origin, Scheme};

/// The variable that holds a caller's key.
const VARIABLE: &str = "SIDEKEY_CALLER_KEY";

/// A proxy port, and what is shown there.
pub(super) struct Proxy {
    /// Where it is.
    pub site: Site,
    /// CAs that are trusted beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// The caller's key, and where it is from; a listener that trusts its network needs none.
    pub key: Option<(Zeroizing<String>, String)>,
    /// The environment that is meant where a command does not say.
    pub environment: Option<String>,
}

/// Where a proxy port is.
pub(super) enum Site {
    /// At an address.
    Origin(Origin),
    /// At a socket of this machine.
    Unix(PathBuf),
}

impl Proxy {
    /// The proxy port that is named, else that of the profile, else the first listener of this machine's configuration.
    pub(super) fn find(before: Before, options: &Options) -> Result<Self, Failure> {
        let place = Place::of(before.access, options)?;
        let environment = Environment::of_process();
        let key = given_key(options.caller_key_file.as_deref(), VARIABLE, &environment)?;
        let (proxy, is_trusted) = match &options.proxy {
            Some(named) => (Proxy { site: parse(named)?, ca_files: place.ca_file, key, environment: None }, false),
            None => match Self::of_profile(&place, key.clone(), &environment)? {
                Some(found) => found,
                None => (Self::of_this_machine(before.config, place.ca_file, key, &environment)?, true),
            },
        };
        if let (Site::Origin(origin), Some(_)) = (&proxy.site, &proxy.key) {
            check_clear(origin, place.plaintext || is_trusted)?;
        }
        Ok(proxy)
    }

    fn of_profile(
        place: &Place,
        given: Option<(Zeroizing<String>, String)>,
        environment: &Environment,
    ) -> Result<Option<(Self, bool)>, Failure> {
        let Some((name, profile)) = chosen_profile(place.profile.as_deref(), environment)? else { return Ok(None) };
        let origin = profile.proxy.ok_or_else(|| {
            Failure::Usage(format!("the profile {name} has no `proxy`; name the proxy port with --proxy"))
        })?;
        let key = match (given, &profile.caller_key) {
            (Some(given), _) => Some(given),
            (None, Some(source)) => Some(read_key(source, environment)?),
            (None, None) => None,
        };
        let ca_files = place.ca_file.iter().chain(&profile.ca_files).cloned().collect();
        let proxy = Proxy { site: Site::Origin(origin), ca_files, key, environment: profile.environment };
        Ok(Some((proxy, profile.plaintext)))
    }

    fn of_this_machine(
        explicit: Option<PathBuf>,
        ca_files: Vec<PathBuf>,
        key: Option<(Zeroizing<String>, String)>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let config = Config::load(explicit, environment)?;
        let listeners = &config.proxy.listeners;
        let listener =
            listeners.first().ok_or_else(|| Failure::Failed("this configuration has no listener".to_owned()))?;
        let site = match &listener.address {
            Address::Unix(path) => Site::Unix(path.clone()),
            Address::Tcp(address) if address.port() == 0 => {
                return Err(Failure::Usage(
                    "the first listener of this configuration takes a free port; name it with --proxy".to_owned(),
                ));
            }
            Address::Tcp(address) => {
                let address = reachable(*address);
                let scheme = if listener.tls.is_some() { Scheme::Https } else { Scheme::Http };
                Site::Origin(Origin { scheme, host: Host::Address(address.ip()), port: address.port() })
            }
        };
        Ok(Proxy { site, ca_files, key, environment: None })
    }
}

impl Place {
    fn of(before: crate::cli::access::Access, options: &Options) -> Result<Self, Failure> {
        let mut place = before.place()?;
        if options.profile.is_some() {
            if place.profile.is_some() {
                return Err(Failure::Usage("--profile is given twice: before the command and behind it".to_owned()));
            }
            place.profile.clone_from(&options.profile);
        }
        place.ca_file.extend(options.ca_file.iter().cloned());
        place.plaintext |= options.plaintext;
        Ok(place)
    }
}

fn parse(named: &str) -> Result<Site, Failure> {
    match named.strip_prefix("unix:") {
        Some(path) => Ok(Site::Unix(path.into())),
        None => parse_origin(named).map(Site::Origin),
    }
}
