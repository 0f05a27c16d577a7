//! `bonafide-ca service show PATH`.

use bonafide_ca_api::generated::admin::ShowServiceRequest;
use clap::Args;

use super::{Shown, parse_path};
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure};

/// Show one service
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca service show photo")]
pub(crate) struct Show {
    /// The path of its SPIFFE ID
    #[arg(value_parser = parse_path)]
    path: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

impl Show {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = ShowServiceRequest { path: self.path };
        let service = with_ca(&self.at, async |mut ca| answer(ca.show_service(request).await))?;
        self.output.print(&Shown::from(&service), Shown::list)
    }
}
