//! The CPUs that help, each in a place of its own, and what goes between them and the one that dumps.

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

/// How long a stopped CPU waits for the dump to call it: the crashing one checks its code first.
const PATIENCE: Nanoseconds = 60 * SECOND;

/// A helping CPU's place.
mod place {
    pub(super) const FREE: u32 = 0;
    pub(super) const IN_USE: u32 = 1;
    /// Its CPU did not finish in time. It may still be there, so nobody else gets the place.
    pub(super) const LOST: u32 = 2;
}

/// What a helping CPU works with.
pub struct Helper<'a> {
    state: AtomicU32,
    /// The checksum of where stack and buffers are: a CPU that comes to help compares it.
    integrity: u32,
    stack: UnsafeCell<&'a mut [u8]>,
    pack_buffers: UnsafeCell<PackBuffers<'a>>,
}

// SAFETY: stack and buffers are used only by the CPU that moved the state from FREE to IN_USE; both may be
// sent there.
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

/// The checksum of where a helper works.
fn addresses(stack: &[u8], pack_buffers: &PackBuffers<'_>) -> u32 {
    let mut digest = Digest::new();
    digest.number(stack.as_ptr() as u64).number(stack.len() as u64);
    pack_buffers.integrity(&mut digest);
    digest.finish()
}

/// Stopped CPUs, and the jobs between them and the one that dumps.
pub struct HelperPool<'a> {
    open: AtomicBool,
    /// When the dump ends at the latest.
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

    /// Everything that must be the same at the crash, but for what a CPU that was lost in an earlier dump may
    /// still use. What a helper works with is compared with this when one comes.
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
        // Release: who sees it open sees the end.
        self.open.store(true, Ordering::Release);
    }

    /// Sends all helpers away as soon as they have done what they are doing.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// How many CPUs are here to help now.
    pub(crate) fn present(&self) -> usize {
        let here = |helper: &&Helper<'_>| helper.state.load(Ordering::Relaxed) == place::IN_USE;
        self.helpers.iter().flatten().filter(here).count()
    }

    /// A helper has not finished in time: its place goes with it.
    pub(crate) fn dismiss(&self, helper: u32) {
        if let Some(Some(helper)) = self.helpers.get(helper as usize) {
            helper.state.store(place::LOST, Ordering::Relaxed);
        }
    }

    /// Whoever is still here is not counted on any more.
    pub(crate) fn dismiss_all(&self) {
        for helper in self.helpers.iter().flatten() {
            // Not those that leave at this moment.
            let _ = helper.state.compare_exchange(
                place::IN_USE,
                place::LOST,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// What a stopped CPU does while the dump that stopped it runs; `dumping` says whether it does.
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
            // Acquire: the CPU before has left its stack and buffers.
            helper
                .state
                .compare_exchange(place::FREE, place::IN_USE, Ordering::Acquire, Ordering::Relaxed)
                .ok()?;
            Some((number as u32, helper))
        });
        let Some((number, helper)) = mine else { return };
        // SAFETY: this CPU alone moved the state from FREE to IN_USE.
        let (stack, pack_buffers) = unsafe { (&mut **helper.stack.get(), &mut *helper.pack_buffers.get()) };
        let mut given_up = false;
        if addresses(stack, pack_buffers) == helper.integrity {
            // Nothing but the arena may change from here on, so a CPU without a stack of its own does not
            // help.
            let stack = NonNull::from(stack);
            platform.on_stack(stack, &mut || given_up = !self.work(number, pack_buffers, platform));
        }
        // Not if it was dismissed. Release: the next CPU finds stack and buffers left.
        let next = if given_up { place::LOST } else { place::FREE };
        let _ = helper.state.compare_exchange(place::IN_USE, next, Ordering::Release, Ordering::Relaxed);
    }

    /// Works off jobs until the dump is over, or until one was given up, and says `false`.
    fn work(&self, number: u32, pack_buffers: &mut PackBuffers<'_>, platform: &dyn Platform) -> bool {
        let wait = Wait::aside(platform, self.end.load(Ordering::Relaxed));
        // Each turn does a job of the dump, or ends when it is over.
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

/// A job that was taken.
enum Taken<'c, 'a> {
    Check(slots::Job<'c, Check>),
    Unit(slots::Job<'c, &'a mut Unit<'a>>),
}
