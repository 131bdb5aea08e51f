//! The table of `demo --once`.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::Value;

use super::sample::{Connection, Row};
use crate::cli::Failure;

/// What Sidekey added to each request, from its own access lines: the time until the answer's head was passed on, less
/// the wait for the upstream. The first request of a connection, so loading its credential is in it.
pub(super) fn added_microseconds(
    captured: &Receiver<Vec<u8>>,
    connections: &[Connection],
) -> Result<HashMap<String, u64>, Failure> {
    let mut added = HashMap::new();
    while added.len() < connections.len() {
        let lines = captured
            .recv_timeout(Duration::from_secs(5))
            .map_err(|_| Failure::Failed("the access log did not tell of every request".to_owned()))?;
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap_or_default();
            if let (Some(key), Some(time)) = (line["connection"].as_str(), line["added_us"].as_u64()) {
                added.insert(key.to_owned(), time);
            }
        }
    }
    Ok(added)
}

/// One line for each request.
pub(super) fn render(rows: &[Row], added: &HashMap<String, u64>) -> String {
    let mut text = format!(
        "{:<11} {:<29} {:<7} {:>9}  {}\n",
        "connection", "injection", "status", "added µs", "what the upstream saw"
    );
    for row in rows {
        let time = added.get(row.key).map(u64::to_string).unwrap_or_default();
        let saw = if row.as_expected { row.saw.clone() } else { format!("NOT AS EXPECTED: {}", row.saw) };
        let _infallible = writeln!(text, "{:<11} {:<29} {:<7} {time:>9}  {saw}", row.key, row.what, row.status);
    }
    text
}
