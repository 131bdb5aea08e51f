//! The HTTP client of the command line: one connection to one admin port, JSON there and back.
//!
//! The key goes to the server it was given for and nowhere else: redirects are not followed, `HTTP_PROXY` means nothing,
//! and another machine is asked over verified TLS only, unless somebody says that the network is trusted.

use std::time::Duration;

use http::header::{CONTENT_TYPE, ETAG, HOST, HeaderName, IF_MATCH};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;

use super::Failure;
use crate::clock::timeout;
use crate::model::origin::{Host, Origin};
use crate::tls::{ClientTls, Offer};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer may take. A test of a connection asks an upstream, which may be slow.
const ANSWER: Duration = Duration::from_secs(120);

/// The longest answer that is read into memory.
const LARGEST: usize = 64 << 20;

/// What stays as it is in one segment of a path, or in a query.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server and who asks it.
pub(super) struct Client {
    origin: Origin,
    tls: Option<ClientTls>,
    key: HeaderValue,
    /// Where the key is from, for who is told that it is not known.
    key_from: String,
    open: Option<SendRequest<Full<Bytes>>>,
}

/// A call of the API.
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<Bytes>,
}

/// An answer with 2xx.
#[derive(Debug)]
pub(super) struct Answer {
    /// What it says; null where it has no body.
    pub body: Value,
    /// The version of what is shown, to change no other.
    pub version: Option<HeaderValue>,
}

impl Call {
    /// A call of an endpoint below `/api/v1`, by the segments of its path.
    pub(super) fn new(method: Method, segments: &[&str]) -> Self {
        let mut path = "/api/v1".to_owned();
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, SEGMENT));
        }
        Call { method, path, query: Vec::new(), headers: Vec::new(), body: None }
    }

    /// With a query pair.
    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With a query pair, where there is a value for it.
    pub(super) fn query_if<V: Into<String>>(self, name: &'static str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// With a JSON document.
    pub(super) fn json(self, document: &Value) -> Self {
        self.bytes(document.to_string().into())
    }

    /// With the bytes of a JSON document.
    pub(super) fn bytes(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self
    }

    /// Only if what is changed is still this version.
    pub(super) fn version(mut self, version: Option<HeaderValue>) -> Self {
        self.headers.extend(version.map(|version| (IF_MATCH, version)));
        self
    }

    fn target(&self) -> String {
        let pair = |(name, value): &(&str, String)| format!("{name}={}", utf8_percent_encode(value, SEGMENT));
        let pairs: Vec<String> = self.query.iter().map(pair).collect();
        if pairs.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, pairs.join("&")) }
    }

    fn request(&self, origin: &Origin, key: &HeaderValue) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(self.target())
            .header(HOST, origin.authority())
            .header("x-api-key", key);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if self.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(self.body.clone().unwrap_or_default());
        request.body(body).map_err(|error| Failure::Failed(format!("the request cannot be made: {error}")))
    }
}

impl Client {
    /// A client that has not connected yet. The key is text that a header can carry.
    pub(super) fn new(origin: Origin, tls: Option<ClientTls>, key: &str, key_from: String) -> Result<Self, Failure> {
        let mut header = HeaderValue::from_str(key)
            .map_err(|_| Failure::Unauthorized(format!("{key_from} holds no API key: it begins with apk_")))?;
        header.set_sensitive(true);
        Ok(Client { origin, tls, key: header, key_from, open: None })
    }

    /// The server it asks.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where its key is from.
    pub(super) fn key_from(&self) -> &str {
        &self.key_from
    }

    /// Makes a call and reads its answer.
    pub(super) async fn call(&mut self, call: Call) -> Result<Answer, Failure> {
        let (parts, body) = self.send(&call).await?.into_parts();
        let bytes = timeout(ANSWER, http_body_util::Limited::new(body, LARGEST).collect()).await;
        let bytes = bytes.map_err(|_| self.late())?.map_err(|error| self.broken(&error.to_string()))?.to_bytes();
        let text = |name| parts.headers.get(name).cloned();
        if !parts.status.is_success() {
            let retry_after = text(http::header::RETRY_AFTER);
            return Err(self.refused(parts.status, retry_after.as_ref(), &bytes));
        }
        let body = if bytes.is_empty() { Value::Null } else { self.parse(&bytes)? };
        Ok(Answer { body, version: text(ETAG) })
    }

    /// Makes a call and hands on the bytes of its answer as they come.
    pub(super) async fn stream(&mut self, call: Call, mut sink: impl std::io::Write) -> Result<(), Failure> {
        let mut response = self.send(&call).await?;
        if !response.status().is_success() {
            let (status, retry_after) = (response.status(), response.headers().get(http::header::RETRY_AFTER).cloned());
            let body = http_body_util::Limited::new(response.into_body(), LARGEST).collect().await;
            let bytes = body.map_err(|error| self.broken(&error.to_string()))?.to_bytes();
            return Err(self.refused(status, retry_after.as_ref(), &bytes));
        }
        while let Some(frame) = timeout(ANSWER, response.frame()).await.map_err(|_| self.late())? {
            let frame = frame.map_err(|error| self.broken(&error.to_string()))?;
            match frame.into_data().map(|data| sink.write_all(&data)) {
                // Who stops reading early, such as `head`, has read enough.
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(())) | Err(_) => {}
            }
        }
        match sink.flush() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, call: &Call) -> Result<http::Response<Incoming>, Failure> {
        let request = call.request(&self.origin, &self.key)?;
        let mut kept = self.open.take();
        let is_usable = match &mut kept {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        let mut sender = match kept.filter(|_| is_usable) {
            Some(sender) => sender,
            None => {
                timeout(CONNECT, self.connect()).await.map_err(|_| self.unreachable("it does not answer in time"))??
            }
        };
        let answered = timeout(ANSWER, sender.send_request(request)).await.map_err(|_| self.late())?;
        let response = answered.map_err(|error| self.broken(&error.to_string()))?;
        self.open = Some(sender);
        Ok(response)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let host = match &self.origin.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.to_string(),
        };
        let dialled = TcpStream::connect((host.as_str(), self.origin.port)).await;
        let stream = dialled.map_err(|error| self.unreachable(&error.to_string()))?;
        match &self.tls {
            None => self.shake(TokioIo::new(stream)).await,
            Some(tls) => {
                let (stream, _) = tls
                    .connect(stream, &host, Offer::Http1)
                    .await
                    .map_err(|error| self.unreachable(&error.to_string()))?;
                self.shake(TokioIo::new(stream)).await
            }
        }
    }

    async fn shake<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    {
        let (sender, connection) = handshake(stream).await.map_err(|error| self.broken(&error.to_string()))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the admin port ended");
            }
        });
        Ok(sender)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Value, Failure> {
        serde_json::from_slice(bytes).map_err(|_| self.broken("its answer is no JSON; is this a Sidekey's admin port?"))
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "{} does not answer: {why}; start it with `sidekey serve`, or name another with --server or --profile",
            self.origin
        ))
    }

    fn late(&self) -> Failure {
        Failure::Unreachable(format!(
            "{} did not answer in time; whether the change was made is not known",
            self.origin
        ))
    }

    fn broken(&self, why: &str) -> Failure {
        Failure::Unreachable(format!("{} broke off: {why}", self.origin))
    }

    /// What a person is told of a refusal: the server's own words, each mistake, and what to do next.
    fn refused(&self, status: StatusCode, retry_after: Option<&HeaderValue>, body: &[u8]) -> Failure {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default();
        let Some(detail) = problem["detail"].as_str() else {
            return Failure::Failed(format!(
                "{} answers with status {status}; is this a Sidekey's admin port?",
                self.origin
            ));
        };
        let mut told = match code {
            // What the API says there is about its own document.
            "invalid" => "that is refused:".to_owned(),
            _ => in_words_of_the_command_line(detail),
        };
        for mistake in problem["errors"].as_array().into_iter().flatten() {
            let at = mistake["pointer"].as_str().filter(|pointer| !pointer.is_empty()).unwrap_or("the document");
            let detail = in_words_of_the_command_line(mistake["detail"].as_str().unwrap_or_default());
            let option = if at == "/environment" { "; -e names one" } else { "" };
            told.push_str(&format!("\n  {at}: {detail}{option}"));
        }
        match status {
            StatusCode::UNAUTHORIZED => Failure::Unauthorized(format!(
                "the server does not know the key from {}; give another with --key-file, SIDEKEY_KEY or a profile",
                self.key_from
            )),
            StatusCode::FORBIDDEN => Failure::Unauthorized(format!("{told}; ask an administrator of the organization")),
            StatusCode::NOT_FOUND => Failure::NotFound(with_where_to_look(told)),
            StatusCode::PRECONDITION_FAILED if code != "precondition_required" => {
                Failure::Failed(format!("{told}\nsomebody changed it meanwhile: look at it and run the command again"))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let after = retry_after.and_then(|value| value.to_str().ok()).unwrap_or("a few");
                Failure::Failed(format!("{told}; try again in {after} seconds"))
            }
            _ => Failure::Failed(told),
        }
    }
}

/// The API names parameters of its own, for which commands have options.
fn in_words_of_the_command_line(detail: &str) -> String {
    let options = [("add ?force=true", "say --force"), ("?customer=", "--customer")];
    options.iter().fold(detail.to_owned(), |told, (parameter, option)| told.replace(parameter, option))
}

/// What is not there, with the command that lists what is.
fn with_where_to_look(told: String) -> String {
    let next = match told.strip_prefix("there is no such ") {
        Some("connection") => {
            "`sidekey connection list` shows those there are; a customer's connection by its key needs --customer"
        }
        Some("environment") => "`sidekey environment list` shows those there are; -e names one",
        Some("integration") => "`sidekey integration list` shows those there are",
        Some("organization") => "`sidekey organization list` shows those there are",
        Some("secret") => "`sidekey secret list` shows those there are",
        Some("session") => "`sidekey session list` shows those there are",
        Some("user") => "`sidekey user list` shows those there are",
        Some("API key") => "`sidekey api-key list` shows those there are",
        Some("version of this integration") => "`sidekey integration versions SLUG` lists those there are",
        _ => return told,
    };
    format!("{told}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        let call =
            Call::new(Method::GET, &["connections", "../a/b?c=d#e", "é"]).query("customer", "a&b=c").query("x", "1");
        assert_eq!(call.target(), "/api/v1/connections/..%2Fa%2Fb%3Fc%3Dd%23e/%C3%A9?customer=a%26b%3Dc&x=1");
    }
}
