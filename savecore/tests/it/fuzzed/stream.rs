//! Streams of any bytes, as they come through standard input: plain, or compressed with gzip or zstd.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use savecore::source::Spool;

/// Bytes of a copy, at most.
const LIMIT: u64 = 8 << 20;

/// Unpacks a stream. It does not panic, hang, or use more space than allowed.
pub(crate) fn no_harm(bytes: &[u8]) {
    // A copy has no name, so runs cannot collide.
    let memory = Path::new("/dev/shm");
    let temporary = std::env::temp_dir();
    let folder = if memory.is_dir() { memory } else { &temporary };
    match (Spool { folder, max_length: LIMIT, reserve: 0 }).copy(bytes) {
        Ok(file) => {
            let metadata = file.metadata().expect("a file");
            assert!(metadata.len() > 0 && metadata.len() <= LIMIT, "{} bytes", metadata.len());
            assert!(metadata.blocks() * 512 <= LIMIT + (1 << 20), "{} sectors", metadata.blocks());
        }
        Err(why) => assert!(!why.is_empty() && !why.contains(['\n', '\x1b']), "{why:?}"),
    }
}
