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
mod missing;
mod module;
mod options;
mod plan;
mod told;

use std::path::{Path, PathBuf};

pub use error::ArmError;
pub use held::{Held, KernelOn};
pub use kernel::{Kdump, Kernel, Panic, Watchdog};
pub use last::tell_last;
pub(crate) use module::is_armed_on;
pub use module::{Lock, Module, State, Status};
pub use options::Options;
pub use plan::{LEFT_ALONE, MAX_TARGETS, MAX_WORDS, Plan, Planned, named, plan};
pub use told::{ArmedNow, Told, ToldTarget};

use crate::ownership::Owner;
use crate::source::Roots;

/// Where the running kernel shows itself.
#[derive(Clone, Debug)]
pub struct System {
    /// sysfs and the devices' nodes.
    pub roots: Roots,
    /// procfs, in /proc.
    pub proc: PathBuf,
    /// The root of all file systems.
    pub root: PathBuf,
}

impl System {
    /// The running one.
    pub fn running() -> System {
        System { roots: Roots::system(), proc: "/proc".into(), root: "/".into() }
    }

    /// What tells this machine's partitions from those of others: what the module is armed on was named by somebody who may.
    pub fn owner(&self) -> Owner {
        let mut owner = Owner::of(&self.root);
        let held = Module::of(self).and_then(|module| module.held()).unwrap_or_default();
        owner.take_named(held.iter().map(|name| self.node(name)));
        owner
    }

    /// Where a device is opened that the kernel calls so.
    fn node(&self, name: &str) -> PathBuf {
        name.strip_prefix("/dev/").map_or_else(|| name.into(), |name| self.roots.dev.join(name))
    }

    /// One whose file systems are below another root, with files in place of devices.
    pub fn below(root: &Path) -> System {
        System { roots: Roots::below(root), proc: root.join("proc"), root: root.to_owned() }
    }
}

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
