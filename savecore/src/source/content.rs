//! Recognises the contents of a partition, to warn the user before overwriting them.

use std::fmt;

use dumpcore::format::frame::{Kind, Malformed};
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block};

use super::Source;

/// The contents of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Only zeros, according to samples over the whole partition.
    Zeros,
    /// Our label, valid.
    Label {
        /// The name in it.
        name: String,
        /// The uuid in it.
        uuid: uuid::Uuid,
    },
    /// Our label, of another version of the format.
    OtherVersion(u32),
    /// Blocks of our format, but no valid label: the remains of an interrupted format, or a damaged label.
    Remains,
    /// A known format with a name.
    Known(&'static str),
    /// Unknown data.
    Other,
    /// The first blocks cannot be read.
    Unreadable,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Zeros => f.write_str("nothing but zeros"),
            Content::Label { name, uuid } if name.is_empty() => write!(f, "a dump partition's label, {uuid}"),
            Content::Label { name, uuid } => {
                write!(f, "the label of dump partition \"{}\", {uuid}", name.escape_debug())
            }
            Content::OtherVersion(found) => write!(f, "a dump partition's label of format version {found}"),
            Content::Remains => f.write_str("a dump partition without a whole label"),
            Content::Known(name) => f.write_str(name),
            Content::Other => f.write_str("unknown data"),
            Content::Unreadable => f.write_str("blocks that cannot be read"),
        }
    }
}

/// Offset, bytes there, name. More specific ones come first.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"LABELONE", "an LVM physical volume"),
    (1024, b"LABELONE", "an LVM physical volume"),
    (1536, b"LABELONE", "an LVM physical volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (16374, b"SWAPSPACE2", "swap space"),
    (65526, b"SWAPSPACE2", "swap space"),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    (4096 + 0x18, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "a bcachefs file system"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (54, b"FAT16   ", "a FAT file system"),
    (54, b"FAT12   ", "a FAT file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (512, b"EFI PART", "a GUID partition table"),
    (4096, b"EFI PART", "a GUID partition table"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"\x7fELF", "an ELF file"),
];

/// Number of blocks with all signatures.
const HEAD_BLOCKS: u64 = 48;

/// Number of blocks to check, spread over the partition, before it counts as empty.
const SAMPLES: u64 = 1024;

/// Checks the partition's head for signatures, and samples of the rest.
pub fn recognise(source: &dyn Source) -> Content {
    let blocks = source.blocks();
    let mut head = vec![[0; BLOCK_SIZE]; blocks.min(HEAD_BLOCKS) as usize];
    if head.is_empty() {
        return Content::Zeros;
    }
    if source.read(0, &mut head).is_err() {
        return Content::Unreadable;
    }
    match Label::parse(&head[0]) {
        Ok(label) => {
            let uuid = uuid::Uuid::from_bytes(label.uuid);
            return Content::Label { name: label.name().to_owned(), uuid };
        }
        Err(Malformed::Version { found }) => return Content::OtherVersion(found),
        Err(_) => {}
    }
    if head.iter().take(3).any(|block| Kind::of(block).is_some()) {
        return Content::Remains;
    }
    let bytes = head.as_flattened();
    for (offset, signature, name) in SIGNATURES {
        if bytes.get(*offset..offset + signature.len()) == Some(*signature) {
            return Content::Known(name);
        }
    }
    // ext2, 3, 4: s_magic 0xef53 in the super block at 1024; two bytes are weak evidence, so check the block
    // size too.
    if bytes.get(1080..1082) == Some(&[0x53, 0xef]) && bytes.get(1024 + 24).is_some_and(|log| *log <= 6) {
        return Content::Known("an ext2, ext3 or ext4 file system");
    }
    if zfs(bytes) {
        return Content::Known("a member of a ZFS pool");
    }
    if bytes.get(510..512) == Some(&[0x55, 0xaa]) {
        return Content::Known("a boot sector");
    }
    if bytes.iter().any(|byte| *byte != 0) {
        return Content::Other;
    }
    let mut block: [Block; 1] = [[0; BLOCK_SIZE]];
    let step = (blocks / SAMPLES).max(1);
    let spread = (0..SAMPLES).map(|sample| sample * step).take_while(|at| *at < blocks);
    for at in spread.chain([blocks - 1]) {
        match source.read(at, &mut block) {
            Ok(()) if block[0].iter().all(|byte| *byte == 0) => {}
            Ok(()) => return Content::Other,
            Err(_) => return Content::Unreadable,
        }
    }
    Content::Zeros
}

/// Number of blocks in [`fingerprint`], spread over the partition, besides its head and its end.
const MARKS: u64 = 62;

/// A checksum over the partition's head, its end and a few blocks between them, to detect changes.
pub fn fingerprint(source: &dyn Source) -> u32 {
    let blocks = source.blocks();
    let mut sum = crc32fast::Hasher::new();
    let mut block: [Block; 1] = [[0; BLOCK_SIZE]];
    let spread = (0..MARKS).map(|mark| mark * (blocks / MARKS).max(1));
    for at in (0..HEAD_BLOCKS).chain(spread).chain(blocks.checked_sub(1)).filter(|at| *at < blocks) {
        match source.read(at, &mut block) {
            Ok(()) => sum.update(&block[0]),
            Err(_) => sum.update(b"unreadable"),
        }
    }
    sum.finalize()
}

/// ZFS keeps a ring of uberblocks from 128 KiB on, 1 KiB apart.
fn zfs(bytes: &[u8]) -> bool {
    let ring = bytes.get(128 << 10..).unwrap_or_default();
    ring.chunks_exact(1024).any(|slot| slot.starts_with(&0x00ba_b10c_u64.to_le_bytes()))
}

/// Describes a block in a few words, for a message about an unexpected one.
pub fn describe_block(block: &Block) -> &'static str {
    match Kind::of(block) {
        Some(Kind::Label) => "a label",
        Some(Kind::Front) => "a dump's front header",
        Some(Kind::Back) => "a dump's back header",
        Some(Kind::Chunk) => "a chunk's header",
        Some(Kind::Pattern) => "a pattern block that is damaged or from another place",
        None if block.iter().all(|byte| *byte == 0) => "zeros",
        None => "foreign data",
    }
}
