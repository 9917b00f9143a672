//! Opening has no side effects, a take-over leaves nothing of the old driver, and an idle driver stays quiet.
#![allow(missing_docs)]

mod common;

use common::*;
use dump_drivers::bus::pci::Command;
use dump_drivers::fake::{FakeDisk as _, Fault, Front, Plan, Tick as _};
use dumpcore::device::Direction::{Read, Write};
use dumpcore::device::{DeviceError, DumpDevice, Health, Request};
use dumpcore::stack::{RED_ZONE, STACK_SIZE};

#[test]
fn opening_writes_to_nothing_and_finds_name_and_size() {
    let rig = Rig::open(Plan::default()).unwrap();
    assert_eq!(rig.fake.writes(), 0);
    assert_eq!(rig.disk.name(), "virtio-blk 00:04.0");
    assert_eq!(rig.disk.geometry().unwrap().blocks, BLOCKS);
    assert!(rig.arena.used() - RED_ZONE - STACK_SIZE <= 10 << 10, "{} bytes of arena", rig.arena.used());
    assert!(size_of::<Disk>() <= 4096, "{} bytes of driver", size_of::<Disk>());
}

#[test]
fn sanity_check_writes_to_nothing_and_finds_a_device_in_use_healthy() {
    let mut rig = Rig::open(Plan::default()).unwrap();
    assert_eq!(rig.disk.sanity_check(&wait(&rig.platform)), Health::Healthy);
    assert_eq!(rig.fake.writes(), 0);
}

#[test]
fn quiesce_takes_a_used_device_over_without_an_interrupt_left_on() {
    for device in [0x1042, 0x1001] {
        let mut rig =
            Rig::open(Plan { front: Front::Pci(device), reset_ticks: 7, ..Plan::default() }).unwrap();
        rig.quiesce().unwrap();
        assert!(!rig.fake.interrupts_on());
        assert_eq!(rig.fake.status(), 0x0f);
        assert!(rig.fake.command().contains(Command::BUS_MASTER | Command::MEMORY));
        rig.write_block(3, 9).unwrap();
        assert_eq!(rig.read_block(3).unwrap(), pattern(1, 9));
        rig.assert_within_the_rules();
    }
}

#[test]
fn what_the_old_driver_had_in_flight_never_reaches_memory_after_quiesce() {
    for reset_ticks in [0, 1, 50] {
        let mut rig = Rig::open(Plan { reset_ticks, ..Plan::default() }).unwrap();
        let victim = rig.buffer(1);
        for ticks in 1..200 {
            rig.fake.foreign_request(victim.bus_address(), 16, ticks);
        }
        rig.quiesce().unwrap();
        rig.let_time_pass(400);
        assert!(victim.bytes().iter().all(|byte| *byte == 0), "not even during the reset");
    }
}

impl Rig {
    fn let_time_pass(&self, ticks: u32) {
        for _ in 0..ticks {
            self.fake.tick();
        }
    }
}

#[test]
fn a_sleeping_or_switched_off_function_is_woken() {
    let mut rig = Rig::open(Plan::default()).unwrap();
    rig.fake.sleep(true);
    assert_eq!(
        rig.disk.sanity_check(&wait(&rig.platform)),
        Health::Risky(DeviceError::Protocol { what: "its power state", value: 3 })
    );
    rig.quiesce().unwrap();
    rig.fake.set_command(Command::empty());
    assert!(matches!(rig.disk.sanity_check(&wait(&rig.platform)), Health::Risky(_)));
    rig.quiesce().unwrap();
    rig.write_block(0, 1).unwrap();
    rig.fake.set_command(Command::BUS_MASTER);
    let refused = open(&rig.fake, &mut rig.arena).err();
    assert!(
        matches!(refused, Some(DeviceError::Unsupported { what, value: 4 }) if what.contains("decoding"))
    );
}

#[test]
fn sanity_check_tells_what_is_odd() {
    let mut rig = Rig::open(Plan::default()).unwrap();
    rig.fake.set_command(Command::MEMORY);
    assert!(matches!(
        rig.disk.sanity_check(&wait(&rig.platform)),
        Health::Risky(DeviceError::Protocol { what: "its PCI command", .. })
    ));
    rig.fake.set_command(Command::MEMORY | Command::BUS_MASTER);
    rig.fake.set_status(0x4f);
    assert_eq!(
        rig.disk.sanity_check(&wait(&rig.platform)),
        Health::Risky(DeviceError::Status { what: "stay in operation", code: 0x4f })
    );
    rig.fake.set_status(0x0f);
    rig.fake.move_bar();
    assert!(matches!(
        rig.disk.sanity_check(&wait(&rig.platform)),
        Health::Unusable(DeviceError::Protocol { what: "its base address", .. })
    ));
    let writes = rig.fake.writes();
    assert!(matches!(rig.quiesce(), Err(DeviceError::Protocol { what: "its base address", .. })));
    assert_eq!(rig.fake.writes(), writes, "a moved BAR may be somebody else's: nothing is written");
    rig.fake.unplug();
    assert_eq!(rig.disk.sanity_check(&wait(&rig.platform)), Health::Unusable(DeviceError::Gone));
    assert_eq!(rig.quiesce(), Err(DeviceError::Gone));
}

#[test]
fn the_integrity_checksum_survives_use_and_notices_change() {
    let mut rig = Rig::open(Plan::default()).unwrap();
    let before = rig.integrity();
    rig.quiesce().unwrap();
    rig.write_block(1, 1).unwrap();
    rig.disk.shutdown(&wait(&rig.platform)).unwrap();
    assert_eq!(rig.integrity(), before);
    assert_eq!(rig.disk.sanity_check(&wait(&rig.platform)), Health::Healthy, "at rest is healthy");
    let other = open(&rig.fake, &mut rig.arena).unwrap();
    rig.disk = other;
    assert_ne!(rig.integrity(), before, "rings elsewhere");
}

#[test]
fn shutdown_leaves_everything_on_the_medium_and_the_device_at_rest() {
    for flush in [true, false] {
        let mut rig = Rig::ready(Plan { flush, delay: (1, 9), ..Plan::default() });
        rig.write_block(5, 77).unwrap();
        rig.disk.shutdown(&wait(&rig.platform)).unwrap();
        assert_eq!(rig.fake.medium()[5 * BLOCK..6 * BLOCK], pattern(1, 77));
        assert_eq!(rig.fake.flushes(), u64::from(flush));
        assert_eq!(rig.fake.status(), 0);
        assert!(!rig.fake.command().contains(Command::BUS_MASTER));
        assert_eq!(rig.write_block(5, 78), Err(DeviceError::NotReady));
        rig.quiesce().unwrap();
        rig.write_block(5, 79).unwrap();
        rig.assert_within_the_rules();
    }
}

#[test]
fn shutdown_without_certainty_is_an_error_and_still_ends_the_device() {
    let mut rig = Rig::ready(Plan::with(Fault::Status(1, 1)));
    rig.write_block(5, 77).unwrap();
    let result = rig.disk.shutdown(&wait(&rig.platform));
    assert_eq!(result, Err(DeviceError::Status { what: "flush", code: 1 }));
    assert_eq!(rig.fake.status(), 0);
    assert!(!rig.fake.command().contains(Command::BUS_MASTER));
}

#[test]
fn nothing_moves_before_quiesce() {
    let mut rig = Rig::open(Plan::default()).unwrap();
    let writes = rig.fake.writes();
    assert_eq!(rig.write_block(0, 1), Err(DeviceError::NotReady));
    assert_eq!(rig.disk.flush(&wait(&rig.platform)), Err(DeviceError::NotReady));
    assert!(matches!(rig.disk.poll(&wait(&rig.platform)), Err(DeviceError::NotReady)));
    let buffer = rig.buffer(2);
    let rejected = rig
        .disk
        .submit(Request { id: 4, direction: Read, block: 0, buffer, gather: None }, &wait(&rig.platform))
        .unwrap_err();
    assert_eq!((rejected.request.id, rejected.error), (4, DeviceError::NotReady));
    assert_eq!(rig.fake.writes(), writes);
}

#[test]
fn the_driver_can_be_moved_into_the_arena_and_used_as_a_dump_device() {
    let mut rig = Rig::open(Plan::default()).unwrap();
    let disk = open(&rig.fake, &mut rig.arena).unwrap();
    let placed: &'static mut dyn DumpDevice = rig.arena.place(disk).unwrap();
    placed.quiesce(&wait(&rig.platform)).unwrap();
    let buffer = rig.filled(1, 5);
    placed.rw_block(Write, 2, buffer, &wait(&rig.platform)).1.unwrap();
    assert_eq!(rig.fake.disk()[2 * BLOCK..3 * BLOCK], pattern(1, 5));
}
