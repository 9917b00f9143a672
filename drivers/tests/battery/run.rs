//! The battery.
//!
//! One file: a run, its steps and what must hold after each of them share their state.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dump_drivers::bus::pci::Command;
use dump_drivers::fake::{DmaMemory, FakeDisk as _, Liar, Tick as _, Trouble};
use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice as _, Gather, Health, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::platform::Platform as _;
use dumpcore::stack::{RED_ZONE, STACK_SIZE};
use dumpcore::wait::Wait;

use super::kind::{BLOCK, BLOCKS, Kind, Rig, TIMEOUT, pattern};

/// A step of a dump.
#[derive(Clone, Debug)]
pub enum Step {
    Write { block: u64, count: usize, seed: u8 },
    Read { block: u64, count: usize },
    Poll { times: u8 },
    Flush,
    OneBlock { block: u64, seed: u8 },
}

/// Each trouble once, at this request or access.
pub fn all_troubles(at: u32) -> [Trouble; 13] {
    [
        Trouble::NeverReady,
        Trouble::NeverResets,
        Trouble::GoneAtAccess(at * 17 + 1),
        Trouble::NeverCompletes(at),
        Trouble::WrongId(at),
        Trouble::Duplicate(at),
        Trouble::NeverAsked(at),
        Trouble::Short(at),
        Trouble::Status(at),
        Trouble::StatusFrom(at),
        Trouble::Fails(at),
        Trouble::Shrinks(u64::from(at) + 1),
        Trouble::MsiStuck,
    ]
}

/// The purpose of a request in flight.
enum Expect {
    Written { block: u64, bytes: Vec<u8> },
    Read { block: u64, count: usize },
}

/// Maximum bytes of a run: a buffer for each step, scattered ones more than twice.
const ARENA: usize = 4 << 20;
/// Memory of finished runs, with their drivers and devices: coherent, and non-coherent.
static SPARE: [Mutex<Vec<DmaMemory>>; 2] = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];

/// Which facts about a device are still trustworthy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trust {
    /// All, except for its troubles.
    Whole,
    /// Its identity, and the driver's requests.
    Nature,
    /// The driver's requests, with their addresses: but perhaps of another disk than the real one.
    Requests,
    /// Nothing: the lies may have changed the requests themselves, or have led the driver to other registers.
    Nothing,
}

/// Runs steps and records the expected contents.
pub struct Run<K: Kind> {
    pub rig: Rig<K>,
    spare: &'static Mutex<Vec<DmaMemory>>,
    /// Blocks with known contents.
    model: BTreeMap<u64, Vec<u8>>,
    /// Blocks ever requested to be written.
    asked: Vec<bool>,
    in_flight: BTreeMap<u32, Expect>,
    next: u32,
    /// Whether lies are enabled: then a completion, with its data, may come early.
    pub faulty: bool,
    pub trust: Trust,
}

impl<K: Kind> Drop for Run<K> {
    fn drop(&mut self) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(self.rig.memory);
    }
}

impl<K: Kind> Run<K> {
    fn new(seed: u64, coherent: bool, troubles: Vec<Trouble>) -> Run<K> {
        Run::over(seed, coherent, troubles, |_| {}).expect("opens")
    }

    /// With `before` applied to the device before it is opened.
    pub fn over(
        seed: u64,
        coherent: bool,
        troubles: Vec<Trouble>,
        before: impl FnOnce(&K::Fake),
    ) -> Result<Run<K>, DeviceError> {
        let faulty = !troubles.is_empty();
        let spare = &SPARE[usize::from(coherent)];
        let memory = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = if coherent { DmaMemory::leak } else { DmaMemory::incoherent };
        let memory = memory.unwrap_or_else(|| fresh(ARENA));
        let rig = Rig::<K>::try_over(memory, seed, before)
            .inspect_err(|_| spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory))?;
        let all = pattern(BLOCKS as usize, 200);
        rig.fake.fill(&all);
        rig.fake.set_troubles(troubles);
        let model = (0..BLOCKS).zip(all.chunks(BLOCK).map(<[u8]>::to_vec)).collect();
        let asked = vec![false; BLOCKS as usize];
        let trust = Trust::Whole;
        Ok(Run { rig, spare, model, asked, in_flight: BTreeMap::new(), next: 0, faulty, trust })
    }

    fn overlaps(&self, block: u64, count: usize) -> bool {
        let end = block + count as u64;
        self.in_flight.values().any(|expect| {
            let (other, many) = match expect {
                Expect::Written { block, bytes } => (*block, (bytes.len() / BLOCK) as u64),
                Expect::Read { block, count } => (*block, *count as u64),
            };
            other < end && block < other + many
        })
    }

    fn finish(&mut self, completion: Completion) -> Result<(), DeviceError> {
        let expect =
            self.in_flight.remove(&completion.id).expect("only what was asked for completes, and once");
        completion.buffer.invalidate_from_device(&self.rig.platform);
        let bytes = completion.buffer.bytes();
        match expect {
            Expect::Written { block, bytes: written } => {
                let whole = completion.gather.is_some() || bytes.len() == written.len();
                let same = self.trust == Trust::Nothing || written.starts_with(bytes);
                assert!(whole && same, "a write leaves its buffer as it was");
                for (at, piece) in (block..).zip(written.chunks(BLOCK)) {
                    // The extent of a failed write is unknown.
                    if completion.result.is_ok() {
                        self.model.insert(at, piece.to_vec());
                    } else {
                        self.model.remove(&at);
                    }
                }
            }
            Expect::Read { block, count } => {
                assert_eq!(bytes.len(), count * BLOCK);
                if completion.result.is_ok() {
                    for (at, piece) in (block..).zip(bytes.chunks(BLOCK)) {
                        if let Some(known) = self.model.get(&at) {
                            assert!(self.faulty || known == piece, "block {at} reads as it was written");
                        }
                    }
                }
            }
        }
        completion.result
    }

    /// Waits until at most `left` requests are in flight.
    pub fn drain(&mut self, left: usize) -> Result<(), DeviceError> {
        while self.in_flight.len() > left {
            let end = self.rig.platform.peek() + 4 * TIMEOUT;
            let completion = loop {
                if let Some(completion) = self.rig.timed("poll", |disk, wait| disk.poll(wait))? {
                    break completion;
                }
                if self.rig.platform.now() > end {
                    return Err(DeviceError::TimedOut { what: "a request", after: 4 * TIMEOUT });
                }
            };
            self.finish(completion)?;
        }
        Ok(())
    }

    /// Leaves the first block in the buffer, and scatters the others over memory, in extents of one to three
    /// blocks.
    fn scatter(&mut self, buffer: DmaBuffer, seed: u8) -> (DmaBuffer, Option<Gather>) {
        let (first, rest) = buffer.split(BLOCK);
        let mut table = self.rig.arena.dma(BLOCK, BLOCK).expect("room");
        let mut bytes = rest.bytes();
        let mut count = 0;
        for entry in table.bytes_mut().as_chunks_mut::<16>().0 {
            if bytes.is_empty() {
                break;
            }
            let blocks = (1 + (seed as usize + count) % 3).min(bytes.len() / BLOCK);
            let (now, later) = bytes.split_at(blocks * BLOCK);
            // A gap of a block between two extents, so that they are not contiguous.
            let mut extent = self.rig.arena.dma((blocks + 1) * BLOCK, BLOCK).expect("room");
            extent.bytes_mut()[..now.len()].copy_from_slice(now);
            // Pages written in place must be clean.
            extent.clean_for_device(&self.rig.platform);
            entry[..8].copy_from_slice(&extent.bus_address().to_ne_bytes());
            entry[8..].copy_from_slice(&(now.len() as u64).to_ne_bytes());
            bytes = later;
            count += 1;
        }
        (first, Some(Gather::new(table, count)))
    }

    fn submit(
        &mut self,
        direction: Direction,
        block: u64,
        count: usize,
        seed: u8,
    ) -> Result<(), DeviceError> {
        if self.overlaps(block, count) {
            self.drain(0)?;
        }
        self.drain(self.rig.disk.depth() - 1)?;
        let count = count.min(self.rig.disk.max_transfer() / BLOCK);
        let buffer = self.rig.filled(count, seed);
        // Some multi-block writes use scattered memory.
        let can = self.rig.disk.max_extents() >= count;
        let scatter = can && direction == Direction::Write && count > 1 && seed.is_multiple_of(3);
        let expect = match direction {
            Direction::Write => Expect::Written { block, bytes: buffer.bytes().to_vec() },
            Direction::Read => Expect::Read { block, count },
        };
        let id = self.next;
        self.next += 1;
        let (buffer, gather) = if scatter { self.scatter(buffer, seed) } else { (buffer, None) };
        buffer.clean_for_device(&self.rig.platform);
        let request = Request { id, direction, block, buffer, gather };
        let at_once = match self.rig.timed("submit", |disk, wait| disk.submit(request, wait)) {
            Ok(at_once) => at_once,
            Err(rejected) => {
                assert_eq!(rejected.request.id, id);
                return Err(rejected.error);
            }
        };
        if direction == Direction::Write {
            self.asked[block as usize..][..count].fill(true);
        }
        self.in_flight.insert(id, expect);
        at_once.map_or(Ok(()), |completion| self.finish(completion))
    }

    pub fn step(&mut self, step: &Step) -> Result<(), DeviceError> {
        match *step {
            Step::Write { block, count, seed } => self.submit(Direction::Write, block, count, seed),
            Step::Read { block, count } => self.submit(Direction::Read, block, count, 0),
            Step::Poll { times } => {
                for _ in 0..times {
                    self.rig.fake.tick();
                    if let Some(completion) = self.rig.timed("poll", |disk, wait| disk.poll(wait))? {
                        self.finish(completion)?;
                    }
                }
                Ok(())
            }
            Step::Flush => {
                self.drain(0)?;
                self.rig.flush()?;
                let (medium, disk) = (self.rig.fake.medium(), self.rig.fake.disk());
                assert!(self.faulty || medium == disk, "flushed");
                Ok(())
            }
            Step::OneBlock { block, seed } => {
                self.drain(0)?;
                self.asked[block as usize] = true;
                self.model.remove(&block);
                self.rig.write_block(block, seed)?;
                self.model.insert(block, pattern(1, seed));
                let read = self.rig.read_block(block)?;
                assert!(self.faulty || read == pattern(1, seed));
                Ok(())
            }
        }
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), DeviceError> {
        self.rig.quiesce()?;
        for step in steps {
            self.step(step)?;
        }
        self.drain(0)?;
        self.rig.shutdown()
    }

    /// However the run failed, the last call ends too, and a recovered device works again.
    pub fn recovers(&mut self) {
        let _ = self.rig.shutdown();
        self.check_disk();
        // Whatever happened while it was faulty, quiesce may be called again.
        let again = self.rig.quiesce();
        let gone = self.rig.fake.is_gone();
        assert!(!gone || again.is_err() || self.rig.read_block(0).is_err());
        self.rig.fake.set_troubles(Vec::new());
        self.rig.fake.set_liar(Liar::default());
        // The place of a device that lied at open is unknown.
        if !gone && self.trust < Trust::Nothing {
            self.in_flight.clear();
            self.rig.quiesce().expect("a device that has recovered");
            self.rig.fake.fill(&pattern(1, 1));
            assert!(self.rig.read_block(0).expect("reads") == pattern(1, 1));
        }
    }

    /// Only requested blocks were written, and completed requests were executed.
    pub fn check_disk(&self) {
        match self.trust {
            Trust::Whole => self.rig.assert_within_the_rules(),
            // Lies may lead the driver to break rules; but it never gives the device memory outside the
            // arena.
            Trust::Nature | Trust::Requests => {
                assert_eq!(self.rig.fake.strays(), 0, "{:?}", self.rig.fake.violations());
            }
            Trust::Nothing => {}
        }
        // Its block size, or which of its disks is meant, may have been a lie.
        if self.trust > Trust::Nature {
            return;
        }
        assert!(self.rig.fake.touched().iter().all(|block| self.asked[*block as usize]), "a foreign block");
        let disk = self.rig.fake.disk();
        let original = pattern(BLOCKS as usize, 200);
        for block in 0..BLOCKS as usize {
            let range = block * BLOCK..(block + 1) * BLOCK;
            if !self.asked[block] {
                assert!(disk[range.clone()] == original[range.clone()], "block {block} was never asked for");
            }
            if let Some(known) = self.model.get(&(block as u64))
                && !self.faulty
                && !self.overlaps(block as u64, 1)
            {
                assert!(disk[range] == known[..], "block {block}");
            }
        }
    }
}

pub fn what_is_written_is_read<K: Kind>(seed: u64, coherent: bool, steps: &[Step]) {
    let mut run = Run::<K>::new(seed, coherent, Vec::new());
    run.run(steps).expect("a device without faults");
    run.check_disk();
    assert!(run.rig.fake.medium() == run.rig.fake.disk(), "all on the medium");
    assert!(!K::ON_PCI || !run.rig.fake.command().contains(Command::BUS_MASTER), "at rest");
}

pub fn only_blocks_asked_for_are_written<K: Kind>(
    seed: u64,
    coherent: bool,
    troubles: Vec<Trouble>,
    steps: &[Step],
) {
    let troubles: Vec<Trouble> = troubles.into_iter().filter(|trouble| K::knows(*trouble)).collect();
    let mut run = Run::<K>::new(seed, coherent, troubles);
    let result = run.run(steps);
    run.check_disk();
    if result.is_err() {
        run.recovers();
    }
}

pub fn opening_writes_to_nothing<K: Kind>() {
    for seed in 0..8 {
        let rig = Rig::<K>::open(seed);
        assert_eq!(rig.fake.writes(), 0);
        assert!(rig.disk.name().starts_with(K::NAME), "{}", rig.disk.name());
        assert!(rig.disk.geometry().is_none_or(|geometry| geometry.blocks == BLOCKS));
        assert!(rig.arena.used() - RED_ZONE - STACK_SIZE <= K::ARENA, "{} bytes of arena", rig.arena.used());
        assert!(size_of::<K::Disk>() <= 4096, "{} bytes of driver", size_of::<K::Disk>());
        rig.assert_within_the_rules();
    }
}

pub fn a_look_writes_to_nothing_and_tells<K: Kind>() {
    let look = |change: &dyn Fn(&Rig<K>)| {
        let mut rig = Rig::<K>::open(0);
        change(&rig);
        let health = rig.timed("sanity_check", |disk, wait| disk.sanity_check(wait));
        assert_eq!(rig.fake.writes(), 0);
        health
    };
    assert_eq!(look(&|_| {}), Health::Healthy);
    assert_eq!(look(&|rig| rig.fake.unplug()), Health::Unusable(DeviceError::Gone));
    if !K::ON_PCI {
        return;
    }
    for forgetful in [false, true] {
        let asleep = look(&|rig| rig.fake.sleep(forgetful));
        assert!(
            matches!(asleep, Health::Risky(DeviceError::Protocol { what: "its power state", .. })),
            "{asleep:?}"
        );
    }
    let reset = look(&|rig| rig.fake.reset_function());
    assert_eq!(reset, Health::Risky(DeviceError::Protocol { what: "its base address", value: 0 }));
    let moved = look(&|rig| rig.fake.move_bar());
    assert!(
        matches!(moved, Health::Unusable(DeviceError::Protocol { what: "its base address", .. })),
        "{moved:?}"
    );
    let undecoded = look(&|rig| rig.fake.set_command(Command::empty()));
    assert!(matches!(undecoded, Health::Risky(_)), "{undecoded:?}");
}

pub fn a_used_device_is_taken_over_without_an_interrupt_left_on<K: Kind>() {
    for seed in 0..8 {
        let mut rig = Rig::<K>::open(seed);
        let before = rig.integrity();
        if K::ON_PCI && seed & 2 != 0 {
            rig.fake.sleep(seed & 4 != 0);
        }
        rig.quiesce().expect("quiesces");
        assert!(!K::ON_PCI || !rig.fake.interrupts_on());
        assert_eq!(rig.disk.geometry().map(|geometry| geometry.blocks), Some(BLOCKS));
        rig.write_block(3, 9).expect("writes");
        assert!(rig.read_block(3).expect("reads") == pattern(1, 9));
        rig.shutdown().expect("shuts down");
        assert!(rig.fake.medium() == rig.fake.disk(), "flushed");
        assert!(matches!(rig.write_block(3, 1), Err(DeviceError::NotReady)));
        assert_eq!(rig.integrity(), before, "use does not change what is protected");
        rig.assert_within_the_rules();
    }
}

pub fn a_function_that_was_reset_is_given_back_where_it_was<K: Kind>() {
    if !K::ON_PCI {
        return;
    }
    type Forget<K> = (&'static str, fn(&<K as Kind>::Fake));
    let forget: [Forget<K>; 3] = [
        ("by waking", |fake| fake.sleep(true)),
        ("by somebody", |fake| fake.reset_function()),
        ("by both", |fake| {
            fake.reset_function();
            fake.sleep(true);
        }),
    ];
    for (how, forget) in forget {
        for seed in 0..4 {
            let mut rig = Rig::<K>::open(seed);
            let (before, asked) = (rig.integrity(), rig.fake.command());
            forget(&rig.fake);
            let health = rig.timed("sanity_check", |disk, wait| disk.sanity_check(wait));
            assert!(matches!(health, Health::Risky(_)), "{how}: {health:?}");
            rig.quiesce().unwrap_or_else(|error| panic!("{how}: {error}"));
            assert!(rig.fake.agrees(), "{how}: packets of another size than the bridge's");
            assert!(!rig.fake.interrupts_on());
            let decodes = Command::IO | Command::MEMORY;
            assert!(asked.contains(rig.fake.command().intersection(decodes)));
            rig.write_block(3, 9).expect("writes");
            assert!(rig.read_block(3).expect("reads") == pattern(1, 9));
            assert_eq!(rig.integrity(), before);
            rig.assert_within_the_rules();
            // Again, in the middle of a dump.
            forget(&rig.fake);
            rig.quiesce().unwrap_or_else(|error| panic!("{how}, again: {error}"));
            assert!(rig.read_block(3).expect("reads again") == pattern(1, 9));
            rig.assert_within_the_rules();
        }
    }
}

/// Each take-over resets the other's device, so they must not be used at the same time.
pub fn two_drivers_of_one_controller_say_that_it_is_one<K: Kind>() {
    let mut rig = Rig::<K>::open(0);
    let other = K::open(&rig.fake, &mut rig.arena).expect("opens again");
    assert!(rig.disk.controller().is_some());
    assert_eq!(rig.disk.controller(), other.controller());
}

pub fn a_register_that_points_elsewhere_is_not_written_to<K: Kind>() {
    if !K::ON_PCI {
        return;
    }
    for reset in [false, true] {
        let mut rig = Rig::<K>::open(0);
        if reset {
            rig.fake.reset_function();
        }
        rig.fake.move_bar();
        let before = rig.fake.writes();
        let refused = rig.quiesce();
        assert!(
            matches!(refused, Err(DeviceError::Protocol { what: "its base address", .. })),
            "{refused:?}"
        );
        assert_eq!(rig.fake.writes(), before);
    }
}

pub fn what_the_old_driver_had_in_flight_never_arrives<K: Kind>() {
    for seed in 0..8 {
        let mut rig = Rig::<K>::open(seed);
        let victim = rig.buffer(1);
        for ticks in 1..400 {
            rig.fake.foreign_request(victim.bus_address(), 16, ticks * 3);
        }
        rig.quiesce().expect("quiesces");
        rig.let_time_pass(2000);
        victim.invalidate_from_device(&rig.platform);
        // Not even during the reset: bus mastering was off.
        assert!(victim.bytes().iter().all(|byte| *byte == 0));
    }
}

/// Each trouble by its name: an error, or success.
pub fn each_trouble_ends_in_an_error_or_in_the_right_data<K: Kind>() {
    for at in 0..4 {
        for trouble in all_troubles(at).into_iter().filter(|trouble| K::knows(*trouble)) {
            let mut rig = Rig::<K>::open(u64::from(at));
            rig.fake.set_troubles(vec![trouble]);
            let quiesced = rig.quiesce();
            let fatal = matches!(trouble, Trouble::NeverReady | Trouble::NeverResets | Trouble::MsiStuck)
                || matches!(trouble, Trouble::GoneAtAccess(at) if at < 20);
            assert!(!fatal || quiesced.is_err(), "{trouble:?} was overlooked");
            let begun = quiesced.is_ok();
            let (mut written, mut failed) = (Vec::new(), quiesced.err());
            for block in 0..6 {
                match rig.write_block(block, block as u8) {
                    Ok(()) => written.push(block),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            for block in written {
                match rig.read_block(block) {
                    Ok(bytes) => assert!(bytes == pattern(1, block as u8), "{trouble:?}: block {block}"),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            let told =
                matches!(trouble, Trouble::StatusFrom(_) | Trouble::NeverCompletes(_) | Trouble::Shrinks(_));
            assert!(!told || failed.is_some(), "{trouble:?} was overlooked");
            match trouble {
                Trouble::StatusFrom(_) if begun => {
                    assert!(matches!(failed, Some(DeviceError::Status { .. })), "{trouble:?}: {failed:?}");
                }
                Trouble::Shrinks(_) if begun => {
                    assert!(
                        matches!(failed, Some(DeviceError::OutOfRange { .. })),
                        "{trouble:?}: {failed:?}"
                    );
                }
                _ => {}
            }
            assert!(rig.fake.touched().iter().all(|block| *block < 6));
            rig.assert_within_the_rules();
            if !rig.fake.is_gone() {
                rig.fake.set_troubles(Vec::new());
                rig.quiesce().unwrap_or_else(|error| panic!("after {trouble:?}: {error}"));
                rig.write_block(9, 3).unwrap_or_else(|error| panic!("after {trouble:?}: {error}"));
                assert!(rig.read_block(9).expect("reads again") == pattern(1, 3));
                rig.assert_within_the_rules();
            }
        }
    }
}

pub fn a_device_pulled_at_any_moment_is_noticed<K: Kind>() {
    for seed in 0..4 {
        let mut rig = Rig::<K>::ready(seed);
        rig.fake.unplug();
        assert_eq!(rig.write_block(1, 1), Err(DeviceError::Gone));
        let result = rig.flush();
        assert!(matches!(result, Err(DeviceError::Gone | DeviceError::NotReady)), "{result:?}");
        assert_eq!(rig.quiesce(), Err(DeviceError::Gone));
        assert!(rig.shutdown().is_err());

        // With a request in flight, too.
        let mut rig = Rig::<K>::ready(seed);
        rig.fake.set_troubles(vec![Trouble::NeverCompletes(0)]);
        let buffer = rig.filled(1, 1);
        let request = Request { id: 7, direction: Direction::Write, block: 0, buffer, gather: None };
        let submitted = rig.timed("submit", |disk, wait| disk.submit(request, wait).map(|_| ()));
        if submitted.is_ok() {
            rig.fake.unplug();
            let end = Wait::new(&rig.platform, None, u64::MAX);
            let seen = end.until("the end", K::LIMIT * 4, || match rig.disk.poll(&end) {
                Ok(None) => None,
                Ok(Some(completion)) => Some(completion.result),
                Err(error) => Some(Err(error)),
            });
            assert_eq!(seen, Ok(Err(DeviceError::Gone)));
        }
    }
}

pub fn a_request_given_up_never_touches_its_buffer_after_the_next_takeover<K: Kind>() {
    if !K::knows(Trouble::NeverCompletes(0)) {
        return;
    }
    for seed in 0..4 {
        let mut rig = Rig::<K>::ready(seed);
        rig.fake.fill(&pattern(BLOCKS as usize, 77));
        rig.fake.set_troubles(vec![Trouble::NeverCompletes(0)]);
        let buffer = rig.buffer(1);
        let place = buffer.place();
        let (_kept, result) = rig.one(Direction::Read, 5, buffer);
        assert!(result.is_err());
        rig.fake.set_troubles(Vec::new());
        rig.quiesce().expect("quiesces again");
        // SAFETY: the device had kept it; after the take-over, neither driver nor device refers to it.
        let mut again = unsafe { place.buffer() };
        again.bytes_mut().fill(0x5a);
        again.clean_for_device(&rig.platform);
        rig.let_time_pass(3000);
        rig.write_block(6, 1).expect("works again");
        again.invalidate_from_device(&rig.platform);
        assert!(again.bytes().iter().all(|byte| *byte == 0x5a));
        rig.assert_within_the_rules();
    }
}

pub fn what_is_not_a_request_is_rejected<K: Kind>() {
    let mut rig = Rig::<K>::ready(0);
    let disk = |rig: &mut Rig<K>, block, buffer| {
        let request = Request { id: 3, direction: Direction::Write, block, buffer, gather: None };
        rig.timed("submit", |disk, wait| disk.submit(request, wait)).expect_err("rejected").error
    };
    let buffer = rig.buffer(2);
    assert_eq!(
        disk(&mut rig, BLOCKS - 1, buffer),
        DeviceError::OutOfRange { end: BLOCKS + 1, blocks: BLOCKS }
    );
    let buffer = rig.buffer(1);
    assert!(matches!(disk(&mut rig, u64::MAX, buffer), DeviceError::OutOfRange { .. }));
    for odd in [0, 512, BLOCK - 1, BLOCK + 512] {
        let (buffer, _) = rig.buffer(2).split(odd);
        assert_eq!(disk(&mut rig, 0, buffer), DeviceError::BadBuffer { length: odd });
    }
    let two = rig.buffer(2);
    assert_eq!(rig.one(Direction::Read, 0, two).1, Err(DeviceError::BadBuffer { length: 2 * BLOCK }));
    let one = rig.buffer(1);
    let beyond = rig.one(Direction::Write, BLOCKS, one).1;
    assert_eq!(beyond, Err(DeviceError::OutOfRange { end: BLOCKS + 1, blocks: BLOCKS }));
    assert!(rig.fake.touched().is_empty());
}

pub fn as_many_requests_as_promised_are_taken<K: Kind>() {
    for seed in 0..8 {
        let mut run = Run::<K>::new(seed, true, Vec::new());
        run.rig.quiesce().expect("quiesces");
        let depth = run.rig.disk.depth();
        for at in 0..depth as u64 {
            run.submit(Direction::Write, at * 2, 2, at as u8).expect("room");
        }
        run.drain(0).expect("all of them complete");
        run.check_disk();
    }
}
