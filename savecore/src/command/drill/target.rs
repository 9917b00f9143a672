//! Can a kernel dump to a partition, and can the dump be read afterwards?

use savecore::arming::{Module, System};
use savecore::keys::public_text;
use savecore::ownership::Machine;
use savecore::partition::{self, Partition, Verdict, glance};
use savecore::source::{Access, Target, node_at};
use savecore::targets::{Opener, TargetName};

use super::super::{check, list};
use super::memory::{Fit, Memory};
use super::result::Drill;
use crate::output::{Bar, count};

/// Parameters of the check of targets.
pub(super) struct Look<'a> {
    /// Whether to check only a few blocks.
    pub(super) quick: bool,
    pub(super) opener: Option<&'a Opener>,
    pub(super) machine: Option<&'a Machine>,
    pub(super) system: &'a System,
    pub(super) memory: Option<&'a Memory>,
}

pub(super) fn look(name: &TargetName, with: &Look<'_>, drill: &mut Drill) {
    let Look { quick, opener, machine, system, memory } = *with;
    let target = match name.open(Access::Read) {
        Ok(target) => target,
        Err(error) => {
            drill.fail(&name.path.display().to_string(), error.to_string(), "");
            return;
        }
    };
    let shown = target.name().to_owned();
    let Some(mut partition) = pattern(&target, quick, machine, drill) else { return };
    partition.doubt(&target, machine);
    let waiting = partition.number_waiting();
    if waiting > 0 {
        let dumps = count(waiting, "dump waits", "dumps wait");
        drill.warn(
            &shown,
            format!("{dumps}, which leaves less room for the next"),
            "`savecore save` saves it",
        );
    }
    room(&shown, &partition, memory, drill);
    way(name, system, drill);
    key(&shown, &partition, opener, drill);
}

/// Label and pattern; returns the partition if it is a dump partition at all.
fn pattern(target: &Target, quick: bool, machine: Option<&Machine>, drill: &mut Drill) -> Option<Partition> {
    let shown = target.name();
    let advice = "see `savecore check`; `savecore format` formats it again";
    if quick {
        let looked =
            glance(target, machine).inspect_err(|error| drill.fail(shown, error.to_string(), "")).ok()?;
        match list::fault(&looked) {
            None => drill.ok(shown, "the label is whole, and so are the blocks that were checked"),
            Some(fault) => drill.fail(shown, fault, advice),
        }
        return Some(looked.partition);
    }
    let checked = partition::check(target, &mut Bar::new());
    let checked = checked.inspect_err(|error| drill.fail(shown, error.to_string(), "")).ok()?;
    match checked.verdict {
        Verdict::Ready | Verdict::Waiting => {
            let blocks = checked.partition.blocks;
            drill.ok(shown, format!("the label is whole, and so is every free block of {blocks}"));
        }
        Verdict::Damaged => {
            drill.fail(shown, check::why(&checked).unwrap_or_else(|| "it is not ready".to_owned()), advice);
        }
    }
    Some(checked.partition)
}

/// Compares the partition's size with the memory's.
fn room(shown: &str, partition: &Partition, memory: Option<&Memory>, drill: &mut Drill) {
    let free = partition.blocks.saturating_sub(partition.free).saturating_mul(4096);
    match memory.map(|memory| memory.fits(free)) {
        Some(Fit::Yes(found)) => drill.ok(shown, found),
        Some(Fit::Perhaps(found)) => {
            let advice =
                "what does not fit is cut off: set a dump level or compression, or use a larger partition";
            drill.warn(shown, found, advice);
        }
        None => {}
    }
}

/// Whether a crashed kernel can reach the disk.
fn way(name: &TargetName, system: &System, drill: &mut Drill) {
    let Ok(Some(node)) = node_at(&system.roots, &name.path, name.partition.as_deref()) else { return };
    if node.is_made {
        let found = "it is made of other devices, and no crashed kernel can write there";
        drill.warn(&node.shown, found, "use a plain partition of a disk");
    }
    let is_armed =
        Module::of(system).and_then(|module| module.held()).is_ok_and(|held| held.contains(&node.shown));
    if node.is_joined && !is_armed {
        drill.warn(
            &node.shown,
            "the kernel joins several paths to it (NVMe multipath), and may not be able to dump there",
            "if `savecore arm` refuses it: boot with the parameter nvme_core.multipath=N",
        );
    }
}

fn key(shown: &str, partition: &Partition, opener: Option<&Opener>, drill: &mut Drill) {
    match (partition.label.recipient(), opener) {
        (None, None) => {}
        (None, Some(opener)) => drill.warn(
            shown,
            format!("dumps there are not encrypted, so {} is not needed", opener.file),
            "`savecore format --recipient KEY` encrypts them",
        ),
        (Some(recipient), None) => drill.ok(
            shown,
            format!("dumps are encrypted to {} and are saved as they are", public_text(recipient)),
        ),
        (Some(recipient), Some(opener)) if *recipient == opener.identity.public_key() => {
            drill.ok(shown, format!("{} decrypts the dumps that are written there", opener.file));
        }
        (Some(recipient), Some(opener)) => drill.fail(
            shown,
            format!(
                "dumps are encrypted to {}, and {} is the key to {}",
                public_text(recipient),
                opener.file,
                public_text(&opener.identity.public_key())
            ),
            "set the right `identity`, or run `savecore format --recipient` again",
        ),
    }
}
