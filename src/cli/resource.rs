//! What commands about resources have in common: pages put together, documents read from files, values written as
//! `name=value`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde_json::{Map, Value};

use super::access::{Access, Session};
use super::client::Call;
use super::show::{clean, text};
use super::{Before, Failure};

/// How many items a page of a list has.
const PAGE: usize = 200;

/// How much of a list is shown.
#[derive(Debug, Args)]
pub(super) struct Listing {
    /// How many at most; all of them where it is not said
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
}

/// A document that is written in a file.
#[derive(Debug, Args)]
pub(super) struct Written {
    /// A document in JSON, or in TOML where the name ends in .toml; - for JSON on stdin. Options are laid over it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs what a command does with the server it is about.
pub(super) fn with_session(
    before: Before,
    access: &Access,
    act: impl AsyncFnOnce(Session) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let session = access.session(before.config)?;
    super::on_control_runtime(act(session))
}

impl Listing {
    /// Every item of a list, up to the limit, page after page.
    pub(super) async fn items(&self, session: &mut Session, call: impl Fn() -> Call) -> Result<Vec<Value>, Failure> {
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < limit {
            let page = (limit - items.len()).min(PAGE);
            let call = call().query("limit", page.to_string()).query_if("cursor", cursor.take());
            let mut page = session.call(call).await?.body;
            if let Value::Array(found) = page["items"].take() {
                items.extend(found);
            }
            match page["next"].take() {
                Value::String(next) => cursor = Some(next),
                _ => break,
            }
        }
        Ok(items)
    }
}

impl Written {
    /// Whether a file is named.
    pub(super) fn is_given(&self) -> bool {
        self.file.is_some()
    }

    /// The document, or an empty one where no file is named.
    pub(super) fn read(&self) -> Result<Map<String, Value>, Failure> {
        let Some(path) = &self.file else { return Ok(Map::new()) };
        let text = if path == Path::new("-") {
            let mut text = String::new();
            super::entered::stdin()?.take(1 << 20).read_to_string(&mut text)?;
            text
        } else {
            std::fs::read_to_string(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?
        };
        let wrong = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
        let document = if path.extension().is_some_and(|ending| ending == "toml") {
            crate::config::parse_toml(&text).map_err(wrong)?
        } else {
            serde_json::from_str(&text).map_err(|error| wrong(format!("it is not JSON: {error}")))?
        };
        match document {
            Value::Object(document) => Ok(document),
            _ => Err(wrong("the document is no table".to_owned())),
        }
    }
}

/// Sets a key of a document, where there is a value for it.
pub(super) fn set(document: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        document.insert(key.to_owned(), value.into());
    }
}

/// Sets a list of a document, where it has items. One empty item empties the list.
pub(super) fn set_list(document: &mut Map<String, Value>, key: &str, items: &[String]) {
    if !items.is_empty() {
        let items: Vec<Value> =
            items.iter().filter(|item| !item.is_empty()).map(|item| Value::from(item.as_str())).collect();
        document.insert(key.to_owned(), items.into());
    }
}

/// `name=value`, for values that are no secrets.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// A connection as people call it: its key, with its customer where it has one.
pub(super) fn called(connection: &Value) -> String {
    match connection["customer"].as_str() {
        Some(customer) => format!("{} ({})", text(&connection["key"]), clean(customer)),
        None => text(&connection["key"]),
    }
}

/// A GET of one thing.
pub(super) fn show(segments: &[&str]) -> Call {
    Call::new(Method::GET, segments)
}
