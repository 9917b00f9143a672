//! Configurations of any text, and words for the kernel's module.

use dump_linux::config::Words;
use savecore::boot::Config;

/// Whether text can go to a terminal or a log.
fn is_one_harmless_line(text: &str) -> bool {
    !text.contains(['\n', '\r', '\x1b'])
}

/// Parses text as a configuration, and as the module's parameters. Neither panics, and each error is one
/// line.
pub(crate) fn no_harm(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let config = Config::parse(&text, "savecore.toml");
    let _ = config.format();
    assert!(config.faults.lines.iter().all(|line| is_one_harmless_line(line)), "{:?}", config.faults);
    match Words::parse(&text) {
        Ok(words) => {
            assert!(words.targets().count() >= 1, "no target");
            assert!(words.notes().count() <= dump_linux::config::MAX_NOTES, "too many notes");
        }
        Err(error) => drop(error.to_string()),
    }
}
