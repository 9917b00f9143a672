//! The controller: take-over by reset, identification, queues for data, and shutdown.
//!
//! One file: each step needs the result of the one before it, from the registers to the namespace.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::{MILLISECOND, Wait};

use super::command::{
    COMPLETION, Finished, OF_ACTIVE, OF_CONTROLLER, OF_DESCRIPTORS, OF_NAMESPACE, Submission,
};
use super::queue::Pair;
use super::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_ALL_SETS, CC_ENABLE, CC_ENTRIES, CC_SHUTDOWN, CC_SHUTDOWN_ABRUPT,
    CC_SHUTDOWN_NORMAL, CRTO, CSTS, Capabilities, DOORBELLS, INTMS, LISTS_NAMESPACES, SETS_NVM, SETS_SEVERAL,
    Status, TELLS_KIND, TELLS_SHUTDOWN, VS, admin_sizes, ready_timeout,
};
use crate::bus::access::Access;
use crate::bus::pci::{Command, ConfigSpace, Function, PciDevice};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::disk::{Called, Shutdown};

/// Memory page size configured in the controller, and used for PRP lists.
pub(super) const PAGE: usize = 4096;

/// Queue ids.
const ADMIN: u16 = 0;
const DATA: u16 = 1;
/// Entries of the admin queues: one command at a time.
const ADMIN_ENTRIES: u16 = 8;
/// Maximum and minimum number of entries of the data queues: a queue of one entry is not allowed.
const DATA_ENTRIES: u16 = 32;
const LEAST_ENTRIES: u32 = 2;

/// Vendor and device of controllers whose registers must not be read for a while after the start of a reset,
/// or the read of their status fails: Seagate Nytro, HGST SN100, WDC SN200, Memblaze PBlaze4, Samsung X5,
/// PM1725 and PM1725a.
const SHY: [(u16, u16); 7] = [
    (0x1bb1, 0x0100),
    (0x1c58, 0x0003),
    (0x1c58, 0x0023),
    (0x1c5f, 0x0540),
    (0x144d, 0xa808),
    (0x144d, 0xa821),
    (0x144d, 0xa822),
];
/// Duration of that while.
const SHY_FOR: Nanoseconds = 2_300 * MILLISECOND;

/// Maximum number of namespace ids to try one by one, if the controller does not list the active ones.
const TRIED: u32 = 32;

// Layout of the shared memory: each queue starts at a page. Identity data is read into the area of the later
// PRP lists.
const ADMIN_SUBMISSIONS: usize = 0;
const ADMIN_COMPLETIONS: usize = PAGE;
const SUBMISSIONS: usize = 2 * PAGE;
const COMPLETIONS: usize = 3 * PAGE;
/// Start of the owner's lists.
pub(super) const LISTS: usize = 4 * PAGE;
static_assertions::const_assert!(size_of::<Submission>().saturating_mul(DATA_ENTRIES as usize) <= PAGE);
static_assertions::const_assert!(COMPLETION.saturating_mul(DATA_ENTRIES as usize) <= PAGE);

/// The BAR with the registers (2.1.10).
const BAR: u8 = 0;

/// Identity data of the controller (5.15.2.2): offsets.
mod of_controller {
    /// Maximum transfer, as a power of two of pages; 0 for no limit. 8 bits.
    pub(super) const MDTS: usize = 77;
    /// Maximum duration of a shutdown, in microseconds (1.2). 32 bits.
    pub(super) const RTD3E: usize = 88;
    /// Controller type (1.4). 8 bits.
    pub(super) const CNTRLTYPE: usize = 111;
    /// Entry sizes of submission and completion queues, as powers of two: the minimum in bits 0 to 3, the
    /// maximum in 4 to 7. 8 bits each.
    pub(super) const SQES: usize = 512;
    pub(super) const CQES: usize = 513;
    /// The largest namespace id. 32 bits.
    pub(super) const NN: usize = 516;
    /// Volatile write cache: present if bit 0 is set. 8 bits.
    pub(super) const VWC: usize = 525;

    /// Types: not reported, and an I/O controller.
    pub(super) const NOT_SAID: u8 = 0;
    pub(super) const FOR_DATA: u8 = 1;
}

/// Identity data of a namespace (5.15.2.1): offsets.
mod of_namespace {
    /// Size in logical blocks. 64 bits.
    pub(super) const NSZE: usize = 0;
    /// Number of formats - 1. 8 bits.
    pub(super) const NLBAF: usize = 25;
    /// Number of formats that bits 0 to 3 of FLBAS can select.
    pub(super) const SHORT_FORMATS: u8 = 16;
    /// The format in use: its number in bits 0 to 3 and, if there are more formats (2.0), its bits 4 and 5 in
    /// bits 5 and 6. 8 bits.
    pub(super) const FLBAS: usize = 26;
    /// Protection information: type in bits 0 to 2. 8 bits.
    pub(super) const DPS: usize = 29;
    /// Attributes: write-protected if bit 0 is set (1.4). 8 bits.
    pub(super) const NSATTR: usize = 99;
    /// The formats, 32 bits each: bytes of metadata in bits 0 to 15, logical block size as a power of two in
    /// bits 16 to 23.
    pub(super) const LBAF: usize = 128;
}

/// A namespace's identification descriptors (5.15.2.3), one after another.
mod descriptor {
    /// Type, 8 bits; 0 ends the list.
    pub(super) const NIDT: usize = 0;
    /// Length in bytes, 8 bits.
    pub(super) const NIDL: usize = 1;
    /// Offset of the bytes.
    pub(super) const NID: usize = 4;
    /// The descriptor of the command set (2.0), and the value for the NVM command set.
    pub(super) const COMMAND_SET: u8 = 4;
    pub(super) const NVM: u8 = 0;
    /// Number of descriptor types: the maximum length of a list.
    pub(super) const KINDS: usize = 4;
}

/// The controller's properties.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Traits {
    /// Maximum number of bytes per command.
    pub(super) largest: usize,
    /// There is a volatile write cache.
    pub(super) cache: bool,
    /// Maximum duration of a shutdown.
    pub(super) shutdown: Nanoseconds,
    /// The largest namespace id.
    pub(super) namespaces: u32,
}

/// A namespace's properties.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Namespace {
    /// Its id.
    pub(super) id: u32,
    /// Size in logical blocks.
    pub(super) size: u64,
    /// Logical block size, as a power of two: 9 to 12.
    pub(super) shift: u32,
}

/// A controller on PCI.
pub(super) struct Controller<R, C> {
    pci: PciDevice<C>,
    registers: R,
    doorbells: R,
    /// Bytes between two doorbells, at open.
    stride: usize,
    timeout: Nanoseconds,
    memory: Shared,
    admin: Pair,
    data: Pair,
    /// Id of the last admin command.
    last_id: u16,
}

impl<R: Registers, C: ConfigSpace> Controller<R, C> {
    /// Probes the controller, and takes `lists` bytes from the arena besides the queues; as
    /// [`NvmeDisk::open`](super::disk::NvmeDisk::open).
    pub(super) fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        lists: usize,
        arena: &mut Arena<'_>,
    ) -> Result<Controller<R, C>, DeviceError> {
        let Access { config, mut map, timeout } = access;
        let pci = PciDevice::open(config, function, Command::MEMORY)?;
        let registers = pci.map(BAR, 0, DOORBELLS, &mut map)?;
        let capabilities = capabilities(&registers)?;
        check_modes(capabilities)?;
        let stride = capabilities.stride();
        // Two doorbells for each of the two queue pairs.
        let doorbells = pci.map(BAR, DOORBELLS as u64, stride.saturating_mul(4), &mut map)?;
        let memory = Shared::new(arena.dma(LISTS.saturating_add(lists), PAGE)?);
        Ok(Controller {
            pci,
            registers,
            doorbells,
            stride,
            timeout,
            memory,
            admin: Pair::new(ADMIN, ADMIN_SUBMISSIONS, ADMIN_COMPLETIONS),
            data: Pair::new(DATA, SUBMISSIONS, COMPLETIONS),
            last_id: 0,
        })
    }

    /// The PCI function.
    pub(super) fn pci(&self) -> &PciDevice<C> {
        &self.pci
    }

    /// Timeout of a command in nanoseconds.
    pub(super) fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    /// The memory shared with the controller; the owner's part starts at [`LISTS`].
    pub(super) fn memory(&mut self) -> &mut Shared {
        &mut self.memory
    }

    /// Feeds everything that must not change.
    pub(super) fn integrity(&self, digest: &mut Digest) {
        self.pci.integrity(digest);
        self.registers.integrity(digest);
        self.doorbells.integrity(digest);
        self.memory.integrity(digest);
        digest.number(self.stride as u64).number(self.timeout);
    }

    /// Checks its health without changing anything.
    pub(super) fn health(&self) -> Health {
        match self.pci.health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        match self.status() {
            Err(gone) => Health::Unusable(gone),
            Ok(status) if status.contains(Status::FATAL) => Health::Risky(failed(status)),
            // A running controller needs bus mastering; an idle one does not.
            Ok(status) if status.contains(Status::READY) => self.pci.health_in_use(),
            Ok(_) => Health::Healthy,
        }
    }

    /// Controller status.
    fn status(&self) -> Result<Status, DeviceError> {
        match self.registers.read32(CSTS) {
            u32::MAX => Err(DeviceError::Gone),
            status => Ok(Status::from_bits_retain(status)),
        }
    }

    /// Replaces an error by a better one if the function no longer answers, or the controller has failed.
    pub(super) fn explain(&self, error: DeviceError) -> DeviceError {
        match self.status() {
            Err(gone) => gone,
            Ok(status) if status.contains(Status::FATAL) => failed(status),
            Ok(_) => self.pci.explain(error),
        }
    }

    /// Isolates the function. Without bus mastering, the old driver's DMA cannot arrive during the
    /// [reset](Controller::reset), which comes next.
    pub(super) fn isolate(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.pci.isolate(wait)
    }

    /// Resets the controller (7.3.2). Afterwards it has no command in flight.
    pub(super) fn reset(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let capabilities = capabilities(&self.registers)?;
        check_modes(capabilities)?;
        if capabilities.stride() != self.stride {
            let value = capabilities.stride() as u64;
            return Err(DeviceError::Protocol { what: "its doorbell stride", value });
        }
        self.disable(capabilities, wait)
    }

    /// Starts the controller after a reset, with our own admin queues (7.6.1).
    pub(super) fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let capabilities = capabilities(&self.registers)?;
        // A data queue has at least 2 entries (3.1.1). A controller that reports 1 is wrong (Samsung PM1725).
        let entries = capabilities.entries().max(LEAST_ENTRIES);
        self.memory.clear(wait.platform());
        self.admin.start(ADMIN_ENTRIES);
        self.data.start(entries.min(DATA_ENTRIES.into()) as u16);
        self.registers.write32(INTMS, u32::MAX);
        self.registers.write32(AQA, admin_sizes(ADMIN_ENTRIES));
        self.write64(ASQ, self.admin.submissions(&self.memory));
        self.write64(ACQ, self.admin.completions(&self.memory));
        self.pci.enable_bus_master()?;
        self.enable(capabilities, wait)
    }

    /// In two halves: a controller need not accept 64-bit accesses.
    fn write64(&self, register: usize, value: u64) {
        self.registers.write32(register, value as u32);
        self.registers.write32(register.saturating_add(4), (value >> 32) as u32);
    }

    /// Stops the controller, which drops all queues (7.3.2).
    #[inline(never)]
    fn disable(&self, capabilities: Capabilities, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let limit = capabilities.patience();
        let configuration = self.registers.read32(CC);
        if configuration & CC_ENABLE != 0 {
            // A controller that is just starting must become ready before it may be stopped (3.1.5). One that
            // does not is stopped anyway.
            let _ = self.until("the start before an NVMe reset", limit, wait, |status| {
                status.intersects(Status::READY | Status::FATAL)
            });
            self.registers.write32(CC, configuration & !(CC_ENABLE | CC_SHUTDOWN));
            let function = self.pci.function();
            if SHY.contains(&(function.vendor, function.device)) {
                wait.pause(SHY_FOR);
            }
        }
        self.until("an NVMe reset", limit, wait, |status| !status.contains(Status::READY))
    }

    /// Enables the controller after its registers have been set.
    #[inline(never)]
    fn enable(&self, capabilities: Capabilities, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let mut limit = capabilities.patience();
        if capabilities.has_ready_timeout() {
            limit = limit.max(ready_timeout(self.registers.read32(CRTO)));
        }
        let nvm = capabilities.command_sets() & SETS_NVM != 0;
        let sets = if nvm { 0 } else { CC_ALL_SETS };
        self.registers.write32(CC, CC_ENTRIES | sets | CC_ENABLE);
        self.until("an NVMe start", limit, wait, |status| status.intersects(Status::READY | Status::FATAL))?;
        match self.status()? {
            status if status.contains(Status::FATAL) => {
                Err(DeviceError::Status { what: "start", code: status.bits() })
            }
            _ => Ok(()),
        }
    }

    /// Waits for a status.
    fn until(
        &self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
        reached: impl Fn(Status) -> bool,
    ) -> Result<(), DeviceError> {
        wait.until(what, limit, || match self.status() {
            Err(gone) => Some(Err(gone)),
            Ok(status) => reached(status).then_some(Ok(())),
        })?
    }

    /// Executes one admin command. Retries once after an error that may be transient.
    #[inline(never)]
    fn administer(
        &mut self,
        command: &mut Submission,
        called: Called,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let mut code = 0;
        for _ in 0..2 {
            self.last_id = self.last_id.wrapping_add(1) & 0x7fff;
            let id = self.last_id;
            command.set_id(id);
            self.admin.push(&mut self.memory, command, wait.platform());
            self.ring_tails();
            let limit = self.timeout;
            let finished =
                wait.until(called.noun, limit, || self.pop_admin(wait.platform()).transpose())??;
            if finished.id != id {
                return Err(DeviceError::Protocol {
                    what: "a finished command's id",
                    value: finished.id.into(),
                });
            }
            if finished.status == 0 {
                return Ok(());
            }
            code = finished.status;
            if finished.for_good {
                break;
            }
        }
        Err(DeviceError::Status { what: called.verb, code: code.into() })
    }

    fn pop_admin(&mut self, platform: &dyn Platform) -> Result<Option<Finished>, DeviceError> {
        let popped = self.admin.pop(&self.memory, platform);
        if let Some(head) = self.admin.next_head(true) {
            self.ring(self.admin.id(), 1, head);
        }
        popped
    }

    /// Reads 4096 bytes of identity data into the area of the later lists.
    fn identify(
        &mut self,
        what: u32,
        namespace: u32,
        called: Called,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let page = self.memory.bus_address(LISTS);
        self.administer(&mut Submission::identify(what, namespace).at(page, 0), called, wait)?;
        self.memory.invalidate(LISTS, PAGE, wait.platform());
        Ok(())
    }

    /// Whether its version is at least this one. Fields newer than its version may have any value.
    fn is_at_least(&self, version: u32) -> bool {
        self.registers.read32(VS) >= version
    }

    /// A byte of the IDENTIFY data.
    fn byte_at(&self, at: usize) -> u8 {
        self.memory.read::<u8>(LISTS.saturating_add(at)).unwrap_or(0)
    }

    /// 32 bits of the IDENTIFY data.
    fn word_at(&self, at: usize) -> u32 {
        self.memory.read::<u32>(LISTS.saturating_add(at)).map_or(0, u32::from_le)
    }

    /// Identifies the controller.
    #[inline(never)]
    pub(super) fn traits(&mut self, wait: &Wait<'_>) -> Result<Traits, DeviceError> {
        let called = Called { noun: "an NVMe controller's description", verb: "describe itself" };
        self.identify(OF_CONTROLLER, 0, called, wait)?;
        let kind = self.byte_at(of_controller::CNTRLTYPE);
        let reported = kind != of_controller::NOT_SAID && self.is_at_least(TELLS_KIND);
        if reported && kind != of_controller::FOR_DATA {
            return Err(DeviceError::Unsupported { what: "a controller for data", value: kind.into() });
        }
        let (submission, completion) = (self.byte_at(of_controller::SQES), self.byte_at(of_controller::CQES));
        if !(submission & 0xf <= 6 && 6 <= submission >> 4 && completion & 0xf <= 4 && 4 <= completion >> 4) {
            let value = u64::from(completion) << 8 | u64::from(submission);
            return Err(DeviceError::Protocol { what: "its sizes of queue entries", value });
        }
        let largest = match self.byte_at(of_controller::MDTS) {
            0 => usize::MAX,
            power => PAGE.checked_shl(power.into()).filter(|bytes| *bytes >= PAGE).unwrap_or(usize::MAX),
        };
        Ok(Traits {
            largest,
            cache: self.byte_at(of_controller::VWC) & 1 != 0,
            shutdown: match self.is_at_least(TELLS_SHUTDOWN) {
                true => Nanoseconds::from(self.word_at(of_controller::RTD3E)).saturating_mul(1_000),
                false => 0,
            },
            namespaces: self.word_at(of_controller::NN),
        })
    }

    /// Returns the first active namespace. `most` is the largest namespace id.
    #[inline(never)]
    pub(super) fn first_namespace(&mut self, most: u32, wait: &Wait<'_>) -> Result<u32, DeviceError> {
        if !self.is_at_least(LISTS_NAMESPACES) {
            return self.try_namespaces(most, wait);
        }
        let called = Called { noun: "an NVMe list of namespaces", verb: "list its namespaces" };
        match self.identify(OF_ACTIVE, 0, called, wait) {
            // Some controllers that report a new enough version do not support the list.
            Err(DeviceError::Status { .. }) => return self.try_namespaces(most, wait),
            answered => answered?,
        }
        match self.word_at(0) {
            0 => Err(DeviceError::Unsupported { what: "a namespace", value: 0 }),
            // Reserved, and the broadcast id (6.1.1).
            id @ 0xffff_fffe.. => {
                Err(DeviceError::Protocol { what: "a namespace's number", value: id.into() })
            }
            id => Ok(id),
        }
    }

    /// Tries one namespace id after another until one is active.
    fn try_namespaces(&mut self, most: u32, wait: &Wait<'_>) -> Result<u32, DeviceError> {
        for id in 1..=most.clamp(1, TRIED) {
            match self.describe(id, wait) {
                Ok(size) if size > 0 => return Ok(id),
                // An inactive one is empty, or rejected.
                Ok(_) | Err(DeviceError::Status { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(DeviceError::Unsupported { what: "a namespace", value: 0 })
    }

    /// Identifies a namespace, and returns its size in logical blocks.
    fn describe(&mut self, id: u32, wait: &Wait<'_>) -> Result<u64, DeviceError> {
        let called = Called { noun: "an NVMe namespace's description", verb: "describe a namespace" };
        self.identify(OF_NAMESPACE, id, called, wait)?;
        let (low, high) =
            (self.word_at(of_namespace::NSZE), self.word_at(of_namespace::NSZE.saturating_add(4)));
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// Identifies a namespace, and rejects one that cannot be written in plain blocks.
    #[inline(never)]
    pub(super) fn namespace(&mut self, id: u32, wait: &Wait<'_>) -> Result<Namespace, DeviceError> {
        let size = self.describe(id, wait)?;
        if size == 0 {
            return Err(DeviceError::Unsupported { what: "an active namespace", value: id.into() });
        }
        let format = self.byte_at(of_namespace::FLBAS);
        let few = self.byte_at(of_namespace::NLBAF) < of_namespace::SHORT_FORMATS;
        let number = usize::from(format & 0xf | if few { 0 } else { format >> 1 & 0x30 });
        let format = self.word_at(number.saturating_mul(4).saturating_add(of_namespace::LBAF));
        if format & 0xffff != 0 {
            let what = "a namespace without metadata";
            return Err(DeviceError::Unsupported { what, value: (format & 0xffff).into() });
        }
        let protection = self.byte_at(of_namespace::DPS);
        if protection & 0x7 != 0 {
            let what = "a namespace without protection information";
            return Err(DeviceError::Unsupported { what, value: protection.into() });
        }
        let shift = format >> 16 & 0xff;
        if shift < 9 {
            // There are no smaller ones (5.15.2.1).
            return Err(DeviceError::Protocol {
                what: "its block size, as a power of two,",
                value: shift.into(),
            });
        }
        if shift > 12 {
            let what = "blocks of 4096 bytes or less, as a power of two at most 12";
            return Err(DeviceError::Unsupported { what, value: shift.into() });
        }
        let attributes = self.byte_at(of_namespace::NSATTR);
        if attributes & 1 != 0 && self.is_at_least(TELLS_KIND) {
            let what = "a namespace that can be written";
            return Err(DeviceError::Unsupported { what, value: attributes.into() });
        }
        self.check_command_set(id, wait)?;
        Ok(Namespace { id, size, shift })
    }

    /// If namespaces may be of several kinds, such as zoned ones, checks that this one has plain reads and
    /// writes.
    #[inline(never)]
    fn check_command_set(&mut self, id: u32, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if capabilities(&self.registers)?.command_sets() & SETS_SEVERAL == 0 {
            return Ok(());
        }
        let called = Called { noun: "an NVMe namespace's names", verb: "name a namespace" };
        self.identify(OF_DESCRIPTORS, id, called, wait)?;
        let mut at = 0_usize;
        for _ in 0..descriptor::KINDS {
            let kind = self.byte_at(at.saturating_add(descriptor::NIDT));
            let length = self.byte_at(at.saturating_add(descriptor::NIDL));
            at = at.saturating_add(descriptor::NID);
            if kind == 0 {
                break;
            }
            let set = self.byte_at(at);
            if kind == descriptor::COMMAND_SET && set != descriptor::NVM {
                let what = "a namespace of the NVM command set";
                return Err(DeviceError::Unsupported { what, value: set.into() });
            }
            at = at.saturating_add(length.into());
        }
        Ok(())
    }

    /// Creates the data queues, and clears the area of the lists.
    #[inline(never)]
    pub(super) fn make_queues(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let called = Called { noun: "an NVMe number of queues", verb: "have a pair of queues" };
        match self.administer(&mut Submission::one_queue_pair(), called, wait) {
            // A controller that cannot report the number of queues has one anyway, or fails to create it.
            Ok(()) | Err(DeviceError::Status { .. }) => {}
            Err(error) => return Err(error),
        }
        let (id, entries) = (self.data.id(), self.data.size());
        let base = self.data.completions(&self.memory);
        let mut create = Submission::create_completion_queue(id, entries).at(base, 0);
        self.administer(
            &mut create,
            Called { noun: "an NVMe completion queue", verb: "make a completion queue" },
            wait,
        )?;
        let base = self.data.submissions(&self.memory);
        let mut create = Submission::create_submission_queue(id, entries).at(base, 0);
        self.administer(
            &mut create,
            Called { noun: "an NVMe submission queue", verb: "make a submission queue" },
            wait,
        )
    }

    /// Whether the queue has room for another data command.
    pub(super) fn has_room(&self) -> bool {
        self.data.has_room()
    }

    /// Queues a data command. Call [`ring_tails`](Controller::ring_tails) after the last one.
    pub(super) fn push(&mut self, command: &Submission, platform: &dyn Platform) {
        self.data.push(&mut self.memory, command, platform);
    }

    /// Rings the submission queue tail doorbells, if there are new commands.
    pub(super) fn ring_tails(&mut self) {
        if let Some(tail) = self.admin.next_tail() {
            self.ring(self.admin.id(), 0, tail);
        }
        if let Some(tail) = self.data.next_tail() {
            self.ring(self.data.id(), 0, tail);
        }
    }

    /// Rings the completion queue head doorbell: after many completions, or when idle.
    pub(super) fn ring_head(&mut self, idle: bool) {
        if let Some(head) = self.data.next_head(idle) {
            self.ring(self.data.id(), 1, head);
        }
    }

    /// The next completed data command.
    pub(super) fn pop(&mut self, platform: &dyn Platform) -> Result<Option<Finished>, DeviceError> {
        self.data.pop(&self.memory, platform)
    }

    /// Writes the doorbell of a queue (3.1.16): `side` is 0 for submissions, 1 for completions.
    fn ring(&self, queue: u16, side: usize, value: u16) {
        let doorbell = usize::from(queue).saturating_mul(2).saturating_add(side);
        self.doorbells.write32(doorbell.saturating_mul(self.stride), value.into());
    }

    /// Prepares the controller for power-off (7.6.2), and clears Bus Master Enable. The queues go with the
    /// next reset.
    #[inline(never)]
    pub(super) fn shut_down(
        &self,
        how: Shutdown,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        self.pci.function().check_present(self.pci.config())?;
        let how = match how {
            Shutdown::Normal => CC_SHUTDOWN_NORMAL,
            Shutdown::Abrupt => CC_SHUTDOWN_ABRUPT,
        };
        let rested = self.rest(how, limit, wait);
        self.pci.disable_bus_master()?;
        rested
    }

    fn rest(&self, how: u32, limit: Nanoseconds, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.status()?.contains(Status::READY) {
            return Ok(());
        }
        let configuration = self.registers.read32(CC) & !CC_SHUTDOWN;
        self.registers.write32(CC, configuration | how);
        self.until("an NVMe shutdown", limit, wait, |status| {
            status.contains(Status::FATAL)
                || status.contains(Status::SHUT_DOWN) && !status.contains(Status::SHUTTING_DOWN)
        })?;
        match self.status()? {
            status if status.contains(Status::FATAL) => Err(failed(status)),
            _ => Ok(()),
        }
    }

    /// Stops an unusable controller, as far as possible.
    pub(super) fn give_up(&self) {
        self.registers.write32(CC, 0);
        // Nothing is left to do if even this fails.
        let _ = self.pci.disable_bus_master();
    }
}

/// The error of a controller that has failed as a whole.
fn failed(status: Status) -> DeviceError {
    DeviceError::Status { what: "stay in operation", code: status.bits() }
}

/// The capabilities, read in two halves: a controller need not accept 64-bit accesses.
fn capabilities(registers: &impl Registers) -> Result<Capabilities, DeviceError> {
    let (low, high) = (registers.read32(CAP), registers.read32(CAP.saturating_add(4)));
    if low == u32::MAX && high == u32::MAX {
        return Err(DeviceError::Gone);
    }
    Ok(Capabilities(u64::from(high) << 32 | u64::from(low)))
}

/// Checks that the controller supports the modes that this driver uses.
fn check_modes(capabilities: Capabilities) -> Result<(), DeviceError> {
    let page = capabilities.least_page();
    if page > 0 {
        let what = "memory pages of 4096 bytes, as a power of two of that 0";
        return Err(DeviceError::Unsupported { what, value: page.into() });
    }
    let sets = capabilities.command_sets();
    if sets & (SETS_NVM | SETS_SEVERAL) == 0 {
        return Err(DeviceError::Unsupported { what: "the NVM command set", value: sets.into() });
    }
    Ok(())
}
