//! Invitations by mail.

use serde_json::json;

use crate::harness::mail::{MailSink, Offers};
use crate::harness::{Config, Sidekey};

fn configure(config: &mut Config, sink: &MailSink, tls: &str) {
    config
        .set("smtp.server", sink.addr.to_string())
        .set("smtp.tls", tls)
        .set("smtp.from", "Sidekey <sidekey@example.test>");
}

/// A body without its line breaks and encoded `=`, where the transfer encoding put them.
fn plain(text: &str) -> String {
    text.replace("=\r\n", "").replace("=3D", "=")
}

#[tokio::test]
async fn an_invitation_is_sent_to_whom_it_is_for() {
    let sink = MailSink::start(Offers::Clear).await;
    let server = Sidekey::with(|config| {
        configure(config, &sink, "none");
        let password = config.secret_file("the mail password");
        config.set("smtp.username", "sidekey").set("smtp.password", password);
    })
    .await;
    let body = json!({ "email": "ada@example.test", "first_name": "Ada \u{df}", "last_name": "\"x\" <eve@evil.test>,",
        "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", body).await.json();
    assert_eq!(invited["mail"], "sent");
    let mail = sink.mail().await;
    assert_eq!(mail.to, ["RCPT TO:<ada@example.test>"], "and to nobody else");
    assert!(mail.from.starts_with("MAIL FROM:<sidekey@example.test>"), "{}", mail.from);
    assert_eq!(mail.auth.len(), 1);
    let text = plain(&mail.text);
    assert!(text.contains(invited["link"].as_str().unwrap()), "{text}");
    assert!(!mail.text.to_lowercase().contains("\nbcc") && mail.text.contains("Subject: Your invitation to Sidekey"));
    let renewed = server.admin().call("POST", "users/ada@example.test/invite", &[], None).await.json();
    assert_eq!((&renewed["mail"], sink.count()), (&json!("sent"), 2));
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_mail_goes_through_tls_or_not_at_all() {
    let sink = MailSink::start(Offers::StartTls).await;
    let server = Sidekey::with(|config| configure(config, &sink, "starttls")).await;
    let body = json!({ "email": "ada@example.test", "roles": ["viewer"] });
    assert_eq!(server.admin().must("POST", "users", body).await.json()["mail"], "sent");
    assert!(sink.mail().await.encrypted);
    server.finish(&[]).await;

    let clear = MailSink::start(Offers::Clear).await;
    let server = Sidekey::with(|config| configure(config, &clear, "starttls")).await;
    let body = json!({ "email": "ada@example.test", "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", body).await.json();
    assert_eq!((&invited["mail"], clear.count()), (&json!("failed"), 0));
    server.finish(&[]).await;
}

#[tokio::test]
async fn whoever_invites_is_told_when_no_mail_was_sent() {
    let sink = MailSink::start(Offers::Refusal).await;
    let server = Sidekey::with(|config| configure(config, &sink, "none")).await;
    let body = json!({ "email": "ada@example.test", "roles": ["viewer"] });
    let invited = server.admin().must("POST", "users", body).await;
    assert_eq!((invited.status, &invited.json()["mail"]), (201, &json!("failed")));
    let said =
        server.log_line("why", |line| line.to_string().contains("the mail with an invitation was not sent")).await;
    assert!(!said.to_string().contains("lnk_"), "{said}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_mail_server_that_cannot_be_used_is_told_at_the_start() {
    for (key, value) in
        [("smtp.from", "nobody"), ("smtp.tls", "maybe"), ("smtp.server", "mail:0"), ("smtp.username", "x")]
    {
        let failed = Sidekey::try_with(|config| {
            config.set("smtp.server", "mail.test").set("smtp.from", "a@b.test").set(key, value);
        })
        .await
        .err()
        .unwrap_or_else(|| panic!("{key} was accepted"));
        assert_eq!(failed.code, 3, "{key}: {}", failed.stderr);
    }
    let failed = Sidekey::try_with(|config| {
        config.set("smtp.server", "mail.test").set("smtp.from", "a@b.test").set("smtp.username", "x");
        let missing = crate::harness::config::table(&[("file", "not-there".into())]);
        config.set("smtp.password", missing);
    })
    .await
    .err()
    .expect("a missing password");
    assert!(failed.code == 3 && failed.stderr.contains("smtp.password"), "{}", failed.stderr);
}
