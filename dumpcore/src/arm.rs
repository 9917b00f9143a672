//! `arm()`: while the kernel is healthy, take over all that a dump will need, check it, and seal it.

use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use crate::arena::{Arena, OutOfArena};
use crate::armed::{Armed, STACK_PAINT, Sealed, Vitals};
use crate::console::{Describe, Line};
use crate::crash::Outcome;
use crate::deferred::Queues;
use crate::device::{DeviceError, DumpDevice, Health};
use crate::display_by_describe;
use crate::format::chunk::MAX_PAYLOAD_BLOCKS;
use crate::format::header::Header;
use crate::format::label::MIN_BLOCKS;
use crate::format::{BLOCK_SIZE, PAGE_BYTES, Uuid};
use crate::integrity;
use crate::memory::map::{self, PfnRange};
use crate::partition::io::{MAX_BUFFERS, Pool};
use crate::partition::place::{self, Unfit};
use crate::partition::verify::Verify;
use crate::partition::window::Window;
use crate::platform::{Nanoseconds, Platform, ResetPolicy};
use crate::wait::{SECOND, Wait};

/// Bytes of the stack that the dump runs on.
pub const STACK_SIZE: usize = 16 << 10;

/// Buffers that a dump needs at least: one is filled while another is written.
const MIN_BUFFERS: usize = 2;

/// Buffers from which on more payload in each is worth more than another buffer.
const GOOD_BUFFERS: usize = 6;

/// Who else uses the disk while the kernel is healthy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// Nobody: `arm()` takes the device over, reads the label and the first pattern block, and leaves it at rest.
    Exclusive,
    /// The kernel's own driver: `arm()` does not touch the device. The uuid must be given.
    Shared,
}

/// Where a dump goes: a partition of a device.
pub struct Target<'a> {
    /// The disk.
    pub device: &'a mut dyn DumpDevice,
    /// First block of the partition on the disk, in units of 4096 bytes.
    pub first_block: u64,
    /// Size of the partition in blocks.
    pub blocks: u64,
    /// The label's uuid, if the caller knows it. It must then be this one. Required with [`Ownership::Shared`].
    pub uuid: Option<Uuid>,
    /// Who else uses the disk.
    pub ownership: Ownership,
}

/// How to dump.
#[derive(Clone)]
pub struct Config<'a> {
    /// How much of the pattern is checked, and when.
    pub verify: Verify,
    /// Nanoseconds from `crash()` to its end, at most. What is not written by then is left out.
    pub budget: Nanoseconds,
    /// Nanoseconds that one request to the device may take.
    pub request_timeout: Nanoseconds,
    /// What happens afterwards.
    pub reset: ResetPolicy,
    /// Bytes of the kernel log's end that go into the dump, at most.
    pub log_tail: u64,
    /// Private timers and tasklets of the target's driver, if it uses them. Best placed in the arena.
    pub queues: Option<&'a Queues>,
}

impl Default for Config<'_> {
    fn default() -> Self {
        Config {
            verify: Verify::All,
            budget: 600 * SECOND,
            request_timeout: 10 * SECOND,
            reset: ResetPolicy::Reset,
            log_tail: 64 << 10,
            queues: None,
        }
    }
}

/// What `arm()` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArmReport {
    /// Bytes of the arena in use.
    pub arena_used: usize,
    /// Bytes of the arena.
    pub arena_length: usize,
    /// Requests that can be in flight.
    pub buffers: usize,
    /// Bytes of memory that each carries.
    pub payload: usize,
    /// Pages that a dump will look at.
    pub pages: u64,
    /// Bytes of code and read-only data under the integrity check.
    pub code_bytes: u64,
}

/// Why `arm()` refused. Nothing is armed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArmError {
    /// It is armed already, or dumping.
    AlreadyArmed,
    /// The arena is too small.
    Arena(OutOfArena),
    /// The arena is not made of whole pages, so it cannot be left out of the dump.
    ArenaMisaligned {
        /// Its physical address.
        physical: u64,
    },
    /// [`Ownership::Shared`] without a uuid: another disk's partition could not be told from the right one.
    UuidMissing,
    /// The platform named no RAM.
    NoMemory,
    /// The partition is smaller than the smallest dump.
    TooSmall {
        /// Its blocks.
        blocks: u64,
    },
    /// The budget or the request timeout is 0.
    NoTime,
    /// The device cannot be used.
    Device(DeviceError),
    /// The partition may not be written.
    Unfit(Unfit),
}

impl From<OutOfArena> for ArmError {
    fn from(error: OutOfArena) -> ArmError {
        ArmError::Arena(error)
    }
}

impl Describe for ArmError {
    fn describe(&self, line: &mut Line) {
        match *self {
            ArmError::AlreadyArmed => {
                line.text("a dump is armed already");
            }
            ArmError::Arena(OutOfArena { bytes }) => {
                line.text("the arena has no room for ")
                    .decimal(bytes as u64)
                    .text(" more bytes; make it larger");
            }
            ArmError::ArenaMisaligned { physical } => {
                line.text("the arena at ").hex(physical).text(" is not made of whole pages");
            }
            ArmError::UuidMissing => {
                line.text("a disk that another driver uses needs its partition's uuid");
            }
            ArmError::NoMemory => {
                line.text("the platform named no RAM");
            }
            ArmError::TooSmall { blocks } => {
                line.text("a partition of ")
                    .decimal(blocks)
                    .text(" blocks is too small, ")
                    .decimal(MIN_BLOCKS);
                line.text(" are the least");
            }
            ArmError::NoTime => {
                line.text("budget and request timeout must not be 0");
            }
            ArmError::Device(error) => error.describe(line),
            ArmError::Unfit(unfit) => unfit.describe(line),
        }
    }
}

display_by_describe!(ArmError);

/// The states of a [`Dump`], in the low byte of its state word; the CPU that dumps is in the others.
pub(crate) mod state {
    pub(crate) const EMPTY: u32 = 0;
    pub(crate) const ARMING: u32 = 1;
    pub(crate) const ARMED: u32 = 2;
    pub(crate) const DUMPING: u32 = 3;
    pub(crate) const SPENT: u32 = 4;
    pub(crate) const MASK: u32 = 0xff;
}

/// A dump, armed or not: usually one `static` of the kernel.
///
/// The pointers are stored twice, once with all bits turned round: a stray write that hits them is noticed before
/// they are followed.
pub struct Dump<'a> {
    /// See [`state`].
    pub(crate) state: AtomicU32,
    /// How many crashes happened inside the dump.
    pub(crate) nested: AtomicU32,
    armed: AtomicPtr<Armed<'a>>,
    armed_turned: AtomicUsize,
    vitals: AtomicPtr<Vitals>,
    vitals_turned: AtomicUsize,
}

impl<'a> Dump<'a> {
    /// A dump that is not armed.
    pub const fn new() -> Dump<'a> {
        Dump {
            state: AtomicU32::new(state::EMPTY),
            nested: AtomicU32::new(0),
            armed: AtomicPtr::new(core::ptr::null_mut()),
            armed_turned: AtomicUsize::new(0),
            vitals: AtomicPtr::new(core::ptr::null_mut()),
            vitals_turned: AtomicUsize::new(0),
        }
    }

    /// The armed state.
    ///
    /// # Safety
    /// Only for the CPU that moved the state from ARMED to DUMPING, and only once.
    pub(crate) unsafe fn take_armed(&self) -> Option<&'a mut Armed<'a>> {
        let armed = self.armed.load(Ordering::Acquire);
        if armed as usize != !self.armed_turned.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the pointer is what arm() stored: a value in the arena, borrowed for 'a, that nobody else uses.
        NonNull::new(armed).map(|mut armed| unsafe { armed.as_mut() })
    }

    /// Where the armed state lies, and its size: for tests that spoil it.
    #[cfg(any(test, feature = "test-utils"))]
    pub fn armed_state(&self) -> (*mut u8, usize) {
        (self.armed.load(Ordering::Acquire).cast(), size_of::<Armed<'_>>())
    }

    /// The vitals, once armed.
    pub(crate) fn vitals(&self) -> Option<&'a Vitals> {
        let vitals = self.vitals.load(Ordering::Acquire);
        if vitals as usize != !self.vitals_turned.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the pointer is what arm() stored: a value in the arena, shared for 'a.
        NonNull::new(vitals).map(|vitals| unsafe { vitals.as_ref() })
    }

    /// Takes over everything that a dump to `target` will need, and seals it. `arena` should have
    /// [`Arena::DEFAULT_SIZE`]; a smaller one makes a slower dump.
    ///
    /// # Errors
    /// Why the dump cannot be armed. The device is at rest again, and nothing on it was changed.
    pub fn arm(
        &self,
        platform: &dyn Platform,
        target: Target<'a>,
        arena: Arena<'a>,
        config: Config<'a>,
    ) -> Result<ArmReport, ArmError> {
        self.state
            .compare_exchange(state::EMPTY, state::ARMING, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|_| ArmError::AlreadyArmed)?;
        match prepare(platform, target, arena, config) {
            Ok((armed, report)) => {
                let vitals = core::ptr::from_ref(armed.vitals).cast_mut();
                self.vitals.store(vitals, Ordering::Release);
                self.vitals_turned.store(!(vitals as usize), Ordering::Release);
                let armed = core::ptr::from_mut(armed);
                self.armed.store(armed, Ordering::Release);
                self.armed_turned.store(!(armed as usize), Ordering::Release);
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

impl Default for Dump<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// Payload blocks of a chunk, and number of buffers: the largest chunks of which enough fit into `bytes`.
fn divide(bytes: usize, max_transfer: usize, depth: usize) -> Option<(usize, usize)> {
    let most = (max_transfer / BLOCK_SIZE).checked_sub(1)?.min(MAX_PAYLOAD_BLOCKS);
    let buffers = |payload: usize| {
        let each = payload.saturating_add(1).saturating_mul(BLOCK_SIZE);
        bytes.checked_div(each).unwrap_or(0).min(depth.saturating_add(1)).min(MAX_BUFFERS)
    };
    let fits = |enough: usize| (1..=most).rev().find(|payload| buffers(*payload) >= enough);
    let payload = fits(GOOD_BUFFERS).or_else(|| fits(MIN_BUFFERS))?;
    Some((payload, buffers(payload)))
}

fn prepare<'a>(
    platform: &dyn Platform,
    target: Target<'a>,
    mut arena: Arena<'a>,
    config: Config<'a>,
) -> Result<(&'a mut Armed<'a>, ArmReport), ArmError> {
    let Target { device, first_block, blocks, uuid, ownership } = target;
    if config.budget == 0 || config.request_timeout == 0 {
        return Err(ArmError::NoTime);
    }
    if blocks < MIN_BLOCKS {
        return Err(ArmError::TooSmall { blocks });
    }
    let end = first_block.saturating_add(blocks);
    let device_blocks = device.geometry().blocks;
    if end > device_blocks {
        return Err(ArmError::Unfit(Unfit::BeyondDevice { end, blocks: device_blocks }));
    }
    let physical = arena.physical();
    if !physical.is_multiple_of(PAGE_BYTES) || !(arena.length() as u64).is_multiple_of(PAGE_BYTES) {
        return Err(ArmError::ArenaMisaligned { physical });
    }
    let arena_pages = PfnRange {
        start: physical / PAGE_BYTES,
        end: physical.saturating_add(arena.length() as u64) / PAGE_BYTES,
    };

    let ram = map::take(platform, &mut arena)?;
    let pages = ram.iter().fold(0_u64, |sum, range| sum.saturating_add(range.pages()));
    if pages == 0 {
        return Err(ArmError::NoMemory);
    }
    let header = arena.place(Header::new())?;
    let vitals = arena.place(Vitals::new(config.reset))?;
    let stack = arena.bytes(STACK_SIZE, 64)?;
    stack.fill(STACK_PAINT);
    let mut scratch = Some(arena.dma(BLOCK_SIZE, BLOCK_SIZE)?);

    // What is left, but for the armed state itself, becomes buffers.
    let state_bytes = size_of::<Armed<'a>>().saturating_add(align_of::<Armed<'a>>());
    let unused = arena.length().saturating_sub(arena.used());
    let room = unused.saturating_sub(state_bytes).saturating_sub(BLOCK_SIZE);
    let too_small = OutOfArena { bytes: 4 * BLOCK_SIZE };
    let (payload, count) = divide(room, device.max_transfer(), device.depth()).ok_or(too_small)?;
    let depth = device.depth().min(count);
    let mut pool = Pool::new(depth, config.request_timeout);
    for _ in 0..count {
        pool.add(arena.dma(payload.saturating_add(1).saturating_mul(BLOCK_SIZE), BLOCK_SIZE)?);
    }

    let uuid = match ownership {
        Ownership::Shared => uuid.ok_or(ArmError::UuidMissing)?,
        Ownership::Exclusive => {
            let wait = Wait::new(platform, None, platform.now().saturating_add(config.budget));
            let mut window = Window::new(device, first_block, blocks, &mut scratch);
            let found = look(&mut window, &mut pool, uuid.as_ref(), &wait);
            // Whatever was found, the device is left at rest; if it cannot be, it is not a device to rely on.
            let settled = pool.settle(&mut window, &wait);
            let rest = settled.and_then(|()| window.device().shutdown(&wait));
            let found = found?;
            rest.map_err(ArmError::Device)?;
            found
        }
    };

    let (code_crc, code_bytes) = integrity::code(platform);
    let (verify, every) = Sealed::verify_numbers(config.verify);
    let arena_used = arena.used().saturating_add(state_bytes).min(arena.length());
    let sealed = Sealed {
        first_block,
        blocks,
        uuid,
        verify,
        every,
        budget: config.budget,
        log_tail: config.log_tail,
        arena_start: arena_pages.start,
        arena_end: arena_pages.end,
        pages,
        code_crc: code_crc.into(),
        arena_used: arena_used as u64,
        arena_length: arena.length() as u64,
    };
    let report = ArmReport {
        arena_used,
        arena_length: arena.length(),
        buffers: count,
        payload: payload.saturating_mul(BLOCK_SIZE),
        pages,
        code_bytes,
    };
    let armed = arena.place(Armed {
        sealed,
        numbers_crc: 0,
        targets_crc: 0,
        ram,
        queues: config.queues,
        device,
        pool,
        scratch,
        header,
        stack,
        vitals,
        outcome: Outcome::NotArmed,
    })?;
    armed.seal();
    Ok((armed, report))
}

/// Looks at a disk that nobody else uses: is there a label, and room behind the dumps that are waiting?
fn look(
    window: &mut Window<'_>,
    pool: &mut Pool,
    uuid: Option<&Uuid>,
    wait: &Wait<'_>,
) -> Result<Uuid, ArmError> {
    if let Health::Unusable(error) = window.device().sanity_check(wait) {
        return Err(ArmError::Device(error));
    }
    window.device().quiesce(wait).map_err(ArmError::Device)?;
    let uuid = place::check_label(window, uuid, wait).map_err(ArmError::Unfit)?;
    place::find(window, pool, &uuid, wait).map_err(ArmError::Unfit)?;
    Ok(uuid)
}
