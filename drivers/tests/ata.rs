//! ATA specifics: which disk of a controller is used, transfer modes, and recovery by reset.
#![allow(missing_docs)]

use std::ptr::NonNull;

use dump_drivers::ata::disk;
use dump_drivers::fake::{AtaModel, AtaPlan, ClockPlatform, DmaMemory, Fake, FakeDisk as _, Trouble, Window};
use dump_drivers::{Access, AtaDisk, Ram};
use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, DumpDevice as _, Gather, Health, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::platform::{Nanoseconds, Platform, RamRange, ResetPolicy};
use dumpcore::wait::{MILLISECOND, Wait};

const STEP: u64 = 5_000;
const TIMEOUT: u64 = 5 * MILLISECOND;
const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;

type Disk = AtaDisk<Window<AtaModel>, Fake<AtaModel>>;

/// A clock, with pages of RAM at their bus addresses.
struct World {
    clock: ClockPlatform,
    ram: Vec<(u64, NonNull<u8>)>,
}

// SAFETY: the pages are leaked, so they stay readable.
unsafe impl Sync for World {}

// SAFETY: page() returns leaked pages; there is no code to make promises about, and on_stack is the default.
unsafe impl Platform for World {
    fn now(&self) -> Nanoseconds {
        self.clock.now()
    }

    fn console(&self, _: &str) {}

    fn ram(&self, _: &mut dyn FnMut(RamRange)) {}

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        self.ram.iter().find(|(page, _)| *page == pfn).map(|(_, start)| *start)
    }

    fn reset(&self, _: ResetPolicy) {}
}

struct Rig {
    fake: Fake<AtaModel>,
    world: World,
    arena: Arena<'static>,
    disk: Disk,
}

fn open(
    fake: &Fake<AtaModel>,
    arena: &mut Arena<'static>,
    number: Option<u8>,
    ram: Ram,
) -> Result<Disk, DeviceError> {
    let function = disk::find(fake, 0).ok_or(DeviceError::Gone)?;
    let map = |first, length| fake.at_port(first, length);
    AtaDisk::open(Access { config: fake.clone(), map, timeout: TIMEOUT }, function, number, ram, arena)
}

impl Rig {
    fn sized(plan: AtaPlan, number: Option<u8>, blocks: u64) -> Rig {
        let bytes = if blocks > BLOCKS { 4 << 20 } else { 640 << 10 };
        let memory = DmaMemory::leak(bytes).low();
        let mut arena = memory.arena();
        let fake = Fake::ata(memory, blocks, plan, 1);
        let disk = open(&fake, &mut arena, number, Ram::Low).expect("opens");
        let world = World { clock: ClockPlatform::new(STEP).with(fake.clone()), ram: Vec::new() };
        Rig { fake, world, arena, disk }
    }

    fn new(plan: AtaPlan) -> Rig {
        Rig::sized(plan, None, BLOCKS)
    }

    fn ready(plan: AtaPlan) -> Rig {
        let mut rig = Rig::new(plan);
        rig.quiesce().expect("quiesces");
        rig
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.disk.quiesce(&Wait::new(&self.world, None, u64::MAX))
    }

    fn filled(&mut self, blocks: usize, seed: u8) -> DmaBuffer {
        let mut buffer = self.arena.dma(blocks * BLOCK, BLOCK).expect("room");
        for (at, byte) in buffer.bytes_mut().iter_mut().enumerate() {
            *byte = seed.wrapping_add((at / 512) as u8).wrapping_mul(31).wrapping_add(at as u8);
        }
        buffer
    }

    fn one(&mut self, direction: Direction, block: u64) -> Result<(), DeviceError> {
        let buffer = self.filled(1, block as u8);
        self.disk.rw_block(direction, block, buffer, &Wait::new(&self.world, None, u64::MAX)).1
    }

    /// Submits a request and waits for it.
    fn whole(&mut self, request: Request) -> Result<(), DeviceError> {
        let wait = Wait::new(&self.world, None, u64::MAX);
        let disk = &mut self.disk;
        assert!(disk.submit(request, &wait).map_err(|rejected| rejected.error)?.is_none());
        wait.until("a request", 100 * TIMEOUT, || disk.poll(&wait).transpose())??.result
    }

    fn assert_within_the_rules(&self) {
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
}

fn write(block: u64, buffer: DmaBuffer) -> Request {
    Request { id: 1, direction: Direction::Write, block, buffer, gather: None }
}

/// The same data repeated, as on a disk.
fn shown(rig: &Rig, block: u64, expected: &[u8]) {
    let disk = rig.fake.disk();
    assert!(disk[block as usize * BLOCK..][..expected.len()] == *expected);
}

#[test]
fn the_first_disk_is_found_wherever_it_is_and_cd_drives_are_passed_over() {
    for place in 0..4 {
        for packets in 0..16 {
            for nobody in [0x7f, 0xff, 0] {
                for native in [false, true] {
                    let plan = AtaPlan { place, packets, nobody, native, ..AtaPlan::default() };
                    let mut rig = Rig::ready(plan);
                    assert_eq!(rig.disk.name(), "ata 00:04.0");
                    rig.one(Direction::Write, 3).unwrap();
                    // DMA of an unused channel must not continue when bus mastering is enabled again.
                    assert!(!rig.fake.with(|_, model| model.masters_active()));
                    rig.assert_within_the_rules();
                }
            }
        }
    }
}

#[test]
fn a_chosen_place_without_a_disk_is_refused_and_another_disk_is_not_taken_for_it() {
    for number in 0..4 {
        for place in 0..4 {
            let plan = AtaPlan { place, packets: 0b0101, ..AtaPlan::default() };
            let mut rig = Rig::sized(plan, Some(number), BLOCKS);
            assert_eq!(rig.disk.name(), format!("ata 00:04.0 {number}"));
            assert_eq!(rig.disk.geometry(), None);
            let result = rig.quiesce();
            if number == place {
                assert_eq!(result, Ok(()));
                assert_eq!(rig.disk.geometry().map(|geometry| geometry.blocks), Some(BLOCKS));
            } else {
                let what = "an ATA disk in its place";
                assert_eq!(result, Err(DeviceError::Unsupported { what, value: number.into() }));
            }
            // The other channel was not touched.
            let resets = rig.fake.with(|_, model| model.resets());
            assert_eq!(resets, u32::from(number / 2 == place / 2));
            rig.assert_within_the_rules();
        }
    }
    let memory = DmaMemory::leak(1 << 20);
    let fake = Fake::ata(memory, BLOCKS, AtaPlan::default(), 1);
    let refused = open(&fake, &mut memory.arena(), Some(4), Ram::Low).map(|_| ());
    assert_eq!(refused, Err(DeviceError::Unsupported { what: "a disk from 0 to 3", value: 4 }));
}

#[test]
fn once_found_no_other_disk_is_taken_for_it() {
    let mut rig = Rig::ready(AtaPlan::default());
    rig.fake.with(|_, model| model.plan.place = 2);
    assert!(matches!(rig.quiesce(), Err(DeviceError::Unsupported { what: "an ATA disk in its place", .. })));
    rig.assert_within_the_rules();
}

#[test]
fn data_goes_by_dma_where_a_mode_for_it_is_selected_and_by_pio_else() {
    for (masters, dma, wide) in [
        (true, true, true),
        (true, true, false),
        (true, false, true),
        (false, true, true),
        (false, false, false),
    ] {
        for sector in [512, 1024, 4096] {
            let plan = AtaPlan { masters, dma, wide, sector, ..AtaPlan::default() };
            let mut rig = Rig::sized(plan, None, 600);
            rig.quiesce().unwrap();
            let buffer = rig.filled(256, 7);
            let bytes = buffer.bytes().to_vec();
            rig.whole(write(300, buffer)).unwrap();
            shown(&rig, 300, &bytes);
            let moved = rig.fake.with(|_, model| model.moved());
            // An LBA28 command moves at most 256 sectors.
            let rounds = if wide { 1 } else { (1 << 20) / (256 * sector as u32) };
            assert_eq!(moved, if masters && dma { (rounds, 0) } else { (0, rounds) });
            rig.assert_within_the_rules();
        }
    }
}

#[test]
fn what_the_controller_does_not_reach_goes_by_pio() {
    let memory = DmaMemory::leak(1 << 20);
    let mut arena = memory.arena();
    let fake = Fake::ata(memory, BLOCKS, AtaPlan::default(), 1);
    let disk = open(&fake, &mut arena, None, Ram::Anywhere).unwrap();
    assert_eq!(disk.max_extents(), 0);
    let world = World { clock: ClockPlatform::new(STEP).with(fake.clone()), ram: Vec::new() };
    let mut rig = Rig { fake, world, arena, disk };
    rig.quiesce().unwrap();
    rig.one(Direction::Write, 1).unwrap();
    rig.one(Direction::Read, 1).unwrap();
    assert_eq!(rig.fake.with(|_, model| model.moved()), (0, 2));
    rig.assert_within_the_rules();
}

/// A write with its first block in a buffer, and each further block in its own page of RAM.
fn scattered(rig: &mut Rig, pages: usize) -> (Request, Vec<u8>) {
    let buffer = rig.filled(1, 3);
    let mut expected = buffer.bytes().to_vec();
    let mut table = rig.arena.dma(BLOCK, BLOCK).unwrap();
    for entry in table.bytes_mut().as_chunks_mut::<16>().0.iter_mut().take(pages) {
        // A gap of a page between any two.
        let page = rig.filled(2, expected.len() as u8);
        expected.extend_from_slice(&page.bytes()[..BLOCK]);
        entry[..8].copy_from_slice(&page.bus_address().to_ne_bytes());
        entry[8..].copy_from_slice(&(BLOCK as u64).to_ne_bytes());
        rig.world.ram.push((page.bus_address() / BLOCK as u64, page.address()));
    }
    (Request { gather: Some(Gather::new(table, pages)), ..write(9, buffer) }, expected)
}

#[test]
fn extents_are_written_from_where_they_are_by_dma_and_by_pio() {
    for (dma, sector) in [(true, 512), (true, 4096), (false, 512), (false, 2048), (false, 4096)] {
        let mut rig = Rig::ready(AtaPlan { dma, sector, ..AtaPlan::default() });
        let (request, expected) = scattered(&mut rig, 40);
        rig.whole(request).unwrap();
        shown(&rig, 9, &expected);
        rig.assert_within_the_rules();
    }
    // Unreadable RAM fails the request, not the dump.
    let mut rig = Rig::ready(AtaPlan { dma: false, ..AtaPlan::default() });
    let (request, _) = scattered(&mut rig, 4);
    rig.world.ram.pop();
    assert!(matches!(rig.whole(request), Err(DeviceError::BadBuffer { .. })));
    rig.one(Direction::Write, 30).unwrap();
}

#[test]
fn a_request_that_fails_is_tried_once_more_behind_a_reset() {
    for dma in [true, false] {
        for trouble in [Trouble::Status, Trouble::Fails, Trouble::Short] {
            for direction in [Direction::Read, Direction::Write] {
                let mut rig = Rig::ready(AtaPlan { dma, ..AtaPlan::default() });
                rig.fake.set_troubles(vec![trouble(1)]);
                for block in 0..4 {
                    assert_eq!(rig.one(direction, block), Ok(()), "{:?}", trouble(1));
                }
                assert_eq!(rig.fake.with(|_, model| model.resets()), 2, "the takeover's, and one more");
                rig.assert_within_the_rules();
            }
        }
    }
}

#[test]
fn a_request_that_fails_twice_is_reported_with_status_and_error_and_the_next_one_works() {
    for dma in [true, false] {
        let mut rig = Rig::ready(AtaPlan { dma, ..AtaPlan::default() });
        rig.fake.set_troubles(vec![Trouble::Status(1), Trouble::Status(2)]);
        rig.one(Direction::Write, 1).unwrap();
        // DRDY and ERR; uncorrectable.
        let error = DeviceError::Status { what: "write", code: 0x4140 };
        assert_eq!(rig.one(Direction::Write, 2), Err(error));
        rig.one(Direction::Write, 3).unwrap();
        rig.assert_within_the_rules();
    }
}

#[test]
fn a_disk_that_asks_for_more_than_it_was_told_of_is_reset() {
    for direction in [Direction::Read, Direction::Write] {
        let mut rig = Rig::ready(AtaPlan { dma: false, greedy: Some(0), ..AtaPlan::default() });
        rig.one(direction, 5).unwrap();
        assert_eq!(rig.fake.with(|_, model| model.resets()), 2);
        assert!(rig.fake.touched().iter().all(|block| *block == 5));
        rig.assert_within_the_rules();
    }
}

#[test]
fn a_disk_that_was_pulled_off_its_cable_is_gone() {
    for dma in [true, false] {
        for nobody in [0x7f, 0xff] {
            let plan = AtaPlan { dma, nobody, unplugged: Some(1), ..AtaPlan::default() };
            let mut rig = Rig::ready(plan);
            rig.one(Direction::Write, 0).unwrap();
            assert_eq!(rig.one(Direction::Write, 1), Err(DeviceError::Gone));
            assert_eq!(rig.one(Direction::Write, 1), Err(DeviceError::NotReady));
            assert!(rig.quiesce().is_err());
        }
    }
}

#[test]
fn a_flush_that_fails_is_not_tried_again_since_the_second_would_hide_it() {
    let mut rig = Rig::ready(AtaPlan { flush_fails: Some(0), ..AtaPlan::default() });
    rig.one(Direction::Write, 0).unwrap();
    let error = DeviceError::Status { what: "flush its cache", code: 0x4140 };
    assert_eq!(rig.disk.flush(&Wait::new(&rig.world, None, u64::MAX)), Err(error));
    assert_eq!(rig.fake.with(|_, model| model.resets()), 1);
    // A disk without a cache has nothing to flush.
    let mut rig = Rig::ready(AtaPlan { flush: false, ..AtaPlan::default() });
    assert_eq!(rig.disk.flush(&Wait::new(&rig.world, None, u64::MAX)), Ok(()));
    rig.assert_within_the_rules();
}

#[test]
fn a_disk_that_refuses_to_move_sectors_together_moves_them_one_by_one() {
    for (multiple, multiple_refused) in [(16, true), (0, false), (1, false), (128, false), (3, false)] {
        let plan = AtaPlan { dma: false, multiple, multiple_refused, ..AtaPlan::default() };
        let mut rig = Rig::ready(plan);
        rig.one(Direction::Write, 2).unwrap();
        rig.one(Direction::Read, 2).unwrap();
        rig.assert_within_the_rules();
    }
}

#[test]
fn a_last_part_of_a_block_is_not_counted_and_sizes_beyond_2_tib_are_right() {
    let words = |sectors: u64| (0..4).map(|at| (100 + at, (sectors >> (16 * at)) as u16)).collect::<Vec<_>>();
    for (sectors, sector, blocks) in [
        (8 * 64 + 7, 512, 64),
        ((1 << 32) + 8, 512, (1 << 29) + 1),
        (1 << 48, 4096, 1 << 48),
        (0x1234_5678_9abc, 512, 0x0246_8acf_1357),
    ] {
        let rig = Rig::ready(AtaPlan { sector, words: words(sectors), ..AtaPlan::default() });
        assert_eq!(rig.disk.geometry().map(|geometry| geometry.blocks), Some(blocks), "{sectors:#x}");
    }
}

#[test]
fn disks_that_cannot_take_a_dump_are_refused_by_name() {
    for (words, part) in [
        (vec![(49, 0)], "LBA"),
        (vec![(128, 7)], "password"),
        (vec![(106, 0x5000), (117, 4096)], "4096 bytes or less"),
        (vec![(0, 0x8000)], "an ATA disk"),
    ] {
        let mut rig = Rig::new(AtaPlan { words, ..AtaPlan::default() });
        let result = rig.quiesce();
        let named = matches!(result, Err(DeviceError::Unsupported { what, .. }) if what.contains(part));
        assert!(named, "{part}: {result:?}");
        assert!(rig.one(Direction::Write, 0).is_err());
        assert!(rig.fake.touched().is_empty());
    }
}

#[test]
fn a_bus_master_somewhat_behind_the_disk_is_waited_for_but_not_for_ever() {
    let mut rig = Rig::ready(AtaPlan { lag: 100, ..AtaPlan::default() });
    rig.one(Direction::Write, 1).unwrap();
    assert_eq!(rig.fake.with(|_, model| model.resets()), 1);
    // More than a millisecond means that it was not given all the data.
    let mut rig = Rig::ready(AtaPlan { lag: 300, ..AtaPlan::default() });
    let result = rig.one(Direction::Write, 1);
    assert!(matches!(result, Err(DeviceError::Protocol { what: "its end of a transfer", .. })), "{result:?}");
}

#[test]
fn a_disk_that_is_not_the_selected_device_is_taken_even_so() {
    for (place, nobody, healthy) in [(0, 0x7f, true), (1, 0, true), (1, 0x7f, false)] {
        // Even if the reset takes long to show it.
        let plan = AtaPlan { place, nobody, sluggish: place == 0, delay: (450, 0), ..AtaPlan::default() };
        let mut rig = Rig::sized(plan, Some(place), BLOCKS);
        // The other device of the channel, which is absent.
        rig.fake.with(|_, model| model.select(place ^ 1));
        let health = rig.disk.sanity_check(&Wait::new(&rig.world, None, u64::MAX));
        assert_eq!(health, if healthy { Health::Healthy } else { Health::Risky(DeviceError::Gone) });
        rig.quiesce().unwrap();
        rig.one(Direction::Write, 0).unwrap();
    }
}
