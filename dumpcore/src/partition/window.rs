//! The only way to a device's blocks: numbers are relative to the partition, and none reaches beyond it.

use crate::device::{Completion, DeviceError, Direction, DumpDevice, Rejected, Request};
use crate::dma::DmaBuffer;
use crate::format::Block;
use crate::wait::Wait;

/// A partition of a device.
pub struct Window<'w> {
    device: &'w mut dyn DumpDevice,
    first: u64,
    blocks: u64,
    /// One block of DMA memory for transfers that stand alone.
    scratch: &'w mut Option<DmaBuffer>,
}

impl<'w> Window<'w> {
    /// The `blocks` blocks from `first` on.
    pub fn new(
        device: &'w mut dyn DumpDevice,
        first: u64,
        blocks: u64,
        scratch: &'w mut Option<DmaBuffer>,
    ) -> Window<'w> {
        Window { device, first, blocks, scratch }
    }

    /// Size of the partition in blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The device.
    pub fn device(&mut self) -> &mut dyn DumpDevice {
        self.device
    }

    /// Where `count` blocks from `block` on stand on the device.
    fn locate(&self, block: u64, count: u64) -> Result<u64, DeviceError> {
        let end = block.saturating_add(count);
        let first = self.first.checked_add(block);
        match first {
            Some(first) if count > 0 && end <= self.blocks => Ok(first),
            _ => Err(DeviceError::OutOfRange { end, blocks: self.blocks }),
        }
    }

    /// Starts a request whose block number is relative to the partition.
    ///
    /// # Errors
    /// The request, if it leaves the partition or the device does not take it.
    pub fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        let count = request.length().div_ceil(crate::format::BLOCK_SIZE as u64);
        let block = match self.locate(request.block, count) {
            Ok(block) => block,
            Err(error) => return Err(Rejected { request, error }),
        };
        if request.direction == Direction::Write {
            wait.platform().clean_for_device(request.buffer.bytes());
        }
        self.device.submit(Request { block, ..request }, wait)
    }

    /// The next finished request.
    ///
    /// # Errors
    /// The device has failed.
    pub fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        let completion = self.device.poll()?;
        if let Some(completion) = &completion {
            wait.platform().invalidate_from_device(completion.buffer.bytes());
        }
        Ok(completion)
    }

    /// One block, now. No submitted request may be in flight.
    fn transfer(&mut self, direction: Direction, block: u64, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let place = self.locate(block, 1)?;
        let buffer = self.scratch.take().ok_or(DeviceError::NotReady)?;
        wait.platform().clean_for_device(buffer.bytes());
        let (buffer, result) = self.device.rw_block(direction, place, buffer, wait);
        if let Some(buffer) = &buffer {
            wait.platform().invalidate_from_device(buffer.bytes());
        }
        *self.scratch = buffer;
        result
    }

    /// Reads one block. No submitted request may be in flight.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn read(&mut self, block: u64, wait: &Wait<'_>) -> Result<&Block, DeviceError> {
        self.transfer(Direction::Read, block, wait)?;
        self.scratch.as_ref().and_then(|buffer| buffer.blocks().first()).ok_or(DeviceError::NotReady)
    }

    /// Writes one block, which `fill` lays out. No submitted request may be in flight.
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
            .as_mut()
            .and_then(|buffer| buffer.blocks_mut().first_mut())
            .ok_or(DeviceError::NotReady)?;
        fill(bytes);
        self.transfer(Direction::Write, block, wait)
    }
}
