//! What was measured on, and with what. Nothing here names a host, a user or a path.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Names and values, for the page. `envoy` is how the rig starts it.
pub(crate) fn facts(root: &Path, rig: &Path, envoy: &[String]) -> Vec<(String, String)> {
    let cpu = file_value("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or("unknown".to_owned(), |cores| cores.to_string());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| format!("Linux {}", text.trim()));
    let memory = file_value("/proc/meminfo", "MemTotal").and_then(|text| {
        let kib: f64 = text.split_whitespace().next()?.parse().ok()?;
        Some(format!("{:.1} GiB", kib / 1024.0 / 1024.0))
    });
    let unknown = || "unknown".to_owned();
    let facts = [
        ("measured", said("date", &["-u", "+%Y-%m-%d"], root).unwrap_or_else(unknown)),
        ("commit", commit(root).unwrap_or_else(unknown)),
        ("CPU", cpu),
        ("cores", cores),
        ("memory", memory.unwrap_or_else(unknown)),
        ("kernel", kernel.unwrap_or_else(|_| unknown())),
        ("nginx", version("nginx", "-v", root).unwrap_or_else(unknown)),
        ("HAProxy", version("haproxy", "-v", root).unwrap_or_else(unknown)),
        ("Envoy", envoy.first().and_then(|envoy| version(envoy, "--version", root)).unwrap_or_else(unknown)),
        ("Pingora", locked(&rig.join("pingora/Cargo.lock"), "pingora-core").unwrap_or_else(unknown)),
        ("compiler", said("rustc", &["--version"], root).unwrap_or_else(unknown)),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The commit, and whether what was measured is that.
fn commit(root: &Path) -> Option<String> {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"], root)?;
    let measured =
        ["src", "Cargo.toml", "Cargo.lock", "config", ".cargo", "scripts", "benches/profile", "benches/rig-sidekey"];
    let changed = said("git", &[&["status", "--porcelain", "--"][..], &measured].concat(), root);
    Some(if changed.is_some() { format!("{commit}, with changes that are in no commit") } else { commit })
}

/// The version alone: what begins with a digit and has a point, among words and what slashes part.
fn version(program: &str, argument: &str, root: &Path) -> Option<String> {
    let line = said(program, &[argument], root)?;
    let mut words = line.split([' ', '/']);
    let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    words.find(is_version).map(str::to_owned)
}

/// The version of a library in a lock file.
fn locked(path: &Path, library: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, behind) = text.split_once(&format!("name = \"{library}\"\nversion = \""))?;
    Some(behind.split_once('"')?.0.to_owned())
}

/// The first line with words that a program says, on either stream.
fn said(program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output().ok()?;
    let streams = [output.stdout, output.stderr];
    let lines = |bytes| std::str::from_utf8(bytes).ok()?.lines().map(str::trim).find(|line| !line.is_empty());
    streams.iter().find_map(|bytes| lines(bytes)).map(str::to_owned)
}

/// The first value of a name in a file of `/proc`.
fn file_value(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
