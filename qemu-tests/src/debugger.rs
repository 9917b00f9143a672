//! What other people's tools make of a core file: gdb and readelf.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process;

/// Runs gdb over a core, one command after another; gives what it printed.
///
/// # Errors
/// If gdb cannot be started, complains, or is still running after `limit`. The log is `gdb.log` in `folder`.
pub fn gdb(kernel: &Path, core: &Path, commands: &[&str], folder: &Path, limit: Duration) -> Result<String> {
    let mut command = Command::new("gdb-multiarch");
    // No configuration of the person who runs this, no pager, no symbol server, no colours, no line folding.
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

/// `readelf -l -n` over a core: gives what it printed.
///
/// # Errors
/// If readelf finds anything to complain about: it says so on standard error, or in a line with `Warning` or `Error`.
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

/// How many CPUs' registers `readelf -n` shows: NT_PRSTATUS notes by the name CORE.
pub fn prstatus_notes(readelf: &str) -> usize {
    readelf
        .lines()
        .filter(|line| line.trim_start().starts_with("CORE ") && line.contains("NT_PRSTATUS"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_notes_of_the_name_core_are_registers() {
        let text = "  CORE                 0x00000150\tNT_PRSTATUS (prstatus structure)\t\n\
                    \x20 DISKDUMP             0x0000044d\tNT_PRSTATUS (prstatus structure)\t\n";
        assert_eq!(prstatus_notes(text), 1);
    }
}
