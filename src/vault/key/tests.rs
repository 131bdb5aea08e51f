use std::fs::{self, Permissions};

use super::*;

fn file(path: &Path) -> MasterKeySource {
    MasterKeySource::File { path: path.to_owned(), any_mode: false }
}

#[test]
fn a_new_key_is_private_and_never_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let id = keygen(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!((text.len(), text.ends_with('\n')), (45, true));
    let refused = keygen(&path).unwrap_err();
    assert!(matches!(refused, DatabaseError::Key { problem: KeyProblem::Exists, .. }), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(file(&path).read().unwrap().unwrap().id, id);
}

#[test]
fn a_key_that_others_can_read_is_refused_unless_that_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    keygen(&path).unwrap();
    for mode in [0o640, 0o604, 0o644, 0o666] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let refused = file(&path).read().unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
        assert!(MasterKeySource::File { path: path.clone(), any_mode: true }.read().unwrap().is_some());
    }
}

#[test]
fn what_is_no_key_is_told_with_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    for (text, problem) in [
        (&b""[..], KeyProblem::Length(0)),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n", KeyProblem::Length(31)),
        (b"correct horse battery staple", KeyProblem::Encoding),
        (&[0xff; 32], KeyProblem::Encoding),
        (&[b'A'; 100_000], KeyProblem::Length(768)),
    ] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        match file(&path).read() {
            Err(DatabaseError::Key { problem: found, .. }) => assert_eq!(found, problem),
            other => panic!("{other:?}"),
        }
    }
    assert!(file(&folder.path().join("absent")).read().unwrap().is_none());
    assert!(file(folder.path()).read().is_err(), "a folder is no key");
}

#[test]
fn a_key_can_come_from_a_descriptor_or_a_variable() {
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let id = keygen(&path).unwrap();
    let open = File::open(&path).unwrap();
    assert_eq!(MasterKeySource::Fd(open.as_raw_fd()).read().unwrap().unwrap().id, id);
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, &fs::read(&path).unwrap()).unwrap();
    drop(writer);
    assert_eq!(MasterKeySource::Fd(reader.as_raw_fd()).read().unwrap().unwrap().id, id);
    let value = SecretString::from(fs::read_to_string(&path).unwrap());
    let source = MasterKeySource::Env { name: "KEY".to_owned(), value };
    assert_eq!(source.read().unwrap().unwrap().id, id);
    assert!(matches!(MasterKeySource::Fd(9999).read(), Err(DatabaseError::Key { .. })));
}

#[test]
fn debug_shows_the_id_and_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    keygen(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let source = MasterKeySource::Env { name: "KEY".to_owned(), value: SecretString::from(text.clone()) };
    let key = source.read().unwrap().unwrap();
    let shown = format!("{source:?} {key:?} {}", source.describe());
    assert!(!shown.contains(text.trim()), "{shown}");
    assert!(shown.contains(key.id.as_str()));
}
