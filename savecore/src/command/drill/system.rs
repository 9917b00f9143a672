//! Other prerequisites: units, hooks, a debugger, symbols.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use savecore::backtrace::find_kernel;
use savecore::boot::{Config, Hook};

use super::super::install::UNITS;
use super::result::Drill;

pub(super) fn look(config: &Config, drill: &mut Drill) {
    for (stage, hook) in [("pre", &config.pre), ("post", &config.post)] {
        if let Some(hook) = hook {
            look_at_hook(&format!("{stage} hook"), hook, drill);
        }
    }
    look_at_units(config, drill);
    look_at_debuggers(config, drill);
}

fn look_at_hook(about: &str, hook: &Hook, drill: &mut Drill) {
    let shown = hook.program.display();
    match fs::metadata(&hook.program) {
        Err(error) => drill.fail(about, format!("{shown}: {error}"), "give the path of a program"),
        Ok(metadata) if !metadata.is_file() || metadata.mode() & 0o111 == 0 => {
            drill.fail(about, format!("{shown} cannot be executed"), &format!("`chmod +x {shown}`"));
        }
        Ok(metadata) if metadata.mode() & 0o022 != 0 || metadata.uid() != 0 => {
            let advice = format!("it runs as root: `chown root {shown}; chmod go-w {shown}`");
            drill.warn(about, format!("{shown} can be changed by users other than root"), &advice);
        }
        Ok(_) => drill.ok(about, format!("{shown} can be executed")),
    }
}

fn look_at_units(config: &Config, drill: &mut Drill) {
    // sd_booted(3)
    if !Path::new("/run/systemd/system").is_dir() {
        let advice = "make sure that `savecore boot` runs at boot";
        drill.warn("units", "systemd does not run here", advice);
        return;
    }
    for unit in UNITS {
        match systemctl(&["is-enabled", unit]).as_deref() {
            Some("enabled") => drill.ok(unit, "it is enabled"),
            Some(state) if !state.is_empty() => {
                // A masked unit cannot be enabled (systemctl(1)); it may be masked only until the next boot.
                let first = if state.starts_with("masked") {
                    format!("`systemctl unmask {unit}`, then ")
                } else {
                    String::new()
                };
                drill.fail(unit, format!("it is {state}"), &format!("{first}`systemctl enable {unit}`"));
            }
            _ => drill.fail(unit, "it is not installed", "`savecore install --now`, or install the package"),
        }
    }
    // A unit that is not loaded, because it is masked or missing, has no paths to show.
    let is_loaded =
        systemctl(&["show", "--property=LoadState", "--value", UNITS[0]]).as_deref() == Some("loaded");
    if is_loaded && !config.is_remote() {
        let paths =
            systemctl(&["show", "--property=ReadWritePaths", "--value", UNITS[0]]).unwrap_or_default();
        let mut paths = paths.split_whitespace().map(|path| path.trim_start_matches(['-', '+']));
        if !paths.any(|path| Path::new(&config.store).starts_with(path)) {
            let advice = format!(
                "`systemctl edit savecore.service savecore@.service savecore-later.service`: [Service] ReadWritePaths={}",
                config.store
            );
            drill.fail(UNITS[0], format!("it may not write to {}", config.store), &advice);
        }
    }
}

/// systemctl's output in one line; also if the answer is no.
fn systemctl(arguments: &[&str]) -> Option<String> {
    let output = Command::new("systemctl").args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(savecore::text::harmless(text.lines().next().unwrap_or_default()))
}

fn look_at_debuggers(config: &Config, drill: &mut Drill) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let found: Vec<&str> = ["gdb", "gdb-multiarch", "crash", "drgn"].into_iter().filter(is_there).collect();
    match found.as_slice() {
        [] => drill.warn(
            "debugger",
            "gdb, crash and drgn are all missing",
            "install one, or open cores elsewhere",
        ),
        found => drill.ok("debugger", found.join(", ")),
    }
    let Some(build_id) = build_id() else { return };
    let kernels: Vec<PathBuf> = config.kernels.iter().map(|path| path.0.clone()).collect();
    let shown: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
    match find_kernel(&build_id, &kernels) {
        Some(kernel) => drill.ok("symbols", format!("{} belongs to the running kernel", kernel.display())),
        None => drill.warn(
            "symbols",
            format!("none for the running kernel, build id {shown}"),
            "install its debug package, or name its ELF file in `kernels`: without it there are no backtraces here",
        ),
    }
}

/// The build id of the running kernel: the note of type 3 of "GNU" (elf(5)).
fn build_id() -> Option<Vec<u8>> {
    let notes = fs::read("/sys/kernel/notes").ok()?;
    let mut rest = notes.as_slice();
    loop {
        let word =
            |at: usize| rest.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let (name, text, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let start = 12_usize.checked_add(name)?.checked_next_multiple_of(4)?;
        let end = start.checked_add(text)?;
        if kind == 3 && rest.get(12..16) == Some(b"GNU\0") {
            return rest.get(start..end).map(<[u8]>::to_vec);
        }
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
}
