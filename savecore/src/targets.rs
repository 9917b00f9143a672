//! Several targets, opened together: a dump may be striped over them.

use std::path::{Path, PathBuf};

use dumpcore::format::header::Status;

use crate::dump::{DumpRef, Part, gather};
use crate::keys::public_text;
use crate::ownership::Machine;
use crate::partition::{self, Defect, Ending, Found, Partition, Search, Watch};
use crate::source::{Access, Progress, Reading, STANDARD_INPUT, Target};
use crate::{Error, Identity};

/// The file name extension of a raw copy of a dump.
pub const COPY: &str = "diskdump";

/// Whether a file is a raw copy of a dump, by its name: it is read, and never changed.
pub fn is_copy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == COPY)
}

/// The user's name for a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetName {
    /// A block device, an image file, or a disk.
    pub path: PathBuf,
    /// Its partition: number, name or GUID.
    pub partition: Option<String>,
    /// The reading of an image's partition table.
    pub reading: Reading,
}

impl TargetName {
    /// The whole device or file, or its dump partition.
    pub fn of(path: impl Into<PathBuf>) -> TargetName {
        TargetName { path: path.into(), partition: None, reading: Reading::default() }
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`Target::open_as`].
    pub fn open(&self, access: Access) -> Result<Target, Error> {
        Target::open_as(&self.path, self.partition.as_deref(), &self.reading, access)
    }
}

/// An identity, and its source.
#[derive(Clone, Debug)]
pub struct Opener {
    /// The secret key.
    pub identity: Identity,
    /// Its file's name in messages.
    pub file: String,
}

impl Opener {
    /// Rejects an identity that does not match the key of a partition's label, before any long read. Without
    /// a key in the label, this is only known when a dump is opened.
    ///
    /// # Errors
    /// [`Error::WrongIdentity`].
    pub fn refuse_wrong(&self, target: &str, partition: &Partition) -> Result<(), Error> {
        let own = self.identity.public_key();
        let Some(recipient) = partition.label.recipient().filter(|recipient| **recipient != own) else {
            return Ok(());
        };
        // The kernel may have its own key for this partition.
        let closed = |found: &&Found| {
            let encrypted = found.header.is_encrypted() || found.ending == Ending::BothLost;
            encrypted && found.header.status() != Status::Saved && self.identity.opens(found) != Some(true)
        };
        match partition.dumps.iter().find(closed) {
            None => Ok(()),
            Some(found) => Err(Error::WrongIdentity {
                file: self.file.clone(),
                sequence: found.header.sequence.get(),
                target: target.to_owned(),
                own: public_text(&own),
                recipient: public_text(recipient),
            }),
        }
    }
}

/// An opened target, and its dumps.
pub struct OpenTarget {
    /// The target.
    pub target: Target,
    /// Its partition.
    pub partition: Partition,
    /// Whether it is read-only: a raw copy of a dump, or standard input.
    pub is_copy: bool,
    /// Its dumps that may still be being written.
    pub watch: Watch,
}

/// Targets opened together.
#[derive(Default)]
pub struct Targets {
    /// The targets, in the given order.
    pub open: Vec<OpenTarget>,
}

impl Targets {
    /// Opens all targets and finds their dumps, even behind unusable labels; only `machine`'s marks as saved
    /// count. Raw copies are read-only.
    ///
    /// # Errors
    /// If one of them is unusable, or named twice, or if the identity is for another key.
    pub fn open(
        names: &[TargetName],
        access: Access,
        search: Search,
        opener: Option<&Opener>,
        machine: Option<&Machine>,
        progress: &mut dyn Progress,
    ) -> Result<Targets, Error> {
        // All of them are opened, and locked, before the first is read.
        let mut targets = Vec::new();
        let mut seen = Vec::new();
        for name in names {
            let TargetName { path, partition, .. } = name;
            // A missing or inaccessible target is reported when it is opened.
            let real = if path == Path::new(STANDARD_INPUT) { Ok(path.clone()) } else { path.canonicalize() };
            if let Ok(real) = real {
                let once = (real, partition);
                if seen.contains(&once) {
                    return Err(Error::NamedTwice { target: path.display().to_string() });
                }
                seen.push(once);
            }
            let is_copy = is_copy(path);
            let access = if is_copy { Access::Read } else { access };
            let target = name.open(access)?;
            if let Some(remark) = target.remark() {
                progress.warn(&format!("{}: {remark}", target.name()));
            }
            // Standard input is never written, even if it is a whole partition.
            targets.push((target, is_copy || path == Path::new(STANDARD_INPUT)));
        }
        let mut open = Vec::new();
        for (target, is_copy) in targets {
            let mut partition = salvage(&target, search, is_copy, progress)?;
            partition.doubt(&target, machine);
            if let Some(opener) = opener {
                opener.refuse_wrong(target.name(), &partition)?;
            }
            let mut watch = Watch::default();
            if access == Access::Harvest && !is_copy {
                watch.begin(&target, &partition);
            }
            open.push(OpenTarget { target, partition, is_copy, watch });
        }
        Ok(Targets { open })
    }

    /// The dumps: each is a list of its stripes.
    pub fn dumps(&self) -> Vec<Vec<DumpRef>> {
        gather(self.open.iter().map(|open| &open.partition))
    }

    /// A dump on one target.
    ///
    /// # Panics
    /// If there is none at this place.
    pub fn found(&self, place: DumpRef) -> &Found {
        &self.open[place.target].partition.dumps[place.dump]
    }

    /// The targets of a dump.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn of(&self, places: &[DumpRef]) -> impl Iterator<Item = &OpenTarget> {
        places.iter().map(|place| &self.open[place.target])
    }

    /// A dump's parts, for opening.
    pub fn parts(&self, places: &[DumpRef]) -> Vec<Part<'_>> {
        let part = |place: &DumpRef| {
            let OpenTarget { target, partition, .. } = &self.open[place.target];
            Part { source: target, uuid: partition.uuid(), found: self.found(*place).clone() }
        };
        places.iter().map(part).collect()
    }

    /// The names of a dump's targets.
    pub fn names(&self, places: &[DumpRef]) -> Vec<&str> {
        places.iter().map(|place| self.open[place.target].target.name()).collect()
    }

    /// Whether a dump is not encrypted although its partition's label demands it.
    pub fn is_bare(&self, places: &[DumpRef]) -> bool {
        places.iter().any(|place| {
            let found = self.found(*place);
            let demanded = self.open[place.target].partition.label.recipient().is_some();
            demanded && !found.header.is_encrypted() && found.ending != Ending::BothLost
        })
    }
}

/// Finds the dumps to read, even on a target with an unusable label; warns about such a target.
fn salvage(
    target: &Target,
    search: Search,
    is_copy: bool,
    progress: &mut dyn Progress,
) -> Result<Partition, Error> {
    let shown = target.name();
    let on = |error| Error::On { target: shown.to_owned(), error: Box::new(error) };
    let mut partition = partition::salvage(target, search, progress).map_err(on)?;
    let is_copy =
        if target.is_carried() { matches!(partition.defect, Some(Defect::Short { .. })) } else { is_copy };
    if is_copy {
        // A copy ends at its dump's end, and has only the label before it.
        partition.foreign.clear();
    }
    match partition.defect {
        Some(Defect::Short { .. }) if is_copy => {}
        Some(defect) => {
            progress.warn(&format!("{shown}: {defect}: it is read, and nothing is written to it"));
        }
        None => {}
    }
    if let Some(other) = &partition.other_version {
        progress.warn(&format!("{shown}: {other}"));
    }
    if partition.earlier.dumps > 0 {
        let (all, listed) = (partition.number(), partition.dumps.len());
        progress.warn(&format!(
            "{shown} holds {all} dumps: the last {listed} are used; repeat `savecore save` to save all"
        ));
    }
    Ok(partition)
}
