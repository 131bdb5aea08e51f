//! How the fields of HTTP/2 requests were encoded (RFC 7541 §6): the h2 crate decodes that away, but whether an
//! intermediary may keep a credential in its tables is something tests must see.
//!
//! It walks representations without decoding Huffman strings, so it names only fields of the static table.

/// One field representation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexing {
    /// The name, where it was given as an index of the static table.
    pub name: Option<&'static str>,
    /// What the receiver may do with the field.
    pub how: How,
}

/// The kinds of representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It came out of a table.
    Indexed,
    /// It goes into the table.
    Incremental,
    /// It stays out of this table.
    Without,
    /// It must stay out of every table on the way: a secret.
    Never,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The field representations of every request in the bytes one connection sent; unfinished frames are left out.
pub(super) fn fields(bytes: &[u8]) -> Vec<Indexing> {
    let mut rest = bytes.strip_prefix(PREFACE).expect("an HTTP/2 connection");
    let (mut found, mut block) = (Vec::new(), Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (Some(payload), kind, flags) = (after.get(..length), header[3], header[4]) else { break };
        match kind {
            1 => block = fragment(payload, flags).to_vec(),
            9 => block.extend_from_slice(payload),
            _ => {}
        }
        if matches!(kind, 1 | 9) && flags & 0x4 != 0 {
            walk(&block, &mut found);
        }
        rest = &after[length..];
    }
    found
}

/// The header block of a HEADERS frame without its padding and priority.
fn fragment(payload: &[u8], flags: u8) -> &[u8] {
    let (start, padding) = if flags & 0x8 != 0 { (1, usize::from(payload[0])) } else { (0, 0) };
    let start = start + if flags & 0x20 != 0 { 5 } else { 0 };
    &payload[start..payload.len() - padding]
}

fn walk(mut block: &[u8], found: &mut Vec<Indexing>) {
    while let Some(&first) = block.first() {
        let (how, prefix) = match first {
            0x80.. => (How::Indexed, 7),
            0x40.. => (How::Incremental, 6),
            0x20.. => {
                integer(&mut block, 5);
                continue;
            }
            0x10.. => (How::Never, 4),
            _ => (How::Without, 4),
        };
        let index = integer(&mut block, prefix);
        if how != How::Indexed {
            if index == 0 {
                skip_string(&mut block);
            }
            skip_string(&mut block);
        }
        found.push(Indexing { name: index.checked_sub(1).and_then(|index| STATIC.get(index).copied()), how });
    }
}

fn integer(block: &mut &[u8], prefix: u32) -> usize {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(take(block)) & mask;
    let mut shift = 0;
    while value >= mask {
        let byte = take(block);
        value += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn skip_string(block: &mut &[u8]) {
    let length = integer(block, 7);
    *block = &block[length..];
}

fn take(block: &mut &[u8]) -> u8 {
    let (&first, rest) = block.split_first().expect("a header block that h2 has accepted");
    *block = rest;
    first
}

/// The names of RFC 7541, appendix A.
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

#[cfg(test)]
mod tests {
    use super::{How, Indexing, PREFACE, fields};

    #[test]
    fn a_secret_that_must_not_be_indexed_is_told_from_one_that_may() {
        // A table size update, `:method: GET`, a never-indexed and an indexable `authorization`, over two frames.
        let frames = [&b"\0\0\x06\x01\x00\0\0\0\x01\x20\x82\x1f\x08\x01x"[..], b"\0\0\x03\x09\x04\0\0\0\x01\x57\x01x"];
        let authorization = |how| Indexing { name: Some("authorization"), how };
        let method = Indexing { name: Some(":method"), how: How::Indexed };
        let expected = [method, authorization(How::Never), authorization(How::Incremental)];
        assert_eq!(fields(&[PREFACE, &frames.concat()].concat()), expected);
    }
}
