use std::collections::HashSet;

use super::*;
use crate::vault::fixture::{environment, plain};

fn key() -> KeyBytes {
    random().unwrap()
}

#[test]
fn a_value_opens_where_it_was_sealed_and_nowhere_else() {
    let (bytes, counters) = (key(), Counters::default());
    let key = SealingKey { id: "key_1", bytes: &bytes, counters: &counters };
    let (organization, connection) = (OrganizationId::generate(), ConnectionId::generate());
    let (production, staging) = (environment("production"), environment("staging"));
    let name: SecretKey = "TOKEN".parse().unwrap();
    let other_name: SecretKey = "TOKEN_2".parse().unwrap();
    let home = Place::Credential { organization, connection, environment: &production, field: "token", version: 1 };
    let sealed = key.seal(&home, &SecretString::from("canary")).unwrap();
    assert_eq!(plain(&key.open(&home, &sealed).unwrap()), "canary");
    let (organization_2, connection_2) = (OrganizationId::generate(), ConnectionId::generate());
    let credential = |organization, connection, environment, field, version| Place::Credential {
        organization,
        connection,
        environment,
        field,
        version,
    };
    let secret = |organization, key, environment, version| Place::Secret { organization, key, environment, version };
    for place in [
        credential(organization_2, connection, &production, "token", 1),
        credential(organization, connection_2, &production, "token", 1),
        credential(organization, connection, &staging, "token", 1),
        credential(organization, connection, &production, "refresh_token", 1),
        credential(organization, connection, &production, "token", 2),
        secret(organization, &name, &production, 1),
    ] {
        assert!(key.open(&place, &sealed).is_none(), "{place:?}");
    }
    let home = secret(organization, &name, &production, 1);
    let sealed = key.seal(&home, &SecretString::from("canary")).unwrap();
    assert!(key.open(&home, &sealed).is_some());
    for place in [
        secret(organization_2, &name, &production, 1),
        secret(organization, &other_name, &production, 1),
        secret(organization, &name, &staging, 1),
        secret(organization, &name, &production, 2),
    ] {
        assert!(key.open(&place, &sealed).is_none(), "{place:?}");
    }
}

#[test]
fn a_key_opens_only_what_names_it() {
    let (bytes, counters) = (key(), Counters::default());
    let (one, two) = ("key_1", "key_2");
    let seal = |id| SealingKey { id, bytes: &bytes, counters: &counters };
    let name: SecretKey = "TOKEN".parse().unwrap();
    let production = environment("production");
    let place =
        Place::Secret { organization: OrganizationId::generate(), key: &name, environment: &production, version: 1 };
    let mut sealed = seal(one).seal(&place, &SecretString::from("canary")).unwrap();
    assert!(seal(two).open(&place, &sealed).is_none());
    sealed.key_id = two.to_owned();
    assert!(seal(two).open(&place, &sealed).is_none(), "the same bits under another id are another key");
}

#[test]
fn a_data_key_opens_only_for_its_organization_purpose_id_and_master() {
    let (bytes, counters) = (key(), Counters::default());
    let key = SealingKey { id: "mk", bytes: &bytes, counters: &counters };
    let (one, two) = (OrganizationId::generate(), OrganizationId::generate());
    let (master, other) = (KeyId::stored("mk"), KeyId::stored("mk2"));
    let place = |organization, purpose, id, master| Place::DataKey { organization, purpose, id, master };
    let home = place(Some(one), Purpose::Values, "key_1", &master);
    let sealed = key.seal_bytes(&home, &[7; 32]).unwrap();
    assert!(key.open_bytes(&home, &sealed).is_some());
    for place in [
        place(Some(two), Purpose::Values, "key_1", &master),
        place(None, Purpose::Values, "key_1", &master),
        place(Some(one), Purpose::Digest, "key_1", &master),
        place(Some(one), Purpose::Values, "key_2", &master),
        place(Some(one), Purpose::Values, "key_1", &other),
    ] {
        assert!(key.open_bytes(&place, &sealed).is_none(), "{place:?}");
    }
}

#[test]
fn places_that_read_alike_are_not_alike() {
    assert_ne!(join(&["ab", "c"]), join(&["a", "bc"]));
    assert_ne!(join(&["a", ""]), join(&["", "a"]));
    assert_ne!(join(&["a"]), join(&["a", ""]));
}

#[test]
fn any_flipped_bit_is_noticed() {
    let (bytes, counters) = (key(), Counters::default());
    let key = SealingKey { id: "key_1", bytes: &bytes, counters: &counters };
    let (organization, production) = (OrganizationId::generate(), environment("production"));
    let name: SecretKey = "TOKEN".parse().unwrap();
    let place = Place::Secret { organization, key: &name, environment: &production, version: 1 };
    let sealed = key.seal(&place, &SecretString::from("canary")).unwrap();
    assert_eq!(sealed.ciphertext.len(), "canary".len() + 16);
    for bit in 0..sealed.nonce.len() * 8 {
        let mut flipped = sealed.clone();
        flipped.nonce[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&place, &flipped).is_none(), "bit {bit} of the nonce");
    }
    for bit in 0..sealed.ciphertext.len() * 8 {
        let mut flipped = sealed.clone();
        flipped.ciphertext[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&place, &flipped).is_none(), "bit {bit} of the ciphertext");
    }
    for length in 0..sealed.ciphertext.len() {
        let mut cut = sealed.clone();
        cut.ciphertext.truncate(length);
        assert!(key.open(&place, &cut).is_none(), "cut to {length}");
    }
    let short = Sealed { nonce: Vec::new(), ..sealed };
    assert!(key.open(&place, &short).is_none());
}

/// ST-08.
#[test]
fn no_nonce_comes_twice() {
    let (bytes, counters) = (key(), Counters::default());
    let key = SealingKey { id: "key_1", bytes: &bytes, counters: &counters };
    let (organization, production) = (OrganizationId::generate(), environment("production"));
    let name: SecretKey = "TOKEN".parse().unwrap();
    let place = Place::Secret { organization, key: &name, environment: &production, version: 1 };
    let nonces: HashSet<Vec<u8>> = (0..10_000).map(|_| key.seal_bytes(&place, b"same").unwrap().nonce).collect();
    assert_eq!(nonces.len(), 10_000);
    assert_eq!(counters.seals.load(Ordering::Relaxed), 10_000);
}

#[test]
fn macs_are_hmac_sha256() {
    // RFC 4231 §4.3 has a shorter key; padding it with zeros gives the same block.
    let mut bytes = KeyBytes::default();
    bytes[..4].copy_from_slice(b"Jefe");
    let mac = mac(&bytes, b"what do ya want for nothing?");
    assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
}

#[test]
fn a_key_reads_back_as_written() {
    let bytes = key();
    let text = encode_key(&bytes);
    assert_eq!(text.len(), 45);
    assert_eq!(decode_key(&text).unwrap(), bytes);
    assert_eq!(decode_key(text.trim()).unwrap(), bytes);
    assert_eq!(decode_key(&STANDARD.encode([1; 31])), Err(KeyProblem::Length(31)));
    assert_eq!(decode_key(""), Err(KeyProblem::Length(0)));
    assert_eq!(decode_key("not base64!"), Err(KeyProblem::Encoding));
}
