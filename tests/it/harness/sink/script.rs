//! What a scripted upstream does with a request, step by step, on either version of HTTP.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Seen;
use crate::harness::board::Board;
pub use crate::harness::strict::Framing;

/// Header fields as a script states them.
pub type Fields = Vec<(String, String)>;

/// One thing an upstream does.
#[derive(Clone)]
pub enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    /// Reads until this many bytes of the body have come (or all of it).
    ReadSome(u64),
    /// Sends an interim response.
    Interim(u16, Fields),
    /// Sends the response head; the framing adds its own header.
    Head(u16, Fields, Framing),
    /// Sends a piece of the body, one chunk where it is chunked.
    Data(Bytes),
    /// Sends this many bytes of the body.
    Fill(u64),
    /// Ends the body, with trailers where the framing has them.
    End(Fields),
    /// Writes bytes as they are. HTTP/1.1 only.
    Raw(Bytes),
    /// Writes a part of a response head. HTTP/2 has no parts of heads: there it says nothing yet.
    HalfHead,
    /// Writes bytes one by one, so far apart: raw bytes of HTTP/1.1, or of the body behind a head.
    Trickle(Bytes, Duration),
    /// Waits for the test, reading on.
    Gate(Gate),
    /// Waits for the test and reads nothing meanwhile.
    Hold(Gate),
    /// Sends pieces as the test releases them, until it closes the feed.
    Feed(Feed),
    /// Answers with a description of the request (see [`Script::echo`]).
    Echo,
    /// Reads the request's body to its end, and goes on with the steps of the script that is made of the request.
    Decide(Decision),
    /// Agrees to a WebSocket and sends every byte back. HTTP/1.1 only.
    WebSocket,
    /// Says nothing more, reading on until the peer ends.
    Stall,
    /// Says nothing more and reads nothing more.
    Freeze,
    /// Ends the connection in good order.
    Fin,
    /// Ends the connection by FIN alone, without TLS's `close_notify`.
    Cut,
    /// Ends the connection by RST; on HTTP/2 resets the stream.
    Reset,
    /// Refuses the stream: it was not processed. HTTP/2 only.
    RefuseStream,
    /// Announces that no further stream is taken. HTTP/2 only.
    GoAway,
}

/// Makes a script of a whole request.
pub type Decision = Arc<dyn Fn(&Seen) -> Script + Send + Sync>;

/// A sequence of steps for one request.
#[derive(Clone, Default)]
pub struct Script {
    pub(super) steps: Vec<Step>,
}

impl Script {
    /// A script that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This script with one more step.
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Reads the request, then answers 200 with `body`.
    pub fn ok(body: &str) -> Self {
        Self::respond(200, &[("content-type", "text/plain")], body)
    }

    /// Reads the request, then answers so, with a `content-length`.
    pub fn respond(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        Self::new().then(Step::ReadBody).answer(status, fields, body)
    }

    /// Answers before the body was read, and reads the body after that.
    pub fn early(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        Self::new().answer(status, fields, body).then(Step::ReadBody)
    }

    /// Reads the request, then answers 200 in chunks, with trailers.
    pub fn chunked(chunks: &[&str], trailers: &[(&str, &str)]) -> Self {
        let mut script = Self::new().then(Step::ReadBody).head(200, &[], Framing::Chunked);
        for chunk in chunks {
            script = script.data(chunk);
        }
        script.then(Step::End(owned(trailers)))
    }

    /// Answers with JSON: `version`, `method`, `target`, `headers` as `[name, value]` in the order received, `body`,
    /// `trailers`, `connection`. The answer therefore holds the injected credential.
    pub fn echo() -> Self {
        Self::new().then(Step::ReadBody).then(Step::Echo)
    }

    /// An event stream whose events the test releases one by one.
    pub fn events() -> (Self, Feed) {
        let feed = Feed::new();
        let fields = [("content-type", "text/event-stream")];
        let script = Self::new().then(Step::ReadBody).head(200, &fields, Framing::Chunked);
        (script.then(Step::Feed(feed.clone())).end(), feed)
    }

    /// Agrees to a WebSocket and echoes raw frames.
    pub fn websocket() -> Self {
        Self::new().then(Step::WebSocket)
    }

    /// Reads the request and never answers.
    pub fn stall() -> Self {
        Self::new().then(Step::Stall)
    }

    /// Promises `length` bytes, sends `part` and then says nothing more.
    pub fn stall_in_body(length: u64, part: &str) -> Self {
        Self::part(length, part).then(Step::Stall)
    }

    /// Ends the connection in the middle of the response head.
    pub fn cut_in_head(how: Step) -> Self {
        Self::new().then(Step::ReadBody).then(Step::HalfHead).then(how)
    }

    /// Promises `length` bytes, sends `part` and ends as `how` says ([`Step::Fin`], [`Step::Cut`], [`Step::Reset`]).
    pub fn cut_in_body(length: u64, part: &str, how: Step) -> Self {
        Self::part(length, part).then(how)
    }

    /// Reads the request, then writes `bytes` as they are and ends the connection.
    pub fn malformed(bytes: impl AsRef<[u8]>) -> Self {
        Self::new().then(Step::ReadBody).raw(bytes).then(Step::Fin)
    }

    /// Reads the request, then writes `bytes` one by one, so far apart.
    pub fn trickle(bytes: impl AsRef<[u8]>, every: Duration) -> Self {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        Self::new().then(Step::ReadBody).then(Step::Trickle(bytes, every))
    }

    /// A download of `length` bytes.
    pub fn download(length: u64) -> Self {
        Self::new().then(Step::ReadBody).head(200, &[], Framing::Length(length)).then(Step::Fill(length)).end()
    }

    /// Reads the request whole, and then does what `decision` makes of it.
    pub fn decided(decision: impl Fn(&Seen) -> Self + Send + Sync + 'static) -> Self {
        Self::new().then(Step::Decide(Arc::new(decision)))
    }

    /// Sends an interim response (`100`, `103`).
    pub fn interim(self, status: u16, fields: &[(&str, &str)]) -> Self {
        self.then(Step::Interim(status, owned(fields)))
    }

    /// Sends a response head.
    pub fn head(self, status: u16, fields: &[(&str, &str)], framing: Framing) -> Self {
        self.then(Step::Head(status, owned(fields), framing))
    }

    /// Sends a piece of the body.
    pub fn data(self, piece: impl AsRef<[u8]>) -> Self {
        self.then(Step::Data(Bytes::copy_from_slice(piece.as_ref())))
    }

    /// Ends the body without trailers.
    pub fn end(self) -> Self {
        self.then(Step::End(Vec::new()))
    }

    /// Writes bytes as they are.
    pub fn raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Raw(Bytes::copy_from_slice(bytes.as_ref())))
    }

    /// Waits for the test, reading on.
    pub fn gate(self, gate: &Gate) -> Self {
        self.then(Step::Gate(gate.clone()))
    }

    /// A whole answer with a `content-length`.
    pub fn answer(self, status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        self.head(status, fields, Framing::Length(body.len() as u64)).data(body).end()
    }

    fn part(length: u64, part: &str) -> Self {
        Self::new().then(Step::ReadBody).head(200, &[], Framing::Length(length)).data(part)
    }
}

fn owned(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A gate in a script: it stays shut until the test opens it.
#[derive(Clone)]
pub struct Gate(Arc<Board<bool>>);

impl Gate {
    /// A shut gate.
    pub fn shut() -> Self {
        Self(Arc::new(Board::new(false)))
    }

    /// Opens it, for everyone and for good.
    pub fn open(&self) {
        self.0.update(|open| *open = true);
    }

    pub(super) async fn opened(&self) {
        self.0.found(|open| open.then_some(())).await;
    }
}

/// Pieces of a body that the test releases one by one.
#[derive(Clone)]
pub struct Feed(Arc<Board<(VecDeque<Bytes>, bool)>>);

impl Feed {
    /// An empty, open feed.
    pub fn new() -> Self {
        Self(Arc::new(Board::new((VecDeque::new(), false))))
    }

    /// Releases one piece.
    pub fn send(&self, piece: impl AsRef<[u8]>) {
        self.0.update(|(pieces, _)| pieces.push_back(Bytes::copy_from_slice(piece.as_ref())));
    }

    /// Ends the feed: the script goes on with its next step.
    pub fn close(&self) {
        self.0.update(|(_, closed)| *closed = true);
    }

    pub(super) async fn next(&self) -> Option<Bytes> {
        self.0
            .found(|(pieces, closed)| match pieces.pop_front() {
                Some(piece) => Some(Some(piece)),
                None => closed.then_some(None),
            })
            .await
    }
}
