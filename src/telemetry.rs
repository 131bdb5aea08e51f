//! What Sidekey tells about itself: log lines, one access line for each request, counters.
//!
//! Logs go to stderr, human on a terminal and JSON lines otherwise. Nothing here knows the vocabulary: what reaches
//! this module is text and numbers that were chosen by who knows what is secret.

pub mod access_log;
pub mod clock;
pub mod metrics;
pub mod request_id;

use std::any::Any;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    Human,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Human on a terminal, JSON otherwise.
    pub fn of_stderr() -> Self {
        if std::io::stderr().is_terminal() { Format::Human } else { Format::Json }
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
#[error("the log filter `{filter}` is not understood; write for example \"info\" or \"sidekey=debug,info\"")]
pub struct FilterError {
    filter: String,
}

/// Starts logging to stderr for the process, once; a second call changes nothing. Whatever is told while a request of
/// the admin port is answered names that request.
pub fn start_logging(filter: &str, format: Format) -> Result<(), FilterError> {
    let parsed = EnvFilter::try_new(filter).map_err(|_| FilterError { filter: filter.to_owned() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let _already_started = match format {
        Format::Human => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs where a panic happened.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = shown_message(panic.payload());
    tracing::error!(place, message, "a defect of Sidekey's own was met; the request it belonged to is answered 500");
}

/// A panic's message, shown only where it is a constant of the program: a formatted one may hold what a request or a
/// credential held.
fn shown_message(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_never_tells_what_it_was_formatted_with() {
        let token = String::from("canary");
        let formatted = std::panic::catch_unwind(|| panic!("the token {token} is wrong")).unwrap_err();
        assert_eq!(shown_message(&*formatted), "(message withheld)");
        let constant = std::panic::catch_unwind(|| panic!("a constant")).unwrap_err();
        assert_eq!(shown_message(&*constant), "a constant");
    }
}
