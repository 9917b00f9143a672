//! A dump from standard input: it must become a file, for random access.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, ErrorKind, IsTerminal, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dumpcore::format::BLOCK_SIZE;
use flate2::read::MultiGzDecoder;
use rustix::fs::{OFlags, fstatvfs};

use crate::Error;

/// The name of standard input as a target.
pub const STANDARD_INPUT: &str = "-";

/// Its name in messages.
pub(super) const SHOWN: &str = "standard input";

/// Maximum number of bytes, decompressed: zeros cost nothing in compressed form, and nothing as holes.
const MAX_LENGTH: u64 = 16 << 40;

/// Space to keep free on the file system of the copy.
const RESERVE: u64 = 64 << 20;

/// Bytes per read and write.
const PIECE: usize = 1 << 20;

/// Standard input as a file with random access: itself if it is one, otherwise an unnamed copy in $TMPDIR
/// (default: /var/tmp) with holes for zeros. Decompresses zstd and gzip.
///
/// # Errors
/// If it is a terminal, empty, too long, compressed in another way, or cannot be read to its end, or if there
/// is no room for it.
pub(super) fn standard_input() -> Result<File, Error> {
    let unusable = |why: String| Error::StandardInput { why };
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(unusable("it is a terminal: pipe a dump into it".to_owned()));
    }
    // Without the buffer of io::stdin(), which would read ahead.
    let file =
        stdin.as_fd().try_clone_to_owned().map(File::from).map_err(|error| unusable(error.to_string()))?;
    if is_seekable_and_plain(&file) {
        return Ok(file);
    }
    let folder = std::env::var_os("TMPDIR").map_or_else(
        || if Path::new("/var/tmp").is_dir() { "/var/tmp".into() } else { std::env::temp_dir() },
        PathBuf::from,
    );
    Spool { folder: &folder, max_length: MAX_LENGTH, reserve: RESERVE }.copy(&file).map_err(unusable)
}

/// Whether it is an uncompressed file or device, positioned at its start.
fn is_seekable_and_plain(mut file: &File) -> bool {
    let kind = file.metadata().map(|metadata| metadata.file_type());
    let mut head = [0; HEAD];
    kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
        && file.stream_position().is_ok_and(|position| position == 0)
        && file.read_exact_at(&mut head, 0).is_ok()
        && Packing::of(&head) == Packing::None
}

/// Number of bytes that identify a compression.
const HEAD: usize = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Packing {
    None,
    Gzip,
    Zstd,
    /// An unsupported compression, and its command.
    Other(&'static str),
}

impl Packing {
    fn of(head: &[u8]) -> Packing {
        match head {
            // RFC 1952, section 2.3.1.
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // RFC 8878, sections 3.1.1 and 3.1.2: a frame, or a skippable one before the first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Packing::Other("xz"),
            [b'B', b'Z', b'h', ..] => Packing::Other("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Packing::Other("lz4"),
            _ => Packing::None,
        }
    }
}

/// The destination of a copy, and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Spool<'f> {
    /// The folder of the unnamed copy.
    pub folder: &'f Path,
    /// Maximum bytes of the copy, including holes.
    pub max_length: u64,
    /// Bytes to keep free on the folder's file system.
    pub reserve: u64,
}

impl Spool<'_> {
    /// Copies a stream into an unnamed file, with holes for zeros; decompresses gzip and zstd.
    /// # Errors
    /// In a clause, if the stream is empty, too long, corrupt or compressed in another way, or if there is no
    /// room for it.
    pub fn copy(&self, mut input: impl Read) -> Result<File, String> {
        let mut head = [0; HEAD];
        let length = fill(&mut input, &mut head).map_err(|error| error.to_string())?;
        let head = &head[..length];
        if head.is_empty() {
            return Err("it is empty".to_owned());
        }
        let packing = Packing::of(head);
        let input = Cursor::new(head).chain(input);
        match packing {
            Packing::None => self.copy_plain(input, |error| error.to_string()),
            // Both stop at frames of another format, and their memory is limited by their own windows: 128
            // MiB with zstd, which rejects larger ones.
            Packing::Gzip => self.copy_plain(MultiGzDecoder::new(input), |error| broken("gzip", error)),
            Packing::Zstd => {
                let input = zstd::stream::read::Decoder::new(input).map_err(|error| error.to_string())?;
                self.copy_plain(input, |error| broken("zstd", error))
            }
            Packing::Other(tool) => Err(format!(
                "it is compressed by {tool}, which savecore does not read: put `{tool} -dc |` before it"
            )),
        }
    }

    fn copy_plain(
        &self,
        mut input: impl Read,
        failed: impl Fn(&io::Error) -> String,
    ) -> Result<File, String> {
        let shown = self.folder.display();
        let file =
            unnamed(self.folder).map_err(|error| format!("cannot create a file in {shown}: {error}"))?;
        let mut piece = vec![0; PIECE];
        let mut length = 0_u64;
        let full = |length| {
            format!("{shown} has no room for more than {length} bytes of it; TMPDIR names another folder")
        };
        loop {
            let read = fill(&mut input, &mut piece).map_err(|error| failed(&error))?;
            if read == 0 {
                break;
            }
            if length + read as u64 > self.max_length {
                return Err(format!(
                    "it has more than {} bytes, the most that savecore accepts",
                    self.max_length
                ));
            }
            let free = fstatvfs(&file).map(|space| space.f_bavail.saturating_mul(space.f_frsize));
            for (at, block) in (length..).step_by(BLOCK_SIZE).zip(piece[..read].chunks(BLOCK_SIZE)) {
                if block.iter().all(|byte| *byte == 0) {
                    continue;
                }
                // If the free space is unknown, writing fails when there is none.
                if free.is_ok_and(|free| free < self.reserve.saturating_add(PIECE as u64)) {
                    return Err(full(length));
                }
                file.write_all_at(block, at).map_err(|error| match error.kind() {
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                        full(length)
                    }
                    _ => format!("its copy in {shown} cannot be written: {error}"),
                })?;
            }
            length += read as u64;
        }
        if length == 0 {
            return Err("it is empty".to_owned());
        }
        // Even if the last block is a hole.
        file.set_len(length).map_err(|error| format!("its copy in {shown} cannot be written: {error}"))?;
        Ok(file)
    }
}

fn broken(packing: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            format!("its {packing} data ends early: `{packing} -dc |` before it recovers what is there")
        }
        _ => format!("its {packing} data cannot be decompressed: {error}"),
    }
}

/// Reads until the buffer is full or the stream ends; returns the number of bytes.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A new file in a folder that is deleted when it is closed, whatever happens.
fn unnamed(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let unnamed = options.clone().custom_flags(OFlags::TMPFILE.bits() as i32).open(folder);
    // Some file systems do not support unnamed files.
    unnamed.or_else(|_| {
        let path = folder.join(format!(".savecore-{}", uuid::Uuid::new_v4()));
        let file = options.create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn spool(input: &[u8], max_length: u64, reserve: u64) -> Result<File, String> {
        let folder = tempfile::tempdir().unwrap();
        let copy = Spool { folder: folder.path(), max_length, reserve }.copy(input);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left");
        copy
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
        encoder.read_to_end(&mut packed).unwrap();
        packed
    }

    /// With a checksum, like the zstd command.
    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::read::Encoder::new(bytes, 1).unwrap();
        encoder.include_checksum(true).unwrap();
        let mut packed = Vec::new();
        encoder.read_to_end(&mut packed).unwrap();
        packed
    }

    /// More than a piece, not a whole number of blocks, with zeros at both ends.
    fn some_bytes() -> Vec<u8> {
        let mut bytes = vec![0; 2 * PIECE + 777];
        for (index, byte) in bytes[5000..PIECE + 99].iter_mut().enumerate() {
            *byte = (index * 7 / 3) as u8;
        }
        bytes
    }

    #[test]
    fn a_stream_comes_out_as_it_went_in_plain_or_packed_and_in_several_frames() {
        let bytes = some_bytes();
        let (front, back) = bytes.split_at(123_456);
        let skipped = [&[0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&bytes)].concat();
        let streams = [
            bytes.clone(),
            gzip(&bytes),
            zstd(&bytes),
            [gzip(front), gzip(back)].concat(),
            [zstd(front), zstd(back)].concat(),
            skipped,
        ];
        for stream in streams {
            assert!(content(&spool(&stream, MAX_LENGTH, 0).unwrap()) == bytes);
        }
    }

    #[test]
    fn zeros_become_holes() {
        let copy = spool(&zstd(&vec![0; 64 << 20]), MAX_LENGTH, 0).unwrap().metadata().unwrap();
        assert_eq!(copy.len(), 64 << 20);
        assert!(copy.blocks() * 512 < 1 << 20, "{} sectors", copy.blocks());
    }

    #[test]
    fn a_bomb_goes_off_at_the_limit() {
        for stream in [zstd(&vec![0; 64 << 20]), gzip(&vec![0; 64 << 20])] {
            let error = spool(&stream, 20 << 20, 0).unwrap_err();
            assert_eq!(error, "it has more than 20971520 bytes, the most that savecore accepts");
        }
    }

    #[test]
    fn what_has_no_room_says_where_and_what_to_do() {
        let error = spool(&some_bytes(), MAX_LENGTH, u64::MAX).unwrap_err();
        assert!(
            error.contains("has no room for more than 0 bytes of it; TMPDIR names another folder"),
            "{error}"
        );
        // Holes need no room.
        assert!(spool(&[0; 9000], MAX_LENGTH, u64::MAX).is_ok());
    }

    #[test]
    fn a_packed_stream_that_is_cut_or_changed_anywhere_is_an_error() {
        let bytes = &some_bytes()[..100_000];
        for packed in [gzip(bytes), zstd(bytes)] {
            for cut in (10..packed.len()).step_by(packed.len() / 50) {
                let error = spool(&packed[..cut], MAX_LENGTH, 0).unwrap_err();
                assert!(error.contains("data ends early") || error == "it is empty", "{cut}: {error}");
            }
            for at in (10..packed.len()).step_by(packed.len() / 50) {
                let mut changed = packed.clone();
                changed[at] ^= 0x41;
                if let Ok(copy) = spool(&changed, MAX_LENGTH, 0) {
                    assert!(content(&copy) == bytes, "byte {at} was changed, and nobody saw");
                }
            }
        }
    }

    #[test]
    fn what_others_packed_is_named_and_nothing_is_nothing() {
        for (head, tool) in
            [(&b"\xfd7zXZ\0..."[..], "xz"), (b"BZh91AY", "bzip2"), (b"\x04\x22\x4d\x18abc", "lz4")]
        {
            assert!(spool(head, MAX_LENGTH, 0).unwrap_err().contains(&format!("`{tool} -dc |`")));
        }
        for stream in [Vec::new(), gzip(b""), zstd(b"")] {
            assert_eq!(spool(&stream, MAX_LENGTH, 0).unwrap_err(), "it is empty");
        }
    }
}
