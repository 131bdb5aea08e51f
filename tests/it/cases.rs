//! Which of the attack and fault cases are tests, and why the others are not due. Where they are is counted in the
//! sources themselves: a test has the ids of its cases in its name or beside it.

use std::collections::BTreeSet;
use std::path::Path;

/// Every case of the wires (framing, injection, leaks, overload) and of the control plane (tenancy, keys, secrets, store,
/// cache, limits, admin).
const CASES: [(&str, &[u8]); 14] = [
    (
        "H1",
        &[
            1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 17, 18, 21, 22, 23, 24, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36,
            37, 38, 39, 41, 43, 45, 46, 47, 48, 50, 52, 53, 54, 55, 56, 57, 59, 60, 61,
        ],
    ),
    ("H2", &[1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 17, 18, 19, 20, 22]),
    ("HBH", &[2, 5, 6, 7, 8, 11, 13]),
    ("HI", &[1, 2, 4, 6, 7, 8, 10, 11, 13, 14]),
    ("CO", &[1, 2, 3, 4, 5, 7, 8, 10]),
    ("LK", &[1, 6, 7, 9, 10, 13, 14, 15, 16, 17, 19, 20]),
    ("OV", &[1, 2, 4, 5, 6, 7, 8, 11, 13, 14, 15, 16, 18, 22]),
    ("TN", &[1, 2, 6, 7, 8, 10, 11, 12]),
    ("AK", &[1, 2, 4, 5, 7, 10, 11]),
    ("SE", &[3, 5, 8, 10]),
    ("ST", &[1, 2, 3, 4, 5, 6, 8, 11, 13, 14, 17, 19]),
    ("CA", &[3, 4, 5, 7, 8]),
    ("RL", &[1, 3, 4, 6, 8, 9, 10, 11]),
    // Beside them what is done once for its key, the fifteenth.
    ("AD", &[2, 3, 4, 5, 7, 8, 9, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22]),
];

/// Cases that need what is not there, or what no test has at hand.
const NOT_DUE: [(&str, &str); 11] = [
    ("H1-61", "the lists are others' works: what they teach is typed in as rows of framing_*, and the fuzzers go on"),
    ("H2-01", "HTTP/2 with prior knowledge is served on purpose, and held to the other cases of HTTP/2"),
    ("H2-19", "h2spec is in no registry that a clean checkout may install from"),
    ("CO-10", "there is no method that signs requests yet"),
    ("LK-14", "reading another process's memory takes rights that no test has"),
    ("LK-17", "there is no setting yet that demands an audit event of every use"),
    ("OV-16", "a test has no control group to bound its memory by; what is held is bounded in OV-11"),
    ("OV-22", "a day's soak is longer than a suite may take"),
    ("CA-08", "a vault is one process's, so no notification between processes can be lost"),
    ("AD-18", "there are no webhooks, notifications or exporters; token endpoints are among the cases of OAuth2"),
    ("AD-20", "a vault is open from the start or the server does not start: there is no sealed state to ask"),
];

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("cases.rs") {
            found.push(std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// The ids in a text: `AD-07` in a comment, `ad_07` in a name.
fn ids(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (kind, _) in CASES {
        for (written, before) in [(format!("{kind}-"), ""), (format!("{}_", kind.to_lowercase()), "_ ")] {
            for (at, _) in text.match_indices(&written) {
                let digits = &text[at + written.len()..];
                let is_whole = digits.len() > 2 && !digits.as_bytes()[2].is_ascii_digit();
                let starts = before.is_empty() || text[..at].ends_with(|c| before.contains(c));
                if let (true, true, Ok(number)) = (is_whole, starts, digits.get(..2).unwrap_or_default().parse::<u8>())
                {
                    found.insert(format!("{kind}-{number:02}"));
                }
            }
        }
    }
    found
}

#[test]
fn every_case_is_a_test_or_is_not_due() {
    let mut texts = Vec::new();
    for folder in ["src", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut texts);
    }
    let tested: BTreeSet<String> = texts.iter().flat_map(|text| ids(text)).collect();
    let named =
        CASES.iter().flat_map(|(kind, numbers)| numbers.iter().map(move |number| format!("{kind}-{number:02}")));
    for case in named {
        let waits = NOT_DUE.iter().find(|(not_due, _)| *not_due == case);
        match (tested.contains(&case), waits) {
            (true, None) | (false, Some(_)) => {}
            (true, Some((_, why))) => panic!("{case} is a test, and is said not to be due: {why}"),
            (false, None) => panic!("{case} is no test, and nobody says why"),
        }
    }
}

#[test]
fn ids_are_found_in_names_and_in_comments() {
    let text = "/// AD-07, TN-01\nfn it_holds_ak_11() {} fn rl_01_first() { bad_12; AD-123 }";
    let found: Vec<String> = ids(text).into_iter().collect();
    assert_eq!(found, ["AD-07", "AK-11", "RL-01", "TN-01"]);
}
