//! `cargo xtask`: the project's tasks, one file each.

mod bench;
mod book;
mod build;
mod campaign;
mod deb;
mod deep;
mod demo;
mod fuzz;
mod licences;
mod linux;
mod loops;
mod panic_free;
mod qemu;
mod readers;
mod setup;
mod test;
mod toolchain;
mod ui;

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// diskdump's tasks.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 success; 1 a test, scenario, check or goal failed; \
                  2 bad arguments, or a tool is missing."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
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

/// The task could not begin: a bad argument, or a missing tool. Exit code 2.
#[derive(Debug)]
pub(crate) struct CannotBegin(pub(crate) String);

impl fmt::Display for CannotBegin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for CannotBegin {}

/// Help goes out as it is; a bad argument becomes one line.
fn bad_arguments(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            // A closed pipe is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            ui::error(
                "no task given: setup, demo, test, qemu, readers, linux, bench, fuzz, campaign, deep, book, deb or ci; see `cargo xtask --help`",
            );
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            let head = text.split("\n\n").next().unwrap_or_default();
            let words: Vec<&str> = head.strip_prefix("error: ").unwrap_or(head).split_whitespace().collect();
            ui::error(&format!("{}; see `cargo xtask --help`", words.join(" ")));
            ExitCode::from(2)
        }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return bad_arguments(&error),
    };
    let result = match arguments.task {
        Task::Setup => setup::task(),
        Task::Demo => demo::task(),
        Task::Test { skip_missing } => test::task(!skip_missing || test::on_ci()),
        Task::Qemu { filter, list, table } => {
            let show = match (list, table) {
                (_, true) => qemu::Show::Table,
                (true, _) => qemu::Show::List,
                _ => qemu::Show::Run,
            };
            qemu::task(filter.as_deref(), show)
        }
        Task::Readers => readers::task(test::on_ci()),
        Task::Linux { filter, all, list } => {
            let which = match (&filter, all || list) {
                (Some(part), _) => linux::Which::Named(part),
                (None, true) => linux::Which::All,
                (None, false) => linux::Which::Short,
            };
            linux::task(which, list, test::on_ci())
        }
        Task::Bench { name, part, json } => bench::task(name, part.as_deref(), json),
        Task::Fuzz { target, seconds } => fuzz::task(target.as_deref(), seconds),
        Task::Campaign { name, hours, seed, list } => {
            campaign::task(campaign::Options { filter: name.as_deref(), hours, seed, list })
        }
        Task::Deep { names, list } => deep::task(&names, list),
        Task::Book { write } => book::task(write),
        Task::Deb => deb::task(),
        Task::Ci => test::task(true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            ui::error(&format!("{error:#}"));
            let cannot_begin = error.chain().any(|cause| cause.is::<CannotBegin>());
            ExitCode::from(if cannot_begin { 2 } else { 1 })
        }
    }
}
