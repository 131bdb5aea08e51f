//! Reading events: filtered, a page at a time, newest first or in their order.

use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Chain, chain};
use crate::model::id::OrganizationId;
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::list::{List, Page};
use crate::vault::query::corrupt;

/// An event as it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its number in its chain, from 1.
    pub sequence: i64,
    /// Its id.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// What they did.
    pub action: String,
    /// To what.
    pub object: String,
    /// From which address, where it came through a network.
    pub address: Option<String>,
    /// In which request; empty where there was none.
    pub request_id: String,
    /// The members that differ, as they were; `None` where there was nothing.
    pub before: Option<Value>,
    /// The members that differ, as they became; `None` where there is nothing any more.
    pub after: Option<Value>,
    /// What else is told of it.
    pub detail: Map<String, Value>,
}

/// Which events. What is `None` says nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Exactly this actor.
    pub actor: Option<String>,
    /// Exactly this action, or those that begin as it does where it ends with `*`.
    pub action: Option<String>,
    /// Exactly this object.
    pub object: Option<String>,
    /// Not before this moment, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Before this moment.
    pub until: Option<i64>,
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As a person looks for them.
    NewestFirst,
    /// As they happened.
    OldestFirst,
}

impl Database {
    /// How many events an organization has: another number tells that it was changed.
    pub async fn event_count(&self, organization: OrganizationId) -> Result<i64, DatabaseError> {
        self.inner.counters.read();
        chain::count(&mut *self.inner.readers.acquire().await?, Chain::Organization(organization)).await
    }

    /// The events of a chain. The cursor is the number of the last event of the page before.
    pub async fn events(
        &self,
        chain: Chain,
        filter: &Filter,
        order: Order,
        page: Page<'_>,
    ) -> Result<List<Recorded>, DatabaseError> {
        self.inner.counters.read();
        let mut query = select(chain, filter);
        let cursor = page.cursor.and_then(|cursor| cursor.parse::<i64>().ok());
        match order {
            Order::NewestFirst => {
                query.push(" AND sequence < ").push_bind(cursor.unwrap_or(i64::MAX)).push(" ORDER BY sequence DESC");
            }
            Order::OldestFirst => {
                query.push(" AND sequence > ").push_bind(cursor.unwrap_or(0)).push(" ORDER BY sequence");
            }
        }
        query.push(" LIMIT ").push_bind(page.fetch());
        let rows = query.build().fetch_all(&self.inner.readers).await?;
        page.list(&rows, recorded, |event| event.sequence.to_string())
    }
}

fn select(chain: Chain, filter: &Filter) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(
        "SELECT sequence, id, at, actor, action, object, detail, address, request_id FROM audit \
         WHERE organization_id = ",
    );
    query.push_bind(chain.column());
    if let Some(actor) = &filter.actor {
        query.push(" AND actor = ").push_bind(actor.clone());
    }
    match filter.action.as_deref().map(|action| (action, action.strip_suffix('*'))) {
        Some((_, Some(beginning))) => {
            query
                .push(" AND substr(action, 1, ")
                .push_bind(i64::try_from(beginning.chars().count()).unwrap_or(i64::MAX));
            query.push(") = ").push_bind(beginning.to_owned());
        }
        Some((action, None)) => {
            query.push(" AND action = ").push_bind(action.to_owned());
        }
        None => {}
    }
    if let Some(object) = &filter.object {
        query.push(" AND object = ").push_bind(object.clone());
    }
    if let Some(since) = filter.since {
        query.push(" AND at >= ").push_bind(since);
    }
    if let Some(until) = filter.until {
        query.push(" AND at < ").push_bind(until);
    }
    query
}

fn recorded(row: &SqliteRow) -> Result<Recorded, DatabaseError> {
    let (id, detail): (String, String) = (row.try_get("id")?, row.try_get("detail")?);
    let mut detail: Map<String, Value> = serde_json::from_str(&detail).map_err(|_| corrupt("audit event", &id))?;
    let (before, after) = (detail.remove("before"), detail.remove("after"));
    Ok(Recorded {
        sequence: row.try_get("sequence")?,
        id,
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        address: row.try_get("address")?,
        request_id: row.try_get("request_id")?,
        before,
        after,
        detail,
    })
}
