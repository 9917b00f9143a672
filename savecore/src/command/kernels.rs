//! The kernels for function names.

use std::path::PathBuf;

use savecore::backtrace::{self, Backtraces};
use savecore::dump::Dump;

use crate::output::warning;

/// Where kernels with symbols are.
#[derive(clap::Args)]
pub(crate) struct KernelArguments {
    /// Kernel with symbols, or a folder of them, for names of functions [default: searches the usual places]
    #[arg(long = "kernel", value_name = "PATH")]
    kernels: Vec<PathBuf>,
}

impl KernelArguments {
    /// Backtraces of a dump, if its kernel is found. Warns if one was given or found but is unusable.
    pub(crate) fn backtraces(&self, dump: &Dump<'_>) -> Option<Backtraces> {
        backtrace::trace(dump, &self.kernels).unwrap_or_else(|error| {
            warning(&format!("no names of functions: {error}"));
            None
        })
    }
}
