//! `bonafide-ca node list`.

use bonafide_ca_api::generated::admin::{self, ListNodesRequest};
use bonafide_verifier::clock::{Clock as _, SystemClock};
use clap::Args;
use serde::Serialize;

use super::Shown;
use crate::cli::client::{Client, answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// List the nodes: live ones, and those with an open invitation
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca node list
  bonafide-ca node list --output json | jq -r '.nodes[] | select(.connected | not) | .name'")]
pub(crate) struct List {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Listing {
    nodes: Vec<Shown>,
}

impl List {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let nodes = with_ca(&self.at, async |mut ca| all_nodes(&mut ca).await)?;
        let now = SystemClock.now();
        self.output.print(&Listing { nodes: nodes.iter().map(Shown::from).collect() }, |listing| {
            if listing.nodes.is_empty() {
                return "no nodes; invite one with `bonafide-ca node invite NAME`".to_owned();
            }
            let rows = listing.nodes.iter().zip(&nodes).map(|(shown, node)| {
                let seen = if node.connected { "connected".to_owned() } else { output::ago(node.last_seen_ms, now) };
                vec![
                    shown.name.clone(),
                    shown.state.clone(),
                    shown.labels(),
                    seen,
                    shown.services.to_string(),
                    shown.agent_version.clone(),
                    shown.notes(),
                ]
            });
            output::table(&["NAME", "STATE", "LABELS", "SEEN", "SERVICES", "AGENT", "NOTES"], rows)
        })
    }
}

/// Every node, page by page.
pub(crate) async fn all_nodes(ca: &mut Client) -> Result<Vec<admin::Node>, Failure> {
    let mut nodes: Vec<admin::Node> = Vec::new();
    loop {
        let after = nodes.last().map(|node| node.name.clone()).unwrap_or_default();
        let page = answer(ca.list_nodes(ListNodesRequest { page_size: 0, after }).await)?;
        let more = page.more && !page.nodes.is_empty();
        nodes.extend(page.nodes);
        if !more {
            return Ok(nodes);
        }
    }
}
