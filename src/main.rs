//! Parses the command line, runs it, prints the error chain, chooses the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidekey::cli::run()
}
