//! The system that a subcommand works on: the one that runs, but for tests.

use std::path::PathBuf;

use savecore::arming::System;
use savecore::ownership::Owner;

/// Where the kernel shows itself.
#[derive(clap::Args)]
pub(crate) struct SystemArguments {
    /// Root of the file systems of a kernel that tests made up
    #[arg(long, value_name = "DIR", hide = true)]
    system: Option<PathBuf>,
}

impl SystemArguments {
    pub(crate) fn system(&self) -> System {
        self.system.as_deref().map_or_else(System::running, System::below)
    }

    /// What tells this machine's partitions from those of others.
    pub(crate) fn owner(&self) -> Owner {
        self.system().owner()
    }
}
