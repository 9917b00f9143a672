//! The checks of a partition's size and label before a dump writes to it.

use crate::device::Geometry;
use crate::format::Uuid;
use crate::format::cipher::PublicKey;
use crate::format::label::Label;
use crate::partition::unfit::Unfit;
use crate::partition::window::Window;
use crate::wait::Wait;

/// First eight bytes of a uuid or key, in printed order.
fn head(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

/// Checks that the partition is within the device, which has been quiesced.
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

/// The contents of a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Labelled {
    /// The partition's identity.
    pub uuid: Uuid,
    /// The public key to which dumps must be encrypted, if they must be.
    pub recipient: Option<PublicKey>,
}

/// Reads and checks the label.
///
/// # Errors
/// If there is no label, or it is for a partition other than `expected`, or for another size.
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

/// Checks that the label demands exactly the encryption that was armed.
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
