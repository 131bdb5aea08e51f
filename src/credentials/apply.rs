//! Putting an injection into a request's head, so that it stands there exactly once.
//!
//! Whatever the caller sent in the same place goes first: headers compared without case and with `_` as `-`, query
//! pairs and cookies by their decoded names. Everything else passes byte for byte.

use http::header::{HeaderName, HeaderValue};
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::Injection;
use super::injection::Pair;
use crate::directory::route::Route;
use crate::directory::{Admission, Permit};
use crate::model::header::{self, Known, Meanings};
use crate::upstream::Injected;
use crate::wire::Fields;

impl Injection {
    /// Path and query of a permitted request as they go on the wire: they may hold a credential. `rest` is what the
    /// request brings: empty, or beginning with `/` or `?`.
    pub fn path(&self, permit: &Permit, rest: &str) -> Zeroizing<String> {
        self.path_of(permit.route(), permit.is_below_base(), rest)
    }

    pub(super) fn path_of(&self, route: &Route, below_base: bool, rest: &str) -> Zeroizing<String> {
        let joined = if below_base { self.fill_path(route.base.path(), rest) } else { rooted(rest) };
        let query = &self.elsewhere().query;
        if query.is_empty() { joined } else { replace_query(&joined, query) }
    }

    /// Spends a permit: takes out of the fields of its request what stands where something is injected. The injected
    /// headers themselves are written behind them: see [`Injected`].
    pub fn apply(&self, permit: Permit, fields: &mut Fields) -> Admission {
        for injected in self.header_names() {
            fields.drop_one(injected);
        }
        for (name, value) in &*permit.route().headers {
            let is_injected = self.header_names().any(|injected| header::is_same(name, injected));
            if !is_injected && !fields.has_named(name) {
                fields.push(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        let cookies = &self.elsewhere().cookies;
        if !cookies.is_empty() {
            replace_cookies(fields, cookies);
        }
        permit.spend()
    }

    /// The base path with its placeholders filled, followed by the request's own path.
    fn fill_path(&self, base: &str, rest: &str) -> Zeroizing<String> {
        let mut path = Zeroizing::new(String::with_capacity(base.len() + rest.len() + 1));
        path.push_str(base);
        for pair in &self.elsewhere().path {
            path = Zeroizing::new(path.replace(&format!("{{{}}}", pair.name), &pair.value));
        }
        if path.is_empty() && !rest.starts_with('/') {
            path.push('/');
        }
        path.push_str(rest);
        path
    }

    /// Takes every injected secret out of a text that an upstream sent; `None` where none is in it.
    pub fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut redacted: Option<Vec<u8>> = None;
        for spelling in &self.spellings() {
            let current = redacted.as_deref().unwrap_or(text);
            if let Some(shorter) = without(current, spelling.as_bytes()) {
                redacted = Some(shorter);
            }
        }
        redacted
    }
}

impl Injected for Injection {
    fn lines(&self) -> &[u8] {
        self.header_lines()
    }

    fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        self.header_values()
    }
}

fn rooted(rest: &str) -> Zeroizing<String> {
    Zeroizing::new(if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") })
}

/// A text without any occurrence of another, percent-encoded or not; `None` where there is none.
fn without(text: &[u8], needle: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut kept = 0;
    let mut at = 0;
    while at < text.len() {
        match occurrence(&text[at..], needle) {
            Some(length) => {
                out.extend_from_slice(&text[kept..at]);
                at += length;
                kept = at;
            }
            None => at += 1,
        }
    }
    out.extend_from_slice(&text[kept..]);
    (out.len() < text.len()).then_some(out)
}

/// How many bytes at the beginning of a text spell another one: as it is, or with any of its bytes percent-encoded,
/// also more than once, as in a URL that is a parameter of another.
fn occurrence(text: &[u8], needle: &[u8]) -> Option<usize> {
    if text.starts_with(needle) {
        return Some(needle.len());
    }
    let mut at = 0;
    for byte in needle {
        at += match text.get(at)? {
            b'%' => escape(&text[at + 1..], *byte)? + 1,
            b'+' if *byte == b' ' => 1,
            plain if plain == byte => 1,
            _ => return None,
        };
    }
    Some(at)
}

/// How many bytes after a `%` make it stand for a byte: two hexadecimal digits, after any number of `25`.
fn escape(text: &[u8], byte: u8) -> Option<usize> {
    let nested = text.chunks_exact(2).take_while(|pair| *pair == b"25").count() * 2;
    let digit = |at: usize| text.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    match digit(nested).zip(digit(nested + 1)) {
        Some((high, low)) if high * 16 + low == u32::from(byte) => Some(nested + 2),
        _ => (byte == b'%' && nested > 0).then_some(nested),
    }
}

/// One `Cookie` line: the caller's cookies without those of an injected name, then the injected ones.
fn replace_cookies(fields: &mut Fields, injected: &[Pair]) {
    let mut line = Zeroizing::new(Vec::new());
    for value in fields.values(Known::Cookie) {
        for cookie in value.split(|b| *b == b';').map(<[u8]>::trim_ascii) {
            let name = cookie.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
            let name: Vec<u8> = percent_decode(name.strip_prefix(b"\"").unwrap_or(name)).collect();
            if !cookie.is_empty() && !injected.iter().any(|pair| pair.name.as_bytes() == name) {
                line.extend_from_slice(cookie);
                line.extend_from_slice(b"; ");
            }
        }
    }
    for (index, pair) in injected.iter().enumerate() {
        line.extend_from_slice(if index == 0 { b"" } else { b"; " });
        line.extend_from_slice(pair.value.as_bytes());
    }
    fields.drop_known(Meanings::of(&[Known::Cookie]));
    fields.push_sensitive(b"cookie", &line);
}

/// The caller's pairs byte for byte, empty ones included, without those of an injected name; then the injected ones.
fn replace_query(path_and_query: &str, injected: &[Pair]) -> Zeroizing<String> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let pairs: Vec<&str> = query.split('&').filter(|pair| !names_injected(pair.as_bytes(), injected)).collect();
    let mut out = Zeroizing::new(format!("{path}?{}", pairs.join("&")));
    for pair in injected {
        if out.len() > path.len() + 1 && !out.ends_with('&') {
            out.push('&');
        }
        out.push_str(&pair.value);
    }
    out
}

/// Whether a `name=value` pair has an injected name once it is decoded as a form is (`+` is a space).
pub(super) fn names_injected(pair: &[u8], injected: &[Pair]) -> bool {
    let name = pair.split(|b| *b == b'=').next().unwrap_or_default();
    let spaced: Vec<u8> = name.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    let decoded: Vec<u8> = percent_decode(&spaced).collect();
    injected.iter().any(|pair| pair.name.as_bytes() == decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> Pair {
        Pair { name: name.into(), value: Zeroizing::new(value.to_owned()) }
    }

    #[test]
    fn the_injected_query_pair_stands_once_and_others_are_untouched() {
        let replaced = replace_query(
            "/p?a=1&api_key=evil&api%5Fkey=e2&api_key=e3&b=%2F+x&api_key",
            &[pair("api_key", "api_key=k")],
        );
        assert_eq!(*replaced, "/p?a=1&b=%2F+x&api_key=k");
        assert_eq!(*replace_query("/p", &[pair("k", "k=v")]), "/p?k=v");
        assert_eq!(*replace_query("/p?", &[pair("k", "k=v")]), "/p?k=v");
        assert_eq!(*replace_query("/p?&a&&b=?&", &[pair("k", "k=v"), pair("l", "l=w")]), "/p?&a&&b=?&k=v&l=w");
    }

    #[test]
    fn the_injected_cookie_stands_once_on_one_line() {
        let mut fields = Fields::default();
        fields.push(b"Cookie", b"session=evil; a=1");
        fields.push(b"cookie", b"sess%69on=e2;b=\"x;\"");
        replace_cookies(&mut fields, &[pair("session", "session=s")]);
        assert_eq!(fields.values(Known::Cookie).collect::<Vec<_>>(), [&b"a=1; b=\"x; \"; session=s"[..]]);
    }

    #[test]
    fn what_was_injected_is_taken_out() {
        let injection = Injection::of_secret("canary");
        assert_eq!(injection.redact(b"https://x/?k=canary&l=canary").unwrap(), b"https://x/?k=&l=");
        assert!(injection.redact(b"https://x/").is_none());
        for text in ["%63anary", "c%61nar%79", "can%2561ry", "canar%25252579", "%63%61%6E%61%72%79"] {
            assert_eq!(injection.redact(format!("a{text}b").as_bytes()).unwrap(), b"ab", "{text}");
        }
        for text in ["canar", "%63anar", "canar%7", "canar%", "canar%25", "c+nary", "canar%797"] {
            let redacted = injection.redact(text.as_bytes());
            assert_eq!(redacted, (text == "canar%797").then(|| b"7".to_vec()), "{text}");
        }
    }

    #[test]
    fn a_value_full_of_reserved_characters_is_found_however_much_of_it_is_escaped() {
        let value = "k 1%2f+/=&\u{e9}%";
        let injection = Injection::of_secret(value);
        let encode =
            |text: &str| percent_encoding::utf8_percent_encode(text, crate::model::template::RESERVED).to_string();
        let once = encode(value);
        for text in [value.to_owned(), once.clone(), once.replace("%20", "+"), once.to_lowercase(), encode(&once)] {
            assert_eq!(injection.redact(format!("<{text}>").as_bytes()).as_deref(), Some(&b"<>"[..]), "{text}");
        }
    }
}
