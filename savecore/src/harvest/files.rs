//! The files of a crash's folder: the core or raw copies, the kernel's log, backtraces.

use dumpcore::format::BLOCK_SIZE;

use super::names::{BACKTRACE, LOG, REPORT};
use super::options::{Options, Work};
use super::saved::{Saved, tables_warnings};
use crate::Error;
use crate::backtrace::{self, Backtraces, Call};
use crate::corefile::{Compression, Format, Level, Selection, elf, kdump, raw};
use crate::dump::{Dump, Part};
use crate::report::html;
use crate::source::Progress;
use crate::store::{Folder, Room, StoreError};
use crate::targets::COPY;
use crate::text::{harmless, size};

/// Maximum number of functions of the crashing CPU in `info.json`.
const MAX_FUNCTIONS: usize = 32;

/// The file names of the core: one, except for raw copies of stripes.
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

/// Size of a crash's files in a store with or without sparse files.
///
/// # Errors
/// If no core of that format can hold the dump.
pub(super) fn room(
    dump: &Dump<'_>,
    selection: &Selection,
    format: Format,
    keeps_holes: bool,
) -> Result<Room, Error> {
    let bytes = |blocks: u64| blocks.saturating_mul(BLOCK_SIZE as u64);
    let core = match format {
        Format::Raw => {
            let blocks = |part: &Part<'_>| match keeps_holes {
                true => part.found.blocks(),
                false => part.found.end,
            };
            let all = bytes(dump.parts().iter().map(blocks).fold(0, u64::saturating_add));
            Room { least: all, most: all }
        }
        Format::Elf => {
            let pages = if keeps_holes { selection.data_pages() } else { selection.pages() };
            Room { least: bytes(pages), most: bytes(pages) }
        }
        Format::Kdump(_) => kdump::room(dump, selection)?,
    };
    let log = dump.facts().log.len() as u64;
    // Headers, notes, and the other files of the folder.
    let most = core.most.saturating_add(log).saturating_add(1 << 20);
    Ok(Room { least: core.least.saturating_add(log), most })
}

/// Alternatives if the dump did not fit as `format`; empty if no format is smaller.
pub(super) fn smaller(dump: &Dump<'_>, selection: &Selection, format: Format, keeps_holes: bool) -> String {
    let room = |format| room(dump, selection, format, keeps_holes).map_or(u64::MAX, |room| room.least);
    let this = room(format);
    let raw = room(Format::Raw);
    match format {
        Format::Raw => String::new(),
        Format::Kdump(_) | Format::Elf if raw < this => {
            format!("; with the format raw it takes {}", size(raw))
        }
        Format::Elf if room(Format::Kdump(Compression::Zlib)) < this => {
            "; with the format kdump, which is compressed, it takes less".to_owned()
        }
        // The size of a compressed core is known only afterwards.
        Format::Kdump(_) => format!("; with the format raw it takes {}", size(raw)),
        Format::Elf => String::new(),
    }
}

/// Writes all files.
pub(super) fn write(
    work: &Work<'_, '_>,
    names: &[String],
    folder: &mut dyn Folder,
    options: &Options<'_>,
    saved: &mut Saved,
    progress: &mut dyn Progress,
) -> Result<(), StoreError> {
    let Work { dump, selection, format, .. } = work;
    match *format {
        Format::Raw => copies(dump, names, folder, saved, progress)?,
        Format::Elf => {
            let mut written = None;
            folder.file(&names[0], &mut |sink| {
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
            folder.file(&names[0], &mut |sink| {
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

/// Backtraces, if there is a kernel with symbols. Their failure does not affect the rest.
fn trace(dump: &Dump<'_>, options: &Options<'_>, saved: &mut Saved) -> Option<Backtraces> {
    match backtrace::trace(dump, &options.kernels) {
        Ok(backtraces) => {
            let backtraces = backtraces?;
            saved.warnings.extend(backtraces.warning());
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

/// The functions of the crashing CPU, innermost first.
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
) -> Result<(), StoreError> {
    let mut bytes = 0;
    for (part, name) in dump.parts().iter().zip(names) {
        let alone;
        let original = if let [_] = dump.parts() {
            dump
        } else {
            alone = Dump::open_with(part.source, part.uuid, &part.found, None, progress);
            &alone
        };
        folder.file(name, &mut |sink| {
            bytes += raw::write(part, original, sink, progress)?;
            Ok(())
        })?;
    }
    saved.bytes = Some(bytes);
    Ok(())
}

/// Writes a text.
fn put(folder: &mut dyn Folder, name: &str, text: &str) -> Result<(), StoreError> {
    folder.file(name, &mut |sink| {
        let length = text.len() as u64;
        sink.begin(0, Some(length))
            .and_then(|()| sink.write_at(0, text.as_bytes()))
            .and_then(|()| sink.set_len(length))
            .map_err(Error::Core)
    })
}
