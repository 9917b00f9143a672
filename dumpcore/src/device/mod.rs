//! What a disk driver must be able to do to receive a dump.
//!
//! This is the 2004 `disk_dump_device_ops` made safe and pipelined. A driver implements `rw_block`; one that
//! can keep several requests in flight also implements `submit` and `poll`.

mod error;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::dma::DmaBuffer;
use crate::format::BLOCK_SIZE;
use crate::integrity::Digest;
use crate::wait::Wait;

pub use error::DeviceError;

/// The size of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Whole 4096-byte blocks.
    pub blocks: u64,
}

/// A device's state, as far as it can be judged without changing anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It behaves as expected.
    Healthy,
    /// It may work; the error says what is wrong.
    Risky(DeviceError),
    /// It cannot be used.
    Unusable(DeviceError),
}

/// Direction of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the device into memory.
    Read,
    /// From memory to the device.
    Write,
}

/// RAM outside the arena that a device reads in place. The entry layout of a [`Gather`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// Bus address of the first byte.
    pub bus: u64,
    /// Bytes, a multiple of 4096.
    pub length: u64,
}

/// A list of [`Extent`]s, kept in the arena for as long as the device needs it.
#[derive(Debug)]
pub struct Gather {
    table: DmaBuffer,
    count: usize,
}

impl Gather {
    /// The first `count` extents in `table`, whose address is a multiple of 8; those that do not fit are left
    /// out.
    pub fn new(table: DmaBuffer, count: usize) -> Gather {
        Gather { table, count }
    }

    /// The extents.
    pub fn extents(&self) -> &[Extent] {
        let (entries, _) = self.table.bytes().as_chunks::<{ size_of::<Extent>() }>();
        let used = entries.get(..self.count.min(entries.len())).unwrap_or_default();
        <[Extent]>::ref_from_bytes(used.as_flattened()).unwrap_or_default()
    }

    /// Bytes in all extents together.
    pub fn length(&self) -> u64 {
        self.extents().iter().fold(0, |sum, extent| extent.length.saturating_add(sum))
    }

    /// The memory that holds the list.
    pub fn into_table(self) -> DmaBuffer {
        self.table
    }
}

/// A transfer of whole blocks. The device owns the buffer until it comes back in a [`Completion`].
#[derive(Debug)]
pub struct Request {
    /// The caller's identifier for the request; comes back in the completion.
    pub id: u32,
    /// Read or write.
    pub direction: Direction,
    /// First block on the device, in units of 4096 bytes.
    pub block: u64,
    /// The memory to read from or write to; its length is a multiple of 4096 bytes.
    pub buffer: DmaBuffer,
    /// RAM whose bytes follow those of the buffer. Only for writes, and only for devices that have
    /// [`max_extents`](DumpDevice::max_extents).
    pub gather: Option<Gather>,
}

impl Request {
    /// Bytes to transfer, in total.
    pub fn length(&self) -> u64 {
        (self.buffer.len() as u64).saturating_add(self.gather.as_ref().map_or(0, Gather::length))
    }
}

/// A finished [`Request`].
#[derive(Debug)]
pub struct Completion {
    /// The request's id.
    pub id: u32,
    /// The request's buffer.
    pub buffer: DmaBuffer,
    /// The request's list of extents.
    pub gather: Option<Gather>,
    /// Whether all of it was transferred.
    pub result: Result<(), DeviceError>,
}

/// A request that was not accepted, with its buffer.
#[derive(Debug)]
pub struct Rejected {
    /// The request.
    pub request: Request,
    /// Why.
    pub error: DeviceError,
}

/// A disk that can receive a dump.
///
/// Order of calls: `integrity` by `arm()`; after the crash `integrity` again, `sanity_check`, `quiesce`, any
/// number of transfers, `shutdown`. Only `integrity` and `sanity_check` are called before `quiesce`.
///
/// A driver never panics, waits only through its [`Wait`], and does not trust any data from the device.
///
/// Where DMA is not coherent, dumpcore cleans and invalidates the buffers of requests. The driver does the
/// same for memory of its own that it shares with the device (rings, tables, status), with
/// [`Platform::clean_for_device`](crate::Platform::clean_for_device) and
/// [`Platform::invalidate_from_device`](crate::Platform::invalidate_from_device).
///
/// # Implementation safety
/// A [`DmaBuffer`] is the only way to its memory. If a device fails and keeps buffers, dumpcore creates them
/// anew; otherwise the dump would lose them. So a driver must follow these rules:
/// - A buffer or [`Gather`] is returned at most once: in the [`Completion`] or the [`Rejected`] of its own
///   request, or by the [`rw_block`](DumpDevice::rw_block) call that got it. Nothing else is returned.
/// - After it is returned, it is not touched any more. Until then, the driver touches it only while one of
///   its methods runs, and the device only as the request says: in a read it may write the buffer, in a write
///   it only reads the buffer and the [extents](Extent). The device is never given the address of any memory
///   other than these and the driver's own.
/// - [`quiesce`](DumpDevice::quiesce) neither touches nor returns anything from an earlier request. Once it
///   has returned `Ok`, driver and device have forgotten all of it.
/// - All of this holds whatever the device writes to its registers and to memory.
pub unsafe trait DumpDevice: Send {
    /// The device's name on the console, such as `virtio-blk 00:04.0`.
    fn name(&self) -> &str;

    /// The size of the device. Before `quiesce`: as found when it was opened, or `None` if finding out takes
    /// a command to the device. Afterwards: as the device now reports it.
    fn geometry(&self) -> Option<Geometry>;

    /// Size of the disk's logical sectors in bytes, if known. Its partition table counts in these.
    fn sector_size(&self) -> Option<u32> {
        None
    }

    /// Feeds into `digest` everything that must be the same at the crash as when it was armed: register
    /// addresses, queue addresses, size. Leave out what changes in use.
    fn integrity(&self, digest: &mut Digest);

    /// Checks the device without changing it. Called after the crash, while another driver's requests may be
    /// in flight.
    fn sanity_check(&mut self, wait: &Wait<'_>) -> Health;

    /// Takes over the controller by reset, whatever driver used it, and leaves it polled, with interrupts
    /// masked. On success, the device no longer accesses memory, and the driver has forgotten the buffers of
    /// requests that were in flight: the caller owns them again. After a failure, only `quiesce` is called.
    ///
    /// # Errors
    /// Why the device cannot be used. `quiesce` may be called again.
    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Transfers one block and returns when it is done (the data may only be in the device's cache). Never
    /// called while submitted requests are in flight.
    ///
    /// # Errors
    /// Why the block was not transferred. The buffer, which must be 4096 bytes, is returned either way,
    /// unless the device may still be using it.
    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>);

    /// A number shared by all disks that one reset takes over: they cannot be used at the same time. `None`
    /// for a disk that is reset on its own.
    fn controller(&self) -> Option<u64> {
        None
    }

    /// How many requests can be in flight, at least 1. Must not change after `arm()` was called: buffers are
    /// allocated for it.
    fn depth(&self) -> usize {
        1
    }

    /// Maximum size of a request in bytes; a multiple of 4096. Must not change after `arm()` was called.
    fn max_transfer(&self) -> usize {
        usize::MAX & !(BLOCK_SIZE - 1)
    }

    /// Maximum number of extents in a request; 0 for a device that only accepts buffers from the arena.
    fn max_extents(&self) -> usize {
        0
    }

    /// Starts a request. A device that finishes it at once returns the completion; otherwise `poll` returns
    /// it later. The default does the whole transfer with `rw_block`.
    ///
    /// # Errors
    /// The request, if it was not accepted.
    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        transfer_by_blocks(self, request, wait).map(Some)
    }

    /// Returns the next finished request, if there is one. Never waits: `wait` is for drivers that have their
    /// own timers and tasklets, and for the [platform](Wait::platform)'s cache maintenance.
    ///
    /// # Errors
    /// The device itself has failed, not just one request; no request in flight will complete.
    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        let _ = wait;
        Ok(None)
    }

    /// Returns once the medium, not only a cache, has everything that completed before. Never called while
    /// requests are in flight.
    ///
    /// # Errors
    /// Why that is not certain.
    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Flushes and leaves the device idle. This is the last call.
    ///
    /// # Errors
    /// Why it is not certain that the medium has everything.
    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;
}

/// Does a whole request with `rw_block`, one block after another: the default of [`DumpDevice::submit`].
///
/// # Errors
/// The request, if it has extents. If a block fails, the completion says so.
pub(crate) fn transfer_by_blocks<D: DumpDevice + ?Sized>(
    device: &mut D,
    request: Request,
    wait: &Wait<'_>,
) -> Result<Completion, Rejected> {
    if request.gather.is_some() {
        let length = request.length() as usize;
        return Err(Rejected { request, error: DeviceError::BadBuffer { length } });
    }
    let Request { id, direction, block, buffer, gather } = request;
    // Finished blocks are joined on the left; the remaining ones are split off the right.
    let (mut done, mut rest) = buffer.split(0);
    let mut at = block;
    // Each turn transfers one block.
    while !rest.is_empty() {
        let (piece, behind) = rest.split(BLOCK_SIZE);
        let (piece, result) = device.rw_block(direction, at, piece, wait);
        done = match piece {
            Some(piece) => done.join(piece).unwrap_or_else(|(left, _)| left),
            None => done,
        };
        if let Err(error) = result {
            let buffer = done.join(behind).unwrap_or_else(|(left, _)| left);
            return Ok(Completion { id, buffer, gather, result: Err(error) });
        }
        rest = behind;
        at = at.wrapping_add(1);
    }
    Ok(Completion { id, buffer: done, gather, result: Ok(()) })
}

/// Shows that safe code cannot implement the trait: the first example compiles, and the second differs only
/// in the missing `unsafe`.
///
/// ```
/// # use dumpcore::device::{DeviceError, Direction, DumpDevice, Geometry, Health};
/// # use dumpcore::{dma::DmaBuffer, integrity::Digest, wait::Wait};
/// # type Moved = (Option<DmaBuffer>, Result<(), DeviceError>);
/// # struct Disk;
/// // SAFETY: what it is given comes back at once.
/// unsafe impl DumpDevice for Disk {
/// #   fn name(&self) -> &str { "disk" }
/// #   fn geometry(&self) -> Option<Geometry> { None }
/// #   fn integrity(&self, _: &mut Digest) {}
/// #   fn sanity_check(&mut self, _: &Wait<'_>) -> Health { Health::Healthy }
/// #   fn quiesce(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// #   fn rw_block(&mut self, _: Direction, _: u64, buffer: DmaBuffer, _: &Wait<'_>) -> Moved {
/// #       (Some(buffer), Ok(()))
/// #   }
/// #   fn flush(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// #   fn shutdown(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// }
/// ```
/// ```compile_fail
/// # use dumpcore::device::{DeviceError, Direction, DumpDevice, Geometry, Health};
/// # use dumpcore::{dma::DmaBuffer, integrity::Digest, wait::Wait};
/// # type Moved = (Option<DmaBuffer>, Result<(), DeviceError>);
/// # struct Disk;
/// impl DumpDevice for Disk {
/// #   fn name(&self) -> &str { "disk" }
/// #   fn geometry(&self) -> Option<Geometry> { None }
/// #   fn integrity(&self, _: &mut Digest) {}
/// #   fn sanity_check(&mut self, _: &Wait<'_>) -> Health { Health::Healthy }
/// #   fn quiesce(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// #   fn rw_block(&mut self, _: Direction, _: u64, buffer: DmaBuffer, _: &Wait<'_>) -> Moved {
/// #       (Some(buffer), Ok(()))
/// #   }
/// #   fn flush(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// #   fn shutdown(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// }
/// ```
#[cfg(doctest)]
pub struct OnlyUnsafe;
