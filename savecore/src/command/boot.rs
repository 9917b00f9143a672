//! `savecore boot`: harvests according to the configuration, within the time limit for booting.
//!
//! One file: it is one sequence of steps, and each has its own failure to report.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use savecore::Error;
use savecore::arming;
use savecore::boot::config::Config;
use savecore::boot::hooks::Stage;
use savecore::boot::limit::Limited;
use savecore::boot::{Deadline, Hook, Opened};
use savecore::corefile::CoreOptions;
use savecore::harvest::{Options, Saved, TargetResult, harvest};
use savecore::ownership::Machine;
use savecore::partition::glance;
use savecore::private;
use savecore::source::{Access, Roots, node_at};
use savecore::store::{self, Limits};
use savecore::targets::{OpenTarget, Opener, TargetName, Targets};
use serde_json::{Value, json};

use super::configuration::{Chosen, configuration, opener, targets};
use super::list;
use super::rearm::{Outcome, Rearm};
use super::system::SystemArguments;
use crate::finding::{Finding, printed};
use crate::output::{self, Bar, error, note, warning};

const EXIT_CODES: &str = "\
Exit codes:
  0  all that waited is saved, or nothing waited
  1  all that waited is saved, but something is wrong: a hook failed, a damaged dump was kept, a partition
     cannot take the next dump, the kernel is not armed as it should be, or the configuration has mistakes
     (each is named with its line; the default of its example is used instead)
  2  error: a dump could not be saved, or a target, the store, a key or the configuration cannot be used
  3  work is left: time ran out, or the store needs a network that is not up yet

Dumps that were not saved stay where they are; the next run saves them.";

/// Save all waiting dumps as /etc/savecore.toml says, and make their partitions ready again
///
/// savecore.service runs it; booting waits for it no longer than the configured limit. If work is left, it creates
/// the file of --note, and savecore-later.service then runs `savecore boot --late`.
///
/// A Linux with the diskdump module is armed first: on the targets of [arm] in the configuration, or else on those
/// armed before the reboot, or else on all that are found; but not after `savecore disarm`. With boot = true in [arm]
/// it is always armed, with boot = false never. It stays armed: if it crashes while dumps are saved, the new dump goes
/// after them, or to the next target.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Configuration file [default: /etc/savecore.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Create FILE if work is left; a store with a URL is left to --late
    #[arg(long, value_name = "FILE")]
    note: Option<PathBuf>,
    /// Finish what is left, however long it takes, and remove the file of --note
    #[arg(long)]
    late: bool,
    /// Only DEVICE, which has just appeared: save what waits there if it is a target, and arm the kernel on all targets
    /// that are there now; savecore@.service runs it
    #[arg(long, value_name = "DEVICE", conflicts_with = "late")]
    device: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// The results: printed, and passed to the post hook.
#[derive(Default, serde::Serialize)]
struct Done {
    targets: Vec<TargetResult>,
    dumps: Vec<Saved>,
    /// Targets and stores that could not be used.
    errors: Vec<String>,
    /// Other defects.
    defects: Vec<String>,
    /// Whether work is left for later.
    left: bool,
    /// Devices that the kernel is armed on.
    armed: Vec<String>,
    /// Saved dumps not reported to a post hook yet; including those of earlier runs.
    #[serde(skip)]
    untold: Untold,
    /// Whether standard output is only for JSON.
    #[serde(skip)]
    quiet: bool,
}

/// Maximum size of a note.
const MAX_NOTE: u64 = 64 << 20;

/// Saved dumps that must be reported to the post hook. They are in the note about remaining work, so that the
/// run that calls the hook knows them.
#[derive(Clone, Default)]
struct Untold(Arc<Mutex<Vec<Value>>>);

impl Untold {
    /// The note of an earlier run; empty if that was interrupted while writing it.
    fn read(path: &Path) -> io::Result<Untold> {
        let mut text = Vec::new();
        match fs::File::open(path) {
            Ok(file) => file.take(MAX_NOTE).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let note: Value = serde_json::from_slice(&text).unwrap_or_default();
        let dumps = note["dumps"].as_array().cloned().unwrap_or_default();
        Ok(Untold(Arc::new(Mutex::new(dumps))))
    }

    /// Writes the note: these dumps, and that work is left.
    fn leave(&self, path: &Path) -> io::Result<()> {
        let note = json!({ "dumps": self.all() }).to_string();
        // Panic messages are private.
        private::write(path, note.as_bytes())
    }

    /// Adds a saved dump, replacing an earlier entry for the same folder.
    fn add(&self, saved: &Saved) {
        let saved = json!(saved);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other["folder"] != saved["folder"]);
        all.push(saved);
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Done {
    fn error(&mut self, line: String) {
        error(&line);
        self.errors.push(line);
    }

    /// Prints progress; with --json, the final output has it.
    fn note(&self, line: &str) {
        if !self.quiet {
            note(line);
        }
    }

    fn defect(&mut self, line: String) {
        warning(&line);
        self.defects.push(line);
    }

    /// Reports targets on which the kernel should also be armed.
    fn left_out(&mut self, lines: Vec<String>) {
        for line in lines {
            self.defect(format!("the kernel should be armed on one more target: {line}"));
        }
    }

    /// Whether a dump could not be saved.
    fn is_unsaved(&self) -> bool {
        self.dumps.iter().any(|saved| saved.error.is_some())
    }

    fn finding(&self) -> Finding {
        if self.left {
            Finding::Left
        } else if self.is_unsaved() || !self.errors.is_empty() {
            Finding::Failed
        } else if !self.defects.is_empty() {
            Finding::Negative
        } else {
            Finding::Good
        }
    }
}

/// Whether a target is a missing device: its disk may still appear.
fn is_to_come(roots: &Roots, name: &TargetName) -> bool {
    let is_missing =
        |path: &Path| fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    (name.path.starts_with("/dev") || name.path.starts_with(&roots.dev)) && is_missing(&name.path)
}

/// The targets that are this device.
fn only(roots: &Roots, device: &Path, mut names: Vec<TargetName>) -> anyhow::Result<Vec<TargetName>> {
    let come = node_at(roots, device, None)?.with_context(|| format!("{} is no device", device.display()))?;
    let node = |name: &TargetName| node_at(roots, &name.path, name.partition.as_deref()).ok().flatten();
    names.retain(|name| node(name).is_some_and(|node| node == come));
    Ok(names)
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let mut untold = Untold::default();
    if let (true, Some(path)) = (arguments.late, &arguments.note) {
        untold = Untold::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // From now on this run is responsible; and systemd starts another one as long as the file exists.
        forget(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let config = configuration(arguments.config.as_deref())?;
    let deadline = Deadline::new((!arguments.late).then(|| config.limit.duration()));
    let (path, saved) = (arguments.note.clone(), untold.clone());
    let kernel = Rearm::new(arguments.system.system());
    let unarmed = Arc::new(AtomicBool::new(kernel.is_to_be_armed(&config)));
    let is_unarmed = unarmed.clone();
    deadline
        .watch(move || over(path.as_deref(), &saved, is_unarmed.load(Ordering::Relaxed)))
        .context("cannot watch the time")?;

    let has_untold = !untold.all().is_empty();
    let mut done = Done { quiet: arguments.json, untold, ..Done::default() };
    config.faults.lines.iter().for_each(|line| done.defect(line.clone()));
    // First, since the rest may take long: a crash in the meantime is dumped, too.
    arm(&kernel, &config, arguments.device.is_some(), &mut done);
    unarmed.store(false, Ordering::Relaxed);
    // Without the key, encrypted dumps are saved as raw copies.
    let opener = opener(&config).unwrap_or_else(|error| {
        done.defect(format!("{error:#}; encrypted dumps are saved as they are"));
        None
    });
    let system = arguments.system.system();
    let keys = Keys { opener: opener.as_ref(), machine: Machine::of(&system.root) };
    let chosen = targets(&config, &system).unwrap_or_else(|error| {
        done.error(format!("{error:#}"));
        Chosen { names: Vec::new(), defects: Vec::new(), left_alone: None }
    });
    let Chosen { mut names, defects, left_alone } = chosen;
    let has_left_alone = left_alone.is_some();
    let roots = &system.roots;
    match &arguments.device {
        Some(device) => {
            names = only(roots, device, names)?;
            if names.is_empty() {
                done.note(&format!("{} is not one of the targets: nothing there is saved", device.display()));
            }
        }
        None => {
            defects.into_iter().for_each(|line| done.defect(line));
            if let Some(left_alone) = left_alone {
                done.note(&format!(
                    "{}: {left_alone}; `savecore adopt` makes one this machine's, and one that is named in `targets` is used",
                    arming::LEFT_ALONE
                ));
            }
            names.retain(|name| {
                let waits = is_to_come(roots, name);
                if waits {
                    let path = name.path.display();
                    warning(&format!("waiting for {path}: its dumps are saved when it appears"));
                }
                !waits
            });
        }
    }
    let local = arguments.late || arguments.note.is_none() || !config.is_remote();
    let access = if config.rearm { Access::Harvest } else { Access::Read };
    let opened = Opened::open(&names, access, keys.opener, keys.machine.as_ref(), &mut Bar::new());
    for error in &opened.errors {
        match error {
            // Another savecore already handles the new disk.
            Error::Locked { .. } if arguments.device.is_some() => done.note(&error.to_string()),
            error => done.error(error.to_string()),
        }
    }
    if !opened.has_work() {
        match opened.names().join(", ") {
            // Errors about opening them were reported, or their disks may still appear.
            shown if shown.is_empty() && (arguments.device.is_some() || !config.targets.is_empty()) => {}
            shown if shown.is_empty() && !done.errors.is_empty() => {}
            shown if shown.is_empty() && has_left_alone => {
                done.note("no dump partition of this machine found");
            }
            shown if shown.is_empty() => done.note("no dump partition found; `savecore format` makes one"),
            shown => done.note(&format!("no dump waits on {shown}")),
        }
        ready(&opened.groups, &config, keys.machine.as_ref(), &mut done);
        // The hook may look at the partitions.
        drop(opened);
        if !done.armed.is_empty() {
            kernel.tell_last(&config.store);
        }
        if let (true, Some(hook)) = (has_untold, &config.post) {
            call(hook, Stage::Post, &config, &deadline, &mut done);
        }
    } else if local {
        let store = config.store.clone();
        // If the hook that provides the store failed, a saved dump must not be the only copy.
        let prepared =
            config.pre.as_ref().is_none_or(|hook| call(hook, Stage::Pre, &config, &deadline, &mut done));
        let keep = match prepared {
            true => keeps(&config),
            false => Some("the pre hook failed"),
        };
        let groups = save(opened, &config, keep, &keys, &deadline, &mut done);
        ready(&groups, &config, keys.machine.as_ref(), &mut done);
        // The hook may look at the partitions.
        drop(groups);
        if !done.left && done.errors.is_empty() && done.dumps.iter().all(|saved| saved.cleared) {
            kernel.tell_last(&config.store);
        }
        match &config.post {
            // It runs when everything is done.
            Some(_) if done.left => {}
            Some(hook) => {
                call(hook, Stage::Post, &config, &deadline, &mut done);
            }
            None => {}
        }
        // Work that is left is done later, automatically.
        if done.is_unsaved() && !done.left {
            done.note(
                "dumps that were not saved stay where they are; `systemctl start savecore` tries again",
            );
        }
        if done.left {
            done.note(&format!(
                "not all is saved in {store} within the limit of {} s",
                config.limit.duration().as_secs()
            ));
        }
    } else {
        drop(opened);
        done.left = true;
        done.note(&format!("dumps wait; they go to {} when the network is up", config.store));
    }
    if let (true, Some(path)) = (done.left, &arguments.note) {
        done.untold
            .leave(path)
            .with_context(|| format!("cannot note in {} that work is left", path.display()))?;
    }
    if arguments.json {
        printed(output::json(&done))?;
    }
    Ok(done.finding())
}

/// Why dumps stay on their partitions, if the configuration says so.
fn keeps(config: &Config) -> Option<&'static str> {
    let faulty = config.faults.keep.then_some(
        "the configuration has a mistake; when it is corrected, `systemctl start savecore` frees it",
    );
    faulty.or((!config.rearm).then_some("rearm is false"))
}

/// Keys and marks.
struct Keys<'k> {
    /// The key to encrypted dumps.
    opener: Option<&'k Opener>,
    /// The machine that marks saved dumps.
    machine: Option<Machine>,
}

/// Arms the kernel, according to the configuration, or as before; always reports what is armed, or why
/// nothing is.
fn arm(kernel: &Rearm, config: &Config, has_come: bool, done: &mut Done) {
    match kernel.arm(config, has_come) {
        Outcome::Armed { targets, left_out, warnings } => {
            done.note(&format!("the kernel is armed on {}", targets.join(", ")));
            done.left_out(left_out);
            warnings.iter().for_each(|line| warning(line));
            done.armed = targets;
        }
        Outcome::Nothing => {}
        Outcome::Stays { targets, left_out } => {
            done.note(&format!("the kernel stays armed on {}", targets.join(", ")));
            done.left_out(left_out);
            done.armed = targets;
        }
        Outcome::Kept { targets, why } => {
            done.defect(format!(
                "the kernel stays armed on {}, but not as it should be: {why}",
                targets.join(", ")
            ));
            done.armed = targets;
        }
        Outcome::Not { why, is_wanted: true } => done.defect(format!("the kernel is not armed: {why}")),
        Outcome::Not { why, is_wanted: false } => done.note(&format!("the kernel is not armed: {why}")),
    }
}

/// Saves the dumps on each group of targets, and leaves them there if `keep` gives a reason; returns the
/// targets.
fn save(
    opened: Opened,
    config: &Config,
    keep: Option<&'static str>,
    keys: &Keys<'_>,
    deadline: &Deadline,
    done: &mut Done,
) -> Vec<Targets> {
    let mut groups = opened.groups;
    let limits = Limits {
        min_free: config.min_free.as_u64(),
        max_kept: config.max_kept,
        max_used: config.max_used,
        ..Limits::default()
    };
    let store = match store::open(&config.store, &limits) {
        Ok(store) => store,
        Err(error) => {
            done.error(error.to_string());
            return groups;
        }
    };
    let mut store = Limited { store, deadline };
    let options = Options {
        opener: keys.opener,
        format: config.format(),
        core: CoreOptions { level: config.level, ..CoreOptions::default() },
        host: None,
        own_host: config.host.clone(),
        machine: keys.machine.clone(),
        foreign: false,
        keep,
        clear_damaged: false,
        kernels: config.kernels.iter().map(|path| path.0.clone()).collect(),
        report: config.report,
    };
    for group in &mut groups {
        match harvest(group, &mut store, &options, &mut Bar::new()) {
            Ok(harvest) => {
                harvest.dumps.iter().for_each(|saved| tell(saved, config, deadline, done));
                done.targets.extend(harvest.targets);
                done.dumps.extend(harvest.dumps);
            }
            Err(error) => done.error(error.to_string()),
        }
    }
    done.left = deadline.refused();
    groups
}

/// Reports the result for a dump, in one line.
fn tell(saved: &Saved, config: &Config, deadline: &Deadline, done: &mut Done) {
    let name = format!("{}: dump {}", saved.on.join(", "), saved.dump.sequence);
    if let Some(why) = &saved.error {
        match deadline.refused() {
            true => warning(&format!("{name} is left for later: {why}")),
            false => error(&format!(
                "{name}: {why}; it is tried again at the next boot, or by `systemctl start savecore`"
            )),
        }
        return;
    }
    done.untold.add(saved);
    let folder = saved.folder.as_deref().unwrap_or(&config.store);
    let verb = if saved.already_there { "is already saved in" } else { "saved in" };
    done.note(&format!("{name} {verb} {folder} ({}, {})", saved.dump.state(), saved.dump.when()));
    match &saved.kept_because {
        Some(why) if config.rearm => done.defect(format!("{name} still takes up its blocks: {why}")),
        _ => {}
    }
    for text in &saved.warnings {
        warning(&format!("{name}: {text}"));
    }
}

/// Checks whether the partitions can take the next dump.
fn ready(groups: &[Targets], config: &Config, machine: Option<&Machine>, done: &mut Done) {
    if !config.rearm || done.left {
        return;
    }
    for group in groups {
        for OpenTarget { target, .. } in group.open.iter().filter(|open| !open.is_copy) {
            let fault = match glance(target, machine) {
                Ok(glance) => list::fault(&glance),
                Err(error) => Some(error.to_string()),
            };
            if let Some(fault) = fault {
                done.defect(format!("{} cannot take the next dump as it should: {fault}", target.name()));
            }
        }
    }
}

/// Runs a hook with the facts so far; returns whether it succeeded.
fn call(hook: &Hook, stage: Stage, config: &Config, deadline: &Deadline, done: &mut Done) -> bool {
    let failed = done.dumps.iter().filter(|saved| saved.error.is_some()).map(|saved| json!(saved));
    let dumps: Vec<Value> = match stage {
        Stage::Pre => Vec::new(),
        Stage::Post => done.untold.all().into_iter().chain(failed).collect(),
    };
    let facts = json!({ "targets": done.targets, "dumps": dumps, "errors": done.errors });
    let limit = config.hook_limit.duration().min(deadline.left());
    if limit.is_zero() {
        // The run that continues calls it.
        done.left = true;
        return false;
    }
    let result = hook.run(stage, &facts, &config.store, limit);
    if let Err(error) = &result {
        done.defect(error.to_string());
    }
    result.is_ok()
}

/// The time is over, and something hangs.
fn over(path: Option<&Path>, untold: &Untold, unarmed: bool) {
    warning("the time limit is over: dumps that are not saved stay where they are");
    if unarmed {
        let then = if path.is_some() { "`savecore boot --late` arms it, and " } else { "" };
        warning(&format!("the kernel is not armed: {then}`savecore arm` arms it now"));
    }
    if let Some(path) = path
        && let Err(failed) = untold.leave(path)
    {
        error(&format!("cannot note in {} that work is left: {failed}", path.display()));
    }
    // Everything done so far is durable, even if the power failed now.
    process::exit(Finding::Left.code().into());
}

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
