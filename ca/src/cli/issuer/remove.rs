//! `bonafide-ca issuer remove NAME`.

use bonafide_ca_api::generated::admin::RemoveIssuerRequest;
use clap::Args;
use serde::Serialize;

use super::parse_name;
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure};

/// Believe an issuer's tokens no more
///
/// Transaction tokens that were made from them count until they expire, minutes later. Edges that name it keep its name: an issuer that is added
/// under the same name has its users there.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca issuer remove corp")]
pub(crate) struct Remove {
    /// Its name
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Removed {
    removed: String,
    /// Edges that name it still, the first of them.
    named_by: Vec<String>,
    edges: u32,
}

impl Remove {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let request = RemoveIssuerRequest { name: self.name.clone() };
        let answer = with_ca(&self.at, async |mut ca| answer(ca.remove_issuer(request).await))?;
        let removed = Removed { removed: self.name, named_by: answer.named_by, edges: answer.edges };
        self.output.print(&removed, Removed::told)
    }
}

impl Removed {
    fn told(&self) -> String {
        let name = &self.removed;
        let mut text = format!("removed issuer {name}; its users are nobody's from now on");
        if let Some(first) = self.named_by.first() {
            let named_by = self.named_by.join(", ");
            let further = (self.edges as usize).saturating_sub(self.named_by.len());
            let further = if further > 0 { format!(" and {further} more") } else { String::new() };
            text += &format!(
                "\nstill named by {named_by}{further}: an issuer that is added as {name} again has its users there; to end that: \
                 bonafide-ca service update {first} --edge-issuer OTHER, or --no-edge-issuer"
            );
        }
        text
    }
}
