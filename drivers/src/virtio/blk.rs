//! The virtio block device (virtio 1.2, 5.2) as a disk for dumps.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;
use static_assertions::const_assert_eq;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::disk::{Answer, Disk, Limits, Order, Protocol, Verdict};
use super::mmio::{self, MmioSlot, MmioTransport};
use super::pci::{self, PciTransport};
use super::transport::Transport;
use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;

/// A virtio disk on PCI. About 10 KiB of arena.
pub type VirtioBlk<R, C> = Disk<PciTransport<R, C>, Blk>;
/// A virtio disk on MMIO. About 10 KiB of arena.
pub type VirtioBlkMmio<R> = Disk<MmioTransport<R>, Blk>;

/// PCI device ids: of a modern-only block device (4.1.2), and of a transitional one, which has the modern
/// registers too.
const PCI_DEVICES: [u16; 2] = [0x1042, 0x1001];
/// Device id of a block device (5), and its name in the error for another device.
const DEVICE: mmio::Kind = mmio::Kind { id: 2, what: "a virtio disk" };

/// Device configuration (5.2.4).
mod configuration {
    /// Size in sectors, 64 bits.
    pub(super) const CAPACITY: usize = 0;
    /// Maximum number of bytes per segment.
    pub(super) const SIZE_MAX: usize = 8;
    /// Maximum number of data segments per request.
    pub(super) const SEG_MAX: usize = 12;
    /// The disk's block size in bytes.
    pub(super) const BLK_SIZE: usize = 20;
    /// Every device has at least the capacity.
    pub(super) const LEAST: u32 = 8;
    pub(super) const SIZE: u32 = 24;
}

/// Unit of the capacity and of addresses, regardless of the disk's block size (5.2.4).
const SECTOR: u64 = 512;
const SECTORS_IN_BLOCK: u64 = BLOCK_SIZE as u64 / SECTOR;

bitflags::bitflags! {
    /// Features of a block device (5.2.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct BlkFeature: u64 {
        /// The segment size is limited.
        const SIZE_MAX = 1 << 1;
        /// The number of segments is limited.
        const SEG_MAX = 1 << 2;
        /// The disk is read-only.
        const RO = 1 << 5;
        /// The disk reports its block size.
        const BLK_SIZE = 1 << 6;
        /// There is a cache, with a command to flush it.
        const FLUSH = 1 << 9;
    }
}

/// Request types (5.2.6).
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;

/// Request status (5.2.6): success.
const STATUS_OK: u8 = 0;
/// Request status: device or driver error.
const STATUS_IO_ERROR: u8 = 1;
/// Request status: unsupported request.
const STATUS_UNSUPPORTED: u8 = 2;
/// Initial value, before the device writes its status.
const STATUS_UNWRITTEN: u8 = 0xff;

/// The header of every request (5.2.6). Little-endian.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}
const_assert_eq!(size_of::<Header>(), 16);

/// The PCI bus's virtio block device number `index`, counted from 0 in bus order.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    pci::find(config, PCI_DEVICES, index)
}

/// The virtio block device number `index`, counted from 0, among the MMIO windows at these physical
/// addresses. `map` maps a number of bytes at a physical address, uncached, readable and writable, on every
/// CPU and permanently. Empty windows are skipped.
pub fn find_mmio<R: Registers>(
    windows: impl IntoIterator<Item = u64>,
    map: impl FnMut(u64, usize) -> Option<R>,
    index: usize,
) -> Option<MmioSlot<R>> {
    mmio::find(windows, map, DEVICE.id, index)
}

impl<R: Registers, C: ConfigSpace> VirtioBlk<R, C> {
    /// Probes a virtio disk and takes its memory from the arena. Does not write to the device.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is not a virtio disk, is legacy, cannot be mapped, or does
    /// not decode memory; [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its capabilities are
    /// inconsistent; [`DeviceError::OutOfArena`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        arena: &mut Arena<'_>,
    ) -> Result<VirtioBlk<R, C>, DeviceError> {
        pci::check_kind(&function, PCI_DEVICES, DEVICE.what)?;
        let transport = PciTransport::open(access, function, configuration::LEAST, configuration::SIZE)?;
        let blk = Blk { sectors: read_capacity(&transport)?, sector_size: SECTOR as u32 };
        Disk::on(transport, blk, arena)
    }
}

impl<R: Registers> VirtioBlkMmio<R> {
    /// Probes a virtio disk and takes its memory from the arena. Does not write to the device. `slot` comes
    /// from [`find_mmio`]; `request_timeout` is the time limit in nanoseconds of a reset, a flush or one
    /// block.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the device is not a virtio disk, or is legacy; [`DeviceError::Gone`];
    /// [`DeviceError::OutOfArena`].
    pub fn open_mmio(
        slot: MmioSlot<R>,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<VirtioBlkMmio<R>, DeviceError> {
        let transport = MmioTransport::open(slot, DEVICE, request_timeout)?;
        let blk = Blk { sectors: read_capacity(&transport)?, sector_size: SECTOR as u32 };
        Disk::on(transport, blk, arena)
    }
}

/// Commands other than transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlkCommand {
    /// Flush the cache.
    Flush,
}

/// The protocol of a virtio block device.
#[derive(Debug)]
pub struct Blk {
    /// Latest size from the device.
    sectors: u64,
    /// Latest block size from the device, the unit of its partition table.
    sector_size: u32,
}

impl Protocol for Blk {
    type Command = BlkCommand;

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
            // Without this feature the device has no volatile cache (5.2.6.2).
            flush: special.contains(BlkFeature::FLUSH),
            size_max: match special.contains(BlkFeature::SIZE_MAX) {
                // As with the number of segments, 0 means the minimum that is useful.
                true if size_max == 0 => BLOCK_SIZE as u32,
                true => size_max,
                false => u32::MAX,
            },
            // A device without this feature accepts one, and some no more (Firecracker). 0 would not even
            // allow a block: treat it as missing.
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
        // The reported length matters only if the device had data to write. (Some devices count a write's own
        // data.)
        let length = if data > 0 { written as usize } else { 0 };
        let all = data.saturating_add(1);
        let odd = DeviceError::Protocol { what: "its length written", value: written.into() };
        if length > all {
            // It claims to have written more than the room. If so, memory around the buffer cannot be
            // trusted.
            return Verdict::Fatal(odd);
        }
        // It writes data and status. Devices in the field count only the data (kvmtool, Cloud Hypervisor up
        // to 51), only the status (bhyve), or nothing. Any other count is that of a short read.
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

/// Requests are of whole 4096-byte blocks, so the disk's own blocks must not be larger.
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
