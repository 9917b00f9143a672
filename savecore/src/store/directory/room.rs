//! How much room there is, as far as the file system says.

use rustix::fd::AsFd;

/// File systems that keep every byte that is written in a byte of their own (linux/magic.h): ext2 to ext4, XFS, JFS, tmpfs, FAT and
/// exFAT. Others may compress, or are a server's, of which nobody knows.
const LITERAL: [u32; 6] = [0xef53, 0x5846_5342, 0x3153_464a, 0x0102_1994, FAT, EXFAT];

const FAT: u32 = 0x4d44;
const EXFAT: u32 = 0x2011_bab0;

/// Bytes that the user may still fill; `None` if the file system does not say, as many in user space.
pub(super) fn free(at: impl AsFd) -> Option<u64> {
    let system = rustix::fs::fstatvfs(at).ok()?;
    // No room at all in all is what those say that count none.
    (system.f_blocks > 0).then(|| system.f_bavail.saturating_mul(system.f_frsize))
}

/// Bytes that the file system has in all; `None` if it does not say.
pub(super) fn all(at: impl AsFd) -> Option<u64> {
    let system = rustix::fs::fstatvfs(at).ok()?;
    Some(system.f_blocks.saturating_mul(system.f_frsize)).filter(|bytes| *bytes > 0)
}

/// Whether what is written surely takes as much room.
pub(super) fn is_literal(at: impl AsFd) -> bool {
    kind(at).is_some_and(|kind| LITERAL.contains(&kind))
}

/// Whether what was not written of a file takes no room.
pub(super) fn keeps_holes(at: impl AsFd) -> bool {
    kind(at).is_none_or(|kind| ![FAT, EXFAT].contains(&kind))
}

fn kind(at: impl AsFd) -> Option<u32> {
    // The type's width and sign differ from architecture to architecture, and its value never needs more.
    rustix::fs::fstatfs(at).ok().map(|system| system.f_type as u32)
}
