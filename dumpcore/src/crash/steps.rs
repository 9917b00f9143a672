//! The steps of a dump behind the seal, in order: freeze, own code, then for one target after another: take over, check, write,
//! close.

use core::cell::Cell;

use crate::armed::{Armed, ArmedTarget, Lasting, Refusals, Sealed, common, same};
use crate::code;
use crate::console::{Progress, say, seconds};
use crate::crash::report;
use crate::deferred::Queues;
use crate::device::{DeviceError, Health};
use crate::format::chunk::RunKind;
use crate::format::cipher::Cipher;
use crate::format::class::PASSES;
use crate::format::frame::Kind;
use crate::format::header::{Arch, Incomplete, Status, put_text};
use crate::helpers::coordinator::{Foreman, Tally};
use crate::helpers::job::Workshop;
use crate::integrity::Harm;
use crate::limits::MAX_TARGETS;
use crate::memory::map::PfnRange;
use crate::outcome::{Crash, Ended, Outcome, Refusal};
use crate::partition::lane::{Lane, Lanes, Lock, Place};
use crate::partition::traffic::Traffic;
use crate::partition::unfit::Unfit;
use crate::partition::verify::{Verify, sample};
use crate::partition::window::Window;
use crate::partition::{find, label};
use crate::platform::{Lacks, Platform};
use crate::stack::RedZones;
use crate::stream::pages::Plan;
use crate::stream::writer::{Identity, Writer, Written};
use crate::stream::{notes, pages};
use crate::text::{Describe, Line};
use crate::time::{Nanoseconds, SECOND};
use crate::vitals::{Step, Vitals};
use crate::wait::Wait;

/// Time at the end of the budget that is kept for closing the dump: an eighth, at most this. A disk may have gigabytes in
/// its cache by then.
const CLOSING: Nanoseconds = 60 * SECOND;

/// A dump under way.
pub(crate) struct Running<'r> {
    pub(crate) platform: &'r dyn Platform,
    pub(crate) crash: &'r Crash<'r>,
    pub(crate) cpu: u32,
    pub(crate) begin: Nanoseconds,
    pub(crate) lacks: Lacks,
    /// When the own code was found unharmed; 0 before.
    pub(crate) code_checked: Nanoseconds,
    /// Whether the dump found itself harmed: then it writes nothing any more, and is not armed again.
    pub(crate) harmed: Cell<bool>,
}

/// What all attempts of a dump share.
struct Shared<'s> {
    sealed: &'s Sealed,
    ram: &'s [PfnRange],
    vitals: &'s Vitals,
    queues: Option<&'s Queues>,
    zones: &'s RedZones,
    lasting: &'s Lasting,
}

/// Which targets: a bit for each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set(u8);

impl Set {
    fn has(self, target: usize) -> bool {
        self.0 & 1_u8.wrapping_shl(target as u32) != 0
    }

    fn add(&mut self, target: usize) {
        self.0 |= 1_u8.wrapping_shl(target as u32);
    }
}

/// How one attempt ended.
struct Attempt {
    outcome: Outcome,
    /// Whether another target would do better.
    go_on: bool,
}

// None of these is inlined into the others: what one needs on the stack, the next need not carry along.
impl Running<'_> {
    /// All steps behind the seal.
    pub(crate) fn run(&mut self, armed: &mut Armed<'_>) -> Outcome {
        let platform = self.platform;
        let budget = armed.sealed.budget;
        let queues = armed.queues;
        let end = self.begin.saturating_add(budget);
        let wait = Wait::new(platform, queues, end);

        armed.vitals.enter(Step::Freeze, platform.now());
        platform.freeze_cpus(&wait);
        // Only now: a CPU that was stopped while it used the private queues would keep them locked for good.
        if let Some(queues) = queues {
            queues.set_crashdump_mode(true);
        }
        self.see_what_is_lacking(&armed.sealed);

        armed.vitals.enter(Step::Code, platform.now());
        let (now, _) = code::checksum(platform);
        let expected = armed.sealed.code_crc;
        if u64::from(now) != expected {
            return Outcome::Refused(Refusal::Code { armed: expected as u32, now });
        }
        self.code_checked = platform.now();
        let crew = armed.crew;
        if let Some(crew) = crew {
            crew.open(end);
        }
        *armed.refusals = Refusals::NONE;
        let outcome = self.targets(armed, &wait);
        if let Some(crew) = crew {
            crew.close();
            // What they work with is sealed again for the next dump: those that do not leave are not let in any more.
            let patience = armed.sealed.patience.saturating_mul(2);
            let leave = Wait::new(platform, queues, platform.now().saturating_add(patience));
            let gone = leave.until("other CPUs", patience, || (crew.present() == 0).then_some(()));
            if gone.is_err() {
                crew.dismiss_all();
            }
        }
        outcome
    }

    /// What the dump will have to do without.
    #[inline(never)]
    fn see_what_is_lacking(&mut self, sealed: &Sealed) {
        let platform = self.platform;
        let silent = |cpu: u32| cpu != self.cpu && platform.registers(cpu).is_none();
        let facts = [
            (Lacks::CODE_CHECK, platform.code_ranges().is_empty()),
            (Lacks::OTHER_CPUS, platform.cpus() == 0 || (0..platform.cpus()).any(silent)),
            (Lacks::WALL_CLOCK, platform.wall_clock().is_none()),
            (Lacks::LOG, sealed.log_tail > 0 && platform.log_length() == 0),
            (Lacks::BUILD_ID, platform.build_id().is_empty()),
            (Lacks::CLASSES, sealed.classes == 0),
            (Lacks::GUARD, !platform.has_guard()),
        ];
        for (what, lacking) in facts {
            self.lacks.set(what, lacking);
        }
    }

    /// Tries the targets in order, healthy ones first, risky ones in a second round, until one has a dump.
    #[inline(never)]
    fn targets(&self, armed: &mut Armed<'_>, wait: &Wait<'_>) -> Outcome {
        let mut best = None;
        // Targets that are not tried any more, and risky ones that wait for their round.
        let (mut out, mut risky) = (Set(0), Set(0));
        // Those whose drivers were called, and may have changed their state.
        let mut called = Set(0);
        for second_round in [false, true] {
            if second_round && (armed.sealed.allow_risky == 0 || wait.expired()) {
                break;
            }
            // Each turn puts at least one target out, and there are only so many.
            for _ in 0..MAX_TARGETS {
                if let Err(harm) = armed.check_again(|target| called.has(target)) {
                    return self.harmed(harm, best);
                }
                let set = self.choose(armed, (&mut out, &mut risky), second_round, &mut best, wait);
                if set == Set(0) {
                    break;
                }
                called = Set(called.0 | set.0);
                let attempt = self.attempt(armed, set, &mut out, wait);
                best = better(best, attempt.outcome);
                if !attempt.go_on || self.harmed.get() {
                    return best.unwrap_or(attempt.outcome);
                }
                if wait.expired() {
                    break;
                }
            }
        }
        best.unwrap_or(Outcome::Refused(Refusal::Unusable(DeviceError::NotReady)))
    }

    /// The dump found itself harmed between two targets.
    #[inline(never)]
    fn harmed(&self, harm: Harm, best: Option<Outcome>) -> Outcome {
        self.harmed.set(true);
        match best {
            Some(begun) if !matches!(begun, Outcome::Refused(_)) => {
                say(self.platform, |line| harm.describe(line.text("no other disk is tried: ")));
                begun
            }
            _ => Outcome::Refused(harm.into()),
        }
    }

    /// The next target, or with striping all that are healthy.
    #[inline(never)]
    fn choose(
        &self,
        armed: &mut Armed<'_>,
        (out, risky): (&mut Set, &mut Set),
        second_round: bool,
        best: &mut Option<Outcome>,
        wait: &Wait<'_>,
    ) -> Set {
        let platform = self.platform;
        let alone = armed.targets.iter().flatten().count() == 1;
        let stripe = armed.sealed.stripe != 0 && !second_round;
        let mut set = Set(0);
        // What the stripes of a dump have in common: half of a secret in the clear is none.
        let mut recipient = None;
        for (number, target) in armed.targets.iter_mut().enumerate() {
            let Some(target) = target else { continue };
            if out.has(number) || (risky.has(number) && !second_round) || (set != Set(0) && !stripe) {
                continue;
            }
            let own = target.key.is_some().then_some(target.sealed.recipient);
            if recipient.is_some_and(|common| common != own) {
                continue;
            }
            armed.vitals.enter(Step::Takeover, platform.now());
            let refusal = match target.device.sanity_check(wait) {
                Health::Healthy => {
                    set.add(number);
                    recipient = Some(own);
                    continue;
                }
                Health::Risky(error) => {
                    if !risky.has(number) {
                        say(platform, |line| {
                            which(line, alone, number).text("the disk looks risky: ");
                            error.describe(line);
                        });
                    }
                    risky.add(number);
                    if second_round {
                        set.add(number);
                        recipient = Some(own);
                        continue;
                    }
                    if armed.sealed.allow_risky != 0 {
                        continue;
                    }
                    Refusal::Risky(error)
                }
                Health::Unusable(error) => Refusal::Unusable(error),
            };
            out.add(number);
            self.refuse(armed.refusals, (number, alone), &refusal);
            *best = better(*best, Outcome::Refused(refusal));
        }
        set
    }

    /// Puts on record why a target has no dump.
    #[inline(never)]
    fn refuse(&self, refusals: &mut Refusals, (target, alone): (usize, bool), refusal: &Refusal) {
        refusals.add(target, false, refusal);
        if !alone {
            say(self.platform, |line| {
                which(line, alone, target).text("refused: ");
                refusal.describe(line);
            });
        }
    }

    /// One dump to a set of targets. Those that do not work are put out.
    #[inline(never)]
    fn attempt(&self, armed: &mut Armed<'_>, set: Set, out: &mut Set, wait: &Wait<'_>) -> Attempt {
        let platform = self.platform;
        let alone = armed.targets.iter().flatten().count() == 1;
        let Armed {
            sealed,
            ram,
            queues,
            targets,
            pool,
            crew,
            own,
            workshop,
            kept,
            written,
            vitals,
            refusals,
            attempts,
            zones,
            lasting,
            ..
        } = armed;
        let shared = Shared { sealed, ram, vitals, queues: *queues, zones, lasting };
        vitals.enter(Step::Takeover, platform.now());
        vitals.clear(Step::Memory);
        vitals.clear(Step::Close);
        pool.forget_lanes();
        let mut lanes = Lanes::new();
        let mut last = Refusal::Unusable(DeviceError::NotReady);
        for (number, target) in targets.iter_mut().enumerate() {
            let Some(target) = target.as_mut().filter(|_| set.has(number)) else { continue };
            if let Err(error) = self.take_over(&mut lanes, number, target, zones, wait) {
                last = Refusal::Takeover(error);
                out.add(number);
                self.refuse(refusals, (number, alone), &last);
            }
        }

        vitals.enter(Step::Verify, platform.now());
        let mut foreman = Foreman::new(*crew, own, kept, sealed.patience);
        let mut traffic = Traffic { pool, lanes: &mut lanes, foreman: &mut foreman, checked: 0 };
        self.check_all(&mut traffic, &shared, (refusals, out, alone), &mut last, wait);
        if traffic.lanes.is_empty() {
            return Attempt { outcome: Outcome::Refused(last), go_on: true };
        }
        if !zones.are_whole() {
            self.harmed.set(true);
            return Attempt { outcome: Outcome::Refused(Refusal::Stack), go_on: false };
        }
        *attempts = attempts.saturating_add(1);
        self.write(traffic, &shared, (workshop, written), (refusals, out, *attempts), wait)
    }

    /// Checks the partition of each lane. Lanes whose partition is not fit for a dump are removed, and so are those whose
    /// device gets stuck; `last` is why.
    #[inline(never)]
    fn check_all(
        &self,
        traffic: &mut Traffic<'_, '_, '_, '_>,
        shared: &Shared<'_>,
        (refusals, out, alone): (&mut Refusals, &mut Set, bool),
        last: &mut Refusal,
        wait: &Wait<'_>,
    ) {
        for number in 0..MAX_TARGETS {
            let Some(target) = traffic.lanes.get(number).map(|lane| lane.target) else { continue };
            let Err(unfit) = self.check(traffic, number, shared, wait) else { continue };
            // Reads of a check that ended early may still be under way.
            let stuck = traffic.settle(wait);
            if let Some(lane) = traffic.lanes.get_mut(number)
                && stuck.get(number) == Some(&None)
            {
                // Nothing depends on how this ends.
                let _ = lane.window.device().shutdown(wait);
            }
            traffic.lanes.remove(number);
            *last = Refusal::Unfit(unfit);
            out.add(target);
            self.refuse(refusals, (target, alone), last);
            for (number, error) in stuck.into_iter().enumerate() {
                let Some(error) = error else { continue };
                let Some(target) = traffic.lanes.get(number).map(|lane| lane.target) else { continue };
                traffic.lanes.remove(number);
                *last = Refusal::Takeover(error);
                out.add(target);
                self.refuse(refusals, (target, alone), last);
            }
        }
    }

    /// Takes a target's device over and makes a lane of it.
    #[inline(never)]
    fn take_over<'t>(
        &self,
        lanes: &mut Lanes<'t>,
        number: usize,
        target: &'t mut ArmedTarget<'_>,
        zones: &'t RedZones,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        let ArmedTarget { sealed, device, scratch, books, key } = target;
        let mut window = Window::new(*device, (sealed.first_block, sealed.blocks), scratch, zones);
        window.quiesce(wait)?;
        say(self.platform, |line| {
            line.text("took over ").text(window.device().name());
        });
        let lock =
            key.as_ref().map(|key| Lock { key, ephemeral: &sealed.ephemeral, recipient: &sealed.recipient });
        lanes.push(Lane::new(number, window, &sealed.uuid, lock, books));
        Ok(())
    }

    /// Checks that a lane's partition is the right one and that what will be written is free, or that as much of it as is
    /// to be checked now is.
    #[inline(never)]
    fn check(
        &self,
        traffic: &mut Traffic<'_, '_, '_, '_>,
        number: usize,
        shared: &Shared<'_>,
        wait: &Wait<'_>,
    ) -> Result<(), Unfit> {
        let gone = Unfit::Device { block: 0, error: DeviceError::NotReady };
        let lane = traffic.lanes.get_mut(number).ok_or(gone)?;
        let (uuid, recipient) = (lane.books.uuid, lane.lock.map(|lock| lock.recipient));
        label::check_size(&mut lane.window)?;
        let label = label::check_label(&mut lane.window, Some(&uuid), wait)?;
        label::check_recipient(label.recipient.as_ref(), recipient)?;
        let mut place = find::find(traffic, number, wait)?;
        // Each turn begins further on, and the last one at the partition's end.
        loop {
            let lane = traffic.lanes.get_mut(number).ok_or(gone)?;
            let blocks = lane.window.blocks();
            lane.books.place = place;
            lane.books.next = place.block.saturating_add(1);
            lane.books.checker.begin(place.free_to.max(place.block), blocks);
            match self.check_pattern(traffic, number, shared, wait) {
                // More of a dump that nobody closed: the next one goes after that.
                Err(Unfit::Foreign { block }) if place.behind_unfinished && block >= place.block => {
                    if let Some(Some(error)) = traffic.settle(wait).get(number) {
                        return Err(Unfit::Device { block, error: *error });
                    }
                    place = find::find_from(traffic, number, Place { block, ..place }, wait)?;
                }
                checked => return checked,
            }
        }
    }

    /// Checks what is free from a lane's place on, or that as much of it as is to be checked now is.
    #[inline(never)]
    fn check_pattern(
        &self,
        traffic: &mut Traffic<'_, '_, '_, '_>,
        number: usize,
        shared: &Shared<'_>,
        wait: &Wait<'_>,
    ) -> Result<(), Unfit> {
        let sealed = shared.sealed;
        let gone = Unfit::Device { block: 0, error: DeviceError::NotReady };
        let lane = traffic.lanes.get_mut(number).ok_or(gone)?;
        let (uuid, place, blocks) = (lane.books.uuid, lane.books.place, lane.window.blocks());
        match sealed.verify() {
            Verify::All => {
                // A slow disk must not leave us with a checked partition and no time to write.
                let half = self.begin.saturating_add(sealed.budget / 2);
                let until_half = Wait::new(self.platform, shared.queues, half);
                let mut progress = Progress::new(self.platform, "checked");
                let tell = &mut |done, all| progress.tell(done, all);
                let checked = traffic.check_all(number, &until_half, tell);
                match checked.map_err(|ended| in_time(ended, &until_half)) {
                    Ok(()) => return Ok(()),
                    Err(Ended::Budget) => (),
                    Err(ended) => return Err(unfit(ended, traffic, number)),
                }
                say(self.platform, |line| {
                    line.text("checking takes half the time budget: from here on, just ahead of each write");
                });
                if let Some(Some(error)) = traffic.settle(wait).get(number) {
                    return Err(Unfit::Device { block: place.block, error: *error });
                }
            }
            Verify::Sample { every } => {
                let range = (lane.books.checker.frontier(), blocks);
                let checked = sample(&mut lane.window, &uuid, range, every, wait)?;
                lane.books.checker.trust();
                traffic.checked = traffic.checked.saturating_add(checked);
                return Ok(());
            }
            Verify::Ahead => (),
        }
        // The front header and the block behind it, so that a dump can begin and be closed. What is read on ahead is
        // taken in too: the headers are written with nothing in flight.
        traffic
            .check_up_to(number, place.block.saturating_add(2), wait)
            .and_then(|()| traffic.drain(wait))
            .map_err(|ended| unfit(ended, traffic, number))
    }

    /// What a lane's header says from the first moment on.
    #[inline(never)]
    fn begin_header(&self, lane: &mut Lane<'_>, shared: &Shared<'_>, which: &Which, span: usize) {
        let platform = self.platform;
        let sealed = shared.sealed;
        let header = &mut lane.books.header;
        // It lay in memory since it was armed, outside of the seal.
        header.clear();
        header.status = (Status::InProgress as u32).into();
        header.uuid = lane.books.uuid;
        header.nonce = which.identity.nonce.into();
        header.sequence = lane.books.place.sequence.into();
        header.first_block = lane.books.place.block.into();
        header.total_pages = sealed.pages.into();
        header.wall_clock = platform.wall_clock().unwrap_or(0).into();
        header.uptime = platform.uptime(self.begin).into();
        header.elapsed = platform.now().saturating_sub(self.begin).into();
        header.arch = (Arch::current() as u32).into();
        header.cpus = platform.cpus().max(1).into();
        header.crashing_cpu = self.cpu.into();
        header.trigger = (self.crash.trigger as u32).into();
        header.window_blocks = (span as u32).into();
        header.stripe = which.stripe.into();
        header.stripes = which.stripes.into();
        header.level = (sealed.level as u32).into();
        header.encoding = (sealed.encoding as u32).into();
        header.attempt = which.identity.attempt.into();
        let id = platform.build_id();
        let id = id.get(..id.len().min(header.build_id.len())).unwrap_or_default();
        header.build_id_len = (id.len() as u32).into();
        for (slot, byte) in header.build_id.iter_mut().zip(id) {
            *slot = *byte;
        }
        put_text(&mut header.system, platform.system());
        if let Some(lock) = lane.lock {
            // What the kernel said last may be a secret too.
            header.cipher = (Cipher::X25519XChaCha20Poly1305 as u32).into();
            header.ephemeral = *lock.ephemeral;
        } else {
            put_text(&mut header.message, self.crash.message);
        }
        lane.sign_header(false);
    }

    /// A number that no other dump of the partition has: it holds the sequence, and times besides.
    fn nonce(&self, lane: &Lane<'_>) -> u64 {
        let mut mix = crate::format::checksum::Sum64::new();
        let identity = u64::from_le_bytes(lane.books.uuid.first_chunk().copied().unwrap_or_default());
        mix.stripe([self.begin, self.platform.now(), lane.books.place.block, identity]);
        mix.stripe([self.platform.wall_clock().unwrap_or(0), 0, 0, 0]);
        (mix.finish(64) << 16) | u64::from(lane.books.place.sequence & 0xffff)
    }

    /// From when on no chunk is begun.
    fn stop_at(&self, sealed: &Sealed) -> Nanoseconds {
        let budget = sealed.budget;
        self.begin.saturating_add(budget.saturating_sub(CLOSING.min(budget / 8)))
    }

    /// Writes the dump.
    #[inline(never)]
    fn write(
        &self,
        mut traffic: Traffic<'_, '_, '_, '_>,
        shared: &Shared<'_>,
        (workshop, written): (&mut Workshop<'_>, &mut Written),
        (refusals, out, attempt): (&mut Refusals, &mut Set, u32),
        wait: &Wait<'_>,
    ) -> Attempt {
        let platform = self.platform;
        let (sealed, vitals) = (shared.sealed, shared.vitals);
        vitals.enter(Step::Begin, platform.now());
        let identity = match self.begin(&mut traffic, shared, (refusals, out, attempt), wait) {
            Ok(identity) => identity,
            Err(error) => return Attempt { outcome: self.unclosed(error), go_on: true },
        };

        let stop_at = self.stop_at(sealed);
        let mut writer = Writer::new(traffic, identity, written);
        // No chunk is begun after that, and what hangs in the stream does not use up the time that closing needs.
        let stream_wait = Wait::new(platform, shared.queues, stop_at);
        let mut passed = [0; PASSES.len()];
        let mut ended = self.stream(&mut writer, shared, workshop, &stream_wait, &mut passed).err();
        ended = ended.map(|ended| in_time(ended, &stream_wait));

        vitals.enter(Step::Close, platform.now());
        // What is still open is whole as far as it goes, unless a device or a partition failed us.
        if matches!(ended, Some(Ended::Full | Ended::Budget)) {
            ended = writer.close_chunk(wait).err().map(|ended| in_time(ended, wait)).or(ended);
        }
        writer.abandon();
        if !matches!(ended, Some(Ended::Device { .. } | Ended::Pattern { .. })) {
            ended = writer.drain(wait).err().map(|ended| in_time(ended, wait)).or(ended);
        }
        self.finish(&mut writer, shared, (ended, &passed), (refusals, out), wait)
    }

    /// Writes the front headers, in progress.
    ///
    /// # Errors
    /// Why one could not be written. The devices are at rest then, as far as they can be.
    #[inline(never)]
    fn begin(
        &self,
        traffic: &mut Traffic<'_, '_, '_, '_>,
        shared: &Shared<'_>,
        (refusals, out, attempt): (&mut Refusals, &mut Set, u32),
        wait: &Wait<'_>,
    ) -> Result<Identity, DeviceError> {
        let span = traffic.pool.span();
        let nonce = traffic.lanes.iter().next().map_or(0, |(_, lane)| self.nonce(lane));
        let identity = Identity { nonce, attempt };
        let stripes = traffic.lanes.len() as u32;
        for number in 0..MAX_TARGETS {
            let stripe = traffic.lanes.iter().take_while(|(before, _)| *before < number).count() as u32;
            let Some(lane) = traffic.lanes.get_mut(number) else { continue };
            self.begin_header(lane, shared, &Which { identity, stripe, stripes }, span);
            let (header, place) = (&lane.books.header, lane.books.place);
            if let Err(error) =
                lane.window.write(place.block, |block| header.to_block(Kind::Front, block), wait)
            {
                // Whether it arrived is not known, and it may still be on its way: the device is stopped.
                let target = lane.target;
                out.add(target);
                refusals.add(target, true, &error);
                for number in 0..MAX_TARGETS {
                    if traffic.lanes.get(number).is_some()
                        && traffic.pool.reset(traffic.lanes, number, wait).is_ok()
                        && let Some(lane) = traffic.lanes.get_mut(number)
                    {
                        let _ = lane.window.device().shutdown(wait);
                    }
                }
                return Err(error);
            }
            let taken = self.platform.now().saturating_sub(self.begin);
            lane.books.header.metrics.first_write = taken.into();
            say(self.platform, |line| {
                line.text("dump ").decimal(place.sequence.into()).text(" begins at block ");
                line.decimal(place.block);
                line.text(", ").decimal(shared.sealed.pages / 256).text(" MiB of memory");
            });
        }
        Ok(identity)
    }

    /// Notes, then memory.
    #[inline(never)]
    fn stream(
        &self,
        writer: &mut Writer<'_, '_, '_, '_>,
        shared: &Shared<'_>,
        workshop: &mut Workshop<'_>,
        wait: &Wait<'_>,
        passed: &mut [Nanoseconds; PASSES.len()],
    ) -> Result<(), Ended> {
        let sealed = shared.sealed;
        let facts = notes::Facts {
            crash: self.crash,
            crashing_cpu: self.cpu,
            ram: shared.ram,
            arena: sealed.arena(),
            lacks: self.lacks,
            log_tail: sealed.log_tail,
        };
        // Nothing of the dump may be on the medium before its first block, or the next dump would not see it.
        flush(writer.traffic(), wait)?;
        let begin = wait.now();
        notes::write(writer, self.platform, &facts, wait)?;
        // From here on, a power cut leaves at least the notes.
        writer.drain(wait)?;
        flush(writer.traffic(), wait)?;
        if let Some(time) = passed.first_mut() {
            *time = wait.now().saturating_sub(begin);
        }

        shared.vitals.enter(Step::Memory, wait.now());
        let mut progress = Progress::new(self.platform, "dumped");
        let plan = Plan {
            ram: shared.ram,
            arena: sealed.arena(),
            level: sealed.level(),
            encoding: sealed.encoding(),
            may_be_still: !self.lacks.intersects(Lacks::STACK | Lacks::OTHER_CPUS),
        };
        let tell = &mut |done| progress.tell(done, sealed.pages);
        pages::write(writer, self.platform, &plan, workshop, wait, tell, passed)?;
        writer.drain(wait)
    }

    /// Closes the dump on all its devices.
    #[inline(never)]
    fn finish(
        &self,
        writer: &mut Writer<'_, '_, '_, '_>,
        shared: &Shared<'_>,
        (ended, passed): (Option<Ended>, &[Nanoseconds; PASSES.len()]),
        (refusals, out): (&mut Refusals, &mut Set),
        wait: &Wait<'_>,
    ) -> Attempt {
        let platform = self.platform;
        let (traffic, written) = writer.parts();
        if let Err(harm) = still_sealed(traffic, shared) {
            // What is in flight comes home; headers are not written.
            let _ = traffic.settle(wait);
            return Attempt { outcome: self.unclosed(DeviceError::Harmed(harm)), go_on: false };
        }
        traffic.foreman.forget_pages(wait);
        let failing = match ended {
            Some(Ended::Device { lane, .. } | Ended::Pattern { lane, .. }) => Some(lane),
            _ => None,
        };
        let failed_target = failing.and_then(|lane| traffic.lanes.get(lane)).map(|lane| lane.target);
        let mut unclosed = None;
        let outstanding = traffic.pool.in_flight() > 0 || traffic.foreman.checks_outstanding() > 0;
        if failing.is_some() || outstanding {
            // Requests may hang in a device that failed as a whole: only a reset gets them out, and the headers in. One that
            // failed a single request goes on with what is behind it.
            let goes_on = |lane| traffic.pool.in_flight_in(lane) > 0;
            let mut stuck = [None; MAX_TARGETS];
            if let Some(Ended::Device { lane, error }) = ended
                && !(matches!(error, DeviceError::Status { .. }) && goes_on(lane))
                && let Some(slot) = stuck.get_mut(lane)
            {
                *slot = traffic.pool.reset(traffic.lanes, lane, wait).err();
            }
            for (first, then) in stuck.iter_mut().zip(traffic.settle(wait)) {
                *first = first.or(then);
            }
            for (number, error) in stuck.into_iter().enumerate() {
                let (Some(error), Some(lane)) = (error, traffic.lanes.get(number)) else { continue };
                out.add(lane.target);
                if Some(lane.target) != failed_target {
                    refusals.add(lane.target, true, &error);
                }
                unclosed = Some(error);
                traffic.lanes.remove(number);
            }
        }
        let (checked, tally) = (traffic.checked, traffic.foreman.tally);
        let numbers = Numbers { ended, written, passed, checked, tally, depth: traffic.pool.deepest() };
        let buffers = traffic.pool.buffers();
        for (_, lane) in traffic.lanes.iter_mut() {
            self.finish_header(lane, shared.vitals, &numbers, refusals, buffers);
        }
        if let Err((target, error)) = close(traffic.lanes, wait) {
            unclosed = Some(error);
            out.add(target);
            refusals.add(target, true, &error);
        }
        if let Some(target) = failed_target {
            out.add(target);
            if let Some(ended) = &ended {
                refusals.add(target, true, ended);
            }
        }
        // What is begun when the time for closing has come says nothing but that.
        let in_time = platform.now() < self.stop_at(shared.sealed);
        let go_on = failing.is_some() && in_time;
        if let Some(error) = unclosed {
            return Attempt { outcome: self.unclosed(error), go_on: in_time };
        }
        let took = platform.now().saturating_sub(self.begin);
        let (first, end) = traffic
            .lanes
            .iter()
            .next()
            .map_or((0, 0), |(_, lane)| (lane.books.place.block, lane.books.header.end_block.get()));
        report::summary(platform, written, (first, end), took);
        report::helpers(platform, &tally);
        self.phases(shared.vitals, took);
        say(platform, |line| match &ended {
            None => {
                line.text("complete");
            }
            Some(ended) => {
                line.text("incomplete: ");
                ended.describe(line);
            }
        });
        match ended {
            None => Attempt { outcome: Outcome::Complete, go_on },
            Some(ended) => Attempt { outcome: Outcome::Incomplete(ended.reason()), go_on },
        }
    }

    /// What a lane's header says in the end.
    #[inline(never)]
    fn finish_header(
        &self,
        lane: &mut Lane<'_>,
        vitals: &Vitals,
        numbers: &Numbers<'_>,
        refusals: &Refusals,
        buffers: usize,
    ) {
        let (next, chunks, target) = (lane.books.next, lane.books.chunks, lane.target);
        let header = &mut lane.books.header;
        let Numbers { ended, written, passed, checked, tally, depth } = numbers;
        let counts = &written.counts;
        let status = if ended.is_none() { Status::Complete } else { Status::Incomplete };
        header.status = (status as u32).into();
        header.incomplete = (ended.map_or(Incomplete::No, |ended| ended.reason()) as u32).into();
        header.end_block = next.saturating_add(1).into();
        header.chunks = chunks.into();
        header.data_pages = counts.of(RunKind::Data).into();
        header.zero_pages = counts.of(RunKind::Zero).into();
        header.excluded_pages = counts.left_out().into();
        header.unreadable_pages = counts.unreadable().into();
        header.elapsed = self.platform.now().saturating_sub(self.begin).into();

        let metrics = &mut header.metrics;
        // Of this attempt, where there were others before: they have no part in freeze and code check.
        let entered = |step| vitals.entered(step);
        let phases = [
            (entered(Step::Freeze), entered(Step::Code)),
            (entered(Step::Code), self.code_checked),
            (entered(Step::Takeover), entered(Step::Verify)),
            (entered(Step::Verify), entered(Step::Begin)),
            (entered(Step::Begin), entered(Step::Memory)),
            (entered(Step::Memory), entered(Step::Close)),
        ];
        for (phase, (from, to)) in metrics.phases.iter_mut().zip(phases) {
            // A step that was not reached took no time.
            *phase = if from == 0 || to == 0 { 0 } else { to.saturating_sub(from) }.into();
        }
        let passes = metrics.passes.iter_mut().zip(*passed).zip(written.pages.iter().zip(&written.bytes));
        for ((pass, time), (pages, bytes)) in passes {
            pass.pages = (*pages).into();
            pass.bytes = (*bytes).into();
            pass.time = (*time).into();
        }
        for (slot, count) in metrics.pages.iter_mut().zip(counts.all()) {
            *slot = (*count).into();
        }
        metrics.checked = (*checked).into();
        metrics.packed_from = written.packed_from.into();
        metrics.packed_to = written.packed_to.into();
        metrics.units = tally.units.into();
        metrics.units_by_helpers = tally.by_helpers.into();
        metrics.units_redone = tally.redone.into();
        metrics.units_stored = written.units_stored.into();
        metrics.helpers = (tally.helpers as u32).into();
        metrics.helpers_lost = (tally.lost as u32).into();
        metrics.depth = (*depth as u32).into();
        metrics.buffers = (buffers as u32).into();
        metrics.target = (target as u32).into();
        metrics.refusals = refusals.count.into();
        metrics.refused = refusals.first;
        lane.sign_header(true);
    }

    /// Prints where the time went.
    #[inline(never)]
    fn phases(&self, vitals: &Vitals, took: Nanoseconds) {
        let since = |from: Nanoseconds, to: Nanoseconds| to.saturating_sub(from);
        let (write, close) = (vitals.entered(Step::Begin), vitals.entered(Step::Close));
        let verify = vitals.entered(Step::Verify);
        say(self.platform, |line| {
            line.text("took over in ");
            seconds(line, since(self.begin, verify));
            line.text(", checked in ");
            seconds(line, since(verify, write));
            line.text(", wrote in ");
            seconds(line, since(write, close));
            line.text(", closed in ");
            seconds(line, since(close, self.begin.saturating_add(took)));
        });
    }

    /// The dump stays one in progress.
    #[inline(never)]
    fn unclosed(&self, error: DeviceError) -> Outcome {
        if matches!(error, DeviceError::Harmed(_)) {
            self.harmed.set(true);
        }
        say(self.platform, |line| {
            line.text("incomplete, and its headers could not be closed: ");
            error.describe(line);
        });
        Outcome::Unclosed(error)
    }
}

/// Which dump, and which part of it, a header is of.
struct Which {
    identity: Identity,
    stripe: u32,
    stripes: u32,
}

/// What is told of a dump in its headers.
struct Numbers<'n> {
    ended: Option<Ended>,
    written: &'n Written,
    passed: &'n [Nanoseconds; PASSES.len()],
    checked: u64,
    tally: Tally,
    depth: usize,
}

/// Says which target, if there are several.
fn which(line: &mut Line, alone: bool, target: usize) -> &mut Line {
    if !alone {
        line.text("target ").decimal(target as u64).text(": ");
    }
    line
}

/// The better of two outcomes: the one that left more on a medium; of equals the later.
fn better(before: Option<Outcome>, now: Outcome) -> Option<Outcome> {
    let worth = |outcome: &Outcome| match outcome {
        Outcome::Complete => 3,
        Outcome::Incomplete(_) => 2,
        Outcome::Unclosed(_) => 1,
        Outcome::NotArmed | Outcome::OtherCpu { .. } | Outcome::Nested | Outcome::Refused(_) => 0,
    };
    match before {
        Some(before) if worth(&before) > worth(&now) => Some(before),
        _ => Some(now),
    }
}

/// Whether what an attempt goes by is still what it was when the attempt was begun.
#[inline(never)]
fn still_sealed(traffic: &Traffic<'_, '_, '_, '_>, shared: &Shared<'_>) -> Result<(), Harm> {
    if !shared.zones.are_whole() {
        return Err(Harm::Stack);
    }
    same(shared.lasting.common, common(shared.sealed, shared.ram, traffic.pool, shared.zones))?;
    traffic.lanes.iter().try_for_each(|(_, lane)| lane.check_seal())
}

/// Waiting that the end of the budget cut short says nothing of the device.
fn in_time(ended: Ended, wait: &Wait<'_>) -> Ended {
    match ended {
        Ended::Device { error: DeviceError::TimedOut { .. }, .. } if wait.expired() => Ended::Budget,
        other => other,
    }
}

/// Why a check of a lane that ended early makes its partition unfit: it came as far as its frontier.
fn unfit(ended: Ended, traffic: &Traffic<'_, '_, '_, '_>, lane: usize) -> Unfit {
    let block = traffic.lanes.get(lane).map_or(0, |lane| lane.books.checker.frontier());
    match ended {
        Ended::Full => Unfit::NoRoom { free: 0 },
        Ended::Budget => Unfit::Budget,
        Ended::Device { error, .. } => Unfit::Device { block, error },
        Ended::Pattern { unfit, .. } => unfit,
    }
}

/// Makes sure that all media have what was written.
fn flush(traffic: &mut Traffic<'_, '_, '_, '_>, wait: &Wait<'_>) -> Result<(), Ended> {
    // Reads ahead may be under way, and a flush wants the device for itself.
    traffic.drain(wait)?;
    for (number, lane) in traffic.lanes.iter_mut() {
        lane.window.device().flush(wait).map_err(|error| Ended::Device { lane: number, error })?;
    }
    Ok(())
}

/// Writes the back headers, then, when all media have all that, the front headers once more.
///
/// # Errors
/// The first target that could not be closed, and why.
fn close(lanes: &mut Lanes<'_>, wait: &Wait<'_>) -> Result<(), (usize, DeviceError)> {
    let mut first = Ok(());
    for number in 0..MAX_TARGETS {
        let Some(lane) = lanes.get_mut(number) else { continue };
        let target = lane.target;
        let header = &lane.books.header;
        let back = header.end_block.get().saturating_sub(1);
        let closed = lane
            .window
            .write(back, |block| header.to_block(Kind::Back, block), wait)
            .and_then(|()| lane.window.device().flush(wait));
        if let Err(error) = closed {
            first = first.and(Err((target, error)));
            if lane.window.quiesce(wait).is_ok() {
                let _ = lane.window.device().shutdown(wait);
            }
            lanes.remove(number);
        }
    }
    for (_, lane) in lanes.iter_mut() {
        let target = lane.target;
        let header = &lane.books.header;
        // Where another stripe could not be closed, the dump is not complete, and no header says so.
        let closed = if first.is_ok() {
            lane.window.write(header.first_block.get(), |block| header.to_block(Kind::Front, block), wait)
        } else {
            Ok(())
        };
        let closed = closed.and_then(|()| lane.window.device().shutdown(wait));
        first = first.and(closed.map_err(|error| (target, error)));
    }
    first
}
