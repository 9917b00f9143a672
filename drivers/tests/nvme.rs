//! NVMe specifics: queues of any size, PRP lists, namespaces, retries, the controller's own lies, and its
//! shutdown. The battery tests the rest.
//!
//! One file: a list of independent tests.
#![allow(missing_docs)]

use dump_drivers::NvmeDisk;
use dump_drivers::fake::{
    ClockPlatform, DmaMemory, FakeDisk as _, NvmeFake, NvmeFault, NvmeModel, NvmePlan, Tick as _, Trouble,
    Window,
};
use dump_drivers::nvme::disk;
use dumpcore::arena::Arena;
use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Gather, Health, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::sim::cases;
use dumpcore::wait::{MILLISECOND, SECOND, Wait};
use proptest::prelude::*;

const STEP: u64 = 5_000;
const TIMEOUT: u64 = 5 * MILLISECOND;
const BLOCK: usize = 4096;
const BLOCKS: u64 = 600;

type Disk = NvmeDisk<Window<NvmeModel>, NvmeFake>;

struct Rig {
    fake: NvmeFake,
    platform: ClockPlatform,
    arena: Arena<'static>,
    disk: Disk,
}

fn open(fake: &NvmeFake, chosen: Option<u32>, arena: &mut Arena<'static>) -> Result<Disk, DeviceError> {
    let function = disk::find(fake, 0).expect("it is there");
    NvmeDisk::open(fake.access(TIMEOUT), function, chosen, arena)
}

impl Rig {
    fn choosing(plan: NvmePlan, chosen: Option<u32>) -> Result<Rig, DeviceError> {
        let memory = DmaMemory::incoherent(4 << 20);
        let mut arena = memory.arena();
        let fake = NvmeFake::nvme(memory, BLOCKS, plan);
        let disk = open(&fake, chosen, &mut arena)?;
        let platform = ClockPlatform::new(STEP).with(fake.clone()).over(memory);
        Ok(Rig { fake, platform, arena, disk })
    }

    fn open(plan: NvmePlan) -> Result<Rig, DeviceError> {
        Rig::choosing(plan, None)
    }

    fn ready(plan: NvmePlan) -> Rig {
        let mut rig = Rig::open(plan).expect("opens");
        rig.quiesce().expect("quiesces");
        rig
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.disk.quiesce(&Wait::new(&self.platform, None, u64::MAX))
    }

    fn shutdown(&mut self) -> Result<(), DeviceError> {
        self.disk.shutdown(&Wait::new(&self.platform, None, u64::MAX))
    }

    fn buffer(&mut self, blocks: usize) -> DmaBuffer {
        self.arena.dma(blocks * BLOCK, BLOCK).expect("room")
    }

    fn submit(
        &mut self,
        id: u32,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        gather: Option<Gather>,
    ) -> Result<(), DeviceError> {
        buffer.clean_for_device(&self.platform);
        let request = Request { id, direction, block, buffer, gather };
        let wait = Wait::new(&self.platform, None, u64::MAX);
        self.disk.submit(request, &wait).map(|at_once| assert!(at_once.is_none())).map_err(|no| no.error)
    }

    /// The next completion.
    fn next(&mut self) -> Result<Completion, DeviceError> {
        let wait = Wait::new(&self.platform, None, u64::MAX);
        let disk = &mut self.disk;
        let completion = wait.until("a request", SECOND, || disk.poll(&wait).transpose())??;
        completion.buffer.invalidate_from_device(&self.platform);
        Ok(completion)
    }

    /// Writes `count` blocks.
    fn write(&mut self, block: u64, count: usize, seed: u8) -> Result<(), DeviceError> {
        let mut buffer = self.buffer(count);
        fill(buffer.bytes_mut(), seed);
        self.submit(1, Direction::Write, block, buffer, None)?;
        self.next()?.result
    }

    /// Reads `count` blocks.
    fn read(&mut self, block: u64, count: usize) -> Result<Vec<u8>, DeviceError> {
        let buffer = self.buffer(count);
        self.submit(2, Direction::Read, block, buffer, None)?;
        let completion = self.next()?;
        completion.result.map(|()| completion.buffer.bytes().to_vec())
    }

    fn assert_within_the_rules(&self) {
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
}

fn fill(bytes: &mut [u8], seed: u8) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = seed.wrapping_add((at / 512) as u8).wrapping_mul(31).wrapping_add(at as u8);
    }
}

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; blocks * BLOCK];
    fill(&mut bytes, seed);
    bytes
}

fn quiesces(plan: NvmePlan) -> Result<(), DeviceError> {
    let mut rig = Rig::open(plan)?;
    let result = rig.quiesce();
    rig.assert_within_the_rules();
    result
}

fn is_unsupported(result: Result<(), DeviceError>, part: &str) -> bool {
    matches!(result, Err(DeviceError::Unsupported { what, .. }) if what.contains(part))
}

fn protocol(what: &'static str, value: u64) -> Result<(), DeviceError> {
    Err(DeviceError::Protocol { what, value })
}

#[test]
fn queues_of_any_size_are_used_and_one_entry_says_nothing() {
    for mqes in [0, 1, 2, 4, 6, 30, 31, 32, 63, 1023, u16::MAX] {
        for delay in [(0, 0), (1, 9)] {
            let plan = NvmePlan { mqes, delay, shuffle: true, mdts: 1, ..NvmePlan::default() };
            let mut rig = Rig::ready(plan);
            // Many passes through the queue.
            for round in 0..12_u8 {
                rig.write(u64::from(round) * 40, 37, round).unwrap();
                assert!(rig.read(u64::from(round) * 40, 37).unwrap() == pattern(37, round));
            }
            rig.shutdown().unwrap();
            rig.assert_within_the_rules();
        }
    }
}

#[test]
fn requests_are_cut_to_what_the_controller_takes_at_once() {
    // A request of 1 MiB, by the maximum transfer as a power of two of pages; 512 KiB is the driver's own
    // limit.
    for (mdts, commands) in [(0, 2), (1, 128), (3, 32), (5, 8), (7, 2), (8, 2), (63, 2), (64, 2), (255, 2)] {
        let mut rig = Rig::ready(NvmePlan { mdts, ..NvmePlan::default() });
        rig.write(7, 256, 3).unwrap();
        assert_eq!(rig.fake.commands(), commands, "mdts {mdts}");
        assert!(rig.fake.disk()[7 * BLOCK..][..256 * BLOCK] == pattern(256, 3));
        rig.assert_within_the_rules();
    }
}

#[test]
fn commands_of_one_request_are_in_flight_together_and_the_doorbell_is_rung_once_for_all() {
    let mut rig = Rig::ready(NvmePlan { mdts: 4, delay: (5, 0), ..NvmePlan::default() });
    let before = rig.fake.doorbells();
    let buffer = rig.buffer(128);
    rig.submit(1, Direction::Write, 0, buffer, None).unwrap();
    assert_eq!(rig.fake.commands(), 8);
    assert_eq!(rig.fake.doorbells(), before + 1);
    rig.next().unwrap().result.unwrap();
    rig.assert_within_the_rules();
}

#[test]
fn buffers_that_begin_within_a_page_are_transferred_whole() {
    for offset in [4, 512, 2048, 4092] {
        for blocks in [1, 2, 3, 129, 200] {
            let mut rig = Rig::ready(NvmePlan { mdts: 0, ..NvmePlan::default() });
            let (_, rest) = rig.buffer(blocks + 1).split(offset);
            let (mut buffer, _) = rest.split(blocks * BLOCK);
            fill(buffer.bytes_mut(), 9);
            rig.submit(1, Direction::Write, 3, buffer, None).unwrap();
            let done = rig.next().unwrap();
            done.result.unwrap();
            let mut buffer = done.buffer;
            assert!(rig.fake.disk()[3 * BLOCK..][..blocks * BLOCK] == pattern(blocks, 9));
            buffer.bytes_mut().fill(0);
            rig.submit(2, Direction::Read, 3, buffer, None).unwrap();
            let done = rig.next().unwrap();
            done.result.unwrap();
            assert!(done.buffer.bytes() == pattern(blocks, 9));
            rig.assert_within_the_rules();
        }
    }
    // Data must be aligned to 4 bytes.
    let mut rig = Rig::ready(NvmePlan::default());
    let (_, rest) = rig.buffer(2).split(2);
    let (buffer, _) = rest.split(BLOCK);
    let refused = rig.submit(1, Direction::Write, 0, buffer, None);
    assert_eq!(refused, Err(DeviceError::BadBuffer { length: BLOCK }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(60), failure_persistence: None, ..ProptestConfig::default() })]

    /// Extents of any size, at any offset in a page, after a buffer that may itself start within a page.
    #[test]
    fn scattered_memory_is_written_in_its_order(
        mdts in 0..9_u8,
        shift in 9..=12_u8,
        first in (0..3_usize, 0..1024_usize),
        extents in prop::collection::vec((1..9_usize, prop_oneof![Just(0_usize), 0..1024_usize]), 0..24),
    ) {
        let mut rig = Rig::ready(NvmePlan { mdts, shift, delay: (0, 4), shuffle: true, ..NvmePlan::default() });
        let mut take = |blocks: usize, offset: usize, seed: u8| {
            let (_, rest) = rig.buffer(blocks + 1).split(offset);
            let (mut piece, _) = rest.split(blocks * BLOCK);
            fill(piece.bytes_mut(), seed);
            piece
        };
        let buffer = take(first.0 + 1, first.1 * 4, 1);
        let mut expected = buffer.bytes().to_vec();
        let pieces: Vec<DmaBuffer> = extents
            .iter()
            .zip(2..)
            .map(|((blocks, words), seed)| take(*blocks, words * 4, seed))
            .collect();
        let mut table = rig.buffer(1);
        for (entry, piece) in table.bytes_mut().as_chunks_mut::<16>().0.iter_mut().zip(&pieces) {
            entry[..8].copy_from_slice(&piece.bus_address().to_ne_bytes());
            entry[8..].copy_from_slice(&(piece.len() as u64).to_ne_bytes());
            piece.clean_for_device(&rig.platform);
            expected.extend_from_slice(piece.bytes());
        }
        rig.submit(1, Direction::Write, 11, buffer, Some(Gather::new(table, pieces.len()))).unwrap();
        rig.next().unwrap().result.unwrap();
        prop_assert!(rig.fake.disk()[11 * BLOCK..][..expected.len()] == expected[..]);
        rig.assert_within_the_rules();
    }

    /// Whatever its identity data, the take-over ends, without violations of the specification.
    #[test]
    fn a_controller_that_tells_nonsense_is_refused_or_used_but_never_believed_blindly(
        question in 0..4_u8,
        seed: u64,
    ) {
        let plan = NvmePlan { seed, command_sets: 0x41, ..NvmePlan::with(NvmeFault::Garbage(question)) };
        let mut rig = Rig::open(plan).unwrap();
        let begin = rig.platform.peek();
        let result = rig.quiesce();
        prop_assert!(rig.platform.peek() - begin < SECOND);
        rig.assert_within_the_rules();
        rig.fake.set_faults(Vec::new());
        rig.quiesce().unwrap();
        rig.write(1, 3, 8).unwrap();
        // The fake itself reports a command for a missing namespace.
        prop_assert!(result.is_ok() || rig.fake.violations().is_empty());
    }
}

#[test]
fn a_command_that_may_work_the_second_time_is_given_once_more() {
    // The second of three commands fails, once.
    let plan = || NvmePlan { mdts: 2, ..NvmePlan::with(NvmeFault::Transient(1, 0)) };
    let mut rig = Rig::ready(plan());
    rig.write(5, 12, 4).unwrap();
    assert_eq!(rig.fake.commands(), 4);
    assert!(rig.fake.disk()[5 * BLOCK..][..12 * BLOCK] == pattern(12, 4));
    assert!(rig.read(5, 12).unwrap() == pattern(12, 4));
    rig.assert_within_the_rules();
    // It fails twice, even in the smallest queue: the request fails when all of its commands have completed.
    for mqes in [1, 1023] {
        let mut rig = Rig::ready(NvmePlan { mqes, ..plan() });
        rig.fake.set_faults(vec![NvmeFault::Transient(1, 40)]);
        let result = rig.write(5, 12, 4);
        assert_eq!(result, Err(DeviceError::Status { what: "write", code: 6 }));
        rig.fake.set_faults(vec![]);
        rig.write(5, 12, 5).unwrap();
        rig.assert_within_the_rules();
    }
}

#[test]
fn a_command_that_would_fail_again_is_not_given_again() {
    let mut rig = Rig::ready(NvmePlan::default());
    rig.fake.set_troubles(vec![Trouble::Status(0)]);
    assert_eq!(rig.write(5, 1, 4), Err(DeviceError::Status { what: "write", code: 0x280 }));
    assert_eq!(rig.fake.commands(), 1);
    rig.fake.set_troubles(vec![Trouble::Status(1)]);
    assert_eq!(rig.read(5, 1), Err(DeviceError::Status { what: "read", code: 0x281 }));
    rig.write(5, 1, 4).unwrap();
}

#[test]
fn a_request_fails_as_a_whole_when_all_of_its_commands_are_over() {
    // The first of many commands fails; a returned buffer must not be written any more.
    let mut rig = Rig::ready(NvmePlan { mdts: 1, delay: (1, 30), shuffle: true, ..NvmePlan::default() });
    rig.fake.fill(&pattern(64, 9));
    rig.fake.set_troubles(vec![Trouble::Status(0)]);
    let buffer = rig.buffer(32);
    rig.submit(1, Direction::Read, 0, buffer, None).unwrap();
    let mut done = rig.next().unwrap();
    assert_eq!(done.result, Err(DeviceError::Status { what: "read", code: 0x281 }));
    done.buffer.bytes_mut().fill(0x5a);
    done.buffer.clean_for_device(&rig.platform);
    for _ in 0..200 {
        rig.fake.tick();
    }
    done.buffer.invalidate_from_device(&rig.platform);
    assert!(done.buffer.bytes().iter().all(|byte| *byte == 0x5a));
    rig.assert_within_the_rules();
}

#[test]
fn completions_that_cannot_be_end_the_controllers_use_by_name() {
    let first = |fault| {
        let mut rig = Rig::ready(NvmePlan::with(fault));
        let result = rig.write(5, 1, 4);
        assert_eq!(rig.write(6, 1, 4), Err(DeviceError::NotReady));
        rig.fake.set_faults(vec![]);
        rig.quiesce().unwrap();
        rig.write(7, 1, 4).unwrap();
        rig.assert_within_the_rules();
        result
    };
    assert_eq!(first(NvmeFault::WrongQueue(0)), protocol("a completion's queue", 7));
    for head in [32, 33, 0x8000, u16::MAX] {
        assert_eq!(first(NvmeFault::WrongHead(0, head)), protocol("its queue's head", head.into()));
    }
    for trouble in [Trouble::WrongId(0), Trouble::NeverAsked(0)] {
        let mut rig = Rig::ready(NvmePlan::default());
        rig.fake.set_troubles(vec![trouble]);
        let result = rig.write(5, 1, 4);
        assert!(matches!(result, Err(DeviceError::Protocol { what: "a finished command's id", .. })));
    }
}

#[test]
fn the_double_of_a_command_is_not_taken_for_its_successor() {
    // One command at a time, so the next one uses the same slot in the driver's table.
    let mut rig = Rig::ready(NvmePlan { delay: (3, 0), ..NvmePlan::default() });
    rig.fake.set_troubles(vec![Trouble::Duplicate(0), Trouble::NeverCompletes(1)]);
    rig.write(5, 1, 4).unwrap();
    let result = rig.write(6, 1, 4);
    assert!(
        matches!(result, Err(DeviceError::Protocol { what: "a finished command's id", .. })),
        "{result:?}"
    );
}

#[test]
fn a_controller_that_fails_for_good_is_named() {
    let status = |code| Err(DeviceError::Status { what: "stay in operation", code });
    assert_eq!(quiesces(NvmePlan::with(NvmeFault::FatalAtStart)), status(2));
    let mut rig = Rig::ready(NvmePlan::default());
    rig.fake.set_troubles(vec![Trouble::Fails(0)]);
    let buffer = rig.buffer(1);
    let (kept, result) =
        rig.disk.rw_block(Direction::Write, 0, buffer, &Wait::new(&rig.platform, None, u64::MAX));
    assert!(kept.is_none());
    assert_eq!(result, status(3));
    assert_eq!(
        rig.disk.sanity_check(&Wait::new(&rig.platform, None, u64::MAX)),
        Health::Risky(DeviceError::Status { what: "stay in operation", code: 3 })
    );
    rig.fake.set_troubles(vec![]);
    rig.quiesce().unwrap();
    // Even while only polling.
    let buffer = rig.buffer(1);
    rig.fake.set_troubles(vec![Trouble::NeverCompletes(0)]);
    rig.submit(1, Direction::Write, 0, buffer, None).unwrap();
    rig.fake.break_down();
    let wait = Wait::new(&rig.platform, None, u64::MAX);
    let polled = (0..1 << 15).find_map(|_| rig.disk.poll(&wait).transpose());
    assert_eq!(polled.map(|polled| polled.map(|_| ())), Some(status(3)));
}

#[test]
#[cfg_attr(miri, ignore = "waits long")]
fn resets_have_the_time_that_the_controller_says() {
    // Almost 2 s, by reads of the clock; the limit of requests is far shorter.
    let ticks = (1_900 * MILLISECOND / STEP) as u32;
    let plan = |timeout| NvmePlan { timeout, ticks, ..NvmePlan::default() };
    assert_eq!(quiesces(plan(4)), Ok(()));
    // The driver waits for a controller that takes a little longer than reported.
    assert_eq!(quiesces(plan(3)), Ok(()));
    let result = quiesces(plan(2));
    assert!(
        matches!(result, Err(DeviceError::TimedOut { what: "an NVMe reset", after }) if after >= 1_500 * MILLISECOND)
    );
    // A controller that reports 0 gets only that little.
    let result = quiesces(plan(0));
    assert!(matches!(result, Err(DeviceError::TimedOut { after, .. }) if after < 600 * MILLISECOND));
    assert_eq!(quiesces(NvmePlan { timeout: 0, ..NvmePlan::default() }), Ok(()));
}

#[test]
fn a_controller_that_is_being_started_is_awaited_before_its_reset() {
    let mut rig = Rig::open(NvmePlan { ticks: 50, ..NvmePlan::default() }).unwrap();
    rig.fake.is_being_started();
    rig.quiesce().unwrap();
    rig.write(0, 1, 1).unwrap();
    rig.assert_within_the_rules();
}

#[test]
fn namespaces_that_are_not_plain_blocks_are_refused_by_name() {
    let base = NvmePlan::default;
    assert!(is_unsupported(quiesces(NvmePlan { metadata: 8, ..base() }), "without metadata"));
    assert!(is_unsupported(quiesces(NvmePlan { protection: 1, ..base() }), "protection information"));
    assert!(is_unsupported(quiesces(NvmePlan { read_only: true, ..base() }), "can be written"));
    assert!(is_unsupported(quiesces(NvmePlan { shift: 13, ..base() }), "4096 bytes or less"));
    assert!(is_unsupported(quiesces(NvmePlan { shift: 14, ..base() }), "4096 bytes or less"));
    let tiny = quiesces(NvmePlan { shift: 8, ..base() });
    assert_eq!(tiny, protocol("its block size, as a power of two,", 8));
    let zoned = NvmePlan { command_sets: 0x41, command_set: 2, ..base() };
    assert!(is_unsupported(quiesces(zoned), "NVM command set"));
    assert!(is_unsupported(quiesces(NvmePlan { namespace: 0, ..base() }), "a namespace"));
    for shift in 9..=12 {
        assert_eq!(quiesces(NvmePlan { shift, ..base() }), Ok(()));
    }
}

#[test]
fn controllers_that_cannot_be_driven_are_refused_by_name() {
    let base = NvmePlan::default;
    let opens = |plan| Rig::open(plan).map(|_| ());
    assert!(is_unsupported(opens(NvmePlan { least_page: 2, ..base() }), "memory pages of 4096"));
    assert!(is_unsupported(opens(NvmePlan { command_sets: 0x80, ..base() }), "NVM command set"));
    assert!(is_unsupported(quiesces(NvmePlan { kind: 2, ..base() }), "a controller for data"));
    assert!(is_unsupported(quiesces(NvmePlan { kind: 3, ..base() }), "a controller for data"));
    for entry_sizes in [(0x77, 0x44), (0x55, 0x44), (0x66, 0x55), (0x66, 0x33), (0, 0)] {
        let result = quiesces(NvmePlan { entry_sizes, ..base() });
        assert!(matches!(result, Err(DeviceError::Protocol { what: "its sizes of queue entries", .. })));
    }
    let mut rig = Rig::open(base()).unwrap();
    rig.fake.set_faults(vec![NvmeFault::StrideChanges]);
    assert_eq!(rig.quiesce(), protocol("its doorbell stride", 8));
}

#[test]
fn the_namespace_is_the_chosen_one_or_the_first() {
    let plan = || NvmePlan { namespace: 5, others: vec![2, 9], ..NvmePlan::default() };
    let sized = |chosen| {
        let mut rig = Rig::choosing(plan(), chosen).unwrap();
        assert_eq!(rig.disk.geometry(), None, "only a command tells");
        rig.quiesce().map(|()| rig.disk.geometry().map(|geometry| geometry.blocks))
    };
    assert_eq!(sized(Some(5)), Ok(Some(BLOCKS)));
    assert_eq!(sized(Some(9)), Ok(Some(1000 * 512 / BLOCK as u64)));
    assert_eq!(sized(None), Ok(Some(1000 * 512 / BLOCK as u64)), "number 2");
    assert_eq!(sized(Some(3)), Err(DeviceError::Unsupported { what: "an active namespace", value: 3 }));
}

/// Fields of later versions are neither requested nor trusted.
#[test]
fn a_controller_of_any_version_is_asked_what_it_knows() {
    for version in [0, 0x1_0000, 0x1_0100, 0x1_0200, 0x1_0300, 0x1_0400, 0x2_0000, 0x2_0100] {
        for dirty in [false, true] {
            for namespace in [1, 3, 32] {
                let plan = NvmePlan { version, dirty, namespace, ..NvmePlan::default() };
                let mut rig = Rig::ready(plan);
                rig.write(5, 2, 8).unwrap();
                assert_eq!(rig.read(5, 2).unwrap(), pattern(2, 8), "{version:#x}");
                let begin = rig.platform.peek();
                rig.shutdown().unwrap();
                assert!(rig.platform.peek() - begin < SECOND);
                rig.assert_within_the_rules();
            }
        }
    }
    // Fields within its version count.
    let kind = |version| quiesces(NvmePlan { version, kind: 2, ..NvmePlan::default() });
    assert_eq!(kind(0x1_0300), Ok(()));
    assert!(is_unsupported(kind(0x1_0400), "a controller for data"));
}

#[test]
fn a_controller_that_does_not_list_its_namespaces_is_asked_for_one_after_another() {
    for version in [0x1_0000, 0x1_0200] {
        let plan =
            |namespace, others| NvmePlan { version, lists: false, namespace, others, ..NvmePlan::default() };
        for namespace in [1, 4, 32] {
            let rig = Rig::ready(plan(namespace, vec![]));
            assert_eq!(rig.disk.geometry().unwrap().blocks, BLOCKS, "{namespace}");
            rig.assert_within_the_rules();
        }
        let first = Rig::ready(plan(4, vec![2]));
        assert_eq!(first.disk.geometry().unwrap().blocks, 1000 * 512 / BLOCK as u64, "number 2");
        for none in [plan(0, vec![]), plan(33, vec![])] {
            assert!(is_unsupported(quiesces(none), "a namespace"));
        }
    }
}

/// For these, a read of the status soon after the start of a reset fails, as if the device were gone.
#[test]
#[cfg_attr(miri, ignore = "waits long")]
fn controllers_that_must_not_be_looked_at_during_their_reset_are_not() {
    let shy = (2_200 * MILLISECOND / STEP) as u32;
    let begins = |id| {
        let mut rig = Rig::open(NvmePlan { id, shy, ..NvmePlan::default() }).unwrap();
        let begin = rig.platform.peek();
        (rig.quiesce(), rig.platform.peek() - begin)
    };
    for id in [(0x1c58, 0x0003), (0x1c58, 0x0023), (0x1bb1, 0x0100), (0x144d, 0xa821), (0x144d, 0xa822)] {
        assert_eq!(begins(id).0, Ok(()), "{id:x?}");
    }
    assert_eq!(begins((0x1b36, 0x0010)).0, Err(DeviceError::Gone));
    // Other controllers get no such wait.
    let mut rig = Rig::open(NvmePlan::default()).unwrap();
    let begin = rig.platform.peek();
    rig.quiesce().unwrap();
    assert!(rig.platform.peek() - begin < SECOND);
}

#[test]
fn blocks_beyond_2_tib_are_addressed_and_a_part_of_a_block_is_not_counted() {
    for shift in 9..=12_u8 {
        // 3 TiB, and all but one logical block of a block more.
        let more = (3_u64 << 40 >> shift) + (BLOCK as u64 >> shift) - 1;
        let mut rig = Rig::ready(NvmePlan { shift, more, ..NvmePlan::default() });
        let blocks = BLOCKS + (3 << 40) / BLOCK as u64;
        assert_eq!(rig.disk.geometry().unwrap().blocks, blocks);
        assert_eq!(rig.write(blocks, 1, 1), Err(DeviceError::OutOfRange { end: blocks + 1, blocks }));
        // The fake has no medium there: an address without its upper half would find some.
        let result = rig.write((1 << 29) + 5, 1, 1);
        assert_eq!(result, Err(DeviceError::Status { what: "write", code: 4 }));
        assert!(rig.fake.touched().is_empty());
        rig.write(BLOCKS - 1, 1, 7).unwrap();
        assert!(rig.fake.disk()[(BLOCKS as usize - 1) * BLOCK..] == pattern(1, 7));
        rig.assert_within_the_rules();
    }
}

#[test]
fn admin_commands_that_fail_or_hang_are_named() {
    let status = |what| Err(DeviceError::Status { what, code: 6 });
    for (operation, what) in
        [(0x06, "describe itself"), (0x05, "make a completion queue"), (0x01, "make a submission queue")]
    {
        // One failure is retried; a second one counts.
        assert_eq!(quiesces(NvmePlan::with(NvmeFault::AdminFails(operation, 1))), Ok(()));
        assert_eq!(quiesces(NvmePlan::with(NvmeFault::AdminFails(operation, 9))), status(what));
        let result = quiesces(NvmePlan::with(NvmeFault::AdminSilent(operation)));
        assert!(matches!(result, Err(DeviceError::TimedOut { after, .. }) if after >= TIMEOUT), "{result:?}");
    }
    // The number of queues is requested only for form's sake.
    assert_eq!(quiesces(NvmePlan::with(NvmeFault::AdminFails(0x09, 9))), Ok(()));
    assert!(quiesces(NvmePlan::with(NvmeFault::AdminSilent(0x09))).is_err());
}

#[test]
fn a_cache_is_flushed_and_where_there_is_none_nothing_is_asked() {
    for cache in [true, false] {
        let mut rig = Rig::ready(NvmePlan { cache, ..NvmePlan::default() });
        rig.write(5, 2, 7).unwrap();
        rig.disk.flush(&Wait::new(&rig.platform, None, u64::MAX)).unwrap();
        assert_eq!(rig.fake.flush_commands(), u32::from(cache));
        assert!(rig.fake.medium() == rig.fake.disk());
        assert!(!rig.fake.is_shut_down());
        rig.shutdown().unwrap();
        assert!(rig.fake.is_shut_down());
        // And it works again.
        rig.quiesce().unwrap();
        assert!(rig.read(5, 2).unwrap() == pattern(2, 7));
        rig.assert_within_the_rules();
    }
}

#[test]
fn a_flush_that_failed_is_not_repeated_for_the_second_would_pass_over_what_is_lost() {
    let mut rig = Rig::ready(NvmePlan::with(NvmeFault::Transient(1, 0)));
    rig.write(5, 1, 7).unwrap();
    let result = rig.disk.flush(&Wait::new(&rig.platform, None, u64::MAX));
    assert!(matches!(result, Err(DeviceError::Status { .. })), "{result:?}");
    // It would have executed the second one.
    assert_eq!(rig.fake.flush_commands(), 0);
    rig.assert_within_the_rules();
}

#[test]
#[cfg_attr(miri, ignore = "waits long")]
fn a_shutdown_has_the_time_that_the_controller_says_and_no_more() {
    let ticks = (400 * MILLISECOND / STEP) as u32;
    let mut rig = Rig::ready(NvmePlan { ticks, rtd3e: 500_000, ..NvmePlan::default() });
    rig.shutdown().unwrap();
    let mut rig = Rig::ready(NvmePlan { rtd3e: 500_000, ..NvmePlan::with(NvmeFault::NeverShutsDown) });
    let result = rig.shutdown();
    assert!(
        matches!(result, Err(DeviceError::TimedOut { what: "an NVMe shutdown", after }) if after >= 500 * MILLISECOND)
    );
    assert!(!rig.fake.command().contains(dump_drivers::bus::pci::Command::BUS_MASTER));
    // After a request that hangs, it is shut down without delay, and not assumed to be idle.
    let mut rig = Rig::ready(NvmePlan::default());
    rig.fake.set_troubles(vec![Trouble::NeverCompletes(0)]);
    rig.disk.flush(&Wait::new(&rig.platform, None, u64::MAX)).unwrap_err();
    assert_eq!(rig.shutdown(), Err(DeviceError::NotReady));
    assert!(rig.fake.is_shut_down());
    rig.assert_within_the_rules();
}
