//! `arm()`: while the kernel is healthy, take over all that a dump will need, check it, and seal it.

use core::mem::size_of;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use zeroize::Zeroizing;

use crate::arena::{Arena, OutOfArena};
use crate::armed::{Armed, ArmedTarget, Lasting, Refusals, Sealed, SealedTarget, Vitals};
use crate::console::{Describe, Line};
use crate::crash::Outcome;
use crate::crew::foreman::{Foreman, Kept};
use crate::crew::job::{OUT_BYTES, UNIT_PAGES, Unit, Workshop};
use crate::crew::{Crew, Helper, MAX_HELPERS};
use crate::deferred::Queues;
use crate::device::{DeviceError, DumpDevice, Geometry, Health};
use crate::display_by_describe;
use crate::format::chunk::{Encoding, MAX_PAYLOAD_BLOCKS};
use crate::format::crypt::{self, Key, PublicKey};
use crate::format::label::MIN_BLOCKS;
use crate::format::{BLOCK_SIZE, PAGE_BYTES, PAGE_SIZE, Uuid};
use crate::integrity;
use crate::memory::class::{ClassRun, Level, PageClass};
use crate::memory::map::{self, PfnRange};
use crate::partition::io::{MAX_BUFFERS, Pool};
use crate::partition::lane::{Books, Lane, Lanes, MAX_TARGETS};
use crate::partition::place::{self, Labelled, Unfit};
use crate::partition::traffic::Traffic;
use crate::partition::verify::Verify;
use crate::partition::window::{Scratch, Window};
use crate::platform::{Nanoseconds, Platform, ResetPolicy};
use crate::stack::{HELPER_RED_ZONE, HELPER_STACK, RED_ZONE, RedZones, STACK_SIZE, paint, wipe_below};
use crate::stream::lz4;
use crate::stream::writer::Written;
use crate::wait::{SECOND, Wait};

/// Buffers that a dump needs at least: one is filled while another is written.
const MIN_BUFFERS: usize = 2;

/// Buffers from which on more payload in each is worth more than another buffer.
const GOOD_BUFFERS: usize = 6;

/// CPUs that may help if nothing else is said.
const DEFAULT_HELPERS: usize = 4;

/// Bytes that are left for buffers before CPUs are let in to help.
const GOOD_FOR_BUFFERS: usize = 256 << 10;

/// Bytes that are left for buffers if memory is to be compressed: two that take a whole unit each.
const LEAST_FOR_PACKED_BUFFERS: usize = 2 * (OUT_BYTES + 3 * BLOCK_SIZE);

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
    /// The public key that the label demands dumps to be encrypted to, if the caller knows the label:
    /// with [`Ownership::Shared`], where nobody reads it before the crash, this is the only way to encrypt.
    pub recipient: Option<PublicKey>,
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
    /// Which memory is left out.
    pub level: Level,
    /// How memory is stored: [`Encoding::Units`] are compressed.
    pub encoding: Encoding,
    /// How many other CPUs may help, at most; there are at most [`MAX_HELPERS`], and one less than CPUs. Each
    /// takes 115 KiB of the arena if memory is compressed. They have to call [`Dump::help`] when they are stopped.
    pub helpers: usize,
    /// Nanoseconds that a helping CPU may take for one unit of work; then the unit is done again, and the CPU is not
    /// relied on any more. At most a quarter of the request timeout, and a sixteenth of the budget.
    pub helper_patience: Nanoseconds,
    /// Whether a device that says it is [risky](Health::Risky) may be used at all: in a second round, when no other is left.
    pub allow_risky: bool,
    /// Whether a dump goes over all healthy targets at once, chunk by chunk in turn, as far as they are encrypted
    /// alike. If one of them fails, the dump begins again on the others.
    pub stripe: bool,
    /// Whether a dump may go to a target in the clear after one before it in the list that demands encryption. Then the same memory
    /// may be on both.
    pub clear_after_encrypted: bool,
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
            level: Level::ZERO,
            encoding: Encoding::Units,
            helpers: DEFAULT_HELPERS,
            helper_patience: SECOND / 2,
            allow_risky: true,
            stripe: false,
            clear_after_encrypted: false,
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
    /// Devices that a dump may go to.
    pub targets: usize,
    /// CPUs that may help.
    pub helpers: usize,
    /// How memory will be stored: not compressed, if the arena is too small for that.
    pub encoding: Encoding,
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
    /// No target was given.
    NoTargets,
    /// More than [`MAX_TARGETS`] targets were given.
    TooManyTargets,
    /// A dump was to go over several targets at once, and two of them are on one [controller](DumpDevice::controller).
    OneController {
        /// The second one's place in the list, from 0.
        target: usize,
    },
    /// [`Ownership::Shared`] without a uuid: another disk's partition could not be told from the right one.
    UuidMissing {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// Dumps have to be encrypted, and the platform has no [entropy](Platform::entropy).
    NoEntropy {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// Dumps have to be encrypted to a public key with which no secret can be shared.
    BadRecipient {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// Dumps to this target would be in the clear, and one before it demands encryption, which
    /// [`Config::clear_after_encrypted`] does not allow.
    InTheClear {
        /// The target's place in the list, from 0.
        target: usize,
    },
    /// The level says kernel only, and the platform calls no page the kernel's.
    NoClasses,
    /// The platform named no RAM.
    NoMemory,
    /// The partition is smaller than the smallest dump.
    TooSmall {
        /// The target's place in the list, from 0.
        target: usize,
        /// Its blocks.
        blocks: u64,
    },
    /// The budget or the request timeout is 0.
    NoTime,
    /// A device cannot be used.
    Device {
        /// The target's place in the list, from 0.
        target: usize,
        /// Why.
        error: DeviceError,
    },
    /// A partition may not be written.
    Unfit {
        /// The target's place in the list, from 0.
        target: usize,
        /// Why.
        unfit: Unfit,
    },
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
            ArmError::NoTargets => {
                line.text("no target was given");
            }
            ArmError::TooManyTargets => {
                line.text("more than ").decimal(MAX_TARGETS as u64).text(" targets were given");
            }
            ArmError::OneController { target } => {
                named(line, target).text(
                    "it is on the controller of another target, which are reset together; do not stripe over them",
                );
            }
            ArmError::UuidMissing { target } => {
                named(line, target).text("a disk that another driver uses needs its partition's uuid");
            }
            ArmError::NoEntropy { target } => {
                named(line, target)
                    .text("the label demands encryption, and the platform has no entropy to make a key");
            }
            ArmError::BadRecipient { target } => {
                named(line, target)
                    .text("the label's public key is not one; format again with a key of keygen");
            }
            ArmError::InTheClear { target } => {
                named(line, target).text("its dumps would be in the clear, and a target before it demands encryption; format it with \
                    --recipient, name it first, or allow clear_after_encrypted");
            }
            ArmError::NoClasses => {
                line.text(
                    "the level says kernel only, and the platform does not say which pages are the kernel's",
                );
            }
            ArmError::NoMemory => {
                line.text("the platform named no RAM");
            }
            ArmError::TooSmall { target, blocks } => {
                named(line, target)
                    .text("a partition of ")
                    .decimal(blocks)
                    .text(" blocks is too small, ")
                    .decimal(MIN_BLOCKS);
                line.text(" are the least");
            }
            ArmError::NoTime => {
                line.text("budget and request timeout must not be 0");
            }
            ArmError::Device { target, error } => error.describe(named(line, target)),
            ArmError::Unfit { target, unfit } => unfit.describe(named(line, target)),
        }
    }
}

display_by_describe!(ArmError);

/// Says which target, but for the first: usually there is no other.
fn named(line: &mut Line, target: usize) -> &mut Line {
    if target > 0 {
        line.text("target ").decimal(target as u64).text(": ");
    }
    line
}

/// The states of a [`Dump`], in the low byte of its state word; the CPU that dumps is in the others.
pub(crate) mod state {
    pub(crate) const EMPTY: u32 = 0;
    pub(crate) const ARMING: u32 = 1;
    pub(crate) const ARMED: u32 = 2;
    pub(crate) const DUMPING: u32 = 3;
    pub(crate) const SPENT: u32 = 4;
    pub(crate) const MASK: u32 = 0xff;
    /// Beside DUMPING: the kernel goes on afterwards.
    pub(crate) const LIVE: u32 = 1 << 31;

    /// The state word of a dump by this CPU.
    pub(crate) fn dumping(cpu: u32) -> u32 {
        DUMPING | (cpu.wrapping_shl(8) & !LIVE)
    }

    /// Which CPU a state word names.
    pub(crate) fn cpu(word: u32) -> u32 {
        (word & !LIVE) >> 8
    }
}

/// Where the CPU that dumps runs.
pub(crate) mod phase {
    /// Between the stack that crashed and the dump's own. Also while no dump runs.
    pub(crate) const CROSSING: u32 = 0;
    /// On the dump's own stack.
    pub(crate) const OWN_STACK: u32 = 1;
    /// On the stack that crashed, since the platform cannot switch.
    pub(crate) const BORROWED_STACK: u32 = 2;
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
    crew: AtomicPtr<Crew<'a>>,
    crew_turned: AtomicUsize,
    /// Whether the running dump is of a kernel that goes on.
    pub(crate) resumes: AtomicBool,
    /// Where the CPU that dumps runs; see [`phase`].
    pub(crate) phase: AtomicU32,
    /// Where the red zone below the dump's stack begins.
    stack: AtomicUsize,
    stack_turned: AtomicUsize,
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
            crew: AtomicPtr::new(core::ptr::null_mut()),
            crew_turned: AtomicUsize::new(0),
            resumes: AtomicBool::new(false),
            phase: AtomicU32::new(phase::CROSSING),
            stack: AtomicUsize::new(0),
            stack_turned: AtomicUsize::new(0),
        }
    }

    /// Takes the dump back: nothing is armed any more, and [`arm`](Dump::arm) may be called again. False if nothing is armed,
    /// or a dump is running.
    ///
    /// The keys of encrypted dumps are wiped. Devices are not touched, and the arena's memory is not given back by it: what an [`Exclusive`](Ownership::Exclusive)
    /// target's device may still hold is the caller's to know before the memory is used for anything else.
    pub fn disarm(&self) -> bool {
        let change = |from| {
            self.state.compare_exchange(from, state::ARMING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if !change(state::ARMED) && !change(state::SPENT) {
            return false;
        }
        let armed = self.armed.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if armed as usize == !self.armed_turned.load(Ordering::Acquire) {
            let bytes = armed.cast::<u8>();
            for at in 0..size_of::<Armed<'_>>() {
                // SAFETY: the pointer is what arm() stored: a value in the arena that nobody uses any more, and that is never
                // dropped. It is not looked at, since it may be harmed.
                unsafe { bytes.add(at).write_volatile(0) };
            }
        }
        self.state.store(state::EMPTY, Ordering::Release);
        true
    }

    /// The armed state.
    ///
    /// # Safety
    /// Only for the CPU that moved the state from ARMED to DUMPING, once, until it moves it on.
    #[allow(clippy::mut_from_ref, reason = "the state word makes it exclusive")]
    pub(crate) unsafe fn take_armed(&self) -> Option<&mut Armed<'a>> {
        let armed = self.armed.load(Ordering::Acquire);
        if armed as usize != !self.armed_turned.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the pointer is what arm() stored: a value in the arena, alive for 'a, that nobody else uses until the state
        // moves on.
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

    /// Addresses of the dump's stack and of the red zone below it, once armed.
    pub(crate) fn own_stack(&self) -> Range<usize> {
        let start = self.stack.load(Ordering::Acquire);
        if start == 0 || start != !self.stack_turned.load(Ordering::Acquire) {
            return 0..0;
        }
        start..start.saturating_add(RED_ZONE).saturating_add(STACK_SIZE)
    }

    /// The crew, once armed, if there is one.
    pub(crate) fn crew(&self) -> Option<&'a Crew<'a>> {
        let crew = self.crew.load(Ordering::Acquire);
        if crew as usize != !self.crew_turned.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the pointer is what arm() stored: a value in the arena, shared for 'a.
        NonNull::new(crew).map(|crew| unsafe { crew.as_ref() })
    }

    /// Takes over everything that a dump to one of `targets`, best first, will need, and seals it. `arena` should have
    /// [`Arena::DEFAULT_SIZE`]; a smaller one makes a slower dump. Where nothing is optimised it takes some 60 KiB of stack.
    ///
    /// # Errors
    /// Why the dump cannot be armed. The devices are at rest again, and nothing on them was changed.
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
                let crew =
                    armed.crew.map_or(core::ptr::null_mut(), |crew| core::ptr::from_ref(crew).cast_mut());
                self.crew.store(crew, Ordering::Release);
                self.crew_turned.store(!(crew as usize), Ordering::Release);
                let stack = armed.stack.as_ptr().addr().wrapping_sub(RED_ZONE);
                self.stack.store(stack, Ordering::Release);
                self.stack_turned.store(!stack, Ordering::Release);
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
///
/// A unit that does not shrink is as long as its pages and a few bytes: chunks are so long that units fit without a
/// hole behind them.
fn divide(bytes: usize, max_transfer: usize, depth: usize, encoding: Encoding) -> Option<(usize, usize)> {
    let most = (max_transfer / BLOCK_SIZE).checked_sub(1)?.min(MAX_PAYLOAD_BLOCKS);
    let buffers = |payload: usize| {
        let each = payload.saturating_add(1).saturating_mul(BLOCK_SIZE);
        bytes.checked_div(each).unwrap_or(0).min(depth.saturating_add(1)).min(MAX_BUFFERS)
    };
    let good =
        |payload: &usize| encoding == Encoding::Plain || *payload < UNIT_PAGES || payload % UNIT_PAGES == 1;
    let fits = |enough: usize| (1..=most).rev().filter(good).find(|payload| buffers(*payload) >= enough);
    let payload = fits(GOOD_BUFFERS).or_else(|| fits(MIN_BUFFERS))?;
    Some((payload, buffers(payload)))
}

/// What the platform's memory is, for a dump.
struct Memory<'a> {
    ram: &'a [PfnRange],
    pages: u64,
    /// Whether the platform knows what any of it is for.
    classes: bool,
    /// Whether any of it is known to be the kernel's.
    kernel: bool,
}

/// Takes the memory map over, and looks at what memory is for.
fn look_at_memory<'a>(platform: &dyn Platform, arena: &mut Arena<'a>) -> Result<Memory<'a>, ArmError> {
    let ram = map::take(platform, arena)?;
    let pages = ram.iter().fold(0_u64, |sum, range| sum.saturating_add(range.pages()));
    if pages == 0 {
        return Err(ArmError::NoMemory);
    }
    let mut memory = Memory { ram, pages, classes: false, kernel: false };
    for range in ram {
        let mut at = range.start;
        // Each turn goes on by at least one page, until both are known.
        while at < range.end && !memory.kernel {
            let ClassRun { class, pages } = platform.class(at);
            memory.classes |= class != PageClass::Unknown;
            memory.kernel |= class.is_kernel();
            at = at.saturating_add(pages.max(1));
        }
    }
    Ok(memory)
}

/// Takes what one CPU packs with; nothing, if nothing is packed.
fn workshop<'a>(arena: &mut Arena<'a>, encoding: Encoding) -> Result<Workshop<'a>, OutOfArena> {
    if encoding == Encoding::Plain {
        return Ok(Workshop::new(&mut [], None));
    }
    let staging = arena.bytes(OUT_BYTES, PAGE_SIZE)?;
    let table = arena.place(lz4::Table::new())?;
    Ok(Workshop::new(staging.as_chunks_mut().0, Some(table)))
}

/// Takes a unit of work.
fn unit<'a>(arena: &mut Arena<'a>, encoding: Encoding) -> Result<&'a mut Unit<'a>, OutOfArena> {
    let out = if encoding == Encoding::Plain { &mut [] } else { arena.bytes(OUT_BYTES, 64)? };
    arena.place(Unit::new(out))
}

/// Bytes of the arena that one CPU takes to pack, and one unit; with what alignment may cost.
const fn costs(encoding: Encoding) -> (usize, usize) {
    let unit = size_of::<Unit<'_>>().saturating_add(256);
    match encoding {
        Encoding::Plain => (0, unit),
        Encoding::Units => (
            OUT_BYTES.saturating_add(size_of::<lz4::Table>()).saturating_add(PAGE_SIZE),
            unit.saturating_add(OUT_BYTES),
        ),
    }
}

/// How memory can be stored, and how many CPUs can help, in an arena with this much room.
fn afford(room: usize, encoding: Encoding, helpers: usize) -> (Encoding, usize) {
    let for_all = |encoding: Encoding, helpers: usize| {
        let (packs, unit) = costs(encoding);
        let each = HELPER_RED_ZONE
            .saturating_add(HELPER_STACK)
            .saturating_add(packs)
            .saturating_add(unit.saturating_mul(2));
        packs.saturating_add(unit).saturating_add(each.saturating_mul(helpers))
    };
    let fits = |encoding: Encoding, helpers: usize, rest: usize| {
        room >= for_all(encoding, helpers).saturating_add(rest)
    };
    let encoding = if fits(encoding, 0, LEAST_FOR_PACKED_BUFFERS) { encoding } else { Encoding::Plain };
    let helpers = (0..=helpers).rev().find(|helpers| fits(encoding, *helpers, GOOD_FOR_BUFFERS));
    (encoding, helpers.unwrap_or(0))
}

/// Makes the crew's places and units.
fn crew<'a>(
    arena: &mut Arena<'a>,
    encoding: Encoding,
    helpers: usize,
    zones: &mut RedZones,
) -> Result<Option<&'a Crew<'a>>, OutOfArena> {
    if helpers == 0 {
        return Ok(None);
    }
    let mut places = [const { None }; MAX_HELPERS];
    let mut units = [const { None }; 2 * MAX_HELPERS];
    for place in places.iter_mut().take(helpers) {
        let (zone, stack) = arena.stack(HELPER_RED_ZONE, HELPER_STACK)?;
        zones.add(zone);
        *place = Some(Helper::new(stack, workshop(arena, encoding)?));
    }
    for slot in units.iter_mut().take(helpers.saturating_mul(2)) {
        *slot = Some(unit(arena, encoding)?);
    }
    let crew = Crew::new(places, units.into_iter().flatten());
    Ok(Some(arena.place(crew)?))
}

/// Agrees on the key of each target that demands one, where the key stays: with an ephemeral secret that nobody has afterwards.
/// The caller wipes the stack afterwards.
#[inline(never)]
fn derive_keys(
    platform: &dyn Platform,
    targets: &mut [Option<ArmedTarget<'_>>; MAX_TARGETS],
    demanded: &[bool; MAX_TARGETS],
) -> Result<(), ArmError> {
    let mut secret = Zeroizing::new([0; 32]);
    let mut public = None;
    for (number, (target, demanded)) in targets.iter_mut().zip(demanded).enumerate() {
        let Some(target) = target.as_mut().filter(|_| *demanded) else { continue };
        if public.is_none() {
            if !platform.entropy(&mut secret) {
                return Err(ArmError::NoEntropy { target: number });
            }
            public = Some(crypt::public_key(&secret));
        }
        let ephemeral = public.unwrap_or_default();
        let recipient = &target.sealed.recipient;
        if !target.key.insert(Key::NONE).derive(&secret, recipient, &ephemeral, recipient) {
            return Err(ArmError::BadRecipient { target: number });
        }
        target.sealed.ephemeral = ephemeral;
    }
    Ok(())
}

fn prepare<'a>(
    platform: &dyn Platform,
    targets: &mut dyn Iterator<Item = Target<'a>>,
    mut arena: Arena<'a>,
    config: Config<'a>,
) -> Result<(&'a mut Armed<'a>, ArmReport), ArmError> {
    if config.budget == 0 || config.request_timeout == 0 {
        return Err(ArmError::NoTime);
    }
    let physical = arena.physical();
    if !physical.is_multiple_of(PAGE_BYTES) || !(arena.length() as u64).is_multiple_of(PAGE_BYTES) {
        return Err(ArmError::ArenaMisaligned { physical });
    }
    let arena_pages = PfnRange {
        start: physical / PAGE_BYTES,
        end: physical.saturating_add(arena.length() as u64) / PAGE_BYTES,
    };
    let mut armed_targets = [const { None }; MAX_TARGETS];
    let (mut depth, mut max_transfer, mut count_of_targets) = (0_usize, usize::MAX, 0_usize);
    let mut ownerships = [Ownership::Shared; MAX_TARGETS];
    let mut known = [(None, None); MAX_TARGETS];
    for (number, target) in targets.enumerate() {
        let slot = armed_targets.get_mut(number).ok_or(ArmError::TooManyTargets)?;
        depth = depth.saturating_add(target.device.depth());
        max_transfer = max_transfer.min(target.device.max_transfer());
        if let (Some(ownership), Some(known)) = (ownerships.get_mut(number), known.get_mut(number)) {
            *ownership = target.ownership;
            *known = (target.uuid, target.recipient);
        }
        *slot = Some(take_target(number, target, &mut arena)?);
        count_of_targets = number.saturating_add(1);
    }
    if count_of_targets == 0 {
        return Err(ArmError::NoTargets);
    }
    let controllers = || armed_targets.iter().map(|target| target.as_ref()?.device.controller());
    for (target, controller) in controllers().enumerate() {
        let same = |other: Option<u64>| other.is_some() && other == controller;
        if config.stripe && controllers().take(target).any(same) {
            return Err(ArmError::OneController { target });
        }
    }

    let memory = look_at_memory(platform, &mut arena)?;
    if config.level.contains(Level::KERNEL_ONLY) && !memory.kernel {
        return Err(ArmError::NoClasses);
    }
    let vitals = arena.place(Vitals::new(config.reset))?;
    let refusals = arena.place(Refusals::NONE)?;
    let kept = arena.place(Kept::new())?;
    let written = arena.place(Written::default())?;
    let (zone, stack) = arena.own_stack()?;
    paint(stack);
    let zones = arena.place(RedZones::new(zone))?;

    // What is left, but for the armed state itself, is for helpers, and becomes buffers.
    let state_bytes = size_of::<Armed<'a>>()
        .saturating_add(align_of::<Armed<'a>>())
        .saturating_add(size_of::<Crew<'a>>())
        .saturating_add(align_of::<Crew<'a>>());
    let left = |arena: &Arena<'_>| {
        let unused = arena.length().saturating_sub(arena.used());
        unused.saturating_sub(state_bytes).saturating_sub(BLOCK_SIZE)
    };
    let others = (platform.cpus() as usize).saturating_sub(1);
    let wanted = config.helpers.min(others).min(MAX_HELPERS);
    let (encoding, helpers) = afford(left(&arena), config.encoding, wanted);
    let own_workshop = workshop(&mut arena, encoding)?;
    let mut own = unit(&mut arena, encoding)?;
    let crew = crew(&mut arena, encoding, helpers, zones)?;
    let zones: &RedZones = zones;

    let too_small = OutOfArena { bytes: 4 * BLOCK_SIZE };
    let (payload, count) = divide(left(&arena), max_transfer, depth, encoding).ok_or(too_small)?;
    let mut pool = Pool::new(config.request_timeout);
    for _ in 0..count {
        pool.add(arena.dma(payload.saturating_add(1).saturating_mul(BLOCK_SIZE), BLOCK_SIZE)?);
    }

    let mut demanded = [false; MAX_TARGETS];
    let slots = armed_targets.iter_mut().flatten().zip(ownerships).zip(known);
    for (number, ((target, ownership), (uuid, recipient))) in slots.enumerate() {
        let found = match ownership {
            Ownership::Shared => {
                Labelled { uuid: uuid.ok_or(ArmError::UuidMissing { target: number })?, recipient }
            }
            Ownership::Exclusive => {
                let wait = Wait::new(platform, None, platform.now().saturating_add(config.budget));
                let mut foreman = Foreman::new(None, &mut own, kept, 0);
                let found = look(number, target, &mut pool, &mut foreman, uuid.as_ref(), zones, &wait)?;
                if recipient.is_some() {
                    place::check_recipient(found.recipient.as_ref(), recipient.as_ref())
                        .map_err(|unfit| ArmError::Unfit { target: number, unfit })?;
                }
                found
            }
        };
        target.sealed.uuid = found.uuid;
        if let Some(recipient) = found.recipient {
            target.sealed.recipient = recipient;
            if let Some(demanded) = demanded.get_mut(number) {
                *demanded = true;
            }
        } else if demanded.contains(&true) && !config.clear_after_encrypted {
            return Err(ArmError::InTheClear { target: number });
        }
    }

    let (code_crc, code_bytes) = integrity::code(platform);
    let (verify, every) = Sealed::verify_numbers(config.verify);
    let arena_used = arena.used().saturating_add(size_of::<Armed<'a>>()).min(arena.length());
    let sealed = Sealed {
        verify,
        every,
        budget: config.budget,
        log_tail: config.log_tail,
        arena_start: arena_pages.start,
        arena_end: arena_pages.end,
        pages: memory.pages,
        code_crc: code_crc.into(),
        arena_used: arena_used as u64,
        arena_length: arena.length() as u64,
        level: config.level.bits().into(),
        encoding: u64::from(encoding as u32),
        // A disk must not be blamed for a helper, nor the end of the budget be spent on one.
        patience: config.helper_patience.min(config.request_timeout / 4).min(config.budget / 16),
        allow_risky: config.allow_risky.into(),
        stripe: config.stripe.into(),
        classes: memory.classes.into(),
    };
    let report = ArmReport {
        arena_used,
        arena_length: arena.length(),
        buffers: count,
        payload: payload.saturating_mul(BLOCK_SIZE),
        pages: memory.pages,
        code_bytes,
        targets: count_of_targets,
        helpers,
        encoding,
    };
    let armed = arena.place(Armed {
        sealed,
        numbers_crc: 0,
        targets_crc: 0,
        lasting: Lasting::NONE,
        ram: memory.ram,
        queues: config.queues,
        targets: armed_targets,
        pool,
        crew,
        own,
        workshop: own_workshop,
        kept,
        written,
        stack,
        zones,
        vitals,
        refusals,
        attempts: 0,
        outcome: Outcome::NotArmed,
    })?;
    let derived = derive_keys(platform, &mut armed.targets, &demanded);
    wipe_below();
    if let Err(error) = derived {
        // Dropping a key wipes it.
        armed.targets.iter_mut().flatten().for_each(|target| target.key = None);
        return Err(error);
    }
    armed.seal();
    Ok((armed, report))
}

/// Takes a target's part of the arena.
fn take_target<'a>(
    number: usize,
    target: Target<'a>,
    arena: &mut Arena<'a>,
) -> Result<ArmedTarget<'a>, ArmError> {
    let Target { device, first_block, blocks, .. } = target;
    if blocks < MIN_BLOCKS {
        return Err(ArmError::TooSmall { target: number, blocks });
    }
    let end = first_block.saturating_add(blocks);
    if let Some(Geometry { blocks }) = device.geometry()
        && end > blocks
    {
        return Err(ArmError::Unfit { target: number, unfit: Unfit::BeyondDevice { end, blocks } });
    }
    Ok(ArmedTarget {
        sealed: SealedTarget { first_block, blocks, uuid: [0; 16], recipient: [0; 32], ephemeral: [0; 32] },
        device,
        scratch: Scratch::new(arena.dma(BLOCK_SIZE, BLOCK_SIZE)?),
        books: arena.place(Books::new())?,
        key: None,
    })
}

/// Looks at a disk that nobody else uses: is there a label, and room behind the dumps that are waiting? Leaves it at rest.
fn look(
    number: usize,
    target: &mut ArmedTarget<'_>,
    pool: &mut Pool,
    foreman: &mut Foreman<'_, '_>,
    uuid: Option<&Uuid>,
    zones: &RedZones,
    wait: &Wait<'_>,
) -> Result<Labelled, ArmError> {
    let device = |error| ArmError::Device { target: number, error };
    let unfit = |unfit| ArmError::Unfit { target: number, unfit };
    let part = (target.sealed.first_block, target.sealed.blocks);
    let mut window = Window::new(target.device, part, &mut target.scratch, zones);
    if let Health::Unusable(error) = window.device().sanity_check(wait) {
        return Err(device(error));
    }
    let found = window.quiesce(wait).map_err(device).and_then(|()| {
        place::check_size(&mut window).map_err(unfit)?;
        place::check_label(&mut window, uuid, wait).map_err(unfit)
    });
    let mut lanes = Lanes::new();
    let uuid = found.as_ref().map_or([0; 16], |found| found.uuid);
    lanes.push(Lane::new(number, window, &uuid, None, target.books));
    let mut traffic = Traffic { pool, lanes: &mut lanes, foreman, checked: 0 };
    let placed = match &found {
        Ok(_) => place::find(&mut traffic, 0, wait).map(|_| ()).map_err(unfit),
        Err(_) => Ok(()),
    };
    // Whatever was found, the device is left at rest; if it cannot be, it is not a device to rely on.
    let settled = traffic.pool.settle(traffic.lanes, 0, wait);
    let rest = settled.and_then(|()| match traffic.lanes.get_mut(0) {
        Some(lane) => lane.window.device().shutdown(wait),
        None => Ok(()),
    });
    let found = found?;
    placed?;
    rest.map_err(device)?;
    Ok(found)
}
