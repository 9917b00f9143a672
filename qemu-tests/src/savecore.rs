//! savecore, run as a user would: through its command line, with `--json`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::image::{DUMP, Disk};
use crate::process::{self, Output};

/// The targets of a subcommand.
pub trait Targets {
    /// The words for the command line.
    fn words(&self) -> Vec<OsString>;
}

/// The dump partition of a disk.
impl Targets for Disk {
    fn words(&self) -> Vec<OsString> {
        vec![self.path.clone().into(), "--partition".into(), DUMP.into()]
    }
}

/// The dump partitions of several disks.
impl Targets for [&Disk] {
    fn words(&self) -> Vec<OsString> {
        let paths = self.iter().map(|disk| disk.path.clone().into());
        paths.chain(["--partition".into(), DUMP.into()]).collect()
    }
}

/// A file that is itself a partition.
impl Targets for Path {
    fn words(&self) -> Vec<OsString> {
        vec![self.into()]
    }
}

/// A key pair made by savecore.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The file with the secret key.
    pub file: PathBuf,
    /// The public key, in the form for `format --recipient`.
    pub public: String,
}

impl Keys {
    /// The public key's 32 bytes, as 64 hexadecimal digits.
    pub fn digits(&self) -> &str {
        // They are followed by a checksum.
        self.public.split_once(':').and_then(|(_, digits)| digits.get(..64)).unwrap_or_default()
    }
}

/// The command, and the folder for its output.
#[derive(Debug)]
pub struct Savecore {
    program: PathBuf,
    folder: PathBuf,
    limit: Duration,
    count: AtomicUsize,
}

/// The result of a run of savecore.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code: 0 done, 1 a negative finding, 2 an error.
    pub code: i32,
    /// The JSON object that it printed; null if there is none.
    pub value: Value,
    /// Its standard error, on one line.
    pub errors: String,
    /// How long it ran.
    pub took: Duration,
    /// The file with its output.
    pub log: PathBuf,
}

impl Savecore {
    /// The command at `program`, with its output in `folder`, killed after `limit`.
    pub fn new(program: &Path, folder: &Path, limit: Duration) -> Savecore {
        Savecore {
            program: program.to_path_buf(),
            folder: folder.to_path_buf(),
            limit,
            count: AtomicUsize::new(0),
        }
    }

    /// The program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a subcommand.
    ///
    /// # Errors
    /// If it cannot be run, does not end, or is killed by a signal. An exit code is not an error here.
    pub fn run<T: Targets + ?Sized>(&self, subcommand: &str, on: &T, more: &[&str]) -> Result<Answer> {
        let mut command = self.command(subcommand);
        command.args(on.words()).arg("--json").args(more);
        let output = self.output(&mut command, subcommand)?;
        let Some(code) = output.status.code() else {
            bail!("savecore {subcommand} was killed ({}); log: {}", output.status, output.log.display());
        };
        let value = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
        let errors = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Answer { code, value, errors, took: output.took, log: output.log })
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(subcommand);
        command
    }

    /// Runs a command line, with its output under the subcommand's name.
    fn output(&self, command: &mut Command, subcommand: &str) -> Result<Output> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        process::run(command, self.limit, &self.folder.join(format!("savecore-{number}-{subcommand}.log")))
    }

    /// The human-readable output of a subcommand that succeeds.
    ///
    /// # Errors
    /// As for [`Savecore::run`]; also if it fails.
    pub fn tell<T: Targets + ?Sized>(&self, subcommand: &str, on: &T, more: &[&str]) -> Result<String> {
        let mut command = self.command(subcommand);
        command.args(on.words()).args(more);
        Ok(self.output(&mut command, subcommand)?.success(&format!("savecore {subcommand}"))?.stdout)
    }

    /// Makes a key pair, with the secret key in the file `name` of our folder.
    ///
    /// # Errors
    /// If savecore fails.
    pub fn keygen(&self, name: &str) -> Result<Keys> {
        let file = self.folder.join(name);
        let mut command = self.command("keygen");
        command.arg(&file);
        let output = self.output(&mut command, "keygen")?.success("savecore keygen")?;
        Ok(Keys { file, public: output.stdout.trim().to_owned() })
    }

    /// Runs a subcommand that must end with exit code `code`.
    ///
    /// # Errors
    /// As for [`Savecore::run`]; also if it ends with another one.
    pub fn expect<T: Targets + ?Sized>(
        &self,
        code: i32,
        subcommand: &str,
        on: &T,
        more: &[&str],
    ) -> Result<Answer> {
        let answer = self.run(subcommand, on, more)?;
        if answer.code != code {
            bail!(
                "savecore {subcommand} ended with {} instead of {code}: {} {}; log: {}",
                answer.code,
                answer.errors,
                answer.value,
                answer.log.display()
            );
        }
        Ok(answer)
    }

    /// Writes label and pattern.
    ///
    /// # Errors
    /// If savecore fails.
    pub fn format(&self, disk: &Disk) -> Result<Answer> {
        self.expect(0, "format", disk, &["--yes"])
    }

    /// The same, with encryption of dumps.
    ///
    /// # Errors
    /// If savecore fails.
    pub fn format_for(&self, disk: &Disk, keys: &Keys) -> Result<Answer> {
        self.expect(0, "format", disk, &["--yes", "--recipient", &keys.public])
    }

    /// Saves all dumps into the folder `into`; returns the core files, oldest first.
    ///
    /// # Errors
    /// If savecore fails, or does not report the paths of the cores.
    pub fn save(&self, disk: &Disk, into: &Path, keep: bool) -> Result<(Vec<PathBuf>, Answer)> {
        let (cores, answer) = self.save_from(disk, into, if keep { &["--keep"] } else { &[] })?;
        if cores.is_empty() {
            bail!("savecore save named no core file; log: {}", answer.log.display());
        }
        Ok((cores, answer))
    }

    /// Saves all dumps of all targets into the folder `into`; returns the core files, without dumps that have
    /// none.
    ///
    /// # Errors
    /// If savecore fails.
    pub fn save_from<T: Targets + ?Sized>(
        &self,
        on: &T,
        into: &Path,
        more: &[&str],
    ) -> Result<(Vec<PathBuf>, Answer)> {
        std::fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
        let mut words = vec!["-o", into.to_str().context("a folder whose name is not UTF-8")?];
        words.extend(more);
        let answer = self.expect(0, "save", on, &words)?;
        let dumps = answer.value.get("dumps").and_then(Value::as_array).into_iter().flatten();
        let cores = dumps.filter_map(|dump| dump.get("file")?.as_str().map(PathBuf::from)).collect();
        Ok((cores, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_what_stands_between_its_name_and_its_checksum() {
        let digits = "5a".repeat(32);
        let keys = Keys { file: PathBuf::new(), public: format!("diskdump-public:{digits}00c0ffee") };
        assert_eq!(keys.digits(), digits);
        assert_eq!(Keys { public: "nonsense".to_owned(), ..keys }.digits(), "");
    }
}
