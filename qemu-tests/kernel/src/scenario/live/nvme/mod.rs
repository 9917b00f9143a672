//! An interrupt-driven driver for the first namespace of an NVMe controller: each request has a timer, and a
//! tasklet finishes it.
//!
//! It requests timers and tasklets through dumpcore's queues. That, together with polled waiting, is all it
//! needs to dump with its own code (`dump.rs`), like the drivers of 2004: after the crash, `poll` calls its
//! interrupt handler, and the queues run only its own tasklet and timers.
//!
//! Specification: NVM Express 1.4 (registers: 3.1; resetting and starting: 7.3, 7.6.1; queues: 4; PRP: 4.3;
//! commands: 5, 6).
//!
//! One file: as small as such a driver can be, to be read from top to bottom.

mod dump;

use core::sync::atomic::{AtomicBool, Ordering, fence};

use dump_drivers::bus::pci::{Bar, CAPABILITY_MSI, CAPABILITY_MSI_X, Command, Function};
use dump_drivers::{Mmio, Registers};
use dumpcore::deferred::{Handler, Queues};
use dumpcore::device::{DeviceError, Request};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::wait::{SECOND, Wait};
use spin::{Mutex, Once};

use super::memory::Shared;
use super::probe;
use super::traffic::{self, Disk, REQUEST_TIMEOUT, Transfer};
use crate::arch::{Delivery, clock, irq, paging, pci};
use crate::device;
use crate::dump::platform;

pub(crate) use dump::{find, open, queues};

/// Size of the registers: those of the controller, followed by the doorbells.
const LENGTH: usize = 0x2000;
const CAPABILITIES: usize = 0x00;
const MASK: usize = 0x0c;
const UNMASK: usize = 0x10;
const CONTROL: usize = 0x14;
const CONTROL_ENABLE: u32 = 1;
/// Entries of 64 and of 16 bytes, pages of 4096, the NVM command set, enabled.
const CONTROL_ON: u32 = 4 << 20 | 6 << 16 | CONTROL_ENABLE;
/// Normal shutdown in progress.
const CONTROL_SHUTDOWN: u32 = 1 << 14;
const STATUS: usize = 0x1c;
const STATUS_READY: u32 = 1;
const STATUS_FATAL: u32 = 1 << 1;
const STATUS_SHUTDOWN: u32 = 0b11 << 2;
const STATUS_SHUT_DOWN: u32 = 0b10 << 2;
const ADMIN_SIZES: usize = 0x24;
const ADMIN_COMMANDS: usize = 0x28;
const ADMIN_COMPLETIONS: usize = 0x30;
const DOORBELLS: usize = 0x1000;

/// Layout of the shared pages.
const PAGE: usize = 4096;
const ADMIN: Ring = Ring { commands: 0, completions: PAGE, number: 0 };
const IO: Ring = Ring { commands: 2 * PAGE, completions: 3 * PAGE, number: 1 };
const LISTS: usize = 4 * PAGE;
const IDENTIFY: usize = 5 * PAGE;
const PAGES: usize = 6;
/// Size of a PRP list in bytes.
const LIST: usize = 512;

/// Number of entries in each queue.
const ENTRIES: u16 = 16;
/// Maximum number of requests in flight; less than the number of entries, so that no queue is ever full.
const TAGS: usize = 8;
/// Maximum size of a request: as many pages as a list has entries. The first page is not in the list, so a
/// request need not be aligned.
const MAX_BYTES: usize = LIST / 8 * PAGE;

/// Opcodes of the admin queue, and of the I/O queue.
const CREATE_COMMANDS: u8 = 0x01;
const CREATE_COMPLETIONS: u8 = 0x05;
const IDENTIFY_ANY: u8 = 0x06;
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;

/// The only namespace that is used.
const NAMESPACE: u32 = 1;

/// A queue pair: its place and its number.
#[derive(Clone, Copy)]
struct Ring {
    commands: usize,
    completions: usize,
    number: usize,
}

/// A command without its identifier.
#[derive(Clone, Copy)]
struct Order {
    opcode: u8,
    namespace: u32,
    pages: [u64; 2],
    words: [u32; 3],
}

/// The state of a queue pair.
#[derive(Clone, Copy)]
struct Course {
    tail: u16,
    head: u16,
    phase: u16,
}

impl Course {
    const START: Course = Course { tail: 0, head: 0, phase: 1 };
}

/// The owner of a command.
enum Owner {
    /// None: the tag is free.
    Nobody,
    /// The healthy kernel.
    Kernel,
    /// The dump, which gets its request back.
    Dump(Request),
    /// The code that waits for a flush.
    Flush,
}

/// A command in flight, or a completed one.
struct Slot {
    owner: Owner,
    /// The result, for the dump.
    ended: Option<Result<(), DeviceError>>,
}

/// The state protected by the lock.
struct State {
    course: Course,
    slots: [Slot; TAGS],
}

impl State {
    const fn new() -> State {
        State { course: Course::START, slots: [const { Slot { owner: Owner::Nobody, ended: None } }; TAGS] }
    }
}

/// Registers used by one CPU at a time, or independently.
struct Controller(Mmio);
// SAFETY: accesses of one word each; the driver's lock serialises doorbells.
unsafe impl Sync for Controller {}

/// A disk.
pub(crate) struct Nvme {
    function: Function,
    /// Offsets of its MSI and MSI-X capabilities.
    msi: Option<u8>,
    msi_x: Option<u8>,
    controller: Controller,
    /// Distance between doorbells in bytes.
    stride: usize,
    /// How long enabling or disabling the controller may take, in nanoseconds.
    patience: u64,
    shared: Shared,
    queues: &'static Queues,
    /// How long a request may take, in nanoseconds.
    timeout: u64,
    /// log2 of the number of logical blocks in 4096 bytes.
    shift: u32,
    /// Its size, in blocks of 4096 bytes.
    blocks: u64,
    state: Mutex<State>,
    /// Whether the device asserts an interrupt line, which has to be unmasked afterwards.
    by_line: AtomicBool,
    /// Whether a request timed out during a dump: the controller has to be reset.
    failed: AtomicBool,
}

/// The only instance. Its mutable state is in the same memory as its queues.
static NVME: Once<&'static Nvme> = Once::new();

/// Finishes completed requests.
const FINISH: Handler = Handler { run: finish, word: 0 };

/// Times out the request with this tag.
fn late(tag: usize) -> Handler {
    Handler { run: timed_out, word: tag }
}

/// Starts the driver for the kernel's own use; it may already be open for the dump.
pub(super) fn start(function: Option<Function>) -> Result<&'static dyn Disk, &'static str> {
    let function = function.ok_or("there is no disk")?;
    if NVME.get().is_none() {
        let shared = Shared::of_kernel(PAGES).ok_or("no memory for the NVMe driver")?;
        let queues = alloc::boxed::Box::leak(alloc::boxed::Box::new(Queues::new()));
        let nvme = Nvme::new(function, shared, queues, REQUEST_TIMEOUT)
            .map_err(|_| "the normal driver cannot start the NVMe controller")?;
        NVME.call_once(|| alloc::boxed::Box::leak(alloc::boxed::Box::new(nvme)));
    }
    let nvme = NVME.get().ok_or("there is no NVMe disk")?;
    let delivery = irq::register(&function, 0, interrupt, 0)?;
    nvme.by_line.store(delivery == Delivery::Line, Ordering::Relaxed);
    nvme.bring_up(&healthy(), true).map_err(|_| "the NVMe controller cannot be set to interrupts")?;
    Ok(*nvme)
}

/// A wait for the healthy kernel.
fn healthy() -> Wait<'static> {
    Wait::new(platform(), None, u64::MAX)
}

impl Nvme {
    /// Starts a controller, polled, and identifies its namespace.
    fn new(
        function: Function,
        shared: Shared,
        queues: &'static Queues,
        timeout: u64,
    ) -> Result<Nvme, DeviceError> {
        let config = pci::config();
        let none = |what| DeviceError::Unsupported { what, value: 0 };
        let Some(Bar::Memory { address, .. }) = function.bar(&config, 0) else {
            return Err(none("registers"));
        };
        function.change_command(&config, Command::MEMORY | Command::BUS_MASTER, Command::empty())?;
        let registers = device::map_device(address, LENGTH).ok_or(none("registers that can be mapped"))?;
        let [low, high] = [0, 4].map(|offset| registers.read32(CAPABILITIES + offset));
        let find = |id| {
            let found = function.capabilities(&config).flatten().find(|capability| capability.id == id);
            found.map(|capability| capability.at)
        };
        let mut nvme = Nvme {
            function,
            msi: find(CAPABILITY_MSI),
            msi_x: find(CAPABILITY_MSI_X),
            controller: Controller(registers),
            stride: 4 << (high & 0xf),
            // In units of half a second; 0 is treated as 1.
            patience: u64::from(low >> 24 & 0xff).saturating_add(1).saturating_mul(SECOND / 2),
            shared,
            queues,
            timeout,
            shift: 0,
            blocks: 0,
            state: Mutex::new(State::new()),
            by_line: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        nvme.bring_up(&healthy(), false)?;
        nvme.identify()?;
        Ok(nvme)
    }

    /// Reads the namespace's IDENTIFY data.
    fn identify(&mut self) -> Result<(), DeviceError> {
        // The I/O queue pair exists already; the admin queue has completed two commands.
        let mut course = Course { tail: 2, head: 2, phase: 1 };
        let order = Order {
            opcode: IDENTIFY_ANY,
            namespace: NAMESPACE,
            pages: [self.shared.bus(IDENTIFY), 0],
            words: [0; 3],
        };
        self.admin(&mut course, order, &healthy())?;
        let sectors = u64::from(self.shared.read(IDENTIFY + 4)) << 32 | u64::from(self.shared.read(IDENTIFY));
        // FLBAS, byte 26: index of the format; formats begin at byte 128.
        let format = self.shared.read(IDENTIFY + 24) >> 16 & 0xf;
        let format = self.shared.read(IDENTIFY + 128 + 4 * format as usize);
        let (metadata, bits) = (format & 0xffff, format >> 16 & 0xff);
        if metadata != 0 || !(9..=12).contains(&bits) {
            return Err(DeviceError::Unsupported {
                what: "blocks of 512 to 4096 bytes",
                value: format.into(),
            });
        }
        self.shift = 12 - bits;
        self.blocks = sectors >> self.shift;
        Ok(())
    }

    fn get(&self, register: usize) -> u32 {
        self.controller.0.read32(register)
    }

    fn set(&self, register: usize, value: u32) {
        self.controller.0.write32(register, value);
    }

    /// Rings a doorbell of a queue pair: the submission queue's, or the completion queue's.
    #[unsafe(link_section = ".dump_path.text")]
    fn ring(&self, ring: Ring, taken: bool, value: u16) {
        let number = 2 * ring.number + usize::from(taken);
        self.set(DOORBELLS.saturating_add(number.saturating_mul(self.stride)), value.into());
    }

    /// Resets and starts the controller, with an I/O queue pair and, if requested, interrupts. Requests in
    /// flight are forgotten.
    #[unsafe(link_section = ".dump_path.text")]
    fn bring_up(&self, wait: &Wait<'_>, interrupts: bool) -> Result<(), DeviceError> {
        self.turn(wait, self.get(CONTROL) & !CONTROL_ENABLE, 0)?;
        for ring in [ADMIN, IO] {
            self.shared.clear(ring.commands, PAGE);
            self.shared.clear(ring.completions, PAGE);
        }
        let last = u32::from(ENTRIES.saturating_sub(1));
        self.set(ADMIN_SIZES, last << 16 | last);
        for (register, at) in [(ADMIN_COMMANDS, ADMIN.commands), (ADMIN_COMPLETIONS, ADMIN.completions)] {
            let bus = self.shared.bus(at);
            self.set(register, bus as u32);
            self.set(register.saturating_add(4), (bus >> 32) as u32);
        }
        self.turn(wait, CONTROL_ON, STATUS_READY)?;
        // Not for messages, which are masked elsewhere.
        if !interrupts {
            self.set(MASK, u32::MAX);
        } else if self.by_line.load(Ordering::Relaxed) {
            self.set(UNMASK, u32::MAX);
        }
        let mut course = Course::START;
        let size = last << 16 | IO.number as u32;
        // Physically contiguous; with interrupts, by message 0, like the admin queue's.
        let how = 1 | u32::from(interrupts) << 1;
        let pages = [self.shared.bus(IO.completions), 0];
        let completions = Order { opcode: CREATE_COMPLETIONS, namespace: 0, pages, words: [size, how, 0] };
        self.admin(&mut course, completions, wait)?;
        let pages = [self.shared.bus(IO.commands), 0];
        let how = 1 | (IO.number as u32) << 16;
        let commands = Order { opcode: CREATE_COMMANDS, namespace: 0, pages, words: [size, how, 0] };
        self.admin(&mut course, commands, wait)
    }

    /// Enables or disables the controller and waits for that.
    #[unsafe(link_section = ".dump_path.text")]
    fn turn(&self, wait: &Wait<'_>, control: u32, ready: u32) -> Result<(), DeviceError> {
        self.set(CONTROL, control);
        let answer = wait.until("the controller's reset", self.patience, || {
            let status = self.get(STATUS);
            (status == u32::MAX || status & STATUS_READY == ready).then_some(status)
        })?;
        if answer == u32::MAX { Err(DeviceError::Gone) } else { Ok(()) }
    }

    /// Executes a command on the admin queue, polled.
    #[unsafe(link_section = ".dump_path.text")]
    fn admin(&self, course: &mut Course, order: Order, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.post(ADMIN, course, 0, &order);
        let ended = wait.until("an admin command", self.patience, || self.take(ADMIN, course))?;
        match ended {
            (_, 0) => Ok(()),
            (_, code) => Err(DeviceError::Status { what: "do an admin command", code: code.into() }),
        }
    }

    /// Writes a command into a queue and rings its doorbell.
    #[unsafe(link_section = ".dump_path.text")]
    fn post(&self, ring: Ring, course: &mut Course, tag: usize, order: &Order) {
        let at = ring.commands.saturating_add(usize::from(course.tail).saturating_mul(64));
        let [first, second] = order.pages;
        let [ten, eleven, twelve] = order.words;
        let low = |wide: u64| wide as u32;
        let high = |wide: u64| (wide >> 32) as u32;
        let words = [
            u32::from(order.opcode) | (tag as u32) << 16,
            order.namespace,
            0,
            0,
            0,
            0,
            low(first),
            high(first),
            low(second),
            high(second),
            ten,
            eleven,
            twelve,
        ];
        for (offset, word) in (at..).step_by(4).zip(words) {
            self.shared.write(offset, word);
        }
        course.tail = next(course.tail);
        probe::locked();
        fence(Ordering::SeqCst);
        self.ring(ring, false, course.tail);
    }

    /// Takes the next completion of a queue, if there is one: the command's tag and its status.
    #[unsafe(link_section = ".dump_path.text")]
    fn take(&self, ring: Ring, course: &mut Course) -> Option<(usize, u16)> {
        let at = ring.completions.saturating_add(usize::from(course.head).saturating_mul(16));
        let last = self.shared.read(at.saturating_add(12));
        let status = (last >> 16) as u16;
        if status & 1 != course.phase {
            return None;
        }
        fence(Ordering::SeqCst);
        course.head = next(course.head);
        if course.head == 0 {
            course.phase ^= 1;
        }
        self.ring(ring, true, course.head);
        Some(((last & 0xffff) as usize, status >> 1))
    }

    /// Runs `work` under the lock. In a dump no other CPU could release the lock, so this does not wait: it
    /// returns `None` until the dump has broken the lock.
    #[unsafe(link_section = ".dump_path.text")]
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        if self.queues.crashdump_mode() {
            return self.state.try_lock().map(|mut state| work(&mut state));
        }
        Some(work(&mut self.state.lock()))
    }

    /// The command for a transfer; writes the list of its pages if it has more than two.
    #[unsafe(link_section = ".dump_path.text")]
    fn transfer(&self, tag: usize, writes: bool, block: u64, bus: u64, length: usize) -> Order {
        let end = bus.saturating_add(length as u64);
        let page = PAGE as u64;
        let second = (bus & !(page.wrapping_sub(1))).saturating_add(page);
        let third = second.saturating_add(page);
        let list = LISTS.saturating_add(tag.saturating_mul(LIST));
        let behind = if third < end {
            let pages = (second..end).step_by(PAGE);
            for (offset, address) in (list..list.saturating_add(LIST)).step_by(8).zip(pages) {
                self.shared.write64(offset, address);
            }
            self.shared.bus(list)
        } else if second < end {
            second
        } else {
            0
        };
        let first = block << self.shift;
        let count = ((length / BLOCK_SIZE) << self.shift).saturating_sub(1) as u32;
        Order {
            opcode: if writes { WRITE } else { READ },
            namespace: NAMESPACE,
            pages: [bus, behind],
            words: [first as u32, (first >> 32) as u32, count],
        }
    }

    /// Starts a command, with a timer. Returns the owner if that is not possible.
    #[unsafe(link_section = ".dump_path.text")]
    fn begin(&self, tag: usize, owner: Owner, order: &Order) -> Result<(), Owner> {
        let expires = clock::now().saturating_add(self.timeout);
        if self.queues.set_timer(platform(), late(tag), expires).is_err() {
            return Err(owner);
        }
        let mut owner = Some(owner);
        let _ = self.with(|state| {
            let State { course, slots } = state;
            let free = slots.get_mut(tag).filter(|slot| matches!(slot.owner, Owner::Nobody));
            if let (Some(slot), Some(owner)) = (free, owner.take()) {
                slot.owner = owner;
                self.post(IO, course, tag, order);
            }
        });
        match owner {
            None => Ok(()),
            Some(owner) => {
                // Failure only means that the timer was not waiting.
                let _ = self.queues.delete_timer(platform(), late(tag));
                Err(owner)
            }
        }
    }
}

/// The next position in a queue.
#[unsafe(link_section = ".dump_path.text")]
fn next(place: u16) -> u16 {
    let next = place.wrapping_add(1);
    if next < ENTRIES { next } else { 0 }
}

impl Disk for Nvme {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn depth(&self) -> usize {
        TAGS
    }

    fn start(&self, transfer: Transfer) -> Result<(), &'static str> {
        let Transfer { tag, writes, block, memory } = transfer;
        let bus = paging::physical(memory.cast::<u8>().as_ptr());
        let order = self.transfer(tag, writes, block, bus, memory.len());
        self.begin(tag, Owner::Kernel, &order).map_err(|_| "a request was made whose tag is in use")
    }
}

/// The interrupt handler: leaves everything to a tasklet. In a dump, `poll` calls it.
#[unsafe(link_section = ".dump_path.text")]
fn interrupt(_: usize) {
    let Some(nvme) = NVME.get() else { return };
    if !nvme.queues.crashdump_mode() {
        probe::count_interrupt();
        if nvme.by_line.load(Ordering::Relaxed) {
            nvme.set(MASK, 1);
        }
    }
    // If the queue is busy, a later poll finds the completion.
    let _ = nvme.queues.schedule_tasklet(platform(), FINISH);
}

/// The tasklet: ends each request whose command has completed.
#[unsafe(link_section = ".dump_path.text")]
fn finish(_: usize) {
    let Some(nvme) = NVME.get() else { return };
    // As many as can be in flight.
    for _ in 0..TAGS {
        let Some((tag, status)) = nvme.with(|state| nvme.take(IO, &mut state.course)).flatten() else {
            break;
        };
        // Failure only means that the timer was not waiting.
        let _ = nvme.queues.delete_timer(platform(), late(tag));
        nvme.end(tag, status);
    }
    if nvme.by_line.load(Ordering::Relaxed) && !nvme.queues.crashdump_mode() {
        nvme.set(UNMASK, 1);
    }
}

impl Nvme {
    /// Reports a completed command to its owner.
    #[unsafe(link_section = ".dump_path.text")]
    fn end(&self, tag: usize, status: u16) {
        let healthy = self.with(|state| {
            let slot = state.slots.get_mut(tag)?;
            match slot.owner {
                // In a dump there is no callback: poll finds the result.
                Owner::Dump(_) | Owner::Flush => {
                    let error = DeviceError::Status { what: "do a request", code: status.into() };
                    slot.ended = Some(if status == 0 { Ok(()) } else { Err(error) });
                    None
                }
                Owner::Kernel => {
                    slot.owner = Owner::Nobody;
                    Some(())
                }
                Owner::Nobody => None,
            }
        });
        if let Some(Some(())) = healthy {
            traffic::done(tag, if status == 0 { Ok(()) } else { Err("the disk reported an error") });
        }
    }
}

/// A request's timer: it was in flight for too long.
#[unsafe(link_section = ".dump_path.text")]
fn timed_out(_: usize) {
    let Some(nvme) = NVME.get() else { return };
    if nvme.queues.crashdump_mode() {
        // The dump resets the controller, or abandons it.
        nvme.failed.store(true, Ordering::Relaxed);
    } else {
        nvme.fail("a request was not done in time");
    }
}

impl Nvme {
    /// In the healthy kernel: restarts the controller and fails all requests.
    fn fail(&self, why: &'static str) {
        let lost = self.with(|state| {
            let old = core::mem::replace(state, State::new());
            old.slots.map(|slot| matches!(slot.owner, Owner::Kernel))
        });
        let why = match self.bring_up(&healthy(), true) {
            Ok(()) => why,
            Err(_) => "the NVMe controller does not come back",
        };
        for (tag, lost) in lost.unwrap_or_default().into_iter().enumerate() {
            // Failure only means that the timer was not waiting.
            let _ = self.queues.delete_timer(platform(), late(tag));
            if lost {
                traffic::done(tag, Err(why));
            }
        }
    }
}
