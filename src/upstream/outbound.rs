//! Requests that Sidekey sends by itself: to identity providers and authorization servers.
//!
//! They take the way of every other request: the address that is dialled is judged, TLS is verified, redirects are not
//! followed. Beyond that the whole exchange has one deadline, and what is answered is bounded. The way to upstreams
//! lives on one thread; this is how code that may run anywhere asks for it.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::{BoxError, Deadlines, Exchange, Outgoing, Settings, Upstream, UpstreamError};
use crate::clock;
use crate::model::origin::{Origin, Scheme};
use crate::wire::Fields;
use crate::wire::source::{AsBody, FromBody};

/// For everything: from the look-up of the name to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer; a document of keys is a hundredth of it.
const LARGEST: usize = 512 * 1024;
/// How many requests are handed over before one of them is begun.
const WAITING: usize = 32;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Its address is none that Sidekey sends secrets to.
    #[error("not an https address: {0}")]
    Address(String),
    /// It could not be sent, or the answer not be read.
    #[error("the request failed")]
    Upstream(#[from] UpstreamError),
    /// It took too long.
    #[error("no whole answer within {} seconds", DEADLINE.as_secs())]
    Deadline,
    /// The answer is too large.
    #[error("the answer is larger than {} KiB", LARGEST / 1024)]
    TooLarge,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
}

type Answered = Result<Response<Vec<u8>>, OutboundError>;

/// Sends requests, from any thread.
#[derive(Clone, Debug)]
pub struct Outbound(mpsc::Sender<(Request<Vec<u8>>, oneshot::Sender<Answered>)>);

impl Outbound {
    /// Starts the task that sends; call it on a local runtime, with which it ends.
    pub fn start(settings: Arc<Settings>) -> Self {
        let (sender, mut waiting) = mpsc::channel::<(Request<Vec<u8>>, oneshot::Sender<Answered>)>(WAITING);
        let deadlines = Deadlines::from(&*settings);
        let upstream = Rc::new(Upstream::new(settings));
        tokio::task::spawn_local(async move {
            while let Some((request, answer)) = waiting.recv().await {
                let upstream = Rc::clone(&upstream);
                tokio::task::spawn_local(async move {
                    let sent = clock::timeout(DEADLINE, exchange(&upstream, request, deadlines)).await;
                    // Whoever asked may be gone.
                    let _gone = answer.send(sent.unwrap_or(Err(OutboundError::Deadline)));
                });
            }
        });
        Outbound(sender)
    }

    /// One that leads nowhere, for who asks nobody.
    pub fn closed() -> Self {
        Outbound(mpsc::channel(1).0)
    }

    /// Sends a request to an https address and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Answered {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.0.send((request, answer)).await.map_err(|_| OutboundError::Stopped)?;
            answered.await.map_err(|_| OutboundError::Stopped)?
        };
        clock::timeout(DEADLINE, exchange).await.unwrap_or(Err(OutboundError::Deadline))
    }
}

async fn exchange(upstream: &Upstream, request: Request<Vec<u8>>, deadlines: Deadlines) -> Answered {
    let (parts, body) = request.into_parts();
    let wrong = || OutboundError::Address(parts.uri.authority().map_or_else(String::new, ToString::to_string));
    let authority = parts.uri.authority().filter(|_| parts.uri.scheme_str() == Some("https")).ok_or_else(wrong)?;
    let origin = Origin::from_authority(Scheme::Https, authority.as_str()).map_err(|_| wrong())?;
    let body = (!body.is_empty()).then(|| {
        let never = |never: Infallible| -> BoxError { match never {} };
        Box::new(FromBody::new(Full::new(Bytes::from(body)).map_err(never))) as _
    });
    let mut outgoing = Outgoing {
        method: parts.method,
        path: Zeroizing::new(parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()),
        fields: Fields::from_map(&parts.headers),
        injected: Arc::new(()),
        body,
    };
    let answer = upstream.send(&origin, &mut outgoing, &deadlines, &mut Exchange::default()).await?;
    let mut response = Response::builder().status(answer.head.status);
    if let Some(headers) = response.headers_mut() {
        *headers = answer.head.fields.to_map();
    }
    let mut body = AsBody::new(answer.body);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await.transpose()? {
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > LARGEST {
                return Err(OutboundError::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
    }
    response.body(whole).map_err(|_| OutboundError::Stopped)
}
