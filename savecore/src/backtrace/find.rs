//! Finds the crashed kernel by its build id, among files and folders and in the usual places for kernels and
//! their debug information.

use std::fs;
use std::path::{Path, PathBuf};

use super::elf::Elf;

/// Maximum number of files and folders to check below one folder.
const MAX_ENTRIES: usize = 20_000;

/// Maximum depth of nested folders.
const MAX_DEPTH: u32 = 5;

/// Usual folders for kernels, and the depth to search.
const USUAL: [(&str, u32); 4] =
    [("/boot", 1), ("/usr/lib/debug/boot", 1), ("/usr/lib/debug/lib/modules", 2), ("/lib/modules", 2)];

/// The folder of debug information by build id.
const DEBUG: &str = "/usr/lib/debug";

/// The ELF file of the kernel with this build id: among the given files and folders, then in the usual places
/// (`/usr/lib/debug/.build-id/xx/….debug`, `/boot` and others). Prefers one with debug information. Without a
/// build id, returns the first ELF file given.
pub fn find_kernel(build_id: &[u8], given: &[PathBuf]) -> Option<PathBuf> {
    if build_id.is_empty() {
        return given.iter().find(|path| Elf::open(path).is_ok()).cloned();
    }
    let mut without = None;
    let candidates = given.iter().flat_map(|path| below(path, build_id, MAX_DEPTH));
    let usual = by_build_id(Path::new(DEBUG), build_id).into_iter();
    let usual = usual.chain(USUAL.iter().flat_map(|(path, depth)| below(Path::new(path), build_id, *depth)));
    for path in candidates.chain(usual) {
        let Ok(elf) = Elf::open(&path) else { continue };
        if elf.build_id().as_deref() != Some(build_id) {
            continue;
        }
        if elf.section(".debug_info").is_some() {
            return Some(path);
        }
        // Prefer one with symbols to a stripped one.
        let has_symbols = elf.section(".symtab").is_some();
        match &without {
            Some((_, true)) => {}
            Some(_) if !has_symbols => {}
            _ => without = Some((path, has_symbols)),
        }
    }
    without.map(|(path, _)| path)
}

/// The separate debug file of a kernel's ELF file: under the linked name, next to it, in `.debug` there, or
/// in the folder of debug information. A file of another build does not count.
pub(super) fn linked(kernel: &Path, elf: &Elf) -> Option<Elf> {
    let name = elf.debug_link()?;
    let folder = kernel.canonicalize().ok()?.parent()?.to_owned();
    let below = Path::new(DEBUG).join(folder.strip_prefix("/").ok()?);
    [folder.join(&name), folder.join(".debug").join(&name), below.join(&name)].iter().find_map(|path| {
        let debug = Elf::open(path).ok()?;
        let is_its = debug.build_id().is_some() && debug.build_id() == elf.build_id();
        is_its.then_some(debug)
    })
}

/// The file for a build id in a folder of debug information, if it exists.
fn by_build_id(folder: &Path, build_id: &[u8]) -> Vec<PathBuf> {
    let text: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let Some((first, rest)) = text.split_at_checked(2) else { return Vec::new() };
    let folder = folder.join(".build-id").join(first);
    vec![folder.join(format!("{rest}.debug")), folder.join(rest)]
}

/// A file itself; for a folder, the possible kernels below it. Does not follow links to folders.
fn below(path: &Path, build_id: &[u8], depth: u32) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    let mut found = by_build_id(path, build_id);
    let mut folders = vec![(path.to_path_buf(), depth)];
    let mut looked = 0;
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut files = Vec::new();
        for entry in entries.flatten() {
            looked += 1;
            if looked > MAX_ENTRIES {
                return found;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 1 => folders.push((entry.path(), depth - 1)),
                Ok(kind) if kind.is_file() || kind.is_symlink() => files.push(entry.path()),
                _ => {}
            }
        }
        // A fixed order, independent of the file system.
        files.sort();
        found.append(&mut files);
    }
    found
}
