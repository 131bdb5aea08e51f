//! Each rule, shown what it is there for.

use super::{
    LONGEST, Source, Violations, broken_doors, broken_ranks, broken_seals, broken_shapes, broken_words, missing_lints,
    unused_dependencies,
};

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[track_caller]
fn told(rule: fn(&[Source]) -> Violations, path: &str, text: &str) {
    assert_eq!(rule(&[source(path, text)]).len(), 1, "{path}: {text}");
}

#[track_caller]
fn accepted(rule: fn(&[Source]) -> Violations, path: &str, text: &str) {
    assert_eq!(rule(&[source(path, text)]), Violations::new(), "{path}: {text}");
}

#[test]
fn a_module_that_looks_up_or_sideways_is_told() {
    told(broken_ranks, "src/proxy.rs", "use crate::admin::Control;");
    told(broken_ranks, "src/proxy/head.rs", "use crate::{model::header, server::Server};");
    told(broken_ranks, "src/vault/query.rs", "fn f() { crate::upstream::send() }");
    told(broken_ranks, "src/upstream.rs", "use super::vault::Vault;");
    told(broken_ranks, "src/model/id.rs", "use crate::telemetry::Format;");
    told(broken_ranks, "src/telemetry.rs", "use crate::model::id;");
    told(broken_ranks, "src/tls.rs", "use crate::model::origin::Host;");
    told(broken_ranks, "src/vault.rs", "mod tests { use crate::directory::Route; }");
    told(broken_ranks, "src/server.rs", "use crate::stranger::Thing;");
    told(broken_ranks, "src/stranger.rs", "");
    told(broken_ranks, "src/lib.rs", "pub use crate::proxy::Proxy;");
    accepted(broken_ranks, "src/proxy/head.rs", "use super::error; use crate::proxy::tag; use crate::model::id;");
    accepted(broken_ranks, "src/main.rs", "fn main() { sidekey::cli::run() }");
    accepted(broken_ranks, "src/vault.rs", "/// As [`crate::upstream`] does.\nconst TEXT: &str = \"crate::proxy::X\";");
}

#[test]
fn what_only_some_may_use_is_refused_to_the_rest() {
    told(broken_ranks, "src/proxy.rs", "use crate::tls::ServerTls;");
    told(broken_ranks, "src/config.rs", "use crate::admin::Control;");
    told(broken_ranks, "src/config/resolve.rs", "use crate::vault::Vault;");
    accepted(broken_ranks, "src/config/resolve.rs", "use crate::vault::declared::Declared;");
    accepted(broken_ranks, "src/upstream/connect.rs", "use crate::tls::Offer;");
}

#[test]
fn a_crate_that_does_not_come_through_its_door_is_told() {
    told(broken_doors, "src/directory/route.rs", "use sqlx::Row;");
    told(broken_doors, "src/upstream/connect.rs", "fn f() -> rustls::ClientConfig { todo() }");
    told(broken_doors, "src/server/worker.rs", "use axum::Router;");
    told(broken_doors, "src/credentials.rs", "use moka::future::Cache;");
    told(broken_doors, "src/directory/route.rs", "use ::moka::future::Cache;");
    told(broken_doors, "src/tls/client.rs", "use rcgen::KeyPair;");
    told(broken_doors, "src/proxy/body.rs", "use tokio::{io::AsyncRead, time::sleep};");
    told(broken_doors, "src/proxy/body.rs", "async fn f() { tokio::time::sleep(SOON).await; }");
    told(broken_doors, "src/model/template.rs", "use minijinja::Environment;");
    accepted(broken_doors, "src/server/admin_port.rs", "use axum::Router;");
    accepted(broken_doors, "src/proxy/body.rs", "#[cfg(test)]\nmod tests { use tokio::time::advance; }");
    accepted(broken_doors, "src/vault/change/secret.rs", "use sqlx::Row;");
    accepted(broken_doors, "src/vault.rs", "mod rustls_notes {} // rustls::ClientConfig");
}

#[test]
fn certificates_are_made_in_tests_and_nowhere_else() {
    let inline = "#[cfg(test)]\nmod tests { use rcgen::KeyPair; }\nmod other { use rcgen::KeyPair; }";
    told(broken_doors, "src/tls.rs", inline);
    let files = [source("src/tls.rs", "#[cfg(test)]\npub(crate) mod pki;"), source("src/tls/pki.rs", "use rcgen::Ca;")];
    assert_eq!(broken_doors(&files), Violations::new());
    let files = [source("src/tls.rs", "pub(crate) mod pki;"), source("src/tls/pki.rs", "use rcgen::Ca;")];
    assert_eq!(broken_doors(&files).len(), 1);
}

#[test]
fn a_secret_taken_out_elsewhere_is_told() {
    told(broken_seals, "src/proxy.rs", "fn f(s: &SecretString) { s.expose_secret(); }");
    told(broken_seals, "src/admin/view.rs", "use secrecy::ExposeSecret as _;");
    told(broken_seals, "src/admin/secrets.rs", "fn f() { s.expose_secret(); s.expose_secret(); }");
    accepted(broken_seals, "src/admin/secrets.rs", "fn f() { s.expose_secret(); }");
    accepted(broken_seals, "src/vault/seal.rs", "fn f(s: &SecretString) { s.expose_secret(); }");
    accepted(broken_seals, "src/proxy.rs", "// expose_secret is not for here\nconst NAME: &str = \"expose_secret\";");
}

#[test]
fn words_and_shapes_are_told() {
    told(broken_words, "src/proxy.rs", "fn f() { unsafe { g() } }");
    told(broken_words, "src/proxy.rs", "fn f() { todo!() }");
    told(broken_words, "tests/it/x.rs", "fn f() { dbg!(1); }");
    told(broken_words, "src/proxy.rs", "fn f() { unimplemented!() }");
    accepted(broken_words, "src/proxy.rs", "fn todo() { g(\"unsafe\") }");
    told(broken_shapes, "src/proxy.rs", &"\n".repeat(LONGEST + 1));
    accepted(broken_shapes, "src/proxy.rs", &"\n".repeat(LONGEST));
    told(broken_shapes, "src/proxy/utils.rs", "");
    told(broken_shapes, "tests/it/common/server.rs", "");
    told(broken_shapes, "src/proxy.rs", "mod helpers { }");
}

#[test]
fn a_lint_or_a_use_that_is_missing_is_told() {
    let nothing = toml::Table::new();
    assert_eq!(missing_lints(&nothing, &nothing).len(), super::LINTS.len() + super::DISALLOWED.len());
    let weak: toml::Table = "lints.rust.unsafe_code = \"warn\"".parse().expect("TOML");
    assert!(missing_lints(&weak, &nothing)[0].contains("unsafe_code"));
    let manifest: toml::Table = "[dependencies]\na-b = \"1\"\nc = \"1\"".parse().expect("TOML");
    let broken = unused_dependencies(&manifest, &[source("src/x.rs", "use a_b::D; // c")]);
    assert_eq!(broken, ["Cargo.toml: nobody uses c"]);
}
