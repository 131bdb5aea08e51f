//! What of a line may be shown beneath a mistake.
//!
//! A configuration may hold secrets in places nobody foresaw: pasted into a wrong key, into a URL, into a comment. So
//! a line is shown with every value covered by `*`, but for values of the settings listed here, which are none.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Tables and lists that hold showable settings.
const CONTAINERS: &[&str] = &[
    "admin",
    "auth",
    "cache",
    "fields",
    "inject",
    "integration",
    "limit",
    "listeners",
    "log",
    "master_key",
    "proxy",
    "test",
    "timeouts",
    "tls",
    "upstream",
    "vault",
    "connection",
];

/// Settings whose values are no secrets, wherever they stand.
const SHOWN: &[&str] = &[
    "access",
    "address",
    "allow_networks",
    "allow_origins",
    "any_mode",
    "auth",
    "body_buffer",
    "body_idle_timeout",
    "burst",
    "ca_files",
    "certificate",
    "client_ca",
    "connect",
    "connect_timeout",
    "connection",
    "connection_headers",
    "connections",
    "customer",
    "customer_fallback",
    "customers",
    "drain_timeout",
    "enabled",
    "entries",
    "env",
    "environment",
    "environments",
    "explain",
    "fd",
    "file",
    "format",
    "forward_authorization",
    "head_timeout",
    "host_names",
    "idle",
    "idle_timeout",
    "in",
    "integration",
    "integrations_dir",
    "key",
    "kind",
    "level",
    "max_connections",
    "max_requests",
    "method",
    "mode",
    "name",
    "organization",
    "pattern",
    "per_second",
    "plaintext",
    "pool_idle_timeout",
    "pool_max_age",
    "pool_max_idle_per_host",
    "required",
    "resolve_timeout",
    "response",
    "response_timeout",
    "revoke_within",
    "secret",
    "slug",
    "status",
    "threads",
    "time_to_live",
    "tls_timeout",
    "trust",
    "tunnel_idle_timeout",
    "type",
    "usage_interval",
];

/// Whether the value of a setting may be shown, by the names on the way to it.
fn is_shown(path: &[String]) -> bool {
    let names: Vec<&str> = path.iter().map(String::as_str).filter(|name| name.parse::<usize>().is_err()).collect();
    match names.as_slice() {
        ["vault", "path"] | ["upstream", "hosts", _] => true,
        // The name of a source is needed to mend it; the value it leads to is not here.
        ["connection", "credentials", _, _, "env" | "file"] | ["secrets", _, _, "env" | "file"] => true,
        [containers @ .., last] => SHOWN.contains(last) && containers.iter().all(|name| CONTAINERS.contains(name)),
        [] => false,
    }
}

/// What stands where in one text.
#[derive(Default)]
pub(super) struct Layout {
    /// Keys and scalar values in the order of the text, with whether they may be shown.
    tokens: Vec<(Range<usize>, bool)>,
}

impl Layout {
    /// Of a text that was parsed without error.
    pub(super) fn of(table: &DeTable<'_>) -> Self {
        let mut layout = Layout::default();
        layout.add_table(table, &mut Vec::new());
        layout.tokens.sort_by_key(|(span, _)| span.start);
        layout
    }

    fn add_table(&mut self, table: &DeTable<'_>, path: &mut Vec<String>) {
        for (key, value) in table {
            self.tokens.push((key.span(), true));
            path.push(key.get_ref().to_string());
            self.add_value(value, path);
            path.pop();
        }
    }

    fn add_value(&mut self, value: &Spanned<DeValue<'_>>, path: &mut Vec<String>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(table, path),
            DeValue::Array(items) => items.iter().for_each(|item| self.add_value(item, path)),
            _ => self.tokens.push((value.span(), is_shown(path))),
        }
    }

    /// The line at `line` of a parsed text as it may be shown, and where `span` lies in it.
    pub(super) fn line(&self, text: &str, line: Range<usize>, span: Range<usize>) -> (String, Range<usize>) {
        // A value that began above may reach into the line, so begin one token before it.
        let first = self.tokens.partition_point(|(token, _)| token.start < line.start).saturating_sub(1);
        let mut tokens = self.tokens[first..].iter().peekable();
        cover(text, line, span, |at, character| {
            while tokens.next_if(|(token, _)| token.end <= at).is_some() {}
            match tokens.peek() {
                Some((token, shown)) if token.contains(&at) => {
                    if *shown {
                        Shown::Yes
                    } else {
                        Shown::Covered
                    }
                }
                // Outside of keys and values only punctuation stands, and comments, in which anything may.
                _ if character == '#' => Shown::End,
                _ => Shown::Yes,
            }
        })
    }
}

/// The line at `line` of a text that could not be parsed: nobody can tell there what is a value, so all is covered but
/// a table's header or what stands before the first `=`, if it looks like a key.
pub(super) fn broken_line(text: &str, line: Range<usize>, span: Range<usize>) -> (String, Range<usize>) {
    let whole = &text[line.clone()];
    let is_key = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || " \t._-".contains(c));
    let header = whole.trim().trim_start_matches('[').trim_end_matches(']');
    let is_header = whole.trim_start().starts_with('[') && header.len() <= 128 && is_key(header);
    // What looks like a key may be a line of a secret, where a text over several lines was begun or ended badly.
    let may_be_text = text.contains("\"\"\"") || text.contains("'''");
    let shown = match whole.find('=') {
        _ if may_be_text => 0,
        _ if is_header => whole.len(),
        // Base64 ends with one or two of them.
        Some(at) if is_key(&whole[..at]) && !whole[at + 1..].trim_matches('=').trim().is_empty() => at + 1,
        _ => 0,
    };
    let shown = line.start + shown;
    cover(text, line, span, |at, character| {
        let plain = at < shown || character.is_whitespace() || "[]{},\"'".contains(character);
        if plain { Shown::Yes } else { Shown::Covered }
    })
}

/// What becomes of one character.
enum Shown {
    Yes,
    Covered,
    /// Neither it nor what follows.
    End,
}

/// Copies a line, covers what must be covered, and follows where a span goes.
fn cover(
    text: &str,
    line: Range<usize>,
    span: Range<usize>,
    mut judge: impl FnMut(usize, char) -> Shown,
) -> (String, Range<usize>) {
    let mut shown = String::with_capacity(line.len());
    let (mut start, mut end) = (None, None);
    for (offset, character) in text[line.clone()].char_indices() {
        let at = line.start + offset;
        if at >= span.start && start.is_none() {
            start = Some(shown.len());
        }
        if at >= span.end && end.is_none() {
            end = Some(shown.len());
        }
        match judge(at, character) {
            Shown::Yes => shown.push(character),
            Shown::Covered => shown.push('*'),
            Shown::End => break,
        }
    }
    let kept = shown.trim_end().len();
    let start = start.unwrap_or(kept).min(kept);
    let end = end.unwrap_or(kept).clamp(start, kept.max(start));
    shown.truncate(kept);
    (shown, start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let table = DeTable::parse(text).unwrap();
        let layout = Layout::of(table.get_ref());
        layout.line(text, 0..text.find('\n').unwrap_or(text.len()), 0..1).0
    }

    #[test]
    fn only_values_known_to_be_harmless_are_shown() {
        assert_eq!(shown("proxy = { threads = 0, token = 'canary' }"), "proxy = { threads = 0, token = ******** }");
        assert_eq!(shown("log.level = 'loud' # canary"), "log.level = 'loud'");
        assert_eq!(shown("vault.master_key = 'canary'"), "vault.master_key = ********");
        assert_eq!(shown("vault.master_key = { file = 'k' }"), "vault.master_key = { file = 'k' }");
        assert_eq!(
            shown("connection = [{ credentials.production = { a = { env = 'A' }, b = 'canary' } }]"),
            "connection = [{ credentials.production = { a = { env = 'A' }, b = ******** } }]"
        );
        assert_eq!(
            shown("integration = [{ base_url = 'https://u:canary@h' }]"),
            "integration = [{ base_url = ******************** }]"
        );
        assert_eq!(shown("admin = '''canary\ncanary'''"), "admin = *********");
    }

    #[test]
    fn a_line_that_cannot_be_read_shows_its_key() {
        let shown = |text: &str| broken_line(text, 0..text.len(), 0..1).0;
        assert_eq!(shown("token = \"canary"), "token = \"******");
        assert_eq!(shown("[proxy"), "[proxy");
        assert_eq!(shown("Y2FuYXJ5Cg=="), "************");
        assert_eq!(shown("[\"canary\", = 3]"), "[\"******\", * *]");
    }
}
