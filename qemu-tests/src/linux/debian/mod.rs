//! Follows the guide in linux/README.md on complete Debian systems: built from Debian's archive, with
//! systemd, with both packages installed by apt. Every command of the guide is typed at the serial console
//! exactly as written. Then the machine crashes, harvests through its own units, and goes through later
//! events in a machine's life: a dead disk, a late one, another kernel, and the removal of the packages.

mod console;
mod guide;
mod release;
mod stores;
mod system;
mod walk;
mod walker;

use std::path::Path;

use anyhow::{Context, Result};

pub use release::{DEBIANS, Debian};
pub use walk::Packages;
pub use walker::Step;

impl Debian {
    /// Creates the system, if it is not in the cache; calls `say` before that.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(self, say: &mut dyn FnMut(&str)) -> Result<()> {
        system::System::get(self, say).map(|_| ())
    }

    /// Follows the guide; calls `done` for each step. All files are in `folder`, with a log for each boot of
    /// the machine. Returns facts.
    ///
    /// # Errors
    /// If a step failed; the error names the log. Steps that do not depend on it are still done.
    pub fn walk(self, packages: &Packages, folder: &Path, done: &mut dyn FnMut(&Step)) -> Result<String> {
        let system = system::System::get(self, &mut |_| ())?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        walk::walk(&system, packages, folder, done)
    }
}
