//! What is checked before anything is routed: DNS rebinding, other people's web pages. And what every answer carries: the
//! id of its request, and what keeps browsers from guessing, framing and storing.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::Control;
use super::error::{self, AdminError, Unreadable};
use crate::model::origin::{Host, Origin, Scheme};
use crate::telemetry::request_id::RequestId;

/// The id of the request that is answered, as the audit log names it.
const REQUEST_ID: HeaderName = HeaderName::from_static("sidekey-request-id");

/// The names this port goes by.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Beside IP literals and `localhost`.
    pub host_names: Vec<String>,
}

impl Guard {
    fn admits(&self, method: &Method, headers: &HeaderMap, uri: &Uri) -> Result<(), AdminError> {
        let mut lines = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or("?"));
        let host = uri.authority().map(|authority| authority.as_str()).or_else(|| lines.next());
        let authority = host.ok_or(AdminError::HostUnknown)?;
        if lines.next().is_some() || !self.is_own(authority) {
            return Err(AdminError::HostUnknown);
        }
        // A page of ours comes from the very host and port it asks; every other page does not.
        let same_origin =
            |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(authority));
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let foreign = match text(header::ORIGIN) {
            Some(origin) => !same_origin(origin),
            None => text(HeaderName::from_static("sec-fetch-site"))
                .is_some_and(|site| !matches!(site, "none" | "same-origin") && !opens_page(method, headers, uri)),
        };
        if foreign { Err(AdminError::OriginNotAllowed) } else { Ok(()) }
    }

    fn is_own(&self, authority: &str) -> bool {
        match Origin::from_authority(Scheme::Http, authority).map(|origin| origin.host) {
            Ok(Host::Address(_)) => true,
            Ok(Host::Name(name)) => {
                &*name == "localhost" || self.host_names.iter().any(|own| own.eq_ignore_ascii_case(&name))
            }
            Err(_) => false,
        }
    }
}

/// Whether a person opens one of our pages from elsewhere: by the link in a mail, or sent back by an identity provider.
/// A page shows nothing that belongs to anybody but what its own address lets its holder see, cannot be framed, and does
/// nothing by itself; the API is no page.
fn opens_page(method: &Method, headers: &HeaderMap, uri: &Uri) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    let opens = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    opens && matches!(*method, Method::GET | Method::HEAD) && !uri.path().starts_with("/api/")
}

/// The id of a request, which [`check`] gave it.
pub(super) fn request_id(parts: &Parts) -> Result<RequestId, AdminError> {
    parts.extensions.get().copied().ok_or(AdminError::Unauthenticated)
}

/// Checks a request, and dresses its answer. An id that the request brings along means nothing, as on the proxy port: one
/// that its sender chose could be another request's.
pub(super) async fn check(State(control): State<Arc<Control>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::generate();
    request.extensions_mut().insert(id);
    let unreadable = request.extensions().get::<Unreadable>().map(|why| AdminError::Unreadable(*why));
    let admitted =
        unreadable.map_or_else(|| control.guard.admits(request.method(), request.headers(), request.uri()), Err);
    let mut response = match admitted {
        Ok(()) => {
            let span = tracing::info_span!("admin", request_id = id.as_str());
            next.run(request).instrument(span).await
        }
        Err(error) => error.into_response(),
    };
    error::tell(&mut response, id);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_bytes(id.as_bytes()) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        ),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
