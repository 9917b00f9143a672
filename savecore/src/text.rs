//! Text from a dead kernel, made harmless for whatever shows it.

/// Text without what a terminal obeys: control characters but line feeds and tabs, and the marks that turn the direction of
/// what follows, are written as escapes.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            character if character.is_control() || is_format(character) => {
                shown.extend(character.escape_default());
            }
            character => shown.push(character),
        }
    }
    shown
}

/// The same on one line.
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// Characters that nobody sees and that change how others are shown (Unicode Standard Annex 9, section 2: directional
/// formatting; separators; joiners; the byte order mark; tags).
fn is_format(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_is_left(text: String) {
            let shown = harmless(&text);
            prop_assert!(!shown.chars().any(|c| (c.is_control() && c != '\n' && c != '\t') || is_format(c)));
            prop_assert!(!harmless_line(&text).contains(['\n', '\t']));
        }
    }

    #[test]
    fn escapes_are_shown_and_text_stays() {
        assert_eq!(harmless("a\u{1b}[2Jb\nümläut\u{202e}x"), "a\\u{1b}[2Jb\nümläut\\u{202e}x");
    }
}
