//! The rows that run a whole Debian system: they follow the guide step by step.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use qemu_tests::linux::{DEBIANS, Debian, Packages, Step as Walked};

use super::module::{folder, library_for_modules, pack_for_dkms};
use super::rows::Which;
use crate::setup::{self, Needs};
use crate::step::{Count, Step, step};
use crate::ui::{self, Mark};
use crate::{CannotBegin, deb};

/// The selected rows. The short run has none of them.
pub(super) fn chosen(which: Which<'_>) -> Vec<Debian> {
    let mut debians = DEBIANS.to_vec();
    debians.retain(|debian| match which {
        Which::Short => false,
        Which::All => true,
        Which::Named(part) => debian.name().contains(part),
    });
    debians
}

/// Runs them one after the other: each has two CPUs and deadlines. With `strict`, a missing tool is an error.
pub(super) fn run(count: &mut Count, debians: &[Debian], strict: bool) -> Result<()> {
    ui::section("whole Debians");
    let packages = match ready().and_then(|()| packages()) {
        Ok(packages) => packages,
        Err(error) if strict || !error.is::<CannotBegin>() => return Err(error),
        Err(error) => {
            step(count, "tools", || Ok(Step::Skipped(format!("{error:#}"))));
            count.skipped += debians.len();
            return Ok(());
        }
    };
    for debian in debians {
        let name = debian.name();
        let begin = Instant::now();
        let result = debian.prepare(&mut ui::notice).and_then(|()| {
            debian.walk(&packages, &folder().join("rows").join(&name), &mut |walked: &Walked| {
                let mark = if walked.failed.is_some() { Mark::Failed } else { Mark::Ok };
                let facts = format!("{name}  {}", walked.failed.as_deref().unwrap_or_default());
                ui::done(mark, &walked.what, facts.trim_end(), Some(walked.took));
            })
        });
        let (mark, facts) = match &result {
            Ok(facts) => (Mark::Ok, facts.clone()),
            Err(error) => (Mark::Failed, format!("{error:#}")),
        };
        ui::done(mark, &name, &facts, Some(begin.elapsed()));
        count.passed += usize::from(result.is_ok());
        count.failed += usize::from(result.is_err());
    }
    Ok(())
}

/// Installs the tools for building a Debian system.
fn ready() -> Result<()> {
    if !setup::is_root() {
        let why = "a whole Debian is made by debootstrap, whose files belong to root: run it as root";
        return Err(CannotBegin(why.to_owned()).into());
    }
    setup::bring(&Needs::debian())
}

/// Names a folder with both packages, so that none is built.
const PACKAGES: &str = "DISKDUMP_PACKAGES";

/// The two packages to install: those in [`PACKAGES`], or new ones.
fn packages() -> Result<Packages> {
    let Some(folder) = std::env::var_os(PACKAGES).map(PathBuf::from) else {
        return Ok(Packages { savecore: deb::package()?, dkms: pack_for_dkms(&library_for_modules()?)? });
    };
    let find = |beginning: &str| {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut found = files.map(|file| file.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(beginning) && name.ends_with(".deb")
        });
        let missing = || CannotBegin(format!("{PACKAGES}: {} has no {beginning}*.deb", folder.display()));
        found.next().ok_or_else(missing)
    };
    Ok(Packages { savecore: find("savecore_")?, dkms: find("diskdump-dkms_")? })
}
