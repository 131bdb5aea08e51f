//! Everything the clients of this process received, so that the end of a test can look for secrets in it.
//!
//! An upstream's own body is not kept: it passes as it is, and an upstream that echoes what it received shows the
//! credential rightly. Heads are kept in any case, and whole answers where Sidekey itself speaks.

use std::sync::{Mutex, PoisonError};

use super::{Address, Reply};

static RECEIVED: Mutex<Vec<(Address, Vec<u8>)>> = Mutex::new(Vec::new());

/// Keeps a response head.
pub(super) fn head(peer: &Address, raw: &[u8]) {
    keep(peer, raw);
}

/// Keeps a piece of a body that Sidekey itself wrote.
pub(super) fn body(peer: &Address, reply: &Reply, data: &[u8]) {
    let own = !reply.all("sidekey-error").is_empty();
    if own && !data.is_empty() {
        keep(peer, data);
    }
}

/// Keeps bytes that came from `peer`.
pub fn keep(peer: &Address, bytes: &[u8]) {
    let mut received = RECEIVED.lock().unwrap_or_else(PoisonError::into_inner);
    received.push((peer.clone(), bytes.to_vec()));
}

/// What came from `peer` so far.
pub fn from(peer: &Address) -> Vec<u8> {
    let received = RECEIVED.lock().unwrap_or_else(PoisonError::into_inner);
    received.iter().filter(|(other, _)| other == peer).flat_map(|(_, bytes)| bytes.clone()).collect()
}
