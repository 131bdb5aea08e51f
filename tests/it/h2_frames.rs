//! HTTP/2 frame by frame, for what no well-behaved client sends (RFC 9113, RFC 7541).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::harness::client::Address;
use crate::harness::soon;

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

/// `END_STREAM`, and `ACK` of SETTINGS and PING.
pub(crate) const END: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// A frame as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// Whether this is a response head with status 200 (index 8 of the static table).
    pub(crate) fn is_ok(&self) -> bool {
        // A change of the dynamic table's size may come first.
        let first = self.payload.iter().find(|byte| **byte & 0xe0 != 0x20);
        self.kind == HEADERS && first == Some(&0x88)
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing (RFC 7541 §6.2.2), their bytes as they are.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x00);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return block.push(value as u8);
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push((value % 128) as u8 | 0x80);
        value /= 128;
    }
    block.push(value as u8);
}

/// The fields of an ordinary request to the connection `c1`.
pub(crate) const REQUEST: [(&[u8], &[u8]); 5] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"localhost"),
    (b":path", b"/p"),
    (b"sidekey-connection", b"c1"),
];

/// An HTTP/2 connection of which the test decides every byte.
pub(crate) struct Frames {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    buffer: Vec<u8>,
}

impl Frames {
    /// Connects and sends the preface with empty settings.
    pub(crate) async fn connect(address: Address) -> Self {
        let stream = soon("a connection", TcpStream::connect(address.tcp())).await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay on a new socket");
        let (read, write) = stream.into_split();
        let mut frames = Frames { read, write, buffer: Vec::new() };
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[])].concat();
        frames.send(preface).await.expect("an open connection");
        frames
    }

    /// Sends bytes, which fails where the server has gone.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("room to send", self.write.write_all(bytes.as_ref())).await
    }

    /// Sends a great many bytes while reading, until the server ends the connection or says GOAWAY; returns that frame.
    /// A connection that outlives the flood answers a PING behind it instead.
    pub(crate) async fn flood(mut self, bytes: Vec<u8>) -> Option<Frame> {
        let mut write = self.write;
        let ping = frame(PING, 0, 0, b"the-last");
        let writing = tokio::spawn(async move {
            // The server may stop us in the middle; that is what is hoped for.
            if write.write_all(&bytes).await.is_ok() {
                drop(write.write_all(&ping).await);
            }
            write
        });
        let end = loop {
            match next(&mut self.read, &mut self.buffer).await {
                Some(frame) if frame.kind == GOAWAY => break Some(frame),
                Some(frame) if frame.kind == PING && frame.payload == b"the-last" => break Some(frame),
                Some(_) => {}
                None => break None,
            }
        };
        writing.abort();
        end
    }

    /// The next frame; `None` at the end of the connection. Settings and pings are acknowledged on the way.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let received = next(&mut self.read, &mut self.buffer).await?;
        if matches!(received.kind, SETTINGS | PING) && received.flags & END == 0 {
            let payload = if received.kind == PING { &received.payload[..] } else { &[] };
            // Where the server has gone meanwhile, the next read says so.
            drop(self.send(frame(received.kind, END, 0, payload)).await);
        }
        Some(received)
    }

    /// How a stream is answered: by its response head, its reset, or GOAWAY; `None` where the connection just ends.
    pub(crate) async fn answer(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let received = self.next().await?;
            let about = received.stream == stream && matches!(received.kind, HEADERS | RST_STREAM);
            if about || received.kind == GOAWAY {
                return Some(received);
            }
        }
    }
}

async fn next(read: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> Option<Frame> {
    loop {
        if let Some(head) = buffer.get(..9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if buffer.len() >= 9 + length {
                let bytes: Vec<u8> = buffer.drain(..9 + length).collect();
                let stream = u32::from_be_bytes(bytes[5..9].try_into().expect("four bytes")) & 0x7fff_ffff;
                return Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() });
            }
        }
        let mut bytes = vec![0; 16 << 10];
        match soon("a frame", read.read(&mut bytes)).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => buffer.extend_from_slice(&bytes[..count]),
        }
    }
}
