//! The way to a provider for another browser than the one that asked: a page that says what is signed in for whom, and
//! asks.
//!
//! Any page can lead a browser here, so looking changes nothing and sets no cookie: nobody is led on before they could
//! read whose connection will use their account, and pressed the button. That takes the sign-in on in their browser, once.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::{Begun, browser};
use crate::admin::actor::{Actor, Who};
use crate::admin::cookie::{self, Kind};
use crate::admin::error::AdminError;
use crate::admin::request::At;
use crate::admin::underway::PATIENCE;
use crate::admin::{Control, pages, people};
use crate::model::id::ConnectionRef;
use crate::model::user::UserRef;

/// Whether a sign-in waits for the browser that shows this.
fn waits_for(shown: &str) -> impl Fn(&Begun) -> bool {
    move |begun| begun.ticket.as_ref().is_some_and(|ticket| bool::from(ticket.as_bytes().ct_eq(shown.as_bytes())))
}

/// `GET /oauth/start/{ticket}`: says what is signed in. It can be looked at as often as somebody likes.
pub(in crate::admin) async fn show(
    State(control): State<Arc<Control>>,
    shown: Result<At<String>, AdminError>,
) -> Response {
    let page = match shown {
        Ok(At(shown)) => page(&control, &shown).await,
        Err(error) => Err(error),
    };
    match page {
        Ok(page) => page,
        Err(AdminError::NotFound(_)) => pages::told(StatusCode::NOT_FOUND, pages::Told::Unknown),
        Err(error) => pages::told(error.into_response().status(), pages::Told::Failed),
    }
}

async fn page(control: &Control, shown: &str) -> Result<Response, AdminError> {
    let gone = || AdminError::NotFound("sign-in");
    let look = |begun: &Begun| {
        let host = begun.authorize_url.parse::<Uri>().ok().and_then(|url| Some(url.authority()?.to_string()));
        (begun.connection, begun.environment.clone(), begun.actor.clone(), host)
    };
    let (connection, environment, actor, host) =
        control.authorizations.0.look(waits_for(shown), look).ok_or_else(gone)?;
    let connection = control.vault.connection(actor.organization, None, &ConnectionRef::Id(connection)).await?;
    let organization = control.vault.organization(&actor.organization.to_string()).await?;
    let (connection, organization) = (connection.ok_or_else(gone)?, organization.ok_or_else(gone)?);
    Ok(pages::start(&pages::Start {
        host: &host.ok_or_else(gone)?,
        connection: connection.key.as_str(),
        name: connection.name.as_deref().unwrap_or_default(),
        customer: connection.customer.as_ref().map_or("", |customer| customer.as_str()),
        organization: &organization.name,
        environment: environment.as_str(),
        who: &name(control, &actor).await?,
    }))
}

/// Who began it, as a person knows them.
async fn name(control: &Control, actor: &Actor) -> Result<String, AdminError> {
    let named = match actor.who {
        Who::Key(_) => actor.key.as_ref().map(|key| format!("the API key {}", key.terms.name)),
        Who::User(id) => {
            let user = control.vault.database()?.user(actor.own_organization, &UserRef::Id(id)).await?;
            user.map(|record| record.user.email.to_string())
        }
    };
    Ok(named.unwrap_or_else(|| actor.who.to_string()))
}

/// `POST /oauth/start/{ticket}`, from the button of the page: takes the sign-in on in this browser, and says where the
/// provider is.
pub(in crate::admin) async fn take(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    At(shown): At<String>,
) -> Result<Response, AdminError> {
    people::check_own_page(&headers)?;
    let transport = control.people.settings.transport;
    let browser = browser(&headers, transport)?;
    let taken = control.authorizations.0.change(waits_for(&shown), |begun| {
        begun.kept.ticket = None;
        begun.browser = Some(browser.clone());
        begun.kept.authorize_url.clone()
    });
    let gone = AdminError::NotFound("sign-in to go on with: it has ended, or somebody went on with it before");
    let mut response = Json(json!({ "authorize_url": taken.ok_or(gone)? })).into_response();
    cookie::set(response.headers_mut(), Kind::Authorize, transport, &browser, PATIENCE);
    Ok(response)
}
