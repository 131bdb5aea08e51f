//! Heads of HTTP/1.1: parsed once, strictly (RFC 9112 §2 to §6).
//!
//! A request is refused where two readers could see two messages in it. A response is read a little more kindly where
//! nothing depends on it: its lines may end in a bare LF, because they are written anew.

use http::{Method, StatusCode, Version};

use super::fields::{Fields, Span};
use super::lines::{self, Ends, Lines, Stop};
use crate::model::header::Known;

/// The largest head that is read, in bytes.
pub const LARGEST: usize = 64 * 1024;
/// The most fields that a head may have.
pub const MOST_FIELDS: usize = 100;
/// The longest request target.
pub const LONGEST_TARGET: usize = 32 * 1024;

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It breaks the syntax.
    #[error("{0}")]
    Malformed(&'static str),
    /// It has more bytes or fields than are read.
    #[error("the head has more than 100 fields or 64 KiB")]
    TooLarge,
    /// The target alone is too long.
    #[error("the target is longer than 32 KiB")]
    TargetTooLong,
}

/// When a head that comes piece by piece is worth parsing: at first, when its end may have come, and when twice as much
/// is there as the last time. So what is no HTTP is found early, and one byte at a time costs no more than all at once.
#[derive(Debug, Default)]
pub struct Scan {
    tried: u32,
    seen: u32,
}

impl Scan {
    /// Whether to parse `bytes`, all that has come so far.
    pub fn is_due(&mut self, bytes: &[u8]) -> bool {
        let (tried, seen) = (self.tried as usize, self.seen as usize);
        let new = &bytes[seen.saturating_sub(3)..];
        let end_may_be_there = || memchr::memmem::find(new, b"\n\r\n").or(memchr::memmem::find(new, b"\n\n")).is_some();
        let due = bytes.len() >= 2 * tried || bytes.len() >= LARGEST || end_may_be_there();
        // Nobody reads on for long behind the largest head.
        self.seen = bytes.len() as u32;
        if due {
            self.tried = self.seen;
        }
        due
    }
}

/// The head of a request.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
    target: Span,
    authority: Option<Span>,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Its fields.
    pub fields: Fields,
}

/// How the end of a body is told (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 for no body.
    Length(u64),
    /// In chunks.
    Chunked,
    /// By the end of the connection; responses only.
    UntilClose,
}

impl RequestHead {
    /// A head that came in another form: path and query as `:path` has them, `authority` in the place of `Host`.
    pub fn new(method: Method, version: Version, target: &[u8], authority: Option<&[u8]>, mut fields: Fields) -> Self {
        let target = fields.keep_text(target);
        let authority = authority.map(|authority| fields.keep_text(authority));
        RequestHead { method, version, fields, target, authority }
    }

    /// What stands for a head that could not be read.
    pub fn unreadable() -> Self {
        RequestHead { method: Method::from_bytes(b"-").unwrap_or_default(), ..RequestHead::default() }
    }

    /// The request target as it was written.
    pub fn target(&self) -> &[u8] {
        self.target.of(self.fields.bytes())
    }

    /// `:authority` of HTTP/2.
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.map(|authority| authority.of(self.fields.bytes()))
    }

    /// Reads a head from the beginning of `bytes`: itself and its length, or `None` where it has not all come.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut lines = Lines::new(bytes, Ends::CrLf);
        match Self::read(&mut lines) {
            Ok(head) => Ok(Some((head, lines.read()))),
            Err(Stop::Partial) => check_partial(bytes).map(|()| None),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    fn read(lines: &mut Lines<'_>) -> Result<Self, Stop> {
        lines.skip_empty()?;
        let method = lines.method()?;
        let target = lines.target()?;
        let version = lines.version()?;
        lines.end_line(lines::NO_LINE)?;
        let fields = lines.fields()?;
        if lines.read() > LARGEST {
            return Err(Stop::Wrong(HeadError::TooLarge));
        }
        if target.len() > LONGEST_TARGET {
            return Err(Stop::Wrong(HeadError::TargetTooLong));
        }
        let method = Method::from_bytes(method);
        let method = method.map_err(|_| Stop::Wrong(HeadError::Malformed("the method is not a token")))?;
        Ok(RequestHead { method, version, fields, target, authority: None })
    }

    /// How the end of its body is told. Every spelling but the plain ones is refused.
    pub fn framing(&self) -> Result<Framing, &'static str> {
        let mut codings = self.fields.values(Known::TransferEncoding);
        let mut lengths = self.fields.values(Known::ContentLength);
        let (coding, length) = (codings.next(), lengths.next());
        if codings.next().is_some() || coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
            return Err("the only transfer coding is chunked, named once");
        }
        match (coding, length) {
            (Some(_), Some(_)) => Err("the body has both a length and a transfer coding"),
            (Some(_), None) if self.version == Version::HTTP_10 => Err("HTTP/1.0 has no transfer codings"),
            (Some(_), None) => Ok(Framing::Chunked),
            (None, Some(_)) if lengths.next().is_some() => Err("Content-Length is there twice"),
            (None, Some(length)) => decimal(length).map(Framing::Length).ok_or("Content-Length is not one number"),
            (None, None) => Ok(Framing::Length(0)),
        }
    }
}

impl ResponseHead {
    /// Reads a head from the beginning of `bytes`: itself and its length, or `None` where it has not all come.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut lines = Lines::new(bytes, Ends::AlsoLf);
        match Self::read(&mut lines) {
            Ok(head) => Ok(Some((head, lines.read()))),
            Err(Stop::Partial) if bytes.len() >= LARGEST => Err(HeadError::TooLarge),
            Err(Stop::Partial) => Ok(None),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    fn read(lines: &mut Lines<'_>) -> Result<Self, Stop> {
        lines.skip_empty()?;
        let version = lines.version()?;
        let status = lines.status()?;
        let fields = lines.fields()?;
        let status = StatusCode::from_bytes(status)
            .map_err(|_| Stop::Wrong(HeadError::Malformed("the status is not between 100 and 999")))?;
        Ok(ResponseHead { status, version, fields })
    }

    /// How the end of its body is told, in the answer to a request of this method.
    pub fn framing(&self, method: &Method) -> Result<Framing, &'static str> {
        let coding = one_coding(&self.fields)?;
        let length = one_length(&self.fields)?;
        if coding && length.is_some() {
            return Err("both transfer-encoding and content-length");
        }
        if coding && self.version == Version::HTTP_10 {
            return Err("a transfer coding in HTTP/1.0");
        }
        let bodyless = self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        Ok(match length {
            _ if bodyless => Framing::Length(0),
            _ if coding => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }
}

fn one_coding(fields: &Fields) -> Result<bool, &'static str> {
    let mut codings = fields.values(Known::TransferEncoding);
    let Some(coding) = codings.next() else { return Ok(false) };
    if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
        return Err("a transfer coding other than chunked");
    }
    Ok(true)
}

/// Equal lengths that are repeated are one (RFC 9110 §8.6).
fn one_length(fields: &Fields) -> Result<Option<u64>, &'static str> {
    let mut found = None;
    for line in fields.values(Known::ContentLength) {
        // Nearly all say one number.
        let one = decimal(line).map(Ok);
        let length = one.unwrap_or_else(|| equal_lengths(line))?;
        if *found.get_or_insert(length) != length {
            return Err(DIFFERENT);
        }
    }
    Ok(found)
}

/// The length that a line repeats.
fn equal_lengths(line: &[u8]) -> Result<u64, &'static str> {
    let mut lengths = line.split(|byte| *byte == b',').map(|text| decimal(text.trim_ascii()).ok_or(NO_NUMBER));
    let first = lengths.next().unwrap_or(Err(NO_NUMBER))?;
    lengths.try_fold(first, |first, length| if length? == first { Ok(first) } else { Err(DIFFERENT) })
}

const NO_NUMBER: &str = "a content-length that is no number";
const DIFFERENT: &str = "two different content-lengths";

/// A number of decimal digits only.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = text.iter().map(|digit| u64::from(digit - b'0'));
    // Nineteen digits always fit.
    if text.len() < 20 {
        return Some(digits.fold(0, |number, digit| number * 10 + digit));
    }
    digits.into_iter().try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(digit))
}

fn check_partial(bytes: &[u8]) -> Result<(), HeadError> {
    let no_line_yet = memchr::memchr(b'\n', bytes).is_none();
    if no_line_yet && bytes.len() > LONGEST_TARGET + 1024 {
        return Err(HeadError::TargetTooLong);
    }
    if bytes.len() >= LARGEST { Err(HeadError::TooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(lines: &str) -> Result<Framing, &'static str> {
        let text = format!("POST /p HTTP/1.1\r\n{lines}\r\n");
        RequestHead::parse(text.as_bytes()).unwrap().unwrap().0.framing()
    }

    #[test]
    fn a_head_is_read_in_place() {
        let text = b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nX-A:  \xffv \r\n\r\nrest";
        let (head, length) = RequestHead::parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"rest");
        assert_eq!((head.target(), &head.method, head.version), (&b"/a?b"[..], &Method::GET, Version::HTTP_11));
        let lines: Vec<_> = head.fields.lines().map(|line| (line.name, line.value)).collect();
        assert_eq!(lines, [(&b"Host"[..], &b"h"[..]), (b"X-Empty", b""), (b"X-A", b"\xffv")]);
    }

    #[test]
    fn what_another_reader_could_read_differently_is_refused() {
        for text in [
            "GET / HTTP/1.1\nHost: h\n\n",
            "GET / HTTP/1.1\r\nHost: h\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        ] {
            assert!(matches!(RequestHead::parse(text.as_bytes()), Err(HeadError::Malformed(_))), "{text:?}");
        }
        for lines in [
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(framing(lines).is_err(), "{lines:?}");
        }
        assert_eq!(framing("Content-Length: 010\r\n"), Ok(Framing::Length(10)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing("Transfer_Encoding: chunked\r\n"), Ok(Framing::Length(0)));
    }

    #[test]
    fn a_head_is_bounded() {
        let many: String = (0..=MOST_FIELDS).map(|n| format!("x-{n}: 1\r\n")).collect();
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(RequestHead::parse(many.as_bytes()).unwrap_err(), HeadError::TooLarge);
        let large = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(LARGEST));
        assert_eq!(RequestHead::parse(large.as_bytes()).unwrap_err(), HeadError::TooLarge);
        let long = format!("GET /{}", "y".repeat(2 * LONGEST_TARGET));
        assert_eq!(RequestHead::parse(long.as_bytes()).unwrap_err(), HeadError::TargetTooLong);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes: Vec<u8>) {
            let _request = RequestHead::parse(&bytes);
            let _response = ResponseHead::parse(&bytes);
        }
    }
}
