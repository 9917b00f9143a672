//! Requests for hardware that takes one command at a time: what is left of a request, and where it is in memory.

use dumpcore::device::{DeviceError, Direction, Gather, Request};
use dumpcore::format::{BLOCK_SIZE, PAGE_SIZE};
use dumpcore::platform::Platform;

/// Where the RAM is that extents name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ram {
    /// All of it below 4 GiB, and devices see it at its physical addresses: it is written from where it is.
    Low,
    /// Anywhere: it is copied into buffers of the arena first.
    Anywhere,
}

/// Bytes in a request at most.
pub(crate) const MAX_TRANSFER: usize = 1 << 20;
/// Extents in a request at most: the smallest, of a block each, reach the largest transfer.
const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;
/// Bytes that a piece ends at a multiple of, so that none crosses one.
pub(crate) const BOUNDARY: u64 = 1 << 16;
/// Pieces that a table holds: the smallest, of 4 KiB, reach the largest request, with some to spare for buffers that are
/// not aligned to pages.
pub(crate) const ENTRIES: usize = 512;

impl Ram {
    /// Extents that a request may have.
    pub(crate) fn max_extents(self) -> usize {
        match self {
            Ram::Low => MAX_EXTENTS,
            Ram::Anywhere => 0,
        }
    }
}

/// Where some bytes of a request are.
pub(crate) enum Spot {
    /// In its buffer, at this offset.
    Buffer(usize),
    /// In RAM, at this bus address.
    Ram(u64),
}

/// Whether a request can be taken for a disk with this many blocks.
///
/// # Errors
/// [`DeviceError::BadBuffer`] or [`DeviceError::OutOfRange`].
pub(crate) fn check(request: &Request, blocks: u64, ram: Ram) -> Result<(), DeviceError> {
    let length = request.length() as usize;
    let extents = request.gather.as_ref().map_or(&[][..], Gather::extents);
    let ragged = |bytes: u64| bytes == 0 || !bytes.is_multiple_of(BLOCK_SIZE as u64);
    let strange = |bus: u64| !bus.is_multiple_of(PAGE_SIZE as u64);
    let bad = ragged(request.buffer.len() as u64)
        || extents.iter().any(|extent| ragged(extent.length) || strange(extent.bus))
        || length > MAX_TRANSFER
        || extents.len() > ram.max_extents()
        || (!extents.is_empty() && request.direction == Direction::Read);
    if bad {
        return Err(DeviceError::BadBuffer { length });
    }
    let end = request.block.saturating_add((length / BLOCK_SIZE) as u64);
    if end > blocks {
        return Err(DeviceError::OutOfRange { end, blocks });
    }
    Ok(())
}

/// The parts of a request, in order: bus address and bytes.
fn parts(request: &Request) -> impl Iterator<Item = (u64, usize)> + '_ {
    let extents = request.gather.as_ref().map_or(&[][..], Gather::extents);
    core::iter::once((request.buffer.bus_address(), request.buffer.len()))
        .chain(extents.iter().map(|extent| (extent.bus, extent.length as usize)))
}

/// The pieces of a request after its first `done` bytes, none across a [`BOUNDARY`].
pub(crate) fn pieces(request: &Request, done: usize) -> impl Iterator<Item = (u64, usize)> + '_ {
    let mut before = done;
    parts(request)
        .flat_map(move |(start, length)| {
            let skip = before.min(length);
            before = before.saturating_sub(skip);
            let first = start.saturating_add(skip as u64);
            let end = start.saturating_add(length as u64);
            let between = first / BOUNDARY..end.div_ceil(BOUNDARY);
            between.map(move |number| {
                let from = first.max(number.saturating_mul(BOUNDARY));
                let to = end.min(number.saturating_add(1).saturating_mul(BOUNDARY));
                (from, to.saturating_sub(from) as usize)
            })
        })
        .filter(|(_, length)| *length > 0)
}

/// Bytes in whole blocks after the first `done` bytes that one table can name, of memory that the hardware `reaches`; 0
/// if it cannot name the first block.
#[inline(never)]
pub(crate) fn in_reach(request: &Request, done: usize, reaches: impl Fn(u64, u64) -> bool) -> usize {
    let reached = pieces(request, done)
        .take(ENTRIES)
        .take_while(|(bus, length)| reaches(*bus, *length as u64))
        .fold(0_usize, |sum, (_, length)| sum.saturating_add(length));
    reached & !BLOCK_SIZE.wrapping_sub(1)
}

/// Bytes after the first `done` ones, as far as the part goes that begins there or before.
pub(crate) fn in_part(request: &Request, done: usize) -> usize {
    let mut before = done;
    for (_, length) in parts(request) {
        if before < length {
            return length.saturating_sub(before);
        }
        before = before.saturating_sub(length);
    }
    0
}

/// Where the byte at this offset is.
fn spot(request: &Request, at: usize) -> Spot {
    let length = request.buffer.len();
    if at < length {
        return Spot::Buffer(at);
    }
    let mut before = at.saturating_sub(length);
    for extent in request.gather.as_ref().map_or(&[][..], Gather::extents) {
        if (before as u64) < extent.length {
            return Spot::Ram(extent.bus.wrapping_add(before as u64));
        }
        before = before.saturating_sub(extent.length as usize);
    }
    Spot::Buffer(length)
}

/// Has the CPU move the `sector` bytes at an offset of a request, by a data port. `copy` is room for a sector.
///
/// # Errors
/// [`DeviceError::BadBuffer`] if the bytes cannot be reached.
pub(crate) fn move_sector(
    request: &mut Request,
    (at, sector): (usize, usize),
    copy: &mut [u8],
    take: impl FnOnce(&mut [u8]),
    give: impl FnOnce(&[u8]),
    platform: &dyn Platform,
) -> Result<(), DeviceError> {
    let outside = DeviceError::BadBuffer { length: at };
    match (request.direction, spot(request, at)) {
        (Direction::Read, Spot::Buffer(at)) => {
            let bytes = request.buffer.bytes_mut().get_mut(at..at.saturating_add(sector)).ok_or(outside)?;
            take(bytes);
            // Where DMA is not coherent, what dumpcore takes for the device's bytes in RAM is the CPU's in the cache.
            platform.clean_for_device(bytes.as_ptr(), bytes.len());
        }
        (Direction::Write, Spot::Buffer(at)) => {
            give(request.buffer.bytes().get(at..at.saturating_add(sector)).ok_or(outside)?);
        }
        (Direction::Write, Spot::Ram(bus)) => {
            let copy = copy.get_mut(..sector).ok_or(outside)?;
            copy_ram(bus, copy, platform).ok_or(outside)?;
            give(copy);
        }
        (Direction::Read, Spot::Ram(_)) => return Err(outside),
    }
    Ok(())
}

/// Copies RAM, which is the same at its bus and at its physical address, into `copy`, all of it in one page.
fn copy_ram(bus: u64, copy: &mut [u8], platform: &dyn Platform) -> Option<()> {
    let page = platform.page(bus >> PAGE_SIZE.trailing_zeros())?;
    let offset = bus as usize % PAGE_SIZE;
    let (words, _) = copy.as_chunks_mut::<8>();
    if !offset.is_multiple_of(8) || offset.saturating_add(words.as_flattened().len()) > PAGE_SIZE {
        return None;
    }
    for (index, word) in words.iter_mut().enumerate() {
        let at = offset.saturating_add(index.saturating_mul(8));
        // SAFETY: the platform said that the page can be read, by words; this one is inside. It came in an extent, so
        // Platform::still() vouches for it.
        *word = unsafe { page.add(at).cast::<u64>().read_volatile() }.to_ne_bytes();
    }
    Some(())
}
