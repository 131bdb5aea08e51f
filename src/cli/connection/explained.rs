//! What would become of a request, for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::show::text;

/// The verdict first, then what decided, what would be put in, and what is left of each limit.
pub(super) fn render(explanation: &Value) -> String {
    let mut told = String::new();
    let line = |told: &mut String, text: String| {
        told.push_str(text.trim_end());
        told.push('\n');
    };
    line(&mut told, format!("{} {}", text(&explanation["method"]), text(&explanation["url"])));
    let refusal = &explanation["refusal"];
    line(
        &mut told,
        match refusal.is_object() {
            false => "would be sent".to_owned(),
            true => format!(
                "would be refused: {} {}: {}",
                text(&refusal["status"]),
                text(&refusal["code"]),
                text(&refusal["detail"])
            ),
        },
    );
    section(&mut told, "decided", &explanation["decisions"], |decision| {
        let verdict = if decision["passed"] == true { "ok      " } else { "REFUSED " };
        format!("{verdict}{:<12} {}", text(&decision["about"]), text(&decision["rule"]))
    });
    section(&mut told, "put in, masked", &explanation["injections"], |injection| {
        format!("{:<7} {}: {}", text(&injection["in"]), text(&injection["name"]), text(&injection["value"]))
    });
    section(&mut told, "limits", &explanation["limits"], |limit| {
        format!(
            "{:<12} {} left of {} in {} s",
            text(&limit["of"]),
            text(&limit["left"]),
            text(&limit["requests"]),
            text(&limit["seconds"])
        )
    });
    for (name, what) in [("credential_expires_at", "the credential"), ("key_expires_at", "the key")] {
        if !explanation[name].is_null() {
            let _infallible = writeln!(told, "{what} is of use until {}", text(&explanation[name]));
        }
    }
    told
}

fn section(told: &mut String, title: &str, items: &Value, show: impl Fn(&Value) -> String) {
    let items = items.as_array().map_or(&[][..], Vec::as_slice);
    if !items.is_empty() {
        let _infallible = writeln!(told, "{title}:");
        for item in items {
            let _infallible = writeln!(told, "  {}", show(item).trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_verdict_comes_first_and_then_its_reasons() {
        let explanation = json!({
            "method": "POST", "url": "https://api.example.test/a",
            "refusal": { "status": 403, "code": "not_permitted", "detail": "no" },
            "decisions": [{ "about": "connection", "passed": true, "rule": "\u{1b}x" }, { "about": "method", "passed": false, "rule": "GET only" }],
            "injections": [], "limits": [{ "of": "key", "requests": 60, "seconds": 60, "left": 59 }],
            "credential_expires_at": null, "key_expires_at": "2030-01-01T00:00:00.000Z",
        });
        let expected = "POST https://api.example.test/a\nwould be refused: 403 not_permitted: no\ndecided:\n  \
                        ok      connection   \\u{1b}x\n  REFUSED method       GET only\nlimits:\n  \
                        key          59 left of 60 in 60 s\nthe key is of use until 2030-01-01T00:00:00.000Z\n";
        assert_eq!(render(&explanation), expected);
    }
}
