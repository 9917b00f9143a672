//! Where dumps come from: partition tables, devices found by their labels, locks, and targets that become
//! writable later.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dumpcore::format::BLOCK_SIZE;
use proptest::prelude::*;
use savecore::Error;
use savecore::partition;
use savecore::source::{Access, Roots, Source, Target, discover_at, discover_in, find_partition};

use crate::common::{Machine, block_mut, partition as formatted, write_dump};

const SECTOR: usize = 512;

/// Writes an entry of a DOS table into the table's sector.
fn put_entry(disk: &mut [u8], table: u64, slot: usize, kind: u8, first: u64, sectors: u64) {
    let sector = &mut disk[table as usize * SECTOR..][..SECTOR];
    let entry = &mut sector[446 + 16 * slot..][..16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&(first as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(sectors as u32).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
}

fn put(disk: &mut [u8], sector: u64, bytes: &[u8]) {
    disk[sector as usize * SECTOR..][..bytes.len()].copy_from_slice(bytes);
}

const LINUX: u8 = 0x83;
const EXTENDED: u8 = 0x0f;

/// A DOS disk: primary partitions 1 and 3, and an extended partition with logical ones 5 and 6, whose tables
/// are laid out as every tool does. They begin at these sectors: 1 at 64, 3 at 256, 5 at 1032, 6 at 1240.
pub(crate) fn dos_disk() -> Vec<u8> {
    let mut disk = vec![0xa5; 2048 * SECTOR];
    disk[..SECTOR].fill(0);
    disk[440..444].copy_from_slice(&0x5f0e_8a3c_u32.to_le_bytes());
    put_entry(&mut disk, 0, 0, LINUX, 64, 160);
    put_entry(&mut disk, 0, 1, EXTENDED, 1024, 1000);
    put_entry(&mut disk, 0, 2, LINUX, 256, 160);
    for table in [1024, 1232] {
        put(&mut disk, table, &[0; SECTOR]);
    }
    put_entry(&mut disk, 1024, 0, LINUX, 8, 160);
    put_entry(&mut disk, 1024, 1, 0x05, 208, 200);
    put_entry(&mut disk, 1232, 0, LINUX, 8, 160);
    disk
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn open(path: &Path, partition: Option<&str>) -> Result<Target, Error> {
    Target::open(path, partition, Access::Read)
}

/// The first byte on the disk of the partition that `wanted` names.
fn start(path: &Path, wanted: &str) -> Result<u64, Error> {
    find_partition(&File::open(path).unwrap(), "disk", wanted).map(|slot| slot.start)
}

#[test]
fn partitions_of_a_dos_table_have_the_numbers_and_identities_that_linux_gives_them() {
    let folder = Folder::new();
    let disk = folder.file("disk", &dos_disk());
    for (number, sector) in [(1, 64), (3, 256), (5, 1032), (6, 1240)] {
        let found = find_partition(&File::open(&disk).unwrap(), "disk", &number.to_string()).unwrap();
        assert_eq!((found.number, found.start, found.length), (number, sector * 512, 160 * 512));
        assert_eq!(found.id, format!("5f0e8a3c-{number:02x}"));
        assert_eq!(start(&disk, &found.id.to_uppercase()).unwrap(), sector * 512);
    }
    for wanted in ["2", "4", "7", "5f0e8a3c-02", "5f0e8a3c", ""] {
        let error = start(&disk, wanted).unwrap_err().to_string();
        assert!(error.contains("0 partitions called") && error.ends_with("1, 3, 5, 6"), "{error}");
    }
}

#[test]
fn a_disk_with_one_dump_partition_needs_no_partition_named_and_one_with_several_lists_them() {
    let folder = Folder::new();
    let mut disk = dos_disk();
    let path = folder.file("disk", &disk);
    let error = open(&path, None).unwrap_err().to_string();
    assert!(error.contains("is a disk with partitions") && error.ends_with("1, 3, 5, 6"), "{error}");

    put(&mut disk, 1240, &formatted(20));
    let path = folder.file("disk", &disk);
    for access in [Access::Read, Access::Harvest, Access::Write] {
        let target = Target::open(&path, None, access).unwrap();
        assert_eq!((target.name().ends_with(", partition 6"), target.blocks()), (true, 20));
        assert!(partition::read_label(&target).is_ok());
    }
    let error = Target::open(&path, None, Access::Format).unwrap_err();
    assert!(matches!(error, Error::WhichPartition { .. }), "{error}");

    put(&mut disk, 256, &formatted(20));
    let path = folder.file("disk", &disk);
    let error = open(&path, None).unwrap_err().to_string();
    assert!(error.contains("has several dump partitions") && error.ends_with(": 3, 6"), "{error}");
    let found: Vec<_> =
        discover_at(&path).unwrap().found.into_iter().map(|at| at.partition.unwrap()).collect();
    assert_eq!(found, ["3", "6"]);
}

#[test]
fn a_guid_table_counts_whatever_the_dos_table_in_front_of_it_says() {
    let folder = Folder::new();
    let path = folder.0.path().join("disk");
    crate::cli::disk_image(&path);
    // A hybrid: partition 3 of the GUID table is also the DOS table's first, after an entry that protects the
    // rest.
    let mut disk = fs::read(&path).unwrap();
    put_entry(&mut disk, 0, 0, 0xee, 1, 2599);
    put_entry(&mut disk, 0, 1, LINUX, 2600, 1000);
    let hybrid = folder.file("hybrid", &disk);
    assert_eq!(start(&hybrid, "dump").unwrap(), 1000 * 512);
    assert_eq!(start(&hybrid, "2").unwrap(), 1000 * 512);

    // Without the first header, the one at the end is used; without both, nothing is made up.
    put(&mut disk, 1, &[0; SECTOR]);
    let headless = folder.file("headless", &disk);
    assert_eq!(start(&headless, "dump").unwrap(), 1000 * 512);
    let last = disk.len() / SECTOR - 1;
    put(&mut disk, last as u64, &[0; SECTOR]);
    let error = start(&folder.file("gone", &disk), "2").unwrap_err().to_string();
    assert!(error.contains("protects a GUID table that does not exist"), "{error}");
}

#[test]
fn a_label_is_believed_before_what_looks_like_a_partition_table() {
    let folder = Folder::new();
    let mut disk = formatted(50);
    // After the label, where a GUID table for sectors of 4096 bytes would be.
    block_mut(&mut disk, 1)[..8].copy_from_slice(b"EFI PART");
    let target = open(&folder.file("partition", &disk), None).unwrap();
    assert_eq!(target.blocks(), 50);
}

#[test]
fn a_chain_of_logical_partitions_that_loops_or_never_ends_is_followed_only_so_far() {
    let folder = Folder::new();
    let mut looped = dos_disk();
    put_entry(&mut looped, 1232, 1, 0x05, 0, 200);
    let path = folder.file("loop", &looped);
    assert!(start(&path, "6").is_ok() && start(&path, "7").is_err());

    // A million tables, each pointing to the next.
    let long = folder.0.path().join("long");
    let file = File::create(&long).unwrap();
    let mut disk = dos_disk();
    put_entry(&mut disk, 0, 1, EXTENDED, 1024, u32::MAX.into());
    file.write_all_at(&disk, 0).unwrap();
    let mut tables = Vec::new();
    for number in 0..100_000_u64 {
        tables.resize(tables.len() + SECTOR, 0);
        put_entry(&mut tables, number, 0, LINUX, 1 << 20, 160);
        put_entry(&mut tables, number, 1, EXTENDED, number + 1, 1);
    }
    file.write_all_at(&tables, 1024 * SECTOR as u64).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = start(&long, "100000").unwrap_err().to_string();
    assert!(error.contains(", 255") && !error.contains(", 256"), "{error}");
}

#[test]
fn partitions_that_overlap_or_reach_beyond_the_end_are_refused_and_the_others_are_not() {
    let folder = Folder::new();
    let mut disk = dos_disk();
    put_entry(&mut disk, 0, 2, LINUX, 200, 160);
    put_entry(&mut disk, 1232, 0, LINUX, 8, 5000);
    for sector in [64, 200, 1032, 1240] {
        put(&mut disk, sector, &formatted(20));
    }
    let path = folder.file("disk", &disk);
    for (number, part) in
        [("1", "overlaps partition 3"), ("3", "overlaps partition 1"), ("6", "after the end")]
    {
        let error = start(&path, number).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(start(&path, "5").unwrap(), 1032 * 512);
    assert!(open(&path, None).unwrap().name().ends_with("partition 5"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a table says, a partition that can be opened lies inside the disk, begins at a block
    /// boundary, and overlaps no other.
    #[test]
    fn a_hostile_dos_table_gives_an_error_or_partitions_inside_the_disk(
        entries in prop::collection::vec(
            (prop::sample::select(vec![0_u64, 100, 101, 200, 300]), 0_usize..4,
             prop::sample::select(vec![LINUX, EXTENDED, 0x05, 0, 0xee]),
             prop_oneof![0_u64..700, Just(u64::from(u32::MAX)), Just(u64::from(u32::MAX) - 100)],
             prop_oneof![0_u64..700, Just(u64::from(u32::MAX))]),
            1..16,
        ),
        sectors in 302_u64..1000,
    ) {
        let mut disk = vec![0; sectors as usize * SECTOR];
        for (table, slot, kind, first, length) in entries {
            put_entry(&mut disk, table, slot, kind, first, length);
        }
        let folder = Folder::new();
        let path = folder.file("disk", &disk);
        let mut usable = Vec::new();
        // Five tables have room for at most 20 logical partitions.
        for number in 1..30_u32 {
            let Ok(slot) = find_partition(&File::open(&path).unwrap(), "disk", &number.to_string()) else { continue };
            prop_assert!(slot.start + slot.length <= sectors * 512);
            prop_assert_eq!(slot.start % 4096, 0);
            usable.push(slot.start..slot.start + slot.length);
        }
        for (index, one) in usable.iter().enumerate() {
            for other in &usable[index + 1..] {
                prop_assert!(one.end <= other.start || other.end <= one.start);
            }
        }
    }
}

/// A system with devices of its own: sysfs as Linux lays it out, and files for the nodes.
struct System {
    folder: Folder,
    roots: Roots,
}

impl System {
    fn new() -> System {
        let folder = Folder::new();
        let roots = Roots {
            sys: folder.0.path().join("sys"),
            dev: folder.0.path().join("dev"),
            is_node: |metadata, _| metadata.is_file(),
        };
        fs::create_dir_all(roots.sys.join("class/block")).unwrap();
        fs::create_dir_all(&roots.dev).unwrap();
        System { folder, roots }
    }

    /// Adds a device as the folder `place` of sysfs; a partition's folder is inside its disk's.
    fn device(&self, place: &str, number: (u32, u32), bytes: &[u8]) {
        let name = place.rsplit('/').next().unwrap();
        let at = |file: &str| format!("sys/devices/{place}/{file}");
        let node = name.replace('!', "/");
        let uevent = format!("MAJOR={}\nMINOR={}\nDEVNAME={node}\nDEVTYPE=disk\n", number.0, number.1);
        self.folder.file(&at("uevent"), uevent.as_bytes());
        self.folder.file(&at("size"), format!("{}\n", bytes.len() / 512).as_bytes());
        if place.contains('/') {
            let number = name.trim_start_matches(|character: char| !character.is_ascii_digit());
            self.folder.file(&at("partition"), format!("{number}\n").as_bytes());
        }
        self.folder.file(&format!("dev/{node}"), bytes);
        let link = self.roots.sys.join("class/block").join(name);
        std::os::unix::fs::symlink(self.roots.sys.join("devices").join(place), link).unwrap();
    }
}

#[test]
fn every_partition_and_disk_with_a_label_is_found_and_nothing_else() {
    let system = System::new();
    let mut with_label = dos_disk();
    put(&mut with_label, 1032, &formatted(20));
    let mut other_version = formatted(30);
    other_version[8..12].copy_from_slice(&1_u32.to_le_bytes());
    dumpcore::format::frame::set_checksum(block_mut(&mut other_version, 0));
    system.device("sda", (8, 0), &with_label);
    system.device("sda/sda10", (8, 10), &formatted(30));
    system.device("sda/sda2", (8, 2), &formatted(40));
    system.device("sda/sda3", (8, 3), &vec![0; 50 * BLOCK_SIZE]);
    system.device("cciss!c0d0", (104, 0), &formatted(60));
    // The kernel shows no partitions of this one.
    system.device("loop0", (7, 0), &with_label);
    system.device("loop1", (7, 1), b"");
    system.device("fd0", (2, 0), &formatted(60));
    system.device("sdb", (8, 16), &other_version);
    // This one is part of another device.
    system.device("sdc", (8, 32), &formatted(60));
    system.folder.file("sys/devices/sdc/holders/dm-0", b"");
    // sdd has no device node, and sde disappears halfway.
    system.device("sdd", (8, 48), &formatted(60));
    fs::remove_file(system.roots.dev.join("sdd")).unwrap();
    system.device("sde", (8, 64), &formatted(60));
    fs::remove_file(system.roots.sys.join("devices/sde/uevent")).unwrap();

    let discovery = discover_in(&system.roots).unwrap();
    let found: Vec<_> = discovery
        .found
        .iter()
        .map(|at| {
            let path = at.path.strip_prefix(&system.roots.dev).unwrap();
            (path.to_str().unwrap(), at.partition.as_deref(), at.blocks)
        })
        .collect();
    let expected =
        [("cciss/c0d0", None, 60), ("loop0", Some("5"), 20), ("sda2", None, 40), ("sda10", None, 30)];
    assert_eq!(found, expected);
    assert!(discovery.found.iter().all(|at| at.name == "test" && at.uuid.as_bytes() == &crate::common::UUID));
    assert_eq!(discovery.twins(), [(0, 1), (0, 2), (0, 3)]);
    assert_eq!(discovery.other_versions, [(system.roots.dev.join("sdb"), 1)]);
    let unreadable: Vec<_> = discovery.unreadable.iter().map(|(path, error)| (path, error.kind())).collect();
    assert_eq!(unreadable, [(&system.roots.dev.join("sdd"), std::io::ErrorKind::NotFound)]);
}

#[test]
fn a_system_without_sysfs_is_an_error_and_not_an_empty_list() {
    let system = System::new();
    fs::remove_dir_all(&system.roots.sys).unwrap();
    assert!(discover_in(&system.roots).is_err());
}

#[test]
fn a_target_is_read_until_something_is_written_and_then_it_must_be_the_same_one() {
    let folder = Folder::new();
    let mut disk = formatted(50);
    write_dump(&mut disk, 1, &Machine::new());
    let path = folder.file("partition", &disk);
    let mut target = Target::open(&path, None, Access::Harvest).unwrap();
    assert!(target.write(1, &[[0; BLOCK_SIZE]]).is_err());
    assert!(fs::read(&path).unwrap() == disk);
    target.make_writable().unwrap();
    target.make_writable().unwrap();
    target.write(1, &[[7; BLOCK_SIZE]]).unwrap();
    // The lock is the one from the beginning.
    assert!(matches!(open(&path, None), Err(Error::Locked { .. })));
    drop(target);
    assert_eq!(fs::read(&path).unwrap()[BLOCK_SIZE], 7);

    // Another file under the same name; then the same file with another label.
    let mut target = Target::open(&path, None, Access::Harvest).unwrap();
    fs::rename(&path, folder.0.path().join("elsewhere")).unwrap();
    fs::write(&path, &disk).unwrap();
    assert!(matches!(target.make_writable(), Err(Error::Changed { .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(target.make_writable(), Err(Error::ReadOnly { .. })));
    assert!(target.write(1, &[[0; BLOCK_SIZE]]).is_err());

    // A target opened for reading stays read-only.
    let path = folder.file("partition", &disk);
    let mut target = open(&path, None).unwrap();
    assert!(matches!(target.make_writable(), Err(Error::ReadOnly { .. })));
    assert!(target.write(1, &[[0; BLOCK_SIZE]]).is_err());
    assert!(fs::read(&path).unwrap() == disk);
}

#[test]
fn whoever_finds_a_target_locked_is_told_by_whom() {
    let folder = Folder::new();
    let path = folder.file("partition", &formatted(50));
    let held = Target::open(&path, None, Access::Harvest).unwrap();
    let error = open(&path, None).unwrap_err().to_string();
    let holder =
        format!("another savecore is working on {}, process {} (", path.display(), std::process::id());
    assert!(error.starts_with(&holder), "{error}");
    assert!(error.contains(", running for ") && error.ends_with(": try again when it is done"), "{error}");
    drop(held);
    let held = open(&path, None).unwrap();
    assert!(open(&path, None).is_ok(), "two may read");
    assert!(matches!(Target::open(&path, None, Access::Harvest), Err(Error::Locked { holder: Some(_), .. })));
    drop(held);
    assert!(Target::open(&path, None, Access::Harvest).is_ok());
}
