//! apt: what it would download, what it would remove, and its lists.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;

use super::work::{watched, work};
use crate::CannotBegin;

/// The size of apt's downloads.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Sizes {
    /// The number of packages: those requested, and their dependencies.
    pub(super) packages: usize,
    /// Their size.
    pub(super) bytes: u64,
}

/// apt-get, with these options and arguments.
pub(super) fn apt_get(options: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(options).args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// How packages are installed: without removing any.
pub(super) const INSTALL: [&str; 4] = ["install", "--yes", "--no-install-recommends", "--no-remove"];

/// The size of apt's downloads for these packages, or apt's reason to refuse.
pub(super) fn sizes(options: &[String], packages: &[&str]) -> Result<Result<Sizes, String>> {
    let output = output(&mut apt_get(options, &[&INSTALL[..], &["-qq", "--print-uris"], packages].concat()))?;
    if !output.status.success() {
        return Ok(Err(reason(&String::from_utf8_lossy(&output.stderr))));
    }
    Ok(Ok(sum(&String::from_utf8_lossy(&output.stdout))))
}

/// An installed package that apt would remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Obstacle {
    pub(super) name: String,
    pub(super) version: String,
}

/// The packages that apt would remove for these.
pub(super) fn obstacles(packages: &[&str]) -> Result<Vec<Obstacle>> {
    let arguments = [&["install", "--simulate", "--no-install-recommends"], packages].concat();
    let output = output(&mut apt_get(&[], &arguments))?;
    Ok(removed(&String::from_utf8_lossy(&output.stdout)))
}

/// The packages that `apt-get --simulate` would remove: `Remv NAME [VERSION]`, a line for each.
fn removed(said: &str) -> Vec<Obstacle> {
    let removed = |line: &str| {
        let (name, rest) = line.strip_prefix("Remv ")?.split_once(" [")?;
        let (version, _) = rest.split_once(']')?;
        Some(Obstacle { name: name.to_owned(), version: version.to_owned() })
    };
    said.lines().filter_map(removed).collect()
}

/// Adds up the output of `apt-get --print-uris`: `'URI' FILE BYTES SUM`, a line for each.
fn sum(said: &str) -> Sizes {
    let bytes =
        |line: &str| line.strip_prefix('\'')?.split_once('\'')?.1.split_whitespace().nth(1)?.parse().ok();
    let all: Vec<u64> = said.lines().filter_map(bytes).collect();
    Sizes { packages: all.len(), bytes: all.iter().sum() }
}

/// Updates apt's lists.
///
/// # Errors
/// [`CannotBegin`] if no archive can be reached at all; a single unreachable one may not matter here.
pub(super) fn update() -> Result<()> {
    update_with(
        &[],
        "",
        |_| true,
        |why| {
            format!(
                "apt cannot reach an archive: {why}; connect this machine to Debian's archive and try again"
            )
        },
    )
}

/// The same with options for apt. `wanted` selects lines about archives that must be reached; one is enough,
/// as apt's own status is 0 even if none was. `lost` explains what it means if none is.
pub(super) fn update_with(
    options: &[String],
    facts: &str,
    wanted: impl Fn(&str) -> bool,
    lost: impl FnOnce(&str) -> String,
) -> Result<()> {
    work("apt-get update", facts, || {
        let output = watched(apt_get(options, &["update"]), "apt-get update", Duration::from_secs(300))?;
        let is_reached = |line: &str| (line.starts_with("Hit:") || line.starts_with("Get:")) && wanted(line);
        match output.stdout.lines().any(is_reached) {
            true => Ok(()),
            false => Err(CannotBegin(lost(&reason(&output.stderr))).into()),
        }
    })
}

/// Runs a short command.
///
/// # Errors
/// [`CannotBegin`] if it cannot be run.
pub(super) fn output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    Ok(command.output().map_err(|error| CannotBegin(format!("cannot run {name}: {error}")))?)
}

/// Why apt gave up: its first complaint, not its final advice.
pub(super) fn reason(said: &str) -> String {
    let complaint = said.lines().find_map(|line| {
        let (kind, text) = line.split_once(": ")?;
        (kind == "E" || kind == "W" && text.starts_with("Failed")).then_some(text)
    });
    complaint.unwrap_or("it does not say why").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_lines_with_an_address() {
        let said = "Reading package lists...\n\
                    'http://deb.debian.org/a/crash_8.0.2-1_amd64.deb' crash_8.0.2-1_amd64.deb 3902452 MD5Sum:68bd\n\
                    'http://deb.debian.org/a/b%2bb1_amd64.deb' b_1%3a1_amd64.deb 8 SHA256:3d3f\n\n";
        assert_eq!(sum(said), Sizes { packages: 2, bytes: 3_902_460 });
        assert_eq!(sum(""), Sizes::default());
    }

    #[test]
    fn what_stands_in_the_way_is_what_apt_would_remove() {
        let said = "The following packages will be REMOVED:\n  qemu-utils\nRemv qemu-utils [1:10.0.2+ds-2~bpo12+1]\n\
                    Inst m4 (1.4.19-3 Debian:12.15/oldstable [amd64])\nRemv libx [2] [liby:amd64 ]\n";
        let obstacle =
            |name: &str, version: &str| Obstacle { name: name.to_owned(), version: version.to_owned() };
        assert_eq!(removed(said), [obstacle("qemu-utils", "1:10.0.2+ds-2~bpo12+1"), obstacle("libx", "2")]);
    }

    #[test]
    fn the_reason_is_the_first_complaint() {
        let said = "W: be careful\nE: Failed to fetch http://a/b.deb  404  Not Found [IP: 1.2.3.4 80]\n\
                    E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n";
        assert_eq!(reason(said), "Failed to fetch http://a/b.deb 404 Not Found [IP: 1.2.3.4 80]");
        let said = "W: Failed to fetch http://a/InRelease  Temporary failure resolving 'a'\nW: Some index files failed to download.\n";
        assert_eq!(reason(said), "Failed to fetch http://a/InRelease Temporary failure resolving 'a'");
        assert_eq!(reason(""), "it does not say why");
    }
}
