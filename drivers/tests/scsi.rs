//! Specifics of a disk on a SCSI host: finding it, its identity, and its failures.
#![allow(missing_docs)]

mod common;

use common::{BLOCK, BLOCKS, STEP, TIMEOUT, fill, pattern, wait};
use dump_drivers::VirtioScsi;
use dump_drivers::fake::{
    ClockPlatform, DmaMemory, FakeDisk as _, Fault, Plan, ScsiPlan, Trouble, Virtio, VirtioFake, Window,
};
use dump_drivers::virtio::scsi::{self, Lun};
use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, DumpDevice, Request};
use dumpcore::sim::cases;
use dumpcore::stack::{RED_ZONE, STACK_SIZE};
use proptest::prelude::*;

struct Rig {
    fake: VirtioFake,
    platform: ClockPlatform,
    arena: Arena<'static>,
    disk: VirtioScsi<Window<Virtio>, VirtioFake>,
}

/// A host with one special property, and faults.
fn host(change: impl FnOnce(&mut ScsiPlan), faults: Vec<Fault>) -> Plan {
    let mut host = ScsiPlan::default();
    change(&mut host);
    Plan { scsi: Some(host), faults, ..Plan::scsi() }
}

impl Rig {
    fn open(plan: Plan, lun: Option<Lun>) -> Rig {
        let memory = DmaMemory::leak(256 << 10);
        let mut arena = memory.arena();
        let fake = VirtioFake::virtio(memory, BLOCKS, plan);
        let function = scsi::find(&fake, 0).expect("a host");
        let disk = VirtioScsi::open(fake.access(TIMEOUT), function, lun, &mut arena).expect("opens");
        let platform = ClockPlatform::new(STEP).with(fake.clone()).over(memory);
        Rig { fake, platform, arena, disk }
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        let begin = self.platform.peek();
        let result = self.disk.quiesce(&wait(&self.platform));
        assert!(self.platform.peek() - begin < 4 * TIMEOUT, "not in time");
        assert_eq!(self.fake.violations(), Vec::<String>::new());
        result
    }

    fn ready(faults: Vec<Fault>) -> Rig {
        let mut rig = Rig::open(host(|_| {}, faults), None);
        rig.quiesce().expect("quiesces");
        rig
    }

    fn transfer(&mut self, direction: Direction, block: u64, seed: u8) -> Result<Vec<u8>, DeviceError> {
        let mut buffer = self.arena.dma(BLOCK, BLOCK).expect("room");
        fill(buffer.bytes_mut(), seed);
        let begin = self.platform.peek();
        let (buffer, result) = self.disk.rw_block(direction, block, buffer, &wait(&self.platform));
        assert!(self.platform.peek() - begin < 2 * TIMEOUT, "not in time");
        assert_eq!(self.fake.violations(), Vec::<String>::new());
        result.map(|()| buffer.expect("a block that was transferred").bytes().to_vec())
    }

    fn write(&mut self, block: u64, seed: u8) -> Result<(), DeviceError> {
        self.transfer(Direction::Write, block, seed).map(|_| ())
    }

    /// Checks that the disk works, or has recovered.
    fn works(&mut self) {
        self.write(9, 3).expect("writes");
        assert_eq!(self.transfer(Direction::Read, 9, 0).expect("reads"), pattern(1, 3));
    }
}

fn quiesces(plan: Plan) -> Result<(), DeviceError> {
    Rig::open(plan, None).quiesce()
}

fn writes(faults: Vec<Fault>) -> Result<(), DeviceError> {
    let mut rig = Rig::ready(faults);
    let result = rig.write(7, 1);
    rig.fake.set_faults(Vec::new());
    if result.is_err() {
        rig.quiesce().expect("quiesces again");
    }
    rig.works();
    result
}

fn status(what: &'static str, code: u32) -> Result<(), DeviceError> {
    Err(DeviceError::Status { what, code })
}

fn protocol(what: &'static str, value: u64) -> Result<(), DeviceError> {
    Err(DeviceError::Protocol { what, value })
}

fn unsupported(what: &'static str, value: u64) -> Result<(), DeviceError> {
    Err(DeviceError::Unsupported { what, value })
}

#[test]
fn the_first_disk_is_found_and_its_size_with_it() {
    for disk in [(0, 0), (0, 5), (0, 700), (3, 1), (255, 0), (255, 16_383)] {
        let others = vec![(0, 1, 0x05), (2, 0, 0x01), (2, 300, 0x20), (4, 0, 0x1f)];
        let mut rig = Rig::open(host(|host| (host.disk, host.others) = (disk, others), vec![]), None);
        assert_eq!(rig.disk.geometry(), None, "takes a command to find out");
        rig.quiesce().unwrap();
        assert_eq!(rig.disk.geometry().unwrap().blocks, BLOCKS);
        rig.works();
        assert!(
            rig.arena.used() - RED_ZONE - STACK_SIZE <= (12 << 10) + 3 * BLOCK,
            "{} bytes of arena",
            rig.arena.used()
        );
    }
    assert!(size_of::<VirtioScsi<Window<Virtio>, VirtioFake>>() <= 4096);
}

#[test]
fn a_disk_that_was_found_is_not_exchanged_for_another() {
    let mut rig = Rig::open(host(|host| host.disk = (4, 0), vec![]), None);
    rig.quiesce().unwrap();
    // Another disk is plugged in before it.
    let before = |host: &mut ScsiPlan| (host.disk, host.others) = ((4, 0), vec![(0, 0, 0x00)]);
    rig.fake.with(|_, model| model.set_plan(host(before, vec![])));
    rig.quiesce().unwrap();
    rig.works();
}

#[test]
fn a_unit_that_was_named_is_used_and_no_other() {
    let plan = || host(|host| (host.disk, host.others) = ((6, 2), vec![(0, 0, 0x00), (6, 0, 0x05)]), vec![]);
    let mut rig = Rig::open(plan(), Lun::new(6, 2));
    rig.quiesce().unwrap();
    rig.works();
    let named = |target, lun| Rig::open(plan(), Lun::new(target, lun)).quiesce();
    assert_eq!(named(6, 0), unsupported("a SCSI disk", 5));
    assert_eq!(named(6, 7), unsupported("a SCSI disk", 0x7f), "a target without that unit");
    assert_eq!(named(5, 0), status("answer: bad target", 3));
    let small = host(|host| (host.max_target, host.max_lun) = (3, 7), vec![]);
    for (target, lun) in [(4, 0), (0, 8), (255, 16_383)] {
        let result = Rig::open(small.clone(), Lun::new(target, lun)).quiesce();
        assert_eq!(result, unsupported("a SCSI host with such a unit", 3 << 16 | 7));
    }
    assert_eq!(Lun::new(0, 1 << 14), None);
}

#[test]
fn a_host_without_a_disk_is_refused_by_name() {
    let plan = host(|host| host.max_target = 20, vec![Fault::Operation(0x12, 5, (0x24, 0))]);
    assert_eq!(quiesces(plan), unsupported("a SCSI disk on one of its units", 1));
    let plan = host(|host| host.disk = (9, 0), vec![Fault::Operation(0xa0, 5, (0x20, 0))]);
    assert_eq!(quiesces(plan), unsupported("a SCSI disk on one of its units", 0));
}

#[test]
fn blocks_of_512_to_4096_bytes_are_served_and_others_refused_by_name() {
    for block in [512, 1024, 2048, 4096] {
        let mut rig = Rig::open(host(|host| host.block = block, vec![]), None);
        rig.quiesce().unwrap();
        assert_eq!(rig.disk.geometry().unwrap().blocks, BLOCKS);
        rig.write(BLOCKS - 1, 8).unwrap();
        assert_eq!(rig.fake.touched(), [BLOCKS - 1]);
        rig.works();
    }
    for block in [0, 1, 256, 520, 528, 4104, 4160, 8192, u32::MAX] {
        let plan = host(|host| host.block = block, vec![]);
        assert_eq!(quiesces(plan), unsupported("a disk with blocks of 512 to 4096 bytes", block.into()));
    }
}

#[test]
fn protection_information_and_write_protection_are_refused_by_name() {
    for protection in [1, 3, 5, 0xf] {
        let plan = host(|host| host.protection = protection, vec![]);
        let what = "a disk formatted without protection information";
        assert_eq!(quiesces(plan), unsupported(what, protection.into()));
    }
    // Without the lowest bit, the type is not valid.
    assert_eq!(quiesces(host(|host| host.protection = 0xe, vec![])), Ok(()));
    let plan = host(|_| {}, vec![Fault::ReadOnly]);
    assert_eq!(quiesces(plan), unsupported("a disk that can be written", 0x80));
    // A disk that does not say is assumed to be writable.
    assert_eq!(quiesces(host(|host| host.mode_sense = false, vec![Fault::ReadOnly])), Ok(()));
}

#[test]
fn disks_beyond_2_tib_are_addressed_with_64_bits() {
    for (block, sectors) in [(512, 1_u64 << 33), (4096, 1 << 36), (512, (1 << 40) + 7)] {
        let mut rig = Rig::open(host(|host| host.block = block, vec![Fault::CapacityShrinks(sectors)]), None);
        rig.quiesce().unwrap();
        let blocks = sectors / 8;
        assert_eq!(rig.disk.geometry().unwrap().blocks, blocks);
        // The fake is smaller, and reports that; but it accepts the place as valid.
        assert_eq!(rig.write(blocks - 1, 1), status("write: failure", 9));
        assert_eq!(rig.write(blocks, 1), Err(DeviceError::OutOfRange { end: blocks + 1, blocks }));
    }
}

#[test]
fn a_capacity_that_cannot_be_is_refused() {
    assert_eq!(quiesces(host(|_| {}, vec![Fault::CapacityShrinks(0)])), protocol("its last block", u64::MAX));
    for bytes in [0, 1, 8, 12] {
        let result = quiesces(host(|host| host.mode_sense = false, vec![Fault::ShortAnswers(bytes)]));
        let expect = match bytes {
            // Not even a list of units, or its type.
            0..=8 => unsupported("a SCSI disk on one of its units", 0),
            // A list without a complete unit.
            _ => unsupported("a SCSI disk on one of its units", 0),
        };
        assert_eq!(result, expect, "{bytes}");
        let mut named = Rig::open(host(|_| {}, vec![Fault::ShortAnswers(bytes)]), Lun::new(0, 0));
        assert_eq!(named.quiesce(), protocol("the length of its answer", bytes.into()));
    }
}

#[test]
fn odd_configurations_are_refused_by_name() {
    assert_eq!(quiesces(host(|host| host.sense_size = 18, vec![])), protocol("its size of sense data", 18));
    assert_eq!(quiesces(host(|host| host.cdb_size = 16, vec![])), protocol("its size of commands", 16));
    let plan = host(|_| {}, vec![Fault::NoQueues]);
    assert_eq!(quiesces(plan), protocol("its number of queues", 0));
    for queue_size in [0, 1, 2, 3] {
        let result = quiesces(Plan { queue_size, ..Plan::scsi() });
        assert_eq!(result, unsupported("a queue of at least 4 descriptors", queue_size.into()));
    }
}

/// As in Linux: for pieces and commands, 0 means one; for sectors, the usual limit.
#[test]
fn a_host_that_does_not_limit_by_itself_is_used_by_the_usual_limits() {
    let plan = host(|host| (host.max_sectors, host.cmd_per_lun) = (0, 0), vec![]);
    let mut rig = Rig::open(Plan { seg_max: Some(0), ..plan }, None);
    rig.quiesce().unwrap();
    rig.works();
    let before = rig.fake.doorbells();
    let buffer = rig.arena.dma(16 * BLOCK, BLOCK).unwrap();
    let request = Request { id: 3, direction: Direction::Write, block: 2, buffer, gather: None };
    assert!(rig.disk.submit(request, &wait(&rig.platform)).unwrap().is_none());
    assert_eq!(rig.fake.doorbells() - before, 1, "all of it in one command");
    assert_eq!(rig.fake.violations(), Vec::<String>::new());
}

#[test]
fn attentions_after_the_reset_are_cleared_and_a_disk_that_spins_up_is_waited_for() {
    for attentions in [0, 1, 2, 7, 20] {
        let mut rig = Rig::open(host(|host| host.attentions = attentions, vec![]), None);
        rig.quiesce().unwrap();
        rig.works();
    }
    let plan = host(|host| host.attentions = u32::MAX, vec![]);
    assert_eq!(quiesces(plan), status("answer: unit attention", 0x06_2900));
    let mut rig = Rig::open(host(|host| host.not_ready = 3, vec![]), None);
    rig.quiesce().unwrap();
    rig.works();
    for faults in [vec![Fault::Operation(0x00, 2, (0x3a, 0))], vec![Fault::Operation(0x00, 2, (4, 2))]] {
        let result = quiesces(host(|_| {}, faults));
        assert!(matches!(result, Err(DeviceError::Status { what: "answer: not ready", .. })), "{result:?}");
    }
}

#[test]
fn an_attention_in_the_middle_is_retried_once() {
    for key in [0x6, 0xb] {
        let once = Fault::Sense(0, 0x70, key, (0x2a, 1));
        assert_eq!(writes(vec![once]), Ok(()));
        let twice = writes(vec![once, Fault::Sense(1, 0x72, key, (0x2a, 9))]);
        let what = if key == 6 { "write: unit attention" } else { "write: aborted command" };
        assert_eq!(twice, status(what, u32::from(key) << 16 | 0x2a09));
    }
    let aborted = 2;
    assert_eq!(writes(vec![Fault::Response(0, aborted)]), Ok(()));
    let twice = writes(vec![Fault::Response(0, aborted), Fault::Response(1, aborted)]);
    assert_eq!(twice, status("write: aborted", aborted.into()));
    assert_eq!(writes(vec![Fault::ScsiStatus(0, 0x40)]), Ok(()));
}

#[test]
fn a_reset_of_the_disk_behind_our_own_is_not_passed_over_since_its_cache_is_gone() {
    for code in [0, 1, 3] {
        let result = writes(vec![Fault::Sense(0, 0x70, 6, (0x29, code))]);
        assert_eq!(result, status("write: unit attention", 0x06_2900 | u32::from(code)));
    }
    assert_eq!(writes(vec![Fault::Response(0, 4)]), status("write: reset", 4));
}

#[test]
fn a_busy_disk_is_asked_again_for_a_while() {
    for (status_code, what) in [(0x08, "write: busy"), (0x28, "write: task set full")] {
        let some = (0..2).map(|at| Fault::ScsiStatus(at, status_code)).collect();
        assert_eq!(writes(some), Ok(()));
        let begin = Rig::ready(vec![]).platform.peek();
        let result = writes(vec![Fault::ScsiStatusFrom(0, status_code)]);
        assert_eq!(result, status(what, status_code.into()), "from {begin}");
    }
    assert_eq!(writes(vec![Fault::Response(0, 5), Fault::Response(1, 5)]), Ok(()));
    assert_eq!(writes(vec![Fault::Sense(0, 0x70, 2, (4, 1))]), Ok(()));
}

#[test]
fn many_requests_for_a_busy_disk_all_end() {
    let mut rig = Rig::ready(vec![Fault::ScsiStatus(0, 0x28), Fault::ScsiStatus(3, 0x28)]);
    for id in 0..16 {
        let mut buffer = rig.arena.dma(BLOCK, BLOCK).unwrap();
        fill(buffer.bytes_mut(), id as u8);
        let request = dumpcore::device::Request {
            id,
            direction: Direction::Write,
            block: id.into(),
            buffer,
            gather: None,
        };
        assert!(rig.disk.submit(request, &wait(&rig.platform)).unwrap().is_none());
    }
    let mut done = Vec::new();
    while done.len() < 16 {
        let wait = wait(&rig.platform);
        let completion =
            wait.until("a request", TIMEOUT, || rig.disk.poll(&wait).transpose()).unwrap().unwrap();
        completion.result.unwrap();
        done.push(completion.id);
    }
    done.sort_unstable();
    assert_eq!(done, (0..16).collect::<Vec<u32>>());
    for block in 0..16 {
        assert_eq!(rig.fake.disk()[block * BLOCK..][..BLOCK], pattern(1, block as u8));
    }
}

#[test]
fn failures_on_the_way_are_named() {
    for (code, what) in [
        (1, "write: overrun"),
        (3, "write: bad target"),
        (6, "write: transport failure"),
        (7, "write: target failure"),
        (8, "write: nexus failure"),
        (9, "write: failure"),
    ] {
        assert_eq!(writes(vec![Fault::Response(0, code)]), status(what, code.into()));
    }
    for code in [10, 0x80, 0xff] {
        assert_eq!(writes(vec![Fault::Response(0, code)]), protocol("a command's response", code.into()));
    }
    assert_eq!(writes(vec![Fault::ScsiStatus(0, 0x18)]), status("write: reservation conflict", 0x18));
    assert_eq!(writes(vec![Fault::ScsiStatus(0, 0x30)]), status("write: ACA active", 0x30));
    assert_eq!(writes(vec![Fault::ScsiStatus(0, 0x22)]), protocol("a command's SCSI status", 0x22));
    assert_eq!(writes(vec![Fault::StatusUnwritten(0)]), protocol("a command's response", 0xff));
    assert_eq!(writes(vec![Fault::Residual(0, 1)]), protocol("its count of bytes not transferred", 1));
    let vast = vec![Fault::Residual(0, u32::MAX)];
    assert_eq!(writes(vast), protocol("its count of bytes not transferred", u32::MAX.into()));
}

#[test]
fn a_host_that_wrote_more_than_there_was_room_for_is_not_used_again() {
    let mut rig = Rig::ready(vec![Fault::LongLength(0)]);
    let result = rig.transfer(Direction::Read, 3, 0).map(|_| ());
    assert_eq!(result, protocol("its length written", 4096 + 108 + 1));
    assert_eq!(rig.write(3, 1), Err(DeviceError::NotReady));
    // Hosts report different lengths for a write.
    assert_eq!(writes(vec![Fault::LongLength(0)]), Ok(()));
}

#[test]
fn a_flush_fails_as_any_command_but_a_disk_need_not_know_it() {
    let flush = |rig: &mut Rig| rig.disk.flush(&wait(&rig.platform));
    let mut rig = Rig::ready(vec![Fault::Sense(1, 0x71, 3, (0x0c, 2))]);
    rig.write(1, 1).unwrap();
    assert_eq!(flush(&mut rig), status("flush: medium error", 0x03_0c02));
    assert_eq!(flush(&mut rig), Ok(()));
    assert_eq!(rig.fake.medium()[BLOCK..][..BLOCK], pattern(1, 1));
    let mut rig = Rig::open(host(|host| host.flush = false, vec![]), None);
    rig.quiesce().unwrap();
    assert_eq!(flush(&mut rig), Ok(()));
    let mut rig = Rig::ready(vec![Fault::Operation(0x35, 5, (0x24, 0))]);
    assert_eq!(flush(&mut rig), status("flush: illegal request", 0x05_2400));
    let mut rig = Rig::ready(vec![]);
    rig.fake.set_troubles(vec![Trouble::NeverCompletes(0)]);
    assert!(matches!(flush(&mut rig), Err(DeviceError::TimedOut { what: "a virtio-scsi flush", .. })));
}

const KEYS: [&str; 16] = [
    "read: no sense",
    "read: recovered error",
    "read: not ready",
    "read: medium error",
    "read: hardware error",
    "read: illegal request",
    "read: unit attention",
    "read: data protect",
    "read: blank check",
    "read: vendor specific",
    "read: copy aborted",
    "read: aborted command",
    "read: reserved sense key",
    "read: volume overflow",
    "read: miscompare",
    "read: completed",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(300), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sense_data_is_decoded_in_any_form(form: u8, key in 0..16_u8, code: (u8, u8)) {
        let form = if form < 200 { 0x70 | form & 3 } else { form };
        let mut rig = Rig::ready(vec![Fault::Sense(0, form, key, code)]);
        let result = rig.transfer(Direction::Read, 7, 0).map(|_| ());
        let bits = u32::from(key) << 16 | u32::from(code.0) << 8 | u32::from(code.1);
        let named = status(KEYS[usize::from(key)], bits);
        let deferred = form & 1 == 1;
        let expect = match form & 0x7f {
            0x70..=0x73 => match key {
                // Executed after all, or by the retry.
                1 => Ok(()),
                6 | 0xb if !deferred => Ok(()),
                2 if !deferred && code == (4, 1) => Ok(()),
                _ => named,
            },
            _ => status("read: no sense data", 0),
        };
        prop_assert_eq!(result, expect);
        rig.works();
    }
}
