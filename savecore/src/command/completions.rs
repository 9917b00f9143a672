//! `savecore completions`: shell completions, generated from the arguments.

use std::io::Write;

use clap::Command;
use clap_complete::{Shell, generate};

use crate::finding::{Finding, printed};
use crate::output::out;

/// Print SHELL's completions for savecore
#[derive(clap::Args)]
#[command(after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, cli: Command) -> anyhow::Result<Finding> {
    printed(out().write_all(&script(arguments.shell, cli)).map_err(anyhow::Error::from))?;
    Ok(Finding::Good)
}

/// The script for one shell.
pub(crate) fn script(shell: Shell, mut cli: Command) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut cli, "savecore", &mut script);
    script
}
