//! A row of the matrix, and what it is run with.

use std::path::PathBuf;

use anyhow::Result;

use crate::bed::Device;
use crate::linux::kernel::{Flavour, Kernel};
use crate::linux::readers::Readers;
use crate::linux::stock::Stock;
use crate::savecore::Savecore;

/// What a row is run with.
#[derive(Debug)]
pub struct Lab {
    /// The kernel.
    pub stock: Stock,
    /// The same with symbols, if they were asked for.
    pub vmlinux: Option<PathBuf>,
    /// diskdump.ko for it.
    pub module: PathBuf,
    /// faults.ko for it.
    pub faults: PathBuf,
    /// What harvests.
    pub savecore: Savecore,
    /// What judges.
    pub readers: Readers,
    /// Where everything goes.
    pub folder: PathBuf,
}

/// A row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is proved, in one word.
    pub what: &'static str,
    /// The same in one sentence.
    pub about: &'static str,
    /// On which kernel.
    pub kernel: Kernel,
    /// On which device.
    pub device: &'static Device,
    /// With how many CPUs.
    pub cpus: u32,
    /// Whether it belongs to the short run.
    pub short: bool,
    pub(super) run: fn(&Lab, &Row) -> Result<String>,
}

impl Row {
    /// `dump-6.1-cloud-nvme-2`.
    pub fn name(&self) -> String {
        format!("{}-{}-{}-{}", self.what, self.kernel.name(), self.device.name, self.cpus)
    }

    /// Runs it; gives its facts.
    ///
    /// # Errors
    /// If something is not as it has to be.
    pub fn run(&self, lab: &Lab) -> Result<String> {
        (self.run)(lab, self)
    }

    /// Whether it needs the kernel's symbols.
    pub fn wants_symbols(&self) -> bool {
        // Those of the usual kernels are three times as large, and prove no more.
        self.kernel.flavour == Flavour::Cloud && self.kernel != Kernel::NEWEST
    }
}

/// Kind of a row: what, about, and what runs it.
pub(super) type Kind = (&'static str, &'static str, fn(&Lab, &Row) -> Result<String>);
