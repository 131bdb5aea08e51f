//! `sidekey user`: people who sign in.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Map, Value};

use super::access::{Access, Session};
use super::client::Call;
use super::foreseen::deletion;
use super::resource::{Listing, called, set, set_list, show, with_session};
use super::show::{Column, Output, moment, print, text};
use super::{Before, Failure};

/// `sidekey user`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the users
    List(Listing),
    /// Invite somebody: a link lets them in once
    Invite {
        /// Their address
        email: String,
        #[command(flatten)]
        names: Names,
        /// A role; at least one
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
        /// How they sign in
        #[arg(long, value_enum)]
        method: Option<SignIn>,
    },
    /// Make a new link for somebody; earlier ones are of no use any more
    Reinvite(Named),
    /// Show a user
    Show(Named),
    /// Change a user's names or roles
    Set {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        names: Names,
        /// A role; those that are not said are taken away
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Disable a user: their sessions end at once
    Disable(Named),
    /// Enable a user again
    Enable(Named),
    /// Delete a user: their sessions end, and API keys that belong to them are revoked
    Delete {
        #[command(flatten)]
        named: Named,
        /// Say what would end with them, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the sessions of a user
    Sessions(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// Their id or address
    user: String,
}

#[derive(Debug, Args)]
struct Names {
    /// Their first name
    #[arg(long, value_name = "TEXT")]
    first_name: Option<String>,
    /// Their last name
    #[arg(long, value_name = "TEXT")]
    last_name: Option<String>,
}

/// How somebody signs in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SignIn {
    Password,
    Oidc,
}

const COLUMNS: [Column; 6] = [
    ("EMAIL", |item| text(&item["email"])),
    ("NAME", |item| [text(&item["first_name"]), text(&item["last_name"])].join(" ").trim().to_owned()),
    ("ROLES", |item| text(&item["roles"])),
    ("STATUS", |item| text(&item["status"])),
    ("SIGN-IN", |item| text(&item["method"])),
    ("LAST SIGN-IN", |item| moment(&item["last_sign_in_at"])),
];

/// Runs `sidekey user`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |session| act(session, command.action).await)
}

async fn act(mut session: Session, action: Action) -> Result<(), Failure> {
    match action {
        Action::List(listing) => {
            let items = listing.items(&mut session, || show(&["users"])).await?;
            session.output.list(&items, &COLUMNS)
        }
        Action::Invite { email, names, roles, method } => {
            let mut document = Map::from_iter([("email".to_owned(), Value::from(email))]);
            names.lay_over(&mut document);
            set_list(&mut document, "roles", &roles);
            set(
                &mut document,
                "method",
                method.map(|method| match method {
                    SignIn::Password => "password",
                    SignIn::Oidc => "oidc",
                }),
            );
            let invited = session.call(Call::new(Method::POST, &["users"]).json(&document.into())).await?;
            tell_link(&session, &invited.body)
        }
        Action::Reinvite(named) => {
            let invited = session.call(named.call(Method::POST, &["invite"])).await?;
            tell_link(&session, &invited.body)
        }
        Action::Show(named) => {
            let answer = session.call(named.call(Method::GET, &[])).await?;
            session.output.thing(&answer.body)
        }
        Action::Set { named, names, roles } => replace(&mut session, &named, &names, &roles).await,
        Action::Disable(named) => turn(&mut session, &named, "disable", "is disabled").await,
        Action::Enable(named) => turn(&mut session, &named, "enable", "is enabled").await,
        Action::Delete { named, dry_run: true } => foresee_deletion(&mut session, &named).await,
        Action::Delete { named, dry_run: false } => {
            session.call(named.call(Method::DELETE, &[])).await?;
            session.output.done(&format!("the user {} is gone", named.user), &Value::Null)
        }
        Action::Sessions(named) => {
            super::session::list(&mut session, &Listing { limit: None }, Some(&named.user)).await
        }
    }
}

impl Named {
    fn call(&self, method: Method, below: &[&str]) -> Call {
        let segments: Vec<&str> = ["users", &self.user].into_iter().chain(below.iter().copied()).collect();
        Call::new(method, &segments)
    }
}

impl Names {
    fn lay_over(&self, document: &mut Map<String, Value>) {
        set(document, "first_name", self.first_name.clone());
        set(document, "last_name", self.last_name.clone());
    }
}

async fn replace(session: &mut Session, named: &Named, names: &Names, roles: &[String]) -> Result<(), Failure> {
    let mut document = Map::new();
    names.lay_over(&mut document);
    set_list(&mut document, "roles", roles);
    if document.is_empty() {
        return Err(Failure::Usage("nothing is to be changed; say --role, --first-name or --last-name".to_owned()));
    }
    // Roles alone are an endpoint of their own: names that somebody else changes meanwhile are not in the way.
    let below: &[&str] = if document.keys().all(|key| key == "roles") { &["roles"] } else { &[] };
    let changed = session.call(named.call(Method::PUT, below).json(&document.into())).await?;
    session.output.done(&format!("the user {} is changed", named.user), &changed.body)
}

/// Tells what ends with a user, and which connections nobody owns then.
async fn foresee_deletion(session: &mut Session, named: &Named) -> Result<(), Failure> {
    let user = session.call(named.call(Method::GET, &[])).await?.body;
    let (all, is_theirs) = (Listing { limit: None }, |item: &&Value| item["owner"] == user["id"]);
    let sessions = all.items(session, || named.call(Method::GET, &["sessions"])).await?;
    let keys = all.items(session, || show(&["api-keys"])).await?;
    let connections = all.items(session, || show(&["connections"])).await?;
    let alive = keys.iter().filter(is_theirs).filter(|key| key["status"] != "revoked");
    let along = [
        ("sessions_that_end", sessions.iter().map(|session| session["id"].clone()).collect()),
        ("api_keys_that_are_revoked", alive.map(|key| key["name"].clone()).collect()),
        ("connections_that_stay_without_them", connections.iter().filter(is_theirs).map(called).collect()),
    ];
    deletion(session.output, "user", &text(&user["email"]), &along)
}

async fn turn(session: &mut Session, named: &Named, verb: &str, what: &str) -> Result<(), Failure> {
    let turned = session.call(named.call(Method::POST, &[verb])).await?;
    session.output.done(&format!("the user {} {what}", named.user), &turned.body)
}

/// The link lets in whoever opens it, once; it is shown whether or not it was sent.
fn tell_link(session: &Session, invited: &Value) -> Result<(), Failure> {
    if session.output == Output::Json {
        return session.output.thing(invited);
    }
    let mail = match invited["mail"].as_str() {
        Some("sent") => "it was sent to them",
        Some("failed") => "the mail server did not take it; the log says why",
        _ => "no mail server is configured, so hand it over yourself",
    };
    eprintln!(
        "{} is invited; the link works once, until {}; {mail}:",
        text(&invited["email"]),
        text(&invited["link_expires_at"])
    );
    print(&format!("{}\n", text(&invited["link"])))
}
