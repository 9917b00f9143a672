//! Who owns a disk: every command leaves a disk alone if it is not this machine's and nobody named it; and a
//! mark that a dump was saved is believed only if this machine made it.

use std::fs;

use dumpcore::format::header::{Header, Status};
use dumpcore::format::label::Label;
use dumpcore::format::{Uuid, frame};
use savecore::ownership::Machine as Owner;
use savecore::partition::{self, mark_saved};
use serde_json::Value;

use super::{Place, fails, json, run, with_dump};
use crate::common::{Machine, UUID, block, block_mut, partition as formatted, unwrite};
use crate::linux::{Linux, MACHINE};

/// A machine-id that is not this machine's.
const OTHER: &str = "ffeeddccbbaa99887766554433221100";

fn id(text: &str) -> Option<Uuid> {
    Owner::from_text(text).map(|machine| machine.id)
}

/// A partition with a dump; its label names `machine`.
fn of(machine: Option<Uuid>, nonce: u64) -> Vec<u8> {
    let mut disk = with_dump(&Machine { nonce, ..Machine::small() });
    name(&mut disk, machine, "test");
    disk
}

fn name(disk: &mut [u8], machine: Option<Uuid>, name: &str) {
    let mut label = Label::parse(block(disk, 0)).unwrap().clone();
    label.machine = machine.unwrap_or_default();
    dumpcore::format::header::put_text(&mut label.name, name);
    label.to_block(block_mut(disk, 0));
}

/// Places where disks of other machines show up. Each has a dump; its label may name this machine all the
/// same.
const FOREIGN: [(&str, &str, Option<&str>); 13] = [
    ("pci0/sdb", "another machine's", Some(OTHER)),
    ("pci0/sdc", "nobody's", None),
    ("virtual/block/dm-0", "a device-mapper device", Some(MACHINE)),
    ("virtual/block/loop0", "a loop device", Some(MACHINE)),
    ("virtual/block/zd16", "a ZFS volume", Some(MACHINE)),
    ("virtual/block/nbd3", "a network disk", Some(MACHINE)),
    ("rbd/0/block/rbd0", "a network disk", Some(MACHINE)),
    ("virtual/block/drbd1", "a network disk", Some(MACHINE)),
    ("virtual/block/md127", "a RAID device", Some(MACHINE)),
    ("virtual/block/bcache0", "a device made of others", Some(MACHINE)),
    ("mmc0/mmcblk0boot0", "a boot partition of an eMMC", Some(MACHINE)),
    ("pci0/usb1/1-1/host0/sdx", "removable", Some(MACHINE)),
    ("pci0/host1/sdy", "removable", Some(MACHINE)),
];

/// A machine with one dump partition of its own, and all of [`FOREIGN`].
fn host(place: &Place) -> Linux {
    let linux = Linux::new(&place.path("linux"));
    linux.device("pci0/vda", (254, 0), &vec![0; 1 << 20]);
    linux.partition("pci0/vda/vda1", (254, 1), 4096, &of(id(MACHINE), 1));
    for (minor, (at, _, machine)) in (1..).zip(FOREIGN) {
        linux.device(at, (200, minor), &of(machine.and_then(id), u64::from(minor) + 1));
    }
    linux.file("sys/devices/pci0/host1/sdy/removable", "1\n");
    // A partition of a removable disk counts as removable, too.
    linux.device("pci0/sdz", (201, 0), &vec![0; 1 << 20]);
    linux.file("sys/devices/pci0/sdz/removable", "1\n");
    linux.partition("pci0/sdz/sdz1", (201, 1), 4096, &of(id(MACHINE), 99));
    fs::create_dir(place.path("out")).unwrap();
    linux
}

/// The contents of all devices except the machine's own partition.
fn others(linux: &Linux) -> Vec<Vec<u8>> {
    let names = FOREIGN.map(|(at, _, _)| at.rsplit('/').next().unwrap());
    names.iter().chain(&["sdz1"]).map(|name| fs::read(linux.path(&format!("dev/{name}"))).unwrap()).collect()
}

#[test]
fn what_is_not_this_machines_own_is_left_alone_unless_it_is_named() {
    for command in ["boot", "save"] {
        let place = Place::new();
        let linux = host(&place);
        let before = others(&linux);
        let root = place.text("linux");
        let config = place.text("savecore.toml");
        fs::write(&config, format!("store = {:?}\nmin_free = \"1KiB\"\n", place.out())).unwrap();
        let store = place.out();
        let arguments = match command {
            "boot" => vec!["boot", "--config", &config, "--system", &root],
            _ => vec!["save", "-o", &store, "--min-free", "0", "--system", &root],
        };
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert_eq!(place.crashes("out").len(), 1, "{stdout}{stderr}");
        let mut free = formatted(200);
        name(&mut free, id(MACHINE), "test");
        assert!(fs::read(linux.path("dev/vda1")).unwrap() == free, "{command}: its own is freed");
        assert!(others(&linux) == before, "{command}: a disk of somebody else was changed");
        if command == "boot" {
            let lines: Vec<&str> = stdout.lines().filter(|line| line.contains("left alone")).collect();
            assert_eq!(lines.len(), 1, "one line however many there are: {stdout}");
            assert!(lines[0].contains("11 more; `savecore adopt`"), "{stdout}");
        }
        // The next run has nothing to do, and exits accordingly.
        let (code, stdout, _) = run(&arguments);
        assert_eq!(code, i32::from(command == "save"), "{stdout}");
        assert_eq!(place.crashes("out").len(), 1);
    }
}

#[test]
fn the_list_says_of_each_partition_whose_it_is() {
    let place = Place::new();
    let linux = host(&place);
    let (code, stdout, _) = run(["list", "--json", "--system", &place.text("linux")]);
    assert_eq!(code, 0);
    let listed = json(&stdout);
    let entry = |name: &str| {
        let all = listed["partitions"].as_array().unwrap();
        all.iter()
            .find(|entry| entry["path"].as_str().unwrap().ends_with(&format!("/dev/{name}")))
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&entry("vda1")["owner"], &entry("vda1")["left_alone"]),
        (&Value::from("this-machine"), &Value::Null)
    );
    for (at, why, machine) in FOREIGN {
        let entry = entry(at.rsplit('/').next().unwrap());
        let owner = match machine {
            Some(MACHINE) => "this-machine",
            Some(_) => "another-machine",
            None => "nobody",
        };
        assert_eq!((&entry["owner"], &entry["left_alone"]), (&Value::from(owner), &Value::from(why)), "{at}");
    }
    let (_, stdout, _) = run(["list", "--system", &place.text("linux")]);
    for line in [
        "[UUID], this machine's\n",
        "[UUID], another machine's\n",
        "[UUID], nobody's\n",
        "this machine's, but removable",
    ] {
        let line = line.replace("[UUID]", &uuid::Uuid::from_bytes(UUID).to_string());
        assert!(stdout.contains(&line), "{line}: {stdout}");
    }
    // Partitions on the list are its own.
    linux.owns(uuid::Uuid::from_bytes(UUID));
    let (_, stdout, _) = run(["list", "--system", &place.text("linux")]);
    assert!(!stdout.contains("nobody's"), "{stdout}");
}

#[test]
fn another_machines_dump_is_saved_if_it_is_named_and_freed_only_if_that_is_said() {
    let place = Place::new();
    place.machine();
    let system = place.text("system");
    let disk = of(id(OTHER), 7);
    let image = place.image("image", &disk);
    let save = |more: &[&str]| {
        run([&["save", &image, "-o", &place.out(), "--min-free", "0", "--system", &system], more].concat())
    };
    let (code, stdout, _) = save(&[]);
    assert_eq!(code, 0);
    assert!(stdout.contains("not cleared on") && stdout.contains("it is another machine's"), "{stdout}");
    assert!(fs::read(&image).unwrap() == disk);
    // The folder is named after the partition, not after the machine that saved it.
    let folder = place.crashes("out").remove(0);
    let called = |folder: &std::path::Path| folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(called(&folder).starts_with("test-2026"), "{}", folder.display());

    for command in [["clear", "--yes"], ["format", "--yes"]] {
        fails(
            [command[0], &image, command[1], "--force", "--system", &system][..]
                .iter()
                .filter(|word| command[0] == "format" || **word != "--force"),
            "is another machine's dump partition: add --foreign",
        );
        assert!(fs::read(&image).unwrap() == disk);
    }
    let (code, stdout, _) = save(&["--foreign"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("already saved in") && stdout.contains("cleared on"), "{stdout}");
    let mut free = formatted(200);
    name(&mut free, id(OTHER), "test");
    assert!(fs::read(&image).unwrap() == free);

    // A partition without a name is called by its uuid; --host overrides both.
    let mut nameless = of(id(OTHER), 8);
    name(&mut nameless, id(OTHER), "");
    place.image("image", &nameless);
    assert_eq!(save(&["--keep"]).0, 0);
    assert_eq!(save(&["--keep", "--host", "rack-9"]).0, 0);
    let names: Vec<String> = place.crashes("out").iter().map(|folder| called(folder)).collect();
    assert!(names.iter().any(|name| name.starts_with("unknown-30313233-2026")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("rack-9-2026")), "{names:?}");
}

#[test]
fn adopting_changes_the_label_alone_and_then_the_dump_is_saved_at_boot() {
    for (device, machine) in [("pci0/sdb", Some(OTHER)), ("pci0/sdc", None)] {
        let place = Place::new();
        let linux = host(&place);
        let root = place.text("linux");
        let node = linux.path(&format!("dev/{}", device.rsplit('/').next().unwrap()));
        let node = node.to_str().unwrap();
        let before = fs::read(node).unwrap();
        fails(["adopt", node, "--system", &root], "there is no terminal to ask on: add --yes");
        assert!(fs::read(node).unwrap() == before);
        let (code, stdout, stderr) = run(["adopt", node, "--yes", "--system", &root]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains("is this machine's now; 1 dump waits"), "{stdout}");
        let after = fs::read(node).unwrap();
        let changed: Vec<usize> = (0..after.len()).filter(|at| after[*at] != before[*at]).collect();
        assert!(changed.iter().all(|at| (152..168).contains(at) || (4092..4096).contains(at)), "{changed:?}");
        assert_eq!(Label::parse(block(&after, 0)).unwrap().machine(), id(MACHINE).as_ref());
        assert_ne!(machine.and_then(id), id(MACHINE));
        // Adopting it again does no harm.
        assert_eq!(run(["adopt", node, "--system", &root]).0, 0);
        assert!(fs::read(node).unwrap() == after);
        // The machine's own partition has the same uuid in this test, so it is wiped.
        fs::write(linux.path("dev/vda1"), vec![0; 200 * 4096]).unwrap();
        let (code, stdout, _) = run(["save", "-o", &place.out(), "--min-free", "0", "--system", &root]);
        assert_eq!((code, place.crashes("out").len()), (0, 1), "{stdout}");
    }
    // A damaged label cannot be adopted.
    let place = Place::new();
    place.machine();
    let mut disk = of(None, 3);
    disk[30] ^= 1;
    let image = place.image("image", &disk);
    fails(["adopt", &image, "--yes", "--system", &place.text("system")], "it is not a dump partition");
    assert!(fs::read(&image).unwrap() == disk);
}

#[test]
fn a_device_is_formatted_for_this_machine_and_an_image_for_nobody() {
    let place = Place::new();
    let linux = Linux::new(&place.path("linux"));
    linux.device("pci0/vda", (254, 0), &vec![0; 200 * 4096]);
    let root = place.text("linux");
    let machine =
        |path: &std::path::Path| Label::parse(block(&fs::read(path).unwrap(), 0)).unwrap().machine().copied();
    let node = linux.path("dev/vda");
    let named = node.to_str().unwrap();
    assert_eq!(run(["format", named, "--yes", "--system", &root]).0, 0);
    assert_eq!(machine(&node), id(MACHINE));
    assert_eq!(linux.text("var/lib/savecore/partitions").lines().count(), 2);
    assert_eq!(run(["format", named, "--yes", "--machine", "none", "--system", &root]).0, 0);
    assert_eq!(machine(&node), None);
    assert_eq!(
        linux.text("var/lib/savecore/partitions").lines().count(),
        2,
        "the copies are others' business"
    );
    let image = place.image("image", &vec![0; 200 * 4096]);
    assert_eq!(run(["format", &image, "--yes", "--system", &root]).0, 0);
    assert_eq!(machine(&place.path("image")), None);
    assert_eq!(run(["format", &image, "--yes", "--machine", "this", "--system", &root]).0, 0);
    assert_eq!(machine(&place.path("image")), id(MACHINE));
    // Without a machine id, a label cannot name this machine; the list of its partitions still does.
    fs::remove_file(linux.path("etc/machine-id")).unwrap();
    fails(
        ["format", &image, "--yes", "--foreign", "--machine", "this", "--system", &root],
        "this machine has no id",
    );
    assert_eq!(run(["format", named, "--yes", "--system", &root]).0, 0);
    let (_, stdout, _) = run(["list", "--system", &root]);
    assert!(stdout.contains("this machine's"), "{stdout}");
}

#[test]
fn a_mark_that_a_dump_was_saved_is_believed_of_this_machine_alone() {
    let whole = with_dump(&Machine::small());
    let found = partition::scan(&whole).unwrap().dumps[0].clone();
    let other = Owner::from_text(OTHER).unwrap();
    let forged = |proof: [u8; 32]| {
        let mut disk = whole.clone();
        let mut header = Header::parse(block(&disk, 1), frame::Kind::Front).unwrap().clone();
        header.status = (Status::Saved as u32).into();
        header.proof = proof;
        header.to_block(frame::Kind::Front, block_mut(&mut disk, 1));
        disk
    };
    let mut theirs = whole.clone();
    mark_saved(&mut theirs, &found, Some(&other)).unwrap();
    for (what, disk) in
        [("no proof", forged([0; 32])), ("a made-up one", forged([7; 32])), ("another machine's", theirs)]
    {
        let place = Place::new();
        place.machine();
        let system = place.text("system");
        let image = place.image("image", &disk);
        // It counts as a waiting dump for every command that would overwrite it.
        fails(["format", &image, "--yes", "--system", &system], "that nobody has saved");
        fails(["clear", &image, "--system", &system], "that nobody has saved");
        let (code, stdout, _) =
            run(["save", &image, "-o", &place.out(), "--min-free", "0", "--system", &system]);
        assert_eq!(code, 0, "{what}");
        assert!(stdout.contains("dump 1 saved in") && stdout.contains("cleared on"), "{what}: {stdout}");
        assert_eq!(place.crashes("out").len(), 1, "{what}");
        assert!(fs::read(&image).unwrap() == formatted(200), "{what}");

        // If half of it is gone, the rest is saved, and nothing more is freed.
        let place = Place::new();
        place.machine();
        let mut half = disk.clone();
        (found.end - 10..found.end).for_each(|number| unwrite(&mut half, number));
        let image = place.image("image", &half);
        let (code, stdout, _) =
            run(["save", &image, "-o", &place.out(), "--min-free", "0", "--system", &system]);
        assert_eq!(code, 0, "{what}");
        assert!(stdout.contains("not cleared on") && stdout.contains("it is damaged"), "{what}: {stdout}");
        assert_eq!(place.crashes("out").len(), 1, "{what}");
        assert!(fs::read(&image).unwrap() == half, "{what}");
    }
}
