//! Which server a command asks, and with whose key.
//!
//! Options are above variables, variables above a profile, a profile above this machine's own configuration, whose
//! `admin.key` lies beside the vault. What is explicit is whole: with `--server`, neither a profile's key nor this
//! machine's own goes anywhere. A key is never an argument, which everybody on the machine could read.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::Failure;
use super::client::{Answer, Call, Client};
use super::show::Output;
use crate::config::{Config, Environment, KeySource, Profile, Profiles};
use crate::model::origin::{Host, Origin, Scheme};
use crate::tls::{ClientTls, client_config, pinned_client_config};

/// Which server is asked, and how its answers are shown.
///
/// These stand anywhere: before the command, behind it, behind its verb. What is said last holds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Access {
    /// The admin port to ask, as https://HOST[:PORT]; also SIDEKEY_SERVER
    #[arg(long, global = true, value_name = "ORIGIN")]
    server: Option<String>,
    /// A server of ~/.config/sidekey/profiles.toml; also SIDEKEY_PROFILE
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// The file with the API key, - for stdin; also the key itself in SIDEKEY_KEY
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// For super admins: the organization that is meant, by id or key
    // Values of global options go by their ids, and commands about organizations have an argument of that name.
    #[arg(id = "acts_in", long = "organization", global = true, value_name = "ORGANIZATION")]
    organization: Option<String>,
    /// A CA that is trusted beside the system's
    #[arg(long, global = true, value_name = "PEM")]
    ca_file: Vec<PathBuf>,
    /// Let the key go to another machine in clear
    #[arg(long, global = true)]
    plaintext: bool,
    /// JSON, for scripts
    #[arg(long, global = true, help_heading = None)]
    json: bool,
}

/// A server to ask, and what is meant where a command does not say.
pub(super) struct Session {
    client: Client,
    /// The organization that is meant, where it is not the key's own.
    pub organization: Option<String>,
    /// The environment that is meant where a command needs one.
    pub environment: Option<String>,
    /// How answers are shown.
    pub output: Output,
}

/// What says where a proxy port is, of the options that stand before the command.
#[derive(Debug)]
pub(super) struct Place {
    /// The name of a profile.
    pub profile: Option<String>,
    /// CAs that are trusted beside the system's.
    pub ca_file: Vec<PathBuf>,
    /// Whether a key may go to another machine in clear.
    pub plaintext: bool,
}

/// Everything about a server that was found out.
struct Found {
    origin: Origin,
    tls: Option<ClientTls>,
    key: Zeroizing<String>,
    key_from: String,
    organization: Option<String>,
    environment: Option<String>,
    /// Whether the way there is known to be safe in clear.
    is_trusted: bool,
}

impl Access {
    /// The first of these options that says something.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--server", self.server.is_some()),
            ("--profile", self.profile.is_some()),
            ("--key-file", self.key_file.is_some()),
            ("--organization", self.organization.is_some()),
            ("--ca-file", !self.ca_file.is_empty()),
            ("--plaintext", self.plaintext),
            ("--json", self.json),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    /// What of these options says where a proxy port is; the others mean nothing there.
    pub(super) fn place(self) -> Result<Place, Failure> {
        let Access { profile, ca_file, plaintext, .. } = self;
        let rest = Access { profile: None, ca_file: Vec::new(), plaintext: false, ..self };
        match rest.first_given() {
            None => Ok(Place { profile, ca_file, plaintext }),
            Some(option) => Err(Failure::Usage(format!(
                "{option} is about the admin port and means nothing to `sidekey curl`; options of curl stand behind the path"
            ))),
        }
    }

    /// Finds the server and its key. Nothing is asked yet.
    pub(super) fn session(&self, explicit: Option<PathBuf>) -> Result<Session, Failure> {
        if self.server.is_some() && self.profile.is_some() {
            return Err(Failure::Usage("say either --server or --profile".to_owned()));
        }
        let environment = Environment::of_process();
        let found = self.find(explicit, &environment)?;
        check_clear(&found.origin, self.plaintext || found.is_trusted)?;
        let client = Client::new(found.origin, found.tls, found.key.trim(), found.key_from)?;
        Ok(Session {
            client,
            organization: self.organization.clone().or(found.organization),
            environment: found.environment,
            output: if self.json { Output::Json } else { Output::People },
        })
    }

    fn find(&self, explicit: Option<PathBuf>, environment: &Environment) -> Result<Found, Failure> {
        let variable = |name: &str| -> Result<Option<Zeroizing<String>>, Failure> {
            Ok(environment
                .value(name)
                .map_err(|error| Failure::Usage(format!("{name}: {error}")))?
                .filter(|value| !value.is_empty()))
        };
        let given = given_key(self.key_file.as_deref(), "SIDEKEY_KEY", environment)?;
        let server = match (&self.server, &self.profile) {
            (Some(server), _) => Some(server.clone()),
            (None, Some(_)) => None,
            (None, None) => variable("SIDEKEY_SERVER")?.map(|server| server.to_string()),
        };
        if let Some(server) = server {
            let origin = parse_origin(&server)?;
            let (key, key_from) = given.ok_or_else(|| no_key(&origin))?;
            let tls = tls(&origin, &self.ca_file)?;
            return Ok(Found { origin, tls, key, key_from, organization: None, environment: None, is_trusted: false });
        }
        match chosen_profile(self.profile.as_deref(), environment)? {
            Some((name, profile)) => self.of_profile(&name, profile, given, environment),
            None => self.of_this_machine(explicit, given, environment),
        }
    }

    fn of_profile(
        &self,
        name: &str,
        profile: Profile,
        given: Option<(Zeroizing<String>, String)>,
        environment: &Environment,
    ) -> Result<Found, Failure> {
        let (key, key_from) = match (given, &profile.key) {
            (Some(given), _) => given,
            (None, Some(source)) => read_key(source, environment)?,
            (None, None) => {
                return Err(Failure::Unauthorized(format!(
                    "the profile {name} says no `key`, and none is given with --key-file or SIDEKEY_KEY"
                )));
            }
        };
        let ca_files: Vec<PathBuf> = self.ca_file.iter().chain(&profile.ca_files).cloned().collect();
        let tls = tls(&profile.server, &ca_files)?;
        let Profile { server, organization, environment, plaintext, .. } = profile;
        Ok(Found { origin: server, tls, key, key_from, organization, environment, is_trusted: plaintext })
    }

    /// The server of this machine's configuration, with the key that its first start wrote.
    fn of_this_machine(
        &self,
        explicit: Option<PathBuf>,
        given: Option<(Zeroizing<String>, String)>,
        environment: &Environment,
    ) -> Result<Found, Failure> {
        let config = Config::load(explicit, environment)?;
        if !config.admin.enabled {
            return Err(Failure::Failed(
                "the admin port of this configuration is off; name another server with --server or --profile"
                    .to_owned(),
            ));
        }
        let scheme = if config.admin.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let address = super::reachable(config.admin.address);
        let origin = Origin { scheme, host: Host::Address(address.ip()), port: address.port() };
        if origin.port == 0 {
            return Err(Failure::Usage(
                "the admin port of this configuration takes a free port; name it with --server".to_owned(),
            ));
        }
        let tls = match &config.admin.tls {
            Some(tls) => Some(
                pinned_client_config(&tls.certificate)
                    .map_err(|error| Failure::Failed(crate::server::chain(&error)))?,
            ),
            None => None,
        };
        let (key, key_from) = match given {
            Some(given) => given,
            None => read_key(&KeySource::File(config.vault.path.with_file_name("admin.key")), environment)?,
        };
        // What is sent to an address of this machine does not leave it.
        Ok(Found { origin, tls, key, key_from, organization: None, environment: None, is_trusted: true })
    }
}

impl Session {
    /// The server that is asked.
    pub(super) fn server(&self) -> &Origin {
        self.client.origin()
    }

    /// Where the key is from.
    pub(super) fn key_from(&self) -> &str {
        self.client.key_from()
    }

    /// Makes a call in the organization that the key is of.
    pub(super) async fn call_at_home(&mut self, call: Call) -> Result<Answer, Failure> {
        self.client.call(call).await
    }

    /// Makes a call in the organization that is meant.
    pub(super) async fn call(&mut self, call: Call) -> Result<Answer, Failure> {
        let call = call.query_if("organization", self.organization.clone());
        self.client.call(call).await
    }

    /// Makes a call and hands on its answer as it comes.
    pub(super) async fn stream(&mut self, call: Call, sink: impl std::io::Write) -> Result<(), Failure> {
        let call = call.query_if("organization", self.organization.clone());
        self.client.stream(call, sink).await
    }
}

/// The profile that is named, here or by `SIDEKEY_PROFILE`, else the default one.
pub(super) fn chosen_profile(
    named: Option<&str>,
    environment: &Environment,
) -> Result<Option<(String, Profile)>, Failure> {
    let variable = || environment.value("SIDEKEY_PROFILE").ok().flatten().filter(|name| !name.is_empty());
    let named = named.map(str::to_owned).or_else(|| variable().map(|name| name.to_string()));
    let Some(mut profiles) = Profiles::load(environment)? else {
        return match named {
            Some(named) => {
                let nowhere = format!("there is no profile {named}: there is no ~/.config/sidekey/profiles.toml");
                Err(Failure::Usage(nowhere))
            }
            None => Ok(None),
        };
    };
    let Some(name) = named.or_else(|| profiles.default.as_ref().map(ToString::to_string)) else { return Ok(None) };
    let there: Vec<String> = profiles.named.keys().map(ToString::to_string).collect();
    match profiles.named.remove(name.as_str()) {
        Some(profile) => Ok(Some((name, profile))),
        None => {
            let (path, there) = (profiles.path.display(), there.join(", "));
            Err(Failure::Usage(format!("{path} has no profile {name}; there are: {there}")))
        }
    }
}

/// Refuses to send a key to another machine in clear.
pub(super) fn check_clear(origin: &Origin, is_trusted: bool) -> Result<(), Failure> {
    let is_near = match &origin.host {
        Host::Address(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => &**name == "localhost",
    };
    if origin.scheme == Scheme::Https || is_near || is_trusted {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{origin} would be sent the key in clear; use https://, or say --plaintext where the network is trusted"
    )))
}

/// An origin that somebody names.
pub(super) fn parse_origin(text: &str) -> Result<Origin, Failure> {
    Origin::parse(text.strip_suffix('/').unwrap_or(text))
        .map_err(|error| Failure::Usage(format!("{text} is no server: {error}")))
}

fn tls(origin: &Origin, ca_files: &[PathBuf]) -> Result<Option<ClientTls>, Failure> {
    match origin.scheme {
        Scheme::Http => Ok(None),
        Scheme::Https => {
            client_config(ca_files).map(Some).map_err(|error| Failure::Failed(crate::server::chain(&error)))
        }
    }
}

fn no_key(origin: &Origin) -> Failure {
    Failure::Unauthorized(format!(
        "no API key for {origin} is given: put it into a file for --key-file, or into SIDEKEY_KEY"
    ))
}

/// The key that is given here and now, and where it is from: a file, stdin where that is `-`, else a variable.
pub(super) fn given_key(
    file: Option<&Path>,
    variable: &str,
    environment: &Environment,
) -> Result<Option<(Zeroizing<String>, String)>, Failure> {
    match file {
        Some(path) if path == Path::new("-") => {
            let mut key = Zeroizing::new(String::new());
            super::entered::stdin()?.take(4096).read_to_string(&mut key)?;
            Ok(Some((key, "stdin".to_owned())))
        }
        Some(path) => read_key(&KeySource::File(path.to_owned()), environment).map(Some),
        None => match environment.value(variable) {
            Ok(Some(key)) if !key.is_empty() => Ok(Some((key, variable.to_owned()))),
            _ => Ok(None),
        },
    }
}

/// The key that is somewhere, and where that is.
pub(super) fn read_key(source: &KeySource, environment: &Environment) -> Result<(Zeroizing<String>, String), Failure> {
    match source {
        KeySource::Env(name) => match environment.value(name) {
            Ok(Some(key)) => Ok((key, name.clone())),
            _ => Err(Failure::Unauthorized(format!("the variable {name}, which should hold the API key, is not set"))),
        },
        KeySource::File(path) => match std::fs::read_to_string(path) {
            Ok(key) => Ok((Zeroizing::new(key), path.display().to_string())),
            Err(error) => Err(Failure::Unauthorized(format!(
                "the API key in {} cannot be read: {error}; name another with --key-file, or a server with --profile",
                path.display()
            ))),
        },
    }
}
