//! `sidekey completions`

use clap::Args;
use clap_complete::Shell;

use super::Failure;
use super::show::print;

/// Options of `sidekey completions`.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell
    shell: Shell,
}

/// Prints the completions of a shell, to be put where that shell looks for them.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut super::command(), "sidekey", &mut text);
    print(&String::from_utf8_lossy(&text))
}
