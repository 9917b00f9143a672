//! `savecore install` and `savecore uninstall`: install and remove the command, its units, pages and an
//! example configuration, and nothing else.

mod files;
mod record;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use savecore::boot::config;

use self::files::{Kind, files, remove_leftover};
use self::record::{Entry, Record};
use crate::finding::{Finding, printed};
use crate::output::{json, out, warning};

/// The record of installed files.
const RECORD: &str = "usr/local/lib/savecore/installed.json";
/// The units to enable.
pub(super) const UNITS: [&str; 2] = ["savecore.service", "savecore-later.path"];
/// The unit started by the path unit.
const LATER: &str = "savecore-later.service";

/// Install this command, its units, manual pages, completions and an example configuration
///
/// The files go below /usr/local, except the configuration, /etc/savecore.toml, which is never replaced once it was
/// changed. Every file that was written is listed.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Install below DIR, the root of another system
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Enable the units, and save waiting dumps at once
    #[arg(long, conflicts_with = "root")]
    now: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Disable the units and remove the files that `savecore install` wrote, and no others
///
/// A changed configuration stays, and so does every saved crash.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct UninstallArguments {
    /// Remove from below DIR, the root of another system
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  uninstall: a changed file was left in place, or nothing is installed
  2  error: a file cannot be written or removed, or another program's file is in the way; one line says which";

#[derive(Default, serde::Serialize)]
struct Done {
    /// Files written or removed.
    files: Vec<PathBuf>,
    /// Files left as they are because they were changed.
    kept: Vec<PathBuf>,
}

impl Done {
    fn print(&self, as_json: bool, verb: &str) -> anyhow::Result<()> {
        if as_json {
            return printed(json(self));
        }
        let lines = self.files.iter().map(|path| format!("{verb} {}\n", path.display())).collect::<String>();
        printed(out().write_all(lines.as_bytes()).map_err(anyhow::Error::from))
    }
}

pub(crate) fn run(arguments: &Arguments, cli: clap::Command) -> anyhow::Result<Finding> {
    let root = root(&arguments.root)?;
    let record_path = root.join(RECORD);
    within(&root, &record_path)?;
    let before = Record::read(&record_path)?;
    let files = files(&cli).context("cannot make the files")?;
    let mut record = Record::default();
    let mut todo = Vec::new();
    let mut kept = Vec::new();
    let mut done = Done::default();
    for file in &files {
        let path = root.join(&file.path);
        within(&root, &path)?;
        let entry = Entry::of(&file.path, &file.bytes);
        let known = before.find(Path::new(&file.path));
        let there = Entry::read(&file.path, &path)?;
        match there {
            Some(there) if there == entry => {
                // Unless an earlier run wrote it, it is not ours to remove.
                record.files.extend(known.cloned());
            }
            Some(there) if !before.wrote(&there) => {
                if known.is_none() && file.kind != Kind::Configuration {
                    bail!(
                        "{} is there already and is not from `savecore install`: move it away; nothing was changed",
                        path.display()
                    );
                }
                record.files.extend(known.cloned());
                kept.push((path, file.kind));
            }
            Some(there) => {
                record.replaced.push(there);
                todo.push((file, path, entry));
            }
            None => todo.push((file, path, entry)),
        }
    }
    record.directories = before.directories.clone();
    for path in todo.iter().map(|(_, path, _)| path).chain([&record_path]) {
        let missing = path.ancestors().skip(1).take_while(|directory| !directory.exists());
        for directory in missing {
            let name = directory.strip_prefix(&root).unwrap_or(directory).to_owned();
            if !record.directories.contains(&name) {
                record.directories.push(name);
            }
        }
    }
    record.files.extend(todo.iter().map(|(_, _, entry)| entry.clone()));
    // Files of an earlier version that are no longer needed.
    let gone: Vec<Entry> = before
        .files
        .iter()
        .filter(|old| files.iter().all(|file| old.path != Path::new(&file.path)))
        .cloned()
        .collect();
    record.files.extend(gone.iter().cloned());
    record.files.sort_by(|one, other| one.path.cmp(&other.path));
    // Written first, so that files of an interrupted run can be removed.
    record.write(&record_path)?;
    for (file, path, _) in todo {
        file.write(&path)?;
        done.files.push(path);
    }
    if !record.replaced.is_empty() {
        record.replaced.clear();
        record.write(&record_path)?;
    }
    for (path, kind) in kept {
        let next = match kind {
            Kind::Configuration => "`savecore boot` reads it",
            _ => "remove it, and `savecore install` puts its own there",
        };
        warning(&format!("{} was changed and stays as it is; {next}", path.display()));
        done.kept.push(path);
    }
    done.print(arguments.json, "installed")?;
    if arguments.now {
        systemctl(["daemon-reload"])?;
        // Otherwise udev notices new rules only after some seconds.
        tried(command("udevadm", ["control", "--reload"]));
        command("systemd-tmpfiles", ["--create", "savecore.conf"])?;
        systemctl([&["enable", "--now"], &UNITS[..]].concat())?;
    } else if !arguments.json && root == Path::new("/") {
        let hint = format!(
            "next: edit /{}, prove it with `savecore drill`, then `systemctl daemon-reload && systemctl enable --now {}`\n",
            config::PATH.trim_start_matches('/'),
            UNITS.join(" ")
        );
        printed(out().write_all(hint.as_bytes()).map_err(anyhow::Error::from))?;
    }
    Ok(Finding::Good)
}

pub(crate) fn uninstall(arguments: &UninstallArguments) -> anyhow::Result<Finding> {
    let root = root(&arguments.root)?;
    let record_path = root.join(RECORD);
    within(&root, &record_path)?;
    let record = Record::read(&record_path)?;
    let mut done = Done::default();
    if record.files.is_empty() {
        warning(&format!("nothing is installed: there is no {}", record_path.display()));
        done.print(arguments.json, "removed")?;
        return Ok(Finding::Negative);
    }
    for name in record.files.iter().map(|entry| &entry.path).chain(&record.directories) {
        within(&root, &root.join(name))?;
    }
    // Only a running systemd has units to disable (sd_booted(3)).
    let has_systemd = root == Path::new("/") && Path::new("/run/systemd/system").is_dir();
    if has_systemd {
        tried(systemctl([&["disable", "--now"], &UNITS[..]].concat()));
        // Only the path unit starts it; it may be running.
        tried(systemctl(["stop", LATER]));
    }
    for entry in &record.files {
        let path = root.join(&entry.path);
        remove_leftover(&path);
        match Entry::read(&entry.path, &path)? {
            None => {}
            Some(there) if record.wrote(&there) => {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                done.files.push(path);
            }
            Some(_) => {
                warning(&format!("{} was changed since it was installed, and is left", path.display()));
                done.kept.push(path);
            }
        }
    }
    remove_leftover(&record_path);
    std::fs::remove_file(&record_path).with_context(|| format!("cannot remove {}", record_path.display()))?;
    done.files.push(record_path);
    let mut directories = record.directories;
    // Innermost first. A folder that is not empty is in use.
    directories.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for directory in directories {
        let _ = std::fs::remove_dir(root.join(directory));
    }
    if has_systemd {
        tried(systemctl(["daemon-reload"]));
        tried(command("udevadm", ["control", "--reload"]));
    }
    done.print(arguments.json, "removed")?;
    Ok(if done.kept.is_empty() { Finding::Good } else { Finding::Negative })
}

/// The canonical path of the root.
fn root(root: &Path) -> anyhow::Result<PathBuf> {
    root.canonicalize().with_context(|| format!("cannot use {} as a root", root.display()))
}

/// Refuses a path that a link leads out of the root.
fn within(root: &Path, path: &Path) -> anyhow::Result<()> {
    let real = path.ancestors().skip(1).find_map(|directory| directory.canonicalize().ok());
    if real.is_some_and(|real| real.starts_with(root)) {
        return Ok(());
    }
    bail!(
        "{} leads out of {}: a link there has to be relative; nothing was changed",
        path.display(),
        root.display()
    );
}

/// Warns about a failure, but does not stop the removal.
fn tried(result: anyhow::Result<()>) {
    if let Err(error) = result {
        warning(&format!("{error:#}"));
    }
}

fn systemctl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<()> {
    command("systemctl", arguments)
}

fn command<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let output = command.output().with_context(|| format!("cannot run {program} {words}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    bail!("{program} {words} failed: {}", savecore::text::harmless(why.trim()))
}
