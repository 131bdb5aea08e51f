//! `sidekey api-key`: who may use the proxy port and the admin port, for what, and how often.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::access::{Access, Session};
use super::client::Call;
use super::resource::{Listing, Written, set, set_list, show, with_session};
use super::show::{Column, Output, moment, print, text};
use super::{Before, Failure};

/// `sidekey api-key`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the API keys
    List(Listing),
    /// Create an API key; its text is shown once
    Create {
        /// As a person reads it
        name: String,
        #[command(flatten)]
        terms: Terms,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show an API key, without its text
    Show(Named),
    /// Change what an API key may do
    Set {
        #[command(flatten)]
        named: Named,
        /// As a person reads it
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        #[command(flatten)]
        terms: Terms,
    },
    /// Suspend an API key: it is of no use until it is resumed
    Suspend(Named),
    /// Resume a suspended API key
    Resume(Named),
    /// Revoke an API key, for ever
    Revoke(Named),
    /// Give an API key another secret; its text is shown once
    Rotate {
        #[command(flatten)]
        named: Named,
        /// For how long the old secret is still of use, such as 60s
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
        #[command(flatten)]
        shown: Shown,
    },
}

#[derive(Debug, Args)]
struct Named {
    /// Its id, or its name where no other key has it
    api_key: String,
}

#[derive(Debug, Args)]
struct Shown {
    /// Write the text to this new file, readable by its owner only, instead of showing it
    #[arg(long, value_name = "FILE")]
    write_to: Option<PathBuf>,
}

/// What a key may do.
#[derive(Debug, Args)]
struct Terms {
    /// A role of its holder; `caller` where none is said
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A connection it may use: an id, a key, or a pattern with *; all that are not personal where none is said
    #[arg(long = "connection", value_name = "PATTERN")]
    connections: Vec<String>,
    /// A method it may use, in capitals; "" for all
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// A path of upstreams it may use, in which * stands for any text; "" for all
    #[arg(long = "path", value_name = "PATTERN")]
    paths: Vec<String>,
    /// An environment it may name; "" for its own only
    #[arg(long = "environment", value_name = "ENVIRONMENT")]
    environments: Vec<String>,
    /// A customer it may name, or a pattern with *
    #[arg(long = "customer", value_name = "PATTERN")]
    customers: Vec<String>,
    /// Whether a request may ask what would become of it, by Sidekey-Explain
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, default_missing_value = "true")]
    explain: Option<bool>,
    /// The environment that is meant where a request names none
    #[arg(long, value_name = "ENVIRONMENT")]
    default_environment: Option<String>,
    /// The user whose personal connections it may use, by id
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Requests a minute
    #[arg(long, value_name = "NUMBER")]
    per_minute: Option<u32>,
    /// Requests an hour
    #[arg(long, value_name = "NUMBER")]
    per_hour: Option<u32>,
    /// After this moment it is of no use, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "MOMENT")]
    expires_at: Option<String>,
    #[command(flatten)]
    written: Written,
}

const COLUMNS: [Column; 7] = [
    ("ID", |item| text(&item["id"])),
    ("NAME", |item| text(&item["name"])),
    ("STATUS", |item| text(&item["status"])),
    ("ROLES", |item| text(&item["roles"])),
    ("OWNER", |item| text(&item["owner"])),
    ("LAST USED", |item| moment(&item["last_used_at"])),
    ("EXPIRES", |item| moment(&item["expires_at"])),
];

/// Runs `sidekey api-key`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List(listing) => {
            let items = listing.items(&mut session, || show(&["api-keys"])).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Create { name, terms, shown } => {
            let mut document = terms.written.read()?;
            terms.lay_over(&mut document);
            document.insert("name".to_owned(), name.into());
            shown.check()?;
            let made = session.call(Call::new(Method::POST, &["api-keys"]).json(&document.into())).await?;
            shown.show(session.output, made.body)
        }
        Action::Show(named) => {
            let id = named.id(&mut session).await?;
            let answer = session.call(show(&["api-keys", &id])).await?;
            session.output.thing(&answer.body)
        }
        Action::Set { named, name, terms } => replace(&mut session, &named, name, &terms).await,
        Action::Suspend(named) => turn(&mut session, &named, "suspend", "is suspended").await,
        Action::Resume(named) => turn(&mut session, &named, "resume", "is active").await,
        Action::Revoke(named) => turn(&mut session, &named, "revoke", "is revoked, for ever").await,
        Action::Rotate { named, grace, shown } => {
            let id = named.id(&mut session).await?;
            shown.check()?;
            let mut document = Map::new();
            set(&mut document, "grace", grace);
            let call = Call::new(Method::POST, &["api-keys", &id, "rotate"]).json(&document.into());
            let rotated = session.call(call).await?;
            shown.show(session.output, rotated.body)
        }
    }
}

impl Named {
    /// The id, looked up where a name is given.
    async fn id(&self, session: &mut Session) -> Result<String, Failure> {
        if self.api_key.starts_with("apk_") {
            return Ok(self.api_key.clone());
        }
        let all = Listing { limit: None }.items(session, || show(&["api-keys"])).await?;
        let mut ids = all.iter().filter(|item| item["name"] == self.api_key).filter_map(|item| item["id"].as_str());
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id.to_owned()),
            (None, _) => Err(Failure::NotFound(format!(
                "there is no API key called {}; `sidekey api-key list` shows those there are",
                self.api_key
            ))),
            (Some(_), Some(_)) => {
                Err(Failure::Usage(format!("several API keys are called {}; name one by its id", self.api_key)))
            }
        }
    }
}

impl Terms {
    /// Lays what the options say over a document; the answer is whether they say anything.
    fn lay_over(&self, document: &mut Map<String, Value>) -> bool {
        let before = document.clone();
        set_list(document, "roles", &self.roles);
        set(document, "environment", self.default_environment.clone());
        set(document, "owner", self.owner.clone());
        set(document, "expires_at", self.expires_at.clone());
        let mut scope = table(document, "scope");
        set_list(&mut scope, "connections", &self.connections);
        set_list(&mut scope, "customers", &self.customers);
        for (key, items) in [("methods", &self.methods), ("paths", &self.paths), ("environments", &self.environments)] {
            set_list(&mut scope, key, items);
            // Nothing in the list would be nobody's; what is meant is no list, and what is left out would stay.
            if items.iter().any(String::is_empty) {
                scope.insert(key.to_owned(), Value::Null);
            }
        }
        set(&mut scope, "explain", self.explain);
        let mut limits = table(document, "limits");
        set(&mut limits, "per_minute", self.per_minute);
        set(&mut limits, "per_hour", self.per_hour);
        for (key, inner) in [("scope", scope), ("limits", limits)] {
            if !inner.is_empty() {
                document.insert(key.to_owned(), inner.into());
            }
        }
        *document != before
    }
}

fn table(document: &Map<String, Value>, key: &str) -> Map<String, Value> {
    document.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

async fn replace(session: &mut Session, named: &Named, name: Option<String>, terms: &Terms) -> Result<(), Failure> {
    let id = named.id(session).await?;
    let found = session.call(show(&["api-keys", &id])).await?;
    let before = found.body.as_object().cloned().unwrap_or_default();
    let mut document = if terms.written.is_given() { terms.written.read()? } else { before.clone() };
    terms.lay_over(&mut document);
    set(&mut document, "name", name);
    if document == before {
        return Err(Failure::Usage(
            "nothing is to be changed; `sidekey api-key set --help` lists what can be".to_owned(),
        ));
    }
    let differs = |key: &&String| document.get(*key) != before.get(*key);
    let changed: Vec<&String> = document.keys().chain(before.keys()).filter(differs).collect();
    // What is a part of its own is changed alone, and nothing else is written over.
    let call = match changed.first().map(|key| key.as_str()) {
        Some(part @ ("limits" | "scope")) if changed.iter().all(|key| *key == part) => {
            Call::new(Method::PUT, &["api-keys", &id, part]).json(&document[part])
        }
        _ => Call::new(Method::PUT, &["api-keys", &id]).json(&document.clone().into()),
    };
    let changed = session.call(call.version(found.version)).await?;
    session.output.done(&format!("the API key {id} is changed"), &changed.body)
}

async fn turn(session: &mut Session, named: &Named, verb: &str, what: &str) -> Result<(), Failure> {
    let id = named.id(session).await?;
    let turned = session.call(Call::new(Method::POST, &["api-keys", &id, verb])).await?;
    session.output.done(&format!("the API key {id} {what}"), &turned.body)
}

impl Shown {
    /// Refuses before anything is made what could not be written afterwards.
    fn check(&self) -> Result<(), Failure> {
        match &self.write_to {
            Some(path) if path.exists() => {
                Err(Failure::Failed(format!("{} is there already; name a new file", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Shows the text of a key, or writes it where it was asked for.
    fn show(&self, output: Output, mut made: Value) -> Result<(), Failure> {
        let key = Zeroizing::new(made["key"].as_str().unwrap_or_default().to_owned());
        if let Some(path) = &self.write_to {
            if let Some(table) = made.as_object_mut() {
                table.remove("key");
                table.insert("written_to".to_owned(), json!(path));
            }
            if let Err(error) = write(path, &key) {
                // The key is there and its text is lost: whoever reads this must know which one.
                let lost =
                    format!("{}: {error}; the API key {} is of no use: revoke it", path.display(), text(&made["id"]));
                return Err(Failure::Failed(lost));
            }
            return output.done(&format!("the API key {} is in {}", text(&made["id"]), path.display()), &made);
        }
        match output {
            Output::Json => output.thing(&made),
            Output::People => {
                eprintln!("the API key {} is shown this once; keep it:", text(&made["id"]));
                print(&format!("{}\n", *key))
            }
        }
    }
}

fn write(path: &Path, key: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{key}")?;
    file.sync_all()
}
