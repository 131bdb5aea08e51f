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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn the_catalogue_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/integrations");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".toml").expect("only .toml files").to_owned())
            .collect();
        there.sort_unstable();
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), there);
    }

    #[test]
    fn every_built_in_integration_is_sound() {
        let nothing = Environment::of::<String, String>([]);
        let config = Config::read(None, Zeroizing::default(), &nothing).unwrap();
        for ((name, _), integration) in FILES.iter().zip(&config.declared.integrations) {
            assert_eq!(*name, integration.slug.as_str(), "a file is called as its slug");
            let sample: BTreeMap<_, _> = integration
                .fields
                .iter()
                .filter(|field| !field.secret)
                .filter_map(|field| Some((field.name.clone(), field.default.clone().or_else(|| sample(name))?)))
                .collect();
            assert_eq!(integration.check_values(&sample), [], "{name}");
            let (base, origins) = integration.place(&sample).unwrap();
            assert!(origins.contains(base.origin()), "{name}");
            for method in &integration.auth {
                let secret = method.credential_fields(&integration.fields).any(|field| field.secret);
                assert!(secret, "{name}: {} injects no secret", method.method);
            }
        }
    }

    /// A value for the fields that have no default.
    fn sample(integration: &str) -> Option<String> {
        match integration {
            "twilio" => Some(format!("AC{}", "0".repeat(32))),
            "grafana" => Some("grafana.example.test".to_owned()),
            _ => Some("example".to_owned()),
        }
    }
}
