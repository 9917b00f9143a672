//! A dump whose every text is malicious: nothing outside the store changes, and terminals are not affected.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use dumpcore::format::frame;
use dumpcore::format::header::{Header, Incomplete, put_text};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::*;
use crate::common::block;

/// What a terminal obeys (ECMA-48): titles, colours that hide text, cleared screens, queries whose answers
/// look typed, device control strings, C1 controls; and characters that change the direction of text.
const EVIL: &str = "\x1b]0;title\x07\x1b[8mhidden\x1b[2J\x1b[6n\x1b[?1049h\x1bP+q\x1b\\\x1bc\r\x08\x7f\x0e\u{85}\u{9b}31m\u{9d}0;x\u{9c}\
                    \u{202e}drow\u{2066}\u{200b}\u{2028}</pre><script>alert(1)</script>'\"`$(touch pwned)`%n%s../../../../tmp/x\0 end";

fn machine() -> Machine {
    let mut machine = Machine::small();
    machine.message = format!("panic {EVIL}\nsecond line {EVIL}");
    machine.log = format!("[0.0] {EVIL}\n[0.1] savecore: error: forged\r\n{EVIL}\n");
    machine.vmcoreinfo = format!("OSRELEASE={EVIL}\nPAGESIZE=4096\n{EVIL}\n");
    machine.system = format!("../../{EVIL}");
    machine
}

/// That machine's dump, on a partition whose label the same attacker named.
fn hostile_disk() -> Vec<u8> {
    let mut disk = with_dump(&machine());
    let label = block_mut(&mut disk, 0);
    // The name has 64 bytes at offset 48, and ends at a zero.
    let name: Vec<u8> = EVIL.bytes().filter(|byte| *byte != 0).take(64).collect();
    label[48..112].copy_from_slice(&name);
    frame::set_checksum(label);
    disk
}

/// A command's output on a terminal.
fn on_screen(mut command: Command) -> String {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap();
    let open = || File::from(rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let mut child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
    drop(command);
    let mut main = File::from(main);
    let mut screen = Vec::new();
    let mut piece = [0; 4096];
    // Reading fails once no process has the other side open any more.
    while let Ok(length @ 1..) = main.read(&mut piece) {
        screen.extend(&piece[..length]);
    }
    assert!(child.wait().unwrap().code().is_some_and(|code| code < 2));
    String::from_utf8(screen).unwrap()
}

/// Takes out what savecore itself sends to a terminal: colours, and the movements of progress bars within
/// their line.
fn without_own(screen: &str) -> String {
    let mut rest = screen;
    let mut text = String::new();
    while let Some((before, behind)) = rest.split_once("\x1b[") {
        text.push_str(before);
        let end = behind.find(|character: char| !character.is_ascii_digit() && character != ';');
        let end = end.unwrap_or(behind.len());
        let own = match behind[end..].chars().next() {
            Some('m') => !["8", "5"].contains(&&behind[..end]),
            Some('K' | 'A' | 'B' | 'G') => true,
            _ => false,
        };
        if !own {
            text.push('\x1b');
        }
        rest = if own { &behind[end + 1..] } else { behind };
    }
    text + rest
}

#[track_caller]
fn assert_harmless(text: &str, what: &str) {
    let bad = |character: &char| {
        (character.is_control() && !['\n', '\t', '\r'].contains(character))
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(character) = text.chars().find(bad) {
        panic!("{what}: {character:?} in {text:?}");
    }
}

/// All files in a folder and its subfolders, with their contents.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            files.append(&mut tree(&path));
            files.insert(path, Vec::new());
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            files.insert(path, target.as_os_str().as_bytes().to_vec());
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

/// Everything around a store and a target, which must stay as it is.
struct Surroundings {
    place: Place,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

impl Surroundings {
    /// With the store `a/b/out`, the test's `own` files, and others where dumps would like to write.
    fn new(disk: &[u8]) -> Surroundings {
        let place = Place::new();
        fs::create_dir_all(place.path("a/b/out")).unwrap();
        fs::create_dir(place.path("own")).unwrap();
        for name in ["a/x", "a/b/x", "x", "a/b/passwd"] {
            fs::write(place.path(name), name).unwrap();
        }
        place.image("image", disk);
        let mut around = Surroundings { place, before: BTreeMap::new() };
        around.before = around.now();
        around
    }

    fn now(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let [out, own, image] = ["a/b/out", "own", "image"].map(|name| self.place.path(name));
        let mut now = tree(self.place.directory.path());
        now.retain(|path, _| !path.starts_with(&out) && !path.starts_with(&own) && *path != image);
        now
    }

    /// The crash folders in the store. Each of them, and every file in it, must be where and what it should
    /// be.
    fn folders(&self) -> Vec<PathBuf> {
        assert!(self.now() == self.before, "something else was changed");
        let folders = self.place.crashes("a/b/out");
        for folder in &folders {
            let name = folder.file_name().unwrap().to_str().expect("UTF-8");
            let fits = |character: char| character.is_ascii_alphanumeric() || "-_.:".contains(character);
            assert!(name.chars().all(fits) && !name.starts_with('.') && name.len() < 144, "{name:?}");
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                assert!(meta.is_file() && meta.permissions().mode() & 0o777 == 0o600, "{}", path.display());
                let extension = path.extension().unwrap().to_str().unwrap();
                if ["txt", "json", "html"].contains(&extension) {
                    let text = fs::read_to_string(&path).unwrap();
                    assert_harmless(&text, &path.display().to_string());
                    assert!(!text.contains('\r'), "{}", path.display());
                    assert!(extension != "html" || !text.contains("<script>alert"), "markup from a dump");
                }
            }
        }
        folders
    }
}

#[test]
fn whatever_a_dump_says_no_terminal_obeys_it_and_nothing_but_the_store_changes() {
    let around = Surroundings::new(&hostile_disk());
    let (image, out) = (around.place.text("image"), around.place.text("a/b/out"));
    let commands: Vec<Vec<&str>> = vec![
        vec!["list", &image],
        vec!["list", &image, &image, "--json"],
        vec!["drill", &image],
        vec!["drill", &image, "--json"],
        vec!["report", &image, "-o", "-"],
        vec!["info", &image],
        vec!["info", &image, "--json"],
        vec!["info", &image, "--log"],
        vec!["check", &image],
        vec!["check", &image, "--json"],
        vec!["save", &image, "-o", &out, "--keep"],
        vec!["save", &image, "-o", &out, "--keep", "--json"],
        vec!["save", &image, "-o", &out, "--keep", "--format", "raw"],
        vec!["save", &image, "-o", &out],
    ];
    let mut log_shown = 0;
    for arguments in commands {
        let what = arguments.join(" ");
        let disk = fs::read(&image).unwrap();
        let screen = on_screen(savecore(&arguments));
        assert_harmless(&without_own(&screen), &what);
        log_shown += u32::from(screen.contains("forged"));
        around.folders();
        let gone = !arguments.contains(&"--keep") && arguments[0] == "save";
        assert_eq!(fs::read(&image).unwrap() == disk, !gone, "{what}");
    }
    assert!(log_shown > 0, "nothing was shown of the log");
    assert_eq!(around.folders().len(), 2);
}

#[test]
fn a_report_is_the_one_file_that_is_written_and_nobody_elses_to_read() {
    let around = Surroundings::new(&hostile_disk());
    let (image, page) = (around.place.text("image"), around.place.path("own/page.html"));
    let disk = fs::read(&image).unwrap();
    let screen = on_screen(savecore(["report", &image, "-o", page.to_str().unwrap()]));
    assert_harmless(&without_own(&screen), "report");
    let text = fs::read_to_string(&page).unwrap();
    assert_harmless(&text, "page");
    assert!(text.contains("forged") && !text.contains("<script>alert"));
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(around.now() == around.before && fs::read(&image).unwrap() == disk);
}

#[test]
fn what_boots_tells_terminal_journal_and_hook_nothing_that_is_obeyed() {
    let around = Surroundings::new(&hostile_disk());
    let (image, out) = (around.place.text("image"), around.place.text("a/b/out"));
    let [told, config, journal] =
        ["own/told", "own/savecore.toml", "own/journal"].map(|name| around.place.path(name));
    let hook = format!("[\"/bin/sh\", \"-c\", 'cat > \"$1\"', \"sh\", {told:?}]");
    let host: String = EVIL.chars().map(|character| format!("\\U{:08x}", u32::from(character))).collect();
    for more in ["rearm = false", "report = true"] {
        let text =
            format!("targets = [{image:?}]\nstore = {out:?}\npost = {hook}\nhost = \"{host}\"\n{more}\n");
        fs::write(&config, text).unwrap();
        let arguments = ["boot", "--config", config.to_str().unwrap()];
        fs::remove_dir_all(&out).unwrap();
        fs::create_dir(&out).unwrap();
        around.place.image("image", &hostile_disk());
        let screen = on_screen(savecore(arguments));
        assert_harmless(&without_own(&screen), more);
        assert!(screen.contains("dump 1 saved in"), "{screen}");
        // The hook gets the kernel's words as they are, as JSON on one line.
        let facts = fs::read_to_string(&told).unwrap();
        assert_harmless(&facts, "hook");
        assert_eq!(facts.lines().count(), 1);
        assert!(json(&facts)["dumps"][0]["dump"]["message"].as_str().unwrap().contains("\u{1b}]0;title"));

        around.place.image("image", &hostile_disk());
        let file = File::create(&journal).unwrap();
        let meta = file.metadata().unwrap();
        let mut command = savecore(arguments);
        command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino())).stderr(file);
        let (code, stdout, _) = finish(command.output().unwrap());
        assert_eq!((code, stdout.as_str()), (0, ""));
        let lines = fs::read_to_string(&journal).unwrap();
        assert_harmless(&lines, "journal");
        assert!(lines.lines().all(|line| line.starts_with('<')), "a line without its level: {lines}");
        assert_eq!(around.folders().len(), 1);
    }
}

#[test]
fn a_file_may_be_called_what_it_likes() {
    let around = Surroundings::new(&hostile_disk());
    let name = EVIL.split('\0').next().unwrap().replace('/', "_");
    // A file name has at most 255 bytes.
    let image = around.place.text(&format!("own/{}.img", &name[..name.floor_char_boundary(250)]));
    fs::write(&image, hostile_disk()).unwrap();
    let foreign = around.place.text("own/\x1b]0;title\x07\u{202e}\u{9b}2J\nsavecore: error: forged");
    fs::write(&foreign, [7; 100_000]).unwrap();
    let (out, copy) = (around.place.text("a/b/out"), around.place.text("own/page.html"));
    for arguments in [
        &["list", &image, &foreign][..],
        &["list", &image, &foreign, "--json"],
        &["check", &image],
        &["check", &foreign],
        &["info", &image],
        &["info", &image, "--json"],
        &["report", &image, "-o", &copy],
        &["drill", &image, &foreign],
        &["save", &image, "-o", &out, "--keep"],
        &["save", &image, "-o", &out],
        &["save", &image, "-o", &out],
        &["format", &image, "--yes"],
    ] {
        let screen = on_screen(savecore(arguments));
        assert_harmless(&without_own(&screen), &arguments.join(" "));
        // JSON has the name as it is.
        assert!(arguments[0] == "report" || screen.contains("title"), "{arguments:?}: {screen}");
        let lines = screen.lines().filter(|line| line.trim_start().starts_with("savecore: error: forged"));
        assert_eq!(lines.count(), 0, "{arguments:?}: {screen}");
    }
    for arguments in [
        &["info", &foreign][..],
        // Names that are not a target's, such as those of mounts, are made harmless where lines are printed.
        &["info", &image, "--identity", &foreign],
        &["save", &foreign, "-o", &out],
        &["clear", &foreign, "--yes"],
    ] {
        let (code, _, stderr) = run(arguments);
        assert_harmless(&stderr, "error");
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    }
}

#[test]
fn a_hosts_name_is_only_a_name() {
    for host in [
        "../../x",
        "/etc/passwd",
        ".",
        "..",
        "",
        "-rf",
        ".hidden.partial",
        "latest",
        "a\nb",
        EVIL.split('\0').next().unwrap(),
        &"x".repeat(5000),
        &"ü".repeat(300),
    ] {
        let around = Surroundings::new(&with_dump(&machine()));
        let (image, out) = (around.place.text("image"), around.place.text("a/b/out"));
        let screen = on_screen(savecore(["save", &image, "-o", &out, &format!("--host={host}")]));
        assert_harmless(&without_own(&screen), host);
        assert_eq!(around.folders().len(), 1, "{host:?}");
    }
}

#[test]
fn a_label_and_headers_that_lie_about_everything_make_no_harm() {
    let whole = with_dump(&machine());
    // Every four bytes of both headers and of the first chunk headers, set to both extremes.
    let header = |number: u64| Header::parse(block(&whole, number), frame::Kind::Front).is_ok();
    assert!(header(1));
    let around = Surroundings::new(&whole);
    let (image, out) = (around.place.text("image"), around.place.text("a/b/out"));
    for (number, kind) in [(0, frame::Kind::Label), (1, frame::Kind::Front), (2, frame::Kind::Chunk)] {
        for at in (8..1400).step_by(4).filter(|at| number > 0 || *at < 200).step_by(5) {
            for value in [[0xff; 4], [0, 0, 0, 0x80]] {
                let mut disk = whole.clone();
                let target = block_mut(&mut disk, number);
                target[at..at + 4].copy_from_slice(&value);
                frame::set_checksum(target);
                assert!(frame::Kind::of(target) == Some(kind));
                fs::write(&image, &disk).unwrap();
                let _ = fs::remove_dir_all(&out);
                fs::create_dir(&out).unwrap();
                let (_, _, stderr) = run(["save", &image, "-o", &out, "--keep", "--host", "h"]);
                assert_harmless(&stderr, "save");
                assert!(fs::read(&image).unwrap() == disk);
                around.folders();
            }
        }
    }
}

#[test]
fn a_system_name_in_the_header_alone_is_harmless_too() {
    let mut disk = with_dump(&Machine { incomplete: Incomplete::Device, ..machine() });
    let mut front = Header::parse(block(&disk, 1), frame::Kind::Front).unwrap().clone();
    put_text(&mut front.system, EVIL);
    put_text(&mut front.message, EVIL);
    front.to_block(frame::Kind::Front, block_mut(&mut disk, 1));
    // Without its notes, only the headers are left.
    block_mut(&mut disk, 2).fill(0x55);
    let around = Surroundings::new(&disk);
    let (image, out) = (around.place.text("image"), around.place.text("a/b/out"));
    for arguments in [&["info", &image][..], &["save", &image, "-o", &out, "--clear-damaged"]] {
        let screen = on_screen(savecore(arguments));
        assert!(arguments[0] != "info" || screen.contains("drow"), "{screen}");
        assert_harmless(&without_own(&screen), arguments[0]);
        around.folders();
    }
}

#[test]
fn a_partition_full_of_dumps_is_saved_in_turns() {
    const DUMPS: u32 = 300;
    let place = Place::new();
    let mut disk = formatted(1 + 2 * u64::from(DUMPS) + 10);
    for dump in 0..DUMPS {
        let first = 1 + 2 * u64::from(dump);
        let mut header = Header::new();
        header.status = (dumpcore::format::header::Status::Complete as u32).into();
        (header.uuid, header.nonce) = (crate::common::UUID, u64::from(dump).into());
        (header.sequence, header.window_blocks) = ((dump + 1).into(), 1.into());
        (header.arch, header.trigger, header.wall_clock) = (62.into(), 1.into(), 1_700_000_000.into());
        (header.first_block, header.end_block) = (first.into(), (first + 2).into());
        header.to_block(frame::Kind::Front, block_mut(&mut disk, first));
        header.to_block(frame::Kind::Back, block_mut(&mut disk, first + 1));
    }
    let image = place.image("image", &disk);
    let listed = |waiting: u32| {
        let (_, stdout, _) = run(["list", "--json", &image]);
        assert_eq!(json(&stdout)["partitions"][0]["waiting"], waiting);
    };
    listed(DUMPS);
    let (code, _, stderr) = run(["save", &image, "-o", &place.out(), "--clear-damaged"]);
    assert_eq!((code, place.crashes("out").len()), (0, 256), "{stderr}");
    assert!(stderr.contains("holds 300 dumps: the last 256 are used"), "{stderr}");
    listed(DUMPS - 256);
    let (code, _, stderr) = run(["save", &image, "-o", &place.out(), "--clear-damaged"]);
    assert_eq!((code, place.crashes("out").len()), (0, DUMPS as usize), "{stderr}");
    assert!(!stderr.contains("are used"), "{stderr}");
    assert!(fs::read(&image).unwrap() == formatted(1 + 2 * u64::from(DUMPS) + 10), "it is not armed again");
}

#[test]
fn a_message_of_megabytes_is_one_message_of_which_the_beginning_is_told() {
    let place = Place::new();
    let mut machine = Machine::small();
    machine.message = "why\n".repeat(1 << 20);
    let mut disk = formatted(4000);
    write_dump(&mut disk, 1, &machine);
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["info", &image]);
    assert_eq!((code, stdout.matches("why").count()), (0, 16 + 1), "{stdout}");
    assert!(stdout.contains("and more; --json has it"), "{stdout}");
    let (_, stdout, _) = run(["info", "--json", &image]);
    let message = json(&stdout)["dumps"][0]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("why\nwhy\n") && message.ends_with(" [and 3.9 MiB more]"),
        "{}",
        message.len()
    );
    assert!(message.len() < 66 << 10, "{}", message.len());
    assert_eq!(run(["save", &image, "-o", &place.out()]).0, 0);
    let info = fs::metadata(place.path("out/latest/info.json")).unwrap();
    assert!(info.len() < 256 << 10, "{}", info.len());
}

#[test]
fn processors_and_ranges_of_memory_without_end_are_listed_up_to_a_number() {
    let place = Place::new();
    let mut machine = Machine::small();
    let first = machine.cpus[0];
    machine.cpus = (0..10_000_u32)
        .map(|cpu| {
            let mut state = first;
            state.cpu = cpu.into();
            state
        })
        .collect();
    let mut disk = formatted(4000);
    write_dump(&mut disk, 1, &machine);
    let image = place.image("image", &disk);
    let (_, stdout, _) = run(["info", "--json", &image]);
    let dump = &json(&stdout)["dumps"][0];
    assert_eq!((dump["cpus"].as_array().unwrap().len(), &dump["notes_damaged"]), (8192, &Value::from(true)));
    let (_, stdout, _) = run(["info", &image]);
    assert!(stdout.lines().count() < 100, "{stdout}");
}
