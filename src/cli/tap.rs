//! `sidekey tap`: requests as they pass, until somebody has seen enough.

use std::io::{self, ErrorKind, Write};

use clap::Args;
use http::Method;
use serde_json::Value;

use super::access::{Access, Session};
use super::client::Call;
use super::resource::with_session;
use super::show::{Output, clean, text};
use super::{Before, Failure};

/// `sidekey tap`
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    access: Access,
    /// Only requests over this connection, by id or key, and those that were refused and named it so
    #[arg(long, value_name = "CONNECTION")]
    connection: Option<String>,
    /// Whose connection the key means
    #[arg(long, value_name = "CUSTOMER", requires = "connection")]
    customer: Option<String>,
}

/// The longest line that is kept while it comes; the server's are far shorter.
const LONGEST: usize = 1 << 20;

/// Runs `sidekey tap`.
pub fn run(before: Before, options: Options) -> Result<(), Failure> {
    let Options { access, connection, customer } = options;
    with_session(before, &access, async |mut session| {
        let call = Call::new(Method::GET, &["tap"]).query_if("connection", connection).query_if("customer", customer);
        tokio::select! {
            biased;
            // Who has seen enough has what they asked for.
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
            watched = watch(&mut session, call) => watched,
        }
    })
}

async fn watch(session: &mut Session, call: Call) -> Result<(), Failure> {
    let mut events = Events::to(session.output, io::stdout(), io::stderr());
    session.stream(call, &mut events).await?;
    match events.ended.as_deref() {
        Some("not_permitted") => Err(Failure::Unauthorized(
            "the key may not watch any more: it was revoked, suspended, has expired or lost the permission `tap`"
                .into(),
        )),
        Some(_) => Err(Failure::Unreachable("the server stops; run the command again when it serves".to_owned())),
        None if events.is_unread => Ok(()),
        None => Err(Failure::Unreachable("the server ended the stream; run the command again".to_owned())),
    }
}

/// Reads Server-Sent Events, and prints each as its line comes.
struct Events<O, E> {
    output: Output,
    stdout: O,
    stderr: E,
    line: Vec<u8>,
    event: String,
    /// Why the server has ended the stream.
    ended: Option<String>,
    /// Whether nobody reads what is printed.
    is_unread: bool,
}

impl<O: Write, E: Write> Events<O, E> {
    fn to(output: Output, stdout: O, stderr: E) -> Self {
        Events { output, stdout, stderr, line: Vec::new(), event: String::new(), ended: None, is_unread: false }
    }

    /// A whole line, without its end.
    fn take(&mut self, line: &str) -> io::Result<()> {
        if line.is_empty() {
            self.event.clear();
        } else if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut self.event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            return self.tell(data);
        }
        Ok(())
    }

    fn tell(&mut self, data: &str) -> io::Result<()> {
        let said: Value = serde_json::from_str(data).unwrap_or_default();
        match (self.event.as_str(), self.output) {
            ("request", Output::Json) => writeln!(self.stdout, "{}", clean(data)),
            ("request", Output::People) => writeln!(self.stdout, "{}", request(&said)),
            ("dropped", _) => {
                let count = text(&said["count"]);
                writeln!(self.stderr, "{count} requests are missing here: they passed faster than they were read")
            }
            ("end", _) => {
                self.ended = Some(text(&said["reason"]));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl<O: Write, E: Write> Write for &mut Events<O, E> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > LONGEST {
                return Err(io::Error::other("the server sends a line that is too long"));
            }
            self.line.extend_from_slice(piece);
            if let Some(line) = self.line.strip_suffix(b"\n") {
                let line = String::from_utf8_lossy(line).into_owned();
                self.line.clear();
                self.take(&line).inspect_err(|error| self.is_unread |= error.kind() == ErrorKind::BrokenPipe)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// An access line as a person reads it.
fn request(said: &Value) -> String {
    let of = |name: &str| text(&said[name]).replace('\n', " ");
    let milliseconds = |name: &str| said[name].as_f64().map_or("-".to_owned(), |us| format!("{:.1}ms", us / 1000.0));
    let reason = said["reason"].as_str().map(|_| format!("  {}", of("reason"))).unwrap_or_default();
    format!(
        "{}  {}  {} {} {} -> {}  {} (upstream {})  {}/{} bytes  {}  {}{reason}",
        of("timestamp"),
        of("status"),
        of("method"),
        of("connection"),
        of("environment"),
        of("upstream"),
        milliseconds("total_us"),
        milliseconds("upstream_us"),
        of("request_bytes"),
        of("response_bytes"),
        of("caller"),
        of("request_id"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"timestamp":"2030-01-31T08:15:00.000000Z","request_id":"req_x","caller":"ci","connection":"crm","method":"GET","status":404,"reason":"connection_unknown","total_us":1500,"upstream_us":0,"request_bytes":0,"response_bytes":12}"#;

    /// What is printed of a stream that comes in pieces of this size.
    fn printed(output: Output, stream: &str, size: usize) -> (String, String, Option<String>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut events = Events::to(output, &mut stdout, &mut stderr);
        for piece in stream.as_bytes().chunks(size) {
            (&mut events).write_all(piece).unwrap();
        }
        let ended = events.ended.clone();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(stdout), text(stderr), ended)
    }

    #[test]
    fn events_are_printed_however_they_come() {
        let stream = format!(
            ": \n\nevent: request\ndata: {LINE}\n\nevent: dropped\ndata: {{\"count\":7}}\n\n: \n\n\
             event: other\ndata: x\n\nevent: end\ndata: {{\"reason\":\"draining\"}}\n\n"
        );
        let people = "2030-01-31T08:15:00.000000Z  404  GET crm - -> -  1.5ms (upstream 0.0ms)  0/12 bytes  ci  \
                      req_x  connection_unknown\n";
        for size in [1, 7, 4096] {
            let (stdout, stderr, ended) = printed(Output::Json, &stream, size);
            assert_eq!((stdout, ended.as_deref()), (format!("{LINE}\n"), Some("draining")), "{size}");
            assert_eq!(stderr, "7 requests are missing here: they passed faster than they were read\n", "{size}");
            assert_eq!(printed(Output::People, &stream, size).0, people, "{size}");
        }
    }
}
