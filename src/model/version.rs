//! Versions: what tells one state of a stored thing from every other.

use std::fmt;
use std::str::FromStr;

use super::id::EventId;

/// The version of a stored thing. It is drawn at random with every change, so that a thing that was deleted and made
/// again never has a version of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(i64);

impl Version {
    /// A version that nothing has had.
    pub fn fresh() -> Self {
        let bytes = EventId::generate().to_bytes();
        let mut random = [0; 8];
        random.copy_from_slice(&bytes[8..]);
        Version(i64::from_be_bytes(random))
    }

    /// As it was stored.
    pub fn stored(number: i64) -> Self {
        Version(number)
    }

    /// As it is stored.
    pub fn number(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_written_so = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = u64::from_str_radix(text, 16).map_err(|_| ())?;
        if is_written_so { Ok(Version(number.cast_signed())) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_spelling() {
        let version = Version::fresh();
        assert_eq!(version.to_string().parse(), Ok(version));
        assert_ne!(version, Version::fresh());
        assert_eq!(Version::stored(-1).to_string(), "ffffffffffffffff");
        for text in ["", "0", "+00000000000000f", "00000000000000FF", "00000000000000000"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }
}
