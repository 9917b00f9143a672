//! savecore is killed at random moments, over and over: the dump is whole on its partition or the core is
//! whole in its folder, and an undisturbed run then finishes the job.

use std::process::Child;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use super::*;
use crate::common::Page;

/// Kills per test run; `SAVECORE_KILLS` sets another number.
const KILLS: usize = 200;
/// Runs at the same time.
const LANES: usize = 2;
const BLOCKS: u64 = 700;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// The expected result.
struct Expected {
    disk: Vec<u8>,
    core: Vec<u8>,
    log: Vec<u8>,
    folder: String,
}

/// The state after a kill.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Left {
    /// The dump only.
    Dump,
    /// Dump and core.
    Both,
    /// The core, and a dump that is marked as saved, whole or in part.
    Marked,
    /// The core only.
    Core,
}

/// A machine whose dump takes a while.
fn machine() -> Machine {
    let mut machine = Machine::small();
    machine.pages.extend((0x200..0x400).map(|pfn| (pfn, Page::of(pfn))));
    machine.chunk_pages = 40;
    machine
}

fn arguments(place: &Place) -> Vec<String> {
    place.machine();
    let (image, out, system) = (place.text("image"), place.text("out"), place.text("system"));
    let texts = ["save", &image, "-o", &out, "--host", "h", "--min-free", "0", "--system", &system];
    texts.map(str::to_owned).to_vec()
}

/// A folder in memory, if possible: this many runs would wear out a disk.
fn fast_place() -> Place {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    Place { directory: directory.unwrap() }
}

fn begin(place: &Place, disk: &[u8]) {
    let _ = fs::remove_dir_all(place.path("out"));
    fs::create_dir(place.path("out")).unwrap();
    place.image("image", disk);
}

fn expected() -> Expected {
    let place = fast_place();
    let mut disk = formatted(BLOCKS);
    write_dump(&mut disk, 1, &machine());
    begin(&place, &disk);
    assert_eq!(run(arguments(&place)).0, 0);
    let [folder] = &place.crashes("out")[..] else { panic!("one folder") };
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    Expected { disk, core: read("vmcore.elf"), log: read("dmesg.txt"), folder: name }
}

impl Expected {
    /// Checks the complete state after a kill.
    fn check(&self, place: &Place) -> Left {
        let mut has_core = false;
        for path in place.crashes("out") {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with('.') {
                assert!(name.ends_with(".partial"), "{name}");
                continue;
            }
            assert_eq!(name, self.folder);
            self.check_folder(&path);
            has_core = true;
        }
        let latest = place.path("out/latest");
        if fs::symlink_metadata(&latest).is_ok() {
            assert_eq!(fs::read_link(&latest).unwrap(), Path::new(&self.folder));
            assert!(has_core, "a link to nowhere");
        }
        let disk = fs::read(place.path("image")).unwrap();
        assert_eq!(disk.len(), self.disk.len());
        let left = match (has_core, disk == self.disk) {
            (true, true) => Left::Both,
            (false, true) => Left::Dump,
            (false, false) => panic!("the dump was touched, and there is no core"),
            (true, false) if disk == formatted(BLOCKS) => Left::Core,
            (true, false) => Left::Marked,
        };
        assert_eq!(disk[..BLOCK_SIZE], self.disk[..BLOCK_SIZE], "the label was touched");
        left
    }

    fn check_folder(&self, folder: &Path) {
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        assert!(read("vmcore.elf") == self.core, "half a core under its final name");
        assert!(read("dmesg.txt") == self.log, "half a log under its final name");
        let info = String::from_utf8(read("info.json")).unwrap();
        assert!(json(&info).is_object(), "{info}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 3);
    }

    /// An undisturbed run, which must finish the job.
    fn make_good(&self, place: &Place, left: Left) {
        let (code, _, stderr) = run(arguments(place));
        assert_eq!(code, i32::from(left == Left::Core), "after {left:?}: {stderr}");
        assert_eq!(self.check(place), Left::Core, "after {left:?}");
        assert_eq!(place.crashes("out").len(), 1, "something is left over after {left:?}");
        assert!(place.path("out/latest/info.json").exists());
    }
}

/// Waits until a run is over or `ready`; returns whether it is over.
fn wait(child: &mut Child, ready: impl Fn() -> bool) -> bool {
    while !ready() {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        thread::yield_now();
    }
    false
}

/// One dump: killed once or several times in a row, then completed. Returns the state after each kill.
fn lane(expected: &Expected, seed: u64, kills: usize) -> Vec<Left> {
    let place = fast_place();
    let mut dice = Dice(seed);
    let mut whole = Duration::from_millis(20);
    let mut lefts = Vec::new();
    while lefts.len() < kills {
        begin(&place, &expected.disk);
        let mut last = Left::Dump;
        for _ in 0..=dice.below(4) {
            let mut command = savecore(arguments(&place));
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let start = Instant::now();
            // Half of the kills come at any time, half around the moment when the folder gets its name.
            let limit = if dice.below(2) == 0 {
                whole
            } else {
                let _ = wait(&mut child, || place.path("out").join(&expected.folder).exists());
                whole / 4
            };
            sleep(Duration::from_micros(dice.below(limit.as_micros() as u64)));
            child.kill().unwrap();
            if child.wait().unwrap().code().is_some() {
                // The run ended first; how long it takes depends on what else the machine does.
                whole = (whole * 3 + start.elapsed()) / 4;
            } else {
                whole = whole.max(start.elapsed()).mul_f64(1.02);
            }
            let left = expected.check(&place);
            assert!(left >= last, "{left:?} behind {last:?}");
            last = left;
            lefts.push(left);
        }
        expected.make_good(&place, last);
    }
    lefts
}

#[test]
fn killed_at_any_moment_the_dump_is_on_its_partition_or_the_core_in_its_folder() {
    let kills = std::env::var("SAVECORE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let start = Instant::now();
    let expected = expected();
    let lanes: Vec<Vec<Left>> = thread::scope(|scope| {
        let expected = &expected;
        let run = |lane_number| scope.spawn(move || lane(expected, 77 + lane_number, kills.div_ceil(LANES)));
        let lanes: Vec<_> = (0..LANES as u64).map(run).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let count = |left| lanes.iter().flatten().filter(|other| **other == left).count();
    let told = [Left::Dump, Left::Both, Left::Marked, Left::Core].map(|left| (left, count(left)));
    println!("{kills} kills in {:.1?}: {told:?}", start.elapsed());
    // Otherwise no kill came where it matters.
    assert!(count(Left::Dump) > 0 && count(Left::Core) > 0, "{told:?}");
}

/// System calls that change something.
const CHANGING: &[&str] = &[
    "mkdirat",
    "openat",
    "pwrite64",
    "write",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "renameat2",
    "renameat",
    "unlinkat",
    "symlinkat",
    "flock",
    "exit_group",
];

#[test]
fn killed_in_front_of_each_system_call_that_changes_something_neither_is_lost() {
    let expected = expected();
    let place = fast_place();
    let mut seen = Vec::new();
    for call in CHANGING {
        for number in 1.. {
            begin(&place, &expected.disk);
            let rule = format!("inject={call}:signal=KILL:when={number}");
            let Some(output) = traced(&place, &rule, arguments(&place)) else { return };
            let left = expected.check(&place);
            expected.make_good(&place, left);
            if output.status.success() {
                assert_eq!(left, Left::Core);
                break;
            }
            seen.push(left);
        }
    }
    println!("{} kills", seen.len());
    for left in [Left::Dump, Left::Both, Left::Marked, Left::Core] {
        assert!(seen.contains(&left), "never {left:?}");
    }
}
