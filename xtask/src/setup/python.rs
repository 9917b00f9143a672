//! A Python with the modules that read cores and tables: drgn and DuckDB.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::work::{watched, work};
use crate::CannotBegin;

/// Debian's own Python, which is not always the first in the path.
const PYTHON: &str = "/usr/bin/python3";

/// Its modules, and their packages: libkdumpfile, and the one that creates virtual environments.
const MODULES: [(&str, &str); 2] = [("kdumpfile", "python3-libkdumpfile"), ("ensurepip", "python3-venv")];

/// Packages that Debian does not have, in the versions that the tests were made with, and their modules.
pub(super) const PYPI: [(&str, &str); 2] =
    [("drgn.helpers.linux", "drgn==0.3.0"), ("duckdb", "duckdb==2.0.0")];

fn has(python: &Path, module: &str) -> bool {
    let output = Command::new(python).args(["-c", &format!("import {module}")]).output();
    output.is_ok_and(|output| output.status.success())
}

/// The folder of our virtual environment.
fn own() -> Result<PathBuf> {
    Ok(qemu_tests::linux::cache()?.with_file_name("python").join("bin/python3"))
}

/// A Python that has drgn and DuckDB: the usual one, or that in the cache.
pub(super) fn find() -> Result<Option<PathBuf>> {
    let candidates = [PathBuf::from("python3"), own()?];
    Ok(candidates.into_iter().find(|python| PYPI.iter().all(|(module, _)| has(python, module))))
}

/// The missing Debian packages; venv only if an environment must be created.
pub(super) fn lacking(found: Option<&Path>) -> Vec<&'static str> {
    let needed = MODULES.iter().filter(|(module, _)| found.is_none() || *module != "ensurepip");
    needed.filter(|(module, _)| !has(Path::new(PYTHON), module)).map(|(_, package)| *package).collect()
}

/// Creates an environment with both in the cache.
pub(super) fn bring() -> Result<()> {
    let own = own()?;
    let folder = own
        .parent()
        .and_then(Path::parent)
        .context("a cache without a folder")?
        .to_string_lossy()
        .into_owned();
    let mut environment = Command::new(PYTHON);
    environment.args(["-m", "venv", "--clear", &folder]);
    let mut pip = Command::new(&own);
    pip.args(["-m", "pip", "install", "--quiet"]).args(PYPI.map(|(_, package)| package));
    for (what, command) in [("python3 -m venv", environment), ("pip install drgn duckdb", pip)] {
        work(what, &folder, || {
            let output = watched(command, what, Duration::from_secs(300))?;
            output.success(what).map_err(|error| CannotBegin(format!("{error:#}")))?;
            Ok(())
        })?;
    }
    Ok(())
}
