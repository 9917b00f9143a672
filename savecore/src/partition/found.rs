//! What was found on a partition: the dumps that are listed, and why nothing may be written there.

use std::fmt;
use std::ops::Range;

use dumpcore::format::frame::{self, Kind, Malformed};
use dumpcore::format::header::Header;
use dumpcore::format::label::Label;
use dumpcore::format::{Block, OLDEST_VERSION, Uuid, VERSION};

/// A partition and what was found on it.
pub struct Partition {
    /// The label; with a damaged one, what the first dump's front header tells of it.
    pub label: Box<Label>,
    /// Why nothing may be written here; only [`salvage`](super::salvage) gives such a partition.
    pub defect: Option<Defect>,
    /// Size in blocks.
    pub blocks: u64,
    /// The dumps, in the order in which they lie there; of very many the last [`MAX_DUMPS`].
    pub dumps: Vec<Found>,
    /// The dumps before those, which are only counted.
    pub earlier: Earlier,
    /// Blocks before the free ones that are neither pattern nor part of a dump; of very many pieces the first.
    pub foreign: Vec<Range<u64>>,
    /// The first block of a dump that is of a version of the format that is not known here, if the search met one: there is a dump
    /// that cannot be read.
    pub other_version: Option<OtherVersion>,
    /// First block of the pattern that reaches to the end, as far as the search looked.
    pub free: u64,
}

impl Partition {
    /// The partition's identity.
    pub fn uuid(&self) -> Uuid {
        self.label.uuid
    }

    /// The dumps that nobody has harvested yet, of those that are listed. A mark that says so counts as it is until [`Partition::doubt`] was asked.
    pub fn waiting(&self) -> impl Iterator<Item = &Found> {
        self.dumps.iter().filter(|found| found.is_waiting())
    }

    /// How many nobody has harvested yet.
    pub fn number_waiting(&self) -> u64 {
        self.earlier.waiting + self.waiting().count() as u64
    }

    /// How many there are.
    pub fn number(&self) -> u64 {
        self.earlier.dumps + self.dumps.len() as u64
    }

    /// Adds a dump after the others, and forgets all of the first ones but their number if there are very many.
    pub(super) fn push(&mut self, found: Found) {
        self.dumps.push(found);
        // Not one by one, since each time all others have to move up.
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

/// Dumps that are listed of one partition, at most: the headers of that many take 1 MiB, and a harvest makes that many folders. The
/// last ones, for blocks are freed from the end on; the next harvest takes those before them.
pub const MAX_DUMPS: usize = 256;

/// Pieces of foreign blocks that are listed, at most.
pub(super) const MAX_FOREIGN: usize = 64;

/// Dumps that are only counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Earlier {
    /// How many.
    pub dumps: u64,
    /// Those of them that nobody has harvested yet.
    pub waiting: u64,
    /// First block after them.
    pub end: u64,
}

/// A block of another version of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherVersion {
    /// Which.
    pub block: u64,
    /// What it is.
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

/// Why a partition's label cannot be used, though there is a dump to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// Block 0 holds no whole label.
    LabelDamaged,
    /// Block 0 cannot be read.
    LabelUnreadable,
    /// The partition has fewer blocks than its label says: it was copied in part, or made smaller.
    Short {
        /// Blocks that the label says.
        label: u64,
        /// Blocks that there are.
        partition: u64,
    },
    /// The partition has more blocks than its label says: it was made larger.
    Long {
        /// Blocks that the label says.
        label: u64,
        /// Blocks that there are.
        partition: u64,
    },
}

impl Defect {
    /// Why nothing is written, in a clause without numbers.
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

/// A dump's place and headers; what it holds is told by [`Dump`](crate::dump::Dump).
#[derive(Clone)]
pub struct Found {
    /// The front header; the back one if only that is left or the front one was not closed any more; with both lost,
    /// what the chunks tell.
    pub header: Box<Header>,
    /// First block.
    pub first: u64,
    /// First block after it.
    pub end: u64,
    /// What became of its two headers.
    pub ending: Ending,
}

/// What became of a dump's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Front and back say the same: the dump was closed.
    Closed,
    /// The machine stopped between the last chunk and closing the front header: the back header counts.
    AlmostClosed,
    /// The machine stopped in the middle.
    Open,
    /// The front header was closed, but the back one is lost or says something else.
    BackLost,
    /// The front header is lost; the back one tells the facts.
    FrontLost,
    /// Both headers are lost, only chunks are left.
    BothLost,
    /// Harvested; its blocks were being freed.
    Saved,
}

impl Ending {
    /// Whether a header is damaged, rather than just not written any more.
    pub fn is_damaged(self) -> bool {
        matches!(self, Ending::BackLost | Ending::FrontLost | Ending::BothLost)
    }

    /// Whether the dump's writer could finish it.
    pub fn is_finished(self) -> bool {
        !matches!(self, Ending::Open | Ending::BothLost)
    }
}

impl Found {
    /// Its blocks.
    pub fn range(&self) -> Range<u64> {
        self.first..self.end
    }

    /// Whether nobody has harvested it yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.ending != Ending::Saved
    }

    /// Blocks that it takes.
    pub fn blocks(&self) -> u64 {
        self.end - self.first
    }
}

/// The version of a whole header or chunk header that is of a version that is not known here.
pub(crate) fn other_version(block: &Block) -> Option<u32> {
    let kind = Kind::of(block).filter(|kind| matches!(kind, Kind::Front | Kind::Back | Kind::Chunk))?;
    match frame::check(block, kind) {
        Err(Malformed::Version { found }) => Some(found),
        _ => None,
    }
}
