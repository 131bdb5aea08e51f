//! From configuration to the settings of each room.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::StartError;
use super::bind::{BindError, Bound, Sockets};
use super::worker::{Door, Socket};
use crate::config::{
    AdminSettings, CacheSettings, Config, Environment, Listener, ListenerTls, MasterKeySetting, Trust,
    UpstreamSettings, VaultSettings,
};
use crate::directory::cache::Limits;
use crate::directory::scope::Scope;
use crate::model::id::OrganizationId;
use crate::proxy::gate::{self, Gate};
use crate::proxy::{self};
use crate::tls::{self, ClientTls, ServerTls, TlsError};
use crate::upstream;
use crate::vault::database::Options;
use crate::vault::key::MasterKeySource;

/// Where the vault and its master key are.
pub fn vault_options(settings: &VaultSettings, environment: &Environment) -> Result<Options, StartError> {
    let master_key = match &settings.master_key {
        MasterKeySetting::File { path, any_mode } => MasterKeySource::File { path: path.clone(), any_mode: *any_mode },
        MasterKeySetting::Fd(fd) => MasterKeySource::Fd(*fd),
        MasterKeySetting::Env(name) => {
            let wrong = |problem: String| StartError::MasterKey { name: name.clone(), problem };
            let value = environment.value(name).map_err(|error| wrong(error.to_string()))?;
            let value = value.ok_or_else(|| wrong("it is not set".to_owned()))?;
            MasterKeySource::Env { name: name.clone(), value: SecretString::from(value.as_str()) }
        }
    };
    Ok(Options { path: settings.path.clone(), master_key })
}

/// The names that the admin port goes by: those that are listed, and the one where people find it.
pub fn admin_names(admin: &AdminSettings) -> Vec<String> {
    let found = admin.people.url.as_ref().map(|url| &url.host);
    admin.host_names.iter().chain(found).map(ToString::to_string).collect()
}

/// The bounds of the caches.
pub fn limits(cache: &CacheSettings) -> Limits {
    Limits { entries: cache.entries, time_to_live: cache.time_to_live, time_to_idle: cache.idle }
}

/// How requests are treated.
pub fn proxy_settings(config: &Config, upstream: &upstream::Settings) -> proxy::Settings {
    let own = http::HeaderName::from_static("sidekey-connection");
    let others = config.proxy.connection_headers.iter().filter(|name| **name != own).cloned();
    proxy::Settings {
        connection_headers: std::iter::once(own.clone()).chain(others).collect(),
        body_buffer: config.proxy.body_buffer,
        body_idle_timeout: config.proxy.body_idle_timeout,
        tunnel_idle_timeout: config.proxy.tunnel_idle_timeout,
        deadlines: upstream.into(),
    }
}

/// How upstreams are reached. `own` are the addresses that Sidekey itself listens on.
pub fn upstream_settings(
    settings: &UpstreamSettings,
    own: Vec<std::net::SocketAddr>,
    tls: ClientTls,
) -> upstream::Settings {
    upstream::Settings {
        connect_timeout: settings.connect_timeout,
        tls_timeout: settings.tls_timeout,
        resolver: upstream::Resolver::default(),
        resolve_timeout: settings.resolve_timeout,
        response_timeout: settings.response_timeout,
        idle_timeout: settings.idle_timeout,
        pool_idle_timeout: settings.pool_idle_timeout,
        pool_max_age: settings.pool_max_age,
        pool_max_idle_per_host: settings.pool_max_idle_per_host,
        hosts: settings.hosts.clone().into_iter().collect(),
        allow_networks: settings.allow_networks.clone(),
        own_listeners: own,
        tls,
    }
}

/// What a listener asks of its callers.
pub fn gate(listener: &Listener, organization: OrganizationId) -> Gate {
    let is_local = listener.trust == Trust::Local;
    let glob = |text: &String| text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    Gate {
        trust: if is_local { gate::Trust::Local } else { gate::Trust::Key },
        keeps_browsers_out: is_local && matches!(listener.address, crate::config::Address::Tcp(_)),
        host_names: listener.host_names.iter().map(ToString::to_string).collect(),
        allow_origins: listener.allow_origins.clone(),
        explains: listener.explain,
        scope: Scope {
            organization,
            environment: listener.environment.clone(),
            environments: listener.environments.clone(),
            connections: listener.connections.iter().map(glob).collect(),
            customers: listener.customers.iter().map(glob).collect(),
            connection: listener.connection.clone(),
            owner: None,
        },
    }
}

/// The TLS of a listener, where it has a certificate.
pub fn listener_tls(settings: Option<&ListenerTls>) -> Result<Option<Arc<ServerTls>>, TlsError> {
    let load = |files: &ListenerTls| tls::server_config(&files.certificate, &files.key, files.client_ca.as_deref());
    settings.map(load).transpose().map(|tls| tls.map(Arc::new))
}

/// A listener whose address was taken.
pub struct BoundDoor {
    /// Its sockets.
    pub bound: Bound,
    /// What it asks of callers.
    pub gate: Arc<Gate>,
    /// TLS, where it has a certificate.
    pub tls: Option<Arc<ServerTls>>,
}

/// Listens everywhere; gives the doors of each worker, one socket of every listener.
pub fn doors(listeners: Vec<BoundDoor>, workers: usize) -> Result<Vec<Vec<Door>>, BindError> {
    let mut all: Vec<Vec<Door>> = (0..workers).map(|_| Vec::new()).collect();
    for BoundDoor { bound, gate, tls } in listeners {
        let sockets: Vec<Socket> = match bound.listen(workers)? {
            Sockets::Tcp(sockets) => sockets.into_iter().map(Socket::Tcp).collect(),
            Sockets::Unix(sockets) => sockets.into_iter().map(Socket::Unix).collect(),
        };
        for (doors, socket) in all.iter_mut().zip(sockets) {
            doors.push(Door { socket, gate: Arc::clone(&gate), tls: tls.clone() });
        }
    }
    Ok(all)
}

/// How often workers sweep their tables: as often as an entry may be idle, so that nothing stays twice as long.
pub fn sweep_interval(cache: &CacheSettings) -> Duration {
    cache.idle
}
