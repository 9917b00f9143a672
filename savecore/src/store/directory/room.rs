//! Free space, according to the file system.

use rustix::fd::AsFd;

/// File systems that store every byte as it is (linux/magic.h): ext2 to ext4, XFS, JFS, tmpfs, FAT and exFAT.
/// Others may compress, or are a server's, whose behaviour is unknown.
const LITERAL: [u32; 6] = [0xef53, 0x5846_5342, 0x3153_464a, 0x0102_1994, FAT, EXFAT];

const FAT: u32 = 0x4d44;
const EXFAT: u32 = 0x2011_bab0;

/// Bytes available to the user; `None` if unknown, as for many file systems in user space.
pub(super) fn free(at: impl AsFd) -> Option<u64> {
    let system = rustix::fs::fstatvfs(at).ok()?;
    // A total of zero means that the file system does not count.
    (system.f_blocks > 0).then(|| system.f_bavail.saturating_mul(system.f_frsize))
}

/// Total bytes of the file system; `None` if unknown.
pub(super) fn all(at: impl AsFd) -> Option<u64> {
    let system = rustix::fs::fstatvfs(at).ok()?;
    Some(system.f_blocks.saturating_mul(system.f_frsize)).filter(|bytes| *bytes > 0)
}

/// Whether data certainly takes as much space as its length.
pub(super) fn is_literal(at: impl AsFd) -> bool {
    kind(at).is_some_and(|kind| LITERAL.contains(&kind))
}

/// Whether holes in a file take no space.
pub(super) fn keeps_holes(at: impl AsFd) -> bool {
    kind(at).is_none_or(|kind| ![FAT, EXFAT].contains(&kind))
}

fn kind(at: impl AsFd) -> Option<u32> {
    // The type's width and sign depend on the architecture, but 32 bits always suffice.
    rustix::fs::fstatfs(at).ok().map(|system| system.f_type as u32)
}
