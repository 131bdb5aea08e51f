use std::fs;

use super::*;
use crate::model::moment::Moment;
use crate::vault::fixture::Home;

/// Runs the first `steps` steps of a creation and leaves everything as a kill then would.
async fn begin(home: &Home, steps: usize) {
    let (options, files) = (home.options(), Files::of(&home.vault()));
    let mut creation = Creation::new(&options, &files);
    for step in &Step::ALL[..steps] {
        creation.perform(*step).await.unwrap();
    }
}

#[tokio::test]
async fn a_kill_after_any_step_leaves_what_the_next_start_handles() {
    for steps in 0..=Step::ALL.len() {
        let home = Home::new();
        begin(&home, steps).await;
        let published = home.vault().exists();
        assert_eq!(published, steps >= 5, "step {steps}");
        let (database, opened) = home.try_open().await.unwrap();
        assert_eq!(opened.created, !published, "step {steps}");
        assert_eq!(opened.admin_key_path.is_some(), steps < 6, "step {steps}");
        let admin = database.authenticate(&home.admin_key(), Moment::now()).await.unwrap().unwrap();
        assert_eq!(admin.key.terms.roles, [crate::model::role::Role::SuperAdmin].into_iter().collect());
        assert_eq!(admin.key.organization, database.default_organization().await);
        database.close().await;
        let mut left: Vec<_> =
            fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["admin.key", "master.key", "sidekey.vault", "sidekey.vault.lock"], "step {steps}");
    }
}

#[tokio::test]
async fn two_kills_in_a_row_are_as_good_as_one() {
    for first in 0..5 {
        for second in 0..5 {
            let home = Home::new();
            begin(&home, first).await;
            begin(&home, second).await;
            let database = home.open().await;
            assert!(
                database.authenticate(&home.admin_key(), Moment::now()).await.unwrap().is_some(),
                "{first} then {second}"
            );
            database.close().await;
        }
    }
}

#[tokio::test]
async fn the_key_of_an_interrupted_creation_is_kept() {
    let home = Home::new();
    begin(&home, 2).await;
    let key = fs::read(home.file("master.key")).unwrap();
    let (database, opened) = home.try_open().await.unwrap();
    assert_eq!(opened.master_key_path, None);
    assert_eq!(fs::read(home.file("master.key")).unwrap(), key);
    database.close().await;
}

#[tokio::test]
async fn an_admin_key_of_something_else_is_left_alone() {
    let home = Home::new();
    home.open().await.close().await;
    fs::rename(home.file("admin.key"), home.file("elsewhere")).unwrap();
    let stray = PlainKey::generate().unwrap().line();
    fs::write(home.file("admin.key.new"), stray).unwrap();
    let (database, opened) = home.try_open().await.unwrap();
    assert_eq!(opened, Default::default());
    assert!(!home.file("admin.key").exists() && home.file("admin.key.new").exists());
    database.close().await;
}
