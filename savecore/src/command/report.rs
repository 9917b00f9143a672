//! `savecore report`: a dump as one page of HTML.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use savecore::dump::{Dump, DumpRef, Report};
use savecore::private;
use savecore::report::html;
use savecore::source::Access;
use savecore::targets::Targets;

use super::kernels::KernelArguments;
use super::search;
use super::targets::{IdentityArguments, TargetsArguments, identity};
use crate::finding::{Finding, printed};
use crate::output::{Bar, out};

/// Write an HTML page about a dump on TARGET, for any browser, without network or scripts
#[derive(clap::Args)]
#[command(after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    targets: TargetsArguments,
    #[command(flatten)]
    identity: IdentityArguments,
    #[command(flatten)]
    kernels: KernelArguments,
    /// Output file; `-` is standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Number of the dump, as `savecore info` shows it [default: the last one]
    #[arg(long, value_name = "N")]
    dump: Option<u32>,
    /// Search every block for dumps, not only those before the first free block
    #[arg(long)]
    search: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let opener = arguments.identity.read()?;
    let mut bar = Bar::new();
    let names = arguments.targets.names()?;
    let targets = Targets::open(
        &names,
        Access::Read,
        search(arguments.search),
        opener.as_ref(),
        arguments.targets.owner().machine(),
        &mut bar,
    )?;
    let dumps = targets.dumps();
    let sequence = |places: &&Vec<DumpRef>| targets.found(places[0]).header.sequence.get();
    let chosen = match arguments.dump {
        None => dumps.iter().max_by_key(sequence),
        Some(number) => {
            let chosen = dumps.iter().find(|places| sequence(places) == number);
            if chosen.is_none() && !dumps.is_empty() {
                let there: Vec<String> = dumps.iter().map(|places| sequence(&places).to_string()).collect();
                bail!("there is no dump {number}: --dump takes {}", there.join(", "));
            }
            chosen
        }
    };
    let Some(places) = chosen else {
        let names: Vec<&str> = targets.open.iter().map(|open| open.target.name()).collect();
        crate::output::error(&format!("{}: no dump to report on", names.join(", ")));
        return Ok(Finding::Negative);
    };
    let dump = Dump::open_parts(targets.parts(places), identity(opener.as_ref()), &mut bar);
    let page = html(&dump, &Report::new(&dump), arguments.kernels.backtraces(&dump).as_ref());
    drop(bar);
    if arguments.output == Path::new("-") {
        printed(out().write_all(page.as_bytes()).map_err(Into::into))?;
    } else {
        private::write(&arguments.output, page.as_bytes())
            .with_context(|| format!("the report cannot be written to {}", arguments.output.display()))?;
    }
    Ok(Finding::Good)
}
