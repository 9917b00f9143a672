//! Which crashes to remove when a new one is durable.
//!
//! A machine that crashes again right after boot makes a row of crashes, and the first one is the most
//! informative: the others may be consequences of it. So those in the middle of rows are removed first.

/// Crashes of a host are one row if each came at most this many seconds after the one before.
const ROW: u64 = 3600;

/// An existing crash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    /// Its time, if its machine had a clock.
    pub(super) seconds: Option<u64>,
    /// Whether it is in one row with the one saved before it, if known at that time: that one may be gone.
    pub(super) follows: Option<bool>,
    /// Its disk usage.
    pub(super) bytes: u64,
    /// Whether this run stored it.
    pub(super) is_new: bool,
}

/// Indexes of the crashes to remove, in order of saving, so that at most `number` crashes with `bytes` bytes
/// are left, as far as possible: the last one stays, and so does the first of its row. The others go in
/// this order: those that are not the first of a row, then those that are; in each group, oldest first.
pub(super) fn going(crashes: &[Old], number: Option<u32>, bytes: Option<u64>) -> Vec<usize> {
    let goes_on = |place: usize| {
        let before = place.checked_sub(1).and_then(|before| crashes.get(before));
        before.zip(crashes.get(place)).is_some_and(|(before, crash)| {
            crash.follows.unwrap_or_else(|| is_one_row(before.seconds, crash.seconds))
        })
    };
    let firsts: Vec<usize> = (0..crashes.len()).filter(|place| !goes_on(*place)).collect();
    let stays = |place: usize| {
        let is_new = crashes.get(place).is_some_and(|crash| crash.is_new);
        is_new || place + 1 == crashes.len() || firsts.last() == Some(&place)
    };
    let (first, later): (Vec<usize>, Vec<usize>) =
        (0..crashes.len()).filter(|place| !stays(*place)).partition(|place| firsts.contains(place));
    let mut left = crashes.len();
    let mut used: u64 = crashes.iter().map(|crash| crash.bytes).fold(0, u64::saturating_add);
    let mut going = Vec::new();
    for place in later.into_iter().chain(first) {
        let is_many = number.is_some_and(|number| left > number as usize);
        if !is_many && bytes.is_none_or(|bytes| used <= bytes) {
            break;
        }
        left -= 1;
        used -= crashes.get(place).map_or(0, |crash| crash.bytes);
        going.push(place);
    }
    going
}

/// Whether two consecutive crashes are in one row. Without a clock, assume so.
pub(super) fn is_one_row(one: Option<u64>, other: Option<u64>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one.abs_diff(other) <= ROW)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Old {
        Old { seconds: Some(seconds), follows: None, bytes: 10, is_new: false }
    }

    #[test]
    fn of_a_row_the_first_and_the_last_stay_whatever_the_limits() {
        let row: Vec<Old> = (0..20).map(|number| at(1_000_000 + number * 600)).collect();
        let middle: Vec<usize> = (1..19).collect();
        for (number, bytes) in [(Some(1), None), (None, Some(0)), (Some(2), Some(1)), (Some(2), None)] {
            assert_eq!(going(&row, number, bytes), middle);
        }
        assert_eq!(going(&row, Some(18), None), [1, 2]);
        assert_eq!(going(&row, None, Some(185)), [1, 2]);
        assert_eq!(going(&row, None, None), [0; 0]);
    }

    #[test]
    fn the_first_of_a_row_that_is_over_goes_after_all_that_followed_other_firsts() {
        let times = [0, 600, 1200, 90_000, 90_600, 91_200, 200_000, 200_600];
        let rows: Vec<Old> = times.into_iter().map(|seconds| at(1_000_000 + seconds)).collect();
        assert_eq!(going(&rows, Some(4), None), [1, 2, 4, 5]);
        assert_eq!(going(&rows, Some(1), None), [1, 2, 4, 5, 0, 3]);
    }

    #[test]
    fn a_row_stays_one_when_its_middle_has_gone() {
        let follows = |seconds, follows| Old { follows: Some(follows), ..at(seconds) };
        let left = [follows(0, false), follows(90_000, true), follows(90_600, true), follows(91_200, true)];
        assert_eq!(going(&left, Some(2), None), [1, 2]);
    }

    #[test]
    fn a_machine_without_a_clock_has_one_row() {
        let row = [Old { seconds: None, ..at(0) }; 5];
        assert_eq!(going(&row, Some(3), None), [1, 2]);
    }

    proptest! {
        #[test]
        fn no_more_goes_than_has_to_and_what_stays_stays(
            crashes in prop::collection::vec((prop::option::of(0..20_000_u64), 0..50_u64, any::<bool>()), 1..30),
            number in prop::option::of(1..20_u32), bytes in prop::option::of(0..500_u64),
        ) {
            let crashes: Vec<Old> =
                crashes.into_iter().map(|(seconds, bytes, is_new)| Old { seconds, follows: None, bytes, is_new }).collect();
            let going = going(&crashes, number, bytes);
            let fits = |gone: &[usize]| {
                let left: Vec<&Old> = (0..crashes.len()).filter(|place| !gone.contains(place)).map(|place| &crashes[place]).collect();
                let used: u64 = left.iter().map(|crash| crash.bytes).sum();
                number.is_none_or(|number| left.len() <= number as usize) && bytes.is_none_or(|bytes| used <= bytes)
            };
            prop_assert!(!going.contains(&(crashes.len() - 1)));
            prop_assert!(going.iter().all(|place| !crashes[*place].is_new));
            if let Some((_, fewer)) = going.split_last() {
                prop_assert!(!fits(fewer), "the last of them need not have gone");
            }
            // Before the first of any row, all later ones must be gone.
            let is_first = |place: usize| place == 0 || !is_one_row(crashes[place - 1].seconds, crashes[place].seconds);
            let begin = going.iter().position(|place| is_first(*place)).unwrap_or(going.len());
            prop_assert!(going[begin..].iter().all(|place| is_first(*place)));
        }
    }
}
