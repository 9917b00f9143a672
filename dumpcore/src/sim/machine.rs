//! The simulated machine.

use core::ptr::NonNull;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Disk, Numbers};
use crate::arena::Arena;
use crate::arm::Dump;
use crate::crash::{Crash, Outcome};
use crate::format::header::Trigger;
use crate::format::{PAGE_BYTES, PAGE_SIZE};
use crate::platform::{CodeRange, Platform, RamRange, Registers, ResetPolicy};
use crate::wait::Wait;

/// A page, aligned as one.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

static ZERO_PAGE: Page = Page([0; PAGE_SIZE]);

/// How a machine misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineFault {
    /// It does not.
    None,
    /// The code that handles the crash crashes itself, at the n-th look at the clock.
    NestedCrash(u64),
    /// The clock stands still from the n-th look on.
    DeadClock(u64),
}

/// A machine with memory, a clock that moves on at each look, and a console.
pub struct Machine {
    ram: Vec<RamRange>,
    pages: BTreeMap<u64, Box<Page>>,
    unreadable: BTreeSet<u64>,
    /// Registers of the CPUs; `None` for one that does not stop.
    cpus: Vec<Option<Registers>>,
    log: Vec<u8>,
    code: Mutex<Box<[u8]>>,
    code_ranges: [CodeRange; 1],
    clock: AtomicU64,
    /// Nanoseconds between two looks at the clock.
    tick: u64,
    looks: AtomicU64,
    console: Mutex<String>,
    disk: Disk,
    fault: MachineFault,
    nested: AtomicBool,
    dump: &'static Dump<'static>,
    arena: Mutex<Option<(&'static mut [u8], u64)>>,
    arena_memory: (*mut u8, usize),
    pats: AtomicU64,
    still_every: u64,
    own_stack: bool,
}

impl Machine {
    /// A machine with these RAM ranges, all zero, and an arena of `arena` bytes at the beginning of the first.
    ///
    /// Its memory and its [`Dump`] are never freed: a dump borrows them for ever.
    ///
    /// # Panics
    /// If the arena does not fit.
    pub fn new(ram: Vec<RamRange>, arena: usize, disk: &Disk) -> &'static mut Machine {
        let pages = arena.div_ceil(PAGE_SIZE);
        let memory = vec![ZERO_PAGE.clone(); pages].leak();
        // SAFETY: the leaked pages are plain bytes that nobody else has.
        let memory = unsafe { core::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), arena) };
        let code: Box<[u8]> = (0..4096_u32).map(|byte| byte.wrapping_mul(31) as u8).collect();
        let code_ranges = [CodeRange { start: code.as_ptr(), length: code.len() }];
        let physical = ram[0].start.next_multiple_of(PAGE_BYTES);
        assert!(physical + arena as u64 <= ram[0].end, "the arena lies in the first range");
        Box::leak(Box::new(Machine {
            ram,
            pages: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            cpus: vec![Some(Registers::ZERO)],
            log: b"booted\n".to_vec(),
            code: Mutex::new(code),
            code_ranges,
            clock: AtomicU64::new(1_000_000_000),
            tick: 1_000,
            looks: AtomicU64::new(0),
            console: Mutex::new(String::new()),
            disk: disk.clone(),
            fault: MachineFault::None,
            nested: AtomicBool::new(false),
            dump: Box::leak(Box::new(Dump::new())),
            arena_memory: (memory.as_mut_ptr(), arena),
            arena: Mutex::new(Some((memory, physical))),
            pats: AtomicU64::new(0),
            still_every: 0,
            own_stack: false,
        }))
    }

    /// Its dump.
    pub fn dump(&self) -> &'static Dump<'static> {
        self.dump
    }

    /// Its arena, once.
    ///
    /// # Panics
    /// The second time.
    pub fn arena(&self) -> Arena<'static> {
        let taken = self.arena.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (memory, physical) = taken.expect("the arena is handed over once");
        // SAFETY: simulated devices use no bus addresses, and simulated physical memory is where we say it is.
        unsafe { Arena::new(memory, physical, physical) }
    }

    /// Where its arena lies, and its size: for tests that spoil it.
    pub fn arena_memory(&self) -> (*mut u8, usize) {
        self.arena_memory
    }

    /// Sets how it misbehaves.
    pub fn set_fault(&mut self, fault: MachineFault) {
        self.fault = fault;
    }

    /// Sets the time between two looks at the clock, in nanoseconds.
    pub fn set_tick(&mut self, tick: u64) {
        self.tick = tick;
    }

    /// Lets it switch stacks (in name only), and makes all pages but every `every`-th still ones, which a device may
    /// read where they are.
    pub fn make_still(&mut self, every: u64) {
        self.still_every = every;
        self.own_stack = true;
    }

    /// Gives it other CPUs; the first entry is the one that crashes, `None` one that does not stop.
    pub fn set_cpus(&mut self, cpus: Vec<Option<Registers>>) {
        self.cpus = cpus;
    }

    /// Sets the kernel log.
    pub fn set_log(&mut self, log: Vec<u8>) {
        self.log = log;
    }

    /// Fills a page with pseudo-random bytes that follow from `seed`.
    pub fn fill_page(&mut self, pfn: u64, seed: u64) {
        let mut numbers = Numbers::new(seed ^ pfn);
        let mut page = Box::new(ZERO_PAGE.clone());
        for word in page.0.as_chunks_mut::<8>().0 {
            *word = numbers.number().to_le_bytes();
        }
        self.pages.insert(pfn, page);
    }

    /// Sets a page's bytes.
    pub fn set_page(&mut self, pfn: u64, bytes: [u8; PAGE_SIZE]) {
        self.pages.insert(pfn, Box::new(Page(bytes)));
    }

    /// Makes a page unreadable.
    pub fn make_unreadable(&mut self, pfn: u64) {
        self.unreadable.insert(pfn);
    }

    /// What a page holds; `None` if it is unreadable.
    pub fn page_bytes(&self, pfn: u64) -> Option<&[u8; PAGE_SIZE]> {
        if self.unreadable.contains(&pfn) {
            return None;
        }
        Some(&self.pages.get(&pfn).map_or(&ZERO_PAGE, |page| page).0)
    }

    /// Flips one bit of the dump path's code.
    pub fn corrupt_code(&self, bit: usize) {
        let mut code = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        code[bit / 8] ^= 1 << (bit % 8);
    }

    /// What was printed on the console.
    pub fn console_text(&self) -> String {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the watchdog was patted.
    pub fn pats(&self) -> u64 {
        self.pats.load(Ordering::Relaxed)
    }

    /// Nanoseconds on its clock, without moving it.
    pub fn clock(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Lets it panic.
    pub fn panic(&self, message: &str) -> Outcome {
        let registers = self.cpus.first().copied().flatten().unwrap_or(Registers::ZERO);
        self.dump.crash(self, &Crash { trigger: Trigger::Panic, message, registers: &registers })
    }
}

// SAFETY: the pointer is only handed out; who follows it makes sure that nobody else does.
unsafe impl Sync for Machine {}

// SAFETY: page() gives aligned pages that live as long as the machine; the code range is a leaked box; on_stack calls once or not at all.
unsafe impl Platform for Machine {
    fn now(&self) -> u64 {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            MachineFault::NestedCrash(at) if looks >= at && !self.nested.swap(true, Ordering::Relaxed) => {
                self.panic("a crash inside the dump");
            }
            MachineFault::DeadClock(at) if looks >= at => return self.clock(),
            _ => (),
        }
        self.clock.fetch_add(self.tick, Ordering::Relaxed)
    }

    fn console(&self, text: &str) {
        self.console.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        self.ram.iter().for_each(|range| visit(*range));
    }

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        let address = pfn * PAGE_BYTES;
        let known = self.ram.iter().any(|range| range.start <= address && address + PAGE_BYTES <= range.end);
        assert!(known, "page {pfn:#x} was asked for, which is not whole in the RAM map");
        self.page_bytes(pfn).map(|bytes| NonNull::from(bytes).cast())
    }

    fn still(&self, pfn: u64) -> Option<u64> {
        assert!(self.own_stack && self.cpus.iter().all(Option::is_some), "asked too early");
        let still = self.still_every > 0 && !pfn.is_multiple_of(self.still_every);
        self.page_bytes(pfn).filter(|_| still).map(|bytes| bytes.as_ptr() as u64)
    }

    fn on_stack(&self, _: &mut [u8], run: &mut dyn FnMut()) -> bool {
        if self.own_stack {
            run();
        }
        self.own_stack
    }

    fn reset(&self, _: ResetPolicy) {
        self.disk.switch_off();
    }

    fn cpus(&self) -> u32 {
        self.cpus.len() as u32
    }

    fn freeze_cpus(&self, wait: &Wait<'_>) {
        wait.pause(10_000);
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
