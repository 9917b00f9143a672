//! The `savecore` command: arguments in, one of [`command`]'s subcommands, an exit code out.

mod command;
mod finding;
mod output;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use command::{
    adopt, arm, boot, check, clear, completions, drill, format, info, install, keygen, list, man, probe,
    report, save,
};
use finding::{EXIT_CODES, one_line};

/// Harvests crash dumps from a dump partition, and makes partitions ready for them.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Keygen(keygen::Arguments),
    Format(format::Arguments),
    Adopt(adopt::Arguments),
    List(list::Arguments),
    Check(check::Arguments),
    Info(info::Arguments),
    Report(report::Arguments),
    Save(save::Arguments),
    Clear(clear::Arguments),
    Arm(arm::Arguments),
    Disarm(arm::DisarmArguments),
    Armed(arm::ArmedArguments),
    Boot(boot::Arguments),
    Drill(drill::Arguments),
    Install(install::Arguments),
    Uninstall(install::UninstallArguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
    #[command(hide = true)]
    Probe(probe::Arguments),
}

/// The arguments, as pages and completions are made of them.
fn cli() -> clap::Command {
    Cli::command()
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(arguments) => arguments.command,
        Err(error) => return bad_arguments(&error),
    };
    let result = match command {
        Command::Keygen(arguments) => keygen::run(&arguments),
        Command::Format(arguments) => format::run(&arguments),
        Command::Adopt(arguments) => adopt::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Save(arguments) => save::run(&arguments),
        Command::Clear(arguments) => clear::run(&arguments),
        Command::Arm(arguments) => arm::run(&arguments),
        Command::Disarm(arguments) => arm::disarm(&arguments),
        Command::Armed(arguments) => arm::armed(&arguments),
        Command::Boot(arguments) => boot::run(&arguments),
        Command::Drill(arguments) => drill::run(&arguments),
        Command::Install(arguments) => install::run(&arguments, cli()),
        Command::Uninstall(arguments) => install::uninstall(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, cli()),
        Command::Man(arguments) => man::run(&arguments, cli()),
        Command::Probe(arguments) => probe::run(&arguments),
    };
    match result {
        Ok(finding) => ExitCode::from(finding.code()),
        Err(error) => {
            output::error(&one_line(&format!("{error:#}")));
            ExitCode::from(2)
        }
    }
}

/// Help and version go out as they are; an error becomes one line.
fn bad_arguments(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no failure here either.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            output::error(
                "say what to do: keygen, format, list, check, info, report, save, clear, adopt, arm, boot, drill or install; `savecore --help` tells more",
            );
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            let head = text.split("\n\n").next().unwrap_or_default();
            let head = head.strip_prefix("error: ").unwrap_or(head);
            output::error(&format!("{}; `savecore --help` tells more", one_line(head)));
            ExitCode::from(2)
        }
    }
}
