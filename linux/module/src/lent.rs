//! The state that a dump of this kernel changes besides dumpcore's own. All of it is in the arena, so that
//! the dumped memory stays unchanged.

use core::cell::UnsafeCell;

use dump_linux::apic::Cpu;
use dump_linux::config::{Notify, Then, Words};
use dump_linux::mce::Broken;
use dump_linux::{Classes, Layout, Missing, Vmcoreinfo};
use dumpcore::arena::OutOfArena;
use dumpcore::format::PAGE_BYTES;
use dumpcore::memory::class::{ClassRun, PageClass};
use dumpcore::platform::RamRange;
use dumpcore::{Arena, Encoding, Level};

use crate::apic::OwnBanks;
use crate::console::Console;
use crate::cpus::{Cpus, Slot};
use crate::kernel;
use crate::log::Cursor;

/// Size of VMCOREINFO in bytes: the kernel gives it a page.
const VMCOREINFO: usize = 4096;

/// Size of the line appended to it.
const CRASHTIME: usize = 32;

/// Pages with failed memory.
static BROKEN: Broken = Broken::new();

/// The module's state in the arena; it lives as long as a dump is armed.
pub(crate) struct Lent {
    /// Address of the direct map of all RAM.
    pub(crate) direct_map: u64,
    /// Whether CPUs have machine-check banks.
    pub(crate) has_banks: bool,
    /// Nanoseconds per step of the time stamp counter, times 2^32; 0 if it is not usable.
    pub(crate) scale: u64,
    /// The offset from the dump's clock to the time since this kernel booted; wraps around.
    pub(crate) booted: u64,
    /// The CPUs that were online, in order of their numbers.
    pub(crate) cpus: &'static [Slot],
    /// Number of other online CPUs, which have no registers in the dump.
    pub(crate) more_cpus: usize,
    /// All online CPUs, if there are others that were never started.
    pub(crate) started: Option<&'static [Cpu]>,
    /// How many CPUs may help.
    pub(crate) helpers: usize,
    /// Top of the stack for the CPU that stands guard after a dump.
    pub(crate) guard_stack: *mut u8,
    /// What happens after a dump.
    pub(crate) then: Then,
    /// Whether panic notifiers run before a reset.
    pub(crate) notify: Notify,
    /// The dump's console.
    pub(crate) console: Console,
    /// The dump's position in the log.
    pub(crate) log: Cursor,
    /// The memory that is left out: the requested level, reduced to what can be decided on this kernel.
    pub(crate) level: Level,
    /// Why that is less than requested: the key that VMCOREINFO lacks.
    pub(crate) lacks: Option<&'static str>,
    /// The page classifier; none if `struct page`s cannot be found.
    classes: UnsafeCell<Option<Classes>>,
    /// VMCOREINFO, and its length.
    vmcoreinfo: UnsafeCell<([u8; VMCOREINFO + CRASHTIME], usize)>,
}

// SAFETY: only the crashing CPU uses the cells from crash() on, and only the arming one before that.
unsafe impl Sync for Lent {}

/// The dump's clock in nanoseconds: the time stamp counter, which does not depend on the kernel, if it is
/// usable.
pub(crate) fn clock(scale: u64) -> u64 {
    if scale == 0 {
        return kernel::monotonic();
    }
    // SAFETY: every 64-bit processor has the counter.
    let steps = unsafe { core::arch::x86_64::_rdtsc() };
    (u128::from(steps).wrapping_mul(u128::from(scale)) >> 32) as u64
}

/// Creates the state for a dump with these parameters.
pub(crate) fn lend(
    arena: &mut Arena<'static>,
    cpus: &Cpus,
    words: &Words<'_>,
) -> Result<&'static Lent, OutOfArena> {
    let level = words.level;
    let khz = u64::from(kernel::tsc_khz());
    // Slower than 1 kHz counts as no counter.
    let scale = (1_000_000_u64 << 32).checked_div(khz).unwrap_or(0);
    let lent = arena.place(Lent {
        direct_map: kernel::direct_map(),
        has_banks: kernel::has_machine_check(),
        scale,
        booted: kernel::monotonic().wrapping_sub(clock(scale)),
        cpus: cpus.slots,
        more_cpus: cpus.more,
        started: cpus.started,
        helpers: if words.encoding == Encoding::Units { words.helpers } else { 0 },
        guard_stack: cpus.guard_stack,
        then: words.then,
        notify: words.notify,
        console: Console::new(words.serial),
        log: Cursor::new(),
        level: Level::empty(),
        lacks: None,
        classes: UnsafeCell::new(None),
        vmcoreinfo: UnsafeCell::new(([0; VMCOREINFO + CRASHTIME], 0)),
    })?;
    let (bytes, length) = lent.vmcoreinfo.get_mut();
    *length = kernel::vmcoreinfo(bytes.get_mut(..VMCOREINFO).unwrap_or_default());
    let text = bytes.get(..*length).unwrap_or_default();
    let (classes, able, lacks) = match Layout::parse(&Vmcoreinfo(text)) {
        Ok(layout) => {
            let layout = if knows_compounds(&layout) { layout } else { layout.without_compounds() };
            let lacks = layout.lacks(level).map(|(_, key)| key);
            (Some(Classes::new(layout).for_level(level)), layout.able(), lacks)
        }
        Err(Missing(key)) => {
            (None, Level::ZERO, Some(key).filter(|_| level != level.intersection(Level::ZERO)))
        }
    };
    *lent.classes.get_mut() = classes;
    (lent.level, lent.lacks) = (level.intersection(able), lacks);
    Ok(lent)
}

/// Sampling of memory: pages per sample, and the maximum number of samples, spread evenly over all memory.
const LOOK: u64 = 512;
const LOOKS: u64 = 1024;

/// Whether compound pages have the known layout, judged by samples of memory. May sleep.
#[inline(never)]
fn knows_compounds(layout: &Layout) -> bool {
    let mut classes = Classes::new(*layout);
    let mut all = 0_u64;
    kernel::walk_ram(&mut |range| {
        all = all.saturating_add(range.end.saturating_sub(range.start) / PAGE_BYTES)
    });
    let step = all.div_ceil(LOOKS).max(LOOK);
    kernel::walk_ram(&mut |range| {
        let RamRange { start, end: last } = range;
        let (mut from, last) = (start / PAGE_BYTES, last / PAGE_BYTES);
        // Each turn advances by at least one page.
        while from < last {
            let end = from.saturating_add(LOOK).min(last);
            let mut at = from;
            while at < end {
                at = at.saturating_add(classes.class(&Kernel, at).pages.max(1));
            }
            from = from.saturating_add(step).max(at);
        }
    });
    classes.knows_compounds()
}

/// The kernel's memory, read so that faults are caught.
struct Kernel;

impl dump_linux::KernelMemory for Kernel {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        kernel::copy(address, into)
    }
}

impl Lent {
    /// The class of a page. Only on the CPU that arms or crashes.
    pub(crate) fn class(&self, pfn: u64) -> ClassRun {
        // SAFETY: one user at a time.
        let run = match unsafe { &mut *self.classes.get() } {
            Some(classes) => classes.class(&Kernel, pfn),
            None => ClassRun { class: PageClass::Unknown, pages: u64::MAX },
        };
        BROKEN.cut(pfn, run)
    }

    /// Remembers failed memory found in this CPU's banks. Some machine checks are reported on one CPU only,
    /// others on all of them.
    pub(crate) fn look_for_broken_memory(&self) {
        if self.has_banks {
            BROKEN.look(&OwnBanks);
        }
    }

    /// Forgets the page data that was read when the dump was armed.
    ///
    /// # Safety
    /// On the crashing CPU, before the dump.
    pub(crate) unsafe fn forget_classes(&self) {
        // SAFETY: no one else uses it now, as the caller promises.
        if let Some(classes) = unsafe { &mut *self.classes.get() } {
            classes.forget();
        }
    }

    /// VMCOREINFO.
    pub(crate) fn vmcoreinfo(&self) -> &[u8] {
        // SAFETY: only changed by append_time(), before the dump.
        let (bytes, length) = unsafe { &*self.vmcoreinfo.get() };
        bytes.get(..*length).unwrap_or_default()
    }

    /// Appends the time of the crash, as the kernel does on its way to kdump (`crash_save_vmcoreinfo`).
    ///
    /// # Safety
    /// On the crashing CPU, before the dump.
    pub(crate) unsafe fn append_time(&self, seconds: u64) {
        const KEY: &[u8] = b"CRASHTIME=";
        // SAFETY: no one else uses it now, as the caller promises.
        let (bytes, length) = unsafe { &mut *self.vmcoreinfo.get() };
        // Only once, in case the kernel gets here again.
        if bytes.get(..*length).is_some_and(|text| text.windows(KEY.len()).any(|part| part == KEY)) {
            return;
        }
        let mut line = dumpcore::text::Line::new();
        line.text("CRASHTIME=").decimal(seconds).text("\n");
        let line = line.as_str().as_bytes();
        let end = length.saturating_add(line.len());
        if let Some(room) = bytes.get_mut(*length..end) {
            for (slot, byte) in room.iter_mut().zip(line) {
                *slot = *byte;
            }
            *length = end;
        }
    }
}
