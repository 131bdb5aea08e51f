//! The server that is watched.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use super::process::Process;
use super::{CONNECTIONS, Fault, Upstreams, token};

pub(crate) struct Server {
    process: Process,
    folder: tempfile::TempDir,
    pub(crate) proxy: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    pub(crate) fn start(server: &Path, upstreams: &Upstreams) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("ca.pem"), &upstreams.authority)?;
        fs::write(folder.path().join("sidekey.toml"), configuration(upstreams, folder.path()))?;
        let process = Process::start(&mut Command::new(server), folder.path())?;
        let ([proxy], [admin]) = (process.addresses("proxy")?, process.addresses("admin")?);
        Ok(Server { process, folder, proxy, admin })
    }

    /// Makes an API key that may use every connection.
    pub(crate) fn make_key(&self) -> Result<String, Fault> {
        let administrator = fs::read_to_string(self.folder.path().join("admin.key"))?;
        let document = r#"{ "name": "profile" }"#;
        let mut stream = TcpStream::connect(self.admin)?;
        write!(
            stream,
            "POST /api/v1/api-keys HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX-API-Key: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{document}",
            administrator.trim(),
            document.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let made =
            answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<serde_json::Value>(body).ok());
        let key = made.as_ref().and_then(|made| made["key"].as_str());
        Ok(key.ok_or_else(|| format!("no key was made: {answer}"))?.to_owned())
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(self) -> Result<(), Fault> {
        self.process.stop()
    }
}

/// What a real installation has on: limits, the access log, metrics and deadlines.
fn configuration(upstreams: &Upstreams, folder: &Path) -> String {
    let Upstreams { plain, behind_tls, of_http2, .. } = upstreams;
    let mut text = format!(
        r#"
[proxy]
threads = 1
[[proxy.listeners]]
address = "127.0.0.1:0"
trust = "local"
[admin]
address = "127.0.0.1:0"
[log]
format = "json"
[upstream]
ca_files = ["{}"]
allow_networks = ["127.0.0.0/8"]
hosts = {{ "localhost" = "{behind_tls}", "two.localhost" = "{of_http2}" }}
"#,
        folder.join("ca.pem").display()
    );
    let places = [
        ("plain", format!("http://{plain}")),
        ("tls", format!("https://localhost:{}", behind_tls.port())),
        ("two", format!("https://two.localhost:{}", of_http2.port())),
    ];
    for (slug, base_url) in places {
        let _ = write!(
            text,
            "[[integration]]\nslug = \"{slug}\"\nbase_url = \"{base_url}\"\nplaintext = {}\n\
             limit = {{ per_second = 1000000, burst = 1000000 }}\n\
             [[integration.auth]]\nmethod = \"token\"\ntype = \"bearer\"\n",
            base_url.starts_with("http:")
        );
        for number in 0..CONNECTIONS {
            let _ = write!(
                text,
                "[[connection]]\nkey = \"{slug}-{number}\"\nintegration = \"{slug}\"\n\
                 [connection.credentials.production]\ntoken = {{ value = \"{}\" }}\n",
                token(number)
            );
        }
    }
    text
}
