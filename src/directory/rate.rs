//! Rates: how many requests may go over a connection, may be made with a key, and may be made by all callers of an
//! organization; and how long one that came too soon has to wait.
//!
//! A bucket is one number: the moment at which it was last empty, as if it had been filling ever since. What is over the
//! brim is cut off when the number is read; spending moves it on by the time that one request takes to come back. All
//! workers share it without a lock. The number means something under every quota: an empty bucket is empty under each,
//! so that no change of a quota locks anybody out; nor does one refill, see [`Rates`].
//!
//! Where several limits hold for one request, none is spent if another refuses: [`count`] checks each, then spends each,
//! and gives back what was spent if somebody else was faster at a later one.

use std::hash::BuildHasher;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::model::api_key::RequestLimits;
use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
use crate::model::integration::Limit;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// What the clock shows when it starts: longer after zero than any bucket takes to fill, so that zero is "full".
const START: u64 = 1 << 60;
/// Below this many buckets none is looked for that could go.
const FEW: usize = 64;

/// The time that a limit of requests is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// 60 seconds.
    Minute,
    /// 3,600 seconds.
    Hour,
}

impl Window {
    const fn nanoseconds(self) -> u64 {
        match self {
            Window::Minute => 60 * SECOND,
            Window::Hour => 3_600 * SECOND,
        }
    }
}

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

    /// So many at once, and then one each time that the window has room for.
    pub fn per(window: Window, requests: NonZeroU32) -> Self {
        let interval = window.nanoseconds().div_ceil(requests.get().into());
        Quota { burst: requests, interval: NonZeroU64::new(interval).unwrap_or(NonZeroU64::MIN) }
    }

    /// How many requests may come at once.
    pub fn burst(self) -> u32 {
        self.burst.get()
    }

    /// In how many seconds an empty bucket is full again, rounded up: `burst` requests pass in every such window.
    pub fn window_seconds(self) -> u64 {
        // Each interval was rounded up by less than a nanosecond, which shall not make a minute 61 seconds.
        self.window().saturating_sub(u64::from(self.burst.get()) - 1).div_ceil(SECOND).max(1)
    }

    /// In how many nanoseconds an empty bucket is full again.
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

/// What a limit belongs to, and for which time it holds where there is one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A connection, whoever uses it.
    Connection,
    /// An API key, whatever it is used for.
    Key(Window),
    /// An organization: all of its callers together.
    Organization(Window),
}

impl Holder {
    /// The name of the limit in answers; the name of a policy in `RateLimit-Policy` too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Holder::Connection => "connection",
            Holder::Key(Window::Minute) => "key_per_minute",
            Holder::Key(Window::Hour) => "key_per_hour",
            Holder::Organization(Window::Minute) => "organization_per_minute",
            Holder::Organization(Window::Hour) => "organization_per_hour",
        }
    }

    /// The same for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Holder::Connection => "the limit of this connection",
            Holder::Key(Window::Minute) => "this key's limit per minute",
            Holder::Key(Window::Hour) => "this key's limit per hour",
            Holder::Organization(Window::Minute) => "this organization's limit per minute",
            Holder::Organization(Window::Hour) => "this organization's limit per hour",
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

/// How a limit stands: what is left of it, without counting anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Whose it is.
    pub holder: Holder,
    /// The limit.
    pub quota: Quota,
    /// How many requests would pass now.
    pub left: u32,
    /// After how long the next one passes, where none would now.
    pub wait: Option<Duration>,
}

impl Allowance {
    /// The refusal that a request would meet now.
    pub fn exceeded(&self) -> Option<Exceeded> {
        self.wait.map(|wait| Exceeded { holder: self.holder, quota: self.quota, wait })
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

/// Whose a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    /// Of a connection, a key or an organization, as the holder says.
    id: u128,
    holder: Holder,
}

impl Owner {
    fn connection(id: ConnectionId) -> Self {
        Owner { id: u128::from_ne_bytes(id.to_bytes()), holder: Holder::Connection }
    }

    fn key(id: ApiKeyId, window: Window) -> Self {
        Owner { id: u128::from_ne_bytes(id.to_bytes()), holder: Holder::Key(window) }
    }

    fn organization(id: OrganizationId, window: Window) -> Self {
        Owner { id: u128::from_ne_bytes(id.to_bytes()), holder: Holder::Organization(window) }
    }
}

/// A quota on a bucket. What is limited holds it; others may hold the same bucket, with the quota as they know it.
#[derive(Debug)]
pub struct Limiter {
    holder: Holder,
    bucket: Arc<Bucket>,
    quota: Quota,
}

impl Limiter {
    /// Whether a request would pass, without spending anything.
    pub fn check(&self, now: Instant) -> Result<(), Exceeded> {
        self.check_at(nanoseconds(now))
    }

    fn check_at(&self, now: u64) -> Result<(), Exceeded> {
        let empty_at = self.bucket.empty_at.load(Ordering::Relaxed);
        decide(empty_at, now, self.quota).map(drop).map_err(|wait| self.exceeded(wait))
    }

    /// The same in one comparison: a bucket that is full has room whatever its brim is.
    fn has_room(&self, now: u64) -> bool {
        let empty_at = self.bucket.empty_at.load(Ordering::Relaxed);
        empty_at.saturating_add(self.quota.interval.get()) <= now
    }

    /// How it stands now.
    pub fn allowance(&self, now: Instant) -> Allowance {
        let (empty_at, instant) = (self.bucket.empty_at.load(Ordering::Relaxed), nanoseconds(now));
        let level = instant.saturating_sub(empty_at).min(self.quota.window());
        let left = u32::try_from(level / self.quota.interval).unwrap_or(u32::MAX);
        let wait = self.check(now).err().map(|exceeded| exceeded.wait);
        Allowance { holder: self.holder, quota: self.quota, left, wait }
    }

    /// Counts a request, or says why it must not pass; then nothing is spent.
    pub fn spend(&self, now: Instant) -> Result<Spent, Exceeded> {
        self.spend_at(nanoseconds(now))
    }

    fn spend_at(&self, now: u64) -> Result<Spent, Exceeded> {
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
        Exceeded { holder: self.holder, quota: self.quota, wait: Duration::from_nanos(wait.get()) }
    }
}

/// Proof that a request was counted by several limits; not `Clone`, so that it is given back once at most.
#[derive(Debug)]
pub struct Counted(());

impl Counted {
    /// Gives back what the same limits have counted, for a request that was not sent.
    pub fn refund<'a>(self, limiters: impl Iterator<Item = &'a Limiter>) {
        limiters.for_each(|limiter| limiter.refund(Spent { interval: limiter.quota.interval }));
    }
}

/// Counts a request that several limits hold for: all of them, or none. Where several refuse, the one that does so for
/// longest is told, for nothing passes before that.
pub fn count(limiters: [&[Limiter]; 2], now: Instant) -> Result<Counted, Exceeded> {
    let now = nanoseconds(now);
    if let [[], [only]] = limiters {
        return only.spend_at(now).map(|_| Counted(()));
    }
    let have_room = |limiters: &[Limiter]| limiters.iter().all(|limiter| limiter.has_room(now));
    if !limiters.into_iter().all(have_room)
        && let Some(exceeded) = longest_wait(limiters, now)
    {
        return Err(exceeded);
    }
    let mut spent = 0;
    for limiters_of_one in limiters {
        for limiter in limiters_of_one {
            if let Err(exceeded) = limiter.spend_at(now) {
                // Somebody else was faster.
                Counted(()).refund(limiters.into_iter().flatten().take(spent));
                return Err(exceeded);
            }
            spent += 1;
        }
    }
    Ok(Counted(()))
}

/// Of the limits that refuse a request, the one that does so for longest; none where one was given back meanwhile.
#[cold]
fn longest_wait(limiters: [&[Limiter]; 2], now: u64) -> Option<Exceeded> {
    let refusing = limiters.into_iter().flatten().filter_map(|limiter| limiter.check_at(now).err());
    refusing.max_by_key(|exceeded| exceeded.wait)
}

/// When the clock began: before there was any bucket, see [`Rates::default`].
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since a moment of the process's own, on the clock that nobody sets.
fn nanoseconds(now: Instant) -> u64 {
    let since = now.saturating_duration_since(*BEGINNING);
    START + since.as_secs() * SECOND + u64::from(since.subsec_nanos())
}

/// The buckets of everything that is limited. A bucket outlives the routes that held it, so that neither eviction from a
/// cache nor a reload refills it, nor a new quota; one that is full and that nobody holds is as good as none, and goes
/// when the table grows.
#[derive(Debug)]
pub struct Rates(Mutex<Table>);

impl Default for Rates {
    fn default() -> Self {
        // A moment from before the clock began could not be told from its beginning.
        LazyLock::force(&BEGINNING);
        Rates(Mutex::default())
    }
}

#[derive(Debug, Default)]
struct Table {
    buckets: HashTable<Kept>,
    hasher: DefaultHashBuilder,
    /// As many buckets as call for a look at which of them can go.
    many: usize,
}

/// A bucket with its owner, whose two parts take less room here than together.
#[derive(Debug)]
struct Kept {
    id: u128,
    holder: Holder,
    bucket: Arc<Bucket>,
    /// The latest quota.
    quota: Quota,
    /// The longest time that it takes to fill, of all quotas it was used with, in whole milliseconds.
    window: u32,
}

impl Kept {
    fn new(Owner { id, holder }: Owner, quota: Quota) -> Self {
        Kept { id, holder, bucket: Arc::default(), quota, window: 0 }
    }

    fn owner(&self) -> Owner {
        Owner { id: self.id, holder: self.holder }
    }
}

impl Rates {
    /// A limiter on the connection's bucket, which is the same for all routes of the connection.
    pub fn limiter(&self, connection: ConnectionId, quota: Quota) -> Limiter {
        self.limiter_at(Owner::connection(connection), quota, Instant::now())
    }

    /// The limiters of an API key.
    pub fn limiters_of_key(&self, key: ApiKeyId, limits: &RequestLimits) -> Box<[Limiter]> {
        self.limiters(limits, |window| Owner::key(key, window))
    }

    /// The limiters of all callers of an organization together.
    pub fn limiters_of_organization(&self, organization: OrganizationId, limits: &RequestLimits) -> Box<[Limiter]> {
        self.limiters(limits, |window| Owner::organization(organization, window))
    }

    fn limiters(&self, limits: &RequestLimits, owner: impl Fn(Window) -> Owner) -> Box<[Limiter]> {
        let windows = [(Window::Minute, limits.per_minute), (Window::Hour, limits.per_hour)];
        let limiter = |(window, requests): (Window, Option<NonZeroU32>)| {
            Some(self.limiter_at(owner(window), Quota::per(window, requests?), Instant::now()))
        };
        windows.into_iter().filter_map(limiter).collect()
    }

    fn limiter_at(&self, owner: Owner, quota: Quota, now: Instant) -> Limiter {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = nanoseconds(now);
        if table.buckets.len() >= table.many.max(FEW) {
            table.sweep(instant);
        }
        let Table { buckets, hasher, .. } = &mut *table;
        let hash = |kept: &Kept| hasher.hash_one(kept.owner());
        let entry = buckets.entry(hasher.hash_one(owner), |kept| kept.owner() == owner, hash);
        let kept = entry.or_insert_with(|| Kept::new(owner, quota)).into_mut();
        // A million at one a second is the slowest there is: twelve days.
        kept.window = kept.window.max(u32::try_from(quota.window().div_ceil(MILLISECOND)).unwrap_or(u32::MAX));
        let before = std::mem::replace(&mut kept.quota, quota);
        if before != quota {
            kept.bucket.change(instant, before, quota);
        }
        Limiter { holder: owner.holder, bucket: Arc::clone(&kept.bucket), quota }
    }
}

impl Table {
    /// Drops what is as good as none. A bucket that only the table holds stays so while the table is locked.
    fn sweep(&mut self, now: u64) {
        let is_of_use = |kept: &mut Kept| {
            Arc::strong_count(&kept.bucket) > 1 || !kept.bucket.is_full(now, u64::from(kept.window) * MILLISECOND)
        };
        self.buckets.retain(is_of_use);
        self.many = 2 * self.buckets.len();
        self.buckets.shrink_to(self.many, |kept| self.hasher.hash_one(kept.owner()));
    }
}

#[cfg(test)]
mod tests;
