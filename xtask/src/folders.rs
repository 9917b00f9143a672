//! Folders: the workspace, and those with the tasks' output.

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
