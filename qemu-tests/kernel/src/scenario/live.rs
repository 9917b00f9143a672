//! A normal driver uses the disk, and the crash comes while its requests are in flight.
//!
//! The driver is the crate `virtio-drivers`, which knows nothing of dumps: it has set the device up its own way,
//! with its own rings, and nobody asks it before the dump takes the device over.

use alloc::boxed::Box;
use alloc::vec;
use core::ptr::NonNull;

use dump_drivers::bus::pci::{Address, ConfigSpace};
use dumpcore::PageClass;
use dumpcore::format::BLOCK_SIZE;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::arch::paging::{self, Access};
use crate::arch::pci;
use crate::arm::Armed;
use crate::command_line::Options;
use crate::log::log;
use crate::memory;

/// Requests left in flight; the driver's queue has 16 entries, and each takes 3.
const REQUESTS: u64 = 5;

/// What the driver needs of the kernel.
struct KernelHal;

// SAFETY: DMA memory comes from the frame allocator, which gives each frame once; buffers are shared where they are,
// since devices see physical memory as it is.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = memory::take_bytes(pages * PAGE_SIZE, 1, PageClass::KernelData)
            .expect("no memory for the normal driver");
        (paging::physical(memory.as_ptr()), NonNull::from(memory).cast())
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // Frames are never given back.
        0
    }

    unsafe fn mmio_phys_to_virt(physical: PhysAddr, size: usize) -> NonNull<u8> {
        // SAFETY: the driver asks for its device's registers, while the kernel boots.
        let start = unsafe { paging::map_physical(physical, size as u64, Access::Device) };
        start.ok().and_then(NonNull::new).expect("no page tables for the normal driver")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        // The heap, the static data and the stacks are all in the direct map or the kernel's image.
        paging::physical(buffer.cast().as_ptr())
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Configuration space, as the driver wants it.
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

type Disk = VirtIOBlk<KernelHal, PciTransport>;

/// The driver, between its start and the crash. It stays as it is: dropping it would reset the device.
static DISK: spin::Mutex<Option<Disk>> = spin::Mutex::new(None);

/// Starts the driver, and lets it work as any driver would: to the end of a request.
pub(crate) fn start(armed: &Armed, options: &Options) -> Result<(), &'static str> {
    if options.live_blocks == 0 {
        return Err("live.blocks= must say how many blocks may be written");
    }
    let address = armed.function.ok_or("there is no disk")?.address;
    let function =
        DeviceFunction { bus: address.bus(), device: address.device(), function: address.function() };
    let mut root = PciRoot::new(Configuration);
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
    let transport = PciTransport::new::<KernelHal, _>(&mut root, function)
        .map_err(|_| "the normal driver does not find the device")?;
    let mut disk = Disk::new(transport).map_err(|_| "the normal driver cannot start the device")?;
    let mut block = vec![0; BLOCK_SIZE];
    disk.read_blocks(sector(options.live_first), &mut block).map_err(|_| "the normal driver cannot read")?;
    *DISK.lock() = Some(disk);
    Ok(())
}

/// Starts writes to the blocks `live.first=` to `live.first= + live.blocks=`, each over its share of them, and
/// never looks at them again. The last thing before the crash.
pub(crate) fn fly(options: &Options) -> Result<(), &'static str> {
    let mut disk = DISK.lock();
    let disk = disk.as_mut().ok_or("the normal driver was not started")?;
    let requests = REQUESTS.min(options.live_blocks);
    log!("testkernel: live driver leaves {requests} writes in flight");
    for request in 0..requests {
        let from = options.live_blocks * request / requests;
        let to = options.live_blocks * (request + 1) / requests;
        // What a request needs lives for ever, as the device may use it at any time.
        let bytes = memory::take_bytes((to - from) as usize * BLOCK_SIZE, 1, PageClass::KernelData)
            .ok_or("no memory for the writes")?;
        bytes.fill(b'L');
        let header = Box::leak(Box::new(BlkReq::default()));
        let response = Box::leak(Box::new(BlkResp::default()));
        // SAFETY: header, buffer and response live for ever, and nobody else uses them.
        unsafe { disk.write_blocks_nb(sector(options.live_first + from), header, bytes, response) }
            .map_err(|_| "the normal driver cannot start a write")?;
    }
    Ok(())
}

/// The driver's unit is 512 bytes.
fn sector(block: u64) -> usize {
    block as usize * (BLOCK_SIZE / SECTOR_SIZE)
}
