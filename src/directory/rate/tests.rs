//! Limits on a clock that is moved by hand.

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

use super::*;

fn quota(per_second: u32, burst: u32) -> Quota {
    Quota::new(Limit { per_second, burst })
}

/// Limiters of one registry, and a clock that is moved by hand.
struct Stage {
    rates: Rates,
    connection: ConnectionId,
    now: Instant,
}

impl Stage {
    fn new() -> Self {
        let rates = Rates::default();
        let now = Instant::now();
        Stage { rates, connection: ConnectionId::generate(), now }
    }

    fn limiter(&self, per_second: u32, burst: u32) -> Limiter {
        self.rates.limiter_at(Owner::connection(self.connection), quota(per_second, burst), self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// How many requests pass now.
    fn flood(&self, limiter: &Limiter) -> u32 {
        (0..).take_while(|_| limiter.spend(self.now).is_ok()).count().try_into().unwrap()
    }
}

fn quotas() -> impl Strategy<Value = Quota> {
    (1..=1_000_000_u32, 1..=1_000_000_u32).prop_map(|(per_second, burst)| quota(per_second, burst))
}

fn small_quotas() -> impl Strategy<Value = Quota> {
    (1..=1_000_u32, 1..=50_u32).prop_map(|(per_second, burst)| quota(per_second, burst))
}

proptest! {
    /// Whenever requests come, at most `burst + rate * time` of them pass, in every window that begins with the first.
    #[test]
    fn never_more_than_the_limit(quota in small_quotas(), gaps in proptest::collection::vec(0..200_000_000_u64, 1..400)) {
        let (mut empty_at, mut now) = (0, START);
        let mut passed = Vec::new();
        for gap in gaps {
            now += gap;
            if let Ok(next) = decide(empty_at, now, quota) {
                empty_at = next;
                passed.push(now);
            }
        }
        for (first, begin) in passed.iter().enumerate() {
            for (last, end) in passed.iter().enumerate().skip(first) {
                let earned = (end - begin) / quota.interval.get();
                prop_assert!((last - first + 1) as u64 <= u64::from(quota.burst()) + earned);
            }
        }
    }

    /// After exactly the wait a request passes; a nanosecond earlier none does.
    #[test]
    fn the_wait_is_the_truth(quota in quotas(), empty_for in 0..2_000_000_000_u64) {
        let now = START + 5 * SECOND;
        let empty_at = now.saturating_sub(empty_for % quota.interval.get());
        let wait = decide(empty_at, now, quota).unwrap_err().get();
        prop_assert!(decide(empty_at, now + wait, quota).is_ok());
        prop_assert_eq!(decide(empty_at, now + wait - 1, quota), Err(NonZeroU64::MIN));
    }

    /// A full bucket holds the burst and not one more, however long it has been full.
    #[test]
    fn a_full_bucket_holds_the_burst(quota in small_quotas(), idle in 0..u64::from(u32::MAX)) {
        let (mut empty_at, now) = (0, START + idle * 1_000);
        for _ in 0..quota.burst() {
            empty_at = decide(empty_at, now, quota).unwrap();
        }
        prop_assert_eq!(decide(empty_at, now, quota), Err(quota.interval));
    }

    /// No change of the quota gives anybody more than was there, nor makes anybody wait longer than one interval.
    #[test]
    fn a_changed_quota_neither_refills_nor_locks_out(
        old in small_quotas(), new in quotas(), left in 0..50_u32, since in 0..2_000_000_000_u64
    ) {
        let now = START + 5 * SECOND;
        let bucket = Bucket { empty_at: AtomicU64::new(now - (u64::from(left) * old.interval.get() + since)) };
        let count = |mut empty_at: u64, quota| {
            (0..100_u32).take_while(|_| decide(empty_at, now, quota).is_ok_and(|next| { empty_at = next; true })).count()
        };
        let before = count(bucket.empty_at.load(Ordering::Relaxed), old);
        bucket.change(now, old, new);
        let empty_at = bucket.empty_at.load(Ordering::Relaxed);
        prop_assert!(empty_at <= now && count(empty_at, new) <= before);
        if let Err(wait) = decide(empty_at, now, new) {
            prop_assert!(wait <= new.interval);
        }
    }
}

#[test]
fn the_burst_at_once_and_then_one_each_interval() {
    let mut stage = Stage::new();
    let limiter = stage.limiter(10, 20);
    assert_eq!(stage.flood(&limiter), 20);
    let exceeded = limiter.check(stage.now).unwrap_err();
    assert_eq!((exceeded.wait, exceeded.retry_after()), (Duration::from_millis(100), 1));
    stage.pass(Duration::from_millis(99));
    assert_eq!(stage.flood(&limiter), 0);
    for _ in 0..100 {
        stage.pass(Duration::from_millis(50));
        stage.flood(&limiter);
    }
    // 20/s for 10 s at 10/s.
    let passed: u32 = (0..200)
        .map(|_| {
            stage.pass(Duration::from_millis(50));
            stage.flood(&limiter)
        })
        .sum();
    assert_eq!(passed, 100);
    stage.pass(Duration::from_secs(86_400 * 365));
    assert_eq!(stage.flood(&limiter), 20);
}

#[test]
fn looking_spends_nothing() {
    let stage = Stage::new();
    let limiter = stage.limiter(1, 1);
    for _ in 0..10 {
        limiter.check(stage.now).unwrap();
    }
    limiter.spend(stage.now).unwrap();
    assert_eq!(limiter.check(stage.now).unwrap_err().wait, Duration::from_secs(1));
}

#[test]
fn seconds_are_rounded_up_for_headers() {
    let wait = |wait| Exceeded { holder: Holder::Connection, quota: quota(1, 1), wait }.retry_after();
    assert_eq!(wait(Duration::from_nanos(1)), 1);
    assert_eq!(wait(Duration::from_secs(3)), 3);
    assert_eq!(wait(Duration::new(3, 1)), 4);
    assert_eq!(quota(10, 20).window_seconds(), 2);
    assert_eq!(quota(10, 21).window_seconds(), 3);
    assert_eq!(quota(1_000_000, 1).window_seconds(), 1);
}

#[test]
fn routes_of_one_connection_share_a_bucket_and_others_do_not() {
    let stage = Stage::new();
    let (one, same) = (stage.limiter(1, 4), stage.limiter(1, 4));
    assert_eq!(stage.flood(&one), 4);
    assert_eq!(stage.flood(&same), 0);
    assert_eq!(
        stage.flood(&stage.rates.limiter_at(Owner::connection(ConnectionId::generate()), quota(1, 4), stage.now)),
        4
    );
}

#[test]
fn a_bucket_outlives_its_routes_and_a_changed_quota_holds_at_once() {
    let mut stage = Stage::new();
    let limiter = stage.limiter(1, 5);
    assert_eq!(stage.flood(&limiter), 5);
    drop(limiter);
    assert_eq!(stage.flood(&stage.limiter(1, 5)), 0, "evicted and loaded again");
    let raised = stage.limiter(100, 50);
    assert_eq!(stage.flood(&raised), 0);
    stage.pass(Duration::from_millis(10));
    assert_eq!(stage.flood(&raised), 1, "the new rate counts from the change, without a debt of the old one");
    drop(raised);
    let slow = stage.limiter(1, 50);
    stage.pass(Duration::from_millis(900));
    assert_eq!(stage.flood(&slow), 0);
    let raised = stage.limiter(100, 50);
    assert_eq!(stage.flood(&raised), 0, "what came in slowly is not reckoned as if it had come in fast");
    stage.pass(Duration::from_secs(10));
    let lowered = stage.limiter(1, 2);
    assert_eq!(stage.flood(&lowered), 2);
    assert_eq!(stage.flood(&raised), 0, "a route of before sees what was spent");
}

#[test]
fn a_refund_gives_back_what_was_spent_and_never_more_than_the_burst() {
    let mut stage = Stage::new();
    let limiter = stage.limiter(1, 3);
    let spent: Vec<_> = (0..3).map(|_| limiter.spend(stage.now).unwrap()).collect();
    for spent in spent {
        limiter.refund(spent);
    }
    assert_eq!(stage.flood(&limiter), 3);
    stage.pass(Duration::from_secs(60));
    let spent = limiter.spend(stage.now).unwrap();
    stage.pass(Duration::from_secs(60));
    limiter.refund(spent);
    assert_eq!(stage.flood(&limiter), 3);
}

#[test]
fn buckets_that_are_as_good_as_none_go_and_no_others() {
    let mut stage = Stage::new();
    let held = stage.limiter(1, 1);
    let drained = ConnectionId::generate();
    let limiter = stage.rates.limiter_at(Owner::connection(drained), quota(1, 1_000_000), stage.now);
    assert!(limiter.spend(stage.now).is_ok() && limiter.spend(stage.now).is_ok());
    drop(limiter);
    for _ in 0..10_000 {
        let passing = stage.rates.limiter_at(Owner::connection(ConnectionId::generate()), quota(1_000, 1), stage.now);
        passing.spend(stage.now).unwrap();
        stage.pass(Duration::from_millis(1));
    }
    let table = stage.rates.0.lock().unwrap();
    let kept = table.buckets.len();
    assert!(kept <= FEW && table.buckets.capacity() <= 4 * FEW, "{kept}");
    let find = |connection| table.buckets.iter().find(|kept| kept.owner() == Owner::connection(connection));
    assert!(Arc::ptr_eq(&find(stage.connection).unwrap().bucket, &held.bucket), "somebody holds it");
    // Two of a million at one a second: it was full again after two seconds, and was not kept longer than that.
    assert!(find(drained).is_none());
    drop(table);
    assert_eq!(stage.flood(&held), 1);
    let again = stage.limiter(1, 1);
    drop(held);
    for _ in 0..200 {
        drop(stage.rates.limiter_at(Owner::connection(ConnectionId::generate()), quota(1_000, 1), stage.now));
    }
    assert_eq!(stage.flood(&again), 0);
    drop(again);
    for _ in 0..200 {
        drop(stage.rates.limiter_at(Owner::connection(ConnectionId::generate()), quota(1_000, 1), stage.now));
    }
    assert_eq!(stage.flood(&stage.limiter(1, 1)), 0, "nobody held it, and it was not full");
}

/// Many threads at once, on a clock that stands still: exactly the burst passes.
#[test]
fn no_race_lets_one_more_through() {
    const BURST: u32 = 20_000;
    let stage = Stage::new();
    let passed: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let limiter = stage.limiter(1, BURST);
                scope.spawn(move || (0..BURST / 2).filter(|_| limiter.spend(stage.now).is_ok()).count() as u32)
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, BURST);
}

/// Two limits, of which a request needs both: neither is exceeded, and what the other refused is not lost.
#[test]
fn of_two_limits_none_is_spent_where_the_other_refuses() {
    const WIDE: u32 = 5_000;
    const NARROW: u32 = 3_000;
    let stage = Stage::new();
    let wide = [stage.limiter(1, WIDE)];
    let narrow = [stage.rates.limiter_at(Owner::connection(ConnectionId::generate()), quota(1, NARROW), stage.now)];
    let both = || count([&wide, &narrow], stage.now);
    let passed: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..1_000).filter(|_| both().is_ok()).count() as u32)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(passed <= NARROW, "{passed}");
    assert_eq!(passed + stage.flood(&narrow[0]), NARROW);
    assert_eq!(passed + stage.flood(&wide[0]), WIDE);
}

/// RL-01 for limits of keys: N a minute is N at once, and then one every 60/N seconds.
#[test]
fn n_a_minute_is_n_at_once_and_then_one_every_60_nth() {
    for (window, seconds) in [(Window::Minute, 60), (Window::Hour, 3_600)] {
        for requests in [1, 7, 60, 1_000, 100_000] {
            let quota = Quota::per(window, NonZeroU32::new(requests).unwrap());
            assert_eq!((quota.burst(), quota.window_seconds()), (requests, seconds), "{requests} in {seconds} s");
        }
    }
    let mut stage = Stage::new();
    let seven = Quota::per(Window::Minute, NonZeroU32::new(7).unwrap());
    let limiter = stage.rates.limiter_at(Owner::key(ApiKeyId::generate(), Window::Minute), seven, stage.now);
    assert_eq!(stage.flood(&limiter), 7);
    assert_eq!(limiter.check(stage.now).unwrap_err().holder, Holder::Key(Window::Minute));
    for _ in 0..20 {
        stage.pass(Duration::from_nanos(60 * SECOND / 7 - 1));
        assert_eq!(stage.flood(&limiter), 0);
        stage.pass(Duration::from_nanos(2));
        assert_eq!(stage.flood(&limiter), 1);
    }
}

#[test]
fn where_several_refuse_the_longest_wait_is_told() {
    let stage = Stage::new();
    let limits = |minute, hour| RequestLimits { per_minute: NonZeroU32::new(minute), per_hour: NonZeroU32::new(hour) };
    let key = stage.rates.limiters_of_key(ApiKeyId::generate(), &limits(1, 1));
    let organization = stage.rates.limiters_of_organization(OrganizationId::generate(), &limits(0, 1));
    let all: [&[Limiter]; 2] = [&key, &organization];
    assert_eq!((key.len(), organization.len()), (2, 1));
    let counted = count(all, stage.now).unwrap();
    let exceeded = count([&key[..1], &[]], stage.now).unwrap_err();
    assert_eq!((exceeded.holder, exceeded.quota.window_seconds()), (Holder::Key(Window::Minute), 60));
    assert!(count(all, stage.now).unwrap_err().wait > Duration::from_secs(3_500));
    counted.refund(all.into_iter().flatten());
    assert!(count(all, stage.now).is_ok());
    assert_eq!(count([&[], &organization], stage.now).unwrap_err().holder, Holder::Organization(Window::Hour));
}

/// RL-08
#[test]
fn a_changed_limit_of_a_key_does_not_refill_it_rl_08() {
    let stage = Stage::new();
    let id = ApiKeyId::generate();
    let limiter = |requests| {
        let limits = RequestLimits { per_minute: NonZeroU32::new(requests), per_hour: None };
        stage.rates.limiters_of_key(id, &limits).into_vec().remove(0)
    };
    assert_eq!(stage.flood(&limiter(50)), 50);
    for requests in [10, 100, 50, 1_000, 1] {
        assert!(stage.flood(&limiter(requests)) <= 1, "{requests}");
    }
}
