//! `savecore info`: what crashed, when, why, and how much of it is in the dump.

use std::io::Write;
use std::path::Path;

use savecore::backtrace::Backtraces;
use savecore::dump::{Dump, DumpRef, Encryption, Report};
use savecore::keys::public_text;
use savecore::source::Access;
use savecore::targets::{OpenTarget, Opener, Targets};
use savecore::text::harmless;

use super::kernels::KernelArguments;
use super::targets::{IdentityArguments, TargetsArguments, identity, warn_bare};
use super::{search, story};
use crate::finding::{Finding, printed};
use crate::output::{Bar, FAINT, STRONG, WARNING, json, out, paint, warning};

/// Show what is known about each dump on TARGET
///
/// For an encrypted dump without --identity, this is what its header says, and whether it is whole.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    targets: TargetsArguments,
    #[command(flatten)]
    identity: IdentityArguments,
    #[command(flatten)]
    kernels: KernelArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Show the end of the kernel's log too
    #[arg(long, conflicts_with = "json")]
    log: bool,
    /// Show what each CPU was doing, if the kernel is found
    #[arg(long, conflicts_with = "json")]
    backtrace: bool,
    /// Search every block for dumps, not only those before the first free block
    #[arg(long)]
    search: bool,
}

#[derive(serde::Serialize)]
struct TargetResult<'a> {
    target: &'a str,
    uuid: uuid::Uuid,
    /// The public key that its dumps are encrypted to.
    recipient: Option<String>,
}

#[derive(serde::Serialize)]
struct DumpResult<'a> {
    /// Its targets, by stripe.
    on: Vec<&'a str>,
    #[serde(flatten)]
    report: Report,
    /// Backtraces of each CPU; `None` if the kernel's ELF file was not found.
    backtraces: Option<Backtraces>,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    targets: Vec<TargetResult<'a>>,
    dumps: Vec<DumpResult<'a>>,
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
    printed(if arguments.json {
        print_json(arguments, &targets, &dumps, opener.as_ref(), &mut bar)
    } else {
        print_text(arguments, &targets, &dumps, opener.as_ref(), &mut bar)
    })?;
    Ok(if dumps.is_empty() { Finding::Negative } else { Finding::Good })
}

/// Opens a dump and reports problems with its encryption.
fn open<'t>(
    targets: &'t Targets,
    places: &[DumpRef],
    opener: Option<&Opener>,
    bar: &mut Bar,
) -> (Dump<'t>, Report) {
    let dump = Dump::open_parts(targets.parts(places), identity(opener), bar);
    let report = Report::new(&dump);
    let names = targets.names(places).join(", ");
    if targets.is_bare(places) {
        warn_bare(&names, report.sequence);
    }
    if let (Encryption::Refused, Some(opener)) = (dump.encryption(), opener) {
        warning(&format!(
            "{names}: dump {}: {} cannot decrypt any of it: it is encrypted to another key, or all of it was changed",
            report.sequence, opener.file
        ));
    }
    (dump, report)
}

fn print_json(
    arguments: &Arguments,
    targets: &Targets,
    dumps: &[Vec<DumpRef>],
    opener: Option<&Opener>,
    bar: &mut Bar,
) -> anyhow::Result<()> {
    let mut results = Vec::new();
    for places in dumps {
        let (dump, report) = open(targets, places, opener, bar);
        let backtraces = arguments.kernels.backtraces(&dump);
        results.push(DumpResult { on: targets.names(places), report, backtraces });
    }
    let result = targets.open.iter().map(|OpenTarget { target, partition, .. }| TargetResult {
        target: target.name(),
        uuid: uuid::Uuid::from_bytes(partition.uuid()),
        recipient: partition.label.recipient().map(public_text),
    });
    json(&Result { targets: result.collect(), dumps: results })
}

fn print_text(
    arguments: &Arguments,
    targets: &Targets,
    dumps: &[Vec<DumpRef>],
    opener: Option<&Opener>,
    bar: &mut Bar,
) -> anyhow::Result<()> {
    for (index, places) in dumps.iter().enumerate() {
        let (dump, report) = open(targets, places, opener, bar);
        let mut out = out();
        if index > 0 {
            writeln!(out)?;
        }
        // A single target needs no name.
        if targets.open.len() > 1 {
            writeln!(out, "{}", paint(STRONG, targets.names(places).join(", ")))?;
        }
        let backtraces = arguments.kernels.backtraces(&dump);
        story::tell(&mut out, &report, backtraces.as_ref(), &next(arguments, &report))?;
        if let Some(text) = backtraces.as_ref().and_then(Backtraces::warning) {
            warning(&text);
        }
        match dump.encryption() {
            Encryption::None | Encryption::Opened => {}
            Encryption::Encrypted | Encryption::Refused => tell_key(&mut out, targets, places)?,
        }
        if arguments.backtrace {
            writeln!(out, "  {}", paint(FAINT, "backtraces"))?;
            let text = backtraces.map_or_else(
                || "The kernel was not found: name it with --kernel PATH".to_owned(),
                |backtraces| backtraces.to_string(),
            );
            for line in text.lines() {
                writeln!(out, "    {line}")?;
            }
        }
        if arguments.log && dump.encryption() != Encryption::Encrypted {
            let log = String::from_utf8_lossy(&dump.facts().log).into_owned();
            writeln!(out, "  {}", paint(FAINT, "log"))?;
            for line in harmless(&log).lines() {
                writeln!(out, "    {line}")?;
            }
        }
    }
    let mut out = out();
    for OpenTarget { target, partition, .. } in &targets.open {
        for range in &partition.foreign {
            let text = format!("blocks {} to {} belong to no dump", range.start, range.end - 1);
            writeln!(out, "{}", paint(WARNING, text))?;
        }
        if partition.dumps.is_empty() {
            writeln!(out, "{}: no dump", target.name())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The next step, as a command if possible.
fn next(arguments: &Arguments, report: &Report) -> String {
    let names = arguments.targets.named();
    let mut words: Vec<String> = names.iter().map(|name| quoted(&name.path)).collect();
    let partition = names.iter().find_map(|name| name.partition.as_ref());
    words.extend(partition.map(|partition| format!("--partition {}", quoted(partition.as_ref()))));
    words.extend(arguments.search.then(|| "--search".to_owned()));
    let identity = arguments.identity.file().map(|file| format!("--identity {}", quoted(file)));
    let command = |subcommand: &str, more: Option<String>| {
        let subcommand = format!("savecore {subcommand}");
        let words: Vec<String> = [subcommand].into_iter().chain(words.clone()).chain(more).collect();
        paint(STRONG, words.join(" "))
    };
    if report.status == "saved" {
        return format!("{}  (it was saved: this frees its blocks)", command("clear", None));
    }
    if !report.missing_stripes.is_empty() {
        return "name the other partitions that the dump is striped over, too".to_owned();
    }
    match report.encryption {
        "sealed" | "refused" => {
            let open = command("save", Some("--identity FILE".to_owned()));
            format!("{open}  (without --identity, it is saved encrypted)")
        }
        _ if report.damaged => {
            let save = command("save", identity);
            format!("{save}  (saves what is readable; a damaged dump stays in place)")
        }
        _ => command("save", identity),
    }
}

/// A word for a shell's command line, harmless to the terminal.
fn quoted(word: &Path) -> String {
    let word = word.to_string_lossy();
    let plain = |character: char| character.is_alphanumeric() || "/._-+=:,@%".contains(character);
    let text = if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    };
    harmless(&text)
}

/// Tells which key opens a dump that is not open.
fn tell_key(out: &mut impl Write, targets: &Targets, places: &[DumpRef]) -> anyhow::Result<()> {
    let labels = targets.of(places).map(|open| &open.partition.label);
    let key = labels.filter_map(|label| label.recipient()).next();
    let key = key.map_or("the label does not name it".to_owned(), public_text);
    writeln!(out, "  {} {key}", paint(FAINT, format_args!("{:<9}", "key")))?;
    Ok(())
}
