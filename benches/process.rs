//! The real server as a process of its own, for every bench that starts one.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Why a server came to nothing.
type Fault = Box<dyn Error + Send + Sync>;

/// A server that runs. It is killed where it is dropped without having been stopped.
pub(crate) struct Process {
    child: Child,
    /// What it said when it listened.
    announced: String,
}

impl Process {
    /// Starts a command that serves, in a folder that has its `sidekey.toml` and takes its log; returns once it listens.
    pub(crate) fn start(command: &mut Command, folder: &Path) -> Result<Self, Fault> {
        let child = command
            .args(["serve", "--config"])
            .arg(folder.join("sidekey.toml"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log"))?)
            .spawn()?;
        let mut process = Process { child, announced: String::new() };
        let stdout = process.child.stdout.take().ok_or("stdout")?;
        BufReader::new(stdout).read_line(&mut process.announced)?;
        if process.announced.is_empty() {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(format!("the server did not start:\n{log}").into());
        }
        Ok(process)
    }

    /// Where it listens, by the name of a port (`proxy`, `admin`) that it has so many listeners for.
    pub(crate) fn addresses<const N: usize>(&self, name: &str) -> Result<[SocketAddr; N], Fault> {
        let value = |word: &'_ str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        let listed = self.announced.split_whitespace().find_map(value);
        let addresses: Vec<SocketAddr> =
            listed.ok_or(format!("no {name}"))?.split(',').map(str::parse).collect::<Result<_, _>>()?;
        addresses.try_into().map_err(|_| format!("not {N} of {name}: {}", self.announced).into())
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(mut self) -> Result<(), Fault> {
        let pid = Pid::from_raw(i32::try_from(self.id())?).ok_or("a process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server ended with {status}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where everything went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
