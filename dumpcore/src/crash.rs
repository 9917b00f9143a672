//! `crash()`: the one entry, who may pass it, and how it ends. The steps in between are in `steps.rs`.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::arm::{Dump, phase, state};
use crate::armed::{Armed, Step, Vitals};
use crate::console::{Describe, Line};
use crate::device::DeviceError;
use crate::display_by_describe;
use crate::format::header::{Incomplete, Trigger};
use crate::integrity::Harm;
use crate::partition::place::Unfit;
use crate::platform::{Lacks, Platform, Registers, ResetPolicy};
use crate::record::{self, say};
use crate::stack::{Painted, paint};
use crate::steps::Running;

/// What the kernel knows of its crash.
#[derive(Clone, Copy, Debug)]
pub struct Crash<'a> {
    /// What made it call.
    pub trigger: Trigger,
    /// The panic message.
    pub message: &'a str,
    /// The registers of the calling CPU, as they were at the crash.
    pub registers: &'a Registers,
}

/// How a dump ended. On most kernels nobody sees it, since the reset policy comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is armed, or an earlier dump found the armed state harmed.
    NotArmed,
    /// Another CPU is dumping: the caller should wait for its end, open to its NMI.
    OtherCpu {
        /// Which, by the platform's numbers.
        cpu: u32,
        /// Whether that is a [snapshot](Dump::snapshot), after which the kernel goes on. Nobody has dumped this crash then: the
        /// caller has to call [`crash`](Dump::crash) once more, and until it is told anything else.
        resumes: bool,
    },
    /// The dump itself crashed on this CPU. What it had written is a dump in progress.
    Nested,
    /// Nothing was written, not a block.
    Refused(Refusal),
    /// A dump was begun and ended early, in order.
    Incomplete(Incomplete),
    /// A dump was begun, or perhaps not even that, and could not be closed: it stays one in progress, readable as far
    /// as it came.
    Unclosed(DeviceError),
    /// A whole dump is on the medium.
    Complete,
}

/// Why nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The armed state was changed since it was sealed.
    Seal {
        /// Its checksum when armed.
        armed: u32,
        /// Its checksum now.
        now: u32,
    },
    /// The dump path's own code or read-only data was changed.
    Code {
        /// Its checksum when armed.
        armed: u32,
        /// Its checksum now.
        now: u32,
    },
    /// The device cannot be used.
    Unusable(DeviceError),
    /// The device says that it is risky, and risky ones are not allowed.
    Risky(DeviceError),
    /// The device could not be taken over.
    Takeover(DeviceError),
    /// The partition may not be written.
    Unfit(Unfit),
    /// The pointer to the armed state was changed.
    Pointer,
    /// A stack in the arena has overflowed.
    Stack,
}

impl From<Harm> for Refusal {
    fn from(harm: Harm) -> Refusal {
        match harm {
            Harm::Stack => Refusal::Stack,
            Harm::Seal { armed, now } => Refusal::Seal { armed, now },
        }
    }
}

impl Describe for Refusal {
    fn describe(&self, line: &mut Line) {
        match *self {
            Refusal::Seal { armed, now } => Harm::Seal { armed, now }.describe(line),
            Refusal::Stack => Harm::Stack.describe(line),
            Refusal::Code { armed, now } => {
                line.text("the dump's own code was changed: its checksum was ").hex(armed.into());
                line.text(", is ").hex(now.into());
            }
            Refusal::Unusable(error) => {
                line.text("the disk cannot be used: ");
                error.describe(line);
            }
            Refusal::Risky(error) => {
                line.text("the disk is risky, which is not allowed: ");
                error.describe(line);
            }
            Refusal::Takeover(error) => {
                line.text("the disk could not be taken over: ");
                error.describe(line);
            }
            Refusal::Unfit(unfit) => unfit.describe(line),
            Refusal::Pointer => {
                line.text("the pointer to the armed state was changed");
            }
        }
    }
}

display_by_describe!(Refusal);

/// Set while any dump of this kernel runs.
static CRASHDUMP_MODE: AtomicBool = AtomicBool::new(false);

/// Whether a dump is running: drivers poll then, console and log code takes no locks.
pub fn crashdump_mode() -> bool {
    CRASHDUMP_MODE.load(Ordering::Acquire)
}

impl<'a> Dump<'a> {
    /// Dumps, from the moment of the crash to the reset policy. Interrupts must be off on this CPU.
    ///
    /// May be called by several CPUs at once, and again by code that crashes inside the dump. Should the policy be to
    /// return, the dump is armed again: the next crash dumps behind this one.
    pub fn crash(&self, platform: &dyn Platform, crash: &Crash<'_>) -> Outcome {
        self.dump(platform, crash, false)
    }

    /// Dumps a live kernel, which goes on afterwards: the other CPUs are frozen, memory is written, the device is shut down,
    /// the CPUs are [resumed](Platform::resume_cpus), and the dump is armed again. The disk must be the dump's own, or one
    /// whose driver can take it back. Interrupts must be off on this CPU.
    ///
    /// A crash inside of it is a crash: then comes the reset policy.
    pub fn snapshot(&self, platform: &dyn Platform, crash: &Crash<'_>) -> Outcome {
        self.dump(platform, crash, true)
    }

    /// What a stopped CPU may do when it has recorded its registers: helps the dump that stopped it, on a stack in the
    /// arena, until that is over. Returns at once if there is nothing to help with. The caller then stays stopped; or,
    /// if the kernel [goes on](Dump::resumes), waits to be resumed.
    pub fn help(&self, platform: &dyn Platform) {
        if let Some(crew) = self.crew() {
            crew.help(platform, &|| self.state.load(Ordering::Acquire) & state::MASK == state::DUMPING);
        }
    }

    /// Whether the dump that runs is one of a [live kernel](Dump::snapshot).
    pub fn resumes(&self) -> bool {
        self.resumes.load(Ordering::Acquire)
    }

    fn dump(&self, platform: &dyn Platform, crash: &Crash<'_>, resumes: bool) -> Outcome {
        let cpu = platform.cpu();
        let mine = state::dumping(cpu);
        let begun = if resumes { mine | state::LIVE } else { mine };
        if let Err(found) =
            self.state.compare_exchange(state::ARMED, begun, Ordering::Acquire, Ordering::Acquire)
        {
            return match found & state::MASK {
                state::DUMPING if self.is_inside(found, mine, crash.registers) => {
                    self.crashed_inside(platform, crash)
                }
                state::DUMPING => {
                    Outcome::OtherCpu { cpu: state::cpu(found), resumes: found & state::LIVE != 0 }
                }
                _ => {
                    tell(platform, cpu, crash, resumes);
                    say(platform, |line| {
                        line.text(if found == state::SPENT {
                            "the armed state was found harmed before"
                        } else {
                            "not armed"
                        });
                    });
                    if found == state::SPENT && !resumes {
                        platform.reset(self.vitals().map_or(ResetPolicy::Reset, Vitals::reset));
                    }
                    Outcome::NotArmed
                }
            };
        }
        self.resumes.store(resumes, Ordering::Release);
        self.nested.store(0, Ordering::Release);
        // SAFETY: this CPU alone moved the state from ARMED to DUMPING, and uses it only until the state moves on.
        let Some(armed) = (unsafe { self.take_armed() }) else {
            tell(platform, cpu, crash, resumes);
            record::refused(platform, &Refusal::Pointer);
            self.state.store(state::SPENT, Ordering::Release);
            if !resumes {
                platform.reset(self.vitals().map_or(ResetPolicy::Reset, Vitals::reset));
            }
            return Outcome::Refused(Refusal::Pointer);
        };
        let End { outcome, harmed, frozen } =
            checked(armed, self.vitals(), platform, &Entry { crash, resumes, cpu, phase: &self.phase });
        if !harmed {
            armed.renew();
        }
        self.state.store(if harmed { state::SPENT } else { state::ARMED }, Ordering::Release);
        if resumes && frozen {
            platform.resume_cpus();
        }
        outcome
    }

    /// Whether it is the dump itself that crashed, and not another CPU while it runs: `found` is the state word, and `mine` what
    /// it would be if this CPU dumped. That goes by the stack, which a platform cannot forget, as it can the CPU's number.
    #[inline(never)]
    fn is_inside(&self, found: u32, mine: u32, registers: &Registers) -> bool {
        let marker = 0_u8;
        let here = (&raw const marker).addr();
        let stack = self.own_stack();
        // A fault may be handled on a stack of its own; the registers then say where it came from.
        if stack.contains(&here) || stack.contains(&(registers.stack_pointer() as usize)) {
            return true;
        }
        let alike = found & !state::LIVE == mine;
        if alike && self.phase.load(Ordering::Acquire) == phase::CROSSING {
            // Another CPU soon is on the dump's stack, or done. This one would never be, while it looks.
            let moved_on = |_| {
                self.phase.load(Ordering::Acquire) != phase::CROSSING
                    || self.state.load(Ordering::Acquire) != found
            };
            if !(0..LOOKS_AT_CROSSING).any(moved_on) {
                return true;
            }
        }
        // Without a stack of its own, the number is all there is.
        alike && self.phase.load(Ordering::Acquire) == phase::BORROWED_STACK
    }

    /// A crash inside the dump: a short record, and the reset policy. The second time, not even the record, and the third
    /// time nothing, since then it is the reset that crashes.
    fn crashed_inside(&self, platform: &dyn Platform, crash: &Crash<'_>) -> Outcome {
        let before = self.nested.fetch_add(1, Ordering::AcqRel);
        let vitals = self.vitals();
        if before > 1 {
            return Outcome::Nested;
        }
        if before == 0 {
            say(platform, |line| {
                line.text("crashed itself while ");
                line.text(vitals.and_then(Vitals::step).map_or("beginning", Step::name));
                line.text(": ");
                on_one_line(line, crash.message);
            });
        }
        platform.reset(vitals.map_or(ResetPolicy::Reset, Vitals::reset));
        Outcome::Nested
    }
}

/// Says what happened, whatever comes of it. In a frame of its own, so that the dump need not carry the line along.
#[inline(never)]
fn tell(platform: &dyn Platform, cpu: u32, crash: &Crash<'_>, resumes: bool) {
    say(platform, |line| {
        let what = if resumes { " asks for a dump: " } else { " crashed: " };
        line.text("cpu ").decimal(cpu.into()).text(what);
        on_one_line(line, crash.message);
    });
}

/// Appends a message with its lines behind one another: Rust's own has the place in the first and what happened in the second.
/// (What `core` has for this can panic, as far as the compiler knows.)
fn on_one_line(line: &mut Line, message: &str) {
    let mut rest = message;
    // Each turn takes a line off.
    while !rest.is_empty() {
        let end = rest.bytes().position(|byte| byte == b'\n').unwrap_or(rest.len());
        let words = rest.get(..end).unwrap_or_default().trim_ascii();
        rest = rest.get(end.saturating_add(1)..).unwrap_or_default().trim_ascii();
        line.text(words).text(if rest.is_empty() { "" } else { " " });
    }
}

/// How often a CPU that crashes looks whether the dump goes on that has just begun, or is about to end. That takes the dump a
/// small part of a second, and the looks a larger one.
const LOOKS_AT_CROSSING: u32 = 200_000_000;

/// What a dump is begun with.
struct Entry<'e> {
    crash: &'e Crash<'e>,
    resumes: bool,
    cpu: u32,
    phase: &'e AtomicU32,
}

/// How it ended.
struct End {
    outcome: Outcome,
    /// Whether the armed state is not to be relied on any more.
    harmed: bool,
    /// Whether the other CPUs were stopped.
    frozen: bool,
}

/// Checks the seal, then runs the dump on the stack in the arena, if the platform can switch to it.
fn checked(
    armed: &mut Armed<'_>,
    vitals: Option<&Vitals>,
    platform: &dyn Platform,
    entry: &Entry<'_>,
) -> End {
    let Entry { crash, resumes, cpu, phase: runs_on } = *entry;
    let begin = platform.now();
    CRASHDUMP_MODE.store(true, Ordering::Release);
    if let Some(vitals) = vitals {
        vitals.enter(Step::Seal, begin);
    }
    if let Err(harm) = armed.check_seal() {
        // Not even the stack in the arena can be trusted then.
        let refusal = Refusal::from(harm);
        tell(platform, cpu, crash, resumes);
        record::refused(platform, &refusal);
        if !resumes {
            platform.reset(vitals.map_or(ResetPolicy::Reset, Vitals::reset));
        }
        CRASHDUMP_MODE.store(false, Ordering::Release);
        return End { outcome: Outcome::Refused(refusal), harmed: true, frozen: false };
    }
    // From here on an address: what runs on a stack writes to it, behind any reference.
    let stack = NonNull::from(core::mem::take(&mut armed.stack));
    let painted = Painted::of(stack);
    let mut harmed = false;
    // The crashed stack is being dumped too: what is learnt from here on stays in the arena.
    let mut run = |own_stack: bool| {
        runs_on.store(if own_stack { phase::OWN_STACK } else { phase::BORROWED_STACK }, Ordering::Release);
        tell(platform, cpu, crash, resumes);
        let lacks = if own_stack { Lacks::empty() } else { Lacks::STACK };
        let mut running =
            Running { platform, crash, cpu, begin, lacks, code_checked: 0, harmed: Cell::new(false) };
        let outcome = running.run(armed);
        armed.outcome = outcome;
        harmed = running.harmed.get() || !armed.zones.are_whole();
        if let Outcome::Refused(refusal) = &outcome {
            record::refused(platform, refusal);
        } else if own_stack {
            tell_footprint(platform, armed, &painted);
        }
        if !resumes {
            platform.reset(armed.vitals.reset());
        }
        runs_on.store(phase::CROSSING, Ordering::Release);
    };
    if !platform.on_stack(stack, &mut || run(true)) {
        run(false);
    }
    // SAFETY: it was taken out of the armed state, as the only reference to it, and nobody runs on it any more.
    let stack = unsafe { &mut *stack.as_ptr() };
    paint(stack);
    armed.stack = stack;
    if let Some(queues) = armed.queues {
        queues.set_crashdump_mode(false);
    }
    CRASHDUMP_MODE.store(false, Ordering::Release);
    End { outcome: armed.outcome, harmed, frozen: true }
}

/// Says what the dump used of the memory that it was given. In a frame of its own, so that the dump need not carry it along.
#[inline(never)]
fn tell_footprint(platform: &dyn Platform, armed: &Armed<'_>, painted: &Painted) {
    say(platform, |line| {
        line.text("used ").decimal(painted.used() as u64);
        line.text(" of ").decimal(painted.length() as u64).text(" bytes of stack, ");
        line.decimal(armed.sealed.arena_used).text(" of ");
        line.decimal(armed.sealed.arena_length).text(" bytes of arena, ");
        line.decimal(armed.pool.deepest() as u64).text(" requests in flight");
    });
}
