//! What an import does to an organization as it is: judged once, as a whole, before anything is written.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::super::Control;
use super::super::error::AdminError;
use super::difference::Difference;
use super::given::{At, Draft, FilledIn, Given};
use super::{public, written};
use crate::directory::route::Route;
use crate::model::connection::{Connection, Sharing, Visibility};
use crate::model::document::Problem;
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId};
use crate::model::integration::{Integration, Values};
use crate::model::name::Key;
use crate::vault::change::import::Import;
use crate::vault::change::resource::Reach;

/// What becomes of credentials where requests go elsewhere.
const MOVED: &str = "its hosts change: credentials bound to the old ones must be entered again";

/// What an import does.
pub(super) struct Plan {
    /// What becomes of each thing of the document.
    pub(super) changes: Vec<Difference>,
    /// What is written; `None` where nothing is.
    pub(super) import: Option<Import>,
}

/// What an organization has by a slug: what is there, and what becomes of it.
struct Slug {
    before: Option<Held>,
    /// What the organization has filled in.
    filled: Values,
    /// As the document has it, where it does.
    given: Option<Arc<Integration>>,
    /// What the document fills in, where it does.
    given_values: Option<Values>,
}

/// An integration that is there, without what is filled in.
struct Held {
    integration: Arc<Integration>,
    /// Why it is not an import's to replace.
    fixed: Option<&'static str>,
}

impl Slug {
    async fn find(control: &Control, organization: OrganizationId, slug: &Key) -> Result<Self, AdminError> {
        let (declared, database) = (control.vault.declared(), control.vault.database()?);
        let before = match declared.integration(slug) {
            Some(integration) => {
                let fixed = Some("it is declared in the configuration, and read-only");
                Some(Held { integration: Arc::clone(integration), fixed })
            }
            None => match database.integration(organization, slug).await? {
                Some(integration) => {
                    let facts = database.integration_facts(organization, slug).await?;
                    let is_systems = facts.is_some_and(|facts| facts.reach == Reach::System);
                    let fixed = is_systems
                        .then_some("it is every organization's; super admins change it by PUT with ?system=true");
                    Some(Held { integration: Arc::new(integration), fixed })
                }
                None => None,
            },
        };
        let filled = database.integration_values(organization, slug).await?.map(|(values, _)| values);
        Ok(Slug { before, filled: filled.unwrap_or_default(), given: None, given_values: None })
    }

    /// The integration as it will be, without what is filled in.
    fn becomes(&self) -> Option<&Arc<Integration>> {
        self.given.as_ref().or(self.before.as_ref().map(|held| &held.integration))
    }

    /// The same as connections see it.
    fn filled_after(&self) -> Option<Arc<Integration>> {
        let values = self.given_values.as_ref().unwrap_or(&self.filled);
        self.becomes().map(|integration| Arc::new(integration.filled(values)))
    }

    /// As connections saw it.
    fn filled_before(&self) -> Option<Arc<Integration>> {
        self.before.as_ref().map(|held| Arc::new(held.integration.filled(&self.filled)))
    }

    /// What credentials that are there have to suffer, if anything.
    fn note(&self) -> Option<&'static str> {
        let (before, after) = (self.filled_before()?, self.filled_after()?);
        (!before.leads_as(&after)).then_some(MOVED)
    }
}

/// A plan under way.
struct Planning<'c> {
    control: &'c Control,
    organization: OrganizationId,
    slugs: HashMap<Key, Slug>,
    changes: Vec<Difference>,
    problems: Vec<Problem>,
    import: Import,
}

impl Plan {
    /// Judges a document against what is there now. Every reason why it cannot be imported at once.
    pub(super) async fn make(
        control: &Control,
        organization: OrganizationId,
        given: &Given,
    ) -> Result<Self, AdminError> {
        // Before anything is looked at: what is changed from here on shows.
        let judged_at = Some(control.vault.database()?.event_count(organization).await?);
        let (integrations, values, connections, credentials) = Default::default();
        let mut planning = Planning {
            control,
            organization,
            slugs: HashMap::new(),
            changes: Vec::new(),
            problems: Vec::new(),
            import: Import { organization, integrations, values, connections, credentials, judged_at },
        };
        planning.find(given).await?;
        given.integrations.iter().for_each(|at| planning.integration(at));
        given.values.iter().for_each(|at| planning.values(at));
        for at in &given.connections {
            planning.connection(at).await?;
        }
        let Planning { changes, problems, import, .. } = planning;
        if !problems.is_empty() {
            return Err(AdminError::Invalid(problems));
        }
        let is_needed = changes.iter().any(Difference::changes_something);
        Ok(Plan { changes, import: is_needed.then_some(import) })
    }
}

impl Planning<'_> {
    /// Looks up everything by a slug that the document names, once.
    async fn find(&mut self, given: &Given) -> Result<(), AdminError> {
        let integrations = given.integrations.iter().map(|at| &at.thing.slug);
        let values = given.values.iter().map(|at| &at.thing.slug);
        let used = given.connections.iter().map(|at| &at.thing.connection.integration);
        for slug in integrations.chain(values).chain(used) {
            if !self.slugs.contains_key(slug) {
                self.slugs.insert(slug.clone(), Slug::find(self.control, self.organization, slug).await?);
            }
        }
        for At { thing, .. } in &given.integrations {
            if let Some(slug) = self.slugs.get_mut(&thing.slug) {
                slug.given = Some(Arc::new(thing.clone()));
            }
        }
        for At { thing: FilledIn { slug, values }, .. } in &given.values {
            if let Some(slug) = self.slugs.get_mut(slug) {
                slug.given_values = Some(values.clone());
            }
        }
        Ok(())
    }

    fn wrong(&mut self, pointer: &str, detail: impl Into<String>) {
        self.problems.push(Problem { pointer: pointer.to_owned(), detail: detail.into() });
    }

    fn integration(&mut self, At { pointer, thing }: &At<Integration>) {
        let Some(slug) = self.slugs.get(&thing.slug) else { return };
        let before = slug.before.as_ref().map(|held| &held.integration.document);
        let difference = Difference::new("integration", thing.slug.as_str(), None, before, Some(&thing.document));
        let fixed = slug.before.as_ref().and_then(|held| held.fixed);
        if difference.changes_something() {
            if let Some(why) = fixed {
                return self.wrong(pointer, format!("there is another integration {} already: {why}", thing.slug));
            }
            self.import.integrations.push(thing.clone());
        }
        let note = slug.note().filter(|_| difference.changes_something());
        self.changes.push(difference.noted(note));
    }

    fn values(&mut self, At { pointer, thing: FilledIn { slug: named, values } }: &At<FilledIn>) {
        let Some(slug) = self.slugs.get(named) else { return };
        let Some(integration) = slug.becomes() else { return self.wrong(pointer, unknown(named)) };
        let wrong = integration.check_values(values).into_iter().filter(|(field, _)| values.contains_key(field));
        let problems: Vec<Problem> =
            wrong.map(|(field, detail)| Problem { pointer: format!("{pointer}/values/{field}"), detail }).collect();
        // Nothing that is filled in is the same as what was never filled in.
        let some = |values: &Values| (!values.is_empty()).then(|| json!(values));
        let before = some(&public(integration, &slug.filled));
        let after = some(values).or(before.as_ref().map(|_| json!({})));
        let difference = Difference::new("values", named.as_str(), None, before.as_ref(), after.as_ref());
        let is_told = slug.given.as_ref().is_some_and(|given| {
            slug.before.as_ref().is_none_or(|before| before.integration.document != given.document)
        });
        let note = slug.note().filter(|_| difference.changes_something() && !is_told);
        self.problems.extend(problems);
        if difference.changes_something() {
            self.import.values.push((named.clone(), values.clone()));
        }
        self.changes.push(difference.noted(note));
    }

    async fn connection(&mut self, At { pointer, thing }: &At<Draft>) -> Result<(), AdminError> {
        let Draft { connection: draft, sharing } = thing;
        let reference = ConnectionRef::Key(draft.key.clone());
        let before = self.control.vault.connection(self.organization, draft.customer.as_ref(), &reference).await?;
        let mut connection = draft.clone().into_connection(ConnectionId::generate(), self.organization);
        connection.sharing = Sharing { labels: sharing.labels.clone(), exposed: sharing.exposed, ..Sharing::default() };
        if let Some(before) = &before {
            // Whose it is stays as it is.
            connection.sharing.visibility = before.sharing.visibility;
            connection.sharing.owner = before.sharing.owner;
        }
        let was = before.as_deref().map(written);
        let customer = draft.customer.as_ref().map(|customer| customer.as_str());
        let difference =
            Difference::new("connection", draft.key.as_str(), customer, was.as_ref(), Some(&written(&connection)));
        let slug = &draft.integration;
        let after = self.slugs.get(slug).and_then(Slug::filled_after);
        let route = match after {
            None => Err(unknown(slug)),
            Some(integration) => Route::new(Arc::new(connection.clone()), integration),
        };
        let route = match route {
            Ok(route) => route,
            Err(why) => {
                self.wrong(pointer, why);
                return Ok(());
            }
        };
        if !difference.changes_something() {
            self.changes.push(difference);
            return Ok(());
        }
        let Some(before) = before else {
            self.import.connections.push(connection);
            self.changes.push(difference.noted(Some("its credentials have to be entered")));
            return Ok(());
        };
        if self.control.vault.declares(before.id) {
            let detail =
                "there is another connection of this key already: it is declared in the configuration, and read-only";
            self.wrong(pointer, detail);
        } else if before.sharing.visibility == Visibility::Personal {
            self.wrong(pointer, "the key is taken by a personal connection, which an import does not replace");
        }
        let note = self.leads_elsewhere(&before, &route).await?.then_some(MOVED);
        self.import.connections.push(connection);
        self.changes.push(difference.noted(note));
        Ok(())
    }

    /// Whether a connection leads to a host that the one before did not lead to.
    async fn leads_elsewhere(&self, before: &Arc<Connection>, after: &Route) -> Result<bool, AdminError> {
        let integration = self.control.vault.integration(self.organization, &before.integration).await?;
        let was = integration.and_then(|integration| Route::new(Arc::clone(before), integration).ok());
        Ok(was.is_some_and(|was| after.origins.iter().any(|origin| !was.origins.contains(origin))))
    }
}

fn unknown(slug: &Key) -> String {
    format!("there is no integration {slug}, neither here nor in the document")
}
