//! The house rules, read from the sources: ranks, doors, where secrets are exposed, names and sizes.
//!
//! `src/lib.rs` tells the rules to people; this file holds the sources to them. Every rule is also shown a made-up
//! source that breaks it, so that none of them can pass by looking at nothing.

mod broken_on_purpose;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path as FilePath;

use source::{Path, Source};

/// The modules below the crate's root. A module uses only modules of lower ranks, and itself.
const RANKS: [(&str, u8); 15] = [
    ("main", 11),
    ("cli", 10),
    ("server", 9),
    ("config", 8),
    ("admin", 7),
    ("proxy", 6),
    ("credentials", 5),
    ("directory", 4),
    ("vault", 3),
    ("upstream", 3),
    ("wire", 2),
    ("model", 1),
    ("telemetry", 1),
    ("tls", 1),
    ("clock", 0),
];

/// What only some may use although their rank would let more: the module, and who.
const NARROW: [(&str, &[&str]); 1] = [("tls", &["wire", "upstream", "server", "cli"])];

/// What a module uses although its rank would let it use more: it gives settings to rooms and does not know them.
const SEES_ONLY: [(&str, &[&str]); 1] = [("config", &["model", "vault::declared", "telemetry::Format"])];

/// Foreign crates, or parts of them, that have a door: the crate, and the modules that may name it. The rest of the house knows them by
/// what these modules promise.
const DOORS: [(&str, &[&str]); 32] = [
    ("sqlx", &["vault"]),
    ("aes_gcm", &["vault"]),
    ("hmac", &["vault"]),
    ("argon2", &["vault::password"]),
    ("lettre", &["admin::mail"]),
    ("oauth2", &["admin::oidc"]),
    ("jsonwebtoken", &["admin::oidc"]),
    ("utoipa", &["admin"]),
    ("utoipa_axum", &["admin"]),
    ("rustls", &["tls"]),
    ("tokio_rustls", &["tls"]),
    ("webpki_roots", &["tls"]),
    ("rustls_platform_verifier", &["tls"]),
    // The port is the server's; it takes the finished `Router` and serves it.
    ("axum", &["admin", "server::admin_port"]),
    ("tower", &["admin", "server::admin_port"]),
    ("moka", &["directory::cache"]),
    ("hashbrown", &["directory::table", "directory::rate", "vault::declared", "upstream::pool", "proxy::usage"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli::completions"]),
    ("rpassword", &["cli::entered"]),
    ("prometheus_client", &["telemetry"]),
    ("tracing_subscriber", &["telemetry"]),
    ("toml", &["config"]),
    ("annotate_snippets", &["config"]),
    ("regex_lite", &["model::field"]),
    ("rcgen", &["cli::demo"]),
    ("h2", &["upstream"]),
    // What our own parser is compared with, in its tests.
    ("httparse", &["wire::lines"]),
    ("httpdate", &["proxy::http1"]),
    ("arc_swap", &["vault", "tls"]),
    // A worker's runtime keeps no timers; asked for one it would panic.
    ("tokio::time", &["clock"]),
    ("hyper_util::rt::TokioTimer", &["clock"]),
];

/// Crates that nobody has a use for yet: injection templates are the model's own, and limits are the directory's. Whoever
/// brings one in gives it a door above.
const NOWHERE: [&str; 5] = ["minijinja", "governor", "reqwest", "native_tls", "openssl"];

/// Where secrets are taken out of their wrappers: to be sealed or digested, and to be rendered for the wire.
const EXPOSING: [&str; 2] = ["src/vault/seal.rs", "src/credentials/injection.rs"];

/// Files that look at a secret without being a place for it: the file, how many times, and why. One more look in one of
/// them is told too.
const LOOKING: [(&str, usize, &str); 14] = [
    ("src/config/resolve.rs", 1, "a declared value is held to its field's pattern, and told without itself"),
    ("src/config/tests.rs", 2, "a test looks at what it put in"),
    (
        "src/vault/declared.rs",
        2,
        "two readings of a declared value are compared, in constant time, to see what changed",
    ),
    ("src/vault/api_key.rs", 3, "a presented key is digested, and the first one is written to its file"),
    ("src/credentials/oauth/endpoint.rs", 1, "a token goes to the server that gave it out"),
    ("src/admin/api_keys.rs", 1, "a new key is shown, once, to whoever made it"),
    ("src/admin/credentials.rs", 1, "a value is held to its field's pattern before it is stored"),
    ("src/vault/password.rs", 3, "a password is judged, hashed and compared with its hash"),
    ("src/admin/form.rs", 1, "a field of a form that holds no secret is taken out of its wrapper"),
    (
        "src/admin/cookie.rs",
        2,
        "the token of a session goes to its browser, once; a cookie that lets nobody in is none",
    ),
    ("src/admin/people.rs", 1, "a one-time link is shown to whoever asked for it, once"),
    ("src/admin/mail.rs", 1, "the password of the mail account goes to the mail server"),
    ("src/admin/oidc/provider.rs", 1, "the client's secret goes to its token endpoint"),
    ("src/admin/secrets.rs", 1, "the length of a value is checked before it is stored"),
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 12] = [
    "utils", "util", "common", "helpers", "helper", "types", "handlers", "handler", "services", "service", "manager",
    "managers",
];

/// The longest a file may be.
const LONGEST: usize = 500;

/// Something that a rule forbids: where, and what.
type Violations = Vec<String>;

fn is_within(module: &[String], place: &str) -> bool {
    let place: Vec<_> = place.split("::").collect();
    module.len() >= place.len() && module.iter().zip(place).all(|(own, place)| own == place)
}

/// The module below the root that a path leads to, if it is one of ours.
fn own_target(path: &Path) -> Option<&str> {
    let own = matches!(path.segments.first().map(String::as_str), Some("crate" | "sidekey"));
    own.then(|| path.segments.get(1).map_or("", String::as_str))
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

fn is_narrowly_allowed(from: &str, to: &[String]) -> bool {
    NARROW.iter().all(|(narrow, users)| !is_within(to, narrow) || users.contains(&from))
        && SEES_ONLY.iter().all(|(who, seen)| *who != from || seen.iter().any(|place| is_within(to, place)))
}

/// Tests of any rank may set up what they look at: a made-up CA, for example.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
}

/// The rank rule, and the narrower ones.
fn broken_ranks(sources: &[Source]) -> Violations {
    let mut broken = Violations::new();
    for source in sources {
        let module = source.module();
        let from = module.first().map_or("", String::as_str);
        let own_rank = rank(from);
        if own_rank.is_none() && !from.is_empty() {
            broken.push(format!("{}: the module `{from}` has no rank", source.path));
        }
        for path in source.read().paths {
            let Some(to) = own_target(&path) else { continue };
            let place = format!("{}:{}", source.path, path.line);
            let to_rank = rank(to);
            if to_rank.is_none() {
                broken.push(format!("{place}: `{}` leads to no module with a rank", path.segments.join("::")));
            } else if to != from && own_rank <= to_rank {
                broken.push(format!("{place}: `{from}` may not use `{to}`, which does not rank below it"));
            } else if to != from && !is_narrowly_allowed(from, &path.segments[1..]) && !is_test_file(&source.path) {
                broken.push(format!("{place}: `{from}` is not among those who may use `{to}`, or not this of it"));
            }
        }
    }
    broken
}

/// The modules, with their inner ones, that are compiled for tests only.
fn test_modules(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let declared = sources.iter().flat_map(|source| source.read().modules);
    declared.filter(|declared| declared.in_tests).map(|declared| declared.module).collect()
}

/// What tests may name too: certificates are made for them, and they have timers of their own runtime.
const IN_TESTS: [&str; 2] = ["rcgen", "tokio::time"];

/// The one-door rule.
fn broken_doors(sources: &[Source]) -> Violations {
    let tests = test_modules(sources);
    let mut broken = Violations::new();
    for source in sources {
        let module = source.module();
        let in_test_file = (1..=module.len()).any(|length| tests.contains(&module[..length]));
        for path in source.read().paths {
            let Some(first) = path.segments.first() else { continue };
            let place = format!("{}:{}", source.path, path.line);
            if NOWHERE.contains(&first.as_str()) {
                broken.push(format!("{place}: `{first}` has no door"));
            }
            let mut doors = DOORS.iter().filter(|(door, _)| is_within(&path.segments, door));
            let Some((door, allowed)) = doors.next() else { continue };
            let for_tests = IN_TESTS.contains(door) && (path.in_tests || in_test_file);
            if !for_tests && !allowed.iter().any(|place| is_within(&module, place)) {
                broken.push(format!("{place}: only {} may know `{door}`", allowed.join(" and ")));
            }
        }
    }
    broken
}

/// Secrets leave their wrappers in the named files only, and there as often as is said. Bringing the trait into scope,
/// under whatever name, is as good as a call.
fn broken_seals(sources: &[Source]) -> Violations {
    let mut broken = Violations::new();
    for source in sources.iter().filter(|source| !EXPOSING.contains(&source.path.as_str())) {
        let (calls, imports) = exposures(source);
        let declared = LOOKING.iter().find(|(path, ..)| *path == source.path).map_or(0, |(_, calls, _)| *calls);
        if calls.len() > declared || declared == 0 && !imports.is_empty() {
            let lines: Vec<_> = calls.iter().chain(&imports).map(ToString::to_string).collect();
            broken.push(format!("{}:{}: exposes a secret, {declared} times is declared", source.path, lines.join(",")));
        }
    }
    broken
}

/// The lines with `expose_secret`, and those with the trait it belongs to.
fn exposures(source: &Source) -> (Vec<usize>, Vec<usize>) {
    let tokens = source.tokens();
    let lines = |word: &str| tokens.iter().filter(|token| token.text == word).map(|token| token.line).collect();
    (lines("expose_secret"), lines("ExposeSecret"))
}

/// Words that stay out of sources.
fn broken_words(sources: &[Source]) -> Violations {
    let mut broken = Violations::new();
    for source in sources {
        let tokens = source.tokens();
        for (at, token) in tokens.iter().enumerate() {
            let is_macro = tokens.get(at + 1).is_some_and(|next| next.text == "!");
            let forbidden = match token.text.as_str() {
                "unsafe" => true,
                "todo" | "dbg" | "unimplemented" => is_macro,
                _ => false,
            };
            if forbidden {
                broken.push(format!("{}:{}: `{}`", source.path, token.line, token.text));
            }
        }
    }
    broken
}

/// Files are short, and modules are called what they are.
fn broken_shapes(sources: &[Source]) -> Violations {
    let mut broken = Violations::new();
    for source in sources {
        let lines = source.text.lines().count();
        if lines > LONGEST {
            broken.push(format!("{}: {lines} lines; two files, each with one meaning", source.path));
        }
        let inline = source.read().modules.into_iter().filter_map(|declared| declared.module.last().cloned());
        let names: BTreeSet<String> = source.module().into_iter().chain(inline).collect();
        for name in names.iter().filter(|name| EMPTY_NAMES.contains(&name.as_str())) {
            broken.push(format!("{}: a module called `{name}`", source.path));
        }
    }
    broken
}

/// The lints that the house relies on.
const LINTS: [(&str, &str, &str); 10] = [
    ("rust", "unsafe_code", "forbid"),
    ("rust", "unreachable_pub", "warn"),
    ("clippy", "await_holding_lock", "deny"),
    ("clippy", "unwrap_used", "warn"),
    ("clippy", "todo", "warn"),
    ("clippy", "dbg_macro", "warn"),
    ("clippy", "manual_let_else", "warn"),
    ("clippy", "large_futures", "warn"),
    ("clippy", "wildcard_imports", "warn"),
    ("clippy", "allow_attributes_without_reason", "warn"),
];

/// Methods that clippy refuses without a reason.
const DISALLOWED: [&str; 3] = ["secrecy::ExposeSecret::expose_secret", "std::env::var", "std::thread::sleep"];

fn missing_lints(manifest: &toml::Table, clippy: &toml::Table) -> Violations {
    let mut missing = Violations::new();
    for (tool, lint, level) in LINTS {
        let found = manifest.get("lints").and_then(|lints| lints.get(tool)?.get(lint)?.as_str());
        if found != Some(level) {
            missing.push(format!("Cargo.toml: [lints.{tool}] {lint} = \"{level}\", found {found:?}"));
        }
    }
    let methods = clippy.get("disallowed-methods").and_then(toml::Value::as_array).map_or(&[][..], Vec::as_slice);
    for method in DISALLOWED {
        let is_named = |entry: &&toml::Value| entry.get("path").and_then(toml::Value::as_str) == Some(method);
        let reason = methods.iter().find(is_named).and_then(|entry| entry.get("reason")?.as_str());
        if reason.is_none_or(str::is_empty) {
            missing.push(format!(".clippy.toml: disallowed-methods has no {method} with a reason"));
        }
    }
    missing
}

/// Dependencies that no source names.
fn unused_dependencies(manifest: &toml::Table, sources: &[Source]) -> Violations {
    let words: BTreeSet<String> = sources.iter().flat_map(Source::tokens).map(|token| token.text).collect();
    let names = manifest.get("dependencies").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
    let unused = names.filter(|name| !words.contains(&name.replace('-', "_")));
    unused.map(|name| format!("Cargo.toml: nobody uses {name}")).collect()
}

/// Every Rust source below a folder of the repository.
fn sources(folder: &str) -> Vec<Source> {
    fn collect(folder: &FilePath, below: &str, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
            let below = format!("{below}/{name}");
            if path.is_dir() {
                collect(&path, &below, found);
            } else if below.ends_with(".rs") {
                found.push(Source { path: below, text: fs::read_to_string(&path).expect("a source in UTF-8") });
            }
        }
    }
    let mut found = Vec::new();
    collect(&FilePath::new(env!("CARGO_MANIFEST_DIR")).join(folder), folder, &mut found);
    found
}

fn table(file: &str) -> toml::Table {
    let text = fs::read_to_string(FilePath::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
    text.parse().expect(file)
}

#[track_caller]
fn assert_none(broken: &Violations) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn a_module_uses_only_modules_of_lower_ranks() {
    let sources = sources("src");
    let present: BTreeSet<String> = sources.iter().filter_map(|source| source.module().into_iter().next()).collect();
    let ranked: BTreeSet<String> = RANKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(present, ranked, "a rank for each module, and a module for each rank");
    assert_none(&broken_ranks(&sources));
}

#[test]
fn every_foreign_crate_of_note_has_one_door() {
    let sources = sources("src");
    let paths = sources.iter().flat_map(|source| source.read().paths);
    let named: BTreeSet<Vec<String>> = paths.map(|path| path.segments).collect();
    for (door, places) in DOORS {
        assert!(named.iter().any(|path| is_within(path, door)), "nobody goes through the door of {door} ({places:?})");
    }
    assert_none(&broken_doors(&sources));
}

#[test]
fn secrets_are_exposed_in_named_places_only() {
    let sources = sources("src");
    let places = EXPOSING.iter().map(|path| (*path, 1)).chain(LOOKING.iter().map(|(path, calls, _)| (*path, *calls)));
    for (path, calls) in places {
        let source = sources.iter().find(|source| source.path == path).expect(path);
        assert!(exposures(source).0.len() >= calls, "{path} exposes less than is declared");
    }
    assert_none(&broken_seals(&sources));
}

#[test]
fn sources_are_safe_finished_short_and_called_what_they_are() {
    for folder in ["src", "tests"] {
        let sources = sources(folder);
        assert!(sources.len() > 10, "{folder}");
        assert_none(&broken_words(&sources));
        assert_none(&broken_shapes(&sources));
    }
}

#[test]
fn the_lints_of_the_house_are_in_force() {
    assert_none(&missing_lints(&table("Cargo.toml"), &table(".clippy.toml")));
}

#[test]
fn every_dependency_is_used() {
    assert_none(&unused_dependencies(&table("Cargo.toml"), &sources("src")));
}
