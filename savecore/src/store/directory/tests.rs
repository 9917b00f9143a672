//! Tests of the store that is a directory.
//!
//! One file: a list of independent tests.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use rustix::io::Errno;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::Error;
use crate::corefile::Sink;
use crate::store::{Folder, Limits, MaxKept, MaxUsed, Place, crash};

const CORE: &str = "vmcore.elf";
/// In the environment of a test's child process: its store directory.
const CHILD: &str = "SAVECORE_TEST_STORE";

const NAME: &str = "web-1-2023-11-14T221320Z";

fn limits(max_kept: u32) -> Limits {
    Limits { max_kept: MaxKept::Number(max_kept), ..Limits::default() }
}

fn open(path: &Path) -> Directory {
    Directory::open(path, &Limits::default()).unwrap()
}

/// Writes a core that starts with `nonce` and has a hole of 1 MiB.
fn write_core(nonce: u64, sink: &mut dyn Sink) -> Result<(), Error> {
    sink.begin(8, Some(1 << 20)).map_err(Error::Core)?;
    sink.set_len(1 << 20).map_err(Error::Core)?;
    sink.write_at(0, &nonce.to_le_bytes()).map_err(Error::Core)
}

fn begin<'d>(directory: &'d mut Directory, crash: &Crash, core: &str) -> Box<dyn Folder + 'd> {
    match directory.begin(crash, core, None).unwrap() {
        Begun::New(folder) => folder,
        Begun::AlreadyThere(place) => panic!("already at {}", place.folder),
    }
}

fn store_as(directory: &mut Directory, crash: &Crash, core: &str) -> Result<Place, StoreError> {
    let mut folder = match directory.begin(crash, core, None)? {
        Begun::New(folder) => folder,
        Begun::AlreadyThere(place) => return Ok(place),
    };
    folder.file("dmesg.txt", &mut |sink| sink.write_at(0, b"Oops\n").map_err(Error::Core))?;
    folder.file(core, &mut |sink| write_core(crash.nonce, sink))?;
    folder.finish(&json!({ "message": "a\nb" }))
}

fn store(directory: &mut Directory, nonce: u64) -> Place {
    store_as(directory, &crash(nonce), CORE).unwrap()
}

/// The names in a directory, sorted.
fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn nonce_of(folder: &Path) -> u64 {
    let mut nonce = [0; 8];
    File::open(folder.join(CORE)).unwrap().read_exact(&mut nonce).unwrap();
    u64::from_le_bytes(nonce)
}

#[test]
fn a_crash_has_a_folder_of_its_own_that_only_its_owner_reads() {
    let temporary = TempDir::new().unwrap();
    let place = store(&mut open(temporary.path()), 7);
    let folder = temporary.path().join(NAME);
    assert_eq!(place.folder, folder.display().to_string());
    assert_eq!(place.remarks, [""; 0]);
    assert_eq!(names_in(temporary.path()), ["latest", NAME]);
    assert_eq!(names_in(&folder), ["dmesg.txt", "info.json", CORE]);
    assert_eq!(fs::read_link(temporary.path().join("latest")).unwrap(), Path::new(NAME));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
    for (name, bytes) in &place.files {
        let metadata = fs::metadata(folder.join(name)).unwrap();
        assert_eq!(metadata.len(), *bytes, "{name}");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{name}");
    }
    assert!(fs::metadata(folder.join(CORE)).unwrap().blocks() * 512 < 1 << 16, "the hole takes room");
    let info = fs::read_to_string(folder.join("info.json")).unwrap();
    assert_eq!(info.lines().count(), 1);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["message"], "a\nb");
    assert_eq!(info["host"], "web-1");
    assert_eq!(info["stored"]["files"][1], json!({ "name": CORE, "bytes": 1 << 20 }));
}

#[test]
fn a_crash_that_is_there_is_not_written_again_and_another_never_replaces_it() {
    let temporary = TempDir::new().unwrap();
    let mut directory = open(temporary.path());
    let first = store(&mut directory, 7);
    for _ in 0..2 {
        let Begun::AlreadyThere(place) = directory.begin(&crash(7), CORE, None).unwrap() else { panic!() };
        assert_eq!((&place.folder, place.files), (&first.folder, first.files.clone()));
    }
    let others = [
        (crash(8), CORE),
        (Crash { sequence: 2, ..crash(7) }, CORE),
        (Crash { uuid: Uuid::from_u128(6), ..crash(7) }, CORE),
        (Crash { missing_stripes: vec![1], ..crash(7) }, CORE),
        (Crash { content: 2, ..crash(7) }, CORE),
        (crash(7), "vmcore.kdump"),
    ];
    for (index, (other, core)) in others.iter().enumerate() {
        let place = store_as(&mut directory, other, core).unwrap();
        assert!(place.folder.ends_with(&format!("{NAME}-{}", index + 2)), "{}", place.folder);
        assert_eq!(store_as(&mut directory, other, core).unwrap().folder, place.folder);
    }
    assert_eq!(nonce_of(&temporary.path().join(NAME)), 7);
}

#[test]
fn a_folder_with_colons_in_its_name_as_they_once_were_still_counts() {
    let temporary = TempDir::new().unwrap();
    let old = temporary.path().join("web-1-2023-11-14T22:13:20Z");
    store(&mut open(temporary.path()), 7);
    fs::rename(temporary.path().join(NAME), &old).unwrap();
    let mut directory = Directory::open(temporary.path(), &limits(2)).unwrap();
    assert_eq!(store(&mut directory, 7).folder, old.display().to_string());
    assert_eq!(fs::read_link(temporary.path().join("latest")).unwrap(), Path::new(old.file_name().unwrap()));
    for nonce in 8..11 {
        store(&mut Directory::open(temporary.path(), &limits(2)).unwrap(), nonce);
    }
    assert_eq!(names_in(temporary.path()).len(), 3, "old ones count as kept");
    assert!(old.exists());
    let left = temporary.path().join(names::partial("web-1-2023-11-14T22:13:21Z"));
    fs::create_dir(&left).unwrap();
    store(&mut directory, 12);
    assert!(!left.exists());
}

#[test]
fn a_folder_that_was_changed_does_not_count_and_stays_as_it_is() {
    let change: [fn(&Path); 5] = [
        |folder| File::options().write(true).open(folder.join(CORE)).unwrap().set_len(9).unwrap(),
        |folder| fs::remove_file(folder.join("dmesg.txt")).unwrap(),
        |folder| fs::remove_file(folder.join("info.json")).unwrap(),
        |folder| fs::write(folder.join("info.json"), "{\"stored\":7}").unwrap(),
        |folder| {
            let elsewhere = folder.join("elsewhere");
            fs::rename(folder.join(CORE), &elsewhere).unwrap();
            symlink(&elsewhere, folder.join(CORE)).unwrap();
        },
    ];
    for (index, change) in change.iter().enumerate() {
        let temporary = TempDir::new().unwrap();
        let mut directory = open(temporary.path());
        store(&mut directory, 7);
        let folder = temporary.path().join(NAME);
        change(&folder);
        let before = names_in(&folder);
        assert!(store(&mut directory, 7).folder.ends_with("Z-2"), "change {index}");
        assert_eq!(names_in(&folder), before);
    }
}

#[test]
fn nothing_is_written_through_links() {
    let temporary = TempDir::new().unwrap();
    let (here, elsewhere) = (temporary.path().join("here"), temporary.path().join("elsewhere"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let secret = elsewhere.join("secret");
    fs::write(&secret, "untouched").unwrap();
    symlink(&elsewhere, here.join(NAME)).unwrap();
    symlink(&elsewhere, here.join(names::partial(&format!("{NAME}-2")))).unwrap();
    symlink(&secret, here.join("latest")).unwrap();
    symlink(&secret, here.join(".latest.partial")).unwrap();
    let place = store(&mut Directory::open(&here, &limits(1)).unwrap(), 7);
    assert!(place.folder.ends_with("Z-2"), "{}", place.folder);
    assert_eq!(names_in(&elsewhere), ["secret"]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
    assert_eq!(fs::read_link(here.join("latest")).unwrap(), Path::new(&format!("{NAME}-2")));
}

#[test]
fn a_folder_that_someone_else_made_counts_for_nothing() {
    if rustix::process::geteuid().as_raw() != 0 {
        return eprintln!("only root gives folders away: not tried");
    }
    let temporary = TempDir::new().unwrap();
    let mut directory = open(temporary.path());
    store(&mut directory, 7);
    let leftover = temporary.path().join(names::partial(&format!("{NAME}-2")));
    fs::create_dir(&leftover).unwrap();
    for path in [&temporary.path().join(NAME), &leftover] {
        std::os::unix::fs::chown(path, Some(1234), None).unwrap();
    }
    let place = store(&mut directory, 7);
    assert!(place.folder.ends_with("Z-2"), "{}", place.folder);
    assert_eq!(nonce_of(Path::new(&place.folder)), 7);
    assert_eq!(names_in(&leftover), [""; 0]);
}

#[test]
fn too_little_room_is_refused_before_anything_is_written() {
    let temporary = TempDir::new().unwrap();
    let mut directory = open(temporary.path());
    let room = Room { least: 1 << 60, most: 1 << 60 };
    if room::is_literal(&directory.fd) {
        let Err(error) = directory.begin(&crash(1), CORE, Some(room)) else { panic!() };
        let StoreError::NoRoom { free, least, .. } = error else { panic!("{error}") };
        assert!(free > 0 && least == 1 << 60);
    }
    // A size that may fit is not rejected.
    assert!(directory.begin(&crash(1), CORE, Some(Room { least: 0, ..room })).is_ok());
    let limits = Limits { min_free: 1 << 61, ..Limits::default() };
    let mut directory = Directory::open(temporary.path(), &limits).unwrap();
    let Err(error) = directory.begin(&crash(1), CORE, None) else { panic!() };
    assert!(error.to_string().contains("2.0 EiB that must stay free are needed"), "{error}");
    assert_eq!(names_in(temporary.path()), [""; 0]);
}

#[test]
fn room_that_goes_while_a_core_is_written_ends_it_without_a_trace() {
    let temporary = TempDir::new().unwrap();
    let mut directory = open(temporary.path());
    // As if all free space had been used up since the folder was started.
    directory.limits.min_free = u64::MAX;
    let partial = Partial::create(&directory, names::partial(NAME)).unwrap().unwrap();
    assert_eq!(names_in(temporary.path()), [names::partial(NAME)]);
    let mut folder = folder::Filling::new(partial, NAME.to_owned(), crash(1), Vec::new());
    let error = folder.file(CORE, &mut |sink| write_core(1, sink)).unwrap_err();
    assert!(matches!(error, StoreError::RoomEnded { min_free: u64::MAX, .. }), "{error}");
    drop(folder);
    assert_eq!(names_in(temporary.path()), [""; 0]);
}

#[test]
fn what_cannot_be_made_leaves_nothing_behind() {
    let temporary = TempDir::new().unwrap();
    let mut directory = open(temporary.path());
    let mut folder = begin(&mut directory, &crash(1), CORE);
    folder.file("dmesg.txt", &mut |_| Ok(())).unwrap();
    let error = folder.file(CORE, &mut |_| Err(Error::Encrypted)).unwrap_err();
    assert_eq!(error.to_string(), Error::Encrypted.to_string());
    // A file that is not vital may fail, and the rest is finished.
    let place = folder.finish(&json!({})).unwrap();
    assert_eq!(names_in(Path::new(&place.folder)), ["dmesg.txt", "info.json"]);
    let mut folder = begin(&mut directory, &crash(2), CORE);
    for name in ["../x", "info.json", "", ".x", "a/b", "dmesg.txt"] {
        let twice = folder.file(name, &mut |_| Ok(())).and_then(|()| folder.file(name, &mut |_| Ok(())));
        assert!(twice.is_err(), "{name}");
    }
    drop(folder);
    assert_eq!(names_in(temporary.path()), ["latest", NAME]);
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let temporary = TempDir::new().unwrap();
    let path = temporary.path().join("crash");
    let Err(error) = super::super::open(path.to_str().unwrap(), &Limits::default()) else { panic!() };
    let shown = path.display();
    let expected = format!(
        "{shown} does not exist: create it with `mkdir -m 0700 {shown}`, or mount the file system that belongs there"
    );
    assert_eq!(error.to_string(), expected);
    assert!(!path.exists());
    fs::write(&path, "").unwrap();
    let Err(error) = super::super::open(path.to_str().unwrap(), &Limits::default()) else { panic!() };
    assert_eq!(error.to_string(), format!("cannot open {shown}: Not a directory (os error 20)"));
}

#[test]
fn a_directory_that_left_its_place_in_the_middle_holds_nothing_that_counts() {
    let temporary = TempDir::new().unwrap();
    let (here, elsewhere) = (temporary.path().join("here"), temporary.path().join("elsewhere"));
    fs::create_dir(&here).unwrap();
    let mut directory = open(&here);
    let mut folder = begin(&mut directory, &crash(1), CORE);
    folder.file(CORE, &mut |sink| write_core(1, sink)).unwrap();
    // As when a file system is lazily unmounted, and the directory below it reappears.
    fs::rename(&here, &elsewhere).unwrap();
    fs::create_dir(&here).unwrap();
    let error = folder.finish(&json!({})).unwrap_err();
    assert!(matches!(error, StoreError::Moved { .. }), "{error}");
    assert_eq!(names_in(&here), [""; 0]);
    fs::remove_dir(&here).unwrap();
    fs::rename(&elsewhere, &here).unwrap();
    assert!(matches!(directory.begin(&crash(1), CORE, None), Ok(Begun::AlreadyThere(_))));
}

#[test]
fn the_crash_saved_longest_ago_goes_when_the_new_one_is_safe_whatever_the_clocks_say() {
    let temporary = TempDir::new().unwrap();
    let path = temporary.path();
    for foreign in ["linux-6.1", "web-1-2020-01-01T000000Z", ".web-1-2020-01-01T000000Z.partial.d"] {
        fs::create_dir(path.join(foreign)).unwrap();
        fs::write(path.join(foreign).join(CORE), "not ours").unwrap();
    }
    let mut saved = Vec::new();
    for (nonce, seconds) in
        [Some(1_700_000_000), Some(35), Some(90_000), Some(35), Some(9_000), Some(1_800_000_000)]
            .iter()
            .enumerate()
    {
        let crash = Crash { seconds: *seconds, ..crash(nonce as u64) };
        // Each in a separate run.
        let mut directory = Directory::open(path, &limits(3)).unwrap();
        let mut folder = begin(&mut directory, &crash, CORE);
        folder.file(CORE, &mut |sink| write_core(nonce as u64, sink)).unwrap();
        assert!(
            saved.iter().rev().take(3).all(|folder: &String| Path::new(folder).exists()),
            "gone too early"
        );
        let place = folder.finish(&json!({})).unwrap();
        assert_eq!(place.remarks, [""; 0]);
        saved.push(place.folder);
        let there: Vec<bool> = saved.iter().map(|folder| Path::new(folder).exists()).collect();
        let expected: Vec<bool> = (0..saved.len()).map(|index| index + 3 >= saved.len()).collect();
        assert_eq!(there, expected);
        if nonce == 0 {
            // A user's file in this one: it stays, and does not count.
            fs::write(path.join(NAME).join("my-notes.txt"), "").unwrap();
            saved.clear();
        }
    }
    assert_eq!(names_in(path).iter().filter(|name| name.starts_with("web")).count(), 5);
    for kept in [
        "linux-6.1/vmcore.elf",
        "web-1-2020-01-01T000000Z/vmcore.elf",
        ".web-1-2020-01-01T000000Z.partial.d/vmcore.elf",
    ] {
        assert!(path.join(kept).exists(), "{kept}");
    }
    assert!(path.join(NAME).join("my-notes.txt").exists());
    assert_eq!(fs::read_link(path.join("latest")).unwrap(), Path::new("web-1-2027-01-15T080000Z"));
}

#[test]
fn kept_crashes_take_no_more_than_their_share_and_other_hosts_keep_theirs() {
    let temporary = TempDir::new().unwrap();
    // Hours apart, so that each is a row of its own.
    let crash = |host: &str, number: u64| Crash {
        host: host.to_owned(),
        seconds: Some(1_700_000_000 + number * 10_000),
        ..crash(number)
    };
    let all = || names_in(temporary.path()).len() - 1;
    for number in 0..4 {
        for host in ["a", "b"] {
            store_as(&mut open(temporary.path()), &crash(host, number), CORE).unwrap();
        }
    }
    assert_eq!(all(), 8);
    let run = |limit, number| {
        let limits = Limits { max_used: limit, ..Limits::default() };
        store_as(&mut Directory::open(temporary.path(), &limits).unwrap(), &crash("a", number), CORE)
            .unwrap();
    };
    run(MaxUsed::Percent(100), 4);
    assert_eq!(all(), 9);
    run(MaxUsed::Bytes(0), 5);
    let left: Vec<String> =
        names_in(temporary.path()).into_iter().filter(|name| name.starts_with("a-")).collect();
    assert_eq!(left, [names::folder(&crash("a", 5))]);
    assert_eq!(all(), 5, "those of the other host");
}

#[test]
fn no_crash_is_removed_for_one_that_stays_on_its_partition_nor_one_of_the_same_run() {
    let temporary = TempDir::new().unwrap();
    let run = |nonces: &[u64], stays| {
        let mut directory = Directory::open(temporary.path(), &limits(1)).unwrap();
        let mut folders = Vec::new();
        for nonce in nonces {
            let mut folder = begin(&mut directory, &Crash { stays, ..crash(*nonce) }, CORE);
            folder.file(CORE, &mut |sink| write_core(*nonce, sink)).unwrap();
            folders.push(folder.finish(&json!({})).unwrap().folder);
        }
        folders
    };
    let first = run(&[1, 2], false);
    assert!(first.iter().all(|folder| Path::new(folder).exists()), "removed by the run that made it");
    let staying = run(&[3], true);
    assert!(
        first.iter().chain(&staying).all(|folder| Path::new(folder).exists()),
        "removed for one that stays"
    );
    let last = run(&[4], false);
    let gone = [&first[1], &staying[0]];
    assert!(!gone.into_iter().any(|folder| Path::new(folder).exists()), "too many are kept");
    assert!(Path::new(&first[0]).exists(), "the first of a row stays");
    assert!(Path::new(&last[0]).exists());
}

#[test]
fn what_a_killed_run_left_is_removed_unless_somebody_still_holds_it() {
    let temporary = TempDir::new().unwrap();
    let left = temporary.path().join(names::partial(NAME));
    fs::create_dir(&left).unwrap();
    fs::write(left.join(CORE), "half").unwrap();
    let (mut one, mut other) = (open(temporary.path()), open(temporary.path()));
    let mut held = begin(&mut one, &crash(1), CORE);
    held.file(CORE, &mut |sink| write_core(1, sink)).unwrap();
    assert_eq!(names_in(&left), [CORE]);
    // While one is being filled, the other gets a different name.
    assert!(store(&mut other, 2).folder.ends_with(NAME));
    let place = held.finish(&json!({})).unwrap();
    assert!(place.folder.ends_with("Z-2"));
    assert_eq!(nonce_of(Path::new(&place.folder)), 1);
    assert_eq!(names_in(temporary.path()), ["latest".to_owned(), NAME.to_owned(), format!("{NAME}-2")]);
}

#[test]
fn without_locks_nothing_is_taken_for_left_behind() {
    let temporary = TempDir::new().unwrap();
    let left = temporary.path().join(names::partial(NAME));
    fs::create_dir(&left).unwrap();
    let mut directory = open(temporary.path());
    directory.abilities.locks = false;
    let place = store(&mut directory, 1);
    assert!(place.folder.ends_with(NAME));
    assert_eq!(place.remarks.len(), 1, "{:?}", place.remarks);
    assert!(place.remarks[0].contains("no locks to tell"));
    assert!(left.exists());
}

#[test]
fn what_the_clock_says_does_not_decide_what_latest_is() {
    let temporary = TempDir::new().unwrap();
    let mut directory = open(temporary.path());
    store(&mut directory, 1);
    let place = store_as(&mut directory, &Crash { seconds: Some(35), ..crash(2) }, CORE).unwrap();
    store(&mut directory, 1);
    let latest = fs::read_link(temporary.path().join("latest")).unwrap();
    assert_eq!(temporary.path().join(latest).display().to_string(), place.folder);
    fs::remove_file(temporary.path().join("latest")).unwrap();
    fs::create_dir(temporary.path().join("latest")).unwrap();
    let place = store(&mut directory, 3);
    assert!(place.remarks[0].contains("latest to the crash: File exists"), "{:?}", place.remarks);
}

proptest! {
    #[test]
    fn a_rename_never_replaces_anything(at_once: bool, there in 0..4) {
        let temporary = TempDir::new().unwrap();
        let mut directory = open(temporary.path());
        directory.abilities.no_replace = at_once;
        let (from, to) = (temporary.path().join("from"), temporary.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("new"), "").unwrap();
        match there {
            0 => {}
            1 => fs::write(&to, "old").unwrap(),
            2 => symlink("nowhere", &to).unwrap(),
            _ => fs::create_dir(&to).unwrap(),
        }
        let result = directory.rename("from", "to");
        if there == 0 {
            prop_assert_eq!(result, Ok(()));
            prop_assert!(to.join("new").exists() && !from.exists());
        } else {
            prop_assert_eq!(result, Err(Errno::EXIST));
            prop_assert!(from.join("new").exists() && !to.join("new").exists());
        }
    }
}

#[test]
fn many_at_once_share_a_directory() {
    let temporary = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        for nonce in 0..8 {
            let path = temporary.path();
            scope.spawn(move || {
                let mut directory = open(path);
                for round in 0..8 {
                    store(&mut directory, round * 8 + nonce);
                }
            });
        }
    });
    let mut nonces: Vec<u64> = names_in(temporary.path())
        .iter()
        .filter(|name| *name != "latest")
        .map(|name| nonce_of(&temporary.path().join(name)))
        .collect();
    nonces.sort_unstable();
    assert_eq!(nonces, (0..64).collect::<Vec<u64>>());
}

/// This test's own program, to run the test `name` in a separate process.
fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("store::directory::tests::{name}"), "--exact", "--nocapture"]);
    command
}

#[test]
fn a_run_that_is_killed_leaves_whole_folders_and_nothing_that_lasts() {
    if let Some(path) = std::env::var_os(CHILD) {
        let mut directory = Directory::open(Path::new(&path), &limits(3)).unwrap();
        println!("storing");
        for nonce in 0.. {
            store(&mut directory, nonce);
        }
    }
    let temporary = TempDir::new().unwrap();
    let mut killed_in_the_middle = 0;
    for round in 0..30_u64 {
        let mut child = again("a_run_that_is_killed_leaves_whole_folders_and_nothing_that_lasts")
            .env(CHILD, temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = Vec::new();
        let mut output = child.stdout.take().unwrap();
        while !told.ends_with(b"storing\n") {
            let mut byte = [0];
            output.read_exact(&mut byte).unwrap();
            told.push(byte[0]);
        }
        std::thread::sleep(std::time::Duration::from_micros(round * 1307));
        child.kill().unwrap();
        child.wait().unwrap();
        let names = names_in(temporary.path());
        killed_in_the_middle += usize::from(names.iter().any(|name| name.ends_with(".partial")));
        for name in names.iter().filter(|name| name.starts_with("web-1")) {
            let folder = temporary.path().join(name);
            let info: Value = serde_json::from_slice(&fs::read(folder.join("info.json")).unwrap()).unwrap();
            let nonce = u64::from_str_radix(info["stored"]["nonce"].as_str().unwrap(), 16).unwrap();
            assert_eq!(nonce_of(&folder), nonce);
            assert_eq!(names_in(&folder), ["dmesg.txt", "info.json", CORE]);
        }
    }
    assert!(killed_in_the_middle > 0);
    store(&mut Directory::open(temporary.path(), &limits(3)).unwrap(), u64::MAX);
    let names = names_in(temporary.path());
    assert!(names.len() <= 4 && !names.iter().any(|name| name.starts_with('.')), "{names:?}");
}

#[test]
fn what_a_crash_says_of_itself_is_read_once_however_many_are_saved_after_it() {
    let temporary = TempDir::new().unwrap();
    let mut before = open(temporary.path());
    for nonce in 1..=20 {
        store(&mut before, nonce);
    }
    let mut directory = Directory::open(temporary.path(), &limits(25)).unwrap();
    for nonce in 21..=40 {
        store(&mut directory, nonce);
    }
    // All have the same host and second, so any of them might match by its name.
    assert!(directory.read.get() <= 20 + 2 * 20, "{}", directory.read.get());
    let mut kept: Vec<u64> = names_in(temporary.path())
        .iter()
        .filter(|name| *name != LATEST)
        .map(|name| nonce_of(&temporary.path().join(name)))
        .collect();
    kept.sort_unstable();
    // The first of a row stays.
    assert_eq!(kept, [1].into_iter().chain(17..=40).collect::<Vec<u64>>());
}

#[test]
fn a_crash_into_which_somebody_put_a_file_after_it_was_looked_at_stays() {
    let temporary = TempDir::new().unwrap();
    let days_apart = |directory: &mut Directory, nonce: u64| {
        let crash = Crash { seconds: Some(1_700_000_000 + nonce * 86400), ..crash(nonce) };
        store_as(directory, &crash, CORE).unwrap()
    };
    let first: Vec<String> =
        (1..=2).map(|nonce| days_apart(&mut open(temporary.path()), nonce).folder).collect();
    let mut directory = Directory::open(temporary.path(), &limits(2)).unwrap();
    days_apart(&mut directory, 3);
    assert!(!Path::new(&first[0]).exists() && Path::new(&first[1]).exists());
    fs::write(Path::new(&first[1]).join("notes"), "mine").unwrap();
    let last = days_apart(&mut directory, 4);
    assert_eq!(last.remarks, [""; 0]);
    assert!(Path::new(&first[1]).join("notes").exists());
}

#[test]
fn more_crashes_are_kept_in_their_order_than_files_may_be_open() {
    if let Some(path) = std::env::var_os(CHILD) {
        let path = Path::new(&path);
        for nonce in 0..60 {
            store(&mut open(path), nonce);
        }
        assert_eq!(nonce_of(&path.join("latest")), 59);
        let place = store(&mut Directory::open(path, &limits(3)).unwrap(), 60);
        assert_eq!(place.remarks, [""; 0]);
        return;
    }
    let temporary = TempDir::new().unwrap();
    let child = again("more_crashes_are_kept_in_their_order_than_files_may_be_open");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$@\"", "sh"]).arg(child.get_program()).args(child.get_args());
    let output = command.env(CHILD, temporary.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let folders = names_in(temporary.path()).into_iter().filter(|name| name != "latest");
    let mut nonces: Vec<u64> = folders.map(|name| nonce_of(&temporary.path().join(name))).collect();
    nonces.sort_unstable();
    assert_eq!(nonces, [0, 59, 60]);
}

#[test]
fn a_file_system_that_fills_up_or_is_read_only_is_said_in_one_line_and_keeps_nothing() {
    if let Some(path) = std::env::var_os(CHILD) {
        let path = Path::new(&path);
        let mut directory = open(path);
        let mut folder = begin(&mut directory, &crash(1), CORE);
        let error = folder
            .file(CORE, &mut |sink| {
                (0..64_u64).try_for_each(|part| sink.write_at(part << 16, &[1; 1 << 16])).map_err(Error::Core)
            })
            .unwrap_err();
        let file = path.join(names::partial(NAME)).join(CORE);
        let expected = format!(
            "cannot write {}: No space left on device (os error 28); make room there, or store elsewhere",
            file.display()
        );
        assert_eq!(error.to_string(), expected);
        drop(folder);
        assert_eq!(names_in(path), [""; 0]);
        // What fits, fits.
        store(&mut directory, 2);
        let mount = Command::new("mount").args(["-o", "remount,ro"]).arg(path).status().unwrap();
        assert!(mount.success());
        let Err(error) = directory.begin(&crash(3), CORE, None) else { panic!() };
        let told = "Read-only file system (os error 30); mount it read-write, or store elsewhere";
        assert!(error.to_string().ends_with(told), "{error}");
        assert!(!error.to_string().contains('\n'));
        assert!(matches!(directory.begin(&crash(2), CORE, None), Ok(Begun::AlreadyThere(_))));
        return;
    }
    let temporary = TempDir::new().unwrap();
    let child = again("a_file_system_that_fills_up_or_is_read_only_is_said_in_one_line_and_keeps_nothing");
    let script = "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(temporary.path());
    command.arg(child.get_program()).args(child.get_args()).env(CHILD, temporary.path());
    let may_mount = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    if !may_mount.is_ok_and(|output| output.status.success()) {
        return eprintln!("no file system can be mounted here: not tried");
    }
    let output = command.output().unwrap();
    std::io::stderr().write_all(&output.stderr).unwrap();
    std::io::stdout().write_all(&output.stdout).unwrap();
    assert!(output.status.success());
}
