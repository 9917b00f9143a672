//! The label, as a dump checks it before it writes.

use crate::device::Geometry;
use crate::format::Uuid;
use crate::format::cipher::PublicKey;
use crate::format::label::{Label, WrongLabel};
use crate::partition::unfit::Unfit;
use crate::partition::window::Window;
use crate::wait::Wait;

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
    let label = Label::check(block, expected, blocks).map_err(|wrong| match wrong {
        WrongLabel::Malformed(malformed) => Unfit::NoLabel(malformed),
        WrongLabel::OtherUuid { found } => {
            let expected = expected.map_or(0, |expected| head(expected));
            Unfit::OtherLabel { found: head(&found), expected }
        }
        WrongLabel::OtherSize { label, partition } => Unfit::OtherSize { label, partition },
    })?;
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
    if label.is_some() && !cfg!(feature = "encryption") {
        return Err(Unfit::NoEncryption);
    }
    let head = |key: Option<&PublicKey>| key.map_or(0, |key| head(key.as_slice()));
    Err(Unfit::OtherRecipient { label: head(label), armed: head(armed) })
}
