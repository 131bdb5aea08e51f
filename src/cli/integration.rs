//! `sidekey integration`: how to talk to one provider.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::access::{Access, Session};
use super::client::Call;
use super::foreseen::{Aim, Foreseen, deletion};
use super::resource::{Listing, Written, called, pair, set, set_list, show, with_session};
use super::show::{Column, Output, moment, text};
use super::{Before, Failure};
use crate::admin::integrations::SHOWN_ONLY;

/// `sidekey integration`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the integrations that connections may name
    List(Listing),
    /// Create an integration of the organization's own
    Create(Change),
    /// Show an integration
    Show {
        /// Its slug
        slug: String,
    },
    /// Change an integration; what its hosts were changed for must be entered again
    Set {
        #[command(flatten)]
        change: Change,
        /// Say what would differ and which credentials would be blocked, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what the organization has filled in for all connections of an integration, or fill it in
    Values {
        /// Its slug
        slug: String,
        /// The value of a public field, which connections inherit; NAME= for none
        #[arg(long = "value", value_name = "NAME=VALUE", value_parser = pair)]
        values: Vec<(String, String)>,
        /// Say what would differ and which credentials would be blocked, and change nothing
        #[arg(long, requires = "values")]
        dry_run: bool,
    },
    /// List the versions of an integration, the newest first, or show one of them
    Versions {
        /// Its slug
        slug: String,
        /// The number of a version
        number: Option<u32>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Delete an integration that no connection uses
    Delete {
        /// Its slug
        slug: String,
        #[command(flatten)]
        reach: Reach,
        /// Say which connections use it, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Whose integration is meant.
#[derive(Debug, Args)]
struct Reach {
    /// For super admins: the one that every organization has, instead of this organization's own
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Args)]
struct Change {
    /// Its slug
    slug: String,
    /// Where requests go
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// A further origin that credentials may go to; "" for none
    #[arg(long = "host", value_name = "ORIGIN")]
    hosts: Vec<String>,
    /// As a person reads it
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    #[command(flatten)]
    written: Written,
    #[command(flatten)]
    reach: Reach,
}

const COLUMNS: [Column; 5] = [
    ("SLUG", |item| text(&item["slug"])),
    ("NAME", |item| text(&item["name"])),
    ("AUTH", methods),
    ("BASE URL", |item| text(&item["base_url"])),
    ("SOURCE", |item| text(&item["source"])),
];

fn methods(item: &Value) -> String {
    let methods = item["auth"].as_array().into_iter().flatten();
    text(&methods.map(|auth| auth["method"].clone()).collect())
}

const VERSIONS: [Column; 4] = [
    ("VERSION", |item| text(&item["number"])),
    ("BY", |item| text(&item["actor"])),
    ("AT", |item| moment(&item["created_at"])),
    ("BASE URL", |item| text(&item["document"]["base_url"])),
];

/// Runs `sidekey integration`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List(listing) => {
            let items = listing.items(&mut session, || show(&["integrations"])).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Create(change) => {
            let mut document = change.written.read()?;
            change.lay_over(&mut document);
            let call = change.reach.lay_over(Call::new(Method::POST, &["integrations"]).json(&document.into()));
            let made = session.call(call).await?;
            session.output.done(&format!("the integration {} is there", change.slug), &made.body)
        }
        Action::Show { slug } => {
            let answer = session.call(show(&["integrations", &slug])).await?;
            // For people too: it is a document of its own kind, and reads best as one.
            Output::Json.thing(&answer.body)
        }
        Action::Set { change, dry_run } => replace(&mut session, &change, dry_run).await,
        Action::Delete { slug, dry_run: true, .. } => {
            let users = connections(&mut session, &slug).await?;
            deletion(session.output, "integration", &slug, &[("connections", users.into())])
        }
        Action::Values { slug, values, dry_run } => fill_in(&mut session, &slug, values, dry_run).await,
        Action::Versions { slug, number: Some(number), .. } => {
            let call = show(&["integrations", &slug, "versions", &number.to_string()]);
            // As `show` does: what it was is a document.
            Output::Json.thing(&session.call(call).await?.body)
        }
        Action::Versions { slug, number: None, listing } => {
            let items = listing.items(&mut session, || show(&["integrations", &slug, "versions"])).await?;
            session.output.list(&items, &VERSIONS)
        }
        Action::Delete { slug, reach, dry_run: false } => {
            session.call(reach.lay_over(Call::new(Method::DELETE, &["integrations", &slug]))).await?;
            session.output.done(&format!("the integration {slug} is gone"), &Value::Null)
        }
    }
}

impl Reach {
    fn lay_over(&self, call: Call) -> Call {
        call.query_if("system", self.system.then_some("true"))
    }
}

/// Fills in values that connections inherit, or shows them.
async fn fill_in(
    session: &mut Session,
    slug: &str,
    values: Vec<(String, String)>,
    dry_run: bool,
) -> Result<(), Failure> {
    let segments = ["integrations", slug, "values"];
    let found = session.call(show(&segments)).await?;
    if values.is_empty() {
        return session.output.thing(&found.body["values"]);
    }
    let mut filled = found.body["values"].as_object().cloned().unwrap_or_default();
    for (name, value) in values {
        match value.is_empty() {
            true => drop(filled.remove(&name)),
            false => drop(filled.insert(name, value.into())),
        }
    }
    if dry_run {
        let (before, filled) = (&found.body["values"], Value::from(filled));
        let document = session.call(show(&["integrations", slug])).await?.body;
        // Judged as it is, before it is filled in: a value of a field that is not there would be dropped.
        Aim::of(&document, &Value::Null)?.judge(&filled, true)?;
        let (was, becomes) = (Aim::of(&document, before)?, Aim::of(&document, &filled)?);
        let mut foreseen = Foreseen::of(("integration", slug), before, &filled, &[]);
        foreseen.block_all(session, slug, &was, &becomes).await?;
        return foreseen.tell(session.output);
    }
    let call = Call::new(Method::PUT, &segments).json(&json!({ "values": filled })).version(found.version);
    let stored = session.call(call).await?;
    session.output.done(&format!("connections of {slug} inherit: {}", text(&stored.body["values"])), &stored.body)
}

impl Change {
    fn lay_over(&self, document: &mut Map<String, Value>) {
        document.insert("slug".to_owned(), self.slug.clone().into());
        set(document, "base_url", self.base_url.clone());
        set(document, "name", self.name.clone());
        set_list(document, "hosts", &self.hosts);
    }
}

async fn replace(session: &mut Session, change: &Change, dry_run: bool) -> Result<(), Failure> {
    let found = session.call(show(&["integrations", &change.slug])).await?;
    let before = found.body.as_object().cloned().unwrap_or_default();
    let mut document = if change.written.is_given() { change.written.read()? } else { before.clone() };
    change.lay_over(&mut document);
    if document == before {
        return Err(Failure::Usage("nothing is to be changed; say --base-url, --host, --name or --file".to_owned()));
    }
    if dry_run {
        return foresee(session, &change.slug, &before.into(), &document.into()).await;
    }
    let call = Call::new(Method::PUT, &["integrations", &change.slug]).json(&document.into()).version(found.version);
    let call = change.reach.lay_over(call);
    let stored = session.call(call).await?;
    session.output.done(&format!("the integration {} is changed", change.slug), &stored.body)
}

/// Tells what would differ and whose credentials would be blocked.
async fn foresee(session: &mut Session, slug: &str, before: &Value, after: &Value) -> Result<(), Failure> {
    let filled = session.call(show(&["integrations", slug, "values"])).await?.body;
    let (was, becomes) = (Aim::of(before, &filled["values"])?, Aim::of(after, &filled["values"])?);
    let mut foreseen = Foreseen::of(("integration", slug), before, after, &SHOWN_ONLY);
    foreseen.block_all(session, slug, &was, &becomes).await?;
    foreseen.tell(session.output)
}

/// The connections of an integration, with their customer where they have one.
async fn connections(session: &mut Session, slug: &str) -> Result<Vec<Value>, Failure> {
    let call = || show(&["connections"]).query("integration", slug);
    let all = Listing { limit: None }.items(session, call).await?;
    Ok(all.iter().map(|item| called(item).into()).collect())
}
