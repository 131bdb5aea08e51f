//! The real server, with a vault that is there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Fault;
use crate::fill::{Filled, LARGE};

/// A server that runs.
pub(crate) struct Server {
    child: Child,
    /// Where the callers of the large organization ask, who need no key.
    pub(crate) large: SocketAddr,
    /// Where callers ask with a key.
    pub(crate) keyed: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// From its start until it said that it listens.
    pub(crate) start: Duration,
}

impl Server {
    pub(crate) fn start(program: &Path, filled: &Filled, upstream: SocketAddr) -> Result<Self, Fault> {
        let folder = &filled.folder;
        fs::write(folder.join("sidekey.toml"), configuration(upstream))?;
        let log = fs::File::create(folder.join("log"))?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .args(["serve", "--config"])
            .arg(folder.join("sidekey.toml"))
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("stdout")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, large: nowhere, keyed: nowhere, admin: nowhere, start: Duration::ZERO };
        BufReader::new(stdout).read_line(&mut line)?;
        server.start = began.elapsed();
        let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
        let (Some(proxies), Some(admin)) = (word("proxy="), word("admin=")) else {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(format!("the server did not start:\n{log}").into());
        };
        let (large, keyed) = proxies.split_once(',').ok_or("two listeners")?;
        (server.large, server.keyed, server.admin) = (large.parse()?, keyed.parse()?, admin.parse()?);
        Ok(server)
    }

    /// A figure of `/proc/<pid>/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> Result<u64, Fault> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|text| text.split_whitespace().next()).ok_or("no such figure")?;
        Ok(kib.parse()?)
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(mut self) -> Result<(), Fault> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("a process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server ended with {status}").into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where everything went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(upstream: SocketAddr) -> String {
    format!(
        r#"
[proxy]
usage_interval = "5s"
[[proxy.listeners]]
address = "127.0.0.1:0"
trust = "local"
organization = "{LARGE}"
[[proxy.listeners]]
address = "127.0.0.1:0"
trust = "key"
[admin]
address = "127.0.0.1:0"
[log]
format = "json"
[upstream]
allow_networks = ["127.0.0.0/8"]
hosts = {{ "api.example.test" = "{upstream}" }}
"#
    )
}
