//! The `bonafide-ca` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonafide_ca::cli::main(std::env::args_os())
}
