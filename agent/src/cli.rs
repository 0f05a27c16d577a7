//! The commands of `bonafide-agent`, a file per verb.
//!
//! Exit codes: 0 done (a closed pipe too), 1 failed, 2 usage or settings, 3 refused, 4 unreachable (trying again may help).
//! What a command says goes to standard output, what went wrong to standard error.

mod accept_epoch;
mod call;
mod callers;
mod completions;
mod doctor;
mod fetch;
pub(crate) mod inspect;
mod output;
mod run;
mod socket;
mod status;
mod whoami;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// Why a command did not do what it should, by its exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// 1
    #[error("{0}")]
    Failed(String),
    /// 2
    #[error("{0}")]
    Usage(String),
    /// 3
    #[error("{0}")]
    Refused(String),
    /// 4
    #[error("{0}")]
    Unreachable(String),
    /// 3, and the reason has been printed.
    #[error("refused")]
    RefusedAndSaid,
    /// 1, and the reason has been printed.
    #[error("failed")]
    FailedAndSaid,
    /// 0: nobody reads any more.
    #[error("closed pipe")]
    ClosedPipe,
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::ClosedPipe => 0,
            Self::Failed(_) | Self::FailedAndSaid => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) | Self::RefusedAndSaid => 3,
            Self::Unreachable(_) => 4,
        }
    }

    fn is_said(&self) -> bool {
        matches!(self, Self::RefusedAndSaid | Self::FailedAndSaid | Self::ClosedPipe)
    }
}

/// Joins this node to a Bonafide CA and hands the workloads on it their SPIFFE identities.
#[derive(Debug, Parser)]
#[command(name = "bonafide-agent", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: join the CA, attest workloads, serve the Workload API.
    Run(Box<run::Arguments>),
    /// Show what the agent attests of this process, which services match, and why the nearest does not.
    Whoami(whoami::Arguments),
    /// Call a service as the calling user's registered service, with curl's manners.
    Call(Box<call::Arguments>),
    /// Show who calls a service on this machine, and who still uses an old credential.
    Callers(callers::Arguments),
    /// Fetch an X.509-SVID, a JWT-SVID or the trust bundles, as a workload would.
    Fetch(fetch::Arguments),
    /// Show what a certificate chain, token, bundle or live server is and proves; with bundles, the verifier's verdict.
    Inspect(inspect::Arguments),
    /// Show how the agent is. For root and the agent's own user.
    Status(status::Arguments),
    /// Look for what keeps this node or its workloads from working, and say what mends it.
    Doctor(doctor::Arguments),
    /// Take a held epoch of a restored CA as the new truth. For root and the agent's own user.
    AcceptEpoch(accept_epoch::Arguments),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap, with exit code 0.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Whoami(arguments) => whoami::run(&arguments),
        Command::Call(arguments) => call::run(&arguments),
        Command::Callers(arguments) => callers::run(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::AcceptEpoch(arguments) => accept_epoch::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_said() {
                output::complain(&failure.to_string());
            }
            ExitCode::from(failure.code())
        }
    }
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage or settings, 3 refused, 4 unreachable (trying again may help).";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
