//! `savecore drill`: tests the whole way of a dump without a crash, and reports what would fail.

mod kernel;
mod memory;
mod rehearse;
mod result;
mod scratch;
mod store;
mod system;
mod target;

use std::path::PathBuf;

use savecore::arming::{LEFT_ALONE, System};
use savecore::boot::Config;
use savecore::ownership::Machine;
use savecore::targets::TargetName;

use self::memory::Memory;
use self::result::{Drill, Mark};
use super::configuration::{configuration, opener, targets};
use super::system::SystemArguments;
use crate::finding::{Finding, printed};
use crate::output::json;

const EXIT_CODES: &str = "\
Exit codes:
  0  a dump would succeed, as far as can be seen; warnings say what could be better
  1  something would fail; the output says what, and what to do
  2  error: bad arguments";

/// Check without a crash that a dump would succeed: partition, kernel, store, key, hooks, units, debugger
///
/// Partitions are only read; a small file is written to the store and removed. With --write, a small dump is also
/// written into free blocks of each partition, saved, compared, and removed. The kernel must not be armed meanwhile:
/// run `savecore disarm` before and `savecore arm` after.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Block devices or image files, instead of those in the configuration
    #[arg(value_name = "TARGET")]
    targets: Vec<PathBuf>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID", requires = "targets")]
    partition: Option<String>,
    #[command(flatten)]
    reading: super::ReadingArguments,
    /// Configuration file [default: /etc/savecore.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check a few blocks of each partition instead of all
    #[arg(long, conflicts_with = "write")]
    quick: bool,
    /// Write a small dump to each partition, save it, compare, and remove it
    #[arg(long)]
    write: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// Advice for a mistake in the configuration.
const ADVICE: &str =
    "correct it: until then `savecore boot` ignores that line and, where it matters, frees no dump";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let mut drill = Drill::default();
    let config = match configuration(arguments.config.as_deref()) {
        Ok(config) => {
            for line in &config.faults.lines {
                drill.fail("configuration", line.clone(), ADVICE);
            }
            config
        }
        Err(error) => {
            drill.fail("configuration", error.to_string(), "correct it; the defaults are tried here");
            Config::default()
        }
    };
    let system = arguments.system.system();
    let machine = Machine::of(&system.root);
    let names = names(arguments, &config, &system, &mut drill);
    let opener = opener(&config).unwrap_or_else(|error| {
        drill.fail("key", format!("{error:#}"), "");
        None
    });
    if names.is_empty() {
        drill.fail(
            "targets",
            "this machine has no dump partition",
            "`savecore format` makes one, `savecore adopt` takes one over",
        );
    }
    let memory = Memory::of(&system);
    let look = target::Look {
        quick: arguments.quick,
        opener: opener.as_ref(),
        machine: machine.as_ref(),
        system: &system,
        memory: memory.as_ref(),
    };
    for name in &names {
        target::look(name, &look, &mut drill);
    }
    store::look(&config, memory.as_ref(), &mut drill);
    kernel::look(&config, &system, &names, &mut drill);
    system::look(&config, &mut drill);
    if arguments.write {
        for name in &names {
            rehearse::rehearse(name, &config, &mut drill);
        }
    }
    printed(if arguments.json { json(&drill) } else { drill.print().map_err(anyhow::Error::from) })?;
    let failed = drill.lines.iter().any(|line| line.mark == Mark::Fail);
    Ok(if failed { Finding::Negative } else { Finding::Good })
}

/// The targets: those given as arguments, or else those that would be harvested at boot.
fn names(arguments: &Arguments, config: &Config, system: &System, drill: &mut Drill) -> Vec<TargetName> {
    if !arguments.targets.is_empty() {
        let name = |path: &PathBuf| TargetName {
            path: path.clone(),
            partition: arguments.partition.clone(),
            reading: arguments.reading.reading(),
        };
        return arguments.targets.iter().map(name).collect();
    }
    match targets(config, system) {
        Ok(chosen) => {
            for defect in chosen.defects {
                drill.warn("targets", defect, "name the dump partitions in `targets` if this one matters");
            }
            if let Some(left_alone) = chosen.left_alone {
                let found = format!("{LEFT_ALONE}: {left_alone}");
                drill.ok("targets", found);
            }
            chosen.names
        }
        Err(error) => {
            drill.fail("targets", format!("{error:#}"), "name the dump partitions in `targets`");
            Vec::new()
        }
    }
}
