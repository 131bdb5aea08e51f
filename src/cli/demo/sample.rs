//! The sample upstream, the connections to it, and one request over each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rand::distr::{Alphanumeric, SampleString};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::cli::Failure;
use crate::model::connection::ConnectionDraft;
use crate::model::credential::Credential;
use crate::model::document::{Problems, Reader};
use crate::model::id::{ConnectionId, IntegrationId};
use crate::model::integration::Integration;
use crate::tls::server_config;
use crate::vault::audit::Author;
use crate::vault::change::{Change, PutMode};
use crate::vault::{Vault, VaultError};

/// The host name of the sample API; it resolves nowhere.
pub(super) const HOST: &str = "api.demo.test";

/// One connection of the demo.
pub(super) struct Connection {
    /// Its key.
    pub(super) key: &'static str,
    /// What is injected, in words.
    pub(super) what: &'static str,
    auth: Value,
    base: &'static str,
    fields: Vec<(&'static str, String)>,
    /// How the secret is spelled on the wire.
    spelled: Vec<String>,
    body: Option<(&'static str, &'static str)>,
}

/// One connection for each kind of injection, each with a secret that exists for this run only.
pub(super) fn connections() -> Vec<Connection> {
    let api_key = |place, name| json!({ "type": "api_key", "in": place, "name": name });
    vec![
        Connection::of_one_secret("bearer", "Authorization: Bearer …", json!({ "type": "bearer" }), "token"),
        basic(),
        Connection::of_one_secret("header", "X-Api-Key: …", api_key("header", "X-Api-Key"), "api_key"),
        Connection::of_one_secret("query", "?api_key=…", api_key("query", "api_key"), "api_key"),
        Connection::of_one_secret("cookie", "Cookie: session=…", api_key("cookie", "session"), "api_key"),
        Connection {
            base: "/bot{token}",
            ..Connection::of_one_secret("path", "/bot…/", api_key("path", "token"), "api_key")
        },
        Connection {
            body: Some(("application/json", "{\"amount\": 12.50}")),
            ..Connection::of_one_secret("json", "JSON body, /auth/key", api_key("body", "/auth/key"), "api_key")
        },
        Connection {
            body: Some(("application/x-www-form-urlencoded", "amount=12.50")),
            ..Connection::of_one_secret("form", "form body, api_key=…", api_key("body", "api_key"), "api_key")
        },
        custom(),
        Connection::new("none", "nothing", json!({ "type": "none" })),
    ]
}

/// A secret that exists for this run only.
fn secret() -> String {
    format!("demo-{}", Alphanumeric.sample_string(&mut rand::rng(), 24))
}

fn basic() -> Connection {
    let password = secret();
    let login = base64::engine::general_purpose::STANDARD.encode(format!("ada:{password}"));
    Connection {
        fields: vec![("username", "ada".to_owned()), ("password", password)],
        spelled: vec![login],
        ..Connection::new("basic", "Authorization: Basic …", json!({ "type": "basic" }))
    }
}

fn custom() -> Connection {
    let auth = json!({
        "type": "custom",
        "fields": [{ "name": "account" }, { "name": "secret", "secret": true }],
        "inject": [
            { "in": "header", "name": "X-Account", "value": "{{ account }}" },
            { "in": "query", "name": "sig", "value": "{{ secret }}" },
        ],
    });
    let (account, signature) = (secret(), secret());
    Connection {
        spelled: vec![account.clone(), signature.clone()],
        fields: vec![("account", account), ("secret", signature)],
        ..Connection::new("custom", "two headers and a query pair", auth)
    }
}

impl Connection {
    fn new(key: &'static str, what: &'static str, auth: Value) -> Self {
        Connection { key, what, auth, base: "/v1", fields: Vec::new(), spelled: Vec::new(), body: None }
    }

    fn of_one_secret(key: &'static str, what: &'static str, auth: Value, field: &'static str) -> Self {
        let value = secret();
        Connection { spelled: vec![value.clone()], fields: vec![(field, value)], ..Connection::new(key, what, auth) }
    }

    /// Puts its integration, itself and its credential into a vault.
    pub(super) async fn store(&self, vault: &Vault) -> Result<(), Failure> {
        let failed = |error: VaultError| Failure::Failed(error.to_string());
        let default = vault.organization("default").await.map_err(failed)?;
        let owner = default.ok_or_else(|| Failure::Failed("the vault has no organization `default`".to_owned()))?.id;
        let wrong = |what: &str| Failure::Failed(format!("the demo's own {what} for `{}` is wrong", self.key));
        let mut auth = self.auth.clone();
        auth["method"] = json!("only");
        let slug = format!("demo-{}", self.key);
        let document = json!({ "slug": slug, "base_url": format!("https://{HOST}{}", self.base), "auth": [auth] });
        let integration = Integration::parse(&document, IntegrationId::generate()).map_err(|_| wrong("integration"))?;
        let origins = integration.place(&Default::default()).map_err(|_| wrong("base URL"))?.1;
        let problems = Problems::default();
        let draft = json!({ "key": self.key, "integration": slug });
        let draft = Reader::new(&draft, "", &problems).as_ref().and_then(ConnectionDraft::read);
        let connection = draft.ok_or_else(|| wrong("connection"))?.into_connection(ConnectionId::generate(), owner);
        let (id, environment) = (connection.id, "production".parse().map_err(|_| wrong("environment"))?);
        let mut fields = BTreeMap::new();
        for (name, value) in &self.fields {
            fields.insert(name.parse().map_err(|_| wrong("field"))?, SecretString::from(value.as_str()));
        }
        let (credential, origins) = (Credential::new(fields), origins.iter().map(ToString::to_string).collect());
        for change in [
            Change::PutIntegration { organization: owner, integration: Box::new(integration), mode: PutMode::Create },
            Change::PutConnection { connection: Box::new(connection), mode: PutMode::Create },
            Change::PutCredential {
                organization: owner,
                connection: id,
                environment,
                credential,
                origins,
                expires_at: None,
            },
        ] {
            vault.commit(&Author::system("demo"), change).await.map_err(failed)?;
        }
        Ok(())
    }

    /// A command that works while the demo runs.
    pub(super) fn curl(&self, proxy: &str) -> String {
        let body =
            self.body.map(|(media, text)| format!(" -H 'Content-Type: {media}' -d '{text}'")).unwrap_or_default();
        format!("curl http://{proxy}/me -H 'Sidekey-Connection: {}'{body}", self.key)
    }
}

/// A TLS server that tells, masked, what it received.
pub(super) struct SampleUpstream {
    /// Where it listens.
    pub(super) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for SampleUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl SampleUpstream {
    /// Makes a CA and a certificate in `folder`, and listens on a free loopback port.
    pub(super) async fn start(folder: &Path, connections: &[Connection]) -> Result<Self, Failure> {
        make_certificates(folder).map_err(|error| Failure::Failed(format!("no certificate for the demo: {error}")))?;
        let tls = server_config(&folder.join("leaf.pem"), &folder.join("leaf.key"), None);
        let tls = Arc::new(tls.map_err(|error| Failure::Failed(error.to_string()))?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let secrets: Arc<[String]> = connections.iter().flat_map(|connection| connection.spelled.clone()).collect();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, secrets) = (Arc::clone(&tls), Arc::clone(&secrets));
                tokio::spawn(async move {
                    let Ok((stream, _)) = tls.accept(stream).await else { return };
                    let service = service_fn(|request| tell(request, Arc::clone(&secrets)));
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _broken_off = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(SampleUpstream { address, accepting })
    }
}

fn make_certificates(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &Issuer::new(ca, ca_key))?;
    std::fs::write(folder.join("leaf.pem"), leaf.pem())?;
    std::fs::write(folder.join("leaf.key"), key.serialize_pem())?;
    Ok(())
}

/// Answers with what was received, every secret masked.
async fn tell(request: Request<Incoming>, secrets: Arc<[String]>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mask = |text: &str| {
        let masked = |text: String, secret: &String| {
            text.replace(secret.as_str(), &format!("{}…({})", &secret[..6], secret.len()))
        };
        secrets.iter().fold(text.to_owned(), masked)
    };
    let lossy = |bytes: &[u8]| mask(&String::from_utf8_lossy(bytes));
    let headers: Vec<String> =
        parts.headers.iter().map(|(name, value)| format!("{name}: {}", lossy(value.as_bytes()))).collect();
    let target = parts.uri.path_and_query().map(|target| mask(target.as_str()));
    let saw = json!({
        "method": parts.method.as_str(), "target": target, "protocol": format!("{:?}", parts.version),
        "headers": headers, "body": lossy(&body),
    });
    let mut response = Response::new(Full::from(format!("{saw:#}\n")));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What became of one request.
pub(super) struct Row {
    /// The connection's key.
    pub(super) key: &'static str,
    /// What was to be injected.
    pub(super) what: &'static str,
    /// What came back.
    pub(super) status: u16,
    /// Where the upstream saw the credential, masked.
    pub(super) saw: String,
    /// Whether the status is 200 and the credential was seen exactly once in each of its places.
    pub(super) as_expected: bool,
}

/// Sends one request over a connection, as a workflow node would: it knows the connection's key and nothing else.
pub(super) async fn ask(proxy: &str, connection: &Connection) -> Result<Row, Failure> {
    let failed =
        |error: hyper::Error| Failure::Failed(format!("the request over `{}` failed: {error}", connection.key));
    let stream = TcpStream::connect(proxy).await?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driver = tokio::spawn(driver);
    let mut request = Request::builder().uri("/me").header("host", proxy).header("sidekey-connection", connection.key);
    if let Some((media, _)) = connection.body {
        request = request.method("POST").header("content-type", media);
    }
    let body = Full::<Bytes>::from(connection.body.map_or("", |(_, text)| text));
    let request = request.body(body).map_err(|error| Failure::Failed(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
    driver.abort();
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    let saw = places(&document, connection);
    let as_expected = status == 200 && saw.len() == connection.spelled.len();
    let saw = if saw.is_empty() { "no credential".to_owned() } else { saw.join(", ") };
    Ok(Row { key: connection.key, what: connection.what, status, saw, as_expected })
}

/// The parts of what the upstream told in which a masked credential stands.
fn places(document: &Value, connection: &Connection) -> Vec<String> {
    let masks: Vec<String> =
        connection.spelled.iter().map(|secret| format!("{}…({})", &secret[..6], secret.len())).collect();
    let headers = document["headers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let rest = [&document["target"], &document["body"]].into_iter().filter_map(Value::as_str);
    headers
        .chain(rest)
        .filter(|text| masks.iter().any(|mask| text.contains(mask.as_str())))
        .map(str::to_owned)
        .collect()
}
