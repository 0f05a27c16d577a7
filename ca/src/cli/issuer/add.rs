//! `bonafide-ca issuer add NAME URL`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bonafide_ca_api::generated::admin::AddIssuerRequest;
use bonafide_verifier::jwt::{Algorithm, user_issuers::IssuerKeys};
use clap::Args;

use super::{Shown, parse_name};
use crate::cli::client::{answer, with_ca};
use crate::cli::output::Output;
use crate::cli::{At, Failure};
use crate::registry::MAX_ROOTS;

/// Believe what an OpenID Connect provider says about its users
///
/// Its keys are fetched at once and every hour; when it is down they count for a day. A user is known as NAME:SUBJECT everywhere.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca issuer add corp https://login.example.com --audience photo-web
  bonafide-ca issuer add corp https://sso.example.com --audience web --ca-file corp-ca.pem")]
pub(crate) struct Add {
    /// Its name here, 1 to 32 of a-z, 0-9 and `-`; its users are NAME:SUBJECT
    #[arg(value_parser = parse_name)]
    name: String,
    /// Its `iss`, exactly as it stands in its tokens
    url: String,
    /// Whom its tokens must be for, the client's ID at the provider; may be repeated
    #[arg(long = "audience", value_name = "AUDIENCE", required = true)]
    audiences: Vec<String>,
    /// An algorithm that its tokens may be signed with; may be repeated [default: ES256, RS256]
    #[arg(long = "algorithm", value_name = "NAME", value_parser = parse_algorithm)]
    algorithms: Vec<String>,
    /// The claim with its users' roles, or a JSON pointer to it [default: its users have no roles]
    #[arg(long, value_name = "CLAIM")]
    roles_claim: Option<String>,
    /// Root certificates that its TLS may end in, PEM [default: those of the system of the CA]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A JWK Set with its keys; then nothing is ever fetched
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

impl Add {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let ca_pem = match self.ca_file {
            Some(path) => String::from_utf8(read(&path, MAX_ROOTS)?)
                .map_err(|_| Failure::Usage(format!("`{}` is no PEM text", path.display())))?,
            None => String::new(),
        };
        let jwks = match self.jwks_file {
            Some(path) => read(&path, IssuerKeys::MAX_BYTES)?,
            None => Vec::new(),
        };
        let request = AddIssuerRequest {
            name: self.name,
            url: self.url,
            audiences: self.audiences,
            algorithms: self.algorithms,
            roles_claim: self.roles_claim.unwrap_or_default(),
            ca_pem,
            jwks,
        };
        let issuer = with_ca(&self.at, async |mut ca| answer(ca.add_issuer(request).await))?;
        self.output.print(&Shown::from(&issuer), |shown| {
            let state = match (shown.keys.len(), &shown.failure) {
                (_, Some(failure)) => format!("its keys could not be fetched yet, the CA goes on trying: {failure}"),
                (1, None) => "1 key".to_owned(),
                (count, None) => format!("{count} keys"),
            };
            format!("registered issuer {} for {}; {state}", shown.name, shown.url)
        })
    }
}

/// A file with something in it, and not too much.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let unreadable = |error| Failure::Usage(format!("cannot read `{}`: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() {
        0 => Err(Failure::Usage(format!("`{}` is empty", path.display()))),
        length if length > most => Err(Failure::Usage(format!("`{}` has more than {most} bytes", path.display()))),
        _ => Ok(bytes),
    }
}

fn parse_algorithm(name: &str) -> Result<String, String> {
    let names = Algorithm::ALL.map(Algorithm::name);
    if names.contains(&name) { Ok(name.to_owned()) } else { Err(format!("one of {}", names.join(", "))) }
}
