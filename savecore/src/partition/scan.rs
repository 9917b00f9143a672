//! Finds the dumps of a partition, including those with damaged headers.

use std::ops::Range;

use dumpcore::format::chain::{self, Extent, back_at, front_at};
use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::frame::{Kind, Malformed};
use dumpcore::format::freeing;
use dumpcore::format::header::{Header, Status};
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};

use super::found::{Defect, Earlier, Ending, Found, MAX_FOREIGN, OtherVersion, Partition, other_version};
use crate::Error;
use crate::ownership::Machine;
use crate::source::{First, Progress, Reader, Source, describe_block, recognise};

/// The extent of the search for dumps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// Up to the first free block, where the next dump would go: this finds all dumps unless something is
    /// damaged.
    Quick,
    /// Every block of the partition.
    Whole,
}

impl Partition {
    /// Treats dumps as unsaved if their mark as saved lacks `machine`'s proof: anyone who can write to a
    /// partition could mark an unsaved dump.
    pub fn doubt(&mut self, source: &dyn Source, machine: Option<&Machine>) {
        let uuid = self.uuid();
        for found in self.dumps.iter_mut().filter(|found| found.ending == Ending::Saved) {
            // A header alone, which may be half freed, has nothing to lose.
            if found.blocks() < 2 || machine.is_some_and(|machine| machine.has_marked(&found.header)) {
                continue;
            }
            *found = unmarked(source, &uuid, found).unwrap_or_else(|| {
                // Save everything that is left of it, and free only as much as the user says.
                let mut header = found.header.clone();
                header.status = (Status::Complete as u32).into();
                header.proof = Default::default();
                Found { header, ending: Ending::BackLost, ..*found }
            });
        }
    }
}

/// How far a quick search looks for a dump that has lost its front header.
const RECOVERY_BLOCKS: u64 = 4096;

/// Reads the label.
///
/// # Errors
/// If there is none, or it cannot be read, or is for another size or of another version.
pub fn read_label(source: &dyn Source) -> Result<Box<Label>, Error> {
    let mut block: [Block; 1] = [[0; BLOCK_SIZE]];
    source.read(0, &mut block).map_err(|error| Error::Read { block: 0, error })?;
    let label = match Label::parse(&block[0]) {
        Ok(label) => label,
        Err(Malformed::Version { found }) => return Err(Error::Version { what: "label", found }),
        Err(_) => return Err(Error::Unformatted { holds: recognise(source) }),
    };
    if label.blocks.get() != source.blocks() {
        return Err(Error::OtherSize { label: label.blocks.get(), partition: source.blocks() });
    }
    Ok(Box::new(label.clone()))
}

/// Finds the dumps up to the first free block.
///
/// # Errors
/// See [`read_label`]. Unreadable blocks are no error: they count as damaged.
pub fn scan(source: &dyn Source) -> Result<Partition, Error> {
    scan_with(source, Search::Quick, &mut ())
}

/// Finds the dumps, within the extent of `search`.
///
/// # Errors
/// As [`scan`].
pub fn scan_with(
    source: &dyn Source,
    search: Search,
    progress: &mut dyn Progress,
) -> Result<Partition, Error> {
    let label = read_label(source)?;
    Ok(scan_behind(source, label, search, progress))
}

/// Finds the dumps of a partition that must not be written, because its label is damaged or for another size:
/// a dump needs its label only for the uuid, which the front header in block 1 repeats. For an intact
/// partition, the same as [`scan_with`].
///
/// # Errors
/// Those of [`read_label`], if there is no dump in spite of them.
pub fn salvage(source: &dyn Source, search: Search, progress: &mut dyn Progress) -> Result<Partition, Error> {
    let error = match read_label(source) {
        Ok(label) => return Ok(scan_behind(source, label, search, progress)),
        Err(error) => error,
    };
    let mut block: [Block; 1] = [[0; BLOCK_SIZE]];
    let (label, defect) = match error {
        Error::OtherSize { label: stated, partition: blocks } => {
            let Ok(()) = source.read(0, &mut block) else { return Err(error) };
            let Ok(label) = Label::parse(&block[0]) else { return Err(error) };
            let defect = if blocks < stated {
                Defect::Short { label: stated, partition: blocks }
            } else {
                Defect::Long { label: stated, partition: blocks }
            };
            (label.clone(), defect)
        }
        Error::Unformatted { .. } | Error::Read { .. } => {
            let Ok(()) = source.read(1, &mut block) else { return Err(error) };
            let Some(front) = first_front(&block[0]) else { return Err(error) };
            let unreadable = matches!(error, Error::Read { .. });
            let defect = if unreadable { Defect::LabelUnreadable } else { Defect::LabelDamaged };
            (Label::new(front.uuid, source.blocks(), 0, ""), defect)
        }
        _ => return Err(error),
    };
    // Blocks after the partition's own end were never part of it.
    let source = First { source, blocks: source.blocks().min(label.blocks.get()) };
    let partition = scan_behind(&source, Box::new(label), search, progress);
    if partition.dumps.is_empty() {
        return Err(error);
    }
    Ok(Partition { defect: Some(defect), ..partition })
}

/// Number of unsaved dumps, even with an unusable label; including one with another version of the format,
/// and one marked as saved, but not by `machine`.
///
/// # Errors
/// If it cannot be determined: [`Error::Read`] if there is no label and the place of the first dump cannot be
/// read, [`Error::Version`] if the label is of another version and there seems to be a dump.
pub fn waiting(source: &dyn Source, machine: Option<&Machine>) -> Result<(u64, Option<Defect>), Error> {
    match salvage(source, Search::Quick, &mut ()) {
        Ok(mut partition) => {
            partition.doubt(source, machine);
            let others = u64::from(partition.other_version.is_some());
            Ok((partition.number_waiting() + others, partition.defect))
        }
        // The label gave the place, and there is no dump.
        Err(Error::OtherSize { .. }) => Ok((0, None)),
        Err(error) => {
            let mut block: [Block; 1] = [[0; BLOCK_SIZE]];
            source.read(1, &mut block).map_err(|error| Error::Read { block: 1, error })?;
            match error {
                Error::Version { .. } if Kind::of(&block[0]) != Some(Kind::Pattern) => Err(error),
                _ => Ok((0, None)),
            }
        }
    }
}

/// A front header in block 1, for whatever partition.
fn first_front(block: &Block) -> Option<&Header> {
    Header::parse(block, Kind::Front).ok().filter(|header| header.first_block.get() == 1)
}

fn scan_behind(
    source: &dyn Source,
    label: Box<Label>,
    search: Search,
    progress: &mut dyn Progress,
) -> Partition {
    let mut partition = Partition {
        blocks: source.blocks(),
        label,
        defect: None,
        dumps: Vec::new(),
        earlier: Earlier::default(),
        foreign: Vec::new(),
        other_version: None,
        free: 1,
    };
    let uuid = partition.uuid();
    let mut scanner = Scanner { reader: Reader::new(source), uuid, other_version: None };
    if search == Search::Whole {
        progress.begin("looking for dumps", partition.blocks);
    }
    let mut at = 1;
    while at < partition.blocks {
        let from = at;
        match scanner.look(at) {
            Look::Pattern if search == Search::Quick => break,
            Look::Pattern => at += 1,
            Look::Front(header) => {
                let found = scanner.extent(header, at);
                at = found.end;
                partition.free = at;
                partition.push(found);
            }
            Look::HalfFree(header) => {
                partition.dumps.push(Found { header, first: at, end: at + 1, ending: Ending::Saved });
                at += 1;
                partition.free = at;
            }
            Look::Other => {
                let (bad, found) = scanner.recover(at, search);
                at = bad.end;
                if !bad.is_empty() && partition.foreign.len() < MAX_FOREIGN {
                    partition.foreign.push(bad);
                }
                if let Some(found) = found {
                    at = found.end;
                    partition.push(found);
                }
                partition.free = at;
            }
        }
        if search == Search::Whole {
            progress.advance(at - from);
        }
    }
    if search == Search::Whole {
        progress.end();
    }
    partition.forget_first();
    partition.other_version = scanner.other_version;
    partition
}

/// The block where a dump could start.
enum Look {
    Pattern,
    Front(Box<Header>),
    /// The rest of a saved dump, half freed.
    HalfFree(Box<Header>),
    Other,
}

/// A dump marked as saved in its earlier state, from its back header, which the mark does not change; `None`
/// if there is none: the dump was never finished, or its blocks are being freed.
pub fn unmarked(source: &dyn Source, uuid: &Uuid, found: &Found) -> Option<Found> {
    let at = found.end.checked_sub(1)?;
    let mut block = [[0; BLOCK_SIZE]];
    source.read(at, &mut block).ok()?;
    let back = back_at(&block[0], uuid, at)?;
    let is_its = back.nonce == found.header.nonce && back.first_block.get() == found.first;
    is_its.then(|| Found { header: Box::new(back.clone()), ending: Ending::Closed, ..*found })
}

struct Scanner<'s> {
    reader: Reader<'s>,
    uuid: Uuid,
    /// The first block found with another version.
    other_version: Option<OtherVersion>,
}

impl Scanner<'_> {
    fn look(&mut self, at: u64) -> Look {
        let uuid = self.uuid;
        match self.reader.block(at) {
            Ok(block) if pattern::matches(block, &uuid, at) => Look::Pattern,
            Ok(block) => match front_at(block, &uuid, at) {
                Some(header) => Look::Front(Box::new(header.clone())),
                None => freeing::half_free(block, &uuid, at)
                    .map_or(Look::Other, |header| Look::HalfFree(Box::new(header))),
            },
            Err(_) => Look::Other,
        }
    }

    /// Determines the extent of the dump after this front header.
    fn extent(&mut self, header: Box<Header>, first: u64) -> Found {
        if let Extent::Closed { end } = Extent::of(&header, self.reader.blocks()) {
            let uuid = self.uuid;
            let ending = match self.reader.block(end - 1).map(|block| back_at(block, &uuid, end - 1)) {
                _ if header.status() == Status::Saved => Ending::Saved,
                Ok(Some(back)) if back.agrees_with(&header) => Ending::Closed,
                _ => Ending::BackLost,
            };
            return Found { header, first, end, ending };
        }
        let nonce = header.nonce.get();
        let (end, back) = self.unfinished(first + 1, nonce);
        match (header.status(), back) {
            (Status::InProgress, Some(back)) => {
                Found { header: back, first, end, ending: Ending::AlmostClosed }
            }
            (Status::InProgress, None) => Found { header, first, end, ending: Ending::Open },
            (Status::Saved, _) => Found { header, first, end, ending: Ending::Saved },
            // Closed, but its end does not exist.
            _ => Found { header, first, end, ending: Ending::BackLost },
        }
    }

    /// The end of a dump that was not closed: its back header, or after the last block that is not pattern,
    /// up to the start of another dump. Many writes were in flight together, and the disk's cache may have
    /// lost any of them, so pattern in between does not end the dump.
    fn unfinished(&mut self, from: u64, nonce: u64) -> (u64, Option<Box<Header>>) {
        let uuid = self.uuid;
        let (mut end, mut at) = (from, from);
        // Skip payload: it is memory, and may contain anything.
        let mut payload = Payload::default();
        while at < self.reader.blocks() {
            let Ok(block) = self.reader.block(at) else {
                at += 1;
                end = at;
                continue;
            };
            if pattern::matches(block, &uuid, at) {
                at += 1;
                continue;
            }
            let is_good = payload.is_good(at, block);
            if is_good != Some(true) {
                if front_at(block, &uuid, at).is_some_and(|other| other.nonce.get() != nonce) {
                    break;
                }
                if let Some(back) = back_at(block, &uuid, at).filter(|back| back.nonce.get() == nonce) {
                    return (at + 1, Some(Box::new(back.clone())));
                }
            }
            if is_good.is_none()
                && let Some(chunk) = chunk_at(block, nonce, at)
            {
                payload = Payload::of(chunk);
            }
            at += 1;
            end = at;
        }
        (end, None)
    }

    /// Block `at` is neither pattern nor front header: returns the blocks that belong to nothing, and the
    /// dump after them that has lost its front header, if there is one.
    fn recover(&mut self, at: u64, search: Search) -> (Range<u64>, Option<Found>) {
        let uuid = self.uuid;
        let mut last = at;
        let mut next = at;
        while next < self.reader.blocks() && (search == Search::Whole || next - last <= RECOVERY_BLOCKS) {
            let here = next;
            next += 1;
            let Ok(block) = self.reader.block(here) else {
                last = next;
                continue;
            };
            if pattern::matches(block, &uuid, here) {
                if search == Search::Whole {
                    break;
                }
                continue;
            }
            last = next;
            if let Some(found) = other_version(block) {
                let other = OtherVersion { block: here, kind: describe_block(block), found };
                self.other_version.get_or_insert(other);
            }
            if here > at && front_at(block, &uuid, here).is_some() {
                return (at..here, None);
            }
            if let Some(back) = back_at(block, &uuid, here) {
                let header = Box::new(back.clone());
                return self.recovered(at, here, header, here + 1, Ending::FrontLost);
            }
            let Some(chunk) = chain::chunk_at(block, here) else { continue };
            let (chunk, index) = (Box::new(chunk.clone()), chunk.index.get());
            let (end, back) = self.unfinished(here, chunk.nonce.get());
            return match back {
                Some(back) => self.recovered(at, here, back, end, Ending::FrontLost),
                None => {
                    // The front header was just before a dump's first chunk. Earlier blocks are not known to
                    // belong to the dump, and must not be freed with it.
                    let first = if index == 0 { (here - 1).max(at) } else { here };
                    let header = Box::new(from_chunk(&uuid, &chunk, first));
                    self.recovered(at, here, header, end, Ending::BothLost)
                }
            };
        }
        (at..last, None)
    }

    /// A dump without a front header: `at` is the first block that belongs to nothing, `here` its first good
    /// one.
    fn recovered(
        &self,
        at: u64,
        here: u64,
        header: Box<Header>,
        end: u64,
        ending: Ending,
    ) -> (Range<u64>, Option<Found>) {
        // A header with a first block after the dump's own blocks is not trusted; one with a first block
        // before `at` is, but the blocks there are pattern or another dump's.
        let first = header.first_block.get().clamp(at, here);
        (at..first, Some(Found { header, first, end, ending }))
    }
}

/// A chunk header of dump `nonce` with its block number equal to `at`.
pub(crate) fn chunk_at(block: &Block, nonce: u64, at: u64) -> Option<&ChunkHeader> {
    chain::chunk_at(block, at).filter(|chunk| chunk.nonce.get() == nonce)
}

/// The payload blocks of a chunk, as known from its header.
#[derive(Default)]
pub(crate) struct Payload(Option<Box<ChunkHeader>>);

impl Payload {
    /// The payload of a chunk at the place in its header.
    pub(crate) fn of(chunk: &ChunkHeader) -> Payload {
        Payload(Some(Box::new(chunk.clone())))
    }

    /// Whether a block matches its checksum; `None` if it is not in the payload.
    pub(crate) fn is_good(&self, number: u64, block: &Block) -> Option<bool> {
        let chunk = self.0.as_ref()?;
        let place = number.checked_sub(chunk.block.get().checked_add(1)?)?;
        let sum = chunk.sums().get(usize::try_from(place).ok()?)?;
        Some(chunk.block_sum(block, number) == sum.get())
    }
}

/// The header of a dump that has lost both of its own, composed from a chunk.
fn from_chunk(uuid: &Uuid, chunk: &ChunkHeader, first: u64) -> Header {
    let mut header = Header::new();
    header.version = chunk.version;
    header.status = (Status::InProgress as u32).into();
    header.uuid = *uuid;
    header.nonce = chunk.nonce;
    header.first_block = first.into();
    header.trigger = (dumpcore::format::header::Trigger::Panic as u32).into();
    header.window_blocks = 1.into();
    header.cipher = chunk.cipher;
    header.attempt = chunk.attempt;
    header.ephemeral = chunk.ephemeral;
    header
}
