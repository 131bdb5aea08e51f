//! `sidekey connection`: connections and what is entered into them.

mod change;
mod explained;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::access::{Access, Session};
use super::client::Call;
use super::foreseen::deletion;
use super::resource::{Listing, set, show, with_session};
use super::show::{Column, Output, clean, moment, print, text};
use super::{Before, Failure};
use change::Change;

/// The environment that is meant where neither command nor profile says one: the proxy port's own default.
const DEFAULT_ENVIRONMENT: &str = "production";

/// `sidekey connection`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the connections with how they stand
    List {
        #[command(flatten)]
        listing: Listing,
        /// Those of this customer only
        #[arg(long, value_name = "CUSTOMER")]
        customer: Option<String>,
        /// Those of this integration only
        #[arg(long, value_name = "SLUG")]
        integration: Option<String>,
        /// Those with this label only
        #[arg(long, value_name = "LABEL")]
        label: Option<String>,
    },
    /// Create a connection, with a credential where --set says one
    Create(Box<Change>),
    /// Show a connection, or with --environment its credential there: which fields are set, never their values
    Show(InEnvironment),
    /// Change a connection, or enter a credential with --set
    Set {
        #[command(flatten)]
        change: Box<Change>,
        /// Its new key
        #[arg(long, value_name = "KEY")]
        rename: Option<String>,
    },
    /// Delete the credential of an environment
    Unset(InEnvironment),
    /// Begin to sign in for a connection at its provider: prints an address that a browser opens
    Authorize(InEnvironment),
    /// Revoke what is entered into a connection, in one environment or in all; the connection stays
    Revoke(InEnvironment),
    /// Delete a connection with its credentials
    Delete {
        #[command(flatten)]
        named: Named,
        /// Even if workflows used it in the last 30 days
        #[arg(long)]
        force: bool,
        /// Say what would go, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Run the integration's test request over a connection
    Test(InEnvironment),
    /// Tell what a request would become, and which rule lets it pass or refuses it; nothing is sent
    Explain {
        #[command(flatten)]
        place: InEnvironment,
        /// The path below the base URL, with its query
        path: String,
        /// The method
        #[arg(long, short = 'X', default_value = "GET", value_name = "METHOD")]
        method: String,
        /// Whether the holder of this API key would be let through: by which rules, with what left of its limits
        #[arg(long, value_name = "API-KEY-ID")]
        key: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Named {
    /// Its id or key
    connection: String,
    /// Whose connection the key means
    #[arg(long, value_name = "CUSTOMER")]
    customer: Option<String>,
}

#[derive(Debug, Args)]
struct InEnvironment {
    #[command(flatten)]
    named: Named,
    /// The environment
    #[arg(long, short, value_name = "ENVIRONMENT")]
    environment: Option<String>,
}

const COLUMNS: [Column; 10] = [
    ("KEY", |item| text(&item["key"])),
    ("CUSTOMER", |item| text(&item["customer"])),
    ("INTEGRATION", |item| text(&item["integration"])),
    ("STATUS", |item| statuses(&item["environments"])),
    ("EXPIRES", |item| moment(&item["expires_at"])),
    ("LAST USED", |item| moment(&item["last_used_at"])),
    ("USED BY", |item| users(item)),
    ("VISIBILITY", |item| text(&item["visibility"])),
    ("OWNER", |item| text(&item["owner"])),
    ("SOURCE", |item| text(&item["source"])),
];

/// The workflows that used it, those that did last first; of many, how many more.
fn users(item: &Value) -> String {
    const SHOWN: usize = 3;
    let workflows = item["used_by"].as_array().map_or(&[][..], Vec::as_slice);
    let shown = workflows.len().min(SHOWN);
    let count = item["used_by_count"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
    let first = text(&Value::from(&workflows[..shown]));
    match count.saturating_sub(shown) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// `production active, staging incomplete`
fn statuses(environments: &Value) -> String {
    let standing = |(name, standing): (&String, &Value)| format!("{} {}", clean(name), text(&standing["status"]));
    let each: Vec<String> = environments.as_object().into_iter().flatten().map(standing).collect();
    if each.is_empty() { "-".to_owned() } else { each.join(", ") }
}

/// Runs `sidekey connection`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List { listing, customer, integration, label } => {
            let call = || {
                let call = show(&["connections"]).query_if("customer", customer.clone());
                call.query_if("integration", integration.clone()).query_if("label", label.clone())
            };
            let items = listing.items(&mut session, call).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Create(change) => change::create(&mut session, &change).await,
        Action::Show(InEnvironment { named, environment }) => {
            let call = match &environment {
                Some(environment) => named.call(Method::GET, &["credentials", environment]),
                None => named.call(Method::GET, &[]),
            };
            let answer = session.call(call).await?;
            session.output.thing(&answer.body)
        }
        Action::Set { change, rename } => change::replace(&mut session, &change, rename.as_deref()).await,
        Action::Unset(place) => {
            let environment = place.environment(&session);
            session.call(place.named.call(Method::DELETE, &["credentials", &environment])).await?;
            let done = format!("the credential of {} in {environment} is gone", place.named.connection);
            session.output.done(&done, &Value::Null)
        }
        Action::Authorize(place) => authorize(&mut session, &place).await,
        Action::Revoke(place) => revoke(&mut session, &place).await,
        Action::Delete { named, force, dry_run } => delete(&mut session, &named, force, dry_run).await,
        Action::Test(place) => test(&mut session, &place).await,
        Action::Explain { place, path, method, key } => explain(&mut session, &place, &path, &method, key).await,
    }
}

impl Named {
    fn call(&self, method: Method, below: &[&str]) -> Call {
        let segments: Vec<&str> = ["connections", &self.connection].into_iter().chain(below.iter().copied()).collect();
        Call::new(method, &segments).query_if("customer", self.customer.clone())
    }
}

impl InEnvironment {
    /// The environment that is meant where a credential is entered.
    fn environment(&self, session: &Session) -> String {
        let said = self.environment.clone().or_else(|| session.environment.clone());
        said.unwrap_or_else(|| DEFAULT_ENVIRONMENT.to_owned())
    }

    /// The environment of a test or a sign-in: where none is said, the server takes the designer's.
    fn document(&self, session: &Session) -> Map<String, Value> {
        let mut document = Map::new();
        set(&mut document, "environment", self.environment.clone().or_else(|| session.environment.clone()));
        document
    }
}

/// The address alone goes to stdout, so that it can be handed on; what to do with it is said beside it.
async fn authorize(session: &mut Session, place: &InEnvironment) -> Result<(), Failure> {
    let document = place.document(session);
    let answer = session.call(place.named.call(Method::POST, &["authorize"]).json(&document.into())).await?.body;
    session.output.done(&text(&answer["start_url"]), &answer)?;
    if session.output == Output::People {
        let (connection, until) = (&place.named.connection, moment(&answer["expires_at"]));
        eprintln!("open it in a browser to sign in for {connection}; it is good for one sign-in, until {until} (UTC)");
    }
    Ok(())
}

/// What is meant is said or all of it: no profile's environment narrows it.
async fn revoke(session: &mut Session, place: &InEnvironment) -> Result<(), Failure> {
    let mut document = Map::new();
    set(&mut document, "environment", place.environment.clone());
    let answer = session.call(place.named.call(Method::POST, &["revoke"]).json(&document.into())).await?.body;
    let connection = &place.named.connection;
    let gone = answer["revoked"].as_array().map_or(&[][..], Vec::as_slice);
    let environments: Vec<String> = gone.iter().map(|gone| text(&gone["environment"])).collect();
    let told = |told: &str| -> Vec<String> {
        gone.iter().filter(|gone| gone["provider"] == told).map(|gone| text(&gone["environment"])).collect()
    };
    let (untold, pending) = (told("none"), told("pending"));
    let done = match environments.is_empty() {
        true => format!("{connection} has no credential there, so nothing was revoked"),
        false => format!("the credential of {connection} is gone in: {}", environments.join(", ")),
    };
    session.output.done(&done, &answer)?;
    if !untold.is_empty() {
        eprintln!(
            "the provider was told nothing, and what was entered is still good there: revoke it there too ({})",
            untold.join(", ")
        );
    }
    if !pending.is_empty() {
        eprintln!(
            "the provider did not listen and is told again while the server runs; its log says how that went ({})",
            pending.join(", ")
        );
    }
    Ok(())
}

async fn delete(session: &mut Session, named: &Named, force: bool, dry_run: bool) -> Result<(), Failure> {
    if !dry_run {
        let call = named.call(Method::DELETE, &[]).query_if("force", force.then_some("true"));
        session.call(call).await?;
        return session.output.done(&format!("the connection {} is gone", named.connection), &Value::Null);
    }
    let shown = session.call(named.call(Method::GET, &[])).await?.body;
    let has_fields =
        |standing: &Value| standing["fields"].as_object().is_some_and(|fields| fields.values().any(|set| *set == true));
    let environments = shown["environments"].as_object().into_iter().flatten();
    let credentials: Vec<&String> =
        environments.filter(|(_, standing)| has_fields(standing)).map(|(name, _)| name).collect();
    let along = [("credentials", json!(credentials)), ("used_by", shown["used_by"].clone())];
    deletion(session.output, "connection", &text(&shown["key"]), &along)
}

async fn test(session: &mut Session, place: &InEnvironment) -> Result<(), Failure> {
    let document = place.document(session);
    let answer = session.call(place.named.call(Method::POST, &["test"]).json(&document.into())).await?;
    session.output.thing(&answer.body)?;
    if answer.body["passed"] == true {
        return Ok(());
    }
    let (connection, reason) = (&place.named.connection, text(&answer.body["reason"]));
    Err(Failure::Failed(format!("{connection} did not pass: {reason}")))
}

async fn explain(
    session: &mut Session,
    place: &InEnvironment,
    path: &str,
    method: &str,
    key: Option<String>,
) -> Result<(), Failure> {
    let mut document = place.document(session);
    set(&mut document, "api_key", key);
    document.insert("method".to_owned(), method.into());
    document.insert("path".to_owned(), path.into());
    let answer = session.call(place.named.call(Method::POST, &["explain"]).json(&document.into())).await?;
    match session.output {
        Output::Json => session.output.thing(&answer.body),
        Output::People => print(&explained::render(&answer.body)),
    }
}
