//! Copies bytes without vector registers and without code that can panic.

/// Bytes per step.
const WORD: usize = 8;

/// Copies as many bytes as fit, by words: kernels are built without vector registers, where a loop over bytes
/// takes eight times as long. `copy_from_slice` requires equal lengths and can panic.
#[inline]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    let (to_words, to_tail) = to.as_chunks_mut::<WORD>();
    let (from_words, _) = from.as_chunks::<WORD>();
    let words = to_words.len().min(from_words.len());
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = *from;
    }
    // The rest is less than a word of the shorter slice; the longer one may still have whole words there.
    let rest = from.get(words.saturating_mul(WORD)..).unwrap_or_default();
    let tail = match to_words.get_mut(words) {
        Some(word) => word.as_mut_slice(),
        None => to_tail,
    };
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_any_two_lengths_as_many_bytes_are_copied_as_both_have_and_no_other_changes() {
        for to_length in 0..40 {
            for from_length in 0..40 {
                let from: std::vec::Vec<u8> = (1..=from_length).collect();
                let mut to = std::vec![0xee; usize::from(to_length as u8)];
                copy(&mut to, &from);
                let both = to.len().min(from.len());
                assert_eq!(to.get(..both), from.get(..both), "{to_length} {from_length}");
                assert!(to.iter().skip(both).all(|byte| *byte == 0xee), "{to_length} {from_length}");
            }
        }
    }
}
