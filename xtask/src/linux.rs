//! `cargo xtask linux`: stock kernels that crash with diskdump.ko armed, and whole Debian systems.

mod debian;
mod module;
mod rows;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu_tests::linux::{Kernel, Lab, Readers, Row};
use qemu_tests::savecore::Savecore;

use crate::setup::Needs;
use crate::step::{Count, Step, step};
use crate::ui::{self, Mark};
use crate::{CannotBegin, build, panic_free, setup};
pub(crate) use module::{Built, folder, get, library_for_modules, modules};
pub(crate) use rows::{Which, chosen, wants};

/// savecore has hung if it takes longer.
const SAVECORE_LIMIT: Duration = Duration::from_secs(300);

/// Rows at a time. They have deadlines, so never more than the CPUs can run.
const AT_A_TIME: usize = 2;

/// The task. With `strict`, a missing tool is an error.
pub(crate) fn task(which: Which<'_>, list: bool, strict: bool) -> Result<bool> {
    let (chosen, debians) = (chosen(which), debian::chosen(which));
    if chosen.is_empty() && debians.is_empty() {
        return Err(CannotBegin(
            "no row's name contains that; `cargo xtask linux --list` names them".to_owned(),
        )
        .into());
    }
    if list {
        let width = chosen.iter().map(|row| row.name().len()).max().unwrap_or_default();
        for row in chosen {
            ui::text(&format!("{:<width$}  {}", row.name(), row.about));
        }
        for debian in debians {
            ui::text(&format!("{:<width$}  {}", debian.name(), debian.about()));
        }
        return Ok(true);
    }
    let mut count = Count::default();
    if !chosen.is_empty() {
        run(&mut count, &build::savecore()?, &chosen, strict)?;
    }
    if !debians.is_empty() {
        debian::run(&mut count, &debians, strict)?;
    }
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// Runs these rows and counts the results. With `strict`, a missing tool is an error.
pub(crate) fn run(count: &mut Count, savecore: &Path, rows: &[Row], strict: bool) -> Result<()> {
    ui::section("stock Linux");
    let ready = setup::bring(&Needs::linux(wants(rows))).and_then(|()| setup::python());
    let python = match ready {
        Ok(python) => python,
        Err(error) if strict || !error.is::<CannotBegin>() => return Err(error),
        Err(error) => {
            step(count, "tools", || Ok(Step::Skipped(format!("{error:#}"))));
            count.skipped += rows.len();
            return Ok(());
        }
    };
    let mut kernels: Vec<Kernel> = Vec::new();
    for row in rows {
        if !kernels.contains(&row.kernel) {
            kernels.push(row.kernel);
        }
    }
    let mut built: Vec<Built> = Vec::new();
    let mut library = None;
    step(count, "the module's part in Rust", || {
        library = Some(library_for_modules()?);
        Ok(Step::Done(String::new()))
    });
    let Some(library) = library else { return Ok(()) };
    step(count, "no panic can be reached in a crashed Linux", || {
        Ok(Step::Done(panic_free::check_module(&library)?))
    });
    for kernel in kernels {
        let symbols = rows.iter().any(|row| row.kernel == kernel && row.wants_symbols());
        step(count, &format!("diskdump.ko for {}", kernel.name()), || {
            match get(kernel, symbols) {
                Ok(stock) => built.push(modules(stock, &library)?),
                Err(error) if strict => return Err(error),
                Err(error) => return Ok(Step::Skipped(format!("{error:#}"))),
            }
            Ok(Step::Done(built.last().map(|built| built.stock.release.clone()).unwrap_or_default()))
        });
    }
    if let Some(built) = built.iter().find(|built| built.stock.rust_tools().is_none()) {
        step(count, "DKMS builds the module of what its package holds", || {
            Ok(Step::Done(module::dkms(built, &library)?))
        });
    }
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Count::default());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(built) = built.iter().find(|built| built.stock.which == row.kernel) else {
                        if let Ok(mut total) = total.lock() {
                            total.skipped += 1;
                        }
                        continue;
                    };
                    let begin = Instant::now();
                    let result = lab(row, built, savecore, &python).and_then(|lab| row.run(&lab));
                    let (mark, facts) = match &result {
                        Ok(facts) => (Mark::Ok, facts.clone()),
                        Err(error) => (Mark::Failed, format!("{error:#}")),
                    };
                    ui::done(mark, &row.name(), &facts, Some(begin.elapsed()));
                    if let Ok(mut total) = total.lock() {
                        total.passed += usize::from(result.is_ok());
                        total.failed += usize::from(result.is_err());
                    }
                }
            });
        }
    });
    *count += total.into_inner().unwrap_or_default();
    Ok(())
}

/// The environment of a row.
fn lab(row: &Row, built: &Built, savecore: &Path, python: &Path) -> Result<Lab> {
    let folder = folder().join("rows").join(row.name());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(Lab {
        stock: built.stock.clone(),
        vmlinux: built.vmlinux.clone().filter(|_| row.wants_symbols()),
        module: built.module.clone(),
        faults: built.faults.clone(),
        savecore: Savecore::new(savecore, &folder, SAVECORE_LIMIT),
        readers: Readers { python: python.to_path_buf(), folder: folder.clone() },
        folder,
    })
}
