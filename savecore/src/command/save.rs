//! `savecore save`: every waiting dump becomes a core file; when that is safe, its blocks are freed.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use savecore::core::elf::{self, Unwalked, Written};
use savecore::dump::{Dump, Encryption, Report};
use savecore::partition::{self, Ending};
use savecore::source::Access;
use savecore::store::{Stored, stem, store};

use super::keys::public_text;
use super::targets::{
    IdentityArguments, Opener, Targets, TargetsArguments, identity, missing_stripes, warn_bare,
};
use super::{sealed, story};
use crate::output::{self, Bar, GOOD, WARNING, count, json, out, paint, size, warning};
use crate::{Finding, printed};

/// Write each waiting dump on TARGET to a core file, and free its blocks when the file is safe
///
/// Of an encrypted dump without --identity, what is written is a copy, still encrypted, whose name
/// ends in ".sealed": a TARGET for `savecore save --identity`, wherever the key is. The stripes of a
/// dump become one core if all the TARGETs that they are on are given.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    targets: TargetsArguments,
    #[command(flatten)]
    identity: IdentityArguments,
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
    /// The targets that it is on, by stripe.
    on: Vec<String>,
    file: Option<PathBuf>,
    log: Option<PathBuf>,
    /// Copies of an encrypted dump, one of each stripe.
    sealed: Vec<PathBuf>,
    /// Bytes of the core or the copies, holes included.
    bytes: Option<u64>,
    virtual_segments: Option<u64>,
    physical_segments: Option<u64>,
    /// Page tables that the dump does not have; `None` if no page tables were walked.
    missing_tables: Option<u64>,
    /// Why page tables, or those of one half of the address space, were not walked.
    unwalked: Option<String>,
    already_there: bool,
    cleared: bool,
    kept_because: Option<String>,
    error: Option<String>,
    unencrypted_despite_label: bool,
    dump: Report,
    /// Parts of it that still stand on their targets.
    #[serde(skip)]
    parts: usize,
    /// What a person should know about page tables.
    #[serde(skip)]
    tables_warnings: Vec<String>,
}

#[derive(serde::Serialize)]
struct TargetResult<'a> {
    target: &'a str,
    uuid: uuid::Uuid,
    /// The public key to which its dumps are encrypted.
    recipient: Option<String>,
    /// Dumps that an earlier run had saved, and that were freed now.
    finished_clears: u64,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    targets: Vec<TargetResult<'a>>,
    dumps: &'a [Saved],
}

/// What may happen to a dump's blocks on one target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They stay.
    Keep,
    /// What they hold is saved and they may go; the number is the dump's place in the list of results, if this run saved
    /// it.
    Free(Option<usize>),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    if !arguments.output.is_dir() {
        bail!("{} is not a directory: nothing was saved", arguments.output.display());
    }
    let opener = arguments.identity.read()?;
    let mut bar = Bar::new();
    let access = if arguments.keep { Access::Read } else { Access::Write };
    let mut targets = Targets::open(&arguments.targets, access, arguments.search, opener.as_ref(), &mut bar)?;
    for (target, partition) in targets.targets.iter().zip(&targets.partitions) {
        for range in &partition.foreign {
            let shown = target.name();
            warning(&format!("{shown}: blocks {} to {} belong to no dump", range.start, range.end - 1));
        }
    }
    let mut results = Vec::new();
    let fates = targets.partitions.iter().map(|partition| vec![Fate::Keep; partition.dumps.len()]);
    let mut fates: Vec<Vec<Fate>> = fates.collect();
    for places in targets.dumps() {
        let (saved_before, waiting): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|place| targets.found(*place).ending == Ending::Saved);
        for (target, dump) in saved_before.iter().copied() {
            fates[target][dump] = Fate::Free(None);
        }
        if waiting.is_empty() {
            continue;
        }
        if !saved_before.is_empty() {
            let shown = targets.names(&waiting).join(", ");
            warning(&format!(
                "{shown}: another stripe of a dump here was harvested before, and this one was not"
            ));
        }
        let mut saved = save(arguments, &targets, &waiting, opener.as_ref(), &mut bar);
        saved.kept_because = kept_because(arguments, &targets, &waiting, &saved);
        if let Some(error) = &saved.error {
            output::error(&format!("{}: dump {}: {error}", saved.on.join(", "), saved.dump.sequence));
        }
        let free = saved.kept_because.is_none();
        for (target, dump) in waiting {
            if free {
                fates[target][dump] = Fate::Free(Some(results.len()));
                // From now on an interrupted run is finished by the next one, without saving again.
                let found = &targets.partitions[target].dumps[dump];
                let target = &mut targets.targets[target];
                partition::mark_saved(target, found).with_context(|| target.name().to_owned())?;
            }
        }
        results.push(saved);
    }
    let mut finished = vec![0; targets.targets.len()];
    if !arguments.keep {
        for (index, finished) in finished.iter_mut().enumerate() {
            if targets.partitions[index].defect.is_none() && !targets.copies[index] {
                *finished = free(&mut targets, index, &fates[index], &mut results, &mut bar)?;
            }
        }
    }
    let told = if arguments.json {
        print_json(&targets, &finished, &results)
    } else {
        print_text(&targets, &finished, &results).map_err(anyhow::Error::from)
    };
    printed(told)?;
    for saved in &results {
        warn(saved);
    }
    Ok(if results.iter().any(|saved| saved.error.is_some()) {
        Finding::Failed
    } else if results.is_empty() && finished.iter().all(|finished| *finished == 0) {
        Finding::Negative
    } else {
        Finding::Good
    })
}

/// Why a dump that was just saved, or could not be, stays where it is.
fn kept_because(
    arguments: &Arguments,
    targets: &Targets,
    places: &[(usize, usize)],
    saved: &Saved,
) -> Option<String> {
    if saved.error.is_some() {
        return Some("it could not be saved".to_owned());
    }
    if arguments.keep {
        return Some("--keep was given".to_owned());
    }
    if places.iter().any(|place| targets.copies[place.0]) {
        return Some("a sealed copy is never changed".to_owned());
    }
    if let Some(defect) = places.iter().find_map(|place| targets.partitions[place.0].defect) {
        return Some(defect.clause().to_owned());
    }
    if arguments.clear_damaged {
        return None;
    }
    if let Some(missing) = missing_stripes(&saved.dump) {
        return Some(format!("{missing}; --clear-damaged or `savecore clear` frees what is here"));
    }
    let damaged = "it is damaged; --clear-damaged or `savecore clear` frees it";
    saved.dump.damaged.then(|| damaged.to_owned())
}

/// Writes one dump's files.
fn save(
    arguments: &Arguments,
    targets: &Targets,
    places: &[(usize, usize)],
    opener: Option<&Opener>,
    bar: &mut Bar,
) -> Saved {
    let dump = Dump::open_parts(targets.parts(places), identity(opener), bar);
    let mut saved = Saved {
        on: targets.names(places).into_iter().map(str::to_owned).collect(),
        file: None,
        log: None,
        sealed: Vec::new(),
        bytes: None,
        virtual_segments: None,
        physical_segments: None,
        missing_tables: None,
        unwalked: None,
        already_there: false,
        cleared: false,
        kept_because: None,
        error: None,
        unencrypted_despite_label: targets.is_bare(places),
        dump: Report::new(&dump),
        parts: places.len(),
        tables_warnings: Vec::new(),
    };
    let done = match dump.encryption() {
        Encryption::None | Encryption::Opened => save_core(arguments, &dump, &mut saved, bar),
        Encryption::Sealed if places.iter().any(|place| targets.copies[place.0]) => {
            Err("it is a sealed copy already: --identity FILE opens it".to_owned())
        }
        Encryption::Sealed => save_sealed(arguments, &dump, &mut saved, bar),
        Encryption::Refused => {
            let file = opener.map_or("--identity", Opener::file);
            Err(format!(
                "{file} opens nothing of it: it is encrypted to another key, or all of it was changed"
            ))
        }
    };
    saved.error = done.err();
    saved
}

/// The start of the names of a dump's files.
fn stem_of(dump: &Dump<'_>) -> String {
    let numbers: Vec<String> = dump.missing_stripes().iter().map(|stripe| (stripe + 1).to_string()).collect();
    match numbers.as_slice() {
        [] => stem(dump),
        // It has another name than the whole dump, which may be saved yet.
        numbers => format!("{}-without-stripe-{}", stem(dump), numbers.join("-")),
    }
}

/// Writes log and core.
fn save_core(
    arguments: &Arguments,
    dump: &Dump<'_>,
    saved: &mut Saved,
    bar: &mut Bar,
) -> std::result::Result<(), String> {
    let stem = stem_of(dump);
    let log = &dump.facts().log;
    if !log.is_empty() {
        let name = format!("{stem}.log");
        let mut write = |mut file: &File| file.write_all(log).map_err(savecore::Error::Core);
        store(&arguments.output, &name, &mut write).map_err(|error| error.to_string())?;
        saved.log = Some(arguments.output.join(name));
    }
    let name = format!("{stem}.elf");
    let (stored, written): (Stored, Written) =
        store(&arguments.output, &name, &mut |mut file| elf::write(dump, &mut file, bar))
            .map_err(|error| error.to_string())?;
    saved.file = Some(arguments.output.join(name));
    saved.bytes = Some(written.length);
    saved.virtual_segments = Some(written.virtual_segments);
    saved.physical_segments = Some(written.physical_segments);
    saved.missing_tables = written.walked.map(|walked| walked.missing);
    saved.unwalked = written.unwalked.map(|why| why.to_string());
    saved.tables_warnings = tables_warnings(&written);
    saved.already_there = stored == Stored::AlreadyThere;
    Ok(())
}

/// Writes a copy of each part of an encrypted dump.
fn save_sealed(
    arguments: &Arguments,
    dump: &Dump<'_>,
    saved: &mut Saved,
    bar: &mut Bar,
) -> std::result::Result<(), String> {
    let stripes = saved.dump.stripes;
    let mut bytes = 0;
    saved.already_there = true;
    for part in dump.parts() {
        let alone;
        let original = if let [_] = dump.parts() {
            dump
        } else {
            alone = Dump::open_with(part.source, part.uuid, &part.found, None, bar);
            &alone
        };
        let stripe = match stripes {
            0 | 1 => String::new(),
            _ => format!("-stripe-{}-of-{stripes}", part.found.header.stripe.get() + 1),
        };
        let name = format!("{}{stripe}.{}", stem(dump), sealed::EXTENSION);
        let mut write = |file: &File| sealed::carry_away(part, original, file, bar);
        let (stored, length) =
            store(&arguments.output, &name, &mut write).map_err(|error| error.to_string())?;
        saved.sealed.push(arguments.output.join(name));
        saved.already_there &= stored == Stored::AlreadyThere;
        bytes += length;
    }
    saved.bytes = Some(bytes);
    Ok(())
}

/// Frees dumps of a target from the last one on, up to the first that is kept, so that no gap is in front of a dump: the
/// kernel looks for free blocks behind the last one. Gives the number of dumps that an earlier run had saved.
fn free(
    targets: &mut Targets,
    index: usize,
    fates: &[Fate],
    results: &mut [Saved],
    bar: &mut Bar,
) -> anyhow::Result<u64> {
    let partition = &targets.partitions[index];
    let target = &mut targets.targets[index];
    let uuid = partition.uuid();
    let mut finished = 0;
    let mut behind_is_kept = false;
    for (found, fate) in partition.dumps.iter().zip(fates).rev() {
        let Fate::Free(result) = fate else {
            behind_is_kept = true;
            continue;
        };
        let saved = result.and_then(|index| results.get_mut(index));
        if behind_is_kept {
            if let Some(saved) = saved {
                saved.kept_because = Some("a dump behind it is kept; it is marked as saved".to_owned());
            }
            continue;
        }
        partition::clear(target, &uuid, found, bar).with_context(|| target.name().to_owned())?;
        match saved {
            Some(saved) => {
                saved.parts -= 1;
                saved.cleared = saved.parts == 0;
            }
            None => finished += 1,
        }
    }
    Ok(finished)
}

fn print_json(targets: &Targets, finished: &[u64], results: &[Saved]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for ((target, partition), finished) in targets.targets.iter().zip(&targets.partitions).zip(finished) {
        all.push(TargetResult {
            target: target.name(),
            uuid: uuid::Uuid::from_bytes(partition.uuid()),
            recipient: partition.label.recipient().map(public_text),
            finished_clears: *finished,
        });
    }
    json(&Result { targets: all, dumps: results })
}

fn print_text(targets: &Targets, finished: &[u64], results: &[Saved]) -> io::Result<()> {
    let mut out = out();
    for ((target, partition), finished) in targets.targets.iter().zip(&targets.partitions).zip(finished) {
        let shown = target.name();
        if *finished > 0 {
            let dumps = count(*finished, "dump that was", "dumps that were");
            writeln!(out, "{shown}: finished clearing {dumps} saved before")?;
        } else if partition.waiting().next().is_none() {
            writeln!(out, "{shown}: no dump")?;
        }
    }
    for saved in results {
        print_saved(&mut out, saved)?;
    }
    out.flush()
}

fn print_saved(out: &mut impl Write, saved: &Saved) -> io::Result<()> {
    let (None, Some(bytes)) = (&saved.error, saved.bytes) else { return Ok(()) };
    let number = saved.dump.sequence;
    let style = if saved.dump.whole { GOOD } else { WARNING };
    let verb = if saved.already_there { "already saved as" } else { "saved as" };
    match &saved.file {
        Some(file) => {
            writeln!(out, "{} {}", paint(style, format_args!("dump {number} {verb}")), file.display())?;
        }
        None => {
            let what = format!("dump {number}, still encrypted, {verb}");
            writeln!(out, "{} {}", paint(style, what), listed(&saved.sealed))?;
        }
    }
    writeln!(out, "  {}, {}", story::state(&saved.dump), story::when(&saved.dump))?;
    if let Some(log) = &saved.log {
        writeln!(out, "  the kernel's log: {}", log.display())?;
    }
    if saved.file.is_some() {
        let pages = saved.dump.pages;
        let known = output::pages(pages.data + pages.zero);
        writeln!(out, "  {known} known of {}; file of {}, holes included", pages.total, size(bytes))?;
    } else {
        let files = listed(&saved.sealed);
        writeln!(out, "  where the key is: savecore save --identity FILE -o DIR {files}")?;
    }
    let on = saved.on.join(", ");
    match &saved.kept_because {
        Some(why) => writeln!(out, "  not cleared on {on}: {why}"),
        None => writeln!(out, "  cleared on {on}"),
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// Says on standard error what is missing.
fn warn(saved: &Saved) {
    if saved.error.is_some() {
        return;
    }
    let shown = saved.on.join(", ");
    let number = saved.dump.sequence;
    let pages = saved.dump.pages;
    if saved.unencrypted_despite_label {
        warn_bare(&shown, number);
    }
    if let Some(missing) = missing_stripes(&saved.dump) {
        warning(&format!("{shown}: dump {number}: {missing}: what is on it is missing"));
    }
    if saved.dump.authentic == Some(false) {
        warning(&format!(
            "{shown}: dump {number}: its header is not what was written: do not trust what it says"
        ));
    }
    let parts = [
        (pages.unreadable, "not readable for the kernel"),
        (pages.faulted, "faulted when the kernel read them"),
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
    for text in &saved.tables_warnings {
        warning(&format!("{shown}: dump {number}: {text}"));
    }
}

/// What a person should know about the page tables behind a core.
fn tables_warnings(written: &Written) -> Vec<String> {
    let mut warnings = Vec::new();
    let only = "is there by physical address only";
    match written.unwalked {
        Some(Unwalked::Refused(why)) if written.walked.is_some() => {
            warnings.push(format!("the page tables of one half of the address space cannot be read: {why}"));
        }
        Some(Unwalked::Refused(why)) => {
            warnings.push(format!("the page tables cannot be read: {why}; memory {only}"));
        }
        Some(why @ Unwalked::Unknown) => warnings.push(format!("{why}; memory {only}")),
        // Without page tables in use, physical addresses are the kernel's own.
        Some(Unwalked::Off) | None => {}
    }
    match written.walked {
        Some(walked) if walked.missing > 0 => warnings.push(format!(
            "{} missing; what they map {only}",
            count(walked.missing, "page table is", "page tables are")
        )),
        _ => {}
    }
    warnings
}
