//! `/etc/savecore.toml`: what to harvest at boot, and how.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::Hook;
use crate::arming;
use crate::corefile::{Compression, Format, Level};
use crate::store::{MaxKept, MaxUsed};

/// Its path.
pub const PATH: &str = "/etc/savecore.toml";

/// An example, which shows all defaults in comments.
pub const EXAMPLE: &str = include_str!("../../dist/savecore.toml");

/// Maximum seconds to delay booting: the unit's own limit is a minute longer.
const MAX_LIMIT: u64 = 540;

/// The contents of the file, with the defaults shown in [`EXAMPLE`].
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Dump partitions, each an absolute path; if empty, all that are found.
    pub targets: Vec<Absolute>,
    /// A directory, or a URL.
    #[serde(deserialize_with = "store")]
    pub store: String,
    /// The format of saved dumps.
    format: FormatName,
    /// The compression of a kdump.
    compress: CompressionName,
    /// Page classes to leave out of cores, besides those that the kernel left out.
    #[serde(deserialize_with = "level")]
    pub level: Option<Level>,
    /// The machine's name, for the names of folders.
    pub host: Option<String>,
    /// Bytes to keep free in a directory's file system.
    #[serde(deserialize_with = "arming::byte_size")]
    pub min_free: ByteSize,
    /// Maximum number of crashes per host in a directory.
    #[serde(deserialize_with = "limit")]
    pub max_kept: MaxKept,
    /// Maximum space for them.
    #[serde(deserialize_with = "limit")]
    pub max_used: MaxUsed,
    /// A key file from `savecore keygen`, for encrypted dumps.
    pub identity: Option<Absolute>,
    /// Kernels with symbols, or folders of them.
    pub kernels: Vec<Absolute>,
    /// Whether to write a report for people, too.
    pub report: bool,
    /// Whether to free saved dumps, and check that the partition can take a dump again.
    pub rearm: bool,
    /// Maximum seconds to delay booting.
    pub limit: Seconds,
    /// The hook before saving dumps, if there are any.
    pub pre: Option<Hook>,
    /// The hook after saving.
    pub post: Option<Hook>,
    /// Time limit of each hook in seconds.
    pub hook_limit: Seconds,
    /// How to arm the kernel.
    pub arm: arming::Options,
    /// Mistakes in the file, and their consequences.
    #[serde(skip)]
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            targets: Vec::new(),
            store: "/var/crash".to_owned(),
            format: FormatName::Elf,
            compress: CompressionName::Zlib,
            level: None,
            host: None,
            min_free: ByteSize::mib(64),
            // A few crashes show all there is to see. But a machine has more than one kind of crash, and its
            // administrator may look only after days, so more than a handful.
            max_kept: MaxKept::Number(10),
            // A core is as large as memory, which is often a tenth of the file system; three quarters remain
            // for other data.
            max_used: MaxUsed::Percent(25),
            identity: None,
            kernels: Vec::new(),
            report: false,
            rearm: true,
            limit: Seconds(90),
            pre: None,
            post: None,
            hook_limit: Seconds(30),
            arm: arming::Options::default(),
            faults: Faults::default(),
        }
    }
}

/// The mistakes in a configuration, and their consequences.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// The mistakes, each in one line with file, line and key.
    pub lines: Vec<String>,
    /// Saved dumps stay on their partitions.
    pub keep: bool,
    /// The intended partitions are unknown: none is harvested.
    pub no_targets: bool,
    /// The intended targets are unknown: the kernel is not armed.
    pub no_arming: bool,
}

impl Faults {
    /// The faults of a file that cannot be read.
    pub(super) fn unread(line: String) -> Faults {
        Faults { lines: vec![line], keep: true, ..Faults::default() }
    }
}

/// An absolute path, independent of the current folder.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct Absolute(pub PathBuf);

impl TryFrom<PathBuf> for Absolute {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Absolute, String> {
        if path.is_absolute() {
            return Ok(Absolute(path));
        }
        Err(format!("{path:?} is not an absolute path, which begins with /"))
    }
}

/// Seconds, from 1 to 540.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub struct Seconds(u64);

impl Seconds {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl TryFrom<i64> for Seconds {
    type Error = String;

    fn try_from(number: i64) -> Result<Seconds, String> {
        let fits = u64::try_from(number).ok().filter(|number| (1..=MAX_LIMIT).contains(number));
        fits.map(Seconds).ok_or_else(|| format!("{number} is not a number of seconds from 1 to {MAX_LIMIT}"))
    }
}

/// The format of saved dumps, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FormatName {
    Elf,
    Kdump,
    Raw,
}

/// The compression of a kdump, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CompressionName {
    Zlib,
    Zstd,
    None,
}

pub(crate) fn level<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Level>, D::Error> {
    let number = i64::deserialize(from)?;
    // The same syntax as on the command line.
    number.to_string().parse().map(Some).map_err(serde::de::Error::custom)
}

fn store<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.starts_with('/') || text.contains("://") {
        return Ok(text);
    }
    let error = format!("{text:?} is neither an absolute path, which begins with /, nor a URL");
    Err(serde::de::Error::custom(error))
}

/// Parses a limit from a number or a text, with the same syntax as on the command line.
fn limit<'de, D: serde::Deserializer<'de>, T: FromStr<Err = String>>(from: D) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "it is neither a number nor a text")]
    enum Given {
        Number(i64),
        Text(String),
    }
    let text = match Given::deserialize(from)? {
        Given::Number(number) => number.to_string(),
        Given::Text(text) => text,
    };
    text.parse().map_err(serde::de::Error::custom)
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl Config {
    /// The format of saved dumps.
    pub fn format(&self) -> Format {
        match (self.format, self.compress) {
            (FormatName::Elf, _) => Format::Elf,
            (FormatName::Raw, _) => Format::Raw,
            (FormatName::Kdump, CompressionName::Zlib) => Format::Kdump(Compression::Zlib),
            (FormatName::Kdump, CompressionName::Zstd) => Format::Kdump(Compression::Zstd),
            (FormatName::Kdump, CompressionName::None) => Format::Kdump(Compression::None),
        }
    }

    /// Whether the store is reached over a network.
    pub fn is_remote(&self) -> bool {
        self.store.contains("://")
    }
}

/// The meaning of a missing file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// An error: it was requested.
    Error,
    /// The defaults.
    Defaults,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_key(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    }

    fn whole(text: &str) -> Config {
        let config = Config::parse(text, "example");
        assert_eq!(config.faults, Faults::default());
        config
    }

    #[test]
    fn the_example_says_the_defaults_and_every_key_in_it_is_known() {
        assert_eq!(whole(EXAMPLE), Config::default());
        // Remove the comment signs before keys, so that all of them are read.
        let key = |line: &str| {
            line.starts_with('#') && line.split_once(" =").is_some_and(|(key, _)| is_key(&key[1..]))
        };
        let lines: Vec<&str> = EXAMPLE
            .lines()
            .filter(|line| key(line) || line.starts_with('['))
            .map(|line| line.trim_start_matches('#'))
            .collect();
        let config = whole(&lines.join("\n"));
        assert!(config.pre.is_some() && config.post.is_some() && config.identity.is_some(), "{lines:?}");
        assert!(config.arm.boot.is_some() && !config.arm.targets.is_empty(), "{lines:?}");
        let keys: Vec<&str> =
            lines.iter().filter_map(|line| line.split_once(" =")).map(|(key, _)| key).collect();
        let defaults = format!("{:?}", Config::default());
        let fields = defaults.matches(": ").count();
        assert!(keys.len() <= fields, "{keys:?}");
        for key in keys {
            assert!(defaults.contains(key), "{key}");
        }
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        for (text, told) in [
            ("\nlimit = 0", "line 2: limit: 0 is not a number of seconds from 1 to 540"),
            ("limit = 541", "line 1: limit: 541 is not a number of seconds from 1 to 540"),
            ("limit = \"soon\"", "line 1: limit: invalid type: string \"soon\""),
            ("# x\n\nspeed = 1", "line 3: speed: there is no such key"),
            ("store = [", "line 1: "),
            ("store = \"crash\"", "line 1: store: \"crash\" is neither an absolute path"),
            (
                "format = \"zip\"",
                "line 1: format: unknown variant `zip`, expected one of `elf`, `kdump`, `raw`",
            ),
            ("level = 64", "line 1: level: a level is the sum of what to leave out"),
            ("min_free = \"much\"", "line 1: min_free: \"much\" is not a size"),
            ("max_kept = -1", "line 1: max_kept: \"-1\" is neither a number of crashes nor \"all\""),
            ("max_kept = true", "line 1: max_kept: it is neither a number nor a text"),
            ("max_used = \"0%\"", "line 1: max_used: \"0%\" is not from \"1%\" to \"100%\""),
            ("targets = [\"sda\"]", "line 1: targets: \"sda\" is not an absolute path"),
            ("pre = []", "line 1: pre: a hook is a program and its arguments"),
            ("report = true\npost = [\"true\"]", "line 2: post: \"true\" is not an absolute path"),
            ("post = \"/bin/sh -c reboot\"", "line 1: post: invalid type: string"),
            ("[arm]\nbudget = 0", "line 2: budget: 0 is not a number from 1 to 86400"),
            ("[arm]\nlevel = 64", "line 2: level: a level is the sum"),
            ("[arm]\nverify = \"samples:0\"", "line 2: verify: \"samples:0\" is none of \"all\""),
            ("[arm]\nserial = \"0x10000\"", "line 2: serial: \"0x10000\" is none of \"console\""),
            ("[arm]\nthen = \"panic\"", "line 2: then: unknown variant `panic`"),
            ("[arm]\nnotes = 1", "line 2: notes: there is no such key in [arm]"),
        ] {
            let faults = Config::parse(text, "/etc/savecore.toml").faults;
            let [line, ..] = faults.lines.as_slice() else { panic!("{text} is right") };
            assert!(line.starts_with("/etc/savecore.toml: line "), "{line}");
            assert!(line.contains(told), "{line} should contain {told}");
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_does_not_keep_dumps_from_being_saved() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("binary");
        std::fs::write(&binary, [0xff; 10]).unwrap();
        let large = folder.path().join("large");
        std::fs::write(&large, "#".repeat(1 << 20 | 1)).unwrap();
        for path in [folder.path(), &binary, &large] {
            assert!(Config::read(path, Missing::Error).is_err());
            let config = Config::read(path, Missing::Defaults).unwrap();
            assert!(config.faults.keep && config.faults.lines.len() == 1, "{:?}", config.faults);
            assert_eq!(Config { faults: Faults::default(), ..config }, Config::default());
        }
        assert_eq!(Config::read(&folder.path().join("none"), Missing::Defaults).unwrap(), Config::default());
    }
}
