//! The parameters that arm a dump: `key=value`, separated by white space.

use dumpcore::MAX_TARGETS;
use dumpcore::display_by_describe;
use dumpcore::format::Uuid;
use dumpcore::memory::class::Level;
use dumpcore::partition::verify::Verify;
use dumpcore::text::{Describe, Line};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{Config, Encoding};

/// Maximum number of CPUs whose crash notes can be given.
pub const MAX_NOTES: usize = 256;

/// Maximum length of a target's path in bytes.
pub const MAX_PATH: usize = 255;

/// Default time in nanoseconds from the crash to the end of the dump.
const BUDGET: u64 = 300 * SECOND;

/// Default number of bytes from the kernel log's end.
const LOG: u64 = 256 << 10;

/// What happens after a dump. After a refused dump, the kernel always continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// The machine is reset.
    Reboot,
    /// The kernel continues its panic.
    Continue,
    /// The machine stays as it is.
    Halt,
}

impl Then {
    /// Its keyword.
    pub const fn word(self) -> &'static str {
        match self {
            Then::Reboot => "reboot",
            Then::Continue => "continue",
            Then::Halt => "halt",
        }
    }
}

/// Whether panic notifiers (IPMI, the host, pstore) run after a good dump, before the machine is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// If another CPU stands guard and resets the machine in case they hang.
    Guarded,
    /// Always. If they hang on a machine without a guard, the machine hangs.
    Always,
    /// Never.
    Never,
}

impl Notify {
    /// Its keyword.
    pub const fn word(self) -> &'static str {
        match self {
            Notify::Guarded => "guarded",
            Notify::Always => "always",
            Notify::Never => "never",
        }
    }
}

/// A target, as given in the parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    /// The block device.
    pub path: &'a str,
    /// The uuid that the label must have.
    pub uuid: Option<Uuid>,
}

/// The parsed parameters.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    /// Targets, best first; the first [`targets`](Words::targets) are in use.
    wanted: [Option<Wanted<'a>>; MAX_TARGETS],
    /// Which memory is left out.
    pub level: Level,
    /// How memory is stored.
    pub encoding: Encoding,
    /// Nanoseconds for the whole dump.
    pub budget: u64,
    /// Nanoseconds for one request.
    pub timeout: u64,
    /// How much of the pattern is checked.
    pub verify: Verify,
    /// Maximum number of CPUs that may help.
    pub helpers: usize,
    /// Whether risky devices may be used.
    pub risky: bool,
    /// Bytes from the end of the log.
    pub log: u64,
    /// What happens after a dump.
    pub then: Then,
    /// Whether panic notifiers run between a dump and the reset.
    pub notify: Notify,
    /// The first port of a 16550 on which the dump reports progress.
    pub serial: Option<u16>,
    /// Physical addresses of the CPUs' crash notes, as text separated by commas; all have been validated.
    notes: &'a str,
}

/// Why parameters are invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misworded<'a> {
    /// Not `key=value`, or an unknown key.
    Word(&'a str),
    /// The value is invalid for this key.
    Value {
        /// The whole parameter.
        word: &'a str,
        /// The valid values.
        may: &'static str,
    },
    /// `uuid=` without a target before it.
    UuidFirst,
    /// No target.
    NoTarget,
    /// Too many targets.
    TooManyTargets,
}

impl Describe for Misworded<'_> {
    fn describe(&self, line: &mut Line) {
        match *self {
            Misworded::Word(word) => {
                line.text("`").text(word).text("` is no key=value of arm");
            }
            Misworded::Value { word, may } => {
                line.text("`").text(word).text("`: it may be ").text(may);
            }
            Misworded::UuidFirst => {
                line.text("`uuid=` belongs behind its `target=`");
            }
            Misworded::NoTarget => {
                line.text("no `target=/dev/…` is named");
            }
            Misworded::TooManyTargets => {
                line.text("more than ").decimal(MAX_TARGETS as u64).text(" targets are named");
            }
        }
    }
}

display_by_describe!(Misworded<'_>);

impl<'a> Words<'a> {
    /// Parses the parameters.
    ///
    /// # Errors
    /// The invalid parameter, and what it may be.
    pub fn parse(text: &'a str) -> Result<Words<'a>, Misworded<'a>> {
        let usual = Config::default();
        let mut words = Words {
            wanted: [None; MAX_TARGETS],
            level: Level::from_bits_truncate(31),
            encoding: Encoding::Units,
            budget: BUDGET,
            timeout: usual.request_timeout,
            // As safe as checking everything first, because no block is written unchecked; and fast.
            verify: Verify::Ahead,
            helpers: usual.helpers,
            risky: usual.allow_risky,
            log: LOG,
            then: Then::Reboot,
            notify: Notify::Guarded,
            serial: None,
            notes: "",
        };
        for word in text.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(Misworded::Word(word))?;
            let wrong = |may| Misworded::Value { word, may };
            match key {
                "target" => {
                    if !value.starts_with('/') || value.len() > MAX_PATH {
                        return Err(wrong("a path, such as /dev/vda2"));
                    }
                    let slot = words.wanted.iter_mut().find(|slot| slot.is_none());
                    *slot.ok_or(Misworded::TooManyTargets)? = Some(Wanted { path: value, uuid: None });
                }
                "uuid" => {
                    let uuid = uuid(value).ok_or(wrong("32 hexadecimal digits"))?;
                    let last = words.wanted.iter_mut().rev().find_map(Option::as_mut);
                    last.ok_or(Misworded::UuidFirst)?.uuid = Some(uuid);
                }
                "level" => {
                    let level = number(value).and_then(|bits| Level::from_bits(u32::try_from(bits).ok()?));
                    words.level = level.ok_or(wrong("0 to 63"))?;
                }
                "compress" => {
                    words.encoding = match value {
                        "lz4" => Encoding::Units,
                        "none" => Encoding::Plain,
                        _ => return Err(wrong("lz4 or none")),
                    };
                }
                "budget" => {
                    let seconds = number(value).filter(|seconds| (1..=86_400).contains(seconds));
                    words.budget = seconds.ok_or(wrong("1 to 86400 seconds"))?.saturating_mul(SECOND);
                }
                "timeout" => {
                    let ms = number(value).filter(|ms| (1..=600_000).contains(ms));
                    words.timeout = ms.ok_or(wrong("1 to 600000 milliseconds"))?.saturating_mul(MILLISECOND);
                }
                "verify" => {
                    words.verify = verify(value).ok_or(wrong("all, ahead or samples:N"))?;
                }
                "helpers" => {
                    let helpers = number(value).and_then(|number| usize::try_from(number).ok());
                    words.helpers = helpers.ok_or(wrong("a number"))?;
                }
                "risky" => {
                    words.risky = match value {
                        "yes" => true,
                        "no" => false,
                        _ => return Err(wrong("yes or no")),
                    };
                }
                "log" => words.log = number(value).ok_or(wrong("a number of bytes"))?,
                "then" => {
                    words.then = [Then::Reboot, Then::Continue, Then::Halt]
                        .into_iter()
                        .find(|then| then.word() == value)
                        .ok_or(wrong("reboot, continue or halt"))?;
                }
                "notify" => {
                    words.notify = [Notify::Guarded, Notify::Always, Notify::Never]
                        .into_iter()
                        .find(|notify| notify.word() == value)
                        .ok_or(wrong("guarded, always or never"))?;
                }
                "serial" => {
                    let port = address(value).and_then(|port| u16::try_from(port).ok());
                    // A 16550 has eight registers.
                    let port = port.filter(|port| (0x100..=0xfff8).contains(port));
                    words.serial = Some(port.ok_or(wrong("a port, such as 0x3f8"))?);
                }
                "notes" => {
                    let all = value.split(',').all(|note| address(note).is_some());
                    if !all || value.split(',').nth(MAX_NOTES).is_some() {
                        return Err(wrong("physical addresses with commas between"));
                    }
                    words.notes = value;
                }
                _ => return Err(Misworded::Word(word)),
            }
        }
        if words.targets().next().is_none() { Err(Misworded::NoTarget) } else { Ok(words) }
    }

    /// The targets, best first.
    pub fn targets(&self) -> impl Iterator<Item = &Wanted<'a>> {
        self.wanted.iter().flatten()
    }

    /// Physical addresses of the CPUs' crash notes, in the order of their numbers.
    pub fn notes(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.notes.split(',').filter_map(address)
    }
}

/// A decimal number without a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A hexadecimal number with the prefix `0x`.
fn address(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// `all`, `ahead`, `samples:N`.
fn verify(text: &str) -> Option<Verify> {
    match text {
        "all" => Some(Verify::All),
        "ahead" => Some(Verify::Ahead),
        _ => {
            let every = number(text.strip_prefix("samples:")?)?;
            (every > 0).then_some(Verify::Sample { every })
        }
    }
}

/// 32 hexadecimal digits; dashes are ignored.
fn uuid(text: &str) -> Option<Uuid> {
    let mut uuid = [0; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16));
    for byte in &mut uuid {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    digits.next().is_none().then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "target=/dev/vda2 uuid=00112233-4455-6677-8899-aabbccddeeff target=/dev/sdb level=17 compress=none\n\
                    budget=20 timeout=1500 verify=samples:64 helpers=2 risky=no log=4096 then=halt notify=never \
                    serial=0x2f8 notes=0x1000,0xfffff000\n";
        let words = Words::parse(text).unwrap();
        let targets: Vec<_> = words.targets().collect();
        let uuid = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        assert_eq!(targets[0], &Wanted { path: "/dev/vda2", uuid: Some(uuid) });
        assert_eq!(targets[1], &Wanted { path: "/dev/sdb", uuid: None });
        assert_eq!((words.level.bits(), words.encoding), (17, Encoding::Plain));
        assert_eq!((words.budget, words.timeout), (20 * SECOND, 1500 * MILLISECOND));
        assert_eq!((words.verify, words.helpers, words.risky), (Verify::Sample { every: 64 }, 2, false));
        assert_eq!((words.log, words.then, words.serial), (4096, Then::Halt, Some(0x2f8)));
        assert_eq!(words.notify, Notify::Never);
        assert_eq!(words.notes().collect::<Vec<_>>(), [0x1000, 0xffff_f000]);
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let words = Words::parse("target=/dev/vda").unwrap();
        assert_eq!((words.level.bits(), words.then, words.serial), (31, Then::Reboot, None));
        assert_eq!((words.verify, words.notify), (Verify::Ahead, Notify::Guarded));
        assert_eq!(words.notes().count(), 0);
    }

    #[test]
    fn a_wrong_word_is_named_with_what_it_may_be() {
        let many = "target=/a ".repeat(MAX_TARGETS + 1);
        for (text, says) in [
            ("", "no `target="),
            ("level=31", "no `target="),
            ("target", "`target` is no key=value"),
            ("target=/a colour=red", "`colour=red` is no key=value"),
            ("target=vda", "a path"),
            ("uuid=00112233445566778899aabbccddeeff target=/a", "behind its `target=`"),
            ("target=/a uuid=001122", "32 hexadecimal digits"),
            ("target=/a uuid=00112233445566778899aabbccddeeff00", "32 hexadecimal digits"),
            ("target=/a level=64", "0 to 63"),
            ("target=/a level=-1", "0 to 63"),
            ("target=/a level=+1", "0 to 63"),
            ("target=/a compress=zip", "lz4 or none"),
            ("target=/a budget=0", "1 to 86400"),
            ("target=/a timeout=99999999999999999999999", "milliseconds"),
            ("target=/a verify=samples:0", "samples:N"),
            ("target=/a helpers=x", "a number"),
            ("target=/a risky=perhaps", "yes or no"),
            ("target=/a log=", "bytes"),
            ("target=/a then=dance", "reboot, continue or halt"),
            ("target=/a notify=loudly", "guarded, always or never"),
            ("target=/a serial=3f8", "0x3f8"),
            ("target=/a serial=0xffff", "0x3f8"),
            ("target=/a notes=0x1,", "commas"),
            (many.as_str(), "more than"),
        ] {
            let error = Words::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
