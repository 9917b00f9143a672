//! Keys as text: written by `savecore keygen`, read by `--recipient` and `--identity`.
//!
//! A key is `diskdump-public:` or `diskdump-secret:`, then its 32 bytes as 64 hexadecimal digits, then 8
//! more: the CRC-32 (IEEE) of all preceding text, with lower-case digits. This detects a mistyped key, and a
//! key of the wrong kind.
//!
//! No message repeats a secret key.

use std::fmt;

use dumpcore::format::crypt::PublicKey;

use crate::Identity;

/// Prefix of a public key.
pub const PUBLIC: &str = "diskdump-public:";

/// Prefix of a secret key.
pub const SECRET: &str = "diskdump-secret:";

/// Number of digits after a key's prefix: the key, and the checksum.
const DIGITS: usize = 2 * (32 + 4);

/// A flaw in a key's text, in words that follow "is".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It has neither prefix.
    NoKey,
    /// It has the other prefix.
    OtherKind,
    /// It has more or fewer digits than a key.
    Length(usize),
    /// There is an invalid digit after the prefix.
    Digit,
    /// The checksum in the last digits is wrong.
    Checksum,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NoKey => f.write_str("no key"),
            Flaw::OtherKind => f.write_str("a key of the other kind"),
            Flaw::Length(digits) => write!(f, "an incomplete key: it has {digits} of {DIGITS} digits"),
            Flaw::Digit => f.write_str("mistyped: a key has hexadecimal digits only"),
            Flaw::Checksum => f.write_str("mistyped: its last 8 digits are not the checksum of the others"),
        }
    }
}

fn key_text(prefix: &str, key: &[u8; 32]) -> String {
    let mut text = prefix.to_owned();
    push_hex(&mut text, key);
    let sum = crc32fast::hash(text.as_bytes());
    push_hex(&mut text, &sum.to_be_bytes());
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
}

/// The key in a text with this prefix, [`PUBLIC`] or [`SECRET`].
///
/// # Errors
/// The flaw.
pub fn parse(prefix: &str, text: &str) -> Result<[u8; 32], Flaw> {
    let Some(digits) = text.strip_prefix(prefix) else {
        let other = text.starts_with(PUBLIC) || text.starts_with(SECRET);
        return Err(if other { Flaw::OtherKind } else { Flaw::NoKey });
    };
    let mut values = Vec::with_capacity(DIGITS);
    for digit in digits.chars() {
        values.push(digit.to_digit(16).ok_or(Flaw::Digit)? as u8);
    }
    if values.len() != DIGITS {
        return Err(Flaw::Length(values.len()));
    }
    let mut key = [0; 32];
    for (byte, [high, low]) in key.iter_mut().zip(values.as_chunks::<2>().0) {
        *byte = high << 4 | low;
    }
    if key_text(prefix, &key) != text.to_ascii_lowercase() {
        return Err(Flaw::Checksum);
    }
    Ok(key)
}

/// A public key in output and `--json`.
pub fn public_text(key: &PublicKey) -> String {
    key_text(PUBLIC, key)
}

/// A secret key in the form of its file.
pub fn secret_text(identity: &Identity) -> String {
    key_text(SECRET, &identity.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_survives_its_text_in_either_case(key: [u8; 32]) {
            for prefix in [PUBLIC, SECRET] {
                let text = key_text(prefix, &key);
                prop_assert_eq!(parse(prefix, &text), Ok(key));
                let upper = format!("{prefix}{}", text[prefix.len()..].to_uppercase());
                prop_assert_eq!(parse(prefix, &upper), Ok(key));
            }
        }

        #[test]
        fn a_mistyped_digit_or_two_swapped_ones_are_told(key: [u8; 32], at in 0..DIGITS, change in 1_u32..16) {
            let text = key_text(SECRET, &key);
            let mut digits: Vec<char> = text[SECRET.len()..].chars().collect();
            let right = digits.clone();
            let value = digits[at].to_digit(16).unwrap();
            digits[at] = char::from_digit(value ^ change, 16).unwrap();
            let wrong: String = digits.iter().collect();
            prop_assert_eq!(parse(SECRET, &format!("{SECRET}{wrong}")), Err(Flaw::Checksum));
            digits = right.clone();
            digits.swap(at, (at + 1) % DIGITS);
            if digits != right {
                let wrong: String = digits.iter().collect();
                prop_assert_eq!(parse(SECRET, &format!("{SECRET}{wrong}")), Err(Flaw::Checksum));
            }
        }

        #[test]
        fn any_text_is_a_key_or_a_flaw(text: String, prefix: bool) {
            let text = if prefix { format!("{PUBLIC}{text}") } else { text };
            // Only a key's own text is a key; the point is that there is no panic.
            let _ = parse(PUBLIC, &text);
        }
    }

    #[test]
    fn a_public_key_is_not_taken_for_a_secret_one() {
        let text = key_text(PUBLIC, &[7; 32]);
        assert_eq!(parse(SECRET, &text), Err(Flaw::OtherKind));
        // Nor with a wrong prefix: the checksum covers it.
        assert_eq!(parse(SECRET, &text.replace(PUBLIC, SECRET)), Err(Flaw::Checksum));
    }
}
