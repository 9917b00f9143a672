//! A guest: what of a stock Linux is in it, and what it does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::initramfs::Initramfs;
use super::modules::{self, Modules};
use super::stock::Stock;
use crate::bed::Bed;
use crate::machine::{Machine, Running};
use crate::serial::Serial;

const INIT: &str = include_str!("init.sh");
const LIBRARY: &str = include_str!("guest.sh");

/// MiB of RAM: what a stock kernel needs, and some more.
const MEMORY: u32 = 512;

/// A guest that loads modules, runs a script and is switched off.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    stock: &'a Stock,
    modules: Vec<String>,
    files: Vec<(String, u32, Vec<u8>)>,
    script: String,
}

impl<'a> Guest<'a> {
    /// A guest that runs `script` with busybox's shell and programs, and with the functions in `guest.sh`. The
    /// script's exit code is the guest's.
    pub fn new(stock: &'a Stock, script: &str) -> Guest<'a> {
        Guest { stock, modules: Vec::new(), files: Vec::new(), script: script.to_owned() }
    }

    /// With a module of the kernel, and all that it needs. They are loaded in the order in which they are named.
    #[must_use]
    pub fn module(mut self, name: &str) -> Guest<'a> {
        self.modules.push(name.to_owned());
        self
    }

    /// With a file at `path`, relative to the root; `mode` is its permissions.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Guest<'a> {
        self.files.push((path.to_owned(), mode, content.to_vec()));
        self
    }

    /// The machine that runs it: one CPU and no disk, until the caller adds some. `bed` is the architecture, for which
    /// there is only x86_64's kernel, and what the disks hang on. The guest's root is made in `folder`, as
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
    fn root(&self) -> Result<Vec<u8>> {
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

/// Waits for the end of a guest; gives what it said.
///
/// # Errors
/// If it does not end in time, or its script ended with another exit code than 0; the error names what the guest said of
/// it, and the log.
pub fn finish(mut running: Running, limit: Duration) -> Result<Serial> {
    running.wait_exit(limit)?;
    let serial = running.serial;
    if serial.find("linux: end status=0").is_some() {
        return Ok(serial);
    }
    let why = serial.find("linux: failed: ").map_or(serial.last(), |line| line.text.as_str());
    bail!("the stock Linux did not do what it should: `{why}`; log: {}", serial.path().display())
}
