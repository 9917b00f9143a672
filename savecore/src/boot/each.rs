//! Targets that may fail independently of each other.

use crate::Error;
use crate::ownership::Machine;
use crate::partition::Search;
use crate::source::{Access, Progress};
use crate::targets::{Opener, TargetName, Targets};

/// Targets that were opened, and the errors of the others.
pub struct Opened {
    /// The targets, grouped by dumps striped over several of them.
    pub groups: Vec<Targets>,
    /// Errors of those that could not be opened.
    pub errors: Vec<Error>,
}

impl Opened {
    /// Opens every target that can be opened. One that is named twice, even through a link, is opened once.
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
                Ok(one) => all.open.extend(one.open),
                Err(error) => errors.push(error),
            }
        }
        Opened { groups: groups(all), errors }
    }

    /// Whether a dump is waiting, or a saved one is not completely cleared.
    pub fn has_work(&self) -> bool {
        self.groups.iter().flat_map(|group| &group.open).any(|open| !open.partition.dumps.is_empty())
    }

    /// The targets' names.
    pub fn names(&self) -> Vec<&str> {
        self.groups.iter().flat_map(|group| &group.open).map(|open| open.target.name()).collect()
    }
}

/// Separates targets that share no dump.
fn groups(all: Targets) -> Vec<Targets> {
    let mut group_of: Vec<usize> = (0..all.open.len()).collect();
    for dump in all.dumps() {
        let members: Vec<usize> = dump.iter().map(|place| group_of[place.target]).collect();
        let Some(first) = members.iter().min().copied() else { continue };
        for group in &mut group_of {
            if members.contains(group) {
                *group = first;
            }
        }
    }
    let mut groups: Vec<(usize, Targets)> = Vec::new();
    for (group, open) in group_of.into_iter().zip(all.open) {
        match groups.iter_mut().find(|(number, _)| *number == group) {
            Some((_, targets)) => targets.open.push(open),
            None => groups.push((group, Targets { open: vec![open] })),
        }
    }
    groups.into_iter().map(|(_, targets)| targets).collect()
}
