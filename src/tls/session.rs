//! The cryptographic half of a connection to an upstream: rustls, and the few bytes that lie between two calls. It
//! knows no socket: what was read goes in, plaintext and what wants to be sent come out.
//!
//! rustls' unbuffered interface decrypts in place and has no buffers of its own, so the big buffers can belong to the
//! thread ([`with_scratch`]) and an idle connection holds none.

use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;
use std::thread::LocalKey;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use tokio::io::ReadBuf;

/// The most that is read at once, in bytes of ciphertext: with it the kept bytes of an incomplete record.
pub(super) const READ_AT_ONCE: usize = 64 * 1024;
/// The most that is encrypted at once, in bytes of plaintext.
const SEALED_AT_ONCE: usize = 64 * 1024;
/// The most plaintext in one record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// The most bytes of one record on the wire: header, payload and the expansion that TLS 1.2 allows (RFC 5246 section
/// 6.2.3; TLS 1.3 allows less).
pub(super) const RECORD_ON_WIRE: usize = 5 + RECORD + 2048;
/// Room for what is read, or for what is encrypted with the headers and tags of its records.
const SCRATCH: usize = 66 * 1024;

thread_local! {
    static SCRATCH_OF_THREAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static GATHERED_OF_THREAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's scratch buffer, at least [`SCRATCH`] bytes with arbitrary content.
pub(super) fn with_scratch<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    lend(&SCRATCH_OF_THREAD, |scratch| {
        if scratch.len() < SCRATCH {
            scratch.resize(SCRATCH, 0);
        }
        work(scratch)
    })
}

/// Taken out of its cell rather than borrowed in it: TLS inside TLS would otherwise find it in use.
fn lend<R>(buffer: &'static LocalKey<Cell<Vec<u8>>>, work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut lent = buffer.take();
    let result = work(&mut lent);
    buffer.set(lent);
    result
}

/// Bytes that wait, first in first out. Holds no memory while there are none.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    taken: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Removes the first `count` bytes.
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= self.bytes.len() {
            *self = Backlog::default();
        }
    }

    /// Adds `count` bytes for the caller to fill.
    fn extend(&mut self, count: usize) -> &mut [u8] {
        let end = self.bytes.len();
        self.bytes.resize(end + count, 0);
        &mut self.bytes[end..]
    }
}

/// What the peer may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// More.
    Open,
    /// Nothing: it said so.
    Ended,
}

/// Why something cannot be encrypted.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum SealError {
    /// As many records as one key may encrypt.
    #[error("the keys of this connection are used up")]
    Exhausted,
    /// The connection failed before.
    #[error("the connection takes no more data")]
    Closed,
}

/// A TLS connection without its socket. After an error of [`Session::absorb`] only [`Session::outgoing`] is of use: it
/// holds the alert for the peer.
pub(super) struct Session {
    tls: UnbufferedClientConnection,
    /// The beginning of something incomplete: a record, or the records of a message that continues in the next one.
    /// rustls remembers places in it, so nothing but rustls may shorten it.
    incoming: Vec<u8>,
    /// Decrypted, and more than the reader had room for.
    pub(super) plaintext: Backlog,
    /// Encrypted, and not yet taken by the socket.
    pub(super) outgoing: Backlog,
}

impl Session {
    /// A connection whose client hello is in [`Session::outgoing`].
    pub(super) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        let tls = UnbufferedClientConnection::new(config, name)?;
        let mut session =
            Session { tls, incoming: Vec::new(), plaintext: Backlog::default(), outgoing: Backlog::default() };
        session.absorb(&mut [], &mut ReadBuf::new(&mut []))?;
        Ok(session)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// The protocol agreed on by ALPN.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// Bytes that were read and are not understood yet. Whoever reads puts them in front.
    pub(super) fn incoming(&self) -> &[u8] {
        &self.incoming
    }

    /// Takes what was read: `received` is [`Session::incoming`] with more behind. Every complete record is processed
    /// and decrypted in place; plaintext goes into `plain`, and what does not fit into [`Session::plaintext`]; what
    /// rustls wants to answer goes into [`Session::outgoing`]. Plaintext in front of an error is delivered too.
    pub(super) fn absorb(&mut self, received: &mut [u8], plain: &mut ReadBuf<'_>) -> Result<Peer, rustls::Error> {
        let mut start = 0;
        let peer = loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut received[start..]);
            let mut used = discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        let (fits, rest) = record.payload.split_at(record.payload.len().min(plain.remaining()));
                        plain.put_slice(fits);
                        self.plaintext.push(rest);
                        used += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                // It counts as sent because everything else goes into the same backlog, behind it.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => break Peer::Ended,
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => {
                    start += used;
                    break Peer::Open;
                }
                Ok(_) => return Err(rustls::Error::General("a state that a client is never in".into())),
                Err(error) => {
                    self.collect_alert(&error, &mut received[start + used..]);
                    return Err(error);
                }
            }
            start += used;
        };
        let rest = if peer == Peer::Open { &received[start..] } else { &[] };
        if rest.is_empty() {
            self.incoming = Vec::new();
        } else {
            self.incoming.clear();
            self.incoming.extend_from_slice(rest);
        }
        Ok(peer)
    }

    /// Encrypts the first bytes of `slices` into `sealed`, which grows when it is too small: how many were taken, and
    /// how many bytes of `sealed` to send for them.
    pub(super) fn seal(&mut self, slices: &[IoSlice<'_>], sealed: &mut Vec<u8>) -> Result<(usize, usize), SealError> {
        lend(&GATHERED_OF_THREAD, |gathered| {
            gathered.clear();
            let (mut taken, mut length) = (0, 0);
            for (index, slice) in slices.iter().enumerate() {
                let mut bytes = &slice[..slice.len().min(SEALED_AT_ONCE - taken)];
                taken += bytes.len();
                // Small pieces share records; what fills records of its own, or ends the write, is not copied first.
                if gathered.is_empty() {
                    let last = index + 1 == slices.len();
                    let (straight, rest) = bytes.split_at(if last { bytes.len() } else { whole_records(bytes) });
                    length = self.seal_behind(length, straight, sealed)?;
                    bytes = rest;
                }
                gathered.extend_from_slice(bytes);
                let whole = whole_records(gathered);
                length = self.seal_behind(length, &gathered[..whole], sealed)?;
                gathered.drain(..whole);
            }
            length = self.seal_behind(length, gathered, sealed)?;
            Ok((taken, length))
        })
    }

    /// How many bytes of memory are held between two calls.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.incoming.capacity() + self.plaintext.bytes.capacity() + self.outgoing.bytes.capacity()
    }

    /// Encrypts `plain` behind the first `length` bytes of `sealed`; how many there are then.
    fn seal_behind(&mut self, length: usize, plain: &[u8], sealed: &mut Vec<u8>) -> Result<usize, SealError> {
        if plain.is_empty() {
            return Ok(length);
        }
        let status = self.tls.process_tls_records(&mut self.incoming);
        // Whatever else rustls could want was done when the incoming bytes were absorbed.
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else { return Err(SealError::Closed) };
        let written = match traffic.encrypt(plain, &mut sealed[length..]) {
            Err(EncryptError::InsufficientSize(error)) => {
                sealed.resize(length + error.required_size, 0);
                traffic.encrypt(plain, &mut sealed[length..])
            }
            result => result,
        };
        Ok(length + written.map_err(|_| SealError::Exhausted)?)
    }

    /// Puts a close_notify into [`Session::outgoing`].
    pub(super) fn end(&mut self) -> Result<(), SealError> {
        let status = self.tls.process_tls_records(&mut self.incoming);
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else { return Err(SealError::Closed) };
        if let Err(EncryptError::InsufficientSize(error)) = traffic.queue_close_notify(&mut []) {
            let room = self.outgoing.extend(error.required_size);
            traffic.queue_close_notify(room).map_err(|_| SealError::Exhausted)?;
        }
        Ok(())
    }

    /// Fetches the alert that tells the peer about `error`. At most one message: another call after it could go on
    /// with the input that is broken.
    fn collect_alert(&mut self, error: &rustls::Error, rest: &mut [u8]) {
        if matches!(error, rustls::Error::AlertReceived(_)) {
            return;
        }
        if let Ok(ConnectionState::EncodeTlsData(data)) = self.tls.process_tls_records(rest).state {
            encode(data, &mut self.outgoing);
        }
    }
}

/// How many of `bytes` fill records.
fn whole_records(bytes: &[u8]) -> usize {
    bytes.len() - bytes.len() % RECORD
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Backlog) {
    // The first call only asks for the length. The second cannot fail: it has what the first asked for.
    if let Err(EncodeError::InsufficientSize(error)) = data.encode(&mut []) {
        let _written = data.encode(outgoing.extend(error.required_size));
    }
}
