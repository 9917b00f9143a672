//! The way into the dump: a panic, or a fault, calls `crash()`; and what happens when that comes back.

use core::cell::UnsafeCell;
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};

use dumpcore::format::header::Trigger;
use dumpcore::{Crash, Outcome, Platform, Registers};

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{clock, cpu, power, registers, serial};
use crate::log::{Text, log};
use crate::{arm, platform, scenario};

/// Bytes of a panic message that are kept.
const MESSAGE: usize = 512;
/// Crashes on one CPU that get a message: the first, and one inside its dump.
const CRASHES: usize = 2;

/// A message for each crash on each CPU, so that no crash needs memory from anywhere or harms another's.
struct Messages([[UnsafeCell<Text<MESSAGE>>; CRASHES]; MAX_CPUS]);
// SAFETY: each is used by one crash on one CPU only.
unsafe impl Sync for Messages {}

static MESSAGES: Messages = Messages([const { [const { UnsafeCell::new(Text::new()) }; CRASHES] }; MAX_CPUS]);
/// How many crashes each CPU has seen.
static DEPTH: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let registers = registers::here();
    match info.location() {
        Some(place) => crash(Trigger::Panic, format_args!("{} ({place})", info.message()), &registers),
        None => crash(Trigger::Panic, format_args!("{}", info.message()), &registers),
    }
}

/// The end of this kernel: dumps its memory, then does as the command line says.
pub(crate) fn crash(trigger: Trigger, words: core::fmt::Arguments<'_>, registers: &Registers) -> ! {
    cpu::disable_interrupts();
    let begin = clock::now();
    let number = cpu::number();
    let depth = DEPTH[number].fetch_add(1, Ordering::Relaxed);
    let Some(slot) = MESSAGES.0[number].get(depth) else {
        // Even the way to the reset crashes.
        power::reset()
    };
    // SAFETY: this crash's own, see Messages.
    let message = unsafe { &mut *slot.get() };
    // Cannot fail: Text takes what fits.
    let _ = message.write_fmt(words);
    if depth == 0 {
        log!("testkernel: crash on CPU {number}: {}", message.as_str());
    }
    scenario::footprint::paint();

    let crash = Crash { trigger, message: message.as_str(), registers };
    let outcome = arm::DUMP.crash(platform::get(), &crash);

    // Only here if the policy is to return, if there was nothing to dump to, or if another CPU dumps.
    if let Outcome::OtherCpu { .. } = outcome {
        // That CPU stops this one by NMI, and finds it here.
        cpu::halt()
    }
    scenario::bench::report_dump(clock::now().saturating_sub(begin));
    scenario::footprint::report();
    let (name, exit) = match outcome {
        Outcome::Complete => ("complete", 1),
        Outcome::Incomplete(_) => ("incomplete", 2),
        Outcome::Refused(_) => ("refused", 3),
        Outcome::Unclosed(_) => ("unclosed", 7),
        Outcome::NotArmed => ("not-armed", 4),
        Outcome::Nested => ("nested", 5),
        Outcome::OtherCpu { .. } => ("other-cpu", 6),
    };
    serial::write_raw("testkernel: outcome ");
    serial::write_raw(name);
    serial::write_raw("\n");
    if outcome == Outcome::NotArmed {
        platform::get().reset(scenario::reset_policy());
    }
    power::exit(exit)
}

/// The kernel cannot go on, and it is not a crash but a mistake in how it was started: says so and ends.
pub(crate) fn give_up(why: core::fmt::Arguments<'_>) -> ! {
    log!("testkernel: error: {why}");
    power::exit(0x3f)
}
