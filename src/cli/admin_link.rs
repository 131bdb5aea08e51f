//! `sidekey admin-link`

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::show::print;
use crate::config::{Config, Environment};
use crate::server::assemble::vault_options;
use crate::server::control_socket::{Answer, Question, ask};
use crate::server::people;
use crate::vault::Vault;
use crate::vault::audit::Author;

/// Options of `sidekey admin-link`.
#[derive(Debug, Args)]
pub struct Options {
    /// The organization that the super admin is at home in, by id or key
    #[arg(long, default_value = "default", value_name = "ORGANIZATION")]
    organization: String,
}

/// Prints a link: made by the running server, else by this process under the vault's lock.
pub fn run(explicit: Option<PathBuf>, options: Options) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let config = Config::load(explicit, &environment)?;
    let failed = |why: &str| Err(Failure::Failed(why.to_owned()));
    if !config.vault.enabled {
        return failed("the vault is off ([vault] enabled = false), so there is nobody to sign in");
    }
    if !config.admin.enabled {
        return failed("the admin port is off ([admin] enabled = false), so a link would lead nowhere");
    }
    super::on_control_runtime(async {
        let question = Question::AdminLink { organization: options.organization.clone() };
        match ask(&config.vault.path, &question).await? {
            Some(Answer::Done(link)) => print(&format!("{link}\n"))?,
            Some(Answer::Failed(why)) => return Err(Failure::Failed(why)),
            None => print(&format!("{}\n", under_lock(&config, &environment, &options.organization).await?))?,
        }
        eprintln!("open it in a browser: it makes a super admin, or lets one back in, once");
        Ok(())
    })
}

async fn under_lock(config: &Config, environment: &Environment, organization: &str) -> Result<String, Failure> {
    let Some(people) = people::without_server(config) else {
        let why = "admin.address has no fixed port; start the server first, or say in admin.url where people find it";
        return Err(Failure::Failed(why.to_owned()));
    };
    if !config.vault.path.exists() {
        return Err(Failure::Failed("there is no vault yet; `sidekey serve` makes it".to_owned()));
    }
    let (vault, _) =
        Vault::open(vault_options(&config.vault, environment)?).await.map_err(crate::server::StartError::from)?;
    let link = people.admin_link(&vault, organization, &Author::system("command line")).await;
    vault.close().await;
    eprintln!("no server runs with this vault; start it before you open the link");
    link.map_err(|error| Failure::Failed(error.to_string()))
}
