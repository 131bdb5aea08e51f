//! `sidekey environment`: the environments of an organization, in their order.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value};

use super::access::{Access, Session};
use super::client::Call;
use super::foreseen::deletion;
use super::resource::{Listing, called, set, show, with_session};
use super::show::{Column, text};
use super::{Before, Failure};

/// `sidekey environment`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the environments in their order
    List(Listing),
    /// Create an environment, ordered last
    Create {
        /// Its name
        name: String,
        /// Its credentials are what `test` and `explain` use when none is named
        #[arg(long)]
        designer: bool,
    },
    /// Show an environment
    Show {
        /// Its name
        name: String,
    },
    /// Rename an environment, move it, or mark it as the designer's
    Set {
        /// Its name
        name: String,
        /// Its new name
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        /// Its place in the order, from 0
        #[arg(long, value_name = "NUMBER")]
        position: Option<u32>,
        /// Whether its credentials are what `test` and `explain` use when none is named
        #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, default_missing_value = "true")]
        designer: Option<bool>,
    },
    /// Delete an environment for which nothing has a value
    Delete {
        /// Its name
        name: String,
        /// Say what has a value there, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

const COLUMNS: [Column; 2] = [
    ("NAME", |item| text(&item["name"])),
    ("DESIGNER", |item| if item["designer"] == true { "yes".to_owned() } else { "-".to_owned() }),
];

/// Runs `sidekey environment`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List(listing) => {
            let items = listing.items(&mut session, || show(&["environments"])).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Create { name, designer } => {
            let mut document = Map::from_iter([("name".to_owned(), Value::from(name.as_str()))]);
            set(&mut document, "designer", designer.then_some(true));
            let made = session.call(Call::new(Method::POST, &["environments"]).json(&document.into())).await?;
            session.output.done(&format!("the environment {name} is there"), &made.body)
        }
        Action::Show { name } => {
            let answer = session.call(show(&["environments", &name])).await?;
            session.output.thing(&answer.body)
        }
        Action::Set { name, rename, position, designer } => {
            let found = session.call(show(&["environments", &name])).await?;
            let before = found.body.as_object().cloned().unwrap_or_default();
            let mut document = before.clone();
            set(&mut document, "name", rename);
            set(&mut document, "position", position);
            set(&mut document, "designer", designer);
            if document == before {
                return Err(Failure::Usage(
                    "nothing is to be changed; say --rename, --position or --designer".to_owned(),
                ));
            }
            let call = Call::new(Method::PUT, &["environments", &name]).json(&document.into()).version(found.version);
            let changed = session.call(call).await?;
            session.output.done(&format!("the environment {name} is changed"), &changed.body)
        }
        Action::Delete { name, dry_run: true } => foresee_deletion(&mut session, &name).await,
        Action::Delete { name, dry_run: false } => {
            session.call(Call::new(Method::DELETE, &["environments", &name])).await?;
            session.output.done(&format!("the environment {name} is gone"), &Value::Null)
        }
    }
}

/// Tells what has a value in an environment, and so has to be deleted first.
async fn foresee_deletion(session: &mut Session, name: &str) -> Result<(), Failure> {
    session.call(show(&["environments", name])).await?;
    let all = Listing { limit: None };
    let connections = all.items(session, || show(&["connections"])).await?;
    let is_set = |connection: &&Value| {
        let fields = connection["environments"][name]["fields"].as_object();
        fields.is_some_and(|fields| fields.values().any(|is_set| *is_set == true))
    };
    let connections: Value = connections.iter().filter(is_set).map(called).collect();
    let secrets = all.items(session, || show(&["secrets"])).await?;
    let has_value = |secret: &&Value| secret["environments"].as_array().is_some_and(|all| all.contains(&name.into()));
    let secrets: Value = secrets.iter().filter(has_value).map(|secret| secret["key"].clone()).collect();
    let along = [("connections_with_a_credential_there", connections), ("secrets_with_a_value_there", secrets)];
    deletion(session.output, "environment", name, &along)
}
