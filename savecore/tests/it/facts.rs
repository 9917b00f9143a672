//! A dump's facts: its numbers, and its version.

use std::fs;
use std::process::Command;

use dumpcore::format::VERSION;
use dumpcore::format::frame::{self, Kind, VERSION_OFFSET};
use dumpcore::format::header::Header;
use savecore::Error;
use savecore::dump::{Dump, Report};
use savecore::partition::{self, Search};
use savecore::source::{Content, recognise};

use crate::common::{Machine, block, block_mut, close, partition, write_dump};

/// Changes the format version of a block.
fn set_version(disk: &mut [u8], number: u64, version: u32) {
    let block = block_mut(disk, number);
    block[VERSION_OFFSET..VERSION_OFFSET + 4].copy_from_slice(&version.to_le_bytes());
    frame::set_checksum(block);
}

#[test]
fn a_label_of_another_version_is_refused_by_name_and_a_dump_behind_it_is_not_overlooked() {
    let mut disk = partition(60);
    set_version(&mut disk, 0, 1);
    assert!(matches!(partition::waiting(&disk, None), Ok((0, None))));
    write_dump(
        &mut disk,
        1,
        &Machine { pages: [(1, crate::common::Page::of(1))].into(), ..Machine::small() },
    );
    for dump_version in [1, VERSION] {
        set_version(&mut disk, 1, dump_version);
        let refusals = [
            partition::scan(&disk).err(),
            partition::salvage(&disk, Search::Quick, &mut ()).err(),
            partition::check(&disk, &mut ()).err(),
            partition::waiting(&disk, None).err(),
        ];
        for refusal in refusals {
            let Some(error @ Error::Version { what: "label", found: 1 }) = refusal else {
                panic!("{refusal:?}")
            };
            let text = error.to_string();
            assert!(text.contains("format version 1") && text.contains("reads versions 3 to 4"), "{text}");
        }
        let content = recognise(&disk);
        assert_eq!(content, Content::OtherVersion(1));
        assert!(content.to_string().contains("format version 1"));
    }
}

#[test]
fn a_dump_of_another_version_is_told_by_name_and_counts_as_waiting() {
    let mut disk = partition(300);
    let first = write_dump(&mut disk, 1, &Machine::small());
    let second = write_dump(&mut disk, first.end, &Machine { nonce: 2, sequence: 2, ..Machine::small() });
    for number in [second.first, second.end - 1].iter().chain(&second.chunks) {
        set_version(&mut disk, *number, 9);
    }
    let partition = partition::scan(&disk).unwrap();
    assert_eq!(partition.dumps.len(), 1);
    let other = partition.other_version.unwrap();
    assert_eq!((other.block, other.kind, other.found), (second.first, "a dump's front header", 9));
    let text = other.to_string();
    assert!(text.contains("format version 9") && text.contains("reads versions 3 to 4"), "{text}");
    assert_eq!(partition::waiting(&disk, None).unwrap(), (2, None));
}

#[test]
fn a_chunk_of_another_version_is_told_by_name() {
    let machine = Machine::small();
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, &machine);
    set_version(&mut disk, written.chunks[2], 9);
    let partition = partition::scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    assert!(dump.is_damaged());
    let report = Report::new(&dump);
    let named = |damage: &&savecore::dump::DamageReport| damage.block == written.chunks[2];
    let what = &report.damage.iter().find(named).unwrap().what;
    assert_eq!(what, "format version 9; this savecore reads versions 3 to 4");
}

/// Fills in a header's metrics.
fn with_metrics(header: &mut Header) {
    let metrics = &mut header.metrics;
    for (index, phase) in metrics.phases.iter_mut().enumerate() {
        *phase = (1_000_000 * (index as u64 + 1)).into();
    }
    metrics.passes[2].pages = 100.into();
    metrics.passes[2].bytes = 50_000_000.into();
    metrics.passes[2].time = 500_000_000.into();
    metrics.pages[0] = 60.into();
    metrics.pages[8] = 40.into();
    metrics.checked = 1234.into();
    metrics.packed_from = 8000.into();
    metrics.packed_to = 2000.into();
    metrics.units = 30.into();
    metrics.units_by_helpers = 20.into();
    metrics.units_redone = 1.into();
    metrics.units_stored = 2.into();
    metrics.helpers = 3.into();
    metrics.helpers_lost = 1.into();
    metrics.depth = 4.into();
    metrics.buffers = 8.into();
    metrics.target = 1.into();
    metrics.refusals = 1.into();
    metrics.refused[0].begun = 1.into();
    metrics.refused[0].why[..9].copy_from_slice(b"it\x1bstalls");
}

#[test]
fn the_numbers_of_a_dump_are_told_to_machines_and_people() {
    let machine = Machine::small();
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, &machine);
    let partition = partition::scan(&disk).unwrap();
    assert!(Report::new(&Dump::open(&disk, &partition, &partition.dumps[0])).metrics.is_none());
    let mut header = Header::parse(block(&disk, written.first), Kind::Front).unwrap().clone();
    with_metrics(&mut header);
    close(&mut disk, None, &header);
    let partition = partition::scan(&disk).unwrap();
    let report = Report::new(&Dump::open(&disk, &partition, &partition.dumps[0]));
    assert!(!report.damaged);
    let metrics = report.metrics.unwrap();
    assert_eq!(metrics.compression, Some(4.0));
    assert_eq!(metrics.passes[2].megabytes_per_second, Some(100.0));
    assert_eq!(metrics.passes[1].megabytes_per_second, None);
    assert_eq!((metrics.phases[0].name, metrics.phases[0].seconds), ("freeze", 0.001));
    assert_eq!(metrics.pages.iter().collect::<Vec<_>>(), [(&"data", &60), (&"free", &40)]);
    assert_eq!((metrics.refused.len(), metrics.refused[0].begun), (1, true));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, &disk).unwrap();
    let info = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_savecore")).arg("info").arg(&path).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = info(&[]);
    for part in [
        "freeze 0.001 s, code check 0.002 s",
        "kernel data: 100 pages (400 KiB), 47.7 MiB written in 0.500 s (100 MB/s)",
        "4.00 to 1; 2 units did not shrink",
        "3 other CPUs did 20 of 30 units of work; 1 did not finish, 1 unit was done again",
        "target 2, at most 4 of 8 buffers in flight, 1234 blocks of pattern checked",
        "target 1: it\\u{1b}stalls (a dump was begun there)",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&info(&["--json"])).unwrap();
    assert_eq!(json["dumps"][0]["metrics"]["units"], 30);
}
