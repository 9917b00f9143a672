//! `cargo xtask deep`: finds what only an interpreter or an instrumented build can see. Miri runs the tests
//! of dumpcore and of the drivers, ThreadSanitizer those with helper CPUs, AddressSanitizer those of savecore
//! and of the drivers.
//!
//! It takes long and needs a nightly compiler, so it is not part of `cargo xtask test`. A test that a tool
//! cannot run is marked (`cfg_attr(miri, ignore = "…")`, `cfg_attr(sanitized, ignore = "…")`), and each step
//! counts these, a sanitizer's by reason. nextest runs Miri's tests: one process each, so that all CPUs work, and a
//! test that takes too long can be stopped, see `.config/nextest.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::rustup;
use crate::step::{Count, Step, counted, step, why_failed};
use crate::toolchain::{clean, has_nextest, host, logged};
use crate::{CannotBegin, folders, ui};

/// The tools that watch the code while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    /// Rust's interpreter: undefined behaviour of any kind. Several thousand times slower.
    Miri,
    /// LLVM's ThreadSanitizer: data races. The standard library is built with it, since its locks order the
    /// threads.
    Thread,
    /// LLVM's AddressSanitizer: accesses outside live memory.
    Address,
}

/// A step.
#[derive(Debug)]
struct Part {
    name: &'static str,
    about: &'static str,
    tool: Tool,
    package: &'static str,
    /// Cargo's arguments that select the test programs.
    tests: &'static [&'static str],
    /// A step that takes longer has hung.
    limit: Duration,
}

const ALL: &[&str] = &["--lib", "--tests"];

/// All steps.
const PARTS: [Part; 5] = [
    Part {
        name: "miri-dumpcore",
        about: "Miri over the tests of dumpcore: aliasing, uninitialised bytes, provenance, races",
        tool: Tool::Miri,
        package: "dumpcore",
        tests: ALL,
        limit: Duration::from_secs(6 * 3600),
    },
    Part {
        name: "miri-drivers",
        about: "Miri over the tests of the drivers against their fakes",
        tool: Tool::Miri,
        package: "dump-drivers",
        tests: ALL,
        limit: Duration::from_secs(6 * 3600),
    },
    Part {
        name: "thread-dumpcore",
        about: "ThreadSanitizer over the tests of dumpcore in which threads are the helping CPUs",
        tool: Tool::Thread,
        package: "dumpcore",
        tests: &["--lib", "--test", "helper_pool", "--test", "deferred", "--test", "engine"],
        limit: Duration::from_secs(1200),
    },
    Part {
        name: "address-drivers",
        about: "AddressSanitizer over the tests of the drivers against their fakes",
        tool: Tool::Address,
        package: "dump-drivers",
        tests: ALL,
        limit: Duration::from_secs(1200),
    },
    Part {
        name: "address-savecore",
        about: "AddressSanitizer over the tests of savecore, with the C libraries that it links",
        tool: Tool::Address,
        package: "savecore",
        tests: ALL,
        limit: Duration::from_secs(2400),
    },
];

/// The task: the steps whose name contains one of `names`, or all.
pub(crate) fn task(names: &[String], list: bool) -> Result<bool> {
    let chosen = chosen(names)?;
    if list {
        for part in chosen {
            ui::text(&format!("{:<18} {}", part.name, part.about));
        }
        return Ok(true);
    }
    let nightly = Nightly::find()?;
    let mut count = Count::default();
    let begin = Instant::now();
    ui::section("what only an interpreter and sanitizers see");
    for part in chosen {
        step(&mut count, part.name, || run(part, &nightly));
    }
    ui::text(&format!("took {} s", begin.elapsed().as_secs()));
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Part>> {
    if let Some(unknown) = names.iter().find(|name| PARTS.iter().all(|part| !part.name.contains(*name))) {
        let why = format!("no step's name contains `{unknown}`; `cargo xtask deep --list` names them");
        return Err(CannotBegin(why).into());
    }
    let is_chosen =
        |part: &&Part| names.is_empty() || names.iter().any(|name| part.name.contains(name.as_str()));
    Ok(PARTS.iter().filter(is_chosen).collect())
}

/// Runs a step; returns what it covered.
fn run(part: &Part, nightly: &Nightly) -> Result<Step> {
    let name = part.name;
    let output = logged(nightly.command(part), &format!("deep {name}"), part.limit)?;
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let found = counted(&said);
    let logs = format!("log: {0} and {0}.err", output.log.display());
    if !output.status.success() {
        bail!("{}; {logs}", why(&said));
    }
    if found.passed == 0 {
        bail!("no test was run; {logs}");
    }
    Ok(Step::Done(covered(found.passed, &said)))
}

/// Number of tests that ran, and of those that did not, by reason.
fn covered(run: usize, said: &str) -> String {
    if said.lines().any(|line| line.trim_start().starts_with("Nextest run ID")) {
        let stopped = said.lines().filter(|line| line.trim_start().starts_with("TIMEOUT-PASS [")).count();
        let skipped = counted(said).skipped;
        return format!(
            "{} tests run to their end, {stopped} stopped after two minutes without a finding, {skipped} not run",
            run.saturating_sub(stopped)
        );
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for line in said.lines().filter(|line| line.starts_with("test ")) {
        if let Some((_, reason)) = line.split_once(" ... ignored") {
            *reasons.entry(reason.trim_start_matches(", ")).or_default() += 1;
        }
    }
    let ignored: usize = reasons.values().sum();
    if ignored == 0 {
        return format!("{run} tests run, 0 ignored");
    }
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| {
            format!("{count} {}", if reason.is_empty() { "without a reason" } else { reason })
        })
        .collect();
    format!("{run} tests run, {ignored} ignored: {}", reasons.join(", "))
}

/// Why a step failed: the tool's finding, or the failed tests.
fn why(said: &str) -> String {
    const WORDS: [&str; 4] = [
        "Undefined Behavior",
        "unsupported operation",
        "WARNING: ThreadSanitizer",
        "ERROR: AddressSanitizer",
    ];
    if let Some(line) = said.lines().find(|line| WORDS.iter().any(|word| line.contains(word))) {
        // A sanitizer's line starts with its process: `==123==ERROR: …`.
        return line.trim_start_matches(|c: char| c == '=' || c.is_ascii_digit()).trim().to_owned();
    }
    why_failed(said)
}

/// Nightly Rust: only nightly has Miri and allows sanitizers.
#[derive(Debug)]
pub(crate) struct Nightly {
    /// The folder of its programs.
    folder: PathBuf,
    /// The target: this machine.
    target: String,
}

impl Nightly {
    /// Finds rustup's nightly with its components.
    ///
    /// # Errors
    /// [`CannotBegin`] with the command to type, if it or a component is missing.
    pub(crate) fn find() -> Result<Nightly> {
        let cannot = |why: &str| CannotBegin(why.to_owned());
        let rustup =
            rustup().ok_or_else(|| cannot("rustup is missing, which brings Miri: https://rustup.rs"))?;
        let mut which = clean(rustup);
        which.args(["which", "--toolchain", "nightly", "cargo"]).env("RUSTUP_AUTO_INSTALL", "0");
        let output = which.stderr(Stdio::null()).output().context("cannot run rustup")?;
        let cargo = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let Some(folder) = cargo.parent().filter(|_| output.status.success()) else {
            let why = "nightly's Rust is missing: rustup toolchain install nightly --component miri,rust-src";
            return Err(cannot(why).into());
        };
        if !has_nextest(clean(&cargo)) {
            return Err(cannot("cargo-nextest is missing: cargo install --locked cargo-nextest").into());
        }
        let lacking = lacking(folder);
        if !lacking.is_empty() {
            let (list, names) = (lacking.join(", "), lacking.join(" "));
            let why = format!(
                "nightly's {list} {} missing: rustup component add --toolchain nightly {names}",
                if lacking.len() == 1 { "is" } else { "are" }
            );
            return Err(cannot(&why).into());
        }
        let target = host().ok_or_else(|| cannot("rustc does not say what machine this is"))?;
        Ok(Nightly { folder: folder.to_path_buf(), target })
    }

    /// The tests of a step.
    fn command(&self, part: &Part) -> Command {
        let mut cargo = clean(self.folder.join("cargo"));
        // Its own compiler comes first in the path, before the one that built this program.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.folder.clone()].into_iter().chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(folders) {
            cargo.env("PATH", path);
        }
        cargo.current_dir(folders::root()).env("CARGO_TERM_COLOR", "never");
        // Each tool needs its own builds, so it gets its own target folder.
        let folder = folders::target_folder().join("deep");
        match part.tool {
            Tool::Miri => {
                // A simulated disk turns an address into a pointer, as a device does: the first flag allows
                // that. The second gives the tests the machine's clock, for timeouts on helper CPUs. Memory
                // that simulated machines and devices may still access is never freed: the third flag.
                let flags = "-Zmiri-permissive-provenance -Zmiri-disable-isolation -Zmiri-ignore-leaks";
                cargo.args(["miri", "nextest", "run", "--target-dir"]).arg(folder.join("miri"));
                cargo.env("MIRIFLAGS", flags);
            }
            Tool::Thread => {
                cargo.args(["test", "-Zbuild-std", "--target", &self.target, "--target-dir"]);
                cargo.arg(folder.join("thread")).env("RUSTFLAGS", "-Zsanitizer=thread --cfg sanitized");
                cargo.env("TSAN_OPTIONS", "halt_on_error=1");
            }
            Tool::Address => {
                cargo.args(["test", "--target", &self.target, "--target-dir"]);
                cargo.arg(folder.join("address")).env("RUSTFLAGS", "-Zsanitizer=address --cfg sanitized");
                // As for Miri.
                cargo.env("ASAN_OPTIONS", "detect_leaks=0");
            }
        }
        cargo.args(["--no-fail-fast", "--package", part.package]).args(part.tests);
        cargo
    }
}

/// The components that the toolchain with these programs lacks, by rustup's names.
fn lacking(programs: &Path) -> Vec<&'static str> {
    let source = "../lib/rustlib/src/rust/library/core/src/lib.rs";
    let all = [("miri", "cargo-miri"), ("rust-src", source)];
    all.into_iter().filter(|(_, file)| !programs.join(file).is_file()).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own_and_is_chosen_by_it() {
        for part in &PARTS {
            let found = chosen(&[part.name.to_owned()]).unwrap();
            assert_eq!(found.iter().map(|part| part.name).collect::<Vec<_>>(), [part.name]);
        }
        assert_eq!(chosen(&[]).unwrap().len(), PARTS.len());
        let two = chosen(&["thread".to_owned(), "address-drivers".to_owned()]).unwrap();
        assert_eq!(two.len(), 2);
    }

    #[test]
    fn a_name_that_no_step_has_is_said_before_anything_begins() {
        let error = chosen(&["miri".to_owned(), "valgrind".to_owned()]).unwrap_err();
        assert!(error.is::<CannotBegin>() && error.to_string().contains("`valgrind`"), "{error}");
    }

    #[test]
    fn what_is_not_run_is_counted_by_its_reason() {
        let said = "test a ... ok\n\
                    test b::c ... ignored, switches stacks\n\
                    test d - should panic ... ignored, too long\n\
                    test e ... ignored, switches stacks\n\
                    test f ... ignored\n";
        let text = "1 tests run, 4 ignored: 1 without a reason, 2 switches stacks, 1 too long";
        assert_eq!(covered(1, said), text);
        assert_eq!(covered(3, "test a ... ok\n"), "3 tests run, 0 ignored");
    }

    #[test]
    fn tests_that_were_stopped_are_not_counted_as_run_to_their_end() {
        let said = "─────\n Nextest run ID 1 with nextest profile: default-miri\n\
                    PASS [   2.005s] (1/3) a b\n\
                    TIMEOUT-PASS [ 120.005s] (2/3) a c\n\
                    PASS [   2.005s] (3/3) a d\n\
                    ─────\n     Summary [ 124.012s] 3 tests run: 3 passed (1 slow), 65 skipped";
        let text = "2 tests run to their end, 1 stopped after two minutes without a finding, 65 not run";
        assert_eq!(covered(counted(said).passed, said), text);
    }

    #[test]
    fn a_finding_is_told_by_the_tools_own_words_before_the_test_in_which_it_was() {
        let miri = "test x ... error: Undefined Behavior: dangling\ntest y ... FAILED";
        assert!(why(miri).contains("Undefined Behavior: dangling"));
        let address = "==42==ERROR: AddressSanitizer: heap-use-after-free on address 0x1";
        assert_eq!(why(address), "ERROR: AddressSanitizer: heap-use-after-free on address 0x1");
        assert_eq!(why("test y ... FAILED"), "y");
        assert_eq!(why("error: could not compile"), "it did not build or was killed");
    }

    #[test]
    fn a_toolchain_lacks_what_has_no_file_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("bin");
        std::fs::create_dir_all(&programs).unwrap();
        assert_eq!(lacking(&programs), ["miri", "rust-src"]);
        std::fs::write(programs.join("cargo-miri"), "").unwrap();
        assert_eq!(lacking(&programs), ["rust-src"]);
        let core = folder.path().join("lib/rustlib/src/rust/library/core/src");
        std::fs::create_dir_all(&core).unwrap();
        std::fs::write(core.join("lib.rs"), "").unwrap();
        assert_eq!(lacking(&programs), [""; 0]);
    }
}
