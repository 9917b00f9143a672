//! The ways into the dump: a panic or a fault calls `crash()`; a kernel that continues calls `snapshot()`.
//! Also what happens when they return.

use core::cell::UnsafeCell;
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};

use dumpcore::format::header::Trigger;
use dumpcore::{Crash, Outcome, Registers};

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{clock, console, cpu, interrupts, power, registers};
use crate::command_line::options;
use crate::dump::{self, DUMP};
use crate::end::name_and_exit;
use crate::log::{Text, log};
use crate::scenario::{bench, footprint, live, outcomes};
use crate::watchdog;

/// Maximum length of a panic message in bytes.
const MESSAGE: usize = 512;
/// Number of crashes on one CPU that have a message: the first, and one inside its dump.
const CRASHES: usize = 2;

/// A message buffer for each crash on each CPU, so that no crash needs to allocate or overwrites another's
/// message.
struct Messages([[UnsafeCell<Text<MESSAGE>>; CRASHES]; MAX_CPUS]);
// SAFETY: each is used by one crash on one CPU only.
unsafe impl Sync for Messages {}

static MESSAGES: Messages = Messages([const { [const { UnsafeCell::new(Text::new()) }; CRASHES] }; MAX_CPUS]);
/// Number of crashes on each CPU.
static DEPTH: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let registers = registers::here();
    match info.location() {
        Some(place) => crash(Trigger::Panic, format_args!("{} ({place})", info.message()), &registers),
        None => crash(Trigger::Panic, format_args!("{}", info.message()), &registers),
    }
}

/// The message of this crash on this CPU.
struct Told {
    cpu: usize,
    depth: usize,
    message: &'static str,
}

impl Told {
    /// Stores the message and logs it, unless this is a crash inside another one. `None` if even the path to
    /// the reset crashes.
    fn new(what: &str, words: core::fmt::Arguments<'_>) -> Option<Told> {
        let cpu = cpu::number();
        let depth = DEPTH[cpu].fetch_add(1, Ordering::Relaxed);
        // SAFETY: only used by this crash; see Messages.
        let text = unsafe { &mut *MESSAGES.0[cpu].get(depth)?.get() };
        *text = Text::new();
        // Cannot fail: Text accepts what fits.
        let _ = text.write_fmt(words);
        let told = Told { cpu, depth, message: text.as_str() };
        if depth == 0 {
            log!("testkernel: {what} on CPU {cpu}: {}", told.message);
        }
        Some(told)
    }

    /// The dump has returned, and the kernel still runs.
    fn over(self, outcome: &Outcome) {
        DEPTH[self.cpu].store(self.depth, Ordering::Relaxed);
        outcomes::note(outcome);
        console::write_raw("testkernel: outcome ");
        console::write_raw(name_and_exit(outcome).0);
        console::write_raw("\n");
    }
}

/// Ends this kernel: dumps its memory, then does what the command line says.
#[unsafe(export_name = "kernel_crash")]
pub(crate) fn crash(trigger: Trigger, words: core::fmt::Arguments<'_>, registers: &Registers) -> ! {
    cpu::disable_interrupts();
    let begin = clock::now();
    let Some(told) = Told::new("crash", words) else { power::reset() };
    footprint::paint();

    let crash = Crash { trigger, message: told.message, registers };
    let outcome = loop {
        match DUMP.crash(dump::platform(), &crash) {
            // The other CPU stops this one here: for good, or while it dumps the live kernel. After that, it
            // is our turn.
            Outcome::OtherCpu { .. } => interrupts::stand_aside(registers),
            outcome => break outcome,
        }
    };

    // Only reached if the policy is to return, or if there was nothing to dump to.
    bench::report_dump(clock::now().saturating_sub(begin));
    footprint::report();
    live::report();
    told.over(&outcome);
    watchdog::report();
    if outcome == Outcome::NotArmed {
        dump::platform().reset(options().reset);
    }
    outcomes::crash_again();
    power::exit(outcomes::exit_value())
}

/// Dumps the memory of the live kernel and continues.
#[unsafe(export_name = "kernel_snapshot")]
pub(crate) fn snapshot(trigger: Trigger, words: core::fmt::Arguments<'_>, registers: &Registers) {
    let Some(told) = Told::new("dump of the live kernel", words) else { return };
    let crash = Crash { trigger, message: told.message, registers };
    let outcome = DUMP.snapshot(dump::platform(), &crash);
    told.over(&outcome);
    watchdog::report();
    watchdog::pat();
}

/// An external NMI: from the watchdog, or from a button.
#[cfg(target_arch = "x86_64")]
#[unsafe(export_name = "kernel_nmi")]
fn nmi(registers: &Registers) {
    let (trigger, message) = if watchdog::is_starved() {
        // The watchdog stops once it has fired. From here on, the dump pats it.
        watchdog::restart();
        (Trigger::Watchdog, "the watchdog was not patted in time")
    } else {
        (Trigger::Nmi, "an NMI from outside asks for a dump")
    };
    if options().nmi_crashes {
        crash(trigger, format_args!("{message}"), registers)
    }
    snapshot(trigger, format_args!("{message}"), registers);
}
