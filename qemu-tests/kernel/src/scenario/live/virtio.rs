//! The crate `virtio-drivers`, driven by interrupts.
//!
//! Specification: virtio 1.2, 4.1.4 (structures in the device's registers), 4.1.5.1.2 (MSI-X configuration).

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use dump_drivers::bus::pci::{Address, Bar, CAPABILITY_VENDOR, ConfigSpace, Function};
use dump_drivers::{Mmio, Registers};
use dumpcore::PageClass;
use dumpcore::deferred::{Handler, HostQueues};
use dumpcore::format::BLOCK_SIZE;
use spin::{Mutex, Once};
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use super::probe;
use super::traffic::{self, Disk, Transfer};
use crate::arch::paging::{self, Access};
use crate::arch::{Delivery, irq, pci};
use crate::deferred::KERNEL;
use crate::{device, memory};

/// Maximum number of requests in flight: the driver's queue has 16 entries, and each request takes 3.
const TAGS: usize = 5;

/// The structures of capabilities: common configuration, interrupt status.
const COMMON: u8 = 1;
const STATUS: u8 = 3;
/// In the common configuration: queue select, and the selected queue's MSI-X vector.
const QUEUE: usize = 22;
const QUEUE_MESSAGE: usize = 26;

/// The kernel services that the driver needs.
struct KernelHal;

// SAFETY: DMA memory comes from the frame allocator, which hands out each frame once; buffers are shared in
// place, because bus addresses equal physical addresses.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = memory::take_bytes(pages * PAGE_SIZE, 1, PageClass::KernelData)
            .expect("no memory for the normal driver");
        (paging::physical(memory.as_ptr()), NonNull::from(memory).cast())
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // Frames are never freed.
        0
    }

    unsafe fn mmio_phys_to_virt(physical: PhysAddr, size: usize) -> NonNull<u8> {
        // SAFETY: the driver requests its device's registers, while the kernel boots.
        let start = unsafe { paging::map_physical(physical, size as u64, Access::Device) };
        start.ok().and_then(NonNull::new).expect("no page tables for the normal driver")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        // The heap, static data and stacks are all in the direct map or the kernel's image.
        paging::physical(buffer.cast().as_ptr())
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Configuration space, in the driver's terms.
struct Configuration;

impl Configuration {
    fn address(function: DeviceFunction) -> Option<Address> {
        Address::new(function.bus, function.device, function.function)
    }
}

impl ConfigurationAccess for Configuration {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        Self::address(function).map_or(u32::MAX, |address| pci::config().read32(address, offset.into()))
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        if let Some(address) = Self::address(function) {
            pci::config().write32(address, offset.into(), data);
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Configuration
    }
}

/// A request, with the buffers that the device needs besides its memory.
struct Slot {
    header: Box<BlkReq>,
    response: Box<BlkResp>,
    /// While it is in flight, with the queue's token for it.
    transfer: Option<(u16, Transfer)>,
}

/// The driver, and its requests.
struct Inner {
    disk: VirtIOBlk<KernelHal, PciTransport>,
    slots: Vec<Slot>,
}

// SAFETY: only their owner accesses the memory of requests; see Transfer.
unsafe impl Send for Inner {}

struct VirtioDisk {
    inner: Mutex<Inner>,
    /// Reading it acknowledges the interrupt.
    status: Status,
}

struct Status(Mmio);
// SAFETY: one register, which is only read.
unsafe impl Sync for Status {}

static DISK: Once<VirtioDisk> = Once::new();

/// Finishes completed requests.
const FINISH: Handler = Handler { run: finish, word: 0 };

/// Starts the driver.
pub(super) fn start(function: Option<Function>) -> Result<&'static dyn Disk, &'static str> {
    let found = function.ok_or("there is no disk")?;
    let address = found.address;
    let function =
        DeviceFunction { bus: address.bus(), device: address.device(), function: address.function() };
    let mut root = PciRoot::new(Configuration);
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
    let transport = PciTransport::new::<KernelHal, _>(&mut root, function)
        .map_err(|_| "the normal driver does not find the device")?;
    let mut disk =
        VirtIOBlk::<KernelHal, _>::new(transport).map_err(|_| "the normal driver cannot start the device")?;
    let mut block = vec![0; BLOCK_SIZE];
    disk.read_blocks(0, &mut block).map_err(|_| "the normal driver cannot read")?;
    let status = structure(&found, STATUS, 1).ok_or("the device has no interrupt status")?;
    // The polled read has raised an interrupt that was not handled.
    status.read8(0);
    let slot = || Slot {
        header: Box::new(BlkReq::default()),
        response: Box::new(BlkResp::default()),
        transfer: None,
    };
    let slots = (0..TAGS).map(|_| slot()).collect();
    let disk =
        DISK.call_once(|| VirtioDisk { inner: Mutex::new(Inner { disk, slots }), status: Status(status) });
    if irq::register(&found, 0, interrupt, 0)? == Delivery::Message {
        // The crate does not configure messages.
        let common = structure(&found, COMMON, QUEUE_MESSAGE + 2).ok_or("the device has no queues")?;
        common.write16(QUEUE, 0);
        common.write16(QUEUE_MESSAGE, 0);
        if common.read16(QUEUE_MESSAGE) != 0 {
            return Err("the device does not take a message for its queue");
        }
    }
    disk.inner.lock().disk.enable_interrupts();
    Ok(disk)
}

/// The first `length` bytes of one of the device's structures.
fn structure(function: &Function, kind: u8, length: usize) -> Option<Mmio> {
    let (config, address) = (pci::config(), function.address);
    let capability = function.capabilities(&config).flatten().find(|capability| {
        capability.id == CAPABILITY_VENDOR && config.read8(address, u16::from(capability.at) + 3) == kind
    })?;
    let at = u16::from(capability.at);
    let Some(Bar::Memory { address: start, .. }) = function.bar(&config, config.read8(address, at + 4))
    else {
        return None;
    };
    device::map_device(start + u64::from(config.read32(address, at + 8)), length)
}

impl Disk for VirtioDisk {
    fn name(&self) -> &'static str {
        "virtio-drivers"
    }

    fn depth(&self) -> usize {
        TAGS
    }

    fn start(&self, transfer: Transfer) -> Result<(), &'static str> {
        let mut inner = self.inner.lock();
        let Inner { disk, slots } = &mut *inner;
        let slot = slots.get_mut(transfer.tag).ok_or("there is no such tag")?;
        let sector = transfer.block as usize * (BLOCK_SIZE / SECTOR_SIZE);
        let mut memory = transfer.memory;
        // SAFETY: header, response and memory live forever, and belong to the device until the request has
        // completed.
        let token = unsafe {
            if transfer.writes {
                disk.write_blocks_nb(sector, &mut slot.header, memory.as_ref(), &mut slot.response)
            } else {
                disk.read_blocks_nb(sector, &mut slot.header, memory.as_mut(), &mut slot.response)
            }
        };
        slot.transfer = Some((token.map_err(|_| "the normal driver cannot start a request")?, transfer));
        Ok(())
    }
}

/// The interrupt handler: acknowledges the interrupt and leaves the rest to a tasklet.
fn interrupt(_: usize) {
    let Some(disk) = DISK.get() else { return };
    probe::count_interrupt();
    disk.status.0.read8(0);
    // Cannot fail: the handler has had its entry since the first time.
    let _ = KERNEL.schedule_tasklet(FINISH);
}

/// The tasklet: ends each request that the device has completed.
fn finish(_: usize) {
    let Some(disk) = DISK.get() else { return };
    loop {
        while let Some((tag, result)) = next(disk) {
            traffic::done(tag, result);
        }
        // The device sends no interrupt for requests that it completed before it saw that all were taken
        // (virtio 1.2, 2.7.7.1).
        fence(Ordering::SeqCst);
        if disk.inner.lock().disk.peek_used().is_none() {
            break;
        }
    }
}

/// A completed request, with its tag.
fn next(disk: &VirtioDisk) -> Option<(usize, Result<(), &'static str>)> {
    let mut inner = disk.inner.lock();
    let Inner { disk, slots } = &mut *inner;
    let token = disk.peek_used()?;
    let slot = slots.iter_mut().find(|slot| slot.transfer.is_some_and(|(other, _)| other == token))?;
    let (_, transfer) = slot.transfer.take()?;
    let mut memory = transfer.memory;
    // SAFETY: the same buffers that start() was given for this token, and the device has completed it.
    let result = unsafe {
        if transfer.writes {
            disk.complete_write_blocks(token, &slot.header, memory.as_ref(), &mut slot.response)
        } else {
            disk.complete_read_blocks(token, &slot.header, memory.as_mut(), &mut slot.response)
        }
    };
    Some((transfer.tag, result.map_err(|_| "the disk reported an error")))
}
