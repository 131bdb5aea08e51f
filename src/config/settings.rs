//! The settings of each section, with their defaults.
//!
//! Plain values only: what they mean to a component is that component's business.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::listener::Listener;
use crate::model::document::{Reader, parse_duration};
use crate::model::header;
use crate::model::origin::Host;

/// `[proxy]`: the port that callers use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Where it listens; at least one.
    pub listeners: Vec<Listener>,
    /// Worker threads; one for each core where absent.
    pub threads: Option<usize>,
    /// Headers that name a connection, beside `Sidekey-Connection`.
    pub connection_headers: Vec<HeaderName>,
    /// How much of a body is held where an injection or a replay needs it, in bytes.
    pub body_buffer: u64,
    /// How long a request's head may take.
    pub head_timeout: Duration,
    /// How long a request's body may stand still, and a client take nothing of its answer.
    pub body_idle_timeout: Duration,
    /// How long a WebSocket may be quiet in both directions.
    pub tunnel_idle_timeout: Duration,
    /// How long requests may finish after SIGTERM.
    pub drain_timeout: Duration,
    /// How long what is open may go on after its connection or key was revoked; `None` lets it end by itself.
    pub revoke_within: Option<Duration>,
    /// How long the use of credentials is counted in memory before it is written to the vault.
    pub usage_interval: Duration,
    /// Connections held open at once, over all listeners.
    pub max_connections: usize,
    /// Requests under way at once, shared evenly by the threads.
    pub max_requests: usize,
}

/// `[vault]`: the encrypted store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSettings {
    /// `false`: declared connections only.
    pub enabled: bool,
    /// The store's file.
    pub path: PathBuf,
    /// Where the key of all keys comes from.
    pub master_key: MasterKeySetting,
}

/// Where the master key comes from; it is never written in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySetting {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether others may be able to read it, as on file systems that know no permissions.
        any_mode: bool,
    },
    /// A descriptor that whoever starts the process has opened.
    Fd(i32),
    /// A variable. It stays readable in `/proc`.
    Env(String),
}

/// `[upstream]`: how upstreams are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// CAs trusted beside the system's, PEM files.
    pub ca_files: Vec<PathBuf>,
    /// Networks that may be dialled although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// How long a name may take to be resolved.
    pub resolve_timeout: Duration,
    /// How long the head of an answer may take.
    pub response_timeout: Duration,
    /// How long the body of an answer may stand still.
    pub idle_timeout: Duration,
    /// How long an unused connection is kept.
    pub pool_idle_timeout: Duration,
    /// How long a connection is used at most.
    pub pool_max_age: Duration,
    /// Unused connections kept for each host and worker.
    pub pool_max_idle_per_host: usize,
    /// Names pinned to addresses, in lower case.
    pub hosts: BTreeMap<String, SocketAddr>,
}

/// `[log]`: what is written to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or levels for each module: `info,sidekey::upstream=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Whether there is a line for each request.
    pub access: bool,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, else JSON.
    Auto,
    /// For people.
    Human,
    /// One JSON document a line.
    Json,
}

/// `[cache]`: facts and decrypted injections in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// How long something is kept at most.
    pub time_to_live: Duration,
    /// How long something is kept that nobody uses.
    pub idle: Duration,
    /// How much is kept of each.
    pub entries: u64,
}

const SECOND: Duration = Duration::from_secs(1);

/// The largest buffer for bodies that an installation may ask for.
const BODY_BUFFER_LIMIT: u64 = 16 << 20;

impl Default for ProxySettings {
    fn default() -> Self {
        ProxySettings {
            listeners: vec![Listener::default()],
            threads: None,
            connection_headers: ["x-connection-id", "connection-id"].map(HeaderName::from_static).to_vec(),
            body_buffer: 64 << 10,
            head_timeout: 30 * SECOND,
            body_idle_timeout: 60 * SECOND,
            tunnel_idle_timeout: 600 * SECOND,
            usage_interval: 60 * SECOND,
            drain_timeout: 30 * SECOND,
            revoke_within: Some(SECOND),
            max_connections: 10_000,
            max_requests: 10_000,
        }
    }
}

impl ProxySettings {
    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Self {
        let absent = ProxySettings::default();
        let tables = reader.tables("listeners");
        let pointers: Vec<String> = tables.iter().map(|table| table.pointer().to_owned()).collect();
        let mut listeners: Vec<Listener> = tables.into_iter().map(|table| Listener::read(table, folder)).collect();
        check_addresses(&reader, &listeners, &pointers);
        if !reader.has("listeners") {
            listeners = absent.listeners;
        } else if reader.value("listeners").and_then(|value| value.as_array()).is_some_and(Vec::is_empty) {
            reader.problem("listeners", "a proxy needs at least one listener; leave the key out for the default one");
        }
        let names: Vec<TagHeader> = reader.parsed_list("connection_headers");
        let settings = ProxySettings {
            listeners,
            threads: count(&reader, "threads", 1, 1024),
            connection_headers: match reader.has("connection_headers") {
                true => names.into_iter().map(|name| name.0).collect(),
                false => absent.connection_headers,
            },
            body_buffer: reader.size("body_buffer").unwrap_or(absent.body_buffer),
            head_timeout: reader.duration("head_timeout").unwrap_or(absent.head_timeout),
            body_idle_timeout: reader.duration("body_idle_timeout").unwrap_or(absent.body_idle_timeout),
            tunnel_idle_timeout: reader.duration("tunnel_idle_timeout").unwrap_or(absent.tunnel_idle_timeout),
            drain_timeout: reader.duration("drain_timeout").unwrap_or(absent.drain_timeout),
            revoke_within: duration_or_never(&reader, "revoke_within", absent.revoke_within),
            usage_interval: reader.duration("usage_interval").unwrap_or(absent.usage_interval),
            max_connections: count(&reader, "max_connections", 1, 10_000_000).unwrap_or(absent.max_connections),
            max_requests: count(&reader, "max_requests", 1, 10_000_000).unwrap_or(absent.max_requests),
        };
        if settings.body_buffer > BODY_BUFFER_LIMIT {
            reader.problem("body_buffer", "at most 16MiB: a body that is held stands in memory as a whole");
        }
        reader.finish();
        settings
    }
}

/// A duration, or `never`.
fn duration_or_never(reader: &Reader<'_>, key: &'static str, absent: Option<Duration>) -> Option<Duration> {
    match reader.text(key) {
        None => absent,
        Some("never") => None,
        Some(text) => parse_duration(text).or_else(|| {
            reader.problem(key, "expected a duration such as \"500ms\" or \"1s\", more than zero, or \"never\"");
            absent
        }),
    }
}

fn check_addresses(reader: &Reader<'_>, listeners: &[Listener], pointers: &[String]) {
    for (index, listener) in listeners.iter().enumerate() {
        if listeners[..index].iter().any(|other| other.address.clashes_with(&listener.address)) {
            let detail = format!("another listener has the address {} already", listener.address);
            reader.problems().add(format!("{}/address", pointers[index]), detail);
        }
    }
}

/// A header that may name a connection: consumed, so it must not be one that upstreams need.
struct TagHeader(HeaderName);

impl FromStr for TagHeader {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        header::parse_tag(text).map(TagHeader)
    }
}

/// An address with a port.
pub(super) fn socket_address(reader: &Reader<'_>, key: &'static str) -> Option<SocketAddr> {
    let address = reader.text(key)?.parse().ok();
    if address.is_none() {
        reader.problem(key, "expected an IP address with a port, such as 127.0.0.1:7879");
    }
    address
}

impl VaultSettings {
    /// What is meant where nothing is written.
    pub(super) fn absent(folder: &Path) -> Self {
        let master_key = MasterKeySetting::File { path: folder.join("master.key"), any_mode: false };
        VaultSettings { enabled: true, path: folder.join("sidekey.vault"), master_key }
    }

    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Self {
        let absent = VaultSettings::absent(folder);
        let settings = VaultSettings {
            enabled: reader.flag("enabled").unwrap_or(absent.enabled),
            path: path(&reader, "path", folder).unwrap_or(absent.path),
            master_key: MasterKeySetting::read(&reader, folder).unwrap_or(absent.master_key),
        };
        reader.finish();
        settings
    }
}

impl MasterKeySetting {
    fn read(section: &Reader<'_>, folder: &Path) -> Option<Self> {
        const EXPECTED: &str = "name where the key comes from: { file = \"…\" }, { fd = 3 } or { env = \"…\" }";
        if section.value("master_key")?.is_string() {
            section.problem("master_key", format!("the master key is never written here; {EXPECTED}"));
            return None;
        }
        let reader = section.table("master_key")?;
        let file = path(&reader, "file", folder);
        let fd = reader.number("fd", 0..=1023);
        let env = variable_name(&reader, "env");
        let any_mode = reader.flag("any_mode");
        if ["file", "fd", "env"].into_iter().filter(|key| reader.has(key)).count() != 1 {
            section.problem("master_key", EXPECTED);
        }
        if any_mode.is_some() && file.is_none() {
            reader.problem("any_mode", "only a file has permissions");
        }
        if matches!(fd, Some(1 | 2)) {
            reader.problem("fd", "descriptors 1 and 2 are for output");
        }
        reader.finish();
        let file = file.map(|path| MasterKeySetting::File { path, any_mode: any_mode.unwrap_or(false) });
        let fd = fd.and_then(|fd| i32::try_from(fd).ok()).map(MasterKeySetting::Fd);
        file.or(fd).or(env.map(MasterKeySetting::Env))
    }
}

/// The name of a variable.
pub(super) fn variable_name(reader: &Reader<'_>, key: &'static str) -> Option<String> {
    let name = reader.text(key)?;
    let fits = !name.is_empty() && name.len() <= 256 && !name.contains('=') && !name.chars().any(char::is_control);
    if !fits {
        reader.problem(key, "expected the name of a variable");
        return None;
    }
    Some(name.to_owned())
}

/// A path, from the file's folder on.
pub(super) fn path(reader: &Reader<'_>, key: &'static str, folder: &Path) -> Option<PathBuf> {
    let text = reader.text(key)?;
    if text.is_empty() || text.contains('\0') {
        reader.problem(key, "expected a path");
        return None;
    }
    Some(folder.join(text))
}

fn count(reader: &Reader<'_>, key: &'static str, least: u64, most: u64) -> Option<usize> {
    reader.number(key, least..=most).and_then(|number| usize::try_from(number).ok())
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        UpstreamSettings {
            ca_files: Vec::new(),
            allow_networks: Vec::new(),
            connect_timeout: 5 * SECOND,
            tls_timeout: 5 * SECOND,
            resolve_timeout: 5 * SECOND,
            response_timeout: 60 * SECOND,
            idle_timeout: 30 * SECOND,
            pool_idle_timeout: 60 * SECOND,
            pool_max_age: 300 * SECOND,
            pool_max_idle_per_host: 256,
            hosts: BTreeMap::new(),
        }
    }
}

impl UpstreamSettings {
    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Self {
        let absent = UpstreamSettings::default();
        let networks: Vec<Network> = reader.parsed_list("allow_networks");
        let files: Vec<PathBuf> = reader.parsed_list("ca_files");
        let duration = |key, absent| reader.duration(key).unwrap_or(absent);
        let settings = UpstreamSettings {
            ca_files: files.into_iter().map(|file| folder.join(file)).collect(),
            allow_networks: networks.into_iter().map(|network| network.0).collect(),
            connect_timeout: duration("connect_timeout", absent.connect_timeout),
            tls_timeout: duration("tls_timeout", absent.tls_timeout),
            resolve_timeout: duration("resolve_timeout", absent.resolve_timeout),
            response_timeout: duration("response_timeout", absent.response_timeout),
            idle_timeout: duration("idle_timeout", absent.idle_timeout),
            pool_idle_timeout: duration("pool_idle_timeout", absent.pool_idle_timeout),
            pool_max_age: duration("pool_max_age", absent.pool_max_age),
            pool_max_idle_per_host: count(&reader, "pool_max_idle_per_host", 0, 1_000_000)
                .unwrap_or(absent.pool_max_idle_per_host),
            hosts: reader.table("hosts").map(|hosts| read_hosts(&hosts)).unwrap_or_default(),
        };
        reader.finish();
        settings
    }
}

fn read_hosts(reader: &Reader<'_>) -> BTreeMap<String, SocketAddr> {
    let mut hosts = BTreeMap::new();
    for (name, value) in reader.entries() {
        let host = match name.parse::<Host>() {
            Ok(Host::Name(host)) => Some(host.to_string()),
            Ok(Host::Address(_)) | Err(_) => {
                reader.problem(name, "expected the DNS name of a host, in ASCII");
                None
            }
        };
        let address = value.as_str().and_then(|text| text.parse().ok());
        if address.is_none() {
            reader.problem(name, "expected an IP address with a port, such as 127.0.0.1:9443");
        }
        if let (Some(host), Some(address)) = (host, address)
            && hosts.insert(host, address).is_some()
        {
            reader.problem(name, "this host is pinned twice; names have no case");
        }
    }
    hosts
}

/// A network, or one address.
struct Network(IpNet);

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let one = text.parse::<IpAddr>().map(IpNet::from);
        let network = one.or_else(|_| text.parse::<IpNet>());
        network.map(Network).map_err(|_| "expected a network such as 10.0.0.0/8 or fd00::/8")
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".to_owned(), format: LogFormat::Auto, access: true }
    }
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "auto" => Ok(LogFormat::Auto),
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            _ => Err("the formats are auto, human and json"),
        }
    }
}

impl LogSettings {
    pub(super) fn read(reader: Reader<'_>) -> Self {
        let absent = LogSettings::default();
        let settings = LogSettings {
            level: reader.parsed::<Levels>("level").map_or(absent.level, |levels| levels.0),
            format: reader.parsed("format").unwrap_or(absent.format),
            access: reader.flag("access").unwrap_or(absent.access),
        };
        reader.finish();
        settings
    }
}

/// `info`, or `info,module=debug`.
struct Levels(String);

impl FromStr for Levels {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let is_level = |text: &str| matches!(text, "off" | "error" | "warn" | "info" | "debug" | "trace");
        let is_module =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
        let fits = |part: &str| match part.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(part),
        };
        match text.split(',').all(fits) {
            true => Ok(Levels(text.to_owned())),
            false => Err("expected off, error, warn, info, debug or trace, or for each module: \"info,sidekey=debug\""),
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        CacheSettings { time_to_live: 600 * SECOND, idle: 300 * SECOND, entries: 100_000 }
    }
}

impl CacheSettings {
    pub(super) fn read(reader: Reader<'_>) -> Self {
        let absent = CacheSettings::default();
        let settings = CacheSettings {
            time_to_live: reader.duration("time_to_live").unwrap_or(absent.time_to_live),
            idle: reader.duration("idle").unwrap_or(absent.idle),
            entries: reader.number("entries", 1..=100_000_000).unwrap_or(absent.entries),
        };
        reader.finish();
        settings
    }
}

impl LogFormat {
    /// The format that holds for stderr as it is now.
    pub fn resolve(self) -> crate::telemetry::Format {
        match self {
            LogFormat::Auto => crate::telemetry::Format::of_stderr(),
            LogFormat::Human => crate::telemetry::Format::Human,
            LogFormat::Json => crate::telemetry::Format::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::document::Problems;

    #[test]
    fn what_is_revoked_ends_in_time_or_never() {
        let within = |section: serde_json::Value| {
            let problems = Problems::default();
            let settings = ProxySettings::read(Reader::new(&section, "", &problems).unwrap(), Path::new("/"));
            problems.is_empty().then_some(settings.revoke_within)
        };
        assert_eq!(within(json!({})), Some(Some(SECOND)));
        assert_eq!(within(json!({ "revoke_within": "20ms" })), Some(Some(SECOND / 50)));
        assert_eq!(within(json!({ "revoke_within": "never" })), Some(None));
        for wrong in [json!("0s"), json!("off"), json!(""), json!(0), json!(false)] {
            assert_eq!(within(json!({ "revoke_within": wrong })), None, "{wrong}");
        }
    }
}
