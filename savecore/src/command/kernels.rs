//! The kernels that name functions.

use std::path::PathBuf;

use savecore::backtrace::{self, Backtraces, find_kernel};
use savecore::dump::{Dump, Encryption};

use crate::output::warning;

/// Where kernels with symbols are.
#[derive(clap::Args)]
pub(crate) struct KernelArguments {
    /// Kernel with symbols, or a folder of them, for names of functions; else the usual places are searched
    #[arg(long = "kernel", value_name = "PATH")]
    kernels: Vec<PathBuf>,
}

impl KernelArguments {
    /// Backtraces of a dump, if its kernel is found. Warns if one was named and does not help.
    pub(crate) fn backtraces(&self, dump: &Dump<'_>) -> Option<Backtraces> {
        if matches!(dump.encryption(), Encryption::Sealed | Encryption::Refused) {
            return None;
        }
        let build_id = backtrace::build_id(dump);
        let Some(kernel) = find_kernel(&build_id, &self.kernels) else {
            // One that was named is asked for why it is of no use.
            if let Some(named) = self.kernels.first() {
                let why = backtrace::backtraces(dump, named).err();
                let why = why.map_or_else(|| "no kernel".to_owned(), |error| error.to_string());
                warning(&format!("there are no names of functions: {why}"));
            }
            return None;
        };
        backtrace::backtraces(dump, &kernel).map_err(|error| warning(&error.to_string())).ok()
    }
}
