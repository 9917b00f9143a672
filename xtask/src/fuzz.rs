//! `cargo xtask fuzz`: hostile controllers, partitions and files. LLVM's fuzzer makes up a device's answers
//! or the input, for a given time, and keeps the inputs that reached new code; it starts with those in
//! `fuzz/corpus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::toolchain::{clean, logged};
use crate::ui::{self, Mark};
use crate::{CannotBegin, folders};

/// Time limit of a build.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);
/// Commands that install cargo-fuzz, and the C++ compiler for building LLVM's fuzzer.
pub(crate) const INSTALL: &str = "cargo install cargo-fuzz --locked && sudo apt-get install g++";
/// Allowance on top of a target's time: its corpus is run first.
const GRACE: Duration = Duration::from_secs(120);
/// Longer inputs only repeat themselves where troubles, steps, lies and changes of a run are limited. Files
/// that are read directly may become twice as long as those in the corpus.
const LONGEST: u64 = 512;
/// Memory limit of a run, in MiB; a single allocation may take a quarter of it.
const MEMORY: u64 = 1024;

/// The task: one target, or all, for `seconds` each.
pub(crate) fn task(target: Option<&str>, seconds: u64) -> Result<bool> {
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        return Err(CannotBegin(format!("no such target; there are: {}", all.join(" "))).into());
    }
    ui::section("hostile input");
    build()?;
    let mut good = true;
    for name in chosen {
        good &= run(name, seconds)?.findings == 0;
    }
    Ok(good)
}

/// Builds all targets.
///
/// # Errors
/// [`CannotBegin`] without cargo-fuzz.
pub(crate) fn build() -> Result<()> {
    if !is_installed() {
        return Err(CannotBegin(format!("cargo-fuzz is missing: {INSTALL}")).into());
    }
    ui::running("building");
    let begin = Instant::now();
    logged(cargo_fuzz("build"), "fuzz build", BUILD_LIMIT)?.success("cargo fuzz build")?;
    ui::done(Mark::Ok, "fuzzers", "with the address sanitizer", Some(begin.elapsed()));
    Ok(())
}

/// A fuzzer's result.
pub(crate) struct Fuzzed {
    /// Inputs tried; `None` if it did not report it.
    pub(crate) runs: Option<u64>,
    /// Inputs that failed.
    pub(crate) findings: usize,
}

/// Whether cargo-fuzz is installed.
pub(crate) fn is_installed() -> bool {
    let mut version = clean("cargo");
    version.args(["fuzz", "--version"]);
    version.output().is_ok_and(|output| output.status.success())
}

/// The names of the targets: those of their source files.
pub(crate) fn targets() -> Result<Vec<String>> {
    let sources = folder().join("fuzz_targets");
    let mut names = Vec::new();
    for file in fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))? {
        let path = file?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// `cargo fuzz …` with the active toolchain, whose compiler allows sanitizers only when told to.
fn cargo_fuzz(command: &str) -> std::process::Command {
    let mut cargo = clean("cargo");
    cargo.current_dir(folders::root()).args(["fuzz", command]).env("RUSTC_BOOTSTRAP", "1");
    // Build scripts depend on that setting: with a shared target folder, each kind of build would rebuild
    // everything.
    cargo.arg("--target-dir").arg(folders::target_folder().join("fuzz"));
    // Line tables suffice for a backtrace. The fakes' memory is never freed, as a device may still access it.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only").env("ASAN_OPTIONS", "detect_leaks=0");
    cargo
}

/// The folder with the fuzzers and their corpora.
fn folder() -> PathBuf {
    folders::root().join("fuzz")
}

/// Runs one target, and prints the result.
pub(crate) fn run(name: &str, seconds: u64) -> Result<Fuzzed> {
    let folder = folder();
    ui::running(name);
    // New inputs go to a folder of their own; those to keep for the tests are selected by hand (`cargo fuzz
    // cmin`).
    let (found, corpus) = (folder.join("found").join(name), folder.join("corpus").join(name));
    let artifacts = folder.join("artifacts").join(name);
    fs::create_dir_all(&found).context("cannot make a folder for what is found")?;
    let before = files(&artifacts);
    let begin = Instant::now();
    let mut cargo = cargo_fuzz("run");
    cargo.arg(name).args([&found, &corpus]).arg("--");
    let sizes = files(&corpus).into_iter().filter_map(|file| Some(file.metadata().ok()?.len()));
    let longest = LONGEST.max(2 * sizes.max().unwrap_or(0));
    cargo.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={longest}"));
    cargo.arg(format!("-rss_limit_mb={MEMORY}")).arg(format!("-malloc_limit_mb={}", MEMORY / 4));
    cargo.args(["-print_final_stats=1", "-timeout=60"]);
    let output = logged(cargo, &format!("fuzz {name}"), Duration::from_secs(seconds) + GRACE)?;
    let took = Some(begin.elapsed());
    let mut facts = told(&output.stderr);
    let runs = number(&output.stderr, EXECUTED).and_then(|text| text.parse().ok());
    if output.status.success() {
        facts.push_str(&format!(", corpus {} + {} files", files(&corpus).len(), files(&found).len()));
        ui::done(Mark::Ok, name, &facts, took);
        return Ok(Fuzzed { runs, findings: 0 });
    }
    ui::done(Mark::Failed, name, &format!("{facts}; log: {}.err", output.log.display()), took);
    let found: Vec<PathBuf> = files(&artifacts).into_iter().filter(|file| !before.contains(file)).collect();
    for file in &found {
        let file = file.display();
        ui::text(&format!(
            "        replay: RUSTC_BOOTSTRAP=1 cargo fuzz run --target-dir target/fuzz {name} {file}"
        ));
        ui::text(&format!("        keep it as a test: cp {file} {}", corpus.display()));
    }
    // A fuzzer that ended otherwise left no file.
    Ok(Fuzzed { runs, findings: found.len().max(1) })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect()
}

/// The fuzzer's label for the number of inputs it tried.
const EXECUTED: &str = "stat::number_of_executed_units:";

/// The last number after `key` in the fuzzer's output.
fn number(text: &str, key: &str) -> Option<String> {
    let rest = text.rsplit_once(key)?.1;
    rest.split_whitespace().next().map(str::to_owned)
}

/// Executions and coverage, from the fuzzer's output.
fn told(text: &str) -> String {
    let or = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
    format!("{} runs, {} edges", or(number(text, EXECUTED)), or(number(text, " cov: ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_has_a_target_and_a_corpus() {
        let all = targets().unwrap();
        for driver in dump_drivers::DRIVERS {
            let name = driver.name.replace('-', "_");
            assert!(all.contains(&name), "fuzz/fuzz_targets/{name}.rs");
            assert!(!files(&folder().join("corpus").join(&name)).is_empty(), "fuzz/corpus/{name}");
        }
    }

    #[test]
    fn runs_and_edges_are_the_last_that_the_fuzzer_named() {
        let text = "#2 INITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                    #128 DONE   cov: 345 ft: 400 corp: 9/80b lim: 4 exec/s: 64 rss: 50Mb\n\
                    stat::number_of_executed_units: 128\n";
        assert_eq!(told(text), "128 runs, 345 edges");
        assert_eq!(told("it did not start"), "? runs, ? edges");
    }
}
