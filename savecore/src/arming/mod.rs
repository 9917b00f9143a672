//! Arms a Linux: tells its diskdump module where to dump to, and how.
//!
//! 1. [`plan`]: resolves names to the kernel's devices, and refuses whatever the module would refuse, with
//!    the reason. Adds the facts that only userspace knows: the addresses of the crash notes, and the serial
//!    port of the console.
//! 2. [`arm`]: if a crash kernel is loaded, makes it wait for the dump; then passes the module its
//!    parameters.
//! 3. [`tell_last`]: reports the result of the last dump to the module.
//! 4. [`Module`]: the module's status, and disarming; [`Held`]: the meaning of the status for a dump
//!    partition.

mod error;
mod held;
mod kernel;
mod last;
mod limits;
mod missing;
mod module;
mod options;
mod plan;
mod system;
mod told;

pub use error::ArmError;
pub use held::{Held, KernelOn};
pub use kernel::{Kdump, Kernel, Panic, Watchdog};
pub use last::tell_last;
pub use limits::{MAX_TARGETS, MAX_WORDS};
pub use module::{Lock, Module, State, Status};
pub use options::Options;
pub(crate) use options::byte_size;
pub use plan::{LEFT_ALONE, Plan, Planned, named, plan};
pub use system::System;
pub use told::{ArmedNow, Told, ToldTarget};

/// The result of arming.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Armed {
    /// The module's status afterwards.
    pub status: Status,
    /// Whether a crash kernel that would have run first was put after the dump.
    pub kdump_put_behind: bool,
}

/// Arms the kernel as planned. Drops targets that the module refuses from the plan, as long as another one is
/// left. If none is left, the module stays armed as it was, if possible. If a loaded crash kernel would run
/// first, and the options include `crash_kexec_post_notifiers`, sets that kernel parameter before arming, and
/// resets it if the module refuses.
///
/// # Errors
/// [`ArmError::Refused`] with the module's own reason; or if the module is not loaded, or the kernel
/// parameter cannot be set.
pub fn arm(system: &System, plan: &mut Plan, options: &Options) -> Result<Armed, ArmError> {
    let module = Module::of(system)?;
    let held = module.held().unwrap_or_default();
    let kernel = Kernel::of(system);
    let put_behind = kernel.kdump() == Kdump::First && options.crash_kexec_post_notifiers;
    if put_behind {
        kernel.put_kdump_behind(true)?;
    }
    while let Err(error) = module.arm(&plan.words) {
        let why = match &error {
            ArmError::Write { error, .. } => match module.reason() {
                Ok(reason) if !reason.is_empty() => reason,
                _ => error.to_string(),
            },
            other => other.to_string(),
        };
        if plan.leave_out(&why, options, &kernel) {
            continue;
        }
        if put_behind {
            // The module's reason is the one that matters.
            let _ = kernel.put_kdump_behind(false);
        }
        // The module restores its earlier state if possible.
        let is_armed = module.state().is_ok_and(|state| state == State::Armed);
        let (kept, lost) = if is_armed { (held, Vec::new()) } else { (Vec::new(), held) };
        let targets = plan.names().join(", ");
        // The reason starts with the target that it is about, often the only one.
        let why = why.strip_prefix(&format!("{targets}: ")).unwrap_or(&why).to_owned();
        return Err(ArmError::Refused { targets, why, kept, lost });
    }
    Ok(Armed { status: module.status()?, kdump_put_behind: put_behind })
}
