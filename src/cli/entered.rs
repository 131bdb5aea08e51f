//! Secrets that somebody enters: from a prompt, from stdin, from a file; never from an argument.
//!
//! An argument stands in the shell's history and in the list of processes, which everybody on the machine can read. So
//! `--set token=-` reads stdin, `--set token=@file` a file, and `--set token` asks. Text behind the `=` is refused, and
//! not repeated.

use std::io::{IsTerminal, Read, Stdin};
use std::sync::atomic::{AtomicBool, Ordering};

use zeroize::Zeroizing;

use super::Failure;

/// The longest value; the server takes no longer one.
const LONGEST: u64 = 64 * 1024;

/// A value that was entered, under its name. It is wiped when it goes and has no `Debug`.
pub(super) struct Entered {
    /// The field or environment.
    pub name: String,
    /// What was entered, without the newline at its end.
    pub value: Zeroizing<String>,
}

/// What `--set` names, without a value being read: so that a wrong name is told before anybody is asked.
pub(super) fn names(written: &[String]) -> Result<Vec<&str>, Failure> {
    sources(written).map(|sources| sources.into_iter().map(|(name, _)| name).collect())
}

/// Whether standard input was read already.
static IS_READ: AtomicBool = AtomicBool::new(false);

/// Standard input, which holds one thing: who wants it twice would get nothing the second time.
pub(super) fn stdin() -> Result<Stdin, Failure> {
    match IS_READ.swap(true, Ordering::Relaxed) {
        false => Ok(std::io::stdin()),
        true => Err(Failure::Usage("stdin can hold one thing only; put the others into files".to_owned())),
    }
}

/// Reads everything that `--set` names.
pub(super) fn read(written: &[String]) -> Result<Vec<Entered>, Failure> {
    let read = |(name, source): (&str, Source<'_>)| Ok(Entered { value: source.read(name)?, name: name.to_owned() });
    sources(written)?.into_iter().map(read).collect()
}

fn sources(written: &[String]) -> Result<Vec<(&str, Source<'_>)>, Failure> {
    let mut sources = Vec::with_capacity(written.len());
    for text in written {
        let (name, source) = parse(text)?;
        if sources.iter().any(|(known, _)| *known == name) {
            return Err(Failure::Usage(format!("--set {name} is given twice")));
        }
        sources.push((name, source));
    }
    if sources.iter().filter(|(_, source)| matches!(source, Source::Stdin)).count() > 1 {
        return Err(Failure::Usage(
            "stdin can hold one value only; put the others into files: --set NAME=@FILE".to_owned(),
        ));
    }
    Ok(sources)
}

/// A JSON document of what was entered.
pub(super) fn document(entered: &[Entered]) -> Result<hyper::body::Bytes, Failure> {
    let mut text = Zeroizing::new(String::from("{"));
    for Entered { name, value } in entered {
        if text.len() > 1 {
            text.push(',');
        }
        for part in [name.as_str(), value.as_str()] {
            let quoted =
                Zeroizing::new(serde_json::to_string(part).map_err(|error| Failure::Failed(error.to_string()))?);
            text.push_str(&quoted);
            text.push(':');
        }
        text.pop();
    }
    text.push('}');
    Ok(hyper::body::Bytes::from_owner(Document(text)))
}

/// Wiped when the last handle on its bytes goes.
struct Document(Zeroizing<String>);

impl AsRef<[u8]> for Document {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Where a value is.
enum Source<'a> {
    Prompt,
    Stdin,
    File(&'a str),
}

/// The name and where its value is. What is refused is not repeated: it may be a secret.
fn parse(text: &str) -> Result<(&str, Source<'_>), Failure> {
    let (name, source) = match text.split_once('=') {
        None => (text, Source::Prompt),
        Some((name, "-")) => (name, Source::Stdin),
        Some((name, path)) if path.len() > 1 && path.starts_with('@') => (name, Source::File(&path[1..])),
        Some((name, _)) => {
            let name = if is_name(name) { name } else { "NAME" };
            return Err(Failure::Usage(format!(
                "a secret is no argument: others could read it in the list of processes, and the shell keeps it. Say \
                 `--set {name}` to be asked, `--set {name}=-` to read stdin, or `--set {name}=@FILE`; and change the \
                 secret if it was a real one"
            )));
        }
    };
    if is_name(name) {
        Ok((name, source))
    } else {
        Err(Failure::Usage("--set takes NAME, NAME=- or NAME=@FILE".to_owned()))
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

impl Source<'_> {
    fn read(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        let mut value = match self {
            Source::Prompt => ask(&format!("{name}: "))?,
            Source::Stdin => {
                let stdin = stdin()?;
                if stdin.is_terminal() {
                    eprintln!("{name}: end with Ctrl-D");
                }
                read_all(stdin, "stdin")?
            }
            Source::File(path) => {
                let file = std::fs::File::open(path).map_err(|error| Failure::Failed(format!("{path}: {error}")))?;
                read_all(file, path)?
            }
        };
        // An editor and `echo` put a newline behind it that nobody means.
        if value.ends_with('\n') {
            value.pop();
            if value.ends_with('\r') {
                value.pop();
            }
        }
        if value.is_empty() { Err(Failure::Failed(format!("{name} is empty; nothing was changed"))) } else { Ok(value) }
    }
}

/// Asks at the terminal, where what is typed is not shown.
pub(super) fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let asked = rpassword::prompt_password(prompt).map(Zeroizing::new);
    asked.map_err(|error| {
        Failure::Usage(format!("there is no terminal to ask at ({error}); say NAME=- to read stdin, or NAME=@FILE"))
    })
}

fn read_all(from: impl Read, what: &str) -> Result<Zeroizing<String>, Failure> {
    // Room for all of it: a text that grows leaves its old bytes behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 2));
    from.take(LONGEST + 2).read_to_end(&mut bytes).map_err(|error| Failure::Failed(format!("{what}: {error}")))?;
    if bytes.len() as u64 > LONGEST + 1 {
        return Err(Failure::Failed(format!("{what} holds more than 64 KiB")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::Failed(format!("{what} holds no text in UTF-8")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_an_argument_is_refused_and_not_repeated() {
        for text in ["token=hunter2", "token=@", "token=", "hunter2=hunter2", "hunter2 x=-"] {
            let Err(failure) = parse(text) else { panic!("{text}") };
            let told = failure.to_string();
            assert!(text.starts_with("hunter2=") || !told.contains("hunter2"), "{told}");
            assert_eq!(failure.exit_code(), 2);
        }
        assert!(matches!(parse("token=-"), Ok(("token", Source::Stdin))));
        assert!(matches!(parse("token=@a"), Ok(("token", Source::File("a")))));
        assert!(matches!(parse("token"), Ok(("token", Source::Prompt))));
    }

    #[test]
    fn what_was_entered_becomes_a_document() {
        let entered =
            |name: &str, value: &str| Entered { name: name.to_owned(), value: Zeroizing::new(value.to_owned()) };
        let document = document(&[entered("a", "x\"y\n"), entered("b", "{}")]).unwrap();
        assert_eq!(document, r#"{"a":"x\"y\n","b":"{}"}"#);
        assert_eq!(super::document(&[]).unwrap(), "{}");
    }
}
