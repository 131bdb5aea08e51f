//! The built-in integrations: the files of `config/integrations`, embedded.

/// Each file's name without its ending, and its text. A test compares the list with the folder.
macro_rules! catalogue {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../config/integrations/", $name, ".toml")))),*]
    };
}

/// Every built-in integration as it is written.
pub(super) const FILES: &[(&str, &str)] = catalogue! {
    "azure_devops"
    "azure_openai"
    "bitbucket"
    "brevo"
    "circleci"
    "cloudflare"
    "datadog"
    "digitalocean"
    "discord"
    "gemini"
    "github"
    "gitlab"
    "google"
    "grafana"
    "heroku"
    "mailgun"
    "netlify"
    "newrelic"
    "pagerduty"
    "postmark"
    "resend"
    "sendgrid"
    "sentry"
    "slack"
    "supabase_mgmt"
    "telegram_bot"
    "twilio"
    "vercel"
    "webex"
    "youtube"
};
