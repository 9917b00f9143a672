//! Properties: with any device, data read is data written, and nothing else changes; with any fault, the
//! driver ends in time and never writes another block.
//!
//! One file: the properties share one model of a run.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use common::*;
use dump_drivers::fake::{DmaMemory, FakeDisk as _, Fault, Plan, Tick as _, Trouble};
use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Gather, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::sim::cases;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write { block: u64, count: usize, seed: u8 },
    Read { block: u64, count: usize },
    Poll { times: u8 },
    Flush,
    OneBlock { block: u64, seed: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let place =
        (0..BLOCKS, 1..12_usize).prop_map(|(block, count)| (block, count.min((BLOCKS - block) as usize)));
    prop_oneof![
        5 => (place.clone(), any::<u8>()).prop_map(|((block, count), seed)| Step::Write { block, count, seed }),
        3 => place.prop_map(|(block, count)| Step::Read { block, count }),
        2 => (1..8_u8).prop_map(|times| Step::Poll { times }),
        1 => Just(Step::Flush),
        1 => (0..BLOCKS, any::<u8>()).prop_map(|(block, seed)| Step::OneBlock { block, seed }),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let sizes =
        prop_oneof![Just(4_u16), Just(5), Just(8), Just(16), Just(24), Just(64), Just(128), Just(256)];
    let segments = prop_oneof![
        3 => Just((None, None)),
        1 => Just((None, Some(254))),
        1 => Just((Some(4096_u32), None)),
        1 => (4096..70_000_u32).prop_map(|size| (Some(size), None)),
        1 => (4096..70_000_u32, 0..2_u32).prop_map(|(size, most)| (Some(size), Some(most))),
        1 => (2048..70_000_u32, 3..9_u32).prop_map(|(size, most)| (Some(size), Some(most))),
    ];
    let delays = prop_oneof![2 => Just((0, 0)), 1 => (0..4_u32, 0..20_u32)];
    (
        (sizes, segments, delays),
        (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u32, any::<u64>(), 0..4_u64),
    )
        .prop_map(
            |(
                (queue_size, (size_max, seg_max), delay),
                (shuffle, no_notify, flush, resets, seed, platform),
            )| {
                Plan {
                    // A queue of 4 has room for 2 pieces, so a piece must hold at least half a block.
                    queue_size,
                    size_max,
                    seg_max,
                    delay,
                    shuffle,
                    no_notify,
                    flush,
                    reset_ticks: resets * 5,
                    seed,
                    required_features: (platform & 1) << 33 | (platform >> 1) << 36,
                    ..Plan::default()
                }
            },
        )
}

/// A fault of this kind of device, or of any.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Fault(Fault),
    Trouble(Trouble),
}

fn wrong() -> impl Strategy<Value = Wrong> {
    prop_oneof![fault().prop_map(Wrong::Fault), trouble().prop_map(Wrong::Trouble)]
}

fn fault() -> impl Strategy<Value = Fault> {
    let number = 0..12_u32;
    prop_oneof![
        (number.clone(), prop_oneof![0..70_u32, any::<u32>()]).prop_map(|(at, id)| Fault::WrongId(at, id)),
        (number.clone(), any::<u16>()).prop_map(|(at, by)| Fault::IndexJumps(at, by)),
        (number.clone(), 1..600_u32).prop_map(|(at, bytes)| Fault::ShortLength(at, bytes)),
        number.clone().prop_map(Fault::LongLength),
        (number.clone(), 1..=255_u8).prop_map(|(at, code)| Fault::Status(at, code)),
        number.prop_map(Fault::StatusUnwritten),
        Just(Fault::FeaturesRefused),
        Just(Fault::ReadOnly),
        Just(Fault::NotifyOutside),
        Just(Fault::GenerationRuns),
        Just(Fault::QueueStaysDisabled),
        (8..BLOCKS * 8).prop_map(Fault::CapacityShrinks),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let number = 0..12_u32;
    prop_oneof![
        (1..400_u32).prop_map(Trouble::GoneAtAccess),
        number.clone().prop_map(Trouble::NeverCompletes),
        number.clone().prop_map(Trouble::Duplicate),
        number.prop_map(Trouble::Fails),
        Just(Trouble::NeverResets),
        Just(Trouble::MsiStuck),
    ]
}

/// The purpose of a request in flight.
enum Expect {
    Written { block: u64, bytes: Vec<u8> },
    Read { block: u64, count: usize },
}

/// Maximum bytes of a run: a buffer for each step, scattered ones more than twice.
const ARENA: usize = 8 << 20;
/// Arenas of finished runs, with their drivers and devices.
static SPARE: Mutex<Vec<DmaMemory>> = Mutex::new(Vec::new());

/// Runs steps and records the expected contents.
struct Run {
    rig: Rig,
    /// Blocks with known contents.
    model: BTreeMap<u64, Vec<u8>>,
    /// Blocks ever requested to be written.
    asked: Vec<bool>,
    in_flight: BTreeMap<u32, Expect>,
    next: u32,
    /// Whether lies are enabled: then a completion, with its data, may come early.
    faulty: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(self.rig.memory);
    }
}

impl Run {
    fn new(plan: Plan) -> Result<Run, DeviceError> {
        let faulty = !plan.faults.is_empty() || !plan.troubles.is_empty();
        let memory = SPARE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_else(|| DmaMemory::leak(ARENA));
        let rig = Rig::over(memory, plan, BLOCKS)?;
        rig.fake.fill(&pattern(BLOCKS as usize, 200));
        let all = pattern(BLOCKS as usize, 200);
        let model = (0..BLOCKS).zip(all.chunks(BLOCK).map(<[u8]>::to_vec)).collect();
        Ok(Run {
            rig,
            model,
            asked: vec![false; BLOCKS as usize],
            in_flight: BTreeMap::new(),
            next: 0,
            faulty,
        })
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
        let bytes = completion.buffer.bytes();
        match expect {
            Expect::Written { block, bytes: written } => {
                let whole = completion.gather.is_some() || bytes.len() == written.len();
                assert!(whole && written.starts_with(bytes), "a write leaves its buffer as it was");
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
                            assert!(known == piece, "block {at} reads as it was written");
                        }
                    }
                }
            }
        }
        completion.result
    }

    /// Waits until at most `left` requests are in flight.
    fn drain(&mut self, left: usize) -> Result<(), DeviceError> {
        while self.in_flight.len() > left {
            let wait = wait(&self.rig.platform);
            let disk = &mut self.rig.disk;
            let completion = wait.until("a request", TIMEOUT, || disk.poll(&wait).transpose())??;
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
        let buffer = self.rig.filled(count, seed);
        // Some multi-block writes use scattered memory.
        let scatter = direction == Direction::Write && count > 1 && seed.is_multiple_of(3);
        let expect = match direction {
            Direction::Write => Expect::Written { block, bytes: buffer.bytes().to_vec() },
            Direction::Read => Expect::Read { block, count },
        };
        let id = self.next;
        self.next += 1;
        let (buffer, gather) = if scatter { self.scatter(buffer, seed) } else { (buffer, None) };
        let request = Request { id, direction, block, buffer, gather };
        let at_once = match self.rig.disk.submit(request, &wait(&self.rig.platform)) {
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

    fn step(&mut self, step: &Step) -> Result<(), DeviceError> {
        match *step {
            Step::Write { block, count, seed } => self.submit(Direction::Write, block, count, seed),
            Step::Read { block, count } => self.submit(Direction::Read, block, count, 0),
            Step::Poll { times } => {
                for _ in 0..times {
                    self.rig.fake.tick();
                    if let Some(completion) = self.rig.disk.poll(&wait(&self.rig.platform))? {
                        self.finish(completion)?;
                    }
                }
                Ok(())
            }
            Step::Flush => {
                self.drain(0)?;
                self.rig.disk.flush(&wait(&self.rig.platform))?;
                let (medium, disk) = (self.rig.fake.medium(), self.rig.fake.disk());
                assert!(self.faulty || medium == disk, "flushed");
                Ok(())
            }
            Step::OneBlock { block, seed } => {
                self.drain(0)?;
                if let Some(asked) = self.asked.get_mut(block as usize) {
                    *asked = true;
                }
                self.model.remove(&block);
                self.rig.write_block(block, seed)?;
                self.model.insert(block, pattern(1, seed));
                let read = self.rig.read_block(block)?;
                assert_eq!(read, pattern(1, seed));
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
        self.rig.disk.shutdown(&wait(&self.rig.platform))
    }

    /// Only requested blocks were written, and completed requests were executed.
    fn check_disk(&self) {
        self.rig.assert_within_the_rules();
        assert!(self.rig.fake.touched().iter().all(|block| self.asked[*block as usize]));
        let disk = self.rig.fake.disk();
        let original = pattern(BLOCKS as usize, 200);
        for block in 0..BLOCKS as usize {
            let range = block * BLOCK..(block + 1) * BLOCK;
            if !self.asked[block] {
                assert!(disk[range.clone()] == original[range.clone()], "block {block} was never asked for");
            }
            let being_written = self.overlaps(block as u64, 1);
            if let Some(known) = self.model.get(&(block as u64))
                && !being_written
            {
                assert!(disk[range] == known[..], "block {block}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_whatever_the_device_is_like(
        plan in plan(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut run = Run::new(plan).expect("opens");
        run.run(&steps).expect("a device without faults");
        run.check_disk();
        assert!(run.rig.fake.medium() == run.rig.fake.disk(), "all on the medium");
        assert_eq!(run.rig.fake.status(), 0);
    }

    #[test]
    fn whatever_the_device_does_wrong_only_blocks_asked_for_are_written_and_all_ends_in_time(
        plan in plan(),
        wrongs in prop::collection::vec(wrong(), 1..3),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let (mut faults, mut troubles) = (Vec::new(), Vec::new());
        for wrong in wrongs {
            match wrong {
                Wrong::Fault(fault) => faults.push(fault),
                Wrong::Trouble(trouble) => troubles.push(trouble),
            }
        }
        let Ok(mut run) = Run::new(Plan { faults, troubles, ..plan }) else { return Ok(()) };
        let begin = run.rig.platform.peek();
        let result = run.run(&steps);
        // One wait of the test's, one flush, which may take twelve times as long, and several slow requests.
        assert!(run.rig.platform.peek() - begin < 15 * TIMEOUT, "ends in time");
        run.check_disk();
        if result.is_err() {
            // However it failed, the last call ends too, and a recovered device works again.
            let begin = run.rig.platform.peek();
            let _ = run.rig.disk.shutdown(&wait(&run.rig.platform));
            assert!(run.rig.platform.peek() - begin < 14 * TIMEOUT);
            run.check_disk();
            // Whatever happened while it was faulty, quiesce may be called again.
            let again = run.rig.quiesce();
            let gone = run.rig.fake.is_gone();
            assert!(!gone || again.is_err() || run.rig.read_block(0).is_err());
            run.rig.fake.set_faults(vec![]);
            if !gone {
                run.in_flight.clear();
                run.rig.quiesce().expect("a device that has recovered");
                run.rig.fake.fill(&pattern(1, 1));
                assert_eq!(run.rig.read_block(0).expect("reads"), pattern(1, 1));
            }
        }
    }
}

#[test]
fn as_many_requests_as_promised_are_taken_and_not_one_more() {
    for queue_size in [4, 8, 64, 256] {
        let plan = Plan { queue_size, delay: (5, 9), shuffle: true, ..Plan::default() };
        let mut run = Run::new(plan).unwrap();
        run.rig.quiesce().unwrap();
        let depth = run.rig.disk.depth();
        for at in 0..depth as u64 {
            run.submit(Direction::Write, at * 2, 2, at as u8).unwrap();
        }
        let buffer = run.rig.buffer(1);
        let request = Request { id: 999, direction: Direction::Read, block: 0, buffer, gather: None };
        let rejected = run.rig.disk.submit(request, &wait(&run.rig.platform)).unwrap_err();
        assert_eq!((rejected.request.id, rejected.error), (999, DeviceError::QueueFull));
        let buffer = run.rig.buffer(1);
        let (buffer, result) = run.rig.disk.rw_block(Direction::Read, 0, buffer, &wait(&run.rig.platform));
        assert!(buffer.is_some());
        assert_eq!(result, Err(DeviceError::QueueFull), "rw_block is for an idle device");
        run.drain(0).unwrap();
        run.check_disk();
    }
}

#[test]
fn requests_that_wait_for_a_small_queue_are_served_in_order() {
    let mut run = Run::new(Plan { queue_size: 4, delay: (2, 2), ..Plan::default() }).unwrap();
    run.rig.quiesce().unwrap();
    let mut served = vec![];
    for round in 0..40_u64 {
        run.submit(Direction::Read, round, 1, 0).unwrap();
        if round >= 9 {
            let before: Vec<u32> = run.in_flight.keys().copied().collect();
            run.drain(9).unwrap();
            served.extend(before.into_iter().filter(|id| !run.in_flight.contains_key(id)));
        }
    }
    assert_eq!(served, (0..31).collect::<Vec<u32>>());
}

#[test]
fn the_largest_transfer_is_taken_whatever_the_device_takes_at_once() {
    for (queue_size, size_max, seg_max) in [
        (256, None, Some(254)),
        (256, Some(131_072), Some(126)),
        (8, Some(4096), Some(1)),
        (4, Some(2048), Some(2)),
    ] {
        let blocks = 300;
        let plan = Plan { queue_size, size_max, seg_max, delay: (1, 1), ..Plan::default() };
        let mut rig = Rig::sized(plan, blocks, 4 << 20).unwrap();
        rig.quiesce().unwrap();
        let count = rig.disk.max_transfer() / BLOCK;
        let buffer = rig.filled(count, 3);
        let request = Request { id: 1, direction: Direction::Write, block: 11, buffer, gather: None };
        rig.disk.submit(request, &wait(&rig.platform)).unwrap();
        let disk = &mut rig.disk;
        let polling = wait(&rig.platform);
        let done = polling.until("it", TIMEOUT, || disk.poll(&polling).transpose()).unwrap().unwrap();
        done.result.unwrap();
        assert!(rig.fake.disk()[11 * BLOCK..][..count * BLOCK] == pattern(count, 3));
        rig.assert_within_the_rules();
        let buffer = rig.buffer(count + 1);
        let length = buffer.len();
        let request = Request { id: 2, direction: Direction::Write, block: 0, buffer, gather: None };
        let rejected = rig.disk.submit(request, &wait(&rig.platform)).unwrap_err();
        assert_eq!(rejected.error, DeviceError::BadBuffer { length });
    }
}

#[test]
fn a_device_that_looks_for_itself_is_not_notified() {
    let mut rig = Rig::ready(Plan { no_notify: true, ..Plan::default() });
    rig.write_block(4, 4).unwrap();
    assert_eq!(rig.read_block(4).unwrap(), pattern(1, 4));
    assert_eq!(rig.fake.doorbells(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "many cases")]
fn indexes_that_wrap_are_followed() {
    let mut rig = Rig::ready(Plan { queue_size: 4, ..Plan::default() });
    let mut buffer = Some(rig.buffer(1));
    for round in 0..70_000_u32 {
        let mut mine = buffer.take().expect("it came back");
        mine.bytes_mut()[..4].copy_from_slice(&round.to_le_bytes());
        let (back, result) = rig.disk.rw_block(Direction::Write, 1, mine, &wait(&rig.platform));
        result.unwrap();
        buffer = back;
    }
    assert_eq!(rig.fake.disk()[BLOCK..][..4], 69_999_u32.to_le_bytes());
    rig.assert_within_the_rules();
}

#[test]
fn waiting_pats_the_watchdog() {
    let mut rig = Rig::ready(Plan::troubled(Trouble::NeverCompletes(0)));
    let before = rig.platform.pats();
    rig.write_block(0, 0).unwrap_err();
    assert!(rig.platform.pats() - before >= TIMEOUT / 1_000_000);
}
