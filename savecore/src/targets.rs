//! Several targets, opened together: a dump may be striped over them.

use std::path::{Path, PathBuf};

use dumpcore::format::header::Status;

use crate::dump::{DumpRef, Part, gather};
use crate::keys::public_text;
use crate::ownership::Machine;
use crate::partition::{self, Defect, Ending, Found, Partition, Search, Watch};
use crate::source::{Access, Progress, Reading, STANDARD_INPUT, Target};
use crate::{Error, Identity};

/// What the name of a raw copy of a dump ends in.
pub const COPY: &str = "diskdump";

/// Whether a file is a raw copy of a dump, by its name: it is read, and never changed.
pub fn is_copy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == COPY)
}

/// What the user calls a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetName {
    /// A block device, an image file, or a disk.
    pub path: PathBuf,
    /// The partition of it: its number, name or GUID.
    pub partition: Option<String>,
    /// How an image's partition table is to be read.
    pub reading: Reading,
}

impl TargetName {
    /// All of a device or file, or the dump partition of it.
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

/// An identity, and where it came from.
#[derive(Clone, Debug)]
pub struct Opener {
    /// The secret key.
    pub identity: Identity,
    /// The file that it was in, as messages name it.
    pub file: String,
}

impl Opener {
    /// Refuses an identity that is not the one to which the dumps of a partition are encrypted, before anything is read
    /// that takes long. Without a label that names the key, a dump tells only when it is opened.
    ///
    /// # Errors
    /// [`Error::WrongIdentity`].
    pub fn refuse_wrong(&self, target: &str, partition: &Partition) -> Result<(), Error> {
        let own = self.identity.public_key();
        let Some(recipient) = partition.label.recipient().filter(|recipient| **recipient != own) else {
            return Ok(());
        };
        // A kernel may have been given a key of its own for this partition.
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

/// A target that was opened, and what was found there.
pub struct OpenTarget {
    /// The target.
    pub target: Target,
    /// What was found there.
    pub partition: Partition,
    /// Whether nothing is written there: it is a raw copy of a dump, or came through standard input.
    pub is_copy: bool,
    /// The dumps there that somebody might still be writing.
    pub watch: Watch,
}

/// Targets that were opened together.
#[derive(Default)]
pub struct Targets {
    /// Each of them, in the order in which they were named.
    pub open: Vec<OpenTarget>,
}

impl Targets {
    /// Opens all targets and finds their dumps, also behind labels that cannot be used; those count as saved that `machine` marked. Raw
    /// copies are only read.
    ///
    /// # Errors
    /// If one of them cannot be used, or is named twice, or if the identity is for another key.
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
            // What is not there, or may not be looked at, is reported when it is opened.
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
            // Nothing is written on what came through standard input, which may be a whole partition, too.
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

    /// The dumps: each a list of its stripes.
    pub fn dumps(&self) -> Vec<Vec<DumpRef>> {
        gather(self.open.iter().map(|open| &open.partition))
    }

    /// One of the dumps on a target.
    ///
    /// # Panics
    /// If there is none at this place.
    pub fn found(&self, place: DumpRef) -> &Found {
        &self.open[place.target].partition.dumps[place.dump]
    }

    /// The targets that a dump is on.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn of(&self, places: &[DumpRef]) -> impl Iterator<Item = &OpenTarget> {
        places.iter().map(|place| &self.open[place.target])
    }

    /// A dump's parts, to be opened.
    pub fn parts(&self, places: &[DumpRef]) -> Vec<Part<'_>> {
        let part = |place: &DumpRef| {
            let OpenTarget { target, partition, .. } = &self.open[place.target];
            Part { source: target, uuid: partition.uuid(), found: self.found(*place).clone() }
        };
        places.iter().map(part).collect()
    }

    /// The names of the targets that a dump is on.
    pub fn names(&self, places: &[DumpRef]) -> Vec<&str> {
        places.iter().map(|place| self.open[place.target].target.name()).collect()
    }

    /// Whether the label of a dump's partition demands that it be encrypted, and it is not.
    pub fn is_bare(&self, places: &[DumpRef]) -> bool {
        places.iter().any(|place| {
            let found = self.found(*place);
            let demanded = self.open[place.target].partition.label.recipient().is_some();
            demanded && !found.header.is_encrypted() && found.ending != Ending::BothLost
        })
    }
}

/// Finds the dumps to be read, also on a target whose label cannot be used; of such a one it warns.
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
        // A copy ends where its dump ends, and holds nothing before it but the label.
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
