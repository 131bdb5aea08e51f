//! What a scripted upstream remembers: its connections, byte by byte, and the requests that came on them.

use super::Shared;
use super::script::Fields;

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Which request it is, counted from 0 in the order the heads came.
    pub number: usize,
    /// Which connection it came on, counted from 0 in the order they were accepted.
    pub connection: usize,
    /// `1` or `2`.
    pub version: u8,
    /// The method.
    pub method: String,
    /// The request target; on HTTP/2 the `:path`.
    pub target: String,
    /// `:scheme` and `:authority` on HTTP/2.
    pub pseudo: Fields,
    /// Fields in the order they came, names as they were written.
    pub headers: Fields,
    /// The bytes of the head (HTTP/1.1), or its fields written as lines (HTTP/2): values need not be text.
    pub raw_head: Vec<u8>,
    /// The body so far, up to the sink's limit.
    pub body: Vec<u8>,
    /// How long the body is so far, beyond any limit.
    pub body_length: u64,
    /// Trailer fields.
    pub trailers: Fields,
    /// Whether the peer reset the stream (HTTP/2).
    pub reset: bool,
    /// Whether the request has ended as its framing promised.
    pub complete: bool,
}

impl Seen {
    /// The only value of the header `name`; panics where it came more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} came more than once: {values:?}");
        values.first().copied()
    }

    /// Every value of the header `name`; that of `host` is the `:authority` of HTTP/2.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// All headers in the order they came; `:authority` comes first, as the `host` it stands for.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let authority = self.pseudo.iter().filter(|(name, _)| name == ":authority");
        let authority = authority.map(|(_, value)| ("host", value.as_str()));
        authority.chain(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// The names of all headers in lower case, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.fields().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        names
    }

    /// Whether the message says in exactly one way how long it is. Over HTTP/2 its frames do, and a length at most agrees.
    pub fn is_framed_once(&self) -> bool {
        let (lengths, codings) = (self.all("content-length"), self.all("transfer-encoding"));
        match self.version {
            1 => lengths.len() + codings.len() == 1,
            _ => codings.is_empty() && (lengths.is_empty() || lengths == [self.body_length.to_string()]),
        }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How a connection came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer ended it in good order.
    Eof,
    /// The peer reset it.
    Reset,
    /// The script ended it.
    Script,
    /// Something else, said in words.
    Failed(String),
}

/// A TCP connection as the sink saw it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Every byte received (inside TLS where there is TLS), up to the sink's limit.
    pub bytes: Vec<u8>,
    /// How many bytes were not kept.
    pub unkept: u64,
    /// Where HTTP ended and another protocol began.
    pub upgraded_at: Option<usize>,
    /// The server name the client asked for.
    pub sni: Option<String>,
    /// The TLS version and ALPN protocol agreed on.
    pub tls: Option<(String, Option<String>)>,
    /// What was not well formed.
    pub violation: Option<String>,
    /// How it ended, once it has.
    pub end: Option<End>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) connections: Vec<Connection>,
    pub(super) requests: Vec<Seen>,
    pub(super) heads_taken: usize,
    pub(super) requests_taken: usize,
}

impl Shared {
    pub(super) fn connection<R>(&self, number: usize, change: impl FnOnce(&mut Connection) -> R) -> R {
        self.record.update(|record| change(&mut record.connections[number]))
    }

    /// Notes how a connection ended; the first end holds.
    pub(super) fn end(&self, number: usize, end: End) {
        self.connection(number, |connection| {
            connection.end.get_or_insert(end);
        });
    }

    pub(super) fn received(&self, number: usize, bytes: &[u8]) {
        self.connection(number, |connection| {
            let kept = bytes.len().min(self.keep.saturating_sub(connection.bytes.len()));
            connection.bytes.extend_from_slice(&bytes[..kept]);
            connection.unkept += (bytes.len() - kept) as u64;
        });
    }

    /// Adds a request and returns its number.
    pub(super) fn begin(&self, seen: Seen) -> usize {
        self.record.update(|record| {
            let number = record.requests.len();
            record.requests.push(Seen { number, ..seen });
            number
        })
    }

    pub(super) fn body(&self, request: usize, data: &[u8], end: Option<Fields>) {
        self.record.update(|record| {
            let seen = &mut record.requests[request];
            let kept = data.len().min(self.keep.saturating_sub(seen.body.len()));
            seen.body.extend_from_slice(&data[..kept]);
            seen.body_length += data.len() as u64;
            if let Some(trailers) = end {
                (seen.trailers, seen.complete) = (trailers, true);
            }
        });
    }

    pub(super) fn reset(&self, request: usize) {
        self.record.update(|record| record.requests[request].reset = true);
    }

    pub(super) fn seen(&self, request: usize) -> Seen {
        self.record.read(|record| record.requests[request].clone())
    }

    /// How long the body of a request is so far, and whether it has ended.
    pub(super) fn progress(&self, request: usize) -> (u64, bool) {
        self.record.read(|record| (record.requests[request].body_length, record.requests[request].complete))
    }
}
