//! What a careful reader makes of the bytes that go in, written apart from the product; and of the replies that come out.

use crate::strict::{self, BodyReader, Framing, Violation};

/// A request that was asked.
#[derive(Debug)]
pub struct Asked {
    pub method: String,
    pub body: Vec<u8>,
    pub complete: bool,
}

/// An upstream's final answer.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub body: Vec<u8>,
    pub complete: bool,
    pub until_close: bool,
}

/// A reply as a client received it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub complete: bool,
    pub until_close: bool,
}

/// The requests in `bytes`, up to the first that could be read in two ways.
pub fn requests(mut bytes: &[u8]) -> Vec<Asked> {
    let mut asked = Vec::new();
    loop {
        // RFC 9112 §2.2: empty lines before a request are passed over.
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Some((lines, rest)) = head(bytes, Ends::CrLf) else { return asked };
        let Some((method, framing)) = request(&lines) else { return asked };
        let (body, complete, taken) = body(framing, rest);
        asked.push(Asked { method, body, complete });
        if !complete {
            return asked;
        }
        bytes = &rest[taken..];
    }
}

/// The final answer in `bytes`, behind interim ones; `None` where it is none.
pub fn answer(mut bytes: &[u8], method: &str) -> Option<Answered> {
    loop {
        // Empty lines before an answer are passed over as well: some servers write one behind a body.
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or(bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        let (lines, rest) = head(bytes, Ends::Lf)?;
        let line = lines[0];
        let minor = match line.get(..9)? {
            b"HTTP/1.1 " => 1,
            b"HTTP/1.0 " => 0,
            _ => return None,
        };
        let digits = std::str::from_utf8(line.get(9..12)?).ok()?;
        let status: u16 = digits.parse().ok().filter(|status| (100..1000).contains(status))?;
        if (100..200).contains(&status) && status != 101 {
            bytes = rest;
            continue;
        }
        let fields = fields(&lines[1..])?;
        let (coding, length) = framing(&fields, minor, true)?;
        let bodyless = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let (framing, until_close) = match length {
            _ if bodyless => (Framing::Length(0), false),
            _ if coding => (Framing::Chunked, false),
            Some(length) => (Framing::Length(length), false),
            None => (Framing::UntilClose, true),
        };
        let (body, complete, _) = body(framing, rest);
        return Some(Answered { status, body, complete: complete || until_close, until_close });
    }
}

/// The first final reply in `bytes`, by the strict oracle; `None` where not even its head has come.
pub fn reply(mut bytes: &[u8], method: &str) -> Result<Option<Reply>, Violation> {
    loop {
        let Some(head) = strict::response_head(bytes, method)? else { return Ok(None) };
        bytes = &bytes[head.length..];
        let status: u16 = head.target.parse().expect("three digits");
        if (100..200).contains(&status) {
            continue;
        }
        let mut reader = BodyReader::new(head.framing);
        let (_, body) = reader.feed(bytes)?;
        let until_close = head.framing == Framing::UntilClose;
        let complete = reader.is_done() || until_close;
        return Ok(Some(Reply { status, fields: head.fields, body, complete, until_close }));
    }
}

/// What may end a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    CrLf,
    Lf,
}

/// The lines of a head and what is behind it; `None` where it has not ended, or where its lines end in another way.
fn head(bytes: &[u8], ends: Ends) -> Option<(Vec<&[u8]>, &[u8])> {
    let (mut lines, mut rest) = (Vec::new(), bytes);
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let line = match (line.strip_suffix(b"\r"), ends) {
            (Some(line), _) => line,
            (None, Ends::Lf) => line,
            (None, Ends::CrLf) => return None,
        };
        if line.contains(&b'\r') {
            return None;
        }
        if line.is_empty() {
            return (!lines.is_empty()).then_some((lines, rest));
        }
        lines.push(line);
    }
}

fn request(lines: &[&[u8]]) -> Option<(String, Framing)> {
    let parts: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let [method, _, version] = parts[..] else { return None };
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return None,
    };
    let (coding, length) = framing(&fields(&lines[1..])?, minor, false)?;
    let framing = if coding { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) };
    Some((String::from_utf8_lossy(method).into_owned(), framing))
}

type Field<'a> = (&'a [u8], &'a [u8]);

fn fields<'a>(lines: &[&'a [u8]]) -> Option<Vec<Field<'a>>> {
    let split = |line: &&'a [u8]| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = &line[..colon];
        let plain = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        plain.then(|| (name, line[colon + 1..].trim_ascii()))
    };
    lines.iter().map(split).collect()
}

/// Whether a message is chunked, and the length it tells; `None` where it is framed twice, or doubtfully. Lengths that
/// are repeated are one where `repeated` says so (RFC 9110 §8.6).
fn framing(fields: &[Field<'_>], minor: u8, repeated: bool) -> Option<(bool, Option<u64>)> {
    let all = |wanted: &str| -> Vec<&[u8]> {
        fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()))
            .map(|(_, value)| *value)
            .collect()
    };
    let codings = all("transfer-encoding");
    let chunked = codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked") && minor == 1;
    if !codings.is_empty() && !chunked {
        return None;
    }
    let lines = all("content-length");
    let lengths: Vec<&[u8]> = match repeated {
        true => lines.iter().flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii).collect(),
        false => lines,
    };
    let numbers: Vec<u64> = lengths.iter().map(|length| number(length)).collect::<Option<_>>()?;
    let same = numbers.windows(2).all(|pair| pair[0] == pair[1]);
    if !same || (!repeated && numbers.len() > 1) || (chunked && !numbers.is_empty()) {
        return None;
    }
    Some((chunked, numbers.first().copied()))
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// What has come of a body, whether that is all of it, and how many bytes it took.
fn body(framing: Framing, bytes: &[u8]) -> (Vec<u8>, bool, usize) {
    let mut reader = BodyReader::new(framing);
    let (mut taken, mut body) = (0, Vec::new());
    // Piece by piece, so that what came before a violation is known.
    while taken < bytes.len() && !reader.is_done() {
        let piece = &bytes[taken..bytes.len().min(taken + 1)];
        let Ok((count, data)) = reader.feed(piece) else { return (body, false, taken) };
        taken += count;
        body.extend_from_slice(&data);
    }
    (body, reader.is_done(), taken)
}
