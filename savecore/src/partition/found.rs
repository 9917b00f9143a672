//! The dumps found on a partition, and why it must not be written.

use std::fmt;
use std::ops::Range;

use dumpcore::format::frame::{self, Kind, Malformed};
use dumpcore::format::header::Header;
use dumpcore::format::label::Label;
use dumpcore::format::{Block, OLDEST_VERSION, Uuid, VERSION};

/// A partition and its dumps.
pub struct Partition {
    /// The label; if it is damaged, composed from the first dump's front header.
    pub label: Box<Label>,
    /// Why it must not be written; only [`salvage`](super::salvage) returns such a partition.
    pub defect: Option<Defect>,
    /// Size in blocks.
    pub blocks: u64,
    /// The dumps, in block order; if there are very many, the last [`MAX_DUMPS`].
    pub dumps: Vec<Found>,
    /// The dumps before these, which are only counted.
    pub earlier: Earlier,
    /// Ranges before the free blocks that are neither pattern nor part of a dump; if there are very many, the
    /// first ones.
    pub foreign: Vec<Range<u64>>,
    /// The first block of a dump with an unknown version of the format, if any was found: a dump that cannot
    /// be read.
    pub other_version: Option<OtherVersion>,
    /// First block of the pattern that extends to the end, as far as searched.
    pub free: u64,
}

impl Partition {
    /// The partition's identity.
    pub fn uuid(&self) -> Uuid {
        self.label.uuid
    }

    /// The unsaved dumps among those listed. A mark as saved counts unless [`Partition::doubt`] was called.
    pub fn waiting(&self) -> impl Iterator<Item = &Found> {
        self.dumps.iter().filter(|found| found.is_waiting())
    }

    /// Number of unsaved dumps.
    pub fn number_waiting(&self) -> u64 {
        self.earlier.waiting + self.waiting().count() as u64
    }

    /// Number of dumps.
    pub fn number(&self) -> u64 {
        self.earlier.dumps + self.dumps.len() as u64
    }

    /// Adds a dump after the others; if there are very many, only counts the first ones.
    pub(super) fn push(&mut self, found: Found) {
        self.dumps.push(found);
        // In batches, since each removal moves all others.
        if self.dumps.len() >= 2 * MAX_DUMPS {
            self.forget_first();
        }
    }

    pub(super) fn forget_first(&mut self) {
        let forgotten = self.dumps.len().saturating_sub(MAX_DUMPS);
        for found in self.dumps.drain(..forgotten) {
            self.earlier.dumps += 1;
            self.earlier.waiting += u64::from(found.is_waiting());
            self.earlier.end = found.end;
        }
    }
}

/// Maximum number of dumps to list per partition: their headers take 1 MiB, and a harvest creates as many
/// folders. The last ones are listed, since blocks are freed from the end on; the next harvest takes the ones
/// before.
pub const MAX_DUMPS: usize = 256;

/// Maximum number of foreign ranges to list.
pub(super) const MAX_FOREIGN: usize = 64;

/// Dumps that are only counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Earlier {
    /// Their number.
    pub dumps: u64,
    /// Number of unsaved ones.
    pub waiting: u64,
    /// First block after them.
    pub end: u64,
}

/// A block of another version of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherVersion {
    /// Its number.
    pub block: u64,
    /// Its kind.
    pub kind: &'static str,
    /// Its version.
    pub found: u32,
}

impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherVersion { block, kind, found } = self;
        write!(
            f,
            "block {block} is {kind} of format version {found}; this savecore reads versions {OLDEST_VERSION} to {VERSION}"
        )
    }
}

/// Why a partition's label is unusable although there is a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// Block 0 has no valid label.
    LabelDamaged,
    /// Block 0 cannot be read.
    LabelUnreadable,
    /// The partition has fewer blocks than its label says: it was copied incompletely, or shrunk.
    Short {
        /// Blocks according to the label.
        label: u64,
        /// Actual blocks.
        partition: u64,
    },
    /// The partition has more blocks than its label says: it was enlarged.
    Long {
        /// Blocks according to the label.
        label: u64,
        /// Actual blocks.
        partition: u64,
    },
}

impl Defect {
    /// Why it must not be written, in a clause without numbers.
    pub fn clause(self) -> &'static str {
        match self {
            Defect::LabelDamaged => "its label is damaged",
            Defect::LabelUnreadable => "its label cannot be read",
            Defect::Short { .. } => "the target is shorter than its label says",
            Defect::Long { .. } => "the target is longer than its label says",
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.clause())?;
        match self {
            Defect::LabelDamaged | Defect::LabelUnreadable => Ok(()),
            Defect::Short { label, partition } | Defect::Long { label, partition } => {
                write!(f, " ({partition} blocks, not {label})")
            }
        }
    }
}

/// A dump's place and headers; for its contents see [`Dump`](crate::dump::Dump).
#[derive(Clone)]
pub struct Found {
    /// The front header; the back one if the front is lost or was not closed; if both are lost, composed from
    /// the chunks.
    pub header: Box<Header>,
    /// First block.
    pub first: u64,
    /// First block after it.
    pub end: u64,
    /// The state of its two headers.
    pub ending: Ending,
}

/// The state of a dump's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Front and back agree: the dump was closed.
    Closed,
    /// The machine stopped after the last chunk, before closing the front header: the back header counts.
    AlmostClosed,
    /// The machine stopped during the dump.
    Open,
    /// The front header was closed, but the back one is lost or differs.
    BackLost,
    /// The front header is lost; the back one has the facts.
    FrontLost,
    /// Both headers are lost; only chunks are left.
    BothLost,
    /// Saved; its blocks were being freed.
    Saved,
}

impl Ending {
    /// Whether a header is damaged, rather than just not written.
    pub fn is_damaged(self) -> bool {
        matches!(self, Ending::BackLost | Ending::FrontLost | Ending::BothLost)
    }

    /// Whether the dump was finished by its writer.
    pub fn is_finished(self) -> bool {
        !matches!(self, Ending::Open | Ending::BothLost)
    }
}

impl Found {
    /// Its blocks.
    pub fn range(&self) -> Range<u64> {
        self.first..self.end
    }

    /// Whether it is unsaved.
    pub(super) fn is_waiting(&self) -> bool {
        self.ending != Ending::Saved
    }

    /// Number of its blocks.
    pub fn blocks(&self) -> u64 {
        self.end - self.first
    }
}

/// The version of a valid header or chunk header, if that version is unknown.
pub(crate) fn other_version(block: &Block) -> Option<u32> {
    let kind = Kind::of(block).filter(|kind| matches!(kind, Kind::Front | Kind::Back | Kind::Chunk))?;
    match frame::check(block, kind) {
        Err(Malformed::Version { found }) => Some(found),
        _ => None,
    }
}
