//! Canary secrets: unique values that may show up in one upstream message and nowhere else, in no spelling.

use std::fmt::Write as _;

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rand::RngExt as _;
use rand::distr::Alphanumeric;

/// A secret that exists once in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    text: String,
    // Letters and digits only: no encoding that merely escapes can change them, so a search for them finds it all.
    core: String,
}

impl Canary {
    /// A canary of letters, digits and `-`: it fits into every place a credential can go.
    pub fn new(label: &str) -> Self {
        let core: String = rand::rng().sample_iter(Alphanumeric).take(24).map(char::from).collect();
        Self { text: format!("canary-{label}-{core}"), core }
    }

    /// A canary with characters that every encoding must escape, for places that allow them.
    pub fn spiky(label: &str) -> Self {
        let plain = Self::new(label);
        Self { text: format!("{}+/=&\"\\%", plain.text), core: plain.core }
    }

    /// The secret itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every spelling that is looked for, by name.
    fn spellings(&self) -> Vec<(&'static str, Vec<u8>)> {
        let bytes = self.core.as_bytes();
        let mut spellings = vec![("raw", bytes.to_vec()), ("reversed", bytes.iter().rev().copied().collect())];
        for (name, prefix) in [("hex", ""), ("percent", "%"), ("JSON", "\\u00")] {
            spellings.push((name, hex(bytes, prefix, false).into_bytes()));
            spellings.push((name, hex(bytes, prefix, true).into_bytes()));
        }
        for shift in 0..3 {
            spellings.push(("base64", aligned(&STANDARD_NO_PAD, bytes, shift)));
            spellings.push(("base64url", aligned(&URL_SAFE_NO_PAD, bytes, shift)));
        }
        spellings
    }
}

/// Panics where `haystack` holds the canary in any spelling; `place` says where that was.
pub fn assert_absent(haystack: &[u8], canary: &Canary, place: &str) {
    for (spelling, needle) in canary.spellings() {
        if let Some(at) = find(haystack, &needle) {
            let around = &haystack[at.saturating_sub(80)..haystack.len().min(at + needle.len() + 20)];
            panic!("{canary:?} leaked into {place}, spelled in {spelling}: …{}…", around.escape_ascii());
        }
    }
}

/// Whether `haystack` holds the canary in any spelling.
pub fn is_present(haystack: &[u8], canary: &Canary) -> bool {
    canary.spellings().iter().any(|(_, needle)| find(haystack, needle).is_some())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut start = 0;
    while let Some(at) = haystack.get(start..)?.iter().position(|&byte| byte == first) {
        let at = start + at;
        if haystack[at + 1..].starts_with(rest) {
            return Some(at);
        }
        start = at + 1;
    }
    None
}

/// The canary in base64 as it looks in the middle of something longer, `shift` bytes after a group's beginning; the
/// characters that depend on its neighbours are left out.
fn aligned(engine: &impl base64::Engine, bytes: &[u8], shift: usize) -> Vec<u8> {
    let shifted = [vec![0; shift], bytes.to_vec()].concat();
    let encoded = engine.encode(&shifted).into_bytes();
    let first = (shift * 8).div_ceil(6);
    let last = (shifted.len() * 8) / 6;
    encoded[first..last].to_vec()
}

fn hex(bytes: &[u8], prefix: &str, upper: bool) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let written = if upper { write!(text, "{prefix}{byte:02X}") } else { write!(text, "{prefix}{byte:02x}") };
        written.expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::{Canary, is_present};

    #[test]
    fn a_canary_is_found_in_every_spelling_and_alignment() {
        for canary in [Canary::new("a"), Canary::spiky("b")] {
            let text = canary.text();
            let mut places = vec![text.to_owned(), text.chars().rev().collect(), format!("{text:?}")];
            places.push(text.bytes().map(|byte| format!("{byte:02X}")).collect());
            places.push(text.bytes().map(|byte| format!("%{byte:02X}")).collect());
            places.push(text.bytes().map(|byte| format!("\\u00{byte:02x}")).collect());
            for before in ["", "u", "us", "use"] {
                places.push(STANDARD.encode(format!("{before}:{text}:after")));
                places.push(URL_SAFE.encode(format!("{before}:{text}")));
            }
            for place in places {
                assert!(is_present(format!("x{place}y").as_bytes(), &canary), "{place}");
            }
        }
    }

    #[test]
    fn another_canary_is_not_found() {
        let text = Canary::new("a").text().to_owned();
        assert!(!is_present(STANDARD.encode(&text).as_bytes(), &Canary::new("a")));
    }
}
