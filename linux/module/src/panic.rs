//! The panic path: the dump, and what follows it.

use core::ffi::{CStr, c_char, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

use dump_linux::after::{self, Next};
use dump_linux::oops;
use dumpcore::format::header::Trigger;
use dumpcore::text::{Describe, Line};
use dumpcore::wait::Wait;
use dumpcore::{Crash, Outcome};

use crate::{cpus, guard, kernel, notes, side, stop};

/// Set when there is a good dump, the panic notifiers are running, and the machine is to be reset afterwards.
static IS_HEARD: AtomicBool = AtomicBool::new(false);

/// For C: all panic notifiers have run.
#[unsafe(no_mangle)]
extern "C" fn dd_heard() {
    if IS_HEARD.load(Ordering::Acquire) {
        kernel::restart();
    }
}

/// For C: all other CPUs are stopped and interrupts are off. Returns if the kernel is to continue its panic.
///
/// `message` ends with a zero. `regs` are the registers of the panic, `oops` those of the panicking task's
/// last oops, if it had one.
#[unsafe(no_mangle)]
extern "C" fn dd_panic(message: *const c_char, regs: *const c_void, oops: *const c_void, trigger: u32) {
    // A panic notifier has crashed, but the dump is already safe.
    dd_heard();
    // If the kernel stopped the other CPUs, no one has claimed the dump yet.
    let Some((side, lent)) = side::begin().and_then(|side| Some((side, side.linux.lent()?))) else {
        stop::over();
        return;
    };
    // SAFETY: the panic's own text.
    let message = unsafe { CStr::from_ptr(message) }.to_bytes();
    let message = match core::str::from_utf8(message) {
        Ok(text) => text,
        Err(error) => {
            let good = message.get(..error.valid_up_to()).unwrap_or_default();
            core::str::from_utf8(good).unwrap_or_default()
        }
    };
    lent.look_for_broken_memory();
    // SAFETY: the crashing CPU, before the dump.
    unsafe { lent.append_time(kernel::seconds()) };
    // SAFETY: as above.
    unsafe { lent.forget_classes() };
    let is_oops = !oops.is_null() && oops::ends_in(message);
    // SAFETY: C passes registers.
    let registers = unsafe { cpus::complete(if is_oops { oops } else { regs }) };
    // SAFETY: the other CPUs are stopped, by us or by the kernel.
    unsafe { notes::fill(lent, &registers) };
    let trigger =
        if is_oops { Trigger::Oops } else { Trigger::from_number(trigger).unwrap_or(Trigger::Panic) };
    let crash = Crash { trigger, message: message.trim_ascii_end(), registers: &registers };
    let outcome = side.dump.crash(&side.linux, &crash);
    if matches!(outcome, Outcome::OtherCpu { .. }) {
        return;
    }
    // Half a dump is better than none, unless kdump may still make a complete one.
    let enough = matches!(outcome, Outcome::Complete)
        || matches!(outcome, Outcome::Incomplete(_)) && !kernel::kdump_follows();
    let take_guard = || guard::take(&Wait::aside(&side.linux, u64::MAX));
    let next = after::next(enough, lent.then, lent.notify, take_guard);
    stop::over();
    lent.console.tell();
    if !enough {
        let mut line = Line::new();
        match &outcome {
            Outcome::Refused(refusal) => refusal.describe(line.text("no dump was written: ")),
            Outcome::Incomplete(_) => {
                line.text("the dump ended early");
            }
            Outcome::Nested => {
                line.text("the dump itself crashed; what it had written can be read");
            }
            Outcome::Unclosed(error) => error.describe(line.text("the dump could not be closed: ")),
            _ => {
                line.text("no dump was written");
            }
        }
        line.text("; the kernel goes on with its panic");
        kernel::say(line.as_str(), true);
    }
    match next {
        Next::Reset => kernel::restart(),
        Next::Notify => {
            IS_HEARD.store(true, Ordering::Release);
            kernel::say("others hear of the panic now, and then the machine is reset", false);
        }
        Next::Continue => {}
        Next::Halt => kernel::halt(),
    }
}
