//! Writes `sidekey.toml` for tests: a small default, helpers for the usual connections, free text for the rest.
//!
//! Credentials go into files of a folder of their own, never into the configuration: the leak oracle reads every file
//! in the server's folder.

use std::path::PathBuf;

use toml::{Table, Value};

use super::client::Address;
use super::sink::{HOST, Sink};

/// A configuration being described. Methods return it, so that calls chain.
pub struct Config {
    table: Table,
    tail: String,
    folder: PathBuf,
    secrets: PathBuf,
    base_url: String,
    plaintext: bool,
    environment: String,
    pub(super) env: Vec<(String, String)>,
}

impl Config {
    /// One `local` listener and the admin port on free ports, the test authority trusted, loopback allowed.
    pub fn new(folder: PathBuf, secrets: PathBuf) -> Self {
        let mut config = Self {
            table: Table::new(),
            tail: String::new(),
            folder,
            secrets,
            base_url: format!("https://{HOST}"),
            plaintext: false,
            environment: "production".to_owned(),
            env: Vec::new(),
        };
        config
            .add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "local".into())])
            .set("admin.address", "127.0.0.1:0")
            .set("upstream.ca_files", vec!["ca.pem"])
            .set("upstream.allow_networks", vec!["127.0.0.0/8", "::1/128"]);
        config
    }

    /// Sets a key by its dotted path, except in arrays of tables: `set("upstream.response_timeout", "200ms")`.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) -> &mut Self {
        let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
        let mut table = &mut self.table;
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            let entry = table.entry(section.to_owned()).or_insert_with(|| Table::new().into());
            table = entry.as_table_mut().expect("a table on the way to the key");
        }
        table.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key of the first listener.
    pub fn listener(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let listeners = self.table["proxy"]["listeners"].as_array_mut().expect("listeners");
        listeners[0].as_table_mut().expect("a listener").insert(key.to_owned(), value.into());
        self
    }

    /// Adds a listener.
    pub fn add_listener(&mut self, keys: &[(&str, Value)]) -> &mut Self {
        let proxy = self.table.entry("proxy").or_insert_with(|| Table::new().into());
        push(proxy.as_table_mut().expect("[proxy]"), "listeners", table(keys));
        self
    }

    /// Adds a `local` listener on a Unix socket in the server's folder, and says where.
    pub fn unix_listener(&mut self, name: &str) -> Address {
        let address = Address::Unix(self.folder.join(name));
        self.add_listener(&[("address", address.to_string().into()), ("trust", "local".into())]);
        address
    }

    /// Pins a host name to an address.
    pub fn pin(&mut self, host: &str, addr: impl ToString) -> &mut Self {
        let upstream = self.table.entry("upstream").or_insert_with(|| Table::new().into());
        let upstream = upstream.as_table_mut().expect("[upstream]");
        let hosts = upstream.entry("hosts").or_insert_with(|| Table::new().into());
        hosts.as_table_mut().expect("hosts").insert(host.to_owned(), addr.to_string().into());
        self
    }

    /// Pins `api.example.test` to `sink`, and makes it the base URL of the connections that follow.
    pub fn to(&mut self, sink: &Sink) -> &mut Self {
        let scheme = if sink.is_tls() { "https" } else { "http" };
        self.pin(HOST, sink.addr).base(&format!("{scheme}://{HOST}"))
    }

    /// The base URL of the connections that follow; `plaintext` is set where it says `http`.
    pub fn base(&mut self, url: &str) -> &mut Self {
        self.plaintext = url.starts_with("http://");
        self.base_url = url.to_owned();
        self
    }

    /// The environment of the credentials that follow; `production` by default.
    pub fn environment(&mut self, environment: &str) -> &mut Self {
        self.environment = environment.to_owned();
        self
    }

    /// A connection whose token goes into `Authorization: Bearer`.
    pub fn bearer(&mut self, key: &str, token: &str) -> &mut Self {
        self.simple(key, &[("method", "main".into()), ("type", "bearer".into())], &[("token", token)])
    }

    /// A connection with user name and password.
    pub fn basic(&mut self, key: &str, username: &str, password: &str) -> &mut Self {
        let auth = [("method", "main".into()), ("type", "basic".into())];
        self.simple(key, &auth, &[("username", username), ("password", password)])
    }

    /// A connection whose key goes `place` (`header`, `query`, `cookie`, `body`, `path`) under `name`.
    pub fn api_key(&mut self, key: &str, place: &str, name: &str, api_key: &str) -> &mut Self {
        let auth = [("method", "main".into()), ("type", "api_key".into()), ("in", place.into()), ("name", name.into())];
        self.simple(key, &auth, &[("api_key", api_key)])
    }

    /// A connection that injects nothing.
    pub fn none(&mut self, key: &str) -> &mut Self {
        self.simple(key, &[("method", "main".into()), ("type", "none".into())], &[])
    }

    /// A connection of type `custom`: fields are `(name, value)`, all secret; injections `(in, name, template)`.
    pub fn custom(&mut self, key: &str, fields: &[(&str, &str)], inject: &[(&str, &str, &str)]) -> &mut Self {
        let declared: Vec<Value> =
            fields.iter().map(|&(name, _)| table(&[("name", name.into()), ("secret", true.into())])).collect();
        let inject: Vec<Value> = inject
            .iter()
            .map(|&(place, name, value)| table(&[("in", place.into()), ("name", name.into()), ("value", value.into())]))
            .collect();
        let auth = [
            ("method", "main".into()),
            ("type", "custom".into()),
            ("fields", declared.into()),
            ("inject", inject.into()),
        ];
        self.simple(key, &auth, fields)
    }

    /// An integration `it-{key}` with this auth method, and a connection `key` of it with this credential.
    pub fn simple(&mut self, key: &str, auth: &[(&str, Value)], credential: &[(&str, &str)]) -> &mut Self {
        let slug = format!("it-{key}");
        let mut integration = vec![
            ("slug", slug.as_str().into()),
            ("name", key.into()),
            ("kind", "rest".into()),
            ("base_url", self.base_url.as_str().into()),
            ("auth", vec![table(auth)].into()),
        ];
        if self.plaintext {
            integration.push(("plaintext", true.into()));
        }
        self.integration(&integration);
        self.connection(&[("key", key.into()), ("integration", slug.into()), ("auth", "main".into())]);
        self.credential(credential)
    }

    /// A declared integration.
    pub fn integration(&mut self, keys: &[(&str, Value)]) -> &mut Self {
        push(&mut self.table, "integration", table(keys));
        self
    }

    /// Sets a key of the integration declared last (`hosts`, `headers`, `limit`, …).
    pub fn integration_key(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        last(&mut self.table, "integration").insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key of the auth method declared last (`template`, …).
    pub fn auth_key(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        last(last(&mut self.table, "integration"), "auth").insert(key.to_owned(), value.into());
        self
    }

    /// A declared connection; its credential comes by `credential`.
    pub fn connection(&mut self, keys: &[(&str, Value)]) -> &mut Self {
        push(&mut self.table, "connection", table(keys));
        self
    }

    /// Sets a key of the connection declared last (`customer`, `values`, …).
    pub fn connection_key(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        last(&mut self.table, "connection").insert(key.to_owned(), value.into());
        self
    }

    /// The credential of the connection declared last, in the current environment, from files.
    pub fn credential(&mut self, fields: &[(&str, &str)]) -> &mut Self {
        let sources: Table = fields.iter().map(|&(name, value)| (name.to_owned(), self.secret_file(value))).collect();
        let environment = self.environment.clone();
        let connection = last(&mut self.table, "connection");
        let credentials = connection.entry("credentials").or_insert_with(|| Table::new().into());
        credentials.as_table_mut().expect("credentials").insert(environment, sources.into());
        self
    }

    /// A declared secret with a value in the current environment.
    pub fn secret(&mut self, name: &str, value: &str) -> &mut Self {
        let source = self.secret_file(value);
        let environment = self.environment.clone();
        self.set(&format!("secrets.{name}.{environment}"), source)
    }

    /// `{ file = "…" }` for a value, outside the server's folder.
    pub fn secret_file(&self, value: &str) -> Value {
        let taken = std::fs::read_dir(&self.secrets).expect("the secrets' folder").count();
        let file = self.secrets.join(format!("value-{taken}"));
        std::fs::write(&file, value).expect("a secret file");
        table(&[("file", file.display().to_string().into())])
    }

    /// A variable of the server's environment, which is otherwise empty but for `PATH` and `HOME`.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Text appended as it is, valid or not.
    pub fn append(&mut self, text: &str) -> &mut Self {
        self.tail.push_str(text);
        self.tail.push('\n');
        self
    }

    /// Leaves only `text`: the whole file as a test wants it.
    pub fn replace(&mut self, text: &str) -> &mut Self {
        self.table.clear();
        self.tail.clear();
        self.append(text)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.table, self.tail)
    }

    /// Begins anew: the default configuration, with none of what was described so far.
    pub fn begin_anew(&mut self) -> &mut Self {
        *self = Self::new(self.folder.clone(), self.secrets.clone());
        self
    }

    /// The folder of the file.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

/// A table from pairs, for `Config`'s methods.
pub fn table(keys: &[(&str, Value)]) -> Value {
    keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<Table>().into()
}

fn push(table: &mut Table, key: &str, value: Value) {
    let array = table.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
    array.as_array_mut().expect("an array of tables").push(value);
}

fn last<'a>(table: &'a mut Table, key: &str) -> &'a mut Table {
    let array = table.get_mut(key).and_then(Value::as_array_mut).unwrap_or_else(|| panic!("no {key} declared yet"));
    array.last_mut().and_then(Value::as_table_mut).expect("a table")
}
