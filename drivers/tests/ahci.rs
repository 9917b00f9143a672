//! AHCI specifics: identity data, recovery from errors, and HBAs with 32-bit addresses.
#![allow(missing_docs)]

use std::collections::BTreeMap;

use dump_drivers::AhciDisk;
use dump_drivers::ahci;
use dump_drivers::fake::{
    AhciFake, AhciFault, AhciFlush, AhciModel, AhciPlan, Attached, ClockPlatform, DmaMemory, FakeDisk as _,
    Trouble, Window,
};
use dumpcore::arena::Arena;
use dumpcore::device::Direction::{Read, Write};
use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice as _, Health, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::sim::cases;
use dumpcore::wait::{MILLISECOND, Wait};
use proptest::prelude::*;

const STEP: u64 = 5_000;
const TIMEOUT: u64 = 20 * MILLISECOND;
const BLOCK: usize = 4096;
const BLOCKS: u64 = 512;

const QUEUED_WRITE: u8 = 0x61;
const WRITE: u8 = 0x35;
const SHORT_WRITE: u8 = 0xca;
const FLUSH: u8 = 0xea;

type Disk = AhciDisk<Window<AhciModel>, AhciFake>;

struct Rig {
    fake: AhciFake,
    platform: ClockPlatform,
    arena: Arena<'static>,
    disk: Disk,
}

fn open(fake: &AhciFake, arena: &mut Arena<'static>, port: Option<u8>) -> Result<Disk, DeviceError> {
    let function = ahci::find(fake, 0).expect("an HBA");
    AhciDisk::open(fake.access(TIMEOUT), function, port, arena)
}

impl Rig {
    fn open(plan: AhciPlan, port: Option<u8>) -> Result<Rig, DeviceError> {
        let memory = DmaMemory::leak(8 << 20);
        let mut arena = memory.arena();
        let fake = AhciFake::ahci(memory, BLOCKS, 1, plan);
        let disk = open(&fake, &mut arena, port)?;
        let platform = ClockPlatform::new(STEP).with(fake.clone()).over(memory);
        Ok(Rig { fake, platform, arena, disk })
    }

    fn ready(plan: AhciPlan) -> Rig {
        let mut rig = Rig::open(plan, None).expect("opens");
        rig.quiesce().expect("quiesces");
        rig
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.disk.quiesce(&wait(&self.platform))
    }

    fn one(&mut self, direction: Direction, block: u64) -> Result<(), DeviceError> {
        let buffer = filled(&mut self.arena, 1, block as u8);
        let wait = wait(&self.platform);
        self.disk.rw_block(direction, block, buffer, &wait).1
    }

    fn submit(&mut self, id: u32, direction: Direction, block: u64, blocks: usize) {
        let buffer = filled(&mut self.arena, blocks, id as u8);
        buffer.clean_for_device(&self.platform);
        let request = Request { id, direction, block, buffer, gather: None };
        let wait = wait(&self.platform);
        assert!(self.disk.submit(request, &wait).expect("taken").is_none());
    }

    /// Everything in flight.
    fn finish(&mut self, count: usize) -> BTreeMap<u32, Completion> {
        let mut done = BTreeMap::new();
        for _ in 0..count {
            let wait = wait(&self.platform);
            let completion = wait
                .until("a request", 20 * TIMEOUT, || self.disk.poll(&wait).transpose())
                .expect("in time")
                .expect("the HBA works");
            completion.buffer.invalidate_from_device(&self.platform);
            assert!(done.insert(completion.id, completion).is_none());
        }
        done
    }

    fn assert_within_the_rules(&self) {
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
}

fn wait(platform: &ClockPlatform) -> Wait<'_> {
    Wait::new(platform, None, u64::MAX)
}

fn filled(arena: &mut Arena<'static>, blocks: usize, seed: u8) -> DmaBuffer {
    let mut buffer = arena.dma(blocks * BLOCK, BLOCK).expect("room");
    buffer.bytes_mut().copy_from_slice(&pattern(blocks, seed));
    buffer
}

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| seed.wrapping_mul(37).wrapping_add((at / 256) as u8)).collect()
}

fn is_unsupported<T>(result: Result<T, DeviceError>, part: &str) -> bool {
    matches!(result, Err(DeviceError::Unsupported { what, .. }) if what.contains(part))
}

fn refused(plan: AhciPlan) -> Result<(), DeviceError> {
    let mut rig = Rig::open(plan, None)?;
    let result = rig.quiesce();
    rig.assert_within_the_rules();
    result
}

#[test]
fn a_disk_error_is_recovered_from_once_and_nobody_notices() {
    for queue in [32, 0] {
        let mut rig = Rig::ready(AhciPlan { queue, ..AhciPlan::default() });
        rig.fake.set_troubles(vec![Trouble::Status(0)]);
        rig.one(Write, 7).unwrap();
        assert!(rig.fake.disk()[7 * BLOCK..8 * BLOCK] == pattern(1, 7)[..]);
        assert_eq!(rig.fake.comresets(), 2, "the one of the takeover, and the one of the error");
        rig.one(Write, 8).unwrap();
        let first = if queue > 0 { QUEUED_WRITE } else { WRITE };
        assert_eq!(rig.fake.commands()[1..], [first, WRITE, first]);
        rig.assert_within_the_rules();
    }
}

#[test]
fn an_error_that_comes_again_is_told_with_the_disks_code() {
    for queue in [32, 0] {
        for clears_failed in [false, true] {
            let plan = AhciPlan { queue, clears_failed, ..AhciPlan::with(AhciFault::BadBlock(7)) };
            let mut rig = Rig::ready(plan);
            assert_eq!(rig.one(Write, 7), Err(DeviceError::Status { what: "write", code: 0x0441 }));
            assert_eq!(rig.one(Read, 7), Err(DeviceError::Status { what: "read", code: 0x0441 }));
            rig.one(Write, 8).unwrap();
            assert_eq!(rig.fake.comresets(), 5);
            rig.assert_within_the_rules();
        }
    }
}

#[test]
fn link_errors_are_recovered_from_with_all_that_was_under_way() {
    for fatal in [false, true] {
        for queue in [32, 0] {
            let plan = AhciPlan { queue, delay: (3, 9), ..AhciPlan::with(AhciFault::Link(5, fatal)) };
            let mut rig = Rig::ready(plan);
            for id in 0..16 {
                rig.submit(id, Write, u64::from(id) * 8, 8);
            }
            assert!(rig.finish(16).values().all(|completion| completion.result.is_ok()));
            for id in 0..16 {
                let at = id as usize * 8 * BLOCK;
                assert!(rig.fake.disk()[at..at + 8 * BLOCK] == pattern(8, id as u8)[..]);
            }
            rig.assert_within_the_rules();
        }
    }
}

#[test]
fn a_flush_that_fails_is_told_and_not_repeated() {
    let mut rig = Rig::ready(AhciPlan::default());
    rig.one(Write, 1).unwrap();
    rig.fake.set_troubles(vec![Trouble::Status(1)]);
    let result = rig.disk.flush(&wait(&rig.platform));
    assert_eq!(result, Err(DeviceError::Status { what: "flush", code: 0x0441 }));
    assert_eq!(rig.fake.commands().iter().filter(|command| **command == FLUSH).count(), 1);
    rig.one(Write, 2).unwrap();
    rig.assert_within_the_rules();
}

#[test]
fn a_disk_pulled_from_its_port_is_told_by_its_link() {
    let mut rig = Rig::ready(AhciPlan::with(AhciFault::Pulled(3)));
    for id in 0..8 {
        rig.submit(id, Write, u64::from(id), 1);
    }
    let wait = wait(&rig.platform);
    let begin = wait.now();
    let mut completed = 0;
    let error = loop {
        match rig.disk.poll(&wait) {
            Ok(completion) => completed += u32::from(completion.is_some()),
            Err(error) => break error,
        }
        assert!(wait.now() - begin < 4 * TIMEOUT, "not in time");
    };
    assert!(matches!(error, DeviceError::Status { what: "stay connected", .. }), "{error}");
    assert!(completed < 8);
}

#[test]
fn ports_without_a_disk_are_skipped_and_refused_by_name() {
    use Attached::{Atapi, Disk, Multiplier, Nothing};
    let plan = || AhciPlan { ports: vec![Nothing, Atapi, Multiplier, Disk, Nothing], ..AhciPlan::default() };
    let mut rig = Rig::open(plan(), None).unwrap();
    assert_eq!(rig.disk.name(), "ahci 00:04.0 port 03");
    rig.quiesce().unwrap();
    rig.one(Write, 1).unwrap();
    assert!(is_unsupported(Rig::open(plan(), Some(0)).map(|_| ()), "a disk"));
    assert!(is_unsupported(Rig::open(plan(), Some(1)).map(|_| ()), "ATAPI"));
    assert!(is_unsupported(Rig::open(plan(), Some(2)).map(|_| ()), "multiplier"));
    assert!(is_unsupported(Rig::open(plan(), Some(5)).map(|_| ()), "asked for"));
    assert!(is_unsupported(Rig::open(plan(), Some(31)).map(|_| ()), "asked for"));
    assert!(Rig::open(plan(), Some(3)).is_ok());
}

/// Firmware set to RAID shows another class; lazy firmware reports no ports; and some HBAs report link errors
/// that did not happen.
#[test]
fn hbas_that_are_odd_and_work_are_used() {
    use Attached::{Atapi, Disk, Nothing};
    let works = |plan: AhciPlan| {
        let mut rig = Rig::open(plan, None).unwrap();
        rig.quiesce().unwrap();
        for block in 0..8 {
            rig.one(Write, block).unwrap();
        }
        assert_eq!(rig.fake.violations(), Vec::<String>::new());
        rig.disk.name().to_owned()
    };
    let plan = || AhciPlan { ports: vec![Nothing, Atapi, Nothing, Disk], ..AhciPlan::default() };
    for forgets in [false, true] {
        let untold = AhciPlan { tells_ports: false, forgets, ..plan() };
        assert_eq!(works(untold), "ahci 00:04.0 port 03");
    }
    works(AhciPlan { id: AhciPlan::ICH9_RAID, ..plan() });
    works(AhciPlan { semb: true, ..plan() });
    for (ncq, counts) in [(false, true), (true, true), (true, false)] {
        works(AhciPlan { id: AhciPlan::JMB363, cries: true, ncq, counts, ..plan() });
    }
    // For other vendors, it is an error.
    let mut rig = Rig::open(AhciPlan { cries: true, ..plan() }, None).unwrap();
    assert!(rig.quiesce().is_err());
    // A RAID controller of another vendor is not an HBA.
    let other = AhciPlan { id: (0x1000, 0x005b, 0x01_04_00), ..plan() };
    let fake = AhciFake::ahci(DmaMemory::leak(4096), 1, 1, other);
    assert_eq!(ahci::find(&fake, 0), None);
}

#[test]
fn a_disk_without_a_long_size_is_used_by_its_short_one() {
    let mut rig = Rig::ready(AhciPlan::with(AhciFault::Identity(100, 0)));
    assert_eq!(rig.disk.geometry().unwrap().blocks, BLOCKS);
    rig.one(Write, 5).unwrap();
    rig.disk.shutdown(&wait(&rig.platform)).unwrap();
    assert_eq!(rig.fake.violations(), Vec::<String>::new());
}

#[test]
fn odd_disks_are_refused_by_name() {
    let with = |word, value| refused(AhciPlan::with(AhciFault::Identity(word, value)));
    assert!(is_unsupported(with(0, 0x8580), "an ATA disk"));
    assert!(is_unsupported(with(2, 0x37c8), "spins up"));
    assert!(is_unsupported(with(49, 0x0200), "DMA"));
    assert!(is_unsupported(with(49, 0x0100), "LBA"));
    assert!(is_unsupported(with(128, 0x0007), "locked"));
    assert!(is_unsupported(refused(AhciPlan { sector: 8192, ..AhciPlan::default() }), "sectors of 512"));
    assert!(is_unsupported(refused(AhciPlan { sector: 520, ..AhciPlan::default() }), "sectors of 512"));
    let small = refused(AhciPlan { sector: 256, ..AhciPlan::default() });
    assert_eq!(small, Err(DeviceError::Protocol { what: "its sector size", value: 256 }));
    for sectors in [0, (1 << 48) + 1, u64::MAX] {
        let result = refused(AhciPlan { sectors: Some(sectors), ..AhciPlan::default() });
        assert_eq!(result, Err(DeviceError::Protocol { what: "its number of sectors", value: sectors }));
    }
    assert!(matches!(
        refused(AhciPlan::with(AhciFault::IdentityDamaged)),
        Err(DeviceError::Protocol { what: "its identity's checksum", .. })
    ));
}

#[test]
fn hbas_that_misbehave_are_told_by_name() {
    let ports = refused(AhciPlan::with(AhciFault::PortsChange));
    assert!(matches!(ports, Err(DeviceError::Protocol { what: "its ports implemented", .. })), "{ports:?}");
    let link = refused(AhciPlan::with(AhciFault::LinkStaysDown));
    assert!(matches!(link, Err(DeviceError::TimedOut { what: "the link to an AHCI disk", .. })), "{link:?}");
    for (fault, name) in [
        (AhciFault::ListNeverStops, "a stopped AHCI command list"),
        (AhciFault::ReceiverNeverStops, "a stopped AHCI FIS receiver"),
    ] {
        let mut rig = Rig::ready(AhciPlan::with(fault));
        rig.one(Write, 1).unwrap();
        let result = rig.disk.shutdown(&wait(&rig.platform));
        assert!(matches!(result, Err(DeviceError::TimedOut { what, .. }) if what == name), "{result:?}");
        assert!(rig.fake.medium()[BLOCK..2 * BLOCK] == pattern(1, 1)[..], "flushed even so");
        rig.quiesce().unwrap();
        rig.assert_within_the_rules();
    }
    let mut rig = Rig::ready(AhciPlan::with(AhciFault::Stray(0)));
    let stray = rig.one(Write, 1);
    assert!(matches!(stray, Err(DeviceError::Protocol { what: "its commands under way", .. })), "{stray:?}");
}

#[test]
fn a_list_that_does_not_stop_does_not_keep_an_error_from_being_recovered() {
    let mut rig = Rig::ready(AhciPlan::with(AhciFault::ListNeverStops));
    rig.fake.set_troubles(vec![Trouble::Status(0)]);
    rig.submit(0, Write, 3, 2);
    assert_eq!(rig.finish(1)[&0].result, Ok(()));
    rig.assert_within_the_rules();
}

#[test]
fn a_bios_that_does_not_let_go_loses_the_hba() {
    for bios in [3, 1_000_000] {
        for faults in [vec![], vec![AhciFault::BiosStays]] {
            let mut rig =
                Rig::open(AhciPlan { bios: Some(bios), faults, ..AhciPlan::default() }, None).unwrap();
            assert_eq!(rig.disk.sanity_check(&wait(&rig.platform)), Health::Healthy);
            rig.quiesce().unwrap();
            rig.one(Write, 1).unwrap();
            rig.assert_within_the_rules();
        }
    }
}

#[test]
fn a_disk_has_as_many_commands_at_once_as_it_and_the_hba_take() {
    for (slots, queue, ncq, most) in [
        (32, 32, true, 16),
        (32, 5, true, 5),
        (2, 32, true, 2),
        (32, 1, true, 1),
        (32, 32, false, 1),
        (32, 0, true, 1),
    ] {
        let mut rig = Rig::ready(AhciPlan { slots, queue, ncq, delay: (50, 0), ..AhciPlan::default() });
        for id in 0..16 {
            rig.submit(id, Write, u64::from(id), 1);
        }
        assert!(rig.finish(16).values().all(|completion| completion.result.is_ok()));
        assert_eq!(rig.fake.most_at_once(), most, "{slots} {queue} {ncq}");
        rig.assert_within_the_rules();
    }
}

#[test]
fn a_disk_with_short_addresses_is_written_in_short_commands() {
    let flush = AhciFlush::Short;
    let mut rig = Rig::ready(AhciPlan { long: false, flush, ..AhciPlan::default() });
    rig.submit(9, Write, 100, 256);
    assert_eq!(rig.finish(1)[&9].result, Ok(()));
    assert_eq!(rig.fake.commands()[1..], [SHORT_WRITE; 8]);
    assert!(rig.fake.disk()[100 * BLOCK..356 * BLOCK] == pattern(256, 9)[..]);
    rig.assert_within_the_rules();
}

#[test]
fn blocks_beyond_two_tebibytes_are_where_they_should_be() {
    for sector in [512_u32, 4096] {
        let sectors = (1_u64 << 48) - 3;
        let mut rig = Rig::ready(AhciPlan { sector, sectors: Some(sectors), ..AhciPlan::default() });
        let per_block = 4096 / u64::from(sector);
        let blocks = sectors / per_block;
        assert_eq!(rig.disk.geometry().unwrap().blocks, blocks);
        for block in [1, (1 << 29) + 1, (1 << 40) + 7, blocks - 1] {
            let Some(block) = Some(block).filter(|block| *block < blocks) else { continue };
            // The fake's own disk is smaller: it rejects the command.
            assert!(rig.one(Write, block).is_err());
            assert_eq!(rig.fake.addresses().last(), Some(&(block * per_block, per_block)));
        }
        assert!(matches!(rig.one(Write, blocks), Err(DeviceError::OutOfRange { .. })));
    }
}

#[test]
fn an_hba_that_reaches_only_4_gib_needs_memory_there() {
    let plan = || AhciPlan { wide: false, ..AhciPlan::default() };
    assert!(is_unsupported(Rig::open(plan(), None).map(|_| ()), "below 4 GiB"));

    let memory = DmaMemory::leak(1 << 20).low();
    let mut arena = memory.arena();
    let fake = AhciFake::ahci(memory, BLOCKS, 1, plan());
    let mut disk = open(&fake, &mut arena, None).unwrap();
    assert_eq!(disk.max_extents(), 0);
    let platform = ClockPlatform::new(STEP).with(fake.clone());
    let wait = wait(&platform);
    disk.quiesce(&wait).unwrap();
    let buffer = filled(&mut arena, 1, 5);
    disk.rw_block(Write, 5, buffer, &wait).1.unwrap();
    assert!(fake.disk()[5 * BLOCK..6 * BLOCK] == pattern(1, 5)[..]);
    assert_eq!(fake.violations(), Vec::<String>::new());

    // A buffer out of its reach, and no bounce buffer.
    // SAFETY: the driver rejects the buffer, so its memory is never accessed.
    let beyond = unsafe { DmaBuffer::new(std::ptr::NonNull::<u64>::dangling().cast(), 1 << 32, BLOCK) };
    assert!(is_unsupported(disk.rw_block(Write, 5, beyond, &wait).1, "a buffer below 4 GiB"));
}

/// A request in a property test: whether it reads, its block, its number of blocks.
type Asked = (bool, u64, usize);

fn asked() -> impl Strategy<Value = Asked> {
    (any::<bool>(), 0..32_u64, 1..=16_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(64), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_many_requests_only_those_fail_that_touch_a_bad_block(
        seed: u64, bad in 0..512_u64, requests in prop::collection::vec(asked(), 1..16),
    ) {
        let plan = AhciPlan { faults: vec![AhciFault::BadBlock(bad)], ..AhciPlan::any(seed) };
        let mut rig = Rig::ready(plan);
        for (id, (read, place, blocks)) in (0..).zip(&requests) {
            let direction = if *read { Read } else { Write };
            // Each has its own part of the disk.
            rig.submit(id, direction, u64::from(id) * 32 + place % 16, *blocks);
        }
        for (id, completion) in rig.finish(requests.len()) {
            let (read, place, blocks) = requests[id as usize];
            let first = u64::from(id) * 32 + place % 16;
            let hit = (first..first + blocks as u64).contains(&bad);
            prop_assert_eq!(completion.result.is_err(), hit, "request {}", id);
            let at = first as usize * BLOCK;
            let there = &rig.fake.disk()[at..at + blocks * BLOCK];
            prop_assert!(hit || there == completion.buffer.bytes());
            prop_assert!(hit || read || there == pattern(blocks, id as u8));
        }
        prop_assert_eq!(rig.fake.violations(), Vec::<String>::new());
    }

    /// The arena crosses the 4 GiB border, and with each request the buffers move further up.
    #[test]
    fn an_hba_that_reaches_only_4_gib_writes_and_reads_beyond_by_way_of_low_memory(
        seed: u64, coherent: bool, low_blocks in 11..100_usize,
        requests in prop::collection::vec(asked(), 1..40),
    ) {
        let bytes = 4 << 20;
        let memory = if coherent { DmaMemory::leak(bytes) } else { DmaMemory::incoherent(bytes) }.astride();
        let mut arena = memory.arena();
        let low = arena.dma(low_blocks * BLOCK, BLOCK).expect("room");
        // Up to just below the border.
        let behind = (2 << 20) - arena.used() - 64 * BLOCK;
        arena.dma(behind, BLOCK).expect("room");
        let fake = AhciFake::ahci(memory, BLOCKS, seed, AhciPlan { wide: false, ..AhciPlan::any(seed) });
        let function = ahci::find(&fake, 0).expect("an HBA");
        let access = fake.access(TIMEOUT);
        let mut disk = AhciDisk::open_narrow(access, function, None, &mut arena, low).expect("opens");
        let platform = ClockPlatform::new(STEP).with(fake.clone()).over(memory);
        let wait = wait(&platform);
        disk.quiesce(&wait).expect("quiesces");
        let mut model = vec![0; BLOCKS as usize * BLOCK];
        for (id, (read, place, blocks)) in (0..).zip(requests) {
            let buffer = filled(&mut arena, blocks, id as u8);
            buffer.clean_for_device(&platform);
            let at = place as usize * BLOCK..(place as usize + blocks) * BLOCK;
            let direction = if read { Read } else { Write };
            let request = Request { id, direction, block: place, buffer, gather: None };
            prop_assert!(disk.submit(request, &wait).expect("taken").is_none());
            let done = wait.until("a request", TIMEOUT, || disk.poll(&wait).transpose());
            let done = done.expect("in time").expect("the HBA works");
            prop_assert_eq!(done.result, Ok(()));
            done.buffer.invalidate_from_device(&platform);
            if !read {
                model[at.clone()].copy_from_slice(&pattern(blocks, id as u8));
            }
            prop_assert!(done.buffer.bytes() == &model[at.clone()]);
            prop_assert!(fake.disk()[at.clone()] == model[at]);
        }
        prop_assert_eq!(fake.violations(), Vec::<String>::new());
    }
}
