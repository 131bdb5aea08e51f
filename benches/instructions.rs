//! How many instructions a request takes in user mode, and whether that is what was recorded: a gate without a clock.
//!
//! The release build runs under callgrind, twice, with the same few clients and different numbers of requests; the
//! difference is what requests cost, without start and end. Run it by `scripts/instructions`:
//!
//! ```text
//! scripts/instructions [--record] [--server PATH]
//! ```
//!
//! It compares with `benches/instructions.txt`, or with `--record` (or `SIDEKEY_INSTRUCTIONS=record`) writes it. Exit codes:
//! 0 as recorded, or recorded · 1 the figure moved, or could not be had · 4 nothing to compare with on this processor.

#[path = "instructions/figure.rs"]
mod figure;
#[path = "instructions/load.rs"]
mod load;
#[path = "process.rs"]
mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use figure::{Figure, OTHER, SAME, Verdict};
use load::Fault;

/// The lengths of the two runs, in requests.
const LENGTHS: (usize, usize) = (500, 4500);
/// How many runs of each length there are where one does not do: to record, and before a figure is found too high.
const ATTEMPTS: usize = 3;
/// The recorded figure, from the top of the repository.
const RECORDED: &str = "benches/instructions.txt";

struct Arguments {
    records: bool,
    server: PathBuf,
}

impl Arguments {
    fn read() -> Result<Self, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let records = std::env::var_os("SIDEKEY_INSTRUCTIONS").is_some_and(|value| value == "record");
        let mut read = Arguments { records, server: target.join("release/sidekey") };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo says to every bench that it is one.
                "--bench" => {}
                "--record" => read.records = true,
                "--server" => read.server = words.next().ok_or("--server takes a path")?.into(),
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(read)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run() -> Result<ExitCode, Fault> {
    let arguments = Arguments::read()?;
    let server = fs::canonicalize(&arguments.server).map_err(|_| {
        format!("there is no {}; build it: cargo build --release --bin sidekey", arguments.server.display())
    })?;
    let path = root().join(RECORDED);
    let recorded = match arguments.records {
        true => None,
        false => Some(read(&path).map_err(|error| format!("{RECORDED}: {error}"))?),
    };
    let features = figure::features(&fs::read_to_string("/proc/cpuinfo")?);
    let (valgrind, rustc) = (first_line("valgrind", "--version")?, first_line("rustc", "--version")?);
    let architecture = std::env::consts::ARCH.to_owned();
    let mut figure = Figure { instructions: 0.0, architecture, features, valgrind, rustc };
    let mut least = Least::default();
    for _ in 0..ATTEMPTS {
        figure.instructions = least.measure(&server)?;
        if recorded.as_ref().is_some_and(|recorded| !figure.is_dearer(recorded)) {
            break;
        }
    }
    println!("{:.0} user instructions a request", figure.instructions);
    let Some(recorded) = recorded else {
        fs::write(&path, figure.to_string())?;
        println!("recorded in {RECORDED}");
        return Ok(ExitCode::SUCCESS);
    };
    Ok(tell(&figure, &recorded))
}

fn read(path: &Path) -> Result<Figure, Fault> {
    Ok(Figure::parse(&fs::read_to_string(path)?)?)
}

/// The fewest instructions that a run of each length took. What disturbs a run only adds to it: on a busy machine a run
/// takes longer, and what the server does now and then it does more often.
struct Least {
    short: u64,
    long: u64,
}

impl Default for Least {
    fn default() -> Self {
        Least { short: u64::MAX, long: u64::MAX }
    }
}

impl Least {
    /// One more run of each length; the instructions of a request, by all runs so far.
    fn measure(&mut self, server: &Path) -> Result<f64, Fault> {
        self.short = self.short.min(load::instructions(server, LENGTHS.0)?);
        self.long = self.long.min(load::instructions(server, LENGTHS.1)?);
        let counted = self.long.checked_sub(self.short).ok_or("more requests took fewer instructions")?;
        Ok(counted as f64 / (LENGTHS.1 - LENGTHS.0) as f64)
    }
}

fn tell(figure: &Figure, recorded: &Figure) -> ExitCode {
    let percent = 100.0 * figure.moved(recorded);
    println!("{:.0} are recorded: {percent:+.1} %", recorded.instructions);
    for (what, now, then) in
        [("valgrind", &figure.valgrind, &recorded.valgrind), ("rustc", &figure.rustc, &recorded.rustc)]
    {
        if now != then {
            println!("counted with {now}, recorded with {then} ({what})");
        }
    }
    if figure.architecture == recorded.architecture && figure.features != recorded.features {
        let differing: Vec<_> = figure.features.symmetric_difference(&recorded.features).map(String::as_str).collect();
        let (same, other) = (100.0 * SAME, 100.0 * OTHER);
        eprintln!(
            "NOTE: this processor differs from the recorded one in: {}. Within {other} % of the figure is enough here, not {same} %.",
            differing.join(" ")
        );
    }
    match figure.beside(recorded) {
        Verdict::Same | Verdict::SameElsewhere => ExitCode::SUCCESS,
        Verdict::Moved if percent > 0.0 => {
            eprintln!("a request takes more instructions than before: find out why, or record the figure and say why");
            ExitCode::FAILURE
        }
        Verdict::Moved => {
            eprintln!("a request takes fewer instructions than before: record the figure, so that none of it is lost");
            ExitCode::FAILURE
        }
        Verdict::Incomparable => {
            eprintln!("NOT COMPARED: {} here, {} recorded", figure.architecture, recorded.architecture);
            ExitCode::from(4)
        }
    }
}

/// What a program says of its version.
fn first_line(program: &str, argument: &str) -> Result<String, Fault> {
    let output = Command::new(program).arg(argument).output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // A compiler that is told by hash and date is the same one without them.
    Ok(text.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned())
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
