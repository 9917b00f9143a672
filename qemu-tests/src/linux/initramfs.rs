//! The archive that Linux unpacks into its initial root: cpio in the "new ASCII" format (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;

/// File types and permissions, as in Unix.
const FOLDER: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// Names, headers and contents begin at multiples of this.
const ALIGN: usize = 4;

/// The name of the entry that ends the archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction.
#[derive(Clone, Debug, Default)]
pub(super) struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Initramfs {
    /// Adds a file at `path`, relative to the root, and its parent folders. `mode` is its permissions.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        for (slash, _) in path.match_indices('/') {
            self.folder(path.get(..slash).unwrap_or_default());
        }
        self.entry(path, REGULAR | mode, content);
    }

    /// Adds a folder, unless it was added before.
    pub(super) fn folder(&mut self, path: &str) {
        if self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER, &[]);
        }
    }

    /// The archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let is_trailer = path == TRAILER;
        if !is_trailer {
            self.entries += 1;
        }
        let number = if is_trailer { 0 } else { self.entries };
        let fields = [
            // Inode number; mode; owner and group (root).
            number,
            mode,
            0,
            0,
            // Number of links; modification time.
            1,
            0,
            content.len() as u32,
            // Numbers of the device that contains it, and of the device that it is, if any.
            0,
            0,
            0,
            0,
            // Length of the name including a terminating zero; a checksum, which is zero in this format.
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Path, mode and content of every entry before the trailer.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let whole = bytes.len();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let at = 6 + index * 8;
                u32::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let position = whole - bytes.len();
            let content = (position + 110 + name).next_multiple_of(4) - position;
            let path = std::str::from_utf8(&bytes[110..110 + name - 1]).unwrap();
            assert_eq!(bytes[110 + name - 1], 0);
            if path == TRAILER {
                assert_eq!(size, 0);
                return entries;
            }
            entries.push((path.to_owned(), mode, bytes[content..content + size].to_vec()));
            bytes = &bytes[(position + content + size).next_multiple_of(4) - position..];
        }
    }

    #[test]
    fn folders_come_once_and_before_what_is_in_them() {
        let mut archive = Initramfs::default();
        archive.file("a/b/one", 0o644, b"1");
        archive.file("a/two", 0o755, b"22");
        archive.folder("a");
        let entries = read(&archive.finish());
        let paths: Vec<&str> = entries.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/one", "a/two"]);
        let modes: Vec<u32> = entries.iter().map(|(_, mode, _)| *mode).collect();
        assert_eq!(modes, [0o040_755, 0o040_755, 0o100_644, 0o100_755]);
    }

    proptest! {
        #[test]
        fn every_file_comes_out_as_it_went_in(
            files in proptest::collection::vec(("[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..50)), 0..9),
        ) {
            let mut archive = Initramfs::default();
            for (path, content) in &files {
                archive.file(path, 0o600, content);
            }
            let expected: Vec<_> =
                files.into_iter().map(|(path, content)| (path, 0o100_600, content)).collect();
            prop_assert_eq!(read(&archive.finish()), expected);
        }
    }
}
