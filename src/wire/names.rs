//! Names of fields that came lately: one that comes again need not be read again.
//!
//! Messages repeat the names of their fields, byte for byte. A name is found by the sixteen bytes that its line begins
//! with, and is the same only if all of it is, with the colon and the space behind it. Nothing but names is kept.

use crate::model::header::Known;

/// How many are kept.
const PLACES: usize = 64;
/// How many bytes are compared: a longer name is read each time.
const WORDS: usize = 3;
const LONGEST: usize = WORDS * 8;

/// The names that a thread has seen.
pub(super) struct SeenNames([Seen; PLACES]);

/// One of them. Where there is none, nothing is equal to it: no line begins with zeros.
#[derive(Clone, Copy)]
struct Seen {
    /// The name and what is behind it, with zeros up to the end.
    words: [u64; WORDS],
    /// Which bytes of a line that is.
    masks: [u64; WORDS],
    length: u8,
    known: Known,
}

/// The bytes that a line begins with.
pub(super) type Begun = [u64; WORDS];

/// What a line begins with, where so much of it is there.
#[inline(always)]
pub(super) fn begun(line: &[u8]) -> Option<Begun> {
    let bytes: &[u8; LONGEST] = line.first_chunk()?;
    let (words, _) = bytes.as_chunks();
    let [first, second, third] = words else { return None };
    Some([u64::from_le_bytes(*first), u64::from_le_bytes(*second), u64::from_le_bytes(*third)])
}

impl SeenNames {
    pub(super) const fn new() -> Self {
        SeenNames([Seen { words: [1, 0, 0], masks: [0; WORDS], length: 0, known: Known::Other }; PLACES])
    }

    /// The length of the name that a line begins with, and what it means, where it was seen before.
    #[inline(always)]
    pub(super) fn find(&self, begun: &Begun) -> Option<(usize, Known)> {
        let seen = &self.0[place(begun)];
        let [first, second, third] = *begun;
        let differs = (first & seen.masks[0] ^ seen.words[0])
            | (second & seen.masks[1] ^ seen.words[1])
            | (third & seen.masks[2] ^ seen.words[2]);
        (differs == 0).then_some((seen.length.into(), seen.known))
    }

    /// Keeps a name that a line begins with, which is so long and is followed by a colon and a space.
    pub(super) fn keep(&mut self, begun: &Begun, length: usize, known: Known) {
        let with_colon = length + 2;
        if with_colon > LONGEST {
            return;
        }
        let mut masks = [0; WORDS];
        for (number, mask) in masks.iter_mut().enumerate() {
            let bytes = with_colon.saturating_sub(number * 8).min(8);
            *mask = if bytes == 8 { u64::MAX } else { (1 << (bytes * 8)) - 1 };
        }
        let words = [begun[0] & masks[0], begun[1] & masks[1], begun[2] & masks[2]];
        self.0[place(begun)] = Seen { words, masks, length: length as u8, known };
    }
}

/// Where a name is kept.
#[inline(always)]
fn place(begun: &Begun) -> usize {
    let mixed = (begun[0] ^ begun[1].rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 58) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_again_whatever_its_value_and_no_other_is() {
        let mut names = SeenNames::new();
        let line = |text: &str| begun(text.as_bytes()).unwrap();
        for length in 1..=22 {
            let name = "abcdefghijklmnopqrstuv".get(..length).unwrap();
            let first = line(&format!("{name}: first value of it, long enough"));
            assert_eq!(names.find(&first), None, "{name}");
            names.keep(&first, length, Known::Date);
            assert_eq!(names.find(&first), Some((length, Known::Date)));
            if length > 14 {
                let second = line(&format!("{name}: second value, and a longer one"));
                assert_eq!(names.find(&second), Some((length, Known::Date)));
            }
            for other in [format!("{name}x: v"), format!("{name}:v"), name.to_uppercase() + ": v"] {
                assert_eq!(names.find(&line(&format!("{other:30}"))), None, "{other}");
            }
        }
        let long = line("abcdefghijklmnopqrstuvw: first");
        names.keep(&long, 23, Known::Date);
        assert_eq!(names.find(&long), None, "too long to be kept");
        assert_eq!(begun(b"short: line"), None);
        assert_eq!(SeenNames::new().find(&[0; WORDS]), None);
    }
}
