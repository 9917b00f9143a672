//! The targets of a dump: the part of the arena that each takes, and what their labels say.

use super::config::{Config, Ownership, Target};
use super::error::ArmError;
use super::probe::{Means, look};
use crate::arena::Arena;
use crate::armed::{ArmedTarget, TargetSettings};
use crate::device::Geometry;
use crate::format::cipher::PublicKey;
use crate::format::label::MIN_BLOCKS;
use crate::format::{BLOCK_SIZE, Uuid};
use crate::limits::MAX_TARGETS;
use crate::partition::label::{self, Labelled};
use crate::partition::member::MemberState;
use crate::partition::unfit::Unfit;
use crate::partition::window::Scratch;
use crate::wait::Wait;

/// What the caller said of a target that the armed state need not keep.
#[derive(Clone, Copy)]
struct Asked {
    ownership: Ownership,
    uuid: Option<Uuid>,
    recipient: Option<PublicKey>,
}

/// The targets to be armed.
pub(super) struct Targets<'a> {
    pub(super) armed: [Option<ArmedTarget<'a>>; MAX_TARGETS],
    asked: [Asked; MAX_TARGETS],
    pub(super) count: usize,
    /// Requests that all devices together can have in flight.
    pub(super) depth: usize,
    /// The largest request that all of the devices accept, in bytes.
    pub(super) max_transfer: usize,
}

impl<'a> Targets<'a> {
    /// Takes the targets, each with its part of the arena.
    pub(super) fn take(
        targets: &mut dyn Iterator<Item = Target<'a>>,
        arena: &mut Arena<'a>,
    ) -> Result<Targets<'a>, ArmError> {
        let nothing = Asked { ownership: Ownership::Shared, uuid: None, recipient: None };
        let mut taken = Targets {
            armed: [const { None }; MAX_TARGETS],
            asked: [nothing; MAX_TARGETS],
            count: 0,
            depth: 0,
            max_transfer: usize::MAX,
        };
        for (number, target) in targets.enumerate() {
            let slots = taken.armed.get_mut(number).zip(taken.asked.get_mut(number));
            let (armed, asked) = slots.ok_or(ArmError::TooManyTargets)?;
            taken.depth = taken.depth.saturating_add(target.device.depth());
            taken.max_transfer = taken.max_transfer.min(target.device.max_transfer());
            *asked = Asked { ownership: target.ownership, uuid: target.uuid, recipient: target.recipient };
            *armed = Some(take_target(number, target, arena)?);
            taken.count = number.saturating_add(1);
        }
        if taken.count == 0 { Err(ArmError::NoTargets) } else { Ok(taken) }
    }

    /// Checks that no two targets are on one controller: a takeover would reset both.
    pub(super) fn check_controllers(&self) -> Result<(), ArmError> {
        let controllers = || self.armed.iter().map(|target| target.as_ref()?.device.controller());
        for (target, controller) in controllers().enumerate() {
            let same = |other: Option<u64>| other.is_some() && other == controller;
            if controllers().take(target).any(same) {
                return Err(ArmError::OneController { target });
            }
        }
        Ok(())
    }

    /// Identifies the partitions, by their labels or by what the caller knows. Returns which of them demand
    /// encryption.
    pub(super) fn identify(
        &mut self,
        means: &mut Means<'_, '_, '_>,
        config: &Config<'_>,
    ) -> Result<[bool; MAX_TARGETS], ArmError> {
        let mut demanded = [false; MAX_TARGETS];
        for (number, (target, asked)) in self.armed.iter_mut().zip(&self.asked).enumerate() {
            let Some(target) = target else { continue };
            let found = match asked.ownership {
                Ownership::Shared => {
                    let uuid = asked.uuid.ok_or(ArmError::UuidMissing { target: number })?;
                    Labelled { uuid, recipient: asked.recipient }
                }
                Ownership::Exclusive => {
                    let end = means.platform.now().saturating_add(config.budget);
                    let wait = Wait::new(means.platform, None, end);
                    let found = look(number, target, asked.uuid.as_ref(), means, &wait)?;
                    if asked.recipient.is_some() {
                        label::check_recipient(found.recipient.as_ref(), asked.recipient.as_ref())
                            .map_err(|unfit| ArmError::Unfit { target: number, unfit })?;
                    }
                    found
                }
            };
            target.settings.uuid = found.uuid;
            if let Some(recipient) = found.recipient {
                target.settings.recipient = recipient;
                if let Some(demanded) = demanded.get_mut(number) {
                    *demanded = true;
                }
            } else if demanded.contains(&true) && !config.clear_after_encrypted {
                return Err(ArmError::InTheClear { target: number });
            }
        }
        Ok(demanded)
    }
}

/// Takes a target's part of the arena.
fn take_target<'a>(
    number: usize,
    target: Target<'a>,
    arena: &mut Arena<'a>,
) -> Result<ArmedTarget<'a>, ArmError> {
    let Target { device, first_block, blocks, .. } = target;
    if blocks < MIN_BLOCKS {
        return Err(ArmError::TooSmall { target: number, blocks });
    }
    let end = first_block.saturating_add(blocks);
    if let Some(Geometry { blocks }) = device.geometry()
        && end > blocks
    {
        return Err(ArmError::Unfit { target: number, unfit: Unfit::BeyondDevice { end, blocks } });
    }
    Ok(ArmedTarget {
        settings: TargetSettings {
            first_block,
            blocks,
            uuid: [0; 16],
            recipient: [0; 32],
            ephemeral: [0; 32],
        },
        device,
        scratch: Scratch::new(arena.dma(BLOCK_SIZE, BLOCK_SIZE)?),
        state: arena.place(MemberState::new())?,
        key: None,
    })
}
