//! Bytes copied without any path that could panic, and without vector registers.

/// Bytes copied in one turn.
const WORD: usize = 8;

/// Copies as many bytes as both have, by words: a kernel is built without vector registers, and a loop over bytes takes
/// eight times as long there. `copy_from_slice` insists on equal lengths, and can panic.
#[inline]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    let (to_words, to_tail) = to.as_chunks_mut::<WORD>();
    let (from_words, _) = from.as_chunks::<WORD>();
    let words = to_words.len().min(from_words.len());
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = *from;
    }
    // What is left is less than a word of the shorter one; the longer one may have words there.
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
