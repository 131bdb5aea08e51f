//! The lines of a head, read in one pass and strictly (RFC 9112 §2 to §5): what stands where, and what each name means.
//! What a start line says is for whoever asked; nothing here decides.
//!
//! A field as almost everybody writes it is read eight bytes at a time; any other, and whatever is wrong, byte by byte.

use http::Version;

use super::fields::{Fields, Span};
use super::head::{HeadError, MOST_FIELDS};
use super::names::{self, Begun, SeenNames};
use super::scratch;
use crate::model::header::{Known, meaning};

/// What a request line is not.
const NO_REQUEST: &str = "the method or the target holds a character that it cannot";
/// What no line is.
pub(super) const NO_LINE: &str = "a line does not end in CR LF";

/// What may end a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// CR LF. RFC 9112 §2.2 lets a bare LF end a line; whoever reads it so sees other lines than who does not.
    CrLf,
    /// A bare LF as well.
    AlsoLf,
}

/// Why a line is not read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// It has not all come.
    Partial,
    /// It is none.
    Wrong(HeadError),
}

fn wrong<T>(why: &'static str) -> Result<T, Stop> {
    Err(Stop::Wrong(HeadError::Malformed(why)))
}

/// Reads from the beginning of bytes, of which more may come.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    ends: Ends,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8], ends: Ends) -> Self {
        Lines { bytes, at: 0, ends }
    }

    /// How many bytes were read.
    pub(super) fn read(&self) -> usize {
        self.at
    }

    /// Passes over empty lines in front of a head (RFC 9112 §2.2).
    pub(super) fn skip_empty(&mut self) -> Result<(), Stop> {
        while matches!(self.rest(), [b'\r' | b'\n', ..]) {
            self.end_line(NO_LINE)?;
        }
        Ok(())
    }

    /// The method and the space behind it.
    pub(super) fn method(&mut self) -> Result<&'a [u8], Stop> {
        let method = self.token()?;
        if method.is_empty() || self.bytes[self.at] != b' ' {
            return wrong(NO_REQUEST);
        }
        self.at += 1;
        Ok(method.of(self.bytes))
    }

    /// The target of a request and the space behind it. It is UTF-8, and none of its characters is a control or a space.
    pub(super) fn target(&mut self) -> Result<Span, Stop> {
        let start = self.at;
        self.at += leading(self.rest(), word::graphic, |byte| byte > b' ' && byte != 0x7f);
        let target = &self.bytes[start..self.at];
        match self.rest().first() {
            Some(b' ') if !target.is_empty() && (target.is_ascii() || std::str::from_utf8(target).is_ok()) => {
                self.at += 1
            }
            Some(_) => return wrong(NO_REQUEST),
            None => return Err(Stop::Partial),
        }
        Ok(Span::new(start, self.at - 1))
    }

    /// `HTTP/1.0` or `HTTP/1.1`.
    pub(super) fn version(&mut self) -> Result<Version, Stop> {
        let version = match self.rest() {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', ..] => Version::HTTP_11,
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', ..] => Version::HTTP_10,
            begun if b"HTTP/1.".starts_with(begun) => return Err(Stop::Partial),
            _ => return wrong("it is not HTTP/1.0 or HTTP/1.1"),
        };
        self.at += 8;
        Ok(version)
    }

    /// The space in front of a status, its three digits, and what else stands on its line.
    pub(super) fn status(&mut self) -> Result<&'a [u8], Stop> {
        const WHY: &str = "the status is not a number of three digits";
        match self.rest().first() {
            Some(b' ') => self.at += 1,
            Some(_) => return wrong("it is not HTTP/1.0 or HTTP/1.1"),
            None => return Err(Stop::Partial),
        }
        let start = self.at;
        match self.rest() {
            [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', ..] => self.at += 3,
            begun if begun.len() < 3 && begun.iter().all(u8::is_ascii_digit) => return Err(Stop::Partial),
            _ => return wrong(WHY),
        }
        let digits = &self.bytes[start..self.at];
        if let Some(b' ') = self.rest().first() {
            self.text();
        }
        self.end_line(WHY)?;
        Ok(digits)
    }

    /// The end of a line, which must be here.
    pub(super) fn end_line(&mut self, why: &'static str) -> Result<(), Stop> {
        self.at += match self.rest() {
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => return Err(Stop::Partial),
            [b'\n', ..] if self.ends == Ends::AlsoLf => 1,
            [b'\n', ..] => return wrong("a line ends in LF without CR"),
            _ => return wrong(why),
        };
        Ok(())
    }

    /// Field lines and the empty line behind them.
    pub(super) fn fields(&mut self) -> Result<Fields, Stop> {
        let mut fields = Fields::begin();
        loop {
            self.plain_fields(&mut fields);
            if fields.len() > MOST_FIELDS {
                return Err(Stop::Wrong(HeadError::TooLarge));
            }
            if matches!(self.rest(), [b'\r' | b'\n', ..] | []) {
                self.end_line(NO_LINE)?;
                fields.lie_in(&self.bytes[..self.at]);
                return Ok(fields);
            }
            let (name, value) = self.odd_field()?;
            fields.note(self.bytes, name, value);
        }
    }

    /// Fields as almost everybody writes them, up to one that is not, or one too many.
    fn plain_fields(&mut self, fields: &mut Fields) {
        let (total, mut rest) = (self.bytes.len(), self.rest());
        // Where a part of the bytes begins that goes on to their end, and where one ends behind which so many are.
        let at = |part: &[u8]| total.wrapping_sub(part.len());
        let mut list = fields.noting();
        scratch::with_names(|names| {
            while list.len() <= MOST_FIELDS
                && let Some(Plain { name, known, text, length, behind }) = plain_field(rest, names)
            {
                let (name_at, value_at) = (at(rest), at(text));
                let value = Span::new(value_at, value_at.wrapping_add(length));
                list.note_line(known, Span::new(name_at, name_at.wrapping_add(name)), value);
                rest = behind;
            }
        });
        self.at = at(rest);
    }

    /// A field that is not as most of them are, or none: its name, and its value without the white space around it.
    #[inline(never)]
    fn odd_field(&mut self) -> Result<(Span, Span), Stop> {
        let name = self.token()?;
        if name.is_empty() || self.bytes[self.at] != b':' {
            return wrong("a header's name is not a token followed by a colon");
        }
        self.at += 1;
        while let [b' ' | b'\t', ..] = self.rest() {
            self.at += 1;
        }
        let start = self.at;
        self.text();
        let mut end = self.at;
        while end > start && matches!(self.bytes[end - 1], b' ' | b'\t') {
            end -= 1;
        }
        self.end_line("a header's value holds a control character or continues on the next line")?;
        Ok((name, Span::new(start, end)))
    }

    /// A token (RFC 9110 §5.6.2), perhaps an empty one. A byte that belongs to no token is behind it.
    fn token(&mut self) -> Result<Span, Stop> {
        let start = self.at;
        self.at += self.rest().iter().take_while(|byte| is_token(**byte)).count();
        if self.rest().is_empty() { Err(Stop::Partial) } else { Ok(Span::new(start, self.at)) }
    }

    /// Text up to a control character that is no tab, the end of the line for example.
    fn text(&mut self) {
        loop {
            self.at += leading(self.rest(), word::visible, is_visible);
            match self.rest().first() {
                Some(b'\t') => self.at += 1,
                _ => return,
            }
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}

/// A field as almost everybody writes it.
struct Plain<'a> {
    /// How long its name is.
    name: usize,
    known: Known,
    /// What begins with its value, which has this length.
    text: &'a [u8],
    length: usize,
    behind: &'a [u8],
}

/// What is such a field, all of it there: letters and `-`, a colon, one space, something visible and the end of the line.
#[inline(always)]
fn plain_field<'a>(line: &'a [u8], names: &mut SeenNames) -> Option<Plain<'a>> {
    let begun = names::begun(line);
    let (name, known) = match begun.as_ref().and_then(|begun| names.find(begun)) {
        Some(found) => found,
        None => plain_name(line, begun, names)?,
    };
    let text = line.get(name + 2..)?;
    let (value, rest) = text.split_at_checked(leading(text, word::visible, is_visible))?;
    let [b'\r', b'\n', behind @ ..] = rest else { return None };
    let is_bare = !matches!(value, [b' ', ..] | [.., b' '] | []);
    is_bare.then_some(Plain { name, known, text, length: value.len(), behind })
}

/// The length of a name that was not seen lately, and what it means.
#[inline(never)]
fn plain_name(line: &[u8], begun: Option<Begun>, names: &mut SeenNames) -> Option<(usize, Known)> {
    let (name, rest) = line.split_at_checked(leading(line, word::letters_and_dashes, is_letter_or_dash))?;
    if name.is_empty() || !rest.starts_with(b": ") {
        return None;
    }
    let known = meaning(name);
    if let Some(begun) = begun {
        names.keep(&begun, name.len(), known);
    }
    Some((name.len(), known))
}

/// How many bytes stay in front of the first that does not; all where every one does. `of_word` looks at eight at once and
/// gives a word that has the highest bit of each byte set that goes, `stays` looks at one.
#[inline(always)]
fn leading(bytes: &[u8], of_word: impl Fn(u64) -> u64, stays: impl Fn(u8) -> bool) -> usize {
    let mut rest = bytes;
    while let Some((eight, behind)) = rest.split_first_chunk() {
        let goes = of_word(u64::from_le_bytes(*eight));
        if goes != 0 {
            // What was passed over are whole words: nothing is carried.
            return bytes.len().wrapping_sub(rest.len()) | (goes.trailing_zeros() / 8) as usize;
        }
        rest = behind;
    }
    bytes.len() - rest.len() + rest.iter().take_while(|byte| stays(**byte)).count()
}

fn is_letter_or_dash(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'-'
}

/// Whether a byte is no control character; a tab is one.
fn is_visible(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Eight bytes at once, the first one lowest: each gives a word in which the highest bit of a byte says that it goes. What
/// stands above the first that goes may be wrong, because sums carry; nobody looks at it.
mod word {
    const HIGHEST: u64 = each(0x80);

    /// The same byte eight times.
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }

    /// The highest bit says that a byte is `least` or more; of bytes below 0x80.
    fn from(bytes: u64, least: u8) -> u64 {
        bytes.wrapping_add(each(0x80 - least))
    }

    /// The highest bit says that a byte is below `least`; of bytes below 0x80.
    fn below(bytes: u64, least: u8) -> u64 {
        bytes.wrapping_sub(each(least))
    }

    /// Letters and `-` stay.
    pub(super) fn letters_and_dashes(bytes: u64) -> u64 {
        let small = bytes | each(0x20);
        let no_letters = !from(small, b'a') | from(small, b'z' + 1);
        let no_dashes = from(bytes ^ each(b'-'), 1);
        (no_letters & no_dashes | bytes) & HIGHEST
    }

    /// Control characters go, tabs too.
    pub(super) fn visible(bytes: u64) -> u64 {
        (below(bytes, b' ') | below(bytes ^ each(0x7f), 1)) & !bytes & HIGHEST
    }

    /// Control characters and spaces go.
    pub(super) fn graphic(bytes: u64) -> u64 {
        (below(bytes, b'!') | below(bytes ^ each(0x7f), 1)) & !bytes & HIGHEST
    }
}

#[cfg(test)]
mod tests;
