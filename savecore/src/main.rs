//! The `savecore` command: parses arguments, runs one of [`command`]'s subcommands, returns an exit code.

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

/// Saves crash dumps from dump partitions, and prepares partitions for them.
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

/// The arguments, for generating pages and completions.
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

/// Help and version are printed unchanged; an error becomes one line.
fn bad_arguments(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is not a failure here either.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            output::error(
                "no command given: keygen, format, adopt, list, check, info, report, save, clear, arm, disarm, armed, boot, drill, install or uninstall; see `savecore --help`",
            );
            ExitCode::from(2)
        }
        _ => {
            let text = error.render().to_string();
            let head = text.split("\n\n").next().unwrap_or_default();
            let head = head.strip_prefix("error: ").unwrap_or(head);
            output::error(&format!("{}; see `savecore --help`", one_line(head)));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// The documents in a folder and its subfolders.
    fn documents(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let files = files.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "md"));
        files.chain(folders.iter().flat_map(|folder| documents(folder))).collect()
    }

    /// The savecore commands in a document's shell blocks, as words.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let mut inside = false;
        let mut found = Vec::new();
        for line in text.lines() {
            if line.starts_with("```") {
                inside = line == "```sh";
                continue;
            }
            let code = line.split(" #").next().unwrap_or_default();
            let commands = code.split("&&").flat_map(|part| part.split(';')).map(str::trim);
            for command in commands.filter(|command| inside && command.starts_with("savecore ")) {
                let command = command.split(['>', '|']).next().unwrap_or_default();
                found.push(command.split_whitespace().map(str::to_owned).collect());
            }
        }
        found
    }

    #[test]
    fn commands_are_found_in_shell_blocks() {
        let text = "savecore a\n```sh\nx && savecore b c > d   # e\nother\n```\n```text\nsavecore f\n```\n";
        assert_eq!(commands(text), [["savecore", "b", "c"]]);
    }

    #[test]
    fn the_documents_show_commands_that_savecore_takes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        // A published crate comes without the documents.
        if !root.join("docs/book.toml").exists() {
            return;
        }
        let outside = [root.join("README.md"), root.join("linux/README.md")];
        let mut tried = 0;
        for path in documents(&root.join("docs/src")).into_iter().chain(outside) {
            for words in commands(&fs::read_to_string(&path).unwrap()) {
                let result = Cli::try_parse_from(&words).map(|_| ());
                assert!(result.is_ok(), "{}: {}: {result:?}", path.display(), words.join(" "));
                tried += 1;
            }
        }
        assert!(tried > 20, "{tried}");
    }
}
