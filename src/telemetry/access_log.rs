//! The access log: one line for each request, from one place.
//!
//! A worker renders lines into a buffer of its own and hands full buffers to one writer thread. The hand-over never
//! waits: when the writer cannot keep up, lines are dropped and counted rather than a request delayed.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::Format;
use super::metrics::Metrics;

/// A buffer this full is handed over at once.
const FULL: usize = 64 * 1024;
/// How many buffers may wait for the writer.
const WAITING: usize = 256;
/// A text longer than this is cut, so that no caller can write more than a few KiB into one line.
const LONGEST_TEXT: usize = 256;

/// What a line tells. Every text is an id, a name from the configuration or a word of ours; never a query string, a
/// header's value or a body.
#[derive(Debug, Default)]
pub struct Entry<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// Who asked.
    pub caller: &'a str,
    /// The connection's key, or the reference that was asked for.
    pub connection: Option<&'a str>,
    /// The connection's id.
    pub connection_id: Option<&'a str>,
    /// The environment.
    pub environment: Option<&'a str>,
    /// The customer.
    pub customer: Option<&'a str>,
    /// The workflow that said its name.
    pub workflow: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// Host and port of the upstream.
    pub upstream: Option<&'a str>,
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

/// The process's access log: the way to its writer thread.
#[derive(Clone)]
pub struct AccessLog {
    sender: Option<SyncSender<Vec<u8>>>,
    format: Format,
    metrics: Arc<Metrics>,
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
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&receiver, sink))?;
        Ok((AccessLog { sender: Some(sender), format, metrics }, LogWriter(Some(thread))))
    }

    /// An access log that keeps nothing.
    pub fn off(metrics: Arc<Metrics>) -> Self {
        AccessLog { sender: None, format: Format::Json, metrics }
    }

    /// A buffer for one worker.
    pub fn buffer(&self) -> AccessBuffer {
        AccessBuffer {
            log: self.clone(),
            lines: RefCell::default(),
            clock: RefCell::default(),
            count: Cell::new(0),
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

fn write_all(receiver: &Receiver<Vec<u8>>, mut sink: impl std::io::Write) {
    while let Ok(lines) = receiver.recv() {
        // Nobody is left to tell when stderr is gone.
        let _gone = sink.write_all(&lines).and_then(|()| sink.flush());
    }
}

/// One worker's lines that are not handed over yet.
pub struct AccessBuffer {
    log: AccessLog,
    lines: RefCell<Vec<u8>>,
    clock: RefCell<Clock>,
    count: Cell<u64>,
    written: tokio::sync::Notify,
}

impl AccessBuffer {
    /// Adds a line.
    pub fn write(&self, entry: &Entry<'_>) {
        if self.log.sender.is_none() {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        let was_empty = lines.is_empty();
        let mut clock = self.clock.borrow_mut();
        match self.log.format {
            Format::Json => write_json(&mut lines, clock.now(), entry),
            Format::Human => write_human(&mut lines, clock.now(), entry),
        }
        self.count.set(self.count.get() + 1);
        let full = lines.len() >= FULL;
        drop(lines);
        if full {
            self.flush();
        } else if was_empty {
            self.written.notify_one();
        }
    }

    /// Hands over what is there.
    pub fn flush(&self) {
        let lines = std::mem::take(&mut *self.lines.borrow_mut());
        let count = self.count.take();
        let Some(sender) = &self.log.sender else { return };
        if lines.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(lines) {
            self.log.metrics.access_lines_dropped.inc_by(count);
        }
    }

    /// Hands lines over soon after they were written, for as long as it is polled. It sleeps while nothing is written.
    pub async fn keep_flushing(&self) {
        loop {
            self.written.notified().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.flush();
        }
    }
}

fn write_json(line: &mut Vec<u8>, time: &str, entry: &Entry<'_>) {
    line.extend_from_slice(b"{\"timestamp\":\"");
    line.extend_from_slice(time.as_bytes());
    line.extend_from_slice(b"\",\"level\":\"INFO\",\"target\":\"access\"");
    for (name, value) in [
        (",\"request_id\":", Some(entry.request_id)),
        (",\"caller\":", Some(entry.caller)),
        (",\"connection\":", entry.connection),
        (",\"connection_id\":", entry.connection_id),
        (",\"environment\":", entry.environment),
        (",\"customer\":", entry.customer),
        (",\"workflow\":", entry.workflow),
        (",\"method\":", Some(entry.method)),
        (",\"upstream\":", entry.upstream),
        (",\"reason\":", entry.reason),
    ] {
        if let Some(value) = value {
            line.extend_from_slice(name.as_bytes());
            push_json_text(line, value);
        }
    }
    let microseconds = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    for (name, value) in [
        (",\"status\":", entry.status.unwrap_or(0).into()),
        (",\"total_us\":", microseconds(entry.total)),
        (",\"upstream_us\":", microseconds(entry.upstream_wait)),
        (",\"added_us\":", microseconds(entry.added)),
        (",\"request_bytes\":", entry.request_bytes),
        (",\"response_bytes\":", entry.response_bytes),
    ] {
        line.extend_from_slice(name.as_bytes());
        push_number(line, value);
    }
    line.extend_from_slice(if entry.reused { b",\"reused\":true}\n" } else { b",\"reused\":false}\n" });
}

fn push_number(line: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// A JSON text, cut at a length, with everything but printable ASCII escaped, so that a line is one line everywhere.
fn push_json_text(line: &mut Vec<u8>, text: &str) {
    let is_plain = |b: &u8| matches!(b, b' '..=b'~') && *b != b'"' && *b != b'\\';
    line.push(b'"');
    if text.len() <= LONGEST_TEXT && text.as_bytes().iter().all(is_plain) {
        line.extend_from_slice(text.as_bytes());
    } else {
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
    line.push(b'"');
}

/// The clock of one worker's lines: the text of the second is made once for all lines of that second.
#[derive(Default)]
struct Clock {
    second: u64,
    text: String,
}

/// `2026-11-21T12:45:38`
const UNTIL_SECOND: usize = 19;

impl Clock {
    /// The time as in RFC 3339, UTC, with microseconds.
    fn now(&mut self) -> &str {
        let mut now = since_epoch();
        while now.as_secs() != self.second || self.text.is_empty() {
            self.text.clear();
            let _infallible = SystemTime.format_time(&mut Writer::new(&mut self.text));
            self.second = now.as_secs();
            // The formatter looks at the clock itself: a second that began in between is formatted again.
            now = since_epoch();
        }
        self.text.truncate(UNTIL_SECOND);
        let mut fraction = *b".000000Z";
        let mut rest = now.subsec_micros();
        for digit in fraction[1..7].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.text.extend(fraction.map(char::from));
        &self.text
    }
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

fn write_human(lines: &mut Vec<u8>, time: &str, entry: &Entry<'_>) {
    let show = |text: Option<&str>| {
        text.unwrap_or("-").chars().take(LONGEST_TEXT).collect::<String>().escape_debug().to_string()
    };
    let _infallible = writeln!(
        lines,
        "{time} {} {} {} {} -> {} {} {}us (upstream {}us) {}/{} bytes {} {}",
        show(Some(entry.method)),
        show(entry.connection),
        show(entry.environment),
        show(Some(entry.caller)),
        show(entry.upstream),
        entry.status.unwrap_or(0),
        entry.total.as_micros(),
        entry.upstream_wait.as_micros(),
        entry.request_bytes,
        entry.response_bytes,
        show(entry.reason),
        entry.request_id,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_short_json_line_whatever_is_in_it() {
        let hostile = format!("a\x1b[2J\r\n\"\\\u{2028}{}", "x".repeat(100_000));
        let mut lines = Vec::new();
        write_json(&mut lines, "now", &Entry { method: &hostile, connection: Some(&hostile), ..Entry::default() });
        let text = String::from_utf8(lines).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.is_ascii() && text.len() < 8 * 1024 && !text.contains('\x1b') && !text.contains('\r'));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(parsed["method"].as_str().unwrap().starts_with("a\x1b[2J\r\n\"\\\u{2028}x"));
    }

    #[test]
    fn the_clock_tells_the_time_as_rfc_3339_does() {
        let mut clock = Clock::default();
        for _ in 0..3 {
            let before = since_epoch();
            let text = clock.now().to_owned();
            assert_eq!((text.len(), &text[10..11], &text[19..20], &text[26..]), (27, "T", ".", "Z"), "{text}");
            let micros: u32 = text[20..26].parse().unwrap();
            assert!(before.as_secs() != clock.second || micros >= before.subsec_micros());
            let mut formatted = String::new();
            SystemTime.format_time(&mut Writer::new(&mut formatted)).unwrap();
            assert!(formatted[..16] >= text[..16]);
        }
    }

    /// A sink that stands still until it is let go.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl std::io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _released = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_cannot_keep_up_drops_lines_and_counts_them() {
        let metrics = Arc::new(Metrics::default());
        let (release, stuck) = std::sync::mpsc::channel();
        let (log, writer) = AccessLog::start(Stuck(stuck), Format::Json, Arc::clone(&metrics)).unwrap();
        let buffer = log.buffer();
        for _ in 0..WAITING + 10 {
            buffer.write(&Entry::default());
            buffer.flush();
        }
        assert!(metrics.access_lines_dropped.get() >= 8);
        drop((release, buffer, log));
        writer.join();
    }
}
