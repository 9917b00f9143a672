//! The guide in linux/README.md, walked on whole Debians: systems made of Debian's archive, with systemd, on which both packages are
//! installed by apt. Every command of the guide is typed at the serial console, as it is written; then the machine crashes, harvests by
//! its own units, and goes through what happens to machines later: a dead disk, a late one, another kernel, and the packages' end.

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
    /// Makes the system, if it is not in the cache; `say` is told before.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn prepare(self, say: &mut dyn FnMut(&str)) -> Result<()> {
        system::System::get(self, say).map(|_| ())
    }

    /// Walks; `done` is told of each step. All is in `folder`, with the log of each start of the machine. Gives facts.
    ///
    /// # Errors
    /// If a step failed; the error names the log. Steps that do not depend on it are done all the same.
    pub fn walk(self, packages: &Packages, folder: &Path, done: &mut dyn FnMut(&Step)) -> Result<String> {
        let system = system::System::get(self, &mut |_| ())?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        walk::walk(&system, packages, folder, done)
    }
}
