//! Paths of upstreams as rules name them, and the one form in which a rule and a request are compared.
//!
//! A request's path goes to its upstream byte for byte, so what a rule compares must be what every upstream makes of those
//! bytes. [`canonical`] decodes what is encoded, once; where two upstreams could read a path differently (an encoded
//! slash, `;` parameters, an empty segment, dot segments in any spelling, what is no text once decoded), there is no such
//! form, and a request whose path a rule must judge is refused.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::glob::Glob;
use super::name::NameError;

/// The longest pattern.
const LONGEST: usize = 1024;

/// Whether a path can be read in one way only, and what it then is: decoded, beginning with `/`.
pub fn canonical(path: &str) -> Option<Cow<'_, str>> {
    if is_plainly_canonical(path) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let [b'/', segments @ ..] = decoded.as_bytes() else { return None };
    // A last segment may be empty: the path ends with a slash.
    let climbs = |segment: &[u8]| matches!(segment, b"." | b"..");
    if segments.starts_with(b"/") || segments.windows(2).any(|pair| pair == b"//") {
        return None;
    }
    if segments.split(|byte| *byte == b'/').any(climbs) { None } else { Some(Cow::Owned(decoded)) }
}

/// Whether nothing in a path needs a second look, which is so with nearly all: one pass, for every request with a rule.
fn is_plainly_canonical(path: &str) -> bool {
    let (mut last, mut wrong) = (0, 0);
    for byte in path.bytes() {
        let class = CLASSES[usize::from(byte)];
        wrong |= class & (NEVER | last);
        last = if byte == b'/' { BEHIND_A_SLASH } else { 0 };
    }
    path.starts_with('/') && wrong == 0
}

/// What must not stand in a path that is plainly canonical.
const NEVER: u8 = 1;
/// What must not stand there behind a slash.
const BEHIND_A_SLASH: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [NEVER; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        classes[byte as usize] = match byte {
            b'%' | b'\\' | b';' | b'?' | b'#' => NEVER,
            b'/' | b'.' => BEHIND_A_SLASH,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Decodes what is encoded; `None` where that could be read in two ways.
fn decode(path: &str) -> Option<String> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let byte = u8::try_from(digit()? * 16 + digit()?).ok()?;
                // A second decoding, which some upstreams do, would find something else.
                if matches!(byte, b'/' | b'\\' | b'%' | b';' | b'?' | b'#') || byte.is_ascii_control() {
                    return None;
                }
                byte
            }
            b'\\' | b';' | b'?' | b'#' => return None,
            byte if byte.is_ascii_graphic() => byte,
            _ => return None,
        };
        decoded.push(plain);
    }
    String::from_utf8(decoded).ok()
}

/// A path in which `*` stands for any text, slashes too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(Glob);

impl PathPattern {
    /// Whether a path in its canonical form is meant.
    pub fn matches(&self, canonical: &str) -> bool {
        self.0.matches(canonical)
    }

    /// Whether every path that another one means is meant by this one.
    pub fn contains(&self, other: &PathPattern) -> bool {
        self.0.contains(&other.0)
    }
}

impl FromStr for PathPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WRONG: NameError = NameError(
            "a path begins with / and is written without %, ;, ?, #, \\, empty or dot segments; * stands for any text",
        );
        let is_plain = |letter: char| !letter.is_control() && !matches!(letter, '%' | ';' | '?' | '#' | '\\');
        let has_form = text.len() <= LONGEST && text.starts_with('/') && text.chars().all(is_plain);
        let segments = || text[1..].split('/');
        let last = text.matches('/').count().saturating_sub(1);
        let is_canonical =
            |(at, segment): (usize, &str)| !matches!(segment, "." | "..") && (at == last || !segment.is_empty());
        if has_form && segments().enumerate().all(is_canonical) {
            Ok(PathPattern(text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})))
        } else {
            Err(WRONG)
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for PathPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_one_way_is_decoded_once() {
        for (path, form) in [
            ("/", "/"),
            ("/v1/customers", "/v1/customers"),
            ("/v1/customers/", "/v1/customers/"),
            ("/%76%31/a%20b", "/v1/a b"),
            ("/caf%C3%a9", "/café"),
            ("/a:b@c,d=e", "/a:b@c,d=e"),
            ("/...", "/..."),
        ] {
            assert_eq!(canonical(path).as_deref(), Some(form), "{path}");
        }
    }

    #[test]
    fn what_two_upstreams_could_read_differently_has_no_form() {
        for path in [
            "",
            "v1",
            "//",
            "//a",
            "/a//b",
            "/a/../b",
            "/a/.",
            "/.",
            "/..",
            "/a;b/c",
            "/a;",
            "/a%3bb",
            "/a%2fb",
            "/a%2Fb",
            "/a\\b",
            "/a%5cb",
            "/%2e%2e/b",
            "/a/%2e/b",
            "/.%2e/b",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/a%252e",
            "/a%25",
            "/%c0%ae%c0%ae/",
            "/%ff",
            "/a%3fb",
            "/a%23b",
            "/a b",
            "/caf\u{e9}",
        ] {
            assert_eq!(canonical(path), None, "{path}");
        }
    }

    #[test]
    fn a_pattern_is_written_in_that_form() {
        let pattern = |text: &str| text.parse::<PathPattern>();
        for text in
            ["/", "/v1/*", "/v1/customers/*/invoices", "/a b", "/café/", "*", "v1", "//", "/a//*", "/../a", "/a;b"]
        {
            assert_eq!(
                pattern(text).is_ok(),
                !matches!(text, "*" | "v1" | "//" | "/a//*" | "/../a" | "/a;b"),
                "{text}"
            );
        }
        assert!(pattern("/v1/*").unwrap().matches("/v1/a/b") && !pattern("/v1/*").unwrap().matches("/v1"));
        assert!(pattern("/v1/a").unwrap().matches("/v1/a") && !pattern("/v1/a").unwrap().matches("/v1/a/"));
    }

    proptest::proptest! {
        /// However a path is written, a rule sees what an upstream sees that decodes once and removes dot segments, or
        /// nothing at all.
        #[test]
        fn no_spelling_gets_around_a_rule(path in "/(\\.|%2e|%2E|a|%61|/|%2f|;|%3b|%25|\\\\|%5c|admin|%00|é){0,12}") {
            if let Some(form) = canonical(&path) {
                let mut bytes = path.bytes();
                let mut once = Vec::new();
                while let Some(byte) = bytes.next() {
                    once.push(if byte == b'%' {
                        let (high, low) = (bytes.next().unwrap(), bytes.next().unwrap());
                        u8::from_str_radix(std::str::from_utf8(&[high, low]).unwrap(), 16).unwrap()
                    } else {
                        byte
                    });
                }
                proptest::prop_assert_eq!(form.as_bytes(), once.as_slice());
                let climbs = form.split('/').any(|segment| segment == ".." || segment == ".");
                proptest::prop_assert!(!climbs && !form.contains([';', '%', '\\', '\0']) && !form.contains("//"));
            }
        }
    }
}
