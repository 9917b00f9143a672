//! Arming a Linux: its diskdump module is told where to dump to, and how.
//!
//! 1. [`plan`]: what is named becomes devices as the kernel calls them, and whatever would be refused is refused here, with the
//!    reason. What only userspace can find out comes along: where the registers of stopped CPUs are kept, and which serial port is
//!    the console.
//! 2. [`arm`]: with a crash kernel loaded, that one is made to wait after the dump; then the module gets its parameters.
//! 3. [`tell_last`]: it is told what became of the last dump.
//! 4. [`Module`]: what it says of itself, and how it is disarmed; [`Held`]: what that means for a dump partition.

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

/// What arming came to.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Armed {
    /// What the module says of itself now.
    pub status: Status,
    /// Whether the crash kernel, which went first, was put after the dump.
    pub kdump_put_behind: bool,
}

/// Arms the kernel as planned. Targets that the module refuses are left out of the plan, as long as there is another one. If none is
/// left, the module stays armed as it was, if it can. With a crash kernel loaded that would go first, and `crash_kexec_post_notifiers` among the options,
/// that parameter of the kernel is set before, and taken back if the module refuses.
///
/// # Errors
/// [`ArmError::Refused`] with the module's own reason; if the module is not there, or the kernel's parameter cannot be set.
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
            // Why the module refused is what matters.
            let _ = kernel.put_kdump_behind(false);
        }
        // It goes back to what it had, if it can.
        let is_armed = module.state().is_ok_and(|state| state == State::Armed);
        let (kept, lost) = if is_armed { (held, Vec::new()) } else { (Vec::new(), held) };
        let targets = plan.names().join(", ");
        // It begins with the target that it is about, of which there is often one only.
        let why = why.strip_prefix(&format!("{targets}: ")).unwrap_or(&why).to_owned();
        return Err(ArmError::Refused { targets, why, kept, lost });
    }
    Ok(Armed { status: module.status()?, kdump_put_behind: put_behind })
}
