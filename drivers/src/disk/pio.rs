//! Data that the CPU moves, through a data port, because the device cannot.

use dumpcore::device::{DeviceError, Direction, Request};
use dumpcore::format::PAGE_SIZE;
use dumpcore::platform::Platform;

use super::driver::Ram;
use super::request::{MAX_EXTENTS, extents};

/// Extents that a request may have.
pub(crate) fn max_extents(ram: Ram) -> usize {
    match ram {
        Ram::Low => MAX_EXTENTS,
        Ram::Anywhere => 0,
    }
}

/// Where a byte of a request is.
enum Spot {
    /// In its buffer, at this offset.
    Buffer(usize),
    /// In RAM, at this bus address.
    Ram(u64),
}

fn spot(request: &Request, at: usize) -> Spot {
    let length = request.buffer.len();
    if at < length {
        return Spot::Buffer(at);
    }
    let mut before = at.saturating_sub(length);
    for extent in extents(request) {
        if (before as u64) < extent.length {
            return Spot::Ram(extent.bus.wrapping_add(before as u64));
        }
        before = before.saturating_sub(extent.length as usize);
    }
    Spot::Buffer(length)
}

/// A data port.
pub(crate) trait DataPort {
    /// Takes data from the device.
    fn read_data(&self, bytes: &mut [u8]);

    /// Gives the device data.
    fn write_data(&self, bytes: &[u8]);
}

/// Has the CPU move one sector, of as many bytes as `copy` has, which is `at` bytes into a request.
///
/// # Errors
/// [`DeviceError::BadBuffer`] if the bytes cannot be reached.
pub(crate) fn move_sector(
    request: &mut Request,
    at: usize,
    copy: &mut [u8],
    port: &impl DataPort,
    platform: &dyn Platform,
) -> Result<(), DeviceError> {
    let outside = DeviceError::BadBuffer { length: at };
    let end = at.saturating_add(copy.len());
    match (request.direction, spot(request, at)) {
        (Direction::Read, Spot::Buffer(at)) => {
            let bytes = request.buffer.bytes_mut().get_mut(at..end).ok_or(outside)?;
            port.read_data(bytes);
            // Where DMA is not coherent, what dumpcore takes for the device's bytes in RAM is the CPU's in the cache.
            platform.clean_for_device(bytes.as_ptr(), bytes.len());
        }
        (Direction::Write, Spot::Buffer(at)) => {
            port.write_data(request.buffer.bytes().get(at..end).ok_or(outside)?);
        }
        (Direction::Write, Spot::Ram(bus)) => {
            copy_ram(bus, copy, platform).ok_or(outside)?;
            port.write_data(copy);
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
