//! Dependencies between kernel modules, according to the modules themselves.
//!
//! Debian's packages have no modules.dep; it is generated at installation. It would have the same content:
//! each module lists its dependencies in its section `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object, ObjectSection};

/// The modules of a kernel.
#[derive(Debug)]
pub(super) struct Modules {
    folder: PathBuf,
    /// Files by name.
    files: BTreeMap<String, PathBuf>,
    /// Names of built-in modules.
    built_in: BTreeSet<String>,
}

impl Modules {
    /// The modules below `folder`, the kernel's own folder in `/lib/modules`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(super) fn read(folder: &Path) -> Result<Modules> {
        let mut files = BTreeMap::new();
        collect(&folder.join("kernel"), &mut files)?;
        let list = folder.join("modules.builtin");
        let list = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let built_in = list.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Modules { folder: folder.to_path_buf(), files, built_in })
    }

    /// The files of the modules `wanted` and of all their dependencies, in an order in which they can be
    /// loaded. Built-in modules are left out.
    ///
    /// # Errors
    /// If the kernel has no such module; the error names it.
    pub(super) fn in_order(&self, wanted: &[String]) -> Result<Vec<PathBuf>> {
        let names: Vec<String> = wanted.iter().map(|name| plain(name)).collect();
        let order = order(&names, &mut |name| self.needs(name))?;
        Ok(order.iter().filter_map(|name| self.files.get(name).cloned()).collect())
    }

    /// The dependencies of a module.
    fn needs(&self, name: &str) -> Result<Vec<String>> {
        if self.built_in.contains(name) {
            return Ok(Vec::new());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel with the modules in {} has none called {name}", self.folder.display());
        };
        let content = content(path)?;
        let mut needs = needs(&content).with_context(|| format!("cannot read {}", path.display()))?;
        // Soft dependencies, if they exist.
        needs.softly.retain(|name| self.files.contains_key(name));
        needs.softly.append(&mut needs.really);
        Ok(needs.softly)
    }
}

/// The dependencies listed in a module.
#[derive(Default, PartialEq, Eq, Debug)]
struct Needs {
    really: Vec<String>,
    softly: Vec<String>,
}

/// Parses `depends=` and `softdep=` in a module's file (Linux, include/linux/module.h).
fn needs(content: &[u8]) -> Result<Needs> {
    let file = ElfFile::<FileHeader64<Endianness>>::parse(content)?;
    let section = file.section_by_name(".modinfo").context("it has no section .modinfo")?;
    let mut needs = Needs::default();
    for field in section.data()?.split(|byte| *byte == 0) {
        let field = String::from_utf8_lossy(field);
        if let Some(names) = field.strip_prefix("depends=") {
            needs.really.extend(names.split(',').filter(|name| !name.is_empty()).map(plain));
        } else if let Some(words) = field.strip_prefix("softdep=") {
            // `pre: A B post: C`; the module itself requests those after `post:`.
            let mut before = false;
            for word in words.split_whitespace() {
                match word {
                    "pre:" => before = true,
                    "post:" => before = false,
                    name if before => needs.softly.push(plain(name)),
                    _ => {}
                }
            }
        }
    }
    Ok(needs)
}

/// Each of `wanted` after all its dependencies, without duplicates. Circles are cut where they began.
fn order(wanted: &[String], needs: &mut dyn FnMut(&str) -> Result<Vec<String>>) -> Result<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    // Names whose dependencies were not visited yet, and names whose dependencies are all above them in the
    // stack.
    let mut stack: Vec<(String, bool)> = wanted.iter().rev().map(|name| (name.clone(), false)).collect();
    while let Some((name, needs_done)) = stack.pop() {
        if needs_done {
            order.push(name);
        } else if seen.insert(name.clone()) {
            let before = needs(&name)?;
            stack.push((name, true));
            stack.extend(before.into_iter().rev().map(|name| (name, false)));
        }
    }
    Ok(order)
}

/// A module's name in the kernel's notation: file names may have `-` for `_`.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in this file, if it is one.
pub(super) fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    Some(plain(name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?))
}

/// A module in a form that the kernel accepts. Newer packages compress modules with xz, which not every
/// kernel can unpack.
///
/// # Errors
/// If the file cannot be read, or `xz` cannot unpack it.
pub(super) fn content(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(cannot);
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output();
    let output = output.context("cannot run xz; its package is xz-utils").with_context(cannot)?;
    ensure!(output.status.success(), "{}: {}", cannot(), String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// All modules below a folder.
fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let say = || format!("cannot read the folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(say)? {
        let entry = entry.with_context(say)?;
        let path = entry.path();
        if entry.file_type().with_context(say)?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest ELF file with these fields in `.modinfo`.
    fn module(fields: &[&str]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let data: Vec<u8> = fields.iter().flat_map(|field| field.bytes().chain([0])).collect();
        let (names_at, data_at) = (64, 64 + names.len());
        let sections_at = (data_at + data.len()).next_multiple_of(8);
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        file.resize(16, 0);
        let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
        // Relocatable, x86_64; only sections: three headers of 64 bytes, names in the last one.
        put(&1_u16.to_le_bytes());
        put(&62_u16.to_le_bytes());
        put(&1_u32.to_le_bytes());
        put(&[0; 16]);
        put(&(sections_at as u64).to_le_bytes());
        put(&[0; 4]);
        for half in [64_u16, 0, 0, 64, 3, 2] {
            put(&half.to_le_bytes());
        }
        put(names);
        put(&data);
        file.resize(sections_at, 0);
        for (name, kind, at, size) in
            [(0_u32, 0_u32, 0, 0), (1, 1, data_at, data.len()), (10, 3, names_at, names.len())]
        {
            let mut section = [name.to_le_bytes(), kind.to_le_bytes()].concat();
            section.resize(24, 0);
            section.extend_from_slice(&(at as u64).to_le_bytes());
            section.extend_from_slice(&(size as u64).to_le_bytes());
            section.resize(64, 0);
            file.extend_from_slice(&section);
        }
        file
    }

    #[test]
    fn a_module_says_what_it_needs_and_what_may_come_before() {
        let file =
            module(&["license=GPL", "depends=t10-pi,scsi_mod", "softdep=pre: crct10dif a-b post: late"]);
        assert_eq!(
            needs(&file).unwrap(),
            Needs {
                really: vec!["t10_pi".to_owned(), "scsi_mod".to_owned()],
                softly: vec!["crct10dif".to_owned(), "a_b".to_owned()]
            }
        );
        assert_eq!(needs(&module(&["depends="])).unwrap(), Needs::default());
        assert!(needs(b"no module").is_err());
    }

    #[test]
    fn what_is_built_in_needs_no_file_and_what_is_nowhere_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let drivers = folder.path().join("kernel/drivers");
        fs::create_dir_all(&drivers).unwrap();
        fs::write(drivers.join("virtio-ring.ko"), module(&["depends="])).unwrap();
        fs::write(drivers.join("virtio.ko"), module(&["depends=virtio_ring,core"])).unwrap();
        fs::write(drivers.join("lame.ko"), module(&["depends=nowhere"])).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/lib/core.ko\n").unwrap();
        let modules = Modules::read(folder.path()).unwrap();
        let names = |wanted: &str| {
            let files = modules.in_order(&[wanted.to_owned()])?;
            Ok::<_, anyhow::Error>(files.iter().filter_map(|path| name_of(path)).collect::<Vec<_>>())
        };
        assert_eq!(names("virtio").unwrap(), ["virtio_ring", "virtio"]);
        assert_eq!(names("core").unwrap(), Vec::<String>::new());
        assert!(names("lame").unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn a_packed_module_says_what_it_needs_too() {
        let folder = tempfile::tempdir().unwrap();
        let drivers = folder.path().join("kernel/drivers");
        fs::create_dir_all(&drivers).unwrap();
        fs::write(drivers.join("ring-one.ko"), module(&["depends="])).unwrap();
        fs::write(drivers.join("blk.ko"), module(&["depends=ring_one"])).unwrap();
        for name in ["ring-one.ko", "blk.ko"] {
            assert!(Command::new("xz").arg(drivers.join(name)).status().unwrap().success());
        }
        fs::write(folder.path().join("modules.builtin"), "").unwrap();
        let files = Modules::read(folder.path()).unwrap().in_order(&["blk".to_owned()]).unwrap();
        let names: Vec<_> = files.iter().filter_map(|path| name_of(path)).collect();
        assert_eq!(names, ["ring_one", "blk"]);
        assert_eq!(content(&files[1]).unwrap(), module(&["depends=ring_one"]));
        fs::write(&files[1], "not packed").unwrap();
        assert!(content(&files[1]).unwrap_err().to_string().contains("blk.ko.xz"));
    }

    proptest! {
        #[test]
        fn every_module_comes_once_and_behind_what_it_needs(
            // Dependencies of module n: only modules with larger numbers, so that there is no circle.
            links in proptest::collection::vec(proptest::collection::vec(1_usize..8, 0..4), 1..12),
            wanted in proptest::collection::vec(0_usize..12, 1..4),
        ) {
            let count = links.len();
            let needs = |number: usize| -> Vec<usize> {
                links[number].iter().map(|step| number + step).filter(|other| *other < count).collect()
            };
            let wanted: Vec<String> = wanted.iter().map(|number| (number % count).to_string()).collect();
            let got = order(&wanted, &mut |name| {
                Ok(needs(name.parse().unwrap()).iter().map(usize::to_string).collect())
            }).unwrap();
            let place = |name: &str| got.iter().position(|other| other == name);
            prop_assert!(wanted.iter().all(|name| place(name).is_some()));
            for (index, name) in got.iter().enumerate() {
                prop_assert_eq!(place(name), Some(index));
                for other in needs(name.parse().unwrap()) {
                    prop_assert!(place(&other.to_string()).is_some_and(|before| before < index));
                }
            }
        }

        #[test]
        fn circles_end(next in proptest::collection::vec(0_usize..9, 9)) {
            let got = order(&["0".to_owned()], &mut |name| {
                Ok(vec![next[name.parse::<usize>().unwrap()].to_string()])
            }).unwrap();
            prop_assert!(got.len() <= next.len());
            prop_assert!(got.contains(&"0".to_owned()));
        }
    }
}
