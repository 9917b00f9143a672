//! A harvest: saves every waiting dump of some targets to a folder in a store; when that is durable, frees
//! its blocks.
//!
//! At every moment, a dump is complete on its targets or complete in the store: its front header is marked as
//! saved only after [`Folder::finish`](crate::store::Folder::finish) has returned, and the pattern is laid
//! only after that mark.

mod arrived;
mod files;
mod host;
mod names;
mod options;
mod saved;

use dumpcore::format::BLOCK_SIZE;

use crate::Error;
use crate::corefile::{Compression, Format, Selection};
use crate::dump::{Dump, DumpRef, Encryption, Report};
use crate::partition::{self, Ending};
use crate::source::Progress;
use crate::store::{Begun, Crash, Store, StoreError};
use crate::targets::{OpenTarget, Targets};
use crate::text::size;

use self::arrived::{is_written_behind, look_again};
pub use options::Options;
use options::Work;
use saved::Counts;
pub use saved::{Saved, StoredFile, TargetResult};

/// Maximum bytes of zeros in an ELF core for a store without sparse files, if there is less data than that: a
/// dump with little data may claim any number of zeros.
const MAX_ZEROS: u64 = 1 << 30;

/// The results.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Harvest {
    /// The targets.
    pub targets: Vec<TargetResult>,
    /// The dumps that were waiting there.
    pub dumps: Vec<Saved>,
}

impl Harvest {
    /// Whether a dump could not be saved.
    pub fn failed(&self) -> bool {
        self.dumps.iter().any(|saved| saved.error.is_some())
    }

    /// Whether there was nothing to do.
    pub fn nothing(&self) -> bool {
        self.dumps.is_empty() && self.targets.iter().all(|target| target.finished_clears == 0)
    }
}

/// The fate of a dump's blocks on one target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They are kept.
    Keep,
    /// They are saved and may be freed; the number is the dump's index in the list of results, if this run
    /// saved it.
    Free(Option<usize>),
}

/// Saves every waiting dump, and frees the blocks of durable ones. A dump that cannot be saved is reported in
/// its [`Saved::error`], and the others are saved anyway.
///
/// # Errors
/// If a target can no longer be written; the dumps are in the store then, and the next harvest continues.
pub fn harvest(
    targets: &mut Targets,
    store: &mut dyn Store,
    options: &Options<'_>,
    progress: &mut dyn Progress,
) -> Result<Harvest, Error> {
    for OpenTarget { target, partition, .. } in &targets.open {
        for range in &partition.foreign {
            let shown = target.name();
            progress.warn(&format!("{shown}: blocks {} to {} belong to no dump", range.start, range.end - 1));
        }
    }
    for OpenTarget { target, partition, is_copy, watch } in &mut targets.open {
        if !*is_copy {
            watch.begin(target, partition);
        }
    }
    let mut results = Vec::new();
    let fates = targets.open.iter().map(|open| vec![Fate::Keep; open.partition.dumps.len()]);
    let mut fates: Vec<Vec<Fate>> = fates.collect();
    let mut groups = targets.dumps();
    for _ in 0..arrived::ROUNDS {
        for places in std::mem::take(&mut groups) {
            harvest_one(targets, places, store, options, &mut fates, &mut results, progress)?;
        }
        if options.keep.is_some() {
            break;
        }
        groups = look_again(targets, options.machine.as_ref());
        for (fates, open) in fates.iter_mut().zip(&targets.open) {
            fates.resize(open.partition.dumps.len(), Fate::Keep);
        }
        if groups.is_empty() {
            break;
        }
    }
    for places in &groups {
        let shown = targets.names(places).join(", ");
        progress.warn(&format!("{shown}: another dump came while others were saved: the next run saves it"));
    }
    let mut finished = vec![0; targets.open.len()];
    if options.keep.is_none() {
        for ((open, fates), finished) in targets.open.iter_mut().zip(&fates).zip(&mut finished) {
            let shown = open.target.name().to_owned();
            let is_any_freed = fates.iter().any(|fate| *fate != Fate::Keep);
            if let Some(user) = open.target.user() {
                if is_any_freed {
                    progress.warn(&format!("{shown} is {user}: dumps saved before are not freed"));
                }
                continue;
            }
            if open.partition.defect.is_none() && !open.is_copy {
                *finished = free(open, fates, &mut results, progress)?;
                if is_any_freed && groups.is_empty() && is_written_behind(&open.target, &open.partition) {
                    progress.warn(&format!(
                        "{shown}: a dump came while others were freed: `savecore save --search` finds and saves it"
                    ));
                }
            }
        }
    }
    let mut told = Vec::new();
    for ((open, fates), finished) in targets.open.iter().zip(&fates).zip(finished) {
        // Dumps marked as saved by this run were waiting, too.
        let marked = fates.iter().filter(|fate| matches!(fate, Fate::Free(Some(_)))).count() as u64;
        let waited = open.partition.number_waiting() + marked;
        told.push(TargetResult::new(&open.target, &open.partition, Counts { finished, waited }));
    }
    Ok(Harvest { targets: told, dumps: results })
}

/// Saves one dump, and marks the parts that may be freed.
fn harvest_one(
    targets: &mut Targets,
    places: Vec<DumpRef>,
    store: &mut dyn Store,
    options: &Options<'_>,
    fates: &mut [Vec<Fate>],
    results: &mut Vec<Saved>,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let (saved_before, waiting): (Vec<_>, Vec<_>) =
        places.iter().copied().partition(|place| targets.found(*place).ending == Ending::Saved);
    let again = match (saved_before.is_empty(), waiting.is_empty()) {
        (false, false) => save_again(targets, &places, store, options, progress),
        _ => None,
    };
    let (mut saved, places) = match again {
        Some(saved) => (saved, places),
        None => {
            for place in &saved_before {
                fates[place.target][place.dump] = Fate::Free(None);
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if !saved_before.is_empty() {
                let shown = targets.names(&waiting).join(", ");
                progress.warn(&format!(
                    "{shown}: another stripe of a dump here was saved before, but this one was not"
                ));
            }
            (save(targets, &waiting, store, options, progress), waiting)
        }
    };
    saved.kept_because = kept_because(options, targets, &places, &saved);
    if saved.kept_because.is_none() && is_growing(targets, &places) {
        saved.kept_because = Some(
            "more of it was written meanwhile, so the copy is incomplete; the next run saves it again"
                .to_owned(),
        );
    }
    let free = saved.kept_because.is_none() && writable(targets, &places, &mut saved);
    for place in places {
        if free {
            fates[place.target][place.dump] = Fate::Free(Some(results.len()));
            // From now on, if this run is interrupted, the next one finishes it without saving again.
            let OpenTarget { target, partition, .. } = &mut targets.open[place.target];
            let found = &mut partition.dumps[place.dump];
            *found = partition::mark_saved(target, found, options.machine.as_ref())
                .map_err(|error| on(target.name(), error))?;
        }
    }
    results.push(saved);
    Ok(())
}

fn on(target: &str, error: Error) -> Error {
    Error::On { target: target.to_owned(), error: Box::new(error) }
}

/// Whether a part of a dump is still being written.
fn is_growing(targets: &Targets, places: &[DumpRef]) -> bool {
    places.iter().any(|place| {
        let open = &targets.open[place.target];
        open.watch.grows(&open.target, targets.found(*place))
    })
}

/// Opens the targets of a dump for writing; if that fails, reports it, and the dump stays.
fn writable(targets: &mut Targets, places: &[DumpRef], saved: &mut Saved) -> bool {
    for place in places {
        if let Err(error) = targets.open[place.target].target.make_writable() {
            saved.kept_because = Some(match error {
                Error::InUse { user, .. } => format!("it is {user}"),
                error => format!("{error}; `savecore clear` frees it"),
            });
            return false;
        }
    }
    true
}

/// Why a dump whose label names another machine stays.
const FOREIGN: &str = "it is another machine's; `savecore adopt` makes the partition this machine's, --foreign frees it as it is";

/// Why a dump stays after it was saved, or after saving failed.
fn kept_because(
    options: &Options<'_>,
    targets: &Targets,
    places: &[DumpRef],
    saved: &Saved,
) -> Option<String> {
    if saved.error.is_some() {
        return Some("it could not be saved".to_owned());
    }
    if let Some(why) = options.keep {
        return Some(why.to_owned());
    }
    if targets.of(places).any(|open| open.target.is_carried()) {
        return Some("standard input can only be read".to_owned());
    }
    if targets.of(places).any(|open| open.is_copy) {
        return Some("a raw copy is never changed".to_owned());
    }
    if let Some(defect) = targets.of(places).find_map(|open| open.partition.defect) {
        return Some(defect.clause().to_owned());
    }
    if let Some(user) = targets.of(places).find_map(|open| open.target.user()) {
        return Some(format!("it is {user}"));
    }
    let mut labels = targets.of(places).map(|open| &open.partition.label);
    if !options.foreign && labels.any(|label| host::is_foreign(label, options.machine.as_ref())) {
        return Some(FOREIGN.to_owned());
    }
    if let Some(doubt) = &saved.doubt {
        return Some(doubt.clone());
    }
    if options.clear_damaged {
        return None;
    }
    if let Some(missing) = missing_stripes(&saved.dump) {
        return Some(format!("{missing}; --clear-damaged or `savecore clear` frees this part"));
    }
    let damaged = "it is damaged; --clear-damaged or `savecore clear` frees it";
    saved.dump.damaged.then(|| damaged.to_owned())
}

/// The missing stripes of a dump, in a clause; `None` if there are none.
pub fn missing_stripes(report: &Report) -> Option<String> {
    let numbers: Vec<String> = report.missing_stripes.iter().map(|stripe| (stripe + 1).to_string()).collect();
    let (last, others) = numbers.split_last()?;
    Some(match others {
        [] => format!("stripe {last} of {} was not given", report.stripes),
        others => format!("stripes {} and {last} of {} were not given", others.join(", "), report.stripes),
    })
}

/// Saves one dump.
fn save(
    targets: &Targets,
    places: &[DumpRef],
    store: &mut dyn Store,
    options: &Options<'_>,
    progress: &mut dyn Progress,
) -> Saved {
    let dump = Dump::open_parts(targets.parts(places), options.identity(), progress);
    save_opened(&dump, targets, places, store, options, progress)
}

/// Saves a dump that was only partly marked as saved, because a run was killed in between. Nothing of it has
/// been freed then, so its core is in the store, or can be made again. `None` if some of it is missing.
fn save_again(
    targets: &Targets,
    places: &[DumpRef],
    store: &mut dyn Store,
    options: &Options<'_>,
    progress: &mut dyn Progress,
) -> Option<Saved> {
    let mut parts = targets.parts(places);
    for part in parts.iter_mut().filter(|part| part.found.ending == Ending::Saved) {
        part.found = partition::unmarked(part.source, &part.uuid, &part.found)?;
    }
    let dump = Dump::open_parts(parts, options.identity(), progress);
    if dump.is_damaged() || !dump.missing_stripes().is_empty() {
        return None;
    }
    Some(save_opened(&dump, targets, places, store, options, progress))
}

/// Saves one dump that was read.
fn save_opened(
    dump: &Dump<'_>,
    targets: &Targets,
    places: &[DumpRef],
    store: &mut dyn Store,
    options: &Options<'_>,
    progress: &mut dyn Progress,
) -> Saved {
    let opener = options.opener;
    let mut saved = Saved::new(targets, places, dump);
    if is_growing(targets, places) {
        saved.error = Some("it is still being written, and left alone until that is finished".to_owned());
        return saved;
    }
    let format = match dump.encryption() {
        Encryption::None | Encryption::Opened => options.format,
        Encryption::Encrypted => Format::Raw,
        Encryption::Refused => {
            let file = opener.map_or("the identity", |opener| opener.file.as_str());
            saved.error = Some(format!(
                "{file} cannot decrypt any of it: it is encrypted to another key, or all of it was changed"
            ));
            return saved;
        }
    };
    if format == Format::Raw && targets.of(places).any(|open| open.is_copy) {
        saved.error = Some(match dump.encryption() {
            Encryption::Encrypted => "it is a raw copy already: --identity FILE opens it".to_owned(),
            _ => "it is a raw copy already: --format elf makes a core of it".to_owned(),
        });
        return saved;
    }
    let selection = Selection::of(dump, options.core.level);
    let zeros = (selection.pages() - selection.data_pages()).saturating_mul(BLOCK_SIZE as u64);
    let bytes = selection.data_pages().saturating_mul(BLOCK_SIZE as u64);
    let format = if format == Format::Elf && !store.keeps_holes() && zeros > bytes.max(MAX_ZEROS) {
        saved.warnings.push(format!(
            "saved as kdump: as ELF it would have {} of zeros, which this store would keep as bytes",
            size(zeros)
        ));
        Format::Kdump(Compression::Zlib)
    } else {
        format
    };
    saved.format = format.name();
    let header = &dump.found().header;
    let crash = Crash {
        host: host::of(dump, targets, places, options),
        seconds: Some(header.wall_clock.get()).filter(|seconds| *seconds != 0),
        uuid: uuid::Uuid::from_bytes(dump.uuid()),
        sequence: header.sequence.get(),
        nonce: header.nonce.get(),
        missing_stripes: dump.missing_stripes().to_vec(),
        content: dump.fingerprint(selection.fates(dump)),
        stays: kept_because(options, targets, places, &saved).is_some(),
    };
    let mut work = Work { dump, selection, format, crash };
    let mut stored = store_dump(&work, store, options, &mut saved, progress);
    if format == Format::Elf && stored.as_ref().is_err_and(StoreError::is_too_long_a_file) {
        let warning =
            format!("saved as kdump: {} does not allow a file as long as the ELF core", store.name());
        saved.warnings.push(warning);
        work.format = Format::Kdump(Compression::Zlib);
        saved.format = work.format.name();
        stored = store_dump(&work, store, options, &mut saved, progress);
    }
    if let Err(error) = stored {
        let smaller = match error.is_lack_of_room() {
            true => files::smaller(dump, &selection, work.format, store.keeps_holes()),
            false => String::new(),
        };
        saved.error = Some(format!("{error}{smaller}"));
    }
    saved
}

/// Fills the folder of one dump.
fn store_dump(
    work: &Work<'_, '_>,
    store: &mut dyn Store,
    options: &Options<'_>,
    saved: &mut Saved,
    progress: &mut dyn Progress,
) -> Result<(), StoreError> {
    let Work { dump, selection, format, crash } = work;
    let names = files::core_names(dump, *format);
    let core = names.first().map_or("", String::as_str);
    let room = files::room(dump, selection, *format, store.keeps_holes()).map_err(StoreError::Content)?;
    let mut folder = match store.begin(crash, core, Some(room))? {
        Begun::AlreadyThere(place) => {
            saved.already_there = true;
            saved.take_place(place, &names);
            return Ok(());
        }
        Begun::New(_) if saved.marked && *format == Format::Raw => return Err(StoreError::Marked),
        Begun::New(folder) => folder,
    };
    files::write(work, &names, folder.as_mut(), options, saved, progress)?;
    let info = saved.info(crash);
    let place = folder.finish(&info)?;
    saved.take_place(place, &names);
    Ok(())
}

/// Frees dumps of a target from last to first, up to the first one that is kept, so that there is no gap
/// before a dump: the kernel looks for free blocks after the last one. Returns the number of dumps saved by
/// an earlier run.
fn free(
    open: &mut OpenTarget,
    fates: &[Fate],
    results: &mut [Saved],
    progress: &mut dyn Progress,
) -> Result<u64, Error> {
    let OpenTarget { target, partition, .. } = open;
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
                saved.kept_because = Some("a dump after it is kept; this one is marked as saved".to_owned());
            }
            continue;
        }
        target.make_writable().map_err(|error| on(target.name(), error))?;
        partition::clear(target, &uuid, found, progress).map_err(|error| on(target.name(), error))?;
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
