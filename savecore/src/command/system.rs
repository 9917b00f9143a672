//! The system that a subcommand works on: the running one, except in tests.

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

    /// The rule that distinguishes this machine's partitions.
    pub(crate) fn owner(&self) -> Owner {
        self.system().owner()
    }
}
