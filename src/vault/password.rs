//! Passwords: hashed by argon2id (RFC 9106), with a key of the vault beside the salt.
//!
//! Hashing costs memory and time on purpose, so it runs on threads of its own, a few at a time; who would wait too long
//! is told that the server is busy. Verifying costs the same where there is nothing to verify against, so that the time
//! does not tell who has a password. Because of the key, hashes that were stolen without the master key cannot be
//! guessed at.

use std::fmt;
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::database::Database;
use super::error::{Cause, DatabaseError};
use super::seal;
use crate::clock;
use crate::model::user::Email;

/// What one hash costs: 19 MiB, two passes, one lane (the OWASP password storage cheat sheet's first choice).
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// How many are made at once, and how many more may wait.
const AT_ONCE: usize = 2;
const WAITING: usize = 32;
/// How long somebody waits for a place.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest and the longest password, in characters and bytes (NIST SP 800-63B §5.1.1.2 asks for at least 8 and room
/// for 64; a password alone opens the admin port, so it is longer here).
const SHORTEST: usize = 12;
const LONGEST: usize = 512;

/// Words that make up too much of what people choose.
const COMMON: [&str; 14] = [
    "password",
    "passwort",
    "kennwort",
    "letmein",
    "welcome",
    "qwertyuiop",
    "asdfghjkl",
    "administrator",
    "sidekey",
    "changeme",
    "123456789",
    "987654321",
    "iloveyou",
    "correcthorsebatterystaple",
];

/// Why a password is not taken: a sentence for whoever chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WeakPassword(&'static str);

/// A password's hash in its text form; nobody can sign in with it, but it is shown to nobody either.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub(super) String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// Holds a new password to the rules: long enough, not one of the usual, not one's own address.
#[expect(clippy::disallowed_methods, reason = "a password is exposed to be judged before it is hashed")]
pub fn judge(password: &SecretString, email: &Email) -> Result<(), WeakPassword> {
    let text = password.expose_secret();
    if text.chars().count() < SHORTEST {
        return Err(WeakPassword("a password has at least 12 characters; several words are easy to remember"));
    }
    if text.len() > LONGEST {
        return Err(WeakPassword("a password has at most 512 bytes"));
    }
    let folded: Zeroizing<String> = Zeroizing::new(text.to_lowercase());
    let mut kinds: Vec<char> = folded.chars().collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() < 5 {
        return Err(WeakPassword("this password repeats a few characters; choose one with more of them"));
    }
    // What is left of it without the words that everybody tries first is what somebody would have to guess.
    let mut rest = Zeroizing::new(folded.to_string());
    for word in COMMON.into_iter().chain([email.as_str(), email.local_part()]).filter(|word| word.len() > 3) {
        rest = Zeroizing::new(rest.replace(word, ""));
    }
    if rest.chars().count() < SHORTEST / 2 {
        return Err(WeakPassword("this password is little more than a common word or your address; choose another"));
    }
    Ok(())
}

/// Hashes and verifies passwords.
#[derive(Debug)]
pub struct Passwords {
    working: Semaphore,
    waiting: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Passwords { working: Semaphore::new(AT_ONCE), waiting: Semaphore::new(AT_ONCE + WAITING) }
    }
}

impl Passwords {
    /// The hash of a new password.
    pub async fn hash(&self, database: &Database, password: SecretString) -> Result<PasswordHash, DatabaseError> {
        self.work(database, move |argon2| make(argon2, &password)).await?
    }

    /// Whether a password is the one that was hashed; `false` where there is none, in the same time.
    pub async fn verify(
        &self,
        database: &Database,
        hash: Option<PasswordHash>,
        password: SecretString,
    ) -> Result<bool, DatabaseError> {
        self.work(database, move |argon2| check(argon2, hash.as_ref(), &password)).await
    }

    async fn work<T: Send + 'static>(
        &self,
        database: &Database,
        work: impl FnOnce(&Argon2<'_>) -> T + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let busy = DatabaseError::Unavailable(Cause::Busy);
        let Ok(_queued) = self.waiting.try_acquire() else { return Err(busy) };
        let Ok(Ok(_place)) = clock::timeout(PATIENCE, self.working.acquire()).await else { return Err(busy) };
        let pepper = Zeroizing::new(database.tag("password pepper", "").await?);
        let task = tokio::task::spawn_blocking(move || {
            let argon2 = Argon2::new_with_secret(&*pepper, Algorithm::Argon2id, Version::V0x13, params())
                .map_err(|_| DatabaseError::Unavailable(Cause::Internal(0)))?;
            Ok(work(&argon2))
        });
        task.await.unwrap_or(Err(DatabaseError::Unavailable(Cause::Closed)))
    }
}

fn params() -> Params {
    // These are within the bounds of RFC 9106; a test makes a hash with them.
    Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "a password is exposed to be hashed")]
fn make(argon2: &Argon2<'_>, password: &SecretString) -> Result<PasswordHash, DatabaseError> {
    let salt = seal::random::<16>()?;
    let hash: Result<Phc, _> = argon2.hash_password_with_salt(password.expose_secret().as_bytes(), &*salt);
    hash.map(|hash| PasswordHash(hash.to_string())).map_err(|_| DatabaseError::Unavailable(Cause::Internal(0)))
}

#[expect(clippy::disallowed_methods, reason = "a password is exposed to be compared with its hash")]
fn check(argon2: &Argon2<'_>, hash: Option<&PasswordHash>, password: &SecretString) -> bool {
    let text = password.expose_secret();
    // A text that was never taken as a password is none, and does not cost more for being long.
    let bytes = if text.len() > LONGEST { &[] } else { text.as_bytes() };
    match hash.and_then(|hash| Phc::new(&hash.0).ok()) {
        Some(hash) => argon2.verify_password(bytes, &hash).is_ok() && !bytes.is_empty(),
        None => {
            let mut nobody = Zeroizing::new([0; 32]);
            let _wasted = argon2.hash_password_into(bytes, &[0; 16], &mut *nobody);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Home;
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_and_only_in_its_own_vault() {
        let (home, other) = (Home::new(), Home::new());
        let (database, stranger) = (home.open().await, other.open().await);
        let passwords = Passwords::default();
        let hash = passwords.hash(&database, secret("seven wise cranes")).await.unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.0);
        assert_eq!(format!("{hash:?}"), "PasswordHash(…)");
        let again = passwords.hash(&database, secret("seven wise cranes")).await.unwrap();
        assert_ne!(hash, again, "each has a salt of its own");
        for (database, hash, text, is_right) in [
            (&database, Some(hash.clone()), "seven wise cranes", true),
            (&database, Some(hash.clone()), "seven wise crane", false),
            (&database, Some(hash.clone()), "", false),
            (&database, Some(PasswordHash("$argon2id$broken".to_owned())), "seven wise cranes", false),
            (&database, None, "seven wise cranes", false),
            (&stranger, Some(hash.clone()), "seven wise cranes", false),
        ] {
            assert_eq!(passwords.verify(database, hash, secret(text)).await.unwrap(), is_right, "{text}");
        }
    }

    #[test]
    fn weak_passwords_are_told() {
        let email = "ada.lovelace@example.test".parse().unwrap();
        for text in [
            "",
            "elevenchars",
            "aaaaaaaaaaaaaaaa",
            "abababababababab",
            "Password12345",
            "ada.lovelace@example.test",
            "Ada.Lovelace1234",
            "changemechangeme",
            &"x1y2z".repeat(200),
        ] {
            assert!(judge(&secret(text), &email).is_err(), "{text}");
        }
        for text in ["seven wise cranes", "Tr0ub4dor&3-and-more", "\u{fc}\u{f6}\u{e4}\u{df} sind zw\u{f6}lf"] {
            assert_eq!(judge(&secret(text), &email), Ok(()), "{text}");
        }
    }
}
