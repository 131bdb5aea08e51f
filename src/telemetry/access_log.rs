//! The access log: one line for each request, from one place.
//!
//! A worker renders lines into a buffer of its own and hands full buffers to one writer thread. The hand-over never
//! waits: when the writer cannot keep up, lines are dropped and counted rather than a request delayed.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
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
const FULL: usize = 16 * 1024;
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
        match self.log.format {
            Format::Json => write_json(&mut lines, entry),
            Format::Human => write_human(&mut lines, entry),
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

fn write_json(lines: &mut Vec<u8>, entry: &Entry<'_>) {
    let mut line = String::with_capacity(512);
    line.push_str("{\"timestamp\":\"");
    let _infallible = SystemTime.format_time(&mut Writer::new(&mut line));
    line.push_str("\",\"level\":\"INFO\",\"target\":\"access\"");
    let mut text = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _infallible = write!(line, ",\"{name}\":");
            push_json_text(&mut line, value);
        }
    };
    text("request_id", Some(entry.request_id));
    text("caller", Some(entry.caller));
    text("connection", entry.connection);
    text("connection_id", entry.connection_id);
    text("environment", entry.environment);
    text("customer", entry.customer);
    text("workflow", entry.workflow);
    text("method", Some(entry.method));
    text("upstream", entry.upstream);
    text("reason", entry.reason);
    let status = entry.status.unwrap_or(0);
    let _infallible = write!(
        line,
        ",\"status\":{status},\"total_us\":{},\"upstream_us\":{},\"added_us\":{},\"request_bytes\":{},\"response_bytes\":{},\"reused\":{}}}",
        entry.total.as_micros(),
        entry.upstream_wait.as_micros(),
        entry.added.as_micros(),
        entry.request_bytes,
        entry.response_bytes,
        entry.reused,
    );
    line.push('\n');
    lines.extend_from_slice(line.as_bytes());
}

/// A JSON text, cut at a length, with everything but printable ASCII escaped, so that a line is one line everywhere.
fn push_json_text(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars().take(LONGEST_TEXT) {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            ' '..='~' => line.push(c),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    let _infallible = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
    line.push('"');
}

fn write_human(lines: &mut Vec<u8>, entry: &Entry<'_>) {
    let mut time = String::new();
    let _infallible = SystemTime.format_time(&mut Writer::new(&mut time));
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
        write_json(&mut lines, &Entry { method: &hostile, connection: Some(&hostile), ..Entry::default() });
        let text = String::from_utf8(lines).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.is_ascii() && text.len() < 8 * 1024 && !text.contains('\x1b') && !text.contains('\r'));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(parsed["method"].as_str().unwrap().starts_with("a\x1b[2J\r\n\"\\\u{2028}x"));
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
