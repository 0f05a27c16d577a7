//! `bonafide-ca completions SHELL`.

use clap::Args;
use clap_complete::Shell;

use super::{Failure, command, output};

/// Print a completion script for a shell
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bonafide-ca completions bash > /etc/bash_completion.d/bonafide-ca")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "bonafide-ca", &mut script);
        output::print_bytes(&script)
    }
}
