//! How names and ids are described: the same rules as their types hold to, written as patterns.

use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::connection::Label;
use crate::model::id::{ApiKeyId, ConnectionId, EventId, IntegrationId, OrganizationId, SecretId, SessionId, UserId};
use crate::model::moment::Moment;
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key, SecretKey};
use crate::model::role::{Grant, Role};
use crate::model::user::{Email, SignInMethod, UserStatus};

/// Describes a text: its type, the pattern it matches, what it is.
macro_rules! texts {
    ($($name:ident, $pattern:expr, $description:literal;)*) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    text(&$pattern, $description)
                }
            }

            impl ToSchema for $name {}
        )*

        /// The patterns, with a way to try the type they belong to.
        #[cfg(test)]
        fn patterns() -> Vec<(String, fn(&str) -> bool)> {
            vec![$(($pattern.to_owned(), |text| text.parse::<$name>().is_ok())),*]
        }
    };
}

texts! {
    Key, "^(?!(org|intg|conn|sec|usr|evt|apk)_)[a-z0-9][a-z0-9_-]{0,62}$", "A name chosen by people, stable across tenants.";
    EnvironmentName, "^[a-z0-9][a-z0-9_-]{0,62}$", "The name of an environment.";
    CustomerName, "^[A-Za-z0-9._:-]{1,128}$", "The opaque name of a customer.";
    SecretKey, "^[A-Z0-9_]{1,64}$", "The key of a secret, as in `@@SECRET:KEY@@`.";
    FieldName, "^[a-z][a-z0-9_]{0,62}$", "The name of a field.";
    OrganizationId, id("org"), "The id of an organization.";
    IntegrationId, id("intg"), "The id of an integration.";
    ConnectionId, id("conn"), "The id of a connection.";
    SecretId, id("sec"), "The id of a secret.";
    UserId, id("usr"), "The id of a user.";
    EventId, id("evt"), "The id of an event.";
    ApiKeyId, id("apk"), "The public part of an API key.";
    Label, r"^\S(.*\S)?$", "What people file things under, at most 64 bytes.";
    SessionId, id("ses"), "The public part of a session.";
    Email, EMAIL, "An e-mail address in ASCII; shown in lower case.";
    Moment, r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{3})?Z$", "A moment (RFC 3339), in UTC.";
}

/// Describes a choice: its type, the words there are, what it is.
macro_rules! choices {
    ($($name:ident, $words:expr, $description:literal;)*) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let object = ObjectBuilder::new()
                        .schema_type(SchemaType::Type(Type::String))
                        .enum_values(Some($words))
                        .description(Some($description));
                    RefOr::T(Schema::Object(object.build()))
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

/// What an address looks like, near enough: the lengths of its parts are judged when it is read.
const EMAIL: &str = "^[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+)*@[a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*(\\.[a-zA-Z0-9]+(-+[a-zA-Z0-9]+)*)*$";

choices! {
    Role, Role::ALL.map(Role::as_str), "What somebody is to an organization.";
    SignInMethod, ["password", "oidc"], "By a password, or at the identity provider.";
    UserStatus, ["invited", "active", "disabled"], "Whether a user may sign in.";
    Grant, ["none", "own", "all"], "Nothing, what the actor owns, or everything in the organization.";
}

/// A prefixed ULID in lower case.
fn id(prefix: &str) -> String {
    format!("^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$")
}

fn text(pattern: &str, description: &str) -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .pattern(Some(pattern))
        .description(Some(description));
    RefOr::T(Schema::Object(object.build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The patterns that need no look-ahead, which the project's engine does not know.
    #[test]
    fn a_pattern_takes_what_its_type_takes() {
        let texts = [
            "a",
            "A",
            "_",
            "-",
            "0",
            "a-b",
            "A_1",
            "a b",
            "",
            "é",
            "a.b:c",
            "conn_x",
            "1a",
            "a1",
            "conn_01jabcdefghjkmnpqrstvwxyz0",
            "org_01jabcdefghjkmnpqrstvwxyz0",
            "apk_81jabcdefghjkmnpqrstvwxyz0",
            "usr_01jabcdefghijkmnpqrstvwxyz",
            "intg_01JABCDEFGHJKMNPQRSTVWXYZ0",
        ];
        let tried = patterns().into_iter().filter(|(pattern, _)| !pattern.contains("(?!"));
        for (pattern, parses) in tried {
            let written: crate::model::field::Pattern =
                pattern.trim_start_matches('^').trim_end_matches('$').parse().unwrap();
            for text in texts {
                assert_eq!(written.matches(text), parses(text), "{pattern} {text:?}");
            }
        }
    }
}
