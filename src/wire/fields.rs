//! The fields of a message: the bytes that came, and where each field is in them. Nothing is copied or changed until it
//! is written again; a field that is not to pass is marked and stays where it is.

use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::scratch;
use crate::model::header::{self, Known, Meanings, Names, Spelling, known};

/// Fields in the order they came. Cheap to hand on: what it holds lies in memory of its own, which the thread lends.
#[derive(Debug, Default)]
pub struct Fields {
    /// Nothing where there never was a field.
    held: Option<Box<Held>>,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) list: Vec<Field>,
    /// Every meaning that a field has or had: most requests have few, and what is not there is not looked for.
    pub(super) meanings: Meanings,
}

static NOTHING: Held = Held { bytes: Vec::new(), list: Vec::new(), meanings: Meanings::of(&[]) };

/// A part of the bytes. Heads are bounded far below 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        Span { start: start as u32, end: end as u32 }
    }

    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A list of fields that grows.
pub(super) struct Noting<'f> {
    list: &'f mut Vec<Field>,
    meanings: &'f mut Meanings,
}

impl Noting<'_> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Appends a field that stands as a [plain line](Field::is_line) and has no `_` in its name, which means this.
    #[inline(always)]
    pub(super) fn note_line(&mut self, known: Known, name: Span, value: Span) {
        self.meanings.add(known);
        self.list.push(Field { name, value, known, spelling: Spelling::Plain, state: State::Kept, is_line: true });
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    name: Span,
    value: Span,
    known: Known,
    spelling: Spelling,
    state: State,
    /// Whether it stands among the bytes as `Name: value` with a line break.
    is_line: bool,
}

impl Field {
    fn new(name: Span, value: Span, known: Known, spelling: Spelling) -> Self {
        Field { name, value, known, spelling, state: State::Kept, is_line: false }
    }

    fn line(self, bytes: &[u8]) -> Line<'_> {
        Line { name: self.name.of(bytes), value: self.value.of(bytes), known: self.known, spelling: self.spelling }
    }

    fn is_line_in(self, bytes: &[u8]) -> bool {
        bytes.get(self.name.end as usize..self.value.start as usize) == Some(b": ")
            && bytes.get(self.value.end as usize..self.value.end as usize + 2) == Some(b"\r\n")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Kept,
    /// Holds a credential: kept out of the tables of HTTP/2 compression.
    Sensitive,
    Dropped,
}

/// One field that was not dropped.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// As it was written.
    pub name: &'a [u8],
    /// Without the white space around it.
    pub value: &'a [u8],
    /// What its name means.
    pub known: Known,
    /// Whether its name is spelled with `_`.
    pub spelling: Spelling,
}

impl Line<'_> {
    /// Whether it is this header, spelled as it should be.
    pub fn is(&self, known: Known) -> bool {
        self.known == known && self.spelling == Spelling::Plain
    }
}

impl Fields {
    /// No fields yet, and nothing for them to lie in: see [`Fields::lie_in`].
    pub(super) fn begin() -> Self {
        Fields { held: Some(scratch::take_fields()) }
    }

    /// Copies the bytes in which the spans of all fields so far lie.
    pub(super) fn lie_in(&mut self, bytes: &[u8]) {
        let own = &mut self.held_mut().bytes;
        own.clear();
        own.extend_from_slice(bytes);
    }

    /// How many there are, dropped ones too.
    pub(super) fn len(&self) -> usize {
        self.held().list.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.held().bytes
    }

    fn held(&self) -> &Held {
        self.held.as_deref().unwrap_or(&NOTHING)
    }

    fn held_mut(&mut self) -> &mut Held {
        self.held.get_or_insert_with(scratch::take_fields)
    }

    /// Whether a field of one of these meanings may be there, however it is spelled; `false` is certain.
    pub fn may_have(&self, any: Meanings) -> bool {
        self.held().meanings.meets(any)
    }

    /// Those that were not dropped.
    fn kept(&self) -> impl Iterator<Item = &Field> {
        self.held().list.iter().filter(|field| field.state != State::Dropped)
    }

    /// To append fields that stand as [plain lines](Field::is_line).
    pub(super) fn noting(&mut self) -> Noting<'_> {
        let Held { list, meanings, .. } = self.held_mut();
        Noting { list, meanings }
    }

    /// Appends a field that stands somehow in `bytes`.
    pub(super) fn note(&mut self, bytes: &[u8], name: Span, value: Span) {
        let (known, spelling) = known(name.of(bytes));
        let field = Field::new(name, value, known, spelling);
        self.keep(Field { is_line: field.is_line_in(bytes), ..field });
    }

    #[inline]
    fn keep(&mut self, field: Field) {
        let held = self.held_mut();
        held.meanings.add(field.known);
        held.list.push(field);
    }

    /// Appends bytes that belong to no field.
    pub(super) fn keep_text(&mut self, text: &[u8]) -> Span {
        let bytes = &mut self.held_mut().bytes;
        let start = bytes.len();
        bytes.extend_from_slice(text);
        Span::new(start, bytes.len())
    }

    /// The fields of a header map.
    pub fn from_map(headers: &HeaderMap) -> Self {
        let mut fields = Fields::begin();
        for (name, value) in headers {
            fields.push(name.as_str().as_bytes(), value.as_bytes());
        }
        fields
    }

    /// The same as a header map; what cannot stand in one is left out (nothing that was parsed).
    pub fn to_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.len());
        for field in self.kept() {
            let name = HeaderName::from_bytes(field.name.of(self.bytes()));
            let value = HeaderValue::from_bytes(field.value.of(self.bytes()));
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(field.state == State::Sensitive);
                headers.append(name, value);
            }
        }
        headers
    }

    /// Those that were not dropped.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.kept().map(|field| field.line(self.bytes()))
    }

    /// The values of a header, spelled as it should be.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let held = self.held();
        let Held { bytes, list, .. } = if held.meanings.has(known) { held } else { &NOTHING };
        let is_it = move |field: &&Field| {
            field.known == known && field.spelling == Spelling::Plain && field.state != State::Dropped
        };
        list.iter().filter(is_it).map(|field| field.value.of(bytes))
    }

    /// Whether a header that is a list has this member, compared without case.
    pub fn lists(&self, known: Known, member: &str) -> bool {
        self.values(known).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Whether who wrote these keeps the connection for another message (RFC 9112 §9.3).
    pub fn keep_alive(&self, version: Version) -> bool {
        let named = |option| self.lists(Known::Connection, option);
        !named("close") && (version == Version::HTTP_11 || named("keep-alive"))
    }

    /// Whether a header is there, spelled as it should be.
    pub fn has(&self, known: Known) -> bool {
        self.values(known).next().is_some()
    }

    /// Those that have one of these names, however it is spelled, and which name that is.
    pub fn named<'f, 'n>(&'f self, names: &'n Names) -> impl Iterator<Item = (usize, Line<'f>)> + use<'f, 'n> {
        let bytes = self.bytes();
        let may_be = self.kept().filter(|field| names.may_have(field.name.len()));
        may_be.filter_map(|field| Some((names.position(field.name.of(bytes))?, field.line(bytes))))
    }

    /// Whether one of them has this name, however it is spelled.
    pub fn has_named(&self, name: &HeaderName) -> bool {
        self.kept().any(|field| header::is_one(field.name.of(self.bytes()), name.as_str().as_bytes()))
    }

    /// Drops the fields of these meanings, however they are spelled.
    pub fn drop_known(&mut self, goes: Meanings) {
        self.drop_where(goes, |_, _| true);
    }

    /// Drops the fields of these names, however they are spelled.
    pub fn drop_named(&mut self, names: &Names) {
        self.drop_where(Meanings::ALL, |field, bytes| {
            names.may_have(field.name.len())
                && field.state != State::Dropped
                && names.position(field.name.of(bytes)).is_some()
        });
    }

    /// Drops the fields of this name, however it is spelled.
    pub fn drop_one(&mut self, name: &HeaderName) {
        let name = name.as_str().as_bytes();
        self.drop_where(Meanings::ALL, |field, bytes| {
            field.name.len() == name.len() && header::is_one(field.name.of(bytes), name)
        });
    }

    /// Drops those fields of some meanings for which `goes` says so.
    pub fn drop_if(&mut self, among: Meanings, mut goes: impl FnMut(Line<'_>) -> bool) {
        self.drop_where(among, |field, bytes| field.state != State::Dropped && goes(field.line(bytes)));
    }

    #[inline]
    fn drop_where(&mut self, among: Meanings, mut goes: impl FnMut(&Field, &[u8]) -> bool) {
        let Some(Held { bytes, list, meanings }) = self.held.as_deref_mut() else { return };
        if !meanings.meets(among) {
            return;
        }
        for field in list {
            if among.has(field.known) && goes(field, bytes) {
                field.state = State::Dropped;
            }
        }
    }

    /// Appends a field.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let (known, spelling) = known(name);
        let (name, value) = (self.keep_text(name), self.keep_text(value));
        self.keep(Field::new(name, value, known, spelling));
    }

    /// Appends a field that holds a credential.
    pub fn push_sensitive(&mut self, name: &[u8], value: &[u8]) {
        self.push(name, value);
        if let Some(field) = self.held_mut().list.last_mut() {
            field.state = State::Sensitive;
        }
    }

    /// Replaces values: `change` gives the new one, or `None` to leave it.
    pub fn change(&mut self, change: impl Fn(Line<'_>) -> Option<Vec<u8>>) {
        for index in 0..self.len() {
            let field = self.held().list[index];
            if field.state != State::Dropped
                && let Some(value) = change(field.line(self.bytes()))
            {
                let value = self.keep_text(&value);
                let changed = &mut self.held_mut().list[index];
                (changed.value, changed.is_line) = (value, false);
            }
        }
    }

    /// Writes them as they stand in a head of HTTP/1.1: what came as plain lines, one behind the other, in one piece.
    pub fn render(&self, out: &mut Vec<u8>) {
        let bytes = self.bytes();
        let (mut from, mut to) = (0, 0);
        for field in self.kept() {
            if field.is_line {
                let start = field.name.start as usize;
                if start != to {
                    out.extend_from_slice(&bytes[from..to]);
                    from = start;
                }
                to = field.value.end as usize + 2;
                continue;
            }
            out.extend_from_slice(&bytes[from..to]);
            (from, to) = (0, 0);
            let line = field.line(bytes);
            out.extend_from_slice(line.name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(line.value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&bytes[from..to]);
    }
}

/// The members of a list in a header's value.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

impl Drop for Fields {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            scratch::give_back_fields(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_keeps_its_bytes_and_its_place() {
        let mut fields = Fields::default();
        fields.push(b"X-One", b"1");
        fields.push(b"sideKEY_key", b"k");
        fields.push(b"X-One", b"\xff2");
        fields.drop_known(Meanings::of(&[Known::Own]));
        let mut out = Vec::new();
        fields.render(&mut out);
        assert_eq!(out, b"X-One: 1\r\nX-One: \xff2\r\n");
        let bytes = b"A: 1\r\nB: 2\r\nC:3\r\nD: 4 \r\nE:\r\n";
        let mut plain = Fields::begin();
        for (name, value) in
            [((0, 1), (3, 4)), ((6, 7), (9, 10)), ((12, 13), (14, 15)), ((17, 18), (20, 21)), ((24, 25), (26, 26))]
        {
            plain.note(bytes, Span::new(name.0, name.1), Span::new(value.0, value.1));
        }
        plain.lie_in(bytes);
        out.clear();
        plain.render(&mut out);
        assert_eq!(out, b"A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: \r\n");
        plain.drop_one(&HeaderName::from_static("a"));
        out.clear();
        plain.render(&mut out);
        assert_eq!(out, b"B: 2\r\nC: 3\r\nD: 4\r\nE: \r\n");
        fields.change(|line| (line.value == b"1").then(|| b"one".to_vec()));
        assert_eq!(fields.to_map().get_all("x-one").iter().collect::<Vec<_>>(), [&b"one"[..], b"\xff2"]);
    }
}
