//! A whole chunk: checked block by block, decrypted if encrypted, and divided into pages.

use dumpcore::format::chunk::{ChunkHeader, Encoding, Packing, Run, RunKind, Unit, Units};
use dumpcore::format::class::PageClass;
use dumpcore::format::crypt::Key;
use dumpcore::format::{BLOCK_SIZE, Block, pattern};

use super::index::Fate;
use super::stripes::Part;
use crate::source::Unreadable;

/// The condition of a dump's block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Its checksum is correct.
    Good,
    /// It still holds the pattern: the machine stopped before writing it.
    NotWritten,
    /// Its contents are wrong.
    Damaged,
    /// Its checksum is correct, but it is part of an encrypted dump and was not written with the dump's key.
    Tampered,
    /// Its checksum is correct, but its contents are inconsistent.
    Garbled,
    /// It is a valid block of another version of the format.
    OtherVersion(u32),
    /// The medium cannot read it.
    Unreadable,
}

/// The means to decrypt a dump's chunks.
pub(super) enum Decryption {
    /// The dump is not encrypted.
    NotNeeded,
    /// It is encrypted, and there is no identity.
    NoIdentity,
    /// It is encrypted, with this key; `None` if there cannot be one.
    Key(Option<Key>),
}

/// The usability of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Its bytes are known, as far as its blocks are good.
    Readable,
    /// It is encrypted and complete, but there is no key.
    Encrypted,
    /// It is encrypted, and cannot be decrypted because some of its blocks are bad.
    Torn,
    /// It was replaced or modified, though its checksums are correct.
    Tampered,
}

/// A chunk. Its payload is a separate buffer, or a part of a larger one.
pub(super) struct Chunk<B> {
    /// The block of its header.
    pub(super) block: u64,
    /// Its header.
    pub(super) header: Box<ChunkHeader>,
    /// The conditions of its payload blocks.
    pub(super) conditions: Vec<Condition>,
    /// Its usability.
    pub(super) state: State,
    /// The fate of all its pages, if its header cannot be trusted about them.
    lost: Option<Fate>,
    /// The payload, decrypted if possible. Bad blocks are zeros.
    payload: B,
}

/// Consecutive data pages of a chunk that are together in its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Index of the first among the data pages of the chunk.
    pub(super) first: u64,
    /// How many.
    pub(super) pages: u64,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Bytes of the payload.
    Unit(Unit),
    /// Nothing usable.
    Lost(Fate),
}

/// Consecutive pages of one class with the same fate.
pub(super) struct Piece<'a> {
    /// Page frame number of the first.
    pub(super) pfn: u64,
    /// Index of the first among the data pages of the chunk.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u64,
    /// Their class.
    pub(super) class: PageClass,
    /// Their bytes, or why there are none.
    pub(super) bytes: Result<&'a [Block], Fate>,
}

/// Buffer for a decompressed unit.
pub(super) type Room = Vec<Block>;

impl<B: AsRef<[Block]> + AsMut<[Block]>> Chunk<B> {
    /// Checks a chunk whose header is in `block` of a part. `payload` has as many blocks as the header says,
    /// as read from the medium; `unreadable` tells which of them could not be read. The part of it after the
    /// part's end does not matter.
    pub(super) fn check(
        part: &Part<'_>,
        block: u64,
        header: Box<ChunkHeader>,
        mut payload: B,
        unreadable: &Unreadable,
        decryption: &Decryption,
    ) -> Chunk<B> {
        let blocks = payload.as_mut();
        let mut conditions = Vec::with_capacity(header.sums().len());
        for ((number, sum), bytes) in (block + 1..).zip(header.sums()).zip(&mut *blocks) {
            let condition = if number >= part.found.end {
                Condition::NotWritten
            } else if unreadable.holds(number) {
                Condition::Unreadable
            } else if header.block_sum(bytes, number) == sum.get() {
                Condition::Good
            } else if pattern::matches(bytes, &part.uuid, number) {
                Condition::NotWritten
            } else {
                Condition::Damaged
            };
            if condition != Condition::Good {
                bytes.fill(0);
            }
            conditions.push(condition);
        }
        let whole = conditions.iter().all(|condition| *condition == Condition::Good);
        let state = match (decryption, header.is_encrypted(), whole) {
            (Decryption::NotNeeded, false, _) => State::Readable,
            (Decryption::NotNeeded, true, _) | (_, false, _) => State::Tampered,
            (_, true, false) => State::Torn,
            (Decryption::NoIdentity, true, true) => State::Encrypted,
            (Decryption::Key(key), true, true) => {
                let opens = |key: &Key| key.open_chunk(&header, blocks.as_flattened_mut());
                if key.as_ref().is_some_and(opens) { State::Readable } else { State::Tampered }
            }
        };
        let mut chunk = Chunk { block, header, conditions, state, lost: None, payload };
        chunk.lost = match (decryption, state) {
            (_, State::Tampered) => Some(Fate::Damaged),
            (Decryption::Key(_), State::Torn) => chunk.worst(0, chunk.conditions.len()),
            _ => None,
        };
        chunk
    }

    /// The fate of all its pages, data or not, if its header cannot be trusted about them.
    pub(super) fn lost(&self) -> Option<Fate> {
        self.lost
    }

    /// The used bytes of payload block `index`, if known.
    pub(super) fn bytes(&self, index: usize) -> Option<&[u8]> {
        let is_known = self.state == State::Readable && self.conditions.get(index) == Some(&Condition::Good);
        let start = index * BLOCK_SIZE;
        let used = (self.header.payload_bytes.get() as usize).saturating_sub(start).min(BLOCK_SIZE);
        self.payload.as_ref().get(index).filter(|_| is_known).map(|block| &block[..used])
    }

    /// Number of pages whose bytes should be in the payload.
    pub(super) fn data_pages(&self) -> u64 {
        data_pages(&self.header)
    }

    /// The segments of all data pages, in order. The payload's size bounds time and memory.
    pub(super) fn segments(&mut self) -> Vec<Segment> {
        let pages = self.data_pages();
        let mut segments = Vec::new();
        let lost = match self.state {
            State::Readable if self.header.encoding() == Encoding::Units => return self.units(pages),
            State::Readable => {
                for (first, condition) in (0..pages).zip(&self.conditions) {
                    let offset = first as usize * BLOCK_SIZE;
                    let unit = Unit { offset, stored: BLOCK_SIZE, pages: 1, packing: Packing::Stored };
                    let what = lost_with(*condition).map_or(What::Unit(unit), What::Lost);
                    segments.push(Segment { first, pages: 1, what });
                }
                return segments;
            }
            State::Encrypted => Fate::Encrypted,
            State::Tampered => Fate::Damaged,
            State::Torn => self.worst(0, self.conditions.len()).unwrap_or(Fate::Damaged),
        };
        if pages > 0 {
            segments.push(Segment { first: 0, pages, what: What::Lost(lost) });
        }
        segments
    }

    /// [`Chunk::segments`] of a chunk with units. Marks inconsistent ones.
    fn units(&mut self, pages: u64) -> Vec<Segment> {
        let mut segments = Vec::new();
        let used = self.header.payload_bytes.get() as usize;
        let payload = self.payload.as_ref().as_flattened().get(..used).unwrap_or_default();
        let (mut first, mut more) = (0, false);
        // Bad blocks are zeros, which are not a valid unit.
        let mut units = Units::new(payload);
        for unit in units.by_ref() {
            let (from, to) = (unit.offset / BLOCK_SIZE, (unit.offset + unit.stored).div_ceil(BLOCK_SIZE));
            let what = self.worst(from, to).map_or(What::Unit(unit), What::Lost);
            let count = (unit.pages as u64).min(pages - first);
            more = count < unit.pages as u64;
            if count > 0 {
                segments.push(Segment { first, pages: count, what });
            }
            first += count;
            if more {
                break;
            }
        }
        let rest = units.rest().len();
        if rest == 0 && first == pages && !more {
            return segments;
        }
        let at = (used - rest) / BLOCK_SIZE;
        // The units end early, or their number of pages is wrong.
        let at = at.min(self.conditions.len().saturating_sub(1));
        let lost = self.conditions.get(at).copied().and_then(lost_with);
        if lost.is_none()
            && let Some(condition) = self.conditions.get_mut(at)
        {
            *condition = Condition::Garbled;
        }
        if first < pages {
            let what = What::Lost(lost.unwrap_or(Fate::Damaged));
            segments.push(Segment { first, pages: pages - first, what });
        }
        segments
    }

    /// The fate of bytes in some payload blocks; `None` if all are good.
    fn worst(&self, from: usize, to: usize) -> Option<Fate> {
        let blocks = self.conditions.get(from..to).unwrap_or_default();
        let mut fates = blocks.iter().copied().filter_map(lost_with);
        let first = fates.next()?;
        // Damage is worse than not written.
        Some(if fates.all(|fate| fate == first) { first } else { Fate::Damaged })
    }

    /// The pages of a segment, or why they are unknown. `room` is the buffer for decompression.
    pub(super) fn unpack<'a>(&'a self, segment: &Segment, room: &'a mut Room) -> Result<&'a [Block], Fate> {
        let unit = match segment.what {
            What::Unit(unit) => unit,
            What::Lost(fate) => return Err(fate),
        };
        let stored = self.payload.as_ref().as_flattened().get(unit.offset..unit.offset + unit.stored);
        let stored = stored.ok_or(Fate::Damaged)?;
        let pages = match unit.packing {
            Packing::Stored => stored.as_chunks::<BLOCK_SIZE>().0,
            Packing::Lz4 => {
                // At most `MAX_UNIT_PAGES`.
                room.resize(unit.pages, [0; BLOCK_SIZE]);
                let room = room.as_flattened_mut();
                let length = room.len();
                match lz4_flex::block::decompress_into(stored, room) {
                    Ok(unpacked) if unpacked == length => {}
                    _ => return Err(Fate::Damaged),
                }
                room.as_chunks::<BLOCK_SIZE>().0
            }
        };
        pages.get(..segment.pages as usize).ok_or(Fate::Damaged)
    }

    /// Passes all data pages to `visit`, in order. Marks units that cannot be decompressed.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub(super) fn pieces<E>(
        &mut self,
        room: &mut Room,
        visit: &mut dyn FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let segments = self.segments();
        let mut garbled = Vec::new();
        let mut cursor = Cursor::new(self.header.runs());
        for segment in segments {
            let bytes = self.unpack(&segment, room);
            if let (What::Unit(unit), Err(_)) = (segment.what, &bytes) {
                garbled.push(unit.offset / BLOCK_SIZE);
            }
            let mut done = 0;
            while done < segment.pages {
                let Some((pfn, count, class)) = cursor.take(segment.pages - done) else { break };
                let part = done as usize..(done + count) as usize;
                let bytes = bytes.and_then(|pages| pages.get(part).ok_or(Fate::Damaged));
                visit(Piece { pfn, first: segment.first + done, count, class, bytes })?;
                done += count;
            }
        }
        for block in garbled {
            if let Some(condition) = self.conditions.get_mut(block) {
                *condition = Condition::Garbled;
            }
        }
        Ok(())
    }
}

/// Number of pages whose bytes should be in the payload after this header.
pub(super) fn data_pages(header: &ChunkHeader) -> u64 {
    let data = header.runs().iter().filter(|run| run.kind() == RunKind::Data);
    data.map(|run| u64::from(run.count.get())).sum()
}

/// The fate of a page with bytes in such a block.
fn lost_with(condition: Condition) -> Option<Fate> {
    match condition {
        Condition::Good => None,
        Condition::NotWritten => Some(Fate::NotWritten),
        _ => Some(Fate::Damaged),
    }
}

/// An iterator over the data pages of runs.
struct Cursor<'a> {
    runs: std::slice::Iter<'a, Run>,
    pfn: u64,
    left: u64,
    class: PageClass,
}

impl<'a> Cursor<'a> {
    fn new(runs: &'a [Run]) -> Cursor<'a> {
        Cursor { runs: runs.iter(), pfn: 0, left: 0, class: PageClass::Unknown }
    }

    /// The next consecutive pages of one class, at most `most`: page frame number of the first, number, and
    /// class.
    fn take(&mut self, most: u64) -> Option<(u64, u64, PageClass)> {
        if self.left == 0 {
            let run = self.runs.find(|run| run.kind() == RunKind::Data)?;
            (self.pfn, self.left, self.class) = (run.pfn.get(), run.count.get().into(), run.class());
        }
        let (pfn, count) = (self.pfn, self.left.min(most));
        self.pfn += count;
        self.left -= count;
        Some((pfn, count, self.class))
    }
}
