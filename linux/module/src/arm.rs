//! Arming and disarming. All of it runs under C's lock, in a healthy kernel.

#![allow(clippy::result_large_err, reason = "a line of text, and there is no heap to put it on")]

use core::ffi::{CStr, c_long};

use dump_linux::config::{MAX_PATH, Wanted, Words};
use dump_linux::notes;
use dumpcore::MAX_TARGETS;
use dumpcore::format::frame::Kind;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};
use dumpcore::platform::ResetPolicy;
use dumpcore::text::{Describe, Line};
use dumpcore::{Arena, ArmReport, Config, Ownership};

use crate::disks::{self, Mappings};
use crate::kernel::{self, Memory, Target};
use crate::last::{self, Last};
use crate::lent;
use crate::side::{self, Side};
use crate::{cpus, stop};

/// Maximum length of the parameters in bytes: that of one write to sysfs.
const WORDS: usize = 4096;

/// Size of the arena in bytes: dumpcore's default; twice as much for many CPUs.
const ARENA: usize = 1 << 20;

/// From this many CPUs on, the arena is larger.
const MANY_CPUS: usize = 40;

/// Linux's error numbers.
const EBUSY: c_long = -16;
pub(crate) const EINVAL: c_long = -22;
const ENOMEM: c_long = -12;

/// Everything that is held while a dump is armed, or is being armed.
pub(crate) struct Armed {
    pub(crate) side: &'static Side,
    memory: Memory,
    pub(crate) targets: [Option<(Target, Option<u64>)>; MAX_TARGETS],
    mappings: Mappings,
    pub(crate) report: Option<(ArmReport, [Uuid; MAX_TARGETS])>,
}

impl Armed {
    /// Nothing armed yet with this memory.
    fn new(memory: Memory) -> Armed {
        let targets = [const { None }; MAX_TARGETS];
        Armed { side: side::spare(), memory, targets, mappings: Mappings::new(), report: None }
    }

    /// Dismantles a side that crashes no longer find, or do not find yet; returns its memory.
    fn take_apart(mut self) -> Memory {
        self.side.dump.disarm();
        self.side.linux.take_back();
        for (target, bus) in self.targets.iter().flatten() {
            if let Some(bus) = bus {
                target.unmap(&self.memory, *bus);
            }
        }
        // SAFETY: it is not armed.
        unsafe { self.mappings.give_back() };
        self.memory
    }
}

/// The state under C's lock.
pub(crate) struct State {
    pub(crate) armed: Option<Armed>,
    /// The parameters of the last arming, and their length.
    pub(crate) words: ([u8; WORDS], usize),
    /// The parameters before that, while new ones are tried; the length is 0 if nothing was armed.
    before: ([u8; WORDS], usize),
    /// How long nothing was armed during re-arming, in nanoseconds; `None` if something was armed throughout.
    gap: Option<u64>,
    /// Why the last arming was refused.
    pub(crate) reason: Line,
    pub(crate) refused: bool,
    pub(crate) last: Last,
    /// Buffer for a block that is examined.
    block: Block,
}

/// Why arming failed: a line of text, and Linux's error number.
pub(crate) struct Why(Line, c_long);

impl Why {
    fn new(error: c_long, words: &[&str]) -> Why {
        let mut line = Line::new();
        for word in words {
            line.text(word);
        }
        Why(line, error)
    }

    fn of(error: c_long, words: &[&str], what: &dyn Describe) -> Why {
        let mut why = Why::new(error, words);
        what.describe(&mut why.0);
        why
    }
}

impl State {
    /// Nothing is armed.
    pub(crate) const fn new() -> State {
        State {
            armed: None,
            words: ([0; WORDS], 0),
            before: ([0; WORDS], 0),
            gap: None,
            reason: Line::new(),
            refused: false,
            last: Last::new(),
            block: [0; BLOCK_SIZE],
        }
    }

    /// Arms with these parameters, replacing the armed dump. If that fails, the previous parameters are armed
    /// again. Returns 0 or a negative error number.
    pub(crate) fn arm_as(&mut self, words: &[u8]) -> c_long {
        let (kept, used) = &mut self.words;
        let (old, old_used) = &mut self.before;
        *old = *kept;
        *old_used = if self.armed.is_some() { *used } else { 0 };
        let Some(room) = kept.get_mut(..words.len()) else {
            return self.told(Err(Why::new(EINVAL, &["the words are too long"])));
        };
        room.copy_from_slice(words);
        *used = words.len();
        let result = self.arm();
        let is_refused = result.is_err();
        let answer = self.told(result);
        if is_refused && self.before.1 > 0 {
            self.go_back();
        }
        answer
    }

    /// Arms again, because CPUs or memory have come or gone.
    pub(crate) fn arm_again(&mut self) {
        if self.armed.is_some() {
            let result = self.arm();
            let is_refused = result.is_err();
            self.told(result);
            if is_refused && self.armed.is_some() {
                kernel::say("armed as before", false);
            }
        }
    }

    /// Disarms. Returns 0 or a negative error number.
    pub(crate) fn disarm(&mut self) -> c_long {
        let was = self.armed.is_some();
        match self.let_go() {
            Ok(memory) => {
                drop(memory);
                (self.reason, self.refused) = (Line::new(), false);
                if was {
                    kernel::say("disarmed", false);
                }
                0
            }
            Err(why) => why.1,
        }
    }

    /// Logs and keeps the result of arming; returns the value for C.
    fn told(&mut self, result: Result<ArmReport, Why>) -> c_long {
        match result {
            Ok(report) => {
                (self.reason, self.refused) = (Line::new(), false);
                let mut line = Line::new();
                line.text("armed: ").decimal(report.pages).text(" pages of RAM, ");
                line.decimal(report.targets as u64).text(" targets, ");
                line.decimal(report.arena_used as u64).text(" of ");
                line.decimal(report.arena_length as u64).text(" bytes of memory of its own");
                if let Some(gap) = self.gap {
                    line.text("; nothing was armed for ").decimal(gap / 1000).text(" us");
                }
                kernel::say(line.as_str(), false);
                0
            }
            Err(Why(reason, error)) => {
                let mut line = Line::new();
                line.text("not armed: ").text(reason.as_str());
                kernel::say(line.as_str(), true);
                (self.reason, self.refused) = (reason, true);
                error
            }
        }
    }

    /// Disarms; returns the memory.
    fn let_go(&mut self) -> Result<Option<Memory>, Why> {
        let Some(armed) = self.armed.take() else { return Ok(None) };
        side::switch_to(None);
        if stop::has_begun() {
            side::switch_to(Some(armed.side));
            self.armed = Some(armed);
            return Err(Why::new(EBUSY, &["a dump is running"]));
        }
        let _ = kernel::stop_hooks(false);
        Ok(Some(armed.take_apart()))
    }

    /// Memory for arming, in addition to that of the armed dump. If there is none, disarms and reuses its
    /// memory.
    fn memory(&mut self) -> Result<Memory, Why> {
        let mut cpus = [0; MANY_CPUS];
        let many = kernel::online_cpus(&mut cpus) >= MANY_CPUS;
        let bytes = if many { 2 * ARENA } else { ARENA };
        let why = || Why::new(ENOMEM, &["there is not enough free memory in a row for it"]);
        if let Some(memory) = Memory::take(bytes) {
            return Ok(memory);
        }
        if self.armed.as_ref().is_none_or(|armed| armed.memory.length() < bytes) {
            return Err(why());
        }
        let memory = self.let_go()?.ok_or_else(why)?;
        // SAFETY: everything that used it was dismantled.
        unsafe { memory.clear() };
        Ok(memory)
    }

    /// Parses the parameters. Invalid parameters change nothing that is armed.
    pub(crate) fn parsed(words: &([u8; WORDS], usize)) -> Result<Words<'_>, Why> {
        let (bytes, length) = words;
        let text = bytes.get(..*length).and_then(|bytes| core::str::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| Why::new(EINVAL, &["the words are no text"]))?;
        Words::parse(text).map_err(|error| Why::of(EINVAL, &[], &error))
    }

    /// Arms next to the armed dump, then disarms the old one: a crash finds one of the two at any moment, and
    /// a failed attempt takes nothing away.
    fn arm(&mut self) -> Result<ArmReport, Why> {
        Self::parsed(&self.words)?;
        if let Some(why) = kernel::cannot_arm() {
            return Err(Why::new(EINVAL, &[why]));
        }
        let was_armed = self.armed.is_some();
        let since = kernel::monotonic();
        let mut new = Armed::new(self.memory()?);
        let has_gap = was_armed && self.armed.is_none();
        let mut result = Err(Why::new(ENOMEM, &["there is no memory for it"]));
        kernel::on_large_stack(&mut || result = self.prepare(&mut new));
        self.gap = has_gap.then(|| kernel::monotonic().saturating_sub(since));
        let report = match result {
            Ok(report) => report,
            Err(why) => {
                drop(new.take_apart());
                return Err(why);
            }
        };
        side::switch_to(Some(new.side));
        let hooked = kernel::stop_hooks(true);
        if let Err(error) = hooked {
            side::switch_to(self.armed.as_ref().map(|armed| armed.side));
            drop(new.take_apart());
            return Err(Why::new(error.into(), &["the NMI cannot be used"]));
        }
        let old = self.armed.replace(new);
        if stop::has_begun() {
            // The kernel is panicking and may be using the old one.
            core::mem::forget(old);
        } else if let Some(old) = old {
            drop(old.take_apart());
        }
        Ok(report)
    }

    /// Goes back to the previous parameters, because the new ones were refused, and arms them again unless
    /// they are still armed. The reason for the refusal is kept.
    fn go_back(&mut self) {
        let (words, length) = &mut self.words;
        *words = self.before.0;
        *length = self.before.1;
        if self.armed.is_none()
            && let Err(Why(why, _)) = self.arm()
        {
            let mut line = Line::new();
            line.text("not armed as before either: ").text(why.as_str());
            kernel::say(line.as_str(), true);
            return;
        }
        kernel::say("armed as before", false);
    }

    /// All steps of arming. If it fails, [`Armed::take_apart`] cleans up.
    fn prepare(&mut self, armed: &mut Armed) -> Result<ArmReport, Why> {
        let words = Self::parsed(&self.words)?;
        let Side { dump, linux } = armed.side;

        // Each target as the kernel sees it, its label, and the arena's address for its device.
        let mut labels = [None; MAX_TARGETS];
        let mut place = None;
        let mut is_waiting = false;
        for ((wanted, slot), label) in words.targets().zip(&mut armed.targets).zip(&mut labels) {
            let target = open(wanted, self.armed.as_ref())?;
            let seen = look(wanted, &target, &mut self.block)?;
            *label = Some(seen);
            if !is_waiting {
                is_waiting = last::find(wanted, &target, &seen.0, &mut self.block, &mut self.last);
            }
            let bus = if target.place().translated != 0 {
                let refused = |error: i32| {
                    let why = if error == -95 {
                        "its DMA goes by way of bounce buffers"
                    } else {
                        "its IOMMU has no room"
                    };
                    Why::new(error.into(), &[wanted.path, ": ", why])
                };
                Some(target.map(&armed.memory).map_err(refused)?)
            } else {
                None
            };
            *slot = Some((target, bus));
            let seen = bus.unwrap_or(armed.memory.physical);
            if place.is_some_and(|place| place != seen) {
                let why = ": behind an IOMMU, it sees memory elsewhere than the target before it; name only one of them";
                return Err(Why::new(EINVAL, &[wanted.path, why]));
            }
            place = Some(seen);
        }
        if !is_waiting {
            self.last.none_waits();
        }
        let bus = place.unwrap_or(armed.memory.physical);

        // SAFETY: the previous user of the memory is disarmed, and no device was given any of it: targets are
        // shared, so arm() does not start them.
        let mut arena = unsafe { Arena::new(armed.memory.bytes(), armed.memory.physical, bus) };
        check_notes(&words)?;
        let no_room = |_| Why::new(ENOMEM, &["the arena is too small for so many CPUs"]);
        let cpus = cpus::slots(&mut arena).map_err(no_room)?;
        let lent = lent::lend(&mut arena, &cpus, &words).map_err(no_room)?;
        linux.lend(lent);
        // SAFETY: nothing is armed on this side, and we hold C's lock.
        unsafe { linux.prepare(lent.vmcoreinfo()) };

        let mut uuids = [[0; 16]; MAX_TARGETS];
        let mut opened = [const { None }; MAX_TARGETS];
        let parts = armed.targets.iter().flatten().zip(labels.iter().flatten());
        for ((((target, _), (uuid, recipient)), wanted), (slot, kept)) in
            parts.zip(words.targets()).zip(opened.iter_mut().zip(&mut uuids))
        {
            let place = target.place();
            let device = disks::open(place, words.timeout, &mut armed.mappings, &mut arena)
                .map_err(|error| Why::of(EINVAL, &[wanted.path, ": "], &error))?;
            *kept = *uuid;
            *slot = Some(dumpcore::Target {
                device,
                first_block: place.start / 8,
                blocks: place.sectors / 8,
                uuid: Some(*uuid),
                recipient: *recipient,
                ownership: Ownership::Shared,
            });
        }
        let config = Config {
            verify: words.verify,
            budget: words.budget,
            request_timeout: words.timeout,
            reset: ResetPolicy::Return,
            log_tail: words.log,
            level: lent.level,
            encoding: words.encoding,
            helpers: words.helpers,
            allow_risky: words.risky,
            ..Config::default()
        };
        let report = dump
            .arm(linux, opened.into_iter().flatten(), arena, config)
            .map_err(|error| Why::of(EINVAL, &[], &error))?;
        armed.report = Some((report, uuids));
        Ok(report)
    }
}

/// Refuses crash-note addresses that do not match this kernel's own: registers are written there at the
/// crash. The kernel exports the addresses, so `notes=` is optional; addresses in a file outlive the boot
/// that they belong to.
fn check_notes(words: &Words<'_>) -> Result<(), Why> {
    let Some(stale) = notes::first_stale(words.notes(), kernel::crash_note) else { return Ok(()) };
    let mut why = Why::new(EINVAL, &["notes="]);
    why.0.hex(stale).text(" is not where this kernel keeps the registers of that CPU; leave `notes=` out");
    Err(why)
}

/// Opens a target in the kernel. A target that `armed` already holds cannot be claimed again, and is shared.
fn open(wanted: &Wanted<'_>, armed: Option<&Armed>) -> Result<Target, Why> {
    let mut path = [0; MAX_PATH + 1];
    for (slot, byte) in path.iter_mut().zip(wanted.path.bytes()) {
        *slot = byte;
    }
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Why::new(EINVAL, &["the path is too long"]))?;
    let mut held = armed.iter().flat_map(|armed| armed.targets.iter().flatten()).map(|(target, _)| target);
    let held = held.find(|target| target.is_at(path));
    let target =
        Target::open(path, held).map_err(|(error, why)| Why::new(error, &[wanted.path, ": ", why]))?;
    if !target.place().start.is_multiple_of(8) {
        let why = ": the partition does not begin at a multiple of 4096 bytes; align it";
        return Err(Why::new(EINVAL, &[wanted.path, why]));
    }
    Ok(target)
}

/// Checks a target as far as a healthy kernel should: its label, and the first block after it, which is left
/// in `block`.
fn look(
    wanted: &Wanted<'_>,
    target: &Target,
    block: &mut Block,
) -> Result<(Uuid, Option<dumpcore::format::crypt::PublicKey>), Why> {
    let not_read = || Why::new(-5, &[wanted.path, ": it cannot be read"]);
    if !target.read(0, block) {
        return Err(not_read());
    }
    let Ok(label) = Label::parse(block) else {
        return Err(Why::new(EINVAL, &[wanted.path, ": it has no label; `savecore format` lays one"]));
    };
    let (uuid, blocks, recipient) = (label.uuid, label.blocks.get(), label.recipient().copied());
    if wanted.uuid.is_some_and(|wanted| wanted != uuid) {
        return Err(Why::new(
            EINVAL,
            &[wanted.path, ": its label is another one's: the uuid is not the one that was named"],
        ));
    }
    if blocks > target.place().sectors / 8 {
        return Err(Why::new(EINVAL, &[wanted.path, ": its label says that it is larger than it is"]));
    }
    if !target.read(1, block) {
        return Err(not_read());
    }
    // The pattern, or a waiting dump.
    if !pattern::matches(block, &uuid, 1) && Kind::of(block) != Some(Kind::Front) {
        return Err(Why::new(
            EINVAL,
            &[wanted.path, ": behind its label there is no pattern; `savecore check` tells more"],
        ));
    }
    Ok((uuid, recipient))
}
