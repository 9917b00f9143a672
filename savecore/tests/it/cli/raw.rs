//! Raw copies of dumps that are not encrypted.

use dumpcore::format::class::PageClass;

use super::*;
use crate::common::stop_in_the_middle;

/// The core in a folder that has one.
fn core_in(place: &Place, directory: &str) -> Vec<u8> {
    let files = place.cores(directory);
    let cores: Vec<_> = files.iter().filter(|path| path.ends_with("vmcore.elf")).collect();
    assert_eq!(cores.len(), 1, "{files:?}");
    fs::read(cores[0]).unwrap()
}

fn save(place: &Place, target: &str, directory: &str, more: &[&str]) {
    fs::create_dir_all(place.path(directory)).unwrap();
    let out = place.text(directory);
    let (code, stdout, stderr) = run([&["save", target, "-o", &out][..], more].concat());
    assert_eq!(code, 0, "{stdout}{stderr}");
}

#[test]
fn a_raw_copy_becomes_later_the_core_that_the_dump_would_have_become() {
    let whole = with_dump(&Machine::small());
    let mut damaged = whole.clone();
    block_mut(&mut damaged, 20)[100] ^= 1;
    let mut unfinished = formatted(200);
    let written = write_dump(&mut unfinished, 1, &Machine::small());
    stop_in_the_middle(&mut unfinished, &written, |number| number < 30);
    for disk in [whole, damaged, unfinished] {
        let place = Place::new();
        let image = place.image("image", &disk);
        save(&place, &image, "direct", &["--keep"]);
        save(&place, &image, "raw", &["--format", "raw", "--clear-damaged"]);
        assert!(fs::read(&image).unwrap() == formatted(200), "the pattern is not whole again");
        let files = place.cores("raw");
        let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["dmesg.txt", "vmcore.diskdump"]);
        let copy = files[1].to_str().unwrap();
        let bytes = fs::read(copy).unwrap();
        assert!(bytes == disk[..bytes.len()]);
        save(&place, copy, "later", &[]);
        assert!(core_in(&place, "later") == core_in(&place, "direct"));
        assert!(fs::read(copy).unwrap() == bytes, "the copy was changed");
    }
}

#[test]
fn a_raw_copy_is_not_copied_again() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    save(&place, &image, "raw", &["--format", "raw"]);
    let copy = place.cores("raw").remove(1);
    let (code, _, stderr) = run(["save", copy.to_str().unwrap(), "-o", &place.out(), "--format", "raw"]);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("it is a raw copy already: --format elf makes a core of it"), "{stderr}");
    assert!(place.crashes("out").is_empty());
}

#[test]
fn a_kdump_is_saved_in_each_compression_and_without_a_target_all_partitions_are_meant() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let mut lengths = Vec::new();
    for compress in ["zlib", "zstd", "none"] {
        save(&place, &image, compress, &["--format", "kdump", "--compress", compress, "--keep"]);
        let files = place.cores(compress);
        let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["dmesg.txt", "vmcore.kdump"]);
        let bytes = fs::read(&files[1]).unwrap();
        assert!(bytes.starts_with(b"KDUMP   "));
        lengths.push(bytes.len());
    }
    assert!(lengths[0] <= lengths[2] && lengths[1] <= lengths[2], "{lengths:?}");
    let (code, _, stderr) = run(["save", "-o", &place.out(), "--partition", "3"]);
    assert_eq!((code, stderr.contains("--partition needs a TARGET")), (2, true), "{stderr}");
}

#[test]
fn a_core_at_a_level_does_not_stand_for_the_whole_one() {
    let place = Place::new();
    let mut machine = Machine::small();
    machine.class_of = |pfn| if pfn % 2 == 0 { PageClass::User } else { PageClass::KernelData };
    let disk = with_dump(&machine);
    let image = place.image("image", &disk);
    save(&place, &image, "out", &["--level", "8", "--keep"]);
    assert!(fs::read(&image).unwrap() == disk);
    save(&place, &image, "out", &["--keep"]);
    assert_eq!(place.crashes("out").len(), 2, "the whole core is another one");
    save(&place, &image, "out", &["--level", "8"]);
    assert_eq!(place.crashes("out").len(), 2, "one of them has all that was asked for");
    assert!(fs::read(&image).unwrap() == formatted(200));
}
