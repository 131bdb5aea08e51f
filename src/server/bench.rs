//! The data plane of the control runtime: what administrators try goes through it, and nobody else's requests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::proxy::record::Reporter;
use crate::proxy::trial::Trials;
use crate::proxy::usage::Wanted;
use crate::proxy::{Proxy, Shared};
use crate::upstream::{self, Upstream};

/// What it is made of.
pub(super) struct Setup {
    pub(super) shared: Arc<Shared>,
    pub(super) upstream: Arc<upstream::Settings>,
    pub(super) reporter: Reporter,
    pub(super) usage_interval: Duration,
    pub(super) asked: UnboundedReceiver<Wanted>,
    pub(super) sweep_interval: Duration,
    pub(super) drain: CancellationToken,
}

/// Makes trials until the server drains. Call it on the control runtime.
pub(super) fn serve(trials: Trials, setup: Setup) {
    tokio::task::spawn_local(async move {
        let reporter = Rc::new(setup.reporter);
        let shared = Arc::clone(&setup.shared);
        let proxy = Rc::new(Proxy::new(setup.shared, Upstream::new(setup.upstream), Rc::clone(&reporter)));
        let sweep = async {
            loop {
                clock::sleep(setup.sweep_interval).await;
                proxy.sweep();
                // Nobody's worker has a time for what all of them share.
                shared.directory.sweep().await;
                shared.credentials.sweep().await;
            }
        };
        tokio::select! {
            () = trials.make(Rc::clone(&proxy)) => {}
            () = reporter.access.keep_flushing() => {}
            () = reporter.uses.keep_handing_over(setup.usage_interval, setup.asked) => {}
            () = sweep => {}
            () = setup.drain.cancelled() => {}
        }
        reporter.access.flush();
        reporter.uses.hand_over();
    });
}
