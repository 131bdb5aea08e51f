//! What is around the program: the image, the two commands, the licence. No container engine is needed: what is checked
//! is what can be wrong without one noticing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// The one way a release is built; the image and `scripts/test` build it the same way.
const RELEASE_BUILD: &str = "cargo build --release --locked --bin sidekey";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

fn table(path: &str) -> toml::Table {
    text(path).parse().expect(path)
}

/// An instruction of the Dockerfile: its word, and the rest of its line.
struct Instruction {
    word: String,
    rest: String,
}

impl Instruction {
    fn words(&self) -> Vec<&str> {
        self.rest.split_whitespace().collect()
    }

    /// The exec form, `["a", "b"]`, which needs no shell.
    fn exec_form(&self) -> Vec<String> {
        let list = self.rest.find('[').map_or("", |at| &self.rest[at..]);
        serde_json::from_str(list).expect("the exec form")
    }
}

/// Its stages, each with its instructions; the first of each is FROM.
fn stages() -> Vec<Vec<Instruction>> {
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in text("Dockerfile").lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(!line.ends_with('\\'), "one instruction a line, which is what this test reads: {line}");
        let (word, rest) = line.split_once(' ').expect("an instruction");
        if word == "FROM" {
            stages.push(Vec::new());
        }
        let instruction = Instruction { word: word.to_owned(), rest: rest.to_owned() };
        stages.last_mut().expect("FROM first").push(instruction);
    }
    stages
}

fn only<'s>(stage: &'s [Instruction], word: &str) -> &'s Instruction {
    let found: Vec<_> = stage.iter().filter(|instruction| instruction.word == word).collect();
    assert_eq!(found.len(), 1, "one {word} in the stage");
    found[0]
}

/// What a stage copies from the folder of the build.
fn copied(stage: &[Instruction]) -> Vec<PathBuf> {
    let from_context = |i: &&Instruction| i.word == "COPY" && !i.rest.contains("--from=");
    let sources = stage.iter().filter(from_context).flat_map(|instruction| {
        let words = instruction.words();
        words[..words.len() - 1].iter().map(PathBuf::from).collect::<Vec<_>>()
    });
    sources.collect()
}

/// Whether `.dockerignore` lets a path through. The file uses `*` and `!name` only, and so does this.
fn reaches_the_build(path: &Path) -> bool {
    let rules = text(".dockerignore");
    let mut reaches = true;
    for rule in rules.lines().map(str::trim).filter(|rule| !rule.is_empty() && !rule.starts_with('#')) {
        match rule.strip_prefix('!') {
            Some(kept) if path.starts_with(kept) => reaches = true,
            Some(_) => {}
            None if rule == "*" => reaches = false,
            None => panic!("a rule that this test does not read: {rule}"),
        }
    }
    reaches
}

#[test]
fn the_image_has_two_stages_of_known_make() {
    let stages = stages();
    assert_eq!(stages.len(), 2);
    let image = |stage: &[Instruction]| only(stage, "FROM").words()[0].to_owned();
    let rust = table("Cargo.toml")["package"]["rust-version"].as_str().expect("rust-version").to_owned();
    assert!(image(&stages[0]).starts_with(&format!("rust:{rust}")), "the compiler that Cargo.toml promises");
    for stage in &stages {
        assert!(!image(stage).contains('/'), "a plain image name, without a host: {}", image(stage));
        assert!(!image(stage).ends_with(":latest") && image(stage).contains(':'), "a pinned image");
    }
    let stage_name = only(&stages[0], "FROM").words()[2].to_owned();
    for copy in stages[1].iter().filter(|instruction| instruction.word == "COPY") {
        assert!(copy.rest.contains(&format!("--from={stage_name} ")), "only what was built: {}", copy.rest);
    }
}

/// Without it a release build is as correct and slower, and nobody would notice.
#[test]
fn there_is_a_profile_for_the_compiler_of_the_image() {
    let image = only(&stages()[0], "FROM").words()[0].to_owned();
    let release = image.strip_prefix("rust:").and_then(|tag| tag.split('-').next()).expect("a release").to_owned();
    assert_eq!(release.split('.').count(), 3, "a release of the compiler, as its profile is of one: {image}");
    let profile = PathBuf::from(format!("benches/profile/rustc-{release}-x86_64-unknown-linux-gnu.profdata"));
    assert!(root().join(&profile).is_file(), "{} is missing: run scripts/profile", profile.display());
    assert!(reaches_the_build(&profile));
    let wrapper = table(".cargo/config.toml")["build"]["rustc-wrapper"].as_str().expect("a wrapper").to_owned();
    for needed in [Path::new(&wrapper), Path::new(".cargo/config.toml"), &profile] {
        assert!(copied(&stages()[0]).iter().any(|copied| needed.starts_with(copied)), "{}", needed.display());
    }
}

#[test]
fn everything_the_image_is_built_from_is_there_and_reaches_the_build() {
    let copied = copied(&stages()[0]);
    assert!(copied.len() >= 4, "{copied:?}");
    for path in &copied {
        assert!(root().join(path).exists(), "{} is copied and not there", path.display());
        assert!(reaches_the_build(path), ".dockerignore keeps {} out", path.display());
    }
    for path in ["target", ".git", "sidekey.vault", "master.key", "admin.key", "sidekey.toml", "tests"] {
        assert!(!reaches_the_build(Path::new(path)), "{path} has no business in an image");
    }
}

/// Files that are compiled into the binary, from the top of the repository.
fn embedded() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let catalogue = fs::read_dir(root().join("config/integrations")).expect("the catalogue");
    found.extend(catalogue.map(|entry| Path::new("config/integrations").join(entry.expect("an entry").file_name())));
    let schema = text("src/vault/schema.rs");
    let migrations = schema.split_once("sqlx::migrate!(\"").and_then(|(_, rest)| rest.split_once('"'));
    found.push(PathBuf::from(migrations.expect("the migrations of the vault").0));
    found
}

#[test]
fn what_is_compiled_in_is_part_of_the_build() {
    let copied = copied(&stages()[0]);
    let embedded = embedded();
    assert!(embedded.len() > 30, "the catalogue and the migrations");
    for path in embedded {
        assert!(root().join(&path).exists(), "{}", path.display());
        assert!(copied.iter().any(|folder| path.starts_with(folder)), "{} is not copied", path.display());
    }
}

#[test]
fn the_release_is_built_as_ci_builds_it() {
    let stages = stages();
    assert!(stages[0].iter().any(|instruction| instruction.word == "RUN" && instruction.rest == RELEASE_BUILD));
    let line = format!("part \"release build\" {RELEASE_BUILD}");
    assert!(text("scripts/test").lines().any(|own| own == line), "scripts/test runs another command");
    let copy = stages[1].iter().find(|i| i.word == "COPY" && i.rest.ends_with("/sidekey /usr/local/bin/sidekey"));
    let workdir = only(&stages[0], "WORKDIR").rest.clone();
    let built = format!("{workdir}/target/release/sidekey");
    assert!(copy.expect("the binary is copied").words().contains(&built.as_str()), "{built}");
}

#[test]
fn the_container_runs_without_rights_and_says_how_it_is() {
    let run = stages().pop().expect("the second stage");
    let user = &only(&run, "USER").rest;
    let ids: Vec<u32> =
        user.split(':').map(|id| id.parse().expect("a number: a name is not known everywhere")).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| *id > 0), "{user}");
    let state = &only(&run, "WORKDIR").rest;
    assert_eq!(*state, only(&run, "VOLUME").rest, "what is written is in the volume");
    let owned = format!("--chown={user} ");
    let is_state = |i: &&Instruction| i.word == "COPY" && i.rest.contains(&owned) && i.rest.ends_with(state.as_str());
    assert!(run.iter().any(|i| is_state(&i)), "the volume belongs to the user");
    assert!(run.iter().all(|instruction| instruction.word != "RUN"), "nothing is added to the base image");
    assert_eq!(only(&run, "HEALTHCHECK").exec_form(), ["sidekey", "healthcheck"]);
    assert_eq!(only(&run, "ENTRYPOINT").exec_form(), ["sidekey"]);
    assert_eq!(only(&run, "CMD").exec_form(), ["serve"]);
    assert_eq!(only(&run, "STOPSIGNAL").rest, "SIGTERM");
}

#[test]
fn the_ports_are_those_of_the_configuration() {
    let config = table("config/sidekey.toml");
    let port = |address: &toml::Value| address.as_str().and_then(|a| a.rsplit_once(':')).expect("a port").1.to_owned();
    let proxy = port(&config["proxy"]["listeners"][0]["address"]);
    let admin = port(&config["admin"]["address"]);
    assert_eq!(only(&stages()[1], "EXPOSE").words(), [proxy, admin]);
}

#[test]
fn the_two_commands_of_the_readme_are_there() {
    let readme = text("README.md");
    for command in ["cargo run -- demo", "scripts/test"] {
        assert!(readme.lines().any(|line| line == command), "the README has no line `{command}`");
    }
    let is_executable = |script: &str| {
        let mode = fs::metadata(root().join(script)).expect(script).permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is executable");
    };
    is_executable("scripts/rustc");
    for script in ["scripts/test", "scripts/instructions", "scripts/profile", ".ci/run"] {
        is_executable(script);
        assert!(text(script).contains("\nset -euo pipefail\n"), "{script} stops at the first mistake of its own");
    }
    let ci = text(".ci/run");
    let commands: Vec<_> =
        ci.lines().filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("set ")).collect();
    assert_eq!(commands, [r#"exec "$(dirname "$0")/../scripts/test" "$@""#], "CI runs that script and nothing else");
}

#[test]
fn the_script_runs_every_part() {
    let script = text("scripts/test");
    for command in [
        "cargo fmt --check",
        "cargo clippy --all-targets --locked -- -D warnings",
        r#"RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked"#,
        "cargo deny check",
        "cargo test --locked",
        "cargo tree --locked --edges normal,build",
        "cargo bench --profile dev --locked --bench hot_path -- --check",
        "scripts/instructions || code=$?",
    ] {
        assert!(script.contains(command), "scripts/test does not run `{command}`");
    }
    let banned = script.lines().find_map(|line| line.trim().strip_prefix("for banned in ")?.strip_suffix("; do"));
    let banned: Vec<_> = banned.expect("the bans").split_whitespace().collect();
    let denied = table("deny.toml");
    let denied = denied["bans"]["deny"].as_array().expect("bans").iter().map(|ban| ban["crate"].as_str());
    assert_eq!(denied.collect::<Option<Vec<_>>>().expect("names"), banned, "deny.toml and scripts/test ban the same");
    for crate_ in ["openssl-sys", "native-tls", "ring"] {
        assert!(banned.contains(&crate_), "{crate_}");
    }
}

/// The order matters: what counts instructions looks at the release build, and it must be this change's.
#[test]
fn instructions_are_counted_of_the_build_that_was_just_made() {
    let script = text("scripts/test");
    let line = |wanted: &str| script.lines().position(|line| line == wanted).expect(wanted);
    let built = line(&format!("part \"release build\" {RELEASE_BUILD}"));
    assert!(built < line("instructions") && line("instructions") < line(r#"part "tests" tests"#));
}

#[test]
fn the_recorded_instructions_are_there() {
    let recorded = text("benches/instructions.txt");
    for name in ["instructions", "architecture", "features", "valgrind", "rustc"] {
        let has_it = |line: &str| line.split_once(": ").is_some_and(|(own, value)| own == name && !value.is_empty());
        assert!(recorded.lines().any(has_it), "{name}");
    }
}

#[test]
fn every_bench_is_named_in_the_readme() {
    let manifest = table("Cargo.toml");
    let readme = text("README.md");
    let benches = manifest["bench"].as_array().expect("benches");
    assert_eq!(benches.len(), 5);
    for bench in benches {
        let (name, path) = (bench["name"].as_str().expect("a name"), bench["path"].as_str().expect("a path"));
        assert!(root().join(path).is_file(), "{path}");
        assert!(bench["harness"].as_bool() == Some(false), "{name} has its own main");
        let by_cargo = format!("cargo bench --bench {name}");
        assert!(readme.contains(&by_cargo) || readme.contains(&format!("scripts/{name}")), "{name}");
    }
}

#[test]
fn the_package_is_what_it_says() {
    let manifest = table("Cargo.toml");
    let package = &manifest["package"];
    for (key, value) in [("name", "sidekey"), ("edition", "2024"), ("rust-version", "1.95"), ("license", "Apache-2.0")]
    {
        assert_eq!(package[key].as_str(), Some(value), "{key}");
    }
    let licence = text("LICENSE");
    for line in ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"] {
        assert!(licence.lines().any(|own| own.trim() == line), "LICENSE has no line `{line}`");
    }
    let version = package["version"].as_str().expect("a version");
    assert!(text("CHANGELOG.md").contains(&format!("## {version}")), "CHANGELOG.md tells of {version}");
    let locked = table("Cargo.lock");
    for package in locked["package"].as_array().expect("packages") {
        let source = package.get("source").and_then(toml::Value::as_str);
        let public = source.is_none_or(|source| source.starts_with("registry+https://github.com/"));
        assert!(public, "everybody can fetch {package}");
    }
}

/// What only the machine of its author knows. Put together here, so that this file does not hold it either.
fn machine_words() -> Vec<String> {
    let tops = ["work", "root", "home", "Users"].map(|top| format!("/{top}/"));
    let hosts = ["index", "static"].map(|host| format!("{host}.crates{}", ".io"));
    tops.into_iter().chain(hosts).chain(["shared"].map(|folder| format!("{folder}{}", "/"))).collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // What a tool remembers beside the sources is none of them.
        let is_kept_out = matches!(name, ".git" | ".hypothesis" | ".schemathesis");
        if path.is_dir() && !is_kept_out && !path.join("CACHEDIR.TAG").exists() {
            files(&path, found);
        } else if path.is_file() && !matches!(name, "Cargo.lock" | ".git") {
            found.push(path);
        }
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let mut all = Vec::new();
    files(root(), &mut all);
    assert!(all.len() > 100, "{}", all.len());
    let words = machine_words();
    for path in all {
        let Ok(content) = fs::read_to_string(&path) else { continue };
        for (number, line) in content.lines().enumerate() {
            let known = words.iter().find(|word| line.contains(word.as_str()));
            assert_eq!(known, None, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn the_readme_names_every_built_in_integration() {
    let readme = text("README.md");
    for path in embedded().iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let slug = path.file_stem().and_then(|stem| stem.to_str()).expect("a slug");
        assert!(readme.contains(&format!("`{slug}`")), "{slug}");
        for method in table(path.to_str().expect("UTF-8"))["auth"].as_array().expect("auth methods") {
            let method = method["method"].as_str().expect("a name");
            assert!(readme.contains(&format!("`{method}`: ")), "{slug}: {method}");
        }
    }
}

/// The codes that the README's table names must be those that the product counts, which are all it has.
#[tokio::test]
async fn the_readme_names_every_code() {
    let server = crate::harness::Sidekey::with(|_| {}).await;
    let metrics = server.metrics().await;
    let readme = text("README.md");
    let counted =
        metrics.lines().filter_map(|line| line.strip_prefix("sidekey_refusals_total{code=\"")?.split('"').next());
    let counted: Vec<_> = counted.collect();
    assert!(counted.len() > 25, "{metrics}");
    for code in counted {
        assert!(readme.contains(&format!("`{code}`")), "{code}");
    }
    for name in metrics.lines().filter_map(|line| line.strip_prefix("sidekey_")?.split(['{', ' ']).next()) {
        assert!(readme.contains(&format!("`{name}`")) || readme.contains(&format!("`{name}{{")), "sidekey_{name}");
    }
    server.finish(&[]).await;
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    for document in ["README.md", "CHANGELOG.md", "SECURITY.md"] {
        let content = text(document);
        for link in content.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            let is_local = !link.starts_with("https://") && !file.is_empty();
            let stays = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(!is_local || stays && root().join(file).exists(), "{document}: {link}");
        }
    }
}
