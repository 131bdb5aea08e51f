//! `sidekey curl`: one request through the proxy, with the system's curl.
//!
//! What the proxy is told goes to curl as a configuration over a pipe of its own, so that the caller's key stands in no
//! list of processes and stdin stays the caller's, for `--data @-`. An administrator's key is never shown to the proxy.

mod heads;
mod place;

use std::io::{IsTerminal, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use clap::Args;
use rustix::io::{FdFlags, fcntl_setfd};
use zeroize::Zeroizing;

use super::{Before, Failure};
use heads::Refusal;
use place::{Proxy, Site};

/// Options of `sidekey curl`.
#[derive(Debug, Args)]
#[command(
    override_usage = "sidekey curl [OPTIONS] <CONNECTION> <PATH> [CURL OPTIONS]...",
    after_help = "\
Exit codes: 0, the upstream has answered, whatever its status; 1, it has not, or curl ended with an error of its own, \
which is told; 4, no proxy port answers; 5 and 6, the proxy itself refused: not authorized, no such connection."
)]
pub struct Options {
    /// A server of ~/.config/sidekey/profiles.toml; also SIDEKEY_PROFILE
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The proxy port, as http://HOST:PORT or unix:/PATH; the first listener of this machine where it is not said
    #[arg(long, value_name = "ORIGIN", conflicts_with = "profile")]
    proxy: Option<String>,
    /// The file with the caller's API key, - for stdin; also the key itself in SIDEKEY_CALLER_KEY. A listener that
    /// trusts its network needs none
    #[arg(long, value_name = "FILE")]
    caller_key_file: Option<PathBuf>,
    /// A CA that is trusted beside the system's
    #[arg(long, value_name = "PEM")]
    ca_file: Vec<PathBuf>,
    /// Let the key go to another machine in clear
    #[arg(long)]
    plaintext: bool,
    /// The environment
    #[arg(long, short, value_name = "ENVIRONMENT")]
    environment: Option<String>,
    /// Whose connection the key means
    #[arg(long, value_name = "CUSTOMER")]
    customer: Option<String>,
    /// The connection, by id or key
    connection: String,
    /// The path below the base URL, or the URL of another allowed host; everything behind it is curl's, such as
    /// -X POST --json '{"a":1}'
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "PATH")]
    request: Vec<String>,
}

/// A pipe holds this much without anybody reading.
const PIPE: usize = 32 * 1024;

/// Runs curl and hands on what it says.
pub fn run(before: Before, options: Options) -> Result<(), Failure> {
    if options.request.iter().skip(1).any(|argument| dumps_heads(argument)) {
        return Err(Failure::Usage(
            "-D and --dump-header are this command's own: by the heads it tells a refusal of the proxy from an answer; \
             -i or -v shows them"
                .to_owned(),
        ));
    }
    let proxy = Proxy::find(before, &options)?;
    let (heads, writer) = std::io::pipe()?;
    let configuration = options.configuration(&proxy, &writer)?;
    if configuration.len() > PIPE {
        return Err(Failure::Usage("path and options are too long".to_owned()));
    }
    let (told, mut telling) = std::io::pipe()?;
    telling.write_all(configuration.as_bytes())?;
    drop(telling);
    let (ended, refusal) = options.ask(&told, heads, writer)?;
    if let Some(refusal) = refusal {
        // The document that curl has shown ends without a line.
        if std::io::stdout().is_terminal() {
            eprintln!();
        }
        return Err(refusal.failure(&proxy, &options.connection));
    }
    match ended.code() {
        Some(0) => Ok(()),
        // Of the proxy port: nothing else is asked for by name, and nothing else is connected to.
        Some(code @ 5..=7) => Err(Failure::Unreachable(format!(
            "no proxy port answers there (curl ended with {code}); start it with `sidekey serve`, or name another \
             with --proxy or --profile"
        ))),
        Some(code) => Err(Failure::Failed(format!("curl ended with {code}; `man curl` says what that means"))),
        None => Err(Failure::Failed("curl was ended by a signal".to_owned())),
    }
}

impl Options {
    /// Starts curl and waits for its end, and for what the heads said.
    fn ask(
        &self,
        told: &PipeReader,
        heads: PipeReader,
        writer: PipeWriter,
    ) -> Result<(ExitStatus, Option<Refusal>), Failure> {
        // The descriptors that curl inherits; others are closed when it starts.
        fcntl_setfd(told, FdFlags::empty()).map_err(std::io::Error::from)?;
        fcntl_setfd(&writer, FdFlags::empty()).map_err(std::io::Error::from)?;
        // First of all that nobody's own configuration is read: what it says would be done with the caller's key.
        let started = Command::new("curl")
            .arg("-q")
            .arg("--config")
            .arg(format!("/dev/fd/{}", told.as_raw_fd()))
            .args(self.request.iter().skip(1))
            .spawn();
        let mut child = started.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::Failed(
                "curl is not installed; install it, or send the request with a client of your own".to_owned(),
            ),
            _ => Failure::Failed(format!("curl cannot be started: {error}")),
        })?;
        // The heads end where curl does, once nobody else could write any.
        drop(writer);
        let refusal = heads::read(heads)?;
        Ok((child.wait()?, refusal))
    }

    /// What curl is told: a line for each option, values quoted as curl reads them.
    fn configuration(&self, proxy: &Proxy, heads: &PipeWriter) -> Result<Zeroizing<String>, Failure> {
        let mut lines = Zeroizing::new(String::with_capacity(4096));
        let mut option = |name: &str, value: &str| push_option(&mut lines, name, value);
        let base = match &proxy.site {
            Site::Origin(origin) => {
                // Wherever a redirect or another URL leads, only the proxy is connected to: nobody else is shown the key.
                option("connect-to", &format!("::{}:{}", origin.host, origin.port));
                origin.to_string()
            }
            Site::Unix(path) => {
                option("unix-socket", &path.display().to_string());
                "http://localhost".to_owned()
            }
        };
        let path = self.request.first().map_or("", String::as_str);
        if path.starts_with('-') {
            return Err(Failure::Usage(format!(
                "{path} stands where the path belongs; options of curl come behind it"
            )));
        }
        let (upstream, path) = split(path)?;
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
        if let Some((key, _)) = &proxy.key {
            check(key.trim())?;
            let line = Zeroizing::new(format!("Sidekey-Key: {}", key.trim()));
            option("header", &line);
        }
        for file in &proxy.ca_files {
            option("cacert", &file.display().to_string());
        }
        option("dump-header", &format!("/dev/fd/{}", heads.as_raw_fd()));
        // The proxy is asked itself, whatever HTTP_PROXY says, and the path goes as it was written.
        option("noproxy", "*");
        lines.push_str("path-as-is\ngloboff\nsilent\nshow-error\n");
        Ok(lines)
    }
}

/// Appends a line with an option, its value quoted.
fn push_option(lines: &mut String, name: &str, value: &str) {
    lines.push_str(name);
    lines.push_str(" = \"");
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            lines.push('\\');
        }
        lines.push(character);
    }
    lines.push_str("\"\n");
}

/// Whether an argument lets curl write the heads elsewhere, and the refusal would not be seen. curl takes the beginning of
/// a long option for the whole, and a letter behind others that take nothing.
fn dumps_heads(argument: &str) -> bool {
    match argument.strip_prefix("--") {
        Some(long) => long.len() >= 2 && "dump-header".starts_with(long),
        None => argument.strip_prefix('-').is_some_and(|letters| {
            letters.trim_start_matches(|letter| "0123469aBfgGiIjJklLMnNOpqRsSvVZ#:".contains(letter)).starts_with('D')
        }),
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
    fn the_heads_are_written_nowhere_else() {
        for argument in ["-D", "-D-", "-Dheads", "-sSD", "-siDx", "--dump-header", "--dump"] {
            assert!(dumps_heads(argument), "{argument}");
        }
        for argument in ["-d", "-XD", "-HD: x", "-", "--", "--data", "--d", "D", "-sS", "-oD", "--dump-header-x"] {
            assert!(!dumps_heads(argument), "{argument}");
        }
    }

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
