//! Disks whose partition table can be misread: savecore writes where the kernel has the partition, or it
//! asks.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Place, fails, run, savecore};
use crate::common::{Machine, partition as formatted, write_dump};
use crate::tables::{Entry, LINUX, PROTECTIVE, Part, put_dos, put_entry, put_guid};

const MIB: usize = 1 << 20;

/// A DOS table's entry for a partition, in MiB.
fn entry(first: usize, count: usize, sector: usize) -> Entry {
    Entry { kind: LINUX, first: (first * MIB / sector) as u32, count: (count * MIB / sector) as u32 }
}

/// A disk that had a GUID table, whose partition 2 was at 8 MiB, and got a DOS table, whose partition 2 is at
/// 10 MiB. Partition 1 is full of data.
fn with_stale_table() -> Vec<u8> {
    let mut disk = vec![0; 16 * MIB];
    let sectors = |mib: usize| (mib * MIB / 512) as u64;
    let part = |name, first, end| Part { name, first: sectors(first), last: sectors(end) - 1 };
    put_guid(&mut disk, 512, &[part("data", 1, 8), part("dump", 8, 15)]);
    put_dos(&mut disk, &[entry(1, 9, 512), entry(10, 5, 512)]);
    disk[MIB..10 * MIB].fill(0x5a);
    disk
}

/// A disk with a DOS table that counts in sectors of 4096 bytes: partition 2 is at 8 MiB. In sectors of 512
/// it would be at 1 MiB.
fn with_large_sectors() -> Vec<u8> {
    let mut disk = vec![0; 16 * MIB];
    put_dos(&mut disk, &[entry(1, 7, 4096), entry(8, 7, 4096)]);
    disk[MIB / 8..8 * MIB].fill(0x5a);
    disk
}

/// Checks that only the MiB from `first` to `end` have changed, and that they begin with a label.
fn is_formatted_at(path: &str, before: &[u8], first: usize, end: usize) {
    let after = fs::read(path).unwrap();
    assert!(after[..first * MIB] == before[..first * MIB] && after[end * MIB..] == before[end * MIB..]);
    assert!(after[first * MIB..].starts_with(b"DISKDMPL"));
}

#[test]
fn format_asks_which_table_of_an_image_counts_and_others_take_the_one_that_linux_takes() {
    let place = Place::new();
    let mut disk = with_stale_table();
    let image = place.image("disk", &disk);
    for arguments in [&["--partition", "2"][..], &["--partition", "dump"]] {
        let all = ["format", "--yes", image.as_str()].into_iter().chain(arguments.iter().copied());
        fails(all, "say which with --table dos or --table gpt");
        assert!(fs::read(&image).unwrap() == disk);
    }
    fails(
        ["format", "--yes", &image],
        "is a disk with partitions: say which with --partition; there are: 1, 2",
    );
    assert_eq!(run(["format", "--yes", "--partition", "2", "--table", "dos", &image]).0, 0);
    is_formatted_at(&image, &disk, 10, 15);
    // It is found without a warning; naming a partition adds one about the other table.
    let (code, _, stderr) = run(["check", &image]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (code, stdout, stderr) = run(["check", &image, "--partition", "2"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("there is a GUID table too, which is ignored"), "{stderr}");

    let image = place.image("disk", &disk);
    assert_eq!(run(["format", "--yes", "--partition", "dump", "--table", "gpt", &image]).0, 0);
    is_formatted_at(&image, &disk, 8, 15);

    // If both tables agree on a partition, there is nothing to ask.
    put_entry(&mut disk, 0, 1, entry(8, 7, 512));
    put_entry(&mut disk, 0, 0, entry(1, 5, 512));
    let image = place.image("disk", &disk);
    assert_eq!(run(["format", "--yes", "--partition", "2", &image]).0, 0);
    is_formatted_at(&image, &disk, 8, 15);
}

#[test]
fn a_guid_table_that_nothing_protects_is_none_until_somebody_says_so() {
    let place = Place::new();
    let mut disk = with_stale_table();
    disk[..512].fill(0);
    let image = place.image("disk", &disk);
    for arguments in
        [&["format", "--yes"][..], &["format", "--yes", "--partition", "2"], &["check", "--partition", "2"]]
    {
        fails(arguments.iter().copied().chain([image.as_str()]), "add --table gpt to use it");
        assert!(fs::read(&image).unwrap() == disk);
    }
    assert_eq!(run(["format", "--yes", "--partition", "2", "--table", "gpt", &image]).0, 0);
    is_formatted_at(&image, &disk, 8, 15);
}

#[test]
fn an_image_whose_table_makes_sense_in_sectors_of_both_sizes_is_not_guessed_at() {
    let place = Place::new();
    let disk = with_large_sectors();
    let image = place.image("disk", &disk);
    let ask = "say which with --sector-size 512 or --sector-size 4096";
    for command in [&["format", "--yes"][..], &["check"], &["clear", "--yes"], &["info"]] {
        fails(command.iter().copied().chain(["--partition", "2", image.as_str()]), ask);
        assert!(fs::read(&image).unwrap() == disk);
    }
    fails(["list", &image], ask);
    let large = ["--partition", "2", "--sector-size", "4096", image.as_str()];
    assert_eq!(run(["format", "--yes"].into_iter().chain(large)).0, 0);
    is_formatted_at(&image, &disk, 8, 15);
    for command in ["check", "info", "clear", "drill"] {
        let (code, stdout, stderr) = run([command].into_iter().chain(large));
        assert!(code < 2 || command == "drill", "{stdout}{stderr}");
        assert!(!stderr.contains(ask) && !stdout.contains(ask), "{stdout}{stderr}");
    }
    assert_eq!(run(["list", "--sector-size", "4096", &image]).0, 0);
    fails(["check", "--sector-size", "1000", &image], "disks have sectors of 512 or of 4096 bytes");
}

#[test]
fn the_guid_table_of_a_hybrid_counts_and_one_hears_that_numbers_differ() {
    for sector in [512, 4096] {
        let place = Place::new();
        let mut disk = with_stale_table();
        let sectors = |mib: usize| (mib * MIB / sector) as u64;
        put_guid(
            &mut disk,
            sector,
            &[
                Part { name: "data", first: sectors(1), last: sectors(8) - 1 },
                Part { name: "dump", first: sectors(8), last: sectors(15) - 1 },
            ],
        );
        put_dos(&mut disk, &[Entry { kind: PROTECTIVE, first: 1, count: 8 }, entry(1, 7, sector)]);
        disk[MIB..8 * MIB].fill(0x5a);
        let image = place.image("disk", &disk);
        let (code, _, stderr) = run(["format", "--yes", "--partition", "2", &image]);
        assert!(code == 0 && stderr.contains("partition 2 of the GUID table is used"), "{stderr}");
        is_formatted_at(&image, &disk, 8, 15);
        let (code, _, stderr) = run(["check", "--partition", "dump", &image]);
        assert_eq!((code, stderr.as_str()), (0, ""));
    }
}

/// A loop device over an image, with partitions as the kernel has them. Dropping it detaches the device.
struct Loop {
    device: String,
    partitions: Vec<usize>,
}

impl Loop {
    /// Returns `None`, with a line on standard error, where there are no loop devices.
    fn new(image: &str, sector: usize) -> Option<Loop> {
        let sector = sector.to_string();
        let output = Command::new("losetup").args(["-f", "--show", "-b", &sector, image]).output();
        let device = output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        if device.is_none() {
            eprintln!("left out: no loop device can be had here (losetup, as root)");
        }
        let device = device?;
        // Left over from the device's last user: the kernel keeps partitions that were added by hand until
        // they are removed by hand.
        let name = device.trim_start_matches("/dev/");
        for entry in fs::read_dir(format!("/sys/class/block/{name}/")).unwrap().flatten() {
            let left = entry.file_name().to_string_lossy().into_owned();
            if let Some(number) = left.strip_prefix(&format!("{name}p")) {
                let _ = Command::new("delpart").args([&device, number]).status();
            }
        }
        Some(Loop { device, partitions: Vec::new() })
    }

    /// Adds a partition to those that the kernel shows; `None` if it refuses.
    fn add(&mut self, number: usize, first: usize, count: usize) -> Option<String> {
        let sectors = |mib: usize| (mib * MIB / 512).to_string();
        let mut command = Command::new("addpart");
        command.args([&self.device, &number.to_string(), &sectors(first), &sectors(count)]);
        let node = format!("{}p{number}", self.device);
        let is_added = command.status().is_ok_and(|status| status.success());
        if !is_added || !Path::new(&node).exists() {
            eprintln!(
                "left out: the kernel shows no partitions of loop devices here (addpart, a node in /dev)"
            );
            return None;
        }
        self.partitions.push(number);
        Some(node)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for number in &self.partitions {
            let _ = Command::new("delpart").args([&self.device, &number.to_string()]).status();
        }
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

#[test]
fn a_partition_of_a_device_is_the_one_that_the_kernel_shows() {
    for (disk, sector, first, end) in [(with_stale_table(), 512, 10, 15), (with_large_sectors(), 4096, 8, 15)]
    {
        let place = Place::new();
        let image = place.image("disk", &disk);
        let Some(mut device) = Loop::new(&image, sector) else { return };
        let names = [(1, 1, first - 1), (2, first, end - first)];
        for (number, first, count) in names {
            if device.add(number, first, count).is_none() {
                return;
            }
        }
        let disk_itself = device.device.clone();
        fails(
            ["format", "--yes", &disk_itself],
            "is a disk with partitions: say which with --partition; there are: 1, 2",
        );
        for (option, value) in
            [("--sector-size", if sector == 512 { "4096" } else { "512" }), ("--table", "gpt")]
        {
            fails(["format", "--yes", "--partition", "2", option, value, &disk_itself], "leave out --");
        }
        assert_eq!(run(["format", "--yes", "--machine", "none", "--partition", "2", &disk_itself]).0, 0);
        drop(device);
        is_formatted_at(&image, &disk, first, end);
    }
}

#[test]
fn a_partition_that_the_kernel_has_elsewhere_or_not_at_all_is_refused() {
    let place = Place::new();
    let mut disk = with_stale_table();
    let image = place.image("disk", &disk);
    let Some(mut device) = Loop::new(&image, 512) else { return };
    // The kernel still has the old table's partitions.
    for (number, first, count) in [(1, 1, 7), (2, 8, 7)] {
        if device.add(number, first, count).is_none() {
            return;
        }
    }
    let name = device.device.clone();
    fails(["format", "--yes", "--partition", "2", &name], "for the kernel: `partprobe");
    fails(["format", "--yes", "--partition", "1", &name], "for the kernel: `partprobe");
    assert_eq!(run(["format", "--yes", "--machine", "none", &format!("{name}p2")]).0, 0);
    drop(device);
    is_formatted_at(&image, &disk, 8, 15);

    // One that only the kernel has, and one that only the table has.
    put_dos(&mut disk, &[entry(1, 7, 512), entry(10, 3, 512)]);
    let image = place.image("disk", &disk);
    let Some(mut device) = Loop::new(&image, 512) else { return };
    let Some(_) = device.add(1, 1, 7) else { return };
    let Some(_) = device.add(3, 13, 2) else { return };
    let name = device.device.clone();
    fails(["format", "--yes", "--partition", "2", &name], "but the kernel does not show it");
    assert_eq!(run(["format", "--yes", "--machine", "none", "--partition", "3", &name]).0, 0);
    drop(device);
    is_formatted_at(&image, &disk, 13, 15);
}

#[test]
fn a_device_of_which_the_kernel_shows_no_partitions_is_read_in_its_own_sectors() {
    for (disk, sector, first, end) in [(with_stale_table(), 512, 10, 15), (with_large_sectors(), 4096, 8, 15)]
    {
        let place = Place::new();
        let image = place.image("disk", &disk);
        let Some(device) = Loop::new(&image, sector) else { return };
        assert_eq!(run(["format", "--yes", "--machine", "none", "--partition", "2", &device.device]).0, 0);
        assert_eq!(run(["check", &device.device]).0, 0);
        drop(device);
        is_formatted_at(&image, &disk, first, end);
    }
}

/// Runs the command at a terminal, calls `meanwhile` when it asks, and says yes. Returns its exit code and
/// what it printed.
fn says_yes(arguments: &[&str], meanwhile: impl FnOnce()) -> (i32, String) {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap();
    let open = || File::from(rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
    let mut command = savecore(arguments);
    let mut child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
    drop(command);
    let mut main = File::from(main);
    let (mut screen, mut piece) = (Vec::new(), [0; 4096]);
    let mut meanwhile = Some(meanwhile);
    // Reading fails once no process has the other side open any more.
    while let Ok(length @ 1..) = main.read(&mut piece) {
        screen.extend(&piece[..length]);
        if screen.ends_with(b"[y/N] ")
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile();
            main.write_all(b"y\n").unwrap();
        }
    }
    assert!(meanwhile.is_none(), "nobody was asked");
    (child.wait().unwrap().code().unwrap(), String::from_utf8_lossy(&screen).into_owned())
}

#[test]
fn what_came_to_a_partition_while_somebody_was_asked_is_not_overwritten() {
    let place = Place::new();
    let mut disk = vec![0; 40 * 4096];
    let image = place.image("disk", &disk);
    disk[4096..8192].fill(0x5a);
    let (code, text) = says_yes(&["format", &image], || {
        let file = File::options().write(true).open(&image).unwrap();
        file.write_all_at(&disk[4096..8192], 4096).unwrap();
    });
    assert!(code == 2 && text.contains("has changed since you were asked"), "{code} {text}");
    assert!(fs::read(&image).unwrap() == disk);
    let (code, text) = says_yes(&["format", &image], || ());
    assert_eq!(code, 0, "{text}");
    assert!(fs::read(&image).unwrap().starts_with(b"DISKDMPL"));
}

#[test]
fn a_dump_that_is_replaced_while_somebody_was_asked_is_not_thrown_away() {
    let place = Place::new();
    let mut disk = formatted(200);
    let (mut first, mut second) = (Machine::small(), Machine::small());
    (first.nonce, second.nonce) = (1, 2);
    let mut other = disk.clone();
    write_dump(&mut disk, 1, &first);
    write_dump(&mut other, 1, &second);
    let image = place.image("disk", &disk);
    let (code, text) = says_yes(&["clear", &image], || {
        File::options().write(true).open(&image).unwrap().write_all_at(&other, 0).unwrap();
    });
    assert!(code == 2 && text.contains("no longer holds the front of the dump"), "{code} {text}");
    assert!(fs::read(&image).unwrap() == other);
}
