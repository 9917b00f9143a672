//! What errors say, and what they hold.

use std::error::Error as _;

use dumpcore::arena::OutOfArena;
use dumpcore::deferred::DeferError;
use dumpcore::device::DeviceError;
use dumpcore::integrity::Harm;
use dumpcore::locate::NotFound;
use dumpcore::table::NoTable;
use dumpcore::wait::TimedOut;
use dumpcore::{ArmError, Error, Refusal};

const HARM: Harm = Harm::Integrity { armed: 1, now: 2 };

/// What it says, and then each error that it holds.
fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut held = error.source();
    while let Some(error) = held {
        chain.push(error.to_string());
        held = error.source();
    }
    chain
}

#[test]
fn an_error_leads_to_the_one_that_it_holds() {
    let device = DeviceError::Harmed(HARM);
    let harm = "the armed state was changed: its checksum was 0x1, is 0x2";
    let named = format!("target 2: {harm}");
    let unread = format!("block 7 could not be read: {harm}");
    let unusable = format!("the disk cannot be used: {harm}");
    for (error, said) in [
        (&Error::Arm(ArmError::Device { target: 2, error: device }) as &dyn std::error::Error, &named),
        (&Error::NotFound(NotFound::Device { block: 7, error: device }), &unread),
        (&Refusal::Unusable(device), &unusable),
    ] {
        let chain = chain(error);
        assert_eq!(&chain[0], said);
        assert_eq!(chain.last().unwrap(), harm);
    }
    assert_eq!(
        chain(&NoTable::Unreadable { at: 512, error: DeviceError::Gone }),
        [
            "the disk could not be read at byte 512: the device is gone (all ones)",
            "the device is gone (all ones)"
        ]
    );
    assert!(DeferError::Busy.source().is_none());
}

#[test]
fn what_goes_wrong_while_arming_becomes_one_error() {
    fn one(error: impl Into<Error>) -> String {
        error.into().to_string()
    }
    assert_eq!(one(OutOfArena { bytes: 9 }), "the arena has no room for 9 more bytes");
    assert_eq!(one(DeviceError::NotReady), "the device was not made ready");
    assert_eq!(one(TimedOut { what: "a reset", after: 5_000_000 }), "a reset did not happen within 5 ms");
    assert_eq!(one(NotFound::Nothing), "the disk has no such partition");
    assert_eq!(
        one(ArmError::Arena(OutOfArena { bytes: 9 })),
        "the arena has no room for 9 more bytes; make it larger"
    );
    assert_eq!(Error::NoDisk.to_string(), "there is no such disk");
}
