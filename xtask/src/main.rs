//! `cargo xtask`: the project's tasks, one file each.

mod arguments;
mod bench;
mod book;
mod build;
mod campaign;
mod crash_path;
mod deb;
mod deep;
mod demo;
mod error;
mod everything;
mod exercise;
mod floors;
mod folders;
mod fuzz;
mod licences;
mod linux;
mod long_files;
mod loops;
mod packages;
mod panic_free;
mod parameters;
mod qemu;
mod readers;
mod setup;
mod step;
mod test;
mod toolchain;
mod ui;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::{Arguments, Task};
pub(crate) use error::CannotBegin;

/// Help is printed unchanged; a bad argument becomes one line.
fn bad_arguments(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            // A closed pipe is not a failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            ui::error(
                "no task given: setup, demo, test, qemu, readers, linux, bench, fuzz, campaign, deep, floors, book, packages, deb or ci; see `cargo xtask --help`",
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
        Task::Book { write } => book::task(write),
        Task::Packages { tools } => packages::task(tools),
        Task::Floors => floors::task(),
        Task::Exercise => exercise::task(),
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
