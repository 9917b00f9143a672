//! Every failure of a device has a named error, ends in time, and leaves the driver usable after the device
//! has recovered.
#![allow(missing_docs)]

mod common;

use common::*;
use dump_drivers::fake::{Counts, FakeDisk as _, Fault, Front, Plan, Tick as _, Trouble};
use dumpcore::device::{DeviceError, Direction, DumpDevice, Request};

fn opens(plan: Plan) -> Result<(), DeviceError> {
    Rig::open(plan).map(|_| ())
}

fn quiesces(plan: Plan) -> Result<(), DeviceError> {
    let mut rig = Rig::open(plan)?;
    let begin = rig.platform.peek();
    let result = rig.quiesce();
    assert!(rig.platform.peek() - begin < 3 * TIMEOUT, "not in time");
    rig.assert_within_the_rules();
    result
}

/// One write, the first request of a device that is ready.
fn writes(plan: impl Into<Plan>) -> Result<(), DeviceError> {
    let mut rig = Rig::ready(plan.into());
    let begin = rig.platform.peek();
    let result = rig.write_block(7, 1);
    assert!(rig.platform.peek() - begin < 2 * TIMEOUT, "not in time");
    assert!(rig.fake.touched().iter().all(|block| *block == 7));
    recovers(&mut rig);
    result
}

/// A read, after one write that works.
fn reads(fault: Fault) -> Result<(), DeviceError> {
    let mut rig = Rig::ready(Plan::with(fault));
    rig.write_block(7, 1).expect("the first request is sound");
    let result = rig.read_block(7).map(|_| ());
    recovers(&mut rig);
    result
}

/// After the device has recovered, another quiesce makes it work.
fn recovers(rig: &mut Rig) {
    rig.fake.set_faults(vec![]);
    rig.quiesce().expect("quiesces again");
    rig.write_block(9, 3).expect("writes again");
    assert_eq!(rig.read_block(9).expect("reads again"), pattern(1, 3));
    rig.assert_within_the_rules();
}

fn protocol(what: &'static str, value: u64) -> Result<(), DeviceError> {
    Err(DeviceError::Protocol { what, value })
}

fn is_unsupported(result: Result<(), DeviceError>, part: &str) -> bool {
    matches!(result, Err(DeviceError::Unsupported { what, .. }) if what.contains(part))
}

#[test]
fn a_reset_that_never_ends_times_out() {
    let result = quiesces(Plan::troubled(Trouble::NeverResets));
    assert!(
        matches!(result, Err(DeviceError::TimedOut { what: "a virtio reset", after }) if after >= TIMEOUT)
    );
}

#[test]
fn a_device_that_refuses_the_features_is_unsupported() {
    assert!(is_unsupported(quiesces(Plan::with(Fault::FeaturesRefused)), "accepts the features"));
}

#[test]
fn a_legacy_device_is_refused_by_name() {
    let plan = Plan { front: Front::Pci(0x1001), ..Plan::with(Fault::LegacyOnly) };
    assert!(is_unsupported(opens(plan), "legacy"));
    assert!(is_unsupported(quiesces(Plan::with(Fault::NotVersion1)), "virtio 1.0"));
}

#[test]
fn a_read_only_disk_is_refused_by_name() {
    assert!(is_unsupported(quiesces(Plan::with(Fault::ReadOnly)), "written"));
}

#[test]
fn a_capability_list_that_loops_is_refused_by_name() {
    assert_eq!(opens(Plan::with(Fault::CapabilityLoop)), protocol("its capability list, a loop,", 0xb0));
}

#[test]
fn queues_too_small_are_refused_and_odd_ones_are_made_smaller() {
    for queue_size in [0, 1, 2, 3] {
        let result = quiesces(Plan { queue_size, ..Plan::default() });
        assert!(is_unsupported(result, "at least 4"), "{queue_size}");
    }
    for queue_size in [4, 5, 7, 48, 63, 65, 100, 1 << 15] {
        let mut rig = Rig::ready(Plan { queue_size, ..Plan::default() });
        for block in 0..40 {
            rig.write_block(block, block as u8).unwrap();
        }
        rig.assert_within_the_rules();
    }
    for queue_size in [(1 << 15) + 1, u16::MAX] {
        let result = quiesces(Plan { queue_size, ..Plan::default() });
        assert_eq!(result, protocol("its queue size", queue_size.into()));
    }
    assert_eq!(quiesces(Plan::with(Fault::NoQueues)), protocol("its number of queues", 0));
    let stuck = Plan { queue_size: 512, ..Plan::with(Fault::QueueSizeStuck) };
    assert_eq!(quiesces(stuck), protocol("its queue size", 512));
    assert_eq!(quiesces(Plan::with(Fault::QueueStaysDisabled)), protocol("its queue enable register", 0));
}

#[test]
fn a_notification_register_outside_its_window_is_refused() {
    assert_eq!(quiesces(Plan::with(Fault::NotifyOutside)), protocol("its notification offset", 0x1000));
    let odd = Plan { notify_multiplier: 1, notify_off: 3, ..Plan::default() };
    assert_eq!(quiesces(odd), protocol("its notification offset", 3));
    let vast = Plan { notify_multiplier: u32::MAX, notify_off: u16::MAX, ..Plan::default() };
    assert!(matches!(quiesces(vast), Err(DeviceError::Protocol { what: "its notification offset", .. })));
    for (notify_multiplier, notify_off) in [(0, 9), (2, 5), (4, 1023), (4094, 1)] {
        let mut rig = Rig::ready(Plan { notify_multiplier, notify_off, ..Plan::default() });
        rig.write_block(0, 1).unwrap();
        rig.assert_within_the_rules();
    }
}

#[test]
fn odd_configurations_are_refused_by_name() {
    let refused = |plan: Plan| quiesces(plan);
    let base = Plan::default;
    assert!(is_unsupported(refused(Plan { size_max: Some(8), ..base() }), "segments"));
    assert!(is_unsupported(refused(Plan { size_max: Some(512), seg_max: Some(7), ..base() }), "segments"));
    for size in [0, 256, 513, 1000] {
        let result = refused(Plan { blk_size: Some(size), ..base() });
        assert_eq!(result, protocol("its block size", size.into()));
    }
    assert!(is_unsupported(refused(Plan { blk_size: Some(8192), ..base() }), "4096 bytes or less"));
    assert!(matches!(
        opens(Plan::with(Fault::GenerationRuns)),
        Err(DeviceError::Protocol { what, .. }) if what.contains("generation")
    ));
    assert_eq!(
        quiesces(Plan::with(Fault::NeverStarts)),
        Err(as_explained(DeviceError::Status { what: "start", code: 0x4b }))
    );
    assert!(matches!(
        quiesces(Plan::troubled(Trouble::MsiStuck)),
        Err(DeviceError::Protocol { what: "its MSI control", .. })
    ));
}

/// A device's request for a reset is reported, whatever else happened.
fn as_explained(error: DeviceError) -> DeviceError {
    match error {
        DeviceError::Status { code, .. } if code & 64 != 0 => {
            DeviceError::Status { what: "stay in operation", code }
        }
        other => other,
    }
}

#[test]
fn requests_that_never_complete_time_out_and_their_buffers_stay_lost() {
    let result = writes(Trouble::NeverCompletes(0));
    assert!(
        matches!(result, Err(DeviceError::TimedOut { what: "a virtio-blk write", after }) if after >= TIMEOUT)
    );
    let mut rig = Rig::ready(Plan::troubled(Trouble::NeverCompletes(0)));
    let buffer = rig.buffer(1);
    let wait = wait(&rig.platform);
    let (buffer, _) = rig.disk.rw_block(Direction::Read, 0, buffer, &wait);
    assert!(buffer.is_none(), "the device may still write to it");
    let buffer = rig.arena.dma(BLOCK, BLOCK).unwrap();
    let (buffer, result) = rig.disk.rw_block(Direction::Read, 0, buffer, &wait);
    assert!(buffer.is_some(), "was never given away");
    assert_eq!(result, Err(DeviceError::NotReady));
}

#[test]
fn a_flush_that_never_ends_times_out() {
    let mut rig = Rig::ready(Plan::troubled(Trouble::NeverCompletes(1)));
    rig.write_block(7, 1).unwrap();
    let result = rig.disk.shutdown(&wait(&rig.platform));
    assert!(matches!(result, Err(DeviceError::TimedOut { what: "a virtio-blk flush", .. })));
    recovers(&mut rig);
}

#[test]
fn completions_under_wrong_ids_end_the_device_by_name() {
    // 3 is the head of another run, 1 is inside this one, the rest are outside the queue.
    for id in [1, 3, 63, 64, 255, 65_536, u32::MAX] {
        assert_eq!(writes(Fault::WrongId(0, id)), protocol("a finished request's id", id.into()), "{id}");
    }
}

#[test]
fn a_used_index_that_jumps_ends_the_device_by_name() {
    for jump in [2, 63, 64, 256, 0x8000, u16::MAX] {
        assert_eq!(writes(Fault::IndexJumps(0, jump)), protocol("its used index", jump.into()));
    }
    assert_eq!(writes(Trouble::Duplicate(0)), protocol("its used index", 2));
}

#[test]
fn a_duplicate_among_many_in_flight_ends_the_device_by_name() {
    // The double of request 1 comes while request 2 is in flight, so the index alone does not tell.
    let plan = Plan {
        delay: (3, 0),
        troubles: vec![Trouble::Duplicate(1), Trouble::NeverCompletes(2)],
        ..Plan::default()
    };
    let mut rig = Rig::ready(plan);
    for id in 0..3 {
        let buffer = rig.filled(1, id as u8);
        let request = Request { id, direction: Direction::Write, block: id.into(), buffer, gather: None };
        assert!(rig.disk.submit(request, &wait(&rig.platform)).unwrap().is_none());
    }
    let mut seen = vec![];
    let error = loop {
        rig.fake.tick();
        match rig.disk.poll(&wait(&rig.platform)) {
            Ok(Some(completion)) => seen.push(completion.id),
            Ok(None) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(seen, [0, 1]);
    // Request 1's descriptors are the second run, of 18: header, 16 pieces, status.
    assert_eq!(Err(error), protocol("a finished request's id", 18));
    assert_eq!(rig.disk.poll(&wait(&rig.platform)).unwrap_err(), DeviceError::NotReady);
    recovers(&mut rig);
}

#[test]
fn lengths_that_cannot_be_are_named() {
    assert_eq!(reads(Fault::ShortLength(1, 2)), protocol("its length written", 4095));
    assert_eq!(reads(Fault::ShortLength(1, 4095)), protocol("its length written", 2));
    assert_eq!(reads(Fault::LongLength(1)), protocol("its length written", 4098));
}

/// The specification counts data and status, but real devices count differently, and common drivers ignore
/// the length. Pattern, label and checksums verify the data anyway.
#[test]
fn a_read_is_whole_whichever_of_data_and_status_the_device_counts() {
    for counts in [Counts::All, Counts::Data, Counts::Status, Counts::Nothing] {
        let mut rig = Rig::ready(Plan { counts, ..Plan::default() });
        rig.write_block(7, 1).unwrap();
        assert_eq!(rig.read_block(7).unwrap(), pattern(1, 1), "{counts:?}");
        rig.assert_within_the_rules();
    }
}

/// As in Linux: an unspecified or zero limit means one segment.
#[test]
fn a_device_that_tells_no_number_of_segments_gets_one_at_a_time() {
    for (seg_max, size_max) in [(None, 8192), (Some(0), 8192), (None, 0), (Some(0), 4096)] {
        for queue_size in [4, 256] {
            let plan = Plan { seg_max, queue_size, size_max: Some(size_max), ..Plan::default() };
            let mut rig = Rig::ready(plan);
            let buffer = rig.filled(11, 5);
            let request = Request { id: 3, direction: Direction::Write, block: 2, buffer, gather: None };
            assert!(rig.disk.submit(request, &wait(&rig.platform)).unwrap().is_none());
            let done = wait(&rig.platform)
                .until("a write", TIMEOUT, || rig.disk.poll(&wait(&rig.platform)).transpose())
                .unwrap()
                .unwrap();
            assert_eq!((done.id, done.result), (3, Ok(())));
            assert_eq!(rig.fake.disk()[2 * BLOCK..13 * BLOCK], pattern(11, 5));
            rig.assert_within_the_rules();
        }
    }
    // Without a segment size limit, one segment takes the whole request.
    let mut rig = Rig::ready(Plan { seg_max: None, ..Plan::default() });
    let buffer = rig.filled(11, 5);
    let request = Request { id: 3, direction: Direction::Write, block: 2, buffer, gather: None };
    assert!(rig.disk.submit(request, &wait(&rig.platform)).unwrap().is_none());
    assert_eq!(rig.fake.doorbells(), 1);
    assert_eq!(rig.fake.disk()[2 * BLOCK..13 * BLOCK], pattern(11, 5));
}

#[test]
fn the_length_of_a_write_is_not_needed_since_devices_differ_in_it() {
    for fault in [Fault::ShortLength(0, 1), Fault::LongLength(0)] {
        let mut rig = Rig::ready(Plan::with(fault));
        rig.write_block(7, 1).unwrap();
        assert_eq!(rig.read_block(7).unwrap(), pattern(1, 1));
    }
}

#[test]
fn a_device_that_wrote_more_than_it_was_given_is_not_used_again() {
    let mut rig = Rig::ready(Plan::with(Fault::LongLength(0)));
    rig.read_block(7).unwrap_err();
    assert_eq!(rig.write_block(8, 1), Err(DeviceError::NotReady));
    // A short write fails only that request.
    let mut rig = Rig::ready(Plan::with(Fault::ShortLength(0, 512)));
    rig.read_block(7).unwrap_err();
    assert_eq!(rig.write_block(8, 1), Ok(()));
}

#[test]
fn failed_requests_carry_the_devices_code_and_leave_it_usable() {
    for code in [1, 2] {
        let mut rig = Rig::ready(Plan::with(Fault::Status(0, code)));
        let error = Err(DeviceError::Status { what: "write", code: code.into() });
        assert_eq!(rig.write_block(7, 1), error);
        rig.write_block(7, 2).unwrap();
        assert_eq!(rig.read_block(7).unwrap(), pattern(1, 2));
    }
    let error = Err(DeviceError::Status { what: "read", code: 1 });
    assert_eq!(reads(Fault::Status(1, 1)), error);
    for code in [3, 0x80] {
        assert_eq!(writes(Fault::Status(0, code)), protocol("a request's status", code.into()));
    }
}

#[test]
fn a_status_byte_left_unwritten_is_no_success() {
    assert_eq!(writes(Fault::StatusUnwritten(0)), protocol("a request's status", 0xff));
}

#[test]
fn a_device_that_asks_for_a_reset_is_named() {
    let error = Err(DeviceError::Status { what: "stay in operation", code: 0x4f });
    assert_eq!(writes(Trouble::Fails(0)), error);
}

#[test]
fn a_disk_that_shrinks_is_seen_and_not_written_beyond() {
    let mut rig = Rig::ready(Plan::with(Fault::CapacityShrinks(8 * 10 + 7)));
    assert_eq!(rig.disk.geometry().unwrap().blocks, 10);
    assert_eq!(rig.write_block(10, 1), Err(DeviceError::OutOfRange { end: 11, blocks: 10 }));
    assert_eq!(rig.write_block(u64::MAX, 1), Err(DeviceError::OutOfRange { end: u64::MAX, blocks: 10 }));
    rig.write_block(9, 1).unwrap();
    assert_eq!(rig.fake.touched(), [9]);
}

#[test]
fn a_device_that_goes_at_any_access_is_gone_and_nothing_else() {
    // The accesses of a whole life cycle: take-over, write, flush, shutdown.
    let life = |rig: &mut Rig| -> Result<(), DeviceError> {
        rig.quiesce()?;
        rig.write_block(1, 1)?;
        rig.disk.shutdown(&wait(&rig.platform))
    };
    let mut ended_well = false;
    for access in 1..1_000 {
        let mut rig = Rig::open(Plan::default()).unwrap();
        rig.fake.set_troubles(vec![Trouble::GoneAtAccess(access)]);
        let begin = rig.platform.peek();
        let result = life(&mut rig);
        assert!(rig.platform.peek() - begin < 5 * TIMEOUT);
        match result {
            Err(error) => assert_eq!(error, DeviceError::Gone, "at access {access}"),
            Ok(()) => {
                ended_well = true;
                break;
            }
        }
        assert!(rig.fake.touched().iter().all(|block| *block == 1));
    }
    assert!(ended_well, "the whole life was covered");
}

#[test]
fn a_device_that_goes_while_it_is_polled_is_noticed() {
    let mut rig = Rig::ready(Plan::troubled(Trouble::NeverCompletes(0)));
    let buffer = rig.filled(1, 1);
    let request = Request { id: 1, direction: Direction::Write, block: 0, buffer, gather: None };
    rig.disk.submit(request, &wait(&rig.platform)).unwrap();
    rig.fake.unplug();
    let polls = (0..100_000).position(|_| match rig.disk.poll(&wait(&rig.platform)) {
        Ok(None) => false,
        Ok(Some(_)) => panic!("a completion from nowhere"),
        Err(error) => {
            assert_eq!(error, DeviceError::Gone);
            true
        }
    });
    assert!(polls.is_some());
}

#[test]
fn buffers_that_are_not_blocks_are_refused() {
    let mut rig = Rig::ready(Plan::default());
    for length in [0, 1, 512, BLOCK - 1, BLOCK + 512] {
        let buffer = rig.arena.dma(length, BLOCK).unwrap();
        let request = Request { id: 1, direction: Direction::Write, block: 0, buffer, gather: None };
        let rejected = rig.disk.submit(request, &wait(&rig.platform)).unwrap_err();
        assert_eq!(rejected.error, DeviceError::BadBuffer { length });
    }
    let buffer = rig.buffer(2);
    let (buffer, result) = rig.disk.rw_block(Direction::Write, 0, buffer, &wait(&rig.platform));
    assert!(buffer.is_some());
    assert_eq!(result, Err(DeviceError::BadBuffer { length: 2 * BLOCK }));
    assert_eq!(rig.fake.touched(), []);
}
