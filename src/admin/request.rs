//! What a request's target says: the names in its path, and what stands behind the `?`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query as Pairs};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::AdminError;
use crate::model::document::Problem;
use crate::model::name::CustomerName;
use crate::vault::change::resource::Force;
use crate::vault::list::{List, Page};

const DEFAULT_LIMIT: u32 = 50;
const LARGEST_LIMIT: u32 = 200;

/// The texts in a path. What is no text is no name of anything.
pub(super) struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(texts)| At(texts)).map_err(|_| AdminError::NotFound("resource"))
    }
}

/// What may stand behind the `?` of any call. One that the call's description does not have is refused before
/// (`openapi::check_query`): a misspelt `organization` must not change another one.
pub(super) struct Query {
    /// Which organization is meant: an id or key.
    pub organization: Option<String>,
    /// Whose connection a key means.
    pub customer: Option<CustomerName>,
    /// Whether something is done although others rely on what it does away with.
    pub force: Force,
    limit: u32,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct Written {
    organization: Option<String>,
    customer: Option<String>,
    force: Option<bool>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Query {
    /// Reads the query of a target.
    pub(super) fn read(uri: &Uri) -> Result<Self, AdminError> {
        let Pairs(written) = Pairs::<Written>::try_from_uri(uri).map_err(|error| wrong(error.body_text()))?;
        let limit = written.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=LARGEST_LIMIT).contains(&limit) {
            return Err(wrong(format!("limit is a number from 1 to {LARGEST_LIMIT}")));
        }
        let customer = written.customer.map(|text| text.parse()).transpose();
        let customer = customer.map_err(|error: crate::model::name::NameError| wrong(error.to_string()))?;
        let force = if written.force.unwrap_or(false) { Force::Yes } else { Force::No };
        Ok(Query { organization: written.organization, customer, force, limit, cursor: written.cursor })
    }

    /// The part of a list that is asked for.
    pub(super) fn page(&self) -> Page<'_> {
        Page { limit: self.limit, cursor: self.cursor.as_deref() }
    }

    /// The cursor, empty at the beginning of a list.
    pub(super) fn cursor(&self) -> &str {
        self.cursor.as_deref().unwrap_or_default()
    }

    /// One page of what is declared and what is stored, in the order of their names. `declared` are those behind the
    /// cursor; one that is stored too stands above it. `cursor` is the text of a name.
    pub(super) fn merge<T, N: Ord>(
        &self,
        declared: impl Iterator<Item = T>,
        stored: List<T>,
        name: impl Fn(&T) -> N,
        cursor: impl Fn(&N) -> String,
    ) -> Items<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more_stored = stored.next.is_some();
        let named = stored.items.into_iter().chain(declared).map(|item| (name(&item), item));
        let mut items: BTreeMap<N, T> = named.collect();
        let is_cut = items.len() > limit;
        while items.len() > limit {
            items.pop_last();
        }
        let last = items.last_key_value().map(|(name, _)| cursor(name));
        Items { items: items.into_values().collect(), next: last.filter(|_| is_cut || more_stored) }
    }
}

pub(super) fn wrong(detail: String) -> AdminError {
    AdminError::Invalid(vec![Problem { pointer: String::new(), detail }])
}

/// What else stands behind the `?` of a call.
pub(super) struct Own<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Own<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        let read = Pairs::try_from_uri(&parts.uri);
        read.map(|Pairs(own)| Own(own)).map_err(|error| wrong(error.body_text()))
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AdminError> {
        Query::read(&parts.uri)
    }
}

/// A page of a list as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Page)]
pub(super) struct Items<T> {
    /// In the order of their names.
    pub items: Vec<T>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

impl<T> From<List<T>> for Items<T> {
    fn from(list: List<T>) -> Self {
        Items { items: list.items, next: list.next }
    }
}

impl<T> Items<T> {
    /// The same page with other items.
    pub(super) fn map<U>(self, view: impl FnMut(T) -> U) -> Items<U> {
        Items { items: self.items.into_iter().map(view).collect(), next: self.next }
    }
}

/// The answer to what was stored: 201 with its place where it is new, else 200.
pub(super) fn stored(is_new: bool, place: &str, view: impl Serialize) -> Response {
    if !is_new {
        return Json(view).into_response();
    }
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    if let Ok(place) = HeaderValue::try_from(format!("/api/v1/{place}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: u32, declared: &[&'static str], stored: &[&'static str], next: Option<&str>) -> Items<String> {
        let query = Query::read(&format!("/x?limit={limit}").parse().unwrap()).unwrap_or_else(|_| panic!("a query"));
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let stored = List { items: own(stored), next: next.map(str::to_owned) };
        query.merge(own(declared).into_iter(), stored, Clone::clone, Clone::clone)
    }

    #[test]
    fn pages_of_declared_and_stored_things_leave_nothing_out() {
        let merged = page(2, &["b", "d"], &["a", "c"], Some("c"));
        assert_eq!((merged.items, merged.next.as_deref()), (vec!["a".to_owned(), "b".to_owned()], Some("b")));
        let merged = page(2, &["a"], &["a", "b"], None);
        assert_eq!((merged.items.len(), merged.next), (2, None), "one that is both is there once");
        let merged = page(2, &[], &["a", "b"], Some("b"));
        assert_eq!(merged.next.as_deref(), Some("b"));
        assert_eq!(page(2, &[], &[], None).next, None);
    }

    #[test]
    fn a_query_that_is_not_understood_is_refused() {
        for query in ["limit=0", "limit=201", "limit=x", "limit=1&limit=2", "customer=", "customer=a%20b"] {
            assert!(Query::read(&format!("/x?{query}").parse().unwrap()).is_err(), "{query}");
        }
    }
}
