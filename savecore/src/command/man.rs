//! `savecore man`: manual pages, generated from the arguments.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::finding::{Finding, printed};
use crate::output::out;

/// Administration commands (man-pages(7)).
pub(crate) const SECTION: &str = "8";

/// Write the manual pages of savecore and of each subcommand to DIR
#[derive(clap::Args)]
#[command(after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    /// An existing directory
    dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, cli: Command) -> anyhow::Result<Finding> {
    let mut lines = String::new();
    for (name, text) in pages(cli)? {
        let path = arguments.dir.join(name);
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        lines += &format!("{}\n", path.display());
    }
    printed(out().write_all(lines.as_bytes()).map_err(anyhow::Error::from))?;
    Ok(Finding::Good)
}

/// All pages: file names and their texts.
pub(crate) fn pages(cli: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = cli.disable_help_subcommand(true);
    command.build();
    let subcommands = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    std::iter::once(command.clone()).chain(subcommands).map(page).collect()
}

/// One page. The text after the options in the help, the exit codes, keeps its lines.
fn page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let subcommands = command.has_subcommands();
    let source = concat!("savecore ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).section(SECTION).source(source).manual("diskdump").date("");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"]).control("nf", []);
    for line in after.lines().filter(|line| *line != "Exit codes:") {
        end.text([roman(line)]);
    }
    end.control("fi", []).to_writer(&mut text)?;
    Ok((man.get_filename(), text))
}
