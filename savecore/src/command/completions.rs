//! `savecore completions`: what a shell completes, made from the arguments.

use std::io::Write;

use clap_complete::{Shell, generate};

use crate::output::out;
use crate::{Finding, printed};

/// Print SHELL's completions for savecore
#[derive(clap::Args)]
#[command(after_help = crate::EXIT_CODES)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    printed(out().write_all(&script(arguments.shell)).map_err(anyhow::Error::from))?;
    Ok(Finding::Good)
}

/// The script of one shell.
pub(crate) fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut crate::cli(), "savecore", &mut script);
    script
}
