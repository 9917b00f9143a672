//! The kernel's diskdump module around a harvest: while it is armed, it keeps its targets to itself, so that nothing there can be
//! freed. It lets go of them when there is something to harvest, and is armed again behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use savecore::arming::{self, ArmError, Kernel, Module, System};
use savecore::boot::Config;
use savecore::source::node_at;
use savecore::targets::TargetName;

use super::arm;

/// The module, as a harvest finds it and leaves it.
pub(super) struct Rearm {
    system: System,
    module: Result<Module, ArmError>,
    /// What it has for itself.
    held: Vec<String>,
    /// Whether it was disarmed for the harvest and is not armed again yet.
    disarmed: Arc<AtomicBool>,
}

impl Rearm {
    pub(super) fn new(system: System) -> Rearm {
        let module = Module::of(&system);
        // One that says of itself what is not known here is told so when it is to be armed.
        let held = module.as_ref().ok().and_then(|module| module.held().ok()).unwrap_or_default();
        Rearm { system, module, held, disarmed: Arc::default() }
    }

    /// Whether one of these targets can only be read now.
    pub(super) fn holds(&self, names: &[TargetName]) -> bool {
        let node =
            |name: &TargetName| node_at(&self.system.roots, &name.path, name.partition.as_deref()).ok()?;
        !self.held.is_empty() && names.iter().filter_map(node).any(|node| self.held.contains(&node.shown))
    }

    /// Lets go of the targets.
    ///
    /// # Errors
    /// If the module refuses, as it does while it dumps.
    pub(super) fn disarm(&self) -> Result<(), ArmError> {
        if let Ok(module) = &self.module {
            module.disarm()?;
            self.disarmed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Says later, also when all else hangs, whether it is still disarmed because of the harvest.
    pub(super) fn watch(&self) -> Arc<AtomicBool> {
        self.disarmed.clone()
    }

    /// What the module has for itself.
    pub(super) fn held(&self) -> &[String] {
        &self.held
    }

    /// Arms, if the configuration says so, or if it was armed before: then on the same targets. Gives lines for a person, and
    /// the targets; `None` if there is nothing to do.
    ///
    /// # Errors
    /// Why it is not armed.
    pub(super) fn arm(&self, config: &Config) -> Result<Option<Rearmed>, ArmError> {
        let was_disarmed = self.disarmed.load(Ordering::Relaxed);
        let names = match (config.arm.boot, was_disarmed) {
            (true, _) if !self.held.is_empty() && !was_disarmed => return Ok(None),
            (true, _) => arm::names(config),
            (false, true) => self.held.clone(),
            (false, false) => return Ok(None),
        };
        if let Err(ArmError::NotLoaded) = &self.module {
            return Err(ArmError::NotLoaded);
        }
        let mut plan = arming::plan(&self.system, &names, None, &config.arm)?;
        let armed = arming::arm(&self.system, &mut plan, &config.arm)?;
        self.disarmed.store(false, Ordering::Relaxed);
        arming::tell_last(&self.system, &plan, &config.store);
        let mut warnings = plan.warnings.clone();
        warnings.extend(arm::warnings(&armed, &Kernel::of(&self.system)));
        let targets = plan.names().into_iter().map(str::to_owned).collect();
        Ok(Some(Rearmed { targets, warnings }))
    }
}

/// What came of it.
pub(super) struct Rearmed {
    /// The devices.
    pub(super) targets: Vec<String>,
    /// What a person should know.
    pub(super) warnings: Vec<String>,
}
