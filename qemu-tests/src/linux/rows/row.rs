//! A row of the matrix, and its environment.

use std::path::PathBuf;

use anyhow::Result;

use crate::bed::Device;
use crate::linux::kernel::{Flavour, Kernel};
use crate::linux::readers::Readers;
use crate::linux::stock::Stock;
use crate::savecore::Savecore;

/// The environment of a row.
#[derive(Debug)]
pub struct Lab {
    /// The kernel.
    pub stock: Stock,
    /// Its vmlinux with symbols, if requested.
    pub vmlinux: Option<PathBuf>,
    /// diskdump.ko for it.
    pub module: PathBuf,
    /// faults.ko for it.
    pub faults: PathBuf,
    /// savecore, for harvesting.
    pub savecore: Savecore,
    /// The tools that judge.
    pub readers: Readers,
    /// The folder for all files.
    pub folder: PathBuf,
}

/// A row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it proves, in one word.
    pub what: &'static str,
    /// The same in one sentence.
    pub about: &'static str,
    /// Its kernel.
    pub kernel: Kernel,
    /// Its device.
    pub device: &'static Device,
    /// Its number of CPUs.
    pub cpus: u32,
    /// Whether it is part of the short run.
    pub short: bool,
    pub(super) run: fn(&Lab, &Row) -> Result<String>,
}

impl Row {
    /// Its name, such as `dump-6.1-cloud-nvme-2`.
    pub fn name(&self) -> String {
        format!("{}-{}-{}-{}", self.what, self.kernel.name(), self.device.name, self.cpus)
    }

    /// Runs it; returns its facts.
    ///
    /// # Errors
    /// If something is not as expected.
    pub fn run(&self, lab: &Lab) -> Result<String> {
        (self.run)(lab, self)
    }

    /// Whether it needs the kernel's symbols.
    pub fn wants_symbols(&self) -> bool {
        // The symbols of generic kernels are three times as large and prove nothing more.
        self.kernel.flavour == Flavour::Cloud && self.kernel != Kernel::NEWEST
    }
}

/// A kind of row: name, description, function.
pub(super) type Kind = (&'static str, &'static str, fn(&Lab, &Row) -> Result<String>);
