//! `bonafide-ca node remove NAME`.

use bonafide_ca_api::NodeName;
use bonafide_ca_api::generated::admin::RemoveNodeRequest;
use clap::Args;
use serde::Serialize;

use crate::cli::client::{answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// Remove a node: from now on it gets no SVID, and its workloads lose theirs
///
/// An open invitation of that name is closed, too. SVIDs that the node already holds stay valid for verifiers until they expire; the
/// answer says when that is.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca node remove web-1")]
pub(crate) struct Remove {
    /// The node's name
    name: NodeName,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Removed {
    removed: String,
    last_svid_expires_at: Option<String>,
}

impl Remove {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = RemoveNodeRequest { name: self.name.to_string() };
        let removed = with_ca(&self.at, async |mut ca| answer(ca.remove_node(request).await))?;
        let last_svid_expires_at = output::time(removed.last_svid_expires_ms);
        self.output.print(&Removed { removed: self.name.to_string(), last_svid_expires_at }, |removed| {
            match &removed.last_svid_expires_at {
                Some(at) => format!(
                    "removed node {}; SVIDs that it already holds stay valid for verifiers until {at} at the latest",
                    removed.removed
                ),
                None => format!("removed node {}; it held no SVID", removed.removed),
            }
        })
    }
}
