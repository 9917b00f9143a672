//! Child processes that cannot outlive us: they have a deadline, and die with the parent.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a child or a log is polled.
pub const LOOK_EVERY: Duration = Duration::from_millis(4);

/// A running child, killed when dropped.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts `command`; the child is killed when the calling thread ends, for whatever reason.
    ///
    /// # Errors
    /// If the program cannot be started; the error names it.
    pub fn start(command: &mut Command) -> Result<Guarded> {
        // SAFETY: between fork and exec, only an async-signal-safe system call (prctl) is made, without
        // allocation.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                    .map_err(Into::into)
            });
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {program}; `cargo xtask setup` installs it"))?;
        Ok(Guarded(child))
    }

    /// The exit status, if the child has ended.
    ///
    /// # Errors
    /// If the system does not provide it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("cannot ask for the state of a child process")
    }

    /// Waits for the end until `deadline`; `None` if it is still running then.
    ///
    /// # Errors
    /// As for [`Guarded::ended`].
    pub fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Kills the child now.
    pub fn kill(&mut self) {
        // Both only fail if the child has already ended, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The result of a finished program.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output, with invalid UTF-8 replaced.
    pub stdout: String,
    /// Its standard error, with invalid UTF-8 replaced.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
    /// The file with its standard output; standard error is in `<log>.err`.
    pub log: PathBuf,
}

impl Output {
    /// The output if the program ended with exit code 0.
    ///
    /// Otherwise, with its last line and the path of its log.
    /// Otherwise, with the last line that it said and the place of its log.
    pub fn success(self, what: &str) -> Result<Output> {
        if self.status.success() {
            return Ok(self);
        }
        let said = last_line(&self.stderr).or_else(|| last_line(&self.stdout)).unwrap_or("nothing was said");
        bail!("{what} failed ({}): {said}; log: {}", self.status, self.log.display())
    }
}

/// The last non-empty line.
fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
}

/// Runs a program to its end, with its output in `log` and `log.err`.
///
/// # Errors
/// If it cannot be started, or is still running after `limit`; then it is killed.
pub fn run(command: &mut Command, limit: Duration, log: &Path) -> Result<Output> {
    let errors = log.with_added_extension("err");
    let program = command.get_program().to_string_lossy().into_owned();
    let make = |path: &Path| File::create(path).with_context(|| format!("cannot create {}", path.display()));
    command.stdin(Stdio::null()).stdout(make(log)?).stderr(make(&errors)?);
    let begin = Instant::now();
    let mut child = Guarded::start(command)?;
    let Some(status) = child.wait(begin + limit)? else {
        bail!(
            "{program} was still running after {} s and was killed; log: {}",
            limit.as_secs(),
            log.display()
        );
    };
    let text = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Output {
        status,
        stdout: text(log)?,
        stderr: text(&errors)?,
        took: begin.elapsed(),
        log: log.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_at_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let begin = Instant::now();
        let error =
            run(Command::new("sleep").arg("60"), Duration::from_millis(100), &folder.path().join("log"))
                .unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().contains("still running"), "{error}");
    }

    #[test]
    fn a_dropped_child_is_dead() {
        let child = Guarded::start(Command::new("sleep").arg("60")).unwrap();
        let status = format!("/proc/{}/stat", child.0.id());
        assert!(Path::new(&status).exists());
        drop(child);
        assert!(!Path::new(&status).exists());
    }

    #[test]
    fn a_failure_names_the_last_line_and_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let output = run(
            Command::new("sh").args(["-c", "echo first; echo why >&2; exit 3"]),
            Duration::from_secs(10),
            &log,
        )
        .unwrap();
        assert_eq!(output.stdout, "first\n");
        let error = output.success("the script").unwrap_err().to_string();
        assert!(error.contains("why") && error.contains(log.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Guarded::start(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }
}
