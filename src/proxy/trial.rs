//! Trials: a request that a person asks for to see whether a connection works, through the very path that every other
//! request takes.
//!
//! A [`Bench`] makes them one worker's data plane away from where they are asked for: the types of the hot path belong to
//! one thread, and whoever asks may be on any.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::body::{ClientBody, ClientError};
use super::explain::Explanation;
use super::gate::Gate;
use super::record::Record;
use super::{Proxy, ProxyError, Relayed, Request};
use crate::clock;
use crate::credentials::Injection;
use crate::model::id::ApiKeyId;
use crate::upstream::{UpstreamBody, UpstreamError};
use crate::wire::{Chunk, Fields, RequestHead, Size, Source};

/// How many bytes of an answer are shown.
pub const MOST_SHOWN: usize = 2048;
/// How many are read: more, so that a secret that lies over the end of what is shown is found as a whole.
const MOST_READ: usize = 64 * 1024;
/// How many trials are under way at once; more wait.
const AT_ONCE: usize = 16;
/// How long a trial may take, whatever the deadlines of its integration are.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request to try.
#[derive(Debug)]
pub struct Trial {
    /// In whose name: what its scope does not cover is refused like any request.
    pub gate: Gate,
    /// The key that is supposed to be shown there; of an explanation only.
    pub key: Option<ApiKeyId>,
    /// Its method.
    pub method: Method,
    /// Path and query below the base URL.
    pub path: String,
    /// Its fields, tags among them.
    pub fields: Vec<(&'static str, String)>,
    /// Its body, where it has one.
    pub body: Option<Bytes>,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Tried {
    /// As it stands in the access log.
    pub request_id: String,
    /// How long it took until the head of the answer was there, or the refusal.
    pub latency: Duration,
    /// What was said.
    pub outcome: Outcome,
}

/// How a trial ended.
#[derive(Debug)]
pub enum Outcome {
    /// The upstream answered.
    Answered {
        /// With this status.
        status: u16,
        /// And this type of body.
        content_type: Option<String>,
        /// The beginning of the body, masked; no more than `MOST_READ` bytes of it were read.
        body: Vec<u8>,
        /// Whether there was more of it.
        is_cut: bool,
    },
    /// It did not come so far.
    Refused {
        /// As a caller is told.
        code: &'static str,
        /// The same for people.
        detail: String,
    },
}

/// Where trials are asked for.
#[derive(Clone, Debug)]
pub struct Bench(mpsc::Sender<Asked>);

/// The trials that a [`Bench`] was asked for.
#[derive(Debug)]
pub struct Trials(mpsc::Receiver<Asked>);

/// What a bench is asked for, and where the result goes.
#[derive(Debug)]
enum Asked {
    Attempt(Trial, oneshot::Sender<Tried>),
    Explanation(Trial, oneshot::Sender<Explanation>),
}

impl Bench {
    /// A bench, and the trials that are asked for there.
    pub fn new() -> (Self, Trials) {
        let (sender, receiver) = mpsc::channel(AT_ONCE);
        (Bench(sender), Trials(receiver))
    }

    /// Makes a trial; `None` where the server is stopping. Whoever drops the future gives the trial up.
    pub async fn attempt(&self, trial: Trial) -> Option<Tried> {
        let (answer, tried) = oneshot::channel();
        self.0.send(Asked::Attempt(trial, answer)).await.ok()?;
        tried.await.ok()
    }

    /// Tells what would become of a request; nothing is sent. `None` where the server is stopping.
    pub async fn explain(&self, trial: Trial) -> Option<Explanation> {
        let (answer, explained) = oneshot::channel();
        self.0.send(Asked::Explanation(trial, answer)).await.ok()?;
        explained.await.ok()
    }
}

impl Trials {
    /// Makes every trial that is asked for, for as long as it is polled; call it in a local task.
    pub async fn make(mut self, proxy: Rc<Proxy>) {
        let mut under_way = JoinSet::new();
        loop {
            let is_free = under_way.len() < AT_ONCE;
            tokio::select! {
                asked = self.0.recv(), if is_free => match asked {
                    Some(asked) => drop(under_way.spawn_local(make(Rc::clone(&proxy), asked))),
                    None => return,
                },
                Some(_) = under_way.join_next() => {}
            }
        }
    }
}

async fn make(proxy: Rc<Proxy>, asked: Asked) {
    match asked {
        Asked::Attempt(trial, answer) => give(answer, proxy.attempt(trial)).await,
        Asked::Explanation(trial, answer) => give(answer, proxy.preview(trial)).await,
    }
}

/// Gives a result to whoever waits for it, for as long as they do.
async fn give<T>(mut answer: oneshot::Sender<T>, result: impl Future<Output = T>) {
    tokio::select! {
        result = result => drop(answer.send(result)),
        () = answer.closed() => {}
    }
}

impl Proxy {
    /// Explains a request.
    async fn preview(&self, trial: Trial) -> Explanation {
        let Trial { gate, key, method, path, fields, body } = trial;
        let mut record = Record::begin(Rc::clone(&self.reporter), method.clone());
        let request = request(method, &path, &fields, body);
        let explained = match key {
            Some(key) => self.explain_key(&gate, key, &request.head, &mut record).await,
            None => self.explain(&gate, &request.head, &mut record).await,
        };
        record.answered(StatusCode::OK, None);
        record.completed();
        explained.unwrap_or_else(|error| Explanation::of_refusal(&request.head, &error))
    }

    /// Tries a request, and looks into its answer.
    pub async fn attempt(&self, trial: Trial) -> Tried {
        let Trial { gate, method, path, fields, body, .. } = trial;
        let mut record = Record::begin(Rc::clone(&self.reporter), method.clone());
        let request_id = record.request_id().to_owned();
        let began = Instant::now();
        let mut request = request(method, &path, &fields, body);
        let relayed = clock::timeout(PATIENCE, self.relay(&gate, &mut request, &mut record)).await;
        let latency = began.elapsed();
        let outcome = match relayed {
            Ok(Ok(relayed)) => look(relayed, &mut record).await,
            Ok(Err(error)) => refused(&error, &mut record),
            Err(_) => refused(&ProxyError::Upstream(UpstreamError::ResponseTimeout), &mut record),
        };
        Tried { request_id, latency, outcome }
    }
}

fn refused(error: &ProxyError, record: &mut Record) -> Outcome {
    record.answered(error.status(), Some(error.code()));
    record.completed();
    Outcome::Refused { code: error.code(), detail: error.to_string() }
}

/// A request as if it had come in on a wire.
fn request(method: Method, path: &str, fields: &[(&'static str, String)], body: Option<Bytes>) -> Request {
    let mut list = Fields::default();
    list.push(b"host", b"localhost");
    for (name, value) in fields {
        list.push(name.as_bytes(), value.as_bytes());
    }
    let length = body.as_ref().map(|body| body.len().to_string());
    if let Some(length) = &length {
        list.push(b"content-length", length.as_bytes());
    }
    let target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let head = RequestHead::new(method, Version::HTTP_11, target.as_bytes(), None, list);
    let body = body.map(|body| Box::new(Whole(body)) as ClientBody);
    Request { head, body, fault: None }
}

/// A body that is all there.
struct Whole(Bytes);

impl Source for Whole {
    type Error = ClientError;

    fn size(&self) -> Size {
        Size::Exact(self.0.len() as u64)
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), ClientError>> {
        let all = std::mem::take(&mut self.0);
        if !all.is_empty() {
            take(cx, Chunk::Data(&all));
        }
        take(cx, Chunk::End(None));
        Poll::Ready(Ok(()))
    }
}

async fn look(relayed: Relayed, record: &mut Record) -> Outcome {
    let Relayed { answer, injection, .. } = relayed;
    let status = answer.head.status;
    record.answered(status, None);
    let content_type = answer.head.fields.values(crate::model::header::Known::ContentType).next();
    let content_type = content_type.map(|value| masked(&injection, value));
    let (body, is_cut) = clock::timeout(PATIENCE, beginning(answer.body, record)).await.unwrap_or_default();
    record.completed();
    Outcome::Answered { status: status.as_u16(), content_type, body: injection.mask(&body), is_cut }
}

fn masked(injection: &Injection, value: &[u8]) -> String {
    String::from_utf8_lossy(&injection.mask(value)).into_owned()
}

/// The beginning of a body, and whether there was more of it.
async fn beginning(mut body: UpstreamBody, record: &mut Record) -> (Vec<u8>, bool) {
    let (mut read, mut ended, mut failed) = (Vec::new(), false, false);
    while !ended && !failed && read.len() <= MOST_READ {
        failed = std::future::poll_fn(|cx| {
            let mut take = |_: &mut Context<'_>, chunk: Chunk<'_>| match chunk {
                Chunk::Data(data) => {
                    record.passed_on(data.len());
                    // Whoever takes must take everything, and keeps no more than it wants.
                    read.extend_from_slice(&data[..data.len().min((MOST_READ + 1).saturating_sub(read.len()))]);
                }
                Chunk::End(_) => ended = true,
            };
            match body.poll_chunks(cx, &mut take) {
                Poll::Ready(outcome) => Poll::Ready(outcome.is_err()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }
    let is_cut = !ended || read.len() > MOST_READ;
    read.truncate(MOST_READ);
    (read, is_cut)
}
