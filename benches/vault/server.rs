//! The real server, with a vault that is there.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Fault;
use crate::fill::{Filled, LARGE};
use crate::process::Process;

/// A server that runs.
pub(crate) struct Server {
    process: Process,
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
        let began = Instant::now();
        let process = Process::start(Command::new(program).env_clear(), folder)?;
        let start = began.elapsed();
        let ([large, keyed], [admin]) = (process.addresses("proxy")?, process.addresses("admin")?);
        Ok(Server { process, large, keyed, admin, start })
    }

    /// A figure of `/proc/<pid>/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> Result<u64, Fault> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|text| text.split_whitespace().next()).ok_or("no such figure")?;
        Ok(kib.parse()?)
    }

    /// What its threads have had of the processor so far.
    pub(crate) fn processor_time(&self) -> Result<Duration, Fault> {
        let mut spent = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            // A thread may end while it is asked about.
            let Ok(figures) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            let nanoseconds = figures.split(' ').next().ok_or("no processor time")?;
            spent += Duration::from_nanos(nanoseconds.parse()?);
        }
        Ok(spent)
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(self) -> Result<(), Fault> {
        self.process.stop()
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
