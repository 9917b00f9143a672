//! The key of a build without the feature `encryption`: there is none. So nothing that has a key to work with can
//! be reached, and the compiler leaves it out.

use super::Block;
use super::cipher::Tag;
use super::header::Header;

/// A key that cannot exist, with what the dump asks of one.
#[derive(Clone)]
pub(crate) enum Key {}

impl Key {
    /// See the key of a build with encryption.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        match *self {}
    }

    /// See the key of a build with encryption.
    pub(crate) fn encrypt_chunk(&self, _: &mut Block, _: &mut [u8]) -> bool {
        match *self {}
    }

    /// See the key of a build with encryption.
    pub(crate) fn header_tag(&self, _: &Header, _: bool) -> Option<Tag> {
        match *self {}
    }
}
