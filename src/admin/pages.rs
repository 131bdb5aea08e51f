//! The few pages that a person needs to come in: signing in, and following a link.
//!
//! They are files of their own without anything inline, so that the content security policy can forbid what is, and
//! they take nothing from elsewhere. All they do goes through the calls of the API.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

/// `GET /` and `GET /sign-in`
pub(super) async fn sign_in() -> Html<&'static str> {
    Html(include_str!("pages/sign-in.html"))
}

/// `GET /invite`
pub(super) async fn invite() -> Html<&'static str> {
    Html(include_str!("pages/invite.html"))
}

/// `GET /assets/people.js`
pub(super) async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("pages/people.js"))
}

/// `GET /assets/people.css`
pub(super) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("pages/people.css"))
}

/// The page after a sign-in at the provider: it leads on by itself.
pub(super) fn signed_in() -> Response {
    let mut response = Html(include_str!("pages/signed-in.html")).into_response();
    // A header does what a tag would do, also for what does not read tags.
    response.headers_mut().insert("refresh", HeaderValue::from_static("0; url=/"));
    response
}

/// What somebody is told who comes back from a provider.
pub(super) enum Told {
    Unknown,
    Refused,
    Stranger,
    Failed,
    Authorized,
    NotAuthorized,
    Changed,
}

pub(super) fn told(status: StatusCode, told: Told) -> Response {
    let text = match told {
        Told::Unknown => "This sign-in has ended, or began in another browser. Please begin again.",
        Told::Refused => "The identity provider did not sign you in. Please begin again.",
        Told::Stranger => {
            "You are signed in there, but that account is not a user here. Ask an administrator to invite you."
        }
        Told::Authorized => "The connection is signed in. You can close this window.",
        Told::NotAuthorized => "The provider did not authorize the connection. Please begin again.",
        Told::Changed => "The connection has changed, or you may not sign it in any more. Please begin again.",
        Told::Failed => "This did not work. Please begin again, or ask an administrator.",
    };
    (status, Html(include_str!("pages/told.html").replace("{{ text }}", text))).into_response()
}
