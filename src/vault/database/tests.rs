use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::Relaxed;

use secrecy::SecretString;

use super::*;
use crate::model::moment::Moment;
use crate::vault::fixture::{Home, author, environment, plain};
use crate::vault::inspect::inspect;
use crate::vault::key::keygen;

#[tokio::test]
async fn the_first_start_makes_everything_and_the_second_nothing() {
    let home = Home::new();
    let (database, opened) = home.try_open().await.unwrap();
    assert_eq!(
        opened,
        Opened {
            created: true,
            admin_key_path: Some(home.path().canonicalize().unwrap().join("admin.key")),
            master_key_path: Some(home.file("master.key")),
            finished_rekey: false
        }
    );
    let organization = database.organization("default").await.unwrap().unwrap();
    assert_eq!(database.organization(&organization.id.to_string()).await.unwrap().unwrap(), organization);
    assert_eq!(database.organization("absent").await.unwrap(), None);
    let environments = database.environments(organization.id).await.unwrap();
    assert_eq!(environments, ["development", "staging", "production"].map(environment));
    database.close().await;
    let (database, opened) = home.try_open().await.unwrap();
    assert_eq!(opened, Opened::default());
    database.close().await;
}

#[tokio::test]
async fn the_admin_key_and_nothing_like_it_authenticates() {
    let home = Home::new();
    let database = home.open().await;
    let admin = home.admin_key();
    let record = database.authenticate(&admin, Moment::now()).await.unwrap().unwrap();
    assert_eq!(
        (record.key.terms.roles, record.key.terms.name.as_str()),
        ([crate::model::role::Role::SuperAdmin].into_iter().collect(), "admin")
    );
    let text = plain(&admin);
    assert_eq!(text.len(), "apk_".len() + 26 + 1 + 43);
    let last = if text.ends_with('a') { "b" } else { "a" };
    let (other_id, other_secret) = (crate::model::id::ApiKeyId::generate().to_string(), &text[30..]);
    for wrong in [
        format!("{}{last}", &text[..text.len() - 1]),
        format!("{other_id}{other_secret}"),
        text[..text.len() - 1].to_owned(),
        format!("{text}a"),
        text.to_uppercase(),
        format!("{}_", &text[..30]),
        String::new(),
        "apk_".to_owned(),
        "' OR 1=1 --".to_owned(),
    ] {
        assert_eq!(database.authenticate(&SecretString::from(wrong), Moment::now()).await.unwrap().map(drop), None);
    }
    // What is stored is no key.
    let digest: Vec<u8> =
        sqlx::query_scalar("SELECT digest FROM api_keys").fetch_one(&mut home.raw().await).await.unwrap();
    assert_eq!(digest.len(), 32);
    database.close().await;
}

#[tokio::test]
async fn everything_is_for_its_owner_only_whatever_the_umask() {
    let home = Home::new();
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    let options = Options { path: home.file("deep/sidekey.vault"), ..home.options() };
    let database = Database::open(options).await.unwrap().0;
    let organization = database.default_organization().await;
    database.put_connection(organization, "one").await;
    let (mut files, mut folders) = (Vec::new(), vec![home.file("deep")]);
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        files.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.push(home.file("master.key"));
    rustix::process::umask(mask);
    assert_eq!(files.len(), 6, "vault, log, index, lock and two keys: {files:?}");
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    database.close().await;
    // A vault that was copied carelessly is made private again.
    fs::set_permissions(home.file("deep/sidekey.vault"), Permissions::from_mode(0o644)).unwrap();
    let options = Options { path: home.file("deep/sidekey.vault"), ..home.options() };
    Database::open(options).await.unwrap().0.close().await;
    assert_eq!(fs::metadata(home.file("deep/sidekey.vault")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_server_is_refused_and_the_first_goes_on() {
    let home = Home::new();
    let database = home.open().await;
    let refused = home.try_open().await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Locked(_)), "{refused}");
    // Another name of the vault is the same vault.
    std::os::unix::fs::symlink(home.vault(), home.file("alias")).unwrap();
    let options = Options { path: home.file("alias"), ..home.options() };
    assert!(matches!(Database::open(options).await, Err(DatabaseError::Locked(_))));
    let organization = database.default_organization().await;
    database.put_connection(organization, "one").await;
    database.close().await;
    home.open().await.close().await;
}

#[tokio::test]
async fn a_wrong_or_missing_master_key_is_told_and_changes_nothing() {
    let home = Home::new();
    let database = home.open().await;
    let right = database.master_key_id();
    let organization = database.default_organization().await;
    database.put_connection(organization, "in-the-log").await;
    // Once with everything in the log, once with everything in the file.
    let killed = home.killed();
    database.close().await;
    for home in [home, killed] {
        let key = fs::read(home.file("master.key")).unwrap();
        fs::remove_file(home.file("master.key")).unwrap();
        let before = home.contents();
        let missing = home.try_open().await.unwrap_err();
        assert!(matches!(missing, DatabaseError::KeyMissing { .. }), "{missing}");
        assert_eq!(home.contents(), before);

        let other = keygen(&home.file("master.key")).unwrap();
        let before = home.contents();
        match home.try_open().await.unwrap_err() {
            DatabaseError::WrongKey { wants, given, .. } => assert_eq!((wants, given), (right.clone(), other)),
            error => panic!("{error}"),
        }
        for text in [&b""[..], b"AAAA", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="] {
            fs::write(home.file("master.key"), text).unwrap();
            assert!(matches!(home.try_open().await, Err(DatabaseError::Key { .. })));
        }
        fs::remove_file(home.file("master.key")).unwrap();
        let untouched = |(name, _): &&(String, Vec<u8>)| !name.ends_with("master.key");
        assert!(home.contents().iter().eq(before.iter().filter(untouched)));
        fs::write(home.file("master.key"), &key).unwrap();
        fs::set_permissions(home.file("master.key"), Permissions::from_mode(0o600)).unwrap();
        let database = home.open().await;
        let reference = "in-the-log".parse().unwrap();
        assert!(database.connection(organization, None, &reference).await.unwrap().is_some());
        database.close().await;
    }
}

#[tokio::test]
async fn what_is_no_whole_vault_is_refused_and_kept() {
    let home = Home::new();
    home.open().await.close().await;
    let vault = fs::read(home.vault()).unwrap();
    let mut cut: Vec<Vec<u8>> = vec![Vec::new(), b"hello".to_vec(), vec![0; 8192], b"SQLite format 3\0".to_vec()];
    cut.extend((512..vault.len()).step_by(512 * 5).map(|length| vault[..length].to_vec()));
    cut.push([&vault[..4096], &vec![0xff; 4096][..]].concat());
    let mut foreign = vault.clone();
    foreign[68..72].copy_from_slice(b"else");
    cut.push(foreign);
    for contents in cut {
        fs::write(home.vault(), &contents).unwrap();
        let refused = home.try_open().await.unwrap_err();
        assert!(matches!(refused, DatabaseError::Damaged { .. }), "{} bytes: {refused:?}", contents.len());
        assert_eq!(fs::read(home.vault()).unwrap(), contents);
    }
    fs::write(home.vault(), vault).unwrap();
    home.open().await.close().await;
}

#[tokio::test]
async fn nothing_is_made_anew_beside_what_was_there() {
    let home = Home::new();
    home.open().await.close().await;
    fs::remove_file(home.vault()).unwrap();
    let refused = home.try_open().await.unwrap_err();
    assert!(matches!(refused, DatabaseError::VaultMissing { .. }), "{refused}");
    assert!(!home.vault().exists());
    fs::remove_file(home.file("admin.key")).unwrap();
    fs::write(home.file("sidekey.vault-wal"), "a log").unwrap();
    assert!(matches!(home.try_open().await, Err(DatabaseError::VaultMissing { .. })));
    // A key alone is what keygen leaves.
    fs::remove_file(home.file("sidekey.vault-wal")).unwrap();
    let key = fs::read(home.file("master.key")).unwrap();
    let (database, opened) = home.try_open().await.unwrap();
    assert_eq!((opened.created, opened.master_key_path), (true, None));
    assert_eq!(fs::read(home.file("master.key")).unwrap(), key);
    database.close().await;
}

/// ST-02.
#[tokio::test]
async fn an_acknowledged_change_survives_a_kill_and_a_torn_log_is_cut_back() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let mut keys = Vec::new();
    for number in 0..8 {
        let key = format!("c-{number}");
        let connection = database.put_connection(organization, &key).await;
        database.put_token(organization, connection, "production", &key).await;
        keys.push((key, connection));
    }
    let killed = home.killed();
    database.close().await;
    let log = fs::read(killed.file("sidekey.vault-wal")).unwrap();
    assert!(log.len() > 4096);
    let mut damaged: Vec<_> =
        (0..=log.len()).rev().step_by(4096 * 3 + 512).map(|length| log[..length].to_vec()).collect();
    // One whose last byte was not written as it should have been.
    let flipped: Vec<_> =
        damaged.iter().filter_map(|log| log.split_last()).map(|(last, log)| [log, &[!last]].concat()).collect();
    damaged.extend(flipped);
    for torn_log in damaged {
        let torn = killed.killed();
        fs::write(torn.file("sidekey.vault-wal"), &torn_log).unwrap();
        let database = torn.open().await;
        let mut gone = false;
        for (key, connection) in &keys {
            let found = database.connection(organization, None, &key.parse().unwrap()).await.unwrap();
            let token = database.token(organization, *connection, "production").await.unwrap();
            assert!(found.is_some() || token.is_none());
            assert!(token.as_ref().is_none_or(|token| token == key));
            // What came later is there only if everything before it is.
            assert!(!(gone && found.is_some()));
            gone |= token.is_none();
        }
        assert_eq!(gone, torn_log != log, "{} of {}", torn_log.len(), log.len());
        database.close().await;
    }
}

#[tokio::test]
async fn no_secret_is_in_any_file_even_before_the_log_is_written_back() {
    const CANARY: &str = "canary-4f1d9c2e7b";
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", CANARY).await;
    database.put_secret(organization, "TOKEN", "production", CANARY).await;
    database.put_token(organization, connection, "production", "another").await;
    let admin = home.admin_key();
    let master = fs::read_to_string(home.file("master.key")).unwrap();
    let raw = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.decode(master.trim()).unwrap()
    };
    let check = |home: &Home| {
        for entry in fs::read_dir(home.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!holds(CANARY.as_bytes()), "{name}");
            assert!(name == "admin.key" || !holds(&plain(&admin).as_bytes()[31..]), "{name}");
            assert!(name == "master.key" || !(holds(master.trim().as_bytes()) || holds(&raw)), "{name}");
        }
    };
    assert!(fs::metadata(home.file("sidekey.vault-wal")).unwrap().len() > 0);
    check(&home);
    database.close().await;
    check(&home);
}

#[tokio::test]
async fn reading_and_opening_are_counted() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "canary").await;
    let counters = database.counters().clone();
    let (reads, opens) = (counters.reads.load(Relaxed), counters.opens.load(Relaxed));
    database.token(organization, connection, "production").await.unwrap();
    // The data key once, the token, and the binding.
    assert_eq!((counters.reads.load(Relaxed) - reads, counters.opens.load(Relaxed) - opens), (1, 3));
    database.close().await;
}

#[tokio::test]
async fn a_look_from_outside_changes_nothing_and_needs_no_lock() {
    let home = Home::new();
    let none = inspect(&home.options()).await.unwrap();
    assert!(none.vault.is_none() && none.key.unwrap().is_none());
    assert_eq!(home.contents(), []);
    let database = home.open().await;
    let organization = database.default_organization().await;
    let connection = database.put_connection(organization, "one").await;
    database.put_token(organization, connection, "production", "canary").await;
    let before = home.contents();
    let found = inspect(&home.options()).await.unwrap();
    assert!(found.opens());
    let vault = found.vault.unwrap();
    assert!(vault.sound && vault.damaged_data_keys.is_empty());
    assert_eq!((vault.organizations, vault.connections, vault.credentials, vault.secrets), (1, 1, 1, 0));
    assert_eq!(home.contents(), before);
    database.put_connection(organization, "two").await;
    database.close().await;

    fs::remove_file(home.file("master.key")).unwrap();
    let before = home.contents();
    let found = inspect(&home.options()).await.unwrap();
    assert!(!found.opens() && found.vault.unwrap().connections == 2);
    keygen(&home.file("master.key")).unwrap();
    assert!(!inspect(&home.options()).await.unwrap().opens());
    fs::remove_file(home.file("master.key")).unwrap();
    assert_eq!(home.contents(), before);
}

/// ST-19: as far as it can be told without a disk that fails.
#[tokio::test]
async fn an_unconfirmed_write_ends_writing_and_not_reading() {
    let home = Home::new();
    let database = home.open().await;
    let organization = database.default_organization().await;
    let error = database.inner.note(DatabaseError::Unavailable(Cause::NotDurable));
    assert!(matches!(error, DatabaseError::Unavailable(Cause::NotDurable)));
    let change = crate::vault::change::Change::DeleteOrganization { organization };
    let refused = database.commit(&author(), change).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Unavailable(Cause::NotDurable)), "{refused}");
    assert!(database.rekey(&author(), crate::vault::rekey::NewKey::Replace).await.is_err());
    assert!(database.ready().await.is_ok());
    database.close().await;
    home.open().await.close().await;
}
