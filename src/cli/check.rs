//! `sidekey check`: what is wrong and what to do. It reads only.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use super::show::print;
use crate::config::{Address, Config, Environment, Style};
use crate::directory::route::Route;
use crate::model::id::OrganizationId;
use crate::model::origin::Origin;
use crate::server::assemble::{upstream_settings, vault_options};
use crate::server::{chain, control_socket};
use crate::tls::client_config;
use crate::upstream::Upstream;
use crate::vault::declared::Declared;
use crate::vault::inspect::{self, StoredConnection};

/// Checks everything a server would need. The configuration comes first: with a wrong one nothing else can be looked
/// at.
pub fn run(explicit: Option<PathBuf>) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let config = Config::load(explicit, &environment)?;
    super::on_control_runtime(async {
        let mut findings = Findings::default();
        findings.configuration(&config);
        let declared = findings.declared(&config, &environment);
        findings.vault(&config, &environment).await;
        findings.certificates(&config);
        findings.addresses(&config).await;
        findings.connections(&config, &environment, declared.as_ref()).await;
        findings.conclude()
    })
}

/// What was found so far; each finding is printed as it comes.
#[derive(Default)]
struct Findings {
    wrong: usize,
    /// Why a finding could not be printed.
    untold: Cell<Option<Failure>>,
}

impl Findings {
    fn print(&self, text: &str) {
        if let Err(failure) = print(text) {
            self.untold.set(Some(failure));
        }
    }

    fn good(&self, what: impl std::fmt::Display) {
        self.print(&format!("ok     {what}\n"));
    }

    fn wrong(&mut self, what: impl std::fmt::Display) {
        self.wrong += 1;
        self.print(&format!("WRONG  {what}\n"));
    }

    fn conclude(self) -> Result<(), Failure> {
        if let Some(failure) = self.untold.into_inner() {
            return Err(failure);
        }
        match self.wrong {
            0 => Ok(()),
            1 => Err(Failure::Failed("one thing is wrong; see above".to_owned())),
            several => Err(Failure::Failed(format!("{several} things are wrong; see above"))),
        }
    }

    fn configuration(&mut self, config: &Config) {
        match &config.path {
            Some(path) => self.good(format_args!("the configuration {} is understood", path.display())),
            None => self.good("there is no configuration file; the defaults hold"),
        }
        if !config.warnings.is_empty() {
            let style = if std::io::stdout().is_terminal() { Style::Coloured } else { Style::Plain };
            self.print(&format!("{}\n", config.warnings.render(style)));
        }
    }

    /// Whether the sources of declared credentials can be read. Organizations are not looked up: the vault stays shut.
    fn declared(&mut self, config: &Config, environment: &Environment) -> Option<Declared> {
        let resolved = config.declared.resolve(
            environment,
            |key| Some(OrganizationId::derived(key.as_str())),
            |_| config.vault.enabled,
        );
        match resolved {
            Ok(declared) => {
                self.good(format_args!("{} declared connections are complete", declared.connections().count()));
                Some(declared)
            }
            Err(report) => {
                self.wrong(format_args!("declared connections:\n{report}"));
                None
            }
        }
    }

    async fn vault(&mut self, config: &Config, environment: &Environment) {
        if !config.vault.enabled {
            return self.good("the vault is off; only declared connections are served");
        }
        let options = match vault_options(&config.vault, environment) {
            Ok(options) => options,
            Err(error) => return self.wrong(chain(&error)),
        };
        let inspection = match inspect::inspect(&options).await {
            Ok(inspection) => inspection,
            Err(error) => return self.wrong(error),
        };
        let path = options.path.display();
        match (&inspection.key, &inspection.vault) {
            (Err(error), _) => self.wrong(error),
            (Ok(None), None) => self.good(format_args!("there is no vault yet; serve makes {path} and a master key")),
            (Ok(Some(id)), None) => {
                self.good(format_args!("there is no vault yet; serve makes {path} with the master key {id}"))
            }
            (Ok(None), Some(_)) => {
                self.wrong(format_args!("the vault {path} is there and its master key is not; restore the key"))
            }
            (Ok(Some(id)), Some(vault)) if *id != vault.wants => {
                self.wrong(format_args!("the vault {path} wants the master key {}, and {id} is given", vault.wants));
            }
            (Ok(Some(_)), Some(vault)) => {
                if !vault.sound {
                    self.wrong(format_args!("the vault {path} is damaged; restore it from a backup"));
                }
                for id in &vault.damaged_data_keys {
                    self.wrong(format_args!("the data key {id} does not open; restore the vault from a backup"));
                }
                self.good(format_args!(
                    "the vault {path} opens: {} organizations, {} connections, {} credentials, {} secrets",
                    vault.organizations, vault.connections, vault.credentials, vault.secrets
                ));
            }
        }
    }

    fn certificates(&mut self, config: &Config) {
        let listeners = config.proxy.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        for tls in listeners.chain(&config.admin.tls) {
            match crate::tls::server_config(&tls.certificate, &tls.key, tls.client_ca.as_deref()) {
                Ok(_) => self.good(format_args!("the certificate {} loads", tls.certificate.display())),
                Err(error) => self.wrong(chain(&error)),
            }
        }
    }

    /// Whether the addresses are free, unless the server of this very vault has them.
    async fn addresses(&mut self, config: &Config) {
        let socket = control_socket::path_beside(&config.vault.path);
        if config.vault.enabled && tokio::net::UnixStream::connect(&socket).await.is_ok() {
            return self.good("the server of this vault is running and has the addresses");
        }
        let admin = Some(Address::Tcp(config.admin.address)).filter(|_| config.admin.enabled);
        for address in config.proxy.listeners.iter().map(|listener| listener.address.clone()).chain(admin) {
            let (name, taken) = match &address {
                Address::Tcp(address) => (address.to_string(), tokio::net::TcpListener::bind(address).await.err()),
                Address::Unix(path) => {
                    let in_use = tokio::net::UnixStream::connect(path).await.is_ok();
                    (path.display().to_string(), in_use.then(|| std::io::ErrorKind::AddrInUse.into()))
                }
            };
            match taken {
                None => self.good(format_args!("the address {name} is free")),
                Some(error) => self.wrong(format_args!("the address {name} cannot be had: {error}")),
            }
        }
    }

    /// Whether each connection's origins can be reached with verified TLS. Each origin is tried once.
    async fn connections(&mut self, config: &Config, environment: &Environment, declared: Option<&Declared>) {
        let tls = match client_config(&config.upstream.ca_files) {
            Ok(tls) => tls,
            Err(error) => return self.wrong(chain(&error)),
        };
        let mut origins: BTreeMap<String, (Origin, Vec<String>)> = BTreeMap::new();
        let routes = self.routes(config, environment, declared).await;
        for (key, route) in routes {
            match route {
                Ok(route) => {
                    let origin = route.base.origin().clone();
                    origins.entry(origin.to_string()).or_insert_with(|| (origin, Vec::new())).1.push(key);
                }
                Err(why) => self.wrong(format_args!("the connection {key}: {why}")),
            }
        }
        let upstream = Upstream::new(Arc::new(upstream_settings(&config.upstream, Vec::new(), tls)));
        for (name, (origin, keys)) in origins {
            match upstream.reach(&origin).await {
                Ok(()) => self.good(format_args!("{name} can be reached ({})", keys.join(", "))),
                Err(error) => self.wrong(format_args!("{name} ({}): {}", keys.join(", "), chain(&error))),
            }
        }
    }

    /// Every connection, declared or stored, put together with its integration.
    async fn routes(
        &mut self,
        config: &Config,
        environment: &Environment,
        declared: Option<&Declared>,
    ) -> Vec<(String, Result<Route, String>)> {
        let Some(declared) = declared else { return Vec::new() };
        let missing = || "its integration does not exist".to_owned();
        let mut routes: Vec<_> = declared
            .connections()
            .map(|connection| {
                let integration = declared.integration(&connection.integration).cloned().ok_or_else(missing);
                let route = integration.and_then(|integration| Route::new(Arc::clone(connection), integration));
                (connection.key.to_string(), route)
            })
            .collect();
        let stored = match vault_options(&config.vault, environment) {
            Ok(options) if config.vault.enabled && options.path.exists() => inspect::connections(&options).await,
            _ => Ok(Vec::new()),
        };
        match stored {
            Ok(stored) => routes.extend(stored.into_iter().map(|stored| {
                let StoredConnection { connection, integration, filled } = stored;
                let key = connection.key.to_string();
                let integration = declared.integration(&connection.integration).cloned().or(integration.map(Arc::new));
                let filled = integration.map(|integration| Arc::new(integration.filled(&filled)));
                let route = filled.ok_or_else(missing);
                (key, route.and_then(|integration| Route::new(Arc::new(connection), integration)))
            })),
            Err(error) => self.wrong(error),
        }
        routes
    }
}
