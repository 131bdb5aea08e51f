//! A strict reader of HTTP/1.1 messages (RFC 9112): the oracle for every byte a scripted upstream receives.
//!
//! It accepts what the grammar generates and nothing of what the RFC lets a lenient recipient repair, because a byte
//! that needs repair is a byte two parsers may read differently. It is small and slow on purpose, and shares no code
//! with the product or with hyper.

/// Why bytes are not a well-formed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// A parsed message head; for responses `method` is empty and `target` holds the status code.
#[derive(Clone, Debug)]
pub struct Head {
    /// The method, or the version of a response.
    pub method: String,
    /// The request target, or the status code.
    pub target: String,
    /// The minor version of HTTP/1.
    pub minor: u8,
    /// Fields in the order they came, names as they were written.
    pub fields: Vec<(String, String)>,
    /// How the body is framed.
    pub framing: Framing,
    /// How many bytes the head took.
    pub length: usize,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, or no body at all.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection ends; responses only.
    UntilClose,
}

impl Head {
    /// Every value of the field `name`, compared without case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }
}

/// Every value of `name` in `fields`, compared without case.
pub fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// The request head at the start of `bytes`; `None` when it has not ended yet.
pub fn request_head(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    let Some((lines, length)) = head_lines(bytes)? else { return Ok(None) };
    let (method, target, minor) = request_line(lines[0])?;
    let fields = field_lines(&lines[1..])?;
    require_host(&fields, minor)?;
    let framing = framing(&fields, minor)?.unwrap_or(Framing::Length(0));
    Ok(Some(Head { method, target, minor, fields, framing, length }))
}

/// The response head at the start of `bytes`, answering a request with `method`; `None` when it has not ended yet.
pub fn response_head(bytes: &[u8], method: &str) -> Result<Option<Head>, Violation> {
    let Some((lines, length)) = head_lines(bytes)? else { return Ok(None) };
    let line = text(lines[0]);
    let minor = match line.get(..9) {
        Some("HTTP/1.1 ") => 1,
        Some("HTTP/1.0 ") => 0,
        _ => return violation("status line", lines[0]),
    };
    let (code, reason) = (line.get(9..12).unwrap_or(""), line.get(12..).unwrap_or(""));
    let known = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit()) && code.as_bytes()[0] != b'0';
    if !known || !(reason.is_empty() || reason.starts_with(' ')) {
        return violation("status line", lines[0]);
    }
    let fields = field_lines(&lines[1..])?;
    let bodyless = method == "HEAD" || code.starts_with('1') || code == "204" || code == "304";
    let declared = framing(&fields, minor)?;
    let framing = if bodyless { Framing::Length(0) } else { declared.unwrap_or(Framing::UntilClose) };
    Ok(Some(Head { method: line[..8].to_owned(), target: code.to_owned(), minor, fields, framing, length }))
}

/// Checks that `bytes` are well-formed requests one after another, the last of which may be unfinished.
/// Returns how many were complete.
pub fn requests(mut bytes: &[u8]) -> Result<usize, Violation> {
    let mut complete = 0;
    while !bytes.is_empty() {
        let Some(head) = request_head(bytes)? else { return Ok(complete) };
        bytes = &bytes[head.length..];
        let mut body = BodyReader::new(head.framing);
        let (taken, _) = body.feed(bytes)?;
        bytes = &bytes[taken..];
        if !body.is_done() {
            return Ok(complete);
        }
        complete += 1;
    }
    Ok(complete)
}

type Lines<'a> = (Vec<&'a [u8]>, usize);

fn head_lines(bytes: &[u8]) -> Result<Option<Lines<'_>>, Violation> {
    let mut lines = Vec::new();
    let mut start = 0;
    loop {
        let Some(line) = line(&bytes[start..])? else { return Ok(None) };
        start += line.len() + 2;
        match (line.is_empty(), lines.is_empty()) {
            (true, true) => return violation("empty line before a message", line),
            (true, false) => return Ok(Some((lines, start))),
            (false, _) => lines.push(line),
        }
    }
}

/// The line at the start of `bytes` without its CRLF; a bare CR or LF is a violation as soon as it is seen.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Violation> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\r' || byte == b'\n') else { return Ok(None) };
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => Ok(Some(&bytes[..end])),
        (b'\r', None) => Ok(None),
        _ => violation("bare CR or LF", &bytes[..=end]),
    }
}

fn request_line(line: &[u8]) -> Result<(String, String, u8), Violation> {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let [method, target, version] = parts[..] else { return violation("request line", line) };
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return violation("version", line),
    };
    // An origin server is sent origin-form, or `*` for OPTIONS (RFC 9112 §3.2); a fragment is never sent.
    let target_bytes = target.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#');
    let form = target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS");
    if !is_token(method) || !target_bytes || !form {
        return violation("request line", line);
    }
    Ok((text(method), text(target), minor))
}

fn field_lines(lines: &[&[u8]]) -> Result<Vec<(String, String)>, Violation> {
    lines.iter().map(|line| field_line(line)).collect()
}

fn field_line(line: &[u8]) -> Result<(String, String), Violation> {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return violation("field without colon", line) };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return violation("field name", line);
    }
    if !value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)) {
        return violation("field value", line);
    }
    Ok((text(name), text(value.trim_ascii())))
}

fn require_host(fields: &[(String, String)], minor: u8) -> Result<(), Violation> {
    let hosts = all(fields, "host");
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte);
    match hosts[..] {
        [] if minor == 0 => Ok(()),
        [host] if !host.is_empty() && host.bytes().all(allowed) => Ok(()),
        _ => violation("exactly one valid Host", format!("{hosts:?}").as_bytes()),
    }
}

/// The one framing the fields declare; two, or a doubtful one, is a violation.
fn framing(fields: &[(String, String)], minor: u8) -> Result<Option<Framing>, Violation> {
    let (lengths, codings) = (all(fields, "content-length"), all(fields, "transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| Violation(format!("content length {length}")))?;
            Ok(Some(Framing::Length(length)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && minor == 1 => Ok(Some(Framing::Chunked)),
        _ => violation("exactly one framing", format!("{lengths:?} {codings:?}").as_bytes()),
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let allowed = |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !bytes.is_empty() && bytes.iter().all(allowed)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn violation<T>(what: &str, bytes: &[u8]) -> Result<T, Violation> {
    Err(Violation(format!("{what}: {}", bytes.escape_ascii())))
}

/// Takes a body off a stream of bytes as they come.
#[derive(Debug)]
pub struct BodyReader {
    framing: Framing,
    state: BodyState,
    /// The trailer fields of a chunked body, once it has ended.
    pub trailers: Vec<(String, String)>,
    // An unfinished chunk-size or trailer line from an earlier call.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Data(u64),
    ChunkSize,
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyReader {
    /// A reader at the first byte after a head with this framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Data(length),
            Framing::Chunked => BodyState::ChunkSize,
            Framing::UntilClose => BodyState::Data(u64::MAX),
        };
        Self { framing, state, trailers: Vec::new(), pending: Vec::new() }
    }

    /// Whether the body has ended; one that lasts until the connection ends never does by itself.
    pub fn is_done(&self) -> bool {
        self.state == BodyState::Done
    }

    /// How the body is framed.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Takes what belongs to the body: how many bytes were consumed, and the data among them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Vec<u8>), Violation> {
        let (mut taken, mut data) = (0, Vec::new());
        while taken < bytes.len() && !self.is_done() {
            match self.state {
                BodyState::Data(left) => {
                    let rest = &bytes[taken..];
                    let part = &rest[..rest.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                    data.extend_from_slice(part);
                    taken += part.len();
                    self.state = self.after_data(left - part.len() as u64);
                }
                _ => {
                    self.pending.push(bytes[taken]);
                    taken += 1;
                    self.line_ended()?;
                }
            }
        }
        Ok((taken, data))
    }

    fn after_data(&self, left: u64) -> BodyState {
        match (left, self.framing) {
            (0, Framing::Chunked) => BodyState::ChunkEnd,
            (0, _) => BodyState::Done,
            (_, Framing::UntilClose) => BodyState::Data(u64::MAX),
            (left, _) => BodyState::Data(left),
        }
    }

    fn line_ended(&mut self) -> Result<(), Violation> {
        let Some(line) = line(&self.pending)?.map(<[u8]>::to_vec) else { return Ok(()) };
        self.pending.clear();
        self.state = match (self.state, line.is_empty()) {
            (BodyState::ChunkEnd, true) => BodyState::ChunkSize,
            (BodyState::ChunkSize, false) => match chunk_size(&line)? {
                0 => BodyState::Trailers,
                size => BodyState::Data(size),
            },
            (BodyState::Trailers, true) => BodyState::Done,
            (BodyState::Trailers, false) => {
                self.trailers.push(field_line(&line)?);
                BodyState::Trailers
            }
            _ => return violation("chunk framing", &line),
        };
        Ok(())
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    let clean = extension.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    if digits == 0 || digits > 15 || !clean || !(extension.is_empty() || extension.starts_with(b";")) {
        return violation("chunk size", line);
    }
    u64::from_str_radix(&text(&line[..digits]), 16).map_err(|_| Violation("chunk size".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::requests;

    #[test]
    fn well_formed_requests_pass_whole_and_unfinished() {
        let two =
            b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\nPOST / HTTP/1.1\r\nhost: h:1\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n";
        assert_eq!(requests(two), Ok(2));
        for end in 0..two.len() {
            assert!(requests(&two[..end]).is_ok(), "cut at {end}");
        }
    }

    #[test]
    fn every_ambiguity_is_a_violation() {
        let bad: [&[u8]; 14] = [
            b"GET / HTTP/1.1\nHost: h\n\n",
            b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /#f HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        ];
        for bytes in bad {
            assert!(requests(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
