//! What is to be done, and what of it concerns one dump.

use std::path::PathBuf;

use crate::Identity;
use crate::corefile::{CoreOptions, Format, Selection};
use crate::dump::Dump;
use crate::ownership::Machine;
use crate::store::Crash;
use crate::targets::Opener;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options<'o> {
    /// The key to encrypted dumps.
    pub opener: Option<&'o Opener>,
    /// What dumps are saved as. An encrypted one that is not opened is saved raw, whatever this says.
    pub format: Format,
    /// How cores are written.
    pub core: CoreOptions,
    /// The name of the machine that crashed, for the names of folders; if it is not said, see `harvest::host`.
    pub host: Option<String>,
    /// What this machine is called, for the folders of its own crashes; the system's name if it is not said.
    pub own_host: Option<String>,
    /// This machine.
    pub machine: Option<Machine>,
    /// Free dumps on another machine's partition, too.
    pub foreign: bool,
    /// Leave the dumps where they are, for this reason.
    pub keep: Option<&'static str>,
    /// Free damaged dumps too, once what is readable is saved.
    pub clear_damaged: bool,
    /// Kernels with symbols, or folders of them, for backtraces.
    pub kernels: Vec<PathBuf>,
    /// Write a report for people, too.
    pub report: bool,
}

impl Options<'_> {
    /// The key that dumps are opened with. A raw copy is of the dump as it is; with the key, what was tampered with would count
    /// as lost.
    pub(super) fn identity(&self) -> Option<&Identity> {
        let opener = self.opener.filter(|_| self.format != Format::Raw);
        opener.map(|opener| &opener.identity)
    }
}

/// What is stored of a dump, and how.
pub(super) struct Work<'d, 's> {
    pub(super) dump: &'d Dump<'s>,
    pub(super) selection: Selection,
    pub(super) format: Format,
    pub(super) crash: Crash,
}
