//! `/etc/savecore.toml`: what is harvested at boot, and how.

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

/// Where it is.
pub const PATH: &str = "/etc/savecore.toml";

/// An example, which says all that is the case without a file, in comments.
pub const EXAMPLE: &str = include_str!("../../dist/savecore.toml");

/// Seconds that booting may wait, at most: the unit's own time is a minute longer.
const MAX_LIMIT: u64 = 540;

/// What the file says. What it does not say has the default that [`EXAMPLE`] shows.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Dump partitions, each an absolute path; none: all that are found.
    pub targets: Vec<Absolute>,
    /// A directory, or a URL.
    #[serde(deserialize_with = "store")]
    pub store: String,
    /// What dumps are saved as.
    format: FormatName,
    /// How a kdump is compressed.
    compress: CompressionName,
    /// What is left out of cores, besides what the kernel left out.
    #[serde(deserialize_with = "level")]
    pub level: Option<Level>,
    /// The machine's name, for the names of folders.
    pub host: Option<String>,
    /// Bytes that stay free in a directory's file system.
    #[serde(deserialize_with = "arming::byte_size")]
    pub min_free: ByteSize,
    /// Crashes of a host that a directory keeps.
    #[serde(deserialize_with = "limit")]
    pub max_kept: MaxKept,
    /// The room that they may take.
    #[serde(deserialize_with = "limit")]
    pub max_used: MaxUsed,
    /// A file of `savecore keygen`, for encrypted dumps.
    pub identity: Option<Absolute>,
    /// Kernels with symbols, or folders of them.
    pub kernels: Vec<Absolute>,
    /// Write a report for people, too.
    pub report: bool,
    /// Free what was saved, and look whether the partition can take a dump again.
    pub rearm: bool,
    /// Seconds that booting waits at most.
    pub limit: Seconds,
    /// What runs before dumps are saved, if there are any.
    pub pre: Option<Hook>,
    /// What runs after that.
    pub post: Option<Hook>,
    /// Seconds that each of the two has.
    pub hook_limit: Seconds,
    /// How the kernel is armed.
    pub arm: arming::Options,
    /// What of the file was wrong, and what that means.
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
            // A few crashes tell what there is to tell. A machine has more than one kind of them, and somebody looks after
            // days, so that they are more than a handful.
            max_kept: MaxKept::Number(10),
            // A core is as large as memory, which is often a tenth of the file system; three quarters stay for what it is for.
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

/// What of a configuration was wrong, and what that means.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// What is wrong, each in one line that names file, line and key.
    pub lines: Vec<String>,
    /// Dumps that are saved stay on their partitions.
    pub keep: bool,
    /// Nobody knows which partitions were meant: none is harvested.
    pub no_targets: bool,
    /// Nobody knows where to dump to: the kernel is not armed.
    pub no_arming: bool,
}

impl Faults {
    /// Those of a file that cannot be read.
    pub(super) fn unread(line: String) -> Faults {
        Faults { lines: vec![line], keep: true, ..Faults::default() }
    }
}

/// A path that means the same wherever a program was started.
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

/// What a dump is saved as, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FormatName {
    Elf,
    Kdump,
    Raw,
}

/// How a kdump is compressed, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CompressionName {
    Zlib,
    Zstd,
    None,
}

pub(crate) fn level<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Level>, D::Error> {
    let number = i64::deserialize(from)?;
    // The same words as on the command line.
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

/// A number or a text, which a limit is read from in the same words as on the command line.
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
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl Config {
    /// What dumps are saved as.
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

/// What a file that is not there means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// An error: it was asked for.
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
        // With the comment signs before keys removed, all of them are read.
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
