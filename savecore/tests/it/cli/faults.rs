//! What fails under savecore: every system call in turn; a store that is full, read-only or gone; a target
//! that is cut off while it is read; another savecore at the same time.
//!
//! One file: a list of independent tests.

use savecore::corefile::{CoreOptions, Format, Sink};
use savecore::harvest::{self, Harvest, Options};
use savecore::partition::Search;
use savecore::source::{Access, Progress};
use savecore::store::{self, Begun, Crash, Folder, Limits, Place as Stored, Room, Store, StoreError};
use savecore::targets::{TargetName, Targets};

use super::*;
use crate::common::Page;

pub(super) fn options() -> Options<'static> {
    Options {
        opener: None,
        format: Format::Elf,
        core: CoreOptions::default(),
        host: Some("h".to_owned()),
        own_host: None,
        machine: None,
        foreign: false,
        keep: None,
        clear_damaged: false,
        kernels: Vec::new(),
        report: false,
    }
}

fn harvest(
    image: &str,
    store: &mut dyn Store,
    progress: &mut dyn Progress,
) -> Result<Harvest, savecore::Error> {
    let name = TargetName::of(image);
    let mut targets = Targets::open(&[name], Access::Write, Search::Quick, None, None, progress)?;
    harvest::harvest(&mut targets, store, &options(), progress)
}

/// The core that an undisturbed run makes of a dump.
fn core_of(disk: &[u8]) -> Vec<u8> {
    let place = Place::new();
    let image = place.image("image", disk);
    assert_eq!(run(["save", &image, "-o", &place.out(), "--keep"]).0, 0);
    fs::read(place.path("out/latest/vmcore.elf")).unwrap()
}

/// The cores in the store's finished folders, each of which must be complete.
fn finished(place: &Place) -> Vec<Vec<u8>> {
    let Ok(_) = fs::read_dir(place.path("out")) else { return Vec::new() };
    let folders = place.crashes("out").into_iter();
    let finished = folders.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
    finished
        .map(|folder| {
            json(&fs::read_to_string(folder.join("info.json")).unwrap());
            fs::read(folder.join("vmcore.elf")).unwrap()
        })
        .collect()
}

#[test]
fn a_core_of_what_could_be_read_at_first_is_not_taken_for_the_dump_when_more_can_be_read() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    for damage in [&|disk: &mut Vec<u8>| disk.truncate(40 * BLOCK_SIZE), &|disk: &mut Vec<u8>| {
        block_mut(disk, 20).fill(7);
    }] as [&dyn Fn(&mut Vec<u8>); 2]
    {
        let place = Place::new();
        let mut less = disk.clone();
        damage(&mut less);
        let out = place.out();
        for bytes in [&less, &less, &disk] {
            let image = place.image("image", bytes);
            let (code, _, stderr) = run(["save", &image, "-o", &out, "--host", "h"]);
            assert_eq!(code, 0, "{stderr}");
        }
        let cores = finished(&place);
        assert!(cores.contains(&core), "the dump is gone, and what is left of it is a part");
        assert_eq!(cores.len(), 2, "the part was saved twice");
        assert!(fs::read(place.path("image")).unwrap() == formatted(200));
    }
}

/// System calls that can fail, each with an error.
const CALLS: &[(&str, &str)] = &[
    ("openat", "EMFILE"),
    ("mkdirat", "ENOSPC"),
    ("pread64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("read", "EIO"),
    ("ftruncate", "EIO"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("flock", "ENOLCK"),
    ("fstatfs", "EIO"),
    ("statx", "EIO"),
    ("fstat", "EIO"),
    ("newfstatat", "EACCES"),
    ("getdents64", "EIO"),
    ("lseek", "EIO"),
    ("renameat2", "EXDEV"),
    ("renameat2", "EINVAL"),
    ("renameat", "EIO"),
    ("unlinkat", "EACCES"),
    ("symlinkat", "EPERM"),
    ("ioctl", "EIO"),
    ("clone3", "EAGAIN"),
    ("mmap", "ENOMEM"),
    ("write", "EIO"),
];

#[test]
#[cfg_attr(sanitized, ignore = "fails calls that the sanitizer itself needs")]
fn whatever_system_call_fails_the_dump_stays_until_its_core_is_whole() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    let place = Place::new();
    let (image, out) = (place.text("image"), place.out());
    let arguments = ["save", &image, "-o", &out, "--host", "h", "--min-free", "0"];
    let mut failed = 0;
    for (call, error) in CALLS {
        for number in 1.. {
            let _ = fs::remove_dir_all(&out);
            fs::create_dir(&out).unwrap();
            place.image("image", &disk);
            let rule = format!("inject={call}:error={error}:when={number}");
            let Some(output) = traced(&place, &rule, arguments.map(str::to_owned).to_vec()) else { return };
            let injected = fs::read_to_string(place.path("trace")).unwrap().contains("(INJECTED)");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            // Without memory for anything, savecore can only abort.
            let aborts = *call == "mmap" || *call == "clone3";
            assert!(aborts || output.status.code().is_some(), "{rule}: {:?} {stderr}", output.status);
            assert!(aborts || !stderr.contains("panicked"), "{rule}: {stderr}");
            let after = fs::read(&image).unwrap();
            let whole = finished(&place).contains(&core);
            assert!(whole || after == disk, "{rule}: the dump is gone: {stderr}");
            let (code, _, stderr) = run(arguments);
            assert!(code <= 1, "{rule}: then {stderr}");
            assert!(finished(&place).contains(&core), "{rule}: no whole core in the end: {stderr}");
            assert!(fs::read(&image).unwrap() == formatted(200), "{rule}: not ready in the end: {stderr}");
            if !injected {
                break;
            }
            failed += 1;
        }
    }
    println!("{failed} system calls failed");
}

/// Runs savecore under strace, with faults in the calls on paths in the store `out`; `None` where nothing can
/// be traced.
fn with_faults_in_store(place: &Place, rules: &[&str], arguments: &[&str]) -> Option<(i32, String, String)> {
    let allowed = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: nothing can be traced here, or strace is missing");
        return None;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", &place.text("trace")]);
    let folder = "out/.h-2026-11-22T063242Z.partial";
    let files = ["vmcore.elf", "vmcore.kdump", "dmesg.txt", "info.json"];
    let files = files
        .iter()
        .flat_map(|file| [format!("{folder}/{file}"), format!("out/h-2026-11-22T063242Z/{file}")]);
    let folders = ["out", folder, "out/h-2026-11-22T063242Z"].map(str::to_owned);
    for path in folders.into_iter().chain(files) {
        command.args(["-P", &place.text(&path)]);
    }
    for rule in rules {
        command.args(["-e", &format!("inject={rule}")]);
    }
    command.arg(env!("CARGO_BIN_EXE_savecore")).args(arguments).stdin(Stdio::null());
    Some(finish(command.output().unwrap()))
}

#[test]
fn what_a_file_system_cannot_sync_is_saved_and_freed_when_all_of_it_was_synced_instead() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    for error in ["EINVAL", "EBADF", "ENOSYS", "EOPNOTSUPP"] {
        let place = Place::new();
        let (image, out) = (place.image("image", &disk), place.out());
        let save = ["save", &image, "-o", &out, "--host", "h", "--min-free", "0"];
        let fsync = format!("fsync:error={error}");
        let Some((code, stdout, stderr)) = with_faults_in_store(&place, &[&fsync], &save) else { return };
        assert_eq!(code, 0, "{error}: {stderr}");
        assert!(stdout.contains("cleared on"), "{stdout}");
        assert_eq!(stderr.matches("was synced instead").count(), 1, "{stderr}");
        assert!(fs::read_to_string(place.path("trace")).unwrap().contains("(INJECTED)"));
        assert!(finished(&place) == [core.clone()]);
        assert!(fs::read(&image).unwrap() == formatted(200));

        // The next run finds the core, as if the last one had been killed before it freed the dump.
        place.image("image", &disk);
        let (code, stdout, stderr) = with_faults_in_store(&place, &[&fsync], &save).unwrap();
        assert_eq!(code, 0, "{error}: {stderr}");
        assert!(stdout.contains("already saved in"), "{stdout}");
        assert!(fs::read(&image).unwrap() == formatted(200));
    }
}

#[test]
fn what_cannot_be_synced_at_all_is_saved_and_the_dump_stays() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    let place = Place::new();
    let (image, out) = (place.image("image", &disk), place.out());
    let save = ["save", &image, "-o", &out, "--host", "h", "--min-free", "0", "--max-kept", "1"];
    let rules = ["fsync:error=EINVAL", "syncfs:error=EINVAL"];
    for saved in ["dump 1 saved in", "dump 1 already saved in"] {
        let Some((code, stdout, stderr)) = with_faults_in_store(&place, &rules, &save) else { return };
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(saved), "{stdout}");
        assert!(
            stdout.contains("cannot be synced (Invalid argument (os error 22)), so a power failure"),
            "{stdout}"
        );
        assert!(finished(&place) == [core.clone()]);
        assert!(fs::read(&image).unwrap() == disk, "freed, though it may be lost");
    }
    for (call, error) in [("fsync", "EIO"), ("fsync", "ENOSPC"), ("fsync", "EDQUOT")] {
        let other = with_dump(&Machine { nonce: 9, ..Machine::small() });
        place.image("image", &other);
        let rule = format!("{call}:error={error}");
        let (code, _, stderr) = with_faults_in_store(&place, &[&rule], &save).unwrap();
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.contains("cannot make safe"), "{stderr}");
        assert!(fs::read(&image).unwrap() == other, "{error}: freed");
        // The next run finds the folder that got its name just before that, and makes it safe.
        let (code, _, stderr) = run(save);
        assert_eq!(code, 0, "{error}: {stderr}");
        assert!(fs::read(&image).unwrap() == formatted(200), "{error}: {stderr}");
    }
}

/// Errors from file systems and servers, in calls on the store, that must not keep a dump from being saved.
const TOLERATED: &[(&str, &[&str])] = &[
    ("flock", &["EOPNOTSUPP", "ENOLCK", "ENOSYS", "EBADF", "EINVAL", "EIO", "EACCES"]),
    ("renameat2", &["EINVAL", "ENOSYS", "EOPNOTSUPP", "EPERM", "ENOTTY"]),
    ("symlinkat", &["EPERM", "EOPNOTSUPP", "ENOSYS", "EACCES", "EIO", "ENOSPC", "EDQUOT"]),
    ("fstatfs", &["ENOSYS", "EIO", "EACCES"]),
    ("ftruncate", &["EINVAL", "EPERM", "EOPNOTSUPP", "ENOSYS"]),
    ("fadvise64", &["EINVAL", "ENOSYS", "ESPIPE", "EIO"]),
    ("pwrite64", &["EINTR:when=1+3"]),
    ("fsync", &["EINTR:when=1+2"]),
];

#[test]
fn what_a_file_system_lacks_keeps_no_dump_from_being_saved() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    for (call, errors) in TOLERATED {
        for error in *errors {
            let place = Place::new();
            let (image, out) = (place.image("image", &disk), place.out());
            let save = ["save", &image, "-o", &out, "--host", "h", "--min-free", "0"];
            let rule = format!("{call}:error={error}");
            let Some((code, _, stderr)) = with_faults_in_store(&place, &[&rule], &save) else { return };
            assert_eq!(code, 0, "{rule}: {stderr}");
            assert!(finished(&place) == [core.clone()], "{rule}: {stderr}");
            assert!(fs::read(&image).unwrap() == formatted(200), "{rule}: {stderr}");
        }
    }
}

/// Errors that mean that the store takes no more, with the advice for the user, in each call that can return
/// them.
const REFUSED: &[(&str, &str, &str)] = &[
    ("mkdirat", "ENOSPC", "make room there"),
    ("mkdirat", "EROFS", "mount it read-write"),
    ("mkdirat", "EACCES", "savecore must be allowed to write there"),
    ("openat", "EDQUOT", "raise the quota"),
    ("pwrite64", "ENOSPC", "make room there"),
    ("pwrite64", "EDQUOT", "raise the quota"),
    ("pwrite64", "EROFS", "mount it read-write"),
    ("pwrite64", "ESTALE", "mount it again"),
    ("pwrite64", "ENOTCONN", "mount it again"),
    ("pwrite64", "EIO", "the medium or the server is faulty"),
    ("fsync", "ENOSPC", "make room there"),
    ("fsync", "ESTALE", "mount it again"),
];

#[test]
fn a_store_that_takes_no_more_is_told_in_one_line_with_what_to_do_and_costs_no_dump() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    for (call, error, told) in REFUSED {
        for number in 1.. {
            let place = Place::new();
            let (image, out) = (place.image("image", &disk), place.out());
            let save = ["save", &image, "-o", &out, "--host", "h", "--min-free", "0"];
            let rule = format!("{call}:error={error}:when={number}+");
            let Some((code, _, stderr)) = with_faults_in_store(&place, &[&rule], &save) else { return };
            if code == 0 {
                assert!(number > 1, "{rule}: nothing failed");
                assert!(finished(&place) == [core.clone()], "{rule}");
                break;
            }
            assert_eq!((code, stderr.lines().count()), (2, 1), "{rule}: {stderr}");
            assert!(stderr.contains(told), "{rule}: {stderr}");
            assert!(fs::read(&image).unwrap() == disk, "{rule}: {stderr}");
        }
    }
}

#[test]
fn room_that_may_do_is_tried_and_only_what_surely_does_not_fit_is_refused() {
    let mut machine = Machine::new();
    machine.pages.extend((0..1500).map(|pfn| (pfn, Page::dull(pfn))));
    machine.chunk_pages = 100;
    let mut disk = formatted(1800);
    write_dump(&mut disk, 1, &machine);
    let place = Place::new();
    place.image("image", &disk);
    place.out();
    let save = |size: &str, format: &[&str]| {
        place.image("image", &disk);
        let script = format!("mount -t tmpfs -o size={size} none out");
        let arguments = ["save", "image", "-o", "out", "--min-free", "0", "--host", "h"];
        in_namespace(&place, &script, &[&arguments, format].concat())
    };
    // Its pages take 6 MiB uncompressed.
    let Some((code, _, stderr)) = save("1m", &["--format", "kdump"]) else { return };
    assert_eq!(code, 0, "a kdump fits: {stderr}");
    for (size, format, told) in [
        (
            "1m",
            "elf",
            "has 1.0 MiB free, and at least 5.9 MiB are needed: make room there, or store elsewhere; with the format kdump",
        ),
        (
            "100k",
            "kdump",
            "No space left on device (os error 28); make room there, or store elsewhere; with the format raw it takes 5.9 MiB",
        ),
        ("1m", "raw", "has 1.0 MiB free, and at least 5.9 MiB are needed: make room there"),
    ] {
        let (code, _, stderr) = save(size, &["--format", format]).unwrap();
        assert_eq!((code, stderr.lines().count()), (2, 1), "{format}: {stderr}");
        assert!(stderr.contains(told), "{format}: {stderr}");
        assert!(fs::read(place.path("image")).unwrap() == disk, "{format}");
    }
}

#[test]
fn a_store_that_takes_no_file_as_long_as_the_elf_core_gets_a_kdump() {
    let mut machine = Machine::new();
    machine.pages.extend((0..300).map(|pfn| (pfn, Page::dull(pfn))));
    let mut disk = formatted(500);
    write_dump(&mut disk, 1, &machine);
    let place = Place::new();
    let (image, out) = (place.image("image", &disk), place.out());
    // As on FAT, where the limit is 4 GiB.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' XFSZ; ulimit -f 1000; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_savecore"),
        "save",
    ]);
    // The limit holds for the image, too, but that is not written.
    let (code, stdout, stderr) = finish(command.args([&image, "-o", &out, "--keep"]).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("saved as kdump: ") && stderr.contains("does not allow a file as long"),
        "{stderr}"
    );
    assert!(stdout.contains("vmcore.kdump") && !stdout.contains("vmcore.elf"), "{stdout}");
    assert!(fs::read(&image).unwrap() == disk);
    assert_eq!(place.cores("out").len(), 2, "the core and the log");
}

/// Follows the progress of a harvest, and does something at one moment.
struct Saboteur<F: FnMut()> {
    /// Calls before that moment.
    left: u32,
    deed: F,
}

impl<F: FnMut()> Saboteur<F> {
    fn step(&mut self) {
        if self.left == 1 {
            (self.deed)();
        }
        self.left = self.left.saturating_sub(1);
    }
}

impl<F: FnMut()> Progress for Saboteur<F> {
    fn begin(&mut self, _what: &str, _total: u64) {
        self.step();
    }

    fn advance(&mut self, _blocks: u64) {
        self.step();
    }

    fn end(&mut self) {
        self.step();
    }
}

/// Runs harvests in which `deed` is done at each moment in turn; `check` sees the result.
fn sabotage(
    disk: &[u8],
    deed: impl Fn(&Place),
    check: impl Fn(&Place, Result<Harvest, savecore::Error>),
) -> u32 {
    for moment in 1.. {
        let place = Place::new();
        let image = place.image("image", disk);
        let mut store = store::open(&place.out(), &Limits::default()).unwrap();
        let mut saboteur = Saboteur { left: moment, deed: || deed(&place) };
        let result = harvest(&image, store.as_mut(), &mut saboteur);
        let over = saboteur.left > 0;
        check(&place, result);
        if over {
            return moment;
        }
    }
    unreachable!("every harvest ends")
}

#[test]
fn a_store_that_is_moved_replaced_or_removed_in_the_middle_costs_no_dump() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    let away = |place: &Place| fs::rename(place.path("out"), place.path("away")).unwrap();
    let deeds: [&dyn Fn(&Place); 4] = [
        &away,
        &|place| {
            away(place);
            fs::create_dir(place.path("out")).unwrap();
        },
        &|place| {
            away(place);
            std::os::unix::fs::symlink("/", place.path("out")).unwrap();
        },
        &|place| fs::remove_dir_all(place.path("out")).unwrap(),
    ];
    for deed in deeds {
        let moments = sabotage(&disk, deed, |place, result| {
            let after = fs::read(place.path("image")).unwrap();
            if after == disk {
                return;
            }
            // It happened after the core was safe.
            assert!(result.is_ok());
            let kept = ["out", "away"].map(|name| fs::read(place.path(name).join("latest/vmcore.elf")));
            let removed = !place.path("out").exists() && !place.path("away").exists();
            assert!(removed || kept.iter().flatten().any(|bytes| *bytes == core), "the dump is gone");
        });
        assert!(moments > 5, "{moments}");
    }
}

#[test]
fn a_target_that_is_cut_off_while_it_is_read_is_not_written_and_does_not_grow() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    for blocks in [0, 1, 3, 20, 60, 150] {
        let length = blocks * BLOCK_SIZE as u64;
        let cut = |place: &Place| {
            let file = OpenOptions::new().write(true).open(place.path("image")).unwrap();
            file.set_len(length).unwrap();
        };
        sabotage(&disk, cut, |place, result| {
            let after = fs::read(place.path("image")).unwrap();
            let whole = finished(place).contains(&core);
            let untouched = after == disk[..after.len()];
            assert!(whole || untouched, "cut to {blocks} blocks: {:?}", result.map(|done| done.dumps));
        });
    }
}

/// Called before each step of a store: looks at the target first, then may fail.
type Step<'f> = &'f dyn Fn() -> std::io::Result<()>;

struct FailingFolder<'f> {
    inner: Box<dyn Folder + 'f>,
    steps: Step<'f>,
}

struct FailingSink<'f> {
    inner: &'f mut dyn Sink,
    steps: Step<'f>,
}

impl Sink for FailingSink<'_> {
    fn begin(&mut self, head: u64, length: Option<u64>) -> std::io::Result<()> {
        (self.steps)()?;
        self.inner.begin(head, length)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        (self.steps)()?;
        self.inner.write_at(offset, bytes)
    }

    fn set_len(&mut self, length: u64) -> std::io::Result<()> {
        (self.steps)()?;
        self.inner.set_len(length)
    }
}

fn unreachable_store(error: std::io::Error) -> StoreError {
    StoreError::Io { what: "reach", path: "the store".to_owned(), error }
}

impl Folder for FailingFolder<'_> {
    fn file(
        &mut self,
        name: &str,
        write: &mut dyn FnMut(&mut dyn Sink) -> Result<(), savecore::Error>,
    ) -> Result<(), StoreError> {
        (self.steps)().map_err(unreachable_store)?;
        let steps = self.steps;
        self.inner.file(name, &mut |sink| write(&mut FailingSink { inner: sink, steps }))
    }

    fn finish(self: Box<Self>, info: &Value) -> Result<Stored, StoreError> {
        (self.steps)().map_err(unreachable_store)?;
        self.inner.finish(info)
    }
}

/// A store that works until it does not.
struct FailingStore<'f> {
    inner: Box<dyn Store>,
    steps: Step<'f>,
}

impl Store for FailingStore<'_> {
    fn name(&self) -> &str {
        "a store that fails"
    }

    fn begin(&mut self, crash: &Crash, core: &str, room: Option<Room>) -> Result<Begun<'_>, StoreError> {
        (self.steps)().map_err(unreachable_store)?;
        let steps = self.steps;
        Ok(match self.inner.begin(crash, core, room)? {
            Begun::New(inner) => Begun::New(Box::new(FailingFolder { inner, steps })),
            there => there,
        })
    }
}

#[test]
fn nothing_is_written_on_the_target_before_the_store_has_all_whatever_step_of_it_fails() {
    let disk = with_dump(&Machine::small());
    for works in 0_u32.. {
        let place = Place::new();
        let image = place.image("image", &disk);
        let left = std::cell::Cell::new(works);
        let failed = std::cell::Cell::new(false);
        let steps = || {
            assert!(fs::read(place.path("image")).unwrap() == disk, "the target was written too early");
            match left.get().checked_sub(1) {
                Some(fewer) => {
                    left.set(fewer);
                    Ok(())
                }
                None => {
                    failed.set(true);
                    Err(std::io::ErrorKind::TimedOut.into())
                }
            }
        };
        let inner = store::open(&place.out(), &Limits::default()).unwrap();
        let mut store = FailingStore { inner, steps: &steps };
        let done = harvest(&image, &mut store, &mut ()).unwrap();
        let saved = &done.dumps[0];
        if !failed.get() {
            assert!(works > 8 && saved.error.is_none() && saved.cleared);
            assert!(fs::read(&image).unwrap() == formatted(200));
            return;
        }
        assert!(saved.error.is_some() && !saved.cleared && saved.folder.is_none(), "{works}: {saved:?}");
        assert_eq!(saved.kept_because.as_deref(), Some("it could not be saved"));
        assert!(fs::read(&image).unwrap() == disk);
        assert!(place.crashes("out").is_empty(), "{works}: something is left over");
    }
}

/// Runs savecore in its own mount namespace after `script`; `None` where that is not allowed.
pub(super) fn in_namespace(place: &Place, script: &str, arguments: &[&str]) -> Option<(i32, String, String)> {
    let script = format!("set -e; {script}; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_savecore")]);
    command.args(arguments).current_dir(place.path("")).stdin(Stdio::null());
    let allowed = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces for mounts here");
        return None;
    }
    Some(finish(command.output().unwrap()))
}

#[test]
fn a_full_store_is_told_and_costs_no_dump() {
    let disk = with_dump(&Machine::small());
    let place = Place::new();
    place.image("image", &disk);
    place.out();
    for (size, part) in [
        // Less than the dump needs; enough, but not with the space that must stay free; too few inodes for
        // all files.
        ("size=100k", "has 100.0 KiB free, and at least"),
        ("size=40m", "that must stay free, are needed"),
        ("size=200m,nr_inodes=3", "No space left on device"),
        ("size=200m,nr_inodes=4", "No space left on device"),
    ] {
        let script = format!("mount -t tmpfs -o {size} none out");
        let save = ["save", "image", "-o", "out"];
        let Some((code, stdout, stderr)) = in_namespace(&place, &script, &save) else { return };
        assert_eq!((code, stdout.as_str()), (2, ""), "{size}: {stderr}");
        assert!(stderr.contains(part), "{size}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(fs::read(place.path("image")).unwrap() == disk, "{size}");
    }
}

#[test]
fn a_file_that_may_not_grow_any_more_is_told_and_costs_no_dump() {
    let disk = with_dump(&Machine::small());
    let place = Place::new();
    place.image("image", &disk);
    let out = place.out();
    for kibibytes in ["0", "4", "20"] {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_savecore"), "save", &place.text("image")]);
        let (code, _, stderr) = finish(command.args(["-o", &out]).output().unwrap());
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.contains("File too large"), "{stderr}");
        assert!(fs::read(place.path("image")).unwrap() == disk);
        assert!(place.crashes("out").is_empty());
    }
}

#[test]
fn a_store_that_is_read_only_is_told_and_costs_no_dump() {
    let disk = with_dump(&Machine::small());
    let place = Place::new();
    place.image("image", &disk);
    place.out();
    let script = "mount -t tmpfs -o ro none out";
    let Some((code, _, stderr)) = in_namespace(&place, script, &["save", "image", "-o", "out"]) else {
        return;
    };
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("Read-only file system"), "{stderr}");
    assert!(fs::read(place.path("image")).unwrap() == disk);
}

#[test]
fn a_dump_on_a_medium_that_is_read_only_is_saved_and_stays_and_whoever_would_write_is_told_why_not() {
    let disk = with_dump(&Machine::small());
    let place = Place::new();
    place.image("image", &disk);
    place.out();
    fs::create_dir(place.path("medium")).unwrap();
    let script = "mount -t tmpfs none medium; cp image medium/; mount -o remount,ro none medium";
    let run = |arguments: &[&str]| in_namespace(&place, script, arguments);
    let image = "medium/image";
    for saved in ["dump 1 saved in", "dump 1 already saved in"] {
        let Some((code, stdout, stderr)) = run(&["save", image, "-o", "out"]) else { return };
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(saved), "{stdout}");
        let why = "not cleared on medium/image: medium/image cannot be written: Read-only file system";
        assert!(stdout.contains(why), "{stdout}");
    }
    assert_eq!(finished(&place), [core_of(&disk)]);
    for arguments in [&["clear", image, "--yes"][..], &["format", image, "--yes", "--force"]] {
        let Some((code, stdout, stderr)) = run(arguments) else { return };
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
        assert!(stderr.contains("cannot open medium/image: Read-only file system"), "{stderr}");
    }
}

#[test]
fn on_a_clock_that_was_never_set_folders_still_have_names() {
    let place = Place::new();
    let out = place.out();
    for (clock, folder) in [
        (0, "h-unknown-1122334455667788"),
        (35, "h-1970-01-01T000035Z"),
        (u64::MAX, "h-unknown-1122334455667788"),
    ] {
        let machine = Machine { wall_clock: clock, ..Machine::small() };
        let image = place.image("image", &with_dump(&machine));
        let _ = fs::remove_dir_all(&out);
        place.out();
        assert_eq!(run(["save", &image, "-o", &out, "--host", "h"]).0, 0);
        let names = place.crashes("out");
        assert_eq!(names, [place.path("out").join(folder)], "{clock}");
        assert_eq!(run(["info", &place.image("image", &with_dump(&machine))]).0, 0);
    }
}

#[test]
fn of_several_savecores_at_once_on_a_target_one_saves_and_the_others_find_nothing_half_done() {
    let disk = with_dump(&Machine::small());
    let core = core_of(&disk);
    for _ in 0..5 {
        let place = Place::new();
        let image = place.image("image", &disk);
        let out = place.out();
        let start = |_| {
            let mut command = savecore(["save", &image, "-o", &out, "--host", "h"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..4).map(start).collect();
        let results: Vec<_> =
            children.into_iter().map(|child| finish(child.wait_with_output().unwrap())).collect();
        let codes = results.iter().filter(|result| result.0 == 0).count();
        assert_eq!(codes, 1, "{results:?}");
        for (code, _, stderr) in results {
            assert!(code < 2 || stderr.contains("working on"), "{code}: {stderr}");
        }
        assert!(fs::read(&image).unwrap() == formatted(200));
        assert!(finished(&place) == [core.clone()]);
    }
}

#[test]
fn several_savecores_at_once_fill_folders_of_their_own_in_one_store() {
    let place = Place::new();
    let out = place.out();
    let cores: Vec<Vec<u8>> = (0..6)
        .map(|nonce| {
            let machine = Machine { nonce, message: format!("crash {nonce}"), ..Machine::small() };
            let disk = with_dump(&machine);
            place.image(&format!("image{nonce}"), &disk);
            core_of(&disk)
        })
        .collect();
    let start = |number| {
        let mut command =
            savecore(["save", &place.text(&format!("image{number}")), "-o", &out, "--host", "h"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..6).map(start).collect();
    for child in children {
        let (code, _, stderr) = finish(child.wait_with_output().unwrap());
        assert_eq!(code, 0, "{stderr}");
    }
    let saved = finished(&place);
    assert_eq!(saved.len(), 6);
    assert!(cores.iter().all(|core| saved.contains(core)));
    assert_eq!(place.crashes("out").len(), 6, "something is left over");
    let latest = fs::read(place.path("out/latest/vmcore.elf")).unwrap();
    assert!(cores.contains(&latest));
}
