//! `savecore save`: every waiting dump becomes a core file; when that is safe, its blocks are freed.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use savecore::core::elf::{self, Written};
use savecore::dump::{Dump, Report};
use savecore::partition::{self, Ending, Found};
use savecore::source::{Access, Target};
use savecore::store::{Stored, stem, store};

use super::{TargetArguments, salvage, story};
use crate::output::{self, Bar, GOOD, WARNING, count, json, out, paint, size, warning};
use crate::{Finding, printed};

/// Write each waiting dump on TARGET to a core file, and free its blocks when the file is safe
#[derive(clap::Args)]
#[command(after_help = crate::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Directory for the core files
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Leave the dumps on TARGET as they are
    #[arg(long)]
    keep: bool,
    /// Free damaged dumps too, once what is readable is saved
    #[arg(long, conflicts_with = "keep")]
    clear_damaged: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Look at every block for dumps, not only in front of the first free block
    #[arg(long)]
    search: bool,
}

/// What became of one dump.
#[derive(serde::Serialize)]
struct Saved {
    file: Option<PathBuf>,
    log: Option<PathBuf>,
    bytes: Option<u64>,
    virtual_segments: Option<u64>,
    physical_segments: Option<u64>,
    /// Page tables that the dump does not have; `None` if no page tables were walked.
    missing_tables: Option<u64>,
    already_there: bool,
    cleared: bool,
    kept_because: Option<&'static str>,
    error: Option<String>,
    dump: Report,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    target: &'a str,
    uuid: uuid::Uuid,
    dumps: &'a [Saved],
    /// Dumps that an earlier run had saved, and that were freed now.
    finished_clears: u64,
}

/// What may happen to a dump's blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Keep,
    /// It is saved and may go; the number is its place in the list of results, if this run saved it.
    Free(Option<usize>),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    if !arguments.output.is_dir() {
        bail!("{} is not a directory: nothing was saved", arguments.output.display());
    }
    let access = if arguments.keep { Access::Read } else { Access::Write };
    let mut target = arguments.target.open(access)?;
    let shown = target.name().to_owned();
    let mut bar = Bar::new();
    let partition = salvage(&target, arguments.search, &mut bar)?;
    let uuid = partition.uuid();
    for range in &partition.foreign {
        warning(&format!("{shown}: blocks {} to {} belong to no dump", range.start, range.end - 1));
    }
    let mut results = Vec::new();
    let mut fates = Vec::new();
    for found in &partition.dumps {
        if found.ending == Ending::Saved {
            fates.push(Fate::Free(None));
            continue;
        }
        let dump = Dump::open_with(&target, uuid, found, &mut bar);
        let mut saved = save(arguments, &dump, &mut bar);
        drop(dump);
        saved.kept_because = match (&saved.error, arguments.keep) {
            (Some(_), _) => Some("it could not be saved"),
            (None, true) => Some("--keep was given"),
            (None, false) if let Some(defect) = partition.defect => Some(defect.clause()),
            (None, false) if saved.dump.damaged && !arguments.clear_damaged => {
                Some("it is damaged; --clear-damaged or `savecore clear` frees it")
            }
            (None, false) => None,
        };
        if let Some(error) = &saved.error {
            output::error(&format!("{shown}: dump {}: {error}", saved.dump.sequence));
        }
        let free = saved.kept_because.is_none();
        fates.push(if free { Fate::Free(Some(results.len())) } else { Fate::Keep });
        results.push(saved);
        if free {
            // From now on an interrupted run is finished by the next one, without saving again.
            partition::mark_saved(&mut target, found).with_context(|| shown.clone())?;
        }
    }
    let mut finished_clears = 0;
    if !arguments.keep && partition.defect.is_none() {
        finished_clears = free(&mut target, &uuid, &partition.dumps, &fates, &mut results, &mut bar)
            .with_context(|| shown.clone())?;
    }
    let told = if arguments.json {
        let uuid = uuid::Uuid::from_bytes(uuid);
        json(&Result { target: &shown, uuid, dumps: &results, finished_clears })
    } else {
        print_text(&shown, &results, finished_clears).map_err(anyhow::Error::from)
    };
    printed(told)?;
    for saved in &results {
        warn(&shown, saved);
    }
    Ok(if results.iter().any(|saved| saved.error.is_some()) {
        Finding::Failed
    } else if results.is_empty() && finished_clears == 0 {
        Finding::Negative
    } else {
        Finding::Good
    })
}

/// Writes one dump's files.
fn save(arguments: &Arguments, dump: &Dump<'_>, bar: &mut Bar) -> Saved {
    let stem = stem(dump);
    let mut saved = Saved {
        file: None,
        log: None,
        bytes: None,
        virtual_segments: None,
        physical_segments: None,
        missing_tables: None,
        already_there: false,
        cleared: false,
        kept_because: None,
        error: None,
        dump: Report::new(dump),
    };
    let log = &dump.facts().log;
    if !log.is_empty() {
        let name = format!("{stem}.log");
        let mut write = |mut file: &std::fs::File| file.write_all(log).map_err(savecore::Error::Core);
        match store(&arguments.output, &name, &mut write) {
            Ok(_) => saved.log = Some(arguments.output.join(name)),
            Err(error) => {
                saved.error = Some(error.to_string());
                return saved;
            }
        }
    }
    let name = format!("{stem}.elf");
    let written: std::result::Result<(Stored, Written), _> =
        store(&arguments.output, &name, &mut |mut file| elf::write(dump, &mut file, bar));
    match written {
        Ok((stored, written)) => {
            saved.file = Some(arguments.output.join(name));
            saved.bytes = Some(written.length);
            saved.virtual_segments = Some(written.virtual_segments);
            saved.physical_segments = Some(written.physical_segments);
            saved.missing_tables = written.walked.map(|walked| walked.missing);
            saved.already_there = stored == Stored::AlreadyThere;
        }
        Err(error) => saved.error = Some(error.to_string()),
    }
    saved
}

/// Frees dumps from the last one on, up to the first that is kept, so that no gap is in front of a dump: the kernel
/// looks for free blocks behind the last one. Gives the number of dumps that an earlier run had saved.
fn free(
    target: &mut Target,
    uuid: &dumpcore::format::Uuid,
    dumps: &[Found],
    fates: &[Fate],
    results: &mut [Saved],
    bar: &mut Bar,
) -> std::result::Result<u64, savecore::Error> {
    let mut finished = 0;
    let mut behind_is_kept = false;
    for (found, fate) in dumps.iter().zip(fates).rev() {
        let Fate::Free(result) = fate else {
            behind_is_kept = true;
            continue;
        };
        let saved = result.and_then(|index| results.get_mut(index));
        if behind_is_kept {
            if let Some(saved) = saved {
                saved.kept_because = Some("a dump behind it is kept; it is marked as saved");
            }
            continue;
        }
        partition::clear(target, uuid, found, bar)?;
        match saved {
            Some(saved) => saved.cleared = true,
            None => finished += 1,
        }
    }
    Ok(finished)
}

fn print_text(shown: &str, results: &[Saved], finished_clears: u64) -> io::Result<()> {
    let mut out = out();
    if finished_clears > 0 {
        let dumps = count(finished_clears, "dump that was", "dumps that were");
        writeln!(out, "{shown}: finished clearing {dumps} saved before")?;
    } else if results.is_empty() {
        writeln!(out, "{shown}: no dump")?;
    }
    for saved in results {
        let (Some(file), Some(bytes)) = (&saved.file, saved.bytes) else { continue };
        let style = if saved.dump.whole { GOOD } else { WARNING };
        let verb = if saved.already_there { "already saved as" } else { "saved as" };
        writeln!(
            out,
            "{} {}",
            paint(style, format_args!("dump {} {verb}", saved.dump.sequence)),
            file.display()
        )?;
        writeln!(out, "  {}, {}", story::state(&saved.dump), story::when(&saved.dump))?;
        if let Some(log) = &saved.log {
            writeln!(out, "  the kernel's log: {}", log.display())?;
        }
        let pages = saved.dump.pages;
        let known = output::pages(pages.data + pages.zero);
        writeln!(out, "  {known} known of {}; file of {}, holes included", pages.total, size(bytes))?;
        match saved.kept_because {
            Some(why) => writeln!(out, "  not cleared on {shown}: {why}")?,
            None => writeln!(out, "  cleared on {shown}")?,
        }
    }
    out.flush()
}

/// Says on standard error what is missing.
fn warn(shown: &str, saved: &Saved) {
    if saved.error.is_some() {
        return;
    }
    let number = saved.dump.sequence;
    let pages = saved.dump.pages;
    let parts = [
        (pages.unreadable, "not readable for the kernel"),
        (pages.damaged, "damaged in the dump"),
        (pages.not_written, "not written in time"),
        (pages.absent, "not in the dump"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    if !parts.is_empty() {
        let total = pages.total;
        warning(&format!("{shown}: dump {number}: missing of {total} pages: {}", parts.join(", ")));
    }
    if saved.dump.notes_damaged {
        warning(&format!("{shown}: dump {number}: notes are missing; registers and texts may not be whole"));
    }
    if let Some(first) = saved.dump.first_foreign {
        let blocks = count(saved.dump.foreign_blocks, "block", "blocks");
        warning(&format!(
            "{shown}: dump {number}: {blocks} behind it, from block {first} on, likely foreign; --clear-damaged would free them too"
        ));
    }
    if saved.dump.damaged {
        warning(&format!("{shown}: dump {number} is damaged; `savecore info` says where"));
    }
    match (saved.missing_tables, saved.virtual_segments) {
        (Some(tables), _) if tables > 0 => warning(&format!(
            "{shown}: dump {number}: {} missing; what they map is there by physical address only",
            count(tables, "page table is", "page tables are")
        )),
        (None, _) if saved.dump.arch == "x86_64" => warning(&format!(
            "{shown}: dump {number}: no CPU's page tables are known; memory is there by physical address only"
        )),
        _ => {}
    }
}
