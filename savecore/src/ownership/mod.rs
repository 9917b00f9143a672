//! The owner of a dump partition. It is determined by the label, by a list on this machine, or by the
//! partition's type; and some kinds of devices are used only if the user names them.
//!
//! A disk of another machine has our label too: a guest's disk, a LUN visible to two hosts, a USB stick.
//! Harvesting such a dump would steal it from its owner.

mod list;
mod machine;

use std::fmt;
use std::path::{Path, PathBuf};

use dumpcore::format::Uuid;
use dumpcore::format::label::Label;

pub use list::{List, ListError};
pub use machine::Machine;

use crate::source::{Discovery, Labelled};

/// The owner of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// This machine's.
    ThisMachine,
    /// Another machine's: its label names a different machine.
    AnotherMachine,
    /// Unowned: its label names no machine, and this machine does not know it.
    Nobody,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Whose::ThisMachine => "this machine's",
            Whose::AnotherMachine => "another machine's",
            Whose::Nobody => "nobody's",
        })
    }
}

/// Why a partition with our label is used only if named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftAlone {
    /// The kind of its device, whatever the label says.
    Device(&'static str),
    /// Its owner.
    Owner(Whose),
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeftAlone::Device(kind) => f.write_str(kind),
            LeftAlone::Owner(whose) => whose.fmt(f),
        }
    }
}

/// The rule that distinguishes this machine's partitions.
#[derive(Clone, Default, Debug)]
pub struct Owner {
    machine: Option<Machine>,
    list: List,
    /// Devices named by the user.
    named: Vec<PathBuf>,
}

impl Owner {
    /// The rule for the system with its file systems below `root`. Without an id, or with an unreadable list,
    /// it owns fewer partitions.
    pub fn of(root: &Path) -> Owner {
        Owner {
            machine: Machine::of(root),
            list: List::read(&list::path(root)).unwrap_or_default(),
            named: Vec::new(),
        }
    }

    /// Devices named by the user elsewhere, for example as the kernel's targets, belong to this machine,
    /// whatever their labels say.
    pub fn take_named(&mut self, devices: impl IntoIterator<Item = PathBuf>) {
        self.named.extend(devices);
    }

    /// This machine, if it has an id.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// The owner of the partition with this label. If the label names no machine, the list decides.
    pub fn of_label(&self, label: &Label) -> Whose {
        self.whose(label.uuid, label.machine())
    }

    /// The owner of a partition that was found.
    pub fn of_found(&self, found: &Labelled) -> Whose {
        match self.whose(found.uuid.into_bytes(), found.machine.as_ref()) {
            Whose::Nobody if found.is_for_dumps => Whose::ThisMachine,
            whose => whose,
        }
    }

    fn whose(&self, uuid: Uuid, machine: Option<&Uuid>) -> Whose {
        match machine {
            Some(named) if self.machine.as_ref().is_some_and(|own| own.id == *named) => Whose::ThisMachine,
            Some(_) => Whose::AnotherMachine,
            None if self.list.has(uuid) => Whose::ThisMachine,
            None => Whose::Nobody,
        }
    }

    /// Why a partition that was found is used only if named; `None` for this machine's own.
    pub fn leaves_alone(&self, found: &Labelled) -> Option<LeftAlone> {
        if found.partition.is_none() && self.named.contains(&found.path) {
            return None;
        }
        match (found.apart, self.of_found(found)) {
            (Some(kind), _) => Some(LeftAlone::Device(kind)),
            (None, Whose::ThisMachine) => None,
            (None, whose) => Some(LeftAlone::Owner(whose)),
        }
    }

    /// Separates this machine's own partitions from those that are left alone.
    pub fn sort<'d>(&self, discovery: &'d Discovery) -> Sorted<'d> {
        let mut sorted = Sorted { own: Vec::new(), left_alone: Vec::new() };
        for found in &discovery.found {
            match self.leaves_alone(found) {
                Some(why) => sorted.left_alone.push((found, why)),
                None => sorted.own.push(found),
            }
        }
        sorted
    }
}

/// The result of [`Owner::sort`].
pub struct Sorted<'d> {
    /// This machine's own partitions.
    pub own: Vec<&'d Labelled>,
    /// The others, each with the reason.
    pub left_alone: Vec<(&'d Labelled, LeftAlone)>,
}

/// Maximum number of partitions to name in a line: a host has hundreds of guests.
const NAMED: usize = 3;

impl Sorted<'_> {
    /// The partitions left alone, and why, in a clause; `None` if there are none.
    pub fn left_alone(&self) -> Option<String> {
        let (named, others) = self.left_alone.split_at(self.left_alone.len().min(NAMED));
        let mut told: Vec<String> = named.iter().map(|(found, why)| format!("{found} ({why})")).collect();
        if !others.is_empty() {
            told.push(format!("{} more", others.len()));
        }
        (!told.is_empty()).then(|| told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(machine: Option<Uuid>) -> Labelled {
        Labelled {
            path: "/dev/sda2".into(),
            partition: None,
            uuid: uuid::Uuid::from_u128(7),
            name: String::new(),
            blocks: 100,
            machine,
            is_for_dumps: false,
            apart: None,
        }
    }

    #[test]
    fn a_label_that_names_a_machine_decides_and_the_list_and_the_type_only_where_it_names_none() {
        let machine = Machine::from_text("00112233445566778899aabbccddeeff").unwrap();
        let own = Some(machine.id);
        let mut owner = Owner { machine: Some(machine), ..Owner::default() };
        assert_eq!(owner.leaves_alone(&found(own)), None);
        assert_eq!(owner.leaves_alone(&found(None)), Some(LeftAlone::Owner(Whose::Nobody)));
        let another = LeftAlone::Owner(Whose::AnotherMachine);
        assert_eq!(owner.leaves_alone(&found(Some([9; 16]))), Some(another));
        let typed = |machine| Labelled { is_for_dumps: true, ..found(machine) };
        assert_eq!(owner.leaves_alone(&typed(None)), None);
        assert_eq!(owner.leaves_alone(&typed(Some([9; 16]))), Some(another));
        owner.list.insert(found(None).uuid.into_bytes());
        assert_eq!(owner.leaves_alone(&found(None)), None);
        assert_eq!(owner.leaves_alone(&found(Some([9; 16]))), Some(another));
        // The kind of the device takes precedence.
        let apart = Labelled { apart: Some("a loop device"), ..found(own) };
        assert_eq!(owner.leaves_alone(&apart), Some(LeftAlone::Device("a loop device")));
        // Partitions named by the user are used.
        owner.take_named(["/dev/sda2".into()]);
        assert_eq!(owner.leaves_alone(&apart), None);
        owner.named.clear();
        // A machine without an id cannot recognise its own.
        owner.machine = None;
        assert_eq!(owner.leaves_alone(&found(own)), Some(another));
    }

    #[test]
    fn what_is_left_alone_is_one_line_however_much_it_is() {
        let discovery = Discovery { found: vec![found(Some([9; 16])); 200], ..Discovery::default() };
        let sorted = Owner::default().sort(&discovery);
        assert!(sorted.own.is_empty());
        let one = "/dev/sda2 (another machine's)";
        assert_eq!(sorted.left_alone().unwrap(), format!("{one}, {one}, {one}, 197 more"));
        assert_eq!(Owner::default().sort(&Discovery::default()).left_alone(), None);
    }
}
