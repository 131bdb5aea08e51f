//! How people come in to the admin port: where they find it, sessions, links, the identity provider and the mail server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::environment::Environment;
use super::resolve::read_file;
use super::settings::{path, variable_name};
use crate::model::document::Reader;
use crate::model::origin::{Host, Origin, Scheme, split_port};
use crate::model::user::Email;

/// The parts of `[admin]` that are about people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeopleSettings {
    /// Where people find the port, where that is not its address: behind a proxy, or by a name.
    pub url: Option<Origin>,
    /// How long a session lives that nobody uses.
    pub session_idle: Duration,
    /// How long a session lives at most.
    pub session_lifetime: Duration,
    /// How long an invitation can be followed.
    pub invite_lifetime: Duration,
    /// How long a link of `admin-link` can be followed.
    pub admin_link_lifetime: Duration,
    /// Attempts to sign in, a minute, for each account.
    pub attempts_per_account: u32,
    /// Attempts to sign in, a minute, for each address.
    pub attempts_per_address: u32,
    /// The identity provider.
    pub oidc: Option<OidcSettings>,
}

/// `[admin.oidc]`: the identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    /// As it names itself.
    pub issuer: String,
    /// As it knows us.
    pub client_id: String,
    /// Absent for a public client.
    pub client_secret: Option<Sourced>,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
}

/// `[smtp]`: the mail server that invitations go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the conversation is protected.
    pub tls: SmtpTls,
    /// Who the mails are from.
    pub from: String,
    /// As whom we come.
    pub login: Option<(String, Sourced)>,
}

/// How the conversation with a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the first byte.
    Implicit,
    /// After `STARTTLS`, and nothing without it.
    StartTls,
    /// Not at all.
    None,
}

/// Where a secret of the configuration itself comes from; it is never written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sourced {
    /// A file; one newline at its end is not part of the value.
    File(PathBuf),
    /// A variable.
    Env(String),
}

const MINUTE: Duration = Duration::from_secs(60);

impl Default for PeopleSettings {
    fn default() -> Self {
        PeopleSettings {
            url: None,
            session_idle: 60 * MINUTE,
            session_lifetime: 12 * 60 * MINUTE,
            invite_lifetime: 3 * 24 * 60 * MINUTE,
            admin_link_lifetime: 60 * MINUTE,
            attempts_per_account: 10,
            attempts_per_address: 30,
            oidc: None,
        }
    }
}

impl PeopleSettings {
    /// Reads the keys of `[admin]` that are about people.
    pub(super) fn read(admin: &Reader<'_>, folder: &Path) -> Self {
        let mut settings = PeopleSettings { url: url(admin), ..PeopleSettings::default() };
        if let Some(sessions) = admin.table("sessions") {
            settings.session_idle = sessions.duration("idle").unwrap_or(settings.session_idle);
            settings.session_lifetime = sessions.duration("lifetime").unwrap_or(settings.session_lifetime);
            sessions.finish();
        }
        if let Some(links) = admin.table("links") {
            settings.invite_lifetime = links.duration("invite").unwrap_or(settings.invite_lifetime);
            settings.admin_link_lifetime = links.duration("admin").unwrap_or(settings.admin_link_lifetime);
            links.finish();
        }
        if let Some(attempts) = admin.table("sign_in") {
            let rate = |key, absent| {
                attempts.number(key, 1..=100_000).and_then(|rate| u32::try_from(rate).ok()).unwrap_or(absent)
            };
            settings.attempts_per_account = rate("per_account", settings.attempts_per_account);
            settings.attempts_per_address = rate("per_address", settings.attempts_per_address);
            attempts.finish();
        }
        settings.oidc = admin.table("oidc").and_then(|oidc| OidcSettings::read(oidc, folder));
        settings
    }
}

fn url(admin: &Reader<'_>) -> Option<Origin> {
    let text = admin.text("url")?;
    let origin = text.contains("://").then(|| Origin::parse(text.trim_end_matches('/')));
    let origin = origin.and_then(Result::ok);
    if origin.is_none() {
        admin.problem("url", "expected scheme, host and port, such as https://sidekey.example.test");
    }
    origin
}

impl OidcSettings {
    fn read(reader: Reader<'_>, folder: &Path) -> Option<Self> {
        let (issuer, client_id) = (reader.required::<String>("issuer"), reader.required::<String>("client_id"));
        if let Some(text) = &issuer
            && !is_issuer(text)
        {
            reader.problem("issuer", "expected the provider's issuer: an https address without ? and #");
        }
        let client_secret = Sourced::read(&reader, "client_secret", folder);
        let scopes = match reader.has("scopes") {
            true => reader.parsed_list("scopes"),
            false => ["email", "profile"].map(str::to_owned).to_vec(),
        };
        reader.finish();
        Some(OidcSettings { issuer: issuer?, client_id: client_id?, client_secret, scopes })
    }
}

/// Core §2: an https address of scheme, host and, optionally, port and path.
fn is_issuer(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    !text.contains(['?', '#', ' ']) && Origin::from_authority(Scheme::Https, authority).is_ok()
}

impl SmtpSettings {
    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Option<Self> {
        let server = reader.required::<String>("server");
        let tls = match reader.text("tls") {
            None | Some("starttls") => SmtpTls::StartTls,
            Some("implicit") => SmtpTls::Implicit,
            Some("none") => SmtpTls::None,
            Some(_) => {
                reader.problem("tls", "expected \"starttls\", \"implicit\" or \"none\"");
                SmtpTls::StartTls
            }
        };
        let port = match tls {
            SmtpTls::Implicit => 465,
            SmtpTls::StartTls => 587,
            SmtpTls::None => 25,
        };
        // Read as an authority: a host, and a port where it is another one than usual.
        let server = server.and_then(|text| {
            let read = split_port(&text).ok().and_then(|(host, given)| {
                let host = host.parse::<Host>().ok()?;
                let host = host.to_string().trim_matches(['[', ']']).to_owned();
                Some((host, given.unwrap_or(port)))
            });
            if read.is_none() {
                reader.problem("server", "expected a host, and a port where it is not the usual one");
            }
            read
        });
        let from = reader.required::<String>("from");
        if from.as_deref().is_some_and(|from| !is_sender(from)) {
            reader.problem("from", "expected an address such as \"Sidekey <sidekey@example.test>\"");
        }
        let (username, password) = (reader.text("username"), Sourced::read(&reader, "password", folder));
        if username.is_some() != password.is_some() {
            reader.problem("username", "username and password belong together");
        }
        let login = username.map(str::to_owned).zip(password);
        reader.finish();
        let (host, port) = server?;
        Some(SmtpSettings { host, port, tls, from: from?, login })
    }
}

/// `ada@example.test` or `Ada <ada@example.test>`.
fn is_sender(text: &str) -> bool {
    let address = text.rsplit_once('<').map_or(Some(text), |(_, rest)| rest.strip_suffix('>'));
    !text.chars().any(char::is_control) && address.is_some_and(|address| address.trim().parse::<Email>().is_ok())
}

impl Sourced {
    fn read(section: &Reader<'_>, key: &'static str, folder: &Path) -> Option<Self> {
        const EXPECTED: &str = "name where it comes from: { file = \"…\" } or { env = \"…\" }";
        let value = section.value(key)?;
        if !value.is_object() {
            section.problem(key, format!("a secret is never written here; {EXPECTED}"));
            return None;
        }
        let reader = section.table(key)?;
        let (file, env) = (path(&reader, "file", folder), variable_name(&reader, "env"));
        if reader.has("file") == reader.has("env") {
            section.problem(key, EXPECTED);
        }
        reader.finish();
        file.map(Sourced::File).or(env.map(Sourced::Env))
    }

    /// Reads it, or says why it cannot be had.
    pub fn value(&self, environment: &Environment) -> Result<SecretString, String> {
        let text = match self {
            Sourced::File(path) => read_file(path)?,
            Sourced::Env(name) => {
                let value = environment.value(name).map_err(|error| format!("the variable {name}: {error}"))?;
                value.filter(|value| !value.is_empty()).ok_or_else(|| format!("the variable {name} is not set"))?
            }
        };
        Ok(SecretString::from(text.as_str()))
    }
}
