//! Folders: the workspace, and those with the tasks' output.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target folder.
pub(crate) fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The target folder of bare-metal builds, which may use another compiler.
pub(crate) fn bare_folder() -> PathBuf {
    target_folder().join("bare")
}

/// The folder for the logs of builds and tests.
pub(crate) fn log_folder() -> Result<PathBuf> {
    let folder = target_folder().join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The files with this extension in a folder and its subfolders, sorted.
pub(crate) fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, ending)?);
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A file of the workspace, as messages name it.
pub(crate) fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The folders in `drivers/src` that the table of drivers brings in.
pub(crate) fn of_drivers() -> BTreeSet<&'static str> {
    dump_drivers::DRIVERS.iter().map(|driver| driver.folder).collect()
}
