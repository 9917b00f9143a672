//! The simulated machine.
//!
//! One file: it is one implementation of `Platform`, and each method is a few lines.

use core::ops::Range;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::cpus::{Board, Helper, Others, this_cpu};
use super::disk::Disk;
use super::memory::{Content, Memory, is_restless_version};
use super::numbers::Numbers;
use crate::arena::Arena;
use crate::dump::Dump;
use crate::format::header::Trigger;
use crate::format::{Block, PAGE_BYTES, PAGE_SIZE};
use crate::outcome::{Crash, Outcome};
use crate::platform::{ClassRun, CodeRange, Guarded, PageClass, Platform, RamRange, Registers, ResetPolicy};
use crate::stack::{call_on, top};

/// A page of bytes with the alignment of a page.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Aligned([u8; PAGE_SIZE]);

/// How long its other CPUs take to stop, in nanoseconds.
const STOPPING: u64 = 10_000;

/// How a machine misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineFault {
    /// No fault.
    None,
    /// The crash handler itself crashes at the n-th read of the clock.
    NestedCrash(u64),
    /// The crash handler itself crashes when it reads a page for the n-th time.
    NestedCrashAtPage(u64),
    /// The clock stands still from the n-th read on.
    DeadClock(u64),
}

/// A callback for when these words are printed on the console.
type AtConsole = (&'static str, Box<dyn Fn() + Send>);

/// A machine with memory, a console, and a clock that advances at each read.
pub struct Machine {
    ram: Vec<RamRange>,
    memory: Memory,
    /// Registers of the CPUs; `None` for a CPU that does not stop.
    cpus: Vec<Option<Registers>>,
    others: Others,
    /// The machine itself, for the threads of its other CPUs.
    this: OnceLock<&'static Machine>,
    log: Vec<u8>,
    code: &'static [AtomicU8],
    code_ranges: [CodeRange; 1],
    clock: AtomicU64,
    /// Time on the clock when its kernel booted.
    booted: u64,
    /// Nanoseconds between two reads of the clock.
    tick: u64,
    looks: AtomicU64,
    /// Number of times that the crashing CPU has read a page in the current dump.
    looks_at_pages: AtomicU64,
    /// When the other CPUs will have stopped.
    stopped_at: AtomicU64,
    console: Mutex<String>,
    /// A callback for console output.
    at_console: Mutex<Option<AtConsole>>,
    disks: Vec<Disk>,
    fault: MachineFault,
    nested: AtomicBool,
    dump: &'static Dump<'static>,
    /// Its physical address, until it is handed out.
    arena: Mutex<Option<u64>>,
    arena_memory: (AtomicPtr<u8>, usize),
    arena_pages: Range<u64>,
    /// Parts of the arena used as stacks.
    stacks: Mutex<Vec<Range<usize>>>,
    pats: AtomicU64,
    resets: AtomicU64,
    still_every: u64,
    own_stack: bool,
    helper_stacks: bool,
    guard: bool,
    entropy: Mutex<Option<Numbers>>,
}

impl Machine {
    /// A machine with these RAM ranges, all zero, and an arena of `arena` bytes at the beginning of the first
    /// range.
    ///
    /// Its memory and its [`Dump`] are never freed: a dump borrows them for good.
    ///
    /// # Panics
    /// If the arena does not fit.
    pub fn new(ram: Vec<RamRange>, arena: usize, disk: &Disk) -> &'static mut Machine {
        let pages = arena.div_ceil(PAGE_SIZE);
        let memory = NonNull::from(vec![Aligned([0; PAGE_SIZE]); pages].leak()).cast::<u8>();
        let code: Vec<AtomicU8> =
            (0..4096_u32).map(|byte| AtomicU8::new(byte.wrapping_mul(31) as u8)).collect();
        let code: &'static [AtomicU8] = code.leak();
        let physical = ram[0].start.next_multiple_of(PAGE_BYTES);
        assert!(physical + arena as u64 <= ram[0].end, "the arena lies in the first range");
        Box::leak(Box::new(Machine {
            ram,
            memory: Memory::default(),
            cpus: vec![Some(Registers::ZERO)],
            others: Others::default(),
            this: OnceLock::new(),
            log: b"booted\n".to_vec(),
            code,
            code_ranges: [CodeRange { start: code.as_ptr().cast(), length: code.len() }],
            clock: AtomicU64::new(1_000_000_000),
            booted: 0,
            tick: 1_000,
            looks: AtomicU64::new(0),
            looks_at_pages: AtomicU64::new(0),
            stopped_at: AtomicU64::new(0),
            console: Mutex::new(String::new()),
            at_console: Mutex::new(None),
            disks: vec![disk.clone()],
            fault: MachineFault::None,
            nested: AtomicBool::new(false),
            dump: Box::leak(Box::new(Dump::new())),
            arena_memory: (AtomicPtr::new(memory.as_ptr()), arena),
            arena: Mutex::new(Some(physical)),
            arena_pages: physical / PAGE_BYTES..physical / PAGE_BYTES + pages as u64,
            stacks: Mutex::new(Vec::new()),
            pats: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            still_every: 0,
            own_stack: false,
            helper_stacks: true,
            guard: false,
            entropy: Mutex::new(None),
        }))
    }

    /// Its dump.
    pub fn dump(&self) -> &'static Dump<'static> {
        self.dump
    }

    /// Its arena. Can be taken once.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn arena(&self) -> Arena<'static> {
        let taken = self.arena.lock().unwrap_or_else(PoisonError::into_inner).take();
        let physical = taken.expect("the arena is handed over once");
        let (memory, length) = self.arena_memory();
        let memory = NonNull::new(memory).expect("it was allocated");
        // SAFETY: leaked pages, handed out once; tests that damage them do so on purpose. Simulated devices
        // use no bus addresses, and simulated physical memory is where we say it is.
        unsafe { Arena::at(memory, length, physical, physical) }
    }

    /// Address and size of its arena: for tests that damage it.
    pub fn arena_memory(&self) -> (*mut u8, usize) {
        (self.arena_memory.0.load(Ordering::Relaxed), self.arena_memory.1)
    }

    /// Page frames of its arena.
    pub fn arena_pages(&self) -> Range<u64> {
        self.arena_pages.clone()
    }

    /// Adds a disk.
    pub fn add_disk(&mut self, disk: &Disk) {
        self.disks.push(disk.clone());
    }

    /// Sets the machine's fault.
    pub fn set_fault(&mut self, fault: MachineFault) {
        self.fault = fault;
    }

    /// Sets the time between two reads of the clock, in nanoseconds.
    pub fn set_tick(&mut self, tick: u64) {
        self.tick = tick;
    }

    /// Makes its kernel boot now, while the clock was already running.
    pub fn boot(&mut self) {
        self.booted = self.clock();
    }

    /// Lets the crashing CPU switch stacks, and makes all pages except every `every`-th still, so that
    /// devices may read them in place; 0 for none.
    pub fn make_still(&mut self, every: u64) {
        self.still_every = every;
        self.own_stack = true;
    }

    /// Keeps the other CPUs from switching stacks.
    pub fn deny_helper_stacks(&mut self) {
        self.helper_stacks = false;
    }

    /// Gives it a guard: faults in a guarded copy are caught.
    pub fn set_guard(&mut self) {
        self.guard = true;
    }

    /// Gives each CPU a single mapping through which it sees all pages except still ones: a page is gone when
    /// the next one is requested.
    pub fn set_one_window(&mut self) {
        self.memory.one_window = true;
    }

    /// Gives it entropy derived from `seed`.
    pub fn set_entropy(&mut self, seed: u64) {
        self.entropy = Mutex::new(Some(Numbers::new(seed)));
    }

    /// Gives it other CPUs. The first entry is the crashing CPU; `None` is a CPU that does not stop.
    pub fn set_cpus(&mut self, cpus: Vec<Option<Registers>>) {
        self.cpus = cpus;
    }

    /// Gives it other CPUs, from number 1 on, that behave like this after they are stopped.
    pub fn set_helpers(&mut self, helpers: &[Helper]) {
        self.cpus.resize(self.cpus.len().max(helpers.len() + 1), Some(Registers::ZERO));
        self.others = Others::new(helpers);
    }

    /// Sets the kernel log.
    pub fn set_log(&mut self, log: Vec<u8>) {
        self.log = log;
    }

    /// Fills a page with pseudo-random bytes derived from `seed`; they do not compress.
    pub fn fill_page(&self, pfn: u64, seed: u64) {
        let mut numbers = Numbers::new(seed ^ pfn);
        self.memory.fill(pfn, core::iter::repeat_with(|| numbers.number()));
    }

    /// Fills a page with repeating words derived from `seed`, like a kernel's data.
    pub fn fill_page_packable(&self, pfn: u64, seed: u64) {
        let mut numbers = Numbers::new(seed ^ pfn);
        let bases: Vec<u64> = (0..4).map(|_| numbers.number()).collect();
        let word = || bases[numbers.below(4) as usize] ^ numbers.below(16);
        self.memory.fill(pfn, core::iter::repeat_with(word));
    }

    /// Sets a page's bytes.
    pub fn set_page(&self, pfn: u64, bytes: [u8; PAGE_SIZE]) {
        self.memory.fill(pfn, bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)));
    }

    /// Makes a page unreadable.
    pub fn make_unreadable(&mut self, pfn: u64) {
        self.memory.make_unreadable(pfn);
    }

    /// Makes a page fault when it is read. A read without a guard ends the test's process.
    pub fn make_faulty(&mut self, pfn: u64) {
        self.memory.make_faulty(pfn);
    }

    /// Makes a page change at every read, like one that a running CPU or device writes to.
    pub fn make_restless(&mut self, pfn: u64) {
        self.memory.make_restless(pfn);
    }

    /// Sets the class of pages. All others are [`PageClass::Unknown`].
    pub fn set_class(&mut self, pfns: Range<u64>, class: PageClass) {
        self.memory.set_class(pfns, class);
    }

    /// Limits class runs to at most `longest` pages, often fewer, down to 0. Without this, runs are as long
    /// as possible.
    pub fn set_longest_class_run(&mut self, longest: u64) {
        self.memory.set_longest_run(longest);
    }

    /// The class of a page.
    pub fn class_of(&self, pfn: u64) -> PageClass {
        self.memory.class(pfn).class
    }

    /// The bytes of a page; `None` if it is unreadable, faulty or restless.
    pub fn page_bytes(&self, pfn: u64) -> Option<[u8; PAGE_SIZE]> {
        self.memory.bytes(pfn)
    }

    /// Whether a page is unreadable.
    pub fn is_unreadable(&self, pfn: u64) -> bool {
        matches!(self.memory.content(pfn), Content::Unreadable)
    }

    /// Whether reading a page faults.
    pub fn is_faulty(&self, pfn: u64) -> bool {
        matches!(self.memory.content(pfn), Content::Faulty)
    }

    /// Whether the bytes are those of a restless page at one moment, not a mixture of several.
    pub fn is_restless_version(&self, pfn: u64, bytes: &[u8; PAGE_SIZE]) -> bool {
        matches!(self.memory.content(pfn), Content::Restless) && is_restless_version(pfn, bytes)
    }

    /// Flips one bit of the dump path's code.
    pub fn corrupt_code(&self, bit: usize) {
        self.code[bit / 8].fetch_xor(1 << (bit % 8), Ordering::Relaxed);
    }

    /// The text printed on the console.
    pub fn console_text(&self) -> String {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a callback, once, when a console line contains these words.
    pub fn at_console_line(&self, words: &'static str, happens: impl Fn() + Send + 'static) {
        *self.at_console.lock().unwrap_or_else(PoisonError::into_inner) = Some((words, Box::new(happens)));
    }

    /// Number of times the watchdog was patted.
    pub fn pats(&self) -> u64 {
        self.pats.load(Ordering::Relaxed)
    }

    /// Number of times the machine was reset.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Number of CPUs that continued where they were stopped.
    pub fn resumed(&self) -> u64 {
        self.others.resumed()
    }

    /// Number of times that other CPUs read pages.
    pub fn looks_of_helpers(&self) -> u64 {
        self.others.looks()
    }

    /// Its clock in nanoseconds, without advancing it.
    pub fn clock(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Number of reads of the clock.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Makes it panic, and waits for the CPUs that return from helping.
    ///
    /// # Panics
    /// If a CPU does not return, or if a request was made that is not allowed.
    pub fn panic(&'static self, message: &str) -> Outcome {
        self.run(|| self.crash(message))
    }

    /// Dumps it live, and waits for the CPUs that return from helping.
    ///
    /// # Panics
    /// As [`panic`](Machine::panic).
    pub fn snapshot(&'static self, message: &str) -> Outcome {
        let registers = Registers::ZERO;
        self.run(|| self.dump.snapshot(self, &Crash::new(Trigger::Oops, message, &registers)))
    }

    fn run(&'static self, dump: impl FnOnce() -> Outcome) -> Outcome {
        self.this.get_or_init(|| self);
        let outcome = dump();
        self.looks_at_pages.store(0, Ordering::SeqCst);
        self.others.come_back();
        outcome
    }

    fn crash(&self, message: &str) -> Outcome {
        let registers = self.cpus.first().copied().flatten().unwrap_or(Registers::ZERO);
        self.dump.crash(self, &Crash::new(Trigger::Panic, message, &registers))
    }

    /// Called when a CPU reads a page.
    fn look(&self) {
        if this_cpu() > 0 {
            return self.others.look(self);
        }
        let looks = self.looks_at_pages.fetch_add(1, Ordering::SeqCst);
        if matches!(self.fault, MachineFault::NestedCrashAtPage(at) if looks >= at) {
            self.crash_once();
        }
    }

    fn crash_once(&self) {
        if !self.nested.swap(true, Ordering::Relaxed) {
            self.crash("a crash inside the dump");
        }
    }

    /// Panics if a page is not in the RAM map.
    fn check_known(&self, pfn: u64) {
        let address = pfn * PAGE_BYTES;
        let known = self.ram.iter().any(|range| range.start <= address && address + PAGE_BYTES <= range.end);
        assert!(known, "page {pfn:#x} was asked for, which is not whole in the RAM map");
    }

    /// Panics if a page must not be requested.
    fn check(&self, pfn: u64) {
        self.check_known(pfn);
        assert!(!self.arena_pages.contains(&pfn), "page {pfn:#x} was asked for, which is in the arena");
        assert!(self.class_of(pfn) != PageClass::Device, "page {pfn:#x} was asked for, which is a device's");
    }

    fn is_still(&self, pfn: u64) -> bool {
        self.still_every > 0
            && !pfn.is_multiple_of(self.still_every)
            && matches!(self.memory.content(pfn), Content::Page(_))
    }
}

impl Board for Machine {
    fn dump(&self) -> &'static Dump<'static> {
        Machine::dump(self)
    }

    fn others(&self) -> &Others {
        &self.others
    }

    fn clock(&self) -> u64 {
        Machine::clock(self)
    }

    fn looks_at_pages(&self) -> u64 {
        self.looks_at_pages.load(Ordering::SeqCst)
    }
}

// SAFETY: page() returns aligned pages that live as long as the machine, the CPU's own window, or an address
// that faults; the code range is leaked; on_stack calls once or not at all.
unsafe impl Platform for Machine {
    fn now(&self) -> u64 {
        if this_cpu() > 0 {
            // The other CPUs run on the host's time, not the machine's.
            self.others.look_at_clock();
            return self.clock();
        }
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            MachineFault::NestedCrash(at) if looks >= at => self.crash_once(),
            MachineFault::DeadClock(at) if looks >= at => return self.clock(),
            _ => (),
        }
        if looks.is_multiple_of(256) && self.others.are_busy() {
            // A CPU that waits for others polls much faster than a host thread works.
            thread::sleep(Duration::from_micros(20));
        }
        self.clock.fetch_add(self.tick, Ordering::Relaxed)
    }

    fn uptime(&self, moment: u64) -> u64 {
        moment.saturating_sub(self.booted)
    }

    fn console(&self, text: &str) {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        let told = |waiting: &mut AtConsole| text.contains(waiting.0);
        let happens = self.at_console.lock().unwrap_or_else(PoisonError::into_inner).take_if(told);
        if let Some((_, happens)) = happens {
            happens();
        }
    }

    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        self.ram.iter().for_each(|range| visit(*range));
    }

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        self.look();
        self.check(pfn);
        let page = self.memory.give(pfn, self.is_still(pfn));
        assert!(self.guard || !self.is_faulty(pfn), "a machine with faulty pages needs a guard");
        page
    }

    fn has_guard(&self) -> bool {
        self.guard
    }

    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        if !self.guard {
            return Guarded::Unguarded;
        }
        self.look();
        if self.memory.copy_given(from, to) { Guarded::Copied } else { Guarded::Faulted }
    }

    fn class(&self, pfn: u64) -> ClassRun {
        self.check_known(pfn);
        self.memory.class(pfn)
    }

    fn still(&self, pfn: u64) -> Option<u64> {
        assert!(self.own_stack && self.cpus.iter().all(Option::is_some), "asked too early");
        self.look();
        self.check(pfn);
        match self.memory.content(pfn) {
            Content::Page(page) if self.is_still(pfn) => {
                Some(core::ptr::from_ref(page).expose_provenance() as u64)
            }
            _ => None,
        }
    }

    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        let can = if this_cpu() == 0 { self.own_stack } else { self.helper_stacks };
        if !can {
            return false;
        }
        let mine = stack.cast::<u8>().addr().get()..top(stack).addr();
        let (arena, length) = self.arena_memory();
        assert!(
            arena.addr() <= mine.start && mine.end <= arena.addr() + length,
            "a stack outside of the arena"
        );
        assert!(mine.start.is_multiple_of(16) && mine.len() >= 1024, "a stack that is none: {mine:x?}");
        {
            let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = stacks.iter().any(|other| mine.start < other.end && other.start < mine.end);
            assert!(!taken, "two CPUs run on one stack");
            stacks.push(mine.clone());
        }
        let mut panicked = None;
        let mut run = || panicked = catch_unwind(AssertUnwindSafe(&mut *run)).err();
        if this_cpu() == 0 {
            // SAFETY: no other CPU uses this part of the arena, and nothing unwinds out of the call.
            assert!(unsafe { call_on(top(stack), &mut run) });
        } else {
            run();
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != mine);
        true
    }

    fn reset(&self, _: ResetPolicy) {
        self.resets.fetch_add(1, Ordering::Relaxed);
        self.disks.iter().for_each(Disk::switch_off);
    }

    fn cpu(&self) -> u32 {
        this_cpu()
    }

    fn cpus(&self) -> u32 {
        self.cpus.len() as u32
    }

    fn stop_cpus(&self) {
        if let Some(this) = self.this.get() {
            self.others.stop(*this);
        }
        self.stopped_at.store(self.clock().saturating_add(STOPPING), Ordering::Relaxed);
    }

    fn all_stopped(&self) -> bool {
        self.clock() >= self.stopped_at.load(Ordering::Relaxed)
    }

    fn resume_cpus(&self) {
        self.others.resume();
    }

    fn entropy(&self, bytes: &mut [u8; 32]) -> bool {
        let mut entropy = self.entropy.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(numbers) = entropy.as_mut() else { return false };
        bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = numbers.number().to_le_bytes());
        true
    }

    fn registers(&self, cpu: u32) -> Option<Registers> {
        self.cpus.get(cpu as usize).copied().flatten()
    }

    fn pat_watchdog(&self) {
        self.pats.fetch_add(1, Ordering::Relaxed);
    }

    fn log(&self, offset: u64, piece: &mut [u8]) -> usize {
        let rest = self.log.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(piece.len());
        piece[..length].copy_from_slice(&rest[..length]);
        length
    }

    fn log_length(&self) -> u64 {
        self.log.len() as u64
    }

    fn wall_clock(&self) -> Option<u64> {
        Some(1_700_000_000)
    }

    fn build_id(&self) -> &[u8] {
        b"simulated build id"
    }

    fn system(&self) -> &str {
        "simulated 1.0"
    }

    fn code_ranges(&self) -> &[CodeRange] {
        &self.code_ranges
    }
}
