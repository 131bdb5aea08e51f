//! The control socket: how `rekey` and `admin-link` ask a running server, over a 0600 Unix socket beside the vault.
//!
//! One JSON line is asked and one is answered. Whoever can open the socket owns the vault's files anyway; so there is
//! no further key. A new master key travels as a path; a link for a super admin as it is, to whom it is for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::bind::{BindError, Sockets, take};
use crate::admin::Control;
use crate::config::Address;
use crate::vault::audit::Author;
use crate::vault::rekey::NewKey;

/// The longest line that is read.
const LONGEST: u64 = 64 * 1024;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Question {
    /// A new master key, in the place of the old one or, where `write_to` is given, in that new file.
    Rekey {
        /// Where to write the new key, where the old one is not in a file.
        write_to: Option<PathBuf>,
    },
    /// A one-time link that makes a super admin, or lets one back in.
    AdminLink {
        /// Where they are at home: an id or key.
        organization: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done; a sentence for a person.
    Done(String),
    /// It is not; a sentence with what to do.
    Failed(String),
}

/// Where the control socket of a vault is.
pub fn path_beside(vault: &Path) -> PathBuf {
    let mut path = vault.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

/// Listens beside a vault, in a local task that ends with the runtime. A path that is too long for a socket, or a
/// folder that takes none, is told and costs nothing but the convenience.
pub(super) fn listen_beside(control: &Arc<Control>) -> Option<PathBuf> {
    let path = path_beside(control.vault.database().ok()?.path());
    match listen(Arc::clone(control), path.clone()) {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(path = %path.display(), error = super::chain(&error), "no control socket: rekey and admin-link need the server stopped");
            None
        }
    }
}

fn listen(control: Arc<Control>, path: PathBuf) -> Result<(), BindError> {
    let bound = take(&Address::Unix(path.clone()), 0o600)?;
    let failed = |source| BindError::Failed { address: path.display().to_string(), source };
    let Sockets::Unix(mut listeners) = bound.listen(1)? else { return Ok(()) };
    let listener = UnixListener::from_std(listeners.swap_remove(0)).map_err(failed)?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let control = Arc::clone(&control);
            tokio::task::spawn_local(async move {
                if let Err(error) = serve(stream, &control).await {
                    tracing::debug!(%error, "whoever asked over the control socket went away");
                }
            });
        }
    });
    Ok(())
}

async fn serve(mut stream: UnixStream, control: &Control) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Question>(&line) {
        Ok(question) => answer(question, control).await,
        Err(_) => Answer::Failed("this server does not know that question; use the same version of sidekey".to_owned()),
    };
    writer.write_all(&to_line(&answer)).await?;
    writer.shutdown().await
}

async fn answer(question: Question, control: &Control) -> Answer {
    let (author, vault) = (Author::system("control socket"), &control.vault);
    let answered = match question {
        Question::Rekey { write_to } => {
            let new = write_to.map_or(NewKey::Replace, NewKey::Write);
            let rekeyed = match vault.database() {
                Ok(database) => database.rekey(&author, new).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            rekeyed.map(|rekeyed| rekeyed.to_string())
        }
        Question::AdminLink { organization } => {
            control.people.admin_link(vault, &organization, &author).await.map_err(|error| error.to_string())
        }
    };
    answered.map_or_else(Answer::Failed, Answer::Done)
}

fn to_line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Asks a running server; `None` where none listens beside the vault.
pub async fn ask(vault_path: &Path, question: &Question) -> std::io::Result<Option<Answer>> {
    let Ok(mut stream) = UnixStream::connect(path_beside(vault_path)).await else { return Ok(None) };
    stream.write_all(&to_line(question)).await?;
    let mut line = String::new();
    stream.take(LONGEST).read_to_string(&mut line).await?;
    serde_json::from_str(&line).map(Some).map_err(std::io::Error::other)
}
