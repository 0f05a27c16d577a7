//! `bonafide-ca bundle show`.

use bonafide_ca_api::generated::admin::ShowBundleRequest;
use clap::{Args, Subcommand, ValueEnum};

use super::client::{answer, with_ca};
use super::{At, Failure, output};

/// Show the trust bundle: the public keys by which this trust domain's SVIDs are verified
#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    Show(Show),
}

/// Print the trust bundle
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca bundle show --format pem > roots.pem
  bonafide-ca bundle show | jq .spiffe_sequence")]
pub(crate) struct Show {
    /// The SPIFFE bundle document (JSON, X.509 and JWT keys) or the X.509 roots as PEM
    #[arg(long, value_enum, default_value = "spiffe")]
    format: Format,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// SPIFFE trust bundle document (JSON)
    Spiffe,
    /// X.509 roots, PEM
    Pem,
}

impl Bundle {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Self::Show(show) = self;
        let bundle = with_ca(&show.at, async |mut ca| answer(ca.show_bundle(ShowBundleRequest {}).await))?;
        match show.format {
            Format::Spiffe => {
                let mut json = bundle.spiffe_json;
                if !json.ends_with(b"\n") {
                    json.push(b'\n');
                }
                output::print_bytes(&json)
            }
            Format::Pem => output::print(&bundle.pem),
        }
    }
}
