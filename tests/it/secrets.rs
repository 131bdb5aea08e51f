//! References to secrets: expanded in declared credentials, in the environment of the request, once, and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::client::request;
use crate::harness::{Canary, Sidekey, Sink, get, problem};

#[tokio::test]
async fn a_secret_is_the_whole_value_or_a_part_of_it() {
    let (sink, secret, other) = (Sink::https().await, Canary::spiky("secret"), Canary::new("other"));
    let server = Sidekey::with(|config| {
        config.to(&sink).secret("KEY_1", secret.text()).secret("OTHER", other.text());
        config.bearer("whole", "@@SECRET:KEY_1@@").bearer("part", "pre-@@SECRET:KEY_1@@-@@SECRET:OTHER@@-@@-post");
        config
            .basic("basic", "@@SECRET:OTHER@@", "@@SECRET:KEY_1@@")
            .bearer("twice", "@@SECRET:OTHER@@@@SECRET:OTHER@@");
    })
    .await;
    let (key, other_text) = (secret.text(), other.text());
    for (connection, expected) in [
        ("whole", format!("Bearer {key}")),
        ("part", format!("Bearer pre-{key}-{other_text}-@@-post")),
        ("basic", format!("Basic {}", STANDARD.encode(format!("{other_text}:{key}")))),
        ("twice", format!("Bearer {other_text}{other_text}")),
    ] {
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await.status, 200, "{connection}");
        assert_eq!(sink.next_request().await.header("authorization"), Some(&*expected), "{connection}");
    }
    server.finish(&[&secret, &other]).await;
}

#[tokio::test]
async fn a_secret_has_its_value_in_the_environment_of_the_request() {
    let (sink, production, staging) = (Sink::https().await, Canary::new("production"), Canary::new("staging"));
    let server = Sidekey::with(|config| {
        config.to(&sink).listener("environments", vec!["production", "staging", "development"]);
        config.secret("KEY", production.text()).bearer("stripe", "@@SECRET:KEY@@");
        config.environment("staging").secret("KEY", staging.text()).credential(&[("token", "s-@@SECRET:KEY@@")]);
        config.environment("development").credential(&[("token", "@@SECRET:KEY@@")]);
    })
    .await;
    let ask = |environment| {
        let tag = [("Sidekey-Connection", "stripe"), ("Sidekey-Environment", environment)];
        let address = server.proxy();
        async move { get(address, "/", &tag).await }
    };
    for (environment, expected) in
        [("production", production.text()), ("staging", staging.text()), ("production", production.text())]
    {
        assert_eq!(ask(environment).await.status, 200);
        let authorization = sink.next_request().await.header("authorization").map(str::to_owned);
        let prefix = if environment == "staging" { "s-" } else { "" };
        assert_eq!(authorization, Some(format!("Bearer {prefix}{expected}")), "{environment}");
    }
    // Never another environment's value because one is missing; and the refusal says what is.
    let refusal = problem(&ask("development").await);
    assert_eq!((refusal.status, refusal.code.as_str()), (424, "secret_missing"));
    assert!(refusal.detail.contains("`KEY`") && refusal.detail.contains("`development`"), "{}", refusal.detail);
    assert_eq!(sink.count(), 3);
    server.finish(&[&production, &staging]).await;
}

#[tokio::test]
async fn a_secrets_own_value_is_never_expanded_again() {
    let (sink, secret) = (Sink::https().await, Canary::new("inner"));
    let server = Sidekey::with(|config| {
        config.to(&sink).secret("INNER", secret.text());
        config
            .secret("OUTER", "@@SECRET:INNER@@ and {{ token }} @@SECRET:OUTER@@")
            .bearer("stripe", "@@SECRET:OUTER@@");
        config.secret("HALF", "@@SECRET:").bearer("half", "@@SECRET:HALF@@INNER@@");
    })
    .await;
    for (connection, expected) in
        [("stripe", "Bearer @@SECRET:INNER@@ and {{ token }} @@SECRET:OUTER@@"), ("half", "Bearer @@SECRET:INNER@@")]
    {
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await.status, 200);
        assert_eq!(sink.next_request().await.header("authorization"), Some(expected));
    }
    server.finish(&[&secret]).await;
}

/// SE-03: what a caller sends is never searched for references, nor for templates.
#[tokio::test]
async fn se_03_a_reference_in_a_callers_request_is_plain_text() {
    let (sink, secret, key) = (Sink::https().await, Canary::new("secret"), Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).secret("K", secret.text()).bearer("stripe", "@@SECRET:K@@");
        config.api_key("json", "body", "/key", key.text()).api_key("form", "body", "key", key.text());
        config.api_key("query", "query", "key", key.text()).api_key("cookie", "cookie", "key", key.text());
        config.base("https://api.example.test/{api_key}").api_key("path", "path", "api_key", key.text());
    })
    .await;
    let reference = "@@SECRET:K@@";
    let path = "/p/@@SECRET:K@@/{api_key}/{{token}}?q=@@SECRET:K@@&t={{api_key}}";
    let lines = [("X-A", reference), ("X-B", "{{ token }}{{ api_key }}"), ("Cookie", "a=@@SECRET:K@@")];
    for (connection, content_type, body) in [
        ("stripe", "text/plain", "@@SECRET:K@@ {{ token }}".to_owned()),
        ("json", "application/json", format!("{{\"a\":\"{reference}\",\"{reference}\":\"{{{{ api_key }}}}\"}}")),
        ("form", "application/x-www-form-urlencoded", format!("a={reference}&{reference}={{{{api_key}}}}")),
        ("query", "text/plain", reference.to_owned()),
        ("cookie", "text/plain", reference.to_owned()),
        ("path", "text/plain", reference.to_owned()),
    ] {
        let headers = [&lines[..], &[("Sidekey-Connection", connection), ("Content-Type", content_type)]].concat();
        let reply = request(server.proxy(), "POST", path, &headers, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = sink.next_request().await;
        assert!(seen.target.contains(path), "{}", seen.target);
        assert_eq!((seen.header("x-a"), seen.header("x-b")), (Some(reference), Some("{{ token }}{{ api_key }}")));
        assert!(seen.header("cookie").expect("a cookie").starts_with("a=@@SECRET:K@@"));
        let kept = body.trim_end_matches('}');
        assert!(seen.text().starts_with(kept), "{} instead of {kept}", seen.text());
        let shown = format!("{}{:?}{}", seen.target, seen.headers, seen.text());
        let secrets = shown.matches(secret.text()).count();
        assert_eq!(secrets, usize::from(connection == "stripe"), "{shown}");
        assert_eq!(shown.matches(key.text()).count(), usize::from(connection != "stripe"), "{shown}");
    }
    // As a tag it names nothing.
    for header in ["Sidekey-Connection", "Sidekey-Environment", "Sidekey-Customer"] {
        let mut headers = vec![(header, reference)];
        if header != "Sidekey-Connection" {
            headers.push(("Sidekey-Connection", "stripe"));
        }
        assert_eq!(get(server.proxy(), "/", &headers).await.status, 400, "{header}");
    }
    server.finish(&[&secret, &key]).await;
}

/// SE-10, HI-04: what decides where a request goes or how it is framed holds no reference and no odd name.
#[tokio::test]
async fn se_10_hi_04_addresses_and_header_names_are_plain() {
    let refused = |describe: Box<dyn FnOnce(&mut crate::harness::Config)>| async move {
        let started = Sidekey::try_with(|config| describe(config)).await;
        let failed = started.err().expect("a mistake that is noticed at the start");
        assert_eq!(failed.code, 3, "{}", failed.stderr);
        failed.stderr
    };
    for url in [
        "https://@@SECRET:K@@.example.test",
        "https://api.example.test:@@SECRET:K@@",
        "https://api.example.test/@@SECRET:K@@",
    ] {
        let said = refused(Box::new(move |config| {
            config.secret("K", "x").base(url).bearer("stripe", "t");
        }))
        .await;
        assert!(said.contains("base_url"), "{url}: {said}");
    }
    for name in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "X-Connection-Id",
        "X A",
        "",
        ":path",
        "X-A: b",
        "@@SECRET:K@@",
        "Sidekey-Connection",
        "sidekey_x",
        "transfer_encoding",
        "X-Forwarded-For",
        "X-A\r\nX-B",
    ] {
        let said = refused(Box::new(move |config| {
            config.secret("K", "x").api_key("stripe", "header", name, "t");
        }))
        .await;
        assert!(said.contains("name"), "{name}: {said}");
    }
}

/// HI-01, HI-07 for declared credentials: a value that would end its line or its cookie goes nowhere, and is not shown.
#[tokio::test]
async fn hi_01_hi_07_a_declared_value_that_cannot_stand_in_its_place_is_never_sent() {
    let places =
        [("bearer", "\r\nX-Evil: 1"), ("bearer", "\nX"), ("bearer", "\rX"), ("bearer", "\0X"), ("bearer", "\x7fX")];
    for (kind, hostile) in
        places.into_iter().chain([("cookie", ";x"), ("cookie", ",x"), ("cookie", " x"), ("cookie", "\rx")])
    {
        let (sink, canary) = (Sink::https().await, Canary::new("hostile"));
        let value = format!("{}{hostile}", canary.text());
        let started = Sidekey::try_with(|config| {
            match kind {
                "bearer" => config.to(&sink).bearer("stripe", &value),
                _ => config.to(&sink).api_key("stripe", "cookie", "session", &value),
            };
        })
        .await;
        match started {
            Err(failed) => {
                assert_eq!(failed.code, 3, "{}", failed.stderr);
                assert!(failed.stderr.contains("credentials"), "{}", failed.stderr);
                assert!(!failed.stderr.contains(canary.text()), "{}", failed.stderr);
            }
            Ok(server) => {
                let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await;
                assert_eq!((reply.status, reply.header("sidekey-error")), (424, Some("credential_corrupt")));
                server.finish(&[&canary]).await;
            }
        }
        assert_eq!(sink.count(), 0);
    }
}
