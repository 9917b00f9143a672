//! Other users of a target: a virtual machine, a process that has it open for writing, a dump that is still
//! being written.

use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Child, ChildStdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use savecore::source::{Access, Target};

use super::*;

/// A process that ends with the test.
struct Process {
    child: Child,
    /// Kept open for as long as the process may print something.
    _stdout: Option<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// A shell that runs `script`, then waits for a line or the end of its input.
    fn shell(script: &str, image: &str) -> Process {
        let script = format!("{script}\necho ready; read line");
        let mut command = Command::new("sh");
        command.args(["-c", &script, image]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Process { child, _stdout: None }
    }
}

fn qemu(image: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-accel",
        "tcg",
        "-S",
        "-m",
        "16M",
        "-nodefaults",
        "-display",
        "none",
        "-monitor",
        "stdio",
    ]);
    command.args(["-drive", &format!("file={image},format=raw,if=virtio")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A stopped virtual machine with the image as its disk; `None` without QEMU, which CI must have.
fn virtual_machine(image: &str) -> Option<Process> {
    let mut child = match qemu(image).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            eprintln!("skipped: there is no qemu-system-x86_64");
            return None;
        }
        child => child.unwrap(),
    };
    // QEMU may show its first prompt before it has opened its disks; it answers once it has.
    writeln!(child.stdin.as_mut().unwrap(), "info status").unwrap();
    let mut shown = Vec::new();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    while !(shown.ends_with(b"(qemu)") && shown.windows(8).any(|piece| piece == b"VM statu")) {
        if !matches!(stdout.read(&mut byte), Ok(1)) {
            let mut why = String::new();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("QEMU does not start: {why}");
        }
        shown.extend(byte);
    }
    Some(Process { child, _stdout: Some(stdout) })
}

/// A target that somebody uses: commands that read work; commands that write are refused with one line that
/// contains `part`; a dump is saved but not cleared.
#[track_caller]
fn is_read_and_not_written(place: &Place, image: &str, part: &str) {
    let before = fs::read(image).unwrap();
    fails(["format", "--yes", "--force", image], part);
    fails(["clear", "--yes", image], part);
    for reading in [&["info", image][..], &["list", image], &["report", image, "-o", "-"]] {
        assert_eq!(run(reading).0, 0, "{reading:?}");
    }
    assert_eq!(run(["check", image]).0, 0);
    let (code, stdout, stderr) = run(["save", image, "-o", &place.out()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("not cleared on") && stdout.contains(part), "{stdout}");
    assert!(fs::read(image).unwrap() == before, "something was written");
}

#[test]
fn the_disk_of_a_virtual_machine_is_read_and_not_written() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let Some(machine) = virtual_machine(&image) else { return };
    let user =
        format!("is in use by qemu-system-x86 (process {}), which holds a lock on it", machine.child.id());
    is_read_and_not_written(&place, &image, &user);
    drop(machine);
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("already saved") && stdout.contains("  cleared on"), "{stdout}");
}

#[test]
fn no_virtual_machine_starts_on_a_disk_that_savecore_writes() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    if virtual_machine(&image).is_none() {
        return;
    }
    for access in [Access::Write, Access::Harvest] {
        let mut target = Target::open(image.as_ref(), None, access).unwrap();
        target.make_writable().unwrap();
        let refused = qemu(&image).stdin(Stdio::null()).output().unwrap();
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && why.contains("Failed to get \"write\" lock"), "{why}");
        drop(target);
        assert!(virtual_machine(&image).is_some());
    }
    // A reader does not keep QEMU out.
    let _reader = Target::open(image.as_ref(), None, Access::Read).unwrap();
    assert!(virtual_machine(&image).is_some());
}

#[test]
fn what_another_process_has_open_for_writing_is_read_and_not_written() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let writer = Process::shell("exec 3<>\"$0\"", &image);
    let user = format!("is in use by sh (process {}), which has it open for writing", writer.child.id());
    is_read_and_not_written(&place, &image, &user);
}

#[test]
fn who_reads_or_has_it_open_for_a_moment_or_waits_for_savecore_is_in_nobodys_way() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let _reader = Process::shell("exec 3<\"$0\"", &image);
    let _passer = Process::shell("(exec 3<>\"$0\"; sleep 0.4) >/dev/null &", &image);
    // This process does not count either, because it starts savecore.
    let _own = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    assert_eq!(run(["format", "--yes", "--force", &image]).0, 0);
}

#[test]
fn a_lock_of_a_process_is_seen_and_the_process_named() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let file = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    // As libvirt's lock daemon does.
    let lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    let before = fs::read(&image).unwrap();
    // From here on no other descriptor of the file may be closed: that would release the lock.
    fcntl(&file, FcntlArg::F_SETLK(&lock)).unwrap();
    let user = format!("(process {}), which holds a lock on it", std::process::id());
    fails(["format", "--yes", "--force", &image], &user);
    fails(["clear", "--yes", &image], &user);
    drop(file);
    assert!(fs::read(&image).unwrap() == before);
    assert_eq!(run(["clear", "--yes", &image]).0, 0);
}

/// Writes a dump block by block, as a kernel does: first the header that says that it is in progress, last
/// the closed one.
struct Kernel {
    image: String,
    closed: Vec<u8>,
    /// The next block.
    next: u64,
    end: u64,
}

impl Kernel {
    fn new(place: &Place) -> Kernel {
        let mut disk = formatted(2000);
        let written = write_dump(&mut disk, 1, &Machine::small());
        let closed = disk.clone();
        stop_in_the_middle(&mut disk, &written, |number| number < 12);
        Kernel { image: place.image("image", &disk), closed, next: 12, end: written.end }
    }

    fn write(&self, number: u64) {
        let image = OpenOptions::new().write(true).open(&self.image).unwrap();
        image.write_all_at(crate::common::block(&self.closed, number), number * BLOCK_SIZE as u64).unwrap();
    }

    fn go_on(&mut self) {
        if self.next < self.end {
            self.write(self.next);
            self.next += 1;
        }
    }

    fn close(&mut self) {
        while self.next < self.end {
            self.go_on();
        }
        self.write(1);
    }
}

#[test]
fn a_dump_that_is_still_being_written_is_left_alone() {
    let place = Place::new();
    let mut kernel = Kernel::new(&place);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let kernel = &mut kernel;
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                kernel.go_on();
                thread::sleep(Duration::from_millis(500));
            }
            kernel.close();
        });
        let image = place.text("image");
        let (code, _, stderr) = run(["save", &image, "-o", &place.out()]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("dump 1: it is still being written"), "{stderr}");
        fails(["clear", "--yes", &image], "dump 1 is still being written");
        fails(["format", "--yes", "--force", &image], "still being written");
        assert_eq!(place.crashes("out").len(), 0);
        done.store(true, Ordering::Relaxed);
    });
    assert!(fs::read(&kernel.image).unwrap() == kernel.closed, "its blocks were written on");
    let (code, stdout, stderr) = run(["save", &kernel.image, "-o", &place.out()]);
    assert_eq!((code, stdout.contains("  cleared on")), (0, true), "{stdout}{stderr}");
}

#[test]
fn a_dump_that_went_on_while_it_was_saved_stays_and_is_saved_again() {
    let place = Place::new();
    let kernel = std::sync::Mutex::new(Kernel::new(&place));
    /// Continues writing while the dump is being read.
    struct Late<'k>(&'k std::sync::Mutex<Kernel>);
    impl savecore::source::Progress for Late<'_> {
        fn begin(&mut self, what: &str, _total: u64) {
            if what == "writing the core" {
                self.0.lock().unwrap().go_on();
            }
        }
        fn advance(&mut self, _blocks: u64) {}
        fn end(&mut self) {}
    }
    let name = savecore::targets::TargetName::of(place.path("image"));
    let search = savecore::partition::Search::Quick;
    let open = || {
        savecore::targets::Targets::open(
            std::slice::from_ref(&name),
            Access::Harvest,
            search,
            None,
            None,
            &mut (),
        )
    };
    let mut store = savecore::store::open(&place.out(), &savecore::store::Limits::default()).unwrap();
    let options = faults::options();
    let mut targets = open().unwrap();
    let done =
        savecore::harvest::harvest(&mut targets, store.as_mut(), &options, &mut Late(&kernel)).unwrap();
    drop(targets);
    let [saved] = done.dumps.as_slice() else { panic!("{done:?}") };
    assert!(
        !saved.cleared && saved.kept_because.as_ref().unwrap().contains("was written meanwhile"),
        "{saved:?}"
    );
    let mut kernel = kernel.into_inner().unwrap();
    kernel.close();
    assert!(fs::read(&kernel.image).unwrap() == kernel.closed, "it was marked");
    let mut targets = open().unwrap();
    let done = savecore::harvest::harvest(&mut targets, store.as_mut(), &options, &mut ()).unwrap();
    assert!(done.dumps[0].cleared && done.dumps[0].dump.status == "complete", "{done:?}");
}
