//! Temporary objects of a drill.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A number unique to this dump.
pub(super) fn nonce() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)
}

/// A temporary directory, deleted with its contents.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Creates one in `parent`.
    pub(super) fn new(parent: &Path) -> Result<Scratch, String> {
        let path = parent.join(format!(".savecore-drill-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Scratch(path.clone()))
            .map_err(|error| format!("cannot create {}: {error}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Its name says what it is if it cannot be removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}
