//! The secret key that opens encrypted dumps.

use std::fmt;

use dumpcore::format::crypt::{Key, PublicKey, SecretKey, public_key};
use dumpcore::format::header::{Header, Status};

use crate::partition::{Ending, Found};

/// The recipient of encrypted dumps: the secret key for the public key in their partition's label.
#[derive(Clone)]
pub struct Identity(pub SecretKey);

impl Identity {
    /// The public key, as in labels.
    pub fn public_key(&self) -> PublicKey {
        public_key(&self.0)
    }

    /// Whether a dump's header is authentic for this identity: the identity is right, and the header is
    /// unchanged. `None` if a header cannot tell: it is not of an encrypted dump, savecore itself has changed
    /// it since, or it is lost.
    pub fn opens(&self, found: &Found) -> Option<bool> {
        let header = &found.header;
        let tells =
            header.is_encrypted() && found.ending != Ending::BothLost && header.status() != Status::Saved;
        tells.then(|| self.key(&header.ephemeral).is_some_and(|key| is_authentic(&key, header)))
    }

    /// The key agreed between this identity and the kernel that made `ephemeral`; `None` for a public key
    /// that leads to no secret.
    pub(crate) fn key(&self, ephemeral: &PublicKey) -> Option<Key> {
        Key::agree(&self.0, ephemeral, ephemeral, &self.public_key())
    }
}

impl fmt::Debug for Identity {
    /// Reveals nothing about the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// Whether a header, started or closed, is as the dump wrote it.
pub(crate) fn is_authentic(key: &Key, header: &Header) -> bool {
    key.is_authentic(header, header.status() != Status::InProgress)
}
