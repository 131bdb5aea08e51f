//! Whole transfers: through narrow pipes with real wakers, and in random pieces.

use std::task::Poll;
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_oneof, proptest};
use proptest::test_runner::Config;
use rustls::SupportedProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio_rustls::TlsAcceptor;

use super::super::Offer;
use super::super::pki::Ca;
use super::line::{Rig, VERSIONS, hear, outgoing, pattern, server_of};

/// Far more than a transfer takes; a lost wakeup would last for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends `bulk` both ways at once through a pipe of `width` bytes and ends both directions.
async fn transfer(version: &'static SupportedProtocolVersion, width: usize, bulk: &[u8]) {
    let ca = Ca::new();
    let (near, far) = duplex(width);
    let client = ca.client();
    let acceptor = TlsAcceptor::from(server_of(&ca, version));
    // Each end in one piece: a server that still sends tickets has accepted only when the client reads them.
    let ask = async {
        let (stream, _) = client.connect(near, "api.test", Offer::Http1).await.unwrap();
        exchange(stream, bulk).await
    };
    let answer = async { exchange(acceptor.accept(far).await.unwrap(), bulk).await };
    let both = async { tokio::join!(ask, answer) };
    let (back, there) = tokio::time::timeout(PATIENCE, both).await.expect("nobody is woken any more");
    assert!(there == bulk && back == bulk);
}

/// Sends `bulk` and the end while receiving everything until the peer's.
async fn exchange<S: AsyncRead + AsyncWrite>(stream: S, bulk: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = split(stream);
    let send = async {
        writer.write_all(bulk).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, result) = tokio::join!(send, reader.read_to_end(&mut received));
    result.unwrap();
    received
}

#[tokio::test]
async fn bulk_goes_both_ways_through_a_pipe_of_any_width() {
    for version in VERSIONS {
        transfer(version, 5, &pattern(40_000)).await;
        transfer(version, 1_000, &pattern(300_000)).await;
        transfer(version, 1 << 20, &pattern(1_000_000)).await;
    }
}

#[tokio::test]
async fn halves_in_two_tasks_do_not_lose_each_others_wakeups() {
    let ca = Ca::new();
    let bulk = pattern(200_000);
    let (near, far) = duplex(16);
    let acceptor = TlsAcceptor::from(server_of(&ca, &rustls::version::TLS13));
    let client = ca.client();
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = split(acceptor.accept(far).await.unwrap());
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let (stream, _) = client.connect(near, "api.test", Offer::Http1).await.unwrap();
    let (mut reader, mut writer) = split(stream);
    let sent = bulk.clone();
    let send = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    let read = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut back)).await;
    read.expect("nobody is woken any more").unwrap();
    send.await.unwrap();
    echo.await.unwrap();
    assert!(back == bulk);
}

#[derive(Debug, Clone)]
enum Step {
    /// The server says so many bytes.
    Say(usize),
    /// So many bytes of what is under way arrive.
    Arrive(usize),
    /// The client reads with so much room.
    Read(usize),
    /// The client writes pieces of these lengths.
    Write(Vec<usize>),
    /// The socket takes so many bytes more.
    Room(usize),
    /// The server asks for new keys, where there is such a thing.
    Rekey,
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![0..40_usize, 0..3_000_usize, 0..70_000_usize];
    prop_oneof![
        size().prop_map(Step::Say),
        size().prop_map(Step::Arrive),
        size().prop_map(Step::Read),
        prop::collection::vec(size(), 1..5).prop_map(Step::Write),
        size().prop_map(Step::Room),
        proptest::strategy::Just(Step::Rekey),
    ]
}

/// Both directions of a connection, and what each should have brought.
struct Course {
    rig: Rig,
    under_way: Vec<u8>,
    said: Vec<u8>,
    read: Vec<u8>,
    written: Vec<u8>,
    heard: Vec<u8>,
}

impl Course {
    fn take(&mut self, step: Step) {
        match step {
            Step::Say(count) => {
                let words = pattern(self.said.len() + count).split_off(self.said.len());
                self.under_way.extend(self.rig.spoken(&words));
                self.said.extend(words);
            }
            Step::Arrive(count) => {
                let count = count.min(self.under_way.len());
                let arriving: Vec<u8> = self.under_way.drain(..count).collect();
                self.rig.deliver(&arriving);
            }
            Step::Read(room) => {
                if let Poll::Ready(result) = self.rig.read(room) {
                    let got = result.unwrap();
                    assert!(room == 0 || !got.is_empty(), "no end was announced");
                    self.read.extend(got);
                }
            }
            Step::Write(lengths) => {
                let total: usize = lengths.iter().sum();
                let words = pattern(self.written.len() + total).split_off(self.written.len());
                let mut rest = words.as_slice();
                let slices: Vec<&[u8]> = lengths
                    .iter()
                    .map(|length| {
                        let (slice, behind) = rest.split_at(*length);
                        rest = behind;
                        slice
                    })
                    .collect();
                if let Poll::Ready(result) = self.rig.write(&slices) {
                    self.written.extend(&words[..result.unwrap()]);
                }
            }
            Step::Room(room) => self.rig.line(|line| line.room = room),
            Step::Rekey => {
                // Refused by TLS 1.2, which has no such message.
                if self.rig.server.refresh_traffic_keys().is_ok() {
                    self.under_way.extend(outgoing(&mut self.rig.server));
                }
            }
        }
        self.listen();
    }

    fn listen(&mut self) {
        let sent = std::mem::take(&mut self.rig.line.borrow_mut().sent);
        self.heard.extend(hear(&mut self.rig.server, &sent));
        self.under_way.extend(outgoing(&mut self.rig.server));
    }

    /// Lets everything arrive.
    fn finish(&mut self) {
        self.take(Step::Room(usize::MAX));
        assert!(self.rig.flush().is_ready());
        self.listen();
        self.take(Step::Arrive(usize::MAX));
        while let Poll::Ready(result) = self.rig.read(10_000) {
            self.read.extend(result.unwrap());
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 48, ..Config::default() })]

    #[test]
    fn any_pieces_make_the_same_whole(new in any::<bool>(), steps in prop::collection::vec(step(), 1..60)) {
        let rig = Rig::new(VERSIONS[usize::from(new)]);
        let nothing = Vec::new;
        let mut course = Course {
            rig, under_way: nothing(), said: nothing(), read: nothing(), written: nothing(), heard: nothing(),
        };
        for step in steps {
            course.take(step);
        }
        course.finish();
        prop_assert!(course.read == course.said);
        prop_assert!(course.heard == course.written);
        prop_assert!(course.rig.stream.held() == 0);
    }
}
