//! The only way to a device's blocks. Block numbers are relative to the partition and checked against its
//! size.

use crate::device::{Completion, DeviceError, Direction, DumpDevice, Rejected, Request};
use crate::dma::{DmaBuffer, DmaPlace};
use crate::format::Block;
use crate::integrity::{Digest, Harm};
use crate::stack::RedZones;
use crate::wait::Wait;

/// One block of DMA memory for single-block transfers.
#[derive(Debug)]
pub struct Scratch {
    place: DmaPlace,
    /// `None` while a device keeps it.
    buffer: Option<DmaBuffer>,
}

impl Scratch {
    /// Uses `buffer`, which is one block.
    pub fn new(buffer: DmaBuffer) -> Scratch {
        Scratch { place: buffer.place(), buffer: Some(buffer) }
    }

    /// Feeds in the place of the buffer, whether it is here or not.
    pub(crate) fn place_integrity(&self, digest: &mut Digest) {
        self.place.integrity(digest);
    }

    /// Feeds in everything that must be the same at the crash.
    pub fn integrity(&self, digest: &mut Digest) {
        self.place.integrity(digest);
        if let Some(buffer) = &self.buffer {
            buffer.place().integrity(digest);
        }
    }
}

/// Feeds in the identity of a device: the addresses of its state and of its methods.
pub(crate) fn device_integrity(device: &dyn DumpDevice, digest: &mut Digest) {
    let device: *const dyn DumpDevice = device;
    // SAFETY: a pointer to a trait object is two words, for data and vtable, and any two words are two valid
    // numbers.
    let device: [usize; 2] = unsafe { core::mem::transmute(device) };
    device.iter().for_each(|word| {
        digest.number(*word as u64);
    });
}

/// The bounds of a partition on its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Its first block.
    pub first: u64,
    /// Number of blocks.
    pub blocks: u64,
}

/// A partition of a device.
pub struct Window<'w> {
    device: &'w mut dyn DumpDevice,
    bounds: Bounds,
    scratch: &'w mut Scratch,
    zones: &'w RedZones,
}

impl<'w> Window<'w> {
    /// The partition of `device` within `bounds`. No write happens once one of the `zones` is damaged.
    pub fn new(
        device: &'w mut dyn DumpDevice,
        bounds: Bounds,
        scratch: &'w mut Scratch,
        zones: &'w RedZones,
    ) -> Window<'w> {
        Window { device, bounds, scratch, zones }
    }

    /// Size of the partition in blocks.
    pub fn blocks(&self) -> u64 {
        self.bounds.blocks
    }

    /// First block after the partition, on the device.
    pub fn end_on_device(&self) -> u64 {
        self.bounds.first.saturating_add(self.bounds.blocks)
    }

    /// The device.
    pub fn device(&mut self) -> &mut dyn DumpDevice {
        self.device
    }

    /// Takes the device over, or resets it. Afterwards nothing is in flight.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.device.quiesce(wait)?;
        if self.scratch.buffer.is_none() {
            // SAFETY: the device had kept it; DumpDevice::quiesce has just stopped the device and made its
            // driver forget its buffers.
            self.scratch.buffer = Some(unsafe { self.scratch.place.buffer() });
        }
        Ok(())
    }

    /// Feeds in everything that must not change while the window is in use.
    pub(crate) fn integrity(&self, digest: &mut Digest) {
        device_integrity(&*self.device, digest);
        digest.number(self.bounds.first).number(self.bounds.blocks);
        self.scratch.place_integrity(digest);
    }

    /// Checks that no stack has overflowed.
    fn may_write(&self) -> Result<(), DeviceError> {
        if self.zones.are_whole() { Ok(()) } else { Err(DeviceError::Harmed(Harm::Stack)) }
    }

    /// The device block number of `block`, checking that `count` blocks from there are inside the partition.
    fn locate(&self, block: u64, count: u64) -> Result<u64, DeviceError> {
        let end = block.saturating_add(count);
        let first = self.bounds.first.checked_add(block);
        match first {
            Some(first) if count > 0 && end <= self.bounds.blocks => Ok(first),
            _ => Err(DeviceError::OutOfRange { end, blocks: self.bounds.blocks }),
        }
    }

    /// Starts a request whose block number is relative to the partition.
    ///
    /// # Errors
    /// The request, if it leaves the partition or the device rejects it.
    pub fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        let count = request.length().div_ceil(crate::format::BLOCK_SIZE as u64);
        let may = if request.direction == Direction::Write { self.may_write() } else { Ok(()) };
        let block = match may.and_then(|()| self.locate(request.block, count)) {
            Ok(block) => block,
            Err(error) => return Err(Rejected { request, error }),
        };
        // Before reads too: a cache line written back later would overwrite data from the device.
        request.buffer.clean_for_device(wait.platform());
        let at_once = self.device.submit(Request { block, ..request }, wait)?;
        if let Some(completion) = &at_once {
            completion.buffer.invalidate_from_device(wait.platform());
        }
        Ok(at_once)
    }

    /// The next finished request.
    ///
    /// # Errors
    /// The device has failed.
    pub fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        let completion = self.device.poll(wait)?;
        if let Some(completion) = &completion {
            completion.buffer.invalidate_from_device(wait.platform());
        }
        Ok(completion)
    }

    /// Transfers one block and waits for it. No submitted request may be in flight.
    fn transfer(&mut self, direction: Direction, block: u64, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let place = self.locate(block, 1)?;
        let buffer = self.scratch.buffer.take().ok_or(DeviceError::NotReady)?;
        buffer.clean_for_device(wait.platform());
        let (buffer, result) = self.device.rw_block(direction, place, buffer, wait);
        if let Some(buffer) = &buffer {
            buffer.invalidate_from_device(wait.platform());
        }
        self.scratch.buffer = buffer;
        result
    }

    /// Reads one block. No submitted request may be in flight.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn read(&mut self, block: u64, wait: &Wait<'_>) -> Result<&Block, DeviceError> {
        self.transfer(Direction::Read, block, wait)?;
        self.scratch.buffer.as_ref().and_then(|buffer| buffer.blocks().first()).ok_or(DeviceError::NotReady)
    }

    /// Writes one block, filled by `fill`. No submitted request may be in flight.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn write(
        &mut self,
        block: u64,
        fill: impl FnOnce(&mut Block),
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let bytes = self
            .scratch
            .buffer
            .as_mut()
            .and_then(|buffer| buffer.blocks_mut().first_mut())
            .ok_or(DeviceError::NotReady)?;
        fill(bytes);
        self.may_write()?;
        self.transfer(Direction::Write, block, wait)
    }
}
