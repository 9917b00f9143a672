//! The kernel's diskdump module at a harvest: it is armed first, and stays armed. A crash meanwhile is dumped after what waits, or to
//! the next target.

use savecore::arming::{self, ArmError, Kernel, Module, System};
use savecore::boot::Config;

use super::arm;

/// The module, as a harvest finds it.
pub(super) struct Rearm {
    system: System,
    module: Result<Module, ArmError>,
    /// What it is armed on.
    held: Vec<String>,
}

impl Rearm {
    pub(super) fn new(system: System) -> Rearm {
        let module = Module::of(&system);
        // One that says of itself what is not known here is told so when it is to be armed.
        let held = module.as_ref().ok().and_then(|module| module.held().ok()).unwrap_or_default();
        Rearm { system, module, held }
    }

    /// What it is armed on already.
    pub(super) fn held(&self) -> &[String] {
        &self.held
    }

    /// Arms, if the configuration says so and it is not armed already; when a disk `has_come`, also if it is not armed on just what it
    /// should be. Gives lines for a person, and the targets; `None` if there is nothing to do.
    ///
    /// # Errors
    /// Why it is not armed.
    pub(super) fn arm(&self, config: &Config, has_come: bool) -> Result<Option<Rearmed>, ArmError> {
        if !config.arm.boot || !has_come && !self.held.is_empty() {
            return Ok(None);
        }
        let module = match &self.module {
            Ok(module) => module,
            Err(ArmError::NotLoaded) => return Err(ArmError::NotLoaded),
            Err(_) => &Module::of(&self.system)?,
        };
        // Several disks may come at once, each with a savecore of its own; the first one that has the lock arms on all of them.
        let _lock = module.lock()?;
        let mut plan = arming::plan(&self.system, &arm::names(config)?, None, &config.arm)?;
        if has_come && module.is_armed_on(&self.system, &plan.names()) {
            return Ok(None);
        }
        let armed = arming::arm(&self.system, &mut plan, &config.arm)?;
        let mut warnings = plan.warnings.clone();
        warnings.extend(arm::note_owned(&self.system, &plan));
        warnings.extend(arm::warnings(&armed, &Kernel::of(&self.system)));
        let targets = plan.names().into_iter().map(str::to_owned).collect();
        Ok(Some(Rearmed { targets, warnings }))
    }

    /// Tells the module what became of the last dump, since it is on no target any more.
    pub(super) fn tell_last(&self, store: &str) {
        arming::tell_last(&self.system, store);
    }
}

/// What came of it.
pub(super) struct Rearmed {
    /// The devices.
    pub(super) targets: Vec<String>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}
