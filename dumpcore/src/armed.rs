//! The armed state: what `arm()` accepted, protected by checksums.

use zerocopy::{Immutable, IntoBytes};

use crate::deferred::Queues;
use crate::device::DumpDevice;
use crate::format::chunk::Encoding;
use crate::format::cipher::PublicKey;
use crate::format::header::put_text;
use crate::format::integer::U32;
use crate::format::metrics::{MAX_REFUSALS, Refused};
use crate::format::{Key, Uuid};
use crate::helpers::coordinator::PostedWork;
use crate::helpers::job::{PackBuffers, Unit};
use crate::helpers::pool::HelperPool;
use crate::integrity::{Digest, Harm};
use crate::limits::MAX_TARGETS;
use crate::memory::class::Level;
use crate::memory::map::PfnRange;
use crate::outcome::Outcome;
use crate::partition::member::MemberState;
use crate::partition::pool::Pool;
use crate::partition::verify::Verify;
use crate::partition::window::{Bounds, Scratch, device_integrity};
use crate::stack::RedZones;
use crate::stream::writer::Written;
use crate::text::{Describe, Line};
use crate::time::Nanoseconds;
use crate::vitals::Vitals;

/// The settings accepted by `arm()`, which must be unchanged at the crash. They are plain numbers without
/// padding, so that their bytes can be checked before any of them is trusted.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Settings {
    /// See [`Settings::verify`].
    pub(crate) verify: u64,
    pub(crate) every: u64,
    pub(crate) budget: Nanoseconds,
    pub(crate) log_tail: u64,
    pub(crate) arena_start: u64,
    pub(crate) arena_end: u64,
    pub(crate) pages: u64,
    pub(crate) code_crc: u64,
    pub(crate) arena_used: u64,
    pub(crate) arena_length: u64,
    /// [`Level`]'s bits.
    pub(crate) level: u64,
    /// An [`Encoding`].
    pub(crate) encoding: u64,
    pub(crate) patience: Nanoseconds,
    /// 1 if risky devices may be used.
    pub(crate) allow_risky: u64,
    /// 1 to stripe over all healthy targets.
    pub(crate) stripe: u64,
    /// 1 if the platform knows classes of pages.
    pub(crate) classes: u64,
}

/// The settings of one target.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct TargetSettings {
    pub(crate) first_block: u64,
    pub(crate) blocks: u64,
    pub(crate) uuid: Uuid,
    /// Zeros if dumps are not encrypted.
    pub(crate) recipient: PublicKey,
    pub(crate) ephemeral: PublicKey,
}

impl TargetSettings {
    /// Where its partition is.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { first: self.first_block, blocks: self.blocks }
    }
}

/// A target.
pub(crate) struct ArmedTarget<'a> {
    pub(crate) settings: TargetSettings,
    pub(crate) device: &'a mut dyn DumpDevice,
    pub(crate) scratch: Scratch,
    pub(crate) state: &'a mut MemberState,
    pub(crate) key: Option<Key>,
}

impl ArmedTarget<'_> {
    /// The checksum of all that stays the same throughout a dump, even when buffers are replaced.
    fn lasting(&self) -> u32 {
        let mut digest = Digest::new();
        digest.bytes(self.settings.as_bytes());
        device_integrity(self.device, &mut digest);
        self.scratch.place_integrity(&mut digest);
        digest.number(core::ptr::from_ref::<MemberState>(self.state) as u64);
        if let Some(key) = &self.key {
            digest.bytes(key.bytes());
        }
        digest.finish()
    }

    /// The checksum of what the driver needs unchanged when it takes the device over.
    fn driver(&self) -> u32 {
        let mut digest = Digest::new();
        self.device.integrity(&mut digest);
        digest.finish()
    }

    fn integrity(&self, digest: &mut Digest) {
        digest.bytes(self.settings.as_bytes());
        device_integrity(self.device, digest);
        self.scratch.integrity(digest);
        digest.number(core::ptr::from_ref::<MemberState>(self.state) as u64);
        if let Some(key) = &self.key {
            digest.bytes(key.bytes());
        }
    }
}

impl Settings {
    /// How a [`Verify`] is stored.
    pub(crate) fn verify_numbers(verify: Verify) -> (u64, u64) {
        match verify {
            Verify::All => (0, 0),
            Verify::Ahead => (1, 0),
            Verify::Sample { every } => (2, every),
        }
    }

    /// How much of the pattern is checked.
    pub(crate) fn verify(&self) -> Verify {
        match self.verify {
            1 => Verify::Ahead,
            2 => Verify::Sample { every: self.every },
            _ => Verify::All,
        }
    }

    /// Which memory is left out.
    pub(crate) fn level(&self) -> Level {
        Level::from_bits_truncate(self.level as u32)
    }

    /// How memory is stored.
    pub(crate) fn encoding(&self) -> Encoding {
        Encoding::from_number(self.encoding as u32).unwrap_or(Encoding::Plain)
    }

    /// Whether risky devices may be used.
    pub(crate) fn allows_risky(&self) -> bool {
        self.allow_risky != 0
    }

    /// Whether a dump is striped over all healthy targets.
    pub(crate) fn stripes(&self) -> bool {
        self.stripe != 0
    }

    /// Whether the platform knows what pages are for.
    pub(crate) fn has_classes(&self) -> bool {
        self.classes != 0
    }

    /// The arena's pages.
    pub(crate) fn arena(&self) -> PfnRange {
        PfnRange { start: self.arena_start, end: self.arena_end }
    }
}

/// Checksums of the parts that must not change while a dump runs.
#[derive(Clone, Copy)]
pub(crate) struct Lasting {
    /// Of what all targets share.
    pub(crate) common: u32,
    /// Of each target's settings, device, key and so on.
    targets: [u32; MAX_TARGETS],
    /// Of each driver's state, until the driver takes its device over.
    drivers: [u32; MAX_TARGETS],
}

impl Lasting {
    pub(crate) const NONE: Lasting =
        Lasting { common: 0, targets: [0; MAX_TARGETS], drivers: [0; MAX_TARGETS] };
}

/// The checksum of what all targets share and must not change while a dump runs.
pub(crate) fn common(settings: &Settings, ram: &[PfnRange], pool: &Pool, zones: &RedZones) -> u32 {
    let mut digest = Digest::new();
    digest.bytes(settings.as_bytes());
    for range in ram {
        digest.number(range.start).number(range.end);
    }
    pool.places_integrity(&mut digest);
    zones.integrity(&mut digest);
    digest.finish()
}

/// Checks that two checksums are equal.
pub(crate) fn same(armed: u32, now: u32) -> Result<(), Harm> {
    if armed == now { Ok(()) } else { Err(Harm::Integrity { armed, now }) }
}

/// Targets without a complete dump, and why.
pub(crate) struct Refusals {
    pub(crate) count: u32,
    pub(crate) first: [Refused; MAX_REFUSALS],
}

impl Refusals {
    pub(crate) const NONE: Refusals = Refusals {
        count: 0,
        first: [const { Refused { target: U32::new(0), begun: U32::new(0), why: [0; 120] } }; MAX_REFUSALS],
    };

    /// Records that a target has no dump.
    pub(crate) fn refused(&mut self, target: usize, why: &dyn Describe) {
        self.add(target, 0, why);
    }

    /// Records that a target has a dump that was begun but is incomplete.
    pub(crate) fn failed(&mut self, target: usize, why: &dyn Describe) {
        self.add(target, 1, why);
    }

    fn add(&mut self, target: usize, begun: u32, why: &dyn Describe) {
        if let Some(slot) = self.first.get_mut(self.count as usize) {
            let mut line = Line::new();
            why.describe(&mut line);
            slot.target = (target as u32).into();
            slot.begun = begun.into();
            put_text(&mut slot.why, line.as_str());
        }
        self.count = self.count.saturating_add(1);
    }
}

/// Everything that a dump uses. It is in the arena, and so is everything that it points to.
pub(crate) struct Armed<'a> {
    pub(crate) settings: Settings,
    /// CRC-32 of the settings and of all pointers.
    pub(crate) numbers_crc: u32,
    /// CRC-32 of the data that the pointers lead to.
    pub(crate) targets_crc: u32,
    /// Checksums that are compared again while the dump runs.
    pub(crate) lasting: Lasting,
    pub(crate) ram: &'a [PfnRange],
    pub(crate) queues: Option<&'a Queues>,
    pub(crate) targets: [Option<ArmedTarget<'a>>; MAX_TARGETS],
    pub(crate) pool: Pool,
    pub(crate) helper_pool: Option<&'a HelperPool<'a>>,
    /// The unit that this CPU works on itself.
    pub(crate) own: &'a mut Unit<'a>,
    pub(crate) pack_buffers: PackBuffers<'a>,
    pub(crate) posted: &'a mut PostedWork,
    /// What the running dump has written.
    pub(crate) written: &'a mut Written,
    pub(crate) stack: &'a mut [u8],
    pub(crate) zones: &'a RedZones,
    pub(crate) vitals: &'a Vitals,
    pub(crate) refusals: &'a mut Refusals,
    /// Dumps begun since the keys were made. Protected by a checksum, like the keys: if a number were used
    /// twice, a nonce would be too.
    pub(crate) attempts: u32,
    /// How the dump ended.
    pub(crate) outcome: Outcome,
}

impl<'a> Armed<'a> {
    /// The checksum of all numbers and pointers. Follows no pointer.
    fn numbers(&self) -> u32 {
        let mut digest = Digest::new();
        digest.bytes(self.settings.as_bytes());
        digest.number(self.lasting.common.into());
        for number in self.lasting.targets.iter().chain(&self.lasting.drivers) {
            digest.number((*number).into());
        }
        digest.number(self.ram.as_ptr() as u64).number(self.ram.len() as u64);
        digest.number(self.queues.map_or(0, |queues| core::ptr::from_ref(queues) as u64));
        for target in self.targets.iter().flatten() {
            target.integrity(&mut digest);
        }
        self.pool.integrity(&mut digest);
        digest.number(self.helper_pool.map_or(0, |helper_pool| core::ptr::from_ref(helper_pool) as u64));
        digest.number(core::ptr::from_ref::<Unit<'a>>(self.own) as u64);
        self.pack_buffers.integrity(&mut digest);
        digest.number(core::ptr::from_ref::<PostedWork>(self.posted) as u64);
        digest.number(core::ptr::from_ref::<Written>(self.written) as u64);
        digest.number(self.stack.as_ptr() as u64).number(self.stack.len() as u64);
        digest.number(core::ptr::from_ref(self.zones) as u64);
        digest.number(core::ptr::from_ref(self.vitals) as u64);
        digest.number(core::ptr::from_ref::<Refusals>(self.refusals) as u64);
        digest.number(self.attempts.into());
        digest.finish()
    }

    /// The checksum of what the pointers lead to: the memory map, the helpers' slots, and what the devices'
    /// drivers need unchanged.
    fn targets(&self) -> u32 {
        let mut digest = Digest::new();
        for range in self.ram {
            digest.number(range.start).number(range.end);
        }
        for target in self.targets.iter().flatten() {
            target.device.integrity(&mut digest);
        }
        self.zones.integrity(&mut digest);
        self.own.integrity(&mut digest);
        if let Some(helper_pool) = self.helper_pool {
            helper_pool.integrity(&mut digest);
        }
        digest.finish()
    }

    /// Sets the checksums of the armed state.
    pub(crate) fn set_integrity(&mut self) {
        let lasting = &mut self.lasting;
        lasting.common = common(&self.settings, self.ram, &self.pool, self.zones);
        let checksums = lasting.targets.iter_mut().zip(&mut lasting.drivers);
        for ((lasting, driver), target) in checksums.zip(&self.targets) {
            *lasting = target.as_ref().map_or(0, ArmedTarget::lasting);
            *driver = target.as_ref().map_or(0, ArmedTarget::driver);
        }
        self.numbers_crc = self.numbers();
        self.targets_crc = self.targets();
    }

    /// Prepares for another dump.
    pub(crate) fn renew(&mut self) {
        self.pool.renew();
        self.set_integrity();
    }

    /// Checks the armed state: first the settings, and only then what the pointers lead to.
    ///
    /// # Errors
    /// Which checksum differs, or that a stack overflowed.
    pub(crate) fn check_integrity(&self) -> Result<(), Harm> {
        same(self.numbers_crc, self.numbers())?;
        same(self.targets_crc, self.targets())?;
        if self.zones.are_whole() { Ok(()) } else { Err(Harm::Stack) }
    }

    /// Checks, while a dump runs, the parts that must not change. Drivers are included until they were
    /// `called`.
    ///
    /// # Errors
    /// Which checksum differs, or that a stack overflowed.
    pub(crate) fn check_again(&self, called: impl Fn(usize) -> bool) -> Result<(), Harm> {
        if !self.zones.are_whole() {
            return Err(Harm::Stack);
        }
        same(self.lasting.common, common(&self.settings, self.ram, &self.pool, self.zones))?;
        let checksums = self.lasting.targets.iter().zip(&self.lasting.drivers);
        for (number, ((lasting, driver), target)) in checksums.zip(&self.targets).enumerate() {
            let Some(target) = target else { continue };
            same(*lasting, target.lasting())?;
            if !called(number) {
                same(*driver, target.driver())?;
            }
        }
        Ok(())
    }
}
