//! The server under test: the real binary in a folder of its own, on free ports.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::admin::Admin;
use super::canary::{Canary, assert_absent};
use super::client::{Address, archive};
use super::config::Config;
use super::pki;
use super::process::{Process, Ran, run};

/// A running server. Dropping it kills it; `finish` ends it properly and looks for leaks.
pub struct Sidekey {
    /// Where its listeners are, in the order of the configuration.
    pub proxies: Vec<Address>,
    /// Where its admin port is.
    pub admin_address: Address,
    process: Process,
    config: Config,
    // What earlier processes in this folder wrote, for the leak oracle.
    earlier: String,
    folder: TempDir,
    _secrets: TempDir,
}

/// A server that did not come up.
#[derive(Debug)]
pub struct NotStarted {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Sidekey {
    /// Starts a server with the default configuration as `describe` completes it; panics with its standard error
    /// where it does not come up.
    pub async fn with(describe: impl FnOnce(&mut Config)) -> Self {
        match Self::try_with(describe).await {
            Ok(server) => server,
            Err(failed) => panic!("the server did not start (exit code {}):\n{}", failed.code, failed.stderr),
        }
    }

    /// Starts a server, or says why it did not come up.
    pub async fn try_with(describe: impl FnOnce(&mut Config)) -> Result<Self, NotStarted> {
        let (folder, secrets) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        pki::authority().write_ca(folder.path());
        let mut config = Config::new(folder.path().to_owned(), secrets.path().to_owned());
        describe(&mut config);
        std::fs::write(folder.path().join("sidekey.toml"), config.text()).expect("sidekey.toml");
        let (process, proxies, admin_address) = launch(folder.path(), &config).await?;
        let earlier = String::new();
        Ok(Self { proxies, admin_address, process, config, earlier, folder, _secrets: secrets })
    }

    /// Runs a one-shot command in `folder`, with nothing on standard input.
    pub async fn run(args: &[&str], folder: &Path) -> Ran {
        run(args, folder, &[], "").await
    }

    /// Runs a one-shot command in this server's folder and environment, with `stdin` as its input.
    pub async fn run_beside(&self, args: &[&str], stdin: &str) -> Ran {
        run(args, self.folder.path(), &self.config.env, stdin).await
    }

    /// The address of the first listener.
    pub fn proxy(&self) -> Address {
        self.proxies[0].clone()
    }

    /// The folder with `sidekey.toml`, the vault and `admin.key`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The admin API with the key the first start wrote.
    pub fn admin(&self) -> Admin {
        let key = std::fs::read_to_string(self.folder.path().join("admin.key")).expect("admin.key beside the vault");
        Admin::new(self.admin_address.clone(), key.trim())
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let reply = Admin::new(self.admin_address.clone(), "").get("/metrics").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.text()
    }

    /// The value of one sample of `/metrics`, named as it is written there, labels included; 0 where it is absent.
    pub async fn metric(&self, sample: &str) -> f64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// Changes the configuration and writes the file; `sighup` makes the server read it.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        std::fs::write(self.folder.path().join("sidekey.toml"), self.config.text()).expect("sidekey.toml");
    }

    /// Asks it to read its configuration again.
    pub fn sighup(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Asks it to drain and end.
    pub fn sigterm(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait().await
    }

    /// Ends it as a power cut would.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again in the same folder, ending it by SIGTERM first where it still runs. Ports may change.
    pub async fn restart(&mut self) {
        if !self.process.has_ended() {
            self.sigterm();
            self.wait_exit().await;
        }
        let started = launch(self.folder.path(), &self.config).await;
        let (process, proxies, admin_address) =
            started.unwrap_or_else(|failed| panic!("no second start (exit code {}):\n{}", failed.code, failed.stderr));
        self.earlier += &format!("{}\n{}\n", self.process.stdout(), self.process.stderr());
        (self.process, self.proxies, self.admin_address) = (process, proxies, admin_address);
    }

    /// The process itself: its output, memory and descriptors.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Resident memory in bytes, now and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        (self.process.memory("VmRSS"), self.process.memory("VmHWM"))
    }

    /// Waits for a JSON log line; `fields` are merged into its top level.
    pub async fn log_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process.log_line(what, wanted).await
    }

    /// Waits for the access line of a request, by its id.
    pub async fn access_line(&self, request_id: &str) -> Value {
        let is_access = |line: &Value| line["request_id"] == request_id && is_access_line(line);
        self.log_line("the access line", is_access).await
    }

    /// Waits for `count` access lines and returns all there are by then.
    pub async fn access_lines(&self, count: usize) -> Vec<Value> {
        let enough = |lines: &[Value]| lines.iter().filter(|line| is_access_line(line)).count() >= count;
        self.process.log_lines_when("access lines", enough).await.into_iter().filter(is_access_line).collect()
    }

    /// Ends the server by SIGTERM, expects exit code 0 and one line on standard output, and asserts that no canary is
    /// in anything it wrote: its output, every file in its folder, every answer of its own, every head it relayed.
    pub async fn finish(mut self, canaries: &[&Canary]) {
        if !self.process.has_ended() {
            self.sigterm();
        }
        let exit = self.wait_exit().await;
        assert_eq!(exit.code(), Some(0), "it did not end well ({exit}):\n{}", self.process.stderr());
        let stdout = self.process.stdout();
        assert_eq!(stdout.lines().count(), 1, "standard output carries one line, not:\n{stdout}");
        self.assert_no_leak(canaries);
    }

    /// The leak oracle alone.
    pub fn assert_no_leak(&self, canaries: &[&Canary]) {
        let mut places = vec![
            ("an earlier process's output".to_owned(), self.earlier.clone().into_bytes()),
            ("standard output".to_owned(), self.process.stdout().into_bytes()),
            ("standard error".to_owned(), self.process.stderr().into_bytes()),
        ];
        for address in self.proxies.iter().chain([&self.admin_address]) {
            places.push((format!("an answer of {address}"), archive::from(address)));
        }
        for file in files(self.folder.path()) {
            places.push((file.display().to_string(), std::fs::read(&file).expect("a readable file")));
        }
        for (place, bytes) in &places {
            for canary in canaries {
                assert_absent(bytes, canary, place);
            }
        }
    }
}

async fn launch(folder: &Path, config: &Config) -> Result<(Process, Vec<Address>, Address), NotStarted> {
    let mut process = Process::start(&["serve", "--config", "sidekey.toml"], folder, &config.env);
    let Some(line) = process.first_line().await else {
        let exit = process.wait().await;
        return Err(NotStarted { code: exit.code().unwrap_or(-1), stderr: process.stderr() });
    };
    let (proxies, admin) = listening(&line).unwrap_or_else(|| panic!("an unexpected first line: {line}"));
    Ok((process, proxies, admin))
}

/// Reads `listening proxy=<address>[,<address>] admin=<address>`.
fn listening(line: &str) -> Option<(Vec<Address>, Address)> {
    let (proxies, admin) = line.strip_prefix("listening proxy=")?.split_once(" admin=")?;
    let proxies = proxies.split(',').map(address).collect::<Option<Vec<_>>>()?;
    Some((proxies, address(admin)?))
}

fn address(text: &str) -> Option<Address> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(PathBuf::from(path))),
        None => text.parse().ok().map(Address::Tcp),
    }
}

fn is_access_line(line: &Value) -> bool {
    line.get("request_id").is_some() && line.get("status").is_some() && line.get("method").is_some()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry"));
    let mut found = Vec::new();
    for entry in entries {
        let kind = entry.file_type().expect("a file type");
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Address, listening};

    #[test]
    fn the_ready_line_names_every_address() {
        let line = "listening proxy=127.0.0.1:7878,unix:/run/sidekey/proxy.sock,[::1]:1 admin=127.0.0.1:7879";
        let (proxies, admin) = listening(line).expect("the line of the contract");
        assert_eq!(proxies.len(), 3);
        assert_eq!(proxies[1], Address::Unix("/run/sidekey/proxy.sock".into()));
        assert_eq!(admin, Address::Tcp(([127, 0, 0, 1], 7879).into()));
        assert!(listening("listening on 127.0.0.1:1").is_none());
    }
}
