//! Would the kernel dump? The module's status, and the kernel's behaviour on panic.

use std::fs;
use std::path::Path;

use savecore::arming::{self, Kdump, Kernel, Module, Panic, State, Status, System, Told};
use savecore::boot::Config;
use savecore::source::{Node, node_at};
use savecore::targets::TargetName;

use super::super::arm;
use super::result::Drill;

/// systemd's folders of modules to load (modules-load.d(5)).
const MODULES_LOAD: [&str; 4] =
    ["etc/modules-load.d", "run/modules-load.d", "usr/local/lib/modules-load.d", "usr/lib/modules-load.d"];

pub(super) fn look(config: &Config, system: &System, names: &[TargetName], drill: &mut Drill) {
    let told = Told::read(system);
    let is_wanted = match config.arm.boot {
        Some(boot) => boot,
        None => told.as_ref().is_some_and(|told| told.armed),
    };
    let module = match Module::of(system) {
        Ok(module) => module,
        Err(error) => {
            let found = format!("this kernel dumps nothing: {error}");
            if config.arm.boot == Some(true) {
                drill.fail("kernel", found, "[arm] says boot = true, so that it is needed");
            } else if is_wanted {
                drill.fail("kernel", found, "`savecore arm` was called before");
            } else {
                drill.warn("kernel", found, "dumps of other kernels are harvested all the same");
            }
            return;
        }
    };
    if is_wanted && !is_loaded_at_boot(&system.root) {
        let advice = "`echo diskdump > /etc/modules-load.d/diskdump.conf`";
        drill.warn(
            "kernel",
            "nothing says that the diskdump module is to be loaded when the machine comes up",
            advice,
        );
    }
    match module.state() {
        Ok(State::Armed) => {
            // The following checks use its status.
            let status = module.status().unwrap_or_default();
            armed(config, system, names, &status, told.as_ref(), drill);
        }
        Ok(state) => {
            let reason = module.reason().unwrap_or_default();
            let found = match (state, reason.as_str()) {
                (State::Refused, reason) if !reason.is_empty() => format!("it refused to be armed: {reason}"),
                _ => "its diskdump module is loaded, and not armed".to_owned(),
            };
            drill.fail("kernel", found, "`savecore arm`");
            let plan = arm::names(config).and_then(|names| arming::plan(system, &names, None, &config.arm));
            if let Err(error) = plan {
                drill.fail("kernel", format!("it cannot be armed: {error}"), "");
            }
        }
        Err(error) => drill.fail("kernel", error.to_string(), ""),
    }
    panics(config, Kernel::of(system).panic(), drill);
}

/// Whether a file of systemd names the module.
fn is_loaded_at_boot(root: &Path) -> bool {
    let folders = MODULES_LOAD.iter().filter_map(|folder| fs::read_dir(root.join(folder)).ok());
    let files = folders.flatten().flatten().map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|text| text.lines().any(|line| line.trim() == "diskdump"))
}

fn armed(
    config: &Config,
    system: &System,
    names: &[TargetName],
    status: &Status,
    told: Option<&Told>,
    drill: &mut Drill,
) {
    let held: Vec<String> = status.all("target").map(str::to_owned).collect();
    drill.ok("kernel", format!("it is armed on {}", held.join(", ")));
    let found = "it is not armed again when the machine comes up";
    match (config.arm.boot, told) {
        (Some(false), _) => {
            drill.warn("kernel", format!("{found}: [arm] says boot = false"), "remove that line")
        }
        (None, Some(told)) if !told.armed => {
            drill.warn(
                "kernel",
                format!("{found}: `savecore disarm` was the last command"),
                "`savecore arm`",
            );
        }
        _ => {}
    }
    if let Some((level, asked, why)) = status.lowered() {
        drill.warn(
            "kernel",
            format!("it dumps at level {level}, not {asked}: {why}"),
            "dumps are larger than they need be",
        );
    }
    for line in arm::impatient(status, &Kernel::of(system)) {
        drill.warn("kernel", line, arm::SERVE);
    }
    if Kernel::of(system).tells_host() {
        host(status, drill);
    }
    let node =
        |name: &TargetName| node_at(&system.roots, &name.path, name.partition.as_deref()).ok().flatten();
    let nodes: Vec<Node> = names.iter().filter_map(node).collect();
    for node in nodes.iter().filter(|node| !held.contains(&node.shown)) {
        drill.warn(
            &node.shown,
            "the kernel is not armed on it",
            "`savecore arm` names it; [arm] targets says it for each boot",
        );
    }
    let harvested: Vec<&String> = nodes.iter().map(|node| &node.shown).collect();
    for target in held.iter().filter(|target| !harvested.contains(target)) {
        drill.fail(
            target,
            "the kernel dumps there, and `savecore boot` does not look there",
            "name it in `targets`",
        );
    }
    match arming::plan(system, &held, None, &config.arm) {
        Ok(plan) => {
            let uuids: Vec<Option<uuid::Uuid>> = status.all("uuid").map(|uuid| uuid.parse().ok()).collect();
            for (planned, uuid) in plan.targets.iter().zip(uuids) {
                match uuid {
                    Some(uuid) if uuid != planned.uuid => drill.fail(
                        &planned.device,
                        "its label is not the one that the kernel was armed with",
                        "it was formatted meanwhile: `savecore arm`",
                    ),
                    _ => drill.ok(&planned.device, "its label is the one that the kernel looks for"),
                }
            }
        }
        Err(error) => {
            drill.fail("kernel", format!("its target can no longer be used: {error}"), "`savecore arm`")
        }
    }
}

/// The host learns of a panic by pvpanic, and may then stop the machine: after the dump, or not at all.
fn host(status: &Status, drill: &mut Drill) {
    let never_hears =
        status.get("then") == Some("halt") || status.get("notify") == Some("never") || is_alone(status);
    match status.get("notify") {
        // An older module does not run before pvpanic.
        None => drill.warn(
            "pvpanic",
            "the host hears of a panic first, and may end the machine before anything is dumped",
            "load a newer diskdump module",
        ),
        Some(_) if never_hears => drill.warn(
            "pvpanic",
            "the host does not hear of a panic that was dumped",
            "notify = \"always\" in [arm]",
        ),
        Some(_) => drill.ok("pvpanic", "the host hears of a panic after the dump"),
    }
}

/// Whether a guard CPU is needed while panic notifiers run, and there is none.
fn is_alone(status: &Status) -> bool {
    status.get("notify") == Some("guarded") && status.get("cpus") == Some("1")
}

fn panics(config: &Config, panic: Panic, drill: &mut Drill) {
    match panic.on_oops {
        Some(false) => drill.warn(
            "kernel.panic_on_oops",
            "it is 0: after an oops the kernel continues, and nothing is dumped",
            "`sysctl kernel.panic_on_oops=1`, and a file in /etc/sysctl.d",
        ),
        Some(true) => drill.ok("kernel.panic_on_oops", "an oops is a panic, and is dumped"),
        None => {}
    }
    match panic.reboots_after {
        Some(0) => drill.warn(
            "kernel.panic",
            "it is 0: if a dump is refused, the machine hangs forever",
            "`sysctl kernel.panic=10`, and a file in /etc/sysctl.d",
        ),
        Some(_) => drill.ok("kernel.panic", "the machine comes up again even if a dump is refused"),
        None => {}
    }
    match panic.kdump {
        Kdump::Absent => {}
        Kdump::Behind => drill.ok("kdump", "it runs if a dump fails"),
        Kdump::First if config.arm.crash_kexec_post_notifiers => drill.fail(
            "kdump",
            "a crash kernel is loaded and runs first, so diskdump never runs",
            "`savecore arm` sets crash_kexec_post_notifiers",
        ),
        Kdump::First => drill.fail(
            "kdump",
            "a crash kernel is loaded and runs first, so diskdump never runs",
            "crash_kexec_post_notifiers = true in [arm], or unload it",
        ),
    }
}
