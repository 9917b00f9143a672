//! What the properties found, and what has to be tried again each time.

use dump_drivers::fake::Trouble;

use crate::run::{Step, only_blocks_asked_for_are_written};
use crate::virtio::ScsiPci;

/// With one command at a time, all of them use the same descriptors, so a completion that comes twice looks like that of
/// the next command.
#[test]
fn a_completion_that_comes_twice_is_the_devices_fault_and_does_no_harm() {
    let write = |block, count, seed| Step::Write { block, count, seed };
    let steps = [write(31, 3, 204), write(0, 1, 0), write(34, 1, 0), write(1, 1, 0)];
    let troubles = vec![Trouble::Duplicate(3)];
    only_blocks_asked_for_are_written::<ScsiPci>(18_052_089_746_690_061_910, false, troubles, &steps);
}
