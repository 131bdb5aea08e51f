//! What the process leaves behind for others on the machine: nothing in `/proc`, no core file, no key log, logs that
//! nobody can forge.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;

use crate::harness::process::Process;
use crate::harness::{Canary, Raw, Sidekey, Sink, get};

const BINARY: &str = env!("CARGO_BIN_EXE_sidekey");
/// `nobody` on Debian; any other that is not root would do.
const SOMEBODY: u32 = 65_534;

/// A server in a folder of its own that is not root, whoever runs the tests, and may leave as much core as it likes.
async fn unprivileged(folder: &Path) -> Process {
    let binary = folder.join("sidekey");
    std::fs::copy(BINARY, &binary).expect("a copy of the binary, where everybody reaches it");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("an open folder");
    let text =
        "[[proxy.listeners]]\naddress = \"127.0.0.1:0\"\ntrust = \"local\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    std::fs::write(folder.join("sidekey.toml"), text).expect("sidekey.toml");
    let serve = "ulimit -S -c $(ulimit -H -c); exec ./sidekey serve";
    let process = if rustix::process::geteuid().is_root() {
        for path in [folder, &binary, &folder.join("sidekey.toml")] {
            chown(path, Some(SOMEBODY), Some(SOMEBODY)).expect("root may give files away");
        }
        let somebody = SOMEBODY.to_string();
        let ids = ["--reuid", &somebody, "--regid", &somebody, "--clear-groups"];
        Process::start_program("setpriv", &[&ids[..], &["/bin/sh", "-c", serve]].concat(), folder, &[])
    } else {
        Process::start_program("/bin/sh", &["-c", serve], folder, &[])
    };
    let line = process.first_line().await;
    assert!(line.is_some_and(|line| line.starts_with("listening ")), "{}", process.stderr());
    process
}

/// LK-06: the process cannot be dumped and leaves no core, whatever its limits were.
#[tokio::test]
async fn lk_06_the_process_cannot_be_dumped() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut process = unprivileged(folder.path()).await;
    let proc = format!("/proc/{}", process.pid());
    let limits = std::fs::read_to_string(format!("{proc}/limits")).expect("limits are for everybody");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit of cores");
    let numbers: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(numbers, ["0", "0"], "{core}");
    let status = std::fs::read_to_string(format!("{proc}/status")).expect("a running process");
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("whose it is");
    assert!(!ids.split_whitespace().any(|id| id == "0"), "it runs as somebody: {ids}");
    // What a process that cannot be dumped has in /proc belongs to root (proc(5)): the same user cannot open it.
    for name in ["mem", "environ", "maps", "fd"] {
        let owner = std::fs::metadata(format!("{proc}/{name}")).expect("an entry of the process").uid();
        assert_eq!(owner, 0, "{name} belongs to the process's own user");
    }
    let mem = format!("{proc}/mem");
    let reader = match rustix::process::geteuid().is_root() {
        true => {
            let somebody = SOMEBODY.to_string();
            let ids = ["--reuid", &somebody, "--regid", &somebody, "--clear-groups", "cat"];
            Process::start_program("setpriv", &[&ids[..], &[mem.as_str()]].concat(), folder.path(), &[])
        }
        false => Process::start_program("cat", &[&mem], folder.path(), &[]),
    };
    let denied = reader.stderr_line("a refusal", |line| line.contains("ermission denied")).await;
    assert!(denied.contains("mem"), "{denied}");
    // Not SIGSEGV: Rust's own handler takes the first one that no stack overflow caused.
    process.signal(Signal::ABORT);
    let ended = process.wait().await;
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
    let cores = std::fs::read_dir(folder.path()).expect("the folder").filter_map(Result::ok);
    let cores: Vec<_> =
        cores.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with("core")).collect();
    assert!(cores.is_empty(), "{cores:?}");
}

/// LK-07: neither environment nor command line holds key material, and no child is started that could.
#[tokio::test]
async fn lk_07_environ_and_command_line_hold_no_key() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
    })
    .await;
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await.status, 200);
    let master = std::fs::read(server.folder().join("master.key")).expect("the master key's file");
    let admin = std::fs::read(server.folder().join("admin.key")).expect("the admin key's file");
    let proc = format!("/proc/{}", server.process().pid());
    for name in ["environ", "cmdline"] {
        // Root reads it although the process cannot be dumped; where the tests are not root nobody can.
        let Ok(bytes) = std::fs::read(format!("{proc}/{name}")) else { continue };
        crate::harness::canary::assert_absent(&bytes, &token, name);
        for key in [&master, &admin] {
            let key = key.trim_ascii();
            assert!(key.len() >= 32 && !bytes.windows(key.len()).any(|window| window == key), "{name}");
        }
    }
    let pid = server.process().pid().to_string();
    let stats = std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let parents = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let children = parents
        .filter(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split_whitespace().nth(1) == Some(&pid)));
    assert_eq!(children.count(), 0, "the server starts no process");
    server.finish(&[&token]).await;
}

/// LK-07: a master key in a variable stays readable there, so it is warned about.
#[tokio::test]
async fn lk_07_a_master_key_in_a_variable_is_warned_about() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let first = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
    })
    .await;
    // A key in the form that the product itself writes.
    let key = std::fs::read_to_string(first.folder().join("master.key")).expect("a master key");
    first.finish(&[&token]).await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text()).env("SOME_KEY", key.trim());
        config.set("vault.master_key", crate::harness::config::table(&[("env", "SOME_KEY".into())]));
    })
    .await;
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await.status, 200);
    let warning = server.process().stderr_line("a warning", |line| line.contains("/proc")).await;
    assert!(warning.contains("WARN") && !warning.contains(key.trim()), "{warning}");
    assert!(!server.folder().join("master.key").exists(), "no key is made beside the one that was given");
    server.finish(&[&token]).await;
}

/// LK-15: what other TLS programs do when asked to, Sidekey does not.
#[tokio::test]
async fn lk_15_tls_secrets_are_never_written() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text()).env("SSLKEYLOGFILE", "keys.log").env("RUST_BACKTRACE", "full");
    })
    .await;
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await.status, 200);
    assert!(sink.connection(0).tls.is_some());
    assert!(!server.folder().join("keys.log").exists());
    server.finish(&[&token]).await;
}

/// Proxy variables of its own environment are not looked at: a credential would pass through somebody else.
#[tokio::test]
async fn proxy_variables_are_ignored() {
    let (sink, evil, token) = (Sink::https().await, Sink::http().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            config.env(name, &format!("http://{}", evil.addr));
        }
    })
    .await;
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await.status, 200);
    assert_eq!((sink.count(), evil.connection_count()), (1, 0));
    server.finish(&[&token]).await;
}

/// HI-14: whatever a caller sends, a line of the log is one line of JSON, short, and plain text throughout.
#[tokio::test]
async fn hi_14_nobody_forges_lines_of_the_log() {
    for level in ["info", "trace"] {
        let (sink, token) = (Sink::https().await, Canary::new("token"));
        let server = Sidekey::with(|config| {
            config.to(&sink).bearer("stripe", token.text()).set("log.level", level);
        })
        .await;
        let long = "x".repeat(40_000);
        for (line, path) in [
            ("User-Agent: \x1b[2J\u{2028}evil".to_owned(), "/%0a%0d%1b[2J/%E2%80%A8"),
            ("Sidekey-Workflow: %0a{\"level\":\"ERROR\"}".to_owned(), "/"),
            ("Sidekey-Workflow: \"},{\"a\":\"\\u000a".to_owned(), "/"),
            (format!("Sidekey-Workflow: {long}"), "/"),
            ("Sidekey-Workflow: \u{2028}\u{85}".to_owned(), "/"),
            (format!("X-Long: {long}"), "/"),
            ("X-A: 1".to_owned(), &format!("/{}", "p".repeat(30_000))),
            ("Sidekey-Connection: stripe\u{2028}".to_owned(), "/"),
            ("Sidekey-Environment: \u{2028}".to_owned(), "/"),
            (format!("Sidekey-Customer: {long}"), "/"),
        ] {
            let mut raw = Raw::connect(server.proxy()).await;
            let tag = if line.starts_with("Sidekey-Connection") { "" } else { "Sidekey-Connection: stripe\r\n" };
            raw.send(format!("GET {path}?secret-query=1 HTTP/1.1\r\nHost: localhost\r\n{tag}{line}\r\n\r\n")).await;
            let status = raw.response().await.status;
            assert!([200, 400, 404].contains(&status), "{status} for {}", &line[..20.min(line.len())]);
        }
        let mut raw = Raw::connect(server.proxy()).await;
        let method = "M".repeat(20_000);
        raw.send(format!("{method} / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: stripe\r\n\r\n")).await;
        assert_eq!(raw.response().await.status, 200);
        let mut raw = Raw::connect(server.proxy()).await;
        let login = STANDARD.encode("stripe\n{\"level\":\"ERROR\"}\x1b[2J:");
        raw.send(format!("GET http://api.example.test/ HTTP/1.1\r\nHost: api.example.test\r\nProxy-Authorization: Basic {login}\r\n\r\n")).await;
        assert_eq!(raw.response().await.status, 400);
        server.access_lines(12).await;
        for line in server.process().stderr().lines() {
            let parsed = serde_json::from_str::<serde_json::Value>(line);
            assert!(parsed.is_ok_and(|json| json["level"].is_string()), "no JSON: {line}");
            assert!(line.len() <= 8 << 10, "{} bytes: {}", line.len(), &line[..200]);
            assert!(!line.bytes().any(|byte| byte < 0x20 || byte == 0x7f), "{line}");
            let unescaped = ['\u{2028}', '\u{2029}', '\u{85}', '\u{1b}'];
            assert!(!line.contains(unescaped), "{line}");
        }
        for access in server.access_lines(12).await {
            let text = access.to_string();
            assert!(!text.contains("secret-query") && !text.contains("evil") && !text.contains("ppp"), "{text}");
        }
        server.finish(&[&token]).await;
    }
}
