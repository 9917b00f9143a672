//! The ways that savecore is used, and what must hold wherever a run is killed or a call fails: each dump is
//! whole on its partition or whole in the store, nothing else has changed, and an undisturbed run then
//! finishes the job.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dumpcore::format::BLOCK_SIZE;
use serde_json::Value;

use crate::common::{
    Encrypt, Machine, Page, Stripe, partition as formatted, stop_in_the_middle, write_dump, write_striped,
};
use crate::work::Found;

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to a run.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The first run is killed after the first of these delays, the next run after the second, and so on.
    Kills { after_micros: Vec<u64> },
    /// strace does this to one of the run's system calls.
    Rule { call: String, rule: String },
}

/// A folder for the disks and the store, in memory if possible: this many runs would wear out a disk.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Place { directory: directory.expect("a folder for temporary files") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A dump, and where it is.
struct Dump {
    /// For each of its stripes: the disk's number, and its blocks.
    blocks: Vec<(usize, Range<u64>)>,
    /// The name of its folder in the store, once an undisturbed run has shown it.
    folder: Option<String>,
}

/// The files of a folder, with their content.
type Files = BTreeMap<String, Vec<u8>>;

/// A use of savecore.
pub(crate) struct Scenario {
    name: &'static str,
    /// Its arguments; `DISK0`, `DISK1`, `OUT` and `CONFIG` are replaced with paths.
    arguments: Vec<&'static str>,
    /// The initial contents of each disk.
    disks: Vec<Vec<u8>>,
    /// The contents of each disk after an undisturbed run.
    after: Vec<Vec<u8>>,
    dumps: Vec<Dump>,
    /// The store after an undisturbed run: folders by name.
    store: BTreeMap<String, Files>,
    /// How long such a run takes.
    pub(crate) whole: Duration,
}

/// Room for two dumps on each disk.
const BLOCKS: u64 = 400;

fn machine(nonce: u64) -> Machine {
    let mut machine =
        Machine { nonce, sequence: nonce as u32, wall_clock: 1_700_000_000 + nonce * 60, ..Machine::small() };
    machine.pages.extend((0x200..0x220).map(|pfn| (pfn, Page::of(pfn + nonce))));
    machine.chunk_pages = 20;
    machine
}

/// A disk with one dump.
fn one(machine: &Machine) -> (Vec<u8>, Range<u64>) {
    let mut disk = formatted(BLOCKS);
    let written = write_dump(&mut disk, 1, machine);
    (disk, written.first..written.end)
}

impl Scenario {
    /// All of them.
    pub(crate) fn all() -> Vec<Scenario> {
        let save = ["save", "DISK0", "-o", "OUT", "--host", "h", "--min-free", "0"];
        let with = |more: &[&'static str]| [&save[..], more].concat();
        let (plain, range) = one(&machine(1));
        let single = |name, arguments: Vec<&'static str>, (disk, range): (Vec<u8>, Range<u64>)| {
            Scenario::new(name, arguments, vec![disk], vec![vec![(0, range)]])
        };
        let mut two = plain.clone();
        let second = write_dump(&mut two, range.end, &machine(2));
        let mut half = formatted(BLOCKS);
        let written = write_dump(&mut half, 1, &machine(3));
        stop_in_the_middle(&mut half, &written, |number| number < written.first + 30);
        let mut stripes = [formatted(BLOCKS), formatted(BLOCKS)];
        let mut parts: Vec<_> = stripes.iter_mut().map(|disk| Stripe { disk, first: 1 }).collect();
        let pieces = write_striped(&mut parts, &machine(4));
        let striped = pieces.iter().enumerate().map(|(disk, written)| (disk, written.first..written.end));
        let encrypted = Machine { encrypt: Some(Encrypt::new()), ..machine(5) };
        vec![
            single("save", save.to_vec(), (plain.clone(), range.clone())),
            single("save-kdump", with(&["--format", "kdump"]), (plain.clone(), range.clone())),
            single("save-raw", with(&["--format", "raw"]), (plain.clone(), range.clone())),
            single("save-report", with(&["--report"]), (plain.clone(), range.clone())),
            single("save-encrypted", save.to_vec(), one(&encrypted)),
            single("save-unfinished", with(&["--clear-damaged"]), (half, written.first..written.end)),
            Scenario::new(
                "save-two",
                save.to_vec(),
                vec![two],
                vec![vec![(0, range.clone())], vec![(0, second.first..second.end)]],
            ),
            Scenario::new(
                "save-stripes",
                [&["save", "DISK0", "DISK1"], &save[2..]].concat(),
                stripes.to_vec(),
                vec![striped.collect()],
            ),
            single("boot", vec!["boot", "--config", "CONFIG"], (plain, range)),
        ]
    }

    /// Determines the result of an undisturbed run.
    fn new(
        name: &'static str,
        arguments: Vec<&'static str>,
        disks: Vec<Vec<u8>>,
        dumps: Vec<Vec<(usize, Range<u64>)>>,
    ) -> Scenario {
        let dumps = dumps.into_iter().map(|blocks| Dump { blocks, folder: None }).collect();
        let (after, store, whole) = (Vec::new(), BTreeMap::new(), Duration::ZERO);
        let mut scenario = Scenario { name, arguments, disks, after, dumps, store, whole };
        let place = Place::new();
        scenario.lay(&place);
        let begin = Instant::now();
        let output = scenario.command(&place, None).output().expect("savecore starts");
        scenario.whole = begin.elapsed();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {said}");
        scenario.after = scenario.read_disks(&place);
        scenario.store = read_store(&place.path("out")).expect("a store in order");
        assert_eq!(scenario.store.len(), scenario.dumps.len(), "{name}: {said}");
        // A host's folders are named by the time of the crash, so they sort in the order of the dumps.
        for (dump, folder) in scenario.dumps.iter_mut().zip(scenario.store.keys()) {
            dump.folder = Some(folder.clone());
        }
        let empty = |disk: &Vec<u8>| *disk == formatted(BLOCKS);
        assert!(scenario.after.iter().all(empty), "{name}: not all blocks are free again: {said}");
        scenario
    }

    /// Restores the initial state of the disks and the store.
    fn lay(&self, place: &Place) {
        let out = place.path("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).expect("a store");
        for (number, disk) in self.disks.iter().enumerate() {
            fs::write(place.path(&format!("disk{number}")), disk).expect("a disk");
        }
        let text = format!(
            "targets = [{:?}]\nstore = {:?}\nhost = \"h\"\nmin_free = \"0\"\n",
            place.path("disk0"),
            out
        );
        fs::write(place.path("config.toml"), text).expect("a configuration");
    }

    fn command(&self, place: &Place, rule: Option<(&str, &str)>) -> Command {
        let path = |name: &str| place.path(name).to_string_lossy().into_owned();
        let arguments = self.arguments.iter().map(|argument| match *argument {
            "DISK0" => path("disk0"),
            "DISK1" => path("disk1"),
            "OUT" => path("out"),
            "CONFIG" => path("config.toml"),
            other => other.to_owned(),
        });
        let mut command = match rule {
            None => Command::new(env!("CARGO_BIN_EXE_savecore")),
            Some((calls, rule)) => {
                let mut strace = Command::new("strace");
                strace.args(["-f", "-qq", "-o", &path("trace"), "-e", &format!("trace={calls}")]);
                if !rule.is_empty() {
                    strace.args(["-e", rule]);
                }
                strace.arg(env!("CARGO_BIN_EXE_savecore"));
                strace
            }
        };
        command.args(arguments).stdin(Stdio::null()).env("TMPDIR", place.directory.path());
        // savecore's own state is this scenario's, too.
        command.env("SAVECORE_STATE", path("state"));
        command
    }

    /// All system calls of an undisturbed run, as printed by strace.
    pub(crate) fn trace(&self, place: &Place) -> String {
        self.lay(place);
        let output =
            self.command(place, Some(("all", ""))).output().expect("strace starts: is it installed?");
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(place.path("trace")).expect("a trace")
    }

    /// One run with trouble, one without.
    pub(crate) fn go(&self, place: &Place, trouble: &Trouble, found: &mut Found) {
        self.lay(place);
        let _ = fs::remove_dir_all(place.path("state"));
        found.runs += 1;
        if let Err(why) = self.try_it(place, trouble, found) {
            found.lost += u64::from(why.starts_with("LOST"));
            found.findings.push(format!("{} {trouble:?}: {why}", self.name));
        }
    }

    fn try_it(&self, place: &Place, trouble: &Trouble, found: &mut Found) -> Result<(), String> {
        match trouble {
            Trouble::Kills { after_micros } => {
                for micros in after_micros {
                    let mut command = self.command(place, None);
                    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
                    let mut child = child.map_err(|error| error.to_string())?;
                    sleep(Duration::from_micros(*micros));
                    let _ = child.kill();
                    let status = child.wait().map_err(|error| error.to_string())?;
                    found.hurt += u64::from(status.code().is_none());
                    self.check(place)?;
                }
            }
            Trouble::Rule { call, rule } => {
                let output = in_time(self.command(place, Some((call, rule))))?;
                let is_kill = rule.contains("signal=KILL");
                let trace = fs::read_to_string(place.path("trace")).unwrap_or_default();
                found.hurt += u64::from(trace.contains("(INJECTED)") || is_kill && !output.status.success());
                self.check(place)?;
                // A failed write may have been that of an error message.
                if !is_kill && !call.starts_with("write") {
                    judge(&output)?;
                }
            }
        }
        self.make_good(place)
    }

    /// What must hold at every moment.
    fn check(&self, place: &Place) -> Result<(), String> {
        let store = self.whole(place)?;
        let disks = self.read_disks(place);
        for (number, (disk, before)) in disks.iter().zip(&self.disks).enumerate() {
            if disk.len() != before.len() {
                return Err(format!("disk {number} has another size"));
            }
            for block in 0..BLOCKS {
                let at = block as usize * BLOCK_SIZE..(block as usize + 1) * BLOCK_SIZE;
                if disk[at.clone()] == before[at] {
                    continue;
                }
                let of = |dump: &&Dump| {
                    dump.blocks.iter().any(|(disk, blocks)| *disk == number && blocks.contains(&block))
                };
                let Some(dump) = self.dumps.iter().find(of) else {
                    return Err(format!("block {block} of disk {number} changed, which is no dump's"));
                };
                if !dump.folder.as_ref().is_some_and(|folder| store.contains(folder)) {
                    return Err(format!(
                        "LOST: block {block} of disk {number} changed, and the dump is not in the store"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The dumps that the store has whole, by the names of their folders in [`Scenario::store`]. A folder
    /// with less of a dump, because the rest could not be read, must say so.
    fn whole(&self, place: &Place) -> Result<BTreeSet<String>, String> {
        let mut whole = BTreeSet::new();
        for (name, files) in read_store(&place.path("out"))? {
            let same = |expected: &&Files| {
                let mut all = expected.iter().filter(|(file, _)| *file != "info.json");
                files.len() == expected.len() && all.all(|(file, bytes)| files.get(file) == Some(bytes))
            };
            let info = files.get("info.json").and_then(|text| serde_json::from_slice::<Value>(text).ok());
            let Some(info) = info else { return Err(format!("{name} has its final name and no info.json")) };
            match self.store.iter().find(|(_, expected)| same(expected)) {
                Some((known, _)) if !whole.insert(known.clone()) => {
                    return Err(format!("{known} is there twice"));
                }
                Some(_) => {}
                None if info["dump"]["damaged"] == true || info["damaged"] == true => {}
                None => return Err(format!("{name} is not what it should be, under its final name")),
            }
        }
        Ok(whole)
    }

    /// An undisturbed run, which must finish the job.
    fn make_good(&self, place: &Place) -> Result<(), String> {
        let output = in_time(self.command(place, None))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !matches!(output.status.code(), Some(0 | 1)) {
            return Err(format!("the next run ends with {:?}: {said}", output.status));
        }
        self.check(place)?;
        if self.read_disks(place) != self.after {
            return Err(format!("the next run did not free all: {said}"));
        }
        let store = self.whole(place)?;
        if !store.iter().eq(self.store.keys()) {
            return Err(format!("LOST: after the next run the store holds {store:?}"));
        }
        let left = fs::read_dir(place.path("out")).map_err(|error| error.to_string())?;
        let left = left.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let left: Vec<String> = left.filter(|name| name.ends_with(".partial")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} is left over")) }
    }

    fn read_disks(&self, place: &Place) -> Vec<Vec<u8>> {
        (0..self.disks.len())
            .map(|number| fs::read(place.path(&format!("disk{number}"))).unwrap_or_default())
            .collect()
    }
}

/// The finished folders of a store.
fn read_store(out: &Path) -> Result<BTreeMap<String, Files>, String> {
    let mut store = BTreeMap::new();
    let entries = fs::read_dir(out).map_err(|error| format!("the store: {error}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "latest" {
            continue;
        }
        let mut files = Files::new();
        for file in fs::read_dir(entry.path()).map_err(|error| format!("{name}: {error}"))?.flatten() {
            let bytes = fs::read(file.path()).map_err(|error| format!("{name}: {error}"))?;
            files.insert(file.file_name().to_string_lossy().into_owned(), bytes);
        }
        store.insert(name, files);
    }
    Ok(store)
}

/// Runs a command to its end, or reports that it hangs.
fn in_time(mut command: Command) -> Result<Output, String> {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let begin = Instant::now();
    // Its few lines fit in a pipe.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begin.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it hangs: not over after {} s", PATIENCE.as_secs()));
        }
        sleep(Duration::from_millis(2));
    }
    child.wait_with_output().map_err(|error| error.to_string())
}

/// A run whose system call failed must end with an exit code of its own, and print only its own lines.
fn judge(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(127) && said.contains("error while loading shared libraries") {
        // The call was the loader's: savecore itself had not started.
        return Ok(());
    }
    if output.status.code().is_none_or(|code| code > 3) {
        return Err(format!("it ended with {:?}: {said}", output.status));
    }
    let ours = |line: &&str| line.starts_with("savecore: error: ") || line.starts_with("savecore: warning: ");
    match said.lines().find(|line| !ours(line)) {
        None => Ok(()),
        Some(line) => Err(format!("it said: {line}")),
    }
}
