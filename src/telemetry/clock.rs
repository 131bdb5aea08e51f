//! The time of day, from readings of the clock that nobody sets.
//!
//! A request reads that clock anyway; the system is asked for the time of day once a second, so a clock that somebody
//! sets is followed within a second.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The second, since 1970 in UTC.
    second: u64,
    /// When it began.
    began: Option<Instant>,
}

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970 in UTC.
    pub second: u64,
    /// Into the second.
    pub nanosecond: u32,
}

impl Clock {
    /// A clock that has not been read yet.
    pub const fn new() -> Self {
        Clock { second: 0, began: None }
    }

    /// What time of day it was at a moment of the recent past.
    pub fn at(&mut self, instant: Instant) -> Moment {
        let into = self.began.map(|began| instant.saturating_duration_since(began));
        let into = match into {
            Some(into) if into.as_secs() == 0 => into,
            _ => instant.saturating_duration_since(self.ask()),
        };
        // What is later than the system's answer cannot be by a whole second.
        Moment { second: self.second + into.as_secs(), nanosecond: into.subsec_nanos() }
    }

    /// Asks the system, and says when the second began.
    fn ask(&mut self) -> Instant {
        let (now, today) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        self.second = today.as_secs();
        let began = now.checked_sub(Duration::from_nanos(today.subsec_nanos().into())).unwrap_or(now);
        *self.began.insert(began)
    }
}

/// `2026-11-21T12:45:38`
pub(super) const UNTIL_SECOND: usize = 19;

/// A second as in RFC 3339, UTC.
pub(super) fn write_second(text: &mut [u8; UNTIL_SECOND], second: u64) {
    let (year, month, day) = date(second / 86_400);
    let of_day = second % 86_400;
    *text = *b"0000-00-00T00:00:00";
    for (at, number) in [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, of_day / 3_600),
        (14, of_day / 60 % 60),
        (17, of_day % 60),
    ] {
        text[at] = b'0' + (number / 10 % 10) as u8;
        text[at + 1] = b'0' + (number % 10) as u8;
    }
}

/// Year, month and day of a day since 1970. Counted, not calculated: it is needed once a second.
fn date(mut day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt::format::Writer;
    use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Formatted};

    use super::*;

    fn written(second: u64) -> String {
        let mut text = [0; UNTIL_SECOND];
        write_second(&mut text, second);
        String::from_utf8(text.to_vec()).unwrap()
    }

    #[test]
    fn seconds_are_written_as_rfc_3339_does() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (1_735_689_600, "2025-01-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(written(second), text);
        }
    }

    #[test]
    fn the_clock_tells_the_time_of_day_and_asks_once_a_second() {
        let mut clock = Clock::new();
        for _ in 0..3 {
            let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let moment = clock.at(Instant::now());
            let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let told = Duration::new(moment.second, moment.nanosecond);
            // The two clocks are read one after the other.
            let tolerance = Duration::from_millis(100);
            assert!(before <= told + tolerance && told <= after + tolerance, "{before:?} {told:?} {after:?}");
            let mut formatted = String::new();
            Formatted.format_time(&mut Writer::new(&mut formatted)).unwrap();
            assert_eq!(written(moment.second)[..13], formatted[..13]);
        }
        // Within the second it goes by what it was told, after it asks again.
        let (began, second) = (clock.began.unwrap(), clock.second);
        clock.second = 5;
        let last = clock.at(began + Duration::from_micros(999_999));
        assert_eq!(last, Moment { second: 5, nanosecond: 999_999_000 });
        assert!(clock.at(began + Duration::from_secs(1)).second >= second);
    }
}
