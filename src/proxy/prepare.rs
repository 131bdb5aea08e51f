//! Making ready what is declared: when a worker has started, a first request over a declared connection is to cost no more
//! than the next one.

use std::time::Instant;

use http::Method;
use tokio::task::yield_now;

use super::Proxy;
use super::gate::Gate;
use crate::directory::{Aim, Caller, Named, Wanted};
use crate::model::connection::Connection;
use crate::model::id::Reference;

/// How many connections are made ready at most. They take memory of every worker until they are swept, unused.
const MOST: usize = 16_384;
/// How many are, before whatever else waits has its turn.
const AT_ONCE: usize = 16;

impl Proxy {
    /// Finds the routes of declared connections and renders their credentials, as far as callers of a listener may use
    /// them without a key and nothing must be asked of the vault.
    pub async fn prepare(&self, gate: &Gate) {
        let declared = self.shared.directory.declared(gate.scope.organization, MOST);
        for some in declared.chunks(AT_ONCE) {
            for connection in some {
                self.prepare_one(gate, connection);
            }
            yield_now().await;
        }
    }

    fn prepare_one(&self, gate: &Gate, connection: &Connection) -> Option<()> {
        let (caller, now) = (Caller::of(&gate.scope), Instant::now());
        let named = Named {
            organization: caller.organization(),
            customer: connection.customer.as_ref().map(|customer| customer.as_str()),
            reference: Reference::Key(connection.key.as_str().as_bytes()),
        };
        let kept = self.shared.directory.known(&self.known, named, now)?.ok()?;
        let wanted = Wanted {
            environment: caller.environment(None)?,
            aim: Aim::Base,
            method: &Method::GET,
            rest: "/",
            is_disguised: false,
        };
        let preview = kept.preview(&caller, wanted, now).ok()?;
        self.shared.credentials.prepare(&kept, &preview.admission);
        Some(())
    }
}
