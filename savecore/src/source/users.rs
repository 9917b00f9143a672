//! Which other processes use a file or a device: those that have it open for writing, and those that hold locks on its bytes
//! (fcntl_locking(2)), as virtual machines do on their disks.

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

/// How often and how long another process is waited for: many have a device open for a moment only.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Generations of processes above this one that are looked for, at most.
const MAX_ANCESTORS: u32 = 64;

/// The byte that a QEMU locks which does not want others to read (raw_apply_lock_bytes in its block/file-posix.c). It is left
/// free: one that only reads is in nobody's way.
const READERS: i64 = 200;

/// File systems that make a lock of fcntl(2) of each lock of flock(2), so that the own one is in the way: NFS, SMB, SMB2, CIFS.
const ALIKE: [u64; 4] = [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42];

/// A look before this process takes locks of its own: whether another one holds a lock on some of the file's bytes.
pub(super) fn is_locked(file: &File) -> bool {
    locker(file).is_some()
}

/// Sees that no other process uses a file or device, and keeps out those that look for locks: QEMU fails then with its message
/// about a lock, as if another QEMU had the disk.
///
/// # Errors
/// Who uses it, in words that follow "is".
pub(super) fn claim(file: &File, metadata: &Metadata, was_locked: bool) -> Result<(), String> {
    let objects = Object::all_of(metadata);
    let paths = objects.iter().filter_map(|object| object.path.as_deref());
    let behind: Vec<File> = paths.filter_map(|path| File::open(path).ok()).collect();
    // Other partitions of the same file may be another savecore's to write.
    let locked = || hold(file, was_locked).or_else(|| behind.iter().find_map(locker));
    wait_for(&|| user(&objects, locked())).map_or(Ok(()), Err)
}

/// Looks once more, after [`claim`], for processes that have opened it for writing.
pub(super) fn writer_of(metadata: &Metadata) -> Option<String> {
    let objects = Object::all_of(metadata);
    wait_for(&|| user(&objects, None))
}

/// Who uses it, after those who do only for a moment had theirs.
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

/// Takes a lock that others may have too on all bytes but the one of readers, and then looks whether somebody else has one. In
/// this order, of two who begin at once at least one sees the other.
fn hold(file: &File, was_locked: bool) -> Option<Locker> {
    let alike = fstatfs(file).is_ok_and(|system| ALIKE.contains(&(system.f_type as u64)));
    if alike {
        return was_locked.then_some(Locker { pid: None });
    }
    for (start, length) in [(0, READERS), (READERS + 1, 0)] {
        // A medium that knows no such locks has none that could be in the way.
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(libc::F_RDLCK, start, length)));
    }
    locker(file)
}

/// Somebody who holds a lock.
struct Locker {
    /// His number, if the lock is a process's and not an open file's.
    pid: Option<u32>,
}

fn locker(file: &File) -> Option<Locker> {
    let mut lock = bytes(libc::F_WRLCK, 0, 0);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
    (!is_free).then(|| Locker { pid: u32::try_from(lock.l_pid).ok().filter(|pid| *pid > 0) })
}

/// A lock on this many bytes; on all that follow, for 0.
fn bytes(kind: i32, start: i64, length: i64) -> libc::flock {
    // The numbers are small, and of another type on some systems.
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: start, l_len: length, l_pid: 0 }
}

/// What a process may have open that is the target, or shares bytes with it.
struct Object {
    identity: Identity,
    /// What it is, as messages name it.
    name: &'static str,
    /// Where it is, if locks on it count too.
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
    /// Which of them, as messages name it.
    name: &'static str,
    writes: bool,
    /// Whether it holds locks on bytes through this very open file.
    locks: bool,
}

/// Who uses one of the objects, in words that follow "is"; `locked` is somebody who holds a lock on it.
fn user(objects: &[Object], locked: Option<Locker>) -> Option<String> {
    let openers = openers(objects, Path::new("/proc"));
    if let Some(locker) = locked {
        let holder = openers.iter().find(|opener| opener.locks).map(|opener| opener.pid);
        let pid = locker.pid.or(holder).or(openers.first().map(|opener| opener.pid));
        return Some(format!("in use by {}, which holds a lock on it", named(pid)));
    }
    // Whoever started this process knows what it is doing, and waits for it.
    let ancestors = ancestors(Path::new("/proc"));
    let writer = openers.iter().find(|opener| opener.writes && !ancestors.contains(&opener.pid))?;
    Some(format!("in use by {}, which has {} open for writing", named(Some(writer.pid)), writer.name))
}

/// A process as messages name it.
fn named(pid: Option<u32>) -> String {
    let Some(pid) = pid else { return "a process that cannot be seen from here".to_owned() };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (process {pid})", harmless_line(name.trim_end())),
        Err(_) => format!("process {pid}"),
    }
}

/// All other processes that have one of the objects open, as far as this one may see them.
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
        // Sockets, pipes and the like have no path, and are most of what is open.
        fs::read_link(entry.path()).ok().filter(|path| path.is_absolute())?;
        // Without asking a server that may not answer any more.
        let flags = AtFlags::STATX_DONT_SYNC;
        let stat = statx(CWD, entry.path(), flags, StatxFlags::BASIC_STATS).ok()?;
        let object = objects.iter().find(|object| object.is(&stat))?;
        let info = fs::read_to_string(folder.join("fdinfo").join(entry.file_name())).ok()?;
        Some(Opener { pid, name: object.name, writes: may_write(&info), locks: has_locks(&info) })
    };
    open.filter_map(opening).collect()
}

/// Whether a file was opened for writing, as /proc/PID/fdinfo says (proc_pid_fdinfo(5)).
fn may_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(libc::O_RDONLY);
    // A path is a name only.
    flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

fn has_locks(info: &str) -> bool {
    let mut locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.any(|lock| lock.split_whitespace().any(|word| ["OFDLCK", "POSIX"].contains(&word)))
}

/// The process that started this one, the one that started that, and so on.
fn ancestors(proc: &Path) -> Vec<u32> {
    let mut pid = std::process::id();
    let mut all = Vec::new();
    for _ in 0..MAX_ANCESTORS {
        let stat = fs::read_to_string(proc.join(format!("{pid}/stat"))).unwrap_or_default();
        // The second field is a name in parentheses, which may hold anything; the fourth is the parent.
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
