//! Prepares a fresh Debian or Ubuntu machine for all tasks.
//!
//! Every task declares its needs once, before it begins. Missing items become one list with sizes, which is
//! shown and then installed. If that is not possible, one line says what to install, and nothing has been
//! changed.

mod apt;
mod backports;
mod debian;
mod installation;
mod machine;
mod python;
mod rust;
mod work;

use std::path::PathBuf;

use anyhow::Result;
use qemu_tests::linux::{Downloads, Kernel, RustTools, Want};

use self::apt::Sizes;
use self::debian::{DEMO, JUDGES, KERNEL, MATRIX, SYSTEM};
use self::installation::Installation;
pub(crate) use self::machine::{in_path, is_root};
use self::python::PYPI;
pub(crate) use self::rust::rustup;
use self::rust::{BINDGEN, Components, Lacking};
use self::work::work;
use crate::CannotBegin;
use crate::toolchain::{NO_SOURCE, TARGETS, Toolchain};
use crate::ui::{self, Mark};

/// Download sizes of rustup, crates.io and PyPI in MB, as a guide for people: these servers do not announce
/// them.
const RUSTUP_MB: u64 = 60;
const CRATES_MB: u64 = 60;
const BINDGEN_MB: u64 = 10;
const PYPI_MB: u64 = 30;

/// The needs of a task.
#[derive(Clone, Default, Debug)]
pub(crate) struct Needs {
    /// Programs.
    tools: Vec<&'static debian::Tool>,
    /// Targets to build for.
    targets: Vec<&'static str>,
    /// Other parts of the toolchain.
    components: Components,
    /// A Python that reads cores.
    python: bool,
    /// Debian's kernels.
    kernels: Vec<Want>,
    /// Whether all crates must be there before it begins.
    crates: bool,
}

impl Needs {
    /// Needs of the demo.
    pub(crate) fn demo() -> Needs {
        Needs { tools: DEMO.iter().collect(), targets: vec![TARGETS[0]], ..Needs::default() }
    }

    /// Needs of rows of the QEMU matrix on these targets.
    pub(crate) fn matrix(targets: &[&'static str]) -> Needs {
        Needs { tools: DEMO.iter().chain(&MATRIX).collect(), targets: targets.to_vec(), ..Needs::default() }
    }

    /// Needs of the tests that read a Linux's cores, and of modules for these kernels.
    pub(crate) fn linux(kernels: impl IntoIterator<Item = Want>) -> Needs {
        let kernels = merged(kernels);
        let mut tools: Vec<&debian::Tool> = DEMO.iter().chain(&MATRIX).chain(&JUDGES).collect();
        if kernels.iter().any(|want| want.kernel == Kernel::RUST) {
            tools.extend(&KERNEL);
        }
        let components = Components { source: true, lints: false };
        Needs { tools, components, python: true, kernels, ..Needs::default() }
    }

    /// Needs of whole Debian systems and of the packages to install there.
    pub(crate) fn debian() -> Needs {
        let components = Components { source: true, lints: false };
        Needs { tools: DEMO.iter().chain(&SYSTEM).collect(), components, ..Needs::default() }
    }

    /// Needs of everything in `cargo xtask test`, with these kernels.
    pub(crate) fn everything(kernels: impl IntoIterator<Item = Want>) -> Needs {
        Needs {
            targets: TARGETS.to_vec(),
            components: Components { source: true, lints: true },
            crates: true,
            ..Needs::linux(kernels)
        }
    }

    /// Whether these needs include a kernel with at least this.
    #[cfg(test)]
    pub(crate) fn has(&self, want: Want) -> bool {
        self.kernels.iter().any(|other| other.kernel == want.kernel && other.parts >= want.parts)
    }

    /// Whether these needs include everything except Debian's kernels.
    #[cfg(test)]
    pub(crate) fn has_the_rest(&self) -> bool {
        self.builds_a_kernel() && self.components.source && self.python && self.crates
    }

    fn builds_a_kernel(&self) -> bool {
        self.kernels.iter().any(|want| want.kernel == Kernel::RUST)
    }
}

/// Each kernel once, with everything wanted of it.
fn merged(wants: impl IntoIterator<Item = Want>) -> Vec<Want> {
    let mut merged: Vec<Want> = Vec::new();
    for want in wants {
        match merged.iter_mut().find(|other| other.kernel == want.kernel) {
            Some(other) => other.parts = other.parts.max(want.parts),
            None => merged.push(want),
        }
    }
    merged
}

/// The missing items, except kernels: these depend on apt's lists.
#[derive(Debug)]
struct Missing {
    packages: Vec<&'static str>,
    rust: Lacking,
    python: bool,
    bindgen: bool,
    crates: bool,
}

impl Missing {
    fn look(needs: &Needs) -> Result<Missing> {
        let mut packages = debian::lacking(needs.tools.iter().copied());
        let python = if needs.python { python::find()? } else { None };
        if needs.python {
            packages.extend(python::lacking(python.as_deref()));
        }
        if needs.builds_a_kernel() {
            packages.extend(debian::lacking_libraries());
        }
        Ok(Missing {
            packages,
            rust: Lacking::look(&needs.targets, needs.components),
            python: needs.python && python.is_none(),
            bindgen: needs.builds_a_kernel() && rust::bindgen()?.is_none(),
            crates: needs.crates && rust::lacks_crates(),
        })
    }

    fn nothing(&self) -> bool {
        self.packages.is_empty() && self.rust.nothing() && !self.python && !self.bindgen && !self.crates
    }
}

/// Prints the programs and toolchains that were installed.
pub(crate) fn show() {
    for tool in DEMO.iter().chain(&MATRIX).chain(&JUDGES).chain(&KERNEL) {
        ui::done(Mark::Ok, tool.program, &format!("package {}", tool.package), None);
    }
    for target in TARGETS {
        if let Some(toolchain) = Toolchain::find(target) {
            ui::done(Mark::Ok, target, toolchain.describe(), None);
        }
    }
}

/// Installs what is missing of these needs; silent if nothing is.
///
/// # Errors
/// [`CannotBegin`] with the command to type, if it cannot be installed from here.
pub(crate) fn bring(needs: &Needs) -> Result<()> {
    let ways = Ways::here();
    let mut lists = Lists { may_change: ways.may_install() };
    let mut plan = lists.or_newer(|| Plan::make(needs, ways))?;
    if plan.nothing() {
        return Ok(());
    }
    plan.show();
    if ways.rustup {
        plan.missing.rust.ask_rustup();
        let left = Lacking::look(&needs.targets, needs.components);
        if !left.nothing() && !ways.may_install() {
            return Err(CannotBegin(advice(&[], &left, ways)).into());
        }
        if !left.nothing() {
            // Debian also has what rustup does not provide.
            let packages = [&plan.installation.packages[..], &debian::RUST].concat();
            plan.installation = lists.or_newer(|| Installation::of(packages.clone()))?;
            let Sizes { packages, bytes } = plan.installation.sizes;
            ui::text(&format!("  with Debian's Rust: {packages} packages, {:.1} MB", bytes as f64 / 1e6));
        }
    }
    if let Err(error) = plan.fetch() {
        // The lists may be older than the archive.
        if !lists.refresh()? {
            return Err(error);
        }
        let packages = plan.installation.packages;
        plan = Plan::make(needs, ways)?;
        plan.installation = Installation::of(packages)?;
        plan.show();
        plan.fetch()?;
    }
    plan.bring_others()?;
    let left = Missing::look(needs)?;
    match left.nothing() {
        true => Ok(()),
        false => Err(CannotBegin(advice(&left.packages, &left.rust, ways)).into()),
    }
}

/// apt's lists, updated at most once, and only if something cannot be had without that: a machine may have no
/// lists, or old ones.
#[derive(Debug)]
struct Lists {
    may_change: bool,
}

impl Lists {
    /// Updates them, unless we may not or already did; returns whether.
    fn refresh(&mut self) -> Result<bool> {
        let may_change = std::mem::replace(&mut self.may_change, false);
        if may_change {
            apt::update()?;
        }
        Ok(may_change)
    }

    /// Runs something that uses the lists; if it fails, once more with newer ones.
    fn or_newer<T>(&mut self, run: impl Fn() -> Result<T>) -> Result<T> {
        match run() {
            Err(error) => match self.refresh()? {
                true => run(),
                false => Err(error),
            },
            done => done,
        }
    }
}

/// The items to install, and apt's facts about them.
#[derive(Debug)]
struct Plan {
    missing: Missing,
    /// Debian's packages, with its Rust where there is no rustup.
    installation: Installation,
    kernels: Downloads,
}

impl Plan {
    fn make(needs: &Needs, ways: Ways) -> Result<Plan> {
        let missing = Missing::look(needs)?;
        let mut packages = missing.packages.clone();
        if !missing.rust.nothing() && !ways.rustup {
            packages.extend(debian::RUST);
        }
        if !packages.is_empty() && !ways.may_install() {
            return Err(CannotBegin(advice(&missing.packages, &missing.rust, ways)).into());
        }
        let installation = Installation::of(packages)?;
        let tools = if needs.builds_a_kernel() { tools()? } else { None };
        let kernels = Downloads::find(&needs.kernels, tools.as_ref());
        let kernels = kernels.map_err(|error| CannotBegin(format!("{error:#}")))?;
        Ok(Plan { missing, installation, kernels })
    }

    fn nothing(&self) -> bool {
        self.missing.nothing() && self.kernels.files().is_empty()
    }

    /// Installs packages; they are unpacked while kernels are being downloaded.
    fn fetch(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let downloads = scope.spawn(|| bring_kernels(&self.kernels));
            let installed = self.installation.install();
            let downloaded = downloads.join().expect("it does not panic");
            installed.and(downloaded)
        })
    }

    /// Installs the items that come neither from Debian nor from rustup.
    fn bring_others(&self) -> Result<()> {
        if self.missing.crates {
            rust::bring_crates()?;
        }
        if self.missing.python {
            python::bring()?;
        }
        if self.missing.bindgen {
            rust::bring_bindgen()?;
        }
        Ok(())
    }

    /// Shows the items, with sizes.
    fn show(&self) {
        let Plan { missing, installation, kernels } = self;
        let Installation { packages, sizes, backports } = installation;
        let mut items = Vec::new();
        let mut add = |what, bytes, facts: String| items.push(Item { what, bytes, facts });
        if !packages.is_empty() {
            let others = sizes.packages.saturating_sub(packages.len());
            add(
                "Debian's packages",
                sizes.bytes,
                format!("{}, and {others} that they need", packages.join(" ")),
            );
        }
        let names = [&missing.rust.targets[..], &missing.rust.slow, &missing.rust.components].concat();
        if !names.is_empty() && rust::rustup().is_some() {
            let or = if missing.rust.nothing() { "" } else { ", or else Debian's Rust" };
            add("rustup, some", RUSTUP_MB * 1_000_000, format!("{}{or}", names.join(" ")));
        }
        if missing.crates {
            add("crates.io, some", CRATES_MB * 1_000_000, "what Cargo.lock names".to_owned());
        }
        if missing.bindgen {
            add("crates.io, some", BINDGEN_MB * 1_000_000, format!("bindgen-cli {BINDGEN}, which is built"));
        }
        if missing.python {
            add("PyPI, some", PYPI_MB * 1_000_000, PYPI.map(|(_, package)| package).join(" "));
        }
        for file in kernels.files() {
            add("Debian's kernels", file.bytes, file.file);
        }
        let total =
            Item { what: "in all", bytes: items.iter().map(|item| item.bytes).sum(), facts: String::new() };
        items.push(total);
        ui::text("missing, and brought now:");
        for Item { what, bytes, facts } in items {
            ui::text(format!("  {:>8.1} MB  {what:<18} {facts}", bytes as f64 / 1e6).trim_end());
        }
        if let Some(backports) = backports {
            ui::text(&format!("  {backports}"));
        }
        for note in &kernels.notes {
            ui::text(&format!("  {note}"));
        }
    }
}

fn bring_kernels(kernels: &Downloads) -> Result<()> {
    let files = kernels.files();
    if files.is_empty() {
        return Ok(());
    }
    let facts = format!("{} files into {}", files.len(), qemu_tests::linux::cache()?.display());
    work("Debian's kernels", &facts, || {
        kernels.fetch(&mut ui::Teller).map_err(|error| CannotBegin(format!("{error:#}")).into())
    })
}

/// One kind of item.
struct Item {
    what: &'static str,
    bytes: u64,
    facts: String,
}

/// Installs the missing items for these targets and rows of the matrix; silent if there are none.
///
/// # Errors
/// As [`bring`].
pub(crate) fn ensure(targets: &[&'static str]) -> Result<()> {
    bring(&Needs::matrix(targets))
}

/// A Python that has drgn and DuckDB, after [`bring`] installed it.
pub(crate) fn python() -> Result<PathBuf> {
    Ok(python::find()?
        .ok_or_else(|| CannotBegin("no python3 has drgn and duckdb: cargo xtask setup".to_owned()))?)
}

/// The tools for building a kernel with Rust and its modules, if they are installed.
fn tools() -> Result<Option<RustTools>> {
    let (Some(toolchain), Some(bindgen)) = (Toolchain::with_source(), rust::bindgen()?) else {
        return Ok(None);
    };
    Ok(Some(RustTools { rustc: toolchain.rustc()?, bindgen }))
}

/// The same, after [`bring`] installed them.
pub(crate) fn rust_tools() -> Result<RustTools> {
    let toolchain = Toolchain::with_source().ok_or_else(|| CannotBegin(NO_SOURCE.to_owned()))?;
    let bindgen = rust::bindgen()?;
    let bindgen = bindgen.ok_or_else(|| CannotBegin("bindgen is missing: cargo xtask setup".to_owned()))?;
    Ok(RustTools { rustc: toolchain.rustc()?, bindgen })
}

/// Ways to install something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ways {
    apt: bool,
    rustup: bool,
}

impl Ways {
    /// The ways on this machine.
    fn here() -> Ways {
        Ways { apt: in_path("apt-get"), rustup: rust::rustup().is_some() }
    }

    /// Whether we may use apt.
    fn may_install(self) -> bool {
        self.apt && is_root()
    }
}

/// The command for a person to type, in one line.
fn advice(packages: &[&str], rust: &Lacking, by: Ways) -> String {
    let what: Vec<&str> = packages.iter().chain(&rust.targets).chain(&rust.components).copied().collect();
    let what = what.join(", ");
    // With rustup, adding the targets is shorter, and outside Debian the only way.
    let mut commands = Vec::new();
    let mut wanted = packages.to_vec();
    if !rust.nothing() {
        match by.rustup || !by.apt {
            true => commands.extend(rust.commands()),
            false => wanted.extend(debian::RUST),
        }
    }
    if by.apt {
        if !wanted.is_empty() {
            let list = wanted.join(" ");
            commands
                .push(format!("sudo apt-get update && sudo apt-get install --no-install-recommends {list}"));
        }
        return format!("missing: {what}; as root, or by hand: {}", commands.join(" && "));
    }
    if !wanted.is_empty() {
        commands.push("your package manager's way to install what these Debian packages have".to_owned());
    }
    format!("missing: {what}; this is not Debian or Ubuntu, so by hand: {}", commands.join(", and "))
}

#[cfg(test)]
mod tests {
    use qemu_tests::linux::Parts;

    use super::*;

    const DEBIAN: Ways = Ways { apt: true, rustup: false };

    #[test]
    fn advice_on_debian_is_a_command_that_names_exactly_what_is_missing() {
        let text = advice(&["gdb"], &Lacking::default(), DEBIAN);
        assert_eq!(
            text,
            "missing: gdb; as root, or by hand: sudo apt-get update && sudo apt-get install --no-install-recommends gdb"
        );
    }

    #[test]
    fn what_rust_lacks_comes_from_rustup_where_there_is_one_and_else_from_debian() {
        let rust = Lacking {
            targets: vec!["x86_64-unknown-none"],
            components: vec!["rust-src"],
            ..Lacking::default()
        };
        let text = advice(&[], &rust, Ways { rustup: true, ..DEBIAN });
        let command = "rustup target add x86_64-unknown-none && rustup component add rust-src";
        assert!(text.ends_with(&format!("by hand: {command}")), "{text}");
        let text = advice(&["gdb"], &rust, DEBIAN);
        assert!(text.ends_with(&format!("gdb {}", debian::RUST.join(" "))), "{text}");
    }

    #[test]
    fn advice_elsewhere_does_not_speak_of_apt() {
        let rust = Lacking { targets: vec!["x86_64-unknown-none"], ..Lacking::default() };
        let text = advice(&["gdb"], &rust, Ways { apt: false, rustup: true });
        assert!(
            text.contains("rustup target add x86_64-unknown-none") && !text.contains("apt-get"),
            "{text}"
        );
    }

    #[test]
    fn a_kernel_that_two_want_is_wanted_once_with_all_its_parts() {
        let want = |kernel, parts| Want { kernel, parts };
        let (cloud, usual) = (Kernel::CLOUD, Kernel::USUAL);
        let all = [want(cloud, Parts::Image), want(usual, Parts::Headers), want(cloud, Parts::Symbols)];
        assert_eq!(merged(all), [want(cloud, Parts::Symbols), want(usual, Parts::Headers)]);
    }

    #[test]
    fn what_the_lists_cannot_give_is_asked_for_once_only_if_they_may_not_change() {
        let tries = std::cell::Cell::new(0);
        let mut lists = Lists { may_change: false };
        let result: Result<()> = lists.or_newer(|| {
            tries.set(tries.get() + 1);
            anyhow::bail!("not there")
        });
        assert_eq!((result.unwrap_err().to_string().as_str(), tries.get()), ("not there", 1));
        assert!(!lists.refresh().unwrap());
    }
}
