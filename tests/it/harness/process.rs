//! A child process whose output is kept line by line and can be awaited; it never outlives the test.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::board::Board;
use super::soon;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_sidekey");

/// What a process wrote so far.
#[derive(Default)]
pub struct Output {
    /// Lines of standard output.
    pub stdout: Vec<String>,
    /// Lines of standard error.
    pub stderr: Vec<String>,
    ended: usize,
}

/// A running child.
pub struct Process {
    child: Child,
    pid: Pid,
    output: Arc<Board<Output>>,
}

/// What a one-shot command left.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Process {
    /// Starts the binary in `folder`.
    pub fn start(args: &[&str], folder: &Path, env: &[(String, String)]) -> Self {
        Self::start_program(BINARY, args, folder, env)
    }

    /// Starts any program in `folder`.
    pub fn start_program(program: &str, args: &[&str], folder: &Path, env: &[(String, String)]) -> Self {
        let mut child = command(program, args, folder, env).stdin(Stdio::null()).spawn().expect("the binary starts");
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("a running child has an id");
        let output = Arc::new(Board::new(Output::default()));
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        tokio::spawn(keep(stdout, Arc::clone(&output), |output| &mut output.stdout));
        tokio::spawn(keep(stderr, Arc::clone(&output), |output| &mut output.stderr));
        Self { child, pid, output }
    }

    /// The first line of standard output, or `None` when the process closed it without one.
    pub async fn first_line(&self) -> Option<String> {
        let first = |output: &mut Output| match output.stdout.first() {
            Some(line) => Some(Some(line.clone())),
            None => (output.ended == 2).then_some(None),
        };
        let waiting = self.output.found(first);
        tokio::time::timeout(super::PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("no line on standard output; standard error says:\n{}", self.stderr()))
    }

    /// Waits for the process to end and for all its output.
    pub async fn wait(&mut self) -> ExitStatus {
        let exited = soon("the end of the process", self.child.wait()).await.expect("a child of ours");
        self.output.wait("the end of the output", |output| (output.ended == 2).then_some(())).await;
        exited
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a running child");
    }

    /// Ends it by SIGKILL and waits.
    pub async fn kill(&mut self) {
        soon("the end of a killed process", self.child.kill()).await.expect("a running child");
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.output.read(|output| output.stdout.join("\n"))
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.output.read(|output| output.stderr.join("\n"))
    }

    /// Waits for a line of standard error, as it is written.
    pub async fn stderr_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let found = |output: &mut Output| output.stderr.iter().find(|line| wanted(line)).cloned();
        self.output.wait(what, found).await
    }

    /// Waits for a JSON line of standard error; its `fields`, where it has such, are merged into it.
    pub async fn log_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found =
            |output: &mut Output| output.stderr.iter().filter_map(|line| json_line(line)).find(|json| wanted(json));
        self.output.wait(what, found).await
    }

    /// Waits until the JSON lines of standard error, all that there are, are what is `wanted`.
    pub async fn log_lines_when(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let found = |output: &mut Output| {
            let lines: Vec<Value> = output.stderr.iter().filter_map(|line| json_line(line)).collect();
            wanted(&lines).then_some(lines)
        };
        self.output.wait(what, found).await
    }

    /// Every JSON line of standard error so far.
    pub fn log_lines(&self) -> Vec<Value> {
        self.output.read(|output| output.stderr.iter().filter_map(|line| json_line(line)).collect())
    }

    /// A field of `/proc/<pid>/status` in bytes (`VmRSS`, `VmHWM`).
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running child");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB")).unwrap_or_else(|| panic!("no {field}"));
        kilobytes.trim().parse::<u64>().expect("a number") * 1024
    }

    /// How many descriptors it holds. A process that cannot be dumped shows them to root only.
    pub fn descriptors(&self) -> std::io::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

/// Runs a one-shot command with `stdin` as its input.
pub async fn run(args: &[&str], folder: &Path, env: &[(String, String)], stdin: &str) -> Ran {
    let mut child = command(BINARY, args, folder, env).stdin(Stdio::piped()).spawn().expect("the binary starts");
    let mut input = child.stdin.take().expect("piped");
    let written = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = soon("the end of the command", child.wait_with_output()).await.expect("its output");
    // A command that reads no input may end before it was written.
    assert!(written.is_ok() || output.status.code().is_some(), "{written:?}");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a one-shot command whose standard output nobody reads.
pub async fn unread(args: &[&str], folder: &Path) -> Ran {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = command(BINARY, args, folder, &[]);
    let child = command.stdin(Stdio::null()).stdout(writer).spawn().expect("the binary starts");
    let output = soon("the end of the command", child.wait_with_output()).await.expect("its output");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: String::new(), stderr }
}

fn command(program: &str, args: &[&str], folder: &Path, env: &[(String, String)]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", folder)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn keep(
    pipe: impl AsyncRead + Unpin,
    output: Arc<Board<Output>>,
    lines: impl Fn(&mut Output) -> &mut Vec<String>,
) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        output.update(|output| lines(output).push(text));
        line.clear();
    }
    output.update(|output| output.ended += 1);
}

fn json_line(line: &str) -> Option<Value> {
    let mut json: Value = serde_json::from_str(line).ok()?;
    let object = json.as_object_mut()?;
    if let Some(Value::Object(fields)) = object.remove("fields") {
        object.extend(fields);
    }
    Some(json)
}
