//! Installs Debian's packages. Never removes an installed package.

use std::time::Duration;

use anyhow::Result;

use super::apt::{INSTALL, Obstacle, Sizes, apt_get, obstacles, reason, sizes};
use super::backports::Backports;
use super::work::{watched, work};
use crate::CannotBegin;

/// Packages, and what apt would do to install them.
#[derive(Default, Debug)]
pub(super) struct Installation {
    pub(super) packages: Vec<&'static str>,
    /// Including their dependencies.
    pub(super) sizes: Sizes,
    /// The source of some of them, if apt's own lists have none that fit the installed packages.
    pub(super) backports: Option<Backports>,
}

/// apt-get's message that an installation would remove something ([`INSTALL`] forbids it).
const WOULD_REMOVE: &str = "Packages need to be removed";

impl Installation {
    /// Asks apt what it would do. Needs root only if an installed package is in the way: then the lists of
    /// that package's release may have to be downloaded.
    ///
    /// # Errors
    /// [`CannotBegin`] with apt's reason, if it would not install them.
    pub(super) fn of(packages: Vec<&'static str>) -> Result<Installation> {
        if packages.is_empty() {
            return Ok(Installation::default());
        }
        let why = match sizes(&[], &packages)? {
            Ok(sizes) => return Ok(Installation { packages, sizes, backports: None }),
            Err(why) => why,
        };
        let mut advice = format!("apt-get install --no-install-recommends {}", packages.join(" "));
        if !why.starts_with(WOULD_REMOVE) {
            return Err(refused(&packages, &why, &format!("to see all it says: {advice}")));
        }
        let obstacles = obstacles(&packages)?;
        if let Some(backports) = Backports::of(&obstacles)? {
            let installation = Installation { packages, sizes: Sizes::default(), backports: Some(backports) };
            let mut all = Sizes::default();
            for Step { options, packages } in installation.steps()? {
                let Sizes { packages, bytes } =
                    sizes(&options, &packages)?.map_err(|why| refused(&packages, &why, &advice))?;
                all = Sizes { packages: all.packages + packages, bytes: all.bytes + bytes };
            }
            return Ok(Installation { sizes: all, ..installation });
        }
        let names: Vec<String> =
            obstacles.iter().map(|Obstacle { name, version }| format!("{name} {version}")).collect();
        advice = format!("if it may go: sudo {advice}");
        Err(refused(&packages, &format!("{} would have to be removed", names.join(" and ")), &advice))
    }

    /// Installs them; everything is downloaded before the first is unpacked.
    pub(super) fn install(&self) -> Result<()> {
        for Step { options, packages } in self.steps()? {
            work("apt-get install", &packages.join(" "), || {
                let command = apt_get(&options, &[&INSTALL[..], &packages].concat());
                let output = watched(command, "apt-get install", Duration::from_secs(1800))?;
                if !output.status.success() {
                    let (why, log) = (reason(&output.stderr), output.log.display());
                    return Err(CannotBegin(format!("apt-get install failed: {why}; log: {log}")).into());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The runs of apt: packages from backports first, then the others.
    fn steps(&self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let mut others = self.packages.clone();
        if let Some(backports) = &self.backports {
            let mut theirs = Vec::new();
            for package in std::mem::take(&mut others) {
                if backports.has(package)? { &mut theirs } else { &mut others }.push(package);
            }
            steps.push(Step { options: backports.options(), packages: theirs });
        }
        steps.push(Step { options: Vec::new(), packages: others });
        steps.retain(|step| !step.packages.is_empty());
        Ok(steps)
    }
}

/// One run of apt.
struct Step {
    options: Vec<String>,
    packages: Vec<&'static str>,
}

fn refused(packages: &[&str], why: &str, advice: &str) -> anyhow::Error {
    CannotBegin(format!("apt cannot install {}: {why}; {advice}", packages.join(" "))).into()
}
