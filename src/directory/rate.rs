//! Rates: how many requests may go over a connection, and how long one that came too soon has to wait.
//!
//! A bucket is one number: the moment at which it was last empty, as if it had been filling ever since. What is over the
//! brim is cut off when the number is read; spending moves it on by the time that one request takes to come back. All
//! workers share it without a lock. The number means something under every quota: an empty bucket is empty under each,
//! so that no change of a quota locks anybody out; nor does one refill, see [`Rates`].
//!
//! Where several limits hold for one request, none may be spent if another refuses: [`Limiter::check`] each, then
//! [`Limiter::spend`] each, and [`Limiter::refund`] what was spent if somebody else was faster at a later one.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::model::id::ConnectionId;
use crate::model::integration::Limit;

const SECOND: u64 = 1_000_000_000;
/// What the clock shows when it starts: longer after zero than any bucket takes to fill, so that zero is "full".
const START: u64 = 1 << 60;
/// Below this many buckets none is looked for that could go.
const FEW: usize = 64;

/// So many requests at once, and then one each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    burst: NonZeroU32,
    /// Nanoseconds, rounded up: never more than the limit says, and by less than a thousandth less.
    interval: NonZeroU64,
}

impl Quota {
    /// Of a limit as it is configured. A limit knows no 0; one would be read as 1.
    pub fn new(limit: Limit) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let interval = SECOND.div_ceil(at_least_one(limit.per_second).get().into());
        Quota { burst: at_least_one(limit.burst), interval: NonZeroU64::new(interval).unwrap_or(NonZeroU64::MIN) }
    }

    /// How many requests may come at once.
    pub fn burst(self) -> u32 {
        self.burst.get()
    }

    /// In how many seconds an empty bucket is full again, rounded up: `burst` requests pass in every such window.
    pub fn window_seconds(self) -> u64 {
        self.window().div_ceil(SECOND)
    }

    /// In how many nanoseconds an empty bucket is full again; at most a million times a second.
    fn window(self) -> u64 {
        u64::from(self.burst.get()) * self.interval.get()
    }
}

/// Decides about one request: when the bucket was empty once the request has passed, or how long it has to wait.
fn decide(empty_at: u64, now: u64, quota: Quota) -> Result<u64, NonZeroU64> {
    let brim = now.saturating_sub(quota.window());
    let next = empty_at.max(brim) + quota.interval.get();
    match NonZeroU64::new(next.saturating_sub(now)) {
        None => Ok(next),
        Some(wait) => Err(wait),
    }
}

/// What a limit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A connection, whoever uses it.
    Connection,
}

impl Holder {
    /// The word for it in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Holder::Connection => "connection",
        }
    }
}

/// A limit that a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose it is.
    pub holder: Holder,
    /// The limit.
    pub quota: Quota,
    /// After exactly this long a request passes, unless another one takes its place.
    pub wait: Duration,
}

impl Exceeded {
    /// The wait in whole seconds, rounded up; at least 1.
    pub fn retry_after(&self) -> u64 {
        let seconds = self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0);
        seconds.max(1)
    }
}

/// Proof that a request was counted; not `Clone`, so that it is given back once at most.
#[derive(Debug)]
pub struct Spent {
    interval: NonZeroU64,
}

#[derive(Debug, Default)]
struct Bucket {
    empty_at: AtomicU64,
}

impl Bucket {
    /// Goes over to another quota. What came in slowly is not reckoned as if it had come in fast: nothing is gained.
    fn change(&self, now: u64, old: Quota, new: Quota) {
        let held_back = |empty_at: u64| {
            let level = now.saturating_sub(empty_at).min(old.window());
            let scaled = u128::from(level) * u128::from(new.interval.get()) / u128::from(old.interval.get());
            Some(empty_at.max(now.saturating_sub(u64::try_from(scaled).unwrap_or(u64::MAX))))
        };
        let _always_some = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, held_back);
    }

    fn is_full(&self, now: u64, window: u64) -> bool {
        self.empty_at.load(Ordering::Relaxed) <= now.saturating_sub(window)
    }
}

/// A quota on a bucket. What is limited holds it; others may hold the same bucket, with the quota as they know it.
#[derive(Debug)]
pub struct Limiter {
    bucket: Arc<Bucket>,
    quota: Quota,
    clock: Clock,
}

impl Limiter {
    /// Whether a request would pass, without spending anything.
    pub fn check(&self, now: Instant) -> Result<(), Exceeded> {
        let empty_at = self.bucket.empty_at.load(Ordering::Relaxed);
        match decide(empty_at, self.clock.at(now), self.quota) {
            Ok(_) => Ok(()),
            Err(wait) => Err(self.exceeded(wait)),
        }
    }

    /// Counts a request, or says why it must not pass; then nothing is spent.
    pub fn spend(&self, now: Instant) -> Result<Spent, Exceeded> {
        let now = self.clock.at(now);
        // Nothing else is published by the number, so its own order of changes is enough.
        let mut empty_at = self.bucket.empty_at.load(Ordering::Relaxed);
        loop {
            let next = decide(empty_at, now, self.quota).map_err(|wait| self.exceeded(wait))?;
            match self.bucket.empty_at.compare_exchange_weak(empty_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Spent { interval: self.quota.interval }),
                Err(moved) => empty_at = moved,
            }
        }
    }

    /// Gives back what was spent of this bucket for a request that was not sent. A bucket that has filled up meanwhile
    /// does not run over.
    pub fn refund(&self, spent: Spent) {
        self.bucket.empty_at.fetch_sub(spent.interval.get(), Ordering::Relaxed);
    }

    fn exceeded(&self, wait: NonZeroU64) -> Exceeded {
        Exceeded { holder: Holder::Connection, quota: self.quota, wait: Duration::from_nanos(wait.get()) }
    }
}

/// Nanoseconds since a moment of its own, on the clock that nobody sets.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn at(self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.0);
        START + since.as_secs() * SECOND + u64::from(since.subsec_nanos())
    }
}

/// The buckets of all connections. A bucket outlives the routes that held it, so that neither eviction from a cache nor
/// a reload refills it, nor a new quota; one that is full and that nobody holds is as good as none, and goes when the table grows.
#[derive(Debug)]
pub struct Rates {
    clock: Clock,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    buckets: HashMap<ConnectionId, Kept>,
    /// As many buckets as call for a look at which of them can go.
    many: usize,
}

#[derive(Debug)]
struct Kept {
    bucket: Arc<Bucket>,
    /// The latest quota.
    quota: Quota,
    /// The longest time that it takes to fill, of all quotas it was used with.
    window: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Rates { clock: Clock(Instant::now()), table: Mutex::default() }
    }
}

impl Rates {
    /// A limiter on the connection's bucket, which is the same for all routes of the connection.
    pub fn limiter(&self, connection: ConnectionId, quota: Quota) -> Limiter {
        self.limiter_at(connection, quota, Instant::now())
    }

    fn limiter_at(&self, connection: ConnectionId, quota: Quota, now: Instant) -> Limiter {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = self.clock.at(now);
        if table.buckets.len() >= table.many.max(FEW) {
            table.sweep(instant);
        }
        let kept = table.buckets.entry(connection).or_insert_with(|| Kept { bucket: Arc::default(), quota, window: 0 });
        kept.window = kept.window.max(quota.window());
        let before = std::mem::replace(&mut kept.quota, quota);
        if before != quota {
            kept.bucket.change(instant, before, quota);
        }
        Limiter { bucket: Arc::clone(&kept.bucket), quota, clock: self.clock }
    }
}

impl Table {
    /// Drops what is as good as none. A bucket that only the table holds stays so while the table is locked.
    fn sweep(&mut self, now: u64) {
        self.buckets.retain(|_, kept| Arc::strong_count(&kept.bucket) > 1 || !kept.bucket.is_full(now, kept.window));
        self.many = 2 * self.buckets.len();
        self.buckets.shrink_to(self.many);
    }
}

#[cfg(test)]
mod tests;
