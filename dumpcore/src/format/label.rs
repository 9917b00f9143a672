//! Block 0 of a dump partition: which partition it is, and how large.

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::cipher::{Cipher, PublicKey};
use super::frame::{self, Kind, Malformed};
use super::integer::{U32, U64};
use super::{BLOCK_SIZE, Block, Uuid, VERSION};

/// The smallest partition that can hold a dump: label, two headers, one chunk with one page.
pub const MIN_BLOCKS: u64 = 5;

/// The label's layout on disk.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Label {
    /// `DISKDMPL`.
    pub magic: [u8; 8],
    /// [`VERSION`], or an earlier one down to [`OLDEST_VERSION`](super::OLDEST_VERSION).
    pub version: U32,
    /// [`BLOCK_SIZE`].
    pub block_size: U32,
    /// The partition's identity, repeated by pattern and dumps.
    pub uuid: Uuid,
    /// Size of the partition in blocks, including this one.
    pub blocks: U64,
    /// When the label was written, in seconds since 1970-01-01 UTC; 0 if unknown.
    pub created: U64,
    /// A name for people, UTF-8, padded with zeros.
    pub name: [u8; 64],
    /// A [`Cipher`]: whether dumps on this partition must be encrypted.
    pub cipher: U32,
    /// Zero.
    pub padding: U32,
    /// The public key to encrypt to (X25519, RFC 7748); zeros without encryption.
    pub recipient: PublicKey,
    /// The id of the machine that owns the partition, which only that machine can compute; zeros if
    /// unspecified.
    pub machine: Uuid,
    /// Zero.
    pub reserved: [u8; 3924],
    /// CRC-32 of all bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<Label>(), BLOCK_SIZE);

/// Why the first block of a partition is not the label that it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrongLabel {
    /// It is no label.
    Malformed(Malformed),
    /// It is the label of another partition.
    OtherUuid {
        /// The uuid that it says.
        found: Uuid,
    },
    /// It was laid for a partition of another size.
    OtherSize {
        /// Blocks that the label says.
        label: u64,
        /// Blocks that the partition has.
        partition: u64,
    },
}

impl Label {
    /// The label in the first block of a partition that has `blocks` blocks and, if that is known, this uuid.
    ///
    /// The size has to be the same, not just no smaller than the label says. What a partition has beyond its label was never
    /// laid with the pattern, so a dump could not go there; and those who take the partition for as large as its table
    /// says, and those who take it for as large as its label says, would look for its end in different places. A partition
    /// that was resized is formatted again.
    ///
    /// # Errors
    /// What is wrong with it, the first of these in the order of [`WrongLabel`].
    pub fn check<'b>(block: &'b Block, uuid: Option<&Uuid>, blocks: u64) -> Result<&'b Label, WrongLabel> {
        let label = Label::parse(block).map_err(WrongLabel::Malformed)?;
        if uuid.is_some_and(|uuid| *uuid != label.uuid) {
            return Err(WrongLabel::OtherUuid { found: label.uuid });
        }
        if label.blocks.get() != blocks {
            return Err(WrongLabel::OtherSize { label: label.blocks.get(), partition: blocks });
        }
        Ok(label)
    }

    /// A label for a partition of `blocks` blocks. A name longer than 64 bytes is truncated at a character
    /// boundary.
    pub fn new(uuid: Uuid, blocks: u64, created: u64, name: &str) -> Label {
        let mut label = Label::new_zeroed();
        label.magic = Kind::Label.magic();
        label.version = VERSION.into();
        label.block_size = (BLOCK_SIZE as u32).into();
        label.uuid = uuid;
        label.blocks = blocks.into();
        label.created = created.into();
        super::header::put_text(&mut label.name, name);
        label
    }

    /// The label as a block, with its checksum.
    pub fn to_block(&self, block: &mut Block) {
        // Both have the size of a block, so this cannot fail.
        let _ = self.write_to(block.as_mut_slice());
        frame::set_checksum(block);
    }

    /// The label in a block.
    ///
    /// # Errors
    /// As for [`frame::check`]; also a block size or partition size that the format does not allow.
    pub fn parse(block: &Block) -> Result<&Label, Malformed> {
        frame::check(block, Kind::Label)?;
        let label = Label::ref_from_bytes(block.as_slice())
            .map_err(|_| Malformed::Field { name: "label", value: 0 })?;
        if label.block_size.get() as usize != BLOCK_SIZE {
            return Err(Malformed::Field { name: "block_size", value: label.block_size.get().into() });
        }
        if label.blocks.get() < MIN_BLOCKS {
            return Err(Malformed::Field { name: "blocks", value: label.blocks.get() });
        }
        if Cipher::from_number(label.cipher.get()).is_none() {
            return Err(Malformed::Field { name: "cipher", value: label.cipher.get().into() });
        }
        Ok(label)
    }

    /// The public key to which dumps must be encrypted, if they must be.
    pub fn recipient(&self) -> Option<&PublicKey> {
        (self.cipher.get() == Cipher::X25519XChaCha20Poly1305 as u32).then_some(&self.recipient)
    }

    /// The machine that owns the partition, if the label names one. Kernels ignore it: ownership is settled
    /// before arming.
    pub fn machine(&self) -> Option<&Uuid> {
        (self.machine != Uuid::default()).then_some(&self.machine)
    }

    /// Demands that dumps be encrypted to `recipient`.
    pub fn set_recipient(&mut self, recipient: &PublicKey) {
        self.cipher = (Cipher::X25519XChaCha20Poly1305 as u32).into();
        self.recipient = *recipient;
    }

    /// The name, up to the first byte that is not UTF-8.
    pub fn name(&self) -> &str {
        super::header::text(&self.name)
    }
}
