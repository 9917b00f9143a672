//! `cargo xtask`: the project's tasks, one file each.

mod bench;
mod build;
mod campaign;
mod deb;
mod deep;
mod demo;
mod error;
mod everything;
mod floors;
mod folders;
mod fuzz;
mod linux;
mod loops;
mod panic_free;
mod qemu;
mod readers;
mod setup;
mod step;
mod test;
mod toolchain;
mod ui;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub(crate) use error::CannotBegin;

/// diskdump's tasks.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done and good; 1 something failed (a test, a scenario, a goal); \
                  2 bad argument, or a tool is missing."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring what any task needs: Debian packages, Rust's targets and source, crates, kernels; with sizes
    Setup,
    /// Crash a kernel in QEMU, dump its memory, and show it in gdb
    Demo,
    /// Everything: format, lints, unit tests and properties, bare-metal builds, the QEMU matrix
    Test {
        /// Skip and count what needs a tool that is missing and cannot be brought; else nothing is begun
        #[arg(long)]
        skip_missing: bool,
    },
    /// The scenarios of the QEMU matrix
    Qemu {
        /// Only scenarios whose name contains this
        filter: Option<String>,
        /// Name and describe the scenarios, run none
        #[arg(long)]
        list: bool,
        /// Print the matrix as a table, and put it into the README.
        #[arg(long, conflicts_with_all = ["list", "filter"])]
        table: bool,
    },
    /// Let crash, drgn, makedumpfile and libkdumpfile read the cores of a stock Linux
    Readers,
    /// Stock kernels of Linux that crash with diskdump.ko armed
    Linux {
        /// Only rows whose name contains this
        filter: Option<String>,
        /// All rows, and not only those of the short run
        #[arg(long, conflicts_with = "filter")]
        all: bool,
        /// Name and describe the rows, run none
        #[arg(long)]
        list: bool,
    },
    /// Measure
    Bench {
        /// Which; all, in one table, if left out
        name: Option<bench::Name>,
        /// Of engine only this part, of drivers only this device
        part: Option<String>,
        /// One JSON object a line: bench, name, unit, ours, theirs, ratio, goal, met
        #[arg(long)]
        json: bool,
    },
    /// Fuzz the drivers with controllers that lie; crashes are kept in fuzz/artifacts
    Fuzz {
        /// Which controller; all if left out
        target: Option<String>,
        /// How long each
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// For hours: kill savecore, let its system calls fail, fuzz; print a table of what was found
    Campaign {
        /// Only parts whose name contains this; all if left out
        name: Option<String>,
        /// Hours for each part
        #[arg(long, default_value_t = 1.0)]
        hours: f64,
        /// Where random numbers begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Name and describe the parts, run none
        #[arg(long)]
        list: bool,
    },
    /// Miri, ThreadSanitizer and AddressSanitizer over the tests; some of an hour, and nightly's Rust
    Deep {
        /// Only steps whose name contains one of these; all if left out
        names: Vec<String>,
        /// Name and describe the steps, run none
        #[arg(long)]
        list: bool,
    },
    /// The floors of each crate, from top to bottom, and imports that break their order
    Floors,
    /// savecore as a Debian package, in target/debian
    Deb,
    /// The same as test
    Ci,
}

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
                "say what to do: setup, demo, test, qemu, readers, linux, bench, fuzz, campaign, deep, floors, deb or ci; `cargo xtask --help` tells more",
            );
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            let head = text.split("\n\n").next().unwrap_or_default();
            let words: Vec<&str> = head.strip_prefix("error: ").unwrap_or(head).split_whitespace().collect();
            ui::error(&format!("{}; `cargo xtask --help` tells more", words.join(" ")));
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
        Task::Setup => everything::task(),
        Task::Demo => demo::task(),
        Task::Test { skip_missing } => test::task(!skip_missing || step::on_ci()),
        Task::Qemu { filter, list, table } => {
            let show = match (list, table) {
                (_, true) => qemu::Show::Table,
                (true, _) => qemu::Show::List,
                _ => qemu::Show::Run,
            };
            qemu::task(filter.as_deref(), show)
        }
        Task::Readers => readers::task(step::on_ci()),
        Task::Linux { filter, all, list } => {
            let which = match (&filter, all || list) {
                (Some(part), _) => linux::Which::Named(part),
                (None, true) => linux::Which::All,
                (None, false) => linux::Which::Short,
            };
            linux::task(which, list, step::on_ci())
        }
        Task::Bench { name, part, json } => bench::task(name, part.as_deref(), json),
        Task::Fuzz { target, seconds } => fuzz::task(target.as_deref(), seconds),
        Task::Campaign { name, hours, seed, list } => {
            campaign::task(campaign::Options { filter: name.as_deref(), hours, seed, list })
        }
        Task::Deep { names, list } => deep::task(&names, list),
        Task::Floors => floors::task(),
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
