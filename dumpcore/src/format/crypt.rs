//! Encryption of a dump to a public key. The secret key never touches the machine that crashes.
//!
//! When armed, the kernel makes an ephemeral X25519 key pair (RFC 7748), computes a shared secret from it and
//! the label's public key, and forgets the ephemeral secret. The key for all dumps until the next arming is
//!
//! ```text
//! key = SHA-256("diskdump 3 chunk key" · shared secret · ephemeral public key · recipient's public key)
//! ```
//!
//! Each chunk is encrypted and authenticated with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03; RFC 8439)
//! and the nonce
//!
//! ```text
//! attempt (u64) · the dump's nonce (u64) · index (u64), little-endian
//! ```
//!
//! The attempt counts the dumps begun with a key, and the index counts the chunks of a dump, so no nonce is
//! used twice. The associated data is the chunk's header up to its tag: the runs are unencrypted but
//! authenticated. The checksums of the payload blocks cover the encrypted bytes, so that damage can be found
//! without the key. A dump's headers are authenticated the same way, without a payload; see [`header_index`].
//!
//! This does not hide which page frames are zero or left out, how much memory there is, or which kernel it
//! was. It does not prove who made the dump: anyone who knows the public key can make one.

// The ciphers' and the curve's faster code uses vector registers. Where a target has none, the compiler dies of it.
// Documentation is made without compiling that code.
#[cfg(all(
    not(doc),
    target_arch = "x86_64",
    not(target_feature = "sse2"),
    not(all(
        chacha20_backend = "soft",
        poly1305_backend = "soft",
        sha2_backend = "soft",
        curve25519_dalek_backend = "serial"
    ))
))]
compile_error!(
    "dumpcore's feature `encryption` needs these flags on x86_64 without vector registers; in .cargo/config.toml:\n\
     [target.x86_64-unknown-none]  # or the name of your target\n\
     rustflags = [\n\
     \x20   \"--cfg\", 'chacha20_backend=\"soft\"', \"--cfg\", 'poly1305_backend=\"soft\"', \"--cfg\", 'sha2_backend=\"soft\"',\n\
     \x20   \"--cfg\", 'curve25519_dalek_backend=\"serial\"',\n\
     ]\n\
     Or build dumpcore with default-features = false, without encryption."
);
#[cfg(all(not(doc), target_arch = "aarch64", not(target_feature = "neon"), not(sha2_backend = "soft")))]
compile_error!(
    "dumpcore's feature `encryption` needs a flag on aarch64 without vector registers; in .cargo/config.toml:\n\
     [target.aarch64-unknown-none-softfloat]  # or the name of your target\n\
     rustflags = [\"--cfg\", 'sha2_backend=\"soft\"']\n\
     Or build dumpcore with default-features = false, without encryption."
);

use chacha20::cipher::array::Array;
use chacha20::cipher::{KeyIvInit, StreamCipherCore};
use chacha20::variants::Ietf;
use chacha20::{ChaChaCore, R20, hchacha};
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use sha2::Digest as _;
use zerocopy::IntoBytes;
use zeroize::{Zeroize, Zeroizing};

use super::Block;
use super::chunk::{ChunkHeader, TAG_OFFSET};
use super::header::{Header, TAGGED};

pub use super::cipher::{Cipher, PublicKey, SecretKey, Tag};

/// The public key of a secret key.
pub fn public_key(secret: &SecretKey) -> PublicKey {
    x25519_dalek::x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// The key for chunks and headers. It is wiped when dropped. A move would leave a copy behind, so callers
/// that keep a key derive it [in place](Key::derive).
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Key {
    /// The key shared by the holder of `secret` and the holder of `other`'s secret. One of them is the
    /// `recipient`, the other made the `ephemeral` key. `None` if the public key yields no shared secret (RFC
    /// 7748, section 6.1).
    pub fn agree(
        secret: &SecretKey,
        other: &PublicKey,
        ephemeral: &PublicKey,
        recipient: &PublicKey,
    ) -> Option<Key> {
        let mut key = Key::NONE;
        key.derive(secret, other, ephemeral, recipient).then_some(key)
    }

    /// The absence of a key.
    pub const NONE: Key = Key([0; 32]);

    /// Makes this the key that [`agree`](Key::agree) computes, in place. Returns `false` if there is none.
    /// The computation leaves secrets on the stack below the caller, who has to wipe them.
    pub fn derive(
        &mut self,
        secret: &SecretKey,
        other: &PublicKey,
        ephemeral: &PublicKey,
        recipient: &PublicKey,
    ) -> bool {
        let shared = Zeroizing::new(x25519_dalek::x25519(*secret, *other));
        if *shared == [0; 32] {
            return false;
        }
        let mut hash = sha2::Sha256::new();
        hash.update(b"diskdump 3 chunk key");
        hash.update(*shared);
        hash.update(ephemeral);
        hash.update(recipient);
        hash.finalize_into((&mut self.0).into());
        true
    }

    /// The key's bytes, for the checksum over the memory that holds it.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A position in the life of a key; makes the cipher's nonce.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Number of the attempt since the key was made.
    pub attempt: u32,
    /// The dump's nonce.
    pub nonce: u64,
    /// The chunk's index, or [`header_index`].
    pub index: u64,
}

impl Place {
    fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let words = [self.attempt.into(), self.nonce, self.index];
        for (slot, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *slot = u64::to_le_bytes(word);
        }
        bytes
    }
}

/// The index under which the header of stripe `stripe` is authenticated, for an open or a closed dump. These
/// are at the top of the range, which chunks never reach.
pub fn header_index(stripe: u32, closed: bool) -> u64 {
    u64::MAX.saturating_sub(u64::from(stripe).saturating_mul(2)).saturating_sub(u64::from(!closed))
}

/// The two ciphers of one message, with the Poly1305 state so far.
struct Message {
    cipher: ChaChaCore<R20, Ietf>,
    mac: Poly1305,
}

impl Message {
    /// Begins a message (draft-irtf-cfrg-xchacha-03, section 2.3; RFC 8439, section 2.8) with its associated
    /// data. `None` unless the length of that is a multiple of 16.
    fn begin(key: &Key, place: &Place, associated: &[u8]) -> Option<Message> {
        let nonce = place.bytes();
        let (head, tail) = nonce.split_first_chunk::<16>()?;
        let subkey = hchacha::<R20>(&key.0.into(), head.into());
        let mut short = [0; 12];
        for (slot, byte) in short.iter_mut().skip(4).zip(tail) {
            *slot = *byte;
        }
        let mut cipher = ChaChaCore::<R20, Ietf>::new(&subkey, &short.into());
        // The first block of the key stream is Poly1305's key.
        let mut first = Default::default();
        cipher.write_keystream_block(&mut first);
        let first: [u8; 64] = first.into();
        let mut mac = Poly1305::new(first.first_chunk::<32>()?.into());
        let (blocks, rest) = Array::slice_as_chunks(associated);
        mac.update(blocks);
        rest.is_empty().then_some(Message { cipher, mac })
    }

    /// Takes in encrypted bytes. `None` unless their number is a multiple of 64.
    fn authenticate(&mut self, bytes: &[u8]) -> Option<()> {
        let (blocks, rest) = Array::slice_as_chunks(bytes);
        self.mac.update(blocks);
        rest.is_empty().then_some(())
    }

    /// Encrypts or decrypts. `None`, with nothing changed, unless the number of bytes is a multiple of 64.
    fn apply(&mut self, bytes: &mut [u8]) -> Option<()> {
        let (blocks, rest) = Array::slice_as_chunks_mut(bytes);
        if !rest.is_empty() {
            return None;
        }
        self.cipher.apply_keystream_blocks(blocks);
        Some(())
    }

    fn tag(mut self, associated: usize, bytes: usize) -> Tag {
        let lengths = u128::from(associated as u64) | u128::from(bytes as u64).wrapping_shl(64);
        self.mac.update(&[lengths.to_le_bytes().into()]);
        self.mac.finalize().into()
    }
}

impl Key {
    /// Encrypts `bytes` in place and returns the tag that authenticates them together with `associated`.
    /// `None` unless the length of `bytes` is a multiple of 64 and that of `associated` a multiple of 16, as
    /// for blocks and headers.
    pub fn encrypt(&self, place: &Place, associated: &[u8], bytes: &mut [u8]) -> Option<Tag> {
        let mut message = Message::begin(self, place, associated)?;
        message.apply(bytes)?;
        message.authenticate(bytes)?;
        Some(message.tag(associated.len(), bytes.len()))
    }

    /// Decrypts `bytes` in place if they and `associated` are authentic; otherwise leaves them unchanged.
    pub fn open(&self, place: &Place, associated: &[u8], bytes: &mut [u8], tag: &Tag) -> bool {
        let expected = || {
            let mut message = Message::begin(self, place, associated)?;
            message.authenticate(bytes)?;
            Some(message.tag(associated.len(), bytes.len()))
        };
        let Some(expected) = expected() else { return false };
        // Compare all bytes, so that the time taken does not reveal the first difference.
        let difference = expected.iter().zip(tag).fold(0, |any, (ours, theirs)| any | (ours ^ theirs));
        if difference != 0 {
            return false;
        }
        Message::begin(self, place, associated).and_then(|mut message| message.apply(bytes)).is_some()
    }

    /// Encrypts the payload blocks of a chunk and sets the tag in its header. The header before the tag must
    /// be final. The checksums are computed afterwards, over the encrypted payload.
    pub fn encrypt_chunk(&self, header: &mut Block, payload: &mut [u8]) -> bool {
        let (associated, _) = header.split_at(TAG_OFFSET);
        let Some(place) = ChunkHeader::of(header).map(place_of) else { return false };
        let Some(tag) = self.encrypt(&place, associated, payload) else { return false };
        if let Some(header) = ChunkHeader::of_mut(header) {
            header.tag = tag;
        }
        true
    }

    /// Decrypts the payload blocks of an encrypted chunk, if they and the header are authentic.
    pub fn open_chunk(&self, header: &ChunkHeader, payload: &mut [u8]) -> bool {
        let (associated, _) = header.as_bytes().split_at_checked(TAG_OFFSET).unwrap_or_default();
        self.open(&place_of(header), associated, payload, &header.tag)
    }

    /// The tag of a header in its present state. `closed` if it is not in progress.
    pub fn header_tag(&self, header: &Header, closed: bool) -> Option<Tag> {
        self.encrypt(&header_place(header, closed), header.as_bytes().get(TAGGED)?, &mut [])
    }

    /// Whether a header is as the dump wrote it.
    pub fn is_authentic(&self, header: &Header, closed: bool) -> bool {
        let associated = header.as_bytes().get(TAGGED).unwrap_or_default();
        self.open(&header_place(header, closed), associated, &mut [], &header.tag)
    }
}

fn place_of(header: &ChunkHeader) -> Place {
    Place { attempt: header.attempt.get(), nonce: header.nonce.get(), index: header.index.get() }
}

fn header_place(header: &Header, closed: bool) -> Place {
    let index = header_index(header.stripe.get(), closed);
    Place { attempt: header.attempt.get(), nonce: header.nonce.get(), index }
}
