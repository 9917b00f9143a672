//! The battery as tests: with random devices, troubles and steps, and with the fuzzer's inputs.

use dump_drivers::fake::Trouble;
use proptest::prelude::*;

use super::kind::BLOCKS;
use super::run::{Step, all_troubles};

fn step() -> impl Strategy<Value = Step> {
    let place =
        (0..BLOCKS, 1..12_usize).prop_map(|(block, count)| (block, count.min((BLOCKS - block) as usize)));
    prop_oneof![
        5 => (place.clone(), any::<u8>()).prop_map(|((block, count), seed)| Step::Write { block, count, seed }),
        3 => place.prop_map(|(block, count)| Step::Read { block, count }),
        2 => (1..8_u8).prop_map(|times| Step::Poll { times }),
        1 => Just(Step::Flush),
        1 => (0..BLOCKS, any::<u8>()).prop_map(|(block, seed)| Step::OneBlock { block, seed }),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    (0..13_usize, 0..12_u32).prop_map(|(which, at)| all_troubles(at)[which])
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..30)
}

pub fn troubles() -> impl Strategy<Value = Vec<Trouble>> {
    prop::collection::vec(trouble(), 1..3)
}

/// All of it for one kind.
#[macro_export]
macro_rules! battery {
    ($kind:ty) => {
        use dumpcore::sim::cases;
        use proptest::prelude::*;

        use $crate::{hostile, properties, run};

        proptest! {
            #![proptest_config(ProptestConfig { cases: cases(150), failure_persistence: None, ..ProptestConfig::default() })]

            #[test]
            fn what_is_written_is_read_whatever_the_device_is_like(
                seed: u64, coherent: bool, steps in properties::steps(),
            ) {
                run::what_is_written_is_read::<$kind>(seed, coherent, &steps);
            }

            #[test]
            fn whatever_the_device_does_wrong_only_blocks_asked_for_are_written_and_all_ends_in_time(
                seed: u64, coherent: bool, troubles in properties::troubles(), steps in properties::steps(),
            ) {
                run::only_blocks_asked_for_are_written::<$kind>(seed, coherent, troubles, &steps);
            }

            #[test]
            fn a_driver_comes_to_no_harm_by_lies(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
                hostile::a_driver_comes_to_no_harm::<$kind>(&bytes);
            }
        }

        #[test]
        #[cfg_attr(miri, ignore = "many cases")]
        fn what_the_fuzzer_has_kept_does_no_harm() {
            hostile::what_the_fuzzer_has_kept_does_no_harm::<$kind>();
        }

        #[test]
        fn a_device_that_answers_nothing_but_ones_is_not_believed() {
            hostile::a_device_that_answers_nothing_but_ones_is_not_believed::<$kind>();
        }

        #[test]
        fn opening_writes_to_nothing() {
            run::opening_writes_to_nothing::<$kind>();
        }

        #[test]
        fn a_look_writes_to_nothing_and_tells() {
            run::a_look_writes_to_nothing_and_tells::<$kind>();
        }

        #[test]
        fn a_used_device_is_taken_over_without_an_interrupt_left_on() {
            run::a_used_device_is_taken_over_without_an_interrupt_left_on::<$kind>();
        }

        #[test]
        fn a_function_that_was_reset_is_given_back_where_it_was() {
            run::a_function_that_was_reset_is_given_back_where_it_was::<$kind>();
        }

        #[test]
        fn a_register_that_points_elsewhere_is_not_written_to() {
            run::a_register_that_points_elsewhere_is_not_written_to::<$kind>();
        }

        #[test]
        fn two_drivers_of_one_controller_say_that_it_is_one() {
            run::two_drivers_of_one_controller_say_that_it_is_one::<$kind>();
        }

        #[test]
        fn what_the_old_driver_had_in_flight_never_arrives() {
            run::what_the_old_driver_had_in_flight_never_arrives::<$kind>();
        }

        #[test]
        #[cfg_attr(miri, ignore = "many cases")]
        fn each_trouble_ends_in_an_error_or_in_the_right_data() {
            run::each_trouble_ends_in_an_error_or_in_the_right_data::<$kind>();
        }

        #[test]
        #[cfg_attr(miri, ignore = "many cases")]
        fn a_device_pulled_at_any_moment_is_noticed() {
            run::a_device_pulled_at_any_moment_is_noticed::<$kind>();
        }

        #[test]
        fn a_request_given_up_never_touches_its_buffer_after_the_next_takeover() {
            run::a_request_given_up_never_touches_its_buffer_after_the_next_takeover::<$kind>();
        }

        #[test]
        fn what_is_not_a_request_is_rejected() {
            run::what_is_not_a_request_is_rejected::<$kind>();
        }

        #[test]
        fn as_many_requests_as_promised_are_taken() {
            run::as_many_requests_as_promised_are_taken::<$kind>();
        }
    };
}
