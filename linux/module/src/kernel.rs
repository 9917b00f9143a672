//! What the part in C lends (`shim.h`), and safe ways to it.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::NonNull;

use dump_linux::notes;
use dumpcore::format::Block;
use dumpcore::platform::RamRange;
use dumpcore::text::Line;

/// A target (`struct dd_target`).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawTarget {
    file: *mut c_void,
    pci: *mut c_void,
    /// First sector of 512 bytes on its disk.
    pub(crate) start: u64,
    /// Sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// Which driver: a name of [`dump_drivers::DRIVERS`].
    driver: *const c_char,
    /// Segment, and requester id.
    pub(crate) address: u32,
    /// Target, port or namespace.
    pub(crate) unit: u32,
    /// Logical unit.
    pub(crate) lun: u32,
    /// Whether the device goes by addresses of the DMA interface.
    pub(crate) translated: u32,
}

/// Addresses of memory (`struct dd_range`).
#[repr(C)]
struct RawRange {
    start: u64,
    end: u64,
}

unsafe extern "C" {
    fn dd_is_at(path: *const c_char, file: *mut c_void) -> bool;
    fn dd_open_target(
        path: *const c_char,
        held: *mut c_void,
        target: *mut RawTarget,
        why: *mut *const c_char,
    ) -> c_long;
    fn dd_close_target(target: *mut RawTarget);
    fn dd_read_block(file: *mut c_void, block: u64, to: *mut u8) -> c_int;
    fn dd_memory(bytes: usize, physical: *mut u64) -> *mut u8;
    fn dd_release_memory(memory: *mut u8, bytes: usize);
    fn dd_map_for_device(pci: *mut c_void, memory: *mut u8, bytes: usize, bus: *mut u64) -> c_int;
    fn dd_unmap_for_device(pci: *mut c_void, bus: u64, bytes: usize);
    fn dd_take_stack(bytes: usize) -> *mut u8;
    fn dd_release_stack(stack: *mut u8);
    fn dd_map_registers(physical: u64, length: usize) -> *mut u8;
    fn dd_unmap_registers(start: *mut u8);
    fn dd_next_range(crash_kernel: bool, from: u64, range: *mut RawRange) -> bool;
    fn dd_random(bytes: *mut u8, length: usize);
    fn dd_pci_read(address: u32, offset: u32) -> u32;
    fn dd_say(text: *const u8, length: usize, bad: c_int);
    fn dd_vmcoreinfo(to: *mut u8, room: usize) -> usize;
    fn dd_online_cpus(to: *mut u32, room: u32) -> u32;
    fn dd_all_cpus_online() -> bool;
    fn dd_has_machine_check() -> bool;
    fn dd_apic_of(cpu: u32) -> u32;
    fn dd_read_file(path: *const c_char, to: *mut c_void, room: usize) -> c_long;
    fn dd_stop_hooks(on: bool) -> c_int;
    fn dd_cannot_arm() -> *const c_char;
    fn dd_cpu() -> u32;
    fn dd_direct_map() -> u64;
    fn dd_tsc_khz() -> u32;
    fn dd_monotonic() -> u64;
    fn dd_seconds() -> u64;
    fn dd_copy(to: *mut u8, from: *const u8, length: usize) -> c_int;
    fn dd_pat_watchdog();
    fn dd_local_apic() -> *mut u8;
    fn dd_code(index: u32, start: *mut *const u8, length: *mut usize);
    fn dd_log_rewind();
    fn dd_log_line(line: *mut u8, room: usize, length: *mut usize) -> bool;
    fn dd_kdump_follows() -> bool;
    fn dd_restart();
    fn dd_call_on(top: *mut u8, run: extern "C" fn(*mut c_void), word: *mut c_void);
}

/// A text of C's that lives as long as the module does.
fn text(words: *const c_char) -> &'static str {
    if words.is_null() {
        return "";
    }
    // SAFETY: a constant of shim.c's.
    unsafe { CStr::from_ptr(words) }.to_str().unwrap_or_default()
}

/// A block device that the kernel keeps open for us.
pub(crate) struct Target(RawTarget);

impl Target {
    /// Whether it is the one at this path now, and not one that got its name since. May sleep.
    pub(crate) fn is_at(&self, path: &CStr) -> bool {
        // SAFETY: a text that ends with a zero, and a file that is open.
        unsafe { dd_is_at(path.as_ptr(), self.0.file) }
    }

    /// Opens the one at this path and claims it; or shares it, if it is held already. May sleep.
    pub(crate) fn open(path: &CStr, held: Option<&Target>) -> Result<Target, (c_long, &'static str)> {
        let mut target = RawTarget {
            file: core::ptr::null_mut(),
            pci: core::ptr::null_mut(),
            start: 0,
            sectors: 0,
            driver: core::ptr::null(),
            address: 0,
            unit: 0,
            lun: 0,
            translated: 0,
        };
        let mut why = core::ptr::null();
        let held = held.map_or(core::ptr::null_mut(), |held| held.0.file);
        // SAFETY: a text that ends with a zero, a file that is open or nowhere, and places for the answers.
        match unsafe { dd_open_target(path.as_ptr(), held, &raw mut target, &raw mut why) } {
            0 => Ok(Target(target)),
            error => Err((error, text(why))),
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &RawTarget {
        &self.0
    }

    /// The driver that takes it over.
    pub(crate) fn driver(&self) -> &'static str {
        text(self.0.driver)
    }

    /// Reads a block through the kernel's own driver; false if that fails. May sleep.
    pub(crate) fn read(&self, block: u64, to: &mut Block) -> bool {
        // SAFETY: open, and 4096 bytes.
        unsafe { dd_read_block(self.0.file, block, to.as_mut_ptr()) == 0 }
    }

    /// Makes memory from [`Memory`] known to the device, for good; gives its address there.
    pub(crate) fn map(&self, memory: &Memory) -> Result<u64, c_int> {
        let mut bus = 0;
        // SAFETY: the memory is pages of the kernel's allocator, and stays.
        match unsafe { dd_map_for_device(self.0.pci, memory.start.as_ptr(), memory.length, &raw mut bus) } {
            0 => Ok(bus),
            error => Err(error),
        }
    }

    /// The opposite of [`map`](Target::map).
    pub(crate) fn unmap(&self, memory: &Memory, bus: u64) {
        // SAFETY: as it was mapped.
        unsafe { dd_unmap_for_device(self.0.pci, bus, memory.length) }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: opened by open(), and closed once.
        unsafe { dd_close_target(&raw mut self.0) }
    }
}

/// Pages in a row.
pub(crate) struct Memory {
    start: NonNull<u8>,
    length: usize,
    /// Address of the first byte in RAM.
    pub(crate) physical: u64,
}

impl Memory {
    /// So many zeroed bytes, a power of two and at least a page. May sleep.
    pub(crate) fn take(length: usize) -> Option<Memory> {
        let mut physical = 0;
        // SAFETY: a place for the answer.
        let start = unsafe { dd_memory(length, &raw mut physical) };
        Some(Memory { start: NonNull::new(start)?, length, physical })
    }

    /// How many bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Fills it with zeros, as it was when it was taken.
    ///
    /// # Safety
    /// Nobody uses it.
    pub(crate) unsafe fn clear(&self) {
        // SAFETY: the pages are ours until drop, and nobody refers to them, as the caller promises.
        unsafe { self.start.write_bytes(0, self.length) }
    }

    /// The bytes.
    ///
    /// # Safety
    /// Called once for each use of the memory: what an earlier call gave is not used any more.
    pub(crate) unsafe fn bytes(&self) -> &'static mut [u8] {
        // SAFETY: the pages are ours until drop, and nobody else refers to them, as the caller promises.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: taken by take(), and given back once.
        unsafe { dd_release_memory(self.start.as_ptr(), self.length) }
    }
}

/// Bytes of the stack for arming.
const LARGE_STACK: usize = 64 << 10;

/// Calls `run` on a larger stack than the kernel's, which is 16 KiB: arming puts together what is then moved to the arena. False
/// if there is no memory. May sleep.
pub(crate) fn on_large_stack(run: &mut dyn FnMut()) -> bool {
    // SAFETY: memory of its own.
    let stack = unsafe { dd_take_stack(LARGE_STACK) };
    if stack.is_null() {
        return false;
    }
    // SAFETY: the end of that memory, which begins with a page.
    unsafe { run_on(stack.wrapping_add(LARGE_STACK), run) };
    // SAFETY: taken above, and nobody is on it any more.
    unsafe { dd_release_stack(stack) };
    true
}

/// Maps device registers. May sleep.
pub(crate) fn map_registers(physical: u64, length: usize) -> Option<NonNull<u8>> {
    // SAFETY: a mapping of its own; what is there is the caller's to know.
    NonNull::new(unsafe { dd_map_registers(physical, length) })
}

/// Gives a mapping back. May sleep.
///
/// # Safety
/// Of [`map_registers`], and not used any more.
pub(crate) unsafe fn unmap_registers(start: NonNull<u8>) {
    // SAFETY: as the caller promises.
    unsafe { dd_unmap_registers(start.as_ptr()) }
}

/// Calls `visit` with each range of RAM, but for what is reserved for a crash kernel: that is another kernel's. May sleep.
pub(crate) fn walk_ram(visit: &mut dyn FnMut(RamRange)) {
    let mut holes = [const { RamRange { start: 0, end: 0 } }; HOLES];
    for (slot, hole) in holes.iter_mut().zip(ranges(true)) {
        *slot = hole;
    }
    for range in ranges(false) {
        dump_linux::ram::without(range, &holes, visit);
    }
}

/// Ranges that are reserved for a crash kernel, at most: one low, one high.
const HOLES: usize = 4;

/// The ranges of RAM, or of what is reserved there for a crash kernel. May sleep.
fn ranges(crash_kernel: bool) -> impl Iterator<Item = RamRange> {
    let mut from = 0;
    core::iter::from_fn(move || {
        let mut range = RawRange { start: 0, end: 0 };
        // SAFETY: a place for the answer.
        let is_there = unsafe { dd_next_range(crash_kernel, from, &raw mut range) };
        let RawRange { start, end } = range;
        // Always on, and never around.
        (is_there && start >= from && end > start).then(|| {
            from = end;
            RamRange { start, end }
        })
    })
}

/// Fills with random numbers. May sleep.
pub(crate) fn random(bytes: &mut [u8]) {
    // SAFETY: so many bytes.
    unsafe { dd_random(bytes.as_mut_ptr(), bytes.len()) }
}

/// Reads 32 bits of configuration space by the kernel's own way, which takes a lock.
pub(crate) fn pci_read(address: u32, offset: u32) -> u32 {
    // SAFETY: all values are looked at.
    unsafe { dd_pci_read(address, offset) }
}

/// Says a line in the kernel's log.
pub(crate) fn say(line: &str, bad: bool) {
    // SAFETY: so many bytes.
    unsafe { dd_say(line.as_ptr(), line.len(), bad.into()) }
}

/// Copies the kernel's VMCOREINFO; gives its length.
pub(crate) fn vmcoreinfo(to: &mut [u8]) -> usize {
    // SAFETY: so many bytes.
    unsafe { dd_vmcoreinfo(to.as_mut_ptr(), to.len()) }.min(to.len())
}

/// The numbers of the CPUs that are online, in order, as many as there is room for; and how many are online.
pub(crate) fn online_cpus(to: &mut [u32]) -> usize {
    // SAFETY: room for that number of integers.
    unsafe { dd_online_cpus(to.as_mut_ptr(), to.len() as u32) as usize }
}

/// Whether all CPUs that there are are online.
pub(crate) fn all_cpus_online() -> bool {
    // SAFETY: no arguments.
    unsafe { dd_all_cpus_online() }
}

/// Whether CPUs have machine-check banks.
pub(crate) fn has_machine_check() -> bool {
    // SAFETY: no arguments.
    unsafe { dd_has_machine_check() }
}

/// The number of a CPU's APIC; the CPU is online.
pub(crate) fn apic_of(cpu: u32) -> u32 {
    // SAFETY: the caller has the number of the kernel.
    unsafe { dd_apic_of(cpu) }
}

/// Where this kernel keeps the registers of a CPU that it stops itself, a physical address; `None` if it does not say. May sleep.
pub(crate) fn crash_note(cpu: u32) -> Option<u64> {
    let mut line = Line::new();
    notes::path(cpu, &mut line);
    let mut path = [0; NOTE_PATH];
    // The last one stays zero.
    for (slot, byte) in path.iter_mut().zip(line.as_str().bytes()).take(NOTE_PATH.saturating_sub(1)) {
        *slot = byte;
    }
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let mut text = [0; NOTE_TEXT];
    // SAFETY: a text that ends with a zero, and so many bytes.
    let got = unsafe { dd_read_file(path.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    notes::address(text.get(..usize::try_from(got).ok()?)?)
}

/// Bytes of a path in sysfs, and of the number that stands there, at most.
const NOTE_PATH: usize = 64;
const NOTE_TEXT: usize = 32;

/// Puts what stops CPUs and hears of panics in place, or takes it away. May sleep.
pub(crate) fn stop_hooks(on: bool) -> Result<(), c_int> {
    // SAFETY: under the lock that all arming is under.
    match unsafe { dd_stop_hooks(on) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Why nothing can be armed on this machine, if so.
pub(crate) fn cannot_arm() -> Option<&'static str> {
    // SAFETY: no arguments.
    let why = text(unsafe { dd_cannot_arm() });
    (!why.is_empty()).then_some(why)
}

/// The number of this CPU.
pub(crate) fn cpu() -> u32 {
    // SAFETY: no arguments.
    unsafe { dd_cpu() }
}

/// Where all RAM is mapped.
pub(crate) fn direct_map() -> u64 {
    // SAFETY: no arguments.
    unsafe { dd_direct_map() }
}

/// Thousands of the time stamp counter's steps in a second; 0 if it is of no use.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: no arguments.
    unsafe { dd_tsc_khz() }
}

/// Nanoseconds since boot, of the kernel's clock; takes no lock.
pub(crate) fn monotonic() -> u64 {
    // SAFETY: no arguments.
    unsafe { dd_monotonic() }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    // SAFETY: no arguments.
    unsafe { dd_seconds() }
}

/// Copies memory that may not be there; false if it is not.
pub(crate) fn copy(from: u64, to: &mut [u8]) -> bool {
    // SAFETY: faults of reading are caught; so many bytes to write.
    unsafe { dd_copy(to.as_mut_ptr(), from as *const u8, to.len()) == 0 }
}

/// Tells the kernel's lockup detectors that all is well.
pub(crate) fn pat_watchdog() {
    // SAFETY: no arguments.
    unsafe { dd_pat_watchdog() }
}

/// Where each CPU has the registers of its own local APIC in memory, if it has one, and unless it is reached another way.
pub(crate) fn local_apic() -> Option<NonNull<u8>> {
    // SAFETY: no arguments.
    NonNull::new(unsafe { dd_local_apic() })
}

/// This module's code (0) and read-only data (1).
pub(crate) fn code(index: u32) -> (*const u8, usize) {
    let (mut start, mut length) = (core::ptr::null(), 0);
    // SAFETY: places for the answers.
    unsafe { dd_code(index, &raw mut start, &raw mut length) };
    (start, length)
}

/// Goes to the beginning of the kernel's log.
pub(crate) fn log_rewind() {
    // SAFETY: one user at a time, see log.rs.
    unsafe { dd_log_rewind() }
}

/// The log's next line; `None` after the last.
pub(crate) fn log_line(line: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    // SAFETY: so many bytes.
    let there = unsafe { dd_log_line(line.as_mut_ptr(), line.len(), &raw mut length) };
    there.then_some(length.min(line.len()))
}

/// Whether kdump's kernel is loaded. Takes no lock.
pub(crate) fn kdump_follows() -> bool {
    // SAFETY: no arguments.
    unsafe { dd_kdump_follows() }
}

/// Resets the machine.
pub(crate) fn restart() {
    // SAFETY: no arguments.
    unsafe { dd_restart() }
}

/// Stops this CPU for good. Interrupts are off.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: an NMI or a machine check may come and go; nothing else wakes it, and it stays here.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Calls `run` with `word` on the stack that ends at `top`.
///
/// # Safety
/// `top` is the 16-byte aligned end of memory that nobody else uses and that is large enough.
pub(crate) unsafe fn call_on(top: *mut u8, run: extern "C" fn(*mut c_void), word: *mut c_void) {
    // SAFETY: as the caller promises.
    unsafe { dd_call_on(top, run, word) }
}

/// Runs a closure on the stack that ends at `top`.
///
/// # Safety
/// As for [`call_on`].
pub(crate) unsafe fn run_on(top: *mut u8, run: &mut dyn FnMut()) {
    extern "C" fn closure(word: *mut c_void) {
        // SAFETY: run_on() passes a pointer to its own `run`, and waits.
        let run = unsafe { &mut *word.cast::<&mut dyn FnMut()>() };
        run();
    }
    let mut run = run;
    // SAFETY: as the caller promises; `run` outlives the call.
    unsafe { call_on(top, closure, (&raw mut run).cast()) };
}
