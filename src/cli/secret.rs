//! `sidekey secret`: named values for credentials to refer to.

use clap::{Args, Subcommand};
use http::{HeaderValue, Method};
use serde_json::{Map, Value, json};

use super::access::{Access, Session};
use super::client::Call;
use super::entered::{self, Entered};
use super::foreseen::deletion;
use super::resource::{Listing, called, set, show, with_session};
use super::show::{Column, text};
use super::{Before, Failure};

/// `sidekey secret`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the secrets with the environments that have a value
    List(Listing),
    /// Create a secret, with values where --set says them
    Create(Change),
    /// Show a secret, without its values
    Show {
        /// Its key, such as STRIPE_API_KEY
        key: String,
    },
    /// Change a secret's description, or its values with --set
    Set(Change),
    /// Delete the value of an environment
    Unset {
        /// Its key
        key: String,
        /// The environment
        #[arg(long, short, value_name = "ENVIRONMENT")]
        environment: String,
    },
    /// Delete a secret with its values
    Delete {
        /// Its key
        key: String,
        /// Even if connections refer to it
        #[arg(long)]
        force: bool,
        /// Say who refers to it, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct Change {
    /// Its key, such as STRIPE_API_KEY
    key: String,
    /// The value of an environment: ENVIRONMENT asks for it, ENVIRONMENT=- reads stdin, ENVIRONMENT=@FILE a file
    #[arg(long = "set", value_name = "ENVIRONMENT[=-|=@FILE]")]
    entered: Vec<String>,
    /// As a person reads it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

const COLUMNS: [Column; 5] = [
    ("KEY", |item| text(&item["key"])),
    ("ENVIRONMENTS", |item| text(&item["environments"])),
    ("USED BY", |item| text(&users(item))),
    ("DESCRIPTION", |item| text(&item["description"])),
    ("SOURCE", |item| text(&item["source"])),
];

/// The connections that refer to a secret.
fn users(secret: &Value) -> Value {
    secret["used_by"].as_array().into_iter().flatten().map(called).collect()
}

/// Runs `sidekey secret`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List(listing) => {
            let items = listing.items(&mut session, || show(&["secrets"])).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Create(change) => create(&mut session, &change).await,
        Action::Show { key } => {
            let answer = session.call(show(&["secrets", &key])).await?;
            session.output.thing(&answer.body)
        }
        Action::Set(change) => replace(&mut session, &change).await,
        Action::Unset { key, environment } => {
            session.call(Call::new(Method::DELETE, &["secrets", &key, "values", &environment])).await?;
            session.output.done(&format!("the value of {key} in {environment} is gone"), &Value::Null)
        }
        Action::Delete { key, force, dry_run } => delete(&mut session, &key, force, dry_run).await,
    }
}

async fn create(session: &mut Session, change: &Change) -> Result<(), Failure> {
    let entered = read_entered(session, change).await?;
    let mut document = Map::from_iter([("key".to_owned(), Value::from(change.key.as_str()))]);
    set(&mut document, "description", change.description.clone());
    session.call(Call::new(Method::POST, &["secrets"]).json(&document.into())).await?;
    let Err(failure) = enter(session, &change.key, &entered).await else {
        return done(session, &change.key, "is there").await;
    };
    let key = &change.key;
    // Whether an unanswered call was done is not known; everything else is taken back, so that nothing is half made.
    if let Failure::Unreachable(_) = failure {
        return Err(failure.with(&format!("the secret {key} is there; `sidekey secret show {key}` tells its values")));
    }
    match session.call(Call::new(Method::DELETE, &["secrets", key])).await {
        Ok(_) => Err(failure.with("nothing was changed")),
        Err(kept) => {
            Err(failure
                .with(&format!("the secret {key} is there all the same, for it could not be taken back: {kept}")))
        }
    }
}

async fn replace(session: &mut Session, change: &Change) -> Result<(), Failure> {
    if change.entered.is_empty() && change.description.is_none() {
        return Err(Failure::Usage("nothing is to be changed; say --set ENVIRONMENT or --description".to_owned()));
    }
    let found = session.call(show(&["secrets", &change.key])).await?;
    let entered = read_entered(session, change).await?;
    // The values first: they are what may be refused, and a description that was changed before would stay so.
    let entered = enter(session, &change.key, &entered).await?;
    if let Some(description) = &change.description {
        // Values that were entered have made it another version.
        let version = entered.or(found.version);
        let document = json!({ "description": description });
        session.call(Call::new(Method::PUT, &["secrets", &change.key]).json(&document).version(version)).await?;
    }
    done(session, &change.key, "is changed").await
}

/// Reads what is entered, once it is known that its environments are there.
async fn read_entered(session: &mut Session, change: &Change) -> Result<Vec<Entered>, Failure> {
    for environment in entered::names(&change.entered)? {
        session.call(show(&["environments", environment])).await?;
    }
    entered::read(&change.entered)
}

/// Enters values, one after the other. Old ones cannot come back: where one is refused, what was entered is told.
/// The answer is the version that the secret has then.
async fn enter(session: &mut Session, key: &str, entered: &[Entered]) -> Result<Option<HeaderValue>, Failure> {
    let (mut there, mut version) = (Vec::new(), None);
    for Entered { name, value } in entered {
        let value = Entered { name: "value".to_owned(), value: value.clone() };
        let call = Call::new(Method::PUT, &["secrets", key, "values", name]);
        let put = session.call(call.bytes(entered::document(&[value])?)).await;
        let put = put.map_err(|failure| match there.is_empty() {
            true => failure,
            false => failure.with(&format!("{key} has its new value in {}, and not in {name}", there.join(", "))),
        })?;
        there.push(name.as_str());
        version = put.version;
    }
    Ok(version)
}

async fn done(session: &mut Session, key: &str, what: &str) -> Result<(), Failure> {
    let shown = session.call(show(&["secrets", key])).await?.body;
    let sentence = format!("the secret {key} {what}; it has values in: {}", text(&shown["environments"]));
    session.output.done(&sentence, &shown)
}

async fn delete(session: &mut Session, key: &str, force: bool, dry_run: bool) -> Result<(), Failure> {
    if !dry_run {
        let call = Call::new(Method::DELETE, &["secrets", key]).query_if("force", force.then_some("true"));
        session.call(call).await?;
        return session.output.done(&format!("the secret {key} is gone"), &Value::Null);
    }
    let shown = session.call(show(&["secrets", key])).await?.body;
    let along = [("values", shown["environments"].clone()), ("used_by", users(&shown))];
    deletion(session.output, "secret", key, &along)
}
