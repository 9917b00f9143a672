//! Keys, tags and ciphers, as they are stored.

/// A public key of X25519.
pub type PublicKey = [u8; 32];

/// A secret key of X25519.
pub type SecretKey = [u8; 32];

/// The authentication tag of a chunk or header (Poly1305).
pub type Tag = [u8; 16];

/// How a payload is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Cipher {
    /// Not encrypted.
    None = 0,
    /// As described in [`crypt`](super::crypt).
    X25519XChaCha20Poly1305 = 1,
}

impl Cipher {
    /// The cipher with this number.
    pub fn from_number(number: u32) -> Option<Cipher> {
        [Cipher::None, Cipher::X25519XChaCha20Poly1305].into_iter().find(|cipher| *cipher as u32 == number)
    }
}
