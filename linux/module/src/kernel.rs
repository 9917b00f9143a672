//! The interface to the C part (`shim.h`), and safe wrappers for it.

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
    /// PCI segment and requester id.
    pub(crate) address: u32,
    /// Target, port or namespace.
    pub(crate) unit: u32,
    /// Logical unit.
    pub(crate) lun: u32,
    /// Whether the device uses addresses of the DMA interface.
    pub(crate) translated: u32,
}

/// A range of memory addresses (`struct dd_range`).
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

/// A text in C that lives as long as the module.
fn text(words: *const c_char) -> &'static str {
    if words.is_null() {
        return "";
    }
    // SAFETY: a constant in shim.c.
    unsafe { CStr::from_ptr(words) }.to_str().unwrap_or_default()
}

/// A block device that the kernel keeps open for us.
pub(crate) struct Target(RawTarget);

impl Target {
    /// Whether it is still the device at this path, not another one that got its name since. May sleep.
    pub(crate) fn is_at(&self, path: &CStr) -> bool {
        // SAFETY: a text that ends with a zero, and an open file.
        unsafe { dd_is_at(path.as_ptr(), self.0.file) }
    }

    /// Opens the device at this path and claims it, or shares it if it is already `held`. May sleep.
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
        // SAFETY: a text that ends with a zero, a file that is open or null, and places for the results.
        match unsafe { dd_open_target(path.as_ptr(), held, &raw mut target, &raw mut why) } {
            0 => Ok(Target(target)),
            error => Err((error, text(why))),
        }
    }

    /// Its location.
    pub(crate) fn place(&self) -> &RawTarget {
        &self.0
    }

    /// The driver that takes it over.
    pub(crate) fn driver(&self) -> &'static str {
        text(self.0.driver)
    }

    /// Reads a block through the kernel's own driver; returns false if that fails. May sleep.
    pub(crate) fn read(&self, block: u64, to: &mut Block) -> bool {
        // SAFETY: the file is open, and the buffer has 4096 bytes.
        unsafe { dd_read_block(self.0.file, block, to.as_mut_ptr()) == 0 }
    }

    /// Maps [`Memory`] for the device, until [`unmap`](Target::unmap); returns its bus address.
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

/// Physically contiguous pages.
pub(crate) struct Memory {
    start: NonNull<u8>,
    length: usize,
    /// Physical address of the first byte.
    pub(crate) physical: u64,
}

impl Memory {
    /// Allocates `length` zeroed bytes, a power of two and at least a page. May sleep.
    pub(crate) fn take(length: usize) -> Option<Memory> {
        let mut physical = 0;
        // SAFETY: a place for the answer.
        let start = unsafe { dd_memory(length, &raw mut physical) };
        Some(Memory { start: NonNull::new(start)?, length, physical })
    }

    /// Length in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Fills it with zeros, as after the allocation.
    ///
    /// # Safety
    /// It is not in use.
    pub(crate) unsafe fn clear(&self) {
        // SAFETY: the pages are ours until drop, and no reference to them exists, as the caller promises.
        unsafe { self.start.write_bytes(0, self.length) }
    }

    /// The bytes.
    ///
    /// # Safety
    /// Called once for each use of the memory: the result of an earlier call is not used any more.
    pub(crate) unsafe fn bytes(&self) -> &'static mut [u8] {
        // SAFETY: the pages are ours until drop, and no other reference to them exists, as the caller
        // promises.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by take(), and released once.
        unsafe { dd_release_memory(self.start.as_ptr(), self.length) }
    }
}

/// Size of the stack for arming, in bytes.
const LARGE_STACK: usize = 64 << 10;

/// Calls `run` on a larger stack than the kernel's 16 KiB: arming builds values on the stack that are then
/// moved to the arena. Returns false if there is no memory. May sleep.
pub(crate) fn on_large_stack(run: &mut dyn FnMut()) -> bool {
    // SAFETY: it allocates new memory.
    let stack = unsafe { dd_take_stack(LARGE_STACK) };
    if stack.is_null() {
        return false;
    }
    // SAFETY: the end of that memory, which is page-aligned.
    unsafe { run_on(stack.wrapping_add(LARGE_STACK), run) };
    // SAFETY: allocated above, and no longer in use.
    unsafe { dd_release_stack(stack) };
    true
}

/// Maps device registers. May sleep.
pub(crate) fn map_registers(physical: u64, length: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new mapping; the caller knows what is there.
    NonNull::new(unsafe { dd_map_registers(physical, length) })
}

/// Removes a mapping. May sleep.
///
/// # Safety
/// From [`map_registers`], and not used any more.
pub(crate) unsafe fn unmap_registers(start: NonNull<u8>) {
    // SAFETY: as the caller promises.
    unsafe { dd_unmap_registers(start.as_ptr()) }
}

/// Calls `visit` with each range of RAM, except memory reserved for a crash kernel, which belongs to another
/// kernel. May sleep.
pub(crate) fn walk_ram(visit: &mut dyn FnMut(RamRange)) {
    let mut holes = [const { RamRange { start: 0, end: 0 } }; HOLES];
    for (slot, hole) in holes.iter_mut().zip(ranges(true)) {
        *slot = hole;
    }
    for range in ranges(false) {
        dump_linux::ram::without(range, &holes, visit);
    }
}

/// Maximum number of ranges reserved for a crash kernel: one low, one high.
const HOLES: usize = 4;

/// The ranges of RAM, or those reserved for a crash kernel. May sleep.
fn ranges(crash_kernel: bool) -> impl Iterator<Item = RamRange> {
    let mut from = 0;
    core::iter::from_fn(move || {
        let mut range = RawRange { start: 0, end: 0 };
        // SAFETY: a place for the answer.
        let is_there = unsafe { dd_next_range(crash_kernel, from, &raw mut range) };
        let RawRange { start, end } = range;
        // Always forward, and never wrapping around.
        (is_there && start >= from && end > start).then(|| {
            from = end;
            RamRange { start, end }
        })
    })
}

/// Fills `bytes` with random numbers. May sleep.
pub(crate) fn random(bytes: &mut [u8]) {
    // SAFETY: the pointer and the length are those of one slice.
    unsafe { dd_random(bytes.as_mut_ptr(), bytes.len()) }
}

/// Reads 32 bits of configuration space through the kernel, which takes a lock.
pub(crate) fn pci_read(address: u32, offset: u32) -> u32 {
    // SAFETY: it validates all values.
    unsafe { dd_pci_read(address, offset) }
}

/// Writes a line to the kernel's log.
pub(crate) fn say(line: &str, bad: bool) {
    // SAFETY: the pointer and the length are those of one slice.
    unsafe { dd_say(line.as_ptr(), line.len(), bad.into()) }
}

/// Copies the kernel's VMCOREINFO; returns its length.
pub(crate) fn vmcoreinfo(to: &mut [u8]) -> usize {
    // SAFETY: the pointer and the length are those of one slice.
    unsafe { dd_vmcoreinfo(to.as_mut_ptr(), to.len()) }.min(to.len())
}

/// Stores the numbers of the online CPUs, in order, as many as fit; returns how many are online.
pub(crate) fn online_cpus(to: &mut [u32]) -> usize {
    // SAFETY: room for that number of integers.
    unsafe { dd_online_cpus(to.as_mut_ptr(), to.len() as u32) as usize }
}

/// Whether all existing CPUs are online.
pub(crate) fn all_cpus_online() -> bool {
    // SAFETY: no arguments.
    unsafe { dd_all_cpus_online() }
}

/// Whether CPUs have machine-check banks.
pub(crate) fn has_machine_check() -> bool {
    // SAFETY: no arguments.
    unsafe { dd_has_machine_check() }
}

/// The APIC id of an online CPU.
pub(crate) fn apic_of(cpu: u32) -> u32 {
    // SAFETY: the caller got the number from the kernel.
    unsafe { dd_apic_of(cpu) }
}

/// The physical address at which this kernel stores the registers of a CPU that it stops itself; `None` if it
/// does not say. May sleep.
pub(crate) fn crash_note(cpu: u32) -> Option<u64> {
    let mut line = Line::new();
    notes::path(cpu, &mut line);
    let mut path = [0; NOTE_PATH];
    // The last byte stays zero.
    for (slot, byte) in path.iter_mut().zip(line.as_str().bytes()).take(NOTE_PATH.saturating_sub(1)) {
        *slot = byte;
    }
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let mut text = [0; NOTE_TEXT];
    // SAFETY: a text that ends with a zero, and a buffer of this length.
    let got = unsafe { dd_read_file(path.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    notes::address(text.get(..usize::try_from(got).ok()?)?)
}

/// Maximum length in bytes of a path in sysfs, and of the number in that file.
const NOTE_PATH: usize = 64;
const NOTE_TEXT: usize = 32;

/// Installs or removes the hooks for stopping CPUs and for panics. May sleep.
pub(crate) fn stop_hooks(on: bool) -> Result<(), c_int> {
    // SAFETY: under the lock that covers all arming.
    match unsafe { dd_stop_hooks(on) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Why no dump can be armed on this machine, if so.
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

/// Address of the direct map of all RAM.
pub(crate) fn direct_map() -> u64 {
    // SAFETY: no arguments.
    unsafe { dd_direct_map() }
}

/// Frequency of the time stamp counter in kHz; 0 if it is not usable.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: no arguments.
    unsafe { dd_tsc_khz() }
}

/// Nanoseconds since boot, on the kernel's clock; takes no lock.
pub(crate) fn monotonic() -> u64 {
    // SAFETY: no arguments.
    unsafe { dd_monotonic() }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    // SAFETY: no arguments.
    unsafe { dd_seconds() }
}

/// Copies memory that may not be mapped; returns false if it is not.
pub(crate) fn copy(from: u64, to: &mut [u8]) -> bool {
    // SAFETY: faults while reading are caught; `to` has this length.
    unsafe { dd_copy(to.as_mut_ptr(), from as *const u8, to.len()) == 0 }
}

/// Pats the kernel's lockup detectors.
pub(crate) fn pat_watchdog() {
    // SAFETY: no arguments.
    unsafe { dd_pat_watchdog() }
}

/// Address of each CPU's own local APIC registers, if they are accessed in memory.
pub(crate) fn local_apic() -> Option<NonNull<u8>> {
    // SAFETY: no arguments.
    NonNull::new(unsafe { dd_local_apic() })
}

/// This module's code (0) and read-only data (1).
pub(crate) fn code(index: u32) -> (*const u8, usize) {
    let (mut start, mut length) = (core::ptr::null(), 0);
    // SAFETY: places for the results.
    unsafe { dd_code(index, &raw mut start, &raw mut length) };
    (start, length)
}

/// Rewinds to the beginning of the kernel's log.
pub(crate) fn log_rewind() {
    // SAFETY: one user at a time; see log.rs.
    unsafe { dd_log_rewind() }
}

/// The log's next line; `None` after the last.
pub(crate) fn log_line(line: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    // SAFETY: the pointer and the length are those of one slice.
    let there = unsafe { dd_log_line(line.as_mut_ptr(), line.len(), &raw mut length) };
    there.then_some(length.min(line.len()))
}

/// Whether a kdump kernel is loaded. Takes no lock.
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
        // SAFETY: NMIs or machine checks may wake it briefly; it stays in this loop.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Calls `run` with `word` on the stack that ends at `top`.
///
/// # Safety
/// `top` is the 16-byte aligned end of memory that is large enough and otherwise unused.
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
        // SAFETY: run_on() passes a pointer to its own `run` and waits.
        let run = unsafe { &mut *word.cast::<&mut dyn FnMut()>() };
        run();
    }
    let mut run = run;
    // SAFETY: as the caller promises; `run` outlives the call.
    unsafe { call_on(top, closure, (&raw mut run).cast()) };
}
