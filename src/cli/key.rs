//! `sidekey keygen` and `sidekey rekey`

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::show::print;
use crate::config::{Config, Environment};
use crate::server::assemble::vault_options;
use crate::server::control_socket::{Answer, Question, ask};
use crate::vault::audit::Author;
use crate::vault::error::DatabaseError;
use crate::vault::key::keygen;
use crate::vault::rekey::{NewKey, rekey};

/// Options of `sidekey keygen`.
#[derive(Debug, Args)]
pub struct Keygen {
    /// The file to write; it must not exist yet
    #[arg(default_value = "master.key", value_name = "FILE")]
    path: PathBuf,
}

/// Options of `sidekey rekey`.
#[derive(Debug, Args)]
pub struct Rekey {
    /// Write the new key to this new file instead of over the old one; needed where the key is not in a file
    #[arg(long, value_name = "FILE")]
    write_to: Option<PathBuf>,
}

/// Writes a new master key.
pub fn generate(options: &Keygen) -> Result<(), Failure> {
    let id = keygen(&options.path).map_err(failed)?;
    print(&format!(
        "wrote the master key {id} to {}; keep a copy of it apart from the vault's backups\n",
        options.path.display()
    ))
}

/// Wraps every data key anew under a new master key: by the running server, else by this process under the vault's
/// lock.
pub fn renew(explicit: Option<PathBuf>, options: Rekey) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let config = Config::load(explicit, &environment)?;
    if !config.vault.enabled {
        return Err(Failure::Failed("the vault is off ([vault] enabled = false), so it has no master key".to_owned()));
    }
    let write_to = options.write_to.map(std::path::absolute).transpose()?;
    super::on_control_runtime(async {
        let question = Question::Rekey { write_to: write_to.clone() };
        match ask(&config.vault.path, &question).await? {
            Some(Answer::Done(told)) => print(&format!("the running server did it: {told}\n")),
            Some(Answer::Failed(why)) => Err(Failure::Failed(why)),
            None => {
                let new = write_to.map_or(NewKey::Replace, NewKey::Write);
                let rekeyed =
                    rekey(vault_options(&config.vault, &environment)?, &Author::system("command line"), new).await;
                print(&format!("{}\n", rekeyed.map_err(failed)?))
            }
        }
    })
}

fn failed(error: DatabaseError) -> Failure {
    Failure::Failed(error.to_string())
}
