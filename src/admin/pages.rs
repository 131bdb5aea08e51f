//! The few pages that a person needs: signing in, following a link, and going to a connection's provider.
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
    (status, Html(filled(include_str!("pages/told.html"), &[("text", text)]))).into_response()
}

/// A connection that somebody is asked to sign in for.
pub(super) struct Start<'a> {
    /// Where they will sign in.
    pub host: &'a str,
    pub connection: &'a str,
    pub name: &'a str,
    pub customer: &'a str,
    pub organization: &'a str,
    pub environment: &'a str,
    /// Who asks them to.
    pub who: &'a str,
}

/// `GET /oauth/start/{ticket}`
pub(super) fn start(start: &Start<'_>) -> Response {
    let Start { host, connection, name, customer, organization, environment, who } = *start;
    let values = [
        ("host", host),
        ("connection", connection),
        ("name", name),
        ("customer", if customer.is_empty() { "-" } else { customer }),
        ("organization", organization),
        ("environment", environment),
        ("who", who),
    ];
    Html(filled(include_str!("pages/start.html"), &values)).into_response()
}

/// A page with these texts in its places. What they say is text: none of it is markup, nor a place for another one.
fn filled(page: &str, values: &[(&str, &str)]) -> String {
    let mut parts = page.split("{{ ");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" }}").unwrap_or_default();
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        for character in value.chars() {
            match character {
                '&' => whole.push_str("&amp;"),
                '<' => whole.push_str("&lt;"),
                '>' => whole.push_str("&gt;"),
                '"' => whole.push_str("&quot;"),
                '\'' => whole.push_str("&#39;"),
                other => whole.push(other),
            }
        }
        whole.push_str(rest);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_a_page_is_text() {
        let page = filled("<p>{{ a }}, {{ b }}, {{ a }}</p>", &[("a", "{{ b }}"), ("b", "<b id=\"x\">'&amp;")]);
        assert_eq!(page, "<p>{{ b }}, &lt;b id=&quot;x&quot;&gt;&#39;&amp;amp;, {{ b }}</p>");
    }
}
