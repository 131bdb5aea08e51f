//! Heads are read as httparse reads them, but for what is refused besides: it is a parser that others rely on, and it
//! knows nothing of this one.

use http::Version;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use crate::wire::fields::Fields;
use crate::wire::head::{LARGEST, LONGEST_TARGET, MOST_FIELDS};
use crate::wire::{HeadError, RequestHead, ResponseHead};

/// What was read: the words of the start line, the fields, and how many bytes that were.
type Read = (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>, usize);

/// A reading, `None` where more must come, or nothing where it is no head.
type Verdict = Result<Option<Read>, ()>;

fn own_fields(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.lines().map(|line| (line.name.to_vec(), line.value.to_vec())).collect()
}

fn minor(version: Version) -> Vec<u8> {
    vec![u8::from(version == Version::HTTP_11)]
}

fn request(bytes: &[u8]) -> Verdict {
    let read = RequestHead::parse(bytes).map_err(drop)?;
    Ok(read.map(|(head, length)| {
        let method = head.method.as_str().as_bytes().to_vec();
        (vec![method, head.target().to_vec(), minor(head.version)], own_fields(&head.fields), length)
    }))
}

fn response(bytes: &[u8]) -> Verdict {
    let read = ResponseHead::parse(bytes).map_err(drop)?;
    Ok(read.map(|(head, length)| {
        let status = head.status.as_str().as_bytes().to_vec();
        (vec![minor(head.version), status], own_fields(&head.fields), length)
    }))
}

fn their_fields(fields: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec())).collect()
}

/// httparse, and besides: no line of a request ends in LF alone, and there is an end to what is read.
fn their_request(bytes: &[u8]) -> Verdict {
    let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut read = httparse::Request::new(&mut room);
    let length = match read.parse(bytes).map_err(drop)? {
        httparse::Status::Complete(length) => Some(length),
        httparse::Status::Partial => None,
    };
    let head = &bytes[..length.unwrap_or(bytes.len())];
    let has_bare_lf = head.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    let is_too_large = if length.is_some() { head.len() > LARGEST } else { head.len() >= LARGEST };
    if has_bare_lf || is_too_large || read.path.is_some_and(|path| path.len() > LONGEST_TARGET) {
        return Err(());
    }
    let Some(length) = length else { return Ok(None) };
    let (method, target) = (read.method.unwrap(), read.path.unwrap());
    let words = vec![method.into(), target.into(), vec![read.version.unwrap()]];
    Ok(Some((words, their_fields(read.headers), length)))
}

/// httparse, and besides: a status begins with a digit that is no zero.
fn their_response(bytes: &[u8]) -> Verdict {
    let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut read = httparse::Response::new(&mut room);
    let httparse::Status::Complete(length) = read.parse(bytes).map_err(drop)? else { return Ok(None) };
    let code = read.code.unwrap();
    if code < 100 {
        return Err(());
    }
    let words = vec![vec![read.version.unwrap()], code.to_string().into()];
    Ok(Some((words, their_fields(read.headers), length)))
}

/// A piece of a head, or of what could be taken for one.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 30] = [
        b"GET",
        b"POST",
        b" ",
        b"  ",
        b"\t",
        b"/",
        b"/a?b=%20",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"HTTP/1.",
        b"200",
        b"099",
        b"20",
        b"OK",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b":",
        b": ",
        b"Host: h",
        b"x_y: 1",
        b"!#$%&'*+-.^_`|~",
        b"(",
        b"\0",
        b"\x7f",
        b"\xc3\xa9",
    ];
    prop_oneof![
        6 => prop::sample::select(&PIECES[..]).prop_map(<[u8]>::to_vec),
        2 => (any::<u8>(), 0..40_usize).prop_map(|(byte, count)| vec![byte; count]),
        1 => Just(b"a-header-name-of-some-length: a value that is longer than one step\r\n".to_vec()),
    ]
}

/// A head that begins well and goes on in any way.
fn pieces(begins: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(begins), prop::collection::vec(piece(), 0..12))
        .prop_map(|(begin, pieces)| [begin, &pieces.concat()].concat())
}

/// A good head in which one byte is another, and of which the rest may not have come.
fn damaged(head: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    (0..head.len(), any::<u8>(), 0..=head.len()).prop_map(move |(at, byte, end)| {
        let mut bytes = head.to_vec();
        bytes[at] = byte;
        bytes.truncate(end.max(at + 1));
        bytes
    })
}

const REQUEST: &[u8] = b"PATCH /some/path?and=query HTTP/1.1\r\nHost: example.com\r\nEmpty:\r\nBlank: \t \r\n\
    An-Unusually-Long-Name-Of-A-Field: \t a value with a\ttab, \xff and spaces behind it \t\r\nx_under_score: 1\r\n\r\nbody";
const RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After:5\r\nempty:\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\n\
    ETag: W/\"4f53cda18c2baa0c0354bb5f9a3ecbe5\"\r\n\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_request_is_read_as_others_read_it(
        bytes in prop_oneof![pieces(&[b"", b"\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nA: b\r\n"]), damaged(REQUEST)],
    ) {
        prop_assert_eq!(request(&bytes), their_request(&bytes));
    }

    #[test]
    fn a_response_is_read_as_others_read_it(
        bytes in prop_oneof![pieces(&[b"", b"\n", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\nA: b\r\n"]), damaged(RESPONSE)],
    ) {
        prop_assert_eq!(response(&bytes), their_response(&bytes));
    }
}

#[test]
fn every_byte_at_every_place_is_judged_as_others_judge_it() {
    for (head, own, theirs) in [
        (REQUEST, request as fn(&[u8]) -> Verdict, their_request as fn(&[u8]) -> Verdict),
        (RESPONSE, response, their_response),
    ] {
        assert!(matches!(own(head), Ok(Some(_))), "a good head is read");
        for at in 0..head.len() {
            assert_eq!(own(&head[..at]), theirs(&head[..at]), "the first {at} bytes");
            let mut bytes = head.to_vec();
            for byte in 0..=u8::MAX {
                bytes[at] = byte;
                assert_eq!(own(&bytes), theirs(&bytes), "{byte:#x} at {at}");
            }
        }
    }
}

#[test]
fn what_is_too_much_is_told_from_what_is_wrong() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(matches!(request(fields(MOST_FIELDS).as_bytes()), Ok(Some(_))));
    assert_eq!(RequestHead::parse(fields(MOST_FIELDS + 1).as_bytes()).unwrap_err(), HeadError::TooLarge);
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(length - 1));
    assert!(matches!(request(target(LONGEST_TARGET).as_bytes()), Ok(Some(_))));
    assert_eq!(RequestHead::parse(target(LONGEST_TARGET + 1).as_bytes()).unwrap_err(), HeadError::TargetTooLong);
}
