//! Mistakes in a configuration: the valid part applies, and each mistake is reported line by line.
//!
//! A configuration often goes unread until the machine crashes, and then its dumps must be saved in spite of
//! mistakes. An invalid key gets its default; where that could do harm, because the intention is unknown,
//! less is done:
//!
//! | mistake | consequence |
//! | --- | --- |
//! | `store`, `rearm`, `pre`, or the file is not TOML | dumps are saved, but stay on their partitions |
//! | `targets` | the valid ones in the list are used; without any, nothing is harvested |
//! | `max_kept`, `max_used` | nothing is removed |
//! | `targets` in `[arm]`, or `[arm]` itself | the kernel is not armed |
//!
//! An unknown key counts as the known one with the most similar name.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::config::{Absolute, Config, ConfigError, Faults, Missing};
use crate::store::{MaxKept, MaxUsed};

/// Maximum number of mistakes to list.
const MAX_TOLD: usize = 50;

/// Maximum size of a configuration: a disk given by mistake is not read to the end.
const MAX_FILE: u64 = 1 << 20;

impl Config {
    /// Reads a file. If it does not exist, `missing` says whether to use the defaults. Mistakes are in
    /// [`faults`](Config::faults), and get their defaults.
    ///
    /// # Errors
    /// If it was requested and cannot be read.
    pub fn read(path: &Path, missing: Missing) -> Result<Config, ConfigError> {
        let shown = path.display().to_string();
        let failed = |error| ConfigError::Read { path: shown.clone(), error };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Defaults => {
                return Ok(Config::default());
            }
            file => file,
        };
        let mut text = String::new();
        let read = file.and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        let read = match read {
            Ok(_) if text.len() as u64 > MAX_FILE => {
                Err(io::Error::other("it is too large to be a configuration"))
            }
            read => read,
        };
        match read {
            Ok(_) => Ok(Config::parse(&text, &shown)),
            Err(error) if missing == Missing::Error => Err(failed(error)),
            // It was not requested explicitly, and dumps are waiting.
            Err(error) => {
                let mut config = Config::default();
                config.faults = Faults::unread(failed(error).to_string());
                Ok(config)
            }
        }
    }

    /// Reads the text of a file called `path`.
    pub fn parse(text: &str, path: &str) -> Config {
        understand(text, path)
    }
}

/// A table of one key or several.
type Table<'t> = Spanned<DeTable<'t>>;

/// Parses the valid part.
fn understand(text: &str, path: &str) -> Config {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut told: Vec<(usize, String)> = Vec::new();
    let mut faults = Faults { keep: !errors.is_empty(), ..Faults::default() };
    for error in &errors {
        let line = line_at(text, error.span().map_or(0, |span| span.start));
        // Errors that follow from one mistake are not reported again.
        if told.last().is_none_or(|(last, _)| *last != line) {
            told.push((line, one_line(error.message())));
        }
    }
    let is_broken = !errors.is_empty();
    let span = table.span();
    let mut good = DeTable::new();
    let (mut targets, mut unlimited) = (None, false);
    for (key, value) in table.into_inner() {
        let inside = match value.get_ref() {
            DeValue::Table(inside) if key.get_ref() == "arm" => Some(inside.clone()),
            _ => None,
        };
        let Some(inside) = inside else {
            let mut one = DeTable::new();
            one.insert(key.clone(), value.clone());
            match config(Spanned::new(span.clone(), one)) {
                Ok(_) => drop(good.insert(key, value)),
                Err(error) => {
                    let (why, meant) = explain(key.get_ref(), &error, Section::Top);
                    told.push((line_at(text, key.span().start), why));
                    match meant.as_str() {
                        "store" | "rearm" | "pre" => faults.keep = true,
                        "max_kept" | "max_used" => unlimited = true,
                        "targets" => targets = Some(paths(value.get_ref())),
                        "arm" => faults.no_arming = true,
                        _ => {}
                    }
                }
            }
            continue;
        };
        let mut arm = DeTable::new();
        for (inner, value_inside) in inside {
            let mut one = DeTable::new();
            one.insert(inner.clone(), value_inside.clone());
            let mut outer = DeTable::new();
            outer.insert(key.clone(), Spanned::new(value.span(), DeValue::Table(one)));
            match config(Spanned::new(span.clone(), outer)) {
                Ok(_) => drop(arm.insert(inner, value_inside)),
                Err(error) => {
                    let (why, meant) = explain(inner.get_ref(), &error, Section::Arm);
                    told.push((line_at(text, inner.span().start), why));
                    faults.no_arming |= meant == "targets";
                }
            }
        }
        good.insert(key, Spanned::new(value.span(), DeValue::Table(arm)));
    }
    // Each key was parsed separately, and keys are independent.
    let mut config = config(Spanned::new(span, good)).unwrap_or_default();
    if let Some(targets) = targets {
        faults.no_targets = targets.is_empty();
        config.targets = targets;
    }
    if is_broken && config.targets.is_empty() {
        faults.no_targets |= text.lines().any(|line| line.trim_start().starts_with("targets"));
    }
    faults.no_arming |= is_broken && config.arm.targets.is_empty() && faults.no_targets;
    if unlimited {
        (config.max_kept, config.max_used) = (MaxKept::All, MaxUsed::All);
    }
    told.sort();
    let more = told.len().saturating_sub(MAX_TOLD);
    faults.lines =
        told.into_iter().take(MAX_TOLD).map(|(line, why)| format!("{path}: line {line}: {why}")).collect();
    if more > 0 {
        faults.lines.push(format!("{path}: and {more} more lines have mistakes"));
    }
    config.faults = faults;
    config
}

fn config(table: Table<'_>) -> Result<Config, toml::de::Error> {
    Config::deserialize(Deserializer::from(table))
}

/// The section of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Top,
    Arm,
}

/// The message for an invalid key, and the intended key.
fn explain(key: &str, error: &toml::de::Error, section: Section) -> (String, String) {
    let message = one_line(error.message());
    // The list of valid keys is in one place only, and serde reports it.
    let Some(known) = message.strip_prefix("unknown field ").and_then(|rest| rest.split_once("expected "))
    else {
        return (format!("{key}: {message}"), key.to_owned());
    };
    let mut known: Vec<&str> = known.1.split('`').skip(1).step_by(2).collect();
    known.sort_by_key(|known| strsim::damerau_levenshtein(known, key));
    let near = known.first().filter(|known| strsim::damerau_levenshtein(known, key) <= 1 + key.len() / 4);
    let shown = crate::text::harmless_line(&crate::text::cut(key, 80));
    match near {
        Some(near) => (format!("{shown}: there is no such key; {near} may be meant"), (*near).to_owned()),
        None if section == Section::Arm => (
            format!("{shown}: there is no such key in [arm]; keys that are not about arming go before it"),
            String::new(),
        ),
        None => (format!("{shown}: there is no such key"), String::new()),
    }
}

/// The paths in what should be a list of paths.
fn paths(value: &DeValue<'_>) -> Vec<Absolute> {
    let DeValue::Array(values) = value else { return Vec::new() };
    let paths = values.iter().filter_map(|value| match value.get_ref() {
        DeValue::String(path) => Absolute::try_from(std::path::PathBuf::from(path.as_ref())).ok(),
        _ => None,
    });
    paths.collect()
}

/// The line, from 1, of an offset in a text.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn one_line(text: &str) -> String {
    crate::text::harmless(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, "/etc/savecore.toml")
    }

    #[test]
    fn each_mistake_is_named_with_file_line_and_key_and_all_else_holds() {
        let config = parse(
            "report = true\nlimit = \"soon\"\nspeed = 1\nlevel = 64\nhost = \"web\"\n\n[arm]\nbudget = 0\nlevel = 31\nthen = \"panic\"\nbott = true\n",
        );
        assert_eq!(
            config.faults.lines,
            [
                "/etc/savecore.toml: line 2: limit: invalid type: string \"soon\", expected i64",
                "/etc/savecore.toml: line 3: speed: there is no such key",
                "/etc/savecore.toml: line 4: level: a level is the sum of what to leave out: 1 zero pages, 2 page cache, 4 page cache with private data too, 8 user memory, 16 free memory, 32 all that is not known to be the kernel's",
                "/etc/savecore.toml: line 8: budget: 0 is not a number from 1 to 86400",
                "/etc/savecore.toml: line 10: then: unknown variant `panic`, expected one of `reboot`, `continue`, `halt`",
                "/etc/savecore.toml: line 11: bott: there is no such key; boot may be meant",
            ]
        );
        let right = parse("report = true\nhost = \"web\"\n[arm]\nlevel = 31");
        let sound = {
            let mut config = config.clone();
            config.faults = Faults::default();
            config
        };
        assert_eq!(sound, right);
        assert_eq!(
            (config.faults.keep, config.faults.no_targets, config.faults.no_arming),
            (false, false, false)
        );
    }

    #[test]
    fn where_a_mistake_could_do_harm_less_is_done() {
        let outcome = |text: &str| {
            let config = parse(text);
            assert!(!config.faults.lines.is_empty(), "{text}");
            (config.faults.keep, config.faults.no_targets, config.faults.no_arming)
        };
        for (text, expected) in [
            ("store = 7", (true, false, false)),
            ("store = \"crash\"", (true, false, false)),
            ("stroe = \"/data\"", (true, false, false)),
            ("rearm = \"no\"", (true, false, false)),
            ("re_arm = false", (true, false, false)),
            ("pre = \"/bin/true\"", (true, false, false)),
            ("post = \"/bin/true\"", (false, false, false)),
            ("targets = \"/dev/sda1\"", (false, true, false)),
            ("targets = [\"sda1\"]", (false, true, false)),
            ("target = [\"sda1\"]", (false, true, false)),
            ("targets = [\"/dev/sda1\", 7]", (false, false, false)),
            ("arm = true", (false, false, true)),
            ("[arm]\ntargets = \"/dev/sda1\"", (false, false, true)),
            ("[arm]\ntarget = [\"/dev/sda1\"]", (false, false, true)),
            ("[arm]\nlevel = \"all\"", (false, false, false)),
            ("[arn]\nlevel = 31", (false, false, true)),
            ("this is no TOML", (true, false, false)),
            ("report = true\nhost = \"web", (true, false, false)),
            ("targets =\nreport = true", (true, true, true)),
            ("report = true\nreport = false", (true, false, false)),
        ] {
            assert_eq!(outcome(text), expected, "{text}");
        }
        let some = parse("targets = [\"/dev/sda1\", 7, \"sdb\", \"/dev/sdc1\"]").targets;
        assert_eq!(some, ["/dev/sda1", "/dev/sdc1"].map(|path| Absolute(path.into())));
        for text in
            ["max_kept = \"ten\"", "max_kept = -1", "max_used = \"a lot\"", "max_keep = 3", "max_used = 1.5"]
        {
            let config = parse(text);
            assert_eq!((config.max_kept, config.max_used), (MaxKept::All, MaxUsed::All), "{text}");
            assert!(!config.faults.lines.is_empty());
        }
        let whole = parse("max_kept = \"all\"\nmax_used = \"10GiB\"");
        assert_eq!((whole.max_kept, whole.max_used), (MaxKept::All, MaxUsed::Bytes(10 << 30)));
        assert_eq!(parse("max_kept = 0").max_kept, MaxKept::All);
        assert_eq!(parse("max_kept = 3").max_kept, MaxKept::Number(3));
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_and_what_is_wrong_in_it_is_told_in_lines(
            text in prop_oneof![any::<String>(), "([a-z_]{1,8} ?= ?(\\[|\"|[0-9a-z]|\"[/a-z]{0,5}\"){0,3}\n|\\[arm\\]\n){0,8}"]
        ) {
            let config = Config::parse(&text, "x");
            prop_assert!(config.faults.lines.len() <= MAX_TOLD + 1);
            for line in &config.faults.lines {
                prop_assert!(line.starts_with("x: ") && !line.contains('\n'), "{line}");
            }
            // A strict reader accepts everything that is accepted without faults.
            if config.faults.lines.is_empty() {
                prop_assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
            } else {
                prop_assert!(toml::from_str::<Config>(&text).is_err(), "{:?}", config.faults);
            }
        }
    }
}
