use serde_json::json;
use sqlx::Connection as _;

use super::*;
use crate::vault::change::{Change, PutMode};
use crate::vault::fixture::{Home, author, connection};
use crate::vault::list::Page;
use crate::vault::rekey::NewKey;

/// A vault with the creation's event and four more.
async fn some_events(home: &Home) -> (Database, OrganizationId) {
    let database = home.open().await;
    let organization = database.default_organization().await;
    for key in ["one", "two", "three", "four"] {
        database.put_connection(organization, key).await;
    }
    (database, organization)
}

async fn verified(database: &Database, organization: OrganizationId) -> Verified {
    database.verify_audit(Chain::Organization(organization), None).await.unwrap()
}

/// What a verification finds after somebody did this to the file.
async fn after(sql: &'static str) -> Verified {
    let home = Home::new();
    let (database, organization) = some_events(&home).await;
    let before = verified(&database, organization).await;
    assert_eq!((before.count, before.broken), (5, None));
    let mut raw = home.raw().await;
    let affected = sqlx::raw_sql(sql).execute(&mut raw).await.unwrap().rows_affected();
    assert!(affected > 0, "{sql}");
    raw.close().await.unwrap();
    let found = verified(&database, organization).await;
    database.close().await;
    found
}

async fn broken(sql: &'static str) -> (i64, Reason) {
    let broken = after(sql).await.broken.unwrap_or_else(|| panic!("not found: {sql}"));
    (broken.sequence, broken.reason)
}

#[tokio::test]
async fn a_row_that_was_altered_is_found() {
    for (sql, sequence) in [
        ("UPDATE audit SET actor = 'apk_other' WHERE sequence = 3", 3),
        ("UPDATE audit SET detail = '{}' WHERE sequence = 2", 2),
        ("UPDATE audit SET at = at + 1 WHERE sequence = 5", 5),
        ("UPDATE audit SET address = '' WHERE sequence = 4", 4),
        ("UPDATE audit SET request_id = 'req_1' WHERE sequence = 4", 4),
        ("UPDATE audit SET action = 'connection.delete' WHERE sequence = 1", 1),
        ("UPDATE audit SET object = 'conn_1' WHERE sequence = 5", 5),
        ("UPDATE audit SET id = 'evt_1' WHERE sequence = 2", 2),
        ("UPDATE audit SET mac = zeroblob(32) WHERE sequence = 2", 2),
        ("UPDATE audit SET mac = NULL WHERE sequence = 2", 2),
    ] {
        assert_eq!(broken(sql).await, (sequence, Reason::Altered), "{sql}");
    }
}

#[tokio::test]
async fn a_row_that_was_removed_or_moved_or_added_is_found() {
    assert_eq!(broken("DELETE FROM audit WHERE sequence = 3").await, (3, Reason::Removed));
    assert_eq!(broken("DELETE FROM audit WHERE sequence = 1").await, (1, Reason::Removed));
    assert_eq!(broken("DELETE FROM audit WHERE sequence = 5").await, (5, Reason::Removed));
    assert_eq!(broken("DELETE FROM audit").await, (1, Reason::Removed));
    let closed_up = "DELETE FROM audit WHERE sequence = 3; UPDATE audit SET sequence = sequence - 1 WHERE sequence > 3; \
         UPDATE audit_chains SET count = 4";
    assert_eq!(broken(closed_up).await, (3, Reason::Altered));
    let reordered = "UPDATE audit SET sequence = 1002 WHERE sequence = 2; \
                     UPDATE audit SET sequence = 2 WHERE sequence = 3; \
                     UPDATE audit SET sequence = 3 WHERE sequence = 1002";
    assert_eq!(broken(reordered).await, (2, Reason::Altered));
    let copied = "INSERT INTO audit SELECT 'evt_2', organization_id, at, actor, action, object, detail, address, \
                  request_id, 6, key_id, mac FROM audit WHERE sequence = 5";
    assert_eq!(broken(copied).await, (6, Reason::Added));
    let slipped_in = "INSERT INTO audit SELECT 'evt_2', organization_id, at, actor, action, object, detail, address, \
                      request_id, NULL, key_id, mac FROM audit WHERE sequence = 5";
    assert_eq!(broken(slipped_in).await, (5, Reason::Added));
    assert_eq!(broken("UPDATE audit_chains SET head = zeroblob(32)").await, (5, Reason::Altered));
    let elsewhere = "UPDATE audit SET organization_id = 'org_1' WHERE sequence = 5; UPDATE audit_chains SET count = 4, \
                     head = (SELECT mac FROM audit WHERE sequence = 4)";
    assert_eq!(after(elsewhere).await.count, 4, "a cut tail shows to whoever kept the count");
    assert_eq!(
        broken("UPDATE data_keys SET ciphertext = zeroblob(48) WHERE purpose = 'audit'").await,
        (1, Reason::KeyLost)
    );
}

#[tokio::test]
async fn a_tail_that_was_cut_shows_to_whoever_kept_the_head() {
    let home = Home::new();
    let (database, organization) = some_events(&home).await;
    let chain = Chain::Organization(organization);
    let Verified { count, head, .. } = verified(&database, organization).await;
    let kept = Kept { count, head };
    database.put_connection(organization, "five").await;
    let later = database.verify_audit(chain, Some(&kept)).await.unwrap();
    assert_eq!((later.count, later.broken), (6, None));

    let mut raw = home.raw().await;
    let cut = "DELETE FROM audit WHERE sequence > 3; UPDATE audit_chains SET count = 3, \
               head = (SELECT mac FROM audit WHERE sequence = 3)";
    sqlx::raw_sql(cut).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    assert_eq!(verified(&database, organization).await.broken, None, "nobody can see it from the inside");
    let broken = database.verify_audit(chain, Some(&kept)).await.unwrap().broken.unwrap();
    assert_eq!((broken.sequence, broken.reason), (5, Reason::Cut));
    // Nor does it help to write others in their place.
    for key in ["six", "seven", "eight"] {
        database.put_connection(organization, key).await;
    }
    let broken = database.verify_audit(chain, Some(&kept)).await.unwrap().broken.unwrap();
    assert_eq!(broken.reason, Reason::Cut);
    database.close().await;
}

#[tokio::test]
async fn a_chain_goes_on_over_a_new_master_key_and_a_restart() {
    let home = Home::new();
    let (database, organization) = some_events(&home).await;
    database.rekey(&author(), NewKey::Replace).await.unwrap();
    database.put_connection(organization, "five").await;
    database.close().await;
    let database = home.open().await;
    database.put_connection(organization, "six").await;
    let found = verified(&database, organization).await;
    assert_eq!((found.count, found.broken), (7, None));
    let vault = database.verify_audit(Chain::Vault, None).await.unwrap();
    assert_eq!((vault.count, vault.broken), (1, None), "the rekey");
    assert_ne!(vault.head, found.head);
    database.close().await;
}

#[tokio::test]
async fn a_lost_key_loses_what_it_authenticated_and_not_what_happens_then() {
    let home = Home::new();
    let (database, organization) = some_events(&home).await;
    let mut raw = home.raw().await;
    let damage = "UPDATE data_keys SET ciphertext = zeroblob(48) WHERE purpose = 'audit'";
    sqlx::raw_sql(damage).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    database.put_connection(organization, "five").await;
    let found = verified(&database, organization).await;
    assert_eq!((found.count, found.broken.unwrap().reason), (6, Reason::KeyLost));
    // An organization whose chain begins with the new key is not touched by it.
    let id = OrganizationId::generate();
    database.put(Change::CreateOrganization { id, key: "new".parse().unwrap(), name: "New".to_owned() }).await;
    let found = verified(&database, id).await;
    assert_eq!((found.count, found.broken), (1, None));
    database.close().await;
}

#[tokio::test]
async fn events_of_before_the_chain_are_taken_into_it() {
    let home = Home::new();
    let (database, organization) = some_events(&home).await;
    database.close().await;
    let mut raw = home.raw().await;
    let older = "UPDATE audit SET sequence = NULL, mac = NULL, key_id = NULL; DELETE FROM audit_chains; \
                 DELETE FROM data_keys WHERE purpose = 'audit'";
    sqlx::raw_sql(older).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let database = home.open().await;
    database.put_connection(organization, "five").await;
    let found = verified(&database, organization).await;
    assert_eq!((found.count, found.broken), (6, None));
    database.close().await;
}

#[tokio::test]
async fn events_are_found_by_who_what_and_when() {
    let home = Home::new();
    let (database, organization) = some_events(&home).await;
    let chain = Chain::Organization(organization);
    let address = Some("192.0.2.7".parse().unwrap());
    let other = Author { actor: "apk_other".to_owned(), address, request_id: "req_1".to_owned() };
    let id = connection(organization, "five");
    let put = Change::PutConnection { connection: Box::new(id.clone()), mode: PutMode::Create };
    database.commit(&other, put).await.unwrap();
    let found = async |filter: Filter| {
        let page = Page { limit: 10, cursor: None };
        let list = database.events(chain, &filter, Order::NewestFirst, page).await.unwrap();
        list.items.iter().map(|event| event.sequence).collect::<Vec<_>>()
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(found(Filter::default()).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(found(Filter { actor: text("apk_other"), ..Filter::default() }).await, [6]);
    assert_eq!(found(Filter { action: text("vault.*"), ..Filter::default() }).await, [1]);
    assert_eq!(found(Filter { action: text("connection.create"), ..Filter::default() }).await, [6, 5, 4, 3, 2]);
    assert_eq!(found(Filter { action: text("connection"), ..Filter::default() }).await, [0_i64; 0]);
    assert_eq!(found(Filter { object: text(&id.id.to_string()), ..Filter::default() }).await, [6]);
    let all = Page { limit: 10, cursor: None };
    let events = database.events(chain, &Filter::default(), Order::OldestFirst, all).await.unwrap().items;
    let last = &events[5];
    assert_eq!((last.actor.as_str(), last.address.as_deref()), ("apk_other", Some("192.0.2.7")));
    assert_eq!(last.request_id, "req_1");
    let at = last.at;
    assert_eq!(found(Filter { since: Some(at + 1), ..Filter::default() }).await, [0_i64; 0]);
    assert_eq!(found(Filter { until: Some(at + 1), ..Filter::default() }).await.len(), 6);
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let page = Page { limit: 4, cursor: cursor.as_deref() };
        let list = database.events(chain, &Filter::default(), Order::NewestFirst, page).await.unwrap();
        seen.extend(list.items.iter().map(|event| event.sequence));
        cursor = list.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, [6, 5, 4, 3, 2, 1]);
    database.close().await;
}

#[tokio::test]
async fn what_is_no_change_is_recorded_too_and_kept_short() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let notice = Notice {
        chain: Chain::Organization(organization),
        action: "session.create",
        object: "é".repeat(200),
        detail: json!({ "agent": "x".repeat(10_000) }),
    };
    database.record_event(&author(), notice).await.unwrap();
    let filter = Filter { action: Some("session.create".to_owned()), ..Filter::default() };
    let page = Page { limit: 10, cursor: None };
    let chain = Chain::Organization(organization);
    let event = database.events(chain, &filter, Order::NewestFirst, page).await.unwrap().items.remove(0);
    assert_eq!(event.object.len(), LONGEST_OBJECT);
    assert_eq!(event.detail["bytes"], 10_012);
    assert_eq!(verified(&database, organization).await.broken, None);
    database.close().await;
}

#[test]
fn a_difference_tells_what_differs_and_nothing_else() {
    let (old, new) = (json!({ "a": 1, "b": 2, "c": [1] }), json!({ "a": 1, "b": 3, "d": null }));
    assert_eq!(difference(&old, &new), json!({ "before": { "b": 2, "c": [1] }, "after": { "b": 3, "d": null } }));
    assert_eq!(difference(&Value::Null, &new), json!({ "after": new }));
    assert_eq!(difference(&old, &Value::Null), json!({ "before": old }));
    assert_eq!(difference(&old, &old), json!({ "before": {}, "after": {} }));
    let large = difference(&Value::Null, &json!({ "text": "x".repeat(5_000) }));
    assert_eq!(large["after"]["text"]["bytes"], 5_002);
}
