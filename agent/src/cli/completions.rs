//! `completions`: a script that completes this program's command line.

use clap::CommandFactory;

use super::{Failure, output::print};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// For which shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "bonafide-agent", &mut script);
    print(&String::from_utf8_lossy(&script))
}
