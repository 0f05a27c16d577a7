//! `bonafide-ca node show NAME`.

use bonafide_ca_api::NodeName;
use bonafide_ca_api::generated::admin::ShowNodeRequest;
use clap::Args;

use super::Shown;
use crate::cli::client::{answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// Show one node: where it stands, its key, its open invitation
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca node show web-1")]
pub(crate) struct Show {
    /// The node's name
    name: NodeName,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

impl Show {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = ShowNodeRequest { name: self.name.to_string() };
        let node = with_ca(&self.at, async |mut ca| answer(ca.show_node(request).await))?;
        self.output.print(&Shown::from(&node), |shown| {
            let applied = match shown.acknowledged_version {
                0 => String::new(),
                version => format!("version {version} of epoch {}", shown.acknowledged_epoch),
            };
            let stale = match shown.stale_key_attempts {
                0 => String::new(),
                count => format!(
                    "{count} refused attempts with an older key, last at {} from {}",
                    shown.stale_key_last_at.as_deref().unwrap_or("?"),
                    shown.stale_key_last_address.as_deref().unwrap_or("?")
                ),
            };
            output::list([
                ("name", shown.name.clone()),
                ("state", shown.state.clone()),
                ("labels", shown.labels()),
                ("joined", shown.joined_at.clone().unwrap_or_default()),
                ("last seen", shown.last_seen.clone().unwrap_or_default()),
                ("connected", if shown.connected { format!("from {}", shown.address) } else { "no".to_owned() }),
                ("applied", applied),
                ("services", shown.services.to_string()),
                ("agent", shown.agent_version.clone()),
                ("key sha256", shown.key_sha256.clone()),
                ("next key", if shown.key_pending { "certified, not yet used".to_owned() } else { String::new() }),
                ("stale key", stale),
                ("notes", shown.notes()),
            ])
        })
    }
}
