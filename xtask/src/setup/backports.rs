//! Debian's backports, where an installed package is from them.
//!
//! A machine may have one package of a source from backports (a newer qemu-utils, say) and apt's lists
//! without backports, or with their usual low priority. Installing another package of that source from the
//! release itself would then remove it. So all packages of that source come from the same place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Obstacle, apt_get};
use super::machine::is_root;
use crate::toolchain;

/// Debian's key, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages to take from backports, and apt's file for that, only for our own runs of apt.
#[derive(Debug)]
pub(super) struct Backports {
    /// The release: `bookworm-backports`.
    release: String,
    /// The source packages whose packages come from there.
    sources: Vec<String>,
    /// apt's `sources.list`: the machine's own, and our addition.
    list: PathBuf,
}

impl Backports {
    /// The backports that all of these are from, with apt's lists of them; `None` if they are from elsewhere.
    ///
    /// # Errors
    /// [`CannotBegin`](crate::CannotBegin) if those lists cannot be downloaded.
    pub(super) fn of(obstacles: &[Obstacle]) -> Result<Option<Backports>> {
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let Some(release) = release(&system, obstacles) else { return Ok(None) };
        let mut sources = Vec::new();
        for Obstacle { name, .. } in obstacles {
            let Some(source) = source(name)? else { return Ok(None) };
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        let archives = archives()?;
        let known = archives.iter().any(|archive| archive.release == release);
        let usual = release.trim_end_matches("-backports");
        let Some(main) = archives.iter().find(|archive| archive.release == usual) else { return Ok(None) };
        let backports =
            Backports { release, sources, list: toolchain::log_of("backports")?.with_extension("list") };
        backports.write((!known).then_some(main.address.as_str()))?;
        if !known {
            // apt has no lists of them, and only root may add some.
            if !is_root() {
                return Ok(None);
            }
            backports.update()?;
        }
        Ok(Some(backports))
    }

    /// Options that make apt use our file instead of the machine's, and prefer that release.
    pub(super) fn options(&self) -> Vec<String> {
        let list = format!("Dir::Etc::sourcelist={}", self.list.display());
        ["-o".to_owned(), list, format!("--target-release={}", self.release)].to_vec()
    }

    /// Whether a package comes from there, by its source in apt's lists.
    pub(super) fn has(&self, package: &str) -> Result<bool> {
        let output = apt::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
        Ok(self
            .sources
            .iter()
            .any(|source| source == source_of(&String::from_utf8_lossy(&output.stdout), package)))
    }

    fn write(&self, add: Option<&str>) -> Result<()> {
        let Backports { release, list, .. } = self;
        let mut text = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        if let Some(address) = add {
            let key =
                if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
            text.push_str(&format!("\ndeb {key}{address} {release} main\n"));
        }
        std::fs::write(list, text).with_context(|| format!("cannot write {}", list.display()))
    }

    fn update(&self) -> Result<()> {
        let release = self.release.as_str();
        apt::update_with(
            &self.options(),
            &format!("for {release}"),
            |line| line.contains(release),
            |why| format!("apt cannot reach {release}: {why}"),
        )
    }
}

impl fmt::Display for Backports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Backports { release, sources, .. } = self;
        write!(
            f,
            "what is of {} comes from {release}, as what is installed of it does",
            sources.join(" and ")
        )
    }
}

/// The backports release that packages of these versions are from, given /etc/os-release: all of them must be
/// from the backports of its own release.
fn release(system: &str, obstacles: &[Obstacle]) -> Option<String> {
    let value = |name: &str| {
        let line = system.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"'))
    };
    let (codename, number) = (value("VERSION_CODENAME")?, value("VERSION_ID")?);
    let mark = format!("~bpo{number}+");
    let all = !obstacles.is_empty() && obstacles.iter().all(|obstacle| obstacle.version.contains(&mark));
    all.then(|| format!("{codename}-backports"))
}

/// The source of a package in the output of `apt-cache show`; if not listed, it has the same name.
fn source_of<'a>(said: &'a str, package: &'a str) -> &'a str {
    let line = said.lines().find_map(|line| line.strip_prefix("Source: "));
    line.and_then(|line| line.split_whitespace().next()).unwrap_or(package)
}

/// The source package of an installed one.
fn source(package: &str) -> Result<Option<String>> {
    let output = apt::output(Command::new("dpkg-query").args(["-W", "-f", "${source:Package}", package]))?;
    let source = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((output.status.success() && !source.is_empty()).then_some(source))
}

/// An archive that apt has lists of.
#[derive(PartialEq, Eq, Debug)]
struct Archive {
    release: String,
    address: String,
}

fn archives() -> Result<Vec<Archive>> {
    let output = apt::output(&mut apt_get(
        &[],
        &["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"],
    ))?;
    Ok(listed(&String::from_utf8_lossy(&output.stdout)))
}

/// The archives in the output of `apt-get indextargets`: a release and an address in each line.
fn listed(said: &str) -> Vec<Archive> {
    let archive = |line: &str| {
        let (release, address) = line.split_once(' ')?;
        Some(Archive { release: release.to_owned(), address: address.to_owned() })
    };
    said.lines().filter_map(archive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str =
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";

    fn installed(versions: &[&str]) -> Vec<Obstacle> {
        let obstacle =
            |version: &&str| Obstacle { name: "qemu-utils".to_owned(), version: (*version).to_owned() };
        versions.iter().map(obstacle).collect()
    }

    #[test]
    fn what_is_from_the_backports_of_this_release_is_known_by_its_version() {
        let release = |versions: &[&str]| release(BOOKWORM, &installed(versions));
        assert_eq!(release(&["1:10.0.2+ds-2+deb13u1~bpo12+1"]).as_deref(), Some("bookworm-backports"));
        // Of another release, of none, and of more than one origin.
        assert_eq!(release(&["1:10.0.2~bpo13+1"]), None);
        assert_eq!(release(&["1:10.0.2+ds-2"]), None);
        assert_eq!(release(&["2~bpo12+1", "2"]), None);
        assert_eq!(release(&[]), None);
    }

    #[test]
    fn a_system_without_a_codename_has_no_backports() {
        assert_eq!(super::release("ID=sid\n", &installed(&["2~bpo12+1"])), None);
    }

    #[test]
    fn a_package_is_of_the_source_that_it_names_or_of_its_own_name() {
        let said = "Package: qemu-system-x86\nSource: qemu (1:7.2+dfsg-7+deb12u18)\nVersion: 1\n";
        assert_eq!(source_of(said, "qemu-system-x86"), "qemu");
        assert_eq!(source_of("Package: gdb\nVersion: 1\n", "gdb"), "gdb");
    }

    #[test]
    fn archives_are_a_release_and_an_address() {
        let said =
            "bookworm http://deb.debian.org/debian/\nbookworm-updates http://deb.debian.org/debian/\n\n";
        let releases: Vec<String> = listed(said).into_iter().map(|archive| archive.release).collect();
        assert_eq!(releases, ["bookworm", "bookworm-updates"]);
    }
}
