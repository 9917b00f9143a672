//! What the device's registers and its record mean.

/// Registers, 32 bits each.
pub mod register {
    /// Written: a reset.
    pub const RESET: usize = 0x00;
    pub const STATUS: usize = 0x04;
    /// How large the disk is.
    pub const BLOCKS: usize = 0x08;
    /// Of the next command: the first block, the length in bytes, and where in memory, 64 bits.
    pub const BLOCK: usize = 0x0c;
    pub const LENGTH: usize = 0x10;
    pub const ADDRESS: usize = 0x14;
    /// Where the record is, 64 bits.
    pub const RECORD: usize = 0x1c;
    /// Written: a command, and its number in bits 16 to 31.
    pub const COMMAND: usize = 0x24;
    pub const BYTES: usize = 0x28;
}

pub mod status {
    /// It takes commands.
    pub const READY: u32 = 1 << 0;
    /// It has failed as a whole.
    pub const FATAL: u32 = 1 << 1;
}

pub mod command {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const FLUSH: u32 = 3;
}

/// The record: 32 bits each.
pub mod record {
    pub const NUMBER: usize = 0;
    /// 0 for success.
    pub const CODE: usize = 4;
    pub const MOVED: usize = 8;
    pub const BYTES: usize = 12;
}
