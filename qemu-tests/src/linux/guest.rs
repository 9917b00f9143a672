//! A guest: the parts of a stock Linux that it contains, and what it does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::initramfs::Initramfs;
use super::modules::{self, Modules};
use super::stock::Stock;
use crate::bed::{Bed, Device};
use crate::machine::{Machine, Running};
use crate::serial::Serial;

const INIT: &str = include_str!("init.sh");

/// The common beginning of every script.
pub(super) const LIBRARY: &str = include_str!("guest.sh");

/// Load for a guest, as functions of its script: `load` and `traffic`.
pub const LOAD: &str = include_str!("load.sh");

/// RAM in MiB: somewhat more than a stock kernel needs.
const MEMORY: u32 = 512;

/// A guest that loads modules, runs a script and is powered off.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    stock: &'a Stock,
    modules: Vec<String>,
    files: Vec<(String, u32, Vec<u8>)>,
    script: String,
}

impl<'a> Guest<'a> {
    /// A guest that runs `script` with busybox's shell and programs, and with the functions in `guest.sh`.
    /// The script's exit code is the guest's.
    pub fn new(stock: &'a Stock, script: &str) -> Guest<'a> {
        Guest { stock, modules: Vec::new(), files: Vec::new(), script: script.to_owned() }
    }

    /// With a kernel module and its dependencies. Modules are loaded in the given order.
    #[must_use]
    pub fn module(mut self, name: &str) -> Guest<'a> {
        self.modules.push(name.to_owned());
        self
    }

    /// With the modules that make this device appear as a disk.
    #[must_use]
    pub fn disk(self, device: &Device) -> Guest<'a> {
        let modules: &[&str] = match device.driver {
            "virtio-blk" => &["virtio_pci", "virtio_blk"],
            "virtio-scsi" => &["virtio_pci", "virtio_scsi", "sd_mod"],
            "ahci" => &["ahci", "sd_mod"],
            other => &[other],
        };
        modules.iter().fold(self, |guest, module| guest.module(module))
    }

    /// With a program of this machine in `/bin`, and the libraries that it needs.
    ///
    /// # Errors
    /// If it cannot be read, or needs a missing library.
    pub fn program(mut self, program: &Path) -> Result<Guest<'a>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("{} cannot run", program.display()))?
        {
            let path = library.trim_start_matches('/').to_owned();
            if !self.files.iter().any(|(other, ..)| *other == path) {
                self.files.push((path, 0o755, read(Path::new(&library))?));
            }
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        self.files.push((format!("bin/{name}"), 0o755, read(program)?));
        Ok(self)
    }

    /// With a file at `path`, relative to the root; `mode` is its permissions.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Guest<'a> {
        self.files.push((path.to_owned(), mode, content.to_vec()));
        self
    }

    /// The machine for this guest: one CPU and no disk, until the caller adds some. `bed` is the architecture
    /// (only x86_64 has a kernel) and the disks' controller. The guest's root is written to `folder`, as
    /// `NAME.initramfs`.
    ///
    /// # Errors
    /// If the kernel has no such module, or the file cannot be written.
    pub fn machine(&self, bed: Bed, folder: &Path, name: &str) -> Result<Machine> {
        let path = folder.join(format!("{name}.initramfs"));
        fs::write(&path, self.root()?).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Machine::new(bed, &self.stock.kernel)
            .initramfs(&path)
            .memory(MEMORY)
            .word("console=ttyS0")
            .word("quiet")
            // A panic ends the machine at once.
            .word("panic=-1"))
    }

    /// The archive of its root.
    pub(super) fn root(&self) -> Result<Vec<u8>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut root = Initramfs::default();
        for folder in ["dev", "proc", "sys", "tmp"] {
            root.folder(folder);
        }
        root.file("bin/busybox", 0o755, &read(&self.stock.busybox)?);
        root.file("init", 0o755, INIT.as_bytes());
        root.file("script", 0o644, format!("{LIBRARY}\n{}", self.script).as_bytes());
        let mut order = String::new();
        for module in Modules::read(&self.stock.modules)?.in_order(&self.modules)? {
            let name = format!("{}.ko", modules::name_of(&module).unwrap_or_default());
            root.file(&format!("modules/{name}"), 0o644, &modules::content(&module)?);
            order.push_str(&name);
            order.push('\n');
        }
        root.file("modules/order", 0o644, order.as_bytes());
        for (path, mode, content) in &self.files {
            root.file(path, *mode, content);
        }
        Ok(root.finish())
    }
}

/// The files of libraries and the loader in the output of `ldd`.
fn libraries(said: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for line in said.lines() {
        // `NAME => FILE (ADDRESS)`, or `FILE (ADDRESS)`; an entry without a file is part of the kernel.
        let (name, file) = line.split_once(" => ").map_or(("", line), |(name, file)| (name.trim(), file));
        ensure!(!file.starts_with("not found"), "there is no {name}");
        files.extend(file.split_whitespace().next().filter(|file| file.starts_with('/')).map(str::to_owned));
    }
    Ok(files)
}

/// Waits for the end of a guest; returns its output.
///
/// # Errors
/// If it does not end in time, or its script ended with an exit code other than 0; the error gives the
/// guest's reason and the log.
pub fn finish(mut running: Running, limit: Duration) -> Result<Serial> {
    running.wait_exit(limit)?;
    let serial = running.serial;
    if serial.find("linux: end status=0").is_some() {
        return Ok(serial);
    }
    let why = serial.find("linux: failed: ").map_or_else(|| serial.last(), |line| line.text.clone());
    bail!("the stock Linux did not do what it should: `{why}`; log: {}", serial.path().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_files_and_one_that_is_missing_is_named() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(said).unwrap(),
            ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tstatically linked\n").unwrap(), Vec::<String>::new());
        let error = libraries("\tliblzo2.so.2 => not found\n").unwrap_err().to_string();
        assert!(error.contains("liblzo2.so.2"), "{error}");
    }
}
