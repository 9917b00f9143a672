//! Dumps on a simulated machine: foreign blocks never change, and every fault has a name and ends.
//!
//! One file: a list of independent tests.

use dumpcore::ResetPolicy;
use dumpcore::Unfit;
use dumpcore::Verify;
use dumpcore::device::DeviceError;
use dumpcore::format::frame::{Kind, Malformed};
use dumpcore::format::header::{Header, Incomplete, Status};
use dumpcore::format::{BLOCK_SIZE, pattern};
use dumpcore::platform::RamRange;
use dumpcore::sim::{Disk, DiskFault, FOREIGN, Machine, MachineFault};
use dumpcore::stack::{RED_ZONE, STACK_SIZE};
use dumpcore::wait::{SECOND, Wait};
use dumpcore::{ArmError, Config, Ownership, Target};
use dumpcore::{Outcome, Refusal};

const UUID: [u8; 16] = *b"dump tests......";
const FIRST: u64 = 3;
const BLOCKS: u64 = 300;
const DISK_BLOCKS: u64 = 320;
const ARENA: usize = (240 << 10) + RED_ZONE + STACK_SIZE;

fn ram() -> Vec<RamRange> {
    // A hole, odd ends, and a range that begins inside another.
    vec![
        RamRange { start: 0x1000, end: 0x10_0000 },
        RamRange { start: 0x20_0123, end: 0x2f_0fff },
        RamRange { start: 0x28_0000, end: 0x2a_0000 },
    ]
}

fn machine(disk: &Disk, filled: u64) -> &'static mut Machine {
    let machine = Machine::new(ram(), ARENA, disk);
    for page in 0..filled {
        machine.fill_page(0x201 + page, 1);
    }
    machine
}

fn config() -> Config<'static> {
    Config::new().budget(60 * SECOND).reset(ResetPolicy::Return)
}

fn arm(
    machine: &'static Machine,
    disk: &Disk,
    config: Config<'static>,
    depth: usize,
) -> Result<(), ArmError> {
    let target = Target::new(Box::leak(Box::new(disk.device(depth))), FIRST, BLOCKS)
        .uuid(UUID)
        .ownership(Ownership::Shared);
    machine.dump().arm(machine, [target], machine.arena(), config).map(|_| ())
}

fn arm_blocks(machine: &'static Machine, disk: &Disk, blocks: u64) {
    let target = Target::new(Box::leak(Box::new(disk.device(4))), FIRST, blocks)
        .uuid(UUID)
        .ownership(Ownership::Shared);
    machine.dump().arm(machine, [target], machine.arena(), config()).unwrap();
}

fn formatted() -> Disk {
    Disk::formatted(DISK_BLOCKS, FIRST, BLOCKS, &UUID, 11)
}

/// Arms, damages something, crashes; returns the disk's bytes before and after, and the outcome.
fn spoilt(
    config: Config<'static>,
    spoil: impl FnOnce(&mut Machine, &Disk),
) -> (Outcome, Vec<u8>, Vec<u8>, String) {
    let disk = formatted();
    let machine = machine(&disk, 40);
    spoil(machine, &disk);
    let machine: &'static Machine = machine;
    arm(machine, &disk, config, 4).unwrap();
    let before = disk.bytes();
    let outcome = machine.panic("spoilt");
    (outcome, before, disk.bytes(), machine.console_text())
}

fn flip(disk: &Disk, block: u64, bit: usize) {
    disk.change(|bytes| bytes[block as usize * BLOCK_SIZE + bit / 8] ^= 1 << (bit % 8));
}

fn at(bytes: &[u8], block: u64) -> &[u8; BLOCK_SIZE] {
    &bytes.as_chunks().0[(FIRST + block) as usize]
}

#[test]
fn a_healthy_machine_gets_a_complete_dump_with_equal_headers() {
    let disk = formatted();
    let machine = machine(&disk, 40);
    arm(machine, &disk, config(), 4).unwrap();
    assert_eq!(machine.panic("well\nsecond line"), Outcome::Complete);
    let bytes = disk.bytes();
    let front = Header::parse(at(&bytes, 1), Kind::Front).unwrap();
    let back = Header::parse(at(&bytes, front.end_block.get() - 1), Kind::Back).unwrap();
    assert!(front.agrees_with(back));
    assert_eq!(front.status(), Status::Complete);
    assert_eq!(front.data_pages.get(), 40);
    assert_eq!(front.message(), "well\nsecond line");
    // 0x1000..0x100000 and 0x201000..0x2f0000, the third range lying inside the second.
    assert_eq!(front.total_pages.get(), 0xff + 0xef);
    assert_eq!(front.excluded_pages.get(), ARENA as u64 / 4096);
    let told = front.data_pages.get() + front.zero_pages.get() + front.excluded_pages.get();
    assert_eq!(told, front.total_pages.get());
    assert!(machine.pats() > 0, "the watchdog was patted");
}

#[test]
fn the_time_since_boot_is_the_kernels_also_when_the_clock_ran_before_it() {
    let disk = formatted();
    let machine = machine(&disk, 4);
    machine.boot();
    let machine: &'static Machine = machine;
    arm(machine, &disk, config(), 4).unwrap();
    assert_eq!(machine.panic("soon"), Outcome::Complete);
    let header = Header::parse(at(&disk.bytes(), 1), Kind::Front).unwrap().clone();
    // A clock that started with the kernel would show a second or more.
    assert!(header.uptime.get() < SECOND / 2, "{} ns after boot", header.uptime);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_block_of_the_pattern_that_is_wrong_anywhere_refuses_and_leaves_every_byte() {
    for block in [1, 2, BLOCKS / 2, BLOCKS - 1] {
        let (outcome, before, after, console) =
            spoilt(config(), |_, disk| flip(disk, FIRST + block, 4096 * 3 + 5));
        assert_eq!(outcome, Outcome::Refused(Refusal::Unfit(Unfit::Foreign { block })));
        assert_eq!(before, after);
        assert!(console.contains(&format!("refused: block {block} does not hold its pattern")), "{console}");
    }
}

#[test]
fn a_damaged_label_refuses_and_leaves_every_byte() {
    let (outcome, before, after, _) = spoilt(config(), |_, disk| flip(disk, FIRST, 900));
    assert!(matches!(outcome, Outcome::Refused(Refusal::Unfit(Unfit::NoLabel(Malformed::Crc { .. })))));
    assert_eq!(before, after);
}

#[test]
fn an_unformatted_partition_refuses_and_leaves_every_byte() {
    let (outcome, before, after, _) = spoilt(config(), |_, disk| disk.change(|bytes| bytes.fill(0)));
    assert!(matches!(outcome, Outcome::Refused(Refusal::Unfit(Unfit::NoLabel(Malformed::Magic { .. })))));
    assert_eq!(before, after);
}

#[test]
fn the_label_of_another_disk_refuses_and_leaves_every_byte() {
    let (outcome, before, after, _) = spoilt(config(), |_, disk| {
        let other = Disk::formatted(DISK_BLOCKS, FIRST, BLOCKS, b"another disk....", 1);
        disk.change(|bytes| *bytes = other.bytes());
    });
    assert!(matches!(outcome, Outcome::Refused(Refusal::Unfit(Unfit::OtherLabel { .. }))));
    assert_eq!(before, after);
}

#[test]
fn a_partition_larger_than_the_disk_refuses_when_armed_and_when_crashed() {
    let disk = Disk::formatted(BLOCKS, FIRST, BLOCKS, &UUID, 1);
    let unarmed = machine(&disk, 1);
    let end = FIRST + BLOCKS;
    let beyond = Unfit::BeyondDevice { end, blocks: BLOCKS };
    assert_eq!(arm(unarmed, &disk, config(), 4), Err(ArmError::Unfit { target: 0, unfit: beyond }));

    let (outcome, before, after, _) = spoilt(config(), |_, disk| disk.set_fault(DiskFault::Shrinks(end - 1)));
    let beyond = Unfit::BeyondDevice { end, blocks: end - 1 };
    assert_eq!(outcome, Outcome::Refused(Refusal::Unfit(beyond)));
    assert_eq!(before, after);
}

#[test]
fn one_wrong_bit_of_code_refuses_and_leaves_every_byte() {
    let disk = formatted();
    let machine = machine(&disk, 40);
    arm(machine, &disk, config(), 4).unwrap();
    machine.corrupt_code(12_345);
    let before = disk.bytes();
    assert!(matches!(machine.panic("code"), Outcome::Refused(Refusal::Code { .. })));
    assert_eq!(before, disk.bytes());
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_device_that_is_gone_stuck_or_unusable_refuses_within_its_deadline() {
    for (fault, expected) in [
        (DiskFault::Gone(0), Refusal::Unusable(DeviceError::Gone)),
        (DiskFault::Unusable, Refusal::Unusable(DeviceError::Gone)),
        (DiskFault::NoQuiesce, Refusal::Takeover(DeviceError::TimedOut { what: "the reset", after: SECOND })),
        (
            DiskFault::ReadError(0),
            Refusal::Unfit(Unfit::Device { block: 0, error: DeviceError::Status { what: "read", code: 1 } }),
        ),
    ] {
        let (outcome, before, after, _) = spoilt(config(), |_, disk| disk.set_fault(fault));
        assert_eq!(outcome, Outcome::Refused(expected));
        assert_eq!(before, after);
    }
    let disk = formatted();
    let machine = machine(&disk, 40);
    machine.set_tick(100_000);
    let machine: &'static Machine = machine;
    arm(machine, &disk, config(), 4).unwrap();
    disk.set_fault(DiskFault::Stuck(3));
    let (before, begin) = (disk.bytes(), machine.clock());
    assert!(matches!(
        machine.panic("stuck"),
        Outcome::Refused(Refusal::Unfit(Unfit::Device { error: DeviceError::TimedOut { .. }, .. }))
    ));
    assert_eq!(before, disk.bytes());
    assert!(machine.clock() - begin < 60 * SECOND);
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_second_dump_goes_behind_the_first_and_a_third_finds_no_room() {
    let disk = formatted();
    for (sequence, message) in [(1, "first"), (2, "second")] {
        let machine = machine(&disk, 100);
        arm(machine, &disk, config(), 4).unwrap();
        assert_eq!(machine.panic(message), Outcome::Complete, "{}", machine.console_text());
        disk.switch_on();
        let bytes = disk.bytes();
        let mut block = 1;
        for _ in 1..sequence {
            block = Header::parse(at(&bytes, block), Kind::Front).unwrap().end_block.get();
        }
        let front = Header::parse(at(&bytes, block), Kind::Front).unwrap();
        assert_eq!((front.sequence.get(), front.message()), (sequence, message));
    }
    let machine = machine(&disk, 100);
    arm(machine, &disk, config(), 4).unwrap();
    let before = disk.bytes();
    let outcome = machine.panic("third");
    // The rest has room for a shorter dump, or none.
    match outcome {
        Outcome::Incomplete(Incomplete::Full) => (),
        Outcome::Refused(Refusal::Unfit(Unfit::NoRoom { .. })) => assert_eq!(before, disk.bytes()),
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_dump_behind_one_that_was_cut_off_does_not_touch_it() {
    for cut in [1, 2, 5, 30, 70, 100] {
        let disk = formatted();
        let first = machine(&disk, 120);
        arm(first, &disk, config(), 4).unwrap();
        disk.set_fault(DiskFault::PowerCut { after_blocks: cut, torn: true });
        first.panic("cut off");
        disk.switch_on();
        let before = disk.bytes();

        let second = machine(&disk, 60);
        arm(second, &disk, config(), 4).unwrap();
        let outcome = second.panic("behind");
        assert_eq!(outcome, Outcome::Complete, "cut {cut}: {}", second.console_text());
        let after = disk.bytes();
        for block in 0..DISK_BLOCKS as usize {
            let (was, is) =
                (&before[block * BLOCK_SIZE..][..BLOCK_SIZE], &after[block * BLOCK_SIZE..][..BLOCK_SIZE]);
            let number = (block as u64).wrapping_sub(FIRST);
            let was_free = pattern::matches(was.try_into().unwrap(), &UUID, number);
            assert!(was == is || was_free, "block {number} was changed, cut {cut}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_crash_inside_the_dump_is_told_and_writes_nothing_more() {
    let mut told = 0;
    for looks in (0..2000).step_by(13) {
        let disk = formatted();
        let machine = machine(&disk, 40);
        // Reads of the clock while arming do not count.
        machine.set_fault(MachineFault::NestedCrash(looks));
        let machine: &'static Machine = machine;
        arm(machine, &disk, config(), 4).unwrap();
        machine.panic("outer");
        let console = machine.console_text();
        if console.contains("crashed itself while ") {
            assert!(console.contains(": a crash inside the dump"), "{console}");
            told += 1;
        }
    }
    assert!(told > 5, "only {told} of the crashes fell into a dump");
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_check_that_takes_half_the_budget_goes_on_just_ahead_of_each_write() {
    for foreign in [None, Some(BLOCKS - 30)] {
        let disk = formatted();
        if let Some(block) = foreign {
            flip(&disk, FIRST + block, 9);
        }
        let machine = machine(&disk, 40);
        // So slow that reading the whole partition takes more than half of it.
        machine.set_tick(1_000_000);
        let machine: &'static Machine = machine;
        arm(machine, &disk, config().budget(90 * 1_000_000), 4).unwrap();
        let before = disk.bytes();
        let outcome = machine.panic("slow");
        let console = machine.console_text();
        assert!(console.contains("checking takes half the time budget"), "{console}");
        // Whether everything could be written depends on speed; that something was written does not.
        assert!(
            matches!(outcome, Outcome::Complete | Outcome::Incomplete(Incomplete::Budget)),
            "{outcome:?}"
        );
        let after = disk.bytes();
        Header::parse(at(&after, 1), Kind::Front).unwrap();
        if let Some(block) = foreign {
            assert_eq!(at(&before, block), at(&after, block));
        }
    }
}

#[test]
fn a_long_dump_tells_its_progress_and_where_the_time_went() {
    let disk = formatted();
    let machine = machine(&disk, 40);
    machine.set_tick(20_000_000);
    let machine: &'static Machine = machine;
    arm(machine, &disk, config(), 4).unwrap();
    assert_eq!(machine.panic("slow"), Outcome::Complete);
    let console = machine.console_text();
    for told in ["diskdump: checked ", " of 1 MiB, ", "diskdump: took over in 0.", "wrote in ", "closed in "]
    {
        assert!(console.contains(told), "{told}: {console}");
    }
    assert!(console.lines().all(|line| line.starts_with("diskdump: ")), "{console}");
}

#[test]
#[cfg_attr(miri, ignore = "harms memory on purpose")]
fn a_header_spoilt_in_the_arena_is_laid_anew() {
    let disk = formatted();
    let machine: &'static Machine = machine(&disk, 10);
    arm(machine, &disk, config(), 4).unwrap();
    let (arena, length) = machine.arena_memory();
    // SAFETY: the arena, which is not in use now.
    let arena = unsafe { std::slice::from_raw_parts_mut(arena, length) };
    let header = arena.windows(8).position(|magic| magic == b"DISKDMPF").expect("it lies in the arena");
    arena[header + 8..header + 1000].fill(0xee);
    assert_eq!(machine.panic("spoilt header"), Outcome::Complete);
    let bytes = disk.bytes();
    let front = Header::parse(at(&bytes, 1), Kind::Front).unwrap();
    assert!(front.agrees_with(Header::parse(at(&bytes, front.end_block.get() - 1), Kind::Back).unwrap()));
    assert_eq!((front.data_pages.get(), front.message()), (10, "spoilt header"));
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_small_arena_makes_a_slower_dump_not_a_smaller_one() {
    let stack = (STACK_SIZE + RED_ZONE) >> 10;
    for kib in [52, 56, 84, 88, 184, 244, 384].map(|kib| kib + stack) {
        let disk = formatted();
        let machine = Machine::new(ram(), kib << 10, &disk);
        machine.fill_page(0x201, 1);
        machine.set_log(vec![b'l'; 8 << 10]);
        let machine: &'static Machine = machine;
        arm(machine, &disk, config(), 16).unwrap();
        let message = "long ".repeat(1000);
        assert_eq!(machine.panic(&message), Outcome::Complete, "{kib} KiB: {}", machine.console_text());
    }
}

#[test]
fn two_disks_of_one_controller_are_not_striped_over_but_may_follow_one_another() {
    for (controllers, stripe, refused) in
        [([7, 7], true, true), ([7, 7], false, false), ([7, 8], true, false)]
    {
        let disks = [formatted(), formatted()];
        let machine: &'static Machine = machine(&disks[0], 1);
        let targets: Vec<Target<'static>> = (disks.iter().zip(controllers))
            .map(|(disk, controller)| {
                Target::new(Box::leak(Box::new(disk.device(4).behind(controller))), FIRST, BLOCKS)
                    .uuid(UUID)
                    .ownership(Ownership::Shared)
            })
            .collect();
        let config = config().stripe(stripe);
        let armed = machine.dump().arm(machine, targets, machine.arena(), config).map(|_| ());
        assert_eq!(armed, if refused { Err(ArmError::OneController { target: 1 }) } else { Ok(()) });
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_disk_that_is_another_one_after_a_reset_is_never_written() {
    for verify in [Verify::All, Verify::Ahead] {
        for request in (2..60).step_by(3) {
            let disk = formatted();
            let machine = machine(&disk, 200);
            machine.set_tick(1_000_000);
            let machine: &'static Machine = machine;
            arm(machine, &disk, config().verify(verify), 4).unwrap();
            disk.set_fault(DiskFault::Exchanged(request));
            let outcome = machine.panic("exchanged");
            let bytes = disk.bytes();
            if bytes.first() == Some(&FOREIGN) {
                assert_ne!(outcome, Outcome::Complete, "{}", machine.console_text());
                assert!(bytes.iter().all(|byte| *byte == FOREIGN), "{request}: {}", machine.console_text());
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_disk_that_hangs_once_leaves_time_to_close_the_dump() {
    for budget in [4, 8, 15, 19, 25, 60] {
        for request in [15, 16, 18] {
            let disk = formatted();
            let machine = machine(&disk, 200);
            machine.set_tick(1_000_000);
            let machine: &'static Machine = machine;
            arm(machine, &disk, config().budget(budget * SECOND), 4).unwrap();
            disk.set_fault(DiskFault::StuckOnce(request));
            let outcome = machine.panic("hangs once");
            let closed = matches!(
                outcome,
                Outcome::Incomplete(Incomplete::Device | Incomplete::Budget)
                    | Outcome::Complete
                    | Outcome::Refused(_)
            );
            assert!(closed, "budget {budget} s, request {request}: {outcome:?}\n{}", machine.console_text());
        }
    }
}

#[test]
fn a_torn_front_header_is_left_alone_and_the_next_dump_goes_behind_it() {
    let disk = formatted();
    let first: &'static Machine = machine(&disk, 40);
    arm(first, &disk, config(), 4).unwrap();
    assert_eq!(first.panic("first"), Outcome::Complete);
    let end = Header::parse(at(&disk.bytes(), 1), Kind::Front).unwrap().end_block.get();
    disk.switch_on();
    flip(&disk, FIRST + 1, 30_000);
    let before = disk.bytes();
    let second: &'static Machine = machine(&disk, 40);
    arm(second, &disk, config(), 4).unwrap();
    assert_eq!(second.panic("second"), Outcome::Complete, "{}", second.console_text());
    let after = disk.bytes();
    for block in 0..end {
        assert_eq!(at(&before, block), at(&after, block), "block {block}");
    }
    assert_eq!(Header::parse(at(&after, end), Kind::Front).unwrap().message(), "second");
}

/// A partition of `blocks` blocks with a dump that was cut off after `cut` blocks, and a machine armed to
/// dump there.
fn behind_a_cut(
    blocks: u64,
    cut: u64,
    config: Config<'static>,
    ownership: Ownership,
) -> (Disk, &'static Machine, u64) {
    let disk = Disk::formatted(blocks + 9, FIRST, blocks, &UUID, 11);
    let target = |ownership| {
        Target::new(Box::leak(Box::new(disk.device(4))), FIRST, blocks).uuid(UUID).ownership(ownership)
    };
    let first: &'static Machine = machine(&disk, 120);
    first.dump().arm(first, [target(Ownership::Shared)], first.arena(), config.clone()).unwrap();
    disk.set_fault(DiskFault::PowerCut { after_blocks: cut, torn: true });
    first.panic("cut off");
    disk.switch_on();
    let second: &'static Machine = machine(&disk, 60);
    let begin = second.clock();
    second.dump().arm(second, [target(ownership)], second.arena(), config).unwrap();
    (disk, second, second.clock() - begin)
}

/// Changed blocks that did not hold the pattern.
fn harmed(before: &[u8], after: &[u8]) -> Vec<u64> {
    let blocks = before.as_chunks::<BLOCK_SIZE>().0.iter().zip(after.as_chunks::<BLOCK_SIZE>().0).enumerate();
    let number = |block: usize| (block as u64).wrapping_sub(FIRST);
    let harmed = blocks
        .filter(|(block, (was, is))| was != is && !pattern::matches(was, &UUID, number(*block)))
        .map(|(block, _)| number(block));
    harmed.collect()
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn behind_a_dump_that_was_cut_off_a_large_partition_takes_no_longer_than_a_small_one() {
    let config = || config().verify(Verify::Ahead);
    for ownership in [Ownership::Shared, Ownership::Exclusive] {
        let mut times = Vec::new();
        for blocks in [5_000, 20_000, 40_000] {
            let (disk, second, armed) = behind_a_cut(blocks, 30, config(), ownership);
            let (before, begin) = (disk.bytes(), second.clock());
            assert_eq!(second.panic("behind"), Outcome::Complete, "{}", second.console_text());
            assert_eq!(harmed(&before, &disk.bytes()), []);
            times.push((armed, second.clock() - begin));
        }
        let (smallest, largest) = (times[0], times[2]);
        assert!(largest.0 <= smallest.0 + smallest.0 / 4, "{ownership:?}: to arm took {times:?}");
        assert!(largest.1 <= smallest.1 + smallest.1 / 4, "{ownership:?}: to dump took {times:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_block_of_an_unfinished_dump_far_behind_its_end_is_never_overwritten() {
    // Beyond any window of requests: a disk's cache may have kept it and lost earlier blocks.
    for (verify, far) in [Verify::All, Verify::Ahead, Verify::Sample { every: 1 }]
        .into_iter()
        .flat_map(|verify| [45, 90, 3_000, 4_900].map(|far| (verify, far)))
    {
        let (disk, second, _) = behind_a_cut(5_000, 30, config().verify(verify), Ownership::Shared);
        disk.change(|bytes| bytes[(FIRST + far) as usize * BLOCK_SIZE..][..BLOCK_SIZE].fill(0x3c));
        let before = disk.bytes();
        let outcome = second.panic("behind");
        assert_eq!(harmed(&before, &disk.bytes()), [], "{verify:?}, {far}: {outcome:?}");
        assert_eq!(outcome, Outcome::Complete, "{verify:?}, {far}: {}", second.console_text());
        let after = disk.bytes();
        let is_front = |block: &u64| Header::parse(at(&after, *block), Kind::Front).is_ok();
        let begun = (2..5_000).find(is_front).unwrap();
        if verify != Verify::Ahead || far < 100 {
            assert!(begun > far, "{verify:?}: {begun} lies in front of {far}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn dumps_of_which_none_was_closed_lie_behind_one_another() {
    let (disk, second, _) = behind_a_cut(5_000, 30, config(), Ownership::Shared);
    disk.set_fault(DiskFault::PowerCut { after_blocks: 20, torn: false });
    second.panic("second");
    disk.switch_on();
    let third: &'static Machine = machine(&disk, 60);
    arm_blocks(third, &disk, 5_000);
    let before = disk.bytes();
    assert_eq!(third.panic("third"), Outcome::Complete, "{}", third.console_text());
    let after = disk.bytes();
    assert_eq!(harmed(&before, &after), []);
    let fronts = (1..5_000).filter_map(|block| Header::parse(at(&after, block), Kind::Front).ok());
    let told: Vec<_> = fronts.map(|header| (header.sequence.get(), header.message().to_owned())).collect();
    let expected =
        [(1, "cut off"), (2, "second"), (3, "third")].map(|(number, text)| (number, text.to_owned()));
    assert_eq!(told, expected);
}

#[test]
#[cfg_attr(miri, ignore = "waits long")]
fn a_clock_that_stands_still_ends_the_dump_all_the_same() {
    let disk = formatted();
    let machine = machine(&disk, 40);
    machine.set_fault(MachineFault::DeadClock(30));
    let machine: &'static Machine = machine;
    arm(machine, &disk, config(), 4).unwrap();
    disk.set_fault(DiskFault::Stuck(5));
    let outcome = machine.panic("dead clock");
    assert!(matches!(outcome, Outcome::Refused(_) | Outcome::Unclosed(_)), "{outcome:?}");
}

#[test]
#[cfg_attr(miri, ignore = "waits long")]
fn while_the_clock_stands_still_the_watchdog_is_patted_all_the_same() {
    let disk = formatted();
    let machine = machine(&disk, 1);
    machine.set_fault(MachineFault::DeadClock(0));
    let wait = Wait::new(machine, None, u64::MAX);
    let (mut looks, before) = (0_u64, machine.pats());
    let found = wait.until("what never comes", SECOND, || {
        looks += 1;
        (looks == 500_000).then_some(())
    });
    assert_eq!(found, Ok(()));
    assert!(machine.pats() - before >= looks / 2_000, "{} pats in {looks} looks", machine.pats() - before);
    // Also in work that polls nothing.
    let before = machine.pats();
    (0..10_000).for_each(|_| wait.breathe());
    assert!(machine.pats() > before);
}

#[test]
fn a_message_of_several_lines_is_whole_on_the_console() {
    let disk = formatted();
    let machine = machine(&disk, 1);
    arm(machine, &disk, config(), 4).unwrap();
    let message = "panicked at src/mm/heap.rs:16:9:\nout of frames\n";
    assert_eq!(machine.panic(message), Outcome::Complete);
    let console = machine.console_text();
    let line = "diskdump: cpu 0 crashed: panicked at src/mm/heap.rs:16:9: out of frames\n";
    assert!(console.contains(line), "{console}");
}

#[test]
#[cfg_attr(miri, ignore = "harms memory on purpose")]
fn the_message_is_on_the_console_whatever_comes_of_the_dump() {
    let said = "cpu 0 crashed: panicked at early.rs:1:2: no memory map\n";
    let message = "panicked at early.rs:1:2:\nno memory map";
    let disk = formatted();
    let unarmed: &'static Machine = machine(&disk, 1);
    assert_eq!(unarmed.panic(message), Outcome::NotArmed);
    let console = unarmed.console_text();
    assert!(console.contains(said) && console.contains("not armed"), "{console}");

    let spoilt: &'static Machine = machine(&disk, 1);
    arm(spoilt, &disk, config(), 4).unwrap();
    let (state, length) = spoilt.dump().armed_state();
    for word in 0..length / 8 {
        // SAFETY: inside the armed state, which is aligned and not in use now; the value changed is the
        // budget, a number.
        unsafe {
            let word = state.cast::<u64>().add(word);
            if word.read_volatile() == 60 * SECOND {
                word.write_volatile(SECOND);
            }
        }
    }
    (0..2).for_each(|_| {
        spoilt.panic(message);
    });
    assert_eq!(spoilt.console_text().matches(said).count(), 2, "{}", spoilt.console_text());
}

#[test]
fn what_is_armed_twice_or_without_a_uuid_or_with_too_little_is_refused_by_name() {
    let disk = formatted();
    let first: &'static Machine = machine(&disk, 1);
    arm(first, &disk, config(), 4).unwrap();
    let again = Target::new(Box::leak(Box::new(disk.device(1))), FIRST, BLOCKS).ownership(Ownership::Shared);
    let other: &'static Machine = machine(&disk, 1);
    assert_eq!(first.dump().arm(first, [again], other.arena(), config()), Err(ArmError::AlreadyArmed));

    let target = |blocks, uuid| {
        Target::new(Box::leak(Box::new(disk.device(1))), FIRST, blocks)
            .uuid(uuid)
            .ownership(Ownership::Shared)
    };
    let try_arm = |arena, target, config| {
        let machine: &'static Machine = Machine::new(ram(), arena, &disk);
        machine.dump().arm(machine, [target], machine.arena(), config).unwrap_err()
    };
    assert_eq!(try_arm(ARENA, target(BLOCKS, None), config()), ArmError::UuidMissing { target: 0 });
    assert_eq!(try_arm(ARENA, target(4, Some(UUID)), config()), ArmError::TooSmall { target: 0, blocks: 4 });
    assert!(matches!(try_arm(32 << 10, target(BLOCKS, Some(UUID)), config()), ArmError::Arena(_)));
    let no_time = config().budget(0);
    assert_eq!(try_arm(ARENA, target(BLOCKS, Some(UUID)), no_time), ArmError::NoTime);
}

#[test]
#[cfg_attr(miri, ignore = "harms memory on purpose")]
fn one_wrong_bit_of_the_armed_state_refuses_or_does_not_matter() {
    let mut refused = 0;
    let bits = 8 * {
        let disk = formatted();
        let machine = machine(&disk, 1);
        arm(machine, &disk, config(), 4).unwrap();
        machine.dump().armed_state().1
    };
    for bit in (0..bits).step_by(23) {
        let disk = formatted();
        let machine: &'static Machine = machine(&disk, 10);
        arm(machine, &disk, config(), 4).unwrap();
        let (state, _) = machine.dump().armed_state();
        // SAFETY: inside the armed state, which is not in use now. The result of the flip is first checked as
        // numbers.
        unsafe {
            let byte = state.add(bit / 8);
            byte.write_volatile(byte.read_volatile() ^ 1 << (bit % 8));
        }
        let before = disk.bytes();
        match machine.panic("spoilt state") {
            Outcome::Refused(Refusal::Integrity { .. }) => {
                refused += 1;
                assert_eq!(before, disk.bytes());
            }
            // Padding, and fields that only the dump itself writes.
            Outcome::Complete => (),
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    // Most of the rest are unused slots for buffers.
    assert!(refused > bits / 23 / 4, "{refused} of {} flips were noticed", bits / 23);
}
