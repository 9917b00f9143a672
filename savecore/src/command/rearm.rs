//! The kernel's diskdump module during a harvest: it is armed first, and stays armed. A crash in the meantime
//! is dumped after the waiting dumps, or to the next target.

use savecore::arming::{self, ArmError, ArmedNow, Kernel, Module, System, Told};
use savecore::boot::Config;
use savecore::dump::utc;

use super::arm;

/// The module, at the start of a harvest.
pub(super) struct Rearm {
    system: System,
    module: Result<Module, ArmError>,
    /// The targets that it is armed on.
    held: Vec<String>,
}

impl Rearm {
    pub(super) fn new(system: System) -> Rearm {
        let module = Module::of(&system);
        // A module with an unknown status is reported when it is to be armed.
        let held = module.as_ref().ok().and_then(|module| module.held().ok()).unwrap_or_default();
        Rearm { system, module, held }
    }

    /// Whether the kernel should be armed but is not.
    pub(super) fn is_to_be_armed(&self, config: &Config) -> bool {
        self.module.is_ok() && self.held.is_empty() && self.unwanted(config).is_none()
    }

    /// Why a kernel that is not armed should stay disarmed.
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

    /// Arms, unless unwanted: the targets of the configuration; or the current ones; or those armed by hand
    /// before the reboot; or all that are found. If a disk `has_come`, arms the kernel on all targets that it
    /// should have.
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
        // A module with an unknown status is reported.
        let module = match Module::of(&self.system).and_then(|module| module.state().map(|_| module)) {
            Ok(module) => module,
            // On a machine that never had the module, there is nothing to report.
            Err(ArmError::NotLoaded { .. }) if !is_wanted && told.is_none() => return Outcome::Nothing,
            Err(error) => return not(error),
        };
        // Several disks may appear at once, each with its own savecore; the first one to get the lock arms
        // all targets.
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
        // Parameters from elsewhere, such as a file in /etc/modprobe.d, may have addresses of an earlier
        // boot.
        let is_known = now.is_some_and(|now| by_hand || now.words == plan.words);
        if is_known && module.is_armed_on(&self.system, &plan.names()) {
            return stays(plan.left_out);
        }
        let armed = match arming::arm(&self.system, &mut plan, &config.arm) {
            Ok(armed) => armed,
            Err(error) => return not(error),
        };
        arm::keep_words(&self.system, &ArmedNow { words: plan.words.clone(), by_hand });
        // Targets left alone were reported while searching for dumps.
        let is_new = |line: &&String| !line.starts_with(arming::LEFT_ALONE);
        let mut warnings: Vec<String> = plan.warnings.iter().filter(is_new).cloned().collect();
        warnings.extend(arm::note_owned(&self.system, &plan));
        warnings.extend(arm::warnings(&armed, &Kernel::of(&self.system)));
        let targets = plan.names().into_iter().map(str::to_owned).collect();
        Outcome::Armed { targets, left_out: plan.left_out, warnings }
    }

    /// Reports the result of the last dump to the module, because it is no longer on a target.
    pub(super) fn tell_last(&self, store: &str) {
        arming::tell_last(&self.system, store);
    }
}

/// The result.
pub(super) enum Outcome {
    /// It is armed.
    Armed {
        /// The devices.
        targets: Vec<String>,
        /// Targets that should also be armed, each with the reason why not.
        left_out: Vec<String>,
        /// Further warnings for the user.
        warnings: Vec<String>,
    },
    /// It was armed, and stays unchanged.
    Stays {
        /// The devices.
        targets: Vec<String>,
        /// Targets that should also be armed, each with the reason why not.
        left_out: Vec<String>,
    },
    /// It was armed, and stays so, because it cannot be armed as it should be.
    Kept {
        /// The devices.
        targets: Vec<String>,
        /// The reason.
        why: String,
    },
    /// There is no module, and there never was.
    Nothing,
    /// It is not armed.
    Not {
        /// The reason.
        why: String,
        /// Whether it should be armed.
        is_wanted: bool,
    },
}
