//! The command, run as a person or a boot script runs it.
//!
//! One file: a list of independent tests.

mod arm;
mod boot;
mod drill;
mod encrypted;
mod faults;
mod hostile;
mod in_use;
mod install;
mod keys;
mod kill;
mod live;
mod owner;
mod pages;
mod raw;
mod report;
mod sources;
mod stripes;
mod tables;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use dumpcore::format::BLOCK_SIZE;
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition_types::LINUX_FS;
use savecore::partition::{self, Verdict};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Machine, block_mut, partition as formatted, stop_in_the_middle, write_dump};
use crate::core::Core;
use crate::linux::MACHINE;

fn savecore<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savecore"));
    command.args(arguments).stdin(Stdio::null()).env_remove("CLICOLOR_FORCE");
    command
}

/// Runs the command and checks what holds for every run: no escape codes in a pipe, and on standard error
/// only whole lines that begin with the command's name.
fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> (i32, String, String) {
    finish(savecore(arguments).output().unwrap())
}

fn finish(output: Output) -> (i32, String, String) {
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "{stdout}{stderr}");
    for line in stderr.lines() {
        assert!(line.starts_with("savecore: error: ") || line.starts_with("savecore: warning: "), "{line}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code().expect("no signal"), stdout, stderr)
}

/// Runs the command, which must fail with one line that contains `part`.
fn fails<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, part: &str) {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(part), "{stderr} should contain {part}");
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The machine of the root `system`, which `--system` names.
    fn machine(&self) -> savecore::ownership::Machine {
        fs::create_dir_all(self.path("system/etc")).unwrap();
        fs::write(self.path("system/etc/machine-id"), MACHINE).unwrap();
        savecore::ownership::Machine::from_text(MACHINE).unwrap()
    }

    /// Writes an image file.
    fn image(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// Everything in a store except the link to the latest: the crash folders, and whatever else is there.
    fn crashes(&self, directory: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(directory)).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = entries.filter(|path| !path.ends_with("latest")).collect();
        names.sort();
        names
    }

    /// All files of all crash folders except info.json, which each folder must have.
    fn cores(&self, directory: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in self.crashes(directory) {
            let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            let (info, mut others): (Vec<_>, Vec<_>) = entries.partition(|path| path.ends_with("info.json"));
            assert_eq!(info.len(), 1, "{}", folder.display());
            others.sort();
            files.append(&mut others);
        }
        files
    }

    fn out(&self) -> String {
        fs::create_dir_all(self.path("out")).unwrap();
        self.text("out")
    }
}

/// Gives savecore its own PID namespace: it looks at every process, which takes a system call or more for
/// each.
const FEW: [&str; 4] = ["--map-root-user", "--pid", "--fork", "--mount-proc"];

/// Whether such a namespace is allowed here.
fn among_few() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        let tried = Command::new("unshare").args(FEW).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    })
}

/// Runs the command under strace with one of its fault rules; the trace goes to the file `trace`. Returns
/// `None` where there is no strace, or where it may not trace.
fn traced(place: &Place, rule: &str, arguments: Vec<String>) -> Option<Output> {
    let mut command = match among_few() {
        true => {
            let mut command = Command::new("unshare");
            command.args(FEW).arg("strace");
            command
        }
        false => Command::new("strace"),
    };
    let kinds = format!("trace={}", rule.strip_prefix("inject=").unwrap().split(':').next().unwrap());
    command.args(["-f", "-qq", "-o", &place.text("trace"), "-e", &kinds, "-e", rule]);
    command.arg(env!("CARGO_BIN_EXE_savecore")).args(arguments).stdin(Stdio::null());
    let allowed = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: nothing can be traced here, or strace is missing");
        return None;
    }
    Some(command.output().unwrap())
}

fn with_dump(machine: &Machine) -> Vec<u8> {
    let mut disk = formatted(200);
    write_dump(&mut disk, 1, machine);
    disk
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn every_bad_argument_and_bad_target_is_one_line_and_exit_code_2() {
    let place = Place::new();
    let image = place.image("image", &vec![7; 100_000]);
    let small = place.image("small", &vec![0; 5 * BLOCK_SIZE - 1]);
    let directory = place.text("");
    let out = place.out();
    fails::<&str>([], "format, adopt, list, check, info, report, save, clear, arm, disarm, armed, boot");
    fails(["frobnicate"], "frobnicate");
    fails(["check", &image, "--colour"], "--colour");
    fails(["format"], "<TARGET>");
    fails(["check", "/nonexistent/disk"], "cannot open /nonexistent/disk: No such file");
    fails(["check", &directory], "neither a file nor a block device");
    fails(["info", "/dev/null"], "neither a file nor a block device");
    fails(["check", &small], "too small for a dump: 20479 bytes");
    fails(["format", &small, "--yes"], "too small");
    fails(["format", &image, "--yes", "--uuid", "nonsense"], "nonsense");
    fails(["format", &image, "--yes", "--name", &"x".repeat(65)], "64 bytes");
    fails(["check", &image, "--partition", "dump"], "partition table");
    fails(["info", &image], "not a dump partition, it holds unknown data");
    fails(["save", &image, "-o", &out], "not a dump partition");
    fails(["clear", &image, "--yes"], "not a dump partition");
    fails(["save", &image, "-o", &place.text("nowhere")], "nowhere");
    fails(["clear", &image, "--log"], "--log");
    assert_eq!(fs::read(&image).unwrap(), vec![7; 100_000]);
    assert_eq!(fs::read(&small).unwrap(), vec![0; 5 * BLOCK_SIZE - 1]);
    assert!(place.cores("out").is_empty());
}

#[test]
fn help_and_version_are_no_errors_and_help_tells_the_exit_codes() {
    for arguments in [&["--help"][..], &["save", "--help"], &["format", "--help"], &["keygen", "--help"]] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.contains("Exit codes:") && stdout.contains("  2  error"), "{stdout}");
    }
    let (code, stdout, _) = run(["--version"]);
    assert_eq!((code, stdout.starts_with("savecore ")), (0, true));
}

#[test]
fn format_says_what_is_there_and_touches_nothing_without_a_yes() {
    let place = Place::new();
    let mut ext = vec![0; 60 * BLOCK_SIZE];
    ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let mut luks = ext.clone();
    luks[..6].copy_from_slice(b"LUKS\xba\xbe");
    let mut swap = vec![0; 60 * BLOCK_SIZE];
    swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
    let mut lvm = vec![0; 60 * BLOCK_SIZE];
    lvm[512..520].copy_from_slice(b"LABELONE");
    let mut late = vec![0; 60 * BLOCK_SIZE];
    late[59 * BLOCK_SIZE + 5] = 1;
    for (bytes, what) in [
        (vec![0; 60 * BLOCK_SIZE], "holds nothing but zeros"),
        (ext, "holds an ext2, ext3 or ext4 file system"),
        (luks, "holds a LUKS volume"),
        (swap, "holds swap space"),
        (lvm, "holds an LVM physical volume"),
        (late, "holds unknown data"),
        (formatted(60), "holds the label of dump partition \"test\""),
    ] {
        let image = place.image("image", &bytes);
        fails(["format", &image], what);
        fails(["format", &image, "--json"], "add --yes");
        assert!(fs::read(&image).unwrap() == bytes, "{what}: changed");
    }
}

/// Runs a command with a terminal as its standard input, on which `answer` is typed.
fn on_terminal(mut command: Command, answer: &str) -> Output {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap();
    let side = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut main = File::from(main);
    writeln!(main, "{answer}").unwrap();
    command.stdin(File::from(side)).output().unwrap()
}

#[test]
fn format_and_clear_ask_on_a_terminal_and_do_what_they_are_told() {
    let place = Place::new();
    let zeros = vec![0; 60 * BLOCK_SIZE];
    let image = place.image("image", &zeros);
    for answer in ["n", "", "maybe"] {
        let output = on_terminal(savecore(["format", &image]), answer);
        assert_eq!(output.status.code(), Some(1));
        let asked = String::from_utf8(output.stderr).unwrap();
        assert!(asked.contains("(240 KiB) holds nothing but zeros") && asked.contains("[y/N]"), "{asked}");
        assert!(fs::read(&image).unwrap() == zeros, "changed by {answer}");
    }
    let output = on_terminal(savecore(["format", &image]), "y");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(partition::check(&fs::read(&image).unwrap(), &mut ()).unwrap().verdict, Verdict::Ready);

    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let output = on_terminal(savecore(["clear", &image]), "no");
    assert_eq!(output.status.code(), Some(1));
    let asked = String::from_utf8(output.stderr).unwrap();
    assert!(asked.contains("attempt to kill the idle task"), "{asked}");
    assert!(fs::read(&image).unwrap() == disk);
    fails(["clear", &image], "no terminal to ask on");
    assert!(fs::read(&image).unwrap() == disk);
    let output = on_terminal(savecore(["clear", &image]), "yes");
    assert_eq!(output.status.code(), Some(0));
    assert!(fs::read(&image).unwrap() == formatted(200));
}

#[test]
fn format_keeps_a_waiting_dump_unless_forced_even_if_the_label_is_gone() {
    let place = Place::new();
    let mut disk = with_dump(&Machine::small());
    for way in ["(`savecore save`), or add --force", "(`savecore save --keep`), then add --force"] {
        let image = place.image("image", &disk);
        fails(["format", &image, "--yes"], "nobody has saved: save first");
        fails(["format", &image, "--yes"], way);
        assert!(fs::read(&image).unwrap() == disk);
        disk[20] ^= 1;
    }
    let image = place.text("image");
    let (code, stdout, _) = run(["format", &image, "--yes", "--force"]);
    assert_eq!(code, 0, "{stdout}");
    assert_eq!(run(["check", &image]).0, 0);
}

/// `info` and `save` get the dump out and write nothing on the target, `clear` refuses, `check` names the way
/// out, and that way leads to a partition in order.
fn assert_way_out(disk: &[u8], clause: &str) {
    let place = Place::new();
    let image = place.image("image", disk);
    let warns = |stderr: &str| {
        let warnings = stderr.lines().filter(|line| line.contains(clause));
        assert_eq!(warnings.count(), 1, "{stderr}");
    };
    let (code, stdout, stderr) = run(["info", &image]);
    assert_eq!((code, stdout.contains("attempt to kill the idle task")), (0, true), "{stdout}{stderr}");
    warns(&stderr);
    let (code, stdout, _) = run(["check", &image]);
    assert_eq!(code, 1);
    assert!(stdout.contains(clause), "{stdout}");
    let way = "`savecore save --keep` first, then `savecore format --force`";
    assert!(stdout.contains(way), "{stdout}");
    let (code, stdout, _) = run(["check", &image, "--json"]);
    let result = json(&stdout);
    assert_eq!(
        (code, &result["verdict"], &result["uuid"]),
        (1, &Value::from("damaged"), &uuid_text().into())
    );
    assert_eq!(result["dumps"].as_array().unwrap().len(), 1);
    fails(["clear", &image, "--yes"], way);
    for (directory, arguments) in
        [("plain", &[][..]), ("damaged", &["--clear-damaged"]), ("whole", &["--search"])]
    {
        fs::create_dir(place.path(directory)).unwrap();
        let out = place.text(directory);
        let (code, stdout, stderr) = run(["save", &image, "-o", &out, "--json"].iter().chain(arguments));
        assert_eq!(code, 0, "{stderr}");
        warns(&stderr);
        let dump = &json(&stdout)["dumps"][0];
        assert_eq!((&dump["kept_because"], &dump["cleared"]), (&clause.into(), &false.into()));
        assert_eq!(place.cores(directory).len(), 2);
    }
    assert!(fs::read(&image).unwrap() == disk, "the target was changed");
    assert_eq!(run(["save", &image, "-o", &place.out(), "--keep"]).0, 0);
    fails(["format", &image, "--yes"], "save first (`savecore save --keep`), then add --force");
    assert!(fs::read(&image).unwrap() == disk, "the target was changed");
    assert_eq!(run(["format", &image, "--yes", "--force"]).0, 0);
    assert_eq!(run(["check", &image]).0, 0);
}

#[test]
fn a_dump_behind_a_damaged_label_is_saved_and_the_target_stays_as_it_is() {
    let mut disk = with_dump(&Machine::small());
    disk[20] ^= 1;
    assert_way_out(&disk, "its label is damaged");
    disk[..BLOCK_SIZE].fill(0);
    assert_way_out(&disk, "its label is damaged");
}

#[test]
fn a_dump_on_a_target_of_another_size_is_saved_and_the_target_stays_as_it_is() {
    let mut disk = with_dump(&Machine::small());
    disk.resize(220 * BLOCK_SIZE, 0);
    assert_way_out(&disk, "the target is longer than its label says");
    // With all of the dump, and with a part of it.
    for blocks in [150, 40] {
        disk.truncate(blocks * BLOCK_SIZE);
        assert_way_out(&disk, "the target is shorter than its label says");
    }
}

#[test]
fn a_core_saved_from_behind_a_damaged_label_is_the_same_as_with_a_whole_one() {
    let place = Place::new();
    let mut disk = with_dump(&Machine::small());
    let mut cores = Vec::new();
    for directory in ["whole", "damaged"] {
        fs::create_dir(place.path(directory)).unwrap();
        let image = place.image("image", &disk);
        assert_eq!(run(["save", &image, "-o", &place.text(directory)]).0, 0);
        let files = place.cores(directory);
        cores.push(files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>());
        disk[20] ^= 1;
    }
    assert!(cores[0] == cores[1]);
}

#[test]
fn format_lays_the_uuid_and_name_it_is_given() {
    let place = Place::new();
    let image = place.image("image", &vec![0; 20 * BLOCK_SIZE + 100]);
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let (code, stdout, _) = run(["format", &image, "--yes", "--uuid", uuid, "--name", "rack 7", "--json"]);
    let result = json(&stdout);
    assert_eq!((code, &result["uuid"], &result["blocks"]), (0, &Value::from(uuid), &Value::from(20)));
    // The file's tail, smaller than a block, belongs to nobody.
    fs::write(&image, &fs::read(&image).unwrap()[..20 * BLOCK_SIZE]).unwrap();
    let (code, stdout, _) = run(["check", &image, "--json"]);
    let result = json(&stdout);
    assert_eq!((code, &result["verdict"]), (0, &Value::from("ready")));
    assert_eq!((&result["name"], &result["uuid"]), (&Value::from("rack 7"), &Value::from(uuid)));
    assert_eq!(result["free_blocks"], 19);
}

/// A disk image with partitions "boot", "dump", "data", a badly aligned one, and two of the same name.
pub(crate) fn disk_image(path: &Path) -> [String; 2] {
    let sectors: u64 = 8192;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let mut noise = vec![0xa5_u8; sectors as usize * 512];
    noise.iter_mut().enumerate().for_each(|(index, byte)| *byte ^= (index / 512) as u8);
    file.write_all_at(&noise, 0).unwrap();
    let mut file = file;
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors as u32 - 1).overwrite_lba0(&mut file).unwrap();
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, None)
        .unwrap();
    for (number, name, first, length) in [
        (1, "boot", 40, 960),
        (2, "dump", 1000, 1600),
        (3, "data", 2600, 1000),
        (4, "odd", 3601, 800),
        (5, "twin", 4408, 80),
        (6, "twin", 4488, 80),
    ] {
        disk.add_partition_at(name, number, first, length, LINUX_FS, 0).unwrap();
    }
    let guid = disk.partitions()[&2].part_guid.to_string();
    let mut file = disk.write().unwrap();
    file.flush().unwrap();
    [path.to_str().unwrap().to_owned(), guid]
}

#[test]
fn a_partition_inside_a_disk_image_is_used_and_its_neighbours_are_not_touched() {
    let place = Place::new();
    let [image, guid] = disk_image(&place.path("disk"));
    let before = fs::read(&image).unwrap();
    let inside = 1000 * 512..2600 * 512;
    fails(["check", &image], "say which with --partition; there are: 1 \"boot\", 2 \"dump\"");
    fails(["check", &image, "--partition", "swap"], "0 partitions called \"swap\"");
    fails(["check", &image, "--partition", "9"], "0 partitions called \"9\"");
    fails(["check", &image, "--partition", "twin"], "2 partitions called \"twin\"");
    fails(
        ["format", &image, "--partition", "odd", "--yes"],
        "starts at byte 1843712, not at a multiple of 4096",
    );
    fails(["format", &image, "--partition", "dump"], "unknown data");
    assert!(fs::read(&image).unwrap() == before);

    assert_eq!(run(["format", &image, "--partition", "dump", "--yes", "--uuid", &uuid_text()]).0, 0);
    let check = |partition: &str| run(["check", &image, "--partition", partition]).0;
    assert_eq!((check("2"), check(&guid), check("data")), (0, 0, 1));
    let mut disk = fs::read(&image).unwrap();
    let mut slot = disk[inside.clone()].to_vec();
    write_dump(&mut slot, 1, &Machine::small());
    disk[inside.clone()].copy_from_slice(&slot);
    fs::write(&image, &disk).unwrap();
    assert_eq!(run(["save", &image, "--partition", "2", "-o", &place.out()]).0, 0);
    assert_eq!(place.cores("out").len(), 2);
    assert_eq!(check("dump"), 0);
    let after = fs::read(&image).unwrap();
    assert!(after[..inside.start] == before[..inside.start], "bytes in front were changed");
    assert!(after[inside.end..] == before[inside.end..], "bytes behind were changed");
}

fn uuid_text() -> String {
    uuid::Uuid::from_bytes(crate::common::UUID).to_string()
}

#[test]
fn save_writes_the_core_then_lays_the_pattern_again() {
    let place = Place::new();
    let machine = Machine::small();
    let image = place.image("image", &with_dump(&machine));
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out(), "--host", "rack-7"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("missing of 55 pages: 1 the kernel could not read"), "{stderr}");
    assert!(stdout.contains("cleared on"), "{stdout}");
    let names: Vec<_> = place
        .cores("out")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["dmesg.txt", "vmcore.elf"]);
    let folder = place.path("out/rack-7-2026-11-22T063242Z");
    assert_eq!(place.crashes("out"), std::slice::from_ref(&folder));
    assert_eq!(fs::canonicalize(place.path("out/latest")).unwrap(), fs::canonicalize(&folder).unwrap());
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["dmesg.txt", "vmcore.elf", "info.json"] {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let info = json(&fs::read_to_string(folder.join("info.json")).unwrap());
    assert_eq!((&info["host"], &info["trigger"]), (&"rack-7".into(), &"panic".into()));
    let file = folder.join("vmcore.elf");
    let core = fs::read(&file).unwrap();
    assert!(Core::parse(&core).physical(0x1000, 4096).is_some());
    assert_eq!(fs::read(folder.join("dmesg.txt")).unwrap(), machine.log.as_bytes());
    assert!(fs::read(&image).unwrap() == formatted(200), "the pattern is not whole again");
    let (code, stdout, _) = run(["save", &image, "-o", &place.out()]);
    assert_eq!((code, stdout.contains("no dump")), (1, true));
    assert_eq!(run(["info", &image]).0, 1);
}

#[test]
fn all_dumps_are_saved_and_keep_leaves_every_byte() {
    let place = Place::new();
    let mut disk = with_dump(&Machine::small());
    let end = partition::scan(&disk).unwrap().free;
    let second = Machine { sequence: 2, nonce: 7, wall_clock: 0, log: String::new(), ..Machine::small() };
    write_dump(&mut disk, end, &second);
    let image = place.image("image", &disk);
    for run_number in 0..2 {
        let (code, stdout, _) = run(["save", &image, "-o", &place.out(), "--keep", "--json"]);
        let result = json(&stdout);
        assert_eq!(code, 0);
        assert_eq!(result["dumps"].as_array().unwrap().len(), 2);
        assert_eq!(result["dumps"][1]["already_there"], run_number > 0);
        assert_eq!(result["dumps"][0]["kept_because"], "--keep was given");
        assert!(
            result["dumps"][1]["file"].as_str().unwrap().contains("-unknown-0000000000000007/vmcore.elf")
        );
        assert!(fs::read(&image).unwrap() == disk);
        assert_eq!(place.cores("out").len(), 3);
    }
    let (code, stdout, _) = run(["save", &image, "-o", &place.out()]);
    assert_eq!((code, stdout.matches("already saved in").count()), (0, 2), "{stdout}");
    assert!(fs::read(&image).unwrap() == formatted(200));
}

#[test]
fn what_is_there_is_never_overwritten_and_the_crash_goes_beside_it() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let out = place.out();
    let taken = place.path("out/h-2026-11-22T063242Z");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("vmcore.elf"), b"precious").unwrap();
    let (code, stdout, stderr) = run(["save", &image, "-o", &out, "--host", "h", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let folder = format!("{}-2", taken.display());
    assert_eq!(json(&stdout)["dumps"][0]["folder"].as_str(), Some(folder.as_str()));
    assert_eq!(fs::read(taken.join("vmcore.elf")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    assert!(fs::read(&image).unwrap() == formatted(200));
}

#[test]
fn a_save_that_is_killed_or_finds_no_room_leaves_the_dump_and_the_next_one_works() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let out = place.out();
    // Files are limited to 8 KiB: the kernel kills a process that writes more (SIGXFSZ), or returns an error
    // (EFBIG) if that signal is ignored.
    for signal in ["", "trap '' XFSZ; "] {
        let script = format!("{signal}ulimit -f 8; exec \"$0\" save \"$1\" -o \"$2\"");
        let output = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_savecore"), &image, &out])
            .output()
            .unwrap();
        if signal.is_empty() {
            assert_eq!(output.status.code(), None);
        } else {
            let (code, _, stderr) = finish(output);
            assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
            assert!(stderr.contains("File too large"), "{stderr}");
        }
        assert!(fs::read(&image).unwrap() == disk);
        let hidden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('.');
        assert!(place.crashes("out").iter().all(hidden), "{:?}", place.crashes("out"));
    }
    assert_eq!(run(["save", &image, "-o", &out]).0, 0);
    assert_eq!(place.cores("out").len(), 2);
    assert!(fs::read(&image).unwrap() == formatted(200));
}

#[test]
fn a_damaged_dump_is_saved_and_stays_and_so_do_those_in_front_of_it() {
    let place = Place::new();
    let mut disk = with_dump(&Machine::small());
    let end = partition::scan(&disk).unwrap().free;
    let second = Machine { sequence: 2, nonce: 7, ..Machine::small() };
    let written = write_dump(&mut disk, end, &second);
    block_mut(&mut disk, written.places[&5].1)[77] ^= 1;
    let image = place.image("image", &disk);
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out(), "--json"]);
    assert_eq!(code, 0);
    assert!(stderr.contains("1 damaged in the dump") && stderr.contains("is damaged"), "{stderr}");
    let result = json(&stdout);
    assert_eq!(result["dumps"][0]["kept_because"], "a dump after it is kept; this one is marked as saved");
    let why = result["dumps"][1]["kept_because"].as_str().unwrap();
    assert!(why.contains("--clear-damaged"), "{why}");
    assert_eq!(result["dumps"][1]["dump"]["missing"][0]["start"], "0x5000");
    assert_eq!(result["dumps"][1]["dump"]["damage"][0]["what"], "damaged");
    let after = fs::read(&image).unwrap();
    assert!(
        after[2 * BLOCK_SIZE..] == disk[2 * BLOCK_SIZE..],
        "more than the first front header was changed"
    );
    assert_eq!(run(["check", &image]).0, 1);

    let (code, stdout, _) = run(["save", &image, "-o", &place.out(), "--clear-damaged"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("finished clearing 1 dump"), "{stdout}");
    assert!(fs::read(&image).unwrap() == formatted(200));
    assert_eq!(place.cores("out").len(), 4);
}

#[test]
fn an_interrupted_clear_is_finished_without_saving_again() {
    let place = Place::new();
    let mut disk = with_dump(&Machine::small());
    let scanned = partition::scan(&disk).unwrap();
    let found = &scanned.dumps[0];
    partition::mark_saved(&mut disk, found, Some(&place.machine())).unwrap();
    for number in found.end - 10..found.end {
        crate::common::unwrite(&mut disk, number);
    }
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["check", &image]);
    assert_eq!(code, 1);
    assert!(stdout.contains("a saved dump is only partly cleared"), "{stdout}");
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out(), "--system", &place.text("system")]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("finished clearing 1 dump that was saved before"), "{stdout}");
    assert!(place.cores("out").is_empty());
    assert!(fs::read(&image).unwrap() == formatted(200));
}

#[test]
fn an_unfinished_dump_is_saved_with_what_is_there() {
    let place = Place::new();
    let machine = Machine::small();
    let mut disk = formatted(200);
    let written = write_dump(&mut disk, 1, &machine);
    stop_in_the_middle(&mut disk, &written, |number| number < 25);
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["check", &image, "--json"]);
    let result = json(&stdout);
    assert_eq!((code, &result["dumps"][0]["status"]), (1, &Value::from("unfinished")));
    let (code, stdout, _) = run(["info", &image]);
    assert_eq!(code, 0);
    assert!(stdout.contains("unfinished: the machine stopped while it was written"), "{stdout}");
    assert!(stdout.contains("not in the dump"), "{stdout}");
    let (code, _, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!(code, 0);
    assert!(stderr.contains("not in the dump"), "{stderr}");
    assert!(fs::read(&image).unwrap() == formatted(200));
}

#[test]
fn foreign_blocks_far_behind_an_unfinished_dump_are_named_and_not_freed_without_being_told_to() {
    let place = Place::new();
    let machine = Machine { window: 1, ..Machine::small() };
    let mut disk = formatted(1000);
    let written = write_dump(&mut disk, 1, &machine);
    stop_in_the_middle(&mut disk, &written, |number| number == 2);
    block_mut(&mut disk, 900).fill(0x5a);
    block_mut(&mut disk, 903).fill(0x5a);
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["check", &image, "--json"]);
    let result = json(&stdout);
    assert_eq!((code, &result["verdict"]), (1, &Value::from("damaged")));
    let dump = &result["dumps"][0];
    assert_eq!((&dump["first_foreign"], &dump["foreign_blocks"]), (&Value::from(900), &Value::from(2)));
    assert!(result["why"].as_str().unwrap().starts_with("block 900 is foreign"), "{stdout}");
    let (_, stdout, _) = run(["info", &image]);
    assert!(stdout.contains("block 900: foreign") && stdout.contains("block 903: foreign"), "{stdout}");

    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out(), "--json"]);
    assert_eq!(code, 0);
    assert!(stderr.contains("dump 1 is damaged"), "{stderr}");
    assert!(
        stderr.contains("dump 1: 2 blocks after it (from block 900) are probably not part of the dump"),
        "{stderr}"
    );
    let result = json(&stdout);
    assert!(result["dumps"][0]["kept_because"].as_str().unwrap().contains("--clear-damaged"), "{stdout}");
    let damage = result["dumps"][0]["dump"]["damage"].as_array().unwrap();
    assert!(damage.iter().any(|damage| damage["block"] == 900 && damage["what"] == "foreign"), "{stdout}");
    assert!(fs::read(&image).unwrap() == disk, "a block was changed");
    assert_eq!(place.cores("out").iter().filter(|core| core.extension() == Some("elf".as_ref())).count(), 1);

    assert_eq!(run(["save", &image, "-o", &place.out(), "--clear-damaged"]).0, 0);
    assert!(fs::read(&image).unwrap() == formatted(1000));
}

#[test]
fn only_one_savecore_works_on_a_target_at_a_time() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let file = File::open(&image).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
    assert_eq!(run(["info", &image]).0, 0, "two may read");
    fails(["save", &image, "-o", &place.out()], "another savecore is working on");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fails(["check", &image], "another savecore is working on");
    assert!(fs::read(&image).unwrap() == disk);
    drop(file);
    assert_eq!(run(["check", &image]).0, 0);
}

#[test]
fn info_tells_the_story_and_takes_control_characters_out_of_it() {
    let place = Place::new();
    let mut machine = Machine::small();
    machine.message = "evil \x1b[31mred".to_owned();
    machine.log = "line \x07 one\nline two\n".to_owned();
    let image = place.image("image", &with_dump(&machine));
    let (code, stdout, _) = run(["info", &image, "--log"]);
    assert_eq!(code, 0);
    for part in [
        "Dump 1: panic on CPU 0, 2026-11-22 06:32:42 UTC, 12.3 s after boot",
        "why       evil \\u{1b}[31mred",
        "where     0x1010; --kernel PATH",
        &format!("next      savecore save {image}\n"),
        "testkernel 0.1, x86_64, build id abababab",
        "complete; took 0.84 s",
        "CPU 1     stopped  ip 0x2010, sp 0x2013",
        "0x1f000 to 0x20000, the dump's own arena",
        "55 in all (220 KiB): 47 with data, 6 zero, 1 left out",
        "1 page (4 KiB) the kernel could not read",
        "0x1e000 to 0x1f000, unreadable",
        "lacks     no wall clock",
        "line \\u{7} one",
    ] {
        assert!(stdout.contains(part), "{stdout} should contain {part}");
    }
    let (_, stdout, _) = run(["info", &image, "--json"]);
    let result = json(&stdout);
    assert_eq!(result["dumps"][0]["message"], "evil \x1b[31mred");
    assert_eq!(result["dumps"][0]["trigger"], "panic");
    assert_eq!(result["dumps"][0]["cpus"][0]["ip"], "0x1010");
    assert_eq!(result["dumps"][0]["time"], "2026-11-22T06:32:42Z");
}

#[test]
fn check_names_the_first_bad_block() {
    let place = Place::new();
    let mut disk = formatted(50);
    block_mut(&mut disk, 33)[4000] ^= 1;
    block_mut(&mut disk, 20).fill(0);
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["check", &image]);
    assert_eq!(code, 1);
    assert!(stdout.contains("damaged: block 20 holds zeros; 2 blocks do not hold their pattern"), "{stdout}");
    let image = place.image("image", &vec![0; 50 * BLOCK_SIZE]);
    let (code, stdout, _) = run(["check", &image, "--json"]);
    assert_eq!((code, &json(&stdout)["verdict"]), (1, &Value::from("unformatted")));
}

#[test]
fn a_partition_or_dump_of_another_version_is_told_by_name_and_left_as_it_is() {
    let place = Place::new();
    let version = |disk: &mut Vec<u8>, number: u64| {
        let bytes = block_mut(disk, number);
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        dumpcore::format::frame::set_checksum(bytes);
    };
    let mut label = formatted(200);
    version(&mut label, 0);
    let mut dump = formatted(200);
    let written = write_dump(&mut dump, 1, &Machine::small());
    for number in [written.first, written.end - 1].into_iter().chain(written.chunks) {
        version(&mut dump, number);
    }
    for (disk, text, verdict) in [
        (label, "its label has format version 1, but this savecore reads versions 3 to 4", "other-version"),
        (dump, "a dump's front header of format version 1; this savecore reads versions 3 to 4", "damaged"),
    ] {
        let image = place.image("image", &disk);
        let (code, stdout, stderr) = run(["check", &image]);
        assert_eq!((code, stdout.contains(text)), (1, true), "{stdout}{stderr}");
        assert_eq!(json(&run(["check", &image, "--json"]).1)["verdict"], verdict);
        for command in [&["info", &image][..], &["save", &image, "-o", &place.out()]] {
            let (code, stdout, stderr) = run(command);
            assert!(code > 0 && stderr.contains(text), "{command:?} {code} {stdout}{stderr}");
        }
        assert_ne!(run(["clear", &image, "--yes"]).0, 0);
        assert!(place.cores("out").is_empty());
        assert!(fs::read(&image).unwrap() == disk, "it was changed");
    }
    // `format` does not overwrite what may be a dump.
    let image = place.text("image");
    let before = fs::read(&image).unwrap();
    assert_eq!(run(["format", &image, "--yes"]).0, 2);
    assert!(fs::read(&image).unwrap() == before);
    assert_eq!(run(["format", &image, "--yes", "--force"]).0, 0);
}

/// The exit code of a command whose output nobody reads; it must not complain about that.
fn unread(arguments: &[&str]) -> i32 {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = savecore(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(!stderr.contains("error"), "{arguments:?}: {stderr}");
    child.wait().unwrap().code().expect("no signal")
}

#[test]
fn the_exit_code_is_the_same_when_nobody_reads_the_output() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    for arguments in [vec!["info", &image], vec!["info", &image, "--json"], vec!["check", &image]] {
        assert_eq!(unread(&arguments), 0, "{arguments:?}");
    }
    let mut disk = formatted(50);
    let ready = place.image("ready", &disk);
    block_mut(&mut disk, 20).fill(0);
    let damaged = place.image("damaged", &disk);
    let unformatted = place.image("unformatted", &vec![0; 50 * BLOCK_SIZE]);
    let out = place.out();
    for format in [&[][..], &["--json"]] {
        for (code, arguments) in [
            (0, &["check", &ready][..]),
            (1, &["check", &damaged]),
            (1, &["check", &unformatted]),
            (1, &["info", &ready]),
            (1, &["clear", &ready]),
            (1, &["save", &ready, "-o", &out]),
        ] {
            let arguments = [arguments, format].concat();
            assert_eq!(unread(&arguments), code, "{arguments:?}");
            assert_eq!(run(&arguments).0, code, "{arguments:?}");
        }
    }
    assert_eq!(unread(&["keygen", &place.text("identity")]), 0);
    assert!(place.path("identity").exists());
    assert_eq!(unread(&["clear", &image, "--yes"]), 0);
    assert!(fs::read(&image).unwrap() == formatted(200));
    assert_eq!(unread(&["format", &unformatted, "--yes"]), 0);
    assert_eq!(run(["check", &unformatted]).0, 0);
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let place = Place::new();
    let image = place.image("image", &formatted(20));
    let output =
        savecore(["check", &image]).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("\x1b[1m\x1b[32mready\x1b[0m"));
    let output =
        savecore(["check", &image]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    let (code, stdout, _) = finish(output);
    assert_eq!((code, stdout.contains("ready")), (0, true));
}

#[test]
fn a_hostile_partition_table_is_an_error_in_one_line() {
    let place = Place::new();
    let [image, _] = disk_image(&place.path("disk"));
    let whole = fs::read(&image).unwrap();
    // Number of entries, their size, their place, first and last usable sector, and an entry's bounds.
    for (field, length) in [(80, 4), (84, 4), (72, 8), (40, 8), (48, 8), (512 + 32, 8), (512 + 40, 8)] {
        for value in [0, 1, 127, u64::MAX >> 9, u64::MAX] {
            let mut disk = whole.clone();
            let backup = disk.len() - 512;
            disk[backup..].fill(0);
            disk[512 + field..][..length].copy_from_slice(&value.to_le_bytes()[..length]);
            let entries = crc32fast::hash(&disk[1024..1024 + 128 * 128]);
            disk[512 + 88..][..4].copy_from_slice(&entries.to_le_bytes());
            disk[512 + 16..][..4].fill(0);
            let header = crc32fast::hash(&disk[512..512 + 92]);
            disk[512 + 16..][..4].copy_from_slice(&header.to_le_bytes());
            fs::write(&image, &disk).unwrap();
            let (code, _, stderr) = run(["format", &image, "--partition", "1"]);
            assert_eq!((code, stderr.lines().count()), (2, 1), "field {field}, value {value}: {stderr}");
            assert!(fs::read(&image).unwrap() == disk);
        }
    }

    // A size that is not a multiple of the sector size, a damaged primary header, and an intact backup with
    // entries of 256 bytes.
    let mut disk = whole.clone();
    disk[512 + 16] ^= 1;
    let backup = disk.len() - 512;
    disk[backup + 84..][..4].copy_from_slice(&256_u32.to_le_bytes());
    disk[backup + 16..][..4].fill(0);
    let header = crc32fast::hash(&disk[backup..backup + 92]);
    disk[backup + 16..][..4].copy_from_slice(&header.to_le_bytes());
    disk.extend([0; 100]);
    fs::write(&image, &disk).unwrap();
    let (code, _, stderr) = run(["format", &image, "--partition", "1"]);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("the GUID table has a header whose checksum is wrong"), "{stderr}");
    assert!(fs::read(&image).unwrap() == disk);
}
