//! `Dump`, the one object that a kernel holds: its states, and its entry points `arm`, `crash`, `snapshot`
//! and `help`.

use core::mem::size_of;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::arena::Arena;
use crate::arm::{ArmError, ArmReport, Config, Target, prepare};
use crate::armed::Armed;
use crate::console::say;
use crate::crash::reset::{self, Kernel};
use crate::crash::{self, End, Entry, phase, report};
use crate::helpers::pool::HelperPool;
use crate::outcome::{Crash, Outcome};
use crate::platform::{Platform, Registers};
use crate::stack::{RED_ZONE, STACK_SIZE};
use crate::twice::Twice;
use crate::vitals::{Step, Vitals};

/// The states of a [`Dump`], in the low byte of its state word. The other bits hold the number of the dumping
/// CPU.
mod state {
    pub(super) const EMPTY: u32 = 0;
    pub(super) const ARMING: u32 = 1;
    pub(super) const ARMED: u32 = 2;
    pub(super) const DUMPING: u32 = 3;
    pub(super) const SPENT: u32 = 4;
    pub(super) const MASK: u32 = 0xff;
    /// Together with DUMPING: the kernel continues afterwards.
    pub(super) const LIVE: u32 = 1 << 31;

    /// The state word of a dump by this CPU.
    pub(super) fn dumping(cpu: u32) -> u32 {
        DUMPING | (cpu.wrapping_shl(8) & !LIVE)
    }

    /// Which CPU a state word names.
    pub(super) fn cpu(word: u32) -> u32 {
        (word & !LIVE) >> 8
    }
}

/// How often a crashing CPU polls whether a dump gets past the switch of stacks. The dump needs a small
/// fraction of a second for that, and this many polls take longer.
const LOOKS_AT_CROSSING: u32 = 200_000_000;

/// A dump, armed or not. A kernel usually has one, in a `static`.
///
/// The pointers are stored twice, so that a stray write to them is noticed before they are followed.
pub struct Dump<'a> {
    /// See [`state`].
    state: AtomicU32,
    /// Number of crashes inside the dump.
    nested: AtomicU32,
    armed: Twice<Armed<'a>>,
    vitals: Twice<Vitals>,
    helper_pool: Twice<HelperPool<'a>>,
    /// Whether the running dump is of a live kernel.
    resumes: AtomicBool,
    /// Which stack the dumping CPU runs on; see [`phase`].
    phase: AtomicU32,
    /// Start of the red zone below the dump's stack.
    stack: Twice<u8>,
}

impl<'a> Dump<'a> {
    /// A dump that is not armed.
    pub const fn new() -> Dump<'a> {
        Dump {
            state: AtomicU32::new(state::EMPTY),
            nested: AtomicU32::new(0),
            armed: Twice::new(),
            vitals: Twice::new(),
            helper_pool: Twice::new(),
            resumes: AtomicBool::new(false),
            phase: AtomicU32::new(phase::CROSSING),
            stack: Twice::new(),
        }
    }

    /// Disarms the dump, so that [`arm`](Dump::arm) may be called again. Returns false if nothing is armed or
    /// a dump is running.
    ///
    /// Wipes the keys of encrypted dumps. Does not touch devices, and does not free the arena's memory:
    /// before reusing it, the caller has to know that the device of an
    /// [`Exclusive`](crate::Ownership::Exclusive) target no longer accesses it.
    pub fn disarm(&self) -> bool {
        let change = |from| {
            self.state.compare_exchange(from, state::ARMING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if !change(state::ARMED) && !change(state::SPENT) {
            return false;
        }
        if let Some(armed) = self.armed.take() {
            let bytes = armed.cast::<u8>();
            for at in 0..size_of::<Armed<'_>>() {
                // SAFETY: the pointer is what arm() stored: a value in the arena that is no longer used and
                // is never dropped. It is not read, because it may be damaged.
                unsafe { bytes.add(at).write_volatile(0) };
            }
        }
        self.state.store(state::EMPTY, Ordering::Release);
        true
    }

    /// The armed state.
    ///
    /// # Safety
    /// Only for the CPU that moved the state from ARMED to DUMPING; once, and until that CPU moves the state
    /// on.
    #[allow(clippy::mut_from_ref, reason = "the state word makes it exclusive")]
    unsafe fn take_armed(&self) -> Option<&mut Armed<'a>> {
        // SAFETY: the pointer is what arm() stored: a value in the arena, alive for 'a, that no one else uses
        // until the state moves on.
        self.armed.get().map(|mut armed| unsafe { armed.as_mut() })
    }

    /// Address and size of the armed state: for tests that damage it.
    #[cfg(any(test, feature = "test-utils"))]
    pub fn armed_state(&self) -> (*mut u8, usize) {
        (self.armed.raw().cast(), size_of::<Armed<'_>>())
    }

    /// The vitals, once armed.
    fn vitals(&self) -> Option<&'a Vitals> {
        // SAFETY: the pointer is what arm() stored: a value in the arena, shared for 'a.
        self.vitals.get().map(|vitals| unsafe { vitals.as_ref() })
    }

    /// Addresses of the dump's stack and of the red zone below it, once armed.
    fn own_stack(&self) -> Range<usize> {
        self.stack.get().map_or(0..0, |start| {
            let start = start.addr().get();
            start..start.saturating_add(RED_ZONE).saturating_add(STACK_SIZE)
        })
    }

    /// The helper pool, if one is armed.
    fn helper_pool(&self) -> Option<&'a HelperPool<'a>> {
        // SAFETY: the pointer is what arm() stored: a value in the arena, shared for 'a.
        self.helper_pool.get().map(|helper_pool| unsafe { helper_pool.as_ref() })
    }

    /// Acquires everything that a dump to one of `targets`, best first, will need, and protects it with a
    /// checksum. `arena` should have [`Arena::DEFAULT_SIZE`]; a smaller one makes the dump slower. Without
    /// optimisation this uses some 60 KiB of stack.
    ///
    /// # Errors
    /// Why the dump cannot be armed. The devices are idle again and unchanged.
    pub fn arm(
        &self,
        platform: &dyn Platform,
        targets: impl IntoIterator<Item = Target<'a>>,
        arena: Arena<'a>,
        config: Config<'a>,
    ) -> Result<ArmReport, ArmError> {
        self.state
            .compare_exchange(state::EMPTY, state::ARMING, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|_| ArmError::AlreadyArmed)?;
        match prepare(platform, &mut targets.into_iter(), arena, config) {
            Ok((armed, report)) => {
                let helper_pool = armed
                    .helper_pool
                    .map_or(core::ptr::null_mut(), |helper_pool| core::ptr::from_ref(helper_pool).cast_mut());
                self.helper_pool.set(helper_pool);
                self.stack.set(armed.stack.as_mut_ptr().wrapping_sub(RED_ZONE));
                self.vitals.set(core::ptr::from_ref(armed.vitals).cast_mut());
                self.armed.set(core::ptr::from_mut(armed));
                self.state.store(state::ARMED, Ordering::Release);
                Ok(report)
            }
            Err(error) => {
                self.state.store(state::EMPTY, Ordering::Release);
                Err(error)
            }
        }
    }
}

impl<'a> Dump<'a> {
    /// Dumps, from the moment of the crash to the reset policy. Interrupts must be off on this CPU.
    ///
    /// May be called by several CPUs at once, and again by code that crashes inside the dump. If the reset
    /// policy is to return, the dump is armed again: the next crash writes its dump after this one.
    pub fn crash(&self, platform: &dyn Platform, crash: &Crash<'_>) -> Outcome {
        self.dump(platform, crash, Kernel::Crashed)
    }

    /// Dumps a live kernel, which continues afterwards: the other CPUs are stopped, memory is written, the
    /// device is shut down, the CPUs are [resumed](Platform::resume_cpus), and the dump is armed again. The
    /// disk must be reserved for the dump, or have a driver that can take it back. Interrupts must be off on
    /// this CPU.
    ///
    /// A crash during the snapshot is treated as a crash: the reset policy follows.
    pub fn snapshot(&self, platform: &dyn Platform, crash: &Crash<'_>) -> Outcome {
        self.dump(platform, crash, Kernel::Live)
    }

    /// For a stopped CPU that has recorded its registers: helps the running dump, on a stack in the arena,
    /// until the dump is over. Returns at once if there is nothing to help with. Afterwards the caller stays
    /// stopped or, if the kernel [continues](Dump::resumes), waits to be resumed.
    pub fn help(&self, platform: &dyn Platform) {
        if let Some(helper_pool) = self.helper_pool() {
            helper_pool
                .help(platform, &|| self.state.load(Ordering::Acquire) & state::MASK == state::DUMPING);
        }
    }

    /// Whether the running dump is a [snapshot of a live kernel](Dump::snapshot).
    pub fn resumes(&self) -> bool {
        self.resumes.load(Ordering::Acquire)
    }

    fn dump(&self, platform: &dyn Platform, crash: &Crash<'_>, kernel: Kernel) -> Outcome {
        let cpu = platform.cpu();
        let mine = state::dumping(cpu);
        let begun = if kernel == Kernel::Live { mine | state::LIVE } else { mine };
        let claimed = self.state.compare_exchange(state::ARMED, begun, Ordering::Acquire, Ordering::Acquire);
        if let Err(found) = claimed {
            return match found & state::MASK {
                state::DUMPING if self.is_inside(found, mine, crash.registers) => {
                    self.crashed_inside(platform, crash)
                }
                state::DUMPING => {
                    Outcome::OtherCpu { cpu: state::cpu(found), resumes: found & state::LIVE != 0 }
                }
                _ => {
                    report::crash(platform, cpu, crash, kernel);
                    self.not_armed(platform, found, kernel)
                }
            };
        }
        self.resumes.store(kernel == Kernel::Live, Ordering::Release);
        self.nested.store(0, Ordering::Release);
        // SAFETY: only this CPU moved the state from ARMED to DUMPING, and it uses the armed state only until
        // it moves the state on.
        let armed = unsafe { self.take_armed() };
        let entry = Entry { platform, crash, kernel, cpu, phase: &self.phase, vitals: self.vitals() };
        let End { outcome, harmed, stopped } = crash::run(armed, &entry);
        self.state.store(if harmed { state::SPENT } else { state::ARMED }, Ordering::Release);
        if kernel == Kernel::Live && stopped {
            platform.resume_cpus();
        }
        outcome
    }

    /// Nothing can be dumped: never armed, or an earlier dump found the armed state damaged.
    fn not_armed(&self, platform: &dyn Platform, found: u32, kernel: Kernel) -> Outcome {
        let spent = found == state::SPENT;
        say(platform, |line| {
            line.text(if spent { "the armed state was found harmed before" } else { "not armed" });
        });
        if spent {
            reset::carry_out(platform, kernel, self.vitals());
        }
        Outcome::NotArmed
    }

    /// Whether the dump itself crashed, rather than another CPU while it runs. `found` is the state word, and
    /// `mine` what it would be if this CPU were dumping. The stack decides: a platform may report a wrong CPU
    /// number, but the stack is where it is.
    #[inline(never)]
    fn is_inside(&self, found: u32, mine: u32, registers: &Registers) -> bool {
        let marker = 0_u8;
        let here = (&raw const marker).addr();
        let stack = self.own_stack();
        // A fault may be handled on another stack; then the registers tell where it came from.
        if stack.contains(&here) || stack.contains(&(registers.stack_pointer() as usize)) {
            return true;
        }
        let alike = found & !state::LIVE == mine;
        if alike && self.phase.load(Ordering::Acquire) == phase::CROSSING {
            // If the dump runs on another CPU, that CPU will soon be on the dump's stack, or done. If it is
            // this one, that never happens while it polls.
            let moved_on = |_| {
                self.phase.load(Ordering::Acquire) != phase::CROSSING
                    || self.state.load(Ordering::Acquire) != found
            };
            if !(0..LOOKS_AT_CROSSING).any(moved_on) {
                return true;
            }
        }
        // Without a stack of its own, the CPU number is all there is.
        alike && self.phase.load(Ordering::Acquire) == phase::BORROWED_STACK
    }

    /// A crash inside the dump: a short record, and the reset policy. The second time, only the reset policy.
    /// The third time nothing, because then it is the reset that crashes.
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
                report::on_one_line(line, crash.message);
            });
        }
        // Even for a live kernel: a crash inside a dump is a crash.
        reset::carry_out(platform, Kernel::Crashed, vitals);
        Outcome::Nested
    }
}

impl Default for Dump<'_> {
    fn default() -> Self {
        Self::new()
    }
}
