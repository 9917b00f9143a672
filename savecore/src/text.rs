//! Text from a dead kernel, made fit to be shown.

/// Text without what a terminal, an editor or a browser would obey instead of showing it: control characters, and those
/// that change the direction of other text or cannot be seen (Unicode's general category Cf, and its separators of
/// lines and paragraphs). They are written as escapes; line ends and tabs stay.
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

/// The same on one line.
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// Whether a character is an order rather than a sign.
fn is_obeyed(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        _ if character.is_control() => true,
        // Category Cf of Unicode 16, with the blocks that it may yet grow in; Zl and Zp.
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

    proptest! {
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
