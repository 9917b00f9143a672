//! The name of the machine that crashed: its crashes are filed under this name, not under that of the machine
//! that saves them.

use dumpcore::format::label::Label;

use super::options::Options;
use crate::corefile::node_name;
use crate::dump::{Dump, DumpRef};
use crate::host_name;
use crate::ownership::Machine;
use crate::targets::{OpenTarget, Targets};

/// Whether a label names another machine.
pub(super) fn is_foreign(label: &Label, machine: Option<&Machine>) -> bool {
    label.machine().is_some_and(|named| machine.is_none_or(|machine| machine.id != *named))
}

/// The host name for a dump's folder. The user's option comes first; then, for this machine's own dumps, the
/// configuration; then the dump itself. A dump without a name is this machine's if its label says so, or
/// names no machine and is on a device. Otherwise it gets the partition's name, or the partition's uuid.
pub(super) fn of(dump: &Dump<'_>, targets: &Targets, places: &[DumpRef], options: &Options<'_>) -> String {
    if let Some(host) = &options.host {
        return host.clone();
    }
    let Some(OpenTarget { target, partition, .. }) = targets.of(places).next() else { return host_name() };
    let label = &partition.label;
    let is_foreign = is_foreign(label, options.machine.as_ref());
    if let Some(host) = options.own_host.as_ref().filter(|_| !is_foreign) {
        return host.clone();
    }
    if let Some(name) = node_name(dump) {
        return name;
    }
    let is_own = !is_foreign && (label.machine().is_some() || target.is_device());
    match label.name() {
        _ if is_own => host_name(),
        "" => {
            let uuid = uuid::Uuid::from_bytes(label.uuid).simple().to_string();
            format!("unknown-{}", uuid.get(..8).unwrap_or_default())
        }
        name => name.to_owned(),
    }
}
