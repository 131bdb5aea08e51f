use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::{any, prop_assert_eq, proptest};

use super::super::clock::Clock;
use super::super::request_id::RequestIds;
use super::*;

fn entry() -> Entry<'static> {
    let now = Clock::new().at(Instant::now());
    Entry {
        request_id: RequestIds::default().next(now),
        ended: now,
        caller: "local",
        connection: Named::Nothing,
        workflow: None,
        method: "GET",
        status: None,
        reason: None,
        total: Duration::ZERO,
        upstream_wait: Duration::ZERO,
        added: Duration::ZERO,
        request_bytes: 0,
        response_bytes: 0,
        reused: false,
    }
}

/// A line with everything in it.
fn full<'a>(names: &'a Names) -> Entry<'a> {
    Entry {
        connection: Named::Used { names, environment: "staging", upstream: "files.example.test:8443" },
        workflow: Some("nightly"),
        status: Some(502),
        reason: Some("upstream_truncated"),
        total: Duration::new(3, 14_159_265),
        upstream_wait: Duration::from_micros(7),
        added: Duration::from_nanos(21_999),
        request_bytes: u64::MAX,
        response_bytes: 100,
        reused: true,
        ..entry()
    }
}

fn names() -> Names {
    Names::new("stripe", "conn_1", Some("acme"))
}

fn json(entry: &Entry<'_>) -> String {
    let mut lines = Vec::new();
    write_json(&mut lines, &mut Head::new(), entry);
    String::from_utf8(lines).unwrap()
}

fn human(entry: &Entry<'_>) -> String {
    let mut lines = Vec::new();
    write_human(&mut lines, &mut Head::new(), entry);
    String::from_utf8(lines).unwrap()
}

#[test]
fn lines_are_written_to_the_letter() {
    let names = names();
    let entry = full(&names);
    let (text, id) = (json(&entry), entry.request_id.as_str());
    let (time, rest) = text.strip_prefix("{\"timestamp\":\"").unwrap().split_at(27);
    assert_eq!(
        rest,
        format!(
            "\",\"level\":\"INFO\",\"target\":\"access\",\"request_id\":\"{id}\",\"caller\":\"local\",\
             \"connection\":\"stripe\",\"connection_id\":\"conn_1\",\"environment\":\"staging\",\"customer\":\"acme\",\
             \"workflow\":\"nightly\",\"method\":\"GET\",\"upstream\":\"files.example.test:8443\",\
             \"reason\":\"upstream_truncated\",\"status\":502,\"total_us\":3014159,\"upstream_us\":7,\"added_us\":21,\
             \"request_bytes\":18446744073709551615,\"response_bytes\":100,\"reused\":true}}\n"
        )
    );
    assert_eq!((&time[10..11], &time[19..20], &time[26..]), ("T", ".", "Z"));
    let bare = json(&Entry { connection: Named::Asked("nobody"), ..entry });
    assert!(bare.contains("\"caller\":\"local\",\"connection\":\"nobody\",\"workflow\":"), "{bare}");
    let text = human(&full(&names));
    assert_eq!(
        text[27..text.len() - 31],
        *" GET stripe staging local -> files.example.test:8443 502 3014159us (upstream 7us) \
          18446744073709551615/100 bytes upstream_truncated "
    );
    assert!(human(&self::entry())[27..].starts_with(" GET - - local -> - 0 0us (upstream 0us) 0/0 bytes - req_"));
}

#[test]
fn a_line_is_one_short_json_line_whatever_is_in_it() {
    let hostile = format!("a\x1b[2J\r\n\"\\\u{2028}{}", "x".repeat(100_000));
    let names = Names::new(&hostile, &hostile, Some(&hostile));
    // The environment and the upstream are names that were checked: nothing in them is hostile.
    let used = Named::Used { names: &names, environment: "staging", upstream: "api.test" };
    for connection in [Named::Asked(&hostile), used] {
        let text = json(&Entry { method: &hostile, workflow: Some(&hostile), connection, ..entry() });
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.is_ascii() && text.len() < 8 * 1024 && !text.contains('\x1b') && !text.contains('\r'));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        for member in ["method", "workflow", "connection"] {
            assert!(parsed[member].as_str().unwrap().starts_with("a\x1b[2J\r\n\"\\\u{2028}x"));
        }
    }
}

proptest! {
    #[test]
    fn numbers_are_decimal(number in any::<u64>(), shift in 0..64_u32) {
        let mut numbers = Numbers { text: [0; 256], length: 0 };
        numbers.push(b"", number >> shift);
        let text = String::from_utf8(numbers.text[..numbers.length].to_vec()).unwrap();
        prop_assert_eq!(text, (number >> shift).to_string());
    }
}

#[test]
fn the_head_of_a_line_follows_the_time() {
    let (mut head, mut clock) = (Head::new(), Clock::new());
    let began = Instant::now();
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut last = String::new();
    for after in [0, 1, 999, 1_000_000, 1_000_001] {
        head.set_time(clock.at(began + Duration::from_micros(after)));
        let time = head.time().to_owned();
        assert!(last < time && time.len() == 27, "{last} {time}");
        last = time;
    }
    let mut second = [0; UNTIL_SECOND];
    write_second(&mut second, today.as_secs() + 1);
    let mut next = second;
    write_second(&mut next, today.as_secs() + 2);
    assert!([&second[..], &next].contains(&&last.as_bytes()[..UNTIL_SECOND]), "{last}");
}

/// A sink that stands still until it is let go.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl std::io::Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _released = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_cannot_keep_up_drops_lines_and_counts_them() {
    let metrics = Arc::new(Metrics::default());
    let (release, stuck) = std::sync::mpsc::channel();
    let (log, writer) = AccessLog::start(Stuck(stuck), Format::Json, Arc::clone(&metrics)).unwrap();
    let buffer = log.buffer();
    for _ in 0..WAITING + 10 {
        buffer.write(&entry());
        buffer.flush();
    }
    assert!(metrics.access_lines_dropped.get() >= 8);
    drop((release, buffer, log));
    writer.join();
}
