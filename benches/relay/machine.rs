//! What was measured on, and with what. Nothing here names a host, a user or a path.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Names and values, for the page.
pub(crate) fn facts(root: &Path) -> Vec<(String, String)> {
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
        ("nginx", version("nginx", root).unwrap_or_else(unknown)),
        ("HAProxy", version("haproxy", root).unwrap_or_else(unknown)),
        ("compiler", said("rustc", &["--version"], root).unwrap_or_else(unknown)),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The commit, and whether what was measured is that.
fn commit(root: &Path) -> Option<String> {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"], root)?;
    let changed = said("git", &["status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock", "config"], root);
    Some(if changed.is_some() { format!("{commit}, with changes that are in no commit") } else { commit })
}

/// The version alone, which is a word that begins with a digit, or follows a slash.
fn version(program: &str, root: &Path) -> Option<String> {
    let line = said(program, &["-v"], root)?;
    let mut words = line.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
    words.find(|word| word.starts_with(|first: char| first.is_ascii_digit())).map(str::to_owned)
}

/// The first line that a program says, on either stream; `None` where it says nothing.
fn said(program: &str, arguments: &[&str], folder: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output().ok()?;
    let streams = [output.stdout, output.stderr];
    let line = streams.iter().find_map(|bytes| std::str::from_utf8(bytes).ok()?.lines().next().map(str::trim));
    line.filter(|line| !line.is_empty()).map(str::to_owned)
}

/// The first value of a name in a file of `/proc`.
fn file_value(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
