//! A notice board: state that one task writes and a test awaits, without polling.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::{PATIENCE, within};

/// State whose every change wakes those who wait for it to become what they want.
pub struct Board<T> {
    state: Mutex<T>,
    changed: watch::Sender<()>,
}

impl<T> Board<T> {
    /// A board that shows `state`.
    pub fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: watch::Sender::new(()) }
    }

    /// Looks at the state as it is now.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the state and wakes everyone who waits.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Waits until `find` finds something, and panics naming `what` when that takes longer than the usual patience.
    pub async fn wait<R>(&self, what: &str, find: impl FnMut(&mut T) -> Option<R>) -> R {
        self.wait_within(PATIENCE, what, find).await
    }

    /// `wait` with a limit of its own.
    pub async fn wait_within<R>(&self, limit: Duration, what: &str, find: impl FnMut(&mut T) -> Option<R>) -> R {
        within(limit, what, self.found(find)).await
    }

    /// Waits without a deadline: for tasks that are themselves under one.
    pub async fn found<R>(&self, mut find: impl FnMut(&mut T) -> Option<R>) -> R {
        // Subscribing comes first: a change between the look and the wait must wake us.
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(found) = find(&mut self.lock()) {
                return found;
            }
            changes.changed().await.expect("a board keeps its own sender");
        }
    }

    // A panic in one test's closure must not turn every later look into a second, misleading panic.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
