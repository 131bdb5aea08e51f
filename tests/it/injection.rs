//! Every way of putting a credential into a request's head, and that nothing else of the head is touched.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::harness::client::http1;
use crate::harness::sink::{HOST, Seen};
use crate::harness::{Canary, Client, Sidekey, Sink, get};

/// Sends a GET over a connection and gives what the upstream saw of it.
async fn sent(server: &Sidekey, sink: &Sink, connection: &str, path: &str, headers: &[(&str, &str)]) -> Seen {
    let headers = [headers, &[("Sidekey-Connection", connection)]].concat();
    let reply = get(server.proxy(), path, &headers).await;
    assert_eq!(reply.status, 200, "{connection}: {}", reply.text());
    sink.next_request().await
}

#[tokio::test]
async fn bearer_and_basic_go_into_authorization() {
    let sink = Sink::https().await;
    let (token, password) = (Canary::spiky("token"), Canary::spiky("password"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("bearer", token.text()).basic("basic", "ann", password.text());
        config.basic("zendesk", "ann@example.test", password.text()).auth_key("username", "{{ username }}/token");
        config.basic("mailgun", "ann", password.text()).auth_key("username", "api");
        config.bearer("github", token.text()).auth_key("template", "token {{ token }}");
    })
    .await;
    let basic = |user: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.text())));
    for (connection, expected) in [
        ("bearer", format!("Bearer {}", token.text())),
        ("basic", basic("ann")),
        ("zendesk", basic("ann@example.test/token")),
        ("mailgun", basic("api")),
        ("github", format!("token {}", token.text())),
    ] {
        let seen = sent(&server, &sink, connection, "/me", &[]).await;
        assert_eq!(seen.header("authorization"), Some(expected.as_str()), "{connection}");
        assert_eq!((seen.target.as_str(), seen.header("host")), ("/me", Some(HOST)), "{connection}");
    }
    sink.assert_strict();
    server.finish(&[&token, &password]).await;
}

#[tokio::test]
async fn an_api_key_goes_into_the_header_its_method_names() {
    let (sink, key) = (Sink::https().await, Canary::spiky("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("plain", "header", "X-Api-Key", key.text());
        config.api_key("token", "header", "Authorization", key.text()).auth_key("template", "Token {{ api_key }}");
        config.api_key("base64", "header", "X-Api-Key", key.text()).auth_key("template", "{{ api_key | base64 }}");
        config.api_key("both", "header", "X-Api-Key", key.text());
        config.auth_key("template", "k={{ api_key | urlencode }};{{api_key|urlencode|base64}}");
    })
    .await;
    let encoded = percent_encoding::utf8_percent_encode(key.text(), percent_encoding::NON_ALPHANUMERIC).to_string();
    let encoded = encoded.replace("%2D", "-").replace("%5F", "_").replace("%2E", ".").replace("%7E", "~");
    for (connection, header, expected) in [
        ("plain", "x-api-key", key.text().to_owned()),
        ("token", "authorization", format!("Token {}", key.text())),
        ("base64", "x-api-key", STANDARD.encode(key.text())),
        ("both", "x-api-key", format!("k={encoded};{}", STANDARD.encode(&encoded))),
    ] {
        let seen = sent(&server, &sink, connection, "/", &[]).await;
        assert_eq!(seen.header(header), Some(expected.as_str()), "{connection}");
    }
    sink.assert_strict();
    server.finish(&[&key]).await;
}

/// HI-06: whatever is in the value, it is one pair, and the caller's own pairs keep their bytes and order.
#[tokio::test]
async fn hi_06_a_query_key_is_appended_and_encoded() {
    let (sink, canary) = (Sink::https().await, Canary::new("query"));
    let value = format!("a&b=c#d e+f%2F\u{e9}{}", canary.text());
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("maps", "query", "api key", &value);
    })
    .await;
    for query in ["?z=%2F+x&y&a=1;b=%zz&&c=|{}^`'?&a=1", "?z", "?&", "?=", "?a=1&", "", "?"] {
        let seen = sent(&server, &sink, "maps", &format!("/p{query}"), &[]).await;
        let own = query.strip_prefix('?').unwrap_or_default();
        let kept = seen.target.strip_prefix("/p?").expect("a query");
        let injected = kept.strip_prefix(own).unwrap_or_else(|| panic!("{query} became {kept}"));
        let pair = injected.trim_start_matches('&');
        assert!(injected.len() - pair.len() <= 1, "{injected}");
        let decoded = percent_decode_str(pair).decode_utf8().expect("UTF-8");
        assert_eq!(decoded, format!("api key={value}"), "{query}");
        assert!(pair.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%=".contains(&b)), "{pair}");
    }
    sink.assert_strict();
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_cookie_joins_the_callers_own_and_a_path_key_fills_its_placeholder() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let spiky = Canary::new("path");
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("cookie", "cookie", "session", key.text());
        config.base(&format!("https://{HOST}/bot{{api_key}}/v1")).api_key("path", "path", "api_key", key.text());
        config.api_key("colon", "path", "api_key", &format!("12:{} é", spiky.text()));
    })
    .await;
    assert_eq!(
        sent(&server, &sink, "cookie", "/", &[]).await.header("cookie"),
        Some(&*format!("session={}", key.text()))
    );
    let seen = sent(&server, &sink, "cookie", "/", &[("Cookie", "a=1; b=\"2\"")]).await;
    assert_eq!(seen.header("cookie"), Some(&*format!("a=1; b=\"2\"; session={}", key.text())));
    let seen = sent(&server, &sink, "path", "/send?a=%2F", &[]).await;
    assert_eq!(seen.target, format!("/bot{}/v1/send?a=%2F", key.text()));
    let seen = sent(&server, &sink, "path", "/c/path/x", &[]).await;
    assert_eq!(seen.target, format!("/bot{}/v1/c/path/x", key.text()), "the header was the tag");
    let seen = sent(&server, &sink, "colon", "/", &[]).await;
    assert_eq!(seen.target, format!("/bot12:{}%20%C3%A9/v1/", spiky.text()));
    sink.assert_strict();
    server.finish(&[&key, &spiky]).await;
}

#[tokio::test]
async fn a_path_tag_leaves_the_path_below_the_base_and_a_bare_one_is_the_base_itself() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).base(&format!("https://{HOST}/v1/bot{{api_key}}")).api_key(
            "tg",
            "path",
            "api_key",
            key.text(),
        );
    })
    .await;
    for (path, rest) in
        [("/c/tg", ""), ("/c/tg/", "/"), ("/c/tg?a", "?a"), ("/c/tg/a//b", "/a//b"), ("/c/tg/%20", "/%20")]
    {
        assert_eq!(get(server.proxy(), path, &[]).await.status, 200, "{path}");
        assert_eq!(sink.next_request().await.target, format!("/v1/bot{}{rest}", key.text()), "{path}");
    }
    // Another origin or an absolute URL would leave the base path, and the credential with it, out.
    for headers in [vec![("Sidekey-Upstream", "https://api.example.test")], vec![]] {
        let login = format!("Basic {}", STANDARD.encode("tg:"));
        let (path, tag) = match headers.is_empty() {
            true => (format!("http://{HOST}/v1/botx/me"), ("Proxy-Authorization", login.as_str())),
            false => ("/me".to_owned(), ("Sidekey-Connection", "tg")),
        };
        let reply = http1(server.proxy(), "GET", &path, &[headers, vec![tag]].concat(), "").await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (400, Some("target_invalid")), "{path}");
    }
    assert_eq!(sink.count(), 5);
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn a_custom_method_injects_into_several_places_at_once() {
    let (sink, account, secret) = (Sink::https().await, Canary::new("account"), Canary::spiky("secret"));
    let server = Sidekey::with(|config| {
        config.to(&sink).custom(
            "signed",
            &[("account", account.text()), ("secret", secret.text())],
            &[
                ("header", "X-Account", "{{ account }}"),
                ("header", "Authorization", "Key {{ account }}:{{ secret | base64 }}"),
                ("query", "sig", "{{ secret }}"),
                ("query", "acct", "{{ account }}"),
                ("cookie", "acct", "{{ account }}"),
                ("cookie", "two", "{{ account | urlencode }}"),
            ],
        );
    })
    .await;
    let seen = sent(&server, &sink, "signed", "/p?x=1", &[("cookie", "own=1")]).await;
    let (account_text, secret_text) = (account.text(), secret.text());
    assert_eq!(seen.header("x-account"), Some(account_text));
    assert_eq!(seen.header("authorization"), Some(&*format!("Key {account_text}:{}", STANDARD.encode(secret_text))));
    let pairs: Vec<_> = seen.target.split_once('?').expect("a query").1.split('&').collect();
    assert_eq!((pairs[0], pairs[2], pairs.len()), ("x=1", &*format!("acct={account_text}"), 3));
    assert_eq!(percent_decode_str(pairs[1]).decode_utf8_lossy(), format!("sig={secret_text}"));
    assert_eq!(seen.header("cookie"), Some(&*format!("own=1; acct={account_text}; two={account_text}")));
    sink.assert_strict();
    server.finish(&[&account, &secret]).await;
}

/// CO-02: by default the caller's own `Authorization` never passes, whatever the credential is.
#[tokio::test]
async fn co_02_the_callers_authorization_passes_only_where_the_integration_says_so() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("header", "header", "X-Api-Key", key.text()).none("none").bearer("bearer", key.text());
        config.api_key("open", "header", "X-Api-Key", key.text()).integration_key("forward_authorization", true);
        config.none("open-none").integration_key("forward_authorization", true);
        config.bearer("open-bearer", key.text()).integration_key("forward_authorization", true);
    })
    .await;
    let own = [("Authorization", "Bearer of-the-caller")];
    for connection in ["header", "none"] {
        let seen = sent(&server, &sink, connection, "/", &own).await;
        assert_eq!(seen.header("authorization"), None, "{connection}");
    }
    for connection in ["open", "open-none"] {
        let seen = sent(&server, &sink, connection, "/", &own).await;
        assert_eq!(seen.header("authorization"), Some("Bearer of-the-caller"), "{connection}");
    }
    for connection in ["bearer", "open-bearer"] {
        let seen = sent(&server, &sink, connection, "/", &own).await;
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", key.text())), "{connection}");
    }
    assert!(!server.process().stderr().contains("of-the-caller"), "no header value is logged");
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn default_headers_yield_to_the_callers_and_never_to_chance() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).none("none").bearer("bearer", key.text());
        config.integration_key(
            "headers",
            crate::harness::config::table(&[
                ("Example-Version", "2026-01-01".into()),
                ("User-Agent", "sidekey-test".into()),
                ("Authorization", "Bearer of-the-integration".into()),
            ]),
        );
    })
    .await;
    let seen = sent(&server, &sink, "bearer", "/", &[]).await;
    assert_eq!((seen.header("example-version"), seen.header("user-agent")), (Some("2026-01-01"), Some("sidekey-test")));
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", key.text())), "an injection is no default");
    for name in ["example-version", "EXAMPLE-Version"] {
        let seen = sent(&server, &sink, "bearer", "/", &[(name, "1999"), ("user-agent", "curl")]).await;
        assert_eq!((seen.header("example-version"), seen.header("user-agent")), (Some("1999"), Some("curl")));
    }
    let seen = sent(&server, &sink, "bearer", "/", &[("Example_Version", "1999")]).await;
    assert_eq!((seen.header("example_version"), seen.header("example-version")), (Some("1999"), None));
    let seen = sent(&server, &sink, "none", "/", &[]).await;
    assert_eq!((seen.header("example-version"), seen.header("user-agent")), (None, None), "nothing is added by itself");
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn everything_but_the_injection_passes_byte_for_byte() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", key.text());
    })
    .await;
    let mut raw = Client::connect(server.proxy()).await;
    let target = "/a//b/%41%2f%2F/;p=1/~!$&'()*+,=:@|\"^{}[]?q=%zz&r=a+b&&=&`'|{}[]?";
    let fields = [
        ("accept", "*/*"),
        ("x-two", "first"),
        ("x-empty", ""),
        ("x-odd", "\"q\\\" ,;=\t{}  end"),
        ("x-two", "second, third"),
        ("x_under_score", "1"),
        ("content-type", "application/octet-stream; a=\"b\""),
        ("content-encoding", "br"),
        ("range", "bytes=0-1"),
        ("origin-trial", "x"),
        ("x-two", "fourth"),
    ];
    let mut head = format!("PUT {target} HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: stripe\r\n");
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    let body: Vec<u8> = (0..=255).collect();
    raw.send([format!("{head}X-Latin: caf").as_bytes(), b"\xe9\r\nContent-Length: 256\r\n\r\n", &body].concat()).await;
    assert_eq!(raw.response().await.status, 200);
    let seen = sink.next_request().await;
    assert_eq!((seen.method.as_str(), seen.target.as_str(), &seen.body), ("PUT", target, &body));
    let mut expected: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    expected.extend(["x-latin: caf\u{fffd}".into(), "content-length: 256".into(), format!("host: {HOST}")]);
    expected.push(format!("authorization: Bearer {}", key.text()));
    let mut arrived: Vec<String> =
        seen.fields().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
    assert_eq!(seen.all("x-two"), ["first", "second, third", "fourth"], "the order of one name's lines");
    assert!(seen.raw_head.windows(5).any(|bytes| bytes == b"caf\xe9\r"), "obs-text passes");
    expected.sort();
    arrived.sort();
    assert_eq!(arrived, expected);
    sink.assert_strict();
    server.finish(&[&key]).await;
}
