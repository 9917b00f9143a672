//! A virtio device that can stall, lie and disappear: the registers of its transport, PCI or MMIO, and its
//! queue. `blk.rs` and `scsi.rs` execute its requests.
//!
//! One file: both transports show one device, with one status and one queue.

mod blk;
mod plan;
mod scsi;
mod state;

pub use plan::{Counts, Fault, Front, Plan, ScsiPlan};
pub use state::Virtio;
use state::{Done, Pending, QueueState, SECTOR, ScsiState, read16};

use super::chassis::{Chassis, Fake, Model};
use super::memory::DmaMemory;
use super::pci::ConfigBytes;
use super::{FakeDisk as _, Trouble};
use crate::bus::pci::Command;

/// Physical address of an MMIO device's window.
pub const MMIO_WINDOW: u64 = 0xa00_3e00;

/// A virtio device.
pub type VirtioFake = Fake<Virtio>;

impl Fake<Virtio> {
    /// A disk of `blocks` 4096-byte blocks of zeros, with access to `memory`, in use by another driver.
    pub fn virtio(memory: DmaMemory, blocks: u64, plan: Plan) -> VirtioFake {
        let config = match plan.front {
            Front::Pci(device) => {
                let modern = !plan.faults.contains(&Fault::LegacyOnly);
                let mut config = ConfigBytes::virtio(device, modern, plan.notify_multiplier);
                if plan.faults.contains(&Fault::CapabilityLoop) {
                    config.tie_a_loop();
                }
                config
            }
            // This configuration space is invisible: it only holds the window, and enables bus mastering.
            Front::Mmio => ConfigBytes::new(0, 0, 0).memory_bar(0, MMIO_WINDOW, 0x200),
        };
        let (seed, troubles) = (plan.seed, plan.troubles.clone());
        let model = Virtio {
            queue: QueueState { size: plan.queue_size, ..QueueState::default() },
            plan,
            doorbells: 0,
            status: 0x0f,
            resetting: None,
            feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            generation: 0,
            isr: 1,
            requests: 0,
            pending: Vec::new(),
            repeated: false,
            capacity: blocks * 8,
            scsi: ScsiState::default(),
        };
        let fake = Fake::new(memory, config, model, blocks, seed);
        fake.set_troubles(troubles);
        fake
    }

    /// Replaces the faults, including the [`Trouble`]s.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.set_troubles(Vec::new());
        self.with(|_, model| model.plan.faults = faults);
    }

    /// Sets the device status, as another driver or an internal error would.
    pub fn set_status(&self, status: u8) {
        self.with(|_, model| model.status = status);
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        self.with(|_, model| model.status)
    }

    /// Number of notifications.
    pub fn doorbells(&self) -> u64 {
        self.with(|_, model| model.doorbells)
    }
}

impl Virtio {
    /// Turns it into another device, from the next reset on.
    pub fn set_plan(&mut self, plan: Plan) {
        self.plan = plan;
    }

    /// The queue for requests.
    fn its_queue(&self) -> u32 {
        if self.plan.scsi.is_some() { 2 } else { 0 }
    }

    fn features(&self) -> u64 {
        let mut features = 1 << 32 | self.plan.required_features;
        // Offered, never used: event index, indirect descriptors, and packed rings.
        features |= 1 << 28 | 1 << 29 | 1 << 34;
        features |= match &self.plan.scsi {
            None => blk::features(&self.plan),
            // Bidirectional data, hot plug, parameter change.
            Some(_) => 0x7,
        };
        if self.has(Fault::NotVersion1) {
            features &= !(1 << 32);
        }
        features
    }

    fn start_again(&mut self, chassis: &mut Chassis) {
        self.status = 0;
        let enabled = self.has(Fault::QueueStaysEnabled);
        self.queue = QueueState { size: self.plan.queue_size, enabled, ..QueueState::default() };
        self.driver_features = 0;
        self.pending.clear();
        self.repeated = false;
        chassis.forget_foreign();
        self.requests = 0;
        self.isr = 0;
        self.scsi = ScsiState::default();
        self.capacity = chassis.size() / SECTOR;
        for fault in &self.plan.faults {
            if let Fault::CapacityShrinks(sectors) = *fault {
                self.capacity = sectors;
            }
        }
    }

    fn write_status(&mut self, chassis: &mut Chassis, value: u8) {
        if value == 0 {
            if chassis.has(Trouble::NeverResets) {
                self.status = self.status.max(1);
                return;
            }
            // Until the reset is complete, it continues with another driver's requests. A device whose status
            // reads 0 is reset, even if work is left.
            if self.plan.reset_ticks == 0 || self.status == 0 {
                self.start_again(chassis);
            } else {
                self.resetting = Some(self.plan.reset_ticks);
            }
            return;
        }
        if self.resetting.is_some() {
            return chassis.violation("status written during reset");
        }
        if self.status & !value != 0 {
            chassis.violation(format!("status bits cleared: {:#x} to {value:#x}", self.status));
        }
        let mut value = value;
        if value & 8 != 0 && self.status & 8 == 0 {
            let offered = self.features();
            let needed = (1 << 32 | self.plan.required_features) & offered;
            if self.driver_features & !offered != 0 {
                chassis.violation("features accepted that were not offered");
                value &= !8;
            }
            if self.driver_features & 1 << 34 != 0 {
                chassis.violation("packed rings accepted by a driver of split ones");
            }
            if self.driver_features & needed != needed || self.has(Fault::FeaturesRefused) {
                value &= !8;
            }
        }
        if value & 4 != 0 && self.status & 4 == 0 {
            if self.status & 8 == 0 || !self.queue.enabled {
                chassis.violation("DRIVER_OK before features or queue");
            }
            if self.has(Fault::NeverStarts) {
                value = value & !4 | 64;
            }
            if chassis.has(Trouble::NeverReady) {
                value &= !4;
            }
        }
        self.status = value;
    }

    /// The device's features, selected half.
    fn offered(&self) -> u64 {
        match self.feature_select {
            0 => self.features() & 0xffff_ffff,
            1 => self.features() >> 32,
            _ => 0,
        }
    }

    fn accept(&mut self, chassis: &mut Chassis, value: u64) {
        if self.status & 0x0e != 0x02 {
            chassis.violation("features written at the wrong time");
        }
        match self.driver_feature_select {
            0 => self.driver_features = low(self.driver_features, value),
            1 => self.driver_features = high(self.driver_features, value),
            _ => {}
        }
    }

    fn next_generation(&mut self) -> u64 {
        if self.has(Fault::GenerationRuns) {
            self.generation = self.generation.wrapping_add(1);
        }
        self.generation.into()
    }

    /// Whether the queue for requests is selected.
    fn selected(&self) -> bool {
        self.queue_select == self.its_queue()
    }

    fn check_queue_write(&self, chassis: &mut Chassis, offset: u64) {
        if self.status & 0x0c != 0x08 {
            chassis.violation(format!("queue register {offset:#x} written with status {:#x}", self.status));
        }
        if !self.selected() || self.queue.enabled {
            chassis.violation(format!("queue register {offset:#x} of a wrong or enabled queue"));
        }
    }

    fn read_common(&mut self, chassis: &mut Chassis, offset: u64, width: usize) -> u64 {
        let expected = match offset {
            0x00 | 0x04 | 0x08 | 0x0c => 4,
            0x14 | 0x15 => 1,
            0x20..0x38 => 4,
            _ => 2,
        };
        if width != expected {
            chassis.violation(format!("common configuration {offset:#x} read by {width}"));
        }
        match offset {
            0x00 => self.feature_select.into(),
            0x04 => self.offered(),
            0x12 if self.has(Fault::NoQueues) => 0,
            0x12 => u64::from(self.its_queue()) + 1,
            0x14 => self.status.into(),
            0x15 => self.next_generation(),
            0x16 => self.queue_select.into(),
            0x18 if self.selected() => self.queue.size.into(),
            0x1c if self.selected() => self.queue.enabled.into(),
            0x1e if self.selected() && self.has(Fault::NotifyOutside) => 0x400,
            0x1e if self.selected() => self.plan.notify_off.into(),
            _ => 0,
        }
    }

    fn write_common(&mut self, chassis: &mut Chassis, offset: u64, width: usize, value: u64) {
        let expected = match offset {
            0x00 | 0x08 | 0x0c | 0x20..0x38 => 4,
            0x14 => 1,
            _ => 2,
        };
        if width != expected {
            chassis.violation(format!("common configuration {offset:#x} written by {width}"));
        }
        if matches!(offset, 0x18 | 0x1a | 0x1c | 0x20..0x38) {
            self.check_queue_write(chassis, offset);
        }
        let stuck = self.has(Fault::QueueSizeStuck);
        let queue = &mut self.queue;
        match offset {
            0x00 => self.feature_select = value as u32,
            0x08 => self.driver_feature_select = value as u32,
            0x0c => self.accept(chassis, value),
            0x14 => self.write_status(chassis, value as u8),
            0x16 => self.queue_select = value as u32,
            0x18 if !stuck => queue.size = value as u16,
            0x1c => self.enable_queue(chassis, value),
            0x20 => queue.descriptors = low(queue.descriptors, value),
            0x24 => queue.descriptors = high(queue.descriptors, value),
            0x28 => queue.driver = low(queue.driver, value),
            0x2c => queue.driver = high(queue.driver, value),
            0x30 => queue.device = low(queue.device, value),
            0x34 => queue.device = high(queue.device, value),
            _ => {}
        }
    }

    fn read_window(&mut self, chassis: &mut Chassis, offset: u64, width: usize) -> u64 {
        if offset >= 0x100 {
            return self.read_configuration(chassis, offset - 0x100, width);
        }
        if width != 4 {
            chassis.violation(format!("register {offset:#x} read by {width}"));
        }
        match offset {
            0x000 => 0x7472_6976,
            0x004 if self.has(Fault::LegacyOnly) => 1,
            0x004 => 2,
            0x008 if self.plan.scsi.is_some() => 8,
            0x008 => 2,
            0x00c => 0x554d_4551,
            0x010 => self.offered(),
            0x034 if self.selected() && !self.has(Fault::NoQueues) => self.plan.queue_size.into(),
            0x044 if self.selected() => self.queue.enabled.into(),
            0x060 => self.isr.into(),
            0x070 => self.status.into(),
            0x0fc => self.next_generation(),
            0x034 | 0x044 => 0,
            _ => {
                chassis.violation(format!("register {offset:#x} read"));
                0
            }
        }
    }

    fn write_window(&mut self, chassis: &mut Chassis, offset: u64, width: usize, value: u64) {
        if width != 4 {
            chassis.violation(format!("register {offset:#x} written by {width}"));
        }
        if matches!(offset, 0x038 | 0x044 | 0x080..0x0a8) {
            self.check_queue_write(chassis, offset);
        }
        let stuck = self.has(Fault::QueueSizeStuck);
        let queue = &mut self.queue;
        match offset {
            0x014 => self.feature_select = value as u32,
            0x020 => self.accept(chassis, value),
            0x024 => self.driver_feature_select = value as u32,
            0x030 => self.queue_select = value as u32,
            0x038 if value as u16 > self.plan.queue_size => chassis.violation("a queue too large"),
            0x038 if !stuck => queue.size = value as u16,
            0x044 => self.enable_queue(chassis, value),
            0x050 => self.notified(chassis, value),
            0x064 if value & !u64::from(self.isr) != 0 => {
                chassis.violation("an interrupt acknowledged that is not there");
            }
            0x064 => self.isr &= !(value as u8),
            0x070 => self.write_status(chassis, value as u8),
            0x080 => queue.descriptors = low(queue.descriptors, value),
            0x084 => queue.descriptors = high(queue.descriptors, value),
            0x090 => queue.driver = low(queue.driver, value),
            0x094 => queue.driver = high(queue.driver, value),
            0x0a0 => queue.device = low(queue.device, value),
            0x0a4 => queue.device = high(queue.device, value),
            0x038 => {}
            _ => chassis.violation(format!("register {offset:#x} written")),
        }
    }

    fn read_configuration(&mut self, chassis: &mut Chassis, offset: u64, width: usize) -> u64 {
        if width == 8 {
            chassis.violation("device configuration read by 8");
        }
        let bytes = match &self.plan.scsi {
            None => blk::configuration(&self.plan, self.capacity),
            Some(host) => scsi::configuration(host, &self.plan),
        };
        let at = offset as usize;
        bytes
            .get(at..at + width)
            .map_or(0, |bytes| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn enable_queue(&mut self, chassis: &mut Chassis, value: u64) {
        if self.has(Fault::QueueStaysDisabled) {
            return;
        }
        if value != 1 {
            chassis.violation("queue disabled by its enable register");
        }
        let queue = &self.queue;
        let aligned = queue.descriptors.is_multiple_of(16)
            && queue.driver.is_multiple_of(2)
            && queue.device.is_multiple_of(4);
        if !aligned {
            chassis.violation("rings not aligned");
        }
        if !self.queue.size.is_power_of_two() {
            return chassis.violation("queue size not a power of two");
        }
        self.queue.enabled = true;
        if self.plan.no_notify {
            let _ = chassis.dma_write(self.queue.device, &1_u16.to_le_bytes());
        }
    }

    fn notified(&mut self, chassis: &mut Chassis, value: u64) {
        self.doorbells += 1;
        if value != u64::from(self.its_queue()) {
            chassis.violation(format!("notification of queue {value}"));
        }
        if self.status & 4 == 0 {
            chassis.violation("notification before DRIVER_OK");
        }
        self.fetch(chassis);
        self.finish_due(chassis);
    }

    /// Whether the device is operating.
    fn runs(&self, chassis: &Chassis) -> bool {
        self.status & (4 | 64) == 4
            && self.resetting.is_none()
            && chassis.config.command().contains(Command::BUS_MASTER)
    }

    /// Fetches new requests from the available ring.
    fn fetch(&mut self, chassis: &mut Chassis) {
        if !self.runs(chassis) || !self.queue.enabled {
            return;
        }
        let Some(index) = read16(chassis, self.queue.driver + 2) else { return };
        if index.wrapping_sub(self.queue.fetched) > self.queue.size {
            chassis.violation("more requests than the queue has entries");
            self.status |= 64;
            return;
        }
        while self.queue.fetched != index {
            let slot = u64::from(self.queue.fetched % self.queue.size);
            let Some(head) = read16(chassis, self.queue.driver + 4 + slot * 2) else { return };
            self.queue.fetched = self.queue.fetched.wrapping_add(1);
            let counts = self.plan.scsi.is_none() || scsi::counts(self, chassis, head);
            let number = counts.then(|| {
                self.requests += 1;
                self.requests - 1
            });
            if let Some(number) = number {
                let hangs =
                    |trouble: &Trouble| matches!(trouble, Trouble::NeverCompletes(from) if number >= *from);
                if chassis.troubles.iter().any(hangs) {
                    continue;
                }
                if chassis.has(Trouble::Fails(number)) {
                    self.status |= 64;
                    return;
                }
            }
            let (least, more) = self.plan.delay;
            let ticks = least + chassis.random(more + 1);
            self.pending.push(Pending { number, head, ticks });
            if let Some(host) = &self.plan.scsi
                && !self.repeated
                && self.pending.len() > host.cmd_per_lun.max(1) as usize
            {
                chassis.violation("more commands than cmd_per_lun");
            }
        }
    }

    fn finish_due(&mut self, chassis: &mut Chassis) {
        while self.runs(chassis) {
            let due: Vec<usize> = (0..self.pending.len()).filter(|at| self.pending[*at].ticks == 0).collect();
            let Some(first) = due.first() else { return };
            let at = if self.plan.shuffle { due[chassis.random(due.len() as u32) as usize] } else { *first };
            let pending = self.pending.remove(at);
            self.finish(chassis, &pending);
        }
    }

    fn finish(&mut self, chassis: &mut Chassis, pending: &Pending) {
        let Some(pieces) = self.chain(chassis, pending.head) else {
            return chassis.violation("broken descriptor chain");
        };
        let done = match self.plan.scsi.clone() {
            None => blk::carry_out(self, chassis, pending.number, &pieces),
            Some(host) => scsi::carry_out(self, &host, chassis, pending.number, &pieces),
        };
        let Some(Done { length, data, room }) = done else { return };
        let mut length = match self.plan.counts {
            Counts::All => length,
            Counts::Data => data,
            Counts::Status => length - data,
            Counts::Nothing => 0,
        };
        let (mut by, mut times) = (1, 1);
        let mut ids = vec![u32::from(pending.head)];
        if let Some(number) = pending.number {
            for fault in self.plan.faults.clone() {
                match fault {
                    Fault::WrongId(at, wrong) if at == number => ids[0] = wrong,
                    Fault::IndexJumps(at, jump) if at == number => by = jump,
                    Fault::ShortLength(at, bytes) if at == number => length = length.saturating_sub(bytes),
                    Fault::LongLength(at) if at == number => length = room + 1,
                    _ => {}
                }
            }
            if chassis.has(Trouble::WrongId(number)) {
                ids[0] = self.nobodys_id(chassis, pending.head);
            }
            if chassis.has(Trouble::NeverAsked(number)) {
                let id = self.nobodys_id(chassis, pending.head);
                ids.push(id);
            }
            if chassis.has(Trouble::Duplicate(number)) {
                times = 2;
                self.repeated = true;
            }
        }
        for id in ids {
            for _ in 0..times {
                let slot = u64::from(self.queue.used % self.queue.size);
                let mut element = [0; 8];
                element[..4].copy_from_slice(&id.to_le_bytes());
                element[4..].copy_from_slice(&length.to_le_bytes());
                let _ = chassis.dma_write(self.queue.device + 4 + slot * 8, &element);
                self.queue.used = self.queue.used.wrapping_add(by);
                let _ = chassis.dma_write(self.queue.device + 2, &self.queue.used.to_le_bytes());
            }
        }
        if read16(chassis, self.queue.driver).unwrap_or(0) & 1 == 0 {
            chassis.violation("the driver wants interrupts");
        }
    }

    /// An id without a request.
    fn nobodys_id(&self, chassis: &mut Chassis, but: u16) -> u32 {
        let first = chassis.random(u32::from(self.queue.size));
        let taken = |id: u32| {
            id == u32::from(but) || self.pending.iter().any(|pending| u32::from(pending.head) == id)
        };
        (first..).find(|id| !taken(*id)).unwrap_or(u32::MAX)
    }
}

fn low(old: u64, value: u64) -> u64 {
    old & !0xffff_ffff | value & 0xffff_ffff
}

fn high(old: u64, value: u64) -> u64 {
    old & 0xffff_ffff | value << 32
}

impl Model for Virtio {
    fn read(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize) -> u64 {
        if self.plan.front == Front::Mmio {
            return self.read_window(chassis, offset, width);
        }
        match offset >> 12 {
            0 => self.read_common(chassis, offset, width),
            1 => {
                let isr = self.isr;
                self.isr = 0;
                isr.into()
            }
            2 => self.read_configuration(chassis, offset & 0xfff, width),
            _ => 0,
        }
    }

    fn write(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize, value: u64) {
        if self.plan.front == Front::Mmio {
            return self.write_window(chassis, offset, width, value);
        }
        match offset >> 12 {
            0 => self.write_common(chassis, offset, width, value),
            3 => {
                let mine = u64::from(self.plan.notify_multiplier) * u64::from(self.plan.notify_off);
                if offset & 0xfff != mine || width != 2 {
                    chassis.violation(format!("notification at {offset:#x}, {width} wide"));
                }
                self.notified(chassis, value);
            }
            _ => chassis.violation(format!("write to {offset:#x}")),
        }
    }

    fn reset(&mut self, chassis: &mut Chassis) {
        self.resetting = None;
        self.start_again(chassis);
    }

    fn tick(&mut self, chassis: &mut Chassis) {
        if let Some(left) = self.resetting {
            self.resetting = left.checked_sub(1);
            if self.resetting.is_none() {
                self.start_again(chassis);
            }
        }
        if !self.runs(chassis) {
            return;
        }
        for pending in &mut self.pending {
            pending.ticks = pending.ticks.saturating_sub(1);
        }
        if self.plan.no_notify {
            self.fetch(chassis);
        }
        self.finish_due(chassis);
    }
}
