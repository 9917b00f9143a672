//! Entropy, from the seed in the device tree (`/chosen/rng-seed`) and from the CPU if it has a source.
//!
//! The pool goes into a dump like all memory, so it must not reveal earlier output: it is hashed after each
//! use, and hashes cannot be reversed.

use sha2::{Digest, Sha256};
use spin::Mutex;
use zeroize::Zeroize;

/// The entropy pool, once filled.
static POOL: Mutex<Option<[u8; 32]>> = Mutex::new(None);

/// Purposes of the hashes, so that the two never produce the same value.
const KEPT: &[u8] = b"diskdump test kernel: kept";
const GIVEN: &[u8] = b"diskdump test kernel: given away";

fn hash(purpose: &[u8], pool: &[u8; 32], more: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(purpose).chain_update(pool).chain_update(more).finalize().into()
}

/// Adds entropy.
pub(crate) fn stir(bytes: &[u8]) {
    let mut pool = POOL.lock();
    *pool = Some(hash(KEPT, &pool.unwrap_or_default(), bytes));
}

/// Fills `bytes`; returns false if no entropy was ever added. For `arm()`.
pub(crate) fn fill(bytes: &mut [u8; 32]) -> bool {
    let Some(mut pool) = POOL.try_lock() else { return false };
    let Some(known) = pool.as_mut() else { return false };
    *bytes = hash(GIVEN, known, &[]);
    let next = hash(KEPT, known, &[]);
    known.zeroize();
    *known = next;
    true
}
