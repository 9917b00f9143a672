//! Where a dump may begin: the label is checked, and dumps that nobody has harvested yet are passed over.

use crate::console::{Describe, Line};
use crate::device::{DeviceError, Geometry};
use crate::display_by_describe;
use crate::format::crypt::PublicKey;
use crate::format::frame::{Kind, Malformed};
use crate::format::header::{Header, Status};
use crate::format::label::Label;
use crate::format::{Block, Uuid, pattern};
use crate::partition::lane::Lane;
use crate::partition::traffic::Traffic;
use crate::partition::window::Window;
use crate::wait::Wait;

/// Blocks that the smallest dump takes: front header, a chunk of two, back header.
pub const SMALLEST_DUMP: u64 = 4;

/// Why the partition may not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// The device did not answer a read.
    Device {
        /// Of which block.
        block: u64,
        /// What it said.
        error: DeviceError,
    },
    /// The time budget was spent before everything was checked.
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
    /// The label was laid for a partition of another size.
    OtherSize {
        /// Blocks that the label says.
        label: u64,
        /// Blocks that the partition has.
        partition: u64,
    },
    /// The partition reaches beyond the end of the device.
    BeyondDevice {
        /// First block behind the partition.
        end: u64,
        /// Blocks that the device has.
        blocks: u64,
    },
    /// A block is neither the pattern nor part of a dump.
    Foreign {
        /// Which.
        block: u64,
    },
    /// The label demands that dumps be encrypted to a public key, or to none, other than what was armed for.
    OtherRecipient {
        /// First eight bytes of the public key in the label; 0 if it demands no encryption.
        label: u64,
        /// First eight bytes of the one that was armed for; 0 for none.
        armed: u64,
    },
    /// Unharvested dumps leave too little room.
    NoRoom {
        /// Free blocks.
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

/// First eight bytes of a uuid or key, as people read them.
fn head(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

/// Checks that the partition lies within the device, which has been quiesced.
///
/// # Errors
/// [`Unfit::BeyondDevice`] if it does not.
pub fn check_size(window: &mut Window<'_>) -> Result<(), Unfit> {
    let end = window.end_on_device();
    match window.device().geometry() {
        Some(Geometry { blocks }) if end <= blocks => Ok(()),
        size => Err(Unfit::BeyondDevice { end, blocks: size.map_or(0, |size| size.blocks) }),
    }
}

/// What the label says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Labelled {
    /// The partition's identity.
    pub uuid: Uuid,
    /// The public key that it demands dumps to be encrypted to.
    pub recipient: Option<PublicKey>,
}

/// Reads and checks the label.
///
/// # Errors
/// If there is none, or it is for another partition than `expected`, or for another size.
pub fn check_label(
    window: &mut Window<'_>,
    expected: Option<&Uuid>,
    wait: &Wait<'_>,
) -> Result<Labelled, Unfit> {
    let blocks = window.blocks();
    let block = window.read(0, wait).map_err(|error| Unfit::Device { block: 0, error })?;
    let label = Label::parse(block).map_err(Unfit::NoLabel)?;
    if let Some(expected) = expected
        && label.uuid != *expected
    {
        return Err(Unfit::OtherLabel { found: head(&label.uuid), expected: head(expected) });
    }
    if label.blocks.get() != blocks {
        return Err(Unfit::OtherSize { label: label.blocks.get(), partition: blocks });
    }
    Ok(Labelled { uuid: label.uuid, recipient: label.recipient().copied() })
}

/// Checks that the label demands the encryption that was armed for.
///
/// # Errors
/// If it does not.
pub fn check_recipient(label: Option<&PublicKey>, armed: Option<&PublicKey>) -> Result<(), Unfit> {
    if label == armed {
        return Ok(());
    }
    let head = |key: Option<&PublicKey>| key.map_or(0, |key| head(key.as_slice()));
    Err(Unfit::OtherRecipient { label: head(label), armed: head(armed) })
}

/// Where the next dump begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its first block.
    pub block: u64,
    /// Its number among the dumps of the partition, from 1.
    pub sequence: u32,
    /// Blocks from the first one up to this are known to hold their pattern, because they had to be looked at.
    pub free_to: u64,
}

impl Place {
    /// Not found yet.
    pub const NOWHERE: Place = Place { block: 0, sequence: 0, free_to: 0 };
}

/// Passes over the dumps of a lane and finds the first free block. Nothing may be in flight.
///
/// # Errors
/// If something else than dumps lies in front of the pattern, or too little is free.
pub fn find(traffic: &mut Traffic<'_, '_, '_, '_>, lane: usize, wait: &Wait<'_>) -> Result<Place, Unfit> {
    let mut place = Place { block: 1, sequence: 1, free_to: 1 };
    let gone = Unfit::Device { block: 1, error: DeviceError::NotReady };
    let (blocks, uuid) = {
        let Lane { window, books, .. } = traffic.lanes.get_mut(lane).ok_or(gone)?;
        (window.blocks(), books.uuid)
    };
    // Each turn passes over at least two blocks.
    while place.block < blocks {
        if wait.expired() {
            return Err(Unfit::Budget);
        }
        let at = place.block;
        let window = &mut traffic.lanes.get_mut(lane).ok_or(gone)?.window;
        let block = window.read(at, wait).map_err(|error| Unfit::Device { block: at, error })?;
        if pattern::matches(block, &uuid, at) {
            break;
        }
        let claims = Kind::of(block) == Some(Kind::Front);
        let Some(header) = front_header(block, &uuid, at) else {
            if !claims {
                return Err(Unfit::Foreign { block: at });
            }
            // A front header that was torn while it was written: its dump is there, and stays.
            place = behind_unfinished(traffic, (lane, blocks), &uuid, place, wait)?;
            break;
        };
        place.sequence = header.sequence.get().saturating_add(1);
        let end = header.end_block.get();
        if header.status() == Status::InProgress {
            place = behind_unfinished(traffic, (lane, blocks), &uuid, place, wait)?;
            break;
        }
        if end <= at || end > blocks {
            return Err(Unfit::Foreign { block: at });
        }
        place.block = end;
    }
    let free = blocks.saturating_sub(place.block);
    if free < SMALLEST_DUMP {
        return Err(Unfit::NoRoom { free });
    }
    place.free_to = place.free_to.max(place.block);
    Ok(place)
}

/// The front header in block `at`, if it is one of this partition, in its place.
fn front_header<'b>(block: &'b Block, uuid: &Uuid, at: u64) -> Option<&'b Header> {
    let header = Header::parse(block, Kind::Front).ok()?;
    (header.uuid == *uuid && header.first_block.get() == at).then_some(header)
}

/// Behind a dump that nobody closed. Its writer kept many blocks in flight, and the disk's cache may have lost any of
/// them, so its end is only certain behind the last block that is not the pattern.
fn behind_unfinished(
    traffic: &mut Traffic<'_, '_, '_, '_>,
    (lane, blocks): (usize, u64),
    uuid: &Uuid,
    unfinished: Place,
    wait: &Wait<'_>,
) -> Result<Place, Unfit> {
    let first = unfinished.block.saturating_add(1);
    let mut place = Place { block: first, sequence: unfinished.sequence, free_to: blocks };
    traffic.scan(lane, (first, blocks), wait, &mut |number, block| {
        if !pattern::matches(block, uuid, number) {
            place.block = place.block.max(number.saturating_add(1));
            if let Some(header) = front_header(block, uuid, number) {
                place.sequence = place.sequence.max(header.sequence.get().saturating_add(1));
            }
        }
    })?;
    Ok(place)
}
