//! `cargo xtask exercise`: shows that a new driver takes one folder and one line of a table.
//!
//! It copies the sources, and adds a driver for a made-up device to the copy: a folder in `drivers/src`, and
//! a line in `drivers/src/table.rs`. Without any other change, the panic check must link the driver, and the
//! test kernel and the Linux module must build with it.
//!
//! The folder is a copy of `drivers/tests/battery/made_up/ferry`, which the battery of all drivers tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build::{BUILD_LIMIT, KERNEL_FLAGS};
use crate::toolchain::{Toolchain, logged};
use crate::ui::{self, Mark};
use crate::{folders, panic_free};

/// What the copy is built for.
const TARGET: &str = "x86_64-unknown-none";
/// The folders that are copied.
const COPIED: [&str; 6] =
    ["dumpcore", "drivers", "linux/core", "linux/module", "qemu-tests/kernel", "qemu-tests/panic-free"];
/// The driver's folder in the sources and in the copy.
const FROM: &str = "drivers/tests/battery/made_up/ferry";
const TO: &str = "drivers/src/ferry";
/// The table, and the new line.
const TABLE: &str = "drivers/src/table.rs";
const LINE: &str = "            #[cfg(all())] ferry: \"ferry\" disk::FerryDriver;\n";
/// The start of the line that follows it.
const NEXT: &str = "            #[cfg(feature = \"ahci\")]";

/// The task. Says what was built with the driver.
///
/// # Errors
/// What lacks the driver or does not build with it.
pub(crate) fn check() -> Result<String> {
    let toolchain = Toolchain::need(TARGET)?;
    let copy = folders::target_folder().join("exercise");
    write(&copy, &sources(&folders::root())?)?;
    let code = panic_free::check_in(&copy, TARGET, folders::of_drivers().into_iter().chain(["ferry"]))?;
    for package in ["test-kernel", "dump-linux-module"] {
        let mut cargo = toolchain.cargo("check", TARGET, KERNEL_FLAGS);
        cargo.current_dir(&copy).args(["--release", "--quiet", "--package", package]);
        let what = format!("{package} with one driver more");
        logged(cargo, &what, BUILD_LIMIT)?.success(&what)?;
    }
    Ok(format!("a driver more by one folder and one line; in the panic check {} KiB of code", code / 1024))
}

/// The task, on the terminal.
pub(crate) fn task() -> Result<bool> {
    ui::section("a driver for a device that does not exist");
    ui::running("building");
    let begin = Instant::now();
    let said = check()?;
    ui::done(Mark::Ok, "exercise", &said, Some(begin.elapsed()));
    Ok(true)
}

/// Files by their paths.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files of the copy.
fn sources(root: &Path) -> Result<Files> {
    let mut files = Files::new();
    for name in ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"] {
        files.insert(name.into(), read(&root.join(name))?);
    }
    for folder in COPIED {
        gather(root, Path::new(folder), &mut files)?;
    }
    let manifest = text(&files, "Cargo.toml")?;
    files.insert("Cargo.toml".into(), members(&manifest)?.into_bytes());
    // All that a new driver takes: its folder, whose paths now begin with `crate`, …
    let mut folder = Files::new();
    gather(root, Path::new(FROM), &mut folder)?;
    for path in folder.keys() {
        let inside = text(&folder, path)?.replace("dump_drivers::", "crate::");
        files.insert(Path::new(TO).join(path.strip_prefix(FROM)?), inside.into_bytes());
    }
    // … and a line.
    let table = text(&files, TABLE)?;
    ensure!(table.matches(NEXT).count() == 1, "{TABLE} has no line for ahci any more");
    files.insert(TABLE.into(), table.replace(NEXT, &format!("{LINE}{NEXT}")).into_bytes());
    Ok(files)
}

/// The workspace's manifest, reduced to the packages that are copied.
fn members(manifest: &str) -> Result<String> {
    let lines = manifest.lines().filter(|line| !line.starts_with("default-members"));
    let mut found = false;
    let lines: Vec<String> = lines
        .map(|line| match line.starts_with("members = ") {
            true => {
                found = true;
                format!("members = {COPIED:?}")
            }
            false => line.to_owned(),
        })
        .collect();
    ensure!(found, "Cargo.toml has no line of members any more");
    Ok(lines.join("\n"))
}

/// The files in a folder, and in those inside it.
fn gather(root: &Path, folder: &Path, files: &mut Files) -> Result<()> {
    let path = root.join(folder);
    for entry in fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry?;
        let name = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            gather(root, &name, files)?;
        } else {
            files.insert(name, read(&entry.path())?);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn text(files: &Files, path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = files.get(path).with_context(|| format!("there is no {}", path.display()))?;
    String::from_utf8(bytes.clone()).with_context(|| format!("{} is no text", path.display()))
}

/// Makes a folder hold these files and no others. Files that are equal already are not touched, so that cargo
/// does not build them again.
fn write(copy: &Path, files: &Files) -> Result<()> {
    let mut there = Files::new();
    fs::create_dir_all(copy).with_context(|| format!("cannot create {}", copy.display()))?;
    gather(copy, Path::new(""), &mut there)?;
    for path in there.keys().filter(|path| !files.contains_key(*path)) {
        fs::remove_file(copy.join(path))?;
    }
    for (path, bytes) in files.iter().filter(|(path, bytes)| there.get(*path) != Some(bytes)) {
        let path = copy.join(path);
        fs::create_dir_all(path.parent().unwrap_or(copy))?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_driver_touches_one_folder_and_one_line_of_the_table() {
        let root = folders::root();
        let files = sources(&root).unwrap();
        let changed: Vec<_> = files
            .iter()
            .filter(|(path, bytes)| fs::read(root.join(path)).ok().as_ref() != Some(bytes))
            .collect();
        let (inside, outside): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|(path, _)| path.starts_with(TO));
        assert!(!inside.is_empty());
        // The manifest lacks only the packages that are not copied.
        let outside: Vec<_> = outside.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(outside, ["Cargo.toml", TABLE]);
        let before = fs::read_to_string(root.join(TABLE)).unwrap();
        let after = text(&files, TABLE).unwrap();
        let new: Vec<_> = after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
        assert_eq!((new, after.lines().count()), (vec![LINE.trim_end()], before.lines().count() + 1));
    }
}
