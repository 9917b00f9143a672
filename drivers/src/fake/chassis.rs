//! The common part of all fake PCI disks: configuration space, a medium with a cache, time, troubles, and a
//! list of the driver's violations. A controller's own part is its [`Model`].
//!
//! One file: each part is a few lines, and every fake needs all of them.

use std::sync::{Arc, Mutex, MutexGuard};

use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;

use super::lies::Liar;
use super::memory::DmaMemory;
use super::pci::ConfigBytes;
use super::{FakeDisk, Tick, Trouble};
use crate::bus::Access;
use crate::bus::pci::{Address, Command, ConfigSpace};
use crate::bus::registers::Registers;

/// Distinguishes registers of configuration space from those of BARs.
const CONFIG: u64 = 0xff << 56;
/// Maximum number of violations to keep.
const VIOLATIONS: usize = 16;

/// The registers and the behaviour of a controller.
pub trait Model: Send + 'static {
    /// The driver reads `width` bytes (1, 2, 4 or 8) at an offset of a BAR.
    fn read(&mut self, chassis: &mut Chassis, bar: u8, offset: u64, width: usize) -> u64;

    /// The driver writes.
    fn write(&mut self, chassis: &mut Chassis, bar: u8, offset: u64, width: usize, value: u64);

    /// A moment passes: requests proceed, resets end.
    fn tick(&mut self, chassis: &mut Chassis);

    /// The function is reset by the bus.
    fn reset(&mut self, chassis: &mut Chassis);
}

/// Memory that another driver's request will write.
struct Foreign {
    address: u64,
    length: usize,
    ticks: u32,
}

/// The common part.
pub struct Chassis {
    /// Memory within the device's reach while it is a bus master: see [`Chassis::dma_read`].
    memory: DmaMemory,
    /// Configuration space.
    pub config: ConfigBytes,
    /// The faults.
    pub troubles: Vec<Trouble>,
    accesses: u32,
    gone: bool,
    writes: u64,
    foreign: Vec<Foreign>,
    /// The disk's contents as read.
    disk: Vec<u8>,
    /// The contents after a loss of power.
    medium: Vec<u8>,
    touched: Vec<bool>,
    flushes: u64,
    violations: Vec<String>,
    random: u64,
    liar: Liar,
    strays: u64,
}

impl Chassis {
    /// Records a violation of the specification by the driver.
    pub fn violation(&mut self, text: impl Into<String>) {
        if self.violations.len() < VIOLATIONS {
            self.violations.push(text.into());
        }
    }

    /// A number below `below`; 0 if that is 0.
    pub fn random(&mut self, below: u32) -> u32 {
        // Knuth's MMIX generator: the upper bits are good enough.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if below == 0 { 0 } else { (self.random >> 33) as u32 % below }
    }

    /// Whether it has this trouble.
    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        let shrunk = self.troubles.iter().find_map(|trouble| match trouble {
            Trouble::Shrinks(blocks) => Some(blocks * BLOCK_SIZE as u64),
            _ => None,
        });
        shrunk.unwrap_or(self.disk.len() as u64)
    }

    /// Reads memory as the device does; `None`, and a violation, if it may not: the memory was not given to
    /// it, or it is not a bus master.
    pub fn dma_read(&mut self, bus: u64, bytes: &mut [u8]) -> Option<()> {
        let done = if self.masters() { self.memory.read(bus, bytes) } else { None };
        self.liar.reads(bus, bytes.len());
        if done.is_none() {
            self.strays += u64::from(self.masters());
            self.violation(format!("the device was made to read {} bytes at {bus:#x}", bytes.len()));
        }
        done
    }

    /// Writes memory as the device does; as [`dma_read`](Chassis::dma_read).
    pub fn dma_write(&mut self, bus: u64, bytes: &[u8]) -> Option<()> {
        let lie = self.liar.writes(bus, bytes);
        let done =
            if self.masters() { self.memory.write(bus, lie.as_deref().unwrap_or(bytes)) } else { None };
        if done.is_none() {
            self.strays += u64::from(self.masters());
            self.violation(format!("the device was made to write {} bytes at {bus:#x}", bytes.len()));
        }
        done
    }

    fn masters(&self) -> bool {
        self.config.command().contains(Command::BUS_MASTER)
    }

    /// Reads the disk at a byte offset; `None` beyond its end.
    pub fn read_disk(&self, offset: u64, bytes: &mut [u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        bytes.copy_from_slice(self.disk.get(start..start.checked_add(bytes.len())?)?);
        Some(())
    }

    /// Writes the disk, or its cache, at a byte offset; `None` beyond its end.
    pub fn write_disk(&mut self, offset: u64, bytes: &[u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(bytes.len())?;
        self.disk.get_mut(start..end)?.copy_from_slice(bytes);
        self.touched[start / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE)].fill(true);
        Some(())
    }

    /// Writes the cache to the medium.
    pub fn flush_disk(&mut self) {
        self.flushes += 1;
        self.medium.clone_from(&self.disk);
    }

    /// Writes everything to the medium, for a disk without a cache.
    pub fn write_through(&mut self) {
        self.medium.clone_from(&self.disk);
    }

    /// Drops other drivers' requests in flight: for the controller's reset.
    pub fn forget_foreign(&mut self) {
        self.foreign.clear();
    }

    /// Counts an access; false if the device does not answer.
    fn access(&mut self) -> bool {
        self.accesses += 1;
        let accesses = self.accesses;
        let leaves = |trouble: &Trouble| matches!(trouble, Trouble::GoneAtAccess(at) if *at <= accesses);
        self.gone |= self.troubles.iter().any(leaves);
        !self.gone
    }

    fn tick(&mut self) {
        self.liar.tick(&self.memory);
        self.config.tick();
        for foreign in &mut self.foreign {
            foreign.ticks = foreign.ticks.saturating_sub(1);
        }
        // Several requests may write the same memory.
        let (due, later) =
            std::mem::take(&mut self.foreign).into_iter().partition(|foreign| foreign.ticks == 0);
        self.foreign = later;
        let due: Vec<Foreign> = due;
        for foreign in due {
            if !self.gone && self.masters() {
                let _ = self.memory.write(foreign.address, &vec![0xee; foreign.length]);
            }
        }
    }
}

struct Inner<M> {
    chassis: Chassis,
    model: M,
}

/// A fake controller with a disk. Clones are the same device.
pub struct Fake<M> {
    inner: Arc<Mutex<Inner<M>>>,
}

impl<M> Clone for Fake<M> {
    fn clone(&self) -> Self {
        Fake { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Model> Fake<M> {
    /// A disk of `blocks` 4096-byte blocks of zeros that reaches `memory`, in use by another driver.
    pub fn new(memory: DmaMemory, config: ConfigBytes, model: M, blocks: u64, seed: u64) -> Fake<M> {
        let bytes = blocks as usize * BLOCK_SIZE;
        let chassis = Chassis {
            memory,
            config,
            troubles: Vec::new(),
            accesses: 0,
            gone: false,
            writes: 0,
            foreign: Vec::new(),
            disk: vec![0; bytes],
            medium: vec![0; bytes],
            touched: vec![false; blocks as usize],
            flushes: 0,
            violations: Vec::new(),
            random: seed.wrapping_mul(2).wrapping_add(1),
            liar: Liar::default(),
            strays: 0,
        };
        Fake { inner: Arc::new(Mutex::new(Inner { chassis, model })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<M>> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Inspects or changes the device from outside.
    pub fn with<T>(&self, look: impl FnOnce(&mut Chassis, &mut M) -> T) -> T {
        let mut inner = self.lock();
        let Inner { chassis, model } = &mut *inner;
        look(chassis, model)
    }

    /// Maps registers of a memory BAR, as a kernel would.
    pub fn map(&self, physical: u64, length: usize) -> Option<Window<M>> {
        let (bar, offset) = self.lock().chassis.config.locate(physical, length)?;
        Some(Window { device: self.clone(), bar, offset, length })
    }

    /// Access to it as a kernel grants it to a driver.
    pub fn access(
        &self,
        timeout: Nanoseconds,
    ) -> Access<Fake<M>, impl FnMut(u64, usize) -> Option<Window<M>> + use<M>> {
        let device = self.clone();
        Access { config: self.clone(), map: move |at, length| device.map(at, length), timeout }
    }

    /// Registers in a port BAR, or at fixed ports: `bar` is the model's own number.
    pub fn ports(&self, bar: u8, length: usize) -> Window<M> {
        Window { device: self.clone(), bar, offset: 0, length }
    }
}

impl<M: Model> Tick for Fake<M> {
    fn tick(&self) {
        self.with(|chassis, model| {
            chassis.tick();
            if !chassis.gone {
                model.tick(chassis);
            }
        });
    }
}

impl<M: Model> FakeDisk for Fake<M> {
    fn set_troubles(&self, troubles: Vec<Trouble>) {
        self.with(|chassis, _| {
            chassis.config.msi_stuck = troubles.contains(&Trouble::MsiStuck);
            chassis.accesses = 0;
            chassis.troubles = troubles;
        });
    }

    fn set_liar(&self, liar: Liar) {
        self.lock().chassis.liar = liar;
    }

    fn strays(&self) -> u64 {
        self.lock().chassis.strays
    }

    fn unplug(&self) {
        self.lock().chassis.gone = true;
    }

    fn is_gone(&self) -> bool {
        self.lock().chassis.gone
    }

    fn foreign_request(&self, address: u64, length: usize, ticks: u32) {
        self.lock().chassis.foreign.push(Foreign { address, length, ticks });
    }

    fn move_bar(&self) {
        self.lock().chassis.config.move_bar();
    }

    fn sleep(&self, forgetful: bool) {
        self.lock().chassis.config.sleep(forgetful);
    }

    fn reset_function(&self) {
        self.with(|chassis, model| {
            chassis.config.reset();
            model.reset(chassis);
        });
    }

    fn agrees(&self) -> bool {
        self.lock().chassis.config.agrees()
    }

    fn command(&self) -> Command {
        self.lock().chassis.config.command()
    }

    fn set_command(&self, command: Command) {
        self.lock().chassis.config.set_command(command);
    }

    fn interrupts_on(&self) -> bool {
        self.lock().chassis.config.interrupts_on()
    }

    fn writes(&self) -> u64 {
        self.lock().chassis.writes
    }

    fn flushes(&self) -> u64 {
        self.lock().chassis.flushes
    }

    fn disk(&self) -> Vec<u8> {
        self.lock().chassis.disk.clone()
    }

    fn medium(&self) -> Vec<u8> {
        self.lock().chassis.medium.clone()
    }

    fn fill(&self, bytes: &[u8]) {
        self.with(|chassis, _| {
            let length = bytes.len().min(chassis.disk.len());
            chassis.disk[..length].copy_from_slice(&bytes[..length]);
            chassis.medium[..length].copy_from_slice(&bytes[..length]);
        });
    }

    fn touched(&self) -> Vec<u64> {
        let inner = self.lock();
        (0_u64..)
            .zip(&inner.chassis.touched)
            .filter(|(_, touched)| **touched)
            .map(|(block, _)| block)
            .collect()
    }

    fn violations(&self) -> Vec<String> {
        self.lock().chassis.violations.clone()
    }
}

/// A mapped part of one of the device's BARs.
pub struct Window<M> {
    device: Fake<M>,
    bar: u8,
    offset: u64,
    length: usize,
}

impl<M: Model> Window<M> {
    fn inside(&self, offset: usize, width: usize) -> bool {
        offset.checked_add(width).is_some_and(|end| end <= self.length) && offset.is_multiple_of(width)
    }

    /// Counts the access; returns whether the function decodes it.
    fn decodes(chassis: &mut Chassis, bar: u8) -> bool {
        let needs = chassis.config.decoding(bar);
        chassis.access()
            && chassis.config.command().contains(needs)
            && chassis.config.is_home(bar)
            && !chassis.config.asleep()
    }

    fn read(&self, offset: usize, width: usize) -> u64 {
        if !self.inside(offset, width) {
            return u64::MAX;
        }
        self.device.with(|chassis, model| {
            if Window::<M>::decodes(chassis, self.bar) {
                let place = self.offset + offset as u64;
                let truth = model.read(chassis, self.bar, place, width);
                chassis.liar.answer(u64::from(self.bar) << 56 | place, width, truth)
            } else {
                u64::MAX
            }
        })
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        if !self.inside(offset, width) {
            return;
        }
        self.device.with(|chassis, model| {
            chassis.writes += 1;
            if Window::<M>::decodes(chassis, self.bar) {
                model.write(chassis, self.bar, self.offset + offset as u64, width, value);
            }
        });
    }
}

impl<M: Model> Registers for Window<M> {
    fn length(&self) -> usize {
        self.length
    }

    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, 1) as u8
    }

    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }

    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4) as u32
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, 8)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, 1, value.into());
    }

    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, 2, value.into());
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value.into());
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, 8, value);
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(self.bar.into()).number(self.offset).number(self.length as u64);
    }
}

impl<M: Model> ConfigSpace for Fake<M> {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        self.with(|chassis, _| {
            let here = ConfigBytes::here(address) && chassis.access();
            if !here {
                return u32::MAX;
            }
            if chassis.config.wakes() {
                chassis.violation("touched while it wakes");
            }
            let truth = chassis.config.read32(offset);
            chassis.liar.answer(CONFIG | u64::from(offset), 4, truth.into()) as u32
        })
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        self.with(|chassis, model| {
            chassis.writes += 1;
            if ConfigBytes::here(address) && chassis.access() {
                if chassis.config.wakes() {
                    chassis.violation("touched while it wakes");
                }
                if chassis.config.write16(offset, value) {
                    model.reset(chassis);
                }
            }
        });
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        self.with(|chassis, _| {
            chassis.writes += 1;
            if ConfigBytes::here(address) && chassis.access() {
                if chassis.config.wakes() {
                    chassis.violation("touched while it wakes");
                }
                if chassis.config.command().intersects(Command::IO | Command::MEMORY) {
                    chassis.violation(format!("{offset:#x} written while it is decoded"));
                }
                chassis.config.write32(offset, value);
            }
        });
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.number(1);
    }
}
