//! Text from a dead kernel, made safe to show.

/// Removes characters with an effect on a terminal, an editor or a browser: control characters, and those
/// that change the direction of other text or are invisible (Unicode's general category Cf, and its
/// separators of lines and paragraphs). They become escapes; line ends and tabs stay.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The same, on one line.
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// The line of a panic message with the actual reason: the first, or the one after it if the first has only
/// the place, as in Rust's own messages since 1.81 (`panicked at FILE:LINE:COLUMN:`).
pub fn headline(message: &str) -> &str {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    if first.ends_with(':') { lines.next().unwrap_or(first) } else { first }
}

/// At most `most` bytes of a text, and the number of bytes left out.
pub fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(most)];
    format!("{kept}… and {} more", size((text.len() - kept.len()) as u64))
}

/// A human-readable size.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return count(bytes, "byte", "bytes");
    }
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A human-readable number of pages.
pub fn pages(number: u64) -> String {
    format!("{} ({})", count(number, "page", "pages"), size(number.saturating_mul(4096)))
}

/// A number of things.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Equivalent JSON, with escapes (RFC 8259, section 7) for the characters that [`harmless`] removes: JSON
/// itself requires them only for U+0000 to U+001F.
pub fn harmless_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // There are no such characters outside of strings.
        if is_obeyed(character) {
            shown.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character has an effect instead of a glyph.
fn is_obeyed(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        _ if character.is_control() => true,
        // Category Cf of Unicode 16, with the blocks that it may grow into; Zl and Zp.
        '\u{ad}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{890}'..='\u{891}'
        | '\u{8e2}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}'
        | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_to_terminals_and_editors_are_shown_and_not_given() {
        assert_eq!(harmless("a\u{1b}]0;title\u{7}b\rc"), "a\\u{1b}]0;title\\u{7}b\\rc");
        assert_eq!(harmless("user\u{202e}txt.exe\u{2066}"), "user\\u{202e}txt.exe\\u{2066}");
        assert_eq!(
            harmless("\u{9b}31m \u{feff}\u{e0041}\u{2028}"),
            "\\u{9b}31m \\u{feff}\\u{e0041}\\u{2028}"
        );
        let plain = "grüße, 世界\n\tfree 🙂 مرحبا\n";
        assert_eq!(harmless(plain), plain);
    }

    #[test]
    fn sizes_are_said_as_people_say_them() {
        let said = [0, 1, 1023, 1024, 1536, 200 << 10, (3 << 30) + (1 << 29), u64::MAX].map(size);
        assert_eq!(
            said,
            ["0 bytes", "1 byte", "1023 bytes", "1 KiB", "1.5 KiB", "200 KiB", "3.5 GiB", "16384 PiB"]
        );
        assert_eq!((pages(1), pages(3)), ("1 page (4 KiB)".to_owned(), "3 pages (12 KiB)".to_owned()));
    }

    #[test]
    fn the_headline_of_a_panic_is_what_happened_and_not_where() {
        for (message, line) in [
            ("panicked at src/usr/crash.rs:16:9:\ndivision by zero\nnote: more", "division by zero"),
            ("panicked at src/main.rs:1:2:", "panicked at src/main.rs:1:2:"),
            ("sysrq triggered crash", "sysrq triggered crash"),
            ("\n  Oops\nCPU: 1", "Oops"),
            ("", ""),
        ] {
            assert_eq!(headline(message), line);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("weiß", 5), "weiß");
        assert_eq!(cut("weiß", 4), "wei… and 2 bytes more");
    }

    #[test]
    fn json_has_escapes_in_its_own_way() {
        let json = serde_json::json!("\u{9b}31m\u{7f}\u{202e}\u{e0041}ü\n").to_string();
        assert_eq!(harmless_json(&json), r#""\u009b31m\u007f\u202e\udb40\udc41ü\n""#);
    }

    proptest! {
        #[test]
        fn json_without_what_is_obeyed_says_the_same(text: String, pretty: bool) {
            let value = serde_json::json!({ &text: [&text] });
            let json = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let shown = harmless_json(&json);
            prop_assert!(!shown.chars().any(is_obeyed), "{}", shown);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }

        #[test]
        fn nothing_that_is_obeyed_is_left_and_nothing_else_is_changed(text: String) {
            let shown = harmless(&text);
            prop_assert!(!shown.chars().any(is_obeyed));
            prop_assert!(!harmless_line(&text).contains(['\n', '\t']));
            let kept: String = text.chars().filter(|character| !is_obeyed(*character)).collect();
            let mut rest = shown.chars();
            prop_assert!(kept.chars().all(|wanted| rest.any(|character| character == wanted)));
        }
    }
}
