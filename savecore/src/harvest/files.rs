//! The files of a crash's folder: the core or the copies, the kernel's log, what each CPU was doing.

use dumpcore::format::BLOCK_SIZE;

use super::saved::tables_warnings;
use super::{Options, Saved, Work};
use crate::Error;
use crate::backtrace::{self, Backtraces, Call};
use crate::core::{Format, Level, Sink, elf, kdump, raw};
use crate::dump::{Dump, Part};
use crate::report::html;
use crate::source::Progress;
use crate::store::Folder;
use crate::targets::COPY;
use crate::text::harmless;

/// The kernel's log.
pub(super) const LOG: &str = "dmesg.txt";

/// What each CPU was doing.
pub(super) const BACKTRACE: &str = "backtrace.txt";

/// A page for people.
const REPORT: &str = "report.html";

/// Functions of the CPU that crashed that `info.json` names, at most.
const MAX_FUNCTIONS: usize = 32;

/// The names of the core's files: one, but for raw copies of stripes.
pub(super) fn core_names(dump: &Dump<'_>, format: Format) -> Vec<String> {
    match format {
        Format::Raw if dump.stripes() > 1 => {
            let name = |part: &Part<'_>| {
                let stripe = u64::from(part.found.header.stripe.get()) + 1;
                format!("vmcore-{stripe}-of-{}.{COPY}", dump.stripes())
            };
            dump.parts().iter().map(name).collect()
        }
        Format::Raw => vec![format!("vmcore.{COPY}")],
        format => vec![format!("vmcore.{}", format.name())],
    }
}

/// Bytes that the core takes in a store, at most; holes do not count.
///
/// # Errors
/// If no core of that format can hold the dump.
pub(super) fn room(dump: &Dump<'_>, format: Format) -> Result<u64, Error> {
    let core = match format {
        Format::Raw => {
            let blocks: u64 = dump.parts().iter().map(|part| part.found.blocks()).sum();
            blocks.saturating_mul(BLOCK_SIZE as u64)
        }
        Format::Elf => dump.pages().data.saturating_mul(BLOCK_SIZE as u64),
        Format::Kdump(_) => kdump::room(dump)?,
    };
    // Headers and notes, and what else is in the folder.
    Ok(core.saturating_add(dump.facts().log.len() as u64).saturating_add(1 << 20))
}

/// Writes all of them.
pub(super) fn write(
    work: &Work<'_, '_>,
    names: &[String],
    folder: &mut dyn Folder,
    options: &Options<'_>,
    saved: &mut Saved,
    progress: &mut dyn Progress,
) -> Result<(), String> {
    let Work { dump, selection, format, .. } = work;
    match *format {
        Format::Raw => copies(dump, names, folder, saved, progress)?,
        Format::Elf => {
            let mut written = None;
            file(folder, &names[0], &mut |sink| {
                written = Some(elf::write(dump, &options.core, sink, progress)?);
                Ok(())
            })?;
            if let Some(written) = written {
                saved.bytes = Some(written.length);
                saved.virtual_segments = Some(written.virtual_segments);
                saved.physical_segments = Some(written.physical_segments);
                saved.missing_tables = written.walked.map(|walked| walked.missing);
                saved.unwalked = written.unwalked.map(|why| why.to_string());
                saved.warnings.extend(tables_warnings(&written));
            }
        }
        Format::Kdump(compression) => {
            let mut written = None;
            file(folder, &names[0], &mut |sink| {
                written = Some(kdump::write(dump, compression, &options.core, sink, progress)?);
                Ok(())
            })?;
            saved.bytes = written.map(|written| written.length);
        }
    }
    if *format != Format::Raw {
        saved.level = selection.level().map(Level::bits);
        saved.pages_left_out = selection.left_out();
        saved.level_unknown_pages = selection.unknown_pages();
        saved.warnings.extend(selection.warning());
    }
    let log = &dump.facts().log;
    if !log.is_empty() {
        put(folder, LOG, &harmless(&String::from_utf8_lossy(log)))?;
    }
    let backtraces = trace(dump, options, saved);
    if let Some(backtraces) = &backtraces {
        put(folder, BACKTRACE, &backtraces.to_string())?;
    }
    if options.report {
        put(folder, REPORT, &html(dump, &saved.dump, backtraces.as_ref()))?;
    }
    Ok(())
}

/// Backtraces, if there is a kernel with symbols. What goes wrong with them costs nothing but them.
fn trace(dump: &Dump<'_>, options: &Options<'_>, saved: &mut Saved) -> Option<Backtraces> {
    match backtrace::trace(dump, &options.kernels) {
        Ok(backtraces) => {
            let backtraces = backtraces?;
            saved.kernel = Some(backtraces.kernel.clone());
            saved.frames = crashing_functions(&backtraces);
            Some(backtraces)
        }
        Err(error) => {
            saved.warnings.push(format!("no backtraces: {error}"));
            None
        }
    }
}

/// The functions in which the CPU was that crashed, the innermost first.
fn crashing_functions(backtraces: &Backtraces) -> Vec<String> {
    let calls = backtraces.crashing().into_iter().flat_map(|cpu| cpu.calls());
    let function = |(_, call): (_, Option<&Call>)| call.map(|call| call.function.clone());
    calls.filter_map(function).take(MAX_FUNCTIONS).collect()
}

/// Writes a raw copy of each part of a dump.
fn copies(
    dump: &Dump<'_>,
    names: &[String],
    folder: &mut dyn Folder,
    saved: &mut Saved,
    progress: &mut dyn Progress,
) -> Result<(), String> {
    let mut bytes = 0;
    for (part, name) in dump.parts().iter().zip(names) {
        let alone;
        let original = if let [_] = dump.parts() {
            dump
        } else {
            alone = Dump::open_with(part.source, part.uuid, &part.found, None, progress);
            &alone
        };
        file(folder, name, &mut |sink| {
            bytes += raw::write(part, original, sink, progress)?;
            Ok(())
        })?;
    }
    saved.bytes = Some(bytes);
    Ok(())
}

/// Writes a text.
fn put(folder: &mut dyn Folder, name: &str, text: &str) -> Result<(), String> {
    file(folder, name, &mut |sink| {
        let length = text.len() as u64;
        sink.begin(0, Some(length))
            .and_then(|()| sink.write_at(0, text.as_bytes()))
            .and_then(|()| sink.set_len(length))
            .map_err(Error::Core)
    })
}

fn file(
    folder: &mut dyn Folder,
    name: &str,
    write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), Error>,
) -> Result<(), String> {
    folder.file(name, write).map_err(|error| error.to_string())
}
