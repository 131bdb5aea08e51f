//! Deadlines that cost nothing while they are kept.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::clock::{Instant, Sleep, sleep_until};

/// A timer that is moved only when it must be. A deadline that is later than the timer leaves the timer where it is, and
/// when it fires it is armed again; so a connection that is used all the time never touches the timer wheel.
#[derive(Debug, Default)]
pub struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once `due` has passed. Polling it with another time is cheap if that is later than the last one.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}
