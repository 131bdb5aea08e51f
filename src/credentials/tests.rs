use std::collections::HashSet;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::Method;
use secrecy::SecretString;

use super::*;
use crate::directory::scope::Scope;
use crate::directory::{Aim, Caller, Directory, LookupError, Named, Wanted};
use crate::model::connection::{Connection, ConnectionDraft};
use crate::model::credential::Credential;
use crate::model::document::{Problems, Reader};
use crate::model::id::{IntegrationId, OrganizationId, Reference};
use crate::model::integration::Integration;
use crate::upstream::outbound::Outbound;
use crate::vault::audit::Author as Who;
use crate::vault::change::resource::{self, Force};
use crate::vault::change::{Change, PutMode};
use crate::vault::database::Options;
use crate::vault::declared::{Author, Declared};
use crate::vault::key::MasterKeySource;

/// An integration of `host` with a bearer token, and a connection of it.
fn example(host: &str) -> (Integration, ConnectionDraft) {
    let document = serde_json::json!({
        "slug": "api", "base_url": format!("https://{host}"), "auth": [{ "method": "token", "type": "bearer" }],
    });
    let problems = Problems::default();
    let draft = serde_json::json!({ "key": "api", "integration": "api" });
    let draft = ConnectionDraft::read(&Reader::new(&draft, "", &problems).unwrap()).unwrap();
    (Integration::parse(&document, IntegrationId::derived("api")).unwrap(), draft)
}

/// Both declared, with a credential.
fn declared(host: &str, token: &str) -> (Declared, HashSet<OrganizationId>) {
    let owner = OrganizationId::derived("default");
    let (integration, draft) = example(host);
    let connection = draft.into_connection(ConnectionId::derived("api"), owner);
    let mut declared = Declared::default();
    declared.add_integration(integration, Author::Operator);
    let token = vec![("token".parse().unwrap(), SecretString::from(token))];
    declared.add_credential(connection.id, "production".parse().unwrap(), token);
    declared.add_connection(connection);
    (declared, HashSet::from([owner]))
}

fn scope() -> Scope {
    let production: EnvironmentName = "production".parse().unwrap();
    Scope {
        organization: OrganizationId::derived("default"),
        environment: production.clone(),
        environments: vec![production],
        connections: vec!["*".parse().unwrap()],
        customers: Vec::new(),
        connection: None,
        owner: None,
    }
}

fn admitted(kept: &Kept<Injections>, environment: &str) -> Permit {
    let environment = environment.parse().unwrap();
    let wanted = Wanted { environment, aim: Aim::Base, method: &Method::GET, rest: "", is_disguised: false };
    kept.admit(&Caller::of(&scope()), wanted, Instant::now(), None).unwrap()
}

struct Setting {
    vault: Vault,
    directory: Directory,
    credentials: Credentials,
    table: Local,
}

impl Setting {
    fn new(control: tokio::runtime::Handle) -> Self {
        Self::over(Vault::without_database(), control)
    }

    fn over(vault: Vault, control: tokio::runtime::Handle) -> Self {
        let limits =
            Limits { entries: 10, time_to_live: Duration::from_secs(60), time_to_idle: Duration::from_secs(60) };
        let directory = Directory::new(vault.clone(), limits, control.clone());
        let credentials = Credentials::new(vault.clone(), Outbound::closed(), limits, control);
        let table = directory.table();
        Setting { vault, directory, credentials, table }
    }

    fn declare(&self, host: &str, token: &str) {
        let (declared, owners) = declared(host, token);
        self.vault.declare(declared, &owners);
    }

    fn admit(&self) -> (Rc<Kept<Injections>>, Permit) {
        let named = Named { organization: scope().organization, customer: None, reference: Reference::Key(b"api") };
        let kept = self.directory.known(&self.table, named, Instant::now()).unwrap().unwrap();
        let permit = admitted(&kept, "production");
        (kept, permit)
    }

    fn known(&self, kept: &Kept<Injections>, permit: &Permit) -> Result<Arc<Injection>, ResolveError> {
        self.credentials.known(kept, permit).unwrap()
    }
}

/// A control runtime that nobody polls: whoever asks it for something waits for ever.
fn nobody() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn sent(injection: &Injection) -> &str {
    str::from_utf8(injection.header_lines()).unwrap()
}

#[test]
fn a_declared_credential_is_rendered_at_once_and_a_reload_holds_for_the_next_request() {
    let control = nobody();
    let setting = Setting::new(control.handle().clone());
    for token in ["first", "second"] {
        setting.declare("api.test", token);
        let (kept, permit) = setting.admit();
        let injection = setting.known(&kept, &permit).unwrap();
        assert_eq!(sent(&injection), format!("Authorization: Bearer {token}\r\n"));
        let (again, permit) = setting.admit();
        assert!(Rc::ptr_eq(&kept, &again));
        assert!(Arc::ptr_eq(&injection, &setting.known(&again, &permit).unwrap()), "rendered once");
    }
    let staging = {
        let (kept, _) = setting.admit();
        let permit = admitted(&kept, "staging");
        setting.known(&kept, &permit)
    };
    assert!(matches!(staging, Err(ResolveError::Missing(Missing::Credential(_)))));
}

fn make_ready(setting: &Setting) -> usize {
    let mut made = 0;
    setting.directory.make_ready(&setting.table, |kept| {
        setting.credentials.make_ready(kept);
        made += 1;
    });
    made
}

#[test]
fn what_is_declared_is_made_ready_before_it_is_asked_for() {
    let control = nobody();
    let setting = Setting::new(control.handle().clone());
    setting.declare("api.test", "token");
    assert_eq!(make_ready(&setting), 1);
    let (kept, permit) = setting.admit();
    let ready = kept.beside().get(&"production".parse().unwrap()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&ready, &setting.known(&kept, &permit).unwrap()), "rendered once");
    setting.declare("api.test", "other");
    let (kept, permit) = setting.admit();
    assert_eq!(sent(&setting.known(&kept, &permit).unwrap()), "Authorization: Bearer other\r\n");
}

#[test]
fn no_more_is_made_ready_than_half_of_what_a_worker_holds() {
    let control = nobody();
    let setting = Setting::new(control.handle().clone());
    let (mut declared, owners) = declared("api.test", "token");
    let (_, draft) = example("api.test");
    for number in 0..20 {
        let id = ConnectionId::derived(&number.to_string());
        let mut connection = draft.clone().into_connection(id, scope().organization);
        connection.key = format!("api-{number}").parse().unwrap();
        declared.add_connection(connection);
    }
    setting.vault.declare(declared, &owners);
    assert_eq!(make_ready(&setting), 5);
}

#[test]
fn a_sweep_forgets_a_route_with_its_injection() {
    let control = nobody();
    let setting = Setting::new(control.handle().clone());
    setting.declare("api.test", "token");
    let (kept, permit) = setting.admit();
    let injection = Arc::downgrade(&setting.known(&kept, &permit).unwrap());
    let route = Arc::downgrade(permit.route());
    drop((kept, permit));
    setting.table.sweep();
    assert!(injection.upgrade().is_some(), "used since the sweep before");
    setting.table.sweep();
    assert!(injection.upgrade().is_none() && route.upgrade().is_none());
    // The route alone goes on being used: the injection goes nevertheless.
    let (kept, permit) = setting.admit();
    let injection = Arc::downgrade(&setting.known(&kept, &permit).unwrap());
    for _ in 0..2 {
        assert!(injection.upgrade().is_some());
        setting.admit();
        setting.table.sweep();
    }
    assert!(injection.upgrade().is_none());
    assert!(setting.known(&kept, &permit).is_ok());
}

#[test]
fn a_credential_never_meets_the_hosts_of_another_moment_under_constant_reloads() {
    let control = nobody();
    let setting = Setting::new(control.handle().clone());
    setting.declare("host-0.test", "token-0");
    let vault = setting.vault.clone();
    let reloading = std::thread::spawn(move || {
        for round in 1..=300 {
            let (declared, owners) = declared(&format!("host-{round}.test"), &format!("token-{round}"));
            vault.declare(declared, &owners);
        }
    });
    let mut seen = 0;
    let named = Named { organization: scope().organization, customer: None, reference: Reference::Key(b"api") };
    while !reloading.is_finished() || seen == 0 {
        let Some(Ok(kept)) = setting.directory.known(&setting.table, named, Instant::now()) else { continue };
        let permit = admitted(&kept, "production");
        let Some(Ok(injection)) = setting.credentials.known(&kept, &permit) else { continue };
        let host = permit.admission().origin().host.to_string();
        let round = host.trim_start_matches("host-").trim_end_matches(".test");
        assert_eq!(sent(&injection), format!("Authorization: Bearer token-{round}\r\n"));
        seen += 1;
    }
    reloading.join().unwrap();
    let (kept, permit) = setting.admit();
    assert_eq!(sent(&setting.known(&kept, &permit).unwrap()), "Authorization: Bearer token-300\r\n");
}

#[tokio::test]
async fn a_credential_is_never_used_with_the_hosts_of_another_revision() {
    let setting = Setting::new(tokio::runtime::Handle::current());
    setting.declare("old.test", "old");
    let (kept, permit) = setting.admit();
    assert!(setting.credentials.resolve(&kept, &permit).await.is_ok());

    // The host and its credential change after the permit was made for the old host.
    setting.declare("new.test", "new");
    assert!(matches!(setting.credentials.resolve(&kept, &permit).await, Err(ResolveError::Overtaken)));

    let (kept, permit) = setting.admit();
    assert_eq!(permit.admission().origin().to_string(), "https://new.test");
    assert!(setting.credentials.resolve(&kept, &permit).await.is_ok());
}

/// A vault of its own, with a bearer connection `api` whose token refers to the secret `KEY`.
async fn stored(folder: &Path) -> (Setting, Connection) {
    let master_key = MasterKeySource::File { path: folder.join("master.key"), any_mode: false };
    let (vault, _) = Vault::open(Options { path: folder.join("sidekey.vault"), master_key }).await.unwrap();
    let organization = vault.organization("default").await.unwrap().unwrap().id;
    let (integration, draft) = example("api.test");
    let connection = draft.into_connection(ConnectionId::generate(), organization);
    let (key, environment) = ("KEY".parse::<SecretKey>().unwrap(), "production".parse().unwrap());
    let (mode, description) = (PutMode::Create, None);
    for change in [
        Change::PutIntegration { organization, integration: Box::new(integration), mode },
        Change::PutConnection { connection: Box::new(connection.clone()), mode },
        Change::PutSecret { organization, key: key.clone(), description, mode },
        Change::PutSecretValue { organization, key, environment, value: SecretString::from("secret") },
    ] {
        vault.commit(&Who::system("test"), change).await.unwrap();
    }
    (Setting::over(vault, tokio::runtime::Handle::current()), connection)
}

/// Stores a token in front of the secret.
async fn put_token(vault: &Vault, connection: &Connection, token: &str) {
    let token = SecretString::from(format!("{token}-@@SECRET:KEY@@"));
    let change = Change::PutCredential {
        organization: connection.organization,
        connection: connection.id,
        environment: "production".parse().unwrap(),
        credential: Credential::new([("token".parse().unwrap(), token)].into_iter().collect()),
        origins: vec!["https://api.test".to_owned()],
        expires_at: None,
    };
    vault.commit(&Who::system("test"), change).await.unwrap();
}

/// The load has read the old token and waits for the secret while the new token is stored and answered. Who asks after
/// that shares the load, which is in flight, and must neither get what it brings nor leave it to those who come later.
#[tokio::test]
async fn a_load_that_began_before_a_change_and_ends_after_it_is_not_served_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (setting, connection) = stored(folder.path()).await;
    let Setting { vault, directory, credentials, table } = &setting;
    put_token(vault, &connection, "old").await;
    let named = Named { organization: connection.organization, customer: None, reference: Reference::Key(b"api") };
    let admit = async || {
        let kept = directory.route(table, named, Instant::now()).await.unwrap();
        let permit = admitted(&kept, "production");
        (kept, permit)
    };
    let resolve = async || {
        let (kept, permit) = admit().await;
        sent(&credentials.resolve(&kept, &permit).await.unwrap()).to_owned()
    };
    admit().await;
    let (mut paused, before) = (vault.pause_reads().await, vault.reads_begun());
    let begun = async |count: u64| {
        while vault.reads_begun() < before + count {
            tokio::task::yield_now().await;
        }
    };
    let changing = async {
        begun(1).await;
        paused.let_one_through().await;
        begun(2).await;
        put_token(vault, &connection, "new").await;
        let mut next = Box::pin(resolve());
        let is_waiting = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await;
        assert!(is_waiting && vault.reads_begun() == before + 2, "it waits for the load that is in flight");
        drop(paused);
        assert_eq!(next.await, "Authorization: Bearer new-secret\r\n");
    };
    let (slow, ()) = tokio::join!(resolve(), changing);
    assert!(["old", "new"].iter().any(|token| slow == format!("Authorization: Bearer {token}-secret\r\n")), "{slow}");
    assert_eq!(resolve().await, "Authorization: Bearer new-secret\r\n", "nor is it beside the route");
    let elsewhere = directory.table();
    let kept = directory.route(&elsewhere, named, Instant::now()).await.unwrap();
    let permit = admitted(&kept, "production");
    let shared = credentials.resolve(&kept, &permit).await.unwrap();
    assert_eq!(sent(&shared), "Authorization: Bearer new-secret\r\n", "nor among what workers share");
}

/// The same of a route: its load has read the connection and waits for the integration while the connection is deleted,
/// and the deletion answered.
#[tokio::test]
async fn a_route_whose_load_began_before_its_connection_was_deleted_is_not_served_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (setting, connection) = stored(folder.path()).await;
    let Setting { vault, directory, table, .. } = &setting;
    let named = Named { organization: connection.organization, customer: None, reference: Reference::Key(b"api") };
    let is_there = async |table: &Local| match directory.route(table, named, Instant::now()).await {
        Ok(_) => true,
        Err(LookupError::Unknown) => false,
        Err(error) => panic!("{error}"),
    };
    let (mut paused, before) = (vault.pause_reads().await, vault.reads_begun());
    let begun = async |count: u64| {
        while vault.reads_begun() < before + count {
            tokio::task::yield_now().await;
        }
    };
    let deleting = async {
        begun(1).await;
        paused.let_one_through().await;
        begun(2).await;
        let (organization, connection) = (connection.organization, connection.id);
        let delete = resource::Change::DeleteConnection { organization, connection, force: Force::No };
        vault.commit(&Who::system("test"), Change::Resource(delete)).await.unwrap();
        let mut next = Box::pin(is_there(table));
        let is_waiting = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await;
        assert!(is_waiting && vault.reads_begun() == before + 2, "it waits for the load that is in flight");
        drop(paused);
        assert!(!next.await, "who asks after the answer is not told what was read before it");
    };
    let (_slow, ()) = tokio::join!(is_there(table), deleting);
    assert!(!is_there(table).await, "nor is it in the worker's table");
    assert!(!is_there(&directory.table()).await, "nor among what workers share");
}
