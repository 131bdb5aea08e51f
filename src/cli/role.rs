//! `sidekey role`: which roles there are and what each may do.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::access::Access;
use super::resource::{show, with_session};
use super::show::{Column, Output, text};
use super::{Before, Failure};

/// `sidekey role`
#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the permissions with what each role is granted of them
    List,
}

/// A line for each permission: the roles stand beside each other, so that they can be compared.
const COLUMNS: [Column; 7] = [
    ("PERMISSION", |item| text(&item["permission"])),
    ("SUPER_ADMIN", |item| text(&item["super_admin"])),
    ("ORG_ADMIN", |item| text(&item["org_admin"])),
    ("EDITOR", |item| text(&item["editor"])),
    ("MEMBER", |item| text(&item["member"])),
    ("VIEWER", |item| text(&item["viewer"])),
    ("CALLER", |item| text(&item["caller"])),
];

/// Runs `sidekey role`.
pub fn run(before: Before, command: Command) -> Result<(), Failure> {
    with_session(before, &command.access, async |mut session| {
        let Action::List = command.action;
        let mut answer = session.call(show(&["roles"])).await?.body;
        let roles: Vec<Value> = answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        match session.output {
            Output::Json => session.output.list(&roles, &[]),
            Output::People => session.output.list(&by_permission(&roles), &COLUMNS),
        }
    })
}

fn by_permission(roles: &[Value]) -> Vec<Value> {
    let Some(permissions) = roles.first().and_then(|role| role["permissions"].as_object()) else { return Vec::new() };
    let line = |permission: &String| {
        let grants = roles.iter().filter_map(|role| {
            let grant = match role["permissions"][permission].as_str() {
                Some("none") => Value::Null,
                _ => role["permissions"][permission].clone(),
            };
            Some((role["role"].as_str()?.to_owned(), grant))
        });
        Value::Object(grants.chain([("permission".to_owned(), permission.as_str().into())]).collect())
    };
    permissions.keys().map(line).collect()
}
