//! Targets of which one may fail without the others.

use crate::Error;
use crate::ownership::Machine;
use crate::partition::Search;
use crate::source::{Access, Progress};
use crate::targets::{Opener, TargetName, Targets};

/// Targets that were opened, and why others were not.
pub struct Opened {
    /// The targets, those together that a dump is striped over.
    pub groups: Vec<Targets>,
    /// What kept others from being opened.
    pub errors: Vec<Error>,
}

impl Opened {
    /// Opens each of the targets that can be opened. One that is named twice, also by a link, is opened once.
    pub fn open(
        names: &[TargetName],
        access: Access,
        opener: Option<&Opener>,
        machine: Option<&Machine>,
        progress: &mut dyn Progress,
    ) -> Opened {
        let mut all = Targets::default();
        let mut errors = Vec::new();
        let mut seen = Vec::new();
        for name in names {
            if let Ok(real) = name.path.canonicalize() {
                let place = (real, &name.partition);
                if seen.contains(&place) {
                    continue;
                }
                seen.push(place);
            }
            match Targets::open(std::slice::from_ref(name), access, Search::Quick, opener, machine, progress)
            {
                Ok(one) => {
                    all.targets.extend(one.targets);
                    all.partitions.extend(one.partitions);
                    all.copies.extend(one.copies);
                    all.watches.extend(one.watches);
                }
                Err(error) => errors.push(error),
            }
        }
        Opened { groups: groups(all), errors }
    }

    /// Whether a dump waits, or one that was saved is not cleared to the end.
    pub fn has_work(&self) -> bool {
        self.groups.iter().flat_map(|group| &group.partitions).any(|partition| !partition.dumps.is_empty())
    }

    /// The targets' names.
    pub fn names(&self) -> Vec<&str> {
        self.groups.iter().flat_map(|group| &group.targets).map(|target| target.name()).collect()
    }
}

/// Takes targets apart that share no dump.
fn groups(all: Targets) -> Vec<Targets> {
    let mut group_of: Vec<usize> = (0..all.targets.len()).collect();
    for dump in all.dumps() {
        let members: Vec<usize> = dump.iter().map(|place| group_of[place.0]).collect();
        let Some(first) = members.iter().min().copied() else { continue };
        for group in &mut group_of {
            if members.contains(group) {
                *group = first;
            }
        }
    }
    let mut groups: Vec<(usize, Targets)> = Vec::new();
    let parts = all.targets.into_iter().zip(all.partitions).zip(all.copies).zip(all.watches);
    for (group, (((target, partition), copy), watch)) in group_of.into_iter().zip(parts) {
        let at = groups.iter().position(|(number, _)| *number == group).unwrap_or_else(|| {
            groups.push((group, Targets::default()));
            groups.len() - 1
        });
        let targets = &mut groups[at].1;
        targets.targets.push(target);
        targets.partitions.push(partition);
        targets.copies.push(copy);
        targets.watches.push(watch);
    }
    groups.into_iter().map(|(_, targets)| targets).collect()
}
