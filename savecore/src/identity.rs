//! The secret key that opens encrypted dumps.

use std::fmt;

use dumpcore::format::crypt::{Key, PublicKey, SecretKey, public_key};
use dumpcore::format::header::{Header, Status};

use crate::partition::{Ending, Found};

/// Who encrypted dumps are for: the secret key that belongs to the public one in their partition's label.
#[derive(Clone)]
pub struct Identity(pub SecretKey);

impl Identity {
    /// The public key, as it is in labels.
    pub fn public_key(&self) -> PublicKey {
        public_key(&self.0)
    }

    /// Whether a dump's header is authentic for this identity: it is the right one, and the header is as the dump wrote
    /// it. `None` where a header cannot tell: it is not an encrypted dump's, savecore itself has changed it since, or
    /// it is lost.
    pub fn opens(&self, found: &Found) -> Option<bool> {
        let header = &found.header;
        let tells =
            header.is_encrypted() && found.ending != Ending::BothLost && header.status() != Status::Saved;
        tells.then(|| self.key(&header.ephemeral).is_some_and(|key| is_authentic(&key, header)))
    }

    /// The key on which the kernel that made `ephemeral` agreed with this identity; `None` for a public key with which
    /// nobody can agree on a secret.
    pub(crate) fn key(&self, ephemeral: &PublicKey) -> Option<Key> {
        Key::agree(&self.0, ephemeral, ephemeral, &self.public_key())
    }
}

impl fmt::Debug for Identity {
    /// Says nothing of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// Whether a header is what the dump wrote, begun or closed.
pub(crate) fn is_authentic(key: &Key, header: &Header) -> bool {
    key.is_authentic(header, header.status() != Status::InProgress)
}
