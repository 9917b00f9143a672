//! The holder of a lock on a file (proc_locks(5), proc_pid_stat(5)).

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use crate::text::harmless_line;

/// A process that holds a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its number; `None` if it is not visible from here, as for a process in another container.
    pub pid: Option<u32>,
    /// Its command line, shortened, without control characters; empty if unknown.
    pub command: String,
    /// Seconds since its start.
    pub seconds: Option<u64>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pid) = self.pid else { return f.write_str("a process that cannot be seen from here") };
        write!(f, "process {pid}")?;
        if !self.command.is_empty() {
            write!(f, " ({})", self.command)?;
        }
        match self.seconds {
            None => Ok(()),
            Some(seconds @ ..120) => write!(f, ", running for {seconds} s"),
            Some(seconds @ ..7200) => write!(f, ", running for {} min", seconds / 60),
            Some(seconds) => write!(f, ", running for {} h", seconds / 3600),
        }
    }
}

/// Maximum number of characters of a command line.
const SHOWN: usize = 120;

/// Clock ticks per second in /proc (USER_HZ): the same on all systems of savecore.
const TICKS: u64 = 100;

/// The holder of a flock(2) lock on the file with this metadata, among the processes in `proc`; an exclusive
/// one takes precedence over shared ones.
pub(super) fn holder_of(metadata: &Metadata, proc: &Path) -> Option<Holder> {
    let locks = fs::read_to_string(proc.join("locks")).ok()?;
    let mut held: Vec<Held> = locks.lines().filter_map(Held::parse).collect();
    held.retain(|held| {
        held.inode == metadata.ino()
            && (held.device == (major(metadata.dev()), minor(metadata.dev()))
                || held.pid.is_some_and(|pid| has_open(proc, pid, metadata)))
    });
    let held = held.iter().find(|held| held.is_exclusive).or(held.first())?;
    let Some(pid) = held.pid else {
        return Some(Holder { pid: None, command: String::new(), seconds: None });
    };
    let command = fs::read(proc.join(format!("{pid}/cmdline"))).unwrap_or_default();
    Some(Holder { pid: Some(pid), command: shown(&command), seconds: running_for(proc, pid) })
}

/// The relevant part of a line of /proc/locks.
struct Held {
    is_exclusive: bool,
    pid: Option<u32>,
    device: (u32, u32),
    inode: u64,
}

impl Held {
    /// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; waiting processes have an arrow after the number.
    fn parse(line: &str) -> Option<Held> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, mode, pid, file, ..] = fields[..] else { return None };
        let mut file = file.split(':');
        let device =
            (u32::from_str_radix(file.next()?, 16).ok()?, u32::from_str_radix(file.next()?, 16).ok()?);
        let inode = file.next()?.parse().ok()?;
        Some(Held {
            is_exclusive: mode == "WRITE",
            pid: pid.parse().ok().filter(|pid| *pid > 0),
            device,
            inode,
        })
    }
}

/// Whether a process has this file open: some file systems have different device numbers in /proc/locks and
/// stat(2).
fn has_open(proc: &Path, pid: u32, metadata: &Metadata) -> bool {
    let open = fs::read_dir(proc.join(format!("{pid}/fd"))).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::metadata(entry.path()).ok())
        .any(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
}

fn running_for(proc: &Path, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?;
    // The second field is a name in parentheses, which may contain anything; the 22nd is the start time.
    let start: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = fs::read_to_string(proc.join("uptime")).ok()?;
    let uptime: u64 = uptime.split(['.', ' ']).next()?.parse().ok()?;
    uptime.checked_sub(start / TICKS)
}

/// A command line in one line of printable characters.
fn shown(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command).trim_end_matches('\0').replace('\0', " ");
    let mut shown = harmless_line(&text.chars().take(SHOWN).collect::<String>());
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /proc with these locks on the file, `MAJ:MIN:INODE` standing for it, and a process 77.
    fn proc(file: &Metadata, locks: &str) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let (major, minor) = (major(file.dev()), minor(file.dev()));
        let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
        fs::write(proc.path().join("locks"), locks.replace("FILE", &place)).unwrap();
        fs::write(proc.path().join("uptime"), "1000.52 3000.10\n").unwrap();
        fs::create_dir(proc.path().join("77")).unwrap();
        fs::write(proc.path().join("77/cmdline"), b"savecore\0save\0\x1b[31m\xff\0").unwrap();
        let fields = "S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 10000 0 0";
        fs::write(proc.path().join("77/stat"), format!("77 (evil) name) {fields}")).unwrap();
        proc
    }

    #[test]
    fn the_holder_is_named_and_cannot_play_with_the_terminal() {
        let file = tempfile::tempfile().unwrap().metadata().unwrap();
        let locks = "1: POSIX  ADVISORY  WRITE 12 FILE 0 EOF\n2: FLOCK  ADVISORY  WRITE 13 ff:00:1 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  76 FILE 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 78 FILE 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 77 FILE 0 EOF\n";
        let holder = holder_of(&file, proc(&file, locks).path()).unwrap();
        assert_eq!(holder.to_string(), "process 77 (savecore save \\u{1b}[31m\u{fffd}), running for 15 min");
    }

    #[test]
    fn a_holder_in_another_container_is_told_as_one_that_cannot_be_seen() {
        let file = tempfile::tempfile().unwrap().metadata().unwrap();
        let holder =
            holder_of(&file, proc(&file, "1: FLOCK  ADVISORY  READ  0 FILE 0 EOF\n").path()).unwrap();
        assert_eq!(holder.to_string(), "a process that cannot be seen from here");
    }

    #[test]
    fn without_a_lock_or_without_a_proc_there_is_no_holder() {
        let file = tempfile::tempfile().unwrap().metadata().unwrap();
        for locks in ["", "1: FLOCK", "\u{0}\n1: FLOCK  ADVISORY  READ  x zz:00:1 0 EOF\n"] {
            assert_eq!(holder_of(&file, proc(&file, locks).path()), None);
        }
        assert_eq!(holder_of(&file, Path::new("/nonexistent")), None);
    }
}
