//! API keys as they are made and as they are compared.
//!
//! The text of a key exists twice: where it is made, to be shown once, and where it is presented. What is stored is its
//! digest under a key of the vault's (HMAC-SHA256), so that whoever reads the file can neither use a key nor try texts
//! against it.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::error::DatabaseError;
use super::key::DataKey;
use super::seal;
use crate::model::api_key::ApiKey;
use crate::model::id::ApiKeyId;
use crate::model::moment::Moment;

/// How many characters the secret part has.
const SECRET: usize = 43;
/// How many characters stand before the secret part: `apk_`, 26 characters and `_`.
pub const PUBLIC: usize = 31;
/// How long a key is.
pub const LENGTH: usize = PUBLIC + SECRET;

/// The text of a new key. It wipes itself, and shows itself to nobody by accident.
#[derive(Debug)]
pub struct PlainKey {
    /// Its public part.
    pub id: ApiKeyId,
    text: SecretString,
}

impl PlainKey {
    /// A key that was never there before.
    pub fn generate() -> Result<Self, DatabaseError> {
        Self::of(ApiKeyId::generate())
    }

    /// A new secret for a key.
    pub fn of(id: ApiKeyId) -> Result<Self, DatabaseError> {
        let text = Zeroizing::new(format!("{id}_{}", *base62()?));
        Ok(PlainKey { id, text: SecretString::from(text.as_str()) })
    }

    /// The whole text on a line of its own, for the file of the first key.
    #[expect(clippy::disallowed_methods, reason = "a new key is exposed to be written to the file that hands it over")]
    pub(super) fn line(&self) -> Zeroizing<Vec<u8>> {
        let text = self.text.expose_secret().as_bytes();
        let mut line = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        line.extend_from_slice(text);
        line.push(b'\n');
        line
    }

    /// The whole text, for the one answer that shows it.
    pub fn text(&self) -> &SecretString {
        &self.text
    }
}

/// 43 characters of 62, each drawn evenly: more than 256 random bits.
pub(super) fn base62() -> Result<Zeroizing<String>, DatabaseError> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = Zeroizing::new(String::with_capacity(SECRET));
    while text.len() < SECRET {
        for byte in seal::random::<64>()?.iter() {
            // 248 is the largest multiple of 62 in a byte: what is beyond would favour the first letters.
            if *byte < 248 && text.len() < SECRET {
                text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    Ok(text)
}

/// The public part of a presented text, if it has the form of a key. What has another form is never digested.
pub fn id_of(presented: &[u8]) -> Option<ApiKeyId> {
    if presented.len() != LENGTH {
        return None;
    }
    let (front, secret) = presented.split_at(LENGTH - SECRET);
    let (id, separator) = front.split_at(front.len() - 1);
    let has_form = separator == b"_" && secret.iter().all(u8::is_ascii_alphanumeric);
    str::from_utf8(id).ok().filter(|_| has_form)?.parse().ok()
}

/// The same of a text that was read as a secret.
#[expect(clippy::disallowed_methods, reason = "a presented key is taken apart to find its public part")]
pub(super) fn id_of_secret(presented: &SecretString) -> Option<ApiKeyId> {
    id_of(presented.expose_secret().as_bytes())
}

/// What a presented text is compared with: everything that is stored under its public part, which may be nothing.
pub struct KeyCheck {
    /// The vault's keys for digests; there is one.
    pub(super) digests: Vec<DataKey>,
    pub(super) stored: Option<StoredKey>,
}

/// A key with its digests.
pub(super) struct StoredKey {
    pub key: Arc<ApiKey>,
    pub digest: Vec<u8>,
    /// That of the secret before, and until when it is of use.
    pub previous: Option<(Vec<u8>, Moment)>,
}

/// A key whose text was presented.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// The key.
    pub key: Arc<ApiKey>,
    /// Until when this text is of use; `None` is for ever.
    pub until: Option<Moment>,
}

impl KeyCheck {
    /// Nothing is stored, and nothing ever was.
    pub(super) fn nothing() -> Self {
        KeyCheck { digests: Vec::new(), stored: None }
    }

    /// The key, whatever its text.
    pub fn key(&self) -> Option<&Arc<ApiKey>> {
        self.stored.as_ref().map(|stored| &stored.key)
    }

    /// The key, if this is its text now and it may be used. Takes the same time for every text of the form of a key,
    /// whether or not there is such a key.
    pub fn verify(&self, presented: &[u8], now: Moment) -> Option<KnownKey> {
        const NOTHING: &[u8] = &[0; 32];
        let (mut is_current, mut is_previous) = (Choice::from(0), Choice::from(0));
        let stored = self.stored.as_ref();
        let previous = stored.and_then(|stored| stored.previous.as_ref());
        for key in &self.digests {
            let digest = key.digest_bytes(presented);
            is_current |= stored.map_or(NOTHING, |stored| &stored.digest).ct_eq(&digest);
            is_previous |= previous.map_or(NOTHING, |(digest, _)| digest).ct_eq(&digest);
        }
        let key = &stored?.key;
        let end = key.terms.expires_at;
        let until = match (bool::from(is_current), bool::from(is_previous), previous) {
            (true, ..) => end,
            (false, true, Some((_, until))) => Some(end.map_or(*until, |end| end.min(*until))),
            _ => return None,
        };
        let in_time = until.is_none_or(|until| now < until);
        (key.is_valid(now) && in_time).then(|| KnownKey { key: Arc::clone(key), until })
    }

    /// As [`verify`](Self::verify), for a text that was read as a secret.
    #[expect(clippy::disallowed_methods, reason = "a presented key is exposed to be digested")]
    pub(super) fn verify_secret(&self, presented: &SecretString, now: Moment) -> Option<KnownKey> {
        self.verify(presented.expose_secret().as_bytes(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_form_ak_02() {
        let key = PlainKey::generate().unwrap();
        let text = seal::plain(key.text());
        assert_eq!(text.len(), LENGTH);
        assert_eq!(id_of(text.as_bytes()), Some(key.id));
        assert_ne!(seal::plain(PlainKey::of(key.id).unwrap().text()), text);
        assert!(!format!("{key:?}").contains(&text[LENGTH - SECRET..]));
        for wrong in [
            "apk_".to_owned(),
            "apk__".to_owned(),
            "apk_1_".to_owned(),
            text.to_uppercase(),
            format!("{text}_"),
            format!("{text} "),
            format!("{text}\n"),
            text.replacen('_', "__", 1),
            text.replace(&text[LENGTH - 1..], "\u{0}"),
            format!("{}é", &text[..LENGTH - 2]),
            format!("{}-", &text[..LENGTH - 1]),
            format!("{}{}", &text[..LENGTH - SECRET], "a".repeat(10 << 20)),
            format!("usr_{}", &text[4..]),
        ] {
            assert_eq!(id_of(wrong.as_bytes()), None, "{}", &wrong[..wrong.len().min(100)]);
        }
    }

    #[test]
    fn the_secret_of_an_api_key_is_43_even_draws_of_62() {
        let text = base62().unwrap();
        assert_eq!(text.len(), 43);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..1_000 {
            for byte in base62().unwrap().bytes() {
                *counts.entry(byte).or_insert(0) += 1;
            }
        }
        // 43,000 draws give each of 62 about 694; six standard deviations are 158.
        assert_eq!(counts.len(), 62);
        assert!(counts.values().all(|count| (536..852).contains(count)), "{counts:?}");
    }
}
