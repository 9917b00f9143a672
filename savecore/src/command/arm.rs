//! `savecore arm`, `disarm` and `armed`: what the kernel's diskdump module is told, and what it says.

use std::io::{self, Write};
use std::path::PathBuf;

use savecore::arming::{
    self, ArmError, Armed, Kdump, Kernel, Module, Panic, Plan, State, Status, System, Watchdog,
};
use savecore::boot::Config;
use savecore::core::Level;
use savecore::dump::utc;
use savecore::ownership::{List, Owner};

use super::boot::configuration;
use crate::output::{BAD, FAINT, GOOD, WARNING, json, out, paint, warning};
use crate::{Finding, printed};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; armed: the kernel is armed
  1  armed: it is not
  2  error: a target cannot be used, the module is not loaded, or the kernel refused; one line says why";

/// Where the kernel shows itself.
#[derive(clap::Args)]
pub(crate) struct SystemArguments {
    /// Root of the file systems of a kernel that tests made up
    #[arg(long, value_name = "DIR", hide = true)]
    system: Option<PathBuf>,
}

impl SystemArguments {
    pub(crate) fn system(&self) -> System {
        self.system.as_deref().map_or_else(System::running, System::below)
    }

    /// What tells this machine's partitions from those of others.
    pub(crate) fn owner(&self) -> Owner {
        self.system().owner()
    }
}

/// Tell the kernel's diskdump module to dump to TARGET when the kernel crashes
///
/// How is said by [arm] in the configuration. Until `savecore disarm`, the module keeps the targets to itself: nobody can
/// mount or format them. Dumps there are saved and freed while it stays armed.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Dump partitions, the second one for when the first one fails: devices, PARTUUID=…, UUID=… of a label. Those of the configuration
    /// if none is given; without any there, all dump partitions of this machine
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Partition of each TARGET: its number, name or GUID
    #[arg(long, short, value_name = "N|NAME|GUID", requires = "targets")]
    partition: Option<String>,
    /// Configuration; /etc/savecore.toml, or the defaults without one, if not given
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the kernel leaves out, as makedumpfile -d counts, instead of what the configuration says
    #[arg(long, value_name = "N")]
    level: Option<Level>,
    /// Look at everything, print the words that the module would get, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    system: SystemArguments,
}

/// Disarm the kernel's diskdump module, which frees its targets
#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DisarmArguments {
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
    /// What the module says; nothing with --dry-run.
    #[serde(flatten)]
    armed: Option<Armed>,
}

/// The names of the targets that the configuration wants armed; none: all that are found.
///
/// # Errors
/// If nobody can tell which ones it means.
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
    let names = if arguments.targets.is_empty() { names(&config)? } else { arguments.targets.clone() };
    let mut options = config.arm;
    if let Some(level) = arguments.level {
        options = options.with_level(level);
    }
    // Before anything is looked at that takes longer.
    let _lock = if arguments.dry_run { None } else { Some(Module::of(&system)?.lock()?) };
    let mut plan = arming::plan(&system, &names, arguments.partition.as_deref(), &options)?;
    let armed =
        if arguments.dry_run { Ok(None) } else { arming::arm(&system, &mut plan, &options).map(Some) };
    for line in plan.waiting().chain(plan.warnings.iter().cloned()) {
        warning(&line);
    }
    let armed = armed?;
    if let Some(armed) = &armed {
        // One that waits is newer, and the module has seen it itself.
        if plan.waiting().next().is_none() {
            arming::tell_last(&system, &config.store);
        }
        note_owned(&system, &plan).iter().for_each(|line| warning(line));
        for line in warnings(armed, &Kernel::of(&system)) {
            warning(&line);
        }
    }
    let names = plan.names().join(", ");
    printed(match (&armed, arguments.json) {
        (_, true) => json(&Result { plan, armed }),
        (None, false) => writeln!(out(), "{}", plan.words).map_err(anyhow::Error::from),
        (Some(_), false) => writeln!(out(), "{}: a crash is dumped to {names}", paint(GOOD, "armed"))
            .map_err(anyhow::Error::from),
    })?;
    Ok(Finding::Good)
}

/// Notes that the targets are this machine's: what a person armed is harvested, too. Gives what went wrong, in lines.
pub(super) fn note_owned(system: &System, plan: &Plan) -> Option<String> {
    let mut noted = plan.targets.iter().map(|target| List::note(&system.root, target.uuid.into_bytes()));
    noted.find_map(|noted| noted.err()).map(|error| error.to_string())
}

/// What is otherwise than a person may think.
pub(super) fn warnings(armed: &Armed, kernel: &Kernel) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some((level, asked, why)) = armed.status.lowered() {
        lines.push(format!("the kernel dumps at level {level}, not {asked}: {why}"));
    }
    if armed.kdump_put_behind {
        lines.push(
            "a crash kernel is loaded: crash_kexec_post_notifiers is set now, so that it runs when a dump failed"
                .to_owned(),
        );
    } else if kernel.kdump() == Kdump::First {
        lines.push(
            "a crash kernel is loaded and goes first, so that diskdump never runs: set crash_kexec_post_notifiers in [arm], or unload it"
                .to_owned(),
        );
    }
    lines.extend(impatient(&armed.status, kernel).map(|line| format!("{line}; {SERVE}")));
    lines
}

/// What helps against a watchdog that is not served.
pub(super) const SERVE: &str = "a budget in [arm] of less than half of that ends a dump in time, and in order; or give the watchdog more";

/// A line for each watchdog that may reset the machine before the time for a dump is over. Who serves one does so when half of its
/// time is over, at the latest: so much may be gone when the kernel crashes.
pub(super) fn impatient(status: &Status, kernel: &Kernel) -> impl Iterator<Item = String> {
    let budget: Option<u64> = status.get("budget").and_then(|seconds| seconds.parse().ok());
    let all = kernel.watchdogs().into_iter();
    let all = all.filter(move |watchdog| budget.is_some_and(|budget| watchdog.seconds / 2 <= budget));
    all.map(|Watchdog { name, identity, seconds }| {
        let identity = if identity.is_empty() { identity } else { format!(" ({identity})") };
        format!("{name}{identity} resets the machine after {seconds} s, also in the middle of a dump: nobody serves it then")
    })
}

pub(crate) fn disarm(arguments: &DisarmArguments) -> anyhow::Result<Finding> {
    let system = arguments.system.system();
    let module = Module::of(&system)?;
    let _lock = module.lock()?;
    let (state, held) = (module.state()?, module.held()?);
    // Of one that refused, why is forgotten.
    if state != State::Disarmed {
        module.disarm()?;
    }
    if state != State::Armed {
        printed(tell_disarmed(arguments.json, &held, "it was not armed"))?;
        return Ok(Finding::Good);
    }
    if Kernel::of(&system).kdump() == Kdump::Behind {
        warning(
            "crash_kexec_post_notifiers stays set: the crash kernel still runs behind all else; `echo N > /sys/module/kernel/parameters/crash_kexec_post_notifiers` puts it first",
        );
    }
    printed(tell_disarmed(arguments.json, &held, &format!("{} can be used again", held.join(", "))))?;
    Ok(Finding::Good)
}

fn tell_disarmed(as_json: bool, freed: &[String], what: &str) -> anyhow::Result<()> {
    if as_json {
        return json(&serde_json::json!({ "state": State::Disarmed, "freed": freed }));
    }
    writeln!(out(), "disarmed: {what}").map_err(anyhow::Error::from)
}

/// How it stands.
#[derive(serde::Serialize)]
struct Standing {
    loaded: bool,
    state: State,
    /// Why the last arming was refused; empty if it was not.
    reason: String,
    status: Status,
    /// What became of the last dump; empty if there was none.
    last: Status,
    panic: Panic,
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
        },
        Err(ArmError::NotLoaded) => Standing {
            loaded: false,
            state: State::Disarmed,
            reason: ArmError::NotLoaded.to_string(),
            status: Status::default(),
            last: Status::default(),
            panic,
        },
        Err(error) => return Err(error.into()),
    };
    let finding = if standing.state == State::Armed { Finding::Good } else { Finding::Negative };
    printed(if arguments.json { json(&standing) } else { print(&standing).map_err(anyhow::Error::from) })?;
    Ok(finding)
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
        Kdump::First => row("kdump", "loaded, and goes first: nothing else runs in a panic")?,
        Kdump::Behind => row("kdump", "loaded, and runs when the dump failed")?,
    }
    out.flush()
}
