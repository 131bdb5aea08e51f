//! Explaining: what would become of a request, and why; nothing is sent, nothing is counted.
//!
//! A request is explained in the order in which it would be decided, with the functions that decide it. A caller whose
//! scope does not cover a connection is told of it what it is told of one that does not exist.

use std::time::Instant;

use serde::Serialize;

use super::Proxy;
use super::authorize::{Asked, not_found, unresolved};
use super::error::ProxyError;
use super::gate::Gate;
use super::record::Record;
use super::tag::Login;
use crate::credentials::outline::{Outline, Part};
use crate::directory::{Allowance, Preview};
use crate::model::id::{ApiKeyId, ConnectionId};
use crate::model::moment::Moment;
use crate::model::name::{EnvironmentName, Key};
use crate::wire::RequestHead;

/// What would become of a request.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    /// Whether it would be sent.
    pub permitted: bool,
    /// Who asks: the id of an API key, or `local`.
    pub caller: String,
    /// Its method.
    pub method: String,
    /// Where it would go, masked.
    pub url: Option<String>,
    /// Which connection's credential it would carry.
    pub connection: Option<ConnectionId>,
    /// The key of that connection.
    pub key: Option<Key>,
    /// In which environment.
    pub environment: Option<EnvironmentName>,
    /// What decided, in this order.
    pub decisions: Vec<Decision>,
    /// Why it would be refused.
    pub refusal: Option<Refusal>,
    /// What would be injected, masked.
    pub injections: Vec<Injected>,
    /// The limits that hold, and what is left of each.
    pub limits: Vec<Limit>,
    /// When the credential ends to be of use, where that is known.
    pub credential_expires_at: Option<Moment>,
    /// When the caller's key does.
    pub key_expires_at: Option<Moment>,
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// The caller, who is told nothing of what its scope does not cover.
    Caller,
    /// Who administers the caller's key, and may read all of its rules.
    Administrator,
}

/// One thing that was decided.
#[derive(Debug, Serialize)]
pub struct Decision {
    /// `key` (where somebody else asks about one), `environment`, `customer`, `connection`, `host`, `method`, `path`,
    /// `limits` or `credential`.
    pub about: &'static str,
    /// Whether it let the request pass.
    pub passed: bool,
    /// Which rule it was, and why.
    pub rule: String,
}

/// Why a request would be refused: as its caller would be told.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The code.
    pub code: &'static str,
    /// The same for people.
    pub detail: String,
}

/// Something that would be injected.
#[derive(Debug, Serialize)]
pub struct Injected {
    /// `header`, `query`, `cookie`, `path` or `body`.
    #[serde(rename = "in")]
    pub place: &'static str,
    /// The name there.
    pub name: String,
    /// Its value, masked.
    pub value: String,
}

impl From<Part> for Injected {
    fn from(Part { place, name, value }: Part) -> Self {
        Injected { place, name, value }
    }
}

/// A limit.
#[derive(Debug, Serialize)]
pub struct Limit {
    /// `connection`, `key_per_minute`, `key_per_hour`, `organization_per_minute` or `organization_per_hour`.
    pub of: &'static str,
    /// So many requests at once.
    pub requests: u32,
    /// In how many seconds as many come back.
    pub seconds: u64,
    /// How many would pass now.
    pub left: u32,
    /// In how many milliseconds the next one passes, where none would now.
    pub wait_ms: Option<u64>,
}

impl From<Allowance> for Limit {
    fn from(Allowance { holder, quota, left, wait }: Allowance) -> Self {
        let wait_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
        Limit { of: holder.as_str(), requests: quota.burst(), seconds: quota.window_seconds(), left, wait_ms }
    }
}

impl Explanation {
    fn decided(&mut self, about: &'static str, passed: bool, rule: impl Into<String>) {
        self.decisions.push(Decision { about, passed, rule: rule.into() });
    }

    /// Of a request that is refused before it is known what it asks for.
    pub(super) fn of_refusal(head: &RequestHead, error: &ProxyError) -> Self {
        let mut explanation = Explanation { method: head.method.to_string(), ..Explanation::default() };
        explanation.refused(error);
        explanation
    }

    fn refused(&mut self, error: &ProxyError) {
        self.refusal = Some(Refusal { status: error.status().as_u16(), code: error.code(), detail: error.to_string() });
    }
}

/// Explains until nothing has changed meanwhile, as a request that a change overtakes is judged again.
async fn again(
    mut once: impl AsyncFnMut() -> Result<Option<Explanation>, ProxyError>,
) -> Result<Explanation, ProxyError> {
    for _ in 0..4 {
        if let Some(explanation) = once().await? {
            return Ok(explanation);
        }
    }
    Err(ProxyError::VaultUnavailable)
}

impl Proxy {
    /// Explains a request whose caller may ask for that, or says why nothing is explained.
    pub(super) async fn explain(
        &self,
        gate: &Gate,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<Explanation, ProxyError> {
        again(async || self.explain_once(gate, head, record).await).await
    }

    async fn explain_once(
        &self,
        gate: &Gate,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<Option<Explanation>, ProxyError> {
        let mut login = Login::default();
        let said = self.read(gate, head, &mut login)?;
        let caller = self.caller(gate, &said.tag).await?;
        if !caller.may_explain(gate.explains) {
            return Err(ProxyError::ExplainNotPermitted);
        }
        let asked = Asked::by(caller, said, record)?;
        let mut explanation = Explanation {
            caller: asked.caller.shown().map_or_else(|| "local".to_owned(), |shown| shown.key.id.to_string()),
            method: head.method.to_string(),
            key_expires_at: asked.caller.shown().and_then(|shown| shown.key.terms.expires_at),
            ..Explanation::default()
        };
        let holds = self.explain_to(Audience::Caller, &asked, &mut explanation, record).await;
        Ok(holds.then_some(explanation))
    }

    /// Explains a request for who administers a key, as if its holder had sent it. Whether the key lets its holder ask
    /// for that does not matter.
    pub(super) async fn explain_key(
        &self,
        gate: &Gate,
        key: ApiKeyId,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<Explanation, ProxyError> {
        again(async || self.explain_key_once(gate, key, head, record).await).await
    }

    async fn explain_key_once(
        &self,
        gate: &Gate,
        key: ApiKeyId,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<Option<Explanation>, ProxyError> {
        let mut login = Login::default();
        let said = self.read(gate, head, &mut login)?;
        let found = self.shared.directory.supposed_holder(key).await.map_err(not_found)?;
        let (ruling, supposed) = found.ok_or(ProxyError::KeyUnknown)?;
        let mut explanation = Explanation {
            caller: key.to_string(),
            method: head.method.to_string(),
            key_expires_at: supposed.key.terms.expires_at,
            ..Explanation::default()
        };
        explanation.decided(ruling.about, ruling.passed, ruling.text);
        let holds = match supposed.shown {
            None => {
                explanation.refused(&ProxyError::KeyUnknown);
                true
            }
            Some(shown) => {
                let asked = Asked::by(gate.holder(shown)?, said, record)?;
                self.explain_to(Audience::Administrator, &asked, &mut explanation, record).await
            }
        };
        Ok(holds.then_some(explanation))
    }

    /// Whether what is told still holds: the key has not changed while it was found out.
    async fn explain_to(
        &self,
        audience: Audience,
        asked: &Asked<'_>,
        told: &mut Explanation,
        record: &mut Record,
    ) -> bool {
        record.asked(asked.reference);
        match self.explain_asked(audience, asked, told).await {
            Ok(()) => told.permitted = true,
            Err(error) => told.refused(&error),
        }
        asked.is_key_current()
    }

    async fn explain_asked(
        &self,
        audience: Audience,
        asked: &Asked<'_>,
        told: &mut Explanation,
    ) -> Result<(), ProxyError> {
        let environment = asked.explain_scope(audience, told)?;
        let (named, _) = asked.within_scope()?;
        let found = self.shared.directory.route(&self.known, named, Instant::now()).await.map_err(not_found);
        let outside = |told: &mut Explanation| {
            told.decided("connection", false, "there is no such connection in the caller's scope");
        };
        let kept = found.inspect_err(|_| outside(told))?;
        let Some(rule) = asked.caller.covering_rule(&kept.connection) else {
            match audience {
                Audience::Caller => outside(told),
                Audience::Administrator => {
                    told.decided("connection", false, asked.caller.refusing_rule(&kept.connection));
                }
            }
            return Err(ProxyError::ConnectionUnknown);
        };
        told.decided("connection", true, rule);
        told.connection = Some(kept.connection.id);
        told.key = Some(kept.connection.key.clone());
        told.environment = Some(environment.clone());
        let preview = asked.preview(&kept, environment, told)?;
        let outline = Outline::of(&kept).map_err(|error| ProxyError::Broken(error.to_string()))?;
        told.url = Some(outline.url(&preview, asked.said.requested.rest));
        told.injections = outline.parts().into_iter().map(Injected::from).collect();
        told.explain_limits(&preview)?;
        let checked = self.shared.credentials.check(&kept, &preview.admission).await;
        let error = checked.map(|expires| told.credential_expires_at = expires).map_err(unresolved).err();
        let rule =
            error.as_ref().map_or_else(|| "the credential is there and can be used".to_owned(), ToString::to_string);
        told.decided("credential", error.is_none(), rule);
        error.map_or(Ok(()), Err)
    }
}

impl Explanation {
    fn explain_limits(&mut self, preview: &Preview) -> Result<(), ProxyError> {
        self.limits = preview.allowances.iter().map(|allowance| Limit::from(*allowance)).collect();
        let Some(exceeded) = preview.exceeded() else {
            let rule = if self.limits.is_empty() { "nothing is limited" } else { "every limit has room" };
            self.decided("limits", true, rule);
            return Ok(());
        };
        let error = ProxyError::RateLimited(exceeded);
        self.decided("limits", false, error.to_string());
        Err(error)
    }
}

impl Asked<'_> {
    /// Environment and customer, as the caller's scope judges them.
    fn explain_scope(&self, audience: Audience, told: &mut Explanation) -> Result<EnvironmentName, ProxyError> {
        let tag = &self.said.tag;
        let from = if tag.environment.is_some() { "the request names" } else { "key or listener mean" };
        let of_key = self.caller.environments_of_key().filter(|_| audience == Audience::Administrator);
        match self.caller.environment(tag.environment.as_ref()) {
            Some(environment) => {
                let rule = match (audience, &of_key) {
                    (Audience::Caller, _) => format!("{from} {environment}, which the caller may use"),
                    (Audience::Administrator, Some(all)) => format!("{from} {environment}; the key allows {all}"),
                    (Audience::Administrator, None) => {
                        format!("the key names none: it may use {environment} at listeners that mean it")
                    }
                };
                told.decided("environment", true, rule);
                if let Some(customer) = &tag.customer {
                    let covered = self.caller.covers_customer(customer);
                    let rule = if covered {
                        "the customer is in the caller's scope"
                    } else {
                        "it is not in the caller's scope"
                    };
                    told.decided("customer", covered, rule);
                    if !covered {
                        return Err(ProxyError::ConnectionUnknown);
                    }
                }
                Ok(environment)
            }
            None => {
                let allowed = of_key.map(|all| format!("; the key allows {all}")).unwrap_or_default();
                let rule = format!("{from} an environment that the caller may not use{allowed}");
                told.decided("environment", false, rule);
                Err(ProxyError::EnvironmentNotPermitted)
            }
        }
    }

    /// Host and rules, as the route judges them.
    fn preview(
        &self,
        route: &std::sync::Arc<crate::directory::route::Route>,
        environment: EnvironmentName,
        told: &mut Explanation,
    ) -> Result<Preview, ProxyError> {
        let wanted = self.wanted(environment);
        let path = route.path_judged(&wanted);
        let rules = self.caller.rules(wanted.method, &path);
        let is_disguised = wanted.is_disguised;
        match route.preview(&self.caller, wanted, Instant::now()) {
            Ok(preview) => {
                told.decided("host", true, format!("{} is one of the connection's hosts", preview.admission.origin()));
                for rule in rules {
                    told.decided(rule.about, true, rule.text);
                }
                Ok(preview)
            }
            Err(denied) => {
                let error = super::authorize::denied(denied);
                if matches!(error, ProxyError::NotPermitted) {
                    told.decided("host", true, "it is one of the connection's hosts");
                    for rule in rules {
                        told.decided(rule.about, rule.passed, rule.text);
                    }
                    if is_disguised {
                        told.decided("method", false, "the request asks its upstream to take it for another one");
                    }
                } else {
                    told.decided("host", false, error.to_string());
                }
                Err(error)
            }
        }
    }
}
