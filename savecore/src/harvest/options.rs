//! The options of a harvest, and their application to one dump.

use std::path::PathBuf;

use crate::Identity;
use crate::corefile::{CoreOptions, Format, Selection};
use crate::dump::Dump;
use crate::ownership::Machine;
use crate::store::Crash;
use crate::targets::Opener;

/// The options of a harvest.
#[derive(Clone, Debug)]
pub struct Options<'o> {
    /// The key to encrypted dumps.
    pub opener: Option<&'o Opener>,
    /// The format of saved dumps. An encrypted dump that is not opened is always saved raw.
    pub format: Format,
    /// Options for writing cores.
    pub core: CoreOptions,
    /// The name of the crashed machine, for the names of folders; if unset, see `harvest::host`.
    pub host: Option<String>,
    /// This machine's name, for the folders of its own crashes; if unset, the system's name.
    pub own_host: Option<String>,
    /// This machine.
    pub machine: Option<Machine>,
    /// Free dumps on another machine's partition, too.
    pub foreign: bool,
    /// Leave the dumps in place, for this reason.
    pub keep: Option<&'static str>,
    /// Also free damaged dumps, after saving everything readable.
    pub clear_damaged: bool,
    /// Kernels with symbols, or folders of them, for backtraces.
    pub kernels: Vec<PathBuf>,
    /// Whether to write a report for people, too.
    pub report: bool,
}

impl Options<'_> {
    /// The key for opening dumps. A raw copy is an unchanged dump; with the key, modified parts would count
    /// as lost.
    pub(super) fn identity(&self) -> Option<&Identity> {
        let opener = self.opener.filter(|_| self.format != Format::Raw);
        opener.map(|opener| &opener.identity)
    }
}

/// The dump to store, and how.
pub(super) struct Work<'d, 's> {
    pub(super) dump: &'d Dump<'s>,
    pub(super) selection: Selection,
    pub(super) format: Format,
    pub(super) crash: Crash,
}
