//! `sidekey export` and `sidekey import`: integrations and connections by their keys, without secrets, between
//! organizations and servers.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde_json::Value;

use super::access::{Access, Session};
use super::client::Call;
use super::resource::{show, with_session};
use super::show::{Output, clean, print, text};
use super::{Before, Failure};

/// The largest document that is read; the server takes no larger one.
const LARGEST: u64 = 64 << 20;

/// Options of `sidekey export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    access: Access,
    /// Only this integration, and the connections that use it
    #[arg(long, value_name = "SLUG")]
    integration: Option<String>,
    /// Write the document to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Options of `sidekey import`.
#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    access: Access,
    /// The document of an export; - for stdin
    file: PathBuf,
    /// Show the difference, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `sidekey export`.
pub fn export(before: Before, options: Export) -> Result<(), Failure> {
    with_session(before, &options.access, async |mut session| {
        let call = show(&["export"]).query_if("integration", options.integration);
        let exported = session.call(call).await?.body;
        let text = serde_json::to_string_pretty(&exported).map_err(|error| Failure::Failed(error.to_string()))? + "\n";
        match &options.output {
            None => print(&text),
            Some(path) => {
                std::fs::write(path, text).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
            }
        }
    })
}

/// Runs `sidekey import`.
pub fn import(before: Before, options: Import) -> Result<(), Failure> {
    let document = read(&options.file)?;
    with_session(before, &options.access, async |mut session| {
        let call = Call::new(Method::POST, &["import"]).json(&document);
        let imported = session.call(call.query_if("dry_run", options.dry_run.then_some("true"))).await?.body;
        tell(&session, &imported)
    })
}

fn read(path: &Path) -> Result<Value, Failure> {
    let mut bytes = Vec::new();
    let wrong = |why: &dyn std::fmt::Display| Failure::Failed(format!("{}: {why}", path.display()));
    let read = if path == Path::new("-") {
        super::entered::stdin()?.take(LARGEST).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
    };
    read.map_err(|error| wrong(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(&format!("it is no document of an export: {error}")))
}

/// The difference, a line for each thing that is not the same already.
fn tell(session: &Session, imported: &Value) -> Result<(), Failure> {
    if session.output == Output::Json {
        return session.output.thing(imported);
    }
    let mut lines = String::new();
    for change in imported["changes"].as_array().into_iter().flatten().filter(|change| change["action"] != "same") {
        lines.push_str(&clean(change["text"].as_str().unwrap_or_default()));
        lines.push('\n');
        if let Some(note) = change["note"].as_str() {
            lines.push_str(&format!("    {}\n", clean(note)));
        }
    }
    let count = |key: &str| text(&imported[key]);
    let done = if imported["applied"] == true { "" } else { "; nothing was changed" };
    lines.push_str(&format!(
        "{} created, {} replaced, {} the same already{done}\n",
        count("created"),
        count("replaced"),
        count("unchanged")
    ));
    print(&lines)
}
