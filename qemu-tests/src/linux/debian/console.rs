//! The serial console of a Debian: types commands and gets their exit codes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::machine::{Machine, Running};

/// How long a machine may take to boot: under TCG, with another one running.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// How often the first line is typed again: the login program discards input that comes too early.
const AGAIN: Duration = Duration::from_secs(5);

/// The result of a command.
#[derive(Debug)]
pub(super) struct Said {
    /// Its exit code.
    pub(super) code: i32,
    /// Its output, including kernel messages in between.
    pub(super) text: String,
    /// How long it took.
    pub(super) took: Duration,
}

/// The console of a booted machine.
#[derive(Debug)]
pub(super) struct Console {
    pub(super) running: Running,
    number: u32,
}

impl Console {
    /// Starts the machine and waits until it accepts commands. Its log is `serial-NAME.log` in `folder`.
    ///
    /// # Errors
    /// If it does not boot in time.
    pub(super) fn start(machine: &Machine, folder: &Path, name: &str) -> Result<Console> {
        let mut console = Console { running: machine.start(folder, name)?, number: 0 };
        console.log_in()?;
        Ok(console)
    }

    /// Waits until the machine has booted, and sets its console up so that only commands print.
    pub(super) fn log_in(&mut self) -> Result<()> {
        self.running.wait_for("(automatic login)", BOOT_LIMIT)?;
        let deadline = Instant::now() + BOOT_LIMIT;
        self.number += 1;
        // The text waited for differs from the text typed, which the terminal may echo.
        let ready = format!("walk: {} ready", self.number);
        let typed = format!(
            "stty -echo; exec bash -c 'printf \"walk: %s ready\\n\" {}; exec env TERM=dumb PAGER=cat PS1= PS2= bash --noediting --norc'",
            self.number
        );
        loop {
            self.running.type_line(&typed)?;
            match self.running.wait_for(&ready, AGAIN) {
                Ok(_) => break,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Types a command and waits until it ends.
    ///
    /// # Errors
    /// If it does not end in time.
    pub(super) fn run(&mut self, command: &str, limit: Duration) -> Result<Said> {
        self.answer(command, &[], limit)
    }

    /// The same for an interactive command: for each question, given by a part of it, the answer to type.
    pub(super) fn answer(
        &mut self,
        command: &str,
        answers: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Said> {
        let begin = Instant::now();
        let first = self.running.serial.lines().len();
        self.begin(command)?;
        for (question, answer) in answers {
            self.running.wait_for(question, limit).with_context(|| format!("`{command}` did not ask"))?;
            self.running.type_line(answer)?;
        }
        let mark = format!("walk: {} ended ", self.number);
        let code = loop {
            let line =
                self.running.wait_for(&mark, limit).with_context(|| format!("`{command}` did not end"))?;
            if let Some(code) = line.text.split_once(&mark).and_then(|(_, codes)| exit_code(codes)) {
                break code;
            }
        };
        let lines = self.running.serial.lines().iter().skip(first);
        let text: Vec<&str> =
            lines.map(|line| line.text.as_str()).filter(|line| !line.contains("walk: ")).collect();
        Ok(Said { code, text: text.join("\n"), took: begin.elapsed() })
    }

    /// Types a command that does not return.
    pub(super) fn begin(&mut self, command: &str) -> Result<()> {
        self.number += 1;
        let quoted = command.replace('\'', "'\\''");
        ensure!(quoted.len() < 3800, "`{command}` is longer than a terminal's line");
        let number = self.number;
        // A serial console may double or lose a character. So the line that ends a command is printed twice, and the
        // code is in it twice.
        self.running.type_line(&format!(
            "eval '{quoted}'; ended=$?; printf 'walk: %s ended %s %s\\n' {number} $ended $ended {number} $ended $ended"
        ))
    }

    /// Powers the machine off.
    pub(super) fn power_off(&mut self, limit: Duration) -> Result<()> {
        self.begin("poweroff")?;
        self.running.wait_exit(limit).map(|_| ())
    }

    /// Its log.
    pub(super) fn log(&self) -> PathBuf {
        self.running.serial.path().to_path_buf()
    }
}

/// The exit code after a command's mark; `None` if the two copies of it differ.
fn exit_code(codes: &str) -> Option<i32> {
    let (first, second) = codes.trim().split_once(' ')?;
    (first == second).then(|| first.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_with_a_doubled_or_lost_character_is_not_taken() {
        assert_eq!(exit_code("0 0\r"), Some(0));
        assert_eq!(exit_code("127 127"), Some(127));
        for harmed in ["", "0", "00 0", "1 11", "12 1", "00", "0  0", "0 0 0", "a a"] {
            assert_eq!(exit_code(harmed), None, "{harmed}");
        }
    }
}
