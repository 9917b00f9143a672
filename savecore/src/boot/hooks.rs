//! Programs that run before and after saving dumps.
//!
//! No shell is involved, and no data of a dump is in the arguments or the environment: a hook gets all facts
//! as JSON on its standard input.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::Value;

use crate::text::harmless_json;

/// Interval for checking on a hook.
const PAUSE: Duration = Duration::from_millis(10);
/// Time for a hook to end after SIGTERM, and again after SIGKILL.
const GRACE: Duration = Duration::from_millis(500);

/// A program and its arguments.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Hook {
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl TryFrom<Vec<String>> for Hook {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Hook, String> {
        let mut words = words.into_iter();
        let Some(program) = words.next() else {
            return Err(
                "a hook is a program and its arguments, such as [\"/usr/bin/logger\", \"saved\"]".to_owned()
            );
        };
        if !program.starts_with('/') {
            return Err(format!("{program:?} is not an absolute path, which begins with /"));
        }
        Ok(Hook { program: program.into(), arguments: words.collect() })
    }
}

/// When a hook runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Before saving dumps.
    Pre,
    /// After saving dumps.
    Post,
}

impl Stage {
    /// Its name, in the configuration and in the hook's environment variable `SAVECORE_STAGE`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Pre => "pre",
            Stage::Post => "post",
        }
    }
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("the {stage} hook {program} cannot be started: {error}")]
    Start {
        /// The stage.
        stage: &'static str,
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// It reported a failure.
    #[error("the {stage} hook {program} failed: {status}")]
    Failed {
        /// The stage.
        stage: &'static str,
        /// The program.
        program: String,
        /// Its exit status.
        status: ExitStatus,
    },
    /// It took too long.
    #[error("the {stage} hook {program} did not finish in {} and was killed, with everything that it had started", seconds(*limit))]
    Late {
        /// The stage.
        stage: &'static str,
        /// The program.
        program: String,
        /// The time limit.
        limit: Duration,
    },
}

fn seconds(limit: Duration) -> String {
    match limit.as_secs() {
        0 => format!("{} ms", limit.as_millis()),
        1 => "1 second".to_owned(),
        seconds => format!("{seconds} seconds"),
    }
}

impl Hook {
    /// Runs it with `facts` on its standard input, and waits for at most `limit`: then it is killed with its
    /// whole process group. Its environment has `SAVECORE_STAGE` and `SAVECORE_STORE`.
    ///
    /// # Errors
    /// If it does not start, fails, or exceeds the limit.
    pub fn run(&self, stage: Stage, facts: &Value, store: &str, limit: Duration) -> Result<(), HookError> {
        let program = self.program.display().to_string();
        let mut child = self.start(stage, facts, store).map_err(|error| HookError::Start {
            stage: stage.name(),
            program: program.clone(),
            error,
        })?;
        let stage = stage.name();
        match ended(&mut child, limit) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(HookError::Failed { stage, program, status }),
            None => {
                kill(&mut child);
                Err(HookError::Late { stage, program, limit })
            }
        }
    }

    fn start(&self, stage: Stage, facts: &Value, store: &str) -> io::Result<Child> {
        // A file in memory, not a pipe: a hook that does not read its input blocks nobody.
        let mut input = File::from(memfd_create("savecore-facts", MemfdFlags::CLOEXEC)?);
        // Some hooks only log it.
        writeln!(input, "{}", harmless_json(&facts.to_string()))?;
        input.rewind()?;
        Command::new(&self.program)
            .args(&self.arguments)
            .env("SAVECORE_STAGE", stage.name())
            .env("SAVECORE_STORE", store)
            .current_dir("/")
            .stdin(input)
            .process_group(0)
            .spawn()
    }
}

/// Its exit status, if it ended in time.
fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        // A child that cannot be waited for is treated as late.
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < limit => sleep(PAUSE.min(limit)),
            _ => return None,
        }
    }
}

/// Terminates the process group, by force if necessary. A process that hangs in the kernel is left there.
fn kill(child: &mut Child) {
    let group = Pid::from_child(child);
    for signal in [Signal::TERM, Signal::KILL] {
        // The group may already be gone.
        let _ = kill_process_group(group, signal);
        if ended(child, GRACE).is_some() && signal == Signal::TERM {
            // Its children may have ignored the signal.
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn shell(script: &str, arguments: &[&str]) -> Hook {
        let words =
            ["/bin/sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied()).map(str::to_owned);
        Hook::try_from(words.collect::<Vec<_>>()).unwrap()
    }

    fn run(hook: &Hook, facts: &Value, limit: Duration) -> Result<(), HookError> {
        hook.run(Stage::Post, facts, "/var/crash", limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_hook_gets_the_facts_on_its_input_and_nothing_of_them_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let facts = json!({ "message": "$(reboot)\n; rm -rf / \u{1b}[2J" });
        let hook =
            shell("{ echo \"$SAVECORE_STAGE $SAVECORE_STORE $#\"; cat; } > \"$1\"", &[out.to_str().unwrap()]);
        run(&hook, &facts, LONG).unwrap();
        let text = fs::read_to_string(&out).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "post /var/crash 1");
        assert_eq!(serde_json::from_str::<Value>(rest).unwrap(), facts);
        assert_eq!(rest.lines().count(), 1);
    }

    #[test]
    fn a_hook_that_reads_nothing_of_much_input_is_not_waited_for() {
        let facts = json!("x".repeat(4 << 20));
        run(&shell("exit 0", &[]), &facts, LONG).unwrap();
    }

    #[test]
    fn a_hook_that_fails_or_is_not_there_is_told_of() {
        let error = run(&shell("exit 7", &[]), &Value::Null, LONG).unwrap_err().to_string();
        assert_eq!(error, "the post hook /bin/sh failed: exit status: 7");
        let hook = Hook { program: "/nonexistent/hook".into(), arguments: Vec::new() };
        let error = run(&hook, &Value::Null, LONG).unwrap_err().to_string();
        assert!(error.contains("cannot be started: No such file"), "{error}");
    }

    #[test]
    fn a_late_hook_is_killed_with_its_children_even_if_it_does_not_listen() {
        let folder = tempfile::tempdir().unwrap();
        for script in ["trap '' TERM; ", ""] {
            let pids = folder.path().join("pids");
            let script = format!("{script} sleep 1000 & echo $$ $! > \"$1\"; wait; sleep 1000");
            let begin = Instant::now();
            let hook = shell(&script, &[pids.to_str().unwrap()]);
            let error = run(&hook, &Value::Null, Duration::from_millis(1500)).unwrap_err();
            assert!(matches!(error, HookError::Late { .. }), "{error}");
            assert!(begin.elapsed() < Duration::from_secs(30));
            let pids = fs::read_to_string(&pids).unwrap();
            for pid in pids.split_whitespace() {
                // A killed child without a parent that waits may remain as a zombie.
                let alive = || {
                    let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
                    status.is_ok_and(|status| !status.contains("State:\tZ"))
                };
                let begin = Instant::now();
                while alive() {
                    assert!(begin.elapsed() < Duration::from_secs(30), "{pid} lives");
                    sleep(PAUSE);
                }
            }
        }
    }
}
