//! The kernel's diskdump module at a harvest: it is armed first, and stays armed. A crash meanwhile is dumped after what waits, or to
//! the next target.

use savecore::arming::{self, ArmError, ArmedNow, Kernel, Module, System, Told};
use savecore::boot::Config;
use savecore::dump::utc;

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

    /// Whether the kernel is not armed now, and is to be.
    pub(super) fn is_to_be_armed(&self, config: &Config) -> bool {
        self.module.is_ok() && self.held.is_empty() && self.unwanted(config).is_none()
    }

    /// Why the kernel, which was not armed, is to stay so.
    fn unwanted(&self, config: &Config) -> Option<String> {
        match (config.arm.boot, Told::read(&self.system)) {
            (Some(true), _) | (None, None) => None,
            (Some(false), _) => Some("[arm] says boot = false".to_owned()),
            (None, Some(told)) if told.armed => None,
            (None, Some(told)) => {
                let time = utc(told.time).map_or_else(String::new, |time| format!(" on {time}"));
                Some(format!("`savecore disarm` was called{time}; `savecore arm` arms it"))
            }
        }
    }

    /// Arms, unless it is unwanted: what the configuration names; or what is armed; or what was armed by hand before the reboot; or all
    /// that is found. When a disk `has_come`, the kernel is armed on all that it should be.
    pub(super) fn arm(&self, config: &Config, has_come: bool) -> Outcome {
        let told = Told::read(&self.system);
        let is_wanted = match config.arm.boot {
            Some(boot) => boot,
            None => told.as_ref().is_some_and(|told| told.armed),
        };
        let not = |error: ArmError| Outcome::Not { why: error.to_string(), is_wanted };
        if self.held.is_empty()
            && let Some(why) = self.unwanted(config)
        {
            return Outcome::Not { why, is_wanted: false };
        }
        let stays = |left_out| Outcome::Stays { targets: self.held.clone(), left_out };
        let now = ArmedNow::read(&self.system);
        let by_hand = now.as_ref().is_some_and(|now| now.by_hand);
        if !self.held.is_empty() && (config.arm.boot == Some(false) || by_hand && !has_come) {
            return stays(Vec::new());
        }
        // Of one that says what is not known here, why is reported.
        let module = match Module::of(&self.system).and_then(|module| module.state().map(|_| module)) {
            Ok(module) => module,
            // On a machine that never had the module there is nothing to be said.
            Err(ArmError::NotLoaded { .. }) if !is_wanted && told.is_none() => return Outcome::Nothing,
            Err(error) => return not(error),
        };
        // Several disks may come at once, each with a savecore of its own; the first one that has the lock arms on all of them.
        let _lock = match module.lock() {
            Ok(lock) => lock,
            Err(error) => return not(error),
        };
        let configured = match arm::names(config) {
            Ok(configured) => configured,
            Err(error) if !self.held.is_empty() => {
                return Outcome::Kept { targets: self.held.clone(), why: error.to_string() };
            }
            Err(error) => return not(error),
        };
        let named = told.filter(|told| told.armed && !told.targets.is_empty());
        let names = match named {
            Some(told) if by_hand || config.arm.targets.is_empty() && (has_come || self.held.is_empty()) => {
                told.names(&self.system)
            }
            _ if !config.arm.targets.is_empty() || has_come || self.held.is_empty() => configured,
            _ => self.held.clone(),
        };
        let mut plan = match arming::plan(&self.system, &names, None, &config.arm) {
            Ok(plan) => plan,
            Err(error) if !self.held.is_empty() => {
                return Outcome::Kept { targets: self.held.clone(), why: error.to_string() };
            }
            Err(error) => return not(error),
        };
        // What somebody else has armed, such as a file in /etc/modprobe.d, may have been told places of an earlier boot.
        let is_known = now.is_some_and(|now| by_hand || now.words == plan.words);
        if is_known && module.is_armed_on(&self.system, &plan.names()) {
            return stays(plan.left_out);
        }
        let armed = match arming::arm(&self.system, &mut plan, &config.arm) {
            Ok(armed) => armed,
            Err(error) => return not(error),
        };
        arm::keep_words(&self.system, &ArmedNow { words: plan.words.clone(), by_hand });
        // What is left alone was told when dumps were looked for.
        let is_new = |line: &&String| !line.starts_with(arming::LEFT_ALONE);
        let mut warnings: Vec<String> = plan.warnings.iter().filter(is_new).cloned().collect();
        warnings.extend(arm::note_owned(&self.system, &plan));
        warnings.extend(arm::warnings(&armed, &Kernel::of(&self.system)));
        let targets = plan.names().into_iter().map(str::to_owned).collect();
        Outcome::Armed { targets, left_out: plan.left_out, warnings }
    }

    /// Tells the module what became of the last dump, because it is no longer on a target.
    pub(super) fn tell_last(&self, store: &str) {
        arming::tell_last(&self.system, store);
    }
}

/// What came of it.
pub(super) enum Outcome {
    /// It is armed.
    Armed {
        /// The devices.
        targets: Vec<String>,
        /// Targets that should be among them, each with the reason why it is not.
        left_out: Vec<String>,
        /// What else the user should know.
        warnings: Vec<String>,
    },
    /// It was armed, and stays as it is.
    Stays {
        /// The devices.
        targets: Vec<String>,
        /// Targets that should be among them, each with the reason why it is not.
        left_out: Vec<String>,
    },
    /// It was armed, and stays so, since it cannot be armed as it should be.
    Kept {
        /// The devices.
        targets: Vec<String>,
        /// Why.
        why: String,
    },
    /// It has no module, and never had.
    Nothing,
    /// It is not armed.
    Not {
        /// Why.
        why: String,
        /// Whether somebody wants it to be.
        is_wanted: bool,
    },
}
