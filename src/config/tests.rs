use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::model::id::OrganizationId;
use crate::model::name::Key;
use crate::vault::declared::Declared;

const EVERY_KEY: &str = include_str!("../../config/sidekey.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

/// The names that people rely on, as they were given to them.
const CONTRACT: &str = include_str!("tests/contract.toml");

fn none() -> Environment {
    Environment::of([("PATH", "/bin")])
}

fn read(text: &str, environment: &Environment) -> Result<Config, ConfigError> {
    Config::read(Some(PathBuf::from("/srv/sidekey.toml")), Zeroizing::new(text.to_owned()), environment)
}

/// The report of a text that must be wrong.
fn mistakes(text: &str, environment: &Environment) -> String {
    match read(text, environment) {
        Err(ConfigError::Wrong(report)) => report.render(Style::Plain),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing is wrong"),
    }
}

fn resolve(config: &Config, environment: &Environment) -> Result<Declared, Report> {
    let default = |key: &Key| (key.as_str() == "default").then(|| OrganizationId::derived("default"));
    config.declared.resolve(environment, default, |_| false)
}

#[expect(clippy::disallowed_methods, reason = "the test looks at what it put in")]
fn value(declared: &Declared, connection: &str, environment: &str, field: &str) -> String {
    let owner = OrganizationId::derived("default");
    let connection = declared.connection(owner, None, &connection.parse().unwrap()).unwrap();
    let fields = declared.credential(connection.id, &environment.parse().unwrap()).unwrap();
    let (_, value) = fields.iter().find(|(name, _)| name.as_str() == field).unwrap();
    value.expose_secret().to_owned()
}

#[test]
fn nothing_written_means_the_defaults() {
    let config = Config::read(None, Zeroizing::default(), &none()).unwrap();
    assert_eq!(config.proxy, ProxySettings::default());
    assert_eq!(config.admin, AdminSettings::default());
    assert_eq!(config.upstream, UpstreamSettings::default());
    assert!(config.vault.enabled && config.vault.path.ends_with("sidekey.vault"));
    assert!(config.warnings.is_empty());
    assert_eq!(config.declared.integrations.len(), catalogue::FILES.len());
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let config = read(EVERY_KEY, &none()).err().map(|error| error.to_string());
    // The folder it names is not there.
    assert!(config.is_some_and(|error| error.contains("integrations cannot be read")));
    let config = read(&EVERY_KEY.replace("\nintegrations_dir", "\n#integrations_dir"), &none()).unwrap();
    assert_eq!(config.proxy, ProxySettings::default());
    assert_eq!(config.admin, AdminSettings::default());
    assert_eq!(config.vault, VaultSettings::absent(Path::new("/srv")));
    assert_eq!(config.upstream, UpstreamSettings::default());
    assert_eq!(config.log, LogSettings::default());
    assert_eq!(config.cache, CacheSettings::default());
    assert!(config.warnings.is_empty());
}

/// The documentation of every key with its examples switched on.
fn every_example() -> String {
    let switch_on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') && !setting.is_empty() => setting.to_owned(),
        _ => line.to_owned(),
    };
    let lines: Vec<String> = EVERY_KEY.lines().map(switch_on).collect();
    lines.join("\n")
}

#[test]
fn every_example_of_the_documentation_holds() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("integrations")).unwrap();
    std::fs::write(folder.path().join("example.token"), "from-a-file\n").unwrap();
    let environment = Environment::of([("EXAMPLE_TOKEN", "from-a-variable")]);
    let path = Some(folder.path().join("sidekey.toml"));
    let config = Config::read(path, Zeroizing::new(every_example()), &environment).unwrap();
    assert_eq!(config.warnings.len(), 2, "{}", config.warnings);
    let mut text = every_example();
    text = text.replace("customer = \"acme\"", "");
    let path = Some(folder.path().join("sidekey.toml"));
    let config = Config::read(path, Zeroizing::new(text), &environment).unwrap();
    let declared = resolve(&config, &environment).unwrap();
    assert_eq!(value(&declared, "example", "staging", "token"), "from-a-file");
    assert_eq!(value(&declared, "example", "production", "token"), "@@SECRET:EXAMPLE_TOKEN@@");
    assert_eq!(declared.secrets().count(), 3);
    let files: Vec<_> = config.declared.files().collect();
    assert_eq!(
        files,
        [folder.path().join("integrations"), folder.path().join("example.token"), folder.path().join("example.token")]
    );
}

/// Which tables are of one kind: indexes and names that people choose do not count.
fn table_kind(pointer: &str) -> String {
    let mut kind = Vec::new();
    for token in pointer.split('/').skip(1) {
        let chosen = kind.contains(&"credentials") || kind.first() == Some(&"secrets");
        kind.push(if chosen || token.parse::<usize>().is_ok() { "*" } else { token });
    }
    kind.join(".")
}

/// Adds a key that nobody knows to every table, and notes which keys are there.
fn plant(value: &mut Value, pointer: String, there: &mut BTreeMap<String, BTreeSet<String>>) {
    match value {
        Value::Object(table) => {
            there.entry(table_kind(&pointer)).or_default().extend(table.keys().cloned());
            for (key, value) in table.iter_mut() {
                plant(value, format!("{pointer}/{key}"), there);
            }
            table.insert("zzzzzzzzzzzzzzzz".to_owned(), Value::from(1));
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                plant(item, format!("{pointer}/{index}"), there);
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_that_is_read_is_documented() {
    // An unknown key is answered with the known ones, which is how the test learns them.
    let problems = Problems::default();
    let mut document = source::parse(&every_example(), &problems).map_err(|errors| format!("{errors:?}")).unwrap();
    let mut there = BTreeMap::new();
    plant(document.value_mut(), String::new(), &mut there);
    let text = toml::to_string(&*document).unwrap();
    let Err(ConfigError::Wrong(report)) = read(&text, &none()) else { panic!("unknown keys were accepted") };
    let mut tables = 0;
    for (pointer, detail) in report.places() {
        let Some((_, known)) = detail.split_once("known here: ") else { continue };
        tables += 1;
        let kind = table_kind(pointer.strip_suffix("/zzzzzzzzzzzzzzzz").unwrap());
        for key in known.split(", ") {
            // Of these only one can stand in a table; the others are named in a comment.
            let named = ["fd", "env", "exists"].contains(&key) && EVERY_KEY.contains(&format!("{key} = "));
            assert!(there[&kind].contains(key) || named, "`{key}` of `{kind}` is not in config/sidekey.toml");
        }
    }
    assert!(tables >= 25, "only {tables} tables were reached");
}

#[test]
fn the_smallest_example_needs_one_variable() {
    let environment = Environment::of([("GITHUB_TOKEN", "from-a-variable")]);
    let config = read(MINIMAL, &environment).unwrap();
    assert_eq!(value(&resolve(&config, &environment).unwrap(), "github", "production", "token"), "from-a-variable");
}

#[test]
fn the_contract_holds() {
    let environment = Environment::of([("EXAMPLE_TOKEN", "from-a-variable")]);
    let config = read(CONTRACT, &environment).unwrap();
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    assert_eq!(config.upstream.hosts["api.example.test"], "127.0.0.1:9443".parse().unwrap());
    assert_eq!(config.upstream.ca_files, [PathBuf::from("/srv/ca.pem")]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("example");
    std::fs::write(&file, "from-a-file\r\n").unwrap();
    let text = CONTRACT.replace("/run/secrets/example", file.to_str().unwrap());
    let config = read(&text, &environment).unwrap();
    let declared = resolve(&config, &environment).unwrap();
    assert_eq!(value(&declared, "example", "production", "token"), "from-a-variable");
    let owner = OrganizationId::derived("default");
    let secret = declared.secret(owner, &"EXAMPLE_TOKEN".parse().unwrap(), &"production".parse().unwrap());
    #[expect(clippy::disallowed_methods, reason = "the test looks at what it put in")]
    let secret = secret.unwrap().expose_secret();
    assert_eq!(secret, "from-a-file");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = r#"
integrations_dir = 3

[proxy]
head_timeout = "soon"          # a comment that is nobody's business
thraeds = 4

[[proxy.listeners]]
address = "0.0.0.0:7878"
environments = ["staging"]
connections = ["crm-*"]
connection = "stripe"

[[proxy.listeners]]
address = "127.0.0.1:7878"
trust = "kye"

[admin]
address = "127.0.0.1:7878"

[vault]
enabled = false
master_key = "a-key-written-here"

[[connection]]
key = "GitHub"
token = "a-token-in-a-wrong-place"

[[connection]]
key = "one"
integration = "github"
credentials.production = { token = "a-token-in-plain-sight", tokne = { file = "a", env = "B" } }

[[connection]]
key = "one"
integration = "github"

[secrets.lower]
production = "@@SECRET:OTHER@@"
"#;
    insta::assert_snapshot!(mistakes(text, &none()));
}

#[test]
fn what_is_no_toml_is_told_at_once() {
    let text = "[proxy\nthreads = \n[log]\nlevel = \"info\nformat = \"json\"\nformat = \"human\"\n";
    insta::assert_snapshot!(mistakes(text, &none()));
}

#[test]
fn sources_and_integrations_are_checked_with_their_places() {
    let text = r#"
[[integration]]
slug = "two"
base_url = "https://{{ zone }}.api.test"
fields = [{ name = "zone", pattern = "[a-z]{2}" }]
[[integration.auth]]
method = "a"
type = "custom"
fields = [{ name = "id", pattern = "[0-9]+" }, { name = "token", secret = true }]
inject = [{ in = "header", name = "X-Id", value = "{{ id }}" }, { in = "query", name = "t", value = "{{ token }}" }]
[[integration.auth]]
method = "b"
type = "bearer"

[[connection]]
key = "first"
integration = "two"
auth = "c"
values = { zone = "nowhere", town = "x" }

[[connection]]
key = "second"
integration = "two"
values = { zone = "eu" }

[[connection]]
key = "third"
integration = "two"
auth = "a"
values = { zone = "eu" }
[connection.credentials.production]
id = { env = "WRONG_ID" }
other = { file = "/nowhere/at-all" }

[[connection]]
key = "fourth"
integration = "git-hub"
organization = "acme"
credentials = { production = { token = { env = "ABSENT" } } }
"#;
    let environment = Environment::of([("WRONG_ID", "canary")]);
    let config = read(text, &environment).unwrap();
    let Err(report) = resolve(&config, &environment) else { panic!("nothing is wrong") };
    insta::assert_snapshot!(report.render(Style::Plain));
}

#[test]
fn an_operators_file_is_pointed_into() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("integrations")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join("integrations").join(name), text).unwrap();
    let github = "slug = \"github\"\nname = \"Ours\"\nbase_url = \"https://git.example.test\"\n[[auth]]\nmethod = \"a\"\ntype = \"bearer\"\n";
    write("github.toml", github);
    write("notes.txt", "not an integration");
    let path = Some(folder.path().join("sidekey.toml"));
    let config = Config::read(path.clone(), Zeroizing::default(), &none()).unwrap();
    let ours = config.declared.integrations.iter().filter(|integration| integration.slug.as_str() == "github");
    assert_eq!(ours.map(|integration| integration.name.as_str()).collect::<Vec<_>>(), ["Ours"]);
    write("twice.toml", github);
    write("wrong.toml", "slug = \"wrong\"\nbase_url = \"ftp://x\"\n");
    write("broken.toml", "slug = \n");
    let Err(error) = Config::read(path, Zeroizing::default(), &none()) else { panic!("nothing is wrong") };
    let text = error.to_string();
    for place in ["twice.toml:1:8", "wrong.toml:2:12", "broken.toml:1:"] {
        assert!(text.contains(place), "{place} in\n{text}");
    }
}

#[test]
fn variables_lie_over_the_file() {
    let text = r#"
proxy.drain_timeout = "1s"
connection = [{ key = "github", integration = "github", credentials = { production = {} } }]
upstream.hosts = { "api.example.test" = "127.0.0.1:1" }
"#;
    let environment = Environment::of([
        ("SIDEKEY_PROXY__DRAIN_TIMEOUT", "7s"),
        ("SIDEKEY_PROXY__THREADS", "3"),
        ("SIDEKEY_PROXY__LISTENERS__0__ADDRESS", "127.0.0.1:0"),
        ("SIDEKEY_PROXY__LISTENERS__0__CONNECTIONS", "[\"crm-*\", \"stripe\"]"),
        ("SIDEKEY_VAULT__ENABLED", "false"),
        ("SIDEKEY_CONNECTION__0__CREDENTIALS__PRODUCTION__TOKEN__VALUE", "123456"),
        ("SIDEKEY_SECRETS__SOME_KEY__PRODUCTION__ENV", "OTHER"),
        ("SIDEKEY_CONFIG", "elsewhere.toml"),
        ("SIDEKEY_PORT", "tcp://10.0.0.1"),
        ("OTHER", "from-a-variable"),
    ]);
    let config = read(text, &environment).unwrap();
    assert_eq!(config.proxy.drain_timeout.as_secs(), 7);
    assert_eq!(config.proxy.threads, Some(3));
    assert_eq!(config.proxy.listeners[0].address, Address::Tcp("127.0.0.1:0".parse().unwrap()));
    assert_eq!(config.proxy.listeners[0].connections, ["crm-*", "stripe"]);
    assert!(!config.vault.enabled);
    let declared = resolve(&config, &environment).unwrap();
    assert_eq!(value(&declared, "github", "production", "token"), "123456");
    assert_eq!(declared.secrets().count(), 1);
}

#[test]
fn a_wrong_variable_is_named_and_its_value_is_not() {
    let environment = Environment::of([
        ("SIDEKEY_PROXY__HEAD_TIMEOUT", "canary"),
        ("SIDEKEY_PROXY__LISTENERS__1__ADDRESS", "canary"),
        ("SIDEKEY_ADMIN__ADDRESS__PORT", "canary"),
        ("SIDEKEY_ADMIN____PORT", "canary"),
        ("SIDEKEY_LOG__LEVLE", "canary"),
        ("SIDEKEY_CONNECTION__0__KEY", "one"),
        ("SIDEKEY_CONNECTION__0__CREDENTIALS__PRODUCTION__TOKEN", "canary"),
    ]);
    let shown = mistakes("admin.address = \"127.0.0.1:1\"\n", &environment);
    assert!(!shown.contains("canary"));
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_accepted_but_not_advised_is_a_warning() {
    let text = r#"
admin.address = "0.0.0.0:7879"
proxy.listeners = [{ address = "[::]:7878", trust = "key" }]
vault.master_key = { env = "MASTER" }
[[connection]]
key = "github"
integration = "github"
credentials.production = { token = { value = "canary" } }
"#;
    let config = read(text, &none()).unwrap();
    let shown = config.warnings.render(Style::Plain);
    assert!(!format!("{config:?} {shown}").contains("canary"));
    insta::assert_snapshot!(shown);
}

#[test]
fn without_a_vault_every_secret_is_declared() {
    let text = |vault: bool, environment: &str| {
        format!(
            "vault.enabled = {vault}\nsecrets.A.{environment} = {{ env = 'A' }}\n[[connection]]\nkey = 'github'\n\
             integration = 'github'\ncredentials.production.token = 'x-@@SECRET:A@@'\n"
        )
    };
    assert!(read(&text(false, "production"), &none()).is_ok());
    assert!(read(&text(true, "staging"), &none()).is_ok());
    let shown = mistakes(&text(false, "staging"), &none());
    assert!(shown.contains("the secret A is not declared for production"), "{shown}");
    assert!(shown.contains("sidekey.toml:6:"), "{shown}");
}

#[test]
fn a_file_is_found_or_named() {
    let environment = Environment::of([("SIDEKEY_CONFIG", "/srv/named.toml")]);
    let named = PathBuf::from("/srv/explicit.toml");
    assert_eq!(Config::find(Some(named.clone()), &environment), Ok(Some(named)));
    assert_eq!(Config::find(None, &environment), Ok(Some(PathBuf::from("/srv/named.toml"))));
    let error = Config::load(Some(PathBuf::from("/nowhere/at-all.toml")), &environment).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
}

#[test]
fn sources_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    std::fs::write(folder.path().join("long"), "x".repeat((64 << 10) + 1)).unwrap();
    std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
    std::fs::write(folder.path().join("fits"), "x".repeat(64 << 10)).unwrap();
    for (source, told) in [
        ("{ file = 'empty' }", "is empty"),
        ("{ file = 'long' }", "holds more than 64KiB"),
        ("{ file = 'binary' }", "is not UTF-8 text"),
        ("{ file = '.' }", "is not a file"),
        ("{ file = 'fits' }", ""),
        ("{ env = 'EMPTY' }", "the variable EMPTY is empty"),
    ] {
        let text = format!("secrets.A.production = {source}");
        let environment = Environment::of([("EMPTY", "")]);
        let path = Some(folder.path().join("sidekey.toml"));
        let config = Config::read(path, Zeroizing::new(text), &environment).unwrap();
        match resolve(&config, &environment) {
            Ok(_) => assert_eq!(told, "", "{source}"),
            Err(report) => assert!(!told.is_empty() && report.to_string().contains(told), "{source}: {report}"),
        }
    }
}

/// A configuration full of secrets, one of each spelling.
const CANARIES: &str = r#"
log.level = "info" # canary
vault.master_key = "canary"
[[integration]]
slug = "example"
base_url = "https://canary:canary@api.test/?key=canary"
headers = { Authorization = "Bearer canary" }
fields = [{ name = "a", secret = true, default = "canary" }]
auth = [{ method = "a", type = "bearer", template = "{{ canary", token = "canary" }]
[[connection]]
key = "one"
integration = "example"
token = "canary"
values = { password = "canary" }
[connection.credentials.production]
token = { value = "canary" }
other = "canary"
long = { value = """
canary
-canary=
canary = canary
""" }
[secrets.ONE]
production = { value = 'canary', file = "x" }
staging = "canary"
test = ["canary", { value = "canary" }]
"#;

#[test]
fn many_connections_are_read_in_one_pass() {
    let mut text = String::new();
    for n in 0..10_000 {
        let connection = format!(
            "[[connection]]\nkey = \"c{n}\"\nintegration = \"github\"\n[connection.credentials.production]\n\
             token = {{ env = \"TOKEN\" }}\n"
        );
        text.push_str(&connection);
    }
    let environment = Environment::of([("TOKEN", "x")]);
    let begun = std::time::Instant::now();
    let config = read(&text, &environment).unwrap();
    let declared = resolve(&config, &environment).unwrap();
    assert_eq!(declared.connections().count(), 10_000);
    // The report of as many mistakes points into the text without parsing it for each.
    let Err(report) = resolve(&config, &none()) else { panic!("no variable is set") };
    assert_eq!(report.len(), 10_000);
    assert_eq!(report.render(Style::Plain).matches("TOKEN is not set").count(), 10_000);
    // Unoptimized and on a busy machine it takes a second or two; a scan for each connection would take minutes.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_mistake_shows_a_secret(at in 0..CANARIES.len(), cut in 0..3usize, put in "[\"'=\\[\\]{}#\n,x\\\\]?") {
        let end = (at + cut).min(CANARIES.len());
        // A cut through a canary leaves no canary to look for, but others.
        let text = format!("{}{put}{}", &CANARIES[..at], &CANARIES[end..]);
        if let Err(error) = read(&text, &none()) {
            let shown = error.to_string();
            prop_assert!(!shown.contains("canary"), "{text}\n---\n{shown}");
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}=\"'#.,\na-z0-9 é_-]{0,80}") {
        if let Err(error) = read(&text, &none()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
