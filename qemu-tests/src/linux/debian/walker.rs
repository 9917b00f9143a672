//! What every part of the walk is made of: commands that are typed and judged, crashes, and what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::console::{Console, Said};
use super::guide::Guide;

/// A step that was done, or that failed.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is.
    pub what: String,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// A partition that no machine has.
pub(super) const DEAD: &str = "PARTUUID=00000000-0000-0000-0000-00000000dead";

/// The guide's command that crashes the machine.
pub(super) const CRASH: &str = "sync; echo c >/proc/sysrq-trigger";

/// What a command takes longer for hangs: under TCG, beside others.
pub(super) const LIMIT: Duration = Duration::from_secs(180);
/// What apt and DKMS take.
pub(super) const APT_LIMIT: Duration = Duration::from_secs(1500);
/// A dump, and the way to it.
const CRASH_LIMIT: Duration = Duration::from_secs(240);

/// What a command has to end with, and say.
pub(super) struct Expected<'e> {
    pub(super) code: i32,
    pub(super) says: &'e [&'e str],
    pub(super) limit: Duration,
}

/// Ends with 0, whatever it says.
pub(super) const GOOD: Expected<'static> = Expected { code: 0, says: &[], limit: LIMIT };

/// What the machine does when the dump has reset it.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// It comes up again.
    ComesUp,
    /// Its QEMU ends.
    Ends,
}

/// A walk that goes on.
pub(super) struct Walk<'w> {
    pub(super) guide: Guide,
    pub(super) console: Console,
    pub(super) done: &'w mut dyn FnMut(&Step),
    pub(super) failed: Vec<String>,
    pub(super) passed_over: Vec<String>,
    pub(super) steps: u32,
}

impl Walk<'_> {
    /// Tells of a step.
    pub(super) fn tell(&mut self, what: &str, took: Duration, failed: Option<String>) {
        self.steps += 1;
        if let Some(why) = &failed {
            self.failed.push(format!("{what}: {why}"));
        }
        (self.done)(&Step { what: what.to_owned(), took, failed });
    }

    /// Looks whether a command did what it should.
    pub(super) fn judge(&mut self, what: &str, said: &Said, expected: &Expected<'_>) {
        let mut why = None;
        if said.code != expected.code {
            why = Some(format!("it ended with {} instead of {}: {}", said.code, expected.code, said.end()));
        } else if let Some(part) = expected.says.iter().find(|part| !said.text.contains(**part)) {
            why = Some(format!("it did not say `{part}`: {}", said.end()));
        }
        self.tell(what, said.took, why);
    }

    /// Notes what this machine has nothing to try on; it is among the facts at the end.
    pub(super) fn pass_over(&mut self, what: &str) {
        self.passed_over.push(what.to_owned());
    }

    /// Types a command.
    pub(super) fn run(&mut self, what: &str, command: &str, expected: &Expected<'_>) -> Result<Said> {
        let said = self.console.run(command, expected.limit)?;
        self.judge(what, &said, expected);
        Ok(said)
    }

    /// Types a command of the guide, with what this machine puts in place of the guide's examples.
    pub(super) fn by_guide(
        &mut self,
        beginning: &str,
        places: &[(&str, &str)],
        expected: &Expected<'_>,
    ) -> Result<Said> {
        let command = self.guide.command(beginning, places)?;
        self.run(&format!("guide: {}", short(&command)), &command, expected)
    }

    /// Crashes the machine, with the guide's command, and waits until it has reset itself. Whether the dump is whole is
    /// for the harvest to judge: a console on which userspace wrote a moment ago may lose or double a letter.
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

    /// After a start: waits until what runs at boot has run.
    pub(super) fn come_up(&mut self, what: &str, log_in: bool) -> Result<()> {
        let begin = Instant::now();
        if log_in {
            self.console.log_in()?;
        }
        // `degraded` is for the steps to judge.
        self.console.run("systemctl is-system-running --wait", Duration::from_secs(600))?;
        self.tell(what, begin.elapsed(), None);
        Ok(())
    }

    /// So many crashes are kept, all whole, and the kernel is armed on these.
    pub(super) fn harvested(&mut self, crashes: u32, targets: &[&str]) -> Result<()> {
        let what = format!("units: crash {crashes} is saved");
        let command = format!(
            "test $(ls -d /var/crash/pelican-*/vmcore.elf | wc -l) = {crashes} && test -s /var/crash/latest/vmcore.elf && \
             test ! -e /run/savecore/later"
        );
        self.eventually(&what, &command)?;
        self.armed("units: armed again", targets)
    }

    /// The kernel is armed, on these.
    pub(super) fn armed(&mut self, what: &str, targets: &[&str]) -> Result<()> {
        let mut command = "savecore armed".to_owned();
        for target in targets {
            command.push_str(&format!(" && savecore armed | grep -qF {target}"));
        }
        self.eventually(what, &command)
    }

    /// Waits until a command ends with 0; if it does not, that is a step that failed, and the walk goes on.
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

    /// What a command prints, on one line.
    pub(super) fn ask(&mut self, command: &str) -> Result<String> {
        let said = self.console.run(command, LIMIT)?;
        ensure!(said.code == 0, "`{command}` ended with {}: {}", said.code, said.end());
        Ok(said.text.lines().last().unwrap_or_default().trim().to_owned())
    }
}

/// The beginning of a command.
pub(super) fn short(command: &str) -> String {
    let command = command.split("  #").next().unwrap_or_default().trim();
    let cut: String = command.chars().take(60).collect();
    if cut.len() < command.len() { format!("{cut}…") } else { cut }
}

impl Said {
    /// Its last lines, in one.
    pub(super) fn end(&self) -> String {
        let lines: Vec<&str> = self.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default();
        if last.is_empty() { "it said nothing".to_owned() } else { last.join(" / ") }
    }
}
