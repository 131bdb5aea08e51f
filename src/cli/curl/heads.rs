//! What the heads of the answers say that curl received: whether the proxy itself refused the request.
//!
//! curl writes every head into a pipe of its own. Only Sidekey's own answers have `Sidekey-Error`; one of an upstream's
//! never comes through.

use std::io::{BufRead, BufReader, Read};

use super::place::Proxy;
use crate::cli::Failure;

/// The longest line that is kept; the rest of a longer one is read and forgotten.
const LONGEST: usize = 8 * 1024;

/// A refusal of the proxy's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    code: String,
}

/// Reads heads to their end. The last one decides: those before it are interim answers and redirects.
pub(super) fn read(heads: impl Read) -> std::io::Result<Option<Refusal>> {
    let mut reader = BufReader::new(heads);
    let (mut status, mut code) = (0, None);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line)? {
        let text = String::from_utf8_lossy(&line);
        if text.starts_with("HTTP/") {
            status = text.split(' ').nth(1).and_then(|status| status.trim().parse().ok()).unwrap_or_default();
            code = None;
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("sidekey-error")
        {
            code = Some(value.trim().to_owned());
        }
    }
    Ok(code.map(|code| Refusal { status, code }))
}

/// Whether there was one more line.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut is_any = false;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(is_any);
        }
        is_any = true;
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(bytes.len());
        line.extend(&bytes[..taken.min(LONGEST - line.len())]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

impl Refusal {
    /// What a person is told: the document said why, this says what to do.
    pub(super) fn failure(&self, proxy: &Proxy, connection: &str) -> Failure {
        let Refusal { status, code } = self;
        let next = match (code.as_str(), &proxy.key) {
            ("key_missing", _) => {
                "this proxy port asks for a caller's key: name its file with --caller-key-file, put it into \
                 SIDEKEY_CALLER_KEY, or say `caller_key` in the profile; `sidekey api-key create NAME` makes one"
                    .to_owned()
            }
            ("key_unknown", Some((_, from))) => {
                format!("the key from {from} is not known there; it needs the role `caller`, and to be active")
            }
            ("connection_unknown", _) => format!(
                "there is no connection {connection} for this caller and customer; `sidekey connection list` shows \
                 those there are, `sidekey api-key show` what a key may use"
            ),
            ("environment_not_permitted", _) => "name another environment with --environment".to_owned(),
            ("connection_needs_reconnect" | "credential_missing", _) => {
                format!("`sidekey connection set {connection} --set …` enters its credential")
            }
            _ if *status >= 500 => "the answer says why".to_owned(),
            _ => format!("the answer says why, and `sidekey connection explain {connection} PATH` tells more"),
        };
        let told = format!("the proxy refused the request with {status} {code}: {next}");
        match (status, code.as_str()) {
            (401 | 403 | 407, _) => Failure::Unauthorized(told),
            (404, "connection_unknown") => Failure::NotFound(told),
            _ => Failure::Failed(told),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(heads: &str) -> Option<(u16, String)> {
        read(heads.as_bytes()).unwrap().map(|Refusal { status, code }| (status, code))
    }

    #[test]
    fn the_last_head_decides() {
        let refused = "HTTP/1.1 401 Unauthorized\r\nSidekey-Error: key_unknown\r\n\r\n";
        assert_eq!(told(refused), Some((401, "key_unknown".to_owned())));
        assert_eq!(
            told("HTTP/2 404 \r\nsidekey-error: connection_unknown\r\n\r\n").map(|(status, _)| status),
            Some(404)
        );
        assert_eq!(told(&format!("HTTP/1.1 302 Found\r\n\r\n{refused}")).map(|(status, _)| status), Some(401));
        assert_eq!(told(&format!("{refused}HTTP/1.1 404 Not Found\r\nX: Sidekey-Error: x\r\n\r\n")), None);
        assert_eq!(told(""), None);
        let long = format!("HTTP/1.1 502 x\r\nX: {}\r\nSidekey-Error: a\r\n", "y".repeat(100_000));
        assert_eq!(told(&long), Some((502, "a".to_owned())));
    }
}
