//! The HTTP/1.1 side of a scripted upstream, on raw sockets: it reads with the strict oracle and writes what it is told.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::script::{Fields, Framing, Step};
use super::{End, Seen, Shared, echo, failure};
use crate::harness::socket::Socket;
use crate::harness::strict::{self, BodyReader, Head};

/// How much may wait unread in our own buffer before we stop reading.
const AHEAD: usize = 1 << 20;

/// Serves requests on one connection until it ends, and says how it ended.
pub(super) async fn serve(socket: Socket, shared: &Arc<Shared>, number: usize) -> End {
    let wire =
        Wire { socket, shared: Arc::clone(shared), number, buffer: Vec::new(), eof: false, body: None, frame: None };
    match wire.serve().await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

enum Never {}

struct Wire {
    socket: Socket,
    shared: Arc<Shared>,
    number: usize,
    buffer: Vec<u8>,
    eof: bool,
    // The request being answered, and what is left of its body.
    body: Option<(usize, BodyReader)>,
    // How the response being written is framed; `None` where it has no body.
    frame: Option<Framing>,
}

impl Wire {
    async fn serve(mut self) -> Result<Never, End> {
        loop {
            let head = self.head().await?;
            let persistent = head.minor == 1 && !head.all("connection").iter().any(|value| names_close(value));
            let script = self.shared.script(&head.target);
            let request = self.begin(&head).await?;
            let mut until_close = false;
            let mut steps = VecDeque::from(script.steps);
            while let Some(step) = steps.pop_front() {
                until_close |= matches!(step, Step::Head(_, _, Framing::UntilClose));
                match step {
                    Step::Fin => return Err(self.fin().await),
                    Step::Cut => return Err(self.cut().await),
                    Step::Reset => {
                        self.socket.reset();
                        return Err(End::Script);
                    }
                    Step::Freeze => std::future::pending().await,
                    Step::Decide(decision) => {
                        self.rest_of_body().await?;
                        let decided = decision(&self.shared.seen(request)).steps;
                        steps = decided.into_iter().chain(steps).collect();
                    }
                    step => self.step(step, request, &head.method).await?,
                }
            }
            if until_close || !persistent {
                return Err(self.fin().await);
            }
            self.rest_of_body().await?;
        }
    }

    async fn head(&mut self) -> Result<Head, End> {
        loop {
            match strict::request_head(&self.buffer) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) if self.eof => return Err(End::Eof),
                Ok(None) => self.pump().await?,
                Err(violation) => return Err(self.malformed(violation).await),
            }
        }
    }

    /// Notes what is wrong and answers 400, so that nobody waits for an answer to it.
    async fn malformed(&mut self, violation: strict::Violation) -> End {
        self.shared.connection(self.number, |connection| connection.violation = Some(violation.0));
        let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        match self.socket.write_all(refusal).await {
            Ok(()) => self.fin().await,
            Err(error) => failure(&error),
        }
    }

    async fn begin(&mut self, head: &Head) -> Result<usize, End> {
        let raw_head = self.buffer.drain(..head.length).collect();
        let request = self.shared.begin(Seen {
            connection: self.number,
            version: 1,
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.fields.clone(),
            raw_head,
            ..Seen::default()
        });
        let body = BodyReader::new(head.framing);
        if body.is_done() {
            self.shared.body(request, &[], Some(Vec::new()));
        }
        self.body = Some((request, body));
        self.decode().await?;
        Ok(request)
    }

    async fn step(&mut self, step: Step, request: usize, method: &str) -> Result<(), End> {
        match step {
            Step::ReadBody => self.rest_of_body().await,
            Step::ReadSome(length) => {
                while self.body_goes_on() && self.shared.progress(request).0 < length {
                    self.pump().await?;
                    self.require_more()?;
                }
                Ok(())
            }
            Step::Interim(status, fields) => self.write(&head_bytes(status, &fields, None)).await,
            Step::Head(status, fields, framing) => self.respond(status, &fields, framing, method).await,
            Step::Data(piece) => self.data(&piece).await,
            Step::Fill(length) => self.fill(length).await,
            Step::End(trailers) => self.end(&trailers).await,
            Step::Raw(bytes) => self.write(&bytes).await,
            Step::HalfHead => self.write(b"HTTP/1.1 200 OK\r\ncontent-le").await,
            Step::Trickle(bytes, every) => self.trickle(&bytes, every).await,
            Step::Gate(gate) => self.pump_while(gate.opened()).await,
            Step::Hold(gate) => {
                gate.opened().await;
                Ok(())
            }
            Step::Feed(feed) => {
                while let Some(piece) = self.pump_while(feed.next()).await? {
                    self.data(&piece).await?;
                }
                Ok(())
            }
            Step::Echo => self.echo(request, method).await,
            Step::WebSocket => self.websocket(request).await,
            Step::Stall => self.drain().await,
            Step::Fin | Step::Cut | Step::Reset | Step::Freeze => unreachable!("these end the script"),
            Step::Decide(_) => unreachable!("its steps are taken in its place"),
            Step::RefuseStream | Step::GoAway => panic!("a step of HTTP/2 in a script for HTTP/1.1"),
        }
    }

    async fn respond(&mut self, status: u16, fields: &Fields, framing: Framing, method: &str) -> Result<(), End> {
        let bodyless = method == "HEAD" || matches!(status, 204 | 304);
        self.frame = (!bodyless).then_some(framing);
        let declared = (status != 204).then_some(framing);
        self.write(&head_bytes(status, fields, declared)).await
    }

    async fn data(&mut self, piece: &[u8]) -> Result<(), End> {
        match self.frame {
            None => Ok(()),
            Some(_) if piece.is_empty() => Ok(()),
            Some(Framing::Chunked) => {
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(piece);
                chunk.extend_from_slice(b"\r\n");
                self.write(&chunk).await
            }
            Some(_) => self.write(piece).await,
        }
    }

    async fn fill(&mut self, length: u64) -> Result<(), End> {
        let block = Bytes::from(vec![b'.'; 64 << 10]);
        let mut left = length;
        while left > 0 {
            let size = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.data(&block[..size]).await?;
            left -= size as u64;
        }
        Ok(())
    }

    async fn end(&mut self, trailers: &Fields) -> Result<(), End> {
        if self.frame.take() != Some(Framing::Chunked) {
            return Ok(());
        }
        let mut end = b"0\r\n".to_vec();
        push_fields(&mut end, trailers);
        end.extend_from_slice(b"\r\n");
        self.write(&end).await
    }

    async fn trickle(&mut self, bytes: &[u8], every: Duration) -> Result<(), End> {
        for byte in bytes {
            self.write(&[*byte]).await?;
            // The pace is what is being scripted here; nothing is synchronized by it.
            self.pump_while(tokio::time::sleep(every)).await?;
        }
        Ok(())
    }

    async fn echo(&mut self, request: usize, method: &str) -> Result<(), End> {
        let body = echo(&self.shared.seen(request));
        let fields = vec![("content-type".to_owned(), "application/json".to_owned())];
        self.respond(200, &fields, Framing::Length(body.len() as u64), method).await?;
        self.data(&body).await?;
        self.end(&Vec::new()).await
    }

    async fn websocket(&mut self, request: usize) -> Result<(), End> {
        let seen = self.shared.seen(request);
        let Some(key) = seen.header("sec-websocket-key") else {
            return self.respond(400, &Vec::new(), Framing::Length(0), "GET").await;
        };
        let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        // What follows the head is no longer HTTP, so the oracle must stop there.
        let early = std::mem::take(&mut self.buffer);
        self.shared.connection(self.number, |connection| {
            connection.upgraded_at = Some(connection.bytes.len() - early.len());
        });
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        );
        self.write(head.as_bytes()).await?;
        self.write(&early).await?;
        self.body = None;
        loop {
            self.pump().await?;
            let bytes = std::mem::take(&mut self.buffer);
            self.write(&bytes).await?;
            if self.eof {
                return Err(self.fin().await);
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let written = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        written.await.map_err(|error| failure(&error))
    }

    /// Reads once: records the bytes, and takes what belongs to the body of the current request.
    async fn pump(&mut self) -> Result<(), End> {
        let mut bytes = vec![0; 64 << 10];
        let length = self.socket.read(&mut bytes).await.map_err(|error| failure(&error))?;
        if length == 0 {
            self.eof = true;
            // Noted at once, so that a test need not wait for the rest of the script.
            self.shared.end(self.number, End::Eof);
            return Ok(());
        }
        self.shared.received(self.number, &bytes[..length]);
        self.buffer.extend_from_slice(&bytes[..length]);
        self.decode().await
    }

    async fn decode(&mut self) -> Result<(), End> {
        let Some((request, body)) = self.body.as_mut().filter(|(_, body)| !body.is_done()) else { return Ok(()) };
        match body.feed(&self.buffer) {
            Ok((taken, data)) => {
                let end = body.is_done().then(|| body.trailers.clone());
                self.shared.body(*request, &data, end);
                self.buffer.drain(..taken);
                Ok(())
            }
            Err(violation) => Err(self.malformed(violation).await),
        }
    }

    /// Waits for `event` and reads on meanwhile, within bounds.
    async fn pump_while<T>(&mut self, event: impl Future<Output = T>) -> Result<T, End> {
        let mut event = pin!(event);
        loop {
            if self.eof || self.buffer.len() > AHEAD {
                return Ok(event.await);
            }
            tokio::select! {
                output = &mut event => return Ok(output),
                read = self.pump() => read?,
            }
        }
    }

    fn body_goes_on(&self) -> bool {
        self.body.as_ref().is_some_and(|(_, body)| !body.is_done())
    }

    async fn rest_of_body(&mut self) -> Result<(), End> {
        while self.body_goes_on() {
            self.pump().await?;
            self.require_more()?;
        }
        Ok(())
    }

    // A request that ends before its body does gets no answer: the peer is gone.
    fn require_more(&self) -> Result<(), End> {
        if self.eof && self.body_goes_on() { Err(End::Eof) } else { Ok(()) }
    }

    async fn drain(&mut self) -> Result<(), End> {
        while !self.eof {
            self.pump().await?;
            if !self.body_goes_on() {
                self.buffer.clear();
            }
        }
        Err(End::Eof)
    }

    /// Ends in good order. Reading on matters: closing a socket with unread bytes would reset it.
    async fn fin(&mut self) -> End {
        let ended = self.socket.shutdown().await;
        self.after_fin(ended.err()).await
    }

    async fn cut(&mut self) -> End {
        self.socket.cut();
        self.after_fin(None).await
    }

    async fn after_fin(&mut self, error: Option<std::io::Error>) -> End {
        if let Some(error) = error {
            return failure(&error);
        }
        let mut bytes = vec![0; 64 << 10];
        while let Ok(length) = self.socket.read(&mut bytes).await {
            if length == 0 {
                break;
            }
            self.shared.received(self.number, &bytes[..length]);
        }
        End::Script
    }
}

fn head_bytes(status: u16, fields: &Fields, framing: Option<Framing>) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default()).into_bytes();
    push_fields(&mut head, fields);
    match framing {
        Some(Framing::Length(length)) => head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes()),
        Some(Framing::Chunked) => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Framing::UntilClose) => head.extend_from_slice(b"connection: close\r\n"),
        None => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn push_fields(bytes: &mut Vec<u8>, fields: &Fields) {
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
}

fn names_close(value: &str) -> bool {
    value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
}
