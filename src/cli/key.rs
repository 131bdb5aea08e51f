//! `sidekey keygen` and `sidekey rekey`

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::show::print;
use crate::config::{Config, Environment};
use crate::server::assemble::vault_options;
use crate::server::control_socket::{Answer, Question, ask, path_beside};
use crate::vault::audit::Author;
use crate::vault::error::DatabaseError;
use crate::vault::inspect::inspect;
use crate::vault::key::{MasterKeySource, keygen};
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
    /// Say which vault would get a new key, and where that would be; change nothing
    #[arg(long)]
    dry_run: bool,
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
    if options.dry_run {
        return super::on_control_runtime(foresee(&config, &environment, write_to.as_deref()));
    }
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

/// Tells what a rekey would do, or why it would not.
async fn foresee(config: &Config, environment: &Environment, write_to: Option<&Path>) -> Result<(), Failure> {
    let options = vault_options(&config.vault, environment)?;
    let found = inspect(&options).await.map_err(failed)?;
    let refused = |why: String| Err(Failure::Failed(format!("this would be refused: {why}")));
    let Some(vault) = &found.vault else {
        return refused(format!("there is no vault {}", options.path.display()));
    };
    let place = match (write_to, &options.master_key) {
        (Some(path), _) if path.exists() => {
            return refused(format!("{} is there already; name a new file", path.display()));
        }
        (Some(path), _) => format!("written to {}, from which you take it to where the old one is", path.display()),
        (None, MasterKeySource::File { path, .. }) => format!("written over the old one in {}", path.display()),
        (None, other) => {
            return refused(format!("the master key is in {}; name a new file with --write-to", other.describe()));
        }
    };
    if !found.opens() {
        return refused(format!("the vault wants the master key {}, which is not the one given", vault.wants));
    }
    let is_running = tokio::net::UnixStream::connect(path_beside(&config.vault.path)).await.is_ok();
    let who = if is_running { "the running server would do it" } else { "no server runs; this command would do it" };
    print(&format!(
        "the vault {} is sealed with the master key {}; its data keys would be wrapped anew, values stay as they are\n\
         the new master key would be {place}\n{who}; backups made before need the old key\nnothing was changed\n",
        options.path.display(),
        vault.wants
    ))
}

fn failed(error: DatabaseError) -> Failure {
    Failure::Failed(error.to_string())
}
