//! From configuration to how people come in to the admin port.

use std::net::SocketAddr;

use super::StartError;
use crate::admin::oidc::{Oidc, provider};
use crate::admin::people::{People, Settings};
use crate::admin::throttle::Rates;
use crate::admin::{Transport, mail};
use crate::config::{Config, Environment, OidcSettings, SmtpSettings, SmtpTls, SourcedSecret};
use crate::model::origin::Scheme;
use crate::upstream::outbound::Outbound;

/// What signing in needs, by the configuration alone: for making a link while no server runs. `None` where the address of
/// the port is known only to a server that runs.
pub fn without_server(config: &Config) -> Option<People> {
    let fixed = config.admin.people.url.is_some() || config.admin.address.port() != 0;
    fixed.then(|| People::new(settings(config, config.admin.address), None, None))
}

/// What signing in needs. `bound` is where the admin port is. Call it on the control runtime.
pub(super) fn assemble(
    config: &Config,
    environment: &Environment,
    bound: SocketAddr,
    outbound: &Outbound,
) -> Result<People, StartError> {
    let settings = settings(config, bound);
    let oidc = match &config.admin.people.oidc {
        None => None,
        Some(oidc) => {
            let provider = provider(oidc, environment, &settings.url)?;
            Some(Oidc::new(provider, outbound.clone()))
        }
    };
    let mail = config.smtp.as_ref().map(|smtp| mailer(config, smtp, environment)).transpose()?;
    Ok(People::new(settings, oidc, mail))
}

fn settings(config: &Config, bound: SocketAddr) -> Settings {
    let people = &config.admin.people;
    let is_secure = match &people.url {
        Some(url) => url.scheme == Scheme::Https,
        None => config.admin.tls.is_some(),
    };
    Settings {
        url: people.url.as_ref().map_or_else(|| own_url(config, bound), ToString::to_string),
        transport: if is_secure { Transport::Secure } else { Transport::Plain },
        session_idle: people.session_idle,
        session_lifetime: people.session_lifetime,
        invite_lifetime: people.invite_lifetime,
        admin_link_lifetime: people.admin_link_lifetime,
        rates: Rates { per_account: people.attempts_per_account, per_address: people.attempts_per_address },
    }
}

/// Where a browser on this machine finds the port.
fn own_url(config: &Config, bound: SocketAddr) -> String {
    let scheme = if config.admin.tls.is_some() { "https" } else { "http" };
    match bound.ip().is_unspecified() {
        true => format!("{scheme}://localhost:{}", bound.port()),
        false => format!("{scheme}://{bound}"),
    }
}

fn secret(key: &str, from: &SourcedSecret, environment: &Environment) -> Result<secrecy::SecretString, StartError> {
    from.value(environment).map_err(|problem| StartError::People { key: key.to_owned(), problem })
}

fn provider(oidc: &OidcSettings, environment: &Environment, url: &str) -> Result<provider::Settings, StartError> {
    let client_secret = oidc.client_secret.as_ref();
    Ok(provider::Settings {
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        client_secret: client_secret.map(|from| secret("admin.oidc.client_secret", from, environment)).transpose()?,
        scopes: oidc.scopes.clone(),
        redirect: format!("{url}/oidc/callback"),
    })
}

fn mailer(config: &Config, smtp: &SmtpSettings, environment: &Environment) -> Result<mail::Mailer, StartError> {
    let wrong = |key: &str, problem: String| StartError::People { key: key.to_owned(), problem };
    let login = match &smtp.login {
        None => None,
        Some((name, password)) => Some((name.clone(), secret("smtp.password", password, environment)?)),
    };
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| wrong("upstream.ca_files", format!("{}: {error}", path.display())))
    };
    let settings = mail::Settings {
        host: smtp.host.clone(),
        port: smtp.port,
        protection: match smtp.tls {
            SmtpTls::Implicit => mail::Protection::Tls,
            SmtpTls::StartTls => mail::Protection::StartTls,
            SmtpTls::None => mail::Protection::None,
        },
        from: smtp.from.clone(),
        login,
        authorities: config.upstream.ca_files.iter().map(read).collect::<Result<_, _>>()?,
    };
    mail::Mailer::new(settings).map_err(|error| wrong("smtp", error.to_string()))
}
