//! Bodies of HTTP/1.1: read by their framing, and framed anew when they are written (RFC 9112 §6 and §7). No byte of a
//! framing that came in goes out again.

use std::io::Write;

use http::HeaderMap;

use super::head::Framing;
use super::lines::{Ends, Lines};
use super::source::Size;

/// The largest trailer section, and the most that chunk extensions of one body may take.
const LARGEST_EXTRA: usize = 16 * 1024;

/// Why bytes are not the body that the head announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk's size line.
    #[error("the size of a chunk is not a hexadecimal number on a line of its own")]
    ChunkSize,
    /// A chunk does not end where its size says.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// Extensions or trailers beyond the bound.
    #[error("chunk extensions or trailers take more than 16 KiB")]
    TooMuch,
    /// The trailer section.
    #[error("the trailers are not header fields")]
    Trailers,
}

/// Reads a body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The size of the chunk whose size line is being read.
    chunk: u64,
    /// Bytes of extensions and trailers so far.
    extra: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In a size line, behind so many digits.
    Size(u8),
    /// Behind the digits.
    Extension,
    /// Behind the CR of a size line.
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    Done,
    Failed(BodyError),
}

/// What a look at bytes has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes, counted from the beginning of what was shown, are the body's; what is before them is framing.
    Data(std::ops::Range<usize>),
    /// All of it was framing; more must come.
    More,
    /// The body has ended after so many bytes of framing.
    End(usize),
}

impl Decoder {
    /// For a body of this framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0),
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, chunk: 0, extra: 0, trailers: Vec::new() }
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the stream is the end of the body.
    pub fn ends_with_stream(&self) -> bool {
        self.state == State::UntilClose
    }

    /// The stream has ended, and the body with it.
    pub fn finish(&mut self) {
        self.state = State::Done;
    }

    /// What is known of the rest.
    pub fn size(&self) -> Size {
        match self.state {
            State::Length(length) => Size::Exact(length),
            State::Done => Size::Exact(0),
            _ => Size::Open,
        }
    }

    /// Looks at the next bytes. Those up to the end of a [`Step::Data`] count as read, all of them with [`Step::More`].
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, BodyError> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok(Step::End(at)),
                State::Failed(error) => return Err(error),
                _ if at == bytes.len() => return Ok(Step::More),
                State::UntilClose => return Ok(Step::Data(at..bytes.len())),
                State::Length(left) => {
                    let (end, left) = within(at, bytes.len(), left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Step::Data(at..end));
                }
                State::Data(left) => {
                    let (end, left) = within(at, bytes.len(), left);
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    return Ok(Step::Data(at..end));
                }
                State::Trailers => at += self.failing(|decoder| decoder.read_trailers(&bytes[at..]))?,
                _ => {
                    self.state = self.failing(|decoder| decoder.frame(bytes[at]))?;
                    at += 1;
                }
            }
        }
    }

    /// What is no body stays none, however often it is looked at.
    fn failing<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, BodyError>) -> Result<T, BodyError> {
        let outcome = read(self);
        if let Err(error) = &outcome {
            self.state = State::Failed(*error);
        }
        outcome
    }

    /// One byte of a chunk's framing.
    fn frame(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            // Fifteen digits are more than anybody sends, and cannot overflow.
            (State::Size(digits @ 0..15), byte) if byte.is_ascii_hexdigit() => {
                let before = if digits == 0 { 0 } else { self.chunk };
                self.chunk = before * 16 + u64::from(char::from(byte).to_digit(16).unwrap_or_default());
                Ok(State::Size(digits + 1))
            }
            (State::Size(1..), b'\r') | (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size(1..), b';') | (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_extra(1)?;
                Ok(State::Extension)
            }
            (State::SizeLf, b'\n') if self.chunk == 0 => Ok(State::Trailers),
            (State::SizeLf, b'\n') => Ok(State::Data(self.chunk)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            (State::DataCr | State::DataLf, _) => Err(BodyError::ChunkEnd),
            _ => Err(BodyError::ChunkSize),
        }
    }

    fn count_extra(&mut self, count: usize) -> Result<(), BodyError> {
        self.extra += count;
        if self.extra > LARGEST_EXTRA { Err(BodyError::TooMuch) } else { Ok(()) }
    }

    /// Takes the next line of the trailer section, or what has come of it; how many bytes that were.
    fn read_trailers(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let line = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
        self.count_extra(line)?;
        self.trailers.extend_from_slice(&bytes[..line]);
        if !self.trailers.ends_with(b"\n") {
            return Ok(line);
        }
        if !self.trailers.ends_with(b"\r\n") {
            return Err(BodyError::Trailers);
        }
        if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
            self.state = State::Done;
        }
        Ok(line)
    }

    /// The trailer fields, once the body has ended; `None` where there are none.
    pub fn take_trailers(&mut self) -> Result<Option<Box<HeaderMap>>, BodyError> {
        if self.trailers.len() <= 2 {
            return Ok(None);
        }
        let text = std::mem::take(&mut self.trailers);
        let fields = Lines::new(&text, Ends::CrLf).fields().map_err(|_| BodyError::Trailers)?;
        Ok(Some(Box::new(fields.to_map())))
    }
}

/// Where a part of `left` bytes ends that begins at `at`, and how much of it is then missing.
fn within(at: usize, end: usize, left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).map_or(end - at, |left| left.min(end - at));
    (at + taken, left - taken as u64)
}

/// Writes the line that announces how long a body is. Every answer has one, and `fmt` would take ten times as long.
pub fn write_length(out: &mut Vec<u8>, mut length: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\r\n");
}

/// Writes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// As it is: its length was announced, or the connection ends with it.
    Plain,
    /// In chunks.
    Chunked,
}

impl Encoder {
    /// Writes a piece.
    pub fn data(self, out: &mut Vec<u8>, data: &[u8]) {
        if self == Encoder::Chunked {
            if data.is_empty() {
                return; // it would be the end
            }
            let _infallible = write!(out, "{:x}\r\n", data.len());
        }
        out.extend_from_slice(data);
        if self == Encoder::Chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Writes the end. Trailers go where they can.
    pub fn end(self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
        if self == Encoder::Plain {
            return;
        }
        out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads bytes that come in pieces of `step`: the body, its trailers and how much was left over.
    fn read(framing: Framing, bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, usize), BodyError> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in bytes.chunks(step) {
            let mut at = 0;
            loop {
                match decoder.step(&piece[at..])? {
                    Step::Data(range) => {
                        body.extend_from_slice(&piece[at..][range.clone()]);
                        at += range.end;
                    }
                    Step::More => {
                        used += piece.len();
                        break;
                    }
                    Step::End(count) => {
                        let trailers = decoder.take_trailers()?.map_or(0, |trailers| trailers.len());
                        return Ok((body, trailers, bytes.len() - used - at - count));
                    }
                }
            }
        }
        Err(BodyError::ChunkEnd)
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let chunked = b"5\r\nhello\r\n6;a=\"b\"\r\n world\r\n000\r\nX-T: 1\r\nX-U: 2\r\n\r\nnext";
        for step in 1..chunked.len() {
            assert_eq!(read(Framing::Chunked, chunked, step), Ok((b"hello world".to_vec(), 2, 4)), "{step}");
            assert_eq!(read(Framing::Length(5), b"hellonext", step).map(|read| read.0), Ok(b"hello".to_vec()));
        }
        assert_eq!(read(Framing::Chunked, b"0\r\n\r\nnext", 3), Ok((Vec::new(), 0, 4)));
    }

    #[test]
    fn chunks_that_could_be_read_otherwise_are_refused() {
        for bytes in [
            "0x5\r\nhello\r\n",
            "+5\r\n",
            "-5\r\n",
            "5_0\r\n",
            " 5\r\n",
            "\r\n",
            "G\r\n",
            "5 \r\n",
            "5\nhello",
            "5;a\nb\r\n",
            "5;a\rX\r\n",
            "5\r\r;A\r\n",
            "5\r\nhelloX0\r\n",
            "5\r\nhello\n0\r\n",
            "4\r\nhello\r\n0\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "10000000000000000\r\n",
            "8000000000000000\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\nno field\r\n\r\n",
        ] {
            let outcome = read(Framing::Chunked, bytes.as_bytes(), 1);
            assert!(outcome.is_err(), "{bytes:?} {outcome:?}");
        }
        let large = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20 * 1024));
        assert_eq!(read(Framing::Chunked, large.as_bytes(), 4096), Err(BodyError::TooMuch));
        let large = format!("0\r\nX: {}\r\n\r\n", "a".repeat(20 * 1024));
        assert_eq!(read(Framing::Chunked, large.as_bytes(), 4096), Err(BodyError::TooMuch));
    }

    proptest::proptest! {
        #[test]
        fn a_length_is_written_in_digits(length: u64) {
            for length in [0, 9, 10, length, u64::MAX] {
                let mut out = Vec::new();
                write_length(&mut out, length);
                proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), format!("content-length: {length}\r\n"));
            }
        }

        #[test]
        fn what_is_written_is_read_again(pieces: Vec<Vec<u8>>, step in 1..50_usize) {
            let mut bytes = Vec::new();
            pieces.iter().for_each(|piece| Encoder::Chunked.data(&mut bytes, piece));
            Encoder::Chunked.end(&mut bytes, None);
            proptest::prop_assert_eq!(read(Framing::Chunked, &bytes, step), Ok((pieces.concat(), 0, 0)));
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(bytes: Vec<u8>, step in 1..9_usize) {
            let _outcome = read(Framing::Chunked, &bytes, step);
        }
    }
}
