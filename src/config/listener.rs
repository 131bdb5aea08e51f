//! Listeners of the proxy port: where, who is trusted there, and what its callers may reach.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::model::document::Reader;
use crate::model::glob::{self, Glob};
use crate::model::id::ConnectionRef;
use crate::model::name::{CustomerName, EnvironmentName, Key};
use crate::model::origin::{Host, Origin};

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever reaches the address; the listener's scope is the caller's.
    Local,
    /// Whoever shows an API key.
    Key,
}

/// Certificate and key of a listener, as files that may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Where given, clients must show a certificate that one of these CAs signed.
    pub client_ca: Option<PathBuf>,
}

/// One listener of the proxy port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// Who may ask.
    pub trust: Trust,
    /// Whose connections its callers use.
    pub organization: Key,
    /// Used when neither request nor key names one; one of `environments`, unless those are left to the keys.
    pub environment: EnvironmentName,
    /// What a request may name; empty where callers show keys and these decide.
    pub environments: Vec<EnvironmentName>,
    /// Ids, keys, or globs in which `*` stands for any text.
    pub connections: Vec<String>,
    /// Names of customers, or globs.
    pub customers: Vec<String>,
    /// `Host` values beside IP literals and `localhost`.
    pub host_names: Vec<Host>,
    /// `Origin` values that may call from a browser, in lower case, a default port left out.
    pub allow_origins: Vec<String>,
    /// Whether callers without a key may ask what would become of a request (`Sidekey-Explain: 1`).
    pub explain: bool,
    /// Used when a request carries no tag.
    pub connection: Option<ConnectionRef>,
    /// TLS, where it has a certificate.
    pub tls: Option<ListenerTls>,
    /// The permissions of a Unix socket.
    pub mode: u32,
}

impl FromStr for Trust {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "local" => Ok(Trust::Local),
            "key" => Ok(Trust::Key),
            _ => Err("trust is either \"local\" (no key needed) or \"key\" (an API key is required)"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The longest path the kernel takes for a socket, without the closing NUL (`unix(7)`).
const SOCKET_PATH: usize = 107;

impl Address {
    fn read(reader: &Reader<'_>, folder: &Path) -> Option<Self> {
        let text = reader.text("address")?;
        if let Some(path) = text.strip_prefix("unix:") {
            let path = folder.join(path);
            if text.len() == "unix:".len() || path.as_os_str().len() > SOCKET_PATH {
                reader.problem("address", format!("the path of a socket has 1 to {SOCKET_PATH} bytes"));
                return None;
            }
            return Some(Address::Unix(path));
        }
        let address = text.parse().map(Address::Tcp);
        if address.is_err() {
            let expected = "expected an IP address with a port, such as 127.0.0.1:7878, or unix:/path/of/socket";
            reader.problem("address", expected);
        }
        address.ok()
    }

    /// Whether other machines may reach it.
    pub(super) fn is_reachable_from_outside(&self) -> bool {
        matches!(self, Address::Tcp(address) if !address.ip().to_canonical().is_loopback())
    }

    /// Whether two of them cannot be had at once.
    pub(super) fn clashes_with(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Tcp(a), Address::Tcp(b)) => {
                let covers = a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
                a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers)
            }
            (a, b) => a == b,
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Listener {
            address: Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 7878))),
            trust: Trust::Local,
            organization: default_organization(),
            environment: default_environment(),
            environments: vec![default_environment()],
            connections: vec!["*".to_owned()],
            customers: Vec::new(),
            host_names: Vec::new(),
            allow_origins: Vec::new(),
            explain: false,
            connection: None,
            tls: None,
            mode: 0o600,
        }
    }
}

impl Listener {
    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Self {
        let absent = Listener::default();
        let environment = reader.parsed("environment").unwrap_or(absent.environment);
        let trust = reader.parsed("trust").unwrap_or(absent.trust);
        let mut environments = reader.parsed_list("environments");
        let mut customers = texts(reader.parsed_list::<CustomerGlob>("customers").into_iter().map(|glob| glob.0));
        // Where every caller shows a key, its scope decides, and what is said here narrows it.
        match trust {
            Trust::Local if !reader.has("environments") => environments.push(environment.clone()),
            Trust::Key if !reader.has("customers") => customers.push("*".to_owned()),
            Trust::Local | Trust::Key => {}
        }
        let listener = Listener {
            address: Address::read(&reader, folder).unwrap_or(absent.address),
            trust,
            organization: reader.parsed("organization").unwrap_or(absent.organization),
            environment,
            environments,
            connections: match reader.has("connections") {
                true => texts(reader.parsed_list::<ConnectionGlob>("connections")),
                false => absent.connections,
            },
            customers,
            host_names: reader.parsed_list("host_names"),
            allow_origins: texts(reader.parsed_list::<BrowserOrigin>("allow_origins").into_iter().map(|o| o.0)),
            explain: reader.flag("explain").unwrap_or(absent.explain),
            connection: reader.parsed("connection"),
            tls: reader.table("tls").and_then(|tls| ListenerTls::read(tls, folder)),
            mode: read_mode(&reader).unwrap_or(absent.mode),
        };
        listener.check(&reader);
        reader.finish();
        listener
    }

    fn check(&self, reader: &Reader<'_>) {
        if self.trust == Trust::Local && self.address.is_reachable_from_outside() {
            let key = if reader.has("address") { "address" } else { "trust" };
            let detail = "trust = \"local\" would serve anybody who reaches this address without a key; use a loopback \
                          address, a Unix socket, or trust = \"key\"";
            reader.problem(key, detail);
        }
        let is_left_to_keys = self.trust == Trust::Key && !reader.has("environments");
        if !is_left_to_keys && !self.environments.contains(&self.environment) {
            let detail = format!("the list must contain the listener's own environment, `{}`", self.environment);
            reader.problem("environments", detail);
        }
        if let Some(connection) = &self.connection
            && !self.may_reach(connection)
        {
            reader.problem("connection", "the default connection is not among `connections`, so nobody could use it");
        }
        if reader.has("mode") && matches!(self.address, Address::Tcp(_)) {
            reader.problem("mode", "only a Unix socket has permissions");
        }
    }

    /// Whether some entry may cover a connection. Which key an id has is known to the vault only, so an id may be
    /// meant by any key or glob.
    fn may_reach(&self, connection: &ConnectionRef) -> bool {
        self.connections.iter().any(|entry| match connection {
            ConnectionRef::Key(key) => covers(entry, key.as_str()) || entry.starts_with("conn_"),
            ConnectionRef::Id(id) => !entry.starts_with("conn_") || *entry == id.to_string(),
        })
    }
}

impl ListenerTls {
    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Option<Self> {
        let certificate: Option<PathBuf> = reader.required("certificate");
        let key: Option<PathBuf> = reader.required("key");
        let client_ca: Option<PathBuf> = reader.parsed("client_ca");
        reader.finish();
        Some(ListenerTls {
            certificate: folder.join(certificate?),
            key: folder.join(key?),
            client_ca: client_ca.map(|path| folder.join(path)),
        })
    }
}

/// The organization that the first start creates.
pub(super) fn default_organization() -> Key {
    known("default")
}

fn default_environment() -> EnvironmentName {
    known("production")
}

/// A name written here, which its own rule cannot refuse.
fn known<T: FromStr<Err: fmt::Debug>>(text: &'static str) -> T {
    text.parse().expect("a name written in the source obeys its rule")
}

fn texts<T: Into<String>>(list: impl IntoIterator<Item = T>) -> Vec<String> {
    list.into_iter().map(Into::into).collect()
}

/// Whether a glob covers a text.
fn covers(glob: &str, text: &str) -> bool {
    glob.parse::<Glob>().is_ok_and(|glob| glob.matches(text))
}

fn read_mode(reader: &Reader<'_>) -> Option<u32> {
    let text = reader.text("mode")?;
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() <= 4);
    if mode.is_none() {
        reader.problem("mode", "expected permissions in octal, such as \"0600\" or \"0660\"");
    }
    mode
}

/// A connection's id or key, or a glob over keys.
struct ConnectionGlob(String);

impl FromStr for ConnectionGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        glob::check_connections(text).map(|()| ConnectionGlob(text.to_owned()))
    }
}

impl From<ConnectionGlob> for String {
    fn from(glob: ConnectionGlob) -> String {
        glob.0
    }
}

/// A customer's name, or a glob over them.
struct CustomerGlob(String);

impl FromStr for CustomerGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = text.split('*').filter(|part| !part.is_empty()).all(|part| part.parse::<CustomerName>().is_ok());
        match fits && !text.is_empty() {
            true => Ok(CustomerGlob(text.to_owned())),
            false => Err("a customer has 1 to 128 letters, digits and . _ : -; * stands for any text".to_owned()),
        }
    }
}

/// What a browser sends as `Origin` (RFC 6454 §7), as browsers write it.
struct BrowserOrigin(String);

impl FromStr for BrowserOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected an origin as a browser sends it, such as https://app.example.com";
        let (scheme, host) = text.split_once("://").ok_or(EXPECTED)?;
        let token = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        match scheme {
            "https" | "http" => {
                Origin::parse(text).map(|origin| BrowserOrigin(origin.to_string())).map_err(|_| EXPECTED)
            }
            // Extensions and desktop shells have schemes and hosts of their own.
            _ if !scheme.is_empty() && scheme.chars().all(token) && !host.is_empty() && host.chars().all(token) => {
                Ok(BrowserOrigin(text.to_ascii_lowercase()))
            }
            _ => Err(EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (glob, text) in [("*", "a"), ("crm-*", "crm-"), ("*-eu", "crm-eu"), ("a*b*c", "aXbYc"), ("a", "a")] {
            assert!(covers(glob, text), "{glob} {text}");
        }
        for (glob, text) in [("crm-*", "crm"), ("a*a", "a"), ("a*b*c", "acb"), ("a", "ab")] {
            assert!(!covers(glob, text), "{glob} {text}");
        }
    }

    #[test]
    fn addresses_clash_where_the_kernel_would_share_them() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert!(tcp("0.0.0.0:1").clashes_with(&tcp("127.0.0.1:1")));
        assert!(!tcp("127.0.0.1:0").clashes_with(&tcp("127.0.0.1:0")));
        assert!(!tcp("127.0.0.1:1").clashes_with(&tcp("127.0.0.2:1")));
    }
}
