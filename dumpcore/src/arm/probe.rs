//! What arming examines: memory, and disks that the dump has for itself. Also derives the keys that targets
//! demand.

use zeroize::Zeroizing;

use crate::arena::Arena;
use crate::arm::error::ArmError;
use crate::armed::ArmedTarget;
use crate::device::Health;
use crate::format::Uuid;
use crate::format::crypt::{self, Key};
use crate::helpers::coordinator::Coordinator;
use crate::limits::MAX_TARGETS;
use crate::memory::class::{ClassRun, PageClass};
use crate::memory::map::{self, PfnRange};
use crate::partition::label::Labelled;
use crate::partition::member::{Member, Members};
use crate::partition::pool::Pool;
use crate::partition::scheduler::IoScheduler;
use crate::partition::window::Window;
use crate::partition::{find, label};
use crate::platform::Platform;
use crate::stack::RedZones;
use crate::wait::Wait;

/// The platform's memory, as a dump sees it.
pub(super) struct Memory<'a> {
    pub(super) ram: &'a [PfnRange],
    pub(super) pages: u64,
    /// Whether the platform knows the class of any page.
    pub(super) classes: bool,
    /// Whether any page is known to be the kernel's.
    pub(super) kernel: bool,
}

/// Copies the memory map, and finds out whether the platform knows classes of pages.
pub(super) fn look_at_memory<'a>(
    platform: &dyn Platform,
    arena: &mut Arena<'a>,
) -> Result<Memory<'a>, ArmError> {
    let ram = map::take(platform, arena)?;
    let pages = ram.iter().fold(0_u64, |sum, range| sum.saturating_add(range.pages()));
    if pages == 0 {
        return Err(ArmError::NoMemory);
    }
    let mut memory = Memory { ram, pages, classes: false, kernel: false };
    for range in ram {
        let mut at = range.start;
        // Each turn advances by at least one page, until both are known.
        while at < range.end && !memory.kernel {
            let ClassRun { class, pages } = platform.class(at);
            memory.classes |= class != PageClass::Unknown;
            memory.kernel |= class.is_kernel();
            at = at.saturating_add(pages.max(1));
        }
    }
    Ok(memory)
}

/// Derives the key of each target that demands one, in place. The ephemeral secret is not kept. The caller
/// wipes the stack afterwards.
#[inline(never)]
pub(super) fn derive_keys(
    platform: &dyn Platform,
    targets: &mut [Option<ArmedTarget<'_>>; MAX_TARGETS],
    demanded: &[bool; MAX_TARGETS],
) -> Result<(), ArmError> {
    let mut secret = Zeroizing::new([0; 32]);
    let mut public = None;
    for (number, (target, demanded)) in targets.iter_mut().zip(demanded).enumerate() {
        let Some(target) = target.as_mut().filter(|_| *demanded) else { continue };
        if public.is_none() {
            if !platform.entropy(&mut secret) {
                return Err(ArmError::NoEntropy { target: number });
            }
            public = Some(crypt::public_key(&secret));
        }
        let ephemeral = public.unwrap_or_default();
        let recipient = &target.settings.recipient;
        if !target.key.insert(Key::NONE).derive(&secret, recipient, &ephemeral, recipient) {
            return Err(ArmError::BadRecipient { target: number });
        }
        target.settings.ephemeral = ephemeral;
    }
    Ok(())
}

/// The resources for probing a disk.
pub(super) struct Means<'m, 'c, 'a> {
    pub(super) platform: &'m dyn Platform,
    pub(super) pool: &'m mut Pool,
    pub(super) coordinator: &'m mut Coordinator<'c, 'a>,
    pub(super) zones: &'m RedZones,
}

/// Probes a disk that no one else uses: is there a label, and room after the waiting dumps? Shuts it down
/// afterwards.
pub(super) fn look(
    number: usize,
    target: &mut ArmedTarget<'_>,
    uuid: Option<&Uuid>,
    means: &mut Means<'_, '_, '_>,
    wait: &Wait<'_>,
) -> Result<Labelled, ArmError> {
    let Means { pool, coordinator, zones, .. } = means;
    let device = |error| ArmError::Device { target: number, error };
    let unfit = |unfit| ArmError::Unfit { target: number, unfit };
    let mut window = Window::new(target.device, target.settings.bounds(), &mut target.scratch, zones);
    if let Health::Unusable(error) = window.device().sanity_check(wait) {
        return Err(device(error));
    }
    let found = window.quiesce(wait).map_err(device).and_then(|()| {
        label::check_size(&mut window).map_err(unfit)?;
        label::check_label(&mut window, uuid, wait).map_err(unfit)
    });
    let mut members = Members::new();
    let uuid = found.as_ref().map_or([0; 16], |found| found.uuid);
    members.push(Member::new(number, window, &uuid, None, target.state));
    let mut scheduler = IoScheduler { pool, members: &mut members, coordinator, checked: 0 };
    let placed = match &found {
        Ok(_) => find::find(&mut scheduler, 0, wait).map(|_| ()).map_err(unfit),
        Err(_) => Ok(()),
    };
    // Whatever was found, the device is shut down. If that fails, it is not a device to rely on.
    let settled = scheduler.pool.settle(scheduler.members, 0, wait);
    let rest = settled.and_then(|()| match scheduler.members.get_mut(0) {
        Some(member) => member.window.device().shutdown(wait),
        None => Ok(()),
    });
    let found = found?;
    placed?;
    rest.map_err(device)?;
    Ok(found)
}
