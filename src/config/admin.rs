//! `[admin]`: the port of the control plane.

use std::net::SocketAddr;
use std::path::Path;

use super::listener::{Address, ListenerTls};
use super::people::PeopleSettings;
use super::settings::socket_address;
use crate::model::document::Reader;
use crate::model::origin::Host;

/// `[admin]`: the port of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Whether it is there at all.
    pub enabled: bool,
    /// Where it listens.
    pub address: SocketAddr,
    /// `Host` values beside IP literals and `localhost`.
    pub host_names: Vec<Host>,
    /// TLS, where it has a certificate.
    pub tls: Option<ListenerTls>,
    /// How people come in.
    pub people: PeopleSettings,
}

impl Default for AdminSettings {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 7879));
        let people = PeopleSettings::default();
        AdminSettings { enabled: true, address, host_names: Vec::new(), tls: None, people }
    }
}

impl AdminSettings {
    pub(super) fn read(reader: Reader<'_>, folder: &Path) -> Self {
        let absent = AdminSettings::default();
        let settings = AdminSettings {
            enabled: reader.flag("enabled").unwrap_or(absent.enabled),
            address: socket_address(&reader, "address").unwrap_or(absent.address),
            host_names: reader.parsed_list("host_names"),
            tls: reader.table("tls").and_then(|tls| ListenerTls::read(tls, folder)),
            people: PeopleSettings::read(&reader, folder),
        };
        reader.finish();
        settings
    }

    /// Its address as a listener's, to compare the two.
    pub(super) fn listener_address(&self) -> Address {
        Address::Tcp(self.address)
    }
}
