//! How often somebody may try to sign in: for each account and for each address, in bounded memory.
//!
//! Every bucket gives so many attempts at once and then one every so often (GCRA); an attempt is taken before it is
//! looked at, and given back where it succeeds, so that many at once gain nothing. What is remembered is bounded: the
//! bucket that was used least gives way, so flooding the table does not free one that was used up.
//!
//! A throttle that locked accounts would let anybody lock out anybody. So a browser in which an account was signed in
//! before keeps a mark of it and has a bucket of its own, which strangers cannot use up.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many buckets are remembered.
const MOST: usize = 16_384;

/// How many attempts are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// A minute, for each account.
    pub per_account: u32,
    /// A minute, for each address.
    pub per_address: u32,
}

/// Who tries.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The account as it was named, known or not.
    pub account: &'a str,
    /// Where from.
    pub address: IpAddr,
    /// The mark of a browser in which this account was signed in before.
    pub known_browser: Option<&'a str>,
}

/// The attempts of everybody.
#[derive(Debug)]
pub struct Throttle {
    rates: Rates,
    began: Instant,
    hasher: RandomState,
    buckets: Mutex<HashMap<u64, Duration>>,
}

impl Throttle {
    /// A throttle that has seen nobody.
    pub fn new(rates: Rates) -> Self {
        Throttle { rates, began: Instant::now(), hasher: RandomState::new(), buckets: Mutex::default() }
    }

    /// Takes an attempt, or says how long to wait. None is taken where one of its buckets has none left.
    pub fn take(&self, attempt: Attempt<'_>) -> Result<(), Duration> {
        self.take_at(attempt, self.began.elapsed())
    }

    /// Gives an attempt back: it was the right one.
    pub fn give_back(&self, attempt: Attempt<'_>) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, rate) in self.buckets_of(attempt).into_iter().flatten() {
            if let Some(filled) = buckets.get_mut(&key) {
                *filled = filled.saturating_sub(interval(rate));
            }
        }
    }

    fn take_at(&self, attempt: Attempt<'_>, now: Duration) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::with_capacity(2);
        for (key, rate) in self.buckets_of(attempt).into_iter().flatten() {
            // The bucket is empty again at `filled`; with one more attempt it must be so within a minute.
            let filled = buckets.get(&key).copied().unwrap_or_default().max(now) + interval(rate);
            let allowed = now + interval(rate) * rate.max(1);
            if filled > allowed {
                return Err(filled - allowed);
            }
            next.push((key, filled));
        }
        for (key, filled) in next {
            if buckets.len() >= MOST && !buckets.contains_key(&key) {
                make_room(&mut buckets, now);
            }
            buckets.insert(key, filled);
        }
        Ok(())
    }

    fn buckets_of(&self, attempt: Attempt<'_>) -> [Option<(u64, u32)>; 2] {
        let Rates { per_account, per_address } = self.rates;
        if let Some(mark) = attempt.known_browser {
            return [Some((self.hasher.hash_one((0, mark)), per_account)), None];
        }
        let account = self.hasher.hash_one((1, attempt.account));
        let address = self.hasher.hash_one((2, network(attempt.address)));
        [Some((account, per_account)), Some((address, per_address))]
    }
}

/// Between two attempts, once those at the beginning are used up.
fn interval(rate: u32) -> Duration {
    Duration::from_secs(60) / rate.max(1)
}

/// Whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
    }
}

fn make_room(buckets: &mut HashMap<u64, Duration>, now: Duration) {
    buckets.retain(|_, filled| *filled > now);
    if buckets.len() < MOST {
        return;
    }
    // An eighth at once: who fills the table does not make every attempt after that a look at all of it.
    let mut all: Vec<Duration> = buckets.values().copied().collect();
    let (mut going, (_, least, _)) = (MOST / 8, all.select_nth_unstable(MOST / 8));
    buckets.retain(|_, filled| {
        let goes = *filled <= *least && going > 0;
        going -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn throttle() -> Throttle {
        Throttle::new(Rates { per_account: 6, per_address: 12 })
    }

    fn attempt<'a>(account: &'a str, address: &str) -> Attempt<'a> {
        Attempt { account, address: address.parse().unwrap(), known_browser: None }
    }

    #[test]
    fn an_account_has_so_many_attempts_at_once_and_then_one_now_and_then() {
        let throttle = throttle();
        let take = |number: u32, at: Duration| throttle.take_at(attempt("ada", &format!("192.0.2.{number}")), at);
        for number in 0..6 {
            assert_eq!(take(number, SECOND), Ok(()));
        }
        assert_eq!(take(6, SECOND), Err(10 * SECOND), "from another address too");
        assert_eq!(take(7, 6 * SECOND), Err(5 * SECOND));
        assert_eq!(take(8, 11 * SECOND), Ok(()));
        assert_eq!(take(9, 11 * SECOND), Err(10 * SECOND));
        assert_eq!(throttle.take_at(attempt("bob", "192.0.2.9"), 11 * SECOND), Ok(()), "others go on");
    }

    #[test]
    fn an_address_has_so_many_attempts_over_all_accounts() {
        let throttle = throttle();
        for (at, host) in
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::1"].into_iter().cycle().take(12).enumerate()
        {
            assert_eq!(throttle.take_at(attempt(&format!("user-{at}"), host), SECOND), Ok(()));
        }
        assert_eq!(throttle.take_at(attempt("another", "2001:db8::3"), SECOND), Err(5 * SECOND));
        assert_eq!(throttle.take_at(attempt("another", "2001:db8:0:1::3"), SECOND), Ok(()));
        let mapped = attempt("x", "::ffff:192.0.2.1");
        assert_eq!(throttle.take_at(mapped, SECOND), Ok(()));
        assert_eq!(network(mapped.address), "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn nothing_is_taken_where_something_is_missing_and_what_was_right_is_given_back() {
        let throttle = throttle();
        for _ in 0..6 {
            throttle.take_at(attempt("ada", "192.0.2.1"), SECOND).unwrap();
        }
        for _ in 0..100 {
            assert!(throttle.take_at(attempt("ada", "192.0.2.2"), SECOND).is_err());
        }
        for number in 0..12 {
            let account = format!("user-{number}");
            assert_eq!(throttle.take_at(attempt(&account, "192.0.2.2"), SECOND), Ok(()), "its address paid nothing");
        }
        throttle.give_back(attempt("ada", "192.0.2.1"));
        assert_eq!(throttle.take_at(attempt("ada", "192.0.2.3"), SECOND), Ok(()));
    }

    #[test]
    fn a_known_browser_goes_on_while_strangers_try() {
        let throttle = throttle();
        while throttle.take_at(attempt("ada", "192.0.2.1"), SECOND).is_ok() {}
        let known = Attempt { known_browser: Some("mark"), ..attempt("ada", "192.0.2.1") };
        for _ in 0..6 {
            assert_eq!(throttle.take_at(known, SECOND), Ok(()));
        }
        assert!(throttle.take_at(known, SECOND).is_err(), "and is throttled by itself");
    }

    #[test]
    fn memory_is_bounded_and_a_used_up_bucket_stays_used_up() {
        let throttle = throttle();
        while throttle.take_at(attempt("ada", "192.0.2.1"), SECOND).is_ok() {}
        for number in 0..50_000u32 {
            let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            let account = format!("user-{number}");
            throttle.take_at(Attempt { account: &account, address, known_browser: None }, SECOND).unwrap();
        }
        assert!(throttle.buckets.lock().unwrap().len() <= MOST);
        assert!(throttle.take_at(attempt("ada", "192.0.2.2"), SECOND).is_err());
    }
}
