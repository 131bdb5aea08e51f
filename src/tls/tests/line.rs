//! A connection to rustls' own server with everything in the test's hand: which bytes arrive when, how many the socket
//! takes, and whom it would wake.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::pki::Ca;
use super::super::{ClientStream, ClientTls, HandshakeError, Offer, provider};

pub(super) const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// What lies between the two ends.
pub(super) struct Line {
    /// Arrived for the client, and not read yet.
    pub(super) arrived: Vec<u8>,
    /// Nothing more will arrive.
    pub(super) eof: bool,
    /// Calls of `poll_read` that took something or found the end.
    pub(super) reads: usize,
    /// Calls of `poll_write` that took something.
    pub(super) writes: usize,
    /// Sent by the client.
    pub(super) sent: Vec<u8>,
    /// How many bytes more the socket takes.
    pub(super) room: usize,
    /// How many bytes one read or write moves at most.
    pub(super) step: usize,
    pub(super) shut: bool,
    pub(super) broken: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// The client's end of a [`Line`].
pub(super) struct Socket(Rc<RefCell<Line>>);

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut line = self.0.borrow_mut();
        if line.arrived.is_empty() && !line.eof {
            line.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        line.reads += 1;
        let count = line.arrived.len().min(line.step).min(buffer.remaining());
        buffer.put_slice(&line.arrived[..count]);
        line.arrived.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut line = self.0.borrow_mut();
        if line.broken || line.shut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = bytes.len().min(line.room).min(line.step);
        if count == 0 {
            line.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        line.writes += 1;
        line.room -= count;
        line.sent.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().shut = true;
        Poll::Ready(Ok(()))
    }
}

/// A waker that can be told from others.
pub(super) fn waker() -> Waker {
    struct Nobody;
    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    Waker::from(Arc::new(Nobody))
}

/// The configuration of a server for `api.test`.
pub(super) fn server_of(ca: &Ca, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let (certificate, key) = ca.issue(&["api.test"]);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.send_half_rtt_data = true;
    Arc::new(config)
}

/// A client's stream and the server behind it, driven by hand.
pub(super) struct Rig {
    pub(super) stream: ClientStream<Socket>,
    pub(super) server: ServerConnection,
    pub(super) line: Rc<RefCell<Line>>,
    pub(super) waker: Waker,
}

impl Rig {
    /// After the handshake, with nothing under way.
    pub(super) fn new(version: &'static SupportedProtocolVersion) -> Self {
        let ca = Ca::new();
        let mut rig = Self::shaken(&ca.client(), &server_of(&ca, version), usize::MAX, b"").unwrap();
        assert!(rig.read(1).is_pending(), "tickets only");
        rig
    }

    /// After a handshake in steps of at most `step` bytes, in which the server said `greeting` as soon as it could.
    /// What it sent last has arrived and is not read.
    pub(super) fn shaken(
        client: &ClientTls,
        config: &Arc<ServerConfig>,
        step: usize,
        greeting: &[u8],
    ) -> Result<Self, HandshakeError> {
        let line = Line {
            arrived: Vec::new(),
            eof: false,
            reads: 0,
            writes: 0,
            sent: Vec::new(),
            room: usize::MAX,
            step,
            shut: false,
            broken: false,
            reader: None,
            writer: None,
        };
        let line = Rc::new(RefCell::new(line));
        let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
        server.set_buffer_limit(None);
        server.writer().write_all(greeting).unwrap();
        let waker = waker();
        let mut connecting = pin!(client.connect(Socket(Rc::clone(&line)), "api.test", Offer::Http1));
        let stream = loop {
            if let Poll::Ready(result) = connecting.as_mut().poll(&mut Context::from_waker(&waker)) {
                break result;
            }
            let sent = std::mem::take(&mut line.borrow_mut().sent);
            let answer = serve(&mut server, &sent).unwrap();
            line.borrow_mut().arrived.extend(answer);
        };
        let sent = std::mem::take(&mut line.borrow_mut().sent);
        match serve(&mut server, &sent) {
            Ok(answer) => line.borrow_mut().arrived.extend(answer),
            Err(error) => assert!(stream.is_err(), "{error}"),
        }
        let (stream, _) = stream?;
        line.borrow_mut().reads = 0;
        line.borrow_mut().writes = 0;
        Ok(Rig { stream, server, line, waker })
    }

    /// What the server puts on the wire to say `bytes`.
    pub(super) fn spoken(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.server.writer().write_all(bytes).unwrap();
        outgoing(&mut self.server)
    }

    /// Lets `bytes` arrive at the client.
    pub(super) fn deliver(&mut self, bytes: &[u8]) {
        self.line.borrow_mut().arrived.extend_from_slice(bytes);
    }

    /// Says `bytes` and lets them arrive.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        let spoken = self.spoken(bytes);
        self.deliver(&spoken);
    }

    /// What the server understands of everything sent since it last listened.
    pub(super) fn heard(&mut self) -> Vec<u8> {
        let sent = std::mem::take(&mut self.line.borrow_mut().sent);
        let heard = hear(&mut self.server, &sent);
        let answer = outgoing(&mut self.server);
        self.deliver(&answer);
        heard
    }

    /// One `poll_read` with room for `room` bytes.
    pub(super) fn read(&mut self, room: usize) -> Poll<io::Result<Vec<u8>>> {
        let waker = self.waker.clone();
        self.read_as(&waker, room)
    }

    pub(super) fn read_as(&mut self, waker: &Waker, room: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(waker), &mut buffer);
        polled.map_ok(|()| buffer.filled().to_vec())
    }

    /// What a `poll_read` that must be ready brings.
    pub(super) fn got(&mut self, room: usize) -> Vec<u8> {
        match self.read(room) {
            Poll::Ready(result) => result.unwrap(),
            Poll::Pending => panic!("nothing to read"),
        }
    }

    /// Why a `poll_read` fails.
    pub(super) fn read_error(&mut self) -> io::Error {
        match self.read(1024) {
            Poll::Ready(result) => result.unwrap_err(),
            Poll::Pending => panic!("nothing to read"),
        }
    }

    pub(super) fn write(&mut self, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let waker = self.waker.clone();
        Pin::new(&mut self.stream).poll_write_vectored(&mut Context::from_waker(&waker), &slices)
    }

    pub(super) fn wrote(&mut self, bytes: &[u8]) -> usize {
        match self.write(&[bytes]) {
            Poll::Ready(result) => result.unwrap(),
            Poll::Pending => panic!("nothing was taken"),
        }
    }

    pub(super) fn flush(&mut self) -> Poll<io::Result<()>> {
        let waker = self.waker.clone();
        Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(&waker))
    }

    pub(super) fn shutdown(&mut self) -> Poll<io::Result<()>> {
        let waker = self.waker.clone();
        Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(&waker))
    }

    pub(super) fn line<R>(&mut self, change: impl FnOnce(&mut Line) -> R) -> R {
        change(&mut self.line.borrow_mut())
    }
}

/// Gives `bytes` to the server; what it puts on the wire for them.
pub(super) fn serve(server: &mut ServerConnection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets()?;
    }
    Ok(outgoing(server))
}

/// Gives `bytes` to the server; what it reads out of them.
pub(super) fn hear(server: &mut ServerConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        let count = server.process_new_packets().unwrap().plaintext_bytes_to_read();
        let before = heard.len();
        heard.resize(before + count, 0);
        server.reader().read_exact(&mut heard[before..]).unwrap();
    }
    heard
}

/// What the server has put on the wire.
pub(super) fn outgoing(server: &mut ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// `count` bytes in which every place is its own.
pub(super) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|place| (place % 251) as u8 ^ (place / 251) as u8).collect()
}

/// The lengths of the records in `wire`, with their headers.
pub(super) fn records(mut wire: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while !wire.is_empty() {
        let length = 5 + usize::from(u16::from_be_bytes([wire[3], wire[4]]));
        lengths.push(length);
        wire = &wire[length..];
    }
    lengths
}
