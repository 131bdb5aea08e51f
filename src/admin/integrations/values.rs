//! Values that an organization fills in once for all its connections of an integration, whoever's that is.
//!
//! A connection inherits them, and overrides them by values of its own. They are public: what is secret belongs in a
//! credential, or in a secret that credentials refer to.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::Control;
use super::super::actor::Actor;
use super::super::condition::Shown;
use super::super::document::Document;
use super::super::error::AdminError;
use super::super::request::At;
use super::{find, parse_slug};
use crate::model::connection::read_values;
use crate::model::document::Problem;
use crate::model::integration::{Integration, Values};
use crate::model::name::{FieldName, Key};
use crate::vault::change::{Change, resource};

/// The values as they are shown and written.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrationValues)]
pub struct View {
    /// The values of public fields of the integration.
    #[schema(value_type = std::collections::BTreeMap<FieldName, String>)]
    values: Values,
}

/// Shows what the organization has filled in for all its connections of an integration.
#[utoipa::path(get, path = "/integrations/{slug}/values", responses(
    (status = 200, description = "The values.", body = View, headers(("ETag" = String)))
))]
pub(in crate::admin) async fn show(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(slug): At<String>,
) -> Result<Shown<View>, AdminError> {
    let slug = known(&control, &actor, &slug).await?.slug.clone();
    let found = control.vault.database()?.integration_values(actor.organization, &slug).await?;
    let (values, version) = found.map_or_else(Default::default, |(values, version)| (values, Some(version)));
    Ok(Shown(View { values }, version))
}

/// Fills in values for all connections of the organization that use an integration.
///
/// A connection's own value is used instead where it has one. Where another value leads requests to another host, the
/// credentials of these connections are of no use until they are entered again.
#[utoipa::path(put, path = "/integrations/{slug}/values", request_body = View, responses(
    (status = 200, description = "They are filled in.", body = View, headers(("ETag" = String))),
))]
pub(in crate::admin) async fn replace(
    State(control): State<Arc<Control>>,
    actor: Actor,
    At(slug): At<String>,
    document: Document,
) -> Result<Shown<View>, AdminError> {
    let integration = known(&control, &actor, &slug).await?;
    let values = document.read(|reader| reader.required_table("values").map(read_values))?;
    check(&integration, &values)?;
    let (organization, slug) = (actor.organization, integration.slug.clone());
    let change = resource::Change::PutIntegrationValues { organization, slug, values: values.clone() };
    let outcome = control.commit(&actor, Change::Resource(change)).await?;
    Ok(Shown(View { values }, outcome.version))
}

async fn known(control: &Control, actor: &Actor, slug: &str) -> Result<Arc<Integration>, AdminError> {
    let slug: Key = parse_slug(slug)?;
    find(control, actor.organization, &slug).await
}

/// Values that are given must fit their fields; those that are not given are the connections' to give.
fn check(integration: &Integration, values: &Values) -> Result<(), AdminError> {
    let wrong = integration.check_values(values).into_iter().filter(|(field, _)| values.contains_key(field));
    let problem = |(field, detail)| Problem { pointer: format!("/values/{field}"), detail };
    let problems: Vec<Problem> = wrong.map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(AdminError::Invalid(problems)) }
}
