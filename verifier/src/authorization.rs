//! What a server builds once: who callers are, what they may do, how often, and where that is written down.
//!
//! [`Authorization::authorize`] is a plain function over what a request carries and wants. The layer for hyper, axum and tonic
//! ([`crate::http`]) calls it; everything else calls it itself, a server of raw TCP by [`Authorization::authorize_connection`].

mod connection;
#[cfg(all(feature = "jwt", feature = "tower", feature = "tokio"))]
mod exchange;
#[cfg(feature = "tokio")]
mod reload;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use crate::{
    authenticate::{self, Authenticators, Presented},
    caller::Caller,
    clock::{Clock, Timestamp},
    limits::{Counted, Limits},
    on_behalf_of::OnBehalfOf,
    policy::{Access, Decision, Effect, Facts, LimitBy, Mode, Operation, Policy, RuleId, Shadow, User},
    record::{Edges, Outcome, Record, RecordSink, RecordedOperation, ShadowOutcome, TraceId},
    spiffe::SpiffeId,
};

pub use self::connection::{CONNECT, ConnectionGrant};
#[cfg(feature = "tokio")]
pub use self::reload::{PolicyFiles, ReloadState};
#[cfg(feature = "jwt")]
use crate::txn_tokens::TxnTokens;

/// Who callers are, what they may do, and what is written down of it. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Authorization(Arc<Shared>);

struct Shared {
    service: Option<SpiffeId>,
    authenticators: Authenticators,
    #[cfg(feature = "jwt")]
    users: Option<TxnTokens>,
    policy: ArcSwapOption<Active>,
    candidate: ArcSwapOption<Active>,
    limits: Limits,
    sinks: Vec<Arc<dyn RecordSink>>,
    edges: Edges,
    sampling: Sampling,
    clock: Arc<dyn Clock>,
}

/// A policy in use, with what records call it.
struct Active {
    policy: Policy,
    version: String,
}

impl Active {
    fn new(policy: Policy) -> Arc<Self> {
        Arc::new(Self { version: policy.version().to_string(), policy })
    }

    fn rule_name(&self, id: Option<RuleId>) -> Option<&str> {
        id.and_then(|id| self.policy.rule(id)).map(|rule| rule.name())
    }
}

/// Puts an [`Authorization`] together.
pub struct Builder {
    shared: Shared,
}

/// What a request carries, and what it wants.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// What it carries.
    pub presented: Presented<'a>,
    /// What it wants.
    pub operation: Operation<'a>,
    /// The same by the name under which it is recorded: a route's template, never a path.
    pub recorded: RecordedOperation<'a>,
    /// The trace it belongs to.
    pub trace: Option<TraceId>,
}

/// A request that may go on.
#[derive(Clone)]
pub struct Granted {
    /// Who calls.
    pub caller: Caller,
    /// On whose behalf, if a transaction token says so and the service looks at them.
    pub on_behalf_of: Option<OnBehalfOf>,
    /// The trace it belongs to.
    pub trace: Option<TraceId>,
    /// The rule that allows it waits for facts: the handler may look, and must ask [`Authorization::authorize_with`] before it does or tells anything.
    pub waits_for_facts: bool,
}

/// What came of exchanging a request's own user for a transaction token.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(all(feature = "jwt", feature = "tower", feature = "tokio")),
    allow(dead_code, reason = "the edge layer makes one")
)]
pub(crate) enum Exchanged {
    For(OnBehalfOf),
    Failed(Refusal, &'static str),
}

/// A request that may not. `refusal` is what the caller is told, `reason` is for records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// What the caller is told.
    pub refusal: Refusal,
    /// Why, as a code out of a closed set.
    pub reason: &'static str,
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Nobody, or not whom they claim to be: 401, gRPC 16.
    Unauthenticated,
    /// The caller may not do this: 403, gRPC 7.
    Denied,
    /// The caller may do this, but not with this transaction token, which has ended or is not for here: 403 with a problem type of its own
    /// ([`TXN_TOKEN_PROBLEM`]), gRPC 7. A fresh token can help.
    TxnToken,
    /// Not a request that is decided at all: 400, gRPC 3.
    Malformed,
    /// Too much of it: 429, gRPC 8.
    Limited {
        /// When to come back.
        retry_after: Duration,
    },
    /// Nothing to decide by: 503, gRPC 14.
    Unavailable,
    /// The server's own mistake: 500, gRPC 13.
    Broken,
}

/// The `type` of the problem document (RFC 9457) about a transaction token that was good once, or elsewhere.
pub const TXN_TOKEN_PROBLEM: &str = "tag:bonafide.id,2026:problem/txn-token";

impl Refusal {
    fn outcome(self) -> Outcome {
        match self {
            Self::Unauthenticated => Outcome::Unauthenticated,
            Self::Denied | Self::TxnToken => Outcome::Denied,
            Self::Malformed => Outcome::Malformed,
            Self::Limited { .. } => Outcome::Limited,
            Self::Unavailable => Outcome::Unavailable,
            Self::Broken => Outcome::Broken,
        }
    }
}

impl From<authenticate::Refusal> for Refusal {
    fn from(refusal: authenticate::Refusal) -> Self {
        match refusal {
            authenticate::Refusal::Unauthenticated => Self::Unauthenticated,
            authenticate::Refusal::Malformed => Self::Malformed,
            authenticate::Refusal::Limited { retry_after } => Self::Limited { retry_after },
            authenticate::Refusal::Unavailable => Self::Unavailable,
        }
    }
}

/// One of how many allowances is recorded.
struct Sampling {
    one_in: u64,
    seen: AtomicU64,
}

impl Sampling {
    fn takes(&self) -> bool {
        match self.one_in {
            0 => false,
            1 => true,
            one_in => self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(one_in),
        }
    }
}

impl Authorization {
    /// Begins with who callers are. Until a policy is given, every request is refused as unavailable.
    #[must_use]
    pub fn builder(authenticators: Authenticators, limits: Limits, clock: Arc<dyn Clock>) -> Builder {
        Builder {
            shared: Shared {
                service: None,
                authenticators,
                #[cfg(feature = "jwt")]
                users: None,
                policy: ArcSwapOption::empty(),
                candidate: ArcSwapOption::empty(),
                limits,
                sinks: Vec::new(),
                edges: Edges::new(),
                sampling: Sampling { one_in: 1, seen: AtomicU64::new(0) },
                clock,
            },
        }
    }

    /// Decides on a request: who is it, may they, is it too often; and records that.
    ///
    /// # Errors
    /// When the request may not go on.
    pub fn authorize(&self, attempt: &Attempt<'_>) -> Result<Granted, Refused> {
        self.authorize_exchanged(attempt, None)
    }

    /// The same with what came of the exchange of the request's own user, where there was one.
    pub(crate) fn authorize_exchanged(
        &self,
        attempt: &Attempt<'_>,
        exchanged: Option<&Exchanged>,
    ) -> Result<Granted, Refused> {
        let began = self.0.clock.boot();
        let mut record = Record::new(attempt.presented.at, attempt.recorded, Outcome::Allowed, "");
        record.service = self.0.service.as_ref();
        record.trace = attempt.trace;
        let caller = match self.0.authenticators.authenticate(&attempt.presented) {
            Ok(Some(caller)) => caller,
            Ok(None) => return Err(self.refuse(&mut record, began, Refusal::Unauthenticated, "no-credential")),
            Err(error) => return Err(self.refuse(&mut record, began, error.refusal().into(), error.code())),
        };
        record.caller = Some(&caller);
        #[cfg(feature = "jwt")]
        let on_behalf_of = match self.on_behalf_of(&attempt.presented, &caller) {
            Ok(on_behalf_of) => on_behalf_of,
            Err((refusal, reason)) => return Err(self.refuse(&mut record, began, refusal, reason)),
        };
        #[cfg(not(feature = "jwt"))]
        let on_behalf_of: Option<OnBehalfOf> = None;
        let on_behalf_of = match exchanged {
            None => on_behalf_of,
            Some(Exchanged::Failed(refusal, reason)) => {
                record.user = caller.presented_user().map(|user| user.id().as_str());
                return Err(self.refuse(&mut record, began, *refusal, reason));
            }
            // It is of this very request's user, or a mistake.
            Some(Exchanged::For(user)) if is_of(user, &caller) && on_behalf_of.is_none() => Some(user.clone()),
            Some(Exchanged::For(_)) => {
                return Err(self.refuse(&mut record, began, Refusal::Broken, "exchanged-for-another"));
            }
        };
        record.transaction = on_behalf_of.as_ref().map(OnBehalfOf::txn);
        let user = user_of(&caller, on_behalf_of.as_ref(), attempt.presented.at);
        let access =
            Access { caller: &caller, user, operation: attempt.operation, facts: None, at: attempt.presented.at };
        let effect = self.decide(&access, &record, began)?;
        let waits_for_facts = effect == Effect::AllowIfSecondStage;
        Ok(Granted { waits_for_facts, caller, on_behalf_of, trace: attempt.trace })
    }

    /// A present but bad token is never taken for none (`authorization.md` §4.1). One is passed on between services of the trust domain and comes from
    /// nowhere else, however good it is: not from a user, and not from another trust domain's service.
    #[cfg(feature = "jwt")]
    fn on_behalf_of(
        &self,
        presented: &Presented<'_>,
        caller: &Caller,
    ) -> Result<Option<OnBehalfOf>, (Refusal, &'static str)> {
        let Some(users) = &self.0.users else { return Ok(None) };
        let own = self.0.authenticators.trust_domain();
        let inside = caller.service().is_some_and(|id| id.trust_domain() == own);
        if presented.headers.find(crate::jwt::txn_token::HEADER) != authenticate::Found::Absent {
            if !inside {
                return Err((Refusal::Denied, "txn-token-from-outside"));
            }
            if caller.presented_user().is_some() {
                return Err((Refusal::Malformed, "two-users"));
            }
        }
        users.find(presented.headers, presented.at).map_err(|error| {
            let refusal = if error.is_denial() { Refusal::TxnToken } else { Refusal::Malformed };
            (refusal, error.code())
        })
    }

    /// To be waited for before a request with these headers is decided: its transaction token, or its user's own, has a key that is looked up.
    #[cfg(all(feature = "jwt", feature = "tower"))]
    pub(crate) fn look_up(&self, headers: &dyn crate::authenticate::HeaderView) -> Option<crate::txn_tokens::LookUp> {
        let of_transaction = self.0.users.as_ref().and_then(|users| users.look_up(headers));
        of_transaction.or_else(|| self.0.authenticators.look_up(headers))
    }

    /// A record about a request that was granted before.
    fn record_of<'g>(&'g self, granted: &'g Granted, at: Timestamp, recorded: RecordedOperation<'g>) -> Record<'g> {
        let mut record = Record::new(at, recorded, Outcome::Allowed, "");
        (record.service, record.trace) = (self.0.service.as_ref(), granted.trace);
        record.caller = Some(&granted.caller);
        record.transaction = granted.on_behalf_of.as_ref().map(OnBehalfOf::txn);
        record
    }

    /// The service's own SPIFFE ID, if it was given.
    #[must_use]
    pub fn service(&self) -> Option<&SpiffeId> {
        self.0.service.as_ref()
    }

    /// Decides for one who is already known: in a handler, with facts about the thing that was asked for, or about an action
    /// of the program's own; and records that.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn authorize_with(
        &self,
        granted: &Granted,
        operation: Operation<'_>,
        recorded: RecordedOperation<'_>,
        facts: &Facts,
    ) -> Result<(), Refused> {
        let (at, began) = (self.0.clock.now(), self.0.clock.boot());
        let access = Access { facts: Some(facts), ..granted.access(operation, at) };
        self.decide(&access, &self.record_of(granted, at, recorded), began).map(drop)
    }

    /// Whether what was granted still is: the credential has not ended, its key is still taken, and the policy of today says the same. A user whose token has ended
    /// is none any more. For streams, WebSockets and whatever else lasts. Records nothing when it is.
    ///
    /// # Errors
    /// When it is not; that is recorded.
    pub fn still_granted(
        &self,
        granted: &Granted,
        operation: Operation<'_>,
        recorded: RecordedOperation<'_>,
    ) -> Result<(), Refused> {
        let (at, began) = (self.0.clock.now(), self.0.clock.boot());
        let access = granted.access(operation, at);
        let mut record = self.record_of(granted, at, recorded);
        record.user = access.user.map(|user| user.sub);
        if !self.0.authenticators.still_knows(&granted.caller) {
            return Err(self.refuse(&mut record, began, Refusal::Unauthenticated, "key-withdrawn"));
        }
        let Some(active) = self.0.policy.load_full() else {
            return Err(self.refuse(&mut record, began, Refusal::Unavailable, "no-policy"));
        };
        match active.policy.decide(&access).effect {
            Effect::Allow | Effect::AllowIfSecondStage => Ok(()),
            Effect::Deny(why) => {
                record.policy = Some(&active.version);
                Err(self.refuse(&mut record, began, Refusal::Denied, why.code()))
            }
        }
    }

    /// For a handler that does nothing without a user, whatever the policy says.
    ///
    /// # Errors
    /// When the request is not made for anybody; that is recorded.
    pub fn require_user<'g>(
        &self,
        granted: &'g Granted,
        recorded: RecordedOperation<'_>,
    ) -> Result<&'g OnBehalfOf, Refused> {
        let (at, began) = (self.0.clock.now(), self.0.clock.boot());
        let missing =
            || self.refuse(&mut self.record_of(granted, at, recorded), began, Refusal::Denied, "user-required");
        granted.on_behalf_of.as_ref().ok_or_else(missing)
    }

    /// Refuses without deciding, and records that: a path that two programs could read differently, a route that nobody declared.
    pub fn refuse_undecided(
        &self,
        at: Timestamp,
        recorded: RecordedOperation<'_>,
        refusal: Refusal,
        reason: &'static str,
    ) -> Refused {
        let mut record = Record::new(at, recorded, Outcome::Allowed, "");
        record.service = self.0.service.as_ref();
        self.refuse(&mut record, self.0.clock.boot(), refusal, reason)
    }

    /// Refuses what is not there, whoever asks for it; and records that. A stranger is refused as a stranger: nobody learns what there is before
    /// it is known who they are (trap 19).
    pub fn refuse_known(&self, attempt: &Attempt<'_>, refusal: Refusal, reason: &'static str) -> Refused {
        let began = self.0.clock.boot();
        let mut record = Record::new(attempt.presented.at, attempt.recorded, Outcome::Allowed, "");
        (record.service, record.trace) = (self.0.service.as_ref(), attempt.trace);
        match self.0.authenticators.authenticate(&attempt.presented) {
            Ok(Some(caller)) => {
                record.caller = Some(&caller);
                self.refuse(&mut record, began, refusal, reason)
            }
            Ok(None) => self.refuse(&mut record, began, Refusal::Unauthenticated, "no-credential"),
            Err(error) => self.refuse(&mut record, began, error.refusal().into(), error.code()),
        }
    }

    /// Takes another policy from now on. Requests that are being decided keep theirs.
    ///
    /// # Errors
    /// When the file says `mode = "shadow"`: such a policy must not decide.
    pub fn replace_policy(&self, policy: Policy) -> Result<(), ShadowPolicy> {
        if policy.mode() == Mode::Shadow {
            return Err(ShadowPolicy);
        }
        self.0.policy.store(Some(Active::new(policy)));
        Ok(())
    }

    /// Tries a candidate beside the policy that decides, or no longer does. Where its answer differs, the record says so; the answer
    /// does not change.
    pub fn try_beside(&self, candidate: Option<Policy>) {
        self.0.candidate.store(candidate.map(Active::new));
    }

    /// Whether there is a policy to decide by.
    #[must_use]
    pub fn has_policy(&self) -> bool {
        self.0.policy.load().is_some()
    }

    /// The policy that decides.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.0.policy.load().as_ref().map(|active| active.policy.clone())
    }

    /// Who calls what.
    #[must_use]
    pub fn edges(&self) -> &Edges {
        &self.0.edges
    }

    /// Whether transaction tokens are looked at.
    #[must_use]
    pub fn knows_users(&self) -> bool {
        #[cfg(feature = "jwt")]
        return self.0.users.is_some();
        #[cfg(not(feature = "jwt"))]
        false
    }

    /// Who callers are.
    #[must_use]
    pub fn authenticators(&self) -> &Authenticators {
        &self.0.authenticators
    }

    /// The clock that it decides by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    fn decide(&self, access: &Access<'_>, record: &Record<'_>, began: Duration) -> Result<Effect, Refused> {
        let (policy, candidate) = (self.0.policy.load(), self.0.candidate.load());
        let mut record = *record;
        record.caller = Some(access.caller);
        record.user = access.user.map(|user| user.sub);
        let Some(active) = policy.as_deref() else {
            return Err(self.refuse(&mut record, began, Refusal::Unavailable, "no-policy"));
        };
        let decision = active.policy.decide(access);
        record.policy = Some(&active.version);
        record.rule = active.rule_name(decision.rule);
        record.audit = decision.audit;
        record.shadow = match decision.shadow {
            Some(shadow) => Some(shown(active, shadow)),
            None => candidate.as_deref().and_then(|candidate| difference(candidate, access, decision)),
        };
        if let Effect::Deny(why) = decision.effect {
            return Err(self.refuse(&mut record, began, Refusal::Denied, why.code()));
        }
        // What waits for facts is counted once, when it is allowed.
        if decision.effect == Effect::Allow
            && let Err(retry_after) = self.count(active, decision, access)
        {
            return Err(self.refuse(&mut record, began, Refusal::Limited { retry_after }, "limit"));
        }
        self.record(&mut record, began);
        Ok(decision.effect)
    }

    /// Counts against the limits of the rule that allowed it, one after the other, those of the fewest first: what one user may not any more takes
    /// nothing from what others share. Gives the wait of the first that is exceeded; those before it have counted the attempt.
    fn count(&self, active: &Active, decision: Decision, access: &Access<'_>) -> Result<(), Duration> {
        let Some(rule) = decision.rule.and_then(|id| active.policy.rule(id)) else { return Ok(()) };
        for limit in rule.limits() {
            let (caller, user) = match limit.by {
                LimitBy::Rule => (None, None),
                LimitBy::Caller => (Some(access.caller.id()), None),
                LimitBy::User => (Some(access.caller.id()), access.user.map(|user| user.sub)),
            };
            let counted = Counted { rule: rule.name(), caller, user };
            self.0.limits.take(&counted, *limit).map_err(|full| full.retry_after)?;
        }
        Ok(())
    }

    fn refuse(&self, record: &mut Record<'_>, began: Duration, refusal: Refusal, reason: &'static str) -> Refused {
        record.outcome = refusal.outcome();
        record.reason = reason;
        self.record(record, began);
        Refused { refusal, reason }
    }

    fn record(&self, record: &mut Record<'_>, began: Duration) {
        self.0.edges.add(record);
        if self.0.sinks.is_empty() || !(record.is_always_written() || self.0.sampling.takes()) {
            return;
        }
        record.took = self.0.clock.boot().saturating_sub(began);
        for sink in &self.0.sinks {
            sink.record(record);
        }
    }
}

/// The candidate's answer, where it is another one.
fn difference<'c>(candidate: &'c Active, access: &Access<'_>, decided: Decision) -> Option<ShadowOutcome<'c>> {
    let would = candidate.policy.decide(access);
    let same = matches!(would.effect, Effect::Deny(_)) == matches!(decided.effect, Effect::Deny(_));
    (!same).then(|| shown(candidate, Shadow { effect: would.effect, rule: would.rule }))
}

fn shown(active: &Active, shadow: Shadow) -> ShadowOutcome<'_> {
    let outcome = match shadow.effect {
        Effect::Allow | Effect::AllowIfSecondStage => Outcome::Allowed,
        Effect::Deny(_) => Outcome::Denied,
    };
    ShadowOutcome { outcome, rule: active.rule_name(shadow.rule), policy: &active.version }
}

/// A policy that says of itself that it is only to be tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the policy says `mode = \"shadow\"`, so it must not decide; give it as the candidate, or take that line out")]
pub struct ShadowPolicy;

impl Granted {
    /// What the policy looks at.
    fn access<'a>(&'a self, operation: Operation<'a>, at: Timestamp) -> Access<'a> {
        Access { caller: &self.caller, user: self.user(at), operation, facts: None, at }
    }

    /// The user of the request at this time: of its transaction token, or the one whom its own credential names.
    #[must_use]
    pub fn user(&self, at: Timestamp) -> Option<User<'_>> {
        user_of(&self.caller, self.on_behalf_of.as_ref(), at)
    }
}

/// A transaction's user as long as the token is valid, then the one of the request's own credential as long as that is.
fn user_of<'u>(caller: &'u Caller, on_behalf_of: Option<&'u OnBehalfOf>, at: Timestamp) -> Option<User<'u>> {
    let of_transaction = on_behalf_of.filter(|user| at < user.valid_until()).map(User::from);
    of_transaction.or_else(|| caller.presented_user().filter(|user| at < user.valid_until()).map(User::from))
}

/// Whether a transaction is of the user whom the caller's own credential names.
fn is_of(exchanged: &OnBehalfOf, caller: &Caller) -> bool {
    caller.presented_user().is_some_and(|user| user.id().as_str() == exchanged.sub())
}

impl<'u> From<&'u OnBehalfOf> for User<'u> {
    fn from(user: &'u OnBehalfOf) -> Self {
        Self { sub: user.sub(), scope: Some(user.scope()) }
    }
}

impl Builder {
    /// Looks at transaction tokens: rules can ask for a user, and handlers know for whom they act. Without it the header `Txn-Token` is not
    /// looked at, whatever it says, and no rule that requires a user allows anything.
    #[cfg(feature = "jwt")]
    #[must_use]
    pub fn users(mut self, tokens: TxnTokens) -> Self {
        self.shared.users = Some(tokens);
        self
    }

    /// The service's own SPIFFE ID, for the records.
    #[must_use]
    pub fn service(mut self, id: SpiffeId) -> Self {
        self.shared.service = Some(id);
        self
    }

    /// Where records go; any number of places.
    #[must_use]
    pub fn record_to(mut self, sink: Arc<dyn RecordSink>) -> Self {
        self.shared.sinks.push(sink);
        self
    }

    /// Records one of so many allowances; 1, the default, all, 0 none. Refusals and what rules want audited are always recorded.
    #[must_use]
    pub fn sample_allowed(mut self, one_in: u64) -> Self {
        self.shared.sampling.one_in = one_in;
        self
    }

    /// The whole thing.
    #[must_use]
    pub fn build(self) -> Authorization {
        Authorization(Arc::new(self.shared))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("service", &self.0.service)
            .field("policy", &self.policy())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Builder(..)")
    }
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted")
            .field("caller", &self.caller)
            .field("on_behalf_of", &self.on_behalf_of)
            .field("waits_for_facts", &self.waits_for_facts)
            .finish_non_exhaustive()
    }
}
