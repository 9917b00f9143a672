//! A driver for the first namespace of an NVMe controller, by interrupts: each request has a timer, and is finished by a
//! tasklet.
//!
//! It asks for timers and tasklets through dumpcore's queues. That, and that it can wait polled, is what taught it
//! to dump with its own code (`dump.rs`), as drivers did in 2004: from the crash on, its interrupt handler is called by
//! `poll`, and the queues run its tasklet and its timers, and nobody else's.
//!
//! Specification: NVM Express 1.4 (registers: 3.1; resetting and starting: 7.3, 7.6.1; queues: 4; PRP: 4.3; commands: 5, 6).

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

/// Bytes of registers: those of the controller, and doorbells after them.
const LENGTH: usize = 0x2000;
const CAPABILITIES: usize = 0x00;
const MASK: usize = 0x0c;
const UNMASK: usize = 0x10;
const CONTROL: usize = 0x14;
const CONTROL_ENABLE: u32 = 1;
/// Entries of 64 and of 16 bytes, pages of 4096, the NVM command set, on.
const CONTROL_ON: u32 = 4 << 20 | 6 << 16 | CONTROL_ENABLE;
/// On its way to be switched off, in order.
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

/// Where things are in the shared pages.
const PAGE: usize = 4096;
const ADMIN: Ring = Ring { commands: 0, completions: PAGE, number: 0 };
const IO: Ring = Ring { commands: 2 * PAGE, completions: 3 * PAGE, number: 1 };
const LISTS: usize = 4 * PAGE;
const IDENTIFY: usize = 5 * PAGE;
const PAGES: usize = 6;
/// Bytes of a list of memory pages.
const LIST: usize = 512;

/// Entries of each queue.
const ENTRIES: u16 = 16;
/// Requests at once. Fewer than entries, so that no queue is ever full.
const TAGS: usize = 8;
/// Bytes of a request, at most: as many pages as a list has, so that there is a first one and it need not be aligned.
const MAX_BYTES: usize = LIST / 8 * PAGE;

/// Opcodes: of the admin queue, and of the other.
const CREATE_COMMANDS: u8 = 0x01;
const CREATE_COMPLETIONS: u8 = 0x05;
const IDENTIFY_ANY: u8 = 0x06;
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;

/// The one namespace that is used.
const NAMESPACE: u32 = 1;

/// A pair of queues: where they are, and their number.
#[derive(Clone, Copy)]
struct Ring {
    commands: usize,
    completions: usize,
    number: usize,
}

/// A command, but for its number.
#[derive(Clone, Copy)]
struct Order {
    opcode: u8,
    namespace: u32,
    pages: [u64; 2],
    words: [u32; 3],
}

/// How far a pair of queues has come.
#[derive(Clone, Copy)]
struct Course {
    tail: u16,
    head: u16,
    phase: u16,
}

impl Course {
    const START: Course = Course { tail: 0, head: 0, phase: 1 };
}

/// Who waits for a command.
enum Owner {
    /// Nobody: the tag is free.
    Nobody,
    /// The healthy kernel.
    Kernel,
    /// The dump, which gets its request back.
    Dump(Request),
    /// Whoever waits for a flush.
    Flush,
}

/// A command in flight, or one that has ended.
struct Slot {
    owner: Owner,
    /// How it ended, for the dump.
    ended: Option<Result<(), DeviceError>>,
}

/// What the lock guards.
struct State {
    course: Course,
    slots: [Slot; TAGS],
}

impl State {
    const fn new() -> State {
        State { course: Course::START, slots: [const { Slot { owner: Owner::Nobody, ended: None } }; TAGS] }
    }
}

/// Registers that are used by one CPU at a time, or one by one.
struct Controller(Mmio);
// SAFETY: accesses of one word each; the driver's lock says who rings which doorbell.
unsafe impl Sync for Controller {}

/// A disk.
pub(crate) struct Nvme {
    function: Function,
    /// Where its capabilities for messages are.
    msi: Option<u8>,
    msi_x: Option<u8>,
    controller: Controller,
    /// Bytes from one doorbell to the next.
    stride: usize,
    /// How long the controller may take to be on or off, in nanoseconds.
    patience: u64,
    shared: Shared,
    queues: &'static Queues,
    /// How long a request may take, in nanoseconds.
    timeout: u64,
    /// Logical blocks of the namespace in one of 4096 bytes, as a power of two.
    shift: u32,
    /// Its size, in blocks of 4096 bytes.
    blocks: u64,
    state: Mutex<State>,
    /// Whether the device holds its interrupt line, and has to be told when it may again.
    by_line: AtomicBool,
    /// Whether a request was late in a dump: the controller has to be reset.
    failed: AtomicBool,
}

/// The one that there is. What changes lies where its memory came from.
static NVME: Once<&'static Nvme> = Once::new();

/// Finishes what has ended.
const FINISH: Handler = Handler { run: finish, word: 0 };

/// Gives up the request with this tag.
fn late(tag: usize) -> Handler {
    Handler { run: timed_out, word: tag }
}

/// Starts the driver for the kernel's own use; it may have been opened for the dump before.
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

/// The way to wait in the healthy kernel.
fn healthy() -> Wait<'static> {
    Wait::new(platform(), None, u64::MAX)
}

impl Nvme {
    /// Starts a controller, polled, and finds out what its namespace is.
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
            // In units of half a second; 0 is as good as the least.
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

    /// Asks what the namespace is.
    fn identify(&mut self) -> Result<(), DeviceError> {
        // A second pair of queues is there already; the admin queue has done two commands.
        let mut course = Course { tail: 2, head: 2, phase: 1 };
        let order = Order {
            opcode: IDENTIFY_ANY,
            namespace: NAMESPACE,
            pages: [self.shared.bus(IDENTIFY), 0],
            words: [0; 3],
        };
        self.admin(&mut course, order, &healthy())?;
        let sectors = u64::from(self.shared.read(IDENTIFY + 4)) << 32 | u64::from(self.shared.read(IDENTIFY));
        // FLBAS, byte 26: which of the formats from byte 128 on.
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

    /// Rings a doorbell of a pair of queues: that of new commands, or of completions taken.
    #[unsafe(link_section = ".dump_path.text")]
    fn ring(&self, ring: Ring, taken: bool, value: u16) {
        let number = 2 * ring.number + usize::from(taken);
        self.set(DOORBELLS.saturating_add(number.saturating_mul(self.stride)), value.into());
    }

    /// Resets the controller and starts it, with a pair of queues and, if that is wanted, interrupts. Whatever was in flight is
    /// forgotten.
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
        // Not for messages: those are masked elsewhere.
        if !interrupts {
            self.set(MASK, u32::MAX);
        } else if self.by_line.load(Ordering::Relaxed) {
            self.set(UNMASK, u32::MAX);
        }
        let mut course = Course::START;
        let size = last << 16 | IO.number as u32;
        // Contiguous; with interrupts, by message 0 as the admin queue's.
        let how = 1 | u32::from(interrupts) << 1;
        let pages = [self.shared.bus(IO.completions), 0];
        let completions = Order { opcode: CREATE_COMPLETIONS, namespace: 0, pages, words: [size, how, 0] };
        self.admin(&mut course, completions, wait)?;
        let pages = [self.shared.bus(IO.commands), 0];
        let how = 1 | (IO.number as u32) << 16;
        let commands = Order { opcode: CREATE_COMMANDS, namespace: 0, pages, words: [size, how, 0] };
        self.admin(&mut course, commands, wait)
    }

    /// Switches the controller on or off, and waits until it is.
    #[unsafe(link_section = ".dump_path.text")]
    fn turn(&self, wait: &Wait<'_>, control: u32, ready: u32) -> Result<(), DeviceError> {
        self.set(CONTROL, control);
        let answer = wait.until("the controller's reset", self.patience, || {
            let status = self.get(STATUS);
            (status == u32::MAX || status & STATUS_READY == ready).then_some(status)
        })?;
        if answer == u32::MAX { Err(DeviceError::Gone) } else { Ok(()) }
    }

    /// Has the admin queue do a command, polled.
    #[unsafe(link_section = ".dump_path.text")]
    fn admin(&self, course: &mut Course, order: Order, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.post(ADMIN, course, 0, &order);
        let ended = wait.until("an admin command", self.patience, || self.take(ADMIN, course))?;
        match ended {
            (_, 0) => Ok(()),
            (_, code) => Err(DeviceError::Status { what: "do an admin command", code: code.into() }),
        }
    }

    /// Writes a command into a queue and tells the controller.
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

    /// What the lock guards. In a dump there is nobody who could let it go, so it is not waited for: then `None`, until
    /// the dump has broken the lock.
    #[unsafe(link_section = ".dump_path.text")]
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        if self.queues.crashdump_mode() {
            return self.state.try_lock().map(|mut state| work(&mut state));
        }
        Some(work(&mut self.state.lock()))
    }

    /// The order for a transfer; writes the list of its pages, if it has more than two.
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

    /// Starts a command, with a timer, for an owner who gets it back if that is not possible.
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
                // Nothing is to be done if it did not wait.
                let _ = self.queues.delete_timer(platform(), late(tag));
                Err(owner)
            }
        }
    }
}

/// The place after one in a queue.
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

/// The interrupt's handler: leaves all to a tasklet. In a dump, `poll` calls it.
#[unsafe(link_section = ".dump_path.text")]
fn interrupt(_: usize) {
    let Some(nvme) = NVME.get() else { return };
    if !nvme.queues.crashdump_mode() {
        probe::count_interrupt();
        if nvme.by_line.load(Ordering::Relaxed) {
            nvme.set(MASK, 1);
        }
    }
    // If the queue is busy, a later poll finds what there is.
    let _ = nvme.queues.schedule_tasklet(platform(), FINISH);
}

/// The tasklet: ends each request whose command has ended.
#[unsafe(link_section = ".dump_path.text")]
fn finish(_: usize) {
    let Some(nvme) = NVME.get() else { return };
    // As many as there can be at once.
    for _ in 0..TAGS {
        let Some((tag, status)) = nvme.with(|state| nvme.take(IO, &mut state.course)).flatten() else {
            break;
        };
        // Nothing is to be done if it did not wait.
        let _ = nvme.queues.delete_timer(platform(), late(tag));
        nvme.end(tag, status);
    }
    if nvme.by_line.load(Ordering::Relaxed) && !nvme.queues.crashdump_mode() {
        nvme.set(UNMASK, 1);
    }
}

impl Nvme {
    /// A command has ended: tells its owner.
    #[unsafe(link_section = ".dump_path.text")]
    fn end(&self, tag: usize, status: u16) {
        let healthy = self.with(|state| {
            let slot = state.slots.get_mut(tag)?;
            match slot.owner {
                // For the dump there is nobody to call: poll looks for it.
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
        // The dump resets the controller, or leaves it.
        nvme.failed.store(true, Ordering::Relaxed);
    } else {
        nvme.fail("a request was not done in time");
    }
}

impl Nvme {
    /// In the healthy kernel: starts the controller anew, and ends all requests with an error.
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
            // Nothing is to be done if it did not wait.
            let _ = self.queues.delete_timer(platform(), late(tag));
            if lost {
                traffic::done(tag, Err(why));
            }
        }
    }
}
