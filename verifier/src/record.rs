//! Decision records: who asked for what, what was decided, and by which rule.
//!
//! A denial, a difference to a shadow policy and a rule with `audit = true` always leave a record; what is allowed is sampled.
//! Records name operations by their route's template, never by the path, and hold no credential.

mod edges;
mod json_lines;
#[cfg(feature = "serve")]
mod report;
mod trace;

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

#[cfg(feature = "serve")]
pub use self::report::EdgesReport;
pub use self::{
    edges::{Edge, EdgeKey, Edges},
    json_lines::{JsonLines, JsonLinesOptions},
    trace::TraceId,
};
use crate::{caller::Caller, clock::Timestamp, spiffe::SpiffeId};

/// One decision. Borrowed, so that making one costs nothing where nobody writes it down.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// When it was decided.
    pub at: Timestamp,
    /// The service that decided, if it knows its own ID.
    pub service: Option<&'a SpiffeId>,
    /// Who asked, if that was proven.
    pub caller: Option<&'a Caller>,
    /// On whose behalf: the user or workload of a transaction token, or the user of the request's own credential, who may be the caller.
    pub user: Option<&'a str>,
    /// What was asked for.
    pub operation: RecordedOperation<'a>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, as a code out of a closed set; the empty string where the rule says it all.
    pub reason: &'a str,
    /// The rule that decided, by its name.
    pub rule: Option<&'a str>,
    /// The policy that held, by its version.
    pub policy: Option<&'a str>,
    /// What the shadow policy, or a rule in shadow, would have made of it, where that differs.
    pub shadow: Option<ShadowOutcome<'a>>,
    /// Whether the rule asks for a record of each decision.
    pub audit: bool,
    /// The transaction it belongs to.
    pub transaction: Option<&'a str>,
    /// The trace it belongs to (W3C Trace Context).
    pub trace: Option<TraceId>,
    /// How long deciding took.
    pub took: Duration,
}

impl<'a> Record<'a> {
    /// A record of this outcome, with nothing known beyond it.
    #[must_use]
    pub fn new(at: Timestamp, operation: RecordedOperation<'a>, outcome: Outcome, reason: &'a str) -> Self {
        Self {
            at,
            service: None,
            caller: None,
            user: None,
            operation,
            outcome,
            reason,
            rule: None,
            policy: None,
            shadow: None,
            audit: false,
            transaction: None,
            trace: None,
            took: Duration::ZERO,
        }
    }

    /// Whether it is written whatever the sampling says.
    #[must_use]
    pub fn is_always_written(&self) -> bool {
        self.audit || self.shadow.is_some() || self.outcome != Outcome::Allowed
    }
}

/// What was asked for, with nothing in it that a stranger chose freely but method names within bounds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(tag = "protocol", rename_all = "lowercase")]
pub enum RecordedOperation<'a> {
    /// An HTTP request.
    Http {
        /// The method, one of those known; `other` for any else.
        method: &'a str,
        /// The route's template; empty where no route was found.
        route: &'a str,
    },
    /// A gRPC call.
    Grpc {
        /// `package.Service`; empty where no service was found.
        // A record's own `service` is who decided.
        #[serde(rename = "grpc_service")]
        service: &'a str,
        /// The method.
        method: &'a str,
    },
    /// A check in a handler.
    App {
        /// What was to be done.
        action: &'a str,
        /// With a resource of this type.
        resource: &'a str,
    },
    /// A connection as a whole, for protocols that are neither.
    Connection,
}

impl fmt::Display for RecordedOperation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method, route } => write!(f, "{method} {route}"),
            Self::Grpc { service, method } => write!(f, "{service}/{method}"),
            Self::App { action, resource } => write!(f, "{action} {resource}"),
            Self::Connection => f.write_str("connection"),
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Handed on.
    Allowed,
    /// The caller may not do this.
    Denied,
    /// Nobody, or not whom they claim to be.
    Unauthenticated,
    /// Not a request that is decided at all.
    Malformed,
    /// Too much of it.
    Limited,
    /// Nothing to decide by.
    Unavailable,
    /// The server's own mistake: a route that nobody declared, a second stage that was never asked.
    Broken,
}

/// What would have become of a request if the rules in shadow were enforced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ShadowOutcome<'a> {
    /// What would have become of it.
    pub outcome: Outcome,
    /// By which rule; none is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// Of which policy.
    pub policy: &'a str,
}

/// Where records go. Called in the request's own task: it must not block.
pub trait RecordSink: fmt::Debug + Send + Sync {
    /// Takes one record.
    fn record(&self, record: &Record<'_>);
}

/// Records as events of `tracing`: what is refused at `warn`, the rest at `info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingRecords;

impl RecordSink for TracingRecords {
    fn record(&self, record: &Record<'_>) {
        let caller = record.caller.map_or("", |caller| caller.id().as_str());
        let proof = record.caller.map_or("", |caller| caller.proof().kind.as_str());
        let (user, rule) = (record.user.unwrap_or_default(), record.rule.unwrap_or_default());
        let operation = record.operation;
        let outcome = record.outcome.as_str();
        if record.outcome == Outcome::Allowed && record.shadow.is_none() {
            tracing::info!(caller, proof, user, %operation, outcome, rule, "decided");
        } else {
            let would = record.shadow.map_or("", |shadow| shadow.outcome.as_str());
            let reason = record.reason;
            tracing::warn!(caller, proof, user, %operation, outcome, reason, rule, would, "decided");
        }
    }
}

impl Outcome {
    /// The word for it in records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Malformed => "malformed",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
            Self::Broken => "broken",
        }
    }
}

/// As it is written: one flat object, members that say nothing left out.
impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            at: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            service: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            caller: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            proof: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            key_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            token_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            via: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            user: Option<&'a str>,
            #[serde(flatten)]
            operation: RecordedOperation<'a>,
            outcome: Outcome,
            #[serde(skip_serializing_if = "str::is_empty")]
            reason: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            rule: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            policy: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            shadow: Option<ShadowOutcome<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            transaction: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace: Option<TraceId>,
            micros: u64,
        }
        Written {
            at: self.at.to_string(),
            service: self.service.map(SpiffeId::as_str),
            caller: self.caller.map(|caller| caller.id().as_str()),
            proof: self.caller.map(|caller| caller.proof().kind.as_str()),
            key_id: self.caller.map(|caller| &*caller.proof().key_id),
            token_id: self.caller.and_then(Caller::token_id).map(short),
            via: self.caller.and_then(Caller::via).map(SpiffeId::as_str),
            user: self.user,
            operation: self.operation,
            outcome: self.outcome,
            reason: self.reason,
            rule: self.rule,
            policy: self.policy,
            shadow: self.shadow,
            transaction: self.transaction,
            trace: self.trace,
            micros: u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
        }
        .serialize(serializer)
    }
}

/// As much of a token's ID as a record holds: it is the caller's own word for it.
fn short(token_id: &str) -> &str {
    token_id.char_indices().nth(64).map_or(token_id, |(end, _)| token_id.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Proof, ProofKind};

    fn caller() -> Caller {
        let id = SpiffeId::parse("spiffe://example.org/export").unwrap();
        let proof = Proof { kind: ProofKind::ApiKey, key_id: "k1".into() };
        Caller::new(id, proof, Timestamp::from_unix_seconds(2_000_000_000))
    }

    #[test]
    fn what_is_written_of_a_decision() {
        let caller = caller().with_token_id(Some("ü".repeat(65).into()));
        let operation = RecordedOperation::Http { method: "GET", route: "/v1/config/{key}" };
        let at = Timestamp::from_unix_seconds(1_800_000_000);
        let mut record = Record::new(at, operation, Outcome::Denied, "no-rule");
        record.caller = Some(&caller);
        record.trace = TraceId::of_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        record.took = Duration::from_micros(7);
        record.shadow = Some(ShadowOutcome { outcome: Outcome::Allowed, rule: Some("all read"), policy: "9f2c" });
        assert_eq!(
            serde_json::to_string(&record).unwrap().replace(&"ü".repeat(64), "64 characters"),
            r#"{"at":"2027-01-15T08:00:00Z","caller":"spiffe://example.org/export","proof":"api-key","key_id":"k1","token_id":"64 characters","protocol":"http","method":"GET","route":"/v1/config/{key}","outcome":"denied","reason":"no-rule","shadow":{"outcome":"allowed","rule":"all read","policy":"9f2c"},"trace":"0af7651916cd43dd8448eb211c80319c","micros":7}"#
        );
    }

    /// Operation and record are one object: no member stands in it twice.
    #[test]
    fn members_of_a_record_are_told_apart() {
        let service = SpiffeId::parse("spiffe://example.org/config").unwrap();
        for operation in [
            RecordedOperation::Http { method: "GET", route: "/a" },
            RecordedOperation::Grpc { service: "config.v1.Config", method: "Get" },
            RecordedOperation::App { action: "a", resource: "b" },
            RecordedOperation::Connection,
        ] {
            let mut record = Record::new(Timestamp::default(), operation, Outcome::Denied, "no-rule");
            record.service = Some(&service);
            let text = serde_json::to_string(&record).unwrap();
            let read = crate::strict_json::parse(text.as_bytes(), 8).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(read["service"], service.as_str(), "{text}");
        }
    }

    #[test]
    fn only_a_plain_allowance_is_sampled() {
        let operation = RecordedOperation::Connection;
        let allowed = Record::new(Timestamp::default(), operation, Outcome::Allowed, "");
        assert!(!allowed.is_always_written());
        assert!(Record { audit: true, ..allowed }.is_always_written());
        let shadow = Some(ShadowOutcome { outcome: Outcome::Denied, rule: None, policy: "p" });
        assert!(Record { shadow, ..allowed }.is_always_written());
        for outcome in [Outcome::Denied, Outcome::Unauthenticated, Outcome::Limited, Outcome::Broken] {
            assert!(Record { outcome, ..allowed }.is_always_written());
        }
    }
}
