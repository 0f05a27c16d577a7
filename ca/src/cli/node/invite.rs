//! `bonafide-ca node invite NAME`.

use std::time::Duration;

use bonafide_ca_api::generated::admin::InviteNodeRequest;
use bonafide_ca_api::{Labels, NodeName};
use clap::Args;
use serde::Serialize;

use crate::cli::client::{answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};
use crate::settings::duration;

/// Print an invitation by which one node can join
///
/// The invitation, and nothing else, goes to standard output. It is a secret: whoever redeems it first is the node.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca node invite web-1 --label group=web > web-1.invitation
  ssh web-1 bonafide-agent run --join-file - < web-1.invitation")]
pub(crate) struct Invite {
    /// The node's name: a-z, 0-9, `.` and `-`, at most 63 characters
    name: NodeName,
    /// A label of the node, for `service add --on KEY=VALUE`; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// How long the invitation can be redeemed, 10s to 7d [default: the CA's, 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// The node of that name is live: take it away once the new one has joined
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    invitation: String,
    expires_at: Option<String>,
}

impl Invite {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let labels =
            Labels::parse(self.labels.iter().map(String::as_str)).map_err(|error| Failure::Usage(error.to_string()))?;
        let request = InviteNodeRequest {
            name: self.name.to_string(),
            labels: labels.into_iter().collect(),
            ttl_s: crate::cli::seconds(self.ttl)?,
            replace: self.replace,
        };
        let invited = with_ca(&self.at, async |mut ca| answer(ca.invite_node(request).await))?;
        let expires_at = output::time(invited.expires_at_ms);
        let until = expires_at.clone().unwrap_or_default();
        let shown = Shown { name: self.name.to_string(), invitation: invited.invitation, expires_at };
        self.output.print(&shown, |shown| shown.invitation.clone())?;
        // On standard error, so that standard output is the invitation alone.
        let _ = output::to_stderr(&format!(
            "The invitation is good until {until}, for one node. On it, run: bonafide-agent run --join INVITATION"
        ));
        Ok(())
    }
}
