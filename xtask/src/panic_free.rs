//! Checks whether the dump path can reach a panic: links package panic-free for bare metal and searches the
//! result for panics. The optimiser has already removed those that it can rule out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use object::read::{Object, ObjectSection, ObjectSymbol, RelocationTarget};
use object::{Architecture, File, RelocationFlags, SectionFlags, SectionKind, SymbolKind};

use crate::build::{BUILD_LIMIT, executable};
use crate::folders;
use crate::toolchain::{Toolchain, logged};

/// Parts of names that must be among what was linked, beside the folders of all drivers: else nothing was checked.
const EXPECTED: [&str; 4] = [
    "dumpcore::crash::steps",
    "dumpcore::helpers",
    "panic_free::outside::Slowest",
    // One of the kinds of disks in that folder; what is special to the other is inlined.
    "dump_drivers::virtio::scsi",
];

/// Maximum length of the path in a panic's location.
const LONGEST_PATH: u64 = 1024;

/// Maximum number of panics to name; the others are counted.
const NAMED: usize = 8;

/// Checks one target. Returns how much was checked.
///
/// # Errors
/// The reachable panics and their callers; or the check itself does not work.
pub(crate) fn check(target: &str) -> Result<String> {
    let root = folders::root();
    let code = check_in(&root, target, folders::of_drivers())?;

    // The negative control comes second, so that the program without it is not mistaken for the one with it.
    let control = Linked::read(&build(&root, target, &["--features", "control"])?)?.panics();
    if !control.iter().any(|panic| panic.contains("panic_bounds_check") && panic.contains("outside.rs")) {
        bail!(
            "the check does not work: it did not find the panic that is there for it; {}",
            control.join("; ")
        );
    }
    Ok(format!("{} KiB of code; the control's panic was found", code / 1024))
}

/// Checks the sources in a folder, which have drivers in these folders. Gives the bytes of code that were checked.
///
/// # Errors
/// The panics that can be reached, and where they come from. Or something was not linked.
pub(crate) fn check_in<'d>(
    root: &Path,
    target: &str,
    drivers: impl IntoIterator<Item = &'d str>,
) -> Result<u64> {
    let linked = Linked::read(&build(root, target, &[])?)?;
    let drivers = drivers.into_iter().map(|folder| format!("dump_drivers::{folder}::disk"));
    for name in EXPECTED.map(str::to_owned).into_iter().chain(drivers) {
        ensure!(linked.has(&name), "nothing of {name} was linked, so nothing was checked");
    }
    let found = linked.panics();
    if !found.is_empty() {
        let mut names: Vec<&str> = found.iter().take(NAMED).map(String::as_str).collect();
        let more = format!("and {} more", found.len().saturating_sub(NAMED));
        if found.len() > NAMED {
            names.push(&more);
        }
        bail!("a panic can be reached: {}", names.join("; "));
    }
    Ok(linked.code)
}

/// The entry points of the Linux module in a crashed kernel.
const MODULE: [&str; 5] = ["dd_panic", "dd_heard", "dd_nmi", "dd_freeze", "dd_crash_stopped"];

/// An entry point in a healthy kernel that can reach a panic: the negative control.
const MODULE_HEALTHY: &str = "dd_arm";

/// Checks the part of the Linux module's library that runs in a crashed kernel. It reaches the drivers only
/// through the state left by arming, so [`check`] covers them. Returns how much was checked.
///
/// # Errors
/// The reachable panics; or the check itself does not work.
pub(crate) fn check_module(library: &Path) -> Result<String> {
    let linked = Linked::read(&link(library, "module-crash.o", &MODULE)?)?;
    ensure!(linked.has("dumpcore::crash::steps"), "nothing of dumpcore was linked, so nothing was checked");
    let panics = |linked: &Linked| -> Vec<String> {
        linked
            .functions
            .iter()
            .map(|function| &function.name)
            .filter(|name| is_panic(name))
            .cloned()
            .collect()
    };
    let found = panics(&linked);
    ensure!(found.is_empty(), "a panic can be reached: {}", found.join("; "));
    let control = panics(&Linked::read(&link(library, "module-arm.o", &[MODULE_HEALTHY])?)?);
    ensure!(!control.is_empty(), "the check does not work: it found no panic in what arms, which sorts");
    Ok(format!("{} KiB of code; arming's panics were found", linked.code / 1024))
}

/// Checks a module with a Rust shim: the symbols that it imports from the kernel must not include a panic.
///
/// # Errors
/// If it cannot be read, imports nothing from the kernel, or can reach a panic.
pub(crate) fn check_shim(module: &Path) -> Result<()> {
    let cannot = || format!("cannot read {}", module.display());
    let bytes = fs::read(module).with_context(cannot)?;
    let file = File::parse(&*bytes).with_context(cannot)?;
    let needed: Vec<String> = file
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .filter_map(|symbol| Some(format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?))))
        .collect();
    ensure!(
        needed.iter().any(|name| name == "emergency_restart"),
        "{} is no module of ours",
        module.display()
    );
    let panics: Vec<&str> = needed.iter().map(String::as_str).filter(|name| is_panic(name)).collect();
    ensure!(panics.is_empty(), "a panic can be reached from the shim in Rust: {}", panics.join("; "));
    Ok(())
}

/// Links only the code that is reachable from `entries`.
fn link(library: &Path, name: &str, entries: &[&str]) -> Result<PathBuf> {
    let object = folders::log_folder()?.join(name);
    let mut ld = crate::toolchain::clean("ld");
    ld.args(["-r", "--gc-sections"]);
    for entry in entries {
        ld.args(["-e", entry, "-u", entry]);
    }
    ld.arg(library).arg("-o").arg(&object);
    logged(ld, name, BUILD_LIMIT)?.success("linking the Linux module's way of a dump")?;
    Ok(object)
}

/// Builds the program to check; returns its path.
fn build(root: &Path, target: &str, features: &[&str]) -> Result<PathBuf> {
    let toolchain = Toolchain::need(target)?;
    let mut cargo = toolchain.cargo("build", target, &[]);
    cargo.current_dir(root);
    cargo.args(["--profile", "panic-free", "--quiet", "--package", "panic-free", "--message-format=json"]);
    cargo.args(features);
    let output = logged(cargo, &format!("panic-free for {target}"), BUILD_LIMIT)?
        .success(&format!("building panic-free for {target}"))?;
    executable(&output.stdout, "panic-free").context("cargo did not say where it put panic-free")
}

/// Whether a function is part of a panic: the handler, its callers, and their callers.
fn is_panic(name: &str) -> bool {
    let plain = name.split("::<").next().unwrap_or(name);
    let of_core = name.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "core");
    let fails = name.contains("::panicking::") || plain.ends_with("_fail") || plain.ends_with("_failed");
    (of_core && fails) || plain.ends_with("rust_begin_unwind")
}

/// A function in the program.
struct Function {
    start: u64,
    end: u64,
    name: String,
}

/// The linked program.
struct Linked {
    /// In order of address.
    functions: Vec<Function>,
    /// Pairs of addresses: the first refers to the second.
    references: Vec<(u64, u64)>,
    /// The locations (file, line, column) of the program's panics, by address.
    places: BTreeMap<u64, String>,
    /// Bytes of code.
    code: u64,
}

impl Linked {
    fn read(path: &PathBuf) -> Result<Linked> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Linked::parse(&bytes).with_context(|| format!("cannot make sense of {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Linked> {
        let file = File::parse(bytes)?;
        let mut functions: Vec<Function> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
            .filter_map(|symbol| {
                let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
                let start = symbol.address();
                Some(Function { start, end: start.checked_add(symbol.size())?, name })
            })
            .collect();
        functions.sort_unstable_by_key(|function| function.start);
        let code = file
            .sections()
            .filter(|section| section.kind() == SectionKind::Text)
            .map(|text| text.size())
            .sum();
        let references = references(&file);
        let places = places(&file, &references);
        Ok(Linked { functions, references, places, code })
    }

    fn has(&self, part: &str) -> bool {
        self.functions.iter().any(|function| function.name.contains(part))
    }

    /// The function that an address is in.
    fn function(&self, address: u64) -> Option<&Function> {
        let behind = self.functions.partition_point(|function| function.start <= address);
        self.functions.get(behind.checked_sub(1)?).filter(|function| address < function.end)
    }

    /// The functions that call a panic, with the locations in the source that the panic may name, and the
    /// panic.
    fn panics(&self) -> Vec<String> {
        let mut callers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        // The optimiser moves a location that is the only one from the caller into the panic, or into its
        // callee.
        let mut moved: BTreeSet<&str> = BTreeSet::new();
        for (at, to) in &self.references {
            let Some(from) = self.function(*at) else { continue };
            if let Some(place) = self.places.get(to) {
                if is_panic(&from.name) {
                    moved.insert(place);
                } else {
                    places.entry(&from.name).or_default().insert(place);
                }
            }
            let called = self.function(*to).filter(|called| called.start == *to && is_panic(&called.name));
            if let Some(panic) = called.filter(|_| !is_panic(&from.name)) {
                callers.entry(&from.name).or_default().insert(&panic.name);
            }
        }
        let join = |words: &BTreeSet<&str>| words.iter().copied().collect::<Vec<_>>().join(", ");
        let mut lines: Vec<String> = callers
            .iter()
            .map(|(caller, panics)| match places.get(caller).unwrap_or(&moved) {
                places if places.is_empty() => format!("{caller} calls {}", join(panics)),
                places => format!("{caller} ({}) calls {}", join(places), join(panics)),
            })
            .collect();
        if lines.is_empty() {
            lines.extend(
                self.functions.iter().map(|function| &function.name).filter(|name| is_panic(name)).cloned(),
            );
        }
        lines
    }
}

/// Which address refers to which. The linker keeps relocations if told to (`--emit-relocs`).
fn references(file: &File<'_>) -> Vec<(u64, u64)> {
    let mut references = Vec::new();
    for section in file.sections() {
        // Only sections loaded at run time, not debug information.
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 {
            continue;
        }
        for (at, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let Ok(symbol) = file.symbol_by_index(index) else { continue };
            // On x86-64 a relative relocation counts from the end of the instruction's field, 4 bytes
            // further.
            let behind = match (file.architecture(), relocation.flags()) {
                (Architecture::X86_64, RelocationFlags::Elf { r_type }) if r_type != elf::R_X86_64_64 => 4,
                _ => 0,
            };
            let to = symbol.address().wrapping_add_signed(relocation.addend()).wrapping_add(behind);
            references.push((at, to));
        }
    }
    references
}

/// The locations of panics, by address: a `core::panic::Location` is the address and length of a path, then
/// line and column.
fn places(file: &File<'_>, references: &[(u64, u64)]) -> BTreeMap<u64, String> {
    references
        .iter()
        .filter_map(|(at, path)| {
            let number = |offset: u64, size: u64| -> Option<u64> {
                let bytes = bytes_at(file, at.checked_add(offset)?, size)?;
                Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            };
            let length = number(8, 8).filter(|length| *length <= LONGEST_PATH)?;
            let (line, column) = (number(16, 4)?, number(20, 4)?);
            let path = std::str::from_utf8(bytes_at(file, *path, length)?).ok()?.trim_end_matches('\0');
            // A dependency's path without this machine's folder for it.
            let kept = path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
            let path = kept.map_or(path, |(_, path)| path);
            path.ends_with(".rs").then(|| (*at, format!("{path}:{line}:{column}")))
        })
        .collect()
}

/// Bytes of the program at an address.
fn bytes_at<'a>(file: &File<'a>, address: u64, size: u64) -> Option<&'a [u8]> {
    file.sections().find_map(|section| section.data_range(address, size).ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_into_a_panic_are_told_from_other_functions() {
        for name in [
            "core::panicking::panic_fmt",
            "core::panicking::panic_const::panic_const_div_by_zero",
            "core::panicking::assert_failed::<usize, usize>",
            "core::slice::index::slice_index_fail",
            "core::slice::copy_from_slice_impl::len_mismatch_fail",
            "<[u8]>::copy_from_slice::core::len_mismatch_fail",
            "core::str::slice_error_fail",
            "core::option::expect_failed",
            "core::result::unwrap_failed",
            "__rustc::rust_begin_unwind",
            "rust_begin_unwind",
        ] {
            assert!(is_panic(name), "{name}");
        }
        for name in [
            "dumpcore::crash::panicking",
            "dumpcore::device::has_failed",
            "<dump_drivers::virtio::blk::VirtioBlk<R, C>>::fail",
            "core::fmt::write",
            "memcpy",
        ] {
            assert!(!is_panic(name), "{name}");
        }
    }

    #[test]
    fn panics_of_an_ordinary_program_are_found() {
        let linked = Linked::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(linked.has("xtask::panic_free::Linked"));
        let found = linked.panics();
        assert!(found.iter().any(|panic| panic.contains("core::panicking::panic_fmt")), "{found:?}");
    }
}
