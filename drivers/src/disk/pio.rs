//! PIO: the CPU moves the data through a data port, because the device cannot.

use dumpcore::device::{DeviceError, Direction, Request};
use dumpcore::format::PAGE_SIZE;
use dumpcore::platform::Platform;

use super::request::{MAX_EXTENTS, extents};

/// The location of the RAM that extents name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ram {
    /// All below 4 GiB, with bus addresses equal to physical addresses: written in place.
    Low,
    /// Anywhere: copied into buffers of the arena first.
    Anywhere,
}

impl Ram {
    /// Maximum number of extents per request.
    pub(crate) fn max_extents(self) -> usize {
        match self {
            Ram::Low => MAX_EXTENTS,
            Ram::Anywhere => 0,
        }
    }
}

/// The location of a byte of a request.
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
    /// Reads data from the device.
    fn read_data(&self, bytes: &mut [u8]);

    /// Writes data to the device.
    fn write_data(&self, bytes: &[u8]);
}

/// Moves one sector by PIO, at `at` bytes into a request; `copy` has the size of a sector.
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
            // If DMA is not coherent: dumpcore expects the device's bytes in RAM, but PIO leaves them in the
            // CPU's cache.
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

/// Copies RAM, whose bus address equals its physical address, into `copy`. Everything is in one page.
fn copy_ram(bus: u64, copy: &mut [u8], platform: &dyn Platform) -> Option<()> {
    let page = platform.page(bus >> PAGE_SIZE.trailing_zeros())?;
    let offset = bus as usize % PAGE_SIZE;
    let (words, _) = copy.as_chunks_mut::<8>();
    if !offset.is_multiple_of(8) || offset.saturating_add(words.as_flattened().len()) > PAGE_SIZE {
        return None;
    }
    for (index, word) in words.iter_mut().enumerate() {
        let at = offset.saturating_add(index.saturating_mul(8));
        // SAFETY: the platform said that the page can be read, by words; this one is inside. It came in an
        // extent, so Platform::still() vouches for it.
        *word = unsafe { page.add(at).cast::<u64>().read_volatile() }.to_ne_bytes();
    }
    Some(())
}
