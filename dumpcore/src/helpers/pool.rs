//! The helper CPUs, each with its own stack and buffers, and the slots that they share with the crashing CPU.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::job::{Check, PackBuffers, Unit};
use super::slots::{self, Slots};
use crate::integrity::Digest;
use crate::limits::MAX_HELPERS;
use crate::platform::Platform;
use crate::time::{Nanoseconds, SECOND};
use crate::wait::Wait;

/// How long a stopped CPU waits for the dump to open the pool: the crashing CPU checks its code first.
const PATIENCE: Nanoseconds = 60 * SECOND;

/// The state of a helper's place.
mod place {
    pub(super) const FREE: u32 = 0;
    pub(super) const IN_USE: u32 = 1;
    /// Its CPU did not finish in time. That CPU may still be using it, so no other CPU gets the place.
    pub(super) const LOST: u32 = 2;
}

/// A helper's place: its stack and buffers.
pub struct Helper<'a> {
    state: AtomicU32,
    /// The checksum of the addresses of stack and buffers, compared by each CPU that comes to help.
    integrity: u32,
    stack: UnsafeCell<&'a mut [u8]>,
    pack_buffers: UnsafeCell<PackBuffers<'a>>,
}

// SAFETY: only the CPU that moved the state from FREE to IN_USE uses stack and buffers, and both are Send.
unsafe impl Sync for Helper<'_> {}

impl<'a> Helper<'a> {
    /// A place for a CPU, with a stack of [`HELPER_STACK`](crate::stack::HELPER_STACK) bytes.
    pub fn new(stack: &'a mut [u8], pack_buffers: PackBuffers<'a>) -> Helper<'a> {
        Helper {
            state: AtomicU32::new(place::FREE),
            integrity: addresses(stack, &pack_buffers),
            stack: UnsafeCell::new(stack),
            pack_buffers: UnsafeCell::new(pack_buffers),
        }
    }
}

/// The checksum of the addresses that a helper uses.
fn addresses(stack: &[u8], pack_buffers: &PackBuffers<'_>) -> u32 {
    let mut digest = Digest::new();
    digest.number(stack.as_ptr() as u64).number(stack.len() as u64);
    pack_buffers.integrity(&mut digest);
    digest.finish()
}

/// The helper CPUs, and the jobs between them and the crashing CPU.
pub struct HelperPool<'a> {
    open: AtomicBool,
    /// The latest time at which the dump ends.
    end: AtomicU64,
    helpers: [Option<Helper<'a>>; MAX_HELPERS],
    pub(super) units: Slots<&'a mut Unit<'a>>,
    pub(super) checks: Slots<Check>,
}

impl<'a> HelperPool<'a> {
    /// A helper pool with these places and units of work.
    pub fn new(
        helpers: [Option<Helper<'a>>; MAX_HELPERS],
        units: impl IntoIterator<Item = &'a mut Unit<'a>>,
    ) -> HelperPool<'a> {
        let places = helpers.iter().flatten().count();
        HelperPool {
            open: AtomicBool::new(false),
            end: AtomicU64::new(0),
            helpers,
            units: Slots::new(units),
            checks: Slots::new((0..places).map(|_| Check::new())),
        }
    }

    /// Feeds in everything that must be the same at the crash, except the places and units that a CPU lost in
    /// an earlier dump may still use. Each arriving CPU compares its own place with this checksum.
    pub fn integrity(&self, digest: &mut Digest) {
        for helper in self.helpers.iter().flatten() {
            digest.number(helper.integrity.into());
        }
        if let Some(mut units) = self.units.owner() {
            units.look_at_free(|unit| {
                digest.number(core::ptr::from_ref::<Unit<'_>>(unit) as u64);
                unit.integrity(digest);
            });
        }
    }

    /// Lets stopped CPUs in, until [`close`](HelperPool::close) or `end`.
    pub(crate) fn open(&self, end: Nanoseconds) {
        self.end.store(end, Ordering::Relaxed);
        // Release: a CPU that sees the pool open also sees the end.
        self.open.store(true, Ordering::Release);
    }

    /// Sends all helpers away once they have finished their current job.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Number of CPUs helping now.
    pub(crate) fn present(&self) -> usize {
        let here = |helper: &&Helper<'_>| helper.state.load(Ordering::Relaxed) == place::IN_USE;
        self.helpers.iter().flatten().filter(here).count()
    }

    /// Marks a helper as lost, and its place with it.
    pub(crate) fn dismiss(&self, helper: u32) {
        if let Some(Some(helper)) = self.helpers.get(helper as usize) {
            helper.state.store(place::LOST, Ordering::Relaxed);
        }
    }

    /// Marks every helper that is still present as lost.
    pub(crate) fn dismiss_all(&self) {
        for helper in self.helpers.iter().flatten() {
            // Fails for those that leave at this moment.
            let _ = helper.state.compare_exchange(
                place::IN_USE,
                place::LOST,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Runs on a stopped CPU while the dump that stopped it runs; `dumping` tells whether it still does.
    pub(crate) fn help(&self, platform: &dyn Platform, dumping: &dyn Fn() -> bool) {
        let wait = Wait::aside(platform, platform.now().saturating_add(PATIENCE));
        let opened = wait.until("the dump to call for help", PATIENCE, || {
            if self.open.load(Ordering::Acquire) { Some(true) } else { (!dumping()).then_some(false) }
        });
        if opened != Ok(true) {
            return;
        }
        let mut places = self.helpers.iter().enumerate();
        let mine = places.find_map(|(number, helper)| {
            let helper = helper.as_ref()?;
            // Acquire: the previous CPU is done with stack and buffers.
            helper
                .state
                .compare_exchange(place::FREE, place::IN_USE, Ordering::Acquire, Ordering::Relaxed)
                .ok()?;
            Some((number as u32, helper))
        });
        let Some((number, helper)) = mine else { return };
        // SAFETY: only this CPU moved the state from FREE to IN_USE.
        let (stack, pack_buffers) = unsafe { (&mut **helper.stack.get(), &mut *helper.pack_buffers.get()) };
        let mut given_up = false;
        if addresses(stack, pack_buffers) == helper.integrity {
            // From here on only the arena may change, so a CPU that cannot switch to the stack in the arena
            // does not help.
            let stack = NonNull::from(stack);
            platform.on_stack(stack, &mut || given_up = !self.work(number, pack_buffers, platform));
        }
        // Fails if this CPU was dismissed. Release: the next CPU may use stack and buffers.
        let next = if given_up { place::LOST } else { place::FREE };
        let _ = helper.state.compare_exchange(place::IN_USE, next, Ordering::Release, Ordering::Relaxed);
    }

    /// Does jobs until the dump is over. Returns `false` if a job of this helper was given up.
    fn work(&self, number: u32, pack_buffers: &mut PackBuffers<'_>, platform: &dyn Platform) -> bool {
        let wait = Wait::aside(platform, self.end.load(Ordering::Relaxed));
        // Each turn does a job of the dump, or ends when the dump is over.
        loop {
            let next = wait.until("a job", Nanoseconds::MAX, || {
                if !self.open.load(Ordering::Acquire) {
                    return Some(None);
                }
                // Checks first: writes wait for them.
                if let Some(check) = self.checks.take(number) {
                    return Some(Some(Taken::Check(check)));
                }
                self.units.take(number).map(|unit| Some(Taken::Unit(unit)))
            });
            let finished = match next {
                Ok(Some(Taken::Check(mut check))) => {
                    check.work();
                    check.finish()
                }
                Ok(Some(Taken::Unit(mut unit))) => {
                    unit.work(pack_buffers, platform);
                    unit.finish()
                }
                Ok(None) | Err(_) => return true,
            };
            if !finished {
                return false;
            }
        }
    }
}

/// A job that this helper took.
enum Taken<'c, 'a> {
    Check(slots::Job<'c, Check>),
    Unit(slots::Job<'c, &'a mut Unit<'a>>),
}
