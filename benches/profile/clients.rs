//! The clients: as many as a busy worker has, each with a connection that is kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{CONNECTIONS, Fault};

/// How many there are.
const CLIENTS: usize = 32;
/// How many requests each of them sends.
const REQUESTS: usize = 4000;

/// Sends everything, and reads every answer to its end.
pub(crate) fn send_all(proxy: SocketAddr, key: &str) -> Result<(), Fault> {
    let start = |number| {
        let login = if number % 2 == 0 { String::new() } else { format!("Sidekey-Key: {key}\r\n") };
        std::thread::spawn(move || Client::connect(proxy, number, login)?.send())
    };
    let clients: Vec<_> = (0..CLIENTS).map(start).collect();
    clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client gave up")?)
}

struct Client {
    stream: BufReader<TcpStream>,
    number: usize,
    login: String,
    answer: Vec<u8>,
}

/// What one request is.
struct Kind {
    method: &'static str,
    path: &'static str,
    /// How long its body is.
    length: usize,
    status: &'static str,
}

/// Of a hundred requests, as many are of each kind.
const KINDS: [(usize, Kind); 6] = [
    (80, Kind { method: "GET", path: "/repos/octo/hello/issues/1024", length: 0, status: "200" }),
    (10, Kind { method: "POST", path: "/repos/octo/hello/issues/512", length: 700, status: "200" }),
    (4, Kind { method: "GET", path: "/c/16384", length: 0, status: "200" }),
    (2, Kind { method: "GET", path: "/archive/102400", length: 0, status: "200" }),
    (2, Kind { method: "PUT", path: "/upload/2", length: 100 * 1024, status: "200" }),
    (2, Kind { method: "GET", path: "/nobody", length: 0, status: "404" }),
];

impl Client {
    fn connect(proxy: SocketAddr, number: usize, login: String) -> Result<Self, Fault> {
        let stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::with_capacity(64 * 1024, stream), number, login, answer: Vec::new() })
    }

    fn send(mut self) -> Result<(), Fault> {
        for round in 0..REQUESTS {
            // Numbers that have no factor in common with what they count through: each kind meets each connection.
            let place = (round * 37 + self.number * 11) % 100;
            let mut upto = 0;
            let found = KINDS.iter().find(|(share, _)| {
                upto += share;
                place < upto
            });
            let (_, kind) = found.ok_or("the kinds are not a hundred")?;
            let connection = (round * 7 + self.number * 13) % CONNECTIONS;
            let slug = if round % 4 == 0 { "plain" } else { "tls" };
            let name = if kind.status == "404" { "nobody".to_owned() } else { format!("{slug}-{connection}") };
            self.ask(kind, &name).map_err(|error| format!("client {}, round {round}: {error}", self.number))?;
        }
        Ok(())
    }

    fn ask(&mut self, kind: &Kind, connection: &str) -> Result<(), Fault> {
        let mut request = format!(
            "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: octokit-rest.js/20.0.2 Node.js/20.11\r\n\
             Accept: application/vnd.github+json\r\nAccept-Encoding: gzip, deflate\r\nX-GitHub-Api-Version: 2022-11-28\r\n\
             X-Connection-Id: {connection}\r\n{}",
            kind.method, kind.path, self.login
        );
        if kind.length > 0 {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", kind.length);
        }
        request += "\r\n";
        let mut request = request.into_bytes();
        request.resize(request.len() + kind.length, b'x');
        self.stream.get_mut().write_all(&request)?;
        self.read(kind)
    }

    fn read(&mut self, kind: &Kind) -> Result<(), Fault> {
        let (mut first, mut length) = (String::new(), None);
        self.stream.read_line(&mut first)?;
        if first.split(' ').nth(1) != Some(kind.status) {
            return Err(format!("{} {}: {first}", kind.method, kind.path).into());
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
        }
        match length {
            Some(length) => self.take(length),
            None => loop {
                let size = usize::from_str_radix(&self.line()?, 16)?;
                self.take(size + 2)?;
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }

    fn line(&mut self) -> Result<String, Fault> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_ascii_lowercase())
    }

    fn take(&mut self, length: usize) -> Result<(), Fault> {
        self.answer.resize(length, 0);
        self.stream.read_exact(&mut self.answer)?;
        Ok(())
    }
}
