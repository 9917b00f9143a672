//! Files with memory contents: only their owner may read them, and links are not followed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Paths with links to open files of this process, such as /dev/stdout.
const OPEN_FILES: [&str; 4] = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc/self/fd"];

/// Writes a file that only its owner may read. A new file replaces any earlier one when it is complete. An
/// existing pipe or device is written to.
///
/// # Errors
/// If it cannot be created, or if something else is there: a link, a folder, a pipe of another user.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => replace(path, bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => replace(path, bytes),
        Ok(there) if there.is_symlink() => {
            let is_open_file = OPEN_FILES.iter().any(|folder| path.starts_with(folder));
            if !is_open_file {
                return Err(io::Error::other("it is a link, and none is followed: name the file itself"));
            }
            into(path, bytes)
        }
        Ok(there) if is_stream(&there) => into(path, bytes),
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Err(io::Error::other("it is neither a file nor a pipe nor a device")),
        Err(error) => Err(error),
    }
}

/// Writes to an existing pipe or device.
fn into(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    let there = file.metadata()?;
    let owners = [rustix::process::geteuid().as_raw(), 0];
    if !there.is_file() && !owners.contains(&there.uid()) && !is_device(&there) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is a pipe of another user"));
    }
    file.write_all(bytes)
}

fn is_device(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device()
}

fn is_stream(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_fifo() || is_device(metadata)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.open(&temporary)?;
    let written = fill(&file, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn fill(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    // Otherwise a power failure could leave an empty file in place of the earlier one.
    file.sync_all()
}

/// An unpredictable name in the file's folder.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:08x}.partial", uuid::Uuid::new_v4().as_u128() as u32));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_new_and_its_owners_alone_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        write(&path, b"one").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"one"[..], 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        // Anyone with the file open, or with another link to it, still has the old contents.
        let other = folder.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        write(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"two"[..], 0o600));
        assert_eq!((fs::read(&other).unwrap().as_slice(), mode(&other)), (&b"one"[..], 0o666));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something is left");
    }

    #[test]
    fn no_link_is_followed_and_none_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        symlink(&file, &link).unwrap();
        for _ in 0..2 {
            assert!(write(&link, b"x").unwrap_err().to_string().contains("is a link"));
            assert!(!file.exists() || fs::read(&file).unwrap() == b"mine");
            fs::write(&file, "mine").unwrap();
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(write(folder.path(), b"x").is_err());
    }

    #[test]
    fn a_pipe_takes_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let reader = pipe.clone();
        let reader = std::thread::spawn(move || fs::read(reader).unwrap());
        write(&pipe, b"page").unwrap();
        assert_eq!(reader.join().unwrap(), b"page");
        write(Path::new("/dev/null"), b"page").unwrap();
    }
}
