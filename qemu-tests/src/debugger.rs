//! Judges a core file with other people's tools: gdb and readelf.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process;

/// Runs gdb on a core, one command after another; returns its output.
///
/// # Errors
/// If gdb cannot be started, complains, or is still running after `limit`. The log is `gdb.log` in `folder`.
pub fn gdb(kernel: &Path, core: &Path, commands: &[&str], folder: &Path, limit: Duration) -> Result<String> {
    let mut command = Command::new("gdb-multiarch");
    // No personal configuration, no pager, no symbol server, no colours, no line wrapping.
    command.args(["-nx", "-batch", "-q"]);
    for setting in ["pagination off", "width 0", "debuginfod enabled off", "style enabled off"] {
        command.args(["-iex", &format!("set {setting}")]);
    }
    for line in commands {
        command.args(["-ex", line]);
    }
    command.arg(kernel).arg(core);
    let output = process::run(&mut command, limit, &folder.join("gdb.log"))?.success("gdb")?;
    Ok(output.stdout)
}

/// Runs `readelf -l -n` on a core; returns its output.
///
/// # Errors
/// If readelf complains: on standard error, or in a line with `Warning` or `Error`.
pub fn readelf(core: &Path, folder: &Path, limit: Duration) -> Result<String> {
    let mut command = Command::new("readelf");
    command.args(["-W", "-l", "-n"]).arg(core).env("LC_ALL", "C");
    let log = folder.join("readelf.log");
    let output = process::run(&mut command, limit, &log)?.success("readelf")?;
    let complaint =
        output.stderr.lines().find(|line| !line.trim().is_empty()).or_else(|| {
            output.stdout.lines().find(|line| line.contains("Warning") || line.contains("Error"))
        });
    if let Some(complaint) = complaint {
        bail!("readelf complains about {}: {complaint}; log: {}", core.display(), log.display());
    }
    Ok(output.stdout)
}

/// Number of CPUs whose registers `readelf -n` shows: NT_PRSTATUS notes with the name CORE.
pub fn prstatus_notes(readelf: &str) -> usize {
    readelf
        .lines()
        .filter(|line| line.trim_start().starts_with("CORE ") && line.contains("NT_PRSTATUS"))
        .count()
}

/// The backtraces in gdb's output of `thread apply all bt`, by the kernel's thread number (LWP): the last
/// parts of the function names, innermost first.
pub fn backtraces(gdb: &str) -> BTreeMap<u64, Vec<&str>> {
    let mut backtraces: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let mut thread = None;
    for line in gdb.lines() {
        if line.starts_with("Thread ") {
            let number = line.split_once("(LWP ").and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
            thread = number.or(thread);
        } else if let (Some(thread), true) = (thread, line.starts_with('#')) {
            let rest = line.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
            let named = if rest.starts_with("0x") {
                rest.split_once(" in ").map_or("", |(_, rest)| rest)
            } else {
                rest
            };
            let name = named.split_once(" (").map_or(named, |(name, _)| name);
            backtraces.entry(thread).or_default().push(last_part(name));
        } else if !line.is_empty() {
            // Output of other commands follows the backtraces.
            thread = None;
        }
    }
    backtraces
}

/// The last part of a function's path, without generic arguments: gdb and demanglers write these differently.
pub fn last_part(name: &str) -> &str {
    let mut name = name;
    while name.ends_with('>') {
        let mut depth = 0;
        let opening = name.rmatch_indices(['<', '>']).find(|(_, found)| {
            depth += if *found == ">" { 1 } else { -1 };
            depth == 0
        });
        match opening {
            Some((at, _)) if at > 0 => name = name[..at].trim_end_matches("::"),
            _ => break,
        }
    }
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_name_is_the_function() {
        for (name, last) in [
            ("test_kernel::witness::stand", "stand"),
            ("enter_kernel", "enter_kernel"),
            ("core::slice::{impl#0}::get<core::sync::atomic::AtomicU64, usize>", "get"),
            ("<usize as core::slice::index::SliceIndex<[T]>>::get", "get"),
            ("core::slice::<impl [T]>::get::<u8>", "get"),
        ] {
            assert_eq!(last_part(name), last);
        }
    }

    #[test]
    fn backtraces_are_read_by_threads() {
        let text = "[Current thread is 1]\n#0  0x1 in here () at a.rs:1\n\nThread 2 (LWP 1):\n#0  a::wait (own=3) at b.rs:1\n\
                    #1  0x2 in a::get<b::C, u8> (self=...) at c.rs:2\n\nThread 1 (LWP 3):\n#0  0x3 in enter ()\n$1 = 0x5\n#9  x ()\n";
        let expected = BTreeMap::from([(1, vec!["wait", "get"]), (3, vec!["enter"])]);
        assert_eq!(backtraces(text), expected);
    }

    #[test]
    fn only_notes_of_the_name_core_are_registers() {
        let text = "  CORE                 0x00000150\tNT_PRSTATUS (prstatus structure)\t\n\
                    \x20 DISKDUMP             0x0000044d\tNT_PRSTATUS (prstatus structure)\t\n";
        assert_eq!(prstatus_notes(text), 1);
    }
}
