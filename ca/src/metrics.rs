//! What Prometheus reads. Labels come from closed sets: never a SPIFFE ID, a name or an address (T-29).

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bonafide_ca_api::Reason;
use bonafide_verifier::clock::Timestamp;
use bonafide_verifier::serve::ServeCounters;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::health::{Health, Part, State};

/// What was issued.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum IssuedKind {
    /// An X.509-SVID of a service.
    X509,
    /// A JWT-SVID of a service.
    Jwt,
    /// A node's SVID.
    Node,
    /// The CA's own.
    Own,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Outcome {
    /// It was done.
    Done,
    /// It was refused, for a reason that the asker was told.
    Refused,
    /// It failed here.
    Failed,
}

/// How a node came.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum JoinKind {
    /// With an invitation.
    Join,
    /// With its key, after its SVID had expired.
    Recover,
    /// With its SVID, for the next one.
    Renew,
}

/// The CA's metrics. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    issued: Family<IssuedLabels, Counter>,
    joins: Family<JoinLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    delegations: Counter,
    mints: Counter,
    mint_log_alarms: Counter,
    store_records: Histogram,
    store_seconds: Histogram,
    /// Set when they are read.
    nodes: Gauge,
    nodes_connected: Gauge,
    services: Gauge,
    registry_version: Gauge,
    bundle_sequence: Gauge,
    connections: Gauge,
    connections_accepted: Counter,
    connections_ended: Family<EndLabel, Counter>,
    authority_expiry: Family<AuthorityLabel, Gauge>,
    health: Family<PartLabel, Gauge>,
}

/// What is read from the rest of the CA when the metrics are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings {
    /// Live nodes.
    pub(crate) nodes: usize,
    /// Nodes with an open stream.
    pub(crate) nodes_connected: usize,
    /// Registered services.
    pub(crate) services: usize,
    /// The version of the registry.
    pub(crate) registry_version: u64,
    /// The bundle's sequence number.
    pub(crate) bundle_sequence: u64,
    /// What the node API's listener counts.
    pub(crate) connections: Arc<ServeCounters>,
    /// Kind and end of each authority that signs.
    pub(crate) authorities: Vec<(AuthorityKind, Timestamp)>,
}

/// The kinds of authorities.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum AuthorityKind {
    /// In the bundle.
    Root,
    /// Signs X.509-SVIDs.
    Issuing,
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs what the token service issues.
    Token,
}

impl Metrics {
    /// New metrics; `started_at` becomes one of them.
    pub(crate) fn new(started_at: Timestamp) -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("bonafide_ca"))),
            issued: Family::default(),
            joins: Family::default(),
            tokens: Family::default(),
            refusals: Family::default(),
            delegations: Counter::default(),
            mints: Counter::default(),
            mint_log_alarms: Counter::default(),
            store_records: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            store_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            nodes: Gauge::default(),
            nodes_connected: Gauge::default(),
            services: Gauge::default(),
            registry_version: Gauge::default(),
            bundle_sequence: Gauge::default(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_ended: Family::default(),
            authority_expiry: Family::default(),
            health: Family::default(),
        };
        metrics.register(started_at);
        metrics
    }

    fn register(&self, started_at: Timestamp) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("issued", "SVIDs by kind and outcome", self.issued.clone());
        registry.register("joins", "Joins, recoveries and renewals of nodes by outcome", self.joins.clone());
        registry.register("tokens", "Requests for tokens by kind and outcome", self.tokens.clone());
        registry.register("refusals", "Refusals by reason", self.refusals.clone());
        registry.register("delegations", "Delegations given out to agents", self.delegations.clone());
        registry.register("mints_collected", "Records of tokens that agents minted", self.mints.clone());
        let alarms = self.mint_log_alarms.clone();
        registry.register("mint_log_alarms", "Mint logs of nodes that were found not whole", alarms);
        registry.register("store_group_records", "Records in one durable group", self.store_records.clone());
        registry.register_with_unit(
            "store_group",
            "Time from the first record of a group to its being durable",
            Unit::Seconds,
            self.store_seconds.clone(),
        );
        registry.register("nodes", "Live nodes", self.nodes.clone());
        registry.register("nodes_connected", "Nodes with an open stream", self.nodes_connected.clone());
        registry.register("connections", "Open connections of nodes", self.connections.clone());
        let accepted = self.connections_accepted.clone();
        registry.register("connections_accepted", "Connections of nodes that were served", accepted);
        let ended = self.connections_ended.clone();
        registry.register("connections_ended", "Connections of nodes that were not served to their own end", ended);
        registry.register("services", "Registered services", self.services.clone());
        registry.register("registry_version", "Version of the registry", self.registry_version.clone());
        registry.register("bundle_sequence", "Sequence number of the trust bundle", self.bundle_sequence.clone());
        registry.register_with_unit(
            "authority_expiry_timestamp",
            "When the signing authority of this kind expires, since the Unix epoch",
            Unit::Seconds,
            self.authority_expiry.clone(),
        );
        registry.register("health", "2 ready, 1 degraded, 0 unready", self.health.clone());
        registry.register("build", "The running program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let start = Gauge::<i64>::default();
        start.set(started_at.unix_seconds());
        registry.register_with_unit("start_timestamp", "When this process started", Unit::Seconds, start);
    }

    /// Counts `count` requests for SVIDs that ended so.
    pub(crate) fn issued(&self, kind: IssuedKind, outcome: Outcome, count: u64) {
        self.issued.get_or_create(&IssuedLabels { kind, outcome }).inc_by(count);
    }

    /// Counts a node that came, or was not let in.
    pub(crate) fn joined(&self, kind: JoinKind, outcome: Outcome) {
        self.joins.get_or_create(&JoinLabels { kind, outcome }).inc();
    }

    /// Counts a request for a token that ended so.
    pub(crate) fn token(&self, kind: TokenKind, outcome: TokenOutcome) {
        self.tokens.get_or_create(&TokenLabels { kind, outcome }).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&ReasonLabel { reason: Code(reason) }).inc();
    }

    /// Counts a delegation that was given out.
    pub(crate) fn delegated(&self) {
        self.delegations.inc();
    }

    /// Counts what was collected of an agent's mint log, and whether something of it is missing or was changed.
    pub(crate) fn minted(&self, records: u64, alarm: bool) {
        self.mints.inc_by(records);
        self.mint_log_alarms.inc_by(u64::from(alarm));
    }

    /// Notes a durable group: how many records, and how long it took.
    pub(crate) fn store_group(&self, records: u64, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a group is small")]
        self.store_records.observe(records as f64);
        self.store_seconds.observe(took.as_secs_f64());
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn render(&self, readings: &Readings, health: &Health) -> String {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.nodes.set(number(readings.nodes));
        self.nodes_connected.set(number(readings.nodes_connected));
        self.services.set(number(readings.services));
        self.registry_version.set(i64::try_from(readings.registry_version).unwrap_or(i64::MAX));
        self.bundle_sequence.set(i64::try_from(readings.bundle_sequence).unwrap_or(i64::MAX));
        let counted = &readings.connections;
        self.connections.set(number(counted.open()));
        self.connections_accepted.inner().store(counted.accepted(), Ordering::Relaxed);
        for (end, count) in [
            (End::NotPrepared, counted.not_prepared()),
            (End::AtLimit, counted.refused_at_limit()),
            (End::Credential, counted.ended_by_lifetime()),
            (End::AcceptError, counted.accept_errors()),
            (End::Panic, counted.panics()),
        ] {
            self.connections_ended.get_or_create(&EndLabel { reason: end }).inner().store(count, Ordering::Relaxed);
        }
        for (kind, at) in &readings.authorities {
            self.authority_expiry.get_or_create(&AuthorityLabel { kind: *kind }).set(at.unix_seconds());
        }
        for condition in health.conditions() {
            let value = match condition.state {
                State::Ready => 2,
                State::Degraded => 1,
                State::Unready => 0,
            };
            self.health.get_or_create(&PartLabel { part: condition.part }).set(value);
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a `String` does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IssuedLabels {
    kind: IssuedKind,
    outcome: Outcome,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct JoinLabels {
    kind: JoinKind,
    outcome: Outcome,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TokenLabels {
    kind: TokenKind,
    outcome: TokenOutcome,
}

/// What is asked of the token endpoint.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum TokenKind {
    /// A transaction token.
    Transaction,
    /// An access token.
    Access,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum TokenOutcome {
    Issued,
    Refused,
    Failed,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabel {
    reason: Code,
}

/// Why a connection was not served to its own end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum End {
    /// Its handshake came to nothing, or was refused.
    NotPrepared,
    /// Too many from there.
    AtLimit,
    /// A credential ended, or was withdrawn.
    Credential,
    /// It was gone before it was accepted, or nothing could be accepted.
    AcceptError,
    /// A handler panicked.
    Panic,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct EndLabel {
    reason: End,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AuthorityLabel {
    kind: AuthorityKind,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PartLabel {
    part: Part,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Code(Reason);

macro_rules! label_values {
    ($( $type:ty: |$value:ident| $text:expr; )+) => {
        $( impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                let $value = self;
                encoder.write_str($text)
            }
        } )+
    };
}

label_values! {
    IssuedKind: |kind| match kind {
        IssuedKind::X509 => "x509",
        IssuedKind::Jwt => "jwt",
        IssuedKind::Node => "node",
        IssuedKind::Own => "own",
    };
    Outcome: |outcome| match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
    };
    TokenKind: |kind| match kind {
        TokenKind::Transaction => "transaction",
        TokenKind::Access => "access",
    };
    TokenOutcome: |outcome| match outcome {
        TokenOutcome::Issued => "issued",
        TokenOutcome::Refused => "refused",
        TokenOutcome::Failed => "failed",
    };
    JoinKind: |kind| match kind {
        JoinKind::Join => "join",
        JoinKind::Recover => "recover",
        JoinKind::Renew => "renew",
    };
    AuthorityKind: |kind| match kind {
        AuthorityKind::Root => "root",
        AuthorityKind::Issuing => "issuing",
        AuthorityKind::Jwt => "jwt",
        AuthorityKind::Token => "token",
    };
    End: |end| match end {
        End::NotPrepared => "handshake",
        End::AtLimit => "limit",
        End::Credential => "credential",
        End::AcceptError => "accept",
        End::Panic => "panic",
    };
    Part: |part| part.as_str();
    Code: |code| code.0.code();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_there_under_its_name() {
        let metrics = Metrics::new(Timestamp::from_unix_millis(1_800_000_000_000));
        metrics.issued(IssuedKind::X509, Outcome::Done, 100);
        metrics.joined(JoinKind::Join, Outcome::Refused);
        metrics.token(TokenKind::Transaction, TokenOutcome::Issued);
        metrics.refused(Reason::InvitationUsed);
        metrics.store_group(100, Duration::from_millis(3));
        let readings = Readings {
            nodes: 3,
            nodes_connected: 2,
            authorities: vec![(AuthorityKind::Issuing, Timestamp::from_unix_millis(1_900_000_000_000))],
            ..Readings::default()
        };
        let text = metrics.render(&readings, &Health::new());
        for line in [
            "bonafide_ca_issued_total{kind=\"x509\",outcome=\"done\"} 100",
            "bonafide_ca_joins_total{kind=\"join\",outcome=\"refused\"} 1",
            "bonafide_ca_refusals_total{reason=\"invitation-used\"} 1",
            "bonafide_ca_store_group_records_count 1",
            "bonafide_ca_store_group_seconds_count 1",
            "bonafide_ca_nodes 3",
            "bonafide_ca_nodes_connected 2",
            "bonafide_ca_connections 0",
            "bonafide_ca_connections_ended_total{reason=\"handshake\"} 0",
            "bonafide_ca_authority_expiry_timestamp_seconds{kind=\"issuing\"} 1900000000",
            "bonafide_ca_health{part=\"store\"} 0",
            concat!("bonafide_ca_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "bonafide_ca_start_timestamp_seconds 1800000000",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
