//! A virtio disk that can stall, lie and disappear.

use std::sync::{Arc, Mutex, MutexGuard};

use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;

use super::Tick;
use super::memory::DmaMemory;
use super::pci::{ConfigBytes, VIRTIO_BAR};
use crate::bus::pci::{Address, Command, ConfigSpace};
use crate::bus::registers::Registers;

const SECTOR: usize = 512;

/// What goes wrong. Requests are counted from 0 since the last reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The status never reads 0 after a reset was asked for.
    NeverResets,
    /// The device takes FEATURES_OK away again.
    FeaturesRefused,
    /// From this access to a register or to configuration space on, all reads as ones.
    GoneAtAccess(u32),
    /// Requests from this one on never complete.
    NeverCompletes(u32),
    /// This request completes under another id.
    WrongId(u32, u32),
    /// This request completes twice.
    Duplicate(u32),
    /// With this request, the used index moves on by so many.
    IndexJumps(u32, u16),
    /// For this request, one byte less is reported than was written.
    ShortLength(u32),
    /// For this request, one byte more is reported than there was room for.
    LongLength(u32),
    /// This request fails with the given status byte and moves no data.
    Status(u32, u8),
    /// This request's status byte is not written.
    StatusUnwritten(u32),
    /// With this request, the device stops and asks for a reset.
    NeedsReset(u32),
    /// After the next reset, the disk has so many sectors.
    CapacityShrinks(u64),
    /// The last capability points to the first.
    CapabilityLoop,
    /// There are no modern capabilities.
    LegacyOnly,
    /// The device has the modern registers, but not VERSION_1.
    NotVersion1,
    /// The disk is read-only.
    ReadOnly,
    /// The queue's notification register is beyond the notification structure.
    NotifyOutside,
    /// The configuration generation changes at every look.
    GenerationRuns,
    /// The queue's enable register stays 0.
    QueueStaysDisabled,
    /// The queue size register does not take what is written.
    QueueSizeStuck,
    /// There is not a single queue.
    NoQueues,
    /// MSI and MSI-X cannot be switched off.
    MsiStuck,
    /// The device is never DRIVER_OK.
    NeverStarts,
}

/// What kind of device, and its faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// PCI device id.
    pub device_id: u16,
    /// Size of the queue.
    pub queue_size: u16,
    /// Bytes between notification registers.
    pub notify_multiplier: u32,
    /// Which notification register.
    pub notify_off: u16,
    /// Most bytes in a segment, if limited.
    pub size_max: Option<u32>,
    /// Most segments, if limited.
    pub seg_max: Option<u32>,
    /// Block size, if told.
    pub blk_size: Option<u32>,
    /// Whether there is a cache to flush. What is not flushed is lost at reset.
    pub flush: bool,
    /// Other features that are offered and have to be accepted.
    pub required_features: u64,
    /// Looks at the clock until a request completes: the shortest, and how many more there may be.
    pub delay: (u32, u32),
    /// Whether requests complete in any order.
    pub shuffle: bool,
    /// The device asks not to be notified, and looks for itself.
    pub no_notify: bool,
    /// Looks at the clock until a reset is done.
    pub reset_ticks: u32,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// For delays and order.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            device_id: 0x1042,
            queue_size: 256,
            notify_multiplier: 4,
            notify_off: 0,
            size_max: None,
            seg_max: Some(254),
            blk_size: Some(512),
            flush: true,
            required_features: 0,
            delay: (0, 0),
            shuffle: false,
            no_notify: false,
            reset_ticks: 0,
            faults: Vec::new(),
            seed: 1,
        }
    }
}

impl Plan {
    /// A device without special traits but for one fault.
    pub fn with(fault: Fault) -> Plan {
        Plan { faults: vec![fault], ..Plan::default() }
    }
}

#[derive(Default, Clone)]
struct QueueState {
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    fetched: u16,
    used: u16,
}

struct Pending {
    number: u32,
    head: u16,
    ticks: u32,
}

/// Some memory that another driver's request will write.
struct Foreign {
    address: u64,
    length: usize,
    ticks: u32,
}

struct State {
    plan: Plan,
    memory: DmaMemory,
    config: ConfigBytes,
    accesses: u32,
    gone: bool,
    writes: u64,
    doorbells: u64,
    status: u8,
    resetting: Option<u32>,
    feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    queue: QueueState,
    generation: u8,
    isr: u8,
    requests: u32,
    pending: Vec<Pending>,
    foreign: Vec<Foreign>,
    capacity: u64,
    /// What a read gives.
    disk: Vec<u8>,
    /// What is left after a loss of power.
    medium: Vec<u8>,
    touched: Vec<bool>,
    flushes: u64,
    violations: Vec<String>,
    random: u64,
}

/// The device. Clones are the same device.
#[derive(Clone)]
pub struct VirtioBlkFake {
    state: Arc<Mutex<State>>,
}

impl VirtioBlkFake {
    /// A disk of `blocks` 4096-byte blocks of zeros that reaches `memory`, in use by another driver.
    pub fn new(memory: DmaMemory, blocks: u64, plan: Plan) -> VirtioBlkFake {
        let modern = !plan.faults.contains(&Fault::LegacyOnly);
        let mut config = ConfigBytes::virtio(plan.device_id, modern, plan.notify_multiplier);
        if plan.faults.contains(&Fault::CapabilityLoop) {
            config.tie_a_loop();
        }
        config.msi_stuck = plan.faults.contains(&Fault::MsiStuck);
        let bytes = blocks as usize * BLOCK_SIZE;
        let random = plan.seed.wrapping_mul(2).wrapping_add(1);
        let queue = QueueState { size: plan.queue_size, ..QueueState::default() };
        VirtioBlkFake {
            state: Arc::new(Mutex::new(State {
                plan,
                memory,
                config,
                accesses: 0,
                gone: false,
                writes: 0,
                doorbells: 0,
                status: 0x0f,
                resetting: None,
                feature_select: 0,
                driver_feature_select: 0,
                driver_features: 0,
                queue_select: 0,
                queue,
                generation: 0,
                isr: 1,
                requests: 0,
                pending: Vec::new(),
                foreign: Vec::new(),
                capacity: (bytes / SECTOR) as u64,
                disk: vec![0; bytes],
                medium: vec![0; bytes],
                touched: vec![false; blocks as usize],
                flushes: 0,
                violations: Vec::new(),
                random,
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Maps registers, as a kernel would.
    pub fn map(&self, physical: u64, length: usize) -> Option<Window> {
        physical.checked_sub(VIRTIO_BAR)?;
        Some(Window { device: self.clone(), physical, length })
    }

    /// Replaces the plan's faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        let mut state = self.lock();
        state.config.msi_stuck = faults.contains(&Fault::MsiStuck);
        state.accesses = 0;
        state.plan.faults = faults;
    }

    /// Unplugs the device.
    pub fn unplug(&self) {
        self.lock().gone = true;
    }

    /// Whether it is unplugged, or gone by its plan.
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Another driver has a request in flight that will write to `length` bytes at a bus address in `ticks` looks at the
    /// clock.
    pub fn foreign_request(&self, address: u64, length: usize, ticks: u32) {
        self.lock().foreign.push(Foreign { address, length, ticks });
    }

    /// Moves the BAR elsewhere.
    pub fn move_bar(&self) {
        self.lock().config.move_bar();
    }

    /// Sends the function to sleep (D3).
    pub fn sleep(&self) {
        self.lock().config.sleep();
    }

    /// Sets the PCI command register.
    pub fn set_command(&self, command: Command) {
        self.lock().config.set_command(command);
    }

    /// The PCI command register.
    pub fn command(&self) -> Command {
        self.lock().config.command()
    }

    /// Sets the device status, as another driver or an internal error would.
    pub fn set_status(&self, status: u8) {
        self.lock().status = status;
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        self.lock().status
    }

    /// Whether any interrupt can still be raised.
    pub fn interrupts_on(&self) -> bool {
        self.lock().config.interrupts_on()
    }

    /// How often anything of the device was written to: registers and configuration space.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// How often the device was notified.
    pub fn doorbells(&self) -> u64 {
        self.lock().doorbells
    }

    /// How often the cache was flushed.
    pub fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    /// The disk as a reader sees it.
    pub fn disk(&self) -> Vec<u8> {
        self.lock().disk.clone()
    }

    /// The disk as it is after the cache was lost.
    pub fn medium(&self) -> Vec<u8> {
        self.lock().medium.clone()
    }

    /// Fills the disk.
    pub fn fill(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let length = bytes.len().min(state.disk.len());
        state.disk[..length].copy_from_slice(&bytes[..length]);
        state.medium[..length].copy_from_slice(&bytes[..length]);
    }

    /// Which blocks were written to.
    pub fn touched(&self) -> Vec<u64> {
        let state = self.lock();
        state
            .touched
            .iter()
            .enumerate()
            .filter(|(_, touched)| **touched)
            .map(|(block, _)| block as u64)
            .collect()
    }

    /// What the driver did against the specification.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }
}

impl Tick for VirtioBlkFake {
    fn tick(&self) {
        self.lock().tick();
    }
}

impl State {
    fn has(&self, fault: Fault) -> bool {
        self.plan.faults.contains(&fault)
    }

    fn violation(&mut self, text: impl Into<String>) {
        if self.violations.len() < 16 {
            self.violations.push(text.into());
        }
    }

    fn random(&mut self, below: u32) -> u32 {
        // Knuth's MMIX generator: the upper bits are good enough.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if below == 0 { 0 } else { (self.random >> 33) as u32 % below }
    }

    /// Counts an access; false if there is nobody to answer it.
    fn access(&mut self) -> bool {
        self.accesses += 1;
        let accesses = self.accesses;
        if self.plan.faults.iter().any(|fault| matches!(fault, Fault::GoneAtAccess(at) if *at <= accesses)) {
            self.gone = true;
        }
        !self.gone
    }

    fn access_register(&mut self) -> bool {
        self.access() && self.config.command().contains(Command::MEMORY) && !self.config.asleep()
    }

    fn features(&self) -> u64 {
        let mut features = 1 << 32 | self.plan.required_features;
        // Offered, never needed: several queues, discard, event index, indirect descriptors.
        features |= 1 << 12 | 1 << 13 | 1 << 28 | 1 << 29;
        let mut offer = |bit: u32, on: bool| features |= u64::from(on) << bit;
        offer(1, self.plan.size_max.is_some());
        offer(2, self.plan.seg_max.is_some());
        offer(6, self.plan.blk_size.is_some());
        offer(9, self.plan.flush);
        offer(5, self.plan.faults.contains(&Fault::ReadOnly));
        if self.has(Fault::NotVersion1) {
            features &= !(1 << 32);
        }
        features
    }

    fn reset(&mut self) {
        self.status = 0;
        self.queue = QueueState { size: self.plan.queue_size, ..QueueState::default() };
        self.driver_features = 0;
        self.pending.clear();
        self.foreign.clear();
        self.requests = 0;
        self.isr = 0;
        for fault in self.plan.faults.clone() {
            if let Fault::CapacityShrinks(sectors) = fault {
                self.capacity = sectors;
            }
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            if self.has(Fault::NeverResets) {
                self.status = self.status.max(1);
                return;
            }
            // Until it is reset, it goes on with what another driver gave it. A device whose status reads 0 is reset, whatever it has still to do.
            if self.plan.reset_ticks == 0 || self.status == 0 {
                self.reset();
            } else {
                self.resetting = Some(self.plan.reset_ticks);
            }
            return;
        }
        if self.resetting.is_some() {
            self.violation("status written during reset");
            return;
        }
        if self.status & !value != 0 {
            self.violation(format!("status bits cleared: {:#x} to {value:#x}", self.status));
        }
        let mut value = value;
        if value & 8 != 0 && self.status & 8 == 0 {
            let offered = self.features();
            let needed = (1 << 32 | self.plan.required_features) & offered;
            if self.driver_features & !offered != 0 {
                self.violation("features accepted that were not offered");
                value &= !8;
            }
            if self.driver_features & needed != needed || self.has(Fault::FeaturesRefused) {
                value &= !8;
            }
        }
        if value & 4 != 0 && self.status & 4 == 0 {
            if self.status & 8 == 0 || !self.queue.enabled {
                self.violation("DRIVER_OK before features or queue");
            }
            if self.has(Fault::NeverStarts) {
                value = value & !4 | 64;
            }
        }
        self.status = value;
    }

    fn read_common(&mut self, offset: usize, width: usize) -> u64 {
        let expected = match offset {
            0x00 | 0x04 | 0x08 | 0x0c => 4,
            0x14 | 0x15 => 1,
            0x20..0x38 => 4,
            _ => 2,
        };
        if width != expected {
            self.violation(format!("common configuration {offset:#x} read by {width}"));
        }
        match offset {
            0x00 => self.feature_select.into(),
            0x04 => match self.feature_select {
                0 => self.features() & 0xffff_ffff,
                1 => self.features() >> 32,
                _ => 0,
            },
            0x12 => u64::from(!self.has(Fault::NoQueues)),
            0x14 => self.status.into(),
            0x15 => {
                if self.has(Fault::GenerationRuns) {
                    self.generation = self.generation.wrapping_add(1);
                }
                self.generation.into()
            }
            0x16 => self.queue_select.into(),
            0x18 if self.queue_select == 0 => self.queue.size.into(),
            0x1c if self.queue_select == 0 => self.queue.enabled.into(),
            0x1e if self.queue_select == 0 => {
                if self.has(Fault::NotifyOutside) {
                    0x400
                } else {
                    self.plan.notify_off.into()
                }
            }
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: usize, width: usize, value: u64) {
        let expected = match offset {
            0x00 | 0x08 | 0x0c | 0x20..0x38 => 4,
            0x14 => 1,
            _ => 2,
        };
        if width != expected {
            self.violation(format!("common configuration {offset:#x} written by {width}"));
        }
        if matches!(offset, 0x18 | 0x1a | 0x1c | 0x20..0x38) {
            if self.status & 0x0c != 0x08 {
                self.violation(format!("queue register {offset:#x} written with status {:#x}", self.status));
            }
            if self.queue_select != 0 || self.queue.enabled {
                self.violation(format!("queue register {offset:#x} of a wrong or enabled queue"));
            }
        }
        if offset == 0x0c && self.status & 0x0e != 0x02 {
            self.violation("features written at the wrong time");
        }
        let low = |old: u64| old & !0xffff_ffff | value;
        let high = |old: u64| old & 0xffff_ffff | value << 32;
        match offset {
            0x00 => self.feature_select = value as u32,
            0x08 => self.driver_feature_select = value as u32,
            0x0c => match self.driver_feature_select {
                0 => self.driver_features = low(self.driver_features),
                1 => self.driver_features = high(self.driver_features),
                _ => {}
            },
            0x14 => self.write_status(value as u8),
            0x16 => self.queue_select = value as u16,
            0x18 if !self.has(Fault::QueueSizeStuck) => self.queue.size = value as u16,
            0x1c => self.enable_queue(value),
            0x20 => self.queue.descriptors = low(self.queue.descriptors),
            0x24 => self.queue.descriptors = high(self.queue.descriptors),
            0x28 => self.queue.driver = low(self.queue.driver),
            0x2c => self.queue.driver = high(self.queue.driver),
            0x30 => self.queue.device = low(self.queue.device),
            0x34 => self.queue.device = high(self.queue.device),
            _ => {}
        }
    }

    fn enable_queue(&mut self, value: u64) {
        if self.has(Fault::QueueStaysDisabled) {
            return;
        }
        if value != 1 {
            self.violation("queue disabled by its enable register");
        }
        let queue = &self.queue;
        let aligned = queue.descriptors.is_multiple_of(16)
            && queue.driver.is_multiple_of(2)
            && queue.device.is_multiple_of(4);
        if !aligned {
            self.violation("rings not aligned");
        }
        if !self.queue.size.is_power_of_two() {
            return self.violation("queue size not a power of two");
        }
        self.queue.enabled = true;
        if self.plan.no_notify {
            let _ = self.memory.write(self.queue.device, &1_u16.to_le_bytes());
        }
    }

    fn read(&mut self, physical: u64, width: usize) -> u64 {
        if !self.access_register() {
            return u64::MAX;
        }
        let offset = (physical - VIRTIO_BAR) as usize;
        match offset >> 12 {
            0 => self.read_common(offset, width),
            1 => {
                let isr = self.isr;
                self.isr = 0;
                isr.into()
            }
            2 => {
                let mut config = [0_u8; 64];
                config[..8].copy_from_slice(&self.capacity.to_le_bytes());
                config[8..12].copy_from_slice(&self.plan.size_max.unwrap_or(0).to_le_bytes());
                config[12..16].copy_from_slice(&self.plan.seg_max.unwrap_or(0).to_le_bytes());
                config[20..24].copy_from_slice(&self.plan.blk_size.unwrap_or(0).to_le_bytes());
                let at = offset & 0xfff;
                if width == 8 {
                    self.violation("device configuration read by 8");
                }
                config.get(at..at + width).map_or(0, |bytes| {
                    bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
                })
            }
            _ => 0,
        }
    }

    fn write(&mut self, physical: u64, width: usize, value: u64) {
        self.writes += 1;
        if !self.access_register() {
            return;
        }
        let offset = (physical - VIRTIO_BAR) as usize;
        match offset >> 12 {
            0 => self.write_common(offset, width, value),
            3 => {
                self.doorbells += 1;
                let mine = self.plan.notify_multiplier as usize * usize::from(self.plan.notify_off);
                if offset & 0xfff != mine || width != 2 || value != 0 {
                    self.violation(format!("notification at {offset:#x}, {width} wide, of {value}"));
                }
                if self.status & 4 == 0 {
                    self.violation("notification before DRIVER_OK");
                }
                self.fetch();
                self.finish_due();
            }
            _ => self.violation(format!("write to {offset:#x}")),
        }
    }

    /// Whether the device works at all now.
    fn runs(&self) -> bool {
        !self.gone
            && self.status & (4 | 64) == 4
            && self.resetting.is_none()
            && self.config.command().contains(Command::BUS_MASTER)
    }

    /// Takes new requests from the available ring.
    fn fetch(&mut self) {
        if !self.runs() || !self.queue.enabled {
            return;
        }
        let Some(index) = self.memory.read16(self.queue.driver + 2) else {
            return self.violation("available ring outside memory");
        };
        while self.queue.fetched != index {
            let slot = u64::from(self.queue.fetched % self.queue.size);
            let Some(head) = self.memory.read16(self.queue.driver + 4 + slot * 2) else {
                return self.violation("available ring outside memory");
            };
            self.queue.fetched = self.queue.fetched.wrapping_add(1);
            let number = self.requests;
            self.requests += 1;
            if self
                .plan
                .faults
                .iter()
                .any(|fault| matches!(fault, Fault::NeverCompletes(from) if number >= *from))
            {
                continue;
            }
            if self.has(Fault::NeedsReset(number)) {
                self.status |= 64;
                return;
            }
            let (least, more) = self.plan.delay;
            let ticks = least + self.random(more + 1);
            self.pending.push(Pending { number, head, ticks });
        }
    }

    fn finish_due(&mut self) {
        while self.runs() {
            let due: Vec<usize> = (0..self.pending.len()).filter(|at| self.pending[*at].ticks == 0).collect();
            let Some(first) = due.first() else { return };
            let at = if self.plan.shuffle { due[self.random(due.len() as u32) as usize] } else { *first };
            let pending = self.pending.remove(at);
            self.finish(&pending);
        }
    }

    fn tick(&mut self) {
        if let Some(left) = self.resetting {
            self.resetting = left.checked_sub(1);
            if self.resetting.is_none() {
                self.reset();
            }
        }
        let reaches = !self.gone && self.config.command().contains(Command::BUS_MASTER);
        for foreign in &mut self.foreign {
            foreign.ticks = foreign.ticks.saturating_sub(1);
            if foreign.ticks == 0 && reaches {
                let _ = self.memory.write(foreign.address, &vec![0xee; foreign.length]);
            }
        }
        self.foreign.retain(|foreign| foreign.ticks > 0);
        if !self.runs() {
            return;
        }
        for pending in &mut self.pending {
            pending.ticks = pending.ticks.saturating_sub(1);
        }
        if self.plan.no_notify {
            self.fetch();
        }
        self.finish_due();
    }

    /// The pieces of a request: address, length, whether the device writes it.
    fn chain(&mut self, head: u16) -> Option<Vec<(u64, u32, bool)>> {
        let mut pieces = Vec::new();
        let mut at = head;
        loop {
            if at >= self.queue.size || pieces.len() >= usize::from(self.queue.size) {
                return None;
            }
            let mut descriptor = [0; 16];
            self.memory.read(self.queue.descriptors + u64::from(at) * 16, &mut descriptor)?;
            let address = u64::from_le_bytes(descriptor[..8].try_into().ok()?);
            let length = u32::from_le_bytes(descriptor[8..12].try_into().ok()?);
            let flags = u16::from_le_bytes(descriptor[12..14].try_into().ok()?);
            pieces.push((address, length, flags & 2 != 0));
            if flags & 1 == 0 {
                return Some(pieces);
            }
            at = u16::from_le_bytes(descriptor[14..].try_into().ok()?);
        }
    }

    fn finish(&mut self, pending: &Pending) {
        let Some(pieces) = self.chain(pending.head) else {
            return self.violation("broken descriptor chain");
        };
        let ([header, data @ ..], Some(status)) =
            (pieces.split_last().map_or(&pieces[..], |(_, rest)| rest), pieces.last())
        else {
            return self.violation("a request without header or status");
        };
        let mut bytes = [0; 16];
        if header.1 != 16 || header.2 || self.memory.read(header.0, &mut bytes).is_none() {
            return self.violation("a bad header");
        }
        if status.1 != 1 || !status.2 {
            return self.violation("a bad status descriptor");
        }
        let kind = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let sector = u64::from_le_bytes(bytes[8..].try_into().unwrap_or_default());
        let forced = self.plan.faults.iter().find_map(|fault| match fault {
            Fault::Status(number, status) if *number == pending.number => Some(*status),
            _ => None,
        });
        let (code, written) = match forced {
            Some(code) => (code, 0),
            None => self.transfer(kind, sector, data),
        };
        if !self.has(Fault::StatusUnwritten(pending.number)) && self.memory.write(status.0, &[code]).is_none()
        {
            self.violation("status outside memory");
        }
        let mut length = written + 1;
        if self.has(Fault::ShortLength(pending.number)) {
            length -= 1;
        }
        if self.has(Fault::LongLength(pending.number)) {
            let room: u32 = data.iter().filter(|piece| piece.2).map(|piece| piece.1).sum();
            length = room + 2;
        }
        let (mut id, mut by, mut times) = (u32::from(pending.head), 1, 1);
        for fault in &self.plan.faults {
            match *fault {
                Fault::WrongId(number, wrong) if number == pending.number => id = wrong,
                Fault::Duplicate(number) if number == pending.number => times = 2,
                Fault::IndexJumps(number, jump) if number == pending.number => by = jump,
                _ => {}
            }
        }
        for _ in 0..times {
            let slot = u64::from(self.queue.used % self.queue.size);
            let mut element = [0; 8];
            element[..4].copy_from_slice(&id.to_le_bytes());
            element[4..].copy_from_slice(&length.to_le_bytes());
            let there = self.memory.write(self.queue.device + 4 + slot * 8, &element).is_some();
            self.queue.used = self.queue.used.wrapping_add(by);
            if !there || self.memory.write(self.queue.device + 2, &self.queue.used.to_le_bytes()).is_none() {
                self.violation("used ring outside memory");
            }
        }
        let flags = self.memory.read16(self.queue.driver).unwrap_or(0);
        if flags & 1 == 0 {
            self.violation("the driver wants interrupts");
        }
    }

    /// Moves the data; gives the status byte and how many bytes went to memory.
    fn transfer(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        let total: usize = data.iter().map(|piece| piece.1 as usize).sum();
        if let Some(size_max) = self.plan.size_max
            && data.iter().any(|piece| piece.1 > size_max)
        {
            self.violation("a segment larger than size_max");
        }
        if let Some(seg_max) = self.plan.seg_max
            && data.len() > seg_max as usize
        {
            self.violation("more segments than seg_max");
        }
        match kind {
            4 => {
                if !self.plan.flush || total != 0 || sector != 0 {
                    self.violation("a bad flush");
                }
                self.flushes += 1;
                self.medium.copy_from_slice(&self.disk);
                (0, 0)
            }
            0 | 1 => {
                let start = sector.saturating_mul(SECTOR as u64);
                let end = start.saturating_add(total as u64);
                if total == 0 || !total.is_multiple_of(SECTOR) || end > self.capacity * SECTOR as u64 {
                    self.violation(format!("a transfer of {total} bytes at sector {sector}"));
                    return (1, 0);
                }
                let (mut at, write) = (start as usize, kind == 1);
                for (address, length, writable) in data {
                    let length = *length as usize;
                    if *writable == write {
                        self.violation("a descriptor of the wrong direction");
                        return (1, 0);
                    }
                    let done = if write {
                        let mut piece = vec![0; length];
                        let done = self.memory.read(*address, &mut piece);
                        self.disk[at..at + length].copy_from_slice(&piece);
                        done
                    } else {
                        self.memory.write(*address, &self.disk[at..at + length])
                    };
                    if done.is_none() {
                        self.violation("data outside memory");
                        return (1, 0);
                    }
                    at += length;
                }
                if write {
                    let blocks = start as usize / BLOCK_SIZE..(end as usize).div_ceil(BLOCK_SIZE);
                    self.touched[blocks].fill(true);
                    if !self.plan.flush {
                        let range = start as usize..end as usize;
                        self.medium[range.clone()].copy_from_slice(&self.disk[range]);
                    }
                    (0, 0)
                } else {
                    (0, total as u32)
                }
            }
            _ => (2, 0),
        }
    }
}

/// A mapped part of the device's BAR.
#[derive(Clone)]
pub struct Window {
    device: VirtioBlkFake,
    physical: u64,
    length: usize,
}

impl Window {
    fn read(&self, offset: usize, width: usize) -> u64 {
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.length);
        if !inside || !offset.is_multiple_of(width) {
            return u64::MAX;
        }
        self.device.lock().read(self.physical + offset as u64, width)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.length);
        if inside && offset.is_multiple_of(width) {
            self.device.lock().write(self.physical + offset as u64, width, value);
        }
    }
}

impl Registers for Window {
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

    fn seal(&self, digest: &mut Digest) {
        digest.number(self.physical).number(self.length as u64);
    }
}

impl ConfigSpace for VirtioBlkFake {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        let mut state = self.lock();
        if !ConfigBytes::here(address) || !state.access() { u32::MAX } else { state.config.read32(offset) }
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        let mut state = self.lock();
        state.writes += 1;
        if ConfigBytes::here(address) && state.access() {
            state.config.write16(offset, value);
        }
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        let mut state = self.lock();
        state.writes += 1;
        if ConfigBytes::here(address) && state.access() {
            state.config.write32(offset, value);
        }
    }

    fn seal(&self, digest: &mut Digest) {
        digest.number(1);
    }
}
