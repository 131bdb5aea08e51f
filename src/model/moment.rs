//! Moments: times of day as people and programs write them, RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::name::NameError;

const DAY: i64 = 86_400;
const MILLISECONDS: i64 = 1_000;
/// The last second of the year 9999, the largest that the text has room for.
const LAST: i64 = 253_402_300_799;

/// A time of day, to the millisecond, from 1970 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// As the system's clock shows it.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Milliseconds since 1970, as they are stored. What is beyond its years is the nearest that is not.
    pub fn from_milliseconds(milliseconds: i64) -> Self {
        Moment(milliseconds.clamp(0, LAST * MILLISECONDS + 999))
    }

    /// Milliseconds since 1970.
    pub fn milliseconds(self) -> i64 {
        self.0
    }

    /// So much later.
    pub fn after(self, duration: Duration) -> Self {
        let more = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_milliseconds(self.0.saturating_add(more))
    }

    /// How long it is from an earlier moment to this one; nothing where that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_milliseconds(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Year, month and day of a day since 1970, and back. Years are counted from March, so that a leap day ends one; 146,097
/// days are 400 years.
fn date(day: i64) -> (i64, i64, i64) {
    let since_march_of_0 = day + 719_468;
    let (era, day) = (since_march_of_0.div_euclid(146_097), since_march_of_0.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, of_month)
}

fn day(year: i64, month: i64, of_month: i64) -> i64 {
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5 + of_month - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Every moment in as many characters, so that texts are in the order of what they say.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millisecond) = (self.0 / MILLISECONDS, self.0 % MILLISECONDS);
        let (year, month, of_month) = date(seconds.div_euclid(DAY));
        let of_day = seconds.rem_euclid(DAY);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
    }
}

impl serde::Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Moment {
    type Err = NameError;

    /// Reads RFC 3339: a date, a time, and `Z` or an offset. What is finer than a millisecond is cut off.
    fn from_str(text: &str) -> Result<Self, NameError> {
        read(text).ok_or(NameError("a time is written as 2027-01-31T12:00:00Z (RFC 3339), not before 1970"))
    }
}

fn read(text: &str) -> Option<Moment> {
    let (front, rest) = text.split_at_checked(19)?;
    let shape = front.bytes().zip(b"0000-00-00T00:00:00".iter());
    let fits = |(byte, shape): (u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        b'T' => byte.eq_ignore_ascii_case(&b'T'),
        other => byte == *other,
    };
    if !shape.into_iter().all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| front.get(from..to)?.parse::<i64>().ok();
    let (year, month, of_month) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = day(year, month, of_month);
    // A day that no month has comes back as another one.
    if !(1..=12).contains(&month) || date(days) != (year, month, of_month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (milliseconds, zone) = fraction(rest)?;
    let seconds = days * DAY + hour * 3_600 + minute * 60 + second - offset(zone)?;
    (0..=LAST).contains(&seconds).then(|| Moment(seconds * MILLISECONDS + milliseconds))
}

/// The milliseconds behind the point, and what follows.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = digits.find(|letter: char| !letter.is_ascii_digit())?;
    let (digits, zone) = digits.split_at(end);
    let milliseconds = digits.bytes().chain([b'0'; 3]).take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    (!digits.is_empty()).then_some((milliseconds, zone))
}

/// Seconds east of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, clock) = match zone.split_at_checked(1)? {
        ("+", clock) => (1, clock),
        ("-", clock) => (-1, clock),
        _ => return None,
    };
    let (hours, minutes) = clock.split_once(':')?;
    let two = |text: &str, limit: i64| {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| is_number && *number <= limit)
    };
    Some(sign * (two(hours, 23)? * 3_600 + two(minutes, 59)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        text.parse::<Moment>().unwrap().to_string()
    }

    #[test]
    fn moments_are_read_in_every_zone_and_written_in_one() {
        assert_eq!(written("2026-11-21T18:00:00Z"), "2026-11-21T18:00:00.000Z");
        assert_eq!(written("2026-11-21t18:00:00.5z"), "2026-11-21T18:00:00.500Z");
        assert_eq!(written("2026-11-22T00:30:00+05:30"), "2026-11-21T19:00:00.000Z");
        assert_eq!(written("2026-11-21T18:00:00.123999-01:00"), "2026-11-21T19:00:00.123Z");
        assert_eq!(written("2024-02-29T23:59:59Z"), "2024-02-29T23:59:59.000Z");
        assert_eq!("1970-01-01T00:00:00Z".parse::<Moment>().unwrap().milliseconds(), 0);
        assert_eq!("2001-09-09T01:46:40Z".parse::<Moment>().unwrap().milliseconds(), 1_000_000_000_000);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21T18:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T18:00:60Z",
            "2026-11-21T18:00:00.Z",
            "2026-11-21T18:00:00+5:30",
            "1969-12-31T23:59:59Z",
            "9999-12-31T23:59:59-00:01",
            "2026-11-21T18:00:00 Z",
            "+026-11-21T18:00:00Z",
            "2026-11-21T18:00:0\u{661}Z",
            "2026-00-01T00:00:00Z",
            "2026-11-00T00:00:00Z",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_moment_reads_back_as_written(milliseconds in 0..=LAST * MILLISECONDS) {
            let moment = Moment::from_milliseconds(milliseconds);
            proptest::prop_assert_eq!(moment.to_string().parse::<Moment>().unwrap(), moment);
        }

        #[test]
        fn nothing_that_is_read_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Moment>();
        }
    }
}
