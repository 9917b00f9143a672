//! Encrypted dumps, with and without the key, and dumps that are striped over several devices.
//!
//! One file: a list of independent tests.

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::crypt::{PublicKey, SecretKey};
use dumpcore::format::frame;
use dumpcore::format::label::Label;
use dumpcore::format::pattern;

use super::keys::{key_of, keygen, secret, text_of};
use super::*;
use crate::common::{Encrypt, Page, Stripe, Written, block, write_striped};

const BLOCKS: u64 = 200;

/// A partition without dumps, for dumps that are encrypted to `recipient`, or in the clear.
fn empty(recipient: Option<PublicKey>) -> Vec<u8> {
    let mut disk = formatted(BLOCKS);
    if let Some(recipient) = recipient {
        set_recipient(&mut disk, &recipient);
    }
    disk
}

fn set_recipient(disk: &mut [u8], recipient: &PublicKey) {
    let mut label = Label::parse(block(disk, 0)).unwrap().clone();
    label.set_recipient(recipient);
    label.to_block(block_mut(disk, 0));
}

/// Writes a dump over several partitions, after the dumps that are there.
fn write_over(disks: &mut [Vec<u8>], machine: &Machine) -> Vec<Written> {
    let stripes = disks.iter_mut().map(|disk| Stripe { first: partition::scan(disk).unwrap().free, disk });
    write_striped(&mut stripes.collect::<Vec<_>>(), machine)
}

/// A key pair: the identity's file, and both keys.
struct Pair {
    file: String,
    public: PublicKey,
    secret: SecretKey,
}

impl Pair {
    fn new(place: &Place, name: &str) -> Pair {
        let file = place.text(name);
        let public = key_of(&keygen(&file));
        Pair { secret: secret(&file), file, public }
    }

    fn text(&self) -> String {
        text_of("diskdump-public:", &self.public)
    }

    /// A machine whose dumps are encrypted to this pair, in units, and complete.
    fn machine(&self) -> Machine {
        Machine {
            encrypt: Some(Encrypt { secret: self.secret, ..Encrypt::new() }),
            unit_pages: Some(4),
            ..machine()
        }
    }

    fn disk(&self) -> Vec<u8> {
        let mut disks = [empty(Some(self.public))];
        write_over(&mut disks, &self.machine());
        let [disk] = disks;
        disk
    }
}

/// A machine with a complete dump.
fn machine() -> Machine {
    let mut machine = Machine::small();
    machine.pages.insert(30, Page::Zero);
    machine
}

/// The files of a directory whose names end with `ending`.
fn ending(place: &Place, directory: &str, ending: &str) -> Vec<String> {
    let files = place.cores(directory).into_iter().map(|path| path.to_str().unwrap().to_owned());
    files.filter(|path| path.ends_with(ending)).collect()
}

/// Saves a target that must result in one core; returns the core's bytes.
fn core_of(place: &Place, targets: &[&str], identity: Option<&str>) -> Vec<u8> {
    let out = tempfile::tempdir_in(place.directory.path()).unwrap();
    let directory = out.path().to_str().unwrap();
    let mut arguments = ["save", "-o", directory, "--keep"].to_vec();
    arguments.extend(targets);
    arguments.extend(identity.iter().flat_map(|file| ["--identity", *file]));
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let name = out.path().file_name().unwrap().to_str().unwrap();
    let cores = ending(place, name, ".elf");
    assert_eq!(cores.len(), 1, "{stdout}{stderr}");
    fs::read(&cores[0]).unwrap()
}

/// The core must have every page of the machine that holds data or zeros.
fn assert_same_memory(core: &[u8], machine: &Machine) {
    let core = Core::parse(core);
    for (pfn, page) in &machine.pages {
        match page {
            Page::Data(bytes) => {
                assert_eq!(core.physical(pfn * 4096, 4096), Some(bytes.to_vec()), "page {pfn}")
            }
            Page::Zero => assert_eq!(core.physical(pfn * 4096, 4096), Some(vec![0; 4096]), "page {pfn}"),
            _ => {}
        }
    }
}

#[test]
fn an_encrypted_dump_becomes_the_core_that_it_would_be_in_the_clear() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let machine = pair.machine();
    let image = place.image("image", &pair.disk());
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out(), "--identity", &pair.file]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("dump 1 saved in") && stdout.contains("cleared on"), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "but for the page tables: {stderr}");
    let core = fs::read(&ending(&place, "out", ".elf")[0]).unwrap();
    assert_same_memory(&core, &machine);
    assert_eq!(fs::read(&ending(&place, "out", "dmesg.txt")[0]).unwrap(), machine.log.as_bytes());
    assert!(fs::read(&image).unwrap() == empty(Some(pair.public)), "the pattern is not whole again");
}

#[test]
fn without_the_key_an_encrypted_dump_is_carried_away_and_opens_elsewhere() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let disk = pair.disk();
    let image = place.image("image", &disk);
    let whole = core_of(&place, &[&image], Some(&pair.file));
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let copies = ending(&place, "out", "");
    let folder = place.crashes("out").remove(0);
    assert_eq!(copies, [folder.join("vmcore.diskdump").to_str().unwrap()], "no core, no log");
    let copy = &copies[0];
    assert!(stdout.contains("dump 1, still encrypted, saved in"), "{stdout}");
    let next = format!("savecore save --identity FILE -o DIR {copy}");
    assert_eq!(stdout.lines().filter(|line| line.ends_with(&next)).count(), 1, "{stdout}");
    assert!(stdout.contains(&format!("cleared on {image}")), "{stdout}");
    assert!(fs::read(&image).unwrap() == empty(Some(pair.public)), "the pattern is not whole again");
    assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);

    // Label and dump are unchanged in place, and no memory of the machine is readable.
    let bytes = fs::read(copy).unwrap();
    assert!(bytes == disk[..bytes.len()]);
    for text in ["idle task", "hello"] {
        assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
    assert!(core_of(&place, &[copy], Some(&pair.file)) == whole);
    assert!(fs::read(copy).unwrap() == bytes, "the copy was changed");
}

#[test]
fn a_encrypted_copy_is_told_checked_and_never_changed() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let mut disks = [empty(Some(pair.public))];
    let first = write_over(&mut disks, &pair.machine()).remove(0);
    write_over(&mut disks, &Machine { sequence: 2, nonce: 7, ..pair.machine() });
    let image = place.image("image", &disks[0]);
    assert_eq!(run(["save", &image, "-o", &place.out()]).0, 0);
    let copies = ending(&place, "out", ".diskdump");
    assert_eq!(copies.len(), 2);
    // The second dump's copy has a hole where the first dump was.
    let second = fs::read(&copies[1]).unwrap();
    assert!(second[BLOCK_SIZE..first.end as usize * BLOCK_SIZE].iter().all(|byte| *byte == 0));
    for copy in &copies {
        let before = fs::read(copy).unwrap();
        let (code, stdout, stderr) = run(["info", copy]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.contains("not decrypted") && !stdout.contains("belong to no dump"), "{stdout}");
        assert!(stdout.contains(&pair.text()), "{stdout}");
        let (code, stdout, stderr) = run(["info", copy, "--identity", &pair.file]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.contains("attempt to kill the idle task"), "{stdout}");
        for more in [&[][..], &["--identity", &pair.file]] {
            let (code, stdout, stderr) = run([&["check", copy][..], more].concat());
            assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
            assert!(stdout.contains("whole: a raw copy of a dump"), "{stdout}");
        }
        let (_, stdout, _) = run(["check", copy, "--json"]);
        assert_eq!(json(&stdout)["verdict"], "copy");
        let (code, stdout, stderr) =
            run(["save", copy, "-o", &place.out(), "--identity", &pair.file, "--json"]);
        assert_eq!((code, stderr.lines().count()), (0, 1), "{stdout}{stderr}");
        let dump = &json(&stdout)["dumps"][0];
        assert_eq!((&dump["cleared"], dump["copies"].as_array().unwrap().len()), (&false.into(), 0));
        assert_eq!(dump["kept_because"], "a raw copy is never changed");
        let (code, stdout, stderr) = run(["save", copy, "-o", &place.out()]);
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stdout}{stderr}");
        assert!(stderr.contains("it is a raw copy already: --identity FILE opens it"), "{stderr}");
        assert_eq!(run(["clear", copy, "--yes"]).0, 2);
        assert_eq!(run(["format", copy, "--yes"]).0, 2);
        assert!(fs::read(copy).unwrap() == before, "the copy was changed");

        let mut damaged = before.clone();
        let last = damaged.len() - 2 * BLOCK_SIZE;
        damaged[last] ^= 1;
        let damaged = place.image("damaged.diskdump", &damaged);
        let (code, stdout, _) = run(["check", &damaged]);
        assert_eq!((code, stdout.contains("damaged: a raw copy")), (1, true), "{stdout}");
    }
    assert_eq!(ending(&place, "out", ".elf").len(), 2);
}

#[test]
fn carrying_away_obeys_the_options_that_saving_does() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let disk = pair.disk();
    let image = place.image("image", &disk);
    let out = place.out();
    for run_number in 0..2 {
        let (code, stdout, _) = run(["save", &image, "-o", &out, "--keep", "--json"]);
        let result = json(&stdout);
        let dump = &result["dumps"][0];
        assert_eq!((code, &dump["already_there"]), (0, &Value::from(run_number > 0)));
        assert_eq!((&dump["kept_because"], &dump["cleared"]), (&"--keep was given".into(), &false.into()));
        assert_eq!((&dump["file"], &dump["log"]), (&Value::Null, &Value::Null));
        assert_eq!(dump["dump"]["encryption"], "sealed");
        assert_eq!(dump["copies"][0].as_str(), Some(ending(&place, "out", "")[0].as_str()));
        assert_eq!(result["targets"][0]["recipient"].as_str(), Some(&*pair.text()));
        assert!(fs::read(&image).unwrap() == disk);
    }
    fs::remove_dir_all(place.crashes("out").remove(0)).unwrap();
    // No room for it.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" save \"$1\" -o \"$2\"";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_savecore"), &image, &out])
        .output()
        .unwrap();
    let (code, _, stderr) = finish(output);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("File too large"), "{stderr}");
    assert!(place.cores("out").is_empty() && fs::read(&image).unwrap() == disk);
}

#[test]
fn a_damaged_encrypted_dump_is_carried_away_and_stays_until_told_otherwise() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let mut disk = pair.disk();
    block_mut(&mut disk, 20)[100] ^= 1;
    let image = place.image("image", &disk);
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("dump 1 is damaged"), "{stderr}");
    assert!(stdout.contains("--clear-damaged or `savecore clear` frees it"), "{stdout}");
    assert!(fs::read(&image).unwrap() == disk);
    let copy = ending(&place, "out", ".diskdump").remove(0);
    let (code, stdout, _) = run(["check", &copy, "--json"]);
    assert_eq!((code, &json(&stdout)["verdict"]), (1, &"damaged".into()));
    assert!(core_of(&place, &[&copy], Some(&pair.file)) == core_of(&place, &[&image], Some(&pair.file)));
    assert_eq!(run(["save", &image, "-o", &place.out(), "--clear-damaged"]).0, 0);
    assert!(fs::read(&image).unwrap() == empty(Some(pair.public)));
}

#[test]
fn an_unfinished_encrypted_dump_is_carried_away_with_what_is_there() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let mut disk = empty(Some(pair.public));
    let written = write_over(std::slice::from_mut(&mut disk), &pair.machine()).remove(0);
    stop_in_the_middle(&mut disk, &written, |number| number < 30);
    let image = place.image("image", &disk);
    let core = core_of(&place, &[&image], Some(&pair.file));
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("unfinished"), "{stdout}");
    let copy = ending(&place, "out", ".diskdump").remove(0);
    assert!(core_of(&place, &[&copy], Some(&pair.file)) == core);
    assert!(fs::read(&image).unwrap() == empty(Some(pair.public)));
}

#[test]
fn a_wrong_identity_is_refused_by_name_and_nothing_is_written() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let other = Pair::new(&place, "other");
    let disk = pair.disk();
    let image = place.image("image", &disk);
    let out = place.out();
    for command in [&["save", &image, "-o", &out][..], &["info", &image], &["check", &image]] {
        let (code, stdout, stderr) = run([command, &["--identity", &other.file]].concat());
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
        assert!(stderr.contains(&format!("{} does not open dump 1 on {image}", other.file)), "{stderr}");
        assert!(stderr.contains(&pair.text()) && stderr.contains(&other.text()), "{stderr}");
    }
    assert!(place.cores("out").is_empty() && fs::read(&image).unwrap() == disk);
    // Without the label, the dump itself tells.
    let mut headless = disk.clone();
    headless[..BLOCK_SIZE].fill(0);
    let image = place.image("headless", &headless);
    let (code, stdout, stderr) = run(["save", &image, "-o", &out, "--identity", &other.file]);
    assert_eq!(code, 2, "{stdout}{stderr}");
    assert!(stderr.contains(&format!("{} cannot decrypt any of it", other.file)), "{stderr}");
    assert!(place.cores("out").is_empty() && fs::read(&image).unwrap() == headless);
    let (code, _, stderr) = run(["info", &image, "--identity", &other.file]);
    assert_eq!((code, stderr.contains("cannot decrypt any of it")), (0, true), "{stderr}");
}

#[test]
fn an_identity_opens_what_is_encrypted_to_it_whatever_the_label_says() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let machine = pair.machine();
    let mut disk = pair.disk();
    // Another key in the label, none, and no label.
    set_recipient(&mut disk, &[9; 32]);
    let other = place.image("other", &disk);
    disk[..BLOCK_SIZE].copy_from_slice(&empty(None)[..BLOCK_SIZE]);
    let none = place.image("none", &disk);
    disk[..BLOCK_SIZE].fill(0);
    let gone = place.image("gone", &disk);
    for image in [&other, &none, &gone] {
        assert_same_memory(&core_of(&place, &[image], Some(&pair.file)), &machine);
    }
    // An identity that is not needed does no harm.
    let plain = place.image("plain", &with_dump(&self::machine()));
    assert_same_memory(&core_of(&place, &[&plain], Some(&pair.file)), &machine);
}

#[test]
fn what_was_changed_by_somebody_without_the_key_does_not_become_a_core() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let mut disk = pair.disk();
    // A payload block is changed, and all checksums are made to match.
    let scanned = partition::scan(&disk).unwrap();
    let chunk = (3..scanned.free)
        .find(|at| ChunkHeader::parse(block(&disk, *at)).is_ok_and(|chunk| chunk.index.get() == 2))
        .unwrap();
    block_mut(&mut disk, chunk + 1)[50] ^= 1;
    let sum = block_sum(block(&disk, chunk + 1), chunk + 1);
    ChunkHeader::of_mut(block_mut(&mut disk, chunk)).unwrap().sums[0] = sum.into();
    frame::set_checksum(block_mut(&mut disk, chunk));
    let image = place.image("image", &disk);
    // Without the key, nobody can tell.
    assert_eq!(run(["check", &image]).0, 0);
    assert_eq!(run(["check", &image, "--identity", &pair.file]).0, 1);
    let (code, stdout, stderr) =
        run(["save", &image, "-o", &place.out(), "--identity", &pair.file, "--json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("is damaged"), "{stderr}");
    let dump = &json(&stdout)["dumps"][0];
    assert_eq!((&dump["cleared"], &dump["dump"]["damaged"]), (&false.into(), &true.into()));
    assert!(dump["dump"]["pages"]["damaged"].as_u64().unwrap() > 0, "{stdout}");
    assert!(fs::read(&image).unwrap() == disk);
}

#[test]
fn a_dump_in_the_clear_behind_a_label_that_demands_a_key_is_warned_about() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let mut disk = with_dump(&machine());
    set_recipient(&mut disk, &pair.public);
    let image = place.image("image", &disk);
    let warned = "dump 1 is not encrypted, though the label demands it";
    let (code, _, stderr) = run(["info", &image, "--identity", &pair.file]);
    assert_eq!((code, stderr.contains(warned)), (0, true), "{stderr}");
    let (code, _, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!((code, stderr.contains(warned)), (0, true), "{stderr}");
}

/// Two partitions with a dump that is striped over them.
fn striped(recipient: Option<PublicKey>, machine: &Machine) -> [Vec<u8>; 2] {
    let mut disks = [empty(recipient), empty(recipient)];
    write_over(&mut disks, machine);
    disks
}

#[test]
fn stripes_become_one_core_and_all_of_them_are_cleared() {
    let place = Place::new();
    let machine = machine();
    let disks = striped(None, &machine);
    let (one, two) = (place.image("one", &disks[0]), place.image("two", &disks[1]));
    for order in [[&one, &two], [&two, &one]] {
        let (code, stdout, stderr) = run(["info", order[0], order[1]]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert_eq!(stdout.matches("Dump 1: panic").count(), 1, "{stdout}");
        assert!(stdout.contains(&format!("{one}, {two}\n")), "{stdout}");
        let (_, stdout, _) = run(["info", order[0], order[1], "--json"]);
        let result = json(&stdout);
        assert_eq!(result["dumps"].as_array().unwrap().len(), 1);
        assert_eq!(result["dumps"][0]["on"], serde_json::json!([one, two]));
        assert_eq!(result["targets"].as_array().unwrap().len(), 2);
    }
    let (code, stdout, stderr) = run(["save", &two, &one, "-o", &place.out()]);
    assert_eq!((code, stderr.lines().count()), (0, 1), "{stdout}{stderr}");
    assert!(stdout.contains(&format!("cleared on {one}, {two}")), "{stdout}");
    let cores = ending(&place, "out", ".elf");
    assert_eq!(cores.len(), 1);
    assert_same_memory(&fs::read(&cores[0]).unwrap(), &machine);
    assert!(fs::read(&one).unwrap() == empty(None));
    assert!(fs::read(&two).unwrap() == empty(None));
    assert_eq!(run(["save", &two, &one, "-o", &place.out()]).0, 1);
}

#[test]
fn a_stripe_that_was_not_given_is_named_and_the_others_stay() {
    let place = Place::new();
    let machine = machine();
    let disks = striped(None, &machine);
    let (one, two) = (place.image("one", &disks[0]), place.image("two", &disks[1]));
    for (image, disk, missing) in [(&one, &disks[0], 2), (&two, &disks[1], 1)] {
        let text = format!("stripe {missing} of 2 was not given");
        let (code, stdout, _) = run(["info", image]);
        assert_eq!((code, stdout.contains(&text)), (0, true), "{stdout}");
        let (code, stdout, stderr) = run(["save", image, "-o", &place.out(), "--json"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains(&format!("{image}: dump 1: {text}")), "{stderr}");
        let dump = &json(&stdout)["dumps"][0];
        assert!(dump["kept_because"].as_str().unwrap().starts_with(&text), "{stdout}");
        assert_eq!((&dump["cleared"], &dump["dump"]["whole"]), (&false.into(), &false.into()));
        let info = fs::read_to_string(Path::new(dump["folder"].as_str().unwrap()).join("info.json")).unwrap();
        assert_eq!(json(&info)["missing_stripes"], serde_json::json!([missing - 1]));
        assert!(fs::read(image).unwrap() == *disk, "it was changed");
    }
    // The whole dump counts as another one, so it can still be saved to the same place.
    assert_eq!(run(["save", &one, &two, "-o", &place.out()]).0, 0);
    assert_eq!(ending(&place, "out", ".elf").len(), 3);
    assert!(fs::read(&one).unwrap() == empty(None));

    // A device that is gone for good.
    let two = place.image("two", &disks[1]);
    let (code, stdout, stderr) = run(["save", &two, "-o", &place.out(), "--clear-damaged"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(fs::read(&two).unwrap() == empty(None));
}

#[test]
fn a_stripe_whose_sibling_was_freed_before_is_not_freed_without_being_told_to() {
    let place = Place::new();
    let disks = striped(None, &machine());
    let mut one = disks[0].clone();
    let scanned = partition::scan(&one).unwrap();
    let found = &scanned.dumps[0];
    partition::mark_saved(&mut one, found, Some(&place.machine())).unwrap();
    // The last block is freed first.
    pattern::fill(block_mut(&mut one, found.end - 1), &scanned.uuid(), found.end - 1);
    let (one, two) = (place.image("one", &one), place.image("two", &disks[1]));
    let (code, stdout, stderr) =
        run(["save", &one, &two, "-o", &place.out(), "--system", &place.text("system")]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains(&format!("{one}: finished clearing 1 dump")), "{stdout}");
    assert!(stdout.contains(&format!("not cleared on {two}: stripe 1 of 2")), "{stdout}");
    assert!(stderr.contains(&format!("{two}: another stripe of a dump here was saved before")), "{stderr}");
    assert!(fs::read(&one).unwrap() == empty(None) && fs::read(&two).unwrap() == disks[1]);
}

#[test]
fn a_part_that_cannot_be_freed_keeps_the_others() {
    let place = Place::new();
    let mut disks = striped(None, &machine());
    disks[1][20] ^= 1;
    let (one, two) = (place.image("one", &disks[0]), place.image("two", &disks[1]));
    let (code, stdout, stderr) = run(["save", &one, &two, "-o", &place.out()]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("its label is damaged"), "{stdout}");
    assert!(fs::read(&one).unwrap() == disks[0] && fs::read(&two).unwrap() == disks[1]);
}

#[test]
fn dumps_that_are_not_striped_are_saved_one_by_one() {
    let place = Place::new();
    let machine = machine();
    let mut disk = empty(None);
    write_over(std::slice::from_mut(&mut disk), &machine);
    let one = place.image("one", &disk);
    let other = Machine { nonce: 7, message: "another".to_owned(), ..machine.clone() };
    let mut disk = empty(None);
    write_over(std::slice::from_mut(&mut disk), &other);
    let two = place.image("two", &disk);
    let three = place.image("three", &empty(None));
    let (code, stdout, stderr) = run(["save", &one, &two, &three, "-o", &place.out(), "--json"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let result = json(&stdout);
    let on: Vec<_> = result["dumps"].as_array().unwrap().iter().map(|dump| &dump["on"]).collect();
    assert_eq!(on, [&serde_json::json!([one]), &serde_json::json!([two])]);
    assert_eq!(ending(&place, "out", ".elf").len(), 2);
    let (code, stdout, _) = run(["save", &one, &two, &three, "-o", &place.out()]);
    assert_eq!((code, stdout.matches("no dump").count()), (1, 3), "{stdout}");
    // All of them must be usable, or nothing is done.
    let unformatted = place.image("unformatted", &vec![7; 60 * BLOCK_SIZE]);
    fails(["info", &one, &unformatted], "not a dump partition");
    fails(["info", &one, &one], "was named twice");
    fails(["save", &one, &place.text("./one"), "-o", &place.out()], "was named twice");
}

#[test]
fn encrypted_stripes_are_carried_away_one_by_one_and_opened_together() {
    let place = Place::new();
    let pair = Pair::new(&place, "identity");
    let machine = pair.machine();
    let disks = striped(Some(pair.public), &machine);
    let (one, two) = (place.image("one", &disks[0]), place.image("two", &disks[1]));
    let core = core_of(&place, &[&one, &two], Some(&pair.file));
    assert_same_memory(&core, &machine);
    let (code, stdout, stderr) = run(["save", &one, &two, "-o", &place.out()]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let copies = ending(&place, "out", "");
    assert_eq!(copies.len(), 2);
    for (copy, stripe) in copies.iter().zip(1..) {
        assert!(copy.ends_with(&format!("/vmcore-{stripe}-of-2.diskdump")), "{copy}");
    }
    assert!(stdout.contains(&format!("-o DIR {} {}\n", copies[0], copies[1])), "{stdout}");
    assert!(fs::read(&one).unwrap() == empty(Some(pair.public)));
    assert!(fs::read(&two).unwrap() == empty(Some(pair.public)));
    assert!(core_of(&place, &[&copies[1], &copies[0]], Some(&pair.file)) == core);
    // A copy of a stripe is whole, though the dump is not.
    for copy in &copies {
        assert_eq!(run(["check", copy]).0, 0);
    }
}
