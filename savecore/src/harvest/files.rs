//! The files of a crash's folder: the core or the copies, the kernel's log.

use crate::Error;
use crate::core::{CoreOptions, Format, Sink, elf, kdump, raw};
use crate::dump::{Dump, Part};
use crate::source::Progress;
use crate::store::Folder;
use crate::targets::COPY;
use crate::text::harmless;

use super::Saved;
use super::saved::tables_warnings;

/// The kernel's log.
pub(super) const LOG: &str = "dmesg.txt";

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
pub(super) fn room(dump: &Dump<'_>, format: Format) -> u64 {
    let bytes = match format {
        Format::Raw => dump.parts().iter().map(|part| part.found.blocks()).sum::<u64>().saturating_mul(4096),
        Format::Elf => dump.pages().data.saturating_mul(4096),
        // Where there can be none, nothing will be written.
        Format::Kdump(_) => kdump::room(dump).unwrap_or(0),
    };
    // Headers and notes, and what else is in the folder.
    bytes.saturating_add(dump.facts().log.len() as u64).saturating_add(1 << 20)
}

/// Writes all of them.
pub(super) fn write(
    dump: &Dump<'_>,
    format: Format,
    options: &CoreOptions,
    names: &[String],
    folder: &mut dyn Folder,
    saved: &mut Saved,
    progress: &mut dyn Progress,
) -> Result<(), String> {
    match format {
        Format::Raw => copies(dump, names, folder, saved, progress)?,
        Format::Elf => {
            let mut written = None;
            file(folder, &names[0], &mut |sink| {
                written = Some(elf::write(dump, options, sink, progress)?);
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
        Format::Kdump(compression) => file(folder, &names[0], &mut |sink| {
            let written = kdump::write(dump, compression, options, sink, progress)?;
            saved.bytes = Some(written.length);
            Ok(())
        })?,
    }
    let log = &dump.facts().log;
    if !log.is_empty() {
        put(folder, LOG, &harmless(&String::from_utf8_lossy(log)))?;
    }
    Ok(())
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
