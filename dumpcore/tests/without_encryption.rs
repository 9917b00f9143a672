//! A build without the feature `encryption`: what demands encryption is refused, and nothing is written.
//! `cargo test -p dumpcore --no-default-features --test without_encryption`

#![cfg(not(feature = "encryption"))]

use dumpcore::Unfit;
use dumpcore::format::cipher::PublicKey;
use dumpcore::platform::RamRange;
use dumpcore::sim::{Disk, Machine};
use dumpcore::{ArmError, ArmReport};
use dumpcore::{Config, Outcome, Ownership, Refusal, ResetPolicy, Target};

const FIRST: u64 = 3;
const BLOCKS: u64 = 800;
const UUID: [u8; 16] = [7; 16];
const RECIPIENT: PublicKey = [9; 32];

fn disk(recipient: Option<&PublicKey>) -> Disk {
    let disk = Disk::formatted(FIRST + BLOCKS, FIRST, BLOCKS, &UUID, 11);
    if let Some(recipient) = recipient {
        disk.demand_encryption(FIRST, recipient);
    }
    disk
}

fn machine(disk: &Disk) -> &'static Machine {
    let machine = Machine::new(vec![RamRange { start: 0x20_0000, end: 0x30_0000 }], 1 << 20, disk);
    machine.fill_page(0x201, 1);
    machine.set_entropy(1);
    machine
}

fn arm(
    machine: &'static Machine,
    disk: &Disk,
    ownership: Ownership,
    recipient: Option<PublicKey>,
) -> Result<ArmReport, ArmError> {
    let target = Target::new(Box::leak(Box::new(disk.device(4))), FIRST, BLOCKS)
        .uuid(UUID)
        .recipient(recipient)
        .ownership(ownership);
    let config = Config::new().reset(ResetPolicy::Return);
    machine.dump().arm(machine, [target], machine.arena(), config)
}

#[test]
fn a_label_that_demands_encryption_is_refused_when_armed() {
    let disk = disk(Some(&RECIPIENT));
    let before = disk.bytes();
    let refused = Err(ArmError::NoEncryption { target: 0 });
    assert_eq!(arm(machine(&disk), &disk, Ownership::Exclusive, None), refused);
    assert_eq!(arm(machine(&disk), &disk, Ownership::Exclusive, Some(RECIPIENT)), refused);
    assert_eq!(arm(machine(&disk), &disk, Ownership::Shared, Some(RECIPIENT)), refused);
    assert!(disk.bytes() == before);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the label demands encryption, and this kernel was built without it"
    );
}

#[test]
fn a_label_that_nobody_read_before_the_crash_is_refused_then() {
    let disk = disk(Some(&RECIPIENT));
    let before = disk.bytes();
    let machine = machine(&disk);
    arm(machine, &disk, Ownership::Shared, None).unwrap();
    assert_eq!(machine.panic("secret"), Outcome::Refused(Refusal::Unfit(Unfit::NoEncryption)));
    assert!(disk.bytes() == before, "not a block was written");
    assert!(
        machine.console_text().contains("this kernel was built without it"),
        "{}",
        machine.console_text()
    );
}

#[test]
fn a_label_that_demands_none_gets_its_dump() {
    let disk = disk(None);
    let machine = machine(&disk);
    arm(machine, &disk, Ownership::Exclusive, None).unwrap();
    assert_eq!(machine.panic("plain"), Outcome::Complete, "{}", machine.console_text());
    assert!(disk.blocks_written() > 0);
}
