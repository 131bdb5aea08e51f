//! What a writer may rely on while the socket takes everything, little or nothing.

use std::io;
use std::task::Poll;

use super::line::{Rig, VERSIONS, outgoing, pattern, records, waker};

#[test]
fn a_write_is_one_write_to_the_socket() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        let body = pattern(100 * 1024);
        assert_eq!(rig.wrote(&body), 64 * 1024, "not more than is encrypted at once");
        assert_eq!(rig.line(|line| line.writes), 1);
        assert_eq!(rig.wrote(&body[64 * 1024..]), 36 * 1024);
        assert_eq!(rig.line(|line| line.writes), 2);
        assert_eq!(rig.stream.held(), 0);
        assert!(rig.heard() == body);
        assert_eq!(rig.wrote(b""), 0);
        assert_eq!(rig.line(|line| line.writes), 2);
    }
}

#[test]
fn small_pieces_share_a_record_and_large_ones_fill_theirs() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    let record = |plain: usize| 5 + plain + 1 + 16;
    let body = pattern(64 * 1024);
    let cases: [(&[&[u8]], &[usize]); 5] = [
        (&[b"head", b"", b"body"], &[record(8)]),
        (&[b"frame", &body[..16_384]], &[record(16_384), record(5)]),
        (&[&body[..16_390], b"tail"], &[record(16_384), record(10)]),
        (&[b"a", &body[..20_000], b"b", &body[..13_000]], &[record(16_384), record(16_384), record(234)]),
        (&[b"", b""], &[]),
    ];
    for (slices, expected) in cases {
        rig.line(|line| line.writes = 0);
        let whole = slices.concat();
        assert!(matches!(rig.write(slices), Poll::Ready(Ok(count)) if count == whole.len()));
        assert_eq!(rig.line(|line| line.writes), usize::from(!whole.is_empty()));
        assert_eq!(rig.line(|line| records(&line.sent)), expected);
        assert!(rig.heard() == whole);
    }
    // The piece in which 64 KiB are reached is taken in part.
    let slices: [&[u8]; 3] = [b"frame", &body, b"never"];
    assert!(matches!(rig.write(&slices), Poll::Ready(Ok(count)) if count == 64 * 1024));
    assert!(rig.heard() == slices.concat()[..64 * 1024]);
}

#[test]
fn nothing_more_is_taken_while_the_socket_is_full() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        rig.line(|line| line.room = 10);
        assert_eq!(rig.wrote(b"taken, though only its beginning is sent"), 40);
        let held = rig.stream.held();
        for _ in 0..3 {
            assert!(rig.write(&[b" not yet"]).is_pending());
            assert!(rig.flush().is_pending());
        }
        assert!(rig.line(|line| line.writer.take()).is_some_and(|writer| writer.will_wake(&rig.waker)));
        assert_eq!(rig.stream.held(), held);
        rig.line(|line| line.room = 11);
        assert!(rig.flush().is_pending());
        assert!(rig.line(|line| line.writer.is_some()), "woken again");
        rig.line(|line| line.room = usize::MAX);
        assert!(matches!(rig.flush(), Poll::Ready(Ok(()))));
        assert_eq!(rig.stream.held(), 0);
        assert_eq!(rig.wrote(b" now"), 4);
        assert_eq!(rig.heard(), b"taken, though only its beginning is sent now");
    }
}

#[test]
fn a_full_socket_keeps_a_bounded_number_of_bytes() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    rig.line(|line| line.room = 0);
    let body = pattern(1024 * 1024);
    assert_eq!(rig.wrote(&body), 64 * 1024);
    assert!(rig.write(&[&body]).is_pending());
    assert!(rig.stream.held() < 66 * 1024);
}

#[test]
fn a_reader_sends_what_was_kept() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    rig.line(|line| line.room = 10);
    assert_eq!(rig.wrote(b"a question"), 10);
    assert!(rig.read(1024).is_pending());
    assert!(rig.line(|line| line.writer.is_some() && line.reader.is_some()));
    rig.line(|line| line.room = usize::MAX);
    assert!(rig.read(1024).is_pending());
    assert_eq!(rig.heard(), b"a question");
}

#[test]
fn a_reader_does_not_take_the_place_of_a_writer_that_waits() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    rig.line(|line| line.room = 10);
    assert_eq!(rig.wrote(b"a question"), 10);
    assert!(rig.flush().is_pending());
    assert!(rig.read_as(&waker(), 1024).is_pending());
    assert!(rig.line(|line| line.writer.take()).is_some_and(|writer| writer.will_wake(&rig.waker)));
}

#[test]
fn a_socket_that_breaks_under_a_writer_still_gives_the_answer() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        rig.say(b"413, and goodbye");
        rig.line(|line| line.room = 0);
        assert_eq!(rig.wrote(b"kept"), 4);
        rig.line(|line| line.broken = true);
        assert_eq!(rig.got(1024), b"413, and goodbye");
        for _ in 0..2 {
            assert!(
                matches!(rig.write(&[b"more"]), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe)
            );
            assert!(rig.flush().map_err(|error| error.kind()) == Poll::Ready(Err(io::ErrorKind::BrokenPipe)));
        }
        assert_eq!(rig.stream.held(), 0);

        let mut rig = Rig::new(version);
        rig.line(|line| line.broken = true);
        let failed = rig.write(&[b"more"]).map_err(|error| error.kind());
        assert!(matches!(failed, Poll::Ready(Err(io::ErrorKind::ConnectionReset))));
    }
}

#[test]
fn shutdown_sends_what_is_kept_says_goodbye_and_leaves_reading_open() {
    for version in VERSIONS {
        let mut rig = Rig::new(version);
        rig.line(|line| line.room = 10);
        assert_eq!(rig.wrote(b"a question"), 10);
        assert!(rig.shutdown().is_pending());
        assert!(rig.line(|line| line.writer.is_some() && !line.shut));
        assert!(matches!(rig.write(&[b"more"]), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
        rig.line(|line| line.room = usize::MAX);
        for _ in 0..2 {
            assert!(matches!(rig.shutdown(), Poll::Ready(Ok(()))));
            assert!(rig.line(|line| line.shut));
        }
        assert_eq!(rig.line(|line| records(&line.sent)).len(), 2, "the data and one close_notify");
        assert_eq!(rig.heard(), b"a question");
        assert!(rig.server.process_new_packets().unwrap().peer_has_closed());

        rig.say(b"the answer");
        assert_eq!(rig.got(1024), b"the answer");
        rig.server.send_close_notify();
        let farewell = outgoing(&mut rig.server);
        rig.deliver(&farewell);
        assert_eq!(rig.got(1024), b"");
    }
}

#[test]
fn after_the_peers_end_there_is_still_writing_and_an_end_of_our_own() {
    let mut rig = Rig::new(&rustls::version::TLS13);
    rig.server.send_close_notify();
    let farewell = outgoing(&mut rig.server);
    rig.deliver(&farewell);
    assert_eq!(rig.got(1024), b"");
    assert_eq!(rig.wrote(b"one more thing"), 14);
    assert!(matches!(rig.shutdown(), Poll::Ready(Ok(()))));
    assert_eq!(rig.got(1024), b"");
    assert_eq!(rig.heard(), b"one more thing");
    assert!(rig.server.process_new_packets().unwrap().peer_has_closed());
}
