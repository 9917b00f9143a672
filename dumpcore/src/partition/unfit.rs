//! Why a partition may not be written.

use crate::device::DeviceError;
use crate::format::frame::Malformed;
use crate::text::{Describe, Line, display_by_describe};

/// Why the partition may not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// A block could not be read.
    Device {
        /// The block.
        block: u64,
        /// The error.
        error: DeviceError,
    },
    /// The time budget ran out before everything was checked.
    Budget,
    /// Block 0 is not a label.
    NoLabel(Malformed),
    /// Block 0 is the label of another partition.
    OtherLabel {
        /// First eight bytes of the uuid found.
        found: u64,
        /// First eight bytes of the uuid expected.
        expected: u64,
    },
    /// The label was written for a partition of another size.
    OtherSize {
        /// Number of blocks according to the label.
        label: u64,
        /// Number of blocks of the partition.
        partition: u64,
    },
    /// The partition reaches beyond the end of the device.
    BeyondDevice {
        /// First block after the partition.
        end: u64,
        /// Number of blocks of the device.
        blocks: u64,
    },
    /// A block is neither the pattern nor part of a dump.
    Foreign {
        /// The block.
        block: u64,
    },
    /// The label demands encryption to a different public key than was armed, or demands none.
    OtherRecipient {
        /// First eight bytes of the public key in the label; 0 if it demands no encryption.
        label: u64,
        /// First eight bytes of the armed public key; 0 for none.
        armed: u64,
    },
    /// Unsaved dumps leave too little room.
    NoRoom {
        /// Number of free blocks.
        free: u64,
    },
}

impl Describe for Malformed {
    fn describe(&self, line: &mut Line) {
        match *self {
            Malformed::Magic { found } => line.text("it begins with ").hex(found),
            Malformed::Crc { stored, computed } => {
                line.text("its checksum is ").hex(stored.into()).text(", its bytes say ").hex(computed.into())
            }
            Malformed::Version { found } => line.text("its format version is ").decimal(found.into()),
            Malformed::Field { name, value } => {
                line.text("its field ").text(name).text(" holds ").decimal(value)
            }
        };
    }
}

impl Describe for Unfit {
    fn describe(&self, line: &mut Line) {
        match *self {
            Unfit::Device { block, error } => {
                line.text("block ").decimal(block).text(" could not be read: ");
                error.describe(line);
            }
            Unfit::Budget => {
                line.text("the time budget was spent before the partition was checked");
            }
            Unfit::NoLabel(malformed) => {
                line.text("block 0 is not a label (");
                malformed.describe(line);
                line.text("); `savecore check` tells more");
            }
            Unfit::OtherLabel { found, expected } => {
                line.text("the label is of another partition: its uuid begins with ").digits(found >> 32, 8);
                line.text(", armed was ").digits(expected >> 32, 8);
            }
            Unfit::OtherSize { label, partition } => {
                line.text("the label is for ").decimal(label).text(" blocks, the partition has ");
                line.decimal(partition);
            }
            Unfit::BeyondDevice { end, blocks } => {
                line.text("the partition ends at block ")
                    .decimal(end)
                    .text(", the device at ")
                    .decimal(blocks);
            }
            Unfit::OtherRecipient { label: 0, .. } => {
                line.text("the label demands no encryption, but it was armed for it; arm again");
            }
            Unfit::OtherRecipient { label, armed } => {
                line.text("the label demands encryption to the key that begins with ").digits(label >> 32, 8);
                line.text(", armed was ").digits(armed >> 32, 8);
            }
            Unfit::Foreign { block } => {
                line.text("block ").decimal(block).text(" does not hold its pattern");
            }
            Unfit::NoRoom { free } => {
                line.text("only ").decimal(free).text(" blocks are free; harvest with `savecore save`");
            }
        }
    }
}

display_by_describe!(Malformed, Unfit);
