//! What a drill makes and leaves nothing of.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A number that no other dump has.
pub(super) fn nonce() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32)
}

/// A directory that goes with all that is in it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Makes one in `parent`.
    pub(super) fn new(parent: &Path) -> Result<Scratch, String> {
        let path = parent.join(format!(".savecore-drill-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Scratch(path.clone()))
            .map_err(|error| format!("cannot create {}: {error}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed says so by its name.
        let _ = fs::remove_dir_all(&self.0);
    }
}
