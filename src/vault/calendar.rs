//! The time of day that expiry is judged by: it never goes back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::model::moment::Moment;

/// A clock that follows the system's forwards only. Where somebody sets the system's clock back, it goes on at the speed
/// of the clock that nobody sets, so nothing that has expired comes back.
#[derive(Debug)]
pub(super) struct Calendar {
    began: (Instant, Moment),
    latest: AtomicI64,
}

impl Default for Calendar {
    fn default() -> Self {
        Calendar { began: (Instant::now(), Moment::now()), latest: AtomicI64::new(0) }
    }
}

impl Calendar {
    /// Now.
    pub(super) fn now(&self) -> Moment {
        self.at(Moment::now(), self.began.0.elapsed())
    }

    /// What time it is when the system's clock shows this and so much has passed since the beginning.
    fn at(&self, shown: Moment, passed: Duration) -> Moment {
        let now = shown.max(self.began.1.after(passed)).milliseconds();
        Moment::from_milliseconds(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_brings_nothing_back_ak_07() {
        let calendar = Calendar::default();
        let hour = Duration::from_secs(3600);
        let begin = calendar.began.1;
        let end = begin.after(Duration::from_secs(1));
        assert!(calendar.at(begin, Duration::ZERO) < end);
        assert!(calendar.at(begin.after(Duration::from_secs(2)), Duration::from_secs(2)) > end);
        let back = Moment::from_milliseconds(begin.milliseconds() - 3_600_000);
        assert!(calendar.at(back, Duration::from_secs(3)) > end);
        assert!(calendar.at(back, hour) >= begin.after(hour), "it goes on all the same");
        let ahead = calendar.at(begin.after(10 * hour), hour);
        assert_eq!(calendar.at(begin, hour), ahead);
    }
}
