//! `sidekey connection create` and `set`: all of what is said, or nothing.
//!
//! A connection and its credential are two calls of the API. What can be judged is judged before the first one; where
//! the second is refused all the same, the first is taken back.

use clap::{Args, ValueEnum};
use http::{HeaderValue, Method};
use serde_json::{Map, Value, json};

use super::{InEnvironment, statuses};
use crate::admin::connections::SHOWN_ONLY;
use crate::cli::Failure;
use crate::cli::access::Session;
use crate::cli::client::Call;
use crate::cli::entered::{self, Entered};
use crate::cli::foreseen::{Aim, Foreseen};
use crate::cli::resource::{Written, pair, set, set_list, show};
use crate::cli::show::text;

/// Who may see and use a connection.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Visibility {
    Organization,
    Personal,
}

/// What somebody wants a connection to be.
#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    place: InEnvironment,
    /// A field of the credential: NAME asks for it, NAME=- reads stdin, NAME=@FILE a file
    #[arg(long = "set", value_name = "NAME[=-|=@FILE]")]
    entered: Vec<String>,
    /// When what is entered ends to be of use, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "MOMENT", requires = "entered")]
    expires_at: Option<String>,
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
    /// Say what would differ and which credentials would be blocked; ask for no secret, change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Change {
    /// Lays what the options say over a document; the answer is whether they say anything.
    fn lay_over(&self, document: &mut Map<String, Value>) -> bool {
        let before = document.clone();
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

/// Creates a connection, with its credential where one is entered.
pub(super) async fn create(session: &mut Session, change: &Change) -> Result<(), Failure> {
    let named = &change.place.named;
    let mut document = change.written.read()?;
    change.lay_over(&mut document);
    document.insert("key".to_owned(), named.connection.clone().into());
    set(&mut document, "customer", named.customer.clone());
    document.entry("integration").or_insert_with(|| named.connection.clone().into());
    let document = Value::from(document);
    if change.dry_run {
        return foresee(session, change, &Value::Null, &document).await;
    }
    let entered = change.read_entered(session, &document).await?;
    let made = session.call(Call::new(Method::POST, &["connections"]).json(&document)).await?;
    if entered.is_empty() {
        let next = format!(
            "the connection {0} is there; enter its credential with `sidekey connection set {0} --set …`",
            named.connection
        );
        return session.output.done(&next, &made.body);
    }
    let id = text(&made.body["id"]);
    let entering = enter(session, change, &id, &entered).await;
    if let Err(failure) = entering {
        let back = Call::new(Method::DELETE, &["connections", &id]).version(made.version);
        return Err(take_back(session, failure, back, &named.connection).await);
    }
    done(session, &id, "is there").await
}

/// Changes a connection, its credential, or both.
pub(super) async fn replace(session: &mut Session, change: &Change, rename: Option<&str>) -> Result<(), Failure> {
    let named = &change.place.named;
    let found = session.call(named.call(Method::GET, &[])).await?;
    let mut document = match change.written.is_given() {
        true => change.written.read()?,
        false => found.body.as_object().cloned().unwrap_or_default(),
    };
    let is_changed = change.lay_over(&mut document) || change.written.is_given() || rename.is_some();
    set(&mut document, "key", rename);
    if !is_changed && change.entered.is_empty() {
        return Err(Failure::Usage(
            "nothing is to be changed; --set enters a credential, `sidekey connection set --help` lists the rest"
                .to_owned(),
        ));
    }
    let document = Value::from(document);
    if change.dry_run {
        return foresee(session, change, &found.body, &document).await;
    }
    let entered = change.read_entered(session, &document).await?;
    // The key may become another one.
    let id = text(&found.body["id"]);
    let place = ["connections", &id];
    // First the connection: a credential is bound to the hosts that its connection has when it is entered.
    let mut changed: Option<HeaderValue> = None;
    if is_changed {
        let put = Call::new(Method::PUT, &place).json(&document).version(found.version);
        changed = session.call(put).await?.version;
    }
    if entered.is_empty() {
        return done(session, &id, "is changed").await;
    }
    let entering = enter(session, change, &id, &entered).await;
    match entering {
        Ok(()) => done(session, &id, "is changed").await,
        Err(failure) if is_changed => {
            let back = Call::new(Method::PUT, &place).json(&found.body).version(changed);
            Err(take_back(session, failure, back, &named.connection).await)
        }
        Err(failure) => Err(failure),
    }
}

impl Change {
    /// Reads what is entered, once it is known that there is a place for it: who is asked at a prompt for nothing has
    /// shown a secret for nothing.
    async fn read_entered(&self, session: &mut Session, document: &Value) -> Result<Vec<Entered>, Failure> {
        let names = entered::names(&self.entered)?;
        if !names.is_empty() {
            self.judge(session, document, &names).await?;
        }
        entered::read(&self.entered)
    }

    async fn judge(&self, session: &mut Session, document: &Value, names: &[&str]) -> Result<(), Failure> {
        let environment = self.place.environment(session);
        session.call(show(&["environments", &environment])).await?;
        let slug = document["integration"].as_str().unwrap_or_default();
        // One that is not there is told by the server, with every other mistake.
        if let Ok(aim) = Aim::read(session, slug).await {
            aim.judge_fields(document["auth"].as_str(), names.iter().copied())?;
        }
        Ok(())
    }
}

/// Tells what would differ and whose credential would be blocked.
async fn foresee(session: &mut Session, change: &Change, before: &Value, after: &Value) -> Result<(), Failure> {
    let slug = |document: &Value| document["integration"].as_str().unwrap_or_default().to_owned();
    let names = entered::names(&change.entered)?;
    let becomes = Aim::read(session, &slug(after)).await?;
    becomes.judge(&after["values"], false)?;
    becomes.judge_fields(after["auth"].as_str(), names.iter().copied())?;
    let mut foreseen = Foreseen::of(("connection", &change.place.named.connection), before, after, &SHOWN_ONLY);
    if !before.is_null() {
        let was = Aim::read(session, &slug(before)).await?;
        foreseen.block(before, &was, &becomes, &after["values"])?;
    }
    if !names.is_empty() {
        let environment = change.place.environment(session);
        session.call(show(&["environments", &environment])).await?;
        foreseen.notes.push(format!("entered in {environment}: {}", names.join(", ")));
    }
    foreseen.tell(session.output)
}

/// Enters a credential: all of its fields are replaced.
async fn enter(session: &mut Session, change: &Change, id: &str, entered: &[Entered]) -> Result<(), Failure> {
    let environment = change.place.environment(session);
    let call = Call::new(Method::PUT, &["connections", id, "credentials", &environment]);
    let call = call.query_if("expires_at", change.expires_at.clone());
    session.call(call.bytes(entered::document(entered)?)).await?;
    Ok(())
}

/// Takes a first change back whose second one failed; the failure, with what became of it.
async fn take_back(session: &mut Session, failure: Failure, back: Call, connection: &str) -> Failure {
    let look = format!("look at it with `sidekey connection show {connection}`");
    if let Failure::Unreachable(_) = failure {
        return failure.with(&format!("whether the credential of {connection} was entered is not known: {look}"));
    }
    match session.call(back).await {
        Ok(_) => failure.with("nothing was changed"),
        Err(kept) => {
            failure.with(&format!("the connection {connection} is as it was asked for, without a new credential, for taking that back failed too: {kept}; {look}"))
        }
    }
}

/// Says how the connection stands now.
async fn done(session: &mut Session, id: &str, what: &str) -> Result<(), Failure> {
    let shown = session.call(show(&["connections", id])).await?.body;
    let sentence = format!("the connection {} {what}: {}", text(&shown["key"]), statuses(&shown["environments"]));
    session.output.done(&sentence, &shown)
}
