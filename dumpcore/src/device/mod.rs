//! What a disk driver has to be able to do to receive a dump.
//!
//! This is the 2004 `disk_dump_device_ops` made safe and pipelined. A driver has `rw_block`; one that can
//! keep several requests in flight also has `submit` and `poll`.

mod error;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::dma::DmaBuffer;
use crate::format::BLOCK_SIZE;
use crate::integrity::Digest;
use crate::text::{Describe, Line, display_by_describe};
use crate::wait::Wait;

pub use error::DeviceError;

/// How large a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Whole 4096-byte blocks.
    pub blocks: u64,
}

/// What a device says of itself before it is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It answers as it should.
    Healthy,
    /// It may work; the reason says what is odd.
    Risky(DeviceError),
    /// It cannot be used.
    Unusable(DeviceError),
}

/// Which way the data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the device into memory.
    Read,
    /// From memory to the device.
    Write,
}

/// RAM outside of the arena that a device reads straight from where it is. The layout in a [`Gather`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// Where the device sees the first byte.
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
    /// The first `count` extents in `table`, which begins at a multiple of 8; more than fit are left out.
    pub fn new(table: DmaBuffer, count: usize) -> Gather {
        Gather { table, count }
    }

    /// The extents.
    pub fn extents(&self) -> &[Extent] {
        let (entries, _) = self.table.bytes().as_chunks::<{ size_of::<Extent>() }>();
        let used = entries.get(..self.count.min(entries.len())).unwrap_or_default();
        <[Extent]>::ref_from_bytes(used.as_flattened()).unwrap_or_default()
    }

    /// Bytes in all extents.
    pub fn length(&self) -> u64 {
        self.extents().iter().fold(0, |sum, extent| extent.length.saturating_add(sum))
    }

    /// The memory that holds the list.
    pub fn into_table(self) -> DmaBuffer {
        self.table
    }
}

/// A transfer of whole blocks. The buffer belongs to the device until it comes back in a [`Completion`].
#[derive(Debug)]
pub struct Request {
    /// The caller's name for it; comes back in the completion.
    pub id: u32,
    /// Which way.
    pub direction: Direction,
    /// First block on the device, in units of 4096 bytes.
    pub block: u64,
    /// From or into where; a multiple of 4096 bytes.
    pub buffer: DmaBuffer,
    /// RAM whose bytes follow those of the buffer. Only for writes, and only to a device with
    /// [`max_extents`](DumpDevice::max_extents).
    pub gather: Option<Gather>,
}

impl Request {
    /// Bytes in all.
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

impl Describe for Rejected {
    fn describe(&self, line: &mut Line) {
        line.text("the request was not accepted: ");
        self.error.describe(line);
    }
}

display_by_describe!(Rejected => |rejected| Some(&rejected.error));

/// A disk that can receive a dump.
///
/// The order of calls: `integrity` by `arm()`; after the crash `integrity` again, `sanity_check`, `quiesce`, any number
/// of transfers, `shutdown`. Nothing but `integrity` and `sanity_check` happens before `quiesce`.
///
/// A driver never panics, never waits but through its [`Wait`], and trusts nothing that the device wrote.
///
/// Where DMA is not coherent, dumpcore cleans and invalidates the buffers of requests; memory of the driver's
/// own that it shares with the device (rings, tables, status) is the driver's to clean and invalidate, by
/// [`Platform::clean_for_device`](crate::Platform::clean_for_device) and
/// [`Platform::invalidate_from_device`](crate::Platform::invalidate_from_device).
///
/// # Implementation safety
/// A [`DmaBuffer`] is the only way to its memory, and dumpcore makes those anew that a device has kept, for
/// otherwise a device that fails would take them from the dump. What a driver is given it must therefore
/// treat like this:
/// - A buffer, and a [`Gather`], is given back once at most: in the [`Completion`] or the [`Rejected`] of its
///   own request, or by the [`rw_block`](DumpDevice::rw_block) that got it. Nothing is given back that did
///   not come with that request.
/// - What was given back is not touched any more. Until then, the driver touches it only while one of its
///   methods runs, and the device as the request says: of a read it may write the buffer, of a write it only
///   reads it and what the [extents](Extent) name. Of other memory than that and the driver's own, the device
///   is not told.
/// - [`quiesce`](DumpDevice::quiesce) touches nothing that came with an earlier request, and gives nothing of
///   it back. Once it has returned `Ok`, driver and device have forgotten all that.
/// - All this holds whatever the device writes to its registers and to memory.
///
/// # Example
/// A disk in memory that is not dumped, such as one that a hypervisor keeps:
///
/// ```
/// use dumpcore::DumpDevice;
/// use dumpcore::device::{DeviceError, Direction, Geometry, Health};
/// use dumpcore::dma::DmaBuffer;
/// use dumpcore::integrity::Digest;
/// use dumpcore::wait::Wait;
///
/// struct MemoryDisk {
///     blocks: &'static mut [[u8; 4096]],
/// }
///
/// // SAFETY: no device has a buffer, and `rw_block` gives its own back.
/// unsafe impl DumpDevice for MemoryDisk {
///     fn name(&self) -> &str {
///         "memory"
///     }
///     fn geometry(&self) -> Option<Geometry> {
///         Some(Geometry { blocks: self.blocks.len() as u64 })
///     }
///     fn integrity(&self, digest: &mut Digest) {
///         digest.number(self.blocks.as_ptr() as u64).number(self.blocks.len() as u64);
///     }
///     fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
///         Health::Healthy
///     }
///     fn quiesce(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> {
///         Ok(())
///     }
///     fn rw_block(
///         &mut self,
///         direction: Direction,
///         block: u64,
///         mut buffer: DmaBuffer,
///         _: &Wait<'_>,
///     ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
///         let (end, blocks) = (block.saturating_add(1), self.blocks.len() as u64);
///         let Some(here) = self.blocks.get_mut(block as usize) else {
///             return (Some(buffer), Err(DeviceError::OutOfRange { end, blocks }));
///         };
///         match (direction, buffer.blocks_mut().first_mut()) {
///             (Direction::Read, Some(bytes)) => *bytes = *here,
///             (Direction::Write, Some(bytes)) => *here = *bytes,
///             (_, None) => return (Some(buffer), Err(DeviceError::BadBuffer { length: 0 })),
///         }
///         (Some(buffer), Ok(()))
///     }
///     fn flush(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> {
///         Ok(())
///     }
///     fn shutdown(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> {
///         Ok(())
///     }
/// }
/// ```
pub unsafe trait DumpDevice: Send {
    /// What the device is called on the console, such as `virtio-blk 00:04.0`.
    fn name(&self) -> &str;

    /// Its size. Before `quiesce`, as it was found when opened, or `None` if it takes a command to the device
    /// to find out; afterwards, as the device now says.
    fn geometry(&self) -> Option<Geometry>;

    /// Bytes in the disk's logical sectors, in which its partition table counts, if it says.
    fn sector_size(&self) -> Option<u32> {
        None
    }

    /// Feeds everything into `digest` that must be the same at the crash as it was when armed: register
    /// addresses, queue addresses, size. Not what changes in use.
    fn integrity(&self, digest: &mut Digest);

    /// Looks at the device without changing it. Called after the crash, while another driver's requests may
    /// be in flight.
    fn sanity_check(&mut self, wait: &Wait<'_>) -> Health;

    /// Takes the controller over by reset, whatever driver held it, and leaves it polled, with interrupts
    /// masked. On success, the device touches no memory any more, and the driver has forgotten the buffers of
    /// requests that were in flight: they are the caller's again. After a failure, nothing but `quiesce` is
    /// called.
    ///
    /// # Errors
    /// Why the device cannot be used. It may be called again.
    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Transfers one block and returns when it is done (though perhaps only in the device's cache). Never
    /// called while submitted requests are in flight.
    ///
    /// # Errors
    /// Why it was not transferred. The buffer, which must be 4096 bytes, comes back either way, unless the
    /// device may still be using it.
    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>);

    /// A number that disks have in common whose takeover is one reset: such cannot be used at the same time.
    /// `None` for a disk that is reset by itself.
    fn controller(&self) -> Option<u64> {
        None
    }

    /// How many requests can be in flight, at least 1. The same from before `arm()` on: buffers are made for
    /// it.
    fn depth(&self) -> usize {
        1
    }

    /// Bytes in a request, at most; a multiple of 4096. The same from before `arm()` on.
    fn max_transfer(&self) -> usize {
        usize::MAX & !(BLOCK_SIZE - 1)
    }

    /// Extents that a request may have; 0 for a device that only takes buffers from the arena.
    fn max_extents(&self) -> usize {
        0
    }

    /// Starts a request. A device that finishes it at once returns the completion; otherwise `poll` does
    /// later. The default does the whole transfer by `rw_block`.
    ///
    /// # Errors
    /// The request, if it was not accepted.
    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        transfer_by_blocks(self, request, wait).map(Some)
    }

    /// The next finished request, if there is one. Never waits: `wait` is for a driver that keeps its own
    /// timers and tasklets, and for the [platform](Wait::platform)'s cache maintenance.
    ///
    /// # Errors
    /// The device itself has failed, not just one request; none of those in flight will come back.
    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        let _ = wait;
        Ok(None)
    }

    /// Returns when the medium, not only a cache, has everything that completed before. Never called while
    /// requests are in flight.
    ///
    /// # Errors
    /// Why that is not certain.
    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Flushes and leaves the device at rest. The last call.
    ///
    /// # Errors
    /// Why it is not certain that the medium has everything.
    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;
}

/// A whole request by `rw_block`, one block after another: the default of [`DumpDevice::submit`].
///
/// # Errors
/// The request, if it names RAM outside of its buffer. A block that fails is told in the completion.
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
    // Blocks that are done are joined on the left, those to come are split from the right.
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

/// That the contract is one which safe code cannot enter into: the one compiles, and the other differs in
/// that word only.
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
/// #   fn rw_block(&mut self, _: Direction, _: u64, buffer: DmaBuffer, _: &Wait<'_>) -> Moved { (Some(buffer), Ok(())) }
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
/// #   fn rw_block(&mut self, _: Direction, _: u64, buffer: DmaBuffer, _: &Wait<'_>) -> Moved { (Some(buffer), Ok(())) }
/// #   fn flush(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// #   fn shutdown(&mut self, _: &Wait<'_>) -> Result<(), DeviceError> { Ok(()) }
/// }
/// ```
#[cfg(doctest)]
pub struct OnlyUnsafe;
