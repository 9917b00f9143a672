//! The running kernel's state outside the module: crash kernel, serial console, crash notes, and behaviour on
//! panic.

use std::path::PathBuf;

use super::error::ArmError;
use super::options::PORTS;
use super::system::System;
use crate::source::{read_text, write_text};
use crate::text::harmless_line;

/// The driver of a management controller's watchdog (IPMI).
const IPMI_WATCHDOG: &str = "ipmi_watchdog";

/// The kernel parameter that delays a crash kernel until the panic notifiers have run.
const POST_NOTIFIERS: &str = "module/kernel/parameters/crash_kexec_post_notifiers";

/// pvpanic's event for a panic (QEMU, docs/specs/pvpanic.rst).
const PVPANIC_PANICKED: u32 = 1;

/// Maximum number of CPUs (NR_CPUS_RANGE_END of x86).
const MAX_CPUS: usize = 8192;

/// Whether a crash kernel is loaded, and when it would run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kdump {
    /// No crash kernel is loaded.
    Absent,
    /// At once, before anything else.
    First,
    /// Only if the dump fails.
    Behind,
}

/// The kernel's behaviour on panic; `None` if unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Panic {
    /// Whether an oops is a panic.
    pub on_oops: Option<bool>,
    /// Seconds until it reboots after a panic; 0: never; negative: at once.
    pub reboots_after: Option<i64>,
    /// When kdump would run.
    pub kdump: Kdump,
}

/// A hardware watchdog that is running. During a dump, userspace no longer feeds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watchdog {
    /// Its name in sysfs.
    pub name: String,
    /// Its identity; may be empty.
    pub identity: String,
    /// Seconds after which it resets the machine.
    pub seconds: u64,
}

/// The serial port of the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Console {
    /// There is none.
    None,
    /// A 16550 at this I/O port.
    Port(u16),
    /// One with another kind of access.
    Other(String),
}

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    sys: PathBuf,
    proc: PathBuf,
}

impl Kernel {
    /// The kernel that these roots show.
    pub fn of(system: &System) -> Kernel {
        Kernel { sys: system.roots.sys.clone(), proc: system.proc.clone() }
    }

    /// Whether and when a crash kernel would run.
    pub fn kdump(&self) -> Kdump {
        let is_loaded = self.sysfs("kernel/kexec_crash_loaded").is_some_and(|text| text != "0");
        let waits = self.waits();
        match (is_loaded, waits) {
            (false, _) => Kdump::Absent,
            (true, false) => Kdump::First,
            (true, true) => Kdump::Behind,
        }
    }

    /// Whether a crash kernel, if loaded, would wait for the dump.
    pub fn waits(&self) -> bool {
        self.sysfs(POST_NOTIFIERS).is_some_and(|text| text == "Y")
    }

    /// Makes the crash kernel run after the dump (`behind`), or first again.
    ///
    /// # Errors
    /// [`ArmError::KdumpFirst`].
    pub fn put_kdump_behind(&self, behind: bool) -> Result<(), ArmError> {
        let written = write_text(&self.sys.join(POST_NOTIFIERS), if behind { "Y\n" } else { "N\n" });
        written.map_err(|error| ArmError::KdumpFirst { error })
    }

    /// The kernel's behaviour on panic.
    pub fn panic(&self) -> Panic {
        let sysctl = |name: &str| {
            let text = read_text(&self.proc.join("sys/kernel").join(name)).ok()?;
            text.trim().parse::<i64>().ok()
        };
        Panic {
            on_oops: sysctl("panic_on_oops").map(|value| value != 0),
            reboots_after: sysctl("panic"),
            kdump: self.kdump(),
        }
    }

    /// The running hardware watchdogs (Documentation/ABI/testing/sysfs-class-watchdog).
    pub fn watchdogs(&self) -> Vec<Watchdog> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.sys.join("class/watchdog")).into_iter().flatten().flatten() {
            let name = harmless_line(&entry.file_name().to_string_lossy());
            let file = |file: &str| self.sysfs(&format!("class/watchdog/{name}/{file}"));
            let seconds = file("timeout").and_then(|seconds| seconds.parse().ok());
            if let (Some("active"), Some(seconds)) = (file("state").as_deref(), seconds) {
                let identity = harmless_line(&file("identity").unwrap_or_default());
                found.push(Watchdog { name, identity, seconds });
            }
        }
        found.extend(self.ipmi_watchdog());
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// The watchdog of a management controller, which is a plain device outside the watchdog class (Linux,
    /// drivers/char/ipmi/ipmi_watchdog.c). It runs if its device is open, or if a module parameter started
    /// it.
    fn ipmi_watchdog(&self) -> Option<Watchdog> {
        let file = |file: &str| self.sysfs(&format!("module/{IPMI_WATCHDOG}/{file}"));
        let is_open = file("refcnt").is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count > 0));
        let is_started = file("parameters/start_now").is_some_and(|start| start == "Y" || start == "1");
        let does_nothing = file("parameters/action").is_some_and(|action| action == "none");
        if does_nothing || !(is_open || is_started) {
            return None;
        }
        let seconds = file("parameters/timeout")?.parse().ok()?;
        Some(Watchdog { name: IPMI_WATCHDOG.to_owned(), identity: String::new(), seconds })
    }

    /// Whether the kernel reports a panic to its host by pvpanic (Linux,
    /// Documentation/ABI/testing/sysfs-bus-pci-devices-pvpanic): a pvpanic device with the panic event
    /// enabled.
    pub fn tells_host(&self) -> bool {
        ["platform/drivers/pvpanic-mmio", "pci/drivers/pvpanic-pci"].iter().any(|driver| {
            let folder = self.sys.join("bus").join(driver);
            let devices = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let events = |device: std::fs::DirEntry| read_text(&device.path().join("events")).ok();
            devices.filter_map(events).any(|events| {
                let digits = events.trim().trim_start_matches("0x");
                u32::from_str_radix(digits, 16).is_ok_and(|events| events & PVPANIC_PANICKED != 0)
            })
        })
    }

    /// Physical addresses of the kernel's own crash notes, the registers of CPUs that it stops itself: in the
    /// order of CPU numbers, 0 for an unused number. Empty if unknown
    /// (Documentation/ABI/testing/sysfs-devices-system-cpu).
    pub(super) fn crash_notes(&self) -> Vec<u64> {
        let mut notes = Vec::new();
        let entries = std::fs::read_dir(self.sys.join("devices/system/cpu")).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse::<usize>().ok());
            let Some(number) = number.filter(|number| *number < MAX_CPUS) else { continue };
            let text = read_text(&entry.path().join("crash_notes")).unwrap_or_default();
            let Ok(address) = u64::from_str_radix(text.trim(), 16) else { continue };
            if notes.len() <= number {
                notes.resize(number + 1, 0);
            }
            notes[number] = address;
        }
        notes
    }

    /// The serial port of the console; of several, the kernel's preferred one, which it lists last.
    pub(super) fn console(&self) -> Console {
        let active = self.sysfs("class/tty/console/active").unwrap_or_default();
        let number = |name: &&str| {
            name.strip_prefix("ttyS").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let Some(name) = active.split_whitespace().rev().find(number) else { return Console::None };
        let value = |file: &str| {
            let text = self.sysfs(&format!("class/tty/{name}/{file}"))?;
            let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
            digits.map_or(text.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok())
        };
        // Access kinds are numbered from 0, which is I/O ports (UPIO_PORT in include/linux/serial_core.h).
        let port =
            value("port").and_then(|port| u16::try_from(port).ok()).filter(|port| PORTS.contains(port));
        match (value("io_type"), port) {
            (Some(0), Some(port)) => Console::Port(port),
            _ => Console::Other(name.to_owned()),
        }
    }

    fn sysfs(&self, name: &str) -> Option<String> {
        read_text(&self.sys.join(name)).ok().map(|text| text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn kernel(files: &[(&str, &str)]) -> (tempfile::TempDir, Kernel) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let kernel = Kernel::of(&System::below(root.path()));
        (root, kernel)
    }

    #[test]
    fn registers_are_found_by_the_number_of_their_cpu() {
        let (_root, kernel) = kernel(&[
            ("sys/devices/system/cpu/cpu10/crash_notes", "2f00\n"),
            ("sys/devices/system/cpu/cpu0/crash_notes", "7fc12000\n"),
            ("sys/devices/system/cpu/cpu2/crash_notes", "1000000000\n"),
            ("sys/devices/system/cpu/cpu1/online", "0\n"),
            ("sys/devices/system/cpu/cpufreq/crash_notes", "1\n"),
            ("sys/devices/system/cpu/cpu99999999/crash_notes", "1\n"),
            ("sys/devices/system/cpu/cpu3/crash_notes", "none\n"),
        ]);
        let mut expected = vec![0; 11];
        (expected[0], expected[2], expected[10]) = (0x7fc1_2000, 0x10_0000_0000, 0x2f00);
        assert_eq!(kernel.crash_notes(), expected);
        assert!(self::kernel(&[]).1.crash_notes().is_empty());
    }

    #[test]
    fn the_console_that_the_kernel_names_last_counts() {
        let active = |text| ("sys/class/tty/console/active", text);
        let port = ("sys/class/tty/ttyS1/port", "0x2F8\n");
        let by_port = ("sys/class/tty/ttyS1/io_type", "0\n");
        assert_eq!(kernel(&[active("ttyS0 tty0 ttyS1\n"), port, by_port]).1.console(), Console::Port(0x2f8));
        let by_memory = ("sys/class/tty/ttyS1/io_type", "2\n");
        let other = Console::Other("ttyS1".to_owned());
        assert_eq!(kernel(&[active("ttyS1\n"), port, by_memory]).1.console(), other);
        let none = ("sys/class/tty/ttyS1/port", "0x0\n");
        assert_eq!(kernel(&[active("ttyS1\n"), none, by_port]).1.console(), other);
        for text in ["tty0\n", "", "ttyAMA0 ttySx"] {
            assert_eq!(kernel(&[active(text), port, by_port]).1.console(), Console::None);
        }
    }

    #[test]
    fn the_watchdog_of_a_management_controller_counts_if_it_runs() {
        let file = |name: &str| format!("sys/module/{IPMI_WATCHDOG}/{name}");
        let (count, start, action, timeout) = (
            file("refcnt"),
            file("parameters/start_now"),
            file("parameters/action"),
            file("parameters/timeout"),
        );
        for (open, started, does, runs) in [
            ("0\n", "N\n", "reset\n", false),
            ("1\n", "N\n", "reset\n", true),
            ("0\n", "Y\n", "power_off\n", true),
            ("1\n", "Y\n", "none\n", false),
        ] {
            let files = [(count.as_str(), open), (&start, started), (&action, does), (&timeout, "10\n")];
            let (_root, kernel) = kernel(&files);
            let expected = Watchdog { name: "ipmi_watchdog".into(), identity: String::new(), seconds: 10 };
            assert_eq!(
                kernel.watchdogs(),
                if runs { vec![expected] } else { vec![] },
                "{open} {started} {does}"
            );
        }
        assert_eq!(kernel(&[]).1.watchdogs(), []);
    }

    #[test]
    fn the_host_is_told_of_panics_if_a_device_says_so() {
        let (pci, isa) = (
            "sys/bus/pci/drivers/pvpanic-pci/0000:00:05.0/events",
            "sys/bus/platform/drivers/pvpanic-mmio/QEMU0001:00/events",
        );
        for device in [pci, isa] {
            for (events, tells) in
                [("0x3\n", true), ("1\n", true), ("0x2\n", false), ("0\n", false), ("?", false)]
            {
                assert_eq!(kernel(&[(device, events)]).1.tells_host(), tells, "{events}");
            }
        }
        assert!(!kernel(&[("sys/bus/pci/drivers/pvpanic-pci/bind", "")]).1.tells_host());
    }

    #[test]
    fn a_crash_kernel_goes_first_unless_it_was_told_to_wait() {
        let (loaded, waits) = ("sys/kernel/kexec_crash_loaded", format!("sys/{POST_NOTIFIERS}"));
        assert_eq!(kernel(&[]).1.kdump(), Kdump::Absent);
        assert_eq!(kernel(&[(loaded, "0\n"), (&waits, "N\n")]).1.kdump(), Kdump::Absent);
        let (_root, kernel) = kernel(&[(loaded, "1\n"), (&waits, "N\n")]);
        assert_eq!(kernel.kdump(), Kdump::First);
        kernel.put_kdump_behind(true).unwrap();
        assert_eq!(kernel.kdump(), Kdump::Behind);
    }
}
