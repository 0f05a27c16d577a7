//! The `bonafide-agent` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonafide_agent::cli::main()
}
