//! `cargo xtask test` and `ci`: runs every check, and prints one line of numbers at the end.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::bed::{ARCHITECTURES, X86_64};
use qemu_tests::scenarios;

use crate::step::{Count, SECTION_LIMIT, Step, counted, on_ci, step, why_failed};
use crate::toolchain::{TARGETS, Toolchain, has_nextest, host_cargo, logged};
use crate::ui::{self, Mark};
use crate::{
    CannotBegin, book, build, everything, exercise, floors, folders, licences, linux, long_files, loops,
    packages, panic_free, parameters, qemu, readers, setup,
};

/// Time limit of the demo when everything is built.
const DEMO_LIMIT: Duration = Duration::from_secs(60);

/// The task. With `strict`, a missing tool is an error; otherwise tests that need it are skipped and counted.
pub(crate) fn task(strict: bool) -> Result<bool> {
    let begin = Instant::now();
    let mut count = Count::default();

    ui::section("setup");
    let ready = match setup::bring(&everything::needs()) {
        Ok(()) => {
            ui::done(Mark::Ok, "tools and toolchain", "", Some(begin.elapsed()));
            true
        }
        Err(error) if strict || !error.is::<CannotBegin>() => return Err(error),
        Err(error) => {
            ui::done(Mark::Skipped, "tools and toolchain", &format!("{error:#}"), None);
            false
        }
    };
    let python = setup::python().ok();

    ui::section("format and lints");
    step(&mut count, "format", || {
        let mut cargo = host_cargo();
        cargo.args(["fmt", "--all", "--", "--check", "--files-with-diff"]);
        // The table of drivers brings these in, so cargo does not name them.
        let sources = folders::root().join("drivers/src");
        cargo.args(folders::of_drivers().iter().map(|folder| sources.join(folder).join("mod.rs")));
        let output = logged(cargo, "fmt", SECTION_LIMIT)?;
        let files: Vec<&str> = output
            .stdout
            .lines()
            .filter_map(|line| line.rsplit('/').next())
            .filter(|name| name.ends_with(".rs"))
            .collect();
        if !files.is_empty() {
            bail!(
                "{} files are not formatted: {}; run: cargo fmt --all -- drivers/src/*/mod.rs",
                files.len(),
                files.join(" ")
            );
        }
        output.success("cargo fmt --all --check")?;
        Ok(Step::Done(String::new()))
    });
    step(&mut count, "clippy", || {
        let mut cargo = host_cargo();
        cargo.args(["clippy", "--quiet", "--all-targets", "--", "--deny", "warnings"]);
        logged(cargo, "clippy", SECTION_LIMIT)?.success("cargo clippy --all-targets")?;
        Ok(Step::Done(String::new()))
    });
    let kernels = ARCHITECTURES.iter().map(|architecture| ("test-kernel", architecture));
    for (package, architecture) in kernels.chain([("dump-linux-module", X86_64)]) {
        let target = architecture.target;
        step(&mut count, &format!("lints of {package} for {}", architecture.name), || {
            for_target(ready, target, || Ok(build::lint(package, target)?.to_owned()))
        });
    }

    step(&mut count, "loops are bounded", || Ok(Step::Done(loops::check()?)));
    step(&mut count, "parameters have names", || Ok(Step::Done(parameters::check()?)));
    step(&mut count, "long files say why", || Ok(Step::Done(long_files::check()?)));
    step(&mut count, "documents", || Ok(Step::Done(book::check()?)));
    step(&mut count, "licences", || Ok(Step::Done(licences::check()?)));
    step(&mut count, "files use only floors below", || Ok(Step::Done(floors::check()?)));

    step(&mut count, "documentation", || {
        let mut cargo = host_cargo();
        cargo.args(["doc", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "--deny warnings");
        logged(cargo, "doc", SECTION_LIMIT)?.success("cargo doc --no-deps")?;
        Ok(Step::Done(String::new()))
    });

    ui::section("unit tests and properties");
    for (name, mut cargo) in unit_tests() {
        if let Some(python) = &python {
            cargo.env("DISKDUMP_PYTHON", python);
        }
        units(&mut count, name, cargo);
    }

    packages::run(&mut count, packages::Tests::Quick);

    step(&mut count, "reports in a browser", || {
        let facts = "nothing of a hostile dump runs";
        judged(strict, ("chromium", "chromium"), "a_browser_shows", facts)
    });
    step(&mut count, "savecore's units", || {
        let facts = "systemd takes them, and finds them well confined";
        judged(strict, ("systemd-analyze", "systemd"), "systemd_takes_the_units", facts)
    });

    ui::section("bare metal, without alloc");
    for target in TARGETS {
        step(&mut count, target, || {
            for_target(ready, target, || {
                build::libraries(target)?;
                Ok("dumpcore, dump-drivers".to_owned())
            })
        });
    }

    step(&mut count, "each feature alone", || {
        for_target(ready, X86_64.target, || {
            build::features(X86_64.target)?;
            Ok("without encryption; with one driver, and with none".to_owned())
        })
    });

    step(&mut count, "a driver more", || for_target(ready, X86_64.target, exercise::check));

    ui::section("no panic can be reached from the dump path");
    for target in TARGETS {
        step(&mut count, target, || for_target(ready, target, || panic_free::check(target)));
    }

    ui::section("QEMU matrix");
    let all = scenarios::matching("");
    if ready {
        ui::running("building the test kernel and savecore");
        let savecore = build::savecore_of_tests();
        match savecore
            .and_then(|savecore| build::programs_with(all.iter().map(scenarios::Row::build), savecore))
        {
            Ok(programs) => {
                ui::done(Mark::Ok, "test kernels and savecore", "", None);
                count.passed += 1;
                step(&mut count, "demo", || demo(&programs.savecore));
                step(&mut count, "the book's table is the matrix", || qemu::is_in_the_book().map(Step::Done));
                count += qemu::run(&all, &programs);
            }
            Err(error) => {
                count.failed += 1;
                ui::done(Mark::Failed, "test kernel and savecore", &format!("{error:#}"), None);
                ui::done(Mark::Failed, "QEMU matrix", "nothing to run it with", None);
                count.failed += all.len();
            }
        }
    } else {
        ui::done(Mark::Skipped, "QEMU matrix", "tools are missing, see setup above", None);
        count.skipped += all.len();
    }

    match build::savecore_of_tests() {
        Ok(savecore) => {
            readers::run(&mut count, &savecore, strict)?;
            linux::run(&mut count, &savecore, &linux::chosen(linux::Which::Short), strict)?;
        }
        Err(error) => {
            count.failed += 1;
            ui::done(Mark::Failed, "Linux readers", &format!("{error:#}"), None);
        }
    }

    ui::text(&format!("took {} s: {}", begin.elapsed().as_secs(), ui::times()));
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// A step that builds for bare metal: skipped if the tools are not ready and no toolchain builds for `target`.
fn for_target(ready: bool, target: &str, run: impl FnOnce() -> Result<String>) -> Result<Step> {
    if !ready && Toolchain::find(target).is_none() {
        return Ok(Step::Skipped(format!("no toolchain for {target}; `cargo xtask setup`")));
    }
    run().map(Step::Done)
}

/// The demo, as a person runs it; everything is built by now.
fn demo(savecore: &Path) -> Result<Step> {
    let begin = Instant::now();
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("demo").env(build::SAVECORE, savecore);
    logged(command, "demo", SECTION_LIMIT)?.success("cargo xtask demo")?;
    let took = begin.elapsed();
    if took > DEMO_LIMIT {
        bail!("it took {:.0} s, {} are allowed", took.as_secs_f32(), DEMO_LIMIT.as_secs());
    }
    Ok(Step::Done(format!("of {} s allowed", DEMO_LIMIT.as_secs())))
}

/// A test of savecore that needs this program, from this package: a browser is large, and not every machine
/// runs systemd.
fn judged(strict: bool, (program, package): (&str, &str), test: &str, facts: &str) -> Result<Step> {
    if !setup::in_path(program) {
        if strict || on_ci() {
            bail!("{program} is missing: sudo apt-get install --no-install-recommends {package}");
        }
        return Ok(Step::Skipped(format!("no {program}; its Debian package is {package}")));
    }
    let mut cargo = host_cargo();
    // Built by now: with `--package`, features would differ, and with them every crate that savecore uses.
    cargo.args(["test", "--test", "it", "--", "--ignored", test]);
    let output = logged(cargo, test, SECTION_LIMIT)?.success(test)?;
    let found = counted(&format!("{}\n{}", output.stdout, output.stderr));
    if found.passed == 0 {
        bail!("no test was run; log: {}", output.log.display());
    }
    Ok(Step::Done(facts.to_owned()))
}

/// The ways to run the unit tests: nextest if it is installed, since it kills a test that hangs and runs them
/// in parallel. The model checker explores the orders in which CPUs can access the slots of the helper pool.
fn unit_tests() -> Vec<(&'static str, Command)> {
    let with = |arguments: &[&str]| {
        let mut cargo = host_cargo();
        cargo.args(arguments).env("CARGO_TERM_COLOR", "never");
        cargo
    };
    let all = if has_nextest(host_cargo()) {
        with(&["nextest", "run", "--no-fail-fast"])
    } else {
        with(&["test", "--all-targets", "--no-fail-fast"])
    };
    // Another build of dumpcore, with loom's atomics, so it has its own target folder.
    let mut loom =
        with(&["test", "--package", "dumpcore", "--profile", "loom", "--test", "loom", "--no-fail-fast"]);
    loom.env("RUSTFLAGS", "--cfg loom").arg("--target-dir").arg(folders::target_folder().join("loom"));
    let without =
        with(&["test", "--package", "dumpcore", "--no-default-features", "--test", "without_encryption"]);
    vec![
        ("unit tests, properties", all),
        ("doc tests", with(&["test", "--doc", "--no-fail-fast"])),
        ("without encryption", without),
        ("lock-free parts under loom", loom),
    ]
}

/// Runs a test program and adds its counts.
fn units(count: &mut Count, name: &str, cargo: Command) {
    ui::running(name);
    let begin = Instant::now();
    let result = logged(cargo, name, SECTION_LIMIT);
    let took = Some(begin.elapsed());
    let output = match result {
        Ok(output) => output,
        Err(error) => {
            count.failed += 1;
            ui::done(Mark::Failed, name, &format!("{error:#}"), took);
            return;
        }
    };
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let mut found = counted(&said);
    if output.status.success() {
        *count += found;
        ui::done(Mark::Ok, name, &found.to_string(), took);
        return;
    }
    // A test program that does not build counts nothing.
    found.failed = found.failed.max(1);
    *count += found;
    let facts = format!("{found}: {}; log: {1} and {1}.err", why_failed(&said), output.log.display());
    ui::done(Mark::Failed, name, &facts, took);
}
