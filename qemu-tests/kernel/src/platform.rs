//! The platform of this kernel: the one `impl Platform` that every kernel writes.
//!
//! From `crash()` on, these methods run on a dead kernel. They take no lock, do not allocate, only write the
//! caller's memory, and cannot panic.

use core::ptr::NonNull;

use dumpcore::deferred::HostQueues;
use dumpcore::format::Block;
use dumpcore::platform::{ClassRun, CodeRange, Guarded, Nanoseconds, RamRange};
use dumpcore::{Platform, Registers, ResetPolicy};

use crate::arch::{cache, clock, console, cpu, guard, idle, paging, power, random, stack};
use crate::memory::{self, linker_symbol};
use crate::{deferred, log, stop, watchdog};

/// The kernel, as seen by the dump. Created once, while the kernel is healthy.
pub(crate) struct KernelPlatform {
    code: [CodeRange; 2],
    build_id: &'static [u8],
}

static PLATFORM: spin::Once<KernelPlatform> = spin::Once::new();

/// The platform.
pub(crate) fn get() -> &'static KernelPlatform {
    PLATFORM.call_once(KernelPlatform::new)
}

impl KernelPlatform {
    fn new() -> KernelPlatform {
        let range =
            |start: u64, end: u64| CodeRange { start: start as *const u8, length: (end - start) as usize };
        let code = [
            range(linker_symbol!(__dump_path_text_start), linker_symbol!(__dump_path_text_end)),
            range(linker_symbol!(__dump_path_rodata_start), linker_symbol!(__dump_path_rodata_end)),
        ];
        let note = range(linker_symbol!(__build_id_start), linker_symbol!(__build_id_end));
        // SAFETY: the linker script puts the build id's ELF note between these symbols; constants do not
        // change.
        let note = unsafe { core::slice::from_raw_parts(note.start, note.length) };
        // The id follows the note's header (12 bytes) and its name ("GNU" and a zero).
        KernelPlatform { code, build_id: note.get(16..).unwrap_or_default() }
    }
}

// SAFETY: page() returns pointers into the direct map, only for RAM, which stays mapped; code_ranges() names
// parts of the kernel's image; on_stack() calls its closure exactly once.
unsafe impl Platform for KernelPlatform {
    fn now(&self) -> Nanoseconds {
        clock::now()
    }

    fn console(&self, text: &str) {
        console::write_raw(text);
    }

    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        memory::ram().iter().for_each(|range| visit(*range));
    }

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        let address = pfn.checked_mul(memory::FRAME)?;
        memory::ram()
            .iter()
            .any(|range| (range.start..range.end).contains(&address))
            .then(|| NonNull::new(paging::direct(address)))?
    }

    fn has_guard(&self) -> bool {
        true
    }

    fn guarded_copy(&self, from: NonNull<u8>, to: &mut Block) -> Guarded {
        if guard::copy(from, to) { Guarded::Copied } else { Guarded::Faulted }
    }

    fn class(&self, pfn: u64) -> ClassRun {
        memory::class(pfn)
    }

    fn still(&self, pfn: u64) -> Option<u64> {
        // With the other CPUs stopped and the disks taken over by the dump, nothing writes to memory any
        // more, including this file. The bus address of RAM is its physical address.
        let address = pfn.checked_mul(memory::FRAME)?;
        NonNull::new(paging::direct(address)).is_some_and(guard::probe).then_some(address)
    }

    fn reset(&self, policy: ResetPolicy) {
        match policy {
            ResetPolicy::Reset => power::reset(),
            ResetPolicy::PowerOff => power::power_off(),
            ResetPolicy::Halt => {
                console::write_raw("testkernel: halted\n");
                cpu::halt()
            }
            ResetPolicy::Return => {}
        }
    }

    fn cpu(&self) -> u32 {
        cpu::number() as u32
    }

    fn cpus(&self) -> u32 {
        cpu::count() as u32
    }

    fn stop_cpus(&self) {
        stop::stop_others();
    }

    fn all_stopped(&self) -> bool {
        stop::all_stopped()
    }

    fn rest(&self, nanoseconds: Nanoseconds) {
        idle::nap(nanoseconds);
    }

    fn resume_cpus(&self) {
        stop::resume();
    }

    fn entropy(&self, bytes: &mut [u8; 32]) -> bool {
        random::fill(bytes)
    }

    fn registers(&self, cpu: u32) -> Option<Registers> {
        stop::registers(cpu as usize)
    }

    fn pat_watchdog(&self) {
        watchdog::reload();
    }

    fn log(&self, offset: u64, piece: &mut [u8]) -> usize {
        log::read(offset, piece)
    }

    fn log_length(&self) -> u64 {
        log::length() as u64
    }

    fn wall_clock(&self) -> Option<u64> {
        clock::wall_clock()
    }

    fn build_id(&self) -> &[u8] {
        self.build_id
    }

    fn system(&self) -> &str {
        concat!("diskdump-testkernel ", env!("CARGO_PKG_VERSION"))
    }

    fn code_ranges(&self) -> &[CodeRange] {
        &self.code
    }

    fn host_queues(&self) -> Option<&dyn HostQueues> {
        Some(&deferred::KERNEL)
    }

    fn clean_for_device(&self, start: *const u8, length: usize) {
        cache::clean(start, length);
    }

    fn invalidate_from_device(&self, start: *const u8, length: usize) {
        cache::invalidate(start, length);
    }

    fn on_stack(&self, stack: NonNull<[u8]>, run: &mut dyn FnMut()) -> bool {
        let mut run = run;
        let top = dumpcore::stack::top(stack);
        let word = (&raw mut run).cast::<u8>();
        // SAFETY: the stack is the caller's to lend, and aligned as promised; `run` outlives the call.
        unsafe { stack::call_on(top, run_closure, word) };
        true
    }
}

/// Runs on the other stack; `word` points to the closure's reference.
#[unsafe(link_section = ".dump_path.text")]
extern "C" fn run_closure(word: *mut u8) {
    // SAFETY: on_stack() passes a pointer to its own `run` and waits.
    let run = unsafe { &mut *word.cast::<&mut dyn FnMut()>() };
    run();
}
