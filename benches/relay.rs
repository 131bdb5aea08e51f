//! Sidekey beside its peers: one command that runs a load rig's main table and writes `benches/RESULTS.md`.
//!
//! ```text
//! SIDEKEY_RIG=<folder> cargo bench --bench relay -- [--scen A,B,…] [--peers nginx,haproxy,envoy,pingora,sidekey] [--runs 5] [--secs 2]
//! ```
//!
//! `--built` measures the release build as it is. The rig is no part of this repository: a folder with `rig.py`, which
//! starts Sidekey by `benches/rig-sidekey` and writes its runs as JSON, and `instructions.sh`. It drives and measures;
//! this decides what is measured, and says how it stands to what must be reached.

#[path = "relay/machine.rs"]
mod machine;
#[path = "relay/report.rs"]
mod report;
#[path = "relay/runs.rs"]
mod runs;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use report::{CALLS_IN, FAR, Measured, OWN};
use runs::{Runs, Spread};

/// The page, from the top of the repository.
const RESULTS: &str = "benches/RESULTS.md";
/// Scenarios that are measured beside everybody, and with two cores for the proxy too.
const MAIN: [&str; 2] = ["A", "B"];
/// How often is counted what has no clock. The rig counts a start with some requests and one with more, and starts differ
/// by a thousandth, which is 3 % of the difference.
const COUNTS: u32 = 3;
/// Writes a peer's configuration for `instructions.sh`, which has its proxy on port 8300, and prints its command. nginx
/// runs in one process: its worker is another user, who may not write what callgrind counted.
const PEER_COMMAND: &str = "import json, sys; sys.path.insert(0, sys.argv[1]); import rig; rig.files(); \
                            name = sys.argv[2]; command = rig.PEERS[name](8300, 0, 1)[0]; \
                            print(json.dumps(command + (['-g', 'master_process off;'] if name == 'nginx' else [])))";

struct Arguments {
    rig: PathBuf,
    scenarios: Vec<String>,
    peers: Vec<String>,
    runs: u32,
    seconds: f64,
    builds: bool,
}

impl Arguments {
    fn read() -> Result<Self, Box<dyn Error>> {
        let rig = std::env::var_os("SIDEKEY_RIG").ok_or("SIDEKEY_RIG must name the folder of the rig")?;
        let rig = fs::canonicalize(rig)?;
        if !rig.join("rig.py").is_file() {
            return Err("there is no rig.py in SIDEKEY_RIG".into());
        }
        let mut read = Arguments {
            rig,
            scenarios: list("A,B,C1,C2,D,E,R25,R25t"),
            peers: list("nginx,haproxy,envoy,pingora,sidekey"),
            runs: 5,
            seconds: 2.0,
            builds: true,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a value"));
            match word.as_str() {
                // Cargo says to every bench that it is one.
                "--bench" => {}
                "--built" => read.builds = false,
                "--scen" => read.scenarios = list(&value()?),
                "--peers" => read.peers = list(&value()?),
                "--runs" => read.runs = value()?.parse()?,
                "--secs" => read.seconds = value()?.parse()?,
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        if read.runs == 0
            || read.seconds.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater)
            || !read.peers.iter().any(|peer| peer == OWN)
        {
            return Err("--runs and --secs are above 0, and sidekey is one of the peers".into());
        }
        Ok(read)
    }

    fn all(&self) -> Vec<&str> {
        self.peers.iter().map(String::as_str).collect()
    }

    /// The peers but those that are far.
    fn near(&self) -> Vec<&str> {
        self.all().into_iter().filter(|peer| !FAR.contains(peer)).collect()
    }

    /// Those of some scenarios that were asked for.
    fn only(&self, wanted: &[&str]) -> Vec<&str> {
        self.scenarios.iter().map(String::as_str).filter(|scenario| wanted.contains(scenario)).collect()
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// How the rig is called.
struct Call<'a> {
    peers: Vec<&'a str>,
    scenarios: Vec<&'a str>,
    runs: u32,
    more: &'a [&'a str],
}

/// One call of the rig: what it measured.
fn rig(arguments: &Arguments, Call { peers, scenarios, runs, more }: Call<'_>) -> Result<Runs, Box<dyn Error>> {
    if scenarios.is_empty() {
        return Ok(Runs::default());
    }
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("runs.json");
    let (peers, scenarios) = (peers.join(","), scenarios.join(","));
    let (runs, seconds) = (runs.to_string(), arguments.seconds.to_string());
    let status = Command::new(arguments.rig.join("rig.py"))
        .args(["--peers", &peers, "--scen", &scenarios, "--runs", &runs, "--secs", &seconds])
        .args(more)
        .arg("--out")
        .arg(&out)
        .env("SIDEKEY_REPO", root())
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("the rig ended with {status}").into());
    }
    Ok(Runs::parse(&fs::read_to_string(out)?)?)
}

/// User instructions for a request of each peer, where they can be counted; why not is told.
fn instructions(arguments: &Arguments) -> Vec<(String, f64)> {
    let mut counted = Vec::new();
    for peer in arguments.near() {
        let counts: Result<Vec<f64>, _> = (0..COUNTS).map(|_| instructions_of(arguments, peer)).collect();
        match counts.map(|counts| Spread::of(counts.into_iter())) {
            Ok(spread) => counted.extend(spread.map(|spread| (peer.to_owned(), spread.median))),
            Err(error) => eprintln!("the instructions of {peer} were not counted: {error}"),
        }
    }
    counted
}

/// How the rig starts a peer.
fn peer_command(arguments: &Arguments, peer: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let output = Command::new("python3").args(["-c", PEER_COMMAND]).arg(&arguments.rig).arg(peer).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn instructions_of(arguments: &Arguments, peer: &str) -> Result<f64, Box<dyn Error>> {
    let command: Vec<OsString> = if peer == OWN {
        vec![root().join("benches/rig-sidekey").into()]
    } else {
        peer_command(arguments, peer)?.into_iter().map(OsString::from).collect()
    };
    let output = Command::new(arguments.rig.join("instructions.sh"))
        .arg(peer)
        .args(command)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.lines().find_map(|line| line.rsplit_once("a request =")).map(|(_, count)| count.trim().parse());
    let count: f64 = count.ok_or(format!("no figure in {text:?}"))??;
    if count <= 0.0 {
        return Err("callgrind saw nothing of it".into());
    }
    println!("{peer}: {count} user instructions a request");
    Ok(count)
}

/// Builds what is measured. Cargo has just built a `sidekey` for this bench, with the features that tests ask of its
/// dependencies, and put it where the release build was.
fn build() -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--bin", "sidekey"])
        .current_dir(root())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("the release build ended with {status}").into()) }
}

/// One core and two, one run after the other: what the machine does meanwhile it does to both.
fn in_turns(arguments: &Arguments) -> Result<[Runs; 2], Box<dyn Error>> {
    let mut both = [Runs::default(), Runs::default()];
    for _ in 0..arguments.runs {
        for (runs, threads) in both.iter_mut().zip(["1", "2"]) {
            let (peers, scenarios) = (arguments.near(), arguments.only(&MAIN));
            let measured = rig(arguments, Call { peers, scenarios, runs: 1, more: &["--threads", threads] })?;
            *runs = std::mem::take(runs).with(measured);
        }
    }
    Ok(both)
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::read()?;
    if arguments.builds {
        build()?;
    }
    let all = |scenarios: Vec<_>| Call { peers: arguments.all(), scenarios, runs: arguments.runs, more: &[] };
    let near = |scenarios: Vec<_>| Call { peers: arguments.near(), ..all(scenarios) };
    let others = arguments.scenarios.iter().map(String::as_str).filter(|scenario| !MAIN.contains(scenario)).collect();
    let measured = Measured {
        facts: machine::facts(root(), &arguments.rig, &peer_command(&arguments, "envoy").unwrap_or_default()),
        one_core: rig(&arguments, all(arguments.only(&MAIN)))?.with(rig(&arguments, near(others))?),
        in_turns: in_turns(&arguments)?,
        traced: rig(&arguments, Call { runs: COUNTS, more: &["--syscalls"], ..near(arguments.only(&[CALLS_IN])) })?,
        instructions: instructions(&arguments),
        scenarios: arguments.scenarios,
        peers: arguments.peers,
        seconds: arguments.seconds,
    };
    fs::write(root().join(RESULTS), measured.page())?;
    println!("written: {RESULTS}");
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
