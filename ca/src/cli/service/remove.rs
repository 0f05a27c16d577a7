//! `bonafide-ca service remove PATH`.

use bonafide_ca_api::generated::admin::RemoveServiceRequest;
use clap::Args;
use serde::Serialize;

use super::parse_path;
use crate::cli::client::{answer, with_ca};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// Remove a service: from now on nobody gets an SVID for it
///
/// SVIDs issued before stay valid for verifiers until they expire; the answer says when that is.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca service remove photo")]
pub(crate) struct Remove {
    /// The path of its SPIFFE ID
    #[arg(value_parser = parse_path)]
    path: String,
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
        let request = RemoveServiceRequest { path: self.path.clone() };
        let removed = with_ca(&self.at, async |mut ca| answer(ca.remove_service(request).await))?;
        let last_svid_expires_at = output::time(removed.last_svid_expires_ms);
        self.output.print(&Removed { removed: self.path, last_svid_expires_at }, |removed| {
            match &removed.last_svid_expires_at {
                Some(at) => format!(
                    "removed service {}; SVIDs issued before stay valid for verifiers until {at} at the latest",
                    removed.removed
                ),
                None => format!("removed service {}; no SVID of it is out", removed.removed),
            }
        })
    }
}
