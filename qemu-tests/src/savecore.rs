//! savecore, run as a person runs it: by its command line, with `--json`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::image::{DUMP, Disk};
use crate::process;

/// The command, and where its output is kept.
#[derive(Debug)]
pub struct Savecore {
    program: PathBuf,
    folder: PathBuf,
    limit: Duration,
    count: AtomicUsize,
}

/// What savecore said.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code: 0 done, 1 a negative finding, 2 an error.
    pub code: i32,
    /// The object that it printed; null if it printed none.
    pub value: Value,
    /// Its standard error, in one line.
    pub errors: String,
    /// How long it ran.
    pub took: Duration,
    /// Where its output is kept.
    pub log: PathBuf,
}

impl Savecore {
    /// The command at `program`, its output kept in `folder`, killed after `limit`.
    pub fn new(program: &Path, folder: &Path, limit: Duration) -> Savecore {
        Savecore {
            program: program.to_path_buf(),
            folder: folder.to_path_buf(),
            limit,
            count: AtomicUsize::new(0),
        }
    }

    /// Runs a subcommand over the dump partition of a disk.
    ///
    /// # Errors
    /// If it cannot be run, does not end, or is killed by a signal. An exit code is not an error here.
    pub fn run(&self, subcommand: &str, disk: &Disk, more: &[&str]) -> Result<Answer> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.join(format!("savecore-{number}-{subcommand}.log"));
        let mut command = Command::new(&self.program);
        command.arg(subcommand).arg(&disk.path).args(["--partition", DUMP, "--json"]).args(more);
        let output = process::run(&mut command, self.limit, &log)?;
        let Some(code) = output.status.code() else {
            bail!("savecore {subcommand} was killed ({}); log: {}", output.status, log.display());
        };
        let value = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
        let errors = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Answer { code, value, errors, took: output.took, log })
    }

    /// Runs a subcommand that must end with exit code `code`.
    ///
    /// # Errors
    /// As [`Savecore::run`], or if it ends with another one.
    pub fn expect(&self, code: i32, subcommand: &str, disk: &Disk, more: &[&str]) -> Result<Answer> {
        let answer = self.run(subcommand, disk, more)?;
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

    /// Lays label and pattern.
    ///
    /// # Errors
    /// If savecore fails.
    pub fn format(&self, disk: &Disk) -> Result<Answer> {
        self.expect(0, "format", disk, &["--yes"])
    }

    /// Saves all dumps into the folder `into`; gives the core files, oldest first.
    ///
    /// # Errors
    /// If savecore fails, or does not say where it put the cores.
    pub fn save(&self, disk: &Disk, into: &Path, keep: bool) -> Result<(Vec<PathBuf>, Answer)> {
        std::fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
        let folder = into.to_str().context("a folder whose name is not UTF-8")?;
        let mut more = vec!["-o", folder];
        more.extend(keep.then_some("--keep"));
        let answer = self.expect(0, "save", disk, &more)?;
        let cores: Vec<PathBuf> = answer
            .value
            .get("dumps")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|dump| dump.get("file")?.as_str().map(PathBuf::from))
            .collect();
        if cores.is_empty() {
            bail!("savecore save named no core file; log: {}", answer.log.display());
        }
        Ok((cores, answer))
    }
}
