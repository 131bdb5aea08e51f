//! `sidekey session`: where people are signed in.

use clap::{ArgGroup, Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::access::{Access, Session};
use super::client::Call;
use super::resource::{Listing, show, with_session};
use super::show::{Column, moment, text};
use super::{Before, Failure};

/// `sidekey session`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the sessions: one's own, or those of a user
    List {
        #[command(flatten)]
        listing: Listing,
        /// Those of this user, by id or address
        #[arg(long, value_name = "USER")]
        user: Option<String>,
    },
    /// End a session, or all sessions of a user, at once
    #[command(group = ArgGroup::new("which").required(true))]
    Revoke {
        /// Its id
        #[arg(group = "which")]
        session: Option<String>,
        /// All sessions of this user, by id or address
        #[arg(long, value_name = "USER", group = "which")]
        user: Option<String>,
    },
}

const COLUMNS: [Column; 6] = [
    ("ID", |item| text(&item["id"])),
    ("EMAIL", |item| text(&item["email"])),
    ("ADDRESS", |item| text(&item["address"])),
    ("LAST USED", |item| moment(&item["used_at"])),
    ("EXPIRES", |item| moment(&item["expires_at"])),
    ("AGENT", |item| text(&item["agent"])),
];

/// Runs `sidekey session`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |mut session| match command.action {
        Action::List { listing, user } => list(&mut session, &listing, user.as_deref()).await,
        Action::Revoke { session: Some(id), .. } => {
            session.call(Call::new(Method::DELETE, &["sessions", &id])).await?;
            session.output.done(&format!("the session {id} is over"), &Value::Null)
        }
        Action::Revoke { user, .. } => end_all(&mut session, &user.unwrap_or_default()).await,
    })
}

/// Lists sessions.
pub(super) async fn list(session: &mut Session, listing: &Listing, user: Option<&str>) -> Result<(), Failure> {
    let call = || match user {
        Some(user) => show(&["users", user, "sessions"]),
        None => show(&["sessions"]),
    };
    let items = listing.items(session, call).await?;
    session.output.list(&items, &COLUMNS)
}

async fn end_all(session: &mut Session, user: &str) -> Result<(), Failure> {
    session.call(Call::new(Method::DELETE, &["users", user, "sessions"])).await?;
    session.output.done(&format!("all sessions of {user} are over"), &Value::Null)
}
