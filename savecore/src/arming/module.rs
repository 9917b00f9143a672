//! The sysfs interface of the kernel's diskdump module.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::error::ArmError;
use super::missing;
use super::system::System;
use crate::ownership::Owner;
use crate::source::{MODULE, read_text, write_text};
use crate::text::harmless_line;

/// Whether a crash would be dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No.
    Disarmed,
    /// Yes.
    Armed,
    /// No: the last arming was refused, or rearming failed after memory or a CPU was added or removed.
    Refused,
}

/// The module's status: names and values, in its order. A name may occur more than once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Status(pub Vec<(String, String)>);

impl Status {
    fn parse(text: &str) -> Status {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Status(lines.map(|(key, value)| (harmless_line(key.trim()), harmless_line(value.trim()))).collect())
    }

    /// All values of a name.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a name, unless it is missing or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next().filter(|value| !value.is_empty())
    }

    /// The effective level, the requested level, and the reason, if they differ.
    pub fn lowered(&self) -> Option<(&str, &str, &str)> {
        let (level, asked) = (self.get("level")?, self.get("level_asked")?);
        (level != asked).then(|| (level, asked, self.get("level_note").unwrap_or("it does not say why")))
    }
}

/// A name that occurs more than once becomes a list.
impl serde::Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde_json::Value;
        let mut map = serde_json::Map::new();
        for (key, _) in &self.0 {
            let values: Vec<Value> = self.all(key).map(Value::from).collect();
            let value =
                if values.len() == 1 { values.into_iter().next() } else { Some(Value::Array(values)) };
            map.insert(key.clone(), value.unwrap_or_default());
        }
        map.serialize(serializer)
    }
}

/// The module of the running kernel.
#[derive(Clone, Debug)]
pub struct Module {
    folder: PathBuf,
}

impl Module {
    /// Finds the module.
    ///
    /// # Errors
    /// [`ArmError::NotLoaded`].
    pub fn of(system: &System) -> Result<Module, ArmError> {
        let folder = system.roots.sys.join(MODULE);
        match folder.is_dir() {
            true => Ok(Module { folder }),
            false => Err(ArmError::NotLoaded { help: missing::help(system) }),
        }
    }

    /// Whether it is armed.
    ///
    /// # Errors
    /// If it cannot be read, or reports something unknown.
    pub fn state(&self) -> Result<State, ArmError> {
        match self.read("state")?.trim() {
            "disarmed" => Ok(State::Disarmed),
            "armed" => Ok(State::Armed),
            "refused" => Ok(State::Refused),
            other => Err(ArmError::Unknown { path: self.shown("state"), found: harmless_line(other) }),
        }
    }

    /// Why the last arming was refused, in one line; empty if it was not refused.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn reason(&self) -> Result<String, ArmError> {
        Ok(harmless_line(self.read("reason")?.trim()))
    }

    /// The rest of its status.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn status(&self) -> Result<Status, ArmError> {
        self.read("status").map(|text| Status::parse(&text))
    }

    /// The result of the last dump: `result`, `why`, `time` in seconds since 1970, and `place`. Empty if
    /// there was none, or with an older module.
    pub fn last(&self) -> Status {
        let last = self.read("last").map(|text| Status::parse(&text)).unwrap_or_default();
        if last.get("result") == Some("none") { Status::default() } else { last }
    }

    /// Reports the result of the last dump to the module, in lines of that format.
    ///
    /// # Errors
    /// If the module rejects it.
    pub fn tell_last(&self, text: &str) -> Result<(), ArmError> {
        self.write("last", text)
    }

    /// Locks out other savecores that arm, so the state does not change between reading and arming.
    ///
    /// # Errors
    /// [`ArmError::Busy`] if another one holds the lock for too long.
    pub fn lock(&self) -> Result<Lock, ArmError> {
        // Only root can open it, so only root can lock it. A failure to open is reported by the later write.
        let Ok(file) = OpenOptions::new().write(true).open(self.folder.join("arm")) else {
            return Ok(Lock(None));
        };
        for _ in 0..LOCK_TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => sleep(LOCK_PAUSE),
                // Kernel file systems support locks; without them, continue without a lock.
                _ => return Ok(Lock(Some(file))),
            }
        }
        Err(ArmError::Busy)
    }

    /// Arms the module with these parameters.
    ///
    /// # Errors
    /// [`ArmError::Write`] if it refuses.
    pub fn arm(&self, words: &str) -> Result<(), ArmError> {
        self.write("arm", &format!("{words}\n"))
    }

    /// Disarms the module, which releases its devices.
    ///
    /// # Errors
    /// [`ArmError::Write`] if it refuses.
    pub fn disarm(&self) -> Result<(), ArmError> {
        self.write("disarm", "1\n")
    }

    /// Whether it is armed on these devices, in this order, and still holds them: a disk that was removed and
    /// came back is a different one.
    pub fn is_armed_on(&self, system: &System, devices: &[&str]) -> bool {
        let held = self.held().unwrap_or_default();
        held == devices && held.iter().all(|device| is_claimed(system, device))
    }

    /// The devices that it has claimed, by the kernel's names.
    ///
    /// # Errors
    /// As [`Module::state`] and [`Module::status`].
    pub fn held(&self) -> Result<Vec<String>, ArmError> {
        match self.state()? {
            State::Armed => Ok(self.status()?.all("target").map(str::to_owned).collect()),
            State::Disarmed | State::Refused => Ok(Vec::new()),
        }
    }

    fn shown(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> Result<String, ArmError> {
        read_text(&self.folder.join(name)).map_err(|error| ArmError::Read { path: self.shown(name), error })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), ArmError> {
        write_text(&self.folder.join(name), text)
            .map_err(|error| ArmError::Write { path: self.shown(name), error })
    }
}

impl System {
    /// The rule that distinguishes this machine's partitions: someone with the right to do so named the armed
    /// ones.
    pub fn owner(&self) -> Owner {
        let mut owner = Owner::of(&self.root);
        let held = Module::of(self).and_then(|module| module.held()).unwrap_or_default();
        owner.take_named(held.iter().map(|name| self.node(name)));
        owner
    }
}

/// Number of attempts to get the lock of another savecore, and the pause between them.
const LOCK_TRIES: u32 = 300;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Only one savecore arms while this value exists.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held, not read")] Option<File>);

/// Whether a device is claimed, as by the module for its targets.
fn is_claimed(system: &System, device: &str) -> bool {
    let path = system.roots.dev.join(device.trim_start_matches("/dev/"));
    let is_device = fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::EXCL.bits() as i32).open(&path);
    match opened {
        Ok(_) => !is_device,
        Err(error) => error.raw_os_error() == Some(Errno::BUSY.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_kernel_says_is_shown_without_orders_to_terminals(text: String) {
            for (key, value) in Status::parse(&text).0 {
                for part in [key, value] {
                    prop_assert_eq!(harmless_line(&part), part);
                }
            }
        }
    }
}
