use std::fs;

use super::*;
use crate::model::moment::Moment;
use crate::vault::fixture::{Home, author};
use crate::vault::key::keygen;

#[tokio::test]
async fn a_kill_after_any_step_leaves_a_vault_that_opens() {
    for steps in 0..=Step::ALL.len() {
        let home = Home::new();
        let database = home.open().await;
        let organization = database.default_organization().await;
        let connection = database.put_connection(organization, "one").await;
        database.put_token(organization, connection, "production", "canary").await;
        let old = database.master_key_id();
        let mut rekey = Rekey::new(&database.inner, author(), NewKey::Replace).unwrap();
        for step in &Step::ALL[..steps] {
            rekey.perform(*step).await.unwrap();
        }
        let killed = home.killed();
        database.close().await;

        let (database, opened) = killed.try_open().await.unwrap();
        assert_eq!(opened.finished_rekey, steps == 2, "step {steps}");
        assert_eq!(database.master_key_id() == old, steps < 2, "step {steps}");
        assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "canary");
        assert!(database.authenticate(&killed.admin_key(), Moment::now()).await.unwrap().is_some());
        // And it can be done again, over whatever was left.
        let rekeyed = database.rekey(&author(), NewKey::Replace).await.unwrap();
        assert_eq!((rekeyed.data_keys, rekeyed.damaged), (3, 0));
        database.close().await;
        let database = killed.open().await;
        assert_eq!(database.master_key_id(), rekeyed.to);
        assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "canary");
        database.close().await;
        assert!(!killed.file("master.key.new").exists());
    }
}

#[tokio::test]
async fn the_old_key_opens_nothing_any_more() {
    let home = Home::new();
    let database = home.open().await;
    let old = fs::read(home.file("master.key")).unwrap();
    let rekeyed = database.rekey(&author(), NewKey::Replace).await.unwrap();
    assert_eq!(database.master_key_id(), rekeyed.to);
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "canary").await;
    assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "canary");
    database.close().await;
    fs::write(home.file("master.key"), old).unwrap();
    match home.try_open().await.unwrap_err() {
        DatabaseError::WrongKey { wants, given, .. } => assert_eq!((wants, given), (rekeyed.to, rekeyed.from)),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_key_that_waits_for_its_place_is_not_thrown_away() {
    let home = Home::new();
    let database = home.open().await;
    let mut rekey = Rekey::new(&database.inner, author(), NewKey::Replace).unwrap();
    for step in &Step::ALL[..2] {
        rekey.perform(*step).await.unwrap();
    }
    // The third step has failed; the next attempt is killed as soon as it has written its own key.
    let mut rekey = Rekey::new(&database.inner, author(), NewKey::Replace).unwrap();
    rekey.perform(Step::WriteKey).await.unwrap();
    let killed = home.killed();
    let id = database.master_key_id();
    database.close().await;
    let database = killed.open().await;
    assert_eq!(database.master_key_id(), id);
    database.close().await;
}

#[tokio::test]
async fn a_key_that_is_in_no_file_is_written_to_a_new_one() {
    let home = Home::new();
    keygen(&home.file("first")).unwrap();
    let options = |name: &str| {
        let value = fs::read_to_string(home.file(name)).unwrap().into();
        let master_key = MasterKeySource::Env { name: "KEY".to_owned(), value };
        Options { path: home.vault(), master_key }
    };
    let (database, opened) = Database::open(options("first")).await.unwrap();
    assert_eq!(opened.master_key_path, None);
    assert!(matches!(database.rekey(&author(), NewKey::Replace).await, Err(DatabaseError::Conflict(_))));
    let taken = database.rekey(&author(), NewKey::Write(home.file("first"))).await;
    assert!(matches!(taken, Err(DatabaseError::Key { .. })));
    database.close().await;
    let rekeyed = rekey(options("first"), &author(), NewKey::Write(home.file("second"))).await.unwrap();
    assert_eq!(rekeyed.path, home.file("second"));
    assert!(matches!(Database::open(options("first")).await, Err(DatabaseError::WrongKey { .. })));
    Database::open(options("second")).await.unwrap().0.close().await;
}

#[tokio::test]
async fn reads_go_on_while_keys_change() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "canary").await;
    let reader = database.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        let mut reads = 0;
        while stopped.try_recv().is_err() {
            assert_eq!(reader.token(organization, connection, "production").await.unwrap().unwrap(), "canary");
            reads += 1;
        }
        reads
    });
    let (one, two) = tokio::join!(
        async {
            for _ in 0..10 {
                database.rekey(&author(), NewKey::Replace).await.unwrap();
            }
        },
        async {
            for number in 0..10 {
                database.rekey(&author(), NewKey::Replace).await.unwrap();
                database.put_connection(organization, &format!("more-{number}")).await;
            }
        },
    );
    let ((), ()) = (one, two);
    stop.send(()).unwrap();
    assert!(reading.await.unwrap() > 0);
    database.close().await;
    let database = home.open().await;
    assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "canary");
    database.close().await;
}

#[tokio::test]
async fn a_damaged_data_key_does_not_keep_the_others_under_the_old_key() {
    let home = Home::new();
    let database = home.open().await;
    sqlx::query("UPDATE data_keys SET nonce = zeroblob(12) WHERE purpose = 'values'")
        .execute(&mut home.raw().await)
        .await
        .unwrap();
    let rekeyed = database.rekey(&author(), NewKey::Replace).await.unwrap();
    assert_eq!((rekeyed.data_keys, rekeyed.damaged), (2, 1));
    assert!(database.authenticate(&home.admin_key(), Moment::now()).await.unwrap().is_some());
    // What is entered again is sealed with a new data key.
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "again").await;
    assert_eq!(database.token(organization, connection, "production").await.unwrap().unwrap(), "again");
    database.close().await;
}

#[tokio::test]
async fn a_vault_that_is_not_there_is_not_made_by_a_rekey() {
    let home = Home::new();
    assert!(matches!(rekey(home.options(), &author(), NewKey::Replace).await, Err(DatabaseError::NotFound("vault"))));
    assert_eq!(home.contents(), []);
}
