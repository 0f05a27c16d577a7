//! What this agent counts, for Prometheus. Labels come from small closed sets: never a SPIFFE ID, an address
//! or a pid (T-29).

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::health::{Health, State};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
#[expect(non_camel_case_types, reason = "the names are the label's values")]
pub enum Outcome {
    /// It did what it should.
    ok,
    /// The other side said no.
    refused,
    /// No answer, or a broken one.
    failed,
}

/// The label of what is counted by its outcome.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ByOutcome {
    /// How it ended.
    pub outcome: Outcome,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByPart {
    part: &'static str,
}

/// The agent's counters and gauges. Cheap to clone; all clones count into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    health: Family<ByPart, Gauge>,
    /// Attempts to connect to a CA.
    pub ca_connections: Family<ByOutcome, Counter>,
    /// 1 while a connection to a CA is open.
    pub ca_connected: Gauge,
    /// Updates from the CA: applied, refused or held (`refused` counts both).
    pub sync_updates: Family<ByOutcome, Counter>,
    /// The version in the CA's history that is applied.
    pub registry_version: Gauge<i64>,
    /// Services that this node may hold.
    pub services: Gauge,
    /// When the node's own SVID ends, in seconds since the Unix epoch; 0 without one.
    pub node_svid_expiry: Gauge,
    /// Renewals and recoveries of the node's own SVID.
    pub node_renewals: Family<ByOutcome, Counter>,
    /// X.509-SVIDs asked of the CA for workloads, one by one.
    pub svid_issuances: Family<ByOutcome, Counter>,
    /// Services with a valid X.509-SVID at hand.
    pub svids: Gauge,
    /// Calls on the workloads' socket: let in, or refused for a missing header or a limit.
    pub workload_calls: Family<ByOutcome, Counter>,
    /// Delegations that the CA gave to this agent.
    pub delegations: Counter,
    /// When the delegation ends under which transaction tokens are minted, in seconds since the Unix epoch; 0 without one.
    pub delegation_expiry: Gauge,
    /// Tokens exchanged for edge services, or refused.
    pub exchanges: Family<ByOutcome, Counter>,
    /// Records of minted tokens that the CA has not collected.
    pub mint_log_waiting: Gauge,
    /// Bytes of the mint log.
    pub mint_log_bytes: Gauge,
    /// The CA's clock minus this node's, as measured at the last update.
    pub clock_offset: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Fresh counters, all at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("bonafide_agent");
        let metrics = Self {
            registry: Arc::new(Registry::default()),
            health: Family::default(),
            ca_connections: Family::default(),
            ca_connected: Gauge::default(),
            sync_updates: Family::default(),
            registry_version: Gauge::default(),
            services: Gauge::default(),
            node_svid_expiry: Gauge::default(),
            node_renewals: Family::default(),
            svid_issuances: Family::default(),
            svids: Gauge::default(),
            workload_calls: Family::default(),
            delegations: Counter::default(),
            delegation_expiry: Gauge::default(),
            exchanges: Family::default(),
            mint_log_waiting: Gauge::default(),
            mint_log_bytes: Gauge::default(),
            clock_offset: Gauge::default(),
        };
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this agent", build);
        registry.register("health", "How each part is: 2 ready, 1 degraded, 0 unready", metrics.health.clone());
        registry.register("ca_connections", "Attempts to connect to a CA", metrics.ca_connections.clone());
        registry.register("ca_connected", "1 while a connection to a CA is open", metrics.ca_connected.clone());
        registry.register("sync_updates", "Updates from the CA", metrics.sync_updates.clone());
        registry.register("registry_version", "The version of the registry applied", metrics.registry_version.clone());
        registry.register("services", "Services that this node may hold", metrics.services.clone());
        registry.register_with_unit(
            "node_svid_expiry_timestamp",
            "When the node's own SVID ends; 0 without one",
            Unit::Seconds,
            metrics.node_svid_expiry.clone(),
        );
        registry.register("node_renewals", "Renewals of the node's own SVID", metrics.node_renewals.clone());
        registry.register(
            "svid_issuances",
            "X.509-SVIDs asked of the CA for workloads",
            metrics.svid_issuances.clone(),
        );
        registry.register("svids", "Services with a valid X.509-SVID at hand", metrics.svids.clone());
        registry.register("workload_calls", "Calls on the workloads' socket", metrics.workload_calls.clone());
        registry.register("delegations", "Delegations that the CA gave to this agent", metrics.delegations.clone());
        registry.register_with_unit(
            "delegation_expiry_timestamp",
            "When the delegation ends under which transaction tokens are minted; 0 without one",
            Unit::Seconds,
            metrics.delegation_expiry.clone(),
        );
        registry.register("exchanges", "Tokens exchanged for edge services", metrics.exchanges.clone());
        registry.register(
            "mint_log_waiting",
            "Records of minted tokens that the CA has not collected",
            metrics.mint_log_waiting.clone(),
        );
        registry.register_with_unit("mint_log", "Size of the mint log", Unit::Bytes, metrics.mint_log_bytes.clone());
        registry.register_with_unit(
            "clock_offset",
            "The CA's clock minus this node's",
            Unit::Seconds,
            metrics.clock_offset.clone(),
        );
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// Counts an exchange.
    pub(crate) fn exchanged(&self, done: bool) {
        let outcome = if done { Outcome::ok } else { Outcome::refused };
        self.exchanges.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// The text a Prometheus server reads (OpenMetrics).
    pub fn text(&self, health: &Health) -> String {
        for part in health.parts() {
            let value = match part.state {
                State::Ready => 2,
                State::Degraded => 1,
                State::Unready => 0,
            };
            self.health.get_or_create(&ByPart { part: part.part.name() }).set(value);
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_bounded_and_named() {
        let metrics = Metrics::new();
        metrics.sync_updates.get_or_create(&ByOutcome { outcome: Outcome::ok }).inc();
        let text = metrics.text(&Health::new());
        assert!(text.contains("bonafide_agent_sync_updates_total{outcome=\"ok\"} 1"), "{text}");
        assert!(text.contains("bonafide_agent_health{part=\"sync\"} 0"), "{text}");
        assert!(text.contains("bonafide_agent_build_info{version=\""), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
