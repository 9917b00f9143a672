//! `savecore drill`: proves the way of a dump without a crash, and says what would fail.

mod kernel;
mod memory;
mod rehearse;
mod store;
mod system;
mod target;

use std::io::{self, Write};
use std::path::PathBuf;

use savecore::arming::{LEFT_ALONE, System};
use savecore::boot::Config;
use savecore::ownership::Machine;
use savecore::targets::TargetName;
use savecore::text::harmless_line;

use self::memory::Memory;
use super::arm::SystemArguments;
use super::boot::{configuration, opener, targets};
use crate::output::{BAD, GOOD, WARNING, json, out, paint};
use crate::{Finding, printed};

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

/// What to do about a mistake in the configuration.
const ADVICE: &str =
    "correct it: until then `savecore boot` ignores that line and, where it matters, frees no dump";

/// The state of something.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Ok,
    Warn,
    Fail,
}

/// What was found out about one thing.
#[derive(serde::Serialize)]
struct Line {
    mark: Mark,
    /// About what.
    about: String,
    /// What was found.
    found: String,
    /// What to do.
    advice: Option<String>,
}

#[derive(Default, serde::Serialize)]
struct Drill {
    lines: Vec<Line>,
}

impl Drill {
    fn ok(&mut self, about: &str, found: impl Into<String>) {
        self.lines.push(Line { mark: Mark::Ok, about: about.to_owned(), found: found.into(), advice: None });
    }

    fn warn(&mut self, about: &str, found: impl Into<String>, advice: &str) {
        let advice = Some(advice.to_owned());
        self.lines.push(Line { mark: Mark::Warn, about: about.to_owned(), found: found.into(), advice });
    }

    fn fail(&mut self, about: &str, found: impl Into<String>, advice: &str) {
        let advice = Some(advice.to_owned()).filter(|advice| !advice.is_empty());
        self.lines.push(Line { mark: Mark::Fail, about: about.to_owned(), found: found.into(), advice });
    }

    fn print(&self) -> io::Result<()> {
        let mut out = out();
        for line in &self.lines {
            let (style, mark) = match line.mark {
                Mark::Ok => (GOOD, "ok  "),
                Mark::Warn => (WARNING, "warn"),
                Mark::Fail => (BAD, "fail"),
            };
            let advice = line.advice.as_ref().map_or(String::new(), |advice| format!("; {advice}"));
            let text = harmless_line(&format!("{}: {}{advice}", line.about, line.found));
            writeln!(out, "{}  {text}", paint(style, mark))?;
        }
        out.flush()
    }
}

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

/// The targets: those that were named, else those that would be harvested at boot.
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
