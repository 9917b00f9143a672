//! The steps of a dump behind the seal, in order: freeze, own code, take over, check, write, close.

use crate::armed::{Armed, Sealed, Step, Vitals};
use crate::console::Describe;
use crate::crash::{Crash, Outcome, Refusal};
use crate::deferred::Queues;
use crate::device::{DeviceError, Health};
use crate::format::frame::Kind;
use crate::format::header::{Arch, Header, Incomplete, Status, put_text};
use crate::integrity;
use crate::memory::map::PfnRange;
use crate::partition::io::Pool;
use crate::partition::place::{self, Place, Unfit};
use crate::partition::verify::{Verify, every_block, sample};
use crate::partition::window::Window;
use crate::platform::{Lacks, Nanoseconds, Platform};
use crate::record::{self, Progress, say};
use crate::stream::writer::{Counts, Writer};
use crate::stream::{Ended, notes, pages};
use crate::wait::{SECOND, Wait};

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
}

impl Running<'_> {
    /// All steps behind the seal.
    pub(crate) fn run(&mut self, armed: &mut Armed<'_>) -> Outcome {
        let platform = self.platform;
        let budget = armed.sealed.budget;
        let queues = armed.queues;
        if let Some(queues) = queues {
            queues.set_crashdump_mode(true);
        }
        let wait = Wait::new(platform, queues, self.begin.saturating_add(budget));

        armed.vitals.enter(Step::Freeze, platform.now());
        platform.freeze_cpus(&wait);
        self.see_what_is_lacking(armed.sealed.log_tail);

        armed.vitals.enter(Step::Code, platform.now());
        let (now, _) = integrity::code(platform);
        let expected = armed.sealed.code_crc;
        if u64::from(now) != expected {
            return Outcome::Refused(Refusal::Code { armed: expected as u32, now });
        }

        armed.vitals.enter(Step::Takeover, platform.now());
        match armed.device.sanity_check(&wait) {
            Health::Healthy => (),
            Health::Risky(error) => say(platform, |line| {
                line.text("the disk looks risky: ");
                error.describe(line);
            }),
            Health::Unusable(error) => return Outcome::Refused(Refusal::Unusable(error)),
        }
        if let Err(error) = armed.device.quiesce(&wait) {
            return Outcome::Refused(Refusal::Takeover(error));
        }
        say(platform, |line| {
            line.text("took over ").text(armed.device.name());
        });

        let vitals = armed.vitals;
        let (sealed, ram) = (&armed.sealed, armed.ram);
        let (mut window, pool, header) = (
            Window::new(armed.device, sealed.first_block, sealed.blocks, &mut armed.scratch),
            &mut armed.pool,
            &mut *armed.header,
        );
        vitals.enter(Step::Verify, platform.now());
        let (place, verify) = match self.check(&mut window, pool, (sealed, queues), &wait) {
            Ok(checked) => checked,
            Err(unfit) => {
                // Reads of a check that ended early may still be under way. Nothing depends on how this ends.
                if pool.settle(&mut window, &wait).is_ok() {
                    let _ = window.device().shutdown(&wait);
                }
                return Outcome::Refused(Refusal::Unfit(unfit));
            }
        };
        self.write(&mut window, pool, header, (sealed, ram, vitals, queues), (place, verify), &wait)
    }

    /// What the dump will have to do without.
    fn see_what_is_lacking(&mut self, log_tail: u64) {
        let platform = self.platform;
        let silent = |cpu: u32| cpu != self.cpu && platform.registers(cpu).is_none();
        let facts = [
            (Lacks::CODE_CHECK, platform.code_ranges().is_empty()),
            (Lacks::OTHER_CPUS, (0..platform.cpus()).any(silent)),
            (Lacks::WALL_CLOCK, platform.wall_clock().is_none()),
            (Lacks::LOG, log_tail > 0 && platform.log_length() == 0),
            (Lacks::BUILD_ID, platform.build_id().is_empty()),
        ];
        for (what, lacking) in facts {
            self.lacks.set(what, lacking);
        }
    }

    /// Checks that the partition is the right one and that what will be written is free. Says what is still to be
    /// checked while writing.
    fn check(
        &self,
        window: &mut Window<'_>,
        pool: &mut Pool,
        (sealed, queues): (&Sealed, Option<&Queues>),
        wait: &Wait<'_>,
    ) -> Result<(Place, Verify), Unfit> {
        let end = sealed.first_block.saturating_add(sealed.blocks);
        let blocks = window.device().geometry().blocks;
        if end > blocks {
            return Err(Unfit::BeyondDevice { end, blocks });
        }
        place::check_label(window, Some(&sealed.uuid), wait)?;
        let place = place::find(window, pool, &sealed.uuid, wait)?;
        let free = (place.block, window.blocks());
        let mut verify = sealed.verify();
        if verify == Verify::All {
            // A slow disk must not leave us with a checked partition and no time to write.
            let half = self.begin.saturating_add(sealed.budget / 2);
            let until_half = Wait::new(self.platform, queues, half);
            let mut progress = Progress::new(self.platform, "checked");
            let tell = &mut |done, all| progress.tell(done, all);
            match every_block(window, pool, &sealed.uuid, free, &until_half, tell) {
                Err(Unfit::Budget) => {
                    say(self.platform, |line| {
                        line.text(
                            "checking takes half the time budget: from here on, just ahead of each write",
                        );
                    });
                    pool.settle(window, wait).map_err(|error| Unfit::Device { block: free.0, error })?;
                    verify = Verify::Ahead;
                }
                checked => checked?,
            }
        }
        match verify {
            Verify::All => (),
            Verify::Sample { every } => sample(window, &sealed.uuid, free, every, wait)?,
            Verify::Ahead => {
                // The front header and the block behind it, so that a dump can begin and be closed.
                let begin = (place.block, place.block.saturating_add(2));
                every_block(window, pool, &sealed.uuid, begin, wait, &mut |_, _| ())?;
            }
        }
        Ok((place, verify))
    }

    /// What the header says from the first moment on.
    fn begin_header(&self, header: &mut Header, sealed: &Sealed, place: Place, span: usize) {
        let platform = self.platform;
        // It lay in memory since it was armed, outside of the seal.
        header.clear();
        header.status = (Status::InProgress as u32).into();
        header.uuid = sealed.uuid;
        header.nonce = self.nonce(sealed, place).into();
        header.sequence = place.sequence.into();
        header.first_block = place.block.into();
        header.total_pages = sealed.pages.into();
        header.wall_clock = platform.wall_clock().unwrap_or(0).into();
        header.uptime = self.begin.into();
        header.elapsed = platform.now().saturating_sub(self.begin).into();
        header.arch = (Arch::current() as u32).into();
        header.cpus = platform.cpus().into();
        header.crashing_cpu = self.cpu.into();
        header.trigger = (self.crash.trigger as u32).into();
        header.window_blocks = (span as u32).into();
        let id = platform.build_id();
        let id = id.get(..id.len().min(header.build_id.len())).unwrap_or_default();
        header.build_id_len = (id.len() as u32).into();
        for (slot, byte) in header.build_id.iter_mut().zip(id) {
            *slot = *byte;
        }
        put_text(&mut header.system, platform.system());
        put_text(&mut header.message, self.crash.message);
    }

    /// A number that no other dump of the partition has: it holds the sequence, and times besides.
    fn nonce(&self, sealed: &Sealed, place: Place) -> u64 {
        let mut mix = crate::format::checksum::Sum64::new(self.platform.wall_clock().unwrap_or(0));
        let identity = u64::from_le_bytes(sealed.uuid.first_chunk().copied().unwrap_or_default());
        mix.stripe([self.begin, self.platform.now(), place.block, identity]);
        (mix.finish(32) << 16) | u64::from(place.sequence & 0xffff)
    }

    /// Writes the dump.
    fn write(
        &self,
        window: &mut Window<'_>,
        pool: &mut Pool,
        header: &mut Header,
        (sealed, ram, vitals, queues): (&Sealed, &[PfnRange], &Vitals, Option<&Queues>),
        (place, verify): (Place, Verify),
        wait: &Wait<'_>,
    ) -> Outcome {
        let platform = self.platform;
        vitals.enter(Step::Begin, platform.now());
        self.begin_header(header, sealed, place, pool.span());
        if let Err(error) = window.write(place.block, |block| header.to_block(Kind::Front, block), wait) {
            // Whether it arrived is not known, and it may still be on its way: the device is stopped.
            if pool.reset(window, wait).is_ok() {
                let _ = window.device().shutdown(wait);
            }
            return self.unclosed(error);
        }
        say(platform, |line| {
            line.text("dump ").decimal(place.sequence.into()).text(" begins at block ").decimal(place.block);
            line.text(", ").decimal(sealed.pages / 256).text(" MiB of memory");
        });

        let budget = sealed.budget;
        let stop_at = self.begin.saturating_add(budget.saturating_sub(CLOSING.min(budget / 8)));
        let identity = (sealed.uuid, header.nonce.get());
        let next = place.block.saturating_add(1);
        let mut writer = Writer::new(window, pool, identity, next, verify);
        // No chunk is begun after that, and what hangs in the stream does not use up the time that closing needs.
        let stream_wait = Wait::new(platform, queues, stop_at);
        let mut ended = self.stream(&mut writer, (sealed, ram, vitals), &stream_wait).err();
        if matches!(ended, Some(Ended::Device(DeviceError::TimedOut { .. }))) && stream_wait.expired() {
            ended = Some(Ended::Budget);
        }

        vitals.enter(Step::Close, platform.now());
        // What is still open is whole as far as it goes, unless the device or the partition failed us.
        if matches!(ended, Some(Ended::Full | Ended::Budget)) {
            ended = writer.close_chunk(wait).err().or(ended);
        }
        writer.abandon();
        if !matches!(ended, Some(Ended::Device(_))) {
            ended = writer.drain(wait).err().or(ended);
        }
        let (next, chunks, counts) = (writer.next(), writer.chunks(), writer.counts());
        if let Some(Ended::Device(_)) = ended {
            // Requests may hang in the device: only a reset gets them out, and the headers in.
            if let Err(error) = pool.reset(window, wait) {
                return self.unclosed(error);
            }
        }
        self.finish_header(header, ended, (next, chunks, counts));
        if let Err(error) = close(window, header, wait) {
            return self.unclosed(error);
        }
        let took = platform.now().saturating_sub(self.begin);
        record::summary(platform, counts, (place.block, header.end_block.get()), took);
        self.phases(vitals, took);
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
            None => Outcome::Complete,
            Some(ended) => Outcome::Incomplete(ended.reason()),
        }
    }

    /// Notes, then memory.
    fn stream(
        &self,
        writer: &mut Writer<'_, '_>,
        (sealed, ram, vitals): (&Sealed, &[PfnRange], &Vitals),
        wait: &Wait<'_>,
    ) -> Result<(), Ended> {
        let facts = notes::Facts {
            crash: self.crash,
            crashing_cpu: self.cpu,
            ram,
            arena: sealed.arena(),
            lacks: self.lacks,
            log_tail: sealed.log_tail,
        };
        // Nothing of the dump may be on the medium before its first block, or the next dump would not see it.
        writer.window().device().flush(wait).map_err(Ended::Device)?;
        notes::write(writer, self.platform, &facts, wait)?;
        // From here on, a power cut leaves at least the notes.
        writer.drain(wait)?;
        writer.window().device().flush(wait).map_err(Ended::Device)?;

        vitals.enter(Step::Memory, wait.now());
        let mut progress = Progress::new(self.platform, "dumped");
        let memory = (ram, sealed.arena());
        let still = !self.lacks.intersects(Lacks::STACK | Lacks::OTHER_CPUS);
        let tell = &mut |done| progress.tell(done, sealed.pages);
        pages::write(writer, self.platform, memory, still, wait, tell)?;
        writer.drain(wait)
    }

    /// What the header says in the end.
    fn finish_header(
        &self,
        header: &mut Header,
        ended: Option<Ended>,
        (next, chunks, counts): (u64, u64, Counts),
    ) {
        let status = if ended.is_none() { Status::Complete } else { Status::Incomplete };
        header.status = (status as u32).into();
        header.incomplete = (ended.map_or(Incomplete::No, |ended| ended.reason()) as u32).into();
        header.end_block = next.saturating_add(1).into();
        header.chunks = chunks.into();
        header.data_pages = counts.data.into();
        header.zero_pages = counts.zero.into();
        header.excluded_pages = counts.arena.into();
        header.unreadable_pages = counts.unreadable.into();
        header.elapsed = self.platform.now().saturating_sub(self.begin).into();
    }

    /// Prints where the time went.
    fn phases(&self, vitals: &Vitals, took: Nanoseconds) {
        let since = |from: Nanoseconds, to: Nanoseconds| to.saturating_sub(from);
        let (write, close) = (vitals.entered(Step::Begin), vitals.entered(Step::Close));
        let verify = vitals.entered(Step::Verify);
        say(self.platform, |line| {
            line.text("took over in ");
            record::seconds(line, since(self.begin, verify));
            line.text(", checked in ");
            record::seconds(line, since(verify, write));
            line.text(", wrote in ");
            record::seconds(line, since(write, close));
            line.text(", closed in ");
            record::seconds(line, since(close, self.begin.saturating_add(took)));
        });
    }

    /// The dump stays one in progress.
    fn unclosed(&self, error: DeviceError) -> Outcome {
        say(self.platform, |line| {
            line.text("incomplete, and its headers could not be closed: ");
            error.describe(line);
        });
        Outcome::Unclosed(error)
    }
}

/// Writes the back header, then, when the medium has all that, the front header once more.
fn close(window: &mut Window<'_>, header: &Header, wait: &Wait<'_>) -> Result<(), DeviceError> {
    let back = header.end_block.get().saturating_sub(1);
    window.write(back, |block| header.to_block(Kind::Back, block), wait)?;
    window.device().flush(wait)?;
    window.write(header.first_block.get(), |block| header.to_block(Kind::Front, block), wait)?;
    window.device().shutdown(wait)
}
