//! The tasks of `cargo xtask` and their options.

use clap::{Parser, Subcommand};

use crate::bench;

/// diskdump's tasks.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 success; 1 a test, scenario, check or goal failed; \
                  2 bad arguments, or a tool is missing."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Install what the tasks need: Debian packages, Rust targets and source, crates, kernels; sizes are shown first
    Setup,
    /// Crash a kernel in QEMU, dump its memory, and show every CPU's backtrace in gdb
    Demo,
    /// Run everything: formatting, lints, documents, unit tests, properties, bare-metal builds, the QEMU matrix
    Test {
        /// Skip (and count) what needs a missing tool, instead of refusing to start
        #[arg(long)]
        skip_missing: bool,
    },
    /// Run the scenarios of the QEMU matrix
    Qemu {
        /// Only scenarios whose name contains this
        filter: Option<String>,
        /// List the scenarios and what each proves; run none
        #[arg(long)]
        list: bool,
        /// Print the matrix as a table and write it into the book
        #[arg(long, conflicts_with_all = ["list", "filter"])]
        table: bool,
    },
    /// Check that crash, drgn, makedumpfile and libkdumpfile read the cores of a stock Linux
    Readers,
    /// Crash stock Linux kernels that have diskdump.ko armed
    Linux {
        /// Only rows whose name contains this
        filter: Option<String>,
        /// All rows, including those that `cargo xtask test` leaves out
        #[arg(long, conflicts_with = "filter")]
        all: bool,
        /// List the rows and what each proves; run none
        #[arg(long)]
        list: bool,
    },
    /// Measure, and compare with the goals
    Bench {
        /// Which benchmark; without one, all of them in one table
        name: Option<bench::Name>,
        /// Only this part of `engine`, or this device of `drivers`
        part: Option<String>,
        /// Print one JSON object per line: bench, name, unit, ours, theirs, ratio, goal, met
        #[arg(long)]
        json: bool,
    },
    /// Fuzz the drivers with controllers that lie; failing inputs go to fuzz/artifacts
    Fuzz {
        /// Which fuzz target; without one, all of them
        target: Option<String>,
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Run for hours: kill savecore, make its system calls fail, fuzz; print a table of findings
    Campaign {
        /// Only parts whose name contains this
        name: Option<String>,
        /// Hours for each part
        #[arg(long, default_value_t = 1.0)]
        hours: f64,
        /// Seed of the random numbers
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// List the parts; run none
        #[arg(long)]
        list: bool,
    },
    /// Run the tests under Miri, ThreadSanitizer and AddressSanitizer; needs nightly Rust and most of an hour
    Deep {
        /// Only steps whose name contains one of these
        names: Vec<String>,
        /// List the steps; run none
        #[arg(long)]
        list: bool,
    },
    /// The floors of each crate, from top to bottom, and imports that break their order
    Floors,
    /// Check the documents: contents, links, named functions and files, commands, line width
    Book {
        /// Update the generated list of tasks first
        #[arg(long)]
        write: bool,
    },
    /// Build savecore as a Debian package in target/debian
    Deb,
    /// Same as test
    Ci,
}
