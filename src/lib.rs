//! Sidekey is a proxy that holds credentials. A program names a *connection*; Sidekey looks up where that connection
//! goes and whether this caller may use it, puts its credential into the request, and streams the answer back. The
//! program never sees the credential.
//!
//! These pages are the architecture: where things are, how a request and a change travel, which rules keep the house
//! standing, and what is absent on purpose. `README.md` says what it does for its users.
//!
//! # Two planes, one direction
//!
//! The **control plane** ([`admin`], the command line, the declared part of the configuration) writes the [`vault`]. The
//! **data plane** ([`proxy`] and what it calls) only reads it, but for one thing: tokens (below). So a request can never
//! change what the next one is allowed. The two meet in one place: a change moves the *revision* of the object it
//! changed, and what was cached from that object is not used again.
//!
//! They also run apart. The calling thread has a runtime of its own for the vault, the admin port, signals and the watch
//! over files; one worker thread for each core has a current-thread runtime, its own listening sockets (`SO_REUSEPORT`)
//! and its own pool of upstream connections. Work never moves between workers, so the types of the hot path need not be
//! `Send`, and a slow admin request delays nobody's call. Their timers are kept by one thread more ([`clock`]): a runtime
//! that keeps timers looks at its clock whenever it waits, and a worker's timers hardly ever move.
//!
//! # The tree
//!
//! ```text
//! main.rs         parses the command line and chooses the exit code
//! proxy           DATA PLANE: `Proxy::handle`, the life of a request; read this first
//!   tag, target     what the request names, taken out of it; the part that is forwarded byte for byte
//!   gate            who may ask at this listener: web pages, API keys, the caller's scope
//!   head, body      what belongs to one hop, what is malformed; bodies as they stream, or held to be filled
//!   http1, http2    the two wires that requests come in on; one life of a request above both
//!   tunnel          WebSockets
//!   trial, explain   a request that an administrator tries; what would become of one, and why
//!   usage           what requests used, counted by each worker and written far from them
//!   revoked         ending what is open when its key, connection or credential is revoked
//!   tap             lines of requests for administrators who watch; one number tells that nobody does
//!   record, error   the access line of a request; every way to stop it, and what its caller is told
//! directory       facts: name -> `Route`; `Route::admit` -> `Permit`, decided without waiting
//!   caller          who asks: the bounds of a listener, and within them those of the key that was shown
//!   keys            whose key a text is: a fingerprint in the worker's table, or a digest, compared once
//!   rate            how many requests a connection takes, a key or an organization makes: one number for each, no lock
//!   table           a worker's own: under each name a route, and beside it what a room above keeps for it
//!   cache           what workers share of what the vault was asked for: bounded, revision-checked, loaded once
//! credentials     secrets: `Permit` -> `Injection`, rendered once, cached like facts
//!   injection       a credential on the wire: headers, query pairs, cookies, body fields, path parts
//!   fields          what the templates of an auth method may ask for, references to secrets resolved once
//!   oauth           the access token that a credential stands for now; authorization servers asked for another
//!                   by one at a time, and what came of it kept for whoever is next
//!   held            what a worker holds beside a route: the injection of each environment
//!   apply, body     putting it in, so that it stands there exactly once
//! upstream        `send`: pooled HTTP/1.1 and HTTP/2 over TLS, each step with a deadline
//!   http1, http2    one exchange, driven by whoever waits for its answer; a stream of a connection that hyper drives
//!   pool            connections that are kept, and who waits for one: the dialled or the returned one, whichever is first
//!   guard           which addresses may be dialled, asked about the very address that is dialled
//!   resolve         the addresses of a name; one question about it at a time
//!   outbound        requests of Sidekey's own, from any thread by the same guarded way
//! wire            HTTP/1.1 for both ends: heads parsed once and strictly, bodies framed anew, streams and scratch areas
//!   source          a body, whichever protocol it comes in on
//! vault           the encrypted store: open, read, `commit`; hides database and cipher
//!   token, password what is shown once is stored as a digest; argon2id with a key of the vault
//!   seal, key       AES-256-GCM bound to a place; master key -> data key of an organization -> value
//!   audit           who did what: events chained by HMAC for each organization; how often credentials were used
//!   change, query   everything that may be written, each with its audit event; everything that may be read
//!   answer          what was answered to a request that may be sent again, written together with what it did
//!   derived         versions of what is written in many places
//!   usage           when connections were used, by which workflows, and that an upstream refused a credential
//!   revision        how a cache knows that what it holds is still true
//!   revoked         what may not be used any more, told to whoever has it open
//!   declared        what stands in files: above the vault's, never written to it
//!   checkpoint      the log of what was committed is moved into the file aside
//!   create, rekey   the first start and a new master key, each survivable at any step
//! admin           CONTROL PLANE: the router of the admin port, every endpoint on one page
//!   actor, people   who asks: by an API key or signed in; how people come in, and how often they may try
//!   condition       `If-Match`; a change that was judged by looking is judged anew where what it looked at has moved
//!   tap             watching requests as they pass, for as long as whoever watches may
//!   oidc            signing people in at an identity provider
//!   authorize       signing connections in at their providers
//!   underway        what is begun here, goes on at another site's page, and is ended by the same browser
//! config          `sidekey.toml` and the environment -> `Config`, valid by construction
//! server          builds every room, knows everyone; workers, listeners, reload, drain, the socket that `rekey` and `admin-link` ask
//!   strict          heads of the admin port, judged by the proxy port's parser before hyper reads them
//! cli             one file for each verb
//!   access, client  which server is asked, with whose key; JSON over HTTP, the only way into a running server
//!   foreseen        what a dry run shows, judged by the model's own code
//!   entered         secrets somebody enters: a prompt, stdin or a file, never an argument
//! model           the vocabulary: plain types, no I/O; parsed at the edge and believed inside
//! tls             rustls, in both directions
//! clock           every timer; those of the workers are kept by a thread of their own
//! telemetry       log format, access lines, counters
//!   access_log      a buffer of each worker; what is the same in every line about a connection is rendered once
//!   metrics         cells of each worker, added up when they are asked for
//!   request_id      ULIDs that are counted on, so that none is asked for
//! ```
//!
//! # The life of a request
//!
//! [`proxy::Proxy::handle`] cannot fail; around it stands one closed error enum, and a panic costs one request.
//!
//! It is the same whichever wire a request came in on. HTTP/1.1 is read and written by `wire`: one task for a client's
//! connection drives the upstream's socket too, and neither holds a buffer while it is idle. HTTP/2 is hyper's, on both
//! sides. A request becomes a [`wire::RequestHead`] and, if it has one, a body that is a [`wire::Source`]; an answer becomes
//! a status, [`wire::Fields`] and a source; so every pair of protocols meets in the middle.
//!
//! 1. **Check.** What is ambiguous although it could be parsed (two framings, an odd `Host`, `TRACE`) is refused.
//! 2. **Tag.** The connection, environment and customer that the request names, and the caller's key, are read and
//!    *taken out of the head*: nothing that was a tag can reach an upstream.
//! 3. **Gate.** Web pages are kept out; the listener says whose connections may be used, and a key within that.
//! 4. **Route.** The directory finds the connection's facts. A hit in the worker's own table waits for nothing, nor does
//!    what is declared: that is in memory already, and the worker makes route and injection of it by itself. Before the
//!    proxy port opens each worker makes as many of them as fill half of its table.
//! 5. **Admit.** Scope, environment, origin, the key's rules, and last all limits at once: synchronous, and all that can
//!    refuse comes before a secret is opened. The proof is a [`directory::Permit`]: made here and nowhere else, not `Clone`.
//! 6. **Clean.** Hop-by-hop fields, the caller's `Authorization`, everything that tells the way goes out.
//! 7. **Resolve.** The credential as it looks on the wire, from the cache, or opened, its `@@SECRET:…@@` references
//!    resolved and its templates rendered, once. If that cannot be done, nothing is sent.
//! 8. **Apply.** Last, so that nothing in the request can remove, duplicate or shadow it. The permit is spent.
//! 9. **Send.** Over a pooled connection whose address passed the guard. Bodies stream in both directions, with
//!    back-pressure; a body is held in memory only where the credential goes into it, and then up to a bound.
//! 10. **Answer.** The upstream's head is cleaned, an injected value is taken out of the headers that point somewhere, the
//!     body passes as it is. The access line is written when the body ends, however it ends.
//!
//! # The life of a change
//!
//! A document is parsed into a type that cannot be wrong; an administrator's key says who asks; `commit` takes one of the
//! closed set of changes ([`vault::change::Change`]). Row, sealed values and audit event go into one transaction. Then
//! the revision of what changed moves, and only then is the change answered: it holds for the very next request. The
//! work runs in a task of its own, so whoever asked may hang up.
//!
//! What is **declared** in `sidekey.toml` takes another way to the same place: a reload reads the file and the sources of
//! its credentials, and either all of it replaces what was declared before, or none of it and the log says why.
//!
//! # The cache can be stale, never wrong
//!
//! Before something is read from the vault, a *stamp* of the revisions of all that will be read is taken. It is cached with
//! what was loaded, and a hit is used only while every revision is still the stamped one. A load that began before a
//! change can so never bring the old state back, and a change cools nothing but what was read from the changed object.
//! All that is declared is one such object: it is replaced as a whole, and is made again in microseconds.
//!
//! A worker finds a route and its injection with one look-up in a table of its own, and one comparison tells that
//! nothing at all has changed since it last looked. Nothing there, or on the way to it, grows with what is stored and
//! not used.
//!
//! # The one thing the data plane writes
//!
//! An access token ends, and a refresh token may be good for one use. So the load of a credential may ask its
//! authorization server for another: in a task of its own on the control runtime, one at a time for each credential, and
//! what comes back is stored, in a transaction with its audit event and for the version that was read, before it is used.
//! Where the vault cannot be written it waits in memory, and nothing else is asked until it is stored.
//!
//! # The rank rule
//!
//! ```text
//! 10 main   9 cli   8 server   7 config   6 admin   5 proxy   4 credentials   3 directory   2 vault, upstream
//! 1 wire    0 model, telemetry, tls
//! ```
//!
//! A module uses only modules of lower ranks, and itself. So `vault` and `upstream` never see each other, nor do `model`,
//! `telemetry` and `tls`; `proxy` does not know that there is an admin; and `config`, which gives settings to the rooms,
//! knows of them only the declared things that it hands to the vault and the format of log lines. `tls` is for `wire`,
//! `upstream`, `server` and `cli`.
//!
//! Foreign crates of note have **one door** each: only `vault` knows the database and the cipher, only `tls` knows rustls,
//! only `admin` knows axum (and the port that serves its router) and utoipa, only `directory::cache` knows moka, only `cli` clap,
//! only `config` TOML, only `telemetry` the formats of logs and metrics, only `admin::mail` lettre, only `admin::oidc` oauth2
//! and jsonwebtoken, only `vault::password` argon2. A secret leaves its wrapper in `vault::seal` and
//! `credentials::injection`, and where a declared value is checked or compared. `tests/it/architecture.rs` reads the
//! sources and enforces all of this.
//!
//! # What holds, and what is absent on purpose
//!
//! * **No request without its credential.** A credential that is missing, damaged or refers to a missing secret refuses the
//!   request; no other environment's is used in its place.
//! * **No credential elsewhere.** It is bound to its integration's origins, TLS is verified, and the address that is dialled
//!   is the address that was judged. Redirects are returned, never followed.
//! * **No state between requests.** No cookie jar, no response cache, nothing remembered about a client's connection.
//! * **No second attempt** of its own, but for a pooled connection that turned out to be dead before anything happened.
//! * **No template on the hot path**, and none in what a caller sends: templates stand in stored configuration only.
//! * **No `Via`, no `Forwarded`.** The upstream is told nothing of who asked, or through what.
//! * **No environment variable is read behind one's back**: [`config::Environment`] reads them and nobody else does.
//!   `HTTP_PROXY` means nothing here.
//! * **No key is made beside a vault that has one.** A lost master key is told, not replaced.
//! * **No `unsafe`** in this crate.
//!
//! The modules below are in reading order.

pub mod proxy;

pub mod directory;

pub mod credentials;

pub mod upstream;

pub mod wire;

pub mod vault;

pub mod admin;

pub mod config;

pub mod server;

pub mod cli;

pub mod model;

pub mod tls;

pub mod telemetry;

pub mod clock;
