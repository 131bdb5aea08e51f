//! `sidekey audit`: who did what, when and from where; and whether the log is as it was written.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::access::{Access, Session};
use super::client::Call;
use super::resource::{Listing, show, with_session};
use super::show::{Column, Output, moment, print, text};
use super::{Before, Failure};

/// `sidekey audit`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List events, the newest first
    List {
        #[command(flatten)]
        listing: Listing,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        chain: Chain,
    },
    /// Print events as JSON lines, the oldest first
    Export {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        chain: Chain,
    },
    /// Verify that no event was removed, altered or moved
    ///
    /// Keep count and head where whoever can write the vault's file cannot; given to a later verification, they tell
    /// also that the end of the log was cut off.
    Verify {
        /// The count of an earlier verification
        #[arg(long, value_name = "NUMBER", requires = "head")]
        count: Option<u64>,
        /// The head of that verification
        #[arg(long, value_name = "HMAC", requires = "count")]
        head: Option<String>,
        #[command(flatten)]
        chain: Chain,
    },
    /// List how often credentials were used: by connection, caller and hour, the newest first
    Usage {
        #[command(flatten)]
        listing: Listing,
        /// Of this connection, by id
        #[arg(long, value_name = "CONNECTION")]
        connection: Option<String>,
        /// Of this caller: the id of an API key, or `local`
        #[arg(long, value_name = "CALLER")]
        caller: Option<String>,
        #[command(flatten)]
        between: Between,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Of this key or user
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// This action, or those that begin so where it ends with *
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// About this object
    #[arg(long, value_name = "OBJECT")]
    object: Option<String>,
    #[command(flatten)]
    between: Between,
}

#[derive(Debug, Args)]
struct Between {
    /// Not before this moment, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Before this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
}

#[derive(Debug, Args)]
struct Chain {
    /// For super admins: `vault` for what concerns the vault as a whole, or an organization's id
    #[arg(long, value_name = "CHAIN")]
    chain: Option<String>,
}

const COLUMNS: [Column; 6] = [
    ("NUMBER", |item| text(&item["sequence"])),
    ("AT", |item| moment(&item["at"])),
    ("ACTOR", |item| text(&item["actor"])),
    ("ACTION", |item| text(&item["action"])),
    ("OBJECT", |item| text(&item["object"])),
    ("ADDRESS", |item| text(&item["address"])),
];

const USAGE: [Column; 5] = [
    ("HOUR", |item| moment(&item["hour"])),
    ("CONNECTION", |item| text(&item["connection"])),
    ("ENVIRONMENT", |item| text(&item["environment"])),
    ("CALLER", |item| text(&item["caller"])),
    ("REQUESTS", |item| text(&item["count"])),
];

/// Runs `sidekey audit`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List { listing, filter, chain } => {
            let call = || chain.lay_over(filter.lay_over(show(&["audit"])));
            let items = listing.items(&mut session, call).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Export { filter, chain } => {
            let call = chain.lay_over(filter.lay_over(show(&["audit", "export"])));
            session.stream(call, std::io::stdout().lock()).await
        }
        Action::Verify { count, head, chain } => {
            let call = chain.lay_over(show(&["audit", "verify"]));
            let call = call.query_if("count", count.map(|count| count.to_string())).query_if("head", head);
            let found = session.call(call).await?.body;
            tell_verified(&session, &found)
        }
        Action::Usage { listing, connection, caller, between } => {
            let call = || {
                let call = between.lay_over(show(&["audit", "usage"]));
                call.query_if("connection", connection.clone()).query_if("caller", caller.clone())
            };
            let items = listing.items(&mut session, call).await?;
            session.output.list(&items, &USAGE)
        }
    }
}

impl Filter {
    fn lay_over(&self, call: Call) -> Call {
        let call = call.query_if("actor", self.actor.clone()).query_if("action", self.action.clone());
        self.between.lay_over(call.query_if("object", self.object.clone()))
    }
}

impl Between {
    fn lay_over(&self, call: Call) -> Call {
        call.query_if("since", self.since.clone()).query_if("until", self.until.clone())
    }
}

impl Chain {
    fn lay_over(&self, call: Call) -> Call {
        call.query_if("chain", self.chain.clone())
    }
}

/// A log that is not as it was written is a failure, so that a script notices.
fn tell_verified(session: &Session, found: &Value) -> Result<(), Failure> {
    match session.output {
        Output::Json => session.output.thing(found)?,
        Output::People => print(&format!("count  {}\nhead   {}\n", text(&found["count"]), text(&found["head"])))?,
    }
    if found["intact"] == true {
        return Ok(());
    }
    let broken = &found["broken"];
    Err(Failure::Failed(format!(
        "the audit log is not as it was written: event {}: {}; keep a copy of the vault as it is now and ask who could write its file",
        text(&broken["sequence"]),
        text(&broken["detail"])
    )))
}
