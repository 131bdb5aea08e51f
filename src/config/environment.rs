//! The process's environment, read in this one place.
//!
//! Everybody else is handed an [`Environment`], so a test can say what it holds and nobody reads a variable late.

use std::collections::BTreeMap;
use std::env::VarError;
use std::fmt;

use zeroize::Zeroizing;

/// What every variable of Sidekey's own begins with.
pub(super) const PREFIX: &str = "SIDEKEY_";

/// The variables that configuration may read.
pub struct Environment(Variables);

enum Variables {
    Process,
    Given(BTreeMap<String, String>),
}

impl Environment {
    /// The variables of this process, read anew each time they are asked for.
    pub fn of_process() -> Self {
        Environment(Variables::Process)
    }

    /// These variables and no others.
    pub fn of<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let given = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment(Variables::Given(given))
    }

    /// A variable's value. One that is not UTF-8 is an error, for nothing here could use it.
    pub fn value(&self, name: &str) -> Result<Option<Zeroizing<String>>, VariableError> {
        match &self.0 {
            Variables::Process => process_value(name),
            Variables::Given(variables) => Ok(variables.get(name).map(|value| Zeroizing::new(value.clone()))),
        }
    }

    /// The names that lie over a key of the file: `SIDEKEY_SECTION__KEY`, in alphabetical order.
    pub(super) fn overrides(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.0 {
            Variables::Process => std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect(),
            Variables::Given(variables) => variables.keys().cloned().collect(),
        };
        names.retain(|name| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains("__")));
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Variables::Process => f.write_str("Environment(process)"),
            Variables::Given(variables) => f.debug_set().entries(variables.keys()).finish(),
        }
    }
}

/// Why a variable cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// Its value is not UTF-8.
    #[error("its value is not UTF-8 text")]
    NotText,
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn process_value(name: &str) -> Result<Option<Zeroizing<String>>, VariableError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(Zeroizing::new(value))),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(VariableError::NotText),
    }
}
