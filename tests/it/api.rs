//! What most tests of the data plane begin with: a server with one connection, `api`, to one sink.

use crate::harness::{Config, Sidekey, Sink};

/// The tag of the connection.
pub(crate) const API: (&str, &str) = ("Sidekey-Connection", "api");

/// A server whose connection `api` goes to `sink`.
pub(crate) async fn before(sink: &Sink) -> Sidekey {
    with(sink, |_| {}).await
}

/// The same, completed by the test.
pub(crate) async fn with(sink: &Sink, describe: impl FnOnce(&mut Config)) -> Sidekey {
    Sidekey::with(|config| {
        describe(config.to(sink).bearer("api", "api-token"));
    })
    .await
}

/// A request head for the connection, without its last line: fields of the test's choice may follow.
pub(crate) fn head(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: api\r\n")
}
