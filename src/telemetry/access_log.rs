//! The access log: one line for each request, from one place.
//!
//! A worker renders lines into a buffer of its own and hands full buffers to one writer thread. The hand-over never
//! waits: when the writer cannot keep up, lines are dropped and counted rather than a request delayed. What every line
//! about a connection says is rendered once, into its [`Names`].

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Format;
use super::clock::{Moment, UNTIL_SECOND, write_second};
use super::metrics::Metrics;
use super::request_id::RequestId;
use crate::clock;

/// A buffer this full is handed over at once.
const FULL: usize = 64 * 1024;
/// How long lines wait for others before they are handed over: each time costs a wake-up of another thread.
const SOON: Duration = Duration::from_millis(50);
/// How many buffers may wait for the writer.
const WAITING: usize = 256;
/// How many written buffers are kept for the next lines: memory that was touched already.
const SPARE: usize = 4;
/// A text longer than this is cut, so that no caller can write more than a few KiB into one line.
const LONGEST_TEXT: usize = 256;

/// What every line about a connection says, rendered once, in one piece.
#[derive(Debug)]
pub struct Names {
    /// `,"connection":"…","connection_id":"…","customer":"…"`, the last where it is a customer's.
    text: Box<[u8]>,
    /// Where the key ends in it, and where the customer begins.
    key_end: u32,
    customer: u32,
}

const CONNECTION: &[u8; 15] = b",\"connection\":\"";
const CONNECTION_ID: &[u8; 18] = b",\"connection_id\":\"";
const CUSTOMER: &[u8; 13] = b",\"customer\":\"";

impl Names {
    /// Of a connection's key and id, and its customer.
    pub fn new(key: &str, id: impl Display, customer: Option<&str>) -> Self {
        /// As many characters as an id has.
        const ID: usize = 31;
        let of_customer = customer.map_or(0, |customer| CUSTOMER.len() + customer.len() + 1);
        let room = CONNECTION.len() + key.len() + 1 + CONNECTION_ID.len() + ID + 1 + of_customer;
        let mut text = Vec::with_capacity(room);
        push_member(&mut text, CONNECTION, key);
        let key_end = text.len() as u32 - 1;
        text.extend_from_slice(CONNECTION_ID);
        let _infallible = write!(Escaped(&mut text), "{id}");
        text.push(b'"');
        let begin = text.len() as u32;
        if let Some(customer) = customer {
            push_member(&mut text, CUSTOMER, customer);
        }
        Names { text: text.into_boxed_slice(), key_end, customer: begin }
    }

    /// The connection's key, as it stands in a JSON text.
    fn key(&self) -> &str {
        std::str::from_utf8(&self.text[CONNECTION.len()..self.key_end as usize]).unwrap_or_default()
    }

    fn connection(&self) -> &[u8] {
        &self.text[..self.customer as usize]
    }

    fn of_customer(&self) -> &[u8] {
        &self.text[self.customer as usize..]
    }
}

/// What is written to it goes into a JSON text.
struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        push_text(self.0, text);
        Ok(())
    }
}

/// The connection of a line.
#[derive(Clone, Copy, Debug, Default)]
pub enum Named<'a> {
    /// None was named.
    #[default]
    Nothing,
    /// The reference that was asked for, where that was not admitted.
    Asked(&'a str),
    /// A connection that was used.
    Used {
        /// What is said of it.
        names: &'a Names,
        /// The environment: a name, nothing of it needs to be escaped.
        environment: &'a str,
        /// Host and port of its upstream, which do not either.
        upstream: &'a str,
    },
}

impl Named<'_> {
    fn upstream(&self) -> Option<&str> {
        match self {
            Named::Used { upstream, .. } => Some(upstream),
            Named::Nothing | Named::Asked(_) => None,
        }
    }
}

/// What a line tells. Every text is an id, a name from the configuration or a word of ours; never a query string, a
/// header's value or a body.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The request's id.
    pub request_id: RequestId,
    /// When it was over.
    pub ended: Moment,
    /// Who asked: a key's id, or a word of ours.
    pub caller: &'a str,
    /// The connection, its environment and upstream.
    pub connection: Named<'a>,
    /// The workflow that said its name.
    pub workflow: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The status that was answered; absent where the client had gone.
    pub status: Option<u16>,
    /// Why, in a word: an error's code, or how a body ended.
    pub reason: Option<&'a str>,
    /// From the head of the request to the end of the answer.
    pub total: Duration,
    /// The part of it that was waited for the upstream's head.
    pub upstream_wait: Duration,
    /// What Sidekey added before the answer's head could be passed on.
    pub added: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Whether a pooled connection was used.
    pub reused: bool,
}

impl Entry<'_> {
    /// Its JSON line, as the log has it or would have it, with the line's end.
    #[cold]
    pub fn append_json(&self, lines: &mut Vec<u8>) {
        write_json(lines, &mut Head::new(), self);
    }
}

/// The process's access log: the way to its writer thread.
#[derive(Clone)]
pub struct AccessLog {
    spare: Spare,
    sender: Option<SyncSender<Vec<u8>>>,
    format: Format,
    metrics: Arc<Metrics>,
}

/// Buffers that were written, on their way back to whoever needs one next: asked for once for each buffer, not for each
/// line.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < SPARE {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

/// The writer thread; joined when every [`AccessLog`] is gone.
pub struct LogWriter(Option<JoinHandle<()>>);

impl AccessLog {
    /// Starts the writer thread. `sink` is where lines go, usually stderr.
    pub fn start(
        sink: impl std::io::Write + Send + 'static,
        format: Format,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Self, LogWriter)> {
        let (sender, receiver) = sync_channel(WAITING);
        let spare = Spare::default();
        let returned = spare.clone();
        let write = move || write_all(&receiver, sink, &returned);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok((AccessLog { spare, sender: Some(sender), format, metrics }, LogWriter(Some(thread))))
    }

    /// An access log that keeps nothing.
    pub fn off(metrics: Arc<Metrics>) -> Self {
        AccessLog { spare: Spare::default(), sender: None, format: Format::Json, metrics }
    }

    /// A buffer for one worker.
    pub fn buffer(&self) -> AccessBuffer {
        AccessBuffer {
            log: self.clone(),
            pending: RefCell::new(Pending { lines: Vec::new(), count: 0, head: Head::new() }),
            written: tokio::sync::Notify::new(),
        }
    }
}

impl LogWriter {
    /// Waits until everything handed over is written; every [`AccessLog`] must be gone.
    pub fn join(mut self) {
        if let Some(thread) = self.0.take() {
            let _panicked = thread.join();
        }
    }
}

fn write_all(receiver: &Receiver<Vec<u8>>, mut sink: impl std::io::Write, spare: &Spare) {
    while let Ok(lines) = receiver.recv() {
        // Nobody is left to tell when stderr is gone.
        let _gone = sink.write_all(&lines).and_then(|()| sink.flush());
        spare.give(lines);
    }
}

/// One worker's lines that are not handed over yet.
pub struct AccessBuffer {
    log: AccessLog,
    pending: RefCell<Pending>,
    written: tokio::sync::Notify,
}

struct Pending {
    lines: Vec<u8>,
    count: u64,
    head: Head,
}

impl AccessBuffer {
    /// Adds a line.
    pub fn write(&self, entry: &Entry<'_>) {
        if self.log.sender.is_none() {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        let Pending { lines, count, head } = &mut *pending;
        let was_empty = lines.is_empty();
        match self.log.format {
            Format::Json => write_json(lines, head, entry),
            Format::Human => write_human(lines, head, entry),
        }
        *count += 1;
        let full = lines.len() >= FULL;
        drop(pending);
        if full {
            self.flush();
        } else if was_empty {
            self.written.notify_one();
        }
    }

    /// Hands over what is there.
    pub fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        let Some(sender) = &self.log.sender else { return };
        if pending.lines.is_empty() {
            return;
        }
        let lines = std::mem::replace(&mut pending.lines, self.log.spare.take());
        let count = std::mem::take(&mut pending.count);
        drop(pending);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(lines) {
            self.log.metrics.access_lines_dropped.inc_by(count);
        }
    }

    /// Hands lines over soon after they were written, for as long as it is polled. It sleeps while nothing is written.
    pub async fn keep_flushing(&self) {
        loop {
            self.written.notified().await;
            clock::sleep(SOON).await;
            self.flush();
        }
    }
}

/// How every JSON line begins: all of it stands here, and a line overwrites what is its own.
const HEAD: &[u8; 121] = b"{\"timestamp\":\"0000-00-00T00:00:00.000000Z\",\"level\":\"INFO\",\"target\":\"access\",\
\"request_id\":\"req_00000000000000000000000000\"";
/// Where the time begins in it, and where the request's id.
const TIME: usize = 14;
const FRACTION: usize = TIME + UNTIL_SECOND + 1;
const END_OF_TIME: usize = FRACTION + 7;
const ID: usize = HEAD.len() - 31;

/// The beginning of the line before: the second is written once for all lines of that second.
struct Head {
    second: u64,
    json: [u8; HEAD.len()],
}

impl Head {
    fn new() -> Self {
        Head { second: 0, json: *HEAD }
    }

    /// The time as in RFC 3339, UTC, with microseconds.
    fn set_time(&mut self, moment: Moment) {
        if moment.second != self.second {
            let mut text = [0; UNTIL_SECOND];
            write_second(&mut text, moment.second);
            self.json[TIME..TIME + UNTIL_SECOND].copy_from_slice(&text);
            self.second = moment.second;
        }
        let micros = moment.nanosecond / 1_000;
        for (at, pair) in [(0, micros / 10_000), (2, micros / 100 % 100), (4, micros % 100)] {
            self.json[FRACTION + at..FRACTION + at + 2].copy_from_slice(&PAIRS[pair as usize % 100]);
        }
    }

    fn time(&self) -> &str {
        std::str::from_utf8(&self.json[TIME..END_OF_TIME]).unwrap_or_default()
    }
}

/// It stands in its one hot place as well as behind taps.
#[inline(always)]
fn write_json(line: &mut Vec<u8>, head: &mut Head, entry: &Entry<'_>) {
    head.set_time(entry.ended);
    head.json[ID..ID + 30].copy_from_slice(entry.request_id.as_bytes());
    line.extend_from_slice(&head.json);
    push_plain(line, b",\"caller\":\"", entry.caller);
    match entry.connection {
        Named::Nothing => {}
        Named::Asked(reference) => push_member(line, b",\"connection\":\"", reference),
        Named::Used { names, environment, .. } => {
            line.extend_from_slice(names.connection());
            push_plain(line, b",\"environment\":\"", environment);
            line.extend_from_slice(names.of_customer());
        }
    }
    if let Some(workflow) = entry.workflow {
        push_member(line, b",\"workflow\":\"", workflow);
    }
    push_member(line, b",\"method\":\"", entry.method);
    if let Some(upstream) = entry.connection.upstream() {
        push_plain(line, b",\"upstream\":\"", upstream);
    }
    if let Some(reason) = entry.reason {
        push_member(line, b",\"reason\":\"", reason);
    }
    let microseconds = |duration: Duration| {
        duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
    };
    let mut numbers = Numbers { text: [0; 256], length: 0 };
    numbers.push(b",\"status\":", entry.status.unwrap_or(0).into());
    numbers.push(b",\"total_us\":", microseconds(entry.total));
    numbers.push(b",\"upstream_us\":", microseconds(entry.upstream_wait));
    numbers.push(b",\"added_us\":", microseconds(entry.added));
    numbers.push(b",\"request_bytes\":", entry.request_bytes);
    numbers.push(b",\"response_bytes\":", entry.response_bytes);
    line.extend_from_slice(&numbers.text[..numbers.length]);
    line.extend_from_slice(if entry.reused { b",\"reused\":true}\n" } else { b",\"reused\":false}\n" });
}

/// Members that are numbers, put together before they are appended at once. Six of them, with the longest names and
/// twenty digits each, are shorter than its room.
struct Numbers {
    text: [u8; 256],
    length: usize,
}

impl Numbers {
    #[inline]
    fn push<const N: usize>(&mut self, name: &[u8; N], mut value: u64) {
        self.text[self.length..self.length + N].copy_from_slice(name);
        let begin = self.length + N;
        self.length = begin + value.checked_ilog10().unwrap_or(0) as usize + 1;
        let digits = &mut self.text[begin..self.length];
        let mut pairs = digits.rchunks_exact_mut(2);
        for pair in &mut pairs {
            pair.copy_from_slice(&PAIRS[(value % 100) as usize]);
            value /= 100;
        }
        if let [digit] = pairs.into_remainder() {
            *digit = b'0' + value as u8;
        }
    }
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// A member of an object: its name with all that stands before the value, up to the quote, and the value.
#[inline]
fn push_member<const N: usize>(line: &mut Vec<u8>, name: &[u8; N], value: &str) {
    line.extend_from_slice(name);
    push_text(line, value);
    line.push(b'"');
}

/// The same where the value is an id, a name or an authority: no byte of it needs to be escaped.
#[inline]
fn push_plain<const N: usize>(line: &mut Vec<u8>, name: &[u8; N], value: &str) {
    debug_assert!(value.bytes().all(|byte| PLAIN[usize::from(byte)]), "{value}");
    line.extend_from_slice(name);
    line.extend_from_slice(value.as_bytes());
    line.push(b'"');
}

#[inline]
fn push_text(line: &mut Vec<u8>, value: &str) {
    if value.len() <= LONGEST_TEXT && value.bytes().all(|byte| PLAIN[usize::from(byte)]) {
        line.extend_from_slice(value.as_bytes());
    } else {
        push_escaped(line, value);
    }
}

/// The bytes that stand for themselves in a JSON text.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

/// The inside of a JSON text, cut at a length, with everything but printable ASCII escaped, so that a line is one line
/// everywhere.
#[cold]
fn push_escaped(line: &mut Vec<u8>, text: &str) {
    for c in text.chars().take(LONGEST_TEXT) {
        match c {
            '"' | '\\' => line.extend_from_slice(&[b'\\', c as u8]),
            ' '..='~' => line.push(c as u8),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    let _infallible = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
}

fn write_human(lines: &mut Vec<u8>, head: &mut Head, entry: &Entry<'_>) {
    head.set_time(entry.ended);
    let show = |text: Option<&str>| {
        text.unwrap_or("-").chars().take(LONGEST_TEXT).collect::<String>().escape_debug().to_string()
    };
    let (connection, environment) = match entry.connection {
        Named::Nothing => (None, None),
        Named::Asked(reference) => (Some(reference), None),
        Named::Used { names, environment, .. } => (Some(names.key()), Some(environment)),
    };
    let _infallible = writeln!(
        lines,
        "{} {} {} {} {} -> {} {} {}us (upstream {}us) {}/{} bytes {} {}",
        head.time(),
        show(Some(entry.method)),
        show(connection),
        show(environment),
        show(Some(entry.caller)),
        show(entry.connection.upstream()),
        entry.status.unwrap_or(0),
        entry.total.as_micros(),
        entry.upstream_wait.as_micros(),
        entry.request_bytes,
        entry.response_bytes,
        show(entry.reason),
        entry.request_id.as_str(),
    );
}

#[cfg(test)]
mod tests;
