//! What a reader sees of what arrives, in whatever pieces.

use std::io;
use std::task::Poll;

use rustls::HandshakeKind;

use super::super::pki::Ca;
use super::super::{ClientStream, HandshakeError};
use super::line::{Rig, VERSIONS, outgoing, pattern, serve, server_of};

#[test]
fn an_answer_takes_one_read_and_leaves_nothing_behind() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        rig.line(|line| line.reads = 0);
        let answer = pattern(1024);
        for _ in 0..3 {
            rig.say(&answer);
            assert_eq!(rig.got(64 * 1024), answer);
        }
        assert_eq!(rig.line(|line| line.reads), 3);
        assert!(rig.read(1024).is_pending());
        assert_eq!(rig.stream.held(), 0);
    }
}

#[test]
fn all_records_of_one_read_are_handed_over_together() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        rig.line(|line| line.reads = 0);
        let body = pattern(40 * 1024);
        for piece in body.chunks(1000) {
            rig.say(piece);
        }
        assert_eq!(rig.got(64 * 1024), body);
        assert_eq!(rig.line(|line| line.reads), 1);
    }
}

#[test]
fn a_large_body_takes_one_read_for_64_kib() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    rig.line(|line| line.reads = 0);
    let body = pattern(300 * 1024);
    rig.say(&body);
    let mut got = Vec::new();
    while got.len() < body.len() {
        got.extend(rig.got(64 * 1024));
        assert!(rig.stream.held() < 20 * 1024, "no more than an incomplete record is kept");
    }
    assert!(got == body);
    assert!(rig.line(|line| line.reads) <= 6, "{}", rig.line(|line| line.reads));
    assert_eq!(rig.stream.held(), 0);
}

#[test]
fn records_may_be_cut_at_every_byte() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        let mut cut = 0;
        loop {
            let mut wire = rig.spoken(b"the first record");
            wire.extend(rig.spoken(b", the second"));
            if cut > wire.len() {
                break;
            }
            let mut got = Vec::new();
            rig.deliver(&wire[..cut]);
            if let Poll::Ready(result) = rig.read(1024) {
                got.extend(result.unwrap());
            }
            rig.deliver(&wire[cut..]);
            if let Poll::Ready(result) = rig.read(1024) {
                got.extend(result.unwrap());
            }
            assert_eq!(String::from_utf8(got).unwrap(), "the first record, the second", "cut at {cut}");
            assert_eq!(rig.stream.held(), 0);
            cut += 1;
        }
        assert!(cut > 60);
    }
}

#[test]
fn a_small_buffer_gets_everything_piece_by_piece() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        let body = pattern(50 * 1024);
        rig.say(&body);
        let mut got = Vec::new();
        while got.len() < body.len() {
            let piece = rig.got(7);
            assert!(!piece.is_empty() && piece.len() <= 7);
            got.extend(piece);
            assert!(rig.stream.held() < 64 * 1024);
        }
        assert!(got == body);
        assert!(rig.read(7).is_pending());
        assert_eq!(rig.stream.held(), 0);
        assert_eq!(rig.got_nothing(), Vec::<u8>::new());
    }
}

impl Rig {
    /// What a reader without room gets.
    fn got_nothing(&mut self) -> Vec<u8> {
        self.got(0)
    }
}

#[test]
fn the_announced_end_is_the_end_and_a_bare_one_is_an_error() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        rig.say(b"last words");
        rig.server.send_close_notify();
        let farewell = outgoing(&mut rig.server);
        rig.deliver(&farewell);
        rig.line(|line| line.eof = true);
        assert_eq!(rig.got(1024), b"last words");
        for _ in 0..3 {
            assert_eq!(rig.got(1024), b"");
        }

        let mut rig = Rig::new(version);
        rig.say(b"last words");
        rig.line(|line| line.eof = true);
        assert_eq!(rig.got(1024), b"last words");
        for _ in 0..3 {
            assert_eq!(rig.read_error().kind(), io::ErrorKind::UnexpectedEof);
        }

        let mut rig = Rig::new(version);
        let wire = rig.spoken(b"half a record");
        rig.deliver(&wire[..wire.len() - 1]);
        rig.line(|line| line.eof = true);
        assert_eq!(rig.read_error().kind(), io::ErrorKind::UnexpectedEof);
        // It is the peer's half that is gone.
        assert_eq!(rig.wrote(b"well"), 4);
    }
}

#[test]
fn tickets_alone_are_no_data_and_let_the_next_connection_resume() {
    let ca = Ca::new();
    for version in VERSIONS {
        let (client, server) = (ca.client(), server_of(&ca, version));
        // A read for every few bytes, so that tickets are cut too.
        let mut rig = Rig::shaken(&client, &server, 3, b"").unwrap();
        assert!(rig.read(1024).is_pending());
        assert!(rig.line(|line| line.reader.is_some()), "woken by what comes next");
        assert_eq!(rig.stream.held(), 0);
        assert_eq!(rig.server.handshake_kind(), Some(HandshakeKind::Full));
        let rig = Rig::shaken(&client, &server, usize::MAX, b"").unwrap();
        assert_eq!(rig.server.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let ca = Ca::new();
    let greeting = pattern(20_000);
    for version in VERSIONS {
        for step in [1, 17, 5_000, usize::MAX] {
            let mut rig = Rig::shaken(&ca.client(), &server_of(&ca, version), step, &greeting).unwrap();
            let mut got = Vec::new();
            while let Poll::Ready(result) = rig.read(4096) {
                got.extend(result.unwrap());
            }
            assert!(got == greeting, "{} bytes in steps of {step}", got.len());
        }
    }
}

#[test]
fn new_keys_are_taken_and_answered() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    for round in 0..3 {
        rig.server.refresh_traffic_keys().unwrap();
        let update = outgoing(&mut rig.server);
        rig.deliver(&update);
        assert!(rig.read(1024).is_pending());
        rig.say(b"under the new key");
        assert_eq!(rig.got(1024), b"under the new key");

        rig.line(|line| line.sent.clear());
        assert_eq!(rig.wrote(b"under ours"), 10);
        // RFC 8446 section 4.6.3: our own update goes in front of the next data. It is one byte in a message with four
        // of header, a content type and a tag.
        let sent = rig.line(|line| super::line::records(&line.sent));
        assert_eq!(sent, [5 + 4 + 1 + 1 + 16, 5 + 10 + 1 + 16], "round {round}");
        assert_eq!(rig.heard(), b"under ours");
    }
}

#[test]
fn a_broken_record_fails_what_follows_and_the_peer_is_told() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        let mut wire = rig.spoken(b"good");
        let good = wire.len();
        wire.extend(rig.spoken(b"bad, and full of secrets"));
        wire[good + 15] ^= 1;
        wire.extend(rig.spoken(b"never seen"));
        rig.deliver(&wire);
        assert_eq!(rig.got(1024), b"good");
        for _ in 0..3 {
            let error = rig.read_error();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(error.to_string(), "the peer broke the rules of TLS");
        }
        assert!(matches!(rig.write(&[b"more"]), Poll::Ready(Err(_))));
        assert!(matches!(rig.flush(), Poll::Ready(Err(_))));
        let sent = rig.line(|line| std::mem::take(&mut line.sent));
        let told = serve(&mut rig.server, &sent).unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        assert!(matches!(rig.shutdown(), Poll::Ready(Ok(()))));
        assert!(rig.line(|line| line.shut));
    }
}

#[test]
fn something_else_than_tls_is_refused_without_being_quoted() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    rig.deliver(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let error = rig.read_error();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(!format!("{error} {error:?}").contains("HTTP"));
}

#[test]
fn an_alert_is_named() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        serve(&mut rig.server, &[23, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap_err();
        let alert = outgoing(&mut rig.server);
        rig.deliver(&alert);
        let error = rig.read_error();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "the peer ended the connection with the alert BadRecordMac");
        assert!(matches!(rig.write(&[b"more"]), Poll::Ready(Err(_))));
    }
}

#[test]
fn a_certificate_that_is_refused_is_refused_aloud() {
    let ca = Ca::new();
    for version in VERSIONS {
        for step in [1, usize::MAX] {
            let refused = Rig::shaken(&Ca::new().client(), &server_of(&ca, version), step, b"");
            assert!(matches!(refused.err(), Some(HandshakeError::Certificate(_))));
        }
    }
}

#[test]
fn a_connection_costs_little_beside_what_rustls_needs() {
    let ours = size_of::<ClientStream<()>>() - size_of::<rustls::client::UnbufferedClientConnection>();
    assert!(ours <= 160, "{ours} bytes");
}
