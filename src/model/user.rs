//! Users: the people who sign in to the admin port.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::id::{OrganizationId, UserId};
use super::name::NameError;
use super::role::Roles;

/// An e-mail address as people have them: in lower case, without comments, quotes or white space, so that it can stand
/// in a mail's head and two spellings are one address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(Arc<str>);

impl Email {
    /// The text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    pub fn local_part(&self) -> &str {
        self.0.split_once('@').map_or("", |(local, _)| local)
    }
}

impl FromStr for Email {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WRONG: NameError = NameError("expected an e-mail address such as ada@example.test, in ASCII");
        let (local, domain) = text.rsplit_once('@').ok_or(WRONG)?;
        let is_atom = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
        };
        let is_label = |part: &str| {
            let hyphens = part.starts_with('-') || part.ends_with('-');
            (1..=63).contains(&part.len()) && !hyphens && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let fits = text.len() <= 254 && local.len() <= 64;
        if fits && local.split('.').all(is_atom) && domain.split('.').all(is_label) {
            Ok(Email(text.to_ascii_lowercase().into()))
        } else {
            Err(WRONG)
        }
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Email {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Declares an enum of words that are stored and shown as they are written.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal),* $(,)? } $wrong:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name {
            $($(#[$inner])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// As it is written.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err(NameError($wrong)),
                }
            }
        }
    };
}

words!(
    /// How a user proves who they are.
    SignInMethod {
        /// By a password that only its digest is kept of.
        Password = "password",
        /// At the identity provider of `[admin.oidc]`.
        Oidc = "oidc",
    }
    "a sign-in method is password or oidc"
);

words!(
    /// Whether a user may sign in.
    UserStatus {
        /// Not yet: the invitation was not accepted.
        Invited = "invited",
        /// Yes.
        Active = "active",
        /// No more, until somebody enables them.
        Disabled = "disabled",
    }
    "a status is invited, active or disabled"
);

/// A user, without anything that proves who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Unique in the organization.
    pub email: Email,
    /// As a person reads it.
    pub first_name: String,
    /// As a person reads it.
    pub last_name: String,
    /// How they sign in.
    pub method: SignInMethod,
    /// What they may do.
    pub roles: Roles,
    /// Whether they may sign in.
    pub status: UserStatus,
}

/// A user as a call names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef {
    /// `usr_01j…`
    Id(UserId),
    /// `ada@example.test`
    Email(Email),
}

impl FromStr for UserRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.starts_with(UserId::PREFIX) && !text.contains('@') {
            true => text.parse().map(UserRef::Id),
            false => text.parse().map(UserRef::Email),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_spelling_and_fits_in_a_mails_head() {
        let email: Email = "Ada.Love+x@Example.TEST".parse().unwrap();
        assert_eq!((email.as_str(), email.local_part()), ("ada.love+x@example.test", "ada.love+x"));
        for text in [
            "",
            "ada",
            "@example.test",
            "ada@",
            "ada@@example.test",
            "a b@example.test",
            "ada@example.test\r\nBcc: eve@evil.test",
            "\"a\"@example.test",
            "a..b@example.test",
            ".a@example.test",
            "ada@-example.test",
            "ada@example..test",
            "ada@[127.0.0.1]",
            "ad\u{e4}@example.test",
            "<ada@example.test>",
            &format!("{}@example.test", "a".repeat(65)),
        ] {
            assert!(text.parse::<Email>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_user_is_named_by_id_or_address() {
        let id = UserId::generate();
        assert_eq!(id.to_string().parse::<UserRef>().unwrap(), UserRef::Id(id));
        assert_eq!("Ada@example.test".parse::<UserRef>().unwrap(), UserRef::Email("ada@example.test".parse().unwrap()));
        assert!("usr_01".parse::<UserRef>().is_err() && "ada".parse::<UserRef>().is_err());
        assert!("usr_x@example.test".parse::<UserRef>().is_ok(), "an address may begin like an id");
    }
}
