//! `sidekey curl`: one request through the proxy, with the system's curl.
//!
//! What the proxy is told goes to curl as a configuration over a pipe of its own, so that the caller's key stands in no
//! list of processes and stdin stays the caller's, for `--data @-`.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use rustix::io::{FdFlags, fcntl_setfd};
use zeroize::Zeroizing;

use super::Failure;
use super::access::{Access, Proxy, ProxyPlace};

/// Options of `sidekey curl`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    access: Access,
    /// The proxy port, as http://HOST:PORT or unix:/PATH; the first listener of this machine where it is not said
    #[arg(long, value_name = "ORIGIN")]
    proxy: Option<String>,
    /// The environment
    #[arg(long, short, value_name = "ENVIRONMENT")]
    environment: Option<String>,
    /// Whose connection the key means
    #[arg(long, value_name = "CUSTOMER")]
    customer: Option<String>,
    /// The connection, by id or key
    connection: String,
    /// The path below the base URL, or the URL of another allowed host
    path: String,
    /// Options of curl, such as -X POST --json '{"a":1}'
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CURL OPTIONS")]
    curl: Vec<String>,
}

/// A pipe holds this much without anybody reading.
const PIPE: usize = 32 * 1024;

/// Runs curl and hands on what it says.
pub fn run(explicit: Option<PathBuf>, options: &Options) -> Result<(), Failure> {
    let proxy = options.access.proxy(explicit, options.proxy.as_deref())?;
    let configuration = options.configuration(&proxy)?;
    if configuration.len() > PIPE {
        return Err(Failure::Usage("path and options are too long".to_owned()));
    }
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(configuration.as_bytes())?;
    drop(writer);
    // The one descriptor that curl inherits; others are closed when it starts.
    fcntl_setfd(&reader, FdFlags::empty()).map_err(std::io::Error::from)?;
    // First of all that nobody's own configuration is read: what it says would be done with the caller's key.
    let ended = Command::new("curl")
        .arg("-q")
        .arg("--config")
        .arg(format!("/dev/fd/{}", reader.as_raw_fd()))
        .args(options.of_curl())
        .status();
    match ended {
        Ok(status) => match status.code() {
            Some(0) => Ok(()),
            Some(7) => {
                Err(Failure::Unreachable("no proxy port answers there; start it with `sidekey serve`".to_owned()))
            }
            Some(code) => Err(Failure::Failed(format!("curl ended with {code}"))),
            None => Err(Failure::Failed("curl was ended by a signal".to_owned())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::Failed(
            "curl is not installed; install it, or send the request with a client of your own".to_owned(),
        )),
        Err(error) => Err(Failure::Failed(format!("curl cannot be started: {error}"))),
    }
}

impl Options {
    /// The options of curl. A first `--json` was taken for the one of other commands, which means nothing here.
    fn of_curl(&self) -> impl Iterator<Item = &str> {
        let json = self.access.wants_json().then_some("--json");
        json.into_iter().chain(self.curl.iter().map(String::as_str))
    }

    /// What curl is told: a line for each option, values quoted as curl reads them.
    fn configuration(&self, proxy: &Proxy) -> Result<Zeroizing<String>, Failure> {
        let mut lines = Zeroizing::new(String::with_capacity(4096));
        let mut option = |name: &str, value: &str| {
            lines.push_str(name);
            lines.push_str(" = \"");
            for character in value.chars() {
                if matches!(character, '"' | '\\') {
                    lines.push('\\');
                }
                lines.push(character);
            }
            lines.push_str("\"\n");
        };
        let base = match &proxy.place {
            ProxyPlace::Origin(origin) => {
                // Wherever a redirect or another URL leads, only the proxy is connected to: nobody else is shown the key.
                option("connect-to", &format!("::{}:{}", origin.host, origin.port));
                origin.to_string()
            }
            ProxyPlace::Unix(path) => {
                option("unix-socket", &path.display().to_string());
                "http://localhost".to_owned()
            }
        };
        let (upstream, path) = split(&self.path)?;
        option("url", &format!("{base}{path}"));
        for name in [&self.connection, self.environment.as_ref().unwrap_or(&self.connection)] {
            check(name)?;
        }
        option("header", &format!("Sidekey-Connection: {}", self.connection));
        let environment = self.environment.as_ref().or(proxy.environment.as_ref());
        let tags = [
            ("Sidekey-Environment", environment),
            ("Sidekey-Customer", self.customer.as_ref()),
            ("Sidekey-Upstream", upstream.as_ref()),
        ];
        for (name, value) in tags {
            if let Some(value) = value {
                check(value)?;
                option("header", &format!("{name}: {value}"));
            }
        }
        if let Some(key) = &proxy.key {
            check(key.trim())?;
            let line = Zeroizing::new(format!("Sidekey-Key: {}", key.trim()));
            option("header", &line);
        }
        for file in &proxy.ca_files {
            option("cacert", &file.display().to_string());
        }
        // The proxy is asked itself, whatever HTTP_PROXY says, and the path goes as it was written.
        option("noproxy", "*");
        lines.push_str("path-as-is\ngloboff\nsilent\nshow-error\n");
        Ok(lines)
    }
}

/// The origin that a URL names, if it is one, and the path.
fn split(path: &str) -> Result<(Option<String>, String), Failure> {
    check(path)?;
    let Some((scheme, rest)) = path.split_once("://") else {
        let slash = if path.starts_with('/') { "" } else { "/" };
        return Ok((None, format!("{slash}{path}")));
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((Some(format!("{scheme}://{authority}")), format!("{slash}{path}")))
}

/// A line break would begin a line of its own, which curl would obey.
fn check(text: &str) -> Result<(), Failure> {
    if text.chars().any(char::is_control) {
        return Err(Failure::Usage("a control character stands in an argument".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_an_upstream_and_a_path_none() {
        let split = |text| split(text).unwrap();
        assert_eq!(split("/v1/me?a=b"), (None, "/v1/me?a=b".to_owned()));
        assert_eq!(split("v1/me"), (None, "/v1/me".to_owned()));
        assert_eq!(split("https://x.test/a"), (Some("https://x.test".to_owned()), "/a".to_owned()));
        assert_eq!(split("https://x.test?a"), (Some("https://x.test".to_owned()), "/?a".to_owned()));
        assert!(super::split("/a\nheader = \"X: y\"").is_err());
    }
}
