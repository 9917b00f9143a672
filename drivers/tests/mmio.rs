//! Specifics of virtio devices that are on no bus.
#![allow(missing_docs)]

mod common;

use std::ptr::NonNull;

use common::{BLOCKS, STEP, TIMEOUT, wait};
use dump_drivers::fake::{
    ClockPlatform, DmaMemory, FakeDisk as _, Fault, Front, MMIO_WINDOW, Plan, VirtioFake,
};
use dump_drivers::virtio::mmio::{MmioSlot, WINDOW};
use dump_drivers::virtio::{blk, scsi};
use dump_drivers::{Mmio, VirtioBlkMmio, VirtioScsiMmio};
use dumpcore::device::{DeviceError, DumpDevice, Health};
use dumpcore::integrity::Digest;

fn device(plan: Plan) -> (VirtioFake, DmaMemory) {
    let memory = DmaMemory::leak(64 << 10);
    (VirtioFake::virtio(memory, BLOCKS, Plan { front: Front::Mmio, ..plan }), memory)
}

#[test]
fn empty_and_foreign_windows_are_passed_over() {
    // Magic, version, device id.
    let mut windows: Vec<[u32; WINDOW / 4]> = Vec::new();
    for first in
        [[0x7472_6976, 2, 0], [0x7472_6976, 2, 2], [0, 0, 2], [0x7472_6976, 1, 8], [0x7472_6976, 2, 2]]
    {
        let mut window = [0; WINDOW / 4];
        window[..3].copy_from_slice(&first);
        windows.push(window);
    }
    let start = NonNull::new(windows.as_mut_ptr()).unwrap();
    let map = |at: u64, length: usize| {
        assert_eq!(length, WINDOW);
        // The fourth cannot be mapped at all.
        (at != 4).then(|| {
            // SAFETY: one of the windows, which outlive this value and are not used meanwhile.
            unsafe { Mmio::new(start.add(if at > 4 { 4 } else { at as usize }).cast(), WINDOW) }
        })
    };
    let all = || [0, 1, 2, 3, 4, 5];
    let blk = |index| blk::find_mmio(all(), map, index).map(|slot| slot.physical);
    assert_eq!([blk(0), blk(1), blk(2)], [Some(1), Some(5), None]);
    let scsi = |index| scsi::find_mmio(all(), map, index).map(|slot| slot.physical);
    assert_eq!([scsi(0), scsi(1)], [Some(3), None]);
}

#[test]
fn a_legacy_device_is_found_and_refused_by_name() {
    let refused = |plan: Plan, host: bool| {
        let (fake, memory) = device(plan);
        let registers = fake.map(MMIO_WINDOW, WINDOW).unwrap();
        let slot = MmioSlot { physical: MMIO_WINDOW, registers };
        let mut arena = memory.arena();
        let error = if host {
            VirtioScsiMmio::open_mmio(slot, None, &mut arena, TIMEOUT).err()
        } else {
            VirtioBlkMmio::open_mmio(slot, &mut arena, TIMEOUT).err()
        };
        assert_eq!(fake.writes(), 0);
        error.map(|error| error.to_string())
    };
    let legacy = "unsupported: needs a modern virtio-mmio device (version 2), the device has 0x1";
    assert_eq!(refused(Plan::with(Fault::LegacyOnly), false).as_deref(), Some(legacy));
    let host = Plan { faults: vec![Fault::LegacyOnly], ..Plan::scsi() };
    assert_eq!(refused(host, true).as_deref(), Some(legacy));
    let other = "unsupported: needs a virtio disk, the device has 0x8";
    assert_eq!(refused(Plan::scsi(), false).as_deref(), Some(other));
    let other = "unsupported: needs a virtio SCSI host, the device has 0x2";
    assert_eq!(refused(Plan::default(), true).as_deref(), Some(other));
}

#[test]
fn a_device_that_is_not_what_it_was_is_not_written_to() {
    let (fake, memory) = device(Plan::default());
    let mut arena = memory.arena();
    let slot = blk::find_mmio([MMIO_WINDOW], |at, length| fake.map(at, length), 0).unwrap();
    let mut disk = VirtioBlkMmio::open_mmio(slot, &mut arena, TIMEOUT).unwrap();
    let platform = ClockPlatform::new(STEP).with(fake.clone());
    let integrity = |disk: &VirtioBlkMmio<_>| {
        let mut digest = Digest::new();
        disk.integrity(&mut digest);
        digest.finish()
    };
    let before = integrity(&disk);
    assert_eq!(disk.sanity_check(&wait(&platform)), Health::Healthy);
    for (plan, error) in [
        (Plan::scsi(), DeviceError::Protocol { what: "its device id", value: 8 }),
        (Plan::with(Fault::LegacyOnly), DeviceError::Protocol { what: "its version", value: 1 }),
    ] {
        fake.with(|_, model| model.set_plan(Plan { front: Front::Mmio, ..plan }));
        assert_eq!(disk.sanity_check(&wait(&platform)), Health::Unusable(error));
        assert_eq!(disk.quiesce(&wait(&platform)), Err(error));
    }
    assert_eq!(fake.writes(), 0);
    fake.with(|_, model| model.set_plan(Plan { front: Front::Mmio, ..Plan::default() }));
    disk.quiesce(&wait(&platform)).unwrap();
    assert_eq!(integrity(&disk), before);
    fake.set_status(0x4f);
    assert_eq!(
        disk.sanity_check(&wait(&platform)),
        Health::Risky(DeviceError::Status { what: "stay in operation", code: 0x4f })
    );
    fake.unplug();
    assert_eq!(disk.sanity_check(&wait(&platform)), Health::Unusable(DeviceError::Gone));
}

/// Two partitions of one disk are two targets, and each take-over would reset the other's.
#[test]
fn two_targets_on_one_window_are_one_controller_and_on_two_windows_two() {
    let (fake, memory) = device(Plan::default());
    let mut arena = memory.arena();
    let mut open = |physical| {
        let registers = fake.map(MMIO_WINDOW, WINDOW).unwrap();
        VirtioBlkMmio::open_mmio(MmioSlot { physical, registers }, &mut arena, TIMEOUT).unwrap()
    };
    let (first, second, other) = (open(MMIO_WINDOW), open(MMIO_WINDOW), open(MMIO_WINDOW + 0x200));
    assert!(first.controller().is_some());
    assert_eq!(first.controller(), second.controller());
    assert_ne!(first.controller(), other.controller());
    // Nor is it a function on PCI, whose numbers are bus, device and function.
    let low = open(0x20);
    assert!(low.controller().unwrap() > u16::MAX.into());
}

#[test]
fn queues_that_cannot_be_are_refused_by_name() {
    let quiesces = |plan: Plan| {
        let (fake, memory) = device(plan);
        let slot = blk::find_mmio([MMIO_WINDOW], |at, length| fake.map(at, length), 0).unwrap();
        let mut disk = VirtioBlkMmio::open_mmio(slot, &mut memory.arena(), TIMEOUT).unwrap();
        let platform = ClockPlatform::new(STEP).with(fake.clone());
        let result = disk.quiesce(&wait(&platform));
        assert_eq!(fake.violations(), Vec::<String>::new());
        result
    };
    let protocol = |what, value| Err(DeviceError::Protocol { what, value });
    for queue_size in [0, 1, 3] {
        let error =
            DeviceError::Unsupported { what: "a queue of at least 4 descriptors", value: queue_size.into() };
        assert_eq!(quiesces(Plan { queue_size, ..Plan::default() }), Err(error));
    }
    for queue_size in [4, 5, 100, 1 << 15] {
        assert_eq!(quiesces(Plan { queue_size, ..Plan::default() }), Ok(()));
    }
    let vast = Plan { queue_size: u16::MAX, ..Plan::default() };
    assert_eq!(quiesces(vast), protocol("its queue size", u16::MAX.into()));
    assert_eq!(quiesces(Plan::with(Fault::QueueStaysDisabled)), protocol("its queue ready register", 0));
    assert_eq!(quiesces(Plan::with(Fault::QueueStaysEnabled)), protocol("its queue ready register", 1));
}
