//! Names of folders and files, from untrusted texts of people and dead kernels.

use super::types::{Crash, INFO};
use crate::dump::utc;

/// Maximum bytes of a host's name in a folder's name: the complete name then fits file systems with a limit
/// of 143 bytes (those that encrypt names).
const MAX_HOST: usize = 64;

/// Device names of DOS and Windows, in any folder and with any extension.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "com", "lpt"];

/// The part after the host's name, with zeros for digits: the current form, and the earlier one with colons.
const FORMS: [&str; 2] = ["-0000-00-00T000000Z", "-0000-00-00T00:00:00Z"];

/// Text that is a valid, unchanged name everywhere: ASCII letters, digits, `.`, `-` and `_`, starting with a
/// letter, a digit or `_`.
pub(super) fn harmless(text: &str) -> String {
    let mut name = String::new();
    for character in text.chars().take(MAX_HOST) {
        let fits = character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
        let leads = name.is_empty() && !character.is_ascii_alphanumeric();
        name.push(if fits && !leads { character } else { '_' });
    }
    if is_device(&name) {
        name.replace_range(..1, "_");
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Whether DOS treats a file of that name as a device.
fn is_device(name: &str) -> bool {
    let front = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let (word, number) = front.split_at_checked(3).unwrap_or_default();
    let is_numbered = ["com", "lpt"].contains(&word);
    DEVICES.contains(&word)
        && match number.as_bytes() {
            [] => !is_numbered,
            [b'0'..=b'9'] => is_numbered,
            _ => false,
        }
}

/// The name of a crash's folder: host and time, or the dump's own number without a clock. It has no colons:
/// FAT, exFAT, NTFS and CIFS reject them, and `scp` and `rsync` take the part before one for a host.
pub(super) fn folder(crash: &Crash) -> String {
    named(crash, "%Y-%m-%dT%H%M%SZ")
}

/// The earlier form of [`folder`], with colons. Such folders still count.
pub(super) fn old_folder(crash: &Crash) -> String {
    named(crash, "%Y-%m-%dT%H:%M:%SZ")
}

fn named(crash: &Crash, form: &str) -> String {
    let host = harmless(&crash.host);
    match crash.seconds.and_then(utc) {
        Some(time) => format!("{host}-{}", time.strftime(form)),
        None => format!("{host}-unknown-{:016x}", crash.nonce),
    }
}

/// The name of the folder for crash number `number`, from 1, with the same base name.
pub(super) fn numbered(name: &str, number: u32) -> String {
    if number <= 1 { name.to_owned() } else { format!("{name}-{number}") }
}

/// Whether `name` is a result of [`numbered`] for `base`.
pub(super) fn is_numbered(name: &str, base: &str) -> bool {
    let Some(rest) = name.strip_prefix(base) else { return false };
    rest.is_empty() || rest.strip_prefix('-').is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    text.parse().is_ok_and(|number: u32| number > 1 && number.to_string() == text)
}

/// Whether this can be the name of one of savecore's folders.
pub(super) fn is_folder(name: &str) -> bool {
    let name = match name.rsplit_once('-') {
        Some((front, number)) if is_number(number) && ends_like_a_folder(front) => front,
        _ => name,
    };
    ends_like_a_folder(name)
}

/// Whether this is a host's name, in the current or an earlier form, followed by a time of this form.
fn is_timed(name: &str, form: &str) -> bool {
    let split = name.len().checked_sub(form.len()).and_then(|at| name.split_at_checked(at));
    split.is_some_and(|(host, time)| {
        let digit = |character: char| if character.is_ascii_digit() { '0' } else { character };
        is_host(host) && time.chars().map(digit).eq(form.chars())
    })
}

/// Whether this can be a host in a folder's name. Earlier versions allowed DOS device names.
fn is_host(name: &str) -> bool {
    !name.is_empty() && (harmless(name) == name || is_device(name))
}

fn ends_like_a_folder(name: &str) -> bool {
    if FORMS.iter().any(|form| is_timed(name, form)) {
        return true;
    }
    name.rsplit_once("-unknown-").is_some_and(|(host, nonce)| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        is_host(host) && nonce.len() == 16 && nonce.bytes().all(is_hex)
    })
}

/// The host and the time (if its machine had a clock) of the crash in a folder of that name.
pub(super) fn told(name: &str) -> Option<(&str, Option<u64>)> {
    let name = match name.rsplit_once('-') {
        Some((front, number)) if is_number(number) && ends_like_a_folder(front) => front,
        _ => name,
    };
    if let Some((host, nonce)) = name.rsplit_once("-unknown-")
        && nonce.len() == 16
    {
        return Some((host, None));
    }
    let form = FORMS.into_iter().find(|form| is_timed(name, form))?;
    let (host, time) = name.split_at_checked(name.len() - form.len())?;
    let time = jiff::civil::DateTime::strptime("-%Y-%m-%dT%H%M%SZ", time.replace(':', "")).ok();
    let time = time.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
    Some((host, time.and_then(|time| u64::try_from(time.timestamp().as_second()).ok())))
}

/// The name of a folder while it is being filled.
pub(super) fn partial(name: &str) -> String {
    format!(".{name}.partial")
}

/// Whether this can be the name of one of savecore's folders while it is being filled.
pub(super) fn is_partial(name: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial")).is_some_and(is_folder)
}

/// Whether this is a valid file name in a folder.
pub(super) fn is_file(name: &str) -> bool {
    harmless(name) == name && name != INFO
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crash(host: &str, seconds: Option<u64>, nonce: u64) -> Crash {
        Crash { host: host.to_owned(), seconds, ..crate::store::crash(nonce) }
    }

    proptest! {
        #[test]
        fn any_host_makes_one_harmless_name_that_is_known_again(
            host in any::<String>(), seconds in any::<Option<u64>>(), nonce: u64, number in 1..u32::MAX
        ) {
            let base = folder(&crash(&host, seconds, nonce));
            let name = numbered(&base, number);
            for name in [&name, &partial(&name)] {
                let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                prop_assert!(name.bytes().all(harmless) && !name.ends_with('.'), "{name}");
                prop_assert!(!is_device(name), "{name}");
                prop_assert!(name.len() <= 143);
            }
            let (host_name, clock) = (harmless(&host), seconds.filter(|seconds| utc(*seconds).is_some()));
            prop_assert_eq!(told(&name), Some((host_name.as_str(), clock)));
            let old = old_folder(&crash(&host, seconds, nonce));
            prop_assert!(is_folder(&old) && is_partial(&partial(&old)), "{old}");
            prop_assert!(!name.starts_with(['.', '-']));
            prop_assert!(is_numbered(&name, &base));
            prop_assert!(is_folder(&name));
            prop_assert!(is_partial(&partial(&name)));
            prop_assert!(!is_folder(&partial(&name)));
            prop_assert!(!is_partial(&name));
        }

        #[test]
        fn what_is_harmless_stays_as_it_is(host in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}") {
            prop_assume!(!is_device(&host));
            prop_assert_eq!(harmless(&host), host);
        }

        #[test]
        fn no_other_name_passes_for_a_folder(name in "[a-z./:-]{0,30}|[a-z]{0,5}-[0-9T:-]{0,20}Z?(-[0-9]{0,3})?") {
            let shape: Vec<char> = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            let shape: String = shape.into_iter().collect();
            prop_assert!(!is_folder(&name) || FORMS.iter().any(|form| shape.contains(form)), "{name}");
        }
    }

    #[test]
    fn names_tell_host_and_time() {
        assert_eq!(folder(&crash("web-1.lan", Some(1_700_000_000), 7)), "web-1.lan-2023-11-14T221320Z");
        assert_eq!(folder(&crash("web", Some(35), 7)), "web-1970-01-01T000035Z");
        assert_eq!(folder(&crash("../../etc", None, 7)), "_._.._etc-unknown-0000000000000007");
        assert_eq!(folder(&crash("", Some(u64::MAX), 7)), "unknown-unknown-0000000000000007");
        assert_eq!(numbered("a-2023-11-14T221320Z", 2), "a-2023-11-14T221320Z-2");
        assert_eq!(old_folder(&crash("web", Some(35), 7)), "web-1970-01-01T00:00:35Z");
    }

    #[test]
    fn a_host_is_no_device_of_dos() {
        for (host, name) in [
            ("con", "_on"),
            ("NUL.example.org", "_UL.example.org"),
            ("aux.", "_ux."),
            ("lpt9", "_pt9"),
            ("com", "com"),
            ("com10", "com10"),
            ("console", "console"),
            ("web.con", "web.con"),
        ] {
            assert_eq!(harmless(host), name);
            assert_eq!(harmless(name), name);
        }
    }

    #[test]
    fn other_peoples_names_are_not_ours() {
        for name in [
            "latest",
            "",
            "-2",
            "2023-11-14T22:13:20Z",
            "a-2023-11-14T22:13:20Z-1",
            "a-2023-11-14T22:13:20Z-02",
            "../a-2023-11-14T22:13:20Z",
            ".a-2023-11-14T22:13:20Z",
            "_usr_bin_x.1000.crash",
            "a-unknown-7",
            "é-2023-11-14T22:13:20Z",
            "a-2023-11-14T22:13:2éZ",
        ] {
            assert!(!is_folder(name), "{name}");
        }
    }
}
