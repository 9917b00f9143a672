//! Dump partitions that are found: `savecore list`, and disks of which no partition is named.

use super::*;
use crate::sources::dos_disk;

fn put(disk: &mut [u8], sector: usize, bytes: &[u8]) {
    disk[sector * 512..][..bytes.len()].copy_from_slice(bytes);
}

#[test]
fn list_says_of_each_dump_partition_what_a_quick_look_tells() {
    let place = Place::new();
    let mut damaged = formatted(50);
    block_mut(&mut damaged, 49).fill(7);
    let mut disk = dos_disk();
    put(&mut disk, 64, &formatted(20));
    let images = [
        place.image("armed", &formatted(60)),
        place.image("waiting", &with_dump(&Machine::small())),
        place.image("damaged", &damaged),
        place.image("disk", &disk),
        place.image("foreign", &vec![7; 100_000]),
        place.image("small", b"few bytes"),
    ];
    let mut arguments = vec!["list"];
    arguments.extend(images.iter().map(String::as_str));
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    for part in [
        format!("{}: armed\n  \"test\", 240 KiB, 60 blocks, uuid {}\n", images[0], uuid_text()),
        format!("{}: 1 dump waits\n", images[1]),
        format!("{}: damaged: block 49 holds foreign data\n", images[2]),
        format!("{}, partition 1: armed\n", images[3]),
    ] {
        assert!(stdout.contains(&part), "{stdout} should contain {part}");
    }
    assert_eq!(stdout.lines().count(), 8, "{stdout}");
    assert!(stderr.contains(&format!("{} has the uuid of {}", images[1], images[0])), "{stderr}");
    arguments.push("--json");
    let result = json(&run(&arguments).1);
    let states: Vec<_> = result["partitions"].as_array().unwrap().iter().map(|at| &at["state"]).collect();
    assert_eq!(states, ["armed", "waiting", "damaged", "armed"]);
    assert_eq!(result["partitions"][3]["partition"], "1");
    assert_eq!(result["partitions"][1]["waiting"], 1);

    let (code, stdout, stderr) = run(["list", &images[4]]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("no dump partition found"), "{stderr}");
    fails(["list", "/nonexistent"], "cannot open /nonexistent");
    fails(["list", "/dev/null"], "neither a file nor a block device");
}

#[test]
fn a_hostile_label_cannot_play_with_the_terminal() {
    let place = Place::new();
    let mut disk = formatted(20);
    let mut label = dumpcore::format::label::Label::parse(crate::common::block(&disk, 0)).unwrap().clone();
    label.name[..12].copy_from_slice(b"a\x1b[31m\n\x07\x9b\"b\xff");
    label.to_block(block_mut(&mut disk, 0));
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["list", &image]);
    assert_eq!((code, stdout.lines().count()), (0, 2), "{stdout:?}");
    assert!(stdout.chars().all(|character| character == '\n' || !character.is_control()), "{stdout:?}");
}

#[test]
fn list_without_targets_looks_at_this_machines_devices_and_harms_none() {
    // What it finds depends on the machine; that it says so in whole lines does not.
    let (code, stdout, _) = run(["list", "--json"]);
    assert!(code < 2 && json(&stdout)["partitions"].is_array(), "{stdout}");
}

#[test]
fn the_only_dump_partition_of_a_dos_disk_is_checked_and_saved_without_being_named() {
    let place = Place::new();
    let mut disk = dos_disk();
    let before = disk.clone();
    let mut slot = formatted(20);
    write_dump(&mut slot, 1, &Machine { log: String::new(), ..Machine::new() });
    put(&mut disk, 1240, &slot);
    let image = place.image("disk", &disk);
    assert_eq!(run(["info", &image]).0, 0);
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("cleared on {image}, partition 6")), "{stdout}");
    let mut expected = before;
    put(&mut expected, 1240, &formatted(20));
    assert!(fs::read(&image).unwrap() == expected, "a byte outside of the partition was changed");
    fails(["format", &image, "--yes"], "say which with --partition; there are: 1, 3, 5, 6");
    assert_eq!(run(["format", &image, "--partition", "5f0e8a3c-06", "--yes"]).0, 0);
    assert_eq!(run(["check", &image]).0, 0);
}
