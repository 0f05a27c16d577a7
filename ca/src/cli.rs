//! The command line of `bonafide-ca`: a file per verb. Every verb but `run`, `audit`, `key`, `policy` and `completions` talks
//! to a running CA through the socket in its data directory.

mod audit;
mod authority;
mod bundle;
mod client;
mod completions;
mod doctor;
mod issuer;
mod key;
mod node;
mod output;
mod policy;
mod run;
mod service;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::settings::Settings;

/// Runs the program with `arguments`, the program's name first. Everything it reads besides (environment, standard
/// streams, clock) is the process's own.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = command().try_get_matches_from(arguments);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are a success, also when nobody reads them.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            failure.exit_code()
        }
    }
}

/// The command line with all its help.
pub(crate) fn command() -> clap::Command {
    Cli::command().mut_subcommand("run", run::with_variables)
}

/// The CA of a Bonafide trust domain, and the commands that manage it
#[derive(Debug, Parser)]
#[command(
    name = "bonafide-ca",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Start a CA, let a node join, register a service:
  bonafide-ca run --trust-domain example.org --data A
  bonafide-ca node invite web-1 --label group=web --data A
  bonafide-ca service add photo --selector unix:user:photo --on group=web --data A

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 refused, 4 the CA does not answer."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    #[command(subcommand)]
    Node(node::Node),
    #[command(subcommand)]
    Service(service::Service),
    #[command(subcommand)]
    Issuer(issuer::Issuer),
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    #[command(subcommand)]
    Authority(authority::Authority),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Key(key::Key),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Run(run) => run.run(),
            Self::Node(node) => node.run(),
            Self::Service(service) => service.run(),
            Self::Issuer(issuer) => issuer.run(),
            Self::Bundle(bundle) => bundle.run(),
            Self::Authority(authority) => authority.run(),
            Self::Audit(audit) => audit.run(),
            Self::Key(key) => key.run(),
            Self::Policy(policy) => policy.run(),
            Self::Status(status) => status.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Completions(completions) => completions.run(),
        }
    }
}

/// Which CA is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct At {
    /// The data directory of the CA, as given to `bonafide-ca run`
    #[arg(long, value_name = "DIR", env = "BONAFIDE_DATA", default_value = Settings::DEFAULT_DATA)]
    data: PathBuf,
}

/// Why a command did not do what it should; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// The command line or the settings.
    #[error("{0}")]
    Usage(String),
    /// The CA refused, or a check came out negative.
    #[error("{message} ({code})")]
    Refused {
        /// One line.
        message: String,
        /// The reason code.
        code: String,
    },
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// Tells the person, on standard error.
    fn report(&self) {
        // With standard error closed there is nobody to tell.
        let _ = output::to_stderr(&format!("bonafide-ca: {self}"));
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused { .. } => 3,
            Self::Unreachable(_) => 4,
        })
    }
}

/// A duration for the wire, where 0 stands for the CA's default.
pub(crate) fn seconds(duration: Option<Duration>) -> Result<u32, Failure> {
    let Some(duration) = duration else { return Ok(0) };
    match u32::try_from(duration.as_secs()) {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(Failure::Usage(format!("`{}` is no lifetime", crate::settings::duration::print(duration)))),
    }
}

#[cfg(test)]
mod tests;
