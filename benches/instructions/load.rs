//! The load: a server under callgrind, its upstream and its clients, and one request at a time.
//!
//! How many instructions a request takes depends on what comes together: an answer that is there when it is first looked
//! for saves a round of waiting. So nothing is sent before the server waits for it: before the upstream answers and
//! before the next request, all threads of the server must be asleep. That makes the figure the same on a fast and on a
//! busy machine, and needs no clock.

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::Process;

/// Why a run came to nothing.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// How many clients there are, each with a connection of its own that is kept.
const CLIENTS: usize = 16;
/// How many connections are declared; the clients use them in turn.
const CONNECTIONS: usize = 20;
/// Requests before any that count: every client has used every connection by then.
const WARM_UP: usize = 4 * CLIENTS * CONNECTIONS;
/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many times in a row the server is seen asleep before it is believed.
const LOOKS: usize = 3;

/// The instructions that a server takes from its start to its end, with so many requests behind the warm-up.
pub(crate) fn instructions(server: &Path, requests: usize) -> Result<u64, Fault> {
    let folder = tempfile::tempdir()?;
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    fs::write(folder.path().join("sidekey.toml"), configuration(upstream.local_addr()?))?;
    let server = under_callgrind(server, folder.path())?;
    let ([proxy], pid) = (server.addresses("proxy")?, server.id());
    let answering = std::thread::spawn(move || serve(&upstream, pid));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        asleep(pid)?;
        let stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        clients.push(stream);
    }
    for number in 0..WARM_UP + requests {
        asleep(pid)?;
        // 16 and 20 have a factor in common; a step more each time round lets every client use every connection.
        let connection = (number + number / (CLIENTS * CONNECTIONS)) % CONNECTIONS;
        ask(&mut clients[number % CLIENTS], connection).map_err(|error| format!("request {number}: {error}"))?;
    }
    asleep(pid)?;
    drop(clients);
    asleep(pid)?;
    // Its counts are written at its end.
    server.stop()?;
    let counted = fs::read_to_string(folder.path().join("counted"))?;
    // The upstream's connections ended with the server.
    let answered = answering.join().map_err(|_| "the upstream gave up")??;
    if answered != WARM_UP + requests {
        return Err(format!("the upstream saw {answered} requests of {}", WARM_UP + requests).into());
    }
    let totals = counted.lines().find_map(|line| line.strip_prefix("totals:"));
    Ok(totals.ok_or("callgrind wrote no totals")?.trim().parse()?)
}

/// What a real installation has on: limits, the access log, metrics and deadlines, which are long because a server under
/// callgrind is slow, and may have to share its core.
fn configuration(upstream: SocketAddr) -> String {
    let port = upstream.port();
    let mut text = format!(
        r#"
[proxy]
threads = 1
head_timeout = "10m"
[[proxy.listeners]]
address = "127.0.0.1:0"
trust = "local"
[admin]
address = "127.0.0.1:0"
[log]
format = "json"
[upstream]
response_timeout = "10m"
idle_timeout = "10m"
allow_networks = ["127.0.0.0/8"]
[[integration]]
slug = "counted"
base_url = "http://127.0.0.1:{port}"
plaintext = true
limit = {{ per_second = 1000000, burst = 1000000 }}
[[integration.auth]]
method = "token"
type = "bearer"
"#
    );
    for number in 0..CONNECTIONS {
        text += &format!(
            "[[connection]]\nkey = \"connection-{number:02}\"\nintegration = \"counted\"\n\
             [connection.credentials.production]\ntoken = {{ value = \"{}\" }}\n",
            token(number)
        );
    }
    text
}

fn token(number: usize) -> String {
    format!("ghp_{number:036}")
}

fn under_callgrind(server: &Path, folder: &Path) -> Result<Process, Fault> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", folder.join("counted").display()))
        .arg(server)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    Process::start(&mut command, folder)
}

/// Waits until no thread of a process runs.
fn asleep(pid: u32) -> Result<(), Fault> {
    let until = Instant::now() + PATIENCE;
    let mut seen = 0;
    while seen < LOOKS {
        if Instant::now() > until {
            return Err("the server does not come to rest".into());
        }
        seen = if is_asleep(pid)? { seen + 1 } else { 0 };
        std::thread::yield_now();
    }
    Ok(())
}

fn is_asleep(pid: u32) -> std::io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has ended meanwhile does not run.
        let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
        // The state stands behind the name, which may hold anything (proc(5)).
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if state != Some('S') {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends one request and reads its answer.
fn ask(client: &mut TcpStream, connection: usize) -> Result<(), Fault> {
    let request = format!(
        "GET /repos/octo/hello/issues?state=open HTTP/1.1\r\nHost: 127.0.0.1\r\n\
         User-Agent: octokit-rest.js/20.0.2 octokit-core.js/5.0.1 Node.js/20.11\r\n\
         Accept: application/vnd.github+json\r\nAccept-Encoding: gzip, deflate\r\nX-GitHub-Api-Version: 2022-11-28\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         X-Connection-Id: connection-{connection:02}\r\n\r\n"
    );
    client.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let (head, length) = loop {
        if let Some(end) = end_of_head(&answer) {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            break (end, length.ok_or(format!("no length: {head}"))?.trim().parse::<usize>()?);
        }
        read_more(client, &mut answer)?;
    };
    while answer.len() < head + length {
        read_more(client, &mut answer)?;
    }
    // The upstream says whose credential it was given.
    let expected = token(connection);
    if answer.starts_with(b"HTTP/1.1 200 ") && answer[head..].starts_with(expected.as_bytes()) {
        return Ok(());
    }
    Err(format!("not the answer for {expected}: {}", String::from_utf8_lossy(&answer)).into())
}

/// Answers requests, on each connection by a thread of its own, until the server has ended. Tells how many there were.
fn serve(upstream: &TcpListener, server: u32) -> Result<usize, Fault> {
    let mut answering = Vec::new();
    let mut wakes = true;
    upstream.set_nonblocking(true)?;
    while wakes {
        match upstream.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                answering.push(std::thread::spawn(move || answer_all(stream, server)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wakes = !has_ended(server);
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut answered = 0;
    for thread in answering {
        answered += thread.join().map_err(|_| "an upstream's connection gave up")??;
    }
    Ok(answered)
}

fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    !stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}

fn answer_all(mut stream: TcpStream, server: u32) -> Result<usize, Fault> {
    stream.set_nodelay(true)?;
    let mut answered = 0;
    let mut request = Vec::new();
    loop {
        let Some(end) = end_of_head(&request) else {
            match read_more(&mut stream, &mut request) {
                Ok(()) => continue,
                Err(_) if request.is_empty() => return Ok(answered),
                Err(error) => return Err(error.into()),
            }
        };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let token = head.lines().find_map(|line| line.strip_prefix("authorization: bearer ")).unwrap_or("none").trim();
        let body = format!("{token:<1024}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\n\
             Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: private, max-age=60, s-maxage=60\r\nVary: Accept, Authorization, Cookie\r\n\
             ETag: W/\"4f53cda18c2baa0c0354bb5f9a3ecbe5\"\r\nX-RateLimit-Limit: 5000\r\n\
             X-RateLimit-Remaining: 4987\r\nX-Request-Id: C0DE:2F1A:11223344:55667788:66AABBCC\r\n\r\n{body}",
            body.len()
        );
        asleep(server)?;
        stream.write_all(answer.as_bytes())?;
        answered += 1;
        request.drain(..end);
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads what has come. A process that was stopped for a while goes on where it was.
fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes.extend_from_slice(&piece[..read]);
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
