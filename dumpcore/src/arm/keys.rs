//! The keys that targets demand: what is built only with the feature `encryption`.

use zeroize::Zeroizing;

use super::error::ArmError;
use crate::armed::ArmedTarget;
use crate::format::crypt::{self, Key};
use crate::limits::MAX_TARGETS;
use crate::platform::Platform;

/// Agrees on the key of each target that demands one, where the key stays: with an ephemeral secret that
/// nobody has afterwards. The caller wipes the stack afterwards.
#[inline(never)]
pub(super) fn derive_keys(
    platform: &dyn Platform,
    targets: &mut [Option<ArmedTarget<'_>>; MAX_TARGETS],
    demanded: &[bool; MAX_TARGETS],
) -> Result<(), ArmError> {
    let mut secret = Zeroizing::new([0; 32]);
    let mut public = None;
    for (number, (target, demanded)) in targets.iter_mut().zip(demanded).enumerate() {
        let Some(target) = target.as_mut().filter(|_| *demanded) else { continue };
        if public.is_none() {
            if !platform.entropy(&mut secret) {
                return Err(ArmError::NoEntropy { target: number });
            }
            public = Some(crypt::public_key(&secret));
        }
        let ephemeral = public.unwrap_or_default();
        let recipient = &target.settings.recipient;
        if !target.key.insert(Key::NONE).derive(&secret, recipient, &ephemeral, recipient) {
            return Err(ArmError::BadRecipient { target: number });
        }
        target.settings.ephemeral = ephemeral;
    }
    Ok(())
}
