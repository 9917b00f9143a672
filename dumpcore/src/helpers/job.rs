//! Work that can be done beside the crashing CPU: check reads, sum or pack pages.
//!
//! The crashing CPU uses the same functions when there are no helpers.

use crate::format::chunk::Packing;
use crate::format::{Block, PAGE_SIZE, Uuid, pattern};
use crate::integrity::Digest;
use crate::memory::bytes;
use crate::memory::class::ClassedPfn;
use crate::memory::lz4;
use crate::memory::page::{Look, copied, summed};
use crate::partition::transfer::Done;
use crate::platform::Platform;

/// Pages packed together. Chosen with `cargo xtask bench engine`: twice as many save little more space and
/// take twice the arena.
pub const UNIT_PAGES: usize = 8;

/// Pages processed together if they are not packed.
pub const LOOK_PAGES: usize = 32;

/// How pages are to be processed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Pack them: at most [`UNIT_PAGES`].
    Pack,
    /// Sum those that are [still](Platform::still), skip the others: at most [`LOOK_PAGES`].
    Sum,
    /// Skip all: they have to be copied.
    Copy,
}

/// Some pages and the results for each.
#[derive(Debug)]
pub struct Unit<'a> {
    way: Way,
    pages: [ClassedPfn; LOOK_PAGES],
    looks: [Look; LOOK_PAGES],
    count: usize,
    /// The packed pages, if any were packed.
    out: &'a mut [u8],
    stored: usize,
    packed: usize,
    packing: Packing,
}

impl<'a> Unit<'a> {
    /// A unit without pages. `out` has room for [`UNIT_PAGES`] pages, or is empty if pages are not packed.
    pub fn new(out: &'a mut [u8]) -> Unit<'a> {
        Unit {
            way: Way::Copy,
            pages: [ClassedPfn::ZERO; LOOK_PAGES],
            looks: [Look::Moving; LOOK_PAGES],
            count: 0,
            out,
            stored: 0,
            packed: 0,
            packing: Packing::Stored,
        }
    }

    /// Feeds the output address into the digest: it must be the same at the crash.
    pub fn integrity(&self, digest: &mut Digest) {
        digest.number(self.out.as_ptr() as u64).number(self.out.len() as u64);
    }

    /// Sets the pages to work on.
    pub fn set(&mut self, way: Way, pages: &[ClassedPfn]) {
        self.way = way;
        self.count = pages.len().min(LOOK_PAGES);
        for (slot, page) in self.pages.iter_mut().zip(pages) {
            *slot = *page;
        }
    }

    /// A page and its result, by its index in the unit.
    pub fn look(&self, place: usize) -> Option<(ClassedPfn, Look)> {
        if place >= self.count {
            return None;
        }
        Some((*self.pages.get(place)?, *self.looks.get(place)?))
    }

    /// Discards the packed bytes: the pages are to be copied instead.
    pub fn unpack(&mut self) {
        self.packed = 0;
        self.stored = 0;
    }

    /// Number of packed pages, how they are packed, and their bytes.
    pub fn packed(&self) -> (usize, Packing, &[u8]) {
        (self.packed, self.packing, self.out.get(..self.stored).unwrap_or_default())
    }

    /// Does the work.
    pub fn work(&mut self, pack_buffers: &mut PackBuffers<'_>, platform: &dyn Platform) {
        self.stored = 0;
        self.packed = 0;
        let way = self.way;
        for (page, look) in self.pages.iter().zip(&mut self.looks).take(self.count) {
            *look = match way {
                Way::Pack => match pack_buffers.staging.get_mut(self.packed) {
                    Some(block) => match copied(platform, page.pfn(), block) {
                        Ok(()) => {
                            self.packed = self.packed.saturating_add(1);
                            Look::Packed
                        }
                        Err(kind) => Look::Absent(kind),
                    },
                    None => Look::Moving,
                },
                Way::Sum => summed(platform, page.pfn()),
                Way::Copy => Look::Moving,
            };
        }
        let raw = pack_buffers.staging.get(..self.packed).unwrap_or_default().as_flattened();
        let Some(table) = pack_buffers.table.as_deref_mut() else { return };
        if raw.is_empty() {
            return;
        }
        // A unit that does not shrink is stored uncompressed.
        let most = raw.len().saturating_sub(1).min(self.out.len());
        let out = self.out.get_mut(..most).unwrap_or_default();
        match lz4::compress(raw, out, table) {
            Some(stored) => {
                self.packing = Packing::Lz4;
                self.stored = stored;
            }
            None => {
                self.packing = Packing::Stored;
                bytes::copy(self.out, raw);
                self.stored = raw.len();
            }
        }
    }
}

/// The buffers that a CPU needs to pack pages.
#[derive(Debug)]
pub struct PackBuffers<'a> {
    /// Copies of the pages of one unit.
    pub staging: &'a mut [Block],
    /// The compressor's memory; `None`, with empty staging, if pages are not packed.
    pub table: Option<&'a mut lz4::Table>,
    /// Pages that the crashing CPU has gathered for the next unit.
    pub batch: [ClassedPfn; LOOK_PAGES],
}

impl<'a> PackBuffers<'a> {
    /// Buffers for packing, or only for gathering pages.
    pub fn new(staging: &'a mut [Block], table: Option<&'a mut lz4::Table>) -> PackBuffers<'a> {
        PackBuffers { staging, table, batch: [ClassedPfn::ZERO; LOOK_PAGES] }
    }

    /// Feeds the addresses into the digest: they must be the same at the crash.
    pub fn integrity(&self, digest: &mut Digest) {
        digest.number(self.staging.as_ptr() as u64).number(self.staging.len() as u64);
        let table = self.table.as_deref();
        digest.number(table.map_or(0, |table| core::ptr::from_ref(table) as u64));
    }
}

/// Blocks that were read, to be compared with their pattern.
#[derive(Debug)]
pub struct Check {
    /// The finished read; `None` in an empty slot.
    pub read: Option<Done>,
    /// The partition's uuid.
    pub uuid: Uuid,
    /// The first block that is not the pattern, if there is one.
    pub bad: Option<u64>,
}

impl Check {
    /// No read to check.
    pub fn new() -> Check {
        Check { read: None, uuid: [0; 16], bad: None }
    }

    /// Does the work.
    pub fn work(&mut self) {
        self.bad = self.read.as_ref().and_then(|read| first_foreign(read, &self.uuid));
    }
}

impl Default for Check {
    fn default() -> Self {
        Self::new()
    }
}

/// The first block of a read that is not the pattern.
pub fn first_foreign(read: &Done, uuid: &Uuid) -> Option<u64> {
    let mut blocks = read.lease.buffer.blocks().iter().zip(read.range.from..read.range.to);
    blocks.find(|(block, number)| !pattern::matches(block, uuid, *number)).map(|(_, number)| number)
}

/// The most output bytes that a unit needs.
pub const OUT_BYTES: usize = UNIT_PAGES * PAGE_SIZE;
