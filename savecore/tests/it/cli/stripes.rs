//! A dump on two partitions, harvested by runs that are killed on the way: no stripe is left that only a
//! person can free.

use std::fs;

use savecore::keys::secret_text;
use savecore::partition::{self, Search};

use super::{Place, finish, formatted, run, traced};
use crate::common::{Encrypt, Machine, Stripe, write_striped};

const IMAGES: [&str; 2] = ["one", "two"];

fn disks(machine: &Machine) -> [Vec<u8>; 2] {
    let mut disks = [formatted(100), formatted(120)];
    let mut stripes: Vec<_> = disks.iter_mut().map(|disk| Stripe { disk, first: 1 }).collect();
    write_striped(&mut stripes, machine);
    disks
}

impl Place {
    fn put(&self, disks: &[Vec<u8>; 2]) {
        for (name, disk) in IMAGES.iter().zip(disks) {
            self.image(name, disk);
        }
    }

    fn save(&self, format: &str) -> Vec<String> {
        let images = IMAGES.map(|name| self.text(name));
        self.machine();
        let system = self.text("system");
        let rest =
            ["-o", &self.out(), "--host", "h", "--format", format, "--system", &system].map(str::to_owned);
        [vec!["save".to_owned()], images.to_vec(), rest.to_vec()].concat()
    }

    fn mark(&self, image: &str) {
        let mut disk = fs::read(self.path(image)).unwrap();
        let found = partition::scan_with(&disk, Search::Quick, &mut ()).unwrap().dumps.remove(0);
        partition::mark_saved(&mut disk, &found, Some(&self.machine())).unwrap();
        self.image(image, &disk);
    }

    #[track_caller]
    fn assert_free(&self, what: &str) {
        for (name, blocks) in IMAGES.iter().zip([100, 120]) {
            assert!(fs::read(self.path(name)).unwrap() == formatted(blocks), "{what}: {name} is not ready");
        }
    }
}

fn encrypted() -> Machine {
    Machine { encrypt: Some(Encrypt::new()), ..Machine::small() }
}

#[test]
fn a_stripe_that_was_not_marked_any_more_is_freed_by_the_next_run_without_saving_again() {
    for machine in [Machine::small(), encrypted()] {
        for format in ["elf", "kdump", "raw"] {
            for marked in IMAGES {
                let place = Place::new();
                let what = format!("{format}, {marked} marked, encrypted: {}", machine.encrypt.is_some());
                place.put(&disks(&machine));
                assert_eq!(run([place.save(format), vec!["--keep".to_owned()]].concat()).0, 0);
                let before = place.cores("out");
                place.mark(marked);
                let (code, stdout, stderr) = run(place.save(format));
                assert_eq!(code, 0, "{what}: {stderr}");
                assert!(stdout.contains("already saved in"), "{what}: {stdout}");
                assert!(!stderr.contains("was not given") && !stderr.contains("another stripe"), "{stderr}");
                assert_eq!(place.cores("out"), before, "{what}");
                place.assert_free(&what);
            }
        }
    }
}

#[test]
fn a_stripe_is_opened_with_its_key_when_another_one_was_marked() {
    let machine = encrypted();
    let place = Place::new();
    place.put(&disks(&machine));
    let identity = machine.encrypt.as_ref().unwrap().identity();
    fs::write(place.path("key"), secret_text(&identity)).unwrap();
    let save = [place.save("elf"), vec!["--identity".to_owned(), place.text("key")]].concat();
    assert_eq!(run([&save[..], &["--keep".to_owned()]].concat()).0, 0);
    place.mark("one");
    let (code, stdout, stderr) = run(&save);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("already saved in"), "{stdout}");
    assert_eq!(place.crashes("out").len(), 1);
    place.assert_free("with a key");
}

#[test]
fn what_is_in_the_store_no_more_is_saved_again_whole_or_stays_with_both_stripes() {
    let disks = disks(&Machine::small());
    let place = Place::new();
    place.put(&disks);
    assert_eq!(run([place.save("elf"), vec!["--keep".to_owned()]].concat()).0, 0);
    let core = fs::read(place.path("out/latest/vmcore.elf")).unwrap();
    fs::remove_dir_all(place.path("out")).unwrap();
    place.mark("two");
    let marked = IMAGES.map(|name| fs::read(place.path(name)).unwrap());

    let (code, _, stderr) = run(place.save("raw"));
    assert_eq!(code, 2);
    assert!(stderr.contains("--format elf makes a core of it"), "{stderr}");
    assert!(
        IMAGES.map(|name| fs::read(place.path(name)).unwrap()) == marked && place.crashes("out").is_empty()
    );

    let (code, _, stderr) = run(place.save("elf"));
    assert_eq!(code, 0, "{stderr}");
    assert!(fs::read(place.path("out/latest/vmcore.elf")).unwrap() == core);
    place.assert_free("saved again");
}

#[test]
fn killed_in_front_of_any_write_all_stripes_are_freed_by_the_next_run_and_one_core_is_left() {
    let disks = disks(&Machine::small());
    let place = Place::new();
    place.put(&disks);
    assert_eq!(run(place.save("elf")).0, 0);
    let core = fs::read(place.path("out/latest/vmcore.elf")).unwrap();
    let mut kills = 0;
    for call in ["pwrite64", "fsync", "renameat2"] {
        for number in 1.. {
            let _ = fs::remove_dir_all(place.path("out"));
            place.put(&disks);
            let rule = format!("inject={call}:signal=KILL:when={number}");
            let Some(output) = traced(&place, &rule, place.save("elf")) else { return };
            if output.status.success() {
                break;
            }
            kills += 1;
            let (code, _, stderr) = finish(super::savecore(place.save("elf")).output().unwrap());
            assert!(code <= 1, "{rule}: {stderr}");
            let folders = place.crashes("out");
            let cores: Vec<_> =
                folders.iter().map(|path| fs::read(path.join("vmcore.elf")).unwrap()).collect();
            assert!(cores == [core.clone()], "{rule}: {} cores: {stderr}", cores.len());
            place.assert_free(&rule);
        }
    }
    assert!(kills > 20, "{kills} kills");
}
