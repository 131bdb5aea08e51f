//! Request ids: `req_` and a ULID in lower case, made by one worker for the next without anything being asked for.

use std::cell::RefCell;
use std::fmt;

use ulid::Ulid;

use super::clock::Moment;

const LENGTH: usize = 30;
/// Where the ten characters of the time begin, and where the sixteen after them.
const TIME: usize = 4;
const REST: usize = 14;
/// Crockford's alphabet, in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// `req_01j…`: unique, and ordered by time among those of one worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId([u8; LENGTH]);

impl RequestId {
    /// One that nobody counted on to: for requests of which there are few.
    pub fn generate() -> Self {
        let mut id = RequestId(*b"req_00000000000000000000000000");
        let ulid = Ulid::generate().0;
        for (at, text) in id.0[TIME..].iter_mut().rev().enumerate() {
            *text = ALPHABET[(ulid >> (5 * at)) as usize % 32];
        }
        id
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As text; ASCII letters, digits and `_`.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes the ids of one worker. After the time they count on from 80 random bits, so that those of two workers or two
/// processes do not meet.
#[derive(Debug)]
pub struct RequestIds(RefCell<Last>);

/// The last id.
#[derive(Debug)]
struct Last {
    millisecond: u64,
    /// The sixteen digits after the time.
    digits: [u8; LENGTH - REST],
    text: [u8; LENGTH],
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::from(Ulid::generate().0)
    }
}

impl RequestIds {
    fn from(random: u128) -> Self {
        let mut last = Last { millisecond: 0, digits: [0; LENGTH - REST], text: *b"req_00000000000000000000000000" };
        for (at, digit) in last.digits.iter_mut().rev().enumerate() {
            *digit = (random >> (5 * at)) as u8 % 32;
        }
        // The highest of the 80 bits stays free: nobody counts until it overflows.
        last.digits[0] %= 16;
        for (text, digit) in last.text[REST..].iter_mut().zip(last.digits) {
            *text = ALPHABET[usize::from(digit)];
        }
        RequestIds(RefCell::new(last))
    }

    /// The id of a request that began at this moment.
    pub fn next(&self, began: Moment) -> RequestId {
        let mut last = self.0.borrow_mut();
        last.set_time(began.second * 1_000 + u64::from(began.nanosecond / 1_000_000));
        last.count();
        RequestId(last.text)
    }
}

impl Last {
    /// Writes the time. Where the clock went back by less than a second it stands still: ids stay in their order.
    fn set_time(&mut self, millisecond: u64) {
        if (self.millisecond.saturating_sub(999)..=self.millisecond).contains(&millisecond) {
            return;
        }
        self.millisecond = millisecond;
        for (at, text) in self.text[TIME..REST].iter_mut().rev().enumerate() {
            *text = ALPHABET[usize::from((millisecond >> (5 * at)) as u8 % 32)];
        }
    }

    /// One more. Almost always only the last character changes.
    fn count(&mut self) {
        for (digit, text) in self.digits.iter_mut().zip(&mut self.text[REST..]).rev() {
            *digit = (*digit + 1) % 32;
            *text = ALPHABET[usize::from(*digit)];
            if *digit != 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use super::super::clock::Clock;
    use super::*;

    /// The ULID in an id, read by who invented none of this.
    fn ulid(id: &RequestId) -> Ulid {
        let text = id.as_str().strip_prefix("req_").unwrap();
        assert_eq!(text, text.to_lowercase());
        Ulid::from_string(&text.to_uppercase()).unwrap()
    }

    #[test]
    fn ids_are_ulids_of_now_in_the_order_of_their_time() {
        let now = |add: u64| (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64) + add;
        let (ids, from) = (RequestIds::default(), now(0));
        let (mut last, mut clock) = (None, Clock::new());
        for _ in 0..100_000 {
            let id = ids.next(clock.at(Instant::now()));
            assert!(last < Some(id), "{last:?} {id:?}");
            last = Some(id);
        }
        let time = ulid(&last.unwrap()).timestamp_ms();
        assert!((from - 1..=now(1)).contains(&time), "{from} {time}");
    }

    #[test]
    fn counting_carries_through_every_digit() {
        let (ids, now) = (RequestIds::from((1 << 79) - 2), Clock::new().at(Instant::now()));
        let first = ulid(&ids.next(now)).0;
        let second = ulid(&ids.next(now)).0;
        assert_eq!(first & ((1 << 80) - 1), (1 << 79) - 1);
        assert_eq!(second & ((1 << 80) - 1), 1 << 79);
        // All random bits set is not where it begins: there would be nothing left to count.
        let full = RequestIds::from(u128::MAX);
        assert_eq!(ulid(&full.next(now)).0 & ((1 << 80) - 1), 1 << 79);
    }

    #[test]
    fn one_by_itself_is_a_ulid_of_now_too() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let ids: HashSet<_> = (0..1_000).map(|_| *RequestId::generate().as_bytes()).collect();
        assert_eq!(ids.len(), 1_000);
        for id in ids {
            assert!(ulid(&RequestId(id)).timestamp_ms().abs_diff(now) < 60_000);
        }
    }

    #[test]
    fn no_two_workers_give_the_same_id() {
        let now = Clock::new().at(Instant::now());
        let workers: Vec<_> = (0..100).map(|_| RequestIds::default()).collect();
        let ids = workers.iter().flat_map(|worker| (0..100).map(|_| *worker.next(now).as_bytes()));
        assert_eq!(ids.collect::<HashSet<_>>().len(), 10_000);
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_keeps_the_order_and_one_that_is_set_back_far_is_followed() {
        let ids = RequestIds::default();
        let mut last = ids.0.borrow_mut();
        let mut at = |millisecond: u64| {
            last.set_time(millisecond);
            last.count();
            RequestId(last.text)
        };
        let first = at(5_000_000);
        let second = at(4_999_500);
        assert!(first < second);
        assert_eq!(ulid(&second).timestamp_ms(), 5_000_000);
        assert_eq!(ulid(&at(1_000)).timestamp_ms(), 1_000);
        assert_eq!(ulid(&at(1_001)).timestamp_ms(), 1_001);
    }
}
