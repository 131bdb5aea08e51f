//! `sidekey organization`: the tenants.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value};

use super::access::{Access, Session};
use super::client::Call;
use super::foreseen::deletion;
use super::resource::{Listing, set, show, with_session};
use super::show::{Column, text};
use super::{Before, Failure};

/// `sidekey organization`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the organizations
    List(Listing),
    /// Create an organization, with the default environments
    Create {
        /// Its key
        key: String,
        /// As a person reads it
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
    },
    /// Show an organization
    Show {
        /// Its id or key
        organization: String,
    },
    /// Rename an organization
    Set {
        /// Its id or key
        organization: String,
        /// As a person reads it
        #[arg(long, value_name = "TEXT")]
        name: String,
    },
    /// Show how many requests the callers of an organization may make together, or set it
    Limits {
        /// Its id or key
        organization: String,
        /// Requests a minute
        #[arg(long, value_name = "NUMBER")]
        per_minute: Option<u32>,
        /// Requests an hour
        #[arg(long, value_name = "NUMBER")]
        per_hour: Option<u32>,
        /// No limits
        #[arg(long, conflicts_with_all = ["per_minute", "per_hour"])]
        none: bool,
    },
    /// Delete an organization in which there is nothing
    Delete {
        /// Its id or key
        organization: String,
        /// Say what is in it, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

const COLUMNS: [Column; 3] =
    [("KEY", |item| text(&item["key"])), ("NAME", |item| text(&item["name"])), ("ID", |item| text(&item["id"]))];

/// Runs `sidekey organization`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List(listing) => {
            let items = listing.items(&mut session, || show(&["organizations"])).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Create { key, name } => {
            let mut document = Map::from_iter([("key".to_owned(), Value::from(key.as_str()))]);
            set(&mut document, "name", name);
            let made = session.call(Call::new(Method::POST, &["organizations"]).json(&document.into())).await?;
            session.output.done(&format!("the organization {key} is there"), &made.body)
        }
        Action::Show { organization } => {
            let answer = session.call(show(&["organizations", &organization])).await?;
            session.output.thing(&answer.body)
        }
        Action::Set { organization, name } => {
            let found = session.call(show(&["organizations", &organization])).await?;
            let mut document = found.body.as_object().cloned().unwrap_or_default();
            set(&mut document, "name", Some(name.as_str()));
            let call = Call::new(Method::PUT, &["organizations", &organization]).json(&document.into());
            let call = call.version(found.version);
            let changed = session.call(call).await?;
            session.output.done(&format!("the organization {organization} is called {name}"), &changed.body)
        }
        Action::Limits { organization, per_minute, per_hour, none } => {
            let segments = ["organizations", &organization, "limits"];
            let found = session.call(show(&segments)).await?;
            if per_minute.is_none() && per_hour.is_none() && !none {
                return session.output.thing(&found.body);
            }
            let mut limits = found.body.as_object().cloned().filter(|_| !none).unwrap_or_default();
            set(&mut limits, "per_minute", per_minute);
            set(&mut limits, "per_hour", per_hour);
            let call = Call::new(Method::PUT, &segments).json(&limits.into()).version(found.version);
            let set = session.call(call).await?;
            session.output.thing(&set.body)
        }
        Action::Delete { organization, dry_run: true } => foresee_deletion(session, &organization).await,
        Action::Delete { organization, dry_run: false } => {
            session.call(Call::new(Method::DELETE, &["organizations", &organization])).await?;
            session.output.done(&format!("the organization {organization} is gone"), &Value::Null)
        }
    }
}

/// Tells what is in an organization, and so has to be deleted first.
async fn foresee_deletion(mut session: Session, organization: &str) -> Result<(), Failure> {
    session.call(show(&["organizations", organization])).await?;
    session.organization = Some(organization.to_owned());
    let mut along = Vec::new();
    // Integrations that everybody has are not this organization's, and revoked keys are nobody's.
    let is_in_it = |item: &&Value| item["source"].as_str().is_none_or(|source| source == "stored");
    let is_alive = |item: &&Value| item["status"] != "revoked";
    for (kind, name) in
        [("connections", "key"), ("integrations", "slug"), ("secrets", "key"), ("users", "email"), ("api-keys", "name")]
    {
        let items = Listing { limit: None }.items(&mut session, || show(&[kind])).await?;
        let names = items.iter().filter(is_in_it).filter(is_alive).map(|item| item[name].clone());
        along.push((if kind == "api-keys" { "api_keys" } else { kind }, names.collect()));
    }
    deletion(session.output, "organization", organization, &along)
}
