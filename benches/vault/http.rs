//! HTTP/1.1 as the measurement speaks it: a client that keeps its connection, and an upstream that says whose
//! credential it was given.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::Fault;

/// How long an answer may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client with one connection.
pub(crate) struct Client {
    stream: TcpStream,
    host: String,
}

/// What was answered, and how long it took.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) took: Duration,
}

impl Client {
    pub(crate) fn to(address: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, host: address.to_string() })
    }

    /// Sends a request, with some fields, and reads its answer.
    pub(crate) fn send(&mut self, target: &str, fields: &str, body: Option<&str>) -> Result<Answer, Fault> {
        let length = body.map(|body| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        let request = format!(
            "{target} HTTP/1.1\r\nHost: {}\r\n{fields}{}\r\n{}",
            self.host,
            length.unwrap_or_default(),
            body.unwrap_or_default()
        );
        let began = Instant::now();
        self.stream.write_all(request.as_bytes())?;
        let (head, body) = read_message(&mut self.stream, &mut Vec::new())?.ok_or("the connection was closed")?;
        let took = began.elapsed();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
        Ok(Answer { status, body, took })
    }

    /// As [`send`](Self::send), and the answer must be a success.
    pub(crate) fn succeed(&mut self, target: &str, fields: &str, body: Option<&str>) -> Result<Answer, Fault> {
        let answer = self.send(target, fields, body)?;
        match answer.status {
            200..=299 => Ok(answer),
            status => Err(format!("{target} was answered with {status}: {}", answer.body).into()),
        }
    }
}

/// Reads the head of a message and its body; `None` where there is no further one.
fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<(String, String)>, Fault> {
    let mut piece = [0; 64 * 1024];
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut piece)? {
            0 if buffer.is_empty() => return Ok(None),
            0 => return Err("a head was cut short".into()),
            read => buffer.extend_from_slice(&piece[..read]),
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.unwrap_or(0);
    while buffer.len() < end + length {
        match stream.read(&mut piece)? {
            0 => return Err("a body was cut short".into()),
            read => buffer.extend_from_slice(&piece[..read]),
        }
    }
    let body = String::from_utf8_lossy(&buffer[end..end + length]).into_owned();
    buffer.drain(..end + length);
    Ok(Some((head, body)))
}

/// Starts an upstream that answers with the token it was sent, for as long as the process lives.
pub(crate) fn upstream() -> Result<SocketAddr, Fault> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_all(stream));
        }
    });
    Ok(address)
}

fn answer_all(mut stream: TcpStream) -> Result<(), Fault> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some((head, _)) = read_message(&mut stream, &mut buffer)? {
        let token = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then(|| value.strip_prefix("Bearer "))?
        });
        let token = token.unwrap_or("none");
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{token}", token.len()).as_bytes())?;
    }
    Ok(())
}
