//! The building blocks of the steps: typed and judged commands, crashes, and waiting.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::console::{Console, Said};
use super::guide::Guide;

/// A finished or failed step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub what: String,
    /// Its duration.
    pub took: Duration,
    /// The reason, if it failed.
    pub failed: Option<String>,
}

/// A partition that does not exist on any machine.
pub(super) const DEAD: &str = "PARTUUID=00000000-0000-0000-0000-00000000dead";

/// The guide's command that crashes the machine.
pub(super) const CRASH: &str = "sync; echo c >/proc/sysrq-trigger";

/// Any command that takes longer hangs: under TCG, with other machines running.
pub(super) const LIMIT: Duration = Duration::from_secs(180);
/// The limit for apt and DKMS.
pub(super) const APT_LIMIT: Duration = Duration::from_secs(1500);
/// The limit for a dump, including the way there.
const CRASH_LIMIT: Duration = Duration::from_secs(240);

/// A command's expected exit code and output.
pub(super) struct Expected<'e> {
    pub(super) code: i32,
    pub(super) says: &'e [&'e str],
    pub(super) limit: Duration,
}

/// Exit code 0, any output.
pub(super) const GOOD: Expected<'static> = Expected { code: 0, says: &[], limit: LIMIT };

/// What the machine does after the dump has reset it.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// It boots again.
    ComesUp,
    /// Its QEMU exits.
    Ends,
}

/// A run through the guide.
pub(super) struct Walk<'w> {
    pub(super) guide: Guide,
    pub(super) console: Console,
    pub(super) done: &'w mut dyn FnMut(&Step),
    pub(super) failed: Vec<String>,
    pub(super) passed_over: Vec<String>,
    pub(super) steps: u32,
}

impl Walk<'_> {
    /// Reports a step.
    pub(super) fn tell(&mut self, what: &str, took: Duration, failed: Option<String>) {
        self.steps += 1;
        if let Some(why) = &failed {
            self.failed.push(format!("{what}: {why}"));
        }
        (self.done)(&Step { what: what.to_owned(), took, failed });
    }

    /// Checks a command's result.
    pub(super) fn judge(&mut self, what: &str, said: &Said, expected: &Expected<'_>) {
        let mut why = None;
        if said.code != expected.code {
            why = Some(format!("it ended with {} instead of {}: {}", said.code, expected.code, said.end()));
        } else if let Some(part) = expected.says.iter().find(|part| !said.text.contains(**part)) {
            why = Some(format!("it did not say `{part}`: {}", said.end()));
        }
        self.tell(what, said.took, why);
    }

    /// Records a step that is not possible on this machine; it is listed among the facts at the end.
    pub(super) fn pass_over(&mut self, what: &str) {
        self.passed_over.push(what.to_owned());
    }

    /// Types a command.
    pub(super) fn run(&mut self, what: &str, command: &str, expected: &Expected<'_>) -> Result<Said> {
        let said = self.console.run(command, expected.limit)?;
        self.judge(what, &said, expected);
        Ok(said)
    }

    /// Types a command of the guide, with this machine's values in place of the guide's examples.
    pub(super) fn by_guide(
        &mut self,
        beginning: &str,
        places: &[(&str, &str)],
        expected: &Expected<'_>,
    ) -> Result<Said> {
        let command = self.guide.command(beginning, places)?;
        self.run(&format!("guide: {}", short(&command)), &command, expected)
    }

    /// Crashes the machine with the guide's command, and waits until it has reset itself. The harvest judges
    /// whether the dump is complete: a console that userspace has just written to may lose or duplicate a
    /// letter.
    pub(super) fn crash(&mut self, what: &str, then: Then) -> Result<()> {
        let begin = Instant::now();
        let command = self.guide.command(CRASH, &[])?;
        let running = &mut self.console.running;
        match then {
            Then::ComesUp => running.qmp.forget_events()?,
            Then::Ends => running.qmp.end_at_reset()?,
        }
        self.console.begin(&command)?;
        let running = &mut self.console.running;
        let over = match then {
            Then::ComesUp => running.qmp.event("RESET", CRASH_LIMIT).map(|_| ()),
            Then::Ends => running.wait_exit(CRASH_LIMIT).map(|_| ()),
        };
        running.serial.update()?;
        over.with_context(|| {
            format!("{what}: no reset; the console's last line: `{}`", running.serial.last())
        })?;
        self.tell(what, begin.elapsed(), None);
        Ok(())
    }

    /// After a boot: waits until all boot-time units have run.
    pub(super) fn come_up(&mut self, what: &str, log_in: bool) -> Result<()> {
        let begin = Instant::now();
        if log_in {
            self.console.log_in()?;
        }
        // The steps themselves judge a `degraded` state.
        self.console.run("systemctl is-system-running --wait", Duration::from_secs(600))?;
        self.tell(what, begin.elapsed(), None);
        Ok(())
    }

    /// Checks that this many crashes are kept, all complete, and that the kernel is armed on these targets.
    pub(super) fn harvested(&mut self, crashes: u32, targets: &[&str]) -> Result<()> {
        let what = format!("units: crash {crashes} is saved");
        let command = format!(
            "test $(ls -d /var/crash/pelican-*/vmcore.elf | wc -l) = {crashes} && test -s /var/crash/latest/vmcore.elf && \
             test ! -e /run/savecore/later"
        );
        self.eventually(&what, &command)?;
        self.armed("units: armed again", targets)
    }

    /// Checks that the kernel is armed on these targets.
    pub(super) fn armed(&mut self, what: &str, targets: &[&str]) -> Result<()> {
        let mut command = "savecore armed".to_owned();
        for target in targets {
            command.push_str(&format!(" && savecore armed | grep -qF {target}"));
        }
        self.eventually(what, &command)
    }

    /// Waits until a command succeeds; if it does not, the step has failed, and the run continues.
    pub(super) fn eventually(&mut self, what: &str, command: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let said = self.console.run(command, LIMIT)?;
            if said.code == 0 || begin.elapsed() > LIMIT {
                let why = (said.code != 0).then(|| format!("after {} s: {}", LIMIT.as_secs(), said.end()));
                self.tell(what, begin.elapsed(), why);
                return Ok(());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// The output of a command that prints one line, and prints it again when it runs again: until it was the same
    /// twice, because the console may double or lose a character.
    pub(super) fn ask(&mut self, command: &str) -> Result<String> {
        let mut before = None;
        for _ in 0..5 {
            let said = self.console.run(command, LIMIT)?;
            ensure!(said.code == 0, "`{command}` ended with {}: {}", said.code, said.end());
            let line = said.text.lines().last().unwrap_or_default().trim().to_owned();
            if before.as_ref() == Some(&line) {
                return Ok(line);
            }
            before = Some(line);
        }
        bail!("`{command}` printed another line each time, at last {before:?}")
    }
}

/// The beginning of a command.
pub(super) fn short(command: &str) -> String {
    let command = command.split("  #").next().unwrap_or_default().trim();
    let cut: String = command.chars().take(60).collect();
    if cut.len() < command.len() { format!("{cut}…") } else { cut }
}

impl Said {
    /// Its last lines, joined.
    pub(super) fn end(&self) -> String {
        let lines: Vec<&str> = self.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default();
        if last.is_empty() { "it said nothing".to_owned() } else { last.join(" / ") }
    }
}
