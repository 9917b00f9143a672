//! The entry points for `/sys/kernel/diskdump`: commands and texts.

use core::cell::UnsafeCell;
use core::ffi::c_long;

use dump_linux::layout::COMPOUNDS;
use dumpcore::text::Line;
use dumpcore::{Encoding, Platform};

use crate::arm::{EINVAL, State};
use crate::cpus::Slot;
use crate::page::Page;

struct Locked(UnsafeCell<State>);

// SAFETY: only used by the entry points below, which C calls under its lock.
unsafe impl Sync for Locked {}

static STATE: Locked = Locked(UnsafeCell::new(State::new()));

/// For C: arms with these parameters, replacing the armed dump. If that fails, the previous parameters are
/// armed again. Returns 0 or a negative error number.
#[unsafe(no_mangle)]
extern "C" fn dd_arm(words: *const u8, length: usize) -> c_long {
    // SAFETY: C passes the length of what it points to.
    let words = unsafe { core::slice::from_raw_parts(words, length) };
    // SAFETY: under C's lock.
    let state = unsafe { &mut *STATE.0.get() };
    state.arm_as(words)
}

/// For C: disarms.
#[unsafe(no_mangle)]
extern "C" fn dd_disarm() -> c_long {
    // SAFETY: under C's lock, or when no one else can call.
    let state = unsafe { &mut *STATE.0.get() };
    state.disarm()
}

/// For C: CPUs or memory have come or gone.
#[unsafe(no_mangle)]
extern "C" fn dd_rearm() {
    // SAFETY: under C's lock.
    let state = unsafe { &mut *STATE.0.get() };
    state.arm_again();
}

/// For C: user space reports the fate of the last dump, which is no longer on a target. Returns 0 or a
/// negative error number.
#[unsafe(no_mangle)]
extern "C" fn dd_tell_last(text: *const u8, length: usize) -> c_long {
    // SAFETY: C passes the length of what it points to.
    let text = unsafe { core::slice::from_raw_parts(text, length) };
    // SAFETY: under C's lock.
    let state = unsafe { &mut *STATE.0.get() };
    if state.last.tell(text) { 0 } else { EINVAL }
}

/// For C: writes a sysfs text. Returns its length.
#[unsafe(no_mangle)]
extern "C" fn dd_show(what: u32, to: *mut u8, room: usize) -> usize {
    // SAFETY: C passes the size of its page, which nobody else has during the call.
    let room = unsafe { core::slice::from_raw_parts_mut(to, room) };
    // SAFETY: under C's lock.
    let state = unsafe { &*STATE.0.get() };
    let mut page = Page { room, used: 0 };
    match what {
        0 => {
            let armed = state.armed.is_some();
            page.put(if armed {
                "armed"
            } else if state.refused {
                "refused"
            } else {
                "disarmed"
            });
            page.put("\n");
        }
        1 => status(state, &mut page),
        3 => page.put(state.last.text().unwrap_or("result=none\n")),
        _ => {
            page.put(state.reason.as_str());
            page.put("\n");
        }
    }
    page.used
}

/// Describes what is armed, line by line; empty if nothing is.
fn status(state: &State, page: &mut Page<'_>) {
    let Some((armed, (report, uuids))) =
        state.armed.as_ref().and_then(|armed| Some((armed, armed.report.as_ref()?)))
    else {
        return;
    };
    let Ok(words) = state.words.parsed() else { return };
    for ((wanted, uuid), (target, _)) in words.targets().zip(uuids).zip(armed.targets.iter().flatten()) {
        page.line("target", wanted.path);
        let mut line = Line::new();
        for (index, byte) in uuid.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                line.text("-");
            }
            line.digits((*byte).into(), 2);
        }
        page.line("uuid", line.as_str());
        page.line("device", target.driver());
    }
    let linux = &armed.side.linux;
    let lent = linux.lent();
    if let Some(lent) = lent {
        page.number("level", lent.level.bits().into());
        page.number("level_asked", words.level.bits().into());
        if let Some(key) = lent.lacks {
            let note = if key == COMPOUNDS {
                "less than was asked for: this kernel's compound pages are laid out in a way that is not known"
            } else {
                "less than was asked for: the kernel's VMCOREINFO lacks this key"
            };
            page.line("level_note", note);
            page.line("level_lacks", key);
        }
    }
    page.line("encoding", if report.encoding == Encoding::Units { "lz4" } else { "plain" });
    page.number("helpers", report.helpers as u64);
    page.number("arena", report.arena_length as u64);
    page.number("arena_used", report.arena_used as u64);
    page.number("pages", report.pages);
    page.number("code_bytes", report.code_bytes);
    page.number("budget", words.budget / dumpcore::wait::SECOND);
    page.number("cpus", linux.cpus().into());
    if let Some(more) = lent.map(|lent| lent.more_cpus as u64).filter(|more| *more > 0) {
        page.number("cpus_without_registers", more);
    }
    page.line("then", words.then.word());
    page.line("notify", words.notify.word());
    page.line("registers", "its own NMI; with crash_kexec_post_notifiers, the kernel's crash notes");
    page.line(
        "notes",
        if lent.is_some_and(|lent| lent.cpus.iter().any(Slot::has_note)) {
            "named"
        } else {
            "not named: drgn will not know registers"
        },
    );
}
