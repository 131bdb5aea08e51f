//! Who did what: the author of a change.

use std::net::IpAddr;

/// Who makes a change, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// `apk_…`, `usr_…`, or the name of a part of Sidekey that acts by itself, such as `system`.
    pub actor: String,
    /// Where the request came from; `None` where it came through no network.
    pub address: Option<IpAddr>,
    /// The request's; empty where there was none.
    pub request_id: String,
}

impl Author {
    /// A part of Sidekey that acts by itself, or by a command on the vault's own machine.
    pub fn system(name: &str) -> Self {
        Author { actor: name.to_owned(), address: None, request_id: String::new() }
    }
}
