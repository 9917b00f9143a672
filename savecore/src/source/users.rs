//! Other processes that use a file or a device: those that have it open for writing, and those with locks on
//! its bytes (fcntl_locking(2)), as virtual machines have on their disks.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, fstatfs, makedev, statx};

use super::sysfs::Roots;
use crate::text::harmless_line;

/// Number of attempts to wait for another process, and the pause: many have a device open only for a moment.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of ancestors of this process to search.
const MAX_ANCESTORS: u32 = 64;

/// The byte that a QEMU locks if it does not want other readers (raw_apply_lock_bytes in its
/// block/file-posix.c). It is left unlocked: mere readers are no obstacle.
const READERS: i64 = 200;

/// File systems that implement flock(2) locks as fcntl(2) locks, so that our own lock conflicts: NFS, SMB,
/// SMB2, CIFS.
const ALIKE: [u64; 4] = [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42];

/// To be called before this process takes its own locks: whether another one has a lock on some of the file's
/// bytes.
pub(super) fn is_locked(file: &File) -> bool {
    locker(file).is_some()
}

/// Checks that no other process uses a file or device, and excludes those that check for locks: QEMU then
/// fails with its message about a lock, as if another QEMU had the disk.
///
/// # Errors
/// The user, in words that follow "is".
pub(super) fn claim(file: &File, metadata: &Metadata, was_locked: bool) -> Result<(), String> {
    let objects = Object::all_of(metadata);
    let paths = objects.iter().filter_map(|object| object.path.as_deref());
    let behind: Vec<File> = paths.filter_map(|path| File::open(path).ok()).collect();
    // Another savecore may be writing other partitions of the same file.
    let locked = || hold(file, was_locked).or_else(|| behind.iter().find_map(locker));
    wait_for(&|| user(&objects, locked())).map_or(Ok(()), Err)
}

/// Checks again, after [`claim`], for processes that have opened it for writing.
pub(super) fn writer_of(metadata: &Metadata) -> Option<String> {
    let objects = Object::all_of(metadata);
    wait_for(&|| user(&objects, None))
}

/// The user, after waiting for those that have it open only for a moment.
fn wait_for(user: &dyn Fn() -> Option<String>) -> Option<String> {
    let mut found = user();
    for _ in 1..TRIES {
        if found.is_none() {
            break;
        }
        sleep(PAUSE);
        found = user();
    }
    found
}

/// Takes a shared lock on all bytes except the readers' one, and then checks for other locks. In this order,
/// of two processes that start at once at least one sees the other.
fn hold(file: &File, was_locked: bool) -> Option<Locker> {
    let alike = fstatfs(file).is_ok_and(|system| ALIKE.contains(&(system.f_type as u64)));
    if alike {
        return was_locked.then_some(Locker { pid: None });
    }
    for (start, length) in [(0, READERS), (READERS + 1, 0)] {
        // A medium without such locks has no conflicting ones.
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(libc::F_RDLCK, start, length)));
    }
    locker(file)
}

/// A process with a lock.
struct Locker {
    /// Its number, if the lock belongs to a process and not to an open file.
    pid: Option<u32>,
}

fn locker(file: &File) -> Option<Locker> {
    let mut lock = bytes(libc::F_WRLCK, 0, 0);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
    (!is_free).then(|| Locker { pid: u32::try_from(lock.l_pid).ok().filter(|pid| *pid > 0) })
}

/// A lock on this many bytes; 0 for all that follow.
fn bytes(kind: i32, start: i64, length: i64) -> libc::flock {
    // The numbers are small, but have another type on some systems.
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: start, l_len: length, l_pid: 0 }
}

/// An object that is the target, or shares bytes with it.
struct Object {
    identity: Identity,
    /// Its name in messages.
    name: &'static str,
    /// Its path, if locks on it count too.
    path: Option<String>,
}

#[derive(PartialEq, Eq)]
enum Identity {
    Device(u64),
    File { device: u64, inode: u64 },
}

impl Object {
    fn all_of(metadata: &Metadata) -> Vec<Object> {
        let file = |metadata: &Metadata| Identity::File { device: metadata.dev(), inode: metadata.ino() };
        if !metadata.file_type().is_block_device() {
            return vec![Object { identity: file(metadata), name: "it", path: None }];
        }
        let device = |number, name| Object { identity: Identity::Device(number), name, path: None };
        let mut all = vec![device(metadata.rdev(), "it")];
        let Some(own) = Roots::system().device(metadata.rdev()) else { return all };
        all.extend(own.partitions().iter().map(|partition| device(partition.number, "a partition of it")));
        let disk = own.disk();
        all.extend(disk.iter().map(|disk| device(disk.number, "its disk")));
        let backing = disk.as_ref().unwrap_or(&own).backing_file();
        if let Some(path) = backing
            && let Ok(metadata) = fs::metadata(&path)
        {
            all.push(Object { identity: file(&metadata), name: "the file that backs it", path: Some(path) });
        }
        all
    }

    fn is(&self, stat: &Statx) -> bool {
        let is_block = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::BlockDevice;
        match self.identity {
            Identity::Device(number) => {
                is_block && makedev(stat.stx_rdev_major, stat.stx_rdev_minor) == number
            }
            Identity::File { device, inode } => {
                stat.stx_ino == inode && makedev(stat.stx_dev_major, stat.stx_dev_minor) == device
            }
        }
    }
}

/// A process that has one of the objects open.
struct Opener {
    pid: u32,
    /// The name of the object in messages.
    name: &'static str,
    writes: bool,
    /// Whether it has locks on bytes through this open file.
    locks: bool,
}

/// The user of one of the objects, in words that follow "is"; `locked` is a process with a lock on it.
fn user(objects: &[Object], locked: Option<Locker>) -> Option<String> {
    let openers = openers(objects, Path::new("/proc"));
    if let Some(locker) = locked {
        let holder = openers.iter().find(|opener| opener.locks).map(|opener| opener.pid);
        let pid = locker.pid.or(holder).or(openers.first().map(|opener| opener.pid));
        return Some(format!("in use by {}, which holds a lock on it", named(pid)));
    }
    // Ancestors of this process started it deliberately, and wait for it.
    let ancestors = ancestors(Path::new("/proc"));
    let writer = openers.iter().find(|opener| opener.writes && !ancestors.contains(&opener.pid))?;
    Some(format!("in use by {}, which has {} open for writing", named(Some(writer.pid)), writer.name))
}

/// A process's name for messages.
fn named(pid: Option<u32>) -> String {
    let Some(pid) = pid else { return "a process that cannot be seen from here".to_owned() };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (process {pid})", harmless_line(name.trim_end())),
        Err(_) => format!("process {pid}"),
    }
}

/// All other visible processes that have one of the objects open.
fn openers(objects: &[Object], proc: &Path) -> Vec<Opener> {
    let own = std::process::id();
    let numbers = fs::read_dir(proc).into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| *pid != own).flat_map(|pid| openings(objects, proc, pid)).collect()
}

fn openings(objects: &[Object], proc: &Path, pid: u32) -> Vec<Opener> {
    let folder = proc.join(pid.to_string());
    let open = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
    let opening = |entry: fs::DirEntry| {
        // Sockets, pipes and the like, which are most open files, have no path.
        fs::read_link(entry.path()).ok().filter(|path| path.is_absolute())?;
        // Without asking a server that may no longer answer.
        let flags = AtFlags::STATX_DONT_SYNC;
        let stat = statx(CWD, entry.path(), flags, StatxFlags::BASIC_STATS).ok()?;
        let object = objects.iter().find(|object| object.is(&stat))?;
        let info = fs::read_to_string(folder.join("fdinfo").join(entry.file_name())).ok()?;
        Some(Opener { pid, name: object.name, writes: may_write(&info), locks: has_locks(&info) })
    };
    open.filter_map(opening).collect()
}

/// Whether a file was opened for writing, from /proc/PID/fdinfo (proc_pid_fdinfo(5)).
fn may_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(libc::O_RDONLY);
    // O_PATH files are only names.
    flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

fn has_locks(info: &str) -> bool {
    let mut locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.any(|lock| lock.split_whitespace().any(|word| ["OFDLCK", "POSIX"].contains(&word)))
}

/// The process's ancestors, starting with its parent.
fn ancestors(proc: &Path) -> Vec<u32> {
    let mut pid = std::process::id();
    let mut all = Vec::new();
    for _ in 0..MAX_ANCESTORS {
        let stat = fs::read_to_string(proc.join(format!("{pid}/stat"))).unwrap_or_default();
        // The second field is a name in parentheses, which may contain anything; the fourth is the parent.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        let Some(parent) = fields.split_whitespace().nth(1).and_then(|field| field.parse().ok()) else {
            break;
        };
        if parent == 0 {
            break;
        }
        all.push(parent);
        pid = parent;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_for_reading_or_as_a_name_only_is_not_open_for_writing() {
        for (flags, writes) in
            [("0100000", false), ("0100001", true), ("02100002", true), ("012000002", false), ("x", false)]
        {
            assert_eq!(may_write(&format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t29\n")), writes, "{flags}");
        }
    }

    #[test]
    fn locks_of_flock_are_not_taken_for_locks_on_bytes() {
        assert!(!has_locks("flags:\t0100000\nlock:\t1: FLOCK  ADVISORY  WRITE 77 fe:01:5 0 EOF\n"));
        assert!(has_locks("flags:\t0100000\nlock:\t1: OFDLCK ADVISORY  READ -1 fe:01:5 100 101\n"));
        assert!(has_locks(
            "lock:\t1: FLOCK ADVISORY READ 7 0:1:5 0 EOF\nlock:\t2: POSIX  ADVISORY  WRITE 7 0:1:5 0 0\n"
        ));
    }

    #[test]
    fn a_process_has_its_parent_for_an_ancestor_and_not_itself() {
        let ancestors = ancestors(Path::new("/proc"));
        assert_eq!(ancestors.first(), Some(&std::os::unix::process::parent_id()));
        assert!(!ancestors.contains(&std::process::id()));
    }
}
