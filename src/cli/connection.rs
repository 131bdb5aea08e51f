//! `sidekey connection`: connections and what is entered into them.

mod explained;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::access::{Access, Session};
use super::client::Call;
use super::entered::{self, Entered};
use super::resource::{Listing, Written, pair, set, set_list, show, with_session};
use super::show::{Column, Output, clean, moment, print, text};
use super::{Before, Failure};

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
    Create(Change),
    /// Show a connection; of its credentials, which fields are set
    Show(Named),
    /// Change a connection, or enter a credential with --set
    Set(Change),
    /// Delete the credential of an environment
    Unset(InEnvironment),
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

/// Who may see and use a connection.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Visibility {
    Organization,
    Personal,
}

#[derive(Debug, Args)]
struct Change {
    #[command(flatten)]
    place: InEnvironment,
    /// A field of the credential: NAME asks for it, NAME=- reads stdin, NAME=@FILE a file
    #[arg(long = "set", value_name = "NAME[=-|=@FILE]")]
    entered: Vec<String>,
    /// When what is entered ends to be of use, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "MOMENT", requires = "entered")]
    expires_at: Option<String>,
    /// Its new key
    #[arg(long, value_name = "KEY")]
    rename: Option<String>,
    /// The user it belongs to, by id
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// The slug of its integration; for a new connection the key where it is not said
    #[arg(long, value_name = "SLUG")]
    integration: Option<String>,
    /// The auth method, where the integration has several
    #[arg(long, value_name = "METHOD")]
    auth: Option<String>,
    /// As a person reads it
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// The value of a public field of the integration
    #[arg(long = "value", value_name = "NAME=VALUE", value_parser = pair)]
    values: Vec<(String, String)>,
    /// What it is filed under; "" for nothing
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Who may see and use it
    #[arg(long, value_enum)]
    visibility: Option<Visibility>,
    /// Whether it may be offered in an embedded builder
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, default_missing_value = "true")]
    exposed: Option<bool>,
    /// Requests per second, instead of the integration's
    #[arg(long, value_name = "NUMBER")]
    per_second: Option<u32>,
    /// Requests at once
    #[arg(long, value_name = "NUMBER", requires = "per_second")]
    burst: Option<u32>,
    #[command(flatten)]
    written: Written,
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
        Action::Create(change) => create(&mut session, &change).await,
        Action::Show(named) => {
            let answer = session.call(named.call(Method::GET, &[])).await?;
            session.output.thing(&answer.body)
        }
        Action::Set(change) => replace(&mut session, &change).await,
        Action::Unset(place) => {
            let environment = place.environment(&session);
            session.call(place.named.call(Method::DELETE, &["credentials", &environment])).await?;
            let done = format!("the credential of {} in {environment} is gone", place.named.connection);
            session.output.done(&done, &Value::Null)
        }
        Action::Delete { named, force, dry_run } => delete(&mut session, &named, force, dry_run).await,
        Action::Test(place) => test(&mut session, &place).await,
        Action::Explain { place, path, method } => explain(&mut session, &place, &path, &method).await,
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

    /// The environment of a test: where none is said, the server takes the designer's.
    fn document(&self, session: &Session) -> Map<String, Value> {
        let mut document = Map::new();
        set(&mut document, "environment", self.environment.clone().or_else(|| session.environment.clone()));
        document
    }
}

impl Change {
    /// Lays what the options say over a document; the answer is whether they say anything.
    fn lay_over(&self, document: &mut Map<String, Value>) -> bool {
        let before = document.clone();
        set(document, "key", self.rename.clone());
        set(document, "owner", self.owner.clone());
        set(document, "integration", self.integration.clone());
        set(document, "auth", self.auth.clone());
        set(document, "name", self.name.clone());
        set_list(document, "labels", &self.labels);
        set(
            document,
            "visibility",
            self.visibility.map(|visibility| match visibility {
                Visibility::Organization => "organization",
                Visibility::Personal => "personal",
            }),
        );
        set(document, "exposed", self.exposed);
        if !self.values.is_empty() {
            let values = document.entry("values").or_insert_with(|| json!({}));
            for (name, value) in &self.values {
                values[name] = Value::from(value.as_str());
            }
        }
        if let Some(per_second) = self.per_second {
            let burst = self.burst.unwrap_or(per_second);
            document.insert("limit".to_owned(), json!({ "per_second": per_second, "burst": burst }));
        }
        *document != before
    }
}

async fn create(session: &mut Session, change: &Change) -> Result<(), Failure> {
    // What is entered is read before anything is made.
    let entered = entered::read(&change.entered)?;
    let named = &change.place.named;
    let mut document = change.written.read()?;
    change.lay_over(&mut document);
    document.insert("key".to_owned(), named.connection.clone().into());
    set(&mut document, "customer", named.customer.clone());
    document.entry("integration").or_insert_with(|| named.connection.clone().into());
    let made = session.call(Call::new(Method::POST, &["connections"]).json(&document.into())).await?;
    if entered.is_empty() {
        let next = format!(
            "the connection {0} is there; enter its credential with `sidekey connection set {0} --set …`",
            named.connection
        );
        return session.output.done(&next, &made.body);
    }
    if let Err(failure) = enter(session, change, &entered).await {
        let again = format!(
            "the connection {0} is there, without a credential; `sidekey connection set {0} --set …` enters one",
            named.connection
        );
        return Err(failure.with(&again));
    }
    done(session, change, "is there").await
}

async fn replace(session: &mut Session, change: &Change) -> Result<(), Failure> {
    let entered = entered::read(&change.entered)?;
    let named = &change.place.named;
    let found = session.call(named.call(Method::GET, &[])).await?;
    let mut document = if change.written.is_given() {
        change.written.read()?
    } else {
        found.body.as_object().cloned().unwrap_or_default()
    };
    let is_changed = change.lay_over(&mut document) || change.written.is_given();
    if !is_changed && entered.is_empty() {
        return Err(Failure::Usage(
            "nothing is to be changed; --set enters a credential, `sidekey connection set --help` lists the rest"
                .to_owned(),
        ));
    }
    // First what is entered: afterwards the connection may have another key.
    if !entered.is_empty() {
        enter(session, change, &entered).await?;
    }
    if is_changed {
        let stored =
            session.call(named.call(Method::PUT, &[]).json(&document.into()).version(found.version)).await?.body;
        let sentence =
            format!("the connection {} is changed: {}", text(&stored["key"]), statuses(&stored["environments"]));
        return session.output.done(&sentence, &stored);
    }
    done(session, change, "is changed").await
}

/// Enters a credential: all of its fields are replaced.
async fn enter(session: &mut Session, change: &Change, entered: &[Entered]) -> Result<(), Failure> {
    let environment = change.place.environment(session);
    let call = change.place.named.call(Method::PUT, &["credentials", &environment]);
    let call = call.query_if("expires_at", change.expires_at.clone());
    session.call(call.bytes(entered::document(entered)?)).await?;
    Ok(())
}

/// Says how the connection stands now.
async fn done(session: &mut Session, change: &Change, what: &str) -> Result<(), Failure> {
    let shown = session.call(change.place.named.call(Method::GET, &[])).await?.body;
    let sentence =
        format!("the connection {} {what}: {}", change.place.named.connection, statuses(&shown["environments"]));
    session.output.done(&sentence, &shown)
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
    let would =
        json!({ "dry_run": true, "connection": shown["key"], "credentials": credentials, "used_by": shown["used_by"] });
    if session.output == Output::Json {
        return session.output.thing(&would);
    }
    print(&format!(
        "this would delete the connection {}\ncredentials in:  {}\nused by:         {}\nnothing was deleted\n",
        text(&would["connection"]),
        text(&would["credentials"]),
        text(&would["used_by"])
    ))
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

async fn explain(session: &mut Session, place: &InEnvironment, path: &str, method: &str) -> Result<(), Failure> {
    let mut document = place.document(session);
    document.insert("method".to_owned(), method.into());
    document.insert("path".to_owned(), path.into());
    let answer = session.call(place.named.call(Method::POST, &["explain"]).json(&document.into())).await?;
    match session.output {
        Output::Json => session.output.thing(&answer.body),
        Output::People => print(&explained::render(&answer.body)),
    }
}
