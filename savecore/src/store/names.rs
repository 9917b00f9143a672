//! Names of folders and files, which come from people's and dead kernels' hands.

use super::Crash;
use crate::dump::utc;

/// Bytes of a host's name that a folder's name takes up: with all that is put around them, file systems that take 143 bytes
/// (those that encrypt names) take it.
const MAX_HOST: usize = 64;

/// Text that is the same name everywhere, and only a name: letters, digits, `.`, `-` and `_` of ASCII, the first of them a
/// letter, a digit or `_`.
pub(super) fn harmless(text: &str) -> String {
    let mut name = String::new();
    for character in text.chars().take(MAX_HOST) {
        let fits = character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
        let leads = name.is_empty() && !character.is_ascii_alphanumeric();
        name.push(if fits && !leads { character } else { '_' });
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// The name of a crash's folder: host and time, or the dump's own number where no clock was.
pub(super) fn folder(crash: &Crash) -> String {
    let host = harmless(&crash.host);
    match crash.seconds.and_then(utc) {
        Some(time) => format!("{host}-{}", time.strftime("%Y-%m-%dT%H:%M:%SZ")),
        None => format!("{host}-unknown-{:016x}", crash.nonce),
    }
}

/// The name of the folder for the `number`th crash, from 1, that would have the same one.
pub(super) fn numbered(name: &str, number: u32) -> String {
    if number <= 1 { name.to_owned() } else { format!("{name}-{number}") }
}

/// Whether [`numbered`] makes `name` of `base`.
pub(super) fn is_numbered(name: &str, base: &str) -> bool {
    let Some(rest) = name.strip_prefix(base) else { return false };
    rest.is_empty() || rest.strip_prefix('-').is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    text.parse().is_ok_and(|number: u32| number > 1 && number.to_string() == text)
}

/// Whether a folder of savecore's can have that name.
pub(super) fn is_folder(name: &str) -> bool {
    let name = match name.rsplit_once('-') {
        Some((front, number)) if is_number(number) && ends_like_a_folder(front) => front,
        _ => name,
    };
    ends_like_a_folder(name)
}

fn ends_like_a_folder(name: &str) -> bool {
    let is_host = |host: &str| !host.is_empty() && harmless(host) == host;
    let timed =
        name.len().checked_sub("-1970-01-01T00:00:00Z".len()).and_then(|at| name.split_at_checked(at));
    if let Some((host, time)) = timed
        && is_host(host)
        && let Some(time) = time.strip_prefix('-')
    {
        let shape: String =
            time.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
        if shape == "0000-00-00T00:00:00Z" {
            return true;
        }
    }
    name.rsplit_once("-unknown-").is_some_and(|(host, nonce)| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        is_host(host) && nonce.len() == 16 && nonce.bytes().all(is_hex)
    })
}

/// What a folder is called while it is filled.
pub(super) fn partial(name: &str) -> String {
    format!(".{name}.partial")
}

/// Whether a folder of savecore's is called that while it is filled.
pub(super) fn is_partial(name: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial")).is_some_and(is_folder)
}

/// Whether a file in a folder may be called that.
pub(super) fn is_file(name: &str) -> bool {
    harmless(name) == name && name != super::record::FILE
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
                let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
                prop_assert!(name.bytes().all(harmless), "{name}");
                prop_assert!(name.len() <= 143);
            }
            prop_assert!(!name.starts_with(['.', '-']));
            prop_assert!(is_numbered(&name, &base));
            prop_assert!(is_folder(&name));
            prop_assert!(is_partial(&partial(&name)));
            prop_assert!(!is_folder(&partial(&name)));
            prop_assert!(!is_partial(&name));
        }

        #[test]
        fn what_is_harmless_stays_as_it_is(host in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}") {
            prop_assert_eq!(harmless(&host), host);
        }

        #[test]
        fn no_other_name_passes_for_a_folder(name in "[a-z./:-]{0,30}|[a-z]{0,5}-[0-9T:-]{0,20}Z?(-[0-9]{0,3})?") {
            let shape: Vec<char> = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            let shape: String = shape.into_iter().collect();
            prop_assert!(!is_folder(&name) || shape.contains("-0000-00-00T00:00:00Z"), "{name}");
        }
    }

    #[test]
    fn names_tell_host_and_time() {
        assert_eq!(folder(&crash("web-1.lan", Some(1_700_000_000), 7)), "web-1.lan-2023-11-14T22:13:20Z");
        assert_eq!(folder(&crash("web", Some(35), 7)), "web-1970-01-01T00:00:35Z");
        assert_eq!(folder(&crash("../../etc", None, 7)), "_._.._etc-unknown-0000000000000007");
        assert_eq!(folder(&crash("", Some(u64::MAX), 7)), "unknown-unknown-0000000000000007");
        assert_eq!(numbered("a-2023-11-14T22:13:20Z", 2), "a-2023-11-14T22:13:20Z-2");
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
