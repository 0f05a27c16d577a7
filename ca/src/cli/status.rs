//! `bonafide-ca status`.

use bonafide_ca_api::generated::admin::StatusRequest;
use bonafide_verifier::clock::Timestamp;
use clap::Args;
use serde::Serialize;

use super::client::{answer, with_ca};
use super::output::{self, Output};
use super::{At, Failure};

/// Say what the running CA is, and how it is
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca status
  bonafide-ca status --output json | jq -r .root_sha256")]
pub(crate) struct Status {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    version: String,
    trust_domain: String,
    root_sha256: String,
    started_at: Option<String>,
    listen: String,
    advertise: Vec<String>,
    epoch: String,
    registry_version: u64,
    bundle_sequence: u64,
    nodes: u32,
    nodes_connected: u32,
    services: u32,
    audit_records: u64,
    audit_head: String,
    now: Option<String>,
    health: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    part: String,
    state: String,
    reason: String,
}

impl Status {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let status = with_ca(&self.at, async |mut ca| answer(ca.status(StatusRequest {}).await))?;
        let health = status.health.into_iter();
        let mut addresses = status.listen_addresses.into_iter();
        let shown = Shown {
            version: status.version,
            trust_domain: status.trust_domain,
            root_sha256: status.root_hash,
            started_at: output::time(status.started_at_ms),
            listen: addresses.next().unwrap_or_default(),
            advertise: addresses.collect(),
            epoch: status.epoch,
            registry_version: status.registry_version,
            bundle_sequence: status.bundle_sequence,
            nodes: status.nodes,
            nodes_connected: status.nodes_connected,
            services: status.services,
            audit_records: status.audit_records,
            audit_head: status.audit_head,
            now: output::time(status.now_ms),
            health: health.map(|p| Part { part: p.part, state: p.state, reason: p.reason }).collect(),
        };
        let started = output::ago(status.started_at_ms, Timestamp::from_unix_millis(status.now_ms));
        self.output.print(&shown, |shown| {
            let facts = output::list([
                ("trust domain", shown.trust_domain.clone()),
                ("root sha256", shown.root_sha256.clone()),
                ("listens on", shown.listen.clone()),
                ("invites to", shown.advertise.join(", ")),
                ("started", started),
                ("version", shown.version.clone()),
                ("nodes", format!("{}, {} connected", shown.nodes, shown.nodes_connected)),
                ("services", shown.services.to_string()),
                ("registry", format!("version {} of epoch {}", shown.registry_version, shown.epoch)),
                ("bundle", format!("sequence {}", shown.bundle_sequence)),
                ("audit", format!("{} records, head {}", shown.audit_records, shown.audit_head)),
            ]);
            let rows = shown.health.iter().map(|p| vec![p.part.clone(), p.state.clone(), p.reason.clone()]);
            format!("{facts}\n\n{}", output::table(&["PART", "STATE", "REASON"], rows))
        })
    }
}
