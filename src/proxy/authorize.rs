//! Authorizing: everything that can refuse a request, in the order that CONTRACT gives, and then its credential.
//!
//! Almost always all of it is known, and is decided in one go: what is read of the head stays borrowed, and nothing of it
//! lies in a request's future. Only what must be waited for goes on in a future of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::error::ProxyError;
use super::gate::Gate;
use super::record::Record;
use super::tag::{Login, Presented, Tag};
use super::target::{Form, Requested};
use super::{Proxy, Request, head};
use crate::credentials::{Injection, ResolveError};
use crate::directory::route::Route;
use crate::directory::{Aim, Caller, Denied, LookupError, Named, Permit, Wanted};
use crate::model::id::Reference;
use crate::model::name::{CustomerName, EnvironmentName};
use crate::vault::VaultError;
use crate::wire::RequestHead;

/// A request that may go to its upstream.
pub(super) struct Authorized {
    /// Proof of it.
    pub(super) permit: Permit,
    /// The credential.
    pub(super) injection: Arc<Injection>,
    /// Path and query as they go on the wire.
    pub(super) path: Zeroizing<String>,
    /// A shorter deadline for the response head.
    pub(super) timeout: Option<Duration>,
}

/// How soon a request is authorized.
pub(super) enum Decided<F> {
    Now(Authorized),
    /// Once the vault has answered. It is boxed: a request's future is moved about, and what is rare shall not make it
    /// large.
    Later(Pin<Box<F>>),
}

/// What came of an attempt that does not wait.
enum Attempt {
    Authorized(Authorized),
    /// The vault must be asked. What is permitted already is kept, so that a limit is spent once.
    Waits(Option<Permit>),
}

/// What a request says, read in place.
pub(super) struct Said<'h> {
    head: &'h RequestHead,
    pub(super) tag: Tag<'h>,
    pub(super) requested: Requested<'h>,
}

/// What a request asks for, and who asks.
pub(super) struct Asked<'h> {
    pub(super) caller: Caller<'h>,
    pub(super) reference: Reference<'h>,
    pub(super) said: Said<'h>,
}

impl Proxy {
    /// Decides about a request, and waits for nothing.
    pub(super) fn authorize<'a>(
        &'a self,
        gate: &'a Gate,
        request: &'a mut Request,
        record: &'a mut Record,
    ) -> Result<Decided<impl Future<Output = Result<Authorized, ProxyError>>>, ProxyError> {
        if let Some(fault) = request.fault.take() {
            return Err(fault);
        }
        let head = &request.head;
        let mut login = Login::default();
        let said = self.read(gate, head, &mut login)?;
        record.said(said.tag.workflow);
        if !record.take_place() {
            return Err(ProxyError::Overloaded);
        }
        if said.tag.explain {
            return Ok(Decided::Later(Box::pin(self.authorize_later(gate, head, record, None))));
        }
        let Some(caller) = self.caller_now(gate, &said.tag, record.started()) else {
            return Ok(Decided::Later(Box::pin(self.authorize_later(gate, head, record, None))));
        };
        let asked = Asked::by(caller?, said, record)?;
        match self.authorize_now(&asked, record) {
            Ok(Attempt::Authorized(authorized)) => Ok(Decided::Now(authorized)),
            Ok(Attempt::Waits(overtaken)) => {
                Ok(Decided::Later(Box::pin(self.authorize_later(gate, head, record, overtaken))))
            }
            Err(error) => {
                if record.admission().is_none() {
                    record.asked(asked.reference);
                }
                Err(error)
            }
        }
    }

    /// Checks a request's head and reads what it says. `login` is where what must be decoded of it stays.
    pub(super) fn read<'h>(
        &self,
        gate: &Gate,
        head: &'h RequestHead,
        login: &'h mut Login,
    ) -> Result<Said<'h>, ProxyError> {
        let host = head::check(head, &self.last_host)?;
        let mut requested = Requested::parse(head)?;
        *login = Login::read(&head.fields, &requested.form)?;
        let tag = Tag::read(&head.fields, &mut requested, login, &self.shared.settings.connection_headers)?;
        gate.check_browser(&head.fields, host, &requested.form)?;
        Ok(Said { head, tag, requested })
    }

    /// Who asks, if that can be told at once: no key was shown, or one that this worker has verified before.
    fn caller_now<'g>(&self, gate: &'g Gate, tag: &Tag<'_>, now: Instant) -> Option<Result<Caller<'g>, ProxyError>> {
        let Some(presented) = tag.key else { return Some(gate.keyless()) };
        let shown = self.shared.directory.known_holder(&self.known, presented.bytes(), now)?;
        Some(gate.holder(shown))
    }

    /// The same, waiting for the vault.
    pub(super) async fn caller<'g>(&self, gate: &'g Gate, tag: &Tag<'_>) -> Result<Caller<'g>, ProxyError> {
        if let Some(known) = self.caller_now(gate, tag, Instant::now()) {
            return known;
        }
        let presented = tag.key.map_or(&[][..], Presented::bytes);
        let shown = self.shared.directory.holder(&self.known, presented).await.map_err(not_found)?;
        gate.holder(shown.ok_or(ProxyError::KeyUnknown)?)
    }

    /// Admits a request and takes its credential, if both can be told at once.
    fn authorize_now(&self, asked: &Asked<'_>, record: &mut Record) -> Result<Attempt, ProxyError> {
        let now = record.started();
        let (named, environment) = asked.within_scope()?;
        let Some(found) = self.shared.directory.known(&self.known, named, now) else {
            return Ok(Attempt::Waits(None));
        };
        let kept = found.map_err(not_found)?;
        let permit = asked.admit(&kept, environment, now, None)?;
        match self.shared.credentials.known(&kept, &permit) {
            Some(Ok(injection)) => Ok(Attempt::Authorized(asked.authorized(permit, injection))),
            None | Some(Err(ResolveError::Overtaken)) => Ok(Attempt::Waits(Some(permit))),
            Some(Err(error)) => {
                record.admitted(permit.spend());
                Err(unresolved(error))
            }
        }
    }

    /// The same, waiting for the vault. Where the connection changes in between, the request is admitted again: a
    /// credential is never used with the facts of another revision.
    async fn authorize_later(
        &self,
        gate: &Gate,
        head: &RequestHead,
        record: &mut Record,
        mut overtaken: Option<Permit>,
    ) -> Result<Authorized, ProxyError> {
        let mut login = Login::default();
        let said = self.read(gate, head, &mut login)?;
        if said.tag.explain {
            return Err(ProxyError::Explained(Box::pin(self.explain(gate, head, record)).await?.into()));
        }
        let caller = self.caller(gate, &said.tag).await?;
        let mut asked = Asked::by(caller, said, record)?;
        record.asked(asked.reference);
        for _ in 0..4 {
            let (named, environment) = asked.within_scope()?;
            let found = self.shared.directory.route(&self.known, named, Instant::now()).await;
            let kept = found.map_err(not_found)?;
            if !asked.is_key_current() {
                // What its holder may do has changed meanwhile, or that it is one at all.
                asked.caller = self.caller(gate, &asked.said.tag).await?;
                record.shown(asked.caller.shown());
                continue;
            }
            let permit = asked.admit(&kept, environment, Instant::now(), overtaken.take())?;
            record.admitted(permit.admission().clone());
            match self.shared.credentials.resolve(&kept, &permit).await {
                Ok(injection) => return Ok(asked.authorized(permit, injection)),
                Err(ResolveError::Overtaken) => overtaken = Some(permit),
                Err(error) => return Err(unresolved(error)),
            }
        }
        Err(ProxyError::VaultUnavailable)
    }
}

impl<'h> Asked<'h> {
    /// What a caller asks for. Who that is is noted whatever becomes of the request.
    pub(super) fn by(caller: Caller<'h>, said: Said<'h>, record: &mut Record) -> Result<Self, ProxyError> {
        record.shown(caller.shown());
        let reference = said.tag.connection.or_else(|| caller.connection());
        Ok(Asked { caller, reference: reference.ok_or(ProxyError::ConnectionMissing)?, said })
    }

    /// Whether the key is still what it was when it was looked up; something was waited for since.
    pub(super) fn is_key_current(&self) -> bool {
        self.caller.shown().is_none_or(|shown| shown.is_current())
    }

    /// The name to look up, and the environment: what the caller's scope allows of what was asked for.
    pub(super) fn within_scope(&self) -> Result<(Named<'_>, EnvironmentName), ProxyError> {
        let Asked { caller, reference, said: Said { tag, .. } } = self;
        let environment = caller.environment(tag.environment.as_ref()).ok_or(ProxyError::EnvironmentNotPermitted)?;
        if tag.customer.as_ref().is_some_and(|customer| !caller.covers_customer(customer)) {
            return Err(ProxyError::ConnectionUnknown);
        }
        let customer = tag.customer.as_ref().map(CustomerName::as_str);
        Ok((Named { organization: caller.organization(), customer, reference: *reference }, environment))
    }

    /// What the request wants to do with its connection.
    pub(super) fn wanted(&self, environment: EnvironmentName) -> Wanted<'_> {
        let Said { head, tag, requested } = &self.said;
        let aim = match (&requested.form, &tag.upstream) {
            (Form::Absolute(origin), _) => Aim::Forward { origin: origin.clone() },
            (Form::Origin, Some(origin)) => Aim::Origin(origin.clone()),
            (Form::Origin, None) => Aim::Base,
        };
        let is_disguised = self.caller.has_rules() && head::is_disguised(&head.fields);
        Wanted { environment, aim, method: &head.method, rest: requested.rest, is_disguised }
    }

    /// Everything that can refuse the request once its connection is known, before a credential is opened.
    fn admit(
        &self,
        route: &Arc<Route>,
        environment: EnvironmentName,
        now: Instant,
        overtaken: Option<Permit>,
    ) -> Result<Permit, ProxyError> {
        route.admit(&self.caller, self.wanted(environment), now, overtaken).map_err(denied)
    }

    fn authorized(&self, permit: Permit, injection: Arc<Injection>) -> Authorized {
        let path = injection.path(&permit, self.said.requested.rest);
        Authorized { permit, injection, path, timeout: self.said.tag.timeout }
    }
}

pub(super) fn denied(denied: Denied) -> ProxyError {
    match denied {
        Denied::Rule => ProxyError::NotPermitted,
        Denied::OutOfScope => ProxyError::ConnectionUnknown,
        Denied::Host => ProxyError::HostNotAllowed,
        Denied::PathCredential => {
            ProxyError::TargetInvalid("this connection's credential is part of its base path: send the path below it")
        }
        Denied::Limited(exceeded) => ProxyError::RateLimited(exceeded),
    }
}

pub(super) fn not_found(error: LookupError) -> ProxyError {
    match error {
        LookupError::Unknown => ProxyError::ConnectionUnknown,
        LookupError::Broken(why) => ProxyError::Broken(why),
        LookupError::Vault(error) => unavailable(&error),
    }
}

pub(super) fn unresolved(error: ResolveError) -> ProxyError {
    match error {
        ResolveError::Missing(missing) => ProxyError::Missing(missing),
        ResolveError::Vault(error) => unavailable(&error),
        ResolveError::Overtaken => ProxyError::VaultUnavailable,
    }
}

fn unavailable(error: &VaultError) -> ProxyError {
    tracing::error!(%error, "the vault could not be read");
    ProxyError::VaultUnavailable
}
