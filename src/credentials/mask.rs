//! Masking: what an upstream said, without the secrets of the request it answers.
//!
//! Thorough and slow, for the few texts that a person reads: a secret is found as it is, reversed, in hexadecimal
//! digits, in base64 wherever it begins, and with any of its characters escaped as in URLs and in JSON.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::Injection;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// The shortest secret that is looked for everywhere: a shorter one is found in texts that have nothing to do with it,
/// and is looked for as a word of its own.
const SHORTEST: usize = 4;

impl Injection {
    /// A text with `MASK` in the place of every secret of this injection.
    pub fn mask(&self, text: &[u8]) -> Vec<u8> {
        let mut needles = BTreeSet::new();
        for secret in self.texts().filter(|secret| secret.len() >= SHORTEST) {
            needles.extend(
                spellings(secret.as_bytes()).into_iter().map(|needle| std::cmp::Reverse((needle.len(), needle))),
            );
        }
        let needles: Vec<Zeroizing<Vec<u8>>> =
            needles.into_iter().map(|std::cmp::Reverse((_, needle))| Zeroizing::new(needle)).collect();
        let words: Vec<&str> = self.texts().filter(|secret| (1..SHORTEST).contains(&secret.len())).collect();
        let mut masked = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((first, others)) = rest.split_first() {
            let before = &text[..text.len() - rest.len()];
            let word = || words.iter().find_map(|word| as_word(before, rest, word.as_bytes()));
            // The longest comes first, so that no part of one is left behind a shorter one.
            match needles.iter().find_map(|needle| occurrence(rest, needle)).or_else(word) {
                Some(length) => {
                    masked.extend_from_slice(MASK.as_bytes());
                    rest = &rest[length..];
                }
                None => {
                    masked.push(*first);
                    rest = others;
                }
            }
        }
        masked
    }
}

/// How many bytes at the beginning of `rest` stand for a short secret, where no letter or digit stands beside it.
fn as_word(before: &[u8], rest: &[u8], secret: &[u8]) -> Option<usize> {
    let ends = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    occurrence(rest, secret).filter(|length| ends(before.last()) && ends(rest.get(*length)))
}

/// The ways to write a secret that change its characters.
fn spellings(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let hex = |upper: bool| secret.iter().flat_map(move |byte| digits(*byte, upper)).collect::<Vec<u8>>();
    let mut spellings =
        BTreeSet::from([secret.to_vec(), secret.iter().rev().copied().collect(), hex(false), hex(true)]);
    for shift in 0..3 {
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let shifted = Zeroizing::new([&[0; 2][..shift], secret].concat());
            let encoded = engine.encode(&*shifted).into_bytes();
            // What depends on the neighbours is left out.
            let middle = &encoded[(shift * 8).div_ceil(6)..shifted.len() * 8 / 6];
            if middle.len() >= SHORTEST {
                spellings.insert(middle.to_vec());
            }
        }
    }
    spellings
}

fn digits(byte: u8, upper: bool) -> [u8; 2] {
    let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

/// How many bytes at the beginning of a text stand for another one, with any of its bytes escaped.
fn occurrence(text: &[u8], needle: &[u8]) -> Option<usize> {
    if text.starts_with(needle) {
        return Some(needle.len());
    }
    let mut at = 0;
    for byte in needle {
        at += spelled(text.get(at..)?, *byte)?;
    }
    Some(at)
}

/// How many bytes at the beginning of a text stand for one byte. Where an escape begins with the byte itself, it is taken
/// for the escape.
fn spelled(text: &[u8], byte: u8) -> Option<usize> {
    let number = |digits: Option<&[u8]>| {
        let digits = std::str::from_utf8(digits?).ok()?;
        u32::from_str_radix(digits, 16).ok().filter(|number| *number == u32::from(byte))
    };
    let escaped = match text {
        [b'+', ..] if byte == b' ' => Some(1),
        [b'%', rest @ ..] => {
            // Escaped again, as in a URL that is a parameter of another.
            let nested = rest.chunks_exact(2).take_while(|pair| *pair == b"25").count() * 2;
            number(rest.get(nested..nested + 2)).map(|_| nested + 3)
        }
        [b'\\', b'u', rest @ ..] => number(rest.get(..4)).map(|_| 6),
        [b'\\', escaped, ..] if *escaped == byte && matches!(byte, b'"' | b'\\' | b'/') => Some(2),
        [b'&', ..] => entity(text, byte),
        _ => None,
    };
    escaped.or_else(|| (text.first() == Some(&byte)).then_some(1))
}

/// How many bytes at the beginning of a text are the HTML entity of a byte.
fn entity(text: &[u8], byte: u8) -> Option<usize> {
    let named: &[u8] = match byte {
        b'&' => b"&amp;",
        b'<' => b"&lt;",
        b'>' => b"&gt;",
        b'"' => b"&quot;",
        b'\'' => b"&apos;",
        _ => b"",
    };
    let numbered = [format!("&#{byte};"), format!("&#x{byte:x};"), format!("&#x{byte:X};")];
    let spellings = [named].into_iter().chain(numbered.iter().map(String::as_bytes));
    spellings.filter(|entity| !entity.is_empty()).find(|entity| text.starts_with(entity)).map(<[u8]>::len)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const SECRET: &str = "s3cr&t/\"v\\lue+1";

    fn masked(text: &str) -> String {
        String::from_utf8(Injection::of_secret(SECRET).mask(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_secret_is_masked_however_it_is_written() {
        let json = serde_json::to_string(SECRET).unwrap();
        let escaped: String = SECRET.bytes().map(|byte| format!("\\u00{byte:02x}")).collect();
        let percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let html = "s3cr&amp;t/&quot;v\\lue+1".to_owned();
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02X}")).collect();
        let reversed: String = SECRET.chars().rev().collect();
        let inner = json.trim_matches('"').to_owned();
        for spelled in [SECRET.to_owned(), inner, escaped, percent.clone(), html, hex, reversed] {
            assert_eq!(masked(&format!("a {spelled} b")), "a *** b", "{spelled}");
        }
        assert_eq!(masked(&percent.replace('%', "%25")), "***");
        for before in ["", "u", "us", "use"] {
            let encoded = STANDARD.encode(format!("{before}:{SECRET}:after"));
            let found = masked(&encoded);
            assert!(found.contains(MASK) && found.len() < encoded.len() - 10, "{encoded} {found}");
        }
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        for text in ["", "nothing", "s3cr&t", "%", "\\u00", "\\", "&#", "100% sure &amp; more"] {
            assert_eq!(masked(text), text);
        }
        assert_eq!(masked(&format!("{SECRET}{SECRET}")), "******");
        let short = Injection::of_secret("abc");
        assert_eq!(short.mask(b"abcabc"), b"abcabc");
    }
}
