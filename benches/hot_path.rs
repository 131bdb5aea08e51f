//! What each step of a request costs that is neither waiting nor input or output: time, and allocations.
//!
//! A request goes through all the steps, one after the other, as `Proxy::handle` has them: what a step finds in the
//! processor's caches is then what it finds in a server. `--check` looks at the allocations alone, which are the same on
//! every machine and in every build; times are printed and judged by nobody. Allocations are counted by
//! `allocation-counter`, for this thread only, so this file needs no `unsafe`; the counting makes each one a few
//! nanoseconds slower. The hot path itself has no bench of sockets: that is `relay`.

use std::collections::HashSet;
use std::error::Error;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;

use sidekey::credentials::{Credentials, Local};
use sidekey::directory::cache::Limits;
use sidekey::directory::scope::Scope;
use sidekey::directory::{Aim, Caller, Directory, Named, Wanted};
use sidekey::model::api_key::KeyTerms;
use sidekey::model::connection::ConnectionDraft;
use sidekey::model::document::{Problems, Reader};
use sidekey::model::header::Names;
use sidekey::model::id::{ConnectionId, IntegrationId, OrganizationId};
use sidekey::model::integration::Integration;
use sidekey::model::name::EnvironmentName;
use sidekey::proxy::error::CODES;
use sidekey::proxy::head::{self, LastHost};
use sidekey::proxy::record::{Record, Reporter};
use sidekey::proxy::revoked::Revoking;
use sidekey::proxy::tag::{Login, Tag};
use sidekey::proxy::tap::Taps;
use sidekey::proxy::target::Requested;
use sidekey::proxy::usage::Uses;
use sidekey::telemetry::Format;
use sidekey::telemetry::access_log::AccessLog;
use sidekey::telemetry::metrics::Metrics;
use sidekey::upstream::Injected;
use sidekey::upstream::outbound::Outbound;
use sidekey::vault::Vault;
use sidekey::vault::api_key::PlainKey;
use sidekey::vault::audit::Author;
use sidekey::vault::change::{ApiKeyChange, Change};
use sidekey::vault::database::Options;
use sidekey::vault::declared::{self, Declared};
use sidekey::vault::key::MasterKeySource;
use sidekey::wire::RequestHead;

/// How many connections are declared and used in turn.
const CONNECTIONS: usize = 1000;
/// How many requests a round has.
const REQUESTS: usize = 20_000;
/// How many rounds there are; their median is told, with the range beside it.
const ROUNDS: usize = 9;

/// The steps of a request, in their order, and the most allocations that each may make.
const STEPS: [(&str, u64); 10] = [
    ("head: parse and check", 0),
    ("tag: read target and tags", 0),
    ("caller: whose key it is (hit)", 0),
    ("route: the connection's facts (hit)", 0),
    ("admit: scope, environment, origin, rules, limits", 0),
    ("resolve: the injection (hit)", 0),
    ("path: path and query, as they go on the wire", 1),
    ("clean: hop-by-hop fields, tags", 0),
    // The header takes none, which `Bench::check` compares.
    ("inject: apply, and write the head", 0),
    // The one is the record itself: its line goes into the worker's buffer, and counting takes nothing.
    ("record: begin to end, access line, counters", 1),
];
/// The step of the injection.
const INJECT: usize = 8;
/// The step of the record. What it takes is the mean: a buffer that is handed over now and then grows anew.
const RECORD: usize = 9;

/// What is done with a step: it is timed, or its allocations are counted.
trait Meter {
    fn step<T>(&mut self, number: usize, step: impl FnOnce() -> T) -> T;
}

/// Nanoseconds of each step, added up.
#[derive(Default)]
struct Clock([u64; STEPS.len()]);

impl Meter for Clock {
    fn step<T>(&mut self, number: usize, step: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = std::hint::black_box(step());
        self.0[number] += began.elapsed().as_nanos() as u64;
        done
    }
}

/// Allocations of each step, added up.
#[derive(Default)]
struct Counter([u64; STEPS.len()]);

impl Meter for Counter {
    fn step<T>(&mut self, number: usize, step: impl FnOnce() -> T) -> T {
        let mut done = None;
        let info = allocation_counter::measure(|| done = Some(step()));
        self.0[number] += info.count_total;
        done.expect("the step was run")
    }
}

/// Nothing is looked at.
struct Nothing;

impl Meter for Nothing {
    fn step<T>(&mut self, _: usize, step: impl FnOnce() -> T) -> T {
        std::hint::black_box(step())
    }
}

/// How the connections authenticate.
#[derive(Clone, Copy)]
enum Auth {
    /// A header.
    Bearer,
    /// Nothing is injected.
    None,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Callers {
    /// Whoever reaches the listener.
    Keyless,
    /// The holder of an API key with a scope, rules and limits, in an organization with a ceiling.
    Keyed,
}

/// The rooms that a request goes through, and requests for them.
struct Bench {
    /// Where the vault is, for as long as it is needed.
    _folder: tempfile::TempDir,
    directory: Directory,
    credentials: Credentials,
    table: Local,
    scope: Scope,
    connection_headers: Names,
    last_host: LastHost,
    requests: Vec<Vec<u8>>,
    out: Vec<u8>,
    reporter: Rc<Reporter>,
}

impl Bench {
    /// All connections are declared, so nothing of them is waited for.
    async fn new(auth: Auth, callers: Callers) -> Result<Self, Box<dyn Error>> {
        let control = tokio::runtime::Handle::current();
        let folder = tempfile::tempdir()?;
        let master_key = MasterKeySource::File { path: folder.path().join("master.key"), any_mode: false };
        let (vault, _) = Vault::open(Options { path: folder.path().join("sidekey.vault"), master_key }).await?;
        let owner = vault.organization("default").await?.ok_or("the first organization")?.id;
        let key = match callers {
            Callers::Keyless => None,
            Callers::Keyed => Some(make_key(&vault, owner).await?),
        };
        let hour = Duration::from_secs(3600);
        let limits = Limits { entries: 10 * CONNECTIONS as u64, time_to_live: hour, time_to_idle: hour };
        vault.declare(declared(auth, owner)?, &HashSet::from([owner]));
        let directory = Directory::new(vault.clone(), limits, control.clone());
        let environment: EnvironmentName = "production".parse()?;
        let table = directory.table();
        if let Some(key) = &key {
            directory.holder(&table, key.as_bytes()).await?.ok_or("the key is known")?;
        }
        let reporter = reporter(&vault)?;
        Ok(Bench {
            _folder: folder,
            table,
            directory,
            credentials: Credentials::new(vault, Outbound::closed(), limits, control.clone()),
            scope: Scope {
                organization: owner,
                environment: environment.clone(),
                environments: vec![environment],
                connections: vec!["*".parse()?],
                customers: Vec::new(),
                connection: None,
                owner: None,
            },
            connection_headers: ["sidekey-connection", "x-connection-id", "connection-id"]
                .into_iter()
                .map(HeaderName::from_static)
                .collect(),
            last_host: LastHost::default(),
            requests: (0..CONNECTIONS).map(|number| request(number, key.as_deref())).collect(),
            out: Vec::with_capacity(64 * 1024),
            reporter,
        })
    }

    /// One request, step by step.
    fn request(&mut self, number: usize, meter: &mut impl Meter) -> Result<(), Box<dyn Error>> {
        let bytes = &self.requests[number % self.requests.len()];
        let (mut head, _) = meter
            .step(0, || {
                let parsed = RequestHead::parse(bytes);
                if let Ok(Some((head, _))) = &parsed {
                    head::check(head, &self.last_host).expect("a request that nothing is wrong with");
                }
                parsed
            })?
            .ok_or("a whole head")?;
        let (login, now) = (Login::default(), Instant::now());
        let (requested, tag) = meter.step(1, || {
            let mut requested = Requested::parse(&head)?;
            let tag = Tag::read(&head.fields, &mut requested, &login, &self.connection_headers)?;
            Ok::<_, sidekey::proxy::ProxyError>((requested, tag))
        })?;
        let reference = tag.connection.ok_or("a connection is named")?;
        let caller = meter.step(2, || match tag.key {
            None => Some(Caller::of(&self.scope)),
            Some(key) => {
                let shown = self.directory.known_holder(&self.table, key.bytes(), now)?;
                Some(Caller::with_key(&self.scope, shown))
            }
        });
        let caller = caller.ok_or("the key was verified before")?;
        let named = Named { organization: caller.organization(), customer: None, reference };
        let kept = meter.step(3, || self.directory.known(&self.table, named, now)).ok_or("the route is declared")??;
        let permit = meter.step(4, || {
            let environment = caller.environment(None).ok_or("an environment")?;
            let is_disguised = caller.has_rules() && head::is_disguised(&head.fields);
            let wanted =
                Wanted { environment, aim: Aim::Base, method: &head.method, rest: requested.rest, is_disguised };
            kept.admit(&caller, wanted, now, None).map_err(|denied| denied.to_string())
        })?;
        let injection = meter.step(5, || self.credentials.known(&kept, &permit)).ok_or("it is declared")??;
        let path = meter.step(6, || injection.path(&permit, requested.rest));
        drop(meter.step(7, || head::clean_request(&mut head, &self.connection_headers, false)));
        let admission = meter.step(INJECT, || {
            let admission = injection.apply(permit, &mut head.fields);
            self.out.clear();
            head.fields.render(&mut self.out);
            self.out.extend_from_slice(injection.lines());
            admission
        });
        meter.step(RECORD, || {
            let mut record = Record::begin(Rc::clone(&self.reporter), head.method.clone());
            record.admitted(admission);
            record.sent();
            record.answered(StatusCode::OK, None);
            record.passed_on(1024);
            record.completed();
        });
        drop(path);
        Ok(())
    }

    /// Uses every connection once, so that everything after it is a hit and every scratch area is there.
    fn warm(&mut self) -> Result<(), Box<dyn Error>> {
        (0..2 * CONNECTIONS).try_for_each(|number| self.request(number, &mut Clock::default()))
    }

    /// Nanoseconds of each step, the mean over one round.
    fn round(&mut self) -> Result<[f64; STEPS.len()], Box<dyn Error>> {
        let mut clock = Clock::default();
        (0..REQUESTS).try_for_each(|number| self.request(number, &mut clock))?;
        Ok(clock.0.map(|total| total as f64 / REQUESTS as f64))
    }

    /// The most allocations that each step made, over requests for every connection.
    fn allocations(&mut self) -> Result<[u64; STEPS.len()], Box<dyn Error>> {
        let (mut most, mut recorded) = ([0; STEPS.len()], 0);
        for number in 0..CONNECTIONS {
            let mut counter = Counter::default();
            self.request(number, &mut counter)?;
            most.iter_mut().zip(counter.0).for_each(|(most, made)| *most = made.max(*most));
            recorded += counter.0[RECORD];
        }
        // One more in fifty requests is a buffer that grows.
        let every = CONNECTIONS as u64;
        most[RECORD] = recorded.saturating_sub(every / 50).div_ceil(every);
        Ok(most)
    }
}

/// What a worker tells about its requests, with everything on; nobody reads the log.
fn reporter(vault: &Vault) -> Result<Rc<Reporter>, Box<dyn Error>> {
    let metrics = Arc::new(Metrics::for_codes(CODES));
    let (log, _) = AccessLog::start(Box::new(std::io::sink()), Format::Json, Arc::clone(&metrics))?;
    let (uses, taps) = (Uses::new(unbounded_channel().0), Taps::new(CancellationToken::new()));
    let revoking = Revoking::new(vault.clone());
    Ok(Rc::new(Reporter::new(log.buffer(), metrics, uses, revoking, taps, usize::MAX)))
}

/// An integration and its connections, each with a credential of its own and a limit that nobody reaches.
fn declared(auth: Auth, owner: OrganizationId) -> Result<Declared, Box<dyn Error>> {
    let auth = match auth {
        Auth::Bearer => json!([{ "method": "token", "type": "bearer" }]),
        Auth::None => json!([{ "method": "none", "type": "none" }]),
    };
    let document = json!({
        "slug": "api", "base_url": "https://api.example.test", "auth": auth,
        "limit": { "per_second": 1_000_000, "burst": 1_000_000 },
    });
    let integration =
        Integration::parse(&document, IntegrationId::derived("api")).map_err(|wrong| format!("{wrong:?}"))?;
    let mut declared = Declared::default();
    declared.add_integration(integration, declared::Author::Operator);
    for number in 0..CONNECTIONS {
        let key = key(number);
        let draft = json!({ "key": key, "integration": "api" });
        let problems = Problems::default();
        let draft = Reader::new(&draft, "", &problems).and_then(|reader| ConnectionDraft::read(&reader));
        let connection = draft.ok_or("a connection")?.into_connection(ConnectionId::derived(&key), owner);
        let token = SecretString::from(format!("ghp_{number:036}"));
        declared.add_credential(connection.id, "production".parse()?, vec![("token".parse()?, token)]);
        declared.add_connection(connection);
    }
    Ok(declared)
}

/// A key that may do what the requests want, and whose limits nobody reaches.
async fn make_key(vault: &Vault, organization: OrganizationId) -> Result<String, Box<dyn Error>> {
    let limits = json!({ "per_minute": 100_000_000, "per_hour": 100_000_000 });
    let document = json!({
        "name": "bench", "environment": "production", "limits": limits,
        "scope": { "connections": ["other", "connection-*"], "methods": ["POST", "GET"], "paths": ["/repos/*"] },
    });
    let problems = Problems::default();
    let reader = Reader::new(&document, "", &problems).ok_or("a document")?;
    let terms = Box::new(KeyTerms::read(&reader).ok_or("a key")?);
    let ceiling = ApiKeyChange::SetCeiling { organization, limits: terms.limits };
    let author = Author::system("bench");
    vault.commit(&author, Change::ApiKey(ceiling)).await?;
    let plain = PlainKey::generate()?;
    let text = exposed(plain.text());
    vault.commit(&author, Change::ApiKey(ApiKeyChange::Create { organization, plain, terms })).await?;
    Ok(text)
}

#[expect(clippy::disallowed_methods, reason = "a client knows its key")]
fn exposed(key: &SecretString) -> String {
    key.expose_secret().to_owned()
}

fn key(number: usize) -> String {
    format!("connection-{number:05}")
}

/// A call as an API client makes it.
fn request(number: usize, shown: Option<&str>) -> Vec<u8> {
    let key = key(number);
    let shown = shown.map(|shown| format!("Sidekey-Key: {shown}\r\n")).unwrap_or_default();
    format!(
        "GET /repos/octo/hello/issues?state=open&page=2 HTTP/1.1\r\nHost: 127.0.0.1:7878\r\n\
         User-Agent: octokit-rest.js/20.0.2 octokit-core.js/5.0.1 Node.js/20.11\r\n\
         Accept: application/vnd.github+json\r\nAccept-Encoding: gzip, deflate\r\nX-GitHub-Api-Version: 2022-11-28\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nAuthorization: Bearer forged\r\n\
         X-Connection-Id: {key}\r\n{shown}Connection: keep-alive\r\n\r\n"
    )
    .into_bytes()
}

/// Whether each step keeps to what it may take, and a header that is injected takes nothing at all: the same request
/// through a connection that injects none allocates as much.
fn check(with: &[u64], without: &[u64]) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((name, most), made) in STEPS.iter().zip(with) {
        if made > most {
            wrong.push(format!("`{name}` allocates {made} times, {most} at the most"));
        }
    }
    if with[INJECT] != without[INJECT] {
        wrong
            .push(format!("a header injection allocates: {} times with it, {} without", with[INJECT], without[INJECT]));
    }
    wrong
}

/// What two readings of the clock take, which every time has in it.
fn reading() -> f64 {
    let mut clock = Clock::default();
    (0..REQUESTS).for_each(|_| clock.step(0, || ()));
    clock.0[0] as f64 / REQUESTS as f64
}

fn times(bench: &mut Bench, allocations: &[u64]) -> Result<(), Box<dyn Error>> {
    let mut rounds = (0..ROUNDS).map(|_| bench.round()).collect::<Result<Vec<_>, _>>()?;
    let reading = reading();
    println!("{:<44} {:>8}  {:>15}  {:>11}", "step", "ns", "range", "allocations");
    let mut whole = 0.0;
    for (step, (name, _)) in STEPS.iter().enumerate() {
        rounds.sort_by(|one, other| one[step].total_cmp(&other[step]));
        let at = |round: usize| (rounds[round][step] - reading).max(0.0);
        let range = format!("{:.0} to {:.0}", at(0), at(ROUNDS - 1));
        whole += at(ROUNDS / 2);
        println!("{name:<44} {:>8.0}  {range:>15}  {:>11}", at(ROUNDS / 2), allocations[step]);
    }
    println!("{:<44} {whole:>8.0}  {:>15}  {:>11}", "all of them", "", allocations.iter().sum::<u64>());
    println!(
        "median of {ROUNDS} rounds of {REQUESTS} requests; {reading:.0} ns for the clock were taken off each step"
    );
    Ok(())
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let only_check = std::env::args().any(|argument| argument == "--check");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut bench = runtime.block_on(Bench::new(Auth::Bearer, Callers::Keyless))?;
    let mut plain = runtime.block_on(Bench::new(Auth::None, Callers::Keyless))?;
    let mut keyed = runtime.block_on(Bench::new(Auth::Bearer, Callers::Keyed))?;
    bench.warm()?;
    if let Some(number) = std::env::args().skip_while(|argument| argument != "--requests").nth(1) {
        // For a profiler: so many requests and nothing else, with a key where `--keyed` says so.
        keyed.warm()?;
        let is_keyed = std::env::args().any(|argument| argument == "--keyed");
        let stage = if is_keyed { &mut keyed } else { &mut bench };
        (0..number.parse()?).try_for_each(|number| stage.request(number, &mut Nothing))?;
        return Ok(ExitCode::SUCCESS);
    }
    plain.warm()?;
    keyed.warm()?;
    let (with, without, with_key) = (bench.allocations()?, plain.allocations()?, keyed.allocations()?);
    if !only_check {
        times(&mut bench, &with)?;
        println!("\nthe same with an API key that has a scope, rules and limits:");
        times(&mut keyed, &with_key)?;
    }
    let mut wrong = check(&with, &without);
    wrong.extend(check(&with_key, &without));
    wrong.iter().for_each(|wrong| eprintln!("{wrong}"));
    if wrong.is_empty() {
        println!("allocations: {} in a request, none of them for the injected header", with.iter().sum::<u64>());
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}
