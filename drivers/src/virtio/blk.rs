//! The virtio block device (virtio 1.2, 5.2) as a disk that receives a dump.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;
use static_assertions::const_assert_eq;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::disk::{self, Answer, Disk, Limits, OnMmio, OnPci, Order, Protocol, Verdict};
use super::mmio::{self, MmioSlot, MmioTransport};
use super::pci::PciTransport;
use super::transport::{Kind, Transport};
use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::disk::Unit;

/// A virtio disk behind PCI. About 10 KiB of arena.
///
/// ```
/// use dump_drivers::bus::pci::ConfigSpace;
/// use dump_drivers::virtio::blk;
/// use dump_drivers::{Access, Mmio, VirtioBlk};
/// use dumpcore::{Arena, Error};
///
/// /// The first virtio disk.
/// fn open<C: ConfigSpace>(
///     config: C,
///     map: fn(u64, usize) -> Option<Mmio>,
///     arena: &mut Arena<'_>,
/// ) -> Result<VirtioBlk<Mmio, C>, Error> {
///     let function = blk::find(&config, 0).ok_or(Error::NoDisk)?;
///     Ok(VirtioBlk::open(Access::new(config, map), function, arena)?)
/// }
/// ```
pub type VirtioBlk<R, C> = Disk<PciTransport<R, C>, Blk>;
/// A virtio disk behind MMIO. About 10 KiB of arena.
pub type VirtioBlkMmio<R> = Disk<MmioTransport<R>, Blk>;

/// The driver behind PCI.
pub type Pci = OnPci<Blk>;
/// The driver behind MMIO.
pub type Mmio = OnMmio<Blk>;

/// A block device (5.2).
const DEVICE: Kind = Kind {
    id: 2,
    pci: [0x1042, 0x1001],
    what: "a virtio disk",
    least: configuration::LEAST,
    size: configuration::SIZE,
};

/// Device configuration (5.2.4).
mod configuration {
    /// Size in sectors, 64 bits.
    pub(super) const CAPACITY: usize = 0;
    /// Bytes in a piece at most.
    pub(super) const SIZE_MAX: usize = 8;
    /// Pieces of data in a request at most.
    pub(super) const SEG_MAX: usize = 12;
    /// Bytes in a block of the disk.
    pub(super) const BLK_SIZE: usize = 20;
    /// A device has at least the capacity.
    pub(super) const LEAST: u32 = 8;
    pub(super) const SIZE: u32 = 24;
}

/// Unit of capacity and of addresses, whatever the disk's own blocks are (5.2.4).
const SECTOR: u64 = 512;
const SECTORS_IN_BLOCK: u64 = BLOCK_SIZE as u64 / SECTOR;

bitflags::bitflags! {
    /// Features of a block device (5.2.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct BlkFeature: u64 {
        /// A piece has a largest size.
        const SIZE_MAX = 1 << 1;
        /// A request has a largest number of pieces.
        const SEG_MAX = 1 << 2;
        /// The disk is read-only.
        const RO = 1 << 5;
        /// The disk has blocks of its own.
        const BLK_SIZE = 1 << 6;
        /// There is a cache, and a command to flush it.
        const FLUSH = 1 << 9;
    }
}

/// Request types (5.2.6).
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;

/// Request status (5.2.6): done.
const STATUS_OK: u8 = 0;
/// Request status: device or driver error.
const STATUS_IO_ERROR: u8 = 1;
/// Request status: the device does not know the request.
const STATUS_UNSUPPORTED: u8 = 2;
/// What is there before the device writes its own.
const STATUS_UNWRITTEN: u8 = 0xff;

/// What comes before the data of every request (5.2.6). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}
const_assert_eq!(size_of::<Header>(), 16);

/// The `index`th virtio block device on the PCI bus, counted from 0 in the order of the bus.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    disk::find::<Blk>(config, index)
}

/// The `index`th virtio block device, counted from 0, among the MMIO windows at these physical addresses. `map` maps so
/// many bytes at a physical address, uncached, for reading and writing, on every CPU and for ever. Empty windows are
/// passed over.
pub fn find_mmio<R: Registers>(
    windows: impl IntoIterator<Item = u64>,
    map: impl FnMut(u64, usize) -> Option<R>,
    index: usize,
) -> Option<MmioSlot<R>> {
    mmio::find(windows, map, DEVICE.id, index)
}

impl<R: Registers, C: ConfigSpace> VirtioBlk<R, C> {
    /// Looks at a virtio disk and carves what it needs from the arena. Does not write to the device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is not a virtio disk, or legacy, or cannot be mapped, or does not decode memory;
    /// [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its capabilities make no sense; [`DeviceError::OutOfArena`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        arena: &mut Arena<'_>,
    ) -> Result<VirtioBlk<R, C>, DeviceError> {
        Disk::open_pci(access, function, None, arena)
    }
}

impl<R: Registers> VirtioBlkMmio<R> {
    /// Looks at a virtio disk and carves what it needs from the arena. Does not write to the device. `slot` is what
    /// [`find_mmio`] found, `request_timeout` how many nanoseconds a reset, a flush or one block may take.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is not a virtio disk, or legacy; [`DeviceError::Gone`];
    /// [`DeviceError::OutOfArena`].
    pub fn open_mmio(
        slot: MmioSlot<R>,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<VirtioBlkMmio<R>, DeviceError> {
        Disk::open_window(slot, None, arena, request_timeout)
    }
}

/// What a virtio block device can be asked besides transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlkCommand {
    /// Bring what is in the cache to the medium.
    Flush,
}

/// How a virtio block device is spoken to.
#[derive(Debug)]
pub struct Blk {
    /// Size as the device last said.
    sectors: u64,
    /// Bytes in its own blocks, in which its partition table counts, as the device last said.
    sector_size: u32,
}

impl Protocol for Blk {
    type Command = BlkCommand;

    const DEVICE: Kind = DEVICE;
    const KIND: &'static str = "virtio-blk";
    const READ: &'static str = "a virtio-blk read";
    const WRITE: &'static str = "a virtio-blk write";
    const QUEUE: u16 = 0;
    const HEADER: usize = size_of::<Header>();
    /// The status.
    const FOOTER: usize = 1;
    const ANSWERS: usize = 0;
    const FOOTER_FIRST: bool = false;
    const FLUSH: BlkCommand = BlkCommand::Flush;

    /// It is one disk.
    fn new(transport: &impl Transport, _: Option<Unit>) -> Result<Blk, DeviceError> {
        Ok(Blk { sectors: read_capacity(transport)?, sector_size: SECTOR as u32 })
    }

    fn blocks(&self) -> Option<u64> {
        Some(self.sectors / SECTORS_IN_BLOCK)
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.sector_size)
    }

    fn integrity(&self, _: &mut Digest) {}

    fn negotiate(&mut self, transport: &impl Transport) -> Result<Limits, DeviceError> {
        let offered = transport.offered_features()?;
        let special = BlkFeature::from_bits_truncate(offered);
        if special.contains(BlkFeature::RO) {
            return Err(DeviceError::Unsupported { what: "a disk that can be written", value: offered });
        }
        transport.accept_features(offered, special.bits())?;

        self.sectors = read_capacity(transport)?;
        let (size_max, seg_max, blk_size) = transport.configuration(|device| {
            (
                device.configuration32(configuration::SIZE_MAX),
                device.configuration32(configuration::SEG_MAX),
                device.configuration32(configuration::BLK_SIZE),
            )
        })?;
        if special.contains(BlkFeature::BLK_SIZE) {
            check_block_size(blk_size)?;
            self.sector_size = blk_size;
        } else {
            self.sector_size = SECTOR as u32;
        }
        Ok(Limits {
            // Without that feature the device has no cache that could be lost (5.2.6.2).
            flush: special.contains(BlkFeature::FLUSH),
            size_max: match special.contains(BlkFeature::SIZE_MAX) {
                // As with the number of pieces: what is meant by 0 is the least that is of use.
                true if size_max == 0 => BLOCK_SIZE as u32,
                true => size_max,
                false => u32::MAX,
            },
            // One that does not say takes one, and some take no more (Firecracker). 0 would be none at all, not even a block:
            // what is meant is that it does not say.
            seg_max: if special.contains(BlkFeature::SEG_MAX) { seg_max.max(1) } else { 1 },
            round: usize::MAX,
            most: u16::MAX,
        })
    }

    fn explore<T: Transport>(_: &mut Disk<T, Blk>, _: &Wait<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn called(_: BlkCommand) -> &'static str {
        "a virtio-blk flush"
    }

    fn answer(_: BlkCommand) -> Answer {
        Answer { offset: 0, length: 0 }
    }

    fn prepare(&self, order: Order<BlkCommand>, requests: &mut Shared, header: usize, footer: usize) {
        let (kind, block) = match order {
            Order::Transfer { direction: Direction::Read, block, .. } => (TYPE_IN, block),
            Order::Transfer { direction: Direction::Write, block, .. } => (TYPE_OUT, block),
            Order::Command(BlkCommand::Flush) => (TYPE_FLUSH, 0),
        };
        let sector = block.wrapping_mul(SECTORS_IN_BLOCK);
        requests.write(header, Header { kind: kind.to_le(), reserved: 0, sector: sector.to_le() });
        requests.write(footer, STATUS_UNWRITTEN);
    }

    fn judge(&self, order: Order<BlkCommand>, requests: &Shared, footer: usize, written: u32) -> Verdict {
        let status = requests.read::<u8>(footer).unwrap_or(STATUS_UNWRITTEN);
        let (what, data) = match order {
            Order::Transfer { direction: Direction::Read, bytes, .. } => ("read", bytes),
            Order::Transfer { direction: Direction::Write, .. } => ("write", 0),
            Order::Command(BlkCommand::Flush) => ("flush", 0),
        };
        // What it says that it wrote matters where it had data to write. (Some devices count a write's own data.)
        let length = if data > 0 { written as usize } else { 0 };
        let all = data.saturating_add(1);
        let odd = DeviceError::Protocol { what: "its length written", value: written.into() };
        if length > all {
            // It says that it wrote more than it was given. If so, nothing around the buffer can be trusted.
            return Verdict::Fatal(odd);
        }
        // All that is written are data and status. Devices in use count only the data (kvmtool, Cloud Hypervisor up to 51),
        // only the status (bhyve), or nothing. Any other count is that of a read which ended early.
        let counts_all = length == all || length == data || length <= 1;
        match status {
            STATUS_OK if counts_all => Verdict::Done(0),
            STATUS_OK => Verdict::Failed(odd),
            STATUS_IO_ERROR | STATUS_UNSUPPORTED => {
                Verdict::Failed(DeviceError::Status { what, code: status.into() })
            }
            _ => Verdict::Failed(DeviceError::Protocol { what: "a request's status", value: status.into() }),
        }
    }
}

fn read_capacity(transport: &impl Transport) -> Result<u64, DeviceError> {
    transport.configuration(|device| {
        let low = device.configuration32(configuration::CAPACITY);
        let high = device.configuration32(configuration::CAPACITY.wrapping_add(4));
        u64::from(high) << 32 | u64::from(low)
    })
}

/// Requests of whole 4096-byte blocks suit disks whose own blocks are no larger.
fn check_block_size(size: u32) -> Result<(), DeviceError> {
    if !size.is_power_of_two() || u64::from(size) < SECTOR {
        return Err(DeviceError::Protocol { what: "its block size", value: size.into() });
    }
    if size as usize > BLOCK_SIZE {
        let what = "a disk with blocks of 4096 bytes or less";
        return Err(DeviceError::Unsupported { what, value: size.into() });
    }
    Ok(())
}
