//! What a request may be, and where its data is in memory.

use dumpcore::device::{DeviceError, Direction, Extent, Gather, Request};
use dumpcore::format::BLOCK_SIZE;

/// Bytes in a request at most. More would not be faster.
pub const MAX_TRANSFER: usize = 1 << 20;
/// Extents in a request at most: the smallest, of a block each, reach the largest transfer.
pub const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;

/// A run of bytes that a device reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Where the device sees the first one.
    pub bus: u64,
    /// How many.
    pub length: usize,
}

/// The extents that follow a request's buffer.
pub fn extents(request: &Request) -> &[Extent] {
    request.gather.as_ref().map_or(&[], Gather::extents)
}

/// Whether a request is one of whole blocks that a polled disk takes, with at most so many extents.
///
/// # Errors
/// [`DeviceError::BadBuffer`].
pub(super) fn check_shape(request: &Request, max_extents: usize) -> Result<(), DeviceError> {
    let length = request.length() as usize;
    let extents = extents(request);
    let ragged = |bytes: u64| bytes == 0 || !bytes.is_multiple_of(BLOCK_SIZE as u64);
    let bad = ragged(request.buffer.len() as u64)
        || extents.iter().any(|extent| ragged(extent.length))
        || length > MAX_TRANSFER
        || extents.len() > max_extents
        || (!extents.is_empty() && request.direction == Direction::Read);
    if bad { Err(DeviceError::BadBuffer { length }) } else { Ok(()) }
}

/// Whether a request of whole blocks is within a disk of so many.
///
/// # Errors
/// [`DeviceError::OutOfRange`].
pub(super) fn check_range(request: &Request, blocks: u64) -> Result<(), DeviceError> {
    let end = request.block.saturating_add((request.length() as usize / BLOCK_SIZE) as u64);
    if end > blocks { Err(DeviceError::OutOfRange { end, blocks }) } else { Ok(()) }
}

/// Where the data of a request is after its first `done` bytes, in order. No span is empty.
pub fn spans(request: &Request, done: usize) -> impl Iterator<Item = Span> + '_ {
    let mut before = done;
    let buffer = Span { bus: request.buffer.bus_address(), length: request.buffer.len() };
    let extents =
        extents(request).iter().map(|extent| Span { bus: extent.bus, length: extent.length as usize });
    core::iter::once(buffer).chain(extents).filter_map(move |span| {
        let skip = before.min(span.length);
        before = before.saturating_sub(skip);
        let length = span.length.saturating_sub(skip);
        (length > 0).then(|| Span { bus: span.bus.wrapping_add(skip as u64), length })
    })
}

/// The same spans, cut so that none crosses a multiple of `BOUNDARY` bytes, a power of two.
pub fn cut<const BOUNDARY: u64>(spans: impl Iterator<Item = Span>) -> impl Iterator<Item = Span> {
    spans.flat_map(|span| {
        // As if the first piece began at a boundary.
        let ahead = (span.bus & BOUNDARY.wrapping_sub(1)) as usize;
        let end = span.length.saturating_add(ahead);
        (0..end).step_by(BOUNDARY as usize).map(move |border| {
            let begin = border.max(ahead);
            let length = border.saturating_add(BOUNDARY as usize).min(end).saturating_sub(begin);
            Span { bus: span.bus.wrapping_add(begin.saturating_sub(ahead) as u64), length }
        })
    })
}

/// The first `bytes` bytes of the spans.
pub fn first_bytes(spans: impl Iterator<Item = Span>, bytes: usize) -> impl Iterator<Item = Span> {
    let mut left = bytes;
    spans.map_while(move |Span { bus, length }| {
        let length = length.min(left);
        left = left.saturating_sub(length);
        (length > 0).then_some(Span { bus, length })
    })
}

/// Bytes in all the spans.
pub fn total(spans: impl Iterator<Item = Span>) -> usize {
    spans.fold(0, |sum: usize, span| sum.saturating_add(span.length))
}

/// So many bytes, without what is there of another block: what a command moves ends where a block does.
pub const fn whole_blocks(bytes: usize) -> usize {
    bytes & !BLOCK_SIZE.wrapping_sub(1)
}
