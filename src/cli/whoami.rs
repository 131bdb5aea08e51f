//! `sidekey whoami`: which server is asked, with whose key, and what that may do.

use clap::Args;
use serde_json::{Value, json};

use super::access::Access;
use super::resource::{show, with_session};
use super::{Before, Failure};

/// `sidekey whoami`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
}

/// Runs `sidekey whoami`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |mut session| {
        // Who asks is the same in every organization that they act in.
        let mut me = session.call_at_home(show(&["me"])).await?.body;
        me["server"] = json!(session.server().to_string());
        me["key_from"] = json!(session.key_from());
        if let Some(organization) = &session.organization {
            me["acts_in"] = Value::from(organization.as_str());
        }
        session.output.thing(&me)
    })
}
