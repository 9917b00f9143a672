//! Limits on requests, and the spans of their data.

use dumpcore::device::{DeviceError, Direction, Extent, Gather, Request};
use dumpcore::format::BLOCK_SIZE;

/// Maximum number of bytes per request. More would not be faster.
pub const MAX_TRANSFER: usize = 1 << 20;
/// Maximum number of extents per request: enough for the largest transfer in extents of one block.
pub const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;

/// A run of bytes that a device reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Bus address of the first byte.
    pub bus: u64,
    /// Number of bytes.
    pub length: usize,
}

/// The extents that follow a request's buffer.
pub fn extents(request: &Request) -> &[Extent] {
    request.gather.as_ref().map_or(&[], Gather::extents)
}

/// Checks that a request is of whole blocks that a polled disk accepts, with at most `max_extents` extents.
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

/// Checks that a request of whole blocks is within a disk of `blocks` blocks.
///
/// # Errors
/// [`DeviceError::OutOfRange`].
pub(super) fn check_range(request: &Request, blocks: u64) -> Result<(), DeviceError> {
    let end = request.block.saturating_add((request.length() as usize / BLOCK_SIZE) as u64);
    if end > blocks { Err(DeviceError::OutOfRange { end, blocks }) } else { Ok(()) }
}

/// The spans of a request's data after its first `done` bytes, in order. None is empty.
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
        // As if the first piece started at a boundary.
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

/// Rounds down to whole blocks: a command ends at a block boundary.
pub const fn whole_blocks(bytes: usize) -> usize {
    bytes & !BLOCK_SIZE.wrapping_sub(1)
}
