//! The identity of this machine, without revealing its machine-id, which is confidential (machine-id(5)): ids
//! and keys are derived from it as systemd does for applications (sd_id128_get_machine_app_specific(3)), so
//! that none reveals another.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use dumpcore::format::Uuid;
use dumpcore::format::frame::CRC_OFFSET;
use dumpcore::format::header::{Header, Proof, Status};
use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::OFlags;
use sha2::Sha256;
use zerocopy::IntoBytes;

/// The application id for the machine ids in labels.
const LABELS: uuid::Uuid = uuid::uuid!("943f62a3-c825-43b8-9b93-bb9d9af5063a");
/// The application id for the key of proofs.
const PROOFS: uuid::Uuid = uuid::uuid!("4685f040-edfa-49c9-b50e-896d545e37e5");

/// Files with the machine-id: systemd's, and D-Bus's on systems without systemd.
const FILES: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];

/// A machine, as identified by labels and proofs.
#[derive(Clone, PartialEq, Eq)]
pub struct Machine {
    /// The id in the labels of its partitions.
    pub id: Uuid,
    key: [u8; 32],
}

impl Machine {
    /// The machine whose file systems are below `root`; `None` if it has no id (yet).
    pub fn of(root: &Path) -> Option<Machine> {
        FILES.iter().find_map(|name| {
            let options = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).clone();
            let mut text = String::new();
            options.open(root.join(name)).ok()?.take(64).read_to_string(&mut text).ok()?;
            Machine::from_text(&text)
        })
    }

    /// The machine with this machine-id, in 32 hexadecimal digits.
    pub fn from_text(text: &str) -> Option<Machine> {
        let text = text.trim_end_matches('\n');
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = text.parse::<uuid::Uuid>().ok().filter(|id| is_id && !id.is_nil())?;
        let derived = derive(id.as_bytes(), &[LABELS.as_bytes()]);
        let first = derived.first_chunk::<16>().copied().unwrap_or_default();
        // As in systemd: an id is a UUID of version 4.
        let label = uuid::Builder::from_random_bytes(first).into_uuid();
        Some(Machine { id: label.into_bytes(), key: derive(id.as_bytes(), &[PROOFS.as_bytes()]) })
    }

    /// Proves to this machine, and to no other, that it marked the dump with this front header as saved.
    pub fn proof(&self, header: &Header) -> Proof {
        // Everything except the proof itself and the checksum.
        let bytes = header.as_bytes();
        let at = std::mem::offset_of!(Header, proof);
        let parts = [bytes.get(..at), bytes.get(at + size_of::<Proof>()..CRC_OFFSET)];
        derive(&self.key, &parts.map(Option::unwrap_or_default))
    }

    /// Whether this machine marked a dump as saved.
    pub fn has_marked(&self, header: &Header) -> bool {
        header.status() == Status::Saved && same(&self.proof(header), &header.proof)
    }
}

impl fmt::Debug for Machine {
    /// Reveals nothing about the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({})", uuid::Uuid::from_bytes(self.id))
    }
}

/// HMAC-SHA256.
fn derive(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC keys may have any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Compares in constant time.
fn same(one: &Proof, other: &Proof) -> bool {
    one.iter().zip(other).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dumpcore::format::BLOCK_SIZE;
    use dumpcore::format::frame::Kind;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3d1219c7c4c5404aaa1f6d2a48adfda4";
    const SYSTEMD: &str = "a52d2d916224407792f6ae508e6f2421";

    #[test]
    fn the_id_in_labels_is_the_one_that_systemd_derives() {
        // systemd-id128 machine-id --app-specific=943f62a3c82543b89b93bb9d9af5063a, on a machine with that
        // id.
        let machine = Machine::from_text(ID).unwrap();
        assert_eq!(uuid::Uuid::from_bytes(machine.id).simple().to_string(), SYSTEMD);
    }

    #[test]
    fn only_a_whole_id_is_one() {
        for text in
            ["", "uninitialized\n", "0", &"0".repeat(32), &ID[1..], &format!("{ID}0"), &ID.replace('3', "g")]
        {
            assert_eq!(Machine::from_text(text), None, "{text}");
        }
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Machine::of(root.path()), None);
        fs::create_dir_all(root.path().join("var/lib/dbus")).unwrap();
        fs::write(root.path().join("var/lib/dbus/machine-id"), format!("{ID}\n")).unwrap();
        assert_eq!(Machine::of(root.path()), Machine::from_text(ID));
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        assert_eq!(Machine::of(root.path()), Machine::from_text(ID));
    }

    proptest! {
        #[test]
        fn a_mark_is_believed_by_the_machine_that_made_it_and_only_as_it_was_made(
            nonce: u64, end in 3..u64::MAX, at in 16..CRC_OFFSET, bit in 0..8_u32
        ) {
            let machine = Machine::from_text(ID).unwrap();
            let other = Machine::from_text(&ID.replace('3', "4")).unwrap();
            let mut header = Header::new();
            (header.nonce, header.end_block, header.status) =
                (nonce.into(), end.into(), (Status::Saved as u32).into());
            prop_assert!(!machine.has_marked(&header), "no proof at all");
            header.proof = machine.proof(&header);
            prop_assert!(machine.has_marked(&header) && !other.has_marked(&header));
            let mut block = [0; BLOCK_SIZE];
            header.to_block(Kind::Front, &mut block);
            block[at] ^= 1 << bit;
            let changed = zerocopy::FromBytes::read_from_bytes(&block[..]).unwrap();
            prop_assert!(!machine.has_marked(&changed));
        }
    }
}
