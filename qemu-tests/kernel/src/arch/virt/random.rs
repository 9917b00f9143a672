//! Numbers that nobody can guess: made of those that the machine hands over in the device tree (`/chosen/rng-seed`), and of
//! what the CPU adds where it can.
//!
//! What is kept here goes into a dump like all memory, so it must not tell what was given away before: it is hashed on after
//! each use, and hashes do not go backwards.

use sha2::{Digest, Sha256};
use spin::Mutex;
use zeroize::Zeroize;

/// What is known, once anything is.
static POOL: Mutex<Option<[u8; 32]>> = Mutex::new(None);

/// What a hash is for; the two never give the same.
const KEPT: &[u8] = b"diskdump test kernel: kept";
const GIVEN: &[u8] = b"diskdump test kernel: given away";

fn hash(purpose: &[u8], pool: &[u8; 32], more: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(purpose).chain_update(pool).chain_update(more).finalize().into()
}

/// Adds bytes that nobody can guess.
pub(crate) fn stir(bytes: &[u8]) {
    let mut pool = POOL.lock();
    *pool = Some(hash(KEPT, &pool.unwrap_or_default(), bytes));
}

/// Fills `bytes`, and says whether it could: not if nothing was ever added. For `arm()`.
pub(crate) fn fill(bytes: &mut [u8; 32]) -> bool {
    let Some(mut pool) = POOL.try_lock() else { return false };
    let Some(known) = pool.as_mut() else { return false };
    *bytes = hash(GIVEN, known, &[]);
    let next = hash(KEPT, known, &[]);
    known.zeroize();
    *known = next;
    true
}
