//! An NVMe controller that can stall, lie and disappear (NVM Express Base Specification 1.4).
//!
//! One file: the fake is one model whose registers, queues and faults act on each other.

use dumpcore::format::BLOCK_SIZE;

use super::chassis::{Chassis, Fake, Model};
use super::memory::DmaMemory;
use super::pci::ConfigBytes;
use super::{FakeDisk, Trouble};
use crate::bus::pci::Command;

/// BAR 0, 64-bit: registers and doorbells.
const BAR: u64 = 0x8_0000_0000;
/// Room for the doorbells of two queue pairs with the largest stride.
const BAR_SIZE: u64 = 1 << 20;

const CAP: u64 = 0x00;
const VS: u64 = 0x08;
const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

const PAGE: u64 = 4096;
/// The usual configuration of QEMU's controller by a driver: entries of 64 and 16 bytes, enabled.
const IN_USE: u32 = 4 << 20 | 6 << 16 | 1;

/// Status codes: type in bits 8 to 10.
const INVALID_OPCODE: u16 = 0x001;
const INVALID_FIELD: u16 = 0x002;
const DATA_TRANSFER_ERROR: u16 = 0x004;
const INTERNAL_ERROR: u16 = 0x006;
const INVALID_NAMESPACE: u16 = 0x00b;
const LBA_OUT_OF_RANGE: u16 = 0x080;
const INVALID_QUEUE_SIZE: u16 = 0x102;
const WRITE_FAULT: u16 = 0x280;
const UNRECOVERED_READ: u16 = 0x281;
/// Do not retry.
const DNR: u16 = 1 << 14;

/// Faults of this kind of controller only. Commands are data commands and flushes, counted from 0 since the
/// last reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvmeFault {
    /// It fails as a whole instead of becoming ready.
    FatalAtStart,
    /// This command and this many after it fail, but might succeed if retried.
    Transient(u32, u32),
    /// This command completes for another queue.
    WrongQueue(u32),
    /// This command's completion has this queue head.
    WrongHead(u32, u16),
    /// This many admin commands with this opcode fail.
    AdminFails(u8, u32),
    /// Admin commands with this opcode never complete.
    AdminSilent(u8),
    /// A shutdown never completes.
    NeverShutsDown,
    /// All its identity data, or only that for this CNS value, is random.
    Garbage(u8),
    /// After the next reset, doorbells are elsewhere.
    StrideChanges,
}

/// The controller and the namespace, and their faults.
#[derive(Clone, Debug)]
pub struct NvmePlan {
    /// PCI vendor and device.
    pub id: (u16, u16),
    /// Version register.
    pub version: u32,
    /// Whether it supports the list of active namespaces, if its version requires it.
    pub lists: bool,
    /// Fields newer than its version are random, not 0.
    pub dirty: bool,
    /// Reads of the clock after the start of a reset during which register reads fail.
    pub shy: u32,
    /// Maximum entries of an I/O queue - 1 (CAP.MQES).
    pub mqes: u16,
    /// Limit of resets, in 500 ms (CAP.TO).
    pub timeout: u8,
    /// Stride of doorbells, as a power of two of 4 bytes (CAP.DSTRD).
    pub stride: u8,
    /// Smallest page, as a power of two of 4096 bytes (CAP.MPSMIN).
    pub least_page: u8,
    /// Command sets (CAP.CSS).
    pub command_sets: u8,
    /// Largest transfer, as a power of two of pages; 0 for no limit.
    pub mdts: u8,
    /// Type of controller.
    pub kind: u8,
    /// Sizes of queue entries, submission and completion.
    pub entry_sizes: (u8, u8),
    /// How long a shutdown may take, in microseconds.
    pub rtd3e: u32,
    /// Whether there is a cache. What is not flushed is lost when the power goes.
    pub cache: bool,
    /// Active namespaces besides the disk.
    pub others: Vec<u32>,
    /// The disk's namespace; 0 if there is none.
    pub namespace: u32,
    /// Its format's number.
    pub format: u8,
    /// Logical block size in bytes, as a power of two.
    pub shift: u8,
    /// Bytes of metadata per logical block.
    pub metadata: u16,
    /// Its protection information.
    pub protection: u8,
    /// Whether it is write-protected.
    pub read_only: bool,
    /// Its command set.
    pub command_set: u8,
    /// Logical blocks after the last whole 4096 bytes.
    pub more: u64,
    /// Reads of the clock until a reset, a start and a shutdown are complete.
    pub ticks: u32,
    /// Reads of the clock until a command completes: the minimum, and the maximum on top of it.
    pub delay: (u32, u32),
    /// Whether commands complete in any order.
    pub shuffle: bool,
    /// The faults.
    pub faults: Vec<NvmeFault>,
    /// For delays and order.
    pub seed: u64,
}

impl Default for NvmePlan {
    fn default() -> NvmePlan {
        NvmePlan {
            id: (0x1b36, 0x0010),
            version: 0x1_0400,
            lists: true,
            dirty: false,
            shy: 0,
            mqes: 1023,
            timeout: 1,
            stride: 0,
            least_page: 0,
            command_sets: 0x01,
            mdts: 7,
            kind: 1,
            entry_sizes: (0x66, 0x44),
            rtd3e: 0,
            cache: true,
            others: Vec::new(),
            namespace: 1,
            format: 0,
            shift: 9,
            metadata: 0,
            protection: 0,
            read_only: false,
            command_set: 0,
            more: 0,
            ticks: 3,
            delay: (0, 0),
            shuffle: false,
            faults: Vec::new(),
            seed: 1,
        }
    }
}

impl NvmePlan {
    /// An ordinary controller with one fault.
    pub fn with(fault: NvmeFault) -> NvmePlan {
        NvmePlan { faults: vec![fault], ..NvmePlan::default() }
    }
}

/// A controller with one disk. Clones are the same device.
pub type NvmeFake = Fake<NvmeModel>;

impl NvmeFake {
    /// A disk of `blocks` 4096-byte blocks of zeros, with access to `memory`, in use by another driver.
    pub fn nvme(memory: DmaMemory, blocks: u64, plan: NvmePlan) -> NvmeFake {
        let config = ConfigBytes::new(plan.id.0, plan.id.1, 0x01_08_02).memory_bar(0, BAR, BAR_SIZE);
        let seed = plan.seed;
        Fake::new(memory, config, NvmeModel::new(plan), blocks, seed)
    }

    /// Replaces the faults of this kind only.
    pub fn set_faults(&self, faults: Vec<NvmeFault>) {
        self.set_troubles(Vec::new());
        self.with(|_, model| model.plan.faults = faults);
    }

    /// Number of flush commands.
    pub fn flush_commands(&self) -> u32 {
        self.with(|_, model| model.flushes)
    }

    /// Number of data commands and flushes since the last reset.
    pub fn commands(&self) -> u32 {
        self.with(|_, model| model.commands)
    }

    /// Number of doorbell writes.
    pub fn doorbells(&self) -> u32 {
        self.with(|_, model| model.doorbells)
    }

    /// Whether it was shut down completely.
    pub fn is_shut_down(&self) -> bool {
        self.with(|_, model| model.shutdown == Shutdown::Complete)
    }

    /// Makes it fail as a whole.
    pub fn break_down(&self) {
        self.with(|_, model| model.fatal = true);
    }

    /// Enabled just now, and not ready yet.
    pub fn is_being_started(&self) {
        self.with(|_, model| {
            model.ready = false;
            model.change = Some((Change::Start, model.plan.ticks));
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Reset,
    Start,
    Shutdown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    No,
    UnderWay,
    Complete,
}

/// Indexes of a queue pair.
#[derive(Default, Clone)]
struct Queues {
    submissions: u64,
    completions: u64,
    size: u16,
    /// Entries fetched so far.
    head: u16,
    tail: u16,
    /// Completions: next entry, entries released by the driver, and the phase.
    posted: u16,
    seen: u16,
    phase: bool,
    has_submissions: bool,
    has_completions: bool,
}

impl Queues {
    fn behind(&self, index: u16) -> u16 {
        if index + 1 < self.size { index + 1 } else { 0 }
    }

    fn distance(&self, from: u16, to: u16) -> u16 {
        if to >= from { to - from } else { self.size - from + to }
    }
}

/// A command that was fetched.
struct Pending {
    queue: usize,
    /// Index among data commands.
    number: Option<u32>,
    entry: [u8; 64],
    ticks: u32,
}

impl Pending {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.entry[at], self.entry[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at + 2)) << 16 | u32::from(self.u16(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at + 4)) << 32 | u64::from(self.u32(at))
    }

    fn id(&self) -> u16 {
        self.u16(2)
    }
}

/// The controller.
pub struct NvmeModel {
    plan: NvmePlan,
    cc: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    masked: u32,
    ready: bool,
    fatal: bool,
    shutdown: Shutdown,
    change: Option<(Change, u32)>,
    queues: [Queues; 2],
    pending: Vec<Pending>,
    commands: u32,
    flushes: u32,
    doorbells: u32,
    admin_failed: u32,
    /// Reads of the clock until registers can be read.
    shy: u32,
}

impl NvmeModel {
    fn new(plan: NvmePlan) -> NvmeModel {
        NvmeModel {
            plan,
            cc: IN_USE,
            aqa: 0x1f_001f,
            asq: 0x1000,
            acq: 0x2000,
            masked: 0,
            ready: true,
            fatal: false,
            shutdown: Shutdown::No,
            change: None,
            queues: [Queues::default(), Queues::default()],
            pending: Vec::new(),
            commands: 0,
            flushes: 0,
            doorbells: 0,
            admin_failed: 0,
            shy: 0,
        }
    }

    fn has(&self, fault: NvmeFault) -> bool {
        self.plan.faults.contains(&fault)
    }

    fn enabled(&self) -> bool {
        self.cc & 1 != 0
    }

    fn runs(&self) -> bool {
        self.enabled() && self.ready && !self.fatal
    }

    fn capabilities(&self) -> u64 {
        let stride = self.plan.stride ^ u8::from(self.has(NvmeFault::StrideChanges));
        u64::from(self.plan.mqes)
            | 1 << 16
            | u64::from(self.plan.timeout) << 24
            | u64::from(stride) << 32
            | u64::from(self.plan.command_sets) << 37
            | u64::from(self.plan.least_page) << 48
            | 4 << 52
    }

    fn status(&self) -> u32 {
        let shutdown = match self.shutdown {
            Shutdown::No => 0,
            Shutdown::UnderWay => 1,
            Shutdown::Complete => 2,
        };
        u32::from(self.ready) | u32::from(self.fatal) << 1 | shutdown << 2
    }

    fn configure(&mut self, chassis: &mut Chassis, value: u32) {
        let old = std::mem::replace(&mut self.cc, value);
        match (old & 1 != 0, value & 1 != 0) {
            (false, true) => {
                if self.ready || self.change.is_some() {
                    chassis.violation("enabled before the reset was done");
                }
                if value & 0x00ff_0780 != 0x0046_0000 {
                    chassis.violation(format!("started with the configuration {value:#x}"));
                }
                let sets = value >> 4 & 7;
                let fits = (sets == 0 && self.plan.command_sets & 1 != 0)
                    || (sets == 6 && self.plan.command_sets & 0x40 != 0);
                if !fits {
                    chassis.violation(format!("started with the command sets {sets}"));
                }
                self.change = Some((Change::Start, self.plan.ticks));
            }
            (true, false) => {
                let starting = matches!(self.change, Some((Change::Start, _)));
                if starting && !self.fatal && !chassis.has(Trouble::NeverReady) {
                    chassis.violation("stopped while it starts");
                }
                // Processing of its queues stops here.
                self.pending.clear();
                self.shy = self.plan.shy;
                self.change = Some((Change::Reset, self.plan.ticks));
            }
            (true, true) if value >> 14 & 3 != 0 && old >> 14 & 3 == 0 => {
                // Only an abrupt shutdown may come at any time.
                if value >> 14 & 3 == 1 && !self.pending.is_empty() {
                    chassis.violation("shut down with commands in flight");
                }
                self.shutdown = Shutdown::UnderWay;
                self.change = Some((Change::Shutdown, self.plan.ticks));
            }
            _ => {}
        }
    }

    fn change(&mut self, chassis: &mut Chassis) {
        let Some((change, ticks)) = self.change else { return };
        let never = match change {
            Change::Reset => chassis.has(Trouble::NeverResets),
            Change::Start => chassis.has(Trouble::NeverReady),
            Change::Shutdown => self.plan.faults.contains(&NvmeFault::NeverShutsDown),
        };
        if never {
            return;
        }
        if ticks > 0 {
            self.change = Some((change, ticks - 1));
            return;
        }
        match change {
            Change::Reset => {
                self.ready = false;
                self.fatal = false;
                self.shutdown = Shutdown::No;
                self.masked = 0;
                self.commands = 0;
                self.admin_failed = 0;
                self.queues = [Queues::default(), Queues::default()];
                chassis.forget_foreign();
            }
            Change::Start if self.has(NvmeFault::FatalAtStart) => self.fatal = true,
            Change::Start => {
                self.ready = true;
                let admin = &mut self.queues[0];
                admin.size = (self.aqa & 0xfff) as u16 + 1;
                admin.submissions = self.asq;
                admin.completions = self.acq;
                admin.has_submissions = true;
                admin.has_completions = true;
                admin.phase = true;
                let odd = self.aqa & 0xfff != self.aqa >> 16 || admin.size < 2;
                if odd || !self.asq.is_multiple_of(PAGE) || !self.acq.is_multiple_of(PAGE) {
                    chassis.violation("started with odd admin queues");
                }
            }
            Change::Shutdown => self.shutdown = Shutdown::Complete,
        }
        self.change = None;
    }

    fn ring(&mut self, chassis: &mut Chassis, offset: u64, value: u32) {
        self.doorbells += 1;
        let stride = 4_u64 << self.plan.stride;
        let (bell, rest) = (offset / stride, offset % stride);
        if rest != 0 || bell >= 4 || !self.ready {
            return chassis.violation(format!("no doorbell at {offset:#x}, or not now"));
        }
        let queue = (bell / 2) as usize;
        let there = if bell % 2 == 0 {
            self.queues[queue].has_submissions
        } else {
            self.queues[queue].has_completions
        };
        let queues = &mut self.queues[queue];
        let Some(value) = u16::try_from(value).ok().filter(|value| there && *value < queues.size) else {
            return chassis.violation(format!("{value} is not for doorbell {bell}"));
        };
        if bell % 2 == 0 {
            if value == queues.tail {
                chassis.violation("a tail that did not move");
            }
            queues.tail = value;
            self.fetch(chassis, queue);
            self.finish_due(chassis);
        } else {
            let moved = queues.distance(queues.seen, value);
            if moved == 0 || moved > queues.distance(queues.seen, queues.posted) {
                chassis.violation("completions were taken that were not there");
            }
            queues.seen = value;
        }
    }

    fn fetch(&mut self, chassis: &mut Chassis, queue: usize) {
        while self.runs() && self.queues[queue].head != self.queues[queue].tail {
            let queues = &mut self.queues[queue];
            let mut entry = [0; 64];
            if chassis.dma_read(queues.submissions + u64::from(queues.head) * 64, &mut entry).is_none() {
                return;
            }
            queues.head = queues.behind(queues.head);
            let mut pending = Pending { queue, number: None, entry, ticks: 0 };
            if self.pending.iter().any(|other| other.queue == queue && other.id() == pending.id()) {
                chassis.violation(format!("id {} is in use", pending.id()));
            }
            if queue == 1 {
                let number = self.commands;
                self.commands += 1;
                pending.number = Some(number);
                if chassis.troubles.iter().any(|t| matches!(t, Trouble::NeverCompletes(at) if number >= *at))
                {
                    continue;
                }
                if chassis.has(Trouble::Fails(number)) {
                    self.fatal = true;
                    return;
                }
            } else if self.has(NvmeFault::AdminSilent(pending.entry[0])) {
                continue;
            }
            let (least, more) = self.plan.delay;
            pending.ticks = least + chassis.random(more + 1);
            self.pending.push(pending);
        }
    }

    fn finish_due(&mut self, chassis: &mut Chassis) {
        let mut due: Vec<usize> = (0..self.pending.len()).filter(|at| self.pending[*at].ticks == 0).collect();
        while self.runs() && !due.is_empty() {
            let pick = if self.plan.shuffle { chassis.random(due.len() as u32) as usize } else { 0 };
            let at = due.remove(pick);
            // Two entries, since a command may complete twice.
            let queues = &self.queues[self.pending[at].queue];
            if queues.distance(queues.seen, queues.posted) + 2 > queues.size.max(2) {
                continue;
            }
            let pending = self.pending.remove(at);
            due.iter_mut().filter(|other| **other > at).for_each(|other| *other -= 1);
            self.finish(chassis, &pending);
        }
    }

    fn finish(&mut self, chassis: &mut Chassis, pending: &Pending) {
        let (mut status, result) = match pending.number {
            None => self.administer(chassis, pending),
            Some(number) => (self.move_data(chassis, pending, number), 0),
        };
        if status != 0 && status != INTERNAL_ERROR {
            status |= DNR;
        }
        let id = pending.id();
        let Some(number) = pending.number else { return self.post(chassis, 0, id, status, result, None) };
        let foreign = id ^ 0x8000;
        if chassis.has(Trouble::NeverAsked(number)) {
            self.post(chassis, 1, foreign, 0, 0, None);
        }
        let shown = if chassis.has(Trouble::WrongId(number)) { foreign } else { id };
        self.post(chassis, 1, shown, status, 0, Some(number));
        if chassis.has(Trouble::Duplicate(number)) {
            self.post(chassis, 1, shown, status, 0, Some(number));
        }
    }

    fn post(
        &mut self,
        chassis: &mut Chassis,
        queue: usize,
        id: u16,
        status: u16,
        result: u32,
        number: Option<u32>,
    ) {
        let queues = &mut self.queues[queue];
        if queues.behind(queues.posted) == queues.seen {
            // A lie without room for it is dropped.
            return;
        }
        let mut head = queues.head;
        let mut named = queue as u16;
        for fault in &self.plan.faults {
            match *fault {
                NvmeFault::WrongQueue(at) if Some(at) == number => named = 7,
                NvmeFault::WrongHead(at, wrong) if Some(at) == number => head = wrong,
                _ => {}
            }
        }
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&result.to_le_bytes());
        entry[8..10].copy_from_slice(&head.to_le_bytes());
        entry[10..12].copy_from_slice(&named.to_le_bytes());
        entry[12..14].copy_from_slice(&id.to_le_bytes());
        entry[14..].copy_from_slice(&(status << 1 | u16::from(queues.phase)).to_le_bytes());
        let _ = chassis.dma_write(queues.completions + u64::from(queues.posted) * 16, &entry);
        queues.posted = queues.behind(queues.posted);
        if queues.posted == 0 {
            queues.phase = !queues.phase;
        }
        if self.masked != u32::MAX {
            chassis.violation("the driver wants interrupts");
        }
    }

    /// An admin command: its status and result.
    fn administer(&mut self, chassis: &mut Chassis, command: &Pending) -> (u16, u32) {
        let operation = command.entry[0];
        for fault in self.plan.faults.clone() {
            if let NvmeFault::AdminFails(which, times) = fault
                && which == operation
                && self.admin_failed < times
            {
                self.admin_failed += 1;
                return (INTERNAL_ERROR, 0);
            }
        }
        if command.entry[1] != 0 {
            chassis.violation("fused, or data not by PRPs");
        }
        match operation {
            0x06 => {
                let page = self.identify(chassis, command.u32(40), command.u32(4));
                let Some(page) = page else { return (INVALID_FIELD, 0) };
                let Some(pieces) = pieces(chassis, command, page.len()) else { return (INVALID_FIELD, 0) };
                let mut rest = &page[..];
                for (address, length) in pieces {
                    let (now, later) = rest.split_at(length);
                    if chassis.dma_write(address, now).is_none() {
                        return (DATA_TRANSFER_ERROR, 0);
                    }
                    rest = later;
                }
                (0, 0)
            }
            0x09 if command.u32(40) == 7 => {
                if self.queues[1].has_completions {
                    chassis.violation("the number of queues was set too late");
                }
                (0, 0)
            }
            0x05 | 0x01 => {
                let (id, size) = (command.u16(40), command.u16(42));
                let (prp, flags) = (command.u64(24), command.u32(44));
                // A queue of one entry is not allowed, so 0 means not specified.
                if size > self.plan.mqes.max(1) || size == 0 {
                    chassis.violation(format!("a queue of {} entries", u32::from(size) + 1));
                    return (INVALID_QUEUE_SIZE, 0);
                }
                if id != 1 || !prp.is_multiple_of(PAGE) || flags & 1 == 0 {
                    chassis.violation("an odd queue");
                    return (INVALID_FIELD, 0);
                }
                let queues = &mut self.queues[1];
                if operation == 0x05 {
                    if flags & 2 != 0 {
                        chassis.violation("a completion queue with interrupts");
                    }
                    *queues = Queues { size: size + 1, completions: prp, phase: true, ..Queues::default() };
                    queues.has_completions = true;
                } else {
                    if !queues.has_completions || flags >> 16 != 1 || queues.size != size + 1 {
                        chassis.violation("a submission queue without its completion queue");
                        return (INVALID_FIELD, 0);
                    }
                    queues.submissions = prp;
                    queues.has_submissions = true;
                }
                (0, 0)
            }
            _ => {
                chassis.violation(format!("admin command {operation:#x}"));
                (INVALID_OPCODE, 0)
            }
        }
    }

    /// Logical blocks of the disk.
    fn size(&self, chassis: &Chassis) -> u64 {
        (chassis.size() >> self.plan.shift) + self.plan.more
    }

    fn identify(&self, chassis: &mut Chassis, what: u32, namespace: u32) -> Option<Vec<u8>> {
        let mut page = vec![0_u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let plan = &self.plan;
        let mut active: Vec<u32> = plan.others.clone();
        active.extend((plan.namespace != 0).then_some(plan.namespace));
        active.sort_unstable();
        match what {
            0 => {
                if namespace == plan.namespace {
                    // More than 16 formats are there only for this one.
                    put(25, &[if plan.format < 16 { 15 } else { 63 }]);
                    put(0, &self.size(chassis).to_le_bytes());
                    put(8, &self.size(chassis).to_le_bytes());
                    let unused = if plan.dirty && plan.format < 16 { 0x60 } else { 0 };
                    put(26, &[plan.format & 0xf | (plan.format & 0x30) << 1 | unused]);
                    put(29, &[plan.protection]);
                    let newer = plan.dirty && plan.version < 0x1_0400;
                    put(99, &[u8::from(plan.read_only || newer)]);
                    // The other formats are unusable.
                    for format in 0..64 {
                        put(128 + format * 4, &[8, 0, 20, 0]);
                    }
                    let at = 128 + usize::from(plan.format) * 4;
                    put(at, &plan.metadata.to_le_bytes());
                    put(at + 2, &[plan.shift, 0]);
                } else if active.contains(&namespace) {
                    put(0, &1000_u64.to_le_bytes());
                    put(130, &[9]);
                }
            }
            1 => {
                put(77, &[plan.mdts]);
                let newer = |version: u32| plan.dirty && plan.version < version;
                put(88, &if newer(0x1_0200) { u32::MAX } else { plan.rtd3e }.to_le_bytes());
                put(111, &[if newer(0x1_0400) { 0xd1 } else { plan.kind }]);
                put(516, &active.last().copied().unwrap_or(0).to_le_bytes());
                put(512, &[plan.entry_sizes.0, plan.entry_sizes.1]);
                put(525, &[u8::from(plan.cache)]);
            }
            // In version 1.0, CNS is one bit.
            2 if plan.version < 0x1_0100 => {
                chassis.violation("a question that its version does not know");
                return None;
            }
            2 if !plan.lists => return None,
            2 => {
                let above = active.iter().filter(|id| **id > namespace);
                for (index, id) in above.enumerate() {
                    put(index * 4, &id.to_le_bytes());
                }
            }
            3 => {
                // A unique name of 16 bytes, then the command set.
                put(0, &[3, 16]);
                put(20, &[4, 1, 0, 0, plan.command_set]);
            }
            _ => {
                chassis.violation(format!("a question {what:#x}"));
                return None;
            }
        }
        if self.has(NvmeFault::Garbage(what as u8)) {
            for byte in &mut page {
                *byte = chassis.random(256) as u8;
            }
        }
        Some(page)
    }

    /// Executes a data command; returns its status.
    fn move_data(&mut self, chassis: &mut Chassis, command: &Pending, number: u32) -> u16 {
        let operation = command.entry[0];
        if command.u32(4) != self.plan.namespace {
            chassis.violation(format!("a command for namespace {}", command.u32(4)));
            return INVALID_NAMESPACE;
        }
        let transient = |fault: &NvmeFault| matches!(fault, NvmeFault::Transient(at, more) if (*at..=at + more).contains(&number));
        if self.plan.faults.iter().any(transient) {
            return INTERNAL_ERROR;
        }
        let fails = |trouble: &Trouble| match trouble {
            Trouble::Status(at) => *at == number,
            Trouble::StatusFrom(at) => number >= *at,
            _ => false,
        };
        if chassis.troubles.iter().any(fails) {
            return match operation {
                1 => WRITE_FAULT,
                2 => UNRECOVERED_READ,
                _ => DATA_TRANSFER_ERROR,
            };
        }
        if operation == 0 {
            self.flushes += 1;
            chassis.flush_disk();
            return 0;
        }
        if operation != 1 && operation != 2 {
            chassis.violation(format!("command {operation:#x}"));
            return INVALID_OPCODE;
        }
        let (first, count) = (command.u64(40), u64::from(command.u16(48)) + 1);
        let total = (count << self.plan.shift) as usize;
        let most = 1_u64.checked_shl(self.plan.mdts.into()).map(|pages| pages.saturating_mul(PAGE));
        if self.plan.mdts != 0 && most.is_some_and(|most| total as u64 > most) {
            chassis.violation(format!("{total} bytes in one command"));
            return INVALID_FIELD;
        }
        if command.u16(50) != 0 || first.saturating_add(count) > self.size(chassis) {
            chassis.violation(format!("{count} blocks at {first}"));
            return LBA_OUT_OF_RANGE;
        }
        let Some(pieces) = pieces(chassis, command, total) else { return INVALID_FIELD };
        let short = chassis.has(Trouble::Short(number));
        let mut left = if short { (total / 2) & !((1 << self.plan.shift) - 1) } else { total };
        let mut at = first << self.plan.shift;
        for (address, length) in pieces {
            let length = length.min(left);
            let mut bytes = vec![0; length];
            let done = if operation == 1 {
                chassis.dma_read(address, &mut bytes).and_then(|()| chassis.write_disk(at, &bytes))
            } else {
                chassis.read_disk(at, &mut bytes).and_then(|()| chassis.dma_write(address, &bytes))
            };
            if done.is_none() {
                return DATA_TRANSFER_ERROR;
            }
            at += length as u64;
            left -= length;
        }
        if operation == 1 && !self.plan.cache {
            chassis.flush_disk();
        }
        if short { DATA_TRANSFER_ERROR } else { 0 }
    }
}

/// The pieces of a command's data, from its PRPs; `None`, and a violation, if they break the rules.
fn pieces(chassis: &mut Chassis, command: &Pending, total: usize) -> Option<Vec<(u64, usize)>> {
    let (prp1, prp2) = (command.u64(24), command.u64(32));
    if !prp1.is_multiple_of(4) {
        chassis.violation("data at an odd address");
        return None;
    }
    let first = ((PAGE - prp1 % PAGE) as usize).min(total);
    let mut pieces = vec![(prp1, first)];
    let mut left = total - first;
    if left == 0 {
        if prp2 != 0 {
            chassis.violation("a second page that is not needed");
        }
        return Some(pieces);
    }
    if left <= PAGE as usize {
        if !prp2.is_multiple_of(PAGE) {
            chassis.violation("a second page with an offset");
            return None;
        }
        pieces.push((prp2, left));
        return Some(pieces);
    }
    let mut list = prp2;
    if !list.is_multiple_of(8) {
        chassis.violation("a list of pages at an odd address");
        return None;
    }
    while left > 0 {
        let mut entry = [0; 8];
        chassis.dma_read(list, &mut entry)?;
        let page = u64::from_le_bytes(entry);
        if !page.is_multiple_of(PAGE) {
            chassis.violation("a page in a list with an offset");
            return None;
        }
        if list % PAGE == PAGE - 8 && left > PAGE as usize {
            // The last entry of a list page points to the next page.
            list = page;
            continue;
        }
        let length = left.min(PAGE as usize);
        pieces.push((page, length));
        left -= length;
        list += 8;
    }
    Some(pieces)
}

impl Model for NvmeModel {
    fn read(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize) -> u64 {
        if self.shy > 0 {
            return u64::MAX;
        }
        if width < 4 || offset >= DOORBELLS {
            chassis.violation(format!("{offset:#x} read by {width}"));
        }
        let (register, upper) = (offset & !7, offset & 4 != 0);
        let wide = |value: u64| if upper { value >> 32 } else { value };
        match offset {
            VS => self.plan.version.into(),
            INTMS | INTMC => self.masked.into(),
            CC => self.cc.into(),
            CSTS => self.status().into(),
            AQA => self.aqa.into(),
            _ if register == CAP => wide(self.capabilities()),
            _ if register == ASQ => wide(self.asq),
            _ if register == ACQ => wide(self.acq),
            _ => 0,
        }
    }

    fn write(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize, value: u64) {
        if width != 4 {
            chassis.violation(format!("{offset:#x} written by {width}"));
        }
        if offset >= DOORBELLS {
            return self.ring(chassis, offset - DOORBELLS, value as u32);
        }
        let half = |old: u64| {
            if offset & 4 == 0 { old & !0xffff_ffff | value } else { old & 0xffff_ffff | value << 32 }
        };
        if matches!(offset, AQA | 0x28..0x38) && self.enabled() {
            chassis.violation("admin queues moved while enabled");
        }
        match offset {
            INTMS => self.masked |= value as u32,
            INTMC => self.masked &= !(value as u32),
            CC => self.configure(chassis, value as u32),
            AQA => self.aqa = value as u32,
            _ if offset & !7 == ASQ => self.asq = half(self.asq),
            _ if offset & !7 == ACQ => self.acq = half(self.acq),
            _ => chassis.violation(format!("{offset:#x} written")),
        }
    }

    fn reset(&mut self, chassis: &mut Chassis) {
        let plan = self.plan.clone();
        *self = NvmeModel { cc: 0, aqa: 0, asq: 0, acq: 0, ready: false, ..NvmeModel::new(plan) };
        chassis.forget_foreign();
    }

    fn tick(&mut self, chassis: &mut Chassis) {
        self.shy = self.shy.saturating_sub(1);
        self.change(chassis);
        // Without bus mastering it can neither fetch nor complete.
        if !self.runs() || !chassis.config.command().contains(Command::BUS_MASTER) {
            return;
        }
        for pending in &mut self.pending {
            pending.ticks = pending.ticks.saturating_sub(1);
        }
        self.finish_due(chassis);
    }
}

static_assertions::const_assert!(BLOCK_SIZE as u64 == PAGE);
