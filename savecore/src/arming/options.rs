//! How to dump: `[arm]` in the configuration, and as parameters of the module.

use std::ops::RangeInclusive;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::corefile::Level;

/// `[arm]` of `/etc/savecore.toml`. The module decides whatever it leaves open.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Whether to arm the kernel at boot, before the harvest: always, never, or, if unset, unless it was
    /// disarmed by hand.
    pub boot: Option<bool>,
    /// Partitions, in order: paths, `PARTUUID=…`, `UUID=…` of a label; if empty, those that are harvested.
    pub targets: Vec<String>,
    /// The dump level: makedumpfile's bits, and 32.
    #[serde(deserialize_with = "crate::boot::config::level")]
    level: Option<Level>,
    /// The compression of pages.
    compress: Option<Packing>,
    /// Maximum seconds per dump.
    budget: Option<Within<1, 86_400>>,
    /// Maximum milliseconds per request.
    timeout: Option<Within<1, 600_000>>,
    /// Which part of the pattern to check before overwriting it.
    verify: Option<Verify>,
    /// Maximum number of helpers.
    helpers: Option<Within<0, 8192>>,
    /// Whether to try risky targets after all others have failed.
    risky: Option<bool>,
    /// How much of the end of the kernel's log to put into the dump's notes.
    #[serde(deserialize_with = "size")]
    log: Option<ByteSize>,
    /// The action after a dump.
    then: Option<Then>,
    /// Whether to call the panic notifiers between a dump and the reset.
    notify: Option<Notify>,
    /// Where to show progress.
    pub(super) serial: Serial,
    /// Whether to set the kernel parameter of this name if a crash kernel is loaded.
    pub crash_kexec_post_notifiers: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            boot: None,
            targets: Vec::new(),
            level: None,
            compress: None,
            budget: None,
            timeout: None,
            verify: None,
            helpers: None,
            risky: None,
            log: None,
            then: None,
            notify: None,
            serial: Serial::Console,
            crash_kexec_post_notifiers: true,
        }
    }
}

impl Options {
    /// The parameters for the options that are set.
    pub(super) fn words(&self) -> Vec<String> {
        let yes = |yes| if yes { "yes" } else { "no" }.to_owned();
        let all = [
            ("level", self.level.map(|level| level.bits().to_string())),
            ("compress", self.compress.map(|packing| packing.word().to_owned())),
            ("budget", self.budget.map(|seconds| seconds.0.to_string())),
            ("timeout", self.timeout.map(|milliseconds| milliseconds.0.to_string())),
            ("verify", self.verify.map(Verify::word)),
            ("helpers", self.helpers.map(|helpers| helpers.0.to_string())),
            ("risky", self.risky.map(yes)),
            ("log", self.log.map(|bytes| bytes.as_u64().to_string())),
            ("then", self.then.map(|then| then.word().to_owned())),
            ("notify", self.notify.map(|notify| notify.word().to_owned())),
        ];
        all.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect()
    }

    /// The same with another level.
    pub fn with_level(self, level: Level) -> Options {
        Options { level: Some(level), ..self }
    }
}

/// A number from `LEAST` to `MOST`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Within<const LEAST: i64, const MOST: i64>(i64);

impl<const LEAST: i64, const MOST: i64> TryFrom<i64> for Within<LEAST, MOST> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let fits = (LEAST..=MOST).contains(&number);
        fits.then_some(Within(number))
            .ok_or_else(|| format!("{number} is not a number from {LEAST} to {MOST}"))
    }
}

/// The compression of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Packing {
    Lz4,
    None,
}

impl Packing {
    fn word(self) -> &'static str {
        match self {
            Packing::Lz4 => "lz4",
            Packing::None => "none",
        }
    }
}

/// The action after a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    Reboot,
    Continue,
    Halt,
}

impl Then {
    fn word(self) -> &'static str {
        match self {
            Then::Reboot => "reboot",
            Then::Continue => "continue",
            Then::Halt => "halt",
        }
    }
}

/// Whether to call the panic notifiers between a dump and the reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Notify {
    Guarded,
    Always,
    Never,
}

impl Notify {
    fn word(self) -> &'static str {
        match self {
            Notify::Guarded => "guarded",
            Notify::Always => "always",
            Notify::Never => "never",
        }
    }
}

/// Which part of the pattern to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
enum Verify {
    All,
    Ahead,
    Samples(u64),
}

impl Verify {
    fn word(self) -> String {
        match self {
            Verify::All => "all".to_owned(),
            Verify::Ahead => "ahead".to_owned(),
            Verify::Samples(every) => format!("samples:{every}"),
        }
    }
}

impl TryFrom<String> for Verify {
    type Error = String;

    fn try_from(text: String) -> Result<Verify, String> {
        let samples = text.strip_prefix("samples:").and_then(|every| every.parse().ok());
        match (text.as_str(), samples) {
            ("all", _) => Ok(Verify::All),
            ("ahead", _) => Ok(Verify::Ahead),
            (_, Some(every @ 1..)) => Ok(Verify::Samples(every)),
            _ => Err(format!("{text:?} is none of \"all\", \"ahead\" and \"samples:N\"")),
        }
    }
}

/// Possible first ports of a 16550, which has eight: lower ones are the mainboard's.
pub(super) const PORTS: RangeInclusive<u16> = 0x100..=0xfff8;

/// Where to show progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Serial {
    /// On the serial port of the console, if there is one.
    Console,
    /// Nowhere.
    None,
    /// On the 16550 at this I/O port.
    Port(u16),
}

impl TryFrom<String> for Serial {
    type Error = String;

    fn try_from(text: String) -> Result<Serial, String> {
        let port = text.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok());
        match (text.as_str(), port) {
            ("console", _) => Ok(Serial::Console),
            ("none", _) => Ok(Serial::None),
            (_, Some(port)) if PORTS.contains(&port) => Ok(Serial::Port(port)),
            _ => Err(format!("{text:?} is none of \"console\", \"none\" and a port, such as \"0x3f8\"")),
        }
    }
}

/// A human-readable size, such as `64MiB`.
pub(crate) fn byte_size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is not a size, such as \"64MiB\"")))
}

fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<ByteSize>, D::Error> {
    byte_size(from).map(Some)
}
