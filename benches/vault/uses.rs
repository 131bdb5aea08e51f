//! Requests for connections of a vault.

use std::time::Duration;

use crate::Fault;
use crate::fill::{Filled, connection_key, token};
use crate::http::Client;

/// How many connections are hot.
pub(crate) const HOT: usize = 10_000;

/// Whose connection, with which key, and its number.
pub(crate) type Use<'a> = (&'a str, Option<&'a str>, usize);

/// One request for each.
pub(crate) fn round(client: &mut Client, uses: &[Use<'_>]) -> Result<Vec<Duration>, Fault> {
    uses.iter().map(|(tenant, key, number)| ask(client, tenant, *key, *number)).collect()
}

/// The connections that are hot: all of each organization that has a key, but for its last, which [`use_keys`] uses.
pub(crate) fn hot(filled: &Filled) -> Vec<Use<'_>> {
    let numbers = 0..filled.each();
    let uses = filled
        .keyed
        .iter()
        .flat_map(|(tenant, key)| numbers.clone().map(move |number| (tenant.as_str(), Some(key.as_str()), number)));
    uses.take(HOT.min(filled.count)).filter(|(.., number)| *number + 1 < filled.each()).collect()
}

/// One use of another connection for each key: a key's own first use is no connection's.
pub(crate) fn use_keys(client: &mut Client, filled: &Filled) -> Result<(), Fault> {
    for (tenant, key) in &filled.keyed {
        ask(client, tenant, Some(key), filled.each() - 1)?;
    }
    Ok(())
}

/// One request; the upstream must have been given that connection's credential.
fn ask(client: &mut Client, tenant: &str, key: Option<&str>, number: usize) -> Result<Duration, Fault> {
    let key = key.map(|key| format!("Sidekey-Key: {key}\r\n")).unwrap_or_default();
    let fields = format!("Sidekey-Connection: {}\r\n{key}", connection_key(number));
    let answer = client.succeed("GET /things", &fields, None)?;
    if answer.body == token(tenant, number) {
        return Ok(answer.took);
    }
    Err(format!("connection {number} of {tenant} was sent with {}", answer.body).into())
}
