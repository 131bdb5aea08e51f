//! An identity provider (OpenID Connect): its documents and keys on a sink, and tokens as a test wants them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::config::Config;
use super::sink::{Script, Sink};

/// The name of the provider.
pub const PROVIDER: &str = "login.example.test";

/// As it names itself.
pub fn issuer() -> String {
    format!("https://{PROVIDER}/realm")
}

/// A provider.
pub struct Provider {
    /// What answers for it.
    pub sink: Sink,
    key: KeyPair,
}

impl Provider {
    /// Starts it with a key called `first`.
    pub async fn start() -> Self {
        let sink = Sink::builder().tls(&[PROVIDER]).start().await;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let provider = Self { sink, key };
        provider.describe(&issuer());
        provider.publish(json!({ "keys": [provider.public_key("first")] }));
        provider
    }

    /// The same provider with another key.
    pub fn rotated(self) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { key, ..self }
    }

    /// What it says of itself.
    pub fn describe(&self, issuer: &str) {
        let document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("https://{PROVIDER}/authorize"),
            "token_endpoint": format!("https://{PROVIDER}/token"),
            "jwks_uri": format!("https://{PROVIDER}/keys"),
        });
        self.answer("/realm/.well-known/openid-configuration", &document);
    }

    /// Its public keys.
    pub fn publish(&self, keys: Value) {
        self.answer("/keys", &keys);
    }

    /// Its key as it is published.
    pub fn public_key(&self, kid: &str) -> Value {
        // 0x04, x, y (SEC 1 §2.3.3).
        let point = self.key.public_key_raw();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
            "x": text(&point[1..33]), "y": text(&point[33..65]) })
    }

    fn answer(&self, path: &str, document: &Value) {
        let script = Script::respond(200, &[("content-type", "application/json")], document.to_string());
        self.sink.on(path, script);
    }

    /// A token with these claims, signed by its key.
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.to_owned());
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).expect("a token")
    }

    /// What the token endpoint answers from now on.
    pub fn grant(&self, id_token: &str) {
        self.answer("/token", &json!({ "access_token": "at", "token_type": "Bearer", "id_token": id_token }));
    }

    /// A configuration that trusts it.
    pub fn configure(&self, config: &mut Config) {
        config.pin(PROVIDER, self.sink.addr);
        let secret = config.secret_file("the-clients-secret");
        config
            .set("admin.oidc.issuer", issuer())
            .set("admin.oidc.client_id", "sidekey")
            .set("admin.oidc.client_secret", secret);
    }
}
