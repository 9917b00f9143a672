//! The limits of a store.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// The limits of a store.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// Bytes to keep free in a directory's file system.
    pub min_free: u64,
    /// Maximum number of crashes per host in a directory.
    pub max_kept: MaxKept,
    /// Maximum space for the crashes of a host in a directory.
    pub max_used: MaxUsed,
    /// How long to retry an object store that does not answer; default: 3 minutes.
    pub patience: Option<Duration>,
    /// The folder for the progress of uploads; default: the first of `$STATE_DIRECTORY`, or
    /// `/var/lib/savecore`.
    pub state: Option<PathBuf>,
}

/// The number of crashes to keep.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum MaxKept {
    /// All.
    #[default]
    All,
    /// This many, but at least the newest one and the first of its row.
    Number(u32),
}

impl FromStr for MaxKept {
    type Err = String;

    fn from_str(text: &str) -> Result<MaxKept, String> {
        match (text, text.parse()) {
            ("all", _) | (_, Ok(0)) => Ok(MaxKept::All),
            (_, Ok(number)) => Ok(MaxKept::Number(number)),
            (_, Err(_)) => Err(format!("{text:?} is neither a number of crashes nor \"all\"")),
        }
    }
}

/// The space for crashes to keep.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum MaxUsed {
    /// No limit.
    #[default]
    All,
    /// This many bytes.
    Bytes(u64),
    /// This percentage of the file system.
    Percent(u64),
}

impl MaxUsed {
    /// In bytes, on a file system of that size; `None` if there is no limit.
    pub fn bytes(self, system: u64) -> Option<u64> {
        match self {
            MaxUsed::All => None,
            MaxUsed::Bytes(bytes) => Some(bytes),
            MaxUsed::Percent(percent) => Some((u128::from(system) * u128::from(percent) / 100) as u64),
        }
    }
}

impl FromStr for MaxUsed {
    type Err = String;

    fn from_str(text: &str) -> Result<MaxUsed, String> {
        if text == "all" {
            return Ok(MaxUsed::All);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.trim().parse().ok().filter(|percent| (1..=100).contains(percent));
            return percent
                .map(MaxUsed::Percent)
                .ok_or_else(|| format!("{text:?} is not from \"1%\" to \"100%\""));
        }
        let size = text.parse().map(|size: ByteSize| MaxUsed::Bytes(size.as_u64()));
        size.map_err(|_| {
            format!(
                "{text:?} is neither a share, such as \"25%\", nor a size, such as \"20GiB\", nor \"all\""
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_share_or_none() {
        assert_eq!("3".parse(), Ok(MaxKept::Number(3)));
        assert_eq!(["all", "0"].map(|text| text.parse()), [Ok(MaxKept::All), Ok(MaxKept::All)]);
        for text in ["", "-1", "3.5", "none", "4294967296"] {
            assert!(text.parse::<MaxKept>().unwrap_err().contains(&format!("{text:?} is neither")));
        }
        assert_eq!("25%".parse::<MaxUsed>().unwrap().bytes(1000), Some(250));
        assert_eq!("100%".parse::<MaxUsed>().unwrap().bytes(u64::MAX), Some(u64::MAX));
        assert_eq!("2KiB".parse::<MaxUsed>().unwrap().bytes(1000), Some(2048));
        assert_eq!("all".parse::<MaxUsed>().unwrap().bytes(1000), None);
        for text in ["0%", "101%", "%", "-3%", "much", "1.5%"] {
            assert!(text.parse::<MaxUsed>().is_err(), "{text}");
        }
    }
}
