//! Roles: what each may do. The table is here and nowhere else; the admin port judges by it and shows it.
//!
//! What a call needs is one [`Permission`]; which call needs which stands beside the routes. A role grants a permission
//! for everything, for what the actor owns, or not at all, and whoever has several roles has the most of each.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::name::NameError;

/// What somebody is to an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, in every organization.
    SuperAdmin,
    /// Everything in one organization.
    OrgAdmin,
    /// Creates and edits connections and secrets.
    Editor,
    /// Creates connections and manages those it owns.
    Member,
    /// Sees, and changes nothing.
    Viewer,
    /// Uses the proxy port, and nothing of the admin port.
    Caller,
}

/// For how much a role grants a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// For nothing.
    None,
    /// For what the actor owns.
    Own,
    /// For everything in the organization.
    All,
}

/// Declares the permissions, each with its name and the grants of the roles in their order.
macro_rules! permissions {
    ($($(#[$doc:meta])* $permission:ident, $name:literal, [$($grant:ident),*];)*) => {
        /// What a call of the admin API needs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Permission {
            $($(#[$doc])* $permission,)*
        }

        impl Permission {
            /// Every permission, in the order of the table.
            pub const ALL: &[Permission] = &[$(Permission::$permission),*];

            /// As the API shows it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Permission::$permission => $name,)*
                }
            }

            /// The row of the table: a grant for each role, in the order of [`Role::ALL`].
            const fn grants(self) -> [Grant; Role::ALL.len()] {
                match self {
                    $(Permission::$permission => [$(Grant::$grant),*],)*
                }
            }
        }
    };
}

permissions! {
    //                                                    super  org    editor member viewer caller
    /// Seeing which roles there are and what they may do.
    ReadRoles, "roles.read",                             [All,   All,   All,   All,   All,   None];
    /// Seeing one's own organization; a super admin sees all.
    ReadOrganizations, "organizations.read",             [All,   All,   All,   All,   All,   None];
    /// Renaming one's own organization.
    EditOrganization, "organizations.edit",              [All,   All,   None,  None,  None,  None];
    /// Making and deleting organizations.
    ManageOrganizations, "organizations.manage",         [All,   None,  None,  None,  None,  None];
    /// Seeing environments.
    ReadEnvironments, "environments.read",               [All,   All,   All,   All,   All,   None];
    /// Making, renaming, ordering and deleting environments.
    ManageEnvironments, "environments.manage",           [All,   All,   None,  None,  None,  None];
    /// Seeing integrations.
    ReadIntegrations, "integrations.read",               [All,   All,   All,   All,   All,   None];
    /// Storing integrations: they say where credentials go.
    ManageIntegrations, "integrations.manage",           [All,   All,   None,  None,  None,  None];
    /// Changing integrations that every organization has.
    ManageSystemIntegrations, "integrations.system",     [All,   None,  None,  None,  None,  None];
    /// Seeing connections and which fields of their credentials are set.
    ReadConnections, "connections.read",                 [All,   All,   All,   All,   All,   None];
    /// Making, changing and deleting connections and their credentials.
    ManageConnections, "connections.manage",             [All,   All,   All,   Own,   None,  None];
    /// Running a connection's test request, which moves its status.
    TestConnections, "connections.test",                 [All,   All,   All,   Own,   None,  None];
    /// Asking what would be sent over a connection.
    ExplainConnections, "connections.explain",           [All,   All,   All,   All,   All,   None];
    /// Seeing which secrets there are.
    ReadSecrets, "secrets.read",                         [All,   All,   All,   All,   All,   None];
    /// Making and changing secrets.
    ManageSecrets, "secrets.manage",                     [All,   All,   All,   None,  None,  None];
    /// Entering credentials that refer to secrets: whoever does so says where a secret goes.
    UseSecrets, "secrets.use",                           [All,   All,   All,   None,  None,  None];
    /// Seeing API keys.
    ReadApiKeys, "api_keys.read",                        [All,   All,   None,  None,  None,  None];
    /// Making, limiting, suspending and revoking API keys.
    ManageApiKeys, "api_keys.manage",                    [All,   All,   None,  None,  None,  None];
    /// Seeing users.
    ReadUsers, "users.read",                             [All,   All,   None,  None,  None,  None];
    /// Inviting users, giving them roles, disabling and deleting them.
    ManageUsers, "users.manage",                         [All,   All,   None,  None,  None,  None];
    /// Seeing and ending one's own sessions.
    ManageOwnSessions, "sessions.own",                   [Own,   Own,   Own,   Own,   Own,   Own];
    /// Reading and verifying the audit log.
    ReadAudit, "audit.read",                             [All,   All,   None,  None,  None,  None];
    /// Exporting integrations and connections, without secrets.
    Export, "export",                                    [All,   All,   None,  None,  None,  None];
    /// Importing integrations and connections.
    Import, "import",                                    [All,   All,   None,  None,  None,  None];
    /// Using connections on the proxy port, as far as the scope of the key goes.
    UseProxy, "proxy.use",                               [None,  None,  None,  None,  None,  All];
    /// Watching requests as they pass.
    Tap, "tap",                                          [All,   All,   None,  None,  None,  None];
}

impl Role {
    /// Every role, the mightiest first.
    pub const ALL: [Role; 6] =
        [Role::SuperAdmin, Role::OrgAdmin, Role::Editor, Role::Member, Role::Viewer, Role::Caller];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::SuperAdmin => "super_admin",
            Role::OrgAdmin => "org_admin",
            Role::Editor => "editor",
            Role::Member => "member",
            Role::Viewer => "viewer",
            Role::Caller => "caller",
        }
    }

    /// For how much it grants a permission.
    pub const fn grant(self, permission: Permission) -> Grant {
        permission.grants()[self as usize]
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WRONG: NameError = NameError("a role is super_admin, org_admin, editor, member, viewer or caller");
        Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or(WRONG)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The roles of somebody; a set, so that no order and no repetition means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// For how much they grant a permission: as much as the one that grants most.
    pub fn grant(self, permission: Permission) -> Grant {
        self.iter().map(|role| role.grant(permission)).max().unwrap_or(Grant::None)
    }

    /// Whether one of them is this.
    pub const fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// Each of them, the mightiest first.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }

    /// Whether whoever has these may give the others: they grant nothing that these do not. The use of the proxy port,
    /// which no other role includes, is given by those who manage keys.
    pub fn cover(self, others: Roles) -> bool {
        let has = |permission: Permission| match permission {
            Permission::UseProxy => self.grant(Permission::UseProxy).max(self.grant(Permission::ManageApiKeys)),
            other => self.grant(other),
        };
        Permission::ALL.iter().all(|permission| others.grant(*permission) <= has(*permission))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Roles(roles.into_iter().fold(0, |bits, role| bits | 1 << role as u8))
    }
}

impl Serialize for Roles {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mightier_role_may_do_all_that_a_weaker_one_may() {
        for pair in Role::ALL.windows(2) {
            for permission in Permission::ALL.iter().filter(|permission| **permission != Permission::UseProxy) {
                assert!(pair[0].grant(*permission) >= pair[1].grant(*permission), "{permission:?} of {pair:?}");
            }
        }
    }

    #[test]
    fn a_caller_has_no_business_on_the_admin_port() {
        let granted = |permission: &&Permission| Role::Caller.grant(**permission) > Grant::None;
        let granted: Vec<_> = Permission::ALL.iter().filter(granted).collect();
        assert_eq!(granted, [&Permission::ManageOwnSessions, &Permission::UseProxy]);
    }

    #[test]
    fn roles_read_back_as_written_and_add_up() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
        }
        assert!("admin".parse::<Role>().is_err());
        let both: Roles = [Role::Viewer, Role::Caller, Role::Viewer].into_iter().collect();
        assert_eq!(serde_json::to_string(&both).unwrap(), r#"["viewer","caller"]"#);
        assert_eq!(both.grant(Permission::ReadConnections), Grant::All);
        assert_eq!(both.grant(Permission::ManageConnections), Grant::None);
        assert_eq!(Roles::default().grant(Permission::ReadRoles), Grant::None);
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        let roles = |roles: &[Role]| roles.iter().copied().collect::<Roles>();
        for (at, giver) in Role::ALL.into_iter().enumerate() {
            for (other, given) in Role::ALL.into_iter().enumerate() {
                let may = other >= at && (given != Role::Caller || at < 2 || giver == Role::Caller);
                assert_eq!(roles(&[giver]).cover(roles(&[given])), may, "{giver} gives {given}");
            }
        }
        assert!(roles(&[Role::Editor]).cover(roles(&[])));
    }
}
