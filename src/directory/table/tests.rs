use std::collections::HashSet;
use std::time::Duration;

use super::*;
use crate::model::connection::ConnectionDraft;
use crate::model::document::{Problems, Reader};
use crate::model::id::{ConnectionId, IntegrationId, OrganizationId};
use crate::model::integration::Integration;
use crate::vault::Vault;
use crate::vault::declared::{Author, Declared};

/// Counts what it is told.
#[derive(Default)]
struct Counted {
    looks: Cell<u32>,
    sweeps: Cell<u32>,
}

impl Beside for Counted {
    fn keep_current(&self) {
        self.looks.set(self.looks.get() + 1);
    }

    fn sweep(&self) {
        self.sweeps.set(self.sweeps.get() + 1);
    }
}

fn owner() -> OrganizationId {
    OrganizationId::derived("default")
}

/// Connections of one integration to a host.
fn declare(vault: &Vault, host: &str, drafts: &[serde_json::Value]) {
    let document = serde_json::json!({
        "slug": "api", "base_url": format!("https://{host}"), "customer_fallback": true,
        "auth": [{ "method": "none", "type": "none" }],
    });
    let mut declared = Declared::default();
    declared.add_integration(Integration::parse(&document, IntegrationId::derived("api")).unwrap(), Author::Operator);
    for draft in drafts {
        let problems = Problems::default();
        let draft = ConnectionDraft::read(&Reader::new(draft, "", &problems).unwrap()).unwrap();
        let customer = draft.customer.as_ref().map_or("", |customer| customer.as_str());
        let id = ConnectionId::derived(&format!("{customer}/{}", draft.key));
        declared.add_connection(draft.into_connection(id, owner()));
    }
    vault.declare(declared, &HashSet::from([owner()]));
}

fn drafts(keys: &[&str]) -> Vec<serde_json::Value> {
    keys.iter().map(|key| serde_json::json!({ "key": key, "integration": "api" })).collect()
}

fn setting(keys: &[&str], entries: u64) -> (Vault, super::super::Directory, Table<Counted>) {
    let vault = Vault::without_database();
    declare(&vault, "old.test", &drafts(keys));
    let limits = Limits { entries, time_to_live: Duration::from_secs(60), time_to_idle: Duration::from_secs(60) };
    let control = tokio::runtime::Handle::current();
    let directory = super::super::Directory::new(vault.clone(), limits, control);
    let table = directory.table();
    (vault, directory, table)
}

fn named<'a>(customer: Option<&'a str>, reference: &'a str) -> Named<'a> {
    Named { organization: owner(), customer, reference: Reference::parse(reference).unwrap() }
}

/// Neither the control runtime, which is not polled here, nor the shared cache is asked for what is declared.
#[tokio::test]
async fn what_is_declared_is_known_at_once_and_then_found_again() {
    let (vault, directory, table) = setting(&["crm"], 10);
    let first = directory.known(&table, named(None, "crm"), Instant::now()).unwrap().unwrap();
    let second = directory.known(&table, named(None, "crm"), Instant::now()).unwrap().unwrap();
    assert!(Rc::ptr_eq(&first, &second), "one entry");
    assert_eq!(second.beside().looks.get(), 1, "nothing has changed, so it was looked at once");
    let id = first.route().connection.id.to_string();
    let by_id = directory.known(&table, named(Some("acme"), &id), Instant::now()).unwrap().unwrap();
    assert_eq!(by_id.route().connection, first.route().connection);
    assert!(Arc::ptr_eq(by_id.route().site(), first.route().site()), "one site for the integration");
    for unknown in ["nobody", "No Key!"] {
        assert!(matches!(
            directory.known(&table, named(None, unknown), Instant::now()),
            Some(Err(super::super::LookupError::Unknown))
        ));
    }
    assert_eq!(table.unknown.borrow().len(), 1, "what can be no name need not be remembered");
    // It becomes a name.
    declare(&vault, "new.test", &drafts(&["crm", "nobody"]));
    assert!(directory.known(&table, named(None, "nobody"), Instant::now()).unwrap().is_ok());
    assert_eq!(table.unknown.borrow().len(), 0);
    let third = directory.known(&table, named(None, "crm"), Instant::now()).unwrap().unwrap();
    assert_eq!(third.route().base.to_string(), "https://new.test");
    assert!(!first.is_current(vault.revisions()));
}

/// A hash that two names share is as good as never met, so an entry is asked here.
#[test]
fn a_route_is_called_by_all_of_its_name() {
    let keys = [1, 29, 30, 31, 63].map(|length| "k".repeat(length));
    let names: Vec<Named> = keys.iter().map(|key| named(None, key)).collect();
    let elsewhere = names.iter().map(|name| Named { organization: OrganizationId::derived("other"), ..*name });
    let customers = names.iter().map(|name| Named { customer: Some("acme"), ..*name });
    let all: Vec<Named> = names.iter().copied().chain(elsewhere).chain(customers).collect();
    let (vault, integration) = (Vault::without_database(), &drafts(&["k"]));
    declare(&vault, "old.test", integration);
    let (declared, _) = vault.snapshot().unwrap();
    let connection = declared.connections().next().unwrap();
    let integration = declared.integration(&connection.integration).unwrap();
    let route = Route::new(Arc::clone(connection), Arc::clone(integration)).unwrap();
    for name in &all {
        let called = Called::new(name, &route).unwrap();
        assert_eq!(all.iter().filter(|other| called.named(&route) == **other).count(), 1);
        assert_eq!(called.named(&route), *name);
    }
}

#[tokio::test]
async fn two_names_are_never_one() {
    let (vault, directory, table) = setting(&[], 100);
    let customers =
        ["a", "b"].map(|customer| serde_json::json!({ "key": "crm", "integration": "api", "customer": customer }));
    declare(&vault, "old.test", &[drafts(&["crm"]), customers.to_vec()].concat());
    let customer = |named| {
        let kept = directory.known(&table, named, Instant::now()).unwrap().unwrap();
        kept.route().connection.customer.as_ref().map(|customer| customer.as_str().to_owned())
    };
    for _ in 0..2 {
        assert_eq!(customer(named(None, "crm")), None);
        assert_eq!(customer(named(Some("a"), "crm")).as_deref(), Some("a"));
        assert_eq!(customer(named(Some("b"), "crm")).as_deref(), Some("b"));
        assert_eq!(customer(named(Some("c"), "crm")), None, "the organization's own serves who has none");
    }
    let other = Named { organization: OrganizationId::derived("other"), ..named(None, "crm") };
    assert!(directory.known(&table, other, Instant::now()).unwrap().is_err());
    let id = directory
        .known(&table, named(Some("a"), "crm"), Instant::now())
        .unwrap()
        .unwrap()
        .route()
        .connection
        .id
        .to_string();
    assert!(directory.known(&table, named(Some("a"), &id), Instant::now()).unwrap().is_ok());
    assert!(directory.known(&table, named(Some("b"), &id), Instant::now()).unwrap().is_err(), "another customer's");
}

#[tokio::test]
async fn what_is_unused_or_too_old_is_forgotten() {
    let (_vault, directory, table) = setting(&["crm", "erp"], 10);
    let crm = directory.known(&table, named(None, "crm"), Instant::now()).unwrap().unwrap();
    assert!(directory.known(&table, named(None, "nobody"), Instant::now()).unwrap().is_err());
    table.sweep();
    assert_eq!((table.routes.borrow().len(), crm.beside().sweeps.get()), (1, 1));
    directory.known(&table, named(None, "erp"), Instant::now()).unwrap().unwrap();
    table.sweep();
    assert_eq!((table.routes.borrow().len(), table.unknown.borrow().len()), (1, 0));
    assert_eq!(Rc::strong_count(&crm), 1, "the table has let go of it");
    let erp = directory.known(&table, named(None, "erp"), Instant::now()).unwrap().unwrap();
    erp.added(Instant::now());
    let again = directory.known(&table, named(None, "erp"), Instant::now()).unwrap().unwrap();
    assert!(!Rc::ptr_eq(&erp, &again), "what is put beside a route shortens its time");
}

#[tokio::test]
async fn the_table_is_bounded() {
    let keys: Vec<String> = (0..20).map(|number| format!("crm-{number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let (_vault, directory, table) = setting(&keys, 4);
    for key in &keys {
        directory.known(&table, named(None, key), Instant::now()).unwrap().unwrap();
        assert!(directory.known(&table, named(None, &format!("no-{key}")), Instant::now()).unwrap().is_err());
        assert!(table.routes.borrow().len() <= 4 && table.unknown.borrow().len() <= 4);
    }
}
