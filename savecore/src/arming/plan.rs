//! From the user's names to the module's parameters; refuses whatever the module would refuse, with the
//! reason.

use std::path::Path;

use crate::partition::glance;
use crate::source::{Access, Node, Target, discover_in, node_at, nodes_of};

use super::error::ArmError;
use super::kernel::{Console, Kernel};
use super::limits::{MAX_NOTES, MAX_TARGETS, MAX_WORDS};
use super::module::Module;
use super::options::{Options, Serial};
use super::system::System;
use crate::ownership::{Owner, Whose};

/// The start of the line that lists partitions that nobody named and that are not this machine's own.
pub const LEFT_ALONE: &str = "left alone, because they are not this machine's own";

/// The plan for arming the kernel.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Plan {
    /// The targets, in order.
    pub targets: Vec<Planned>,
    /// The module's parameters.
    pub words: String,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Named targets that cannot be used, each with the reason.
    pub left_out: Vec<String>,
    /// Whether the targets were found instead of named.
    #[serde(skip)]
    are_found: bool,
    /// Whether every target must be armed.
    #[serde(skip)]
    is_strict: bool,
}

/// A target.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Planned {
    /// The device, by the kernel's name.
    pub device: String,
    /// The user's name for it; the device itself if it was found.
    #[serde(skip)]
    pub named: String,
    /// The uuid of its label.
    pub uuid: uuid::Uuid,
    /// The name in its label; may be empty, and may contain any characters.
    pub name: String,
    /// Number of unsaved dumps.
    pub waiting: u64,
    /// Whether its label names no machine.
    #[serde(skip)]
    pub is_nobodys: bool,
}

impl Plan {
    /// The devices.
    pub fn names(&self) -> Vec<&str> {
        self.targets.iter().map(|target| target.device.as_str()).collect()
    }

    /// A line for each target with unsaved dumps.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        self.targets.iter().filter(|target| target.waiting > 0).map(|Planned { device, waiting, .. }| {
            let dumps = crate::text::count(*waiting, "dump waits", "dumps wait");
            format!("{device}: {dumps} there; the next is written after it, into the free space")
        })
    }

    /// Requires all targets.
    ///
    /// # Errors
    /// [`ArmError::NotAll`], if some were left out.
    pub fn strict(self) -> Result<Plan, ArmError> {
        match self.left_out.as_slice() {
            [] => Ok(Plan { is_strict: true, ..self }),
            left_out => Err(ArmError::NotAll { left: "not all", why: left_out.join("; ") }),
        }
    }

    /// The parameters without those that are valid only for this boot: for a file in /etc/modprobe.d. The
    /// addresses of the crash notes change with each boot.
    pub fn lasting_words(&self) -> String {
        let lasting = |word: &&str| !word.starts_with("notes=");
        self.words.split(' ').filter(lasting).collect::<Vec<_>>().join(" ")
    }

    /// Drops the target at the start of the module's reason, if another one is left.
    pub(super) fn leave_out(&mut self, why: &str, options: &Options, kernel: &Kernel) -> bool {
        if self.is_strict || self.targets.len() < 2 {
            return false;
        }
        let why_of = |target: &Planned| why.strip_prefix(&target.device)?.strip_prefix(": ");
        let mut reasons = self.targets.iter().map(why_of).enumerate();
        let Some((refused, why)) = reasons.find_map(|(index, why)| Some((index, why?))) else { return false };
        let refused = self.targets.remove(refused).device;
        // Warnings about the parameters were issued before.
        self.words = words(&self.targets, options, kernel, &mut Vec::new());
        if self.are_found {
            self.warnings.push(format!("{refused} is left out, because the kernel refused to arm it: {why}"));
        } else {
            self.left_out.push(format!("the kernel refused to arm {refused}: {why}"));
        }
        true
    }
}

/// Checks all targets. `names` are paths (of disks with the partition that `partition` names), `PARTUUID=…`,
/// `UUID=…` of a label, or either uuid alone. Without names, all dump partitions of the machine are used.
///
/// # Errors
/// [`ArmError`], if no target can be used. A missing or unusable one (no label, mounted, used as swap, or
/// with other devices built on it) is left out if there is another one. An unsaved dump is not an obstacle.
pub fn plan(
    system: &System,
    names: &[String],
    partition: Option<&str>,
    options: &Options,
) -> Result<Plan, ArmError> {
    let mut warnings = Vec::new();
    let nodes: Vec<(String, Result<Node, ArmError>)> = match names {
        [] => {
            let found = found(system, &mut warnings)?;
            found.into_iter().map(|node| (node.shown.clone(), Ok(node))).collect()
        }
        names => names.iter().map(|name| (name.clone(), named(system, name, partition))).collect(),
    };
    // The module's own claims do not count as in use.
    let held = Module::of(system).and_then(|module| module.held()).unwrap_or_default();
    let owner = Owner::of(&system.root);
    let mut targets: Vec<Planned> = Vec::new();
    let mut unfit: Vec<ArmError> = Vec::new();
    for (name, node) in nodes {
        let planned = node.and_then(|node| {
            if targets.iter().any(|target| target.device == node.shown) {
                return Err(ArmError::NamedTwice { target: node.shown });
            }
            if targets.len() == MAX_TARGETS {
                return Err(ArmError::TooMany { target: node.shown });
            }
            look(&node, held.contains(&node.shown), &owner, &mut warnings)
        });
        match planned {
            Ok(planned) => targets.push(Planned { named: name, ..planned }),
            // This is not about a single target.
            Err(error @ ArmError::Devices(_)) => return Err(error),
            Err(error) => unfit.push(error),
        }
    }
    let mut left_out: Vec<String> = unfit.iter().map(ToString::to_string).collect();
    if targets.is_empty() {
        return Err(match unfit.pop() {
            Some(only) if unfit.is_empty() => only,
            _ => ArmError::NotAll { left: "none", why: left_out.join("; ") },
        });
    }
    let are_found = names.is_empty();
    if are_found {
        warnings.extend(left_out.drain(..).map(|why| format!("a dump partition is left out: {why}")));
    }
    let words = words(&targets, options, &Kernel::of(system), &mut warnings);
    Ok(Plan { targets, words, warnings, left_out, are_found, is_strict: false })
}

/// All dump partitions of the machine, without duplicates.
fn found(system: &System, warnings: &mut Vec<String>) -> Result<Vec<Node>, ArmError> {
    let discovery = discover_in(&system.roots).map_err(ArmError::Devices)?;
    let owner = system.owner();
    let sorted = owner.sort(&discovery);
    for (path, error) in discovery.unreadable.iter().filter(|(path, _)| !discovery.apart.contains(path)) {
        warnings.push(format!("cannot look for a dump partition on {}: {error}", path.display()));
    }
    let mut left_out = Vec::new();
    let mut used: Vec<(uuid::Uuid, Node)> = Vec::new();
    left_out.extend(sorted.left_alone().map(|them| format!("{LEFT_ALONE}: {them}: name one to use it")));
    for at in &sorted.own {
        match node_at(&system.roots, &at.path, at.partition.as_deref())? {
            None => left_out.push(format!("{at} is left out, because the kernel shows no device for it")),
            Some(node) if node.is_made => {
                left_out.push(format!("{} is left out, because it is made of other devices", node.shown));
            }
            Some(node) => match used.iter().find(|(uuid, _)| *uuid == at.uuid) {
                Some((_, other)) => left_out.push(format!(
                    "{} is left out, because it has the uuid of {}: name it to use it",
                    node.shown, other.shown
                )),
                None => used.push((at.uuid, node)),
            },
        }
    }
    if used.is_empty() {
        return Err(ArmError::NothingFound { left_out: left_out.join("; ") });
    }
    for (_, node) in used.drain(used.len().min(MAX_TARGETS)..) {
        left_out.push(format!(
            "{} is left out, because a kernel can be armed on at most {MAX_TARGETS} targets",
            node.shown
        ));
    }
    warnings.append(&mut left_out);
    Ok(used.into_iter().map(|(_, node)| node).collect())
}

/// Resolves one of the names that [`plan`] accepts to a device.
///
/// # Errors
/// If there is none, or several.
pub fn named(system: &System, name: &str, partition: Option<&str>) -> Result<Node, ArmError> {
    let shown = || name.escape_debug().to_string();
    if let Some(id) = strip(name, "PARTUUID=") {
        let id = id.to_lowercase();
        return only(nodes_of(&system.roots, &id).map_err(ArmError::Devices)?, name);
    }
    let wanted = strip(name, "UUID=").unwrap_or(name);
    if let Ok(uuid) = wanted.parse::<uuid::Uuid>() {
        let discovery = discover_in(&system.roots).map_err(ArmError::Devices)?;
        let mut nodes = Vec::new();
        for at in discovery.found.iter().filter(|at| at.uuid == uuid) {
            nodes.extend(node_at(&system.roots, &at.path, at.partition.as_deref())?);
        }
        if nodes.is_empty() && wanted == name {
            nodes = nodes_of(&system.roots, &uuid.to_string()).map_err(ArmError::Devices)?;
        }
        return only(nodes, name);
    }
    if wanted != name {
        return Err(ArmError::NoSuch { name: shown() });
    }
    node_at(&system.roots, Path::new(name), partition)?.ok_or_else(|| ArmError::NoDevice { target: shown() })
}

/// The rest of a name after a prefix, in upper or lower case.
fn strip<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn only(mut nodes: Vec<Node>, name: &str) -> Result<Node, ArmError> {
    let name = name.escape_debug().to_string();
    match nodes.len() {
        0 => Err(ArmError::NoSuch { name }),
        1 => Ok(nodes.remove(0)),
        _ => {
            let found = nodes.into_iter().map(|node| node.shown).collect::<Vec<_>>().join(", ");
            Err(ArmError::Several { name, found })
        }
    }
}

/// Checks whether a device can be a target, as far as possible without the module.
fn look(node: &Node, is_held: bool, owner: &Owner, warnings: &mut Vec<String>) -> Result<Planned, ArmError> {
    let target = node.shown.clone();
    // A space would end the parameter.
    if target.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err(ArmError::Unfit {
            target: target.escape_debug().to_string(),
            why: "its name has spaces".to_owned(),
        });
    }
    if node.is_made {
        return Err(ArmError::Made { target });
    }
    if node.is_held {
        return Err(ArmError::Held { target });
    }
    // Opened as for writing, which fails if it is mounted or otherwise in use; then closed, because the
    // module claims it exclusively. A device claimed by the module may be harvested meanwhile.
    let access = if is_held { Access::Glance } else { Access::Harvest };
    let unfit = |why: String| ArmError::Unfit { target: target.clone(), why };
    let opened = Target::open(&node.path, None, access)?;
    if let Some(user) = opened.user() {
        return Err(unfit(format!("it is {user}; use a partition that nothing else uses")));
    }
    let glance = glance(&opened, owner.machine()).map_err(|error| unfit(error.to_string()))?;
    let partition = &glance.partition;
    if let Some(defect) = partition.defect {
        return Err(unfit(defect.to_string()));
    }
    if owner.of_label(&partition.label) == Whose::AnotherMachine {
        warnings.push(format!(
            "{target}: it is another machine's: `savecore adopt {target}` makes it this machine's"
        ));
    }
    let waiting = partition.number_waiting();
    if let Some(other) = partition.other_version {
        warnings.push(format!("{target}: {other}: the next dump goes after it"));
    }
    let bad = glance.bad.as_ref().map(|bad| format!("block {} holds {}", bad.block, bad.holds));
    let foreign = partition.foreign.first();
    let foreign =
        foreign.map(|range| format!("blocks {} to {} belong to no dump", range.start, range.end - 1));
    if let Some(why) = foreign.or(bad) {
        warnings.push(format!("{target}: {why}, so a dump may be refused; see `savecore check`"));
    }
    Ok(Planned {
        uuid: uuid::Uuid::from_bytes(partition.uuid()),
        name: partition.label.name().to_owned(),
        is_nobodys: partition.label.machine().is_none(),
        waiting,
        named: target.clone(),
        device: target,
    })
}

/// All parameters for the module.
fn words(targets: &[Planned], options: &Options, kernel: &Kernel, warnings: &mut Vec<String>) -> String {
    let mut words = Vec::new();
    for Planned { device, uuid, .. } in targets {
        words.push(format!("target={device}"));
        words.push(format!("uuid={uuid}"));
    }
    words.extend(options.words());
    match (options.serial, kernel.console()) {
        (Serial::Port(port), _) => words.push(format!("serial={port:#x}")),
        (Serial::Console, Console::Port(port)) => words.push(format!("serial={port:#x}")),
        (Serial::Console, Console::Other(name)) => warnings.push(format!(
            "the console {name} is not a 16550 at an I/O port: it shows no progress during a dump"
        )),
        (Serial::None, _) | (Serial::Console, Console::None) => {}
    }
    let addresses = kernel.crash_notes();
    let bytes = |words: &[String]| words.iter().map(|word| word.len() + 1).sum::<usize>();
    if !addresses.is_empty() {
        let notes = addresses.iter().map(|address| format!("{address:#x}")).collect::<Vec<_>>().join(",");
        words.push(format!("notes={notes}"));
        // The newline counts, too. Without the addresses the module reads them from sysfs, as it does anyway.
        if bytes(&words) > MAX_WORDS || addresses.len() > MAX_NOTES {
            words.pop();
        }
    }
    words.join(" ")
}
