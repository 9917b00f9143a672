//! `savecore arm`, `disarm` and `armed`: controls the kernel's diskdump module, and shows its status.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use savecore::Error;
use savecore::arming::{
    self, ArmError, Armed, ArmedNow, Kdump, Kernel, Module, Panic, Plan, State, Status, System, Told,
    ToldTarget, Watchdog,
};
use savecore::boot::Config;
use savecore::corefile::Level;
use savecore::dump::utc;
use savecore::ownership::List;
use savecore::partition::read_label;
use savecore::source::{Access, Target};

use super::configuration::configuration;
use super::system::SystemArguments;
use crate::finding::{Finding, printed};
use crate::output::{BAD, FAINT, GOOD, WARNING, json, out, paint, warning};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; armed: the kernel is armed
  1  arm: the kernel is armed, but without one of the targets, or the configuration has a mistake; armed: the
     kernel is not armed, or a target has lost its label
  2  error: no target can be used, the module is not loaded, or the kernel refused; one line says why";

/// Tell the kernel's diskdump module to dump to TARGET when the kernel crashes
///
/// Options come from [arm] in the configuration. Until `savecore disarm`, nobody can mount or format the targets;
/// dumps there are saved and freed while the kernel stays armed. A target that cannot be armed is reported and
/// left out. After a reboot, `savecore boot` arms the same targets, unless [arm] says otherwise.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Dump partitions, in the order in which they are tried: devices, PARTUUID=…, UUID=… of a label [default: those
    /// in the configuration, or else all dump partitions of this machine]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID", requires = "targets")]
    partition: Option<String>,
    /// Configuration file [default: /etc/savecore.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Dump level, as makedumpfile -d, instead of the one in the configuration
    #[arg(long, value_name = "N")]
    level: Option<Level>,
    /// Arm all targets or none
    #[arg(long)]
    strict: bool,
    /// Check everything and print the module's parameters; change nothing. Parameters that hold for this boot only are
    /// left out, so that the rest can go into /etc/modprobe.d
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// Disarm the kernel's diskdump module, which frees its targets
///
/// The next boot does not arm it either, unless the configuration has boot = true in [arm].
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct DisarmArguments {
    /// Configuration file [default: /etc/savecore.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// Say whether the kernel is armed, how, and what it does when it panics
#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ArmedArguments {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

#[derive(serde::Serialize)]
struct Result {
    #[serde(flatten)]
    plan: Plan,
    /// The module's status; missing with --dry-run.
    #[serde(flatten)]
    armed: Option<Armed>,
}

/// The names of the targets that the configuration arms; if empty, all that are found.
///
/// # Errors
/// If the configuration is ambiguous.
pub(super) fn names(config: &Config) -> std::result::Result<Vec<String>, ArmError> {
    if config.faults.no_arming {
        return Err(ArmError::Configuration);
    }
    if !config.arm.targets.is_empty() {
        return Ok(config.arm.targets.clone());
    }
    if config.faults.no_targets {
        return Err(ArmError::Configuration);
    }
    Ok(config.targets.iter().map(|path| path.0.display().to_string()).collect())
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let config = configuration(arguments.config.as_deref())?;
    let system = arguments.system.system();
    config.faults.lines.iter().for_each(|line| warning(line));
    let has_faults = !config.faults.lines.is_empty();
    let names = if arguments.targets.is_empty() { names(&config)? } else { arguments.targets.clone() };
    let mut options = config.arm;
    if let Some(level) = arguments.level {
        options = options.with_level(level);
    }
    // Lock before any check that takes longer.
    let _lock = if arguments.dry_run { None } else { Some(Module::of(&system)?.lock()?) };
    let mut plan = arming::plan(&system, &names, arguments.partition.as_deref(), &options)?;
    if arguments.strict {
        plan = plan.strict()?;
    }
    let armed =
        if arguments.dry_run { Ok(None) } else { arming::arm(&system, &mut plan, &options).map(Some) };
    for line in plan.waiting().chain(plan.warnings.iter().cloned()) {
        warning(&line);
    }
    let armed = armed?;
    for line in &plan.left_out {
        warning(&format!("left out: {line}"));
    }
    if let Some(armed) = &armed {
        // A waiting dump is newer, and the module knows about it.
        if plan.waiting().next().is_none() {
            arming::tell_last(&system, &config.store);
        }
        note_owned(&system, &plan).iter().for_each(|line| warning(line));
        for line in warnings(armed, &Kernel::of(&system)) {
            warning(&line);
        }
        remember(arguments, &system, &plan);
    } else {
        plan.words = plan.lasting_words();
    }
    let names = plan.names().join(", ");
    let is_as_asked = plan.left_out.is_empty() && !has_faults;
    let finding = if is_as_asked { Finding::Good } else { Finding::Negative };
    printed(match (&armed, arguments.json) {
        (_, true) => json(&Result { plan, armed }),
        (None, false) => writeln!(out(), "{}", plan.words).map_err(anyhow::Error::from),
        (Some(_), false) => writeln!(out(), "{}: a crash is dumped to {names}", paint(GOOD, "armed"))
            .map_err(anyhow::Error::from),
    })?;
    Ok(finding)
}

/// Saves the command for the next boot.
fn remember(arguments: &Arguments, system: &System, plan: &Plan) {
    let target = |name: &String| {
        let planned = plan.targets.iter().find(|planned| planned.named == *name);
        // A relative name is saved as the device that it means here.
        let means_the_same =
            arguments.partition.is_none() && (Path::new(name).is_absolute() || name.contains('='));
        ToldTarget {
            name: planned
                .filter(|_| !means_the_same)
                .map_or_else(|| name.clone(), |planned| planned.device.clone()),
            uuid: planned.map(|planned| planned.uuid),
        }
    };
    keep(system, &Told { armed: true, targets: arguments.targets.iter().map(target).collect(), time: now() });
    let by_hand = !arguments.targets.is_empty() || arguments.level.is_some() || arguments.config.is_some();
    keep_words(system, &ArmedNow { words: plan.words.clone(), by_hand });
}

fn keep(system: &System, told: &Told) {
    if let Err(error) = told.keep(system) {
        warning(&format!("the next boot will not know this: cannot write below /var/lib/savecore: {error}"));
    }
}

/// Saves the parameters used in this boot. Without the file, the next `savecore boot` arms again, which does
/// no harm.
pub(super) fn keep_words(system: &System, now: &ArmedNow) {
    let _ = now.keep(system);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Notes that targets whose labels name no machine belong to this one: what the user arms is harvested, too.
/// Other labels name their machine, and must not be confused with a copy that does not. Returns errors, as
/// lines.
pub(super) fn note_owned(system: &System, plan: &Plan) -> Option<String> {
    let nobodys = plan.targets.iter().filter(|target| target.is_nobodys);
    let mut noted = nobodys.map(|target| List::note(&system.root, target.uuid.into_bytes()));
    noted.find_map(|noted| noted.err()).map(|error| error.to_string())
}

/// Surprises for the user.
pub(super) fn warnings(armed: &Armed, kernel: &Kernel) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some((level, asked, why)) = armed.status.lowered() {
        lines.push(format!("the kernel dumps at level {level}, not {asked}: {why}"));
    }
    if armed.kdump_put_behind {
        lines.push(
            "a crash kernel is loaded: crash_kexec_post_notifiers is now set, so the crash kernel runs if a dump fails"
                .to_owned(),
        );
    } else if kernel.kdump() == Kdump::First {
        lines.push(
            "a crash kernel is loaded and runs first, so diskdump never runs: set crash_kexec_post_notifiers in [arm], or unload it"
                .to_owned(),
        );
    }
    lines.extend(impatient(&armed.status, kernel).map(|line| format!("{line}; {SERVE}")));
    lines
}

/// Advice about a watchdog that is not served.
pub(super) const SERVE: &str = "set a budget in [arm] of less than half of that, which ends a dump in order before the watchdog bites; or give the watchdog more time";

/// A line for each watchdog that may reset the machine before the dump's time budget ends. A watchdog daemon
/// serves it at the latest when half of its time is over: so only half may be left when the kernel crashes.
pub(super) fn impatient(status: &Status, kernel: &Kernel) -> impl Iterator<Item = String> {
    let budget: Option<u64> = status.get("budget").and_then(|seconds| seconds.parse().ok());
    let all = kernel.watchdogs().into_iter();
    let all = all.filter(move |watchdog| budget.is_some_and(|budget| watchdog.seconds / 2 <= budget));
    all.map(|Watchdog { name, identity, seconds }| {
        let identity = if identity.is_empty() { identity } else { format!(" ({identity})") };
        format!(
            "{name}{identity} resets the machine after {seconds} s, even during a dump: nothing pats it then"
        )
    })
}

pub(crate) fn disarm(arguments: &DisarmArguments) -> anyhow::Result<Finding> {
    let always = configuration(arguments.config.as_deref())?.arm.boot == Some(true);
    let system = arguments.system.system();
    let module = Module::of(&system)?;
    let _lock = module.lock()?;
    let (state, held) = (module.state()?, module.held()?);
    // The module forgets the reason of a refusal.
    if state != State::Disarmed {
        module.disarm()?;
    }
    ArmedNow::forget(&system);
    let targets = Told::read(&system).map_or_else(Vec::new, |told| told.targets);
    keep(&system, &Told { armed: false, targets, time: now() });
    if state != State::Armed {
        printed(tell_disarmed(arguments.json, always, &held, "it was not armed"))?;
        return Ok(Finding::Good);
    }
    if Kernel::of(&system).kdump() == Kdump::Behind {
        warning(
            "crash_kexec_post_notifiers stays set: the crash kernel still runs after everything else; `echo N > /sys/module/kernel/parameters/crash_kexec_post_notifiers` puts it first",
        );
    }
    printed(tell_disarmed(arguments.json, always, &held, &format!("{} can be used again", held.join(", "))))?;
    Ok(Finding::Good)
}

/// `always`: whether the configuration arms the kernel at each boot.
fn tell_disarmed(as_json: bool, always: bool, freed: &[String], what: &str) -> anyhow::Result<()> {
    if as_json {
        return json(&serde_json::json!({ "state": State::Disarmed, "freed": freed, "boot_arms": always }));
    }
    let then = if always {
        "the next boot arms it, because [arm] says boot = true"
    } else {
        "it stays disarmed until `savecore arm`, even after a reboot"
    };
    writeln!(out(), "disarmed: {what}; {then}").map_err(anyhow::Error::from)
}

/// The module's state.
#[derive(serde::Serialize)]
struct Standing {
    loaded: bool,
    state: State,
    /// Why the last arming was refused; empty if it was not refused.
    reason: String,
    status: Status,
    /// The result of the last dump; empty if there was none.
    last: Status,
    panic: Panic,
    /// Targets that would refuse a dump, each with the reason.
    unfit: Vec<String>,
}

pub(crate) fn armed(arguments: &ArmedArguments) -> anyhow::Result<Finding> {
    let system = arguments.system.system();
    let panic = Kernel::of(&system).panic();
    let standing = match Module::of(&system) {
        Ok(module) => Standing {
            loaded: true,
            state: module.state()?,
            reason: module.reason()?,
            status: module.status()?,
            last: module.last(),
            panic,
            unfit: unfit(&system, &module)?,
        },
        Err(error @ ArmError::NotLoaded { .. }) => Standing {
            loaded: false,
            state: State::Disarmed,
            reason: error.to_string(),
            status: Status::default(),
            last: Status::default(),
            panic,
            unfit: Vec::new(),
        },
        Err(error) => return Err(error.into()),
    };
    let is_good = standing.state == State::Armed && standing.unfit.is_empty();
    let finding = if is_good { Finding::Good } else { Finding::Negative };
    printed(if arguments.json { json(&standing) } else { print(&standing).map_err(anyhow::Error::from) })?;
    Ok(finding)
}

/// Targets that have lost the label that they were armed with. They cannot be mounted or formatted meanwhile,
/// but `dd` can write there.
fn unfit(system: &System, module: &Module) -> std::result::Result<Vec<String>, ArmError> {
    if module.state()? != State::Armed {
        return Ok(Vec::new());
    }
    let fault = |(device, uuid): &(String, Option<uuid::Uuid>)| {
        let path = device
            .strip_prefix("/dev")
            .map_or(PathBuf::from(device), |name| system.roots.dev.join(name.trim_start_matches('/')));
        let target = match Target::open(&path, None, Access::Read) {
            Ok(target) => target,
            Err(Error::Open { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!("{device} is gone: nothing is dumped there until it comes back"));
            }
            // Without permission, or while another savecore works there, the label is unknown.
            Err(_) => return None,
        };
        match read_label(&target) {
            Ok(label) if uuid.is_none_or(|uuid| uuid.into_bytes() == label.uuid) => None,
            Ok(_) => Some(format!(
                "{device}: its label has changed, so a dump there is refused: run `savecore arm`"
            )),
            Err(error) => Some(format!(
                "{error}: a dump there is refused; run `savecore disarm`, `savecore format`, `savecore arm`"
            )),
        }
    };
    Ok(module.status()?.targets().iter().filter_map(fault).collect())
}

fn print(standing: &Standing) -> io::Result<()> {
    let mut out = out();
    let reason = match (standing.state, standing.reason.as_str()) {
        (State::Armed, _) | (_, "") => String::new(),
        (_, reason) => format!(": {reason}"),
    };
    let state = match standing.state {
        State::Armed => paint(GOOD, "armed"),
        State::Disarmed => paint(WARNING, "disarmed"),
        State::Refused => paint(BAD, "refused"),
    };
    writeln!(out, "{state}{reason}")?;
    for line in &standing.unfit {
        writeln!(out, "  {} {line}", paint(BAD, "but"))?;
    }
    let mut row =
        |key: &str, value: &str| writeln!(out, "  {} {value}", paint(FAINT, format_args!("{key:<12}")));
    for (key, value) in &standing.status.0 {
        row(key, value)?;
    }
    if standing.state == State::Armed && !standing.reason.is_empty() {
        row("refused", &format!("another arming: {}", standing.reason))?;
    }
    if let Some(result) = standing.last.get("result") {
        let why = standing.last.get("why").map_or_else(String::new, |why| format!(", since {why}"));
        let seconds = standing.last.get("time").and_then(|time| time.parse().ok()).filter(|time| *time > 0);
        let time = seconds.and_then(utc).map_or_else(String::new, |time| format!(", of {time}"));
        let place = standing.last.get("place").map_or_else(String::new, |place| format!(", in {place}"));
        row("last dump", &format!("{result}{why}{time}{place}"))?;
    }
    match standing.panic.kdump {
        Kdump::Absent => {}
        Kdump::First => row("kdump", "loaded, and runs first: nothing else runs in a panic")?,
        Kdump::Behind => row("kdump", "loaded, and runs if the dump fails")?,
    }
    out.flush()
}
