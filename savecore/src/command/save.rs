//! `savecore save`: saves every waiting dump to a folder in a store; when that is durable, frees its blocks.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::bail;
use bytesize::ByteSize;
use savecore::arming;
use savecore::corefile::{Compression, CoreOptions, Format, Level};
use savecore::harvest::{Harvest, Options, Saved, harvest, missing_stripes};
use savecore::source::Access;
use savecore::store::{self, Limits, MaxKept, MaxUsed};
use savecore::targets::Targets;

use super::targets::{IdentityArguments, TargetsArguments, warn_bare};
use super::{search, threads};
use crate::finding::{Finding, printed};
use crate::output::{self, Bar, GOOD, WARNING, count, json, out, paint, size, warning};

/// Save each waiting dump on TARGET to a folder of its own, and free its blocks when that is safe
///
/// An encrypted dump without --identity is saved as a raw copy, still encrypted, whose name ends in
/// ".diskdump"; where the key is, it is a TARGET for `savecore save --identity`. The stripes of a dump
/// become one core if you name all the TARGETs that they are on. A kernel that is armed on TARGET
/// stays armed meanwhile.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    targets: TargetsArguments,
    #[command(flatten)]
    identity: IdentityArguments,
    /// Where to save: a directory, or a URL (s3://BUCKET/PREFIX, gs://…, az://…)
    #[arg(long, short, value_name = "DIR|URL", default_value = "/var/crash")]
    output: String,
    /// Format of the saved dump
    #[arg(long, value_enum, default_value_t = FormatName::Elf)]
    format: FormatName,
    /// How a kdump is compressed
    #[arg(long, value_enum, default_value_t = CompressionName::Zlib)]
    compress: CompressionName,
    /// Leave pages out of the core, as makedumpfile -d: 1 zeros, 2 page cache, 4 page cache with private data too, 8 user
    /// memory, 16 free memory; and 32 everything except the kernel
    #[arg(long, value_name = "N")]
    level: Option<Level>,
    /// Threads that work on a core [default: one per CPU]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Name of the machine that crashed, for the folder's name [default: as the dump says, or this machine's]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Space to keep free in DIR
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = a_size)]
    min_free: ByteSize,
    /// How many crashes of a host to keep in DIR: a number, or "all". When a new one is safe, those in the middle of a row
    /// of crashes are removed first, then the oldest; the newest and the first of its row always stay
    #[arg(long, value_name = "N|all", default_value = "all")]
    max_kept: MaxKept,
    /// How much space they may take: a share of the file system such as "25%", a size, or "all"
    #[arg(long, value_name = "SHARE|SIZE|all", default_value = "all")]
    max_used: MaxUsed,
    /// Kernel with symbols, or a folder of them, for backtraces
    #[arg(long, value_name = "PATH")]
    kernel: Vec<PathBuf>,
    /// Write an HTML report too
    #[arg(long)]
    report: bool,
    /// Leave the dumps on TARGET as they are after saving
    #[arg(long)]
    keep: bool,
    /// Free damaged dumps too, once everything readable is saved
    #[arg(long, conflicts_with = "keep")]
    clear_damaged: bool,
    /// Free saved dumps on another machine's partition too
    #[arg(long, conflicts_with = "keep", requires = "targets")]
    foreign: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Search every block for dumps, not only those before the first free block
    #[arg(long)]
    search: bool,
}

/// A format, as an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum FormatName {
    /// ELF core, for gdb, crash and drgn
    Elf,
    /// Compressed kdump, for crash, drgn and makedumpfile
    Kdump,
    /// The dump as it is, for any savecore to read later
    Raw,
}

impl FormatName {
    pub(crate) fn format(self, compress: CompressionName) -> Format {
        match self {
            FormatName::Elf => Format::Elf,
            FormatName::Kdump => Format::Kdump(compress.compression()),
            FormatName::Raw => Format::Raw,
        }
    }
}

/// A compression, as an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum CompressionName {
    /// As makedumpfile -c; every reader supports it
    Zlib,
    /// As makedumpfile -z; smaller, and faster to read
    Zstd,
    /// Pages as they are
    None,
}

impl CompressionName {
    pub(crate) fn compression(self) -> Compression {
        match self {
            CompressionName::Zlib => Compression::Zlib,
            CompressionName::Zstd => Compression::Zstd,
            CompressionName::None => Compression::None,
        }
    }
}

/// A human-readable size.
fn a_size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| "a size is a number and a unit, such as 512MiB or 4GiB")
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let limits = Limits {
        min_free: arguments.min_free.as_u64(),
        max_kept: arguments.max_kept,
        max_used: arguments.max_used,
        ..Limits::default()
    };
    let core = CoreOptions { level: arguments.level, threads: threads(arguments.threads)? };
    if arguments.format == FormatName::Raw && arguments.level.is_some() {
        bail!("--level is for cores: a raw copy is always the whole dump");
    }
    let opener = arguments.identity.read()?;
    let mut store = store::open(&arguments.output, &limits)?;
    let owner = arguments.targets.owner();
    let mut bar = Bar::new();
    let access = if arguments.keep { Access::Read } else { Access::Harvest };
    let mut targets = Targets::open(
        &arguments.targets.names()?,
        access,
        search(arguments.search),
        opener.as_ref(),
        owner.machine(),
        &mut bar,
    )?;
    let options = Options {
        opener: opener.as_ref(),
        format: arguments.format.format(arguments.compress),
        core,
        host: arguments.host.clone(),
        own_host: None,
        machine: owner.machine().cloned(),
        foreign: arguments.foreign,
        keep: arguments.keep.then_some("--keep was given"),
        clear_damaged: arguments.clear_damaged,
        kernels: arguments.kernel.clone(),
        report: arguments.report,
    };
    let done = harvest(&mut targets, store.as_mut(), &options, &mut bar)?;
    bar.finish();
    if !done.dumps.is_empty() && done.dumps.iter().all(|saved| saved.cleared) {
        arming::tell_last(&arming::System::running(), &arguments.output);
    }
    for saved in &done.dumps {
        if let Some(error) = &saved.error {
            output::error(&format!("{}: dump {}: {error}", saved.on.join(", "), saved.dump.sequence));
        }
    }
    printed(if arguments.json { json(&done) } else { print_text(&done).map_err(anyhow::Error::from) })?;
    for saved in &done.dumps {
        warn(saved);
    }
    Ok(if done.failed() {
        Finding::Failed
    } else if done.nothing() {
        Finding::Negative
    } else {
        Finding::Good
    })
}

fn print_text(done: &Harvest) -> io::Result<()> {
    let mut out = out();
    for target in &done.targets {
        let shown = &target.target;
        if target.finished_clears > 0 {
            let dumps = count(target.finished_clears, "dump that was", "dumps that were");
            writeln!(out, "{shown}: finished clearing {dumps} saved before")?;
        } else if target.waiting == 0 {
            writeln!(out, "{shown}: no dump")?;
        }
    }
    for saved in &done.dumps {
        print_saved(&mut out, saved)?;
    }
    out.flush()
}

fn print_saved(out: &mut impl Write, saved: &Saved) -> io::Result<()> {
    let (None, Some(folder)) = (&saved.error, &saved.folder) else { return Ok(()) };
    let number = saved.dump.sequence;
    let style = if saved.dump.whole { GOOD } else { WARNING };
    let verb = if saved.already_there { "already saved in" } else { "saved in" };
    let what = match saved.dump.encryption {
        "sealed" => format!("dump {number}, still encrypted, {verb}"),
        _ => format!("dump {number} {verb}"),
    };
    writeln!(out, "{} {folder}", paint(style, what))?;
    writeln!(out, "  {}, {}", saved.dump.state(), saved.dump.when())?;
    for file in &saved.files {
        writeln!(out, "  {:<16} {}", file.name, size(file.bytes))?;
    }
    if saved.file.is_some() {
        let pages = saved.dump.pages;
        let known = output::pages(pages.data + pages.zero);
        writeln!(out, "  {known} known of {}", pages.total)?;
    } else if saved.dump.encryption == "sealed" {
        let files = saved.copies.join(" ");
        writeln!(out, "  where the key is: savecore save --identity FILE -o DIR {files}")?;
    }
    let on = saved.on.join(", ");
    match &saved.kept_because {
        Some(why) => writeln!(out, "  not cleared on {on}: {why}"),
        None => writeln!(out, "  cleared on {on}"),
    }
}

/// Prints warnings about missing data to standard error.
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
        warning(&format!("{shown}: dump {number}: {missing}: its pages are missing"));
    }
    if saved.dump.authentic == Some(false) {
        warning(&format!("{shown}: dump {number}: its header was changed after the dump: do not trust it"));
    }
    let parts = [
        (pages.unreadable, "the kernel could not read"),
        (pages.faulted, "faulted when the kernel read them"),
        (pages.damaged, "damaged in the dump"),
        (pages.not_written, "not written in time"),
        (pages.absent, "not in the dump"),
        (pages.untold, "for which this machine has too little memory"),
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
        warning(&format!("{shown}: dump {number}: notes are missing; registers and texts may be incomplete"));
    }
    if let Some(first) = saved.dump.first_foreign {
        let blocks = count(saved.dump.foreign_blocks, "block", "blocks");
        warning(&format!(
            "{shown}: dump {number}: {blocks} after it (from block {first}) are probably not part of the dump; --clear-damaged frees them too"
        ));
    }
    if saved.dump.damaged {
        warning(&format!("{shown}: dump {number} is damaged; `savecore info` says where"));
    }
    for text in &saved.warnings {
        warning(&format!("{shown}: dump {number}: {text}"));
    }
}
