//! Small documents with a secret in them: what somebody writes to sign in. Every value is a secret from the moment it
//! is read; what is none is taken out of its wrapper here.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequest, Request};
use secrecy::{ExposeSecret, SecretString};

use super::document::{Given, SecretFields};
use super::error::AdminError;
use crate::model::document::Problem;

/// The fields of a form that are not yet read, and what was wrong with those that were.
pub(super) struct Form {
    fields: Vec<(String, Given)>,
    problems: Vec<Problem>,
}

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let SecretFields(fields) = SecretFields::from_request(request, state).await?;
        Ok(Form { fields, problems: Vec::new() })
    }
}

impl Form {
    /// A field that may be absent, as the secret it is.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        let at = self.fields.iter().position(|(known, _)| known == name)?;
        match self.fields.swap_remove(at).1 {
            Given::Text(text) => Some(text),
            Given::Other("nothing") => None,
            Given::Other(found) => {
                self.problem(name, format!("expected a text, found {found}"));
                None
            }
        }
    }

    /// A field that may be absent and holds no secret, read as something.
    #[expect(clippy::disallowed_methods, reason = "a field that holds no secret is taken out of its wrapper")]
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        let text = self.secret(name)?;
        text.expose_secret().parse().map_err(|error: T::Err| self.problem(name, error.to_string())).ok()
    }

    /// A text that a person reads, of at most 100 bytes without control characters.
    pub(super) fn label(&mut self, name: &'static str) -> Option<String> {
        let text: String = self.parsed(name)?;
        if text.len() > 100 || text.chars().any(char::is_control) {
            self.problem(name, "expected at most 100 bytes without control characters".to_owned());
            return None;
        }
        Some(text)
    }

    /// Notes that a field is missing, where it is.
    pub(super) fn required<T>(&mut self, name: &'static str, value: Option<T>) -> Option<T> {
        let told = self.problems.iter().any(|problem| problem.pointer == format!("/{name}"));
        if value.is_none() && !told {
            self.problems.push(Problem { pointer: String::new(), detail: format!("the key `{name}` is missing") });
        }
        value
    }

    /// Notes a mistake in a field.
    pub(super) fn problem(&mut self, name: &'static str, detail: String) {
        self.problems.push(Problem { pointer: format!("/{name}"), detail });
    }

    /// All mistakes at once, fields that nobody asked for among them.
    pub(super) fn finish(mut self) -> Result<(), AdminError> {
        for (name, _) in std::mem::take(&mut self.fields) {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            self.problems.push(Problem { pointer, detail: "unknown key".to_owned() });
        }
        if self.problems.is_empty() { Ok(()) } else { Err(AdminError::Invalid(self.problems)) }
    }
}
