//! Encrypted dumps: which parts are in the clear, which keys open them, and that no nonce is repeated.

use std::collections::BTreeMap;

use dumpcore::Outcome;
use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::crypt::{Cipher, Key, Tag, header_index, public_key};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Header, Status};
use dumpcore::format::{BLOCK_SIZE, checksum};
use dumpcore::sim::{DiskFault, Helper, Numbers, cases};
use dumpcore::stack::call_on;
use dumpcore::{ArmError, Config, Ownership, Target};
use proptest::prelude::*;

use crate::reader::{self, key_of};
use crate::world::{Content, DiskPlan, FIRST, Plan, SECRET, World, any_disks, config, plans, uuid};

fn encrypted(fault: DiskFault) -> DiskPlan {
    DiskPlan { encrypted: true, fault, ..DiskPlan::default() }
}

/// A machine whose memory repeats one easily found word, and an encrypted disk.
fn telling() -> World {
    let world = World::new(Plan { disks: vec![encrypted(DiskFault::None)], ..Plan::default() });
    for pfn in 0x210..0x260 {
        world.machine.set_page(pfn, *b"SECRET! ".repeat(BLOCK_SIZE / 8).as_slice().first_chunk().unwrap());
    }
    world.arm().unwrap();
    world
}

#[test]
fn nothing_of_memory_or_the_message_is_on_the_disk_in_the_clear() {
    let world = telling();
    assert_eq!(world.machine.panic("SECRET! message"), Outcome::Complete);
    let bytes = world.disks[0].bytes();
    assert!(!bytes.windows(7).any(|window| window == b"SECRET!"));
    let dumps = world.dumps();
    assert!(dumps[0].is_whole());
    assert_eq!(dumps[0].header().message(), "");
    world.check(&dumps[0]);
    let notes = &dumps[0].parts[0].1.chunks[0].payload;
    assert!(notes.windows(15).any(|window| window == b"SECRET! message"), "the notes have it");
}

#[test]
fn both_headers_of_a_encrypted_dump_are_authentic_and_say_so_only_as_they_are() {
    let world = telling();
    assert_eq!(world.machine.panic("authentic"), Outcome::Complete);
    let dumps = world.dumps();
    let (_, part) = &dumps[0].parts[0];
    for header in [&part.front, part.back.as_ref().unwrap()] {
        let key = key_of(&SECRET, &header.ephemeral);
        assert!(key.is_authentic(header, true));
        assert!(!key.is_authentic(header, false));
        let mut other = header.clone();
        other.chunks = (other.chunks.get() - 1).into();
        assert!(!key.is_authentic(&other, true));
    }
}

#[test]
fn a_dump_that_was_cut_off_has_an_authentic_header_too() {
    let cut = DiskFault::PowerCut { after_blocks: 20, torn: false };
    let world = World::new(Plan { disks: vec![encrypted(cut)], ..Plan::default() });
    world.arm().unwrap();
    world.machine.panic("cut off");
    let dumps = world.dumps_on(0);
    assert_eq!(dumps[0].front.status(), Status::InProgress);
    assert!(key_of(&SECRET, &dumps[0].front.ephemeral).is_authentic(&dumps[0].front, false));
    assert!(!dumps[0].chunks.is_empty());
}

/// Makes the checksums of a chunk or header match its modified bytes, as an attacker would.
fn cover_up(partition: &mut [[u8; BLOCK_SIZE]], changed: u64) {
    let chunk_of = |partition: &[[u8; BLOCK_SIZE]]| {
        (1..=changed).rev().find(|at| Kind::of(&partition[*at as usize]).is_some())
    };
    let Some(at) = chunk_of(partition) else { return };
    if Kind::of(&partition[at as usize]) == Some(Kind::Chunk) && at != changed {
        let sum = checksum::block_sum(&partition[changed as usize], changed);
        if let Some(header) = ChunkHeader::of_mut(&mut partition[at as usize])
            && let Some(slot) = header.sums.get_mut((changed - at - 1) as usize)
        {
            *slot = sum.into();
        }
    }
    frame::set_checksum(&mut partition[at as usize]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "many dumps")]
    fn whatever_byte_is_changed_and_covered_up_nothing_false_comes_out(
        places in proptest::collection::vec((0..u64::MAX, 0..BLOCK_SIZE, 1..=255_u8), 20),
        stripe: bool,
        seed: u64,
    ) {
        let disks = vec![encrypted(DiskFault::None); if stripe { 2 } else { 1 }];
        let contents = (300..400).map(|place| (place, Content::Packable)).collect();
        let world = World::new(Plan { disks, contents, config: Config { stripe, ..config() }, seed, ..Plan::default() });
        world.arm().unwrap();
        prop_assert_eq!(world.machine.panic("tampered"), Outcome::Complete);
        let disk = world.disks.len() - 1;
        let bytes = world.disks[disk].bytes();
        let partition = reader::partition(&bytes, FIRST, 800);
        let truth = &reader::dumps(partition, Some(&SECRET))[0];
        let true_pages = reader::pages(&truth.chunks);
        let end = truth.front.end_block.get();
        for (block, at, bits) in places {
            let block = 1 + block % (end - 1);
            let mut blocks = reader::blocks(partition).to_vec();
            blocks[block as usize][at] ^= bits;
            cover_up(&mut blocks, block);
            // Without the key, the dump looks complete, or at least nothing breaks.
            let _ = reader::dumps(blocks.as_flattened(), None);
            // With the key, the change is reported, and all data read is correct.
            let dumps = reader::dumps(blocks.as_flattened(), Some(&SECRET));
            let same_blocks = blocks.as_flattened() == partition;
            let key = key_of(&SECRET, &truth.front.ephemeral);
            let told = match dumps.first() {
                None => true,
                Some(dump) => {
                    let authentic = |header: &Header| key.is_authentic(header, header.status() != Status::InProgress);
                    for (pfn, page) in reader::pages(&dump.chunks) {
                        prop_assert_eq!(true_pages.get(&pfn), Some(&page), "page {:#x}", pfn);
                    }
                    !dump.is_whole() || !authentic(&dump.front) || !dump.back.as_ref().is_some_and(authentic)
                }
            };
            // Bytes without content: magic, checksums of checksums.
            let carries = (8..BLOCK_SIZE - 4).contains(&at);
            prop_assert!(told || same_blocks || !carries || is_sum(&blocks[block as usize], at), "block {}, byte {}", block, at);
        }
    }

    #[test]
    fn no_nonce_is_ever_used_for_two_texts(
        plan in plans(proptest::collection::vec(any_disks(), 1..4).boxed()),
        crashes in 1..4_usize,
    ) {
        let mut plan = plan;
        for disk in &mut plan.disks {
            disk.encrypted = true;
        }
        let world = World::new(plan);
        prop_assume!(world.arm().is_ok());
        let mut texts: BTreeMap<Place, Tag> = BTreeMap::new();
        for _ in 0..crashes {
            world.machine.panic("again");
            for (disk, plan) in world.disks.iter().zip(&world.plan.disks) {
                for (_, block) in disk.take_journal() {
                    let Some((place, tag)) = encrypted_at(&block) else { continue };
                    // The tag depends on the whole text: the same place must not occur with two texts.
                    let before = texts.entry(place).or_insert(tag);
                    prop_assert_eq!(*before, tag, "{:?} came twice", place);
                }
                disk.switch_on();
                disk.set_fault(plan.fault);
            }
        }
    }
}

/// An ephemeral key, and the parts of a nonce.
type Place = ([u8; 32], u32, u64, u64);

/// The place of an encrypted chunk or header, and its tag.
fn encrypted_at(block: &[u8; BLOCK_SIZE]) -> Option<(Place, Tag)> {
    if let Ok(chunk) = ChunkHeader::parse(block) {
        let place = (chunk.ephemeral, chunk.attempt.get(), chunk.nonce.get(), chunk.index.get());
        return Some((place, chunk.tag));
    }
    let header = Header::parse(block, Kind::Front).or(Header::parse(block, Kind::Back)).ok()?;
    let index = header_index(header.stripe.get(), header.status() != Status::InProgress);
    Some(((header.ephemeral, header.attempt.get(), header.nonce.get(), index), header.tag))
}

/// Whether this byte of a chunk's header is in a checksum, which says nothing beyond the tag.
fn is_sum(block: &[u8; BLOCK_SIZE], at: usize) -> bool {
    Kind::of(block) == Some(Kind::Chunk) && at >= core::mem::offset_of!(ChunkHeader, sums)
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn each_dump_of_one_arming_has_an_attempt_of_its_own() {
    let world = World::new(Plan {
        disks: vec![encrypted(DiskFault::WriteError(4)), encrypted(DiskFault::None)],
        helpers: vec![Helper::Works],
        ..Plan::default()
    });
    world.arm().unwrap();
    let mut attempts = Vec::new();
    for _ in 0..3 {
        assert_eq!(world.machine.panic("once more"), Outcome::Complete, "{}", world.console());
        world.disks.iter().for_each(dumpcore::sim::Disk::switch_on);
    }
    let mut ephemeral = Vec::new();
    for disk in 0..2 {
        for dump in world.dumps_on(disk) {
            attempts.push(dump.front.attempt.get());
            ephemeral.push(dump.front.ephemeral);
            assert!(dump.chunks.iter().all(|chunk| chunk.header.attempt == dump.front.attempt));
        }
    }
    let count = attempts.len();
    attempts.sort_unstable();
    attempts.dedup();
    assert!(count >= 4 && attempts.len() == count, "{attempts:?}");
    ephemeral.dedup();
    assert_eq!(ephemeral.len(), 1, "one key for one arming");
}

#[test]
#[cfg_attr(miri, ignore = "many dumps")]
fn a_partition_that_demands_encryption_gets_no_dump_in_the_clear() {
    // Armed without a key for it: detected at the crash, or by a check.
    let target = |world: &World, ownership, recipient| {
        let target = Target {
            device: Box::leak(Box::new(world.disks[0].device(4))),
            first_block: FIRST,
            blocks: 800,
            uuid: Some(uuid(0)),
            recipient,
            ownership,
        };
        let machine = world.machine;
        machine.dump().arm(machine, [target], machine.arena(), config())
    };
    let demanding = || World::new(Plan { disks: vec![encrypted(DiskFault::None)], ..Plan::default() });
    let world = demanding();
    target(&world, Ownership::Shared, None).unwrap();
    let before = world.bytes();
    let outcome = world.machine.panic("in the clear?");
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    world.check_after(&before, outcome);

    // For another recipient.
    let world = demanding();
    target(&world, Ownership::Shared, Some(public_key(&[9; 32]))).unwrap();
    let before = world.bytes();
    let outcome = world.machine.panic("for somebody else?");
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    world.check_after(&before, outcome);
    let world = demanding();
    let refused = target(&world, Ownership::Exclusive, Some(public_key(&[9; 32])));
    assert!(matches!(refused, Err(ArmError::Unfit { target: 0, .. })), "{refused:?}");

    // No further check: the label has all.
    let world = demanding();
    target(&world, Ownership::Exclusive, None).unwrap();
    assert_eq!(world.machine.panic("as the label says"), Outcome::Complete);
    assert!(world.dumps()[0].header().cipher.get() == Cipher::X25519XChaCha20Poly1305 as u32);

    // A key, and a label that demands none.
    let world = World::new(Plan::default());
    target(&world, Ownership::Shared, Some(public_key(&SECRET))).unwrap();
    let before = world.bytes();
    let outcome = world.machine.panic("the label was laid anew");
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    world.check_after(&before, outcome);
}

/// How often a secret, or half of one, is in memory.
fn found(memory: &[u8], secrets: &[[u8; 32]]) -> usize {
    let halves: Vec<&[u8]> = secrets.iter().flat_map(|secret| [&secret[..16], &secret[16..]]).collect();
    memory.windows(16).filter(|window| halves.contains(window)).count()
}

/// Runs on a separate stack, and returns the bytes left on it.
fn dead_stack_of(run: &mut dyn FnMut()) -> Vec<u8> {
    let mut stack = vec![0xee_u8; 1 << 20];
    let top = stack.as_mut_ptr_range().end.map_addr(|end| end & !15);
    // SAFETY: the end of memory, which is not used otherwise; the function does not unwind, or the test's
    // process ends.
    assert!(unsafe { call_on(top, run) });
    stack
}

#[test]
#[cfg_attr(miri, ignore = "switches stacks")]
fn after_arming_no_secret_is_on_the_stack_and_after_disarming_none_in_the_arena() {
    let disks = vec![encrypted(DiskFault::None), DiskPlan { exclusive: true, ..encrypted(DiskFault::None) }];
    let world = World::new(Plan { disks, ..Plan::default() });
    // The machine's entropy, and values derived from it.
    let mut numbers = Numbers::new(world.plan.seed);
    let mut secret = [0; 32];
    secret.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = numbers.number().to_le_bytes());
    let mut clamped = secret;
    clamped[0] &= 248;
    clamped[31] = clamped[31] & 127 | 64;
    let recipient = public_key(&SECRET);
    let shared = x25519_dalek::x25519(secret, recipient);
    let key = Key::agree(&secret, &recipient, &public_key(&secret), &recipient).unwrap();
    let secrets = [secret, clamped, shared, *key.bytes()];

    let stack = dead_stack_of(&mut || {
        world.arm().unwrap();
    });
    assert!(stack.iter().any(|byte| *byte != 0xee), "it ran there");
    assert_eq!(found(&stack, &secrets), 0, "on the stack");
    let (start, length) = world.machine.arena_memory();
    // SAFETY: the arena, which is not in use now.
    let arena = || unsafe { core::slice::from_raw_parts(start, length) }.to_vec();
    assert_eq!(found(&arena(), &[*key.bytes()]), 4, "a key for each target, and nowhere else");
    assert_eq!(found(&arena(), &[secret, clamped, shared]), 0);
    assert!(world.machine.dump().disarm());
    assert_eq!(found(&arena(), &secrets), 0, "in the arena");
}

#[test]
fn an_arming_that_fails_leaves_no_secret_in_the_arena() {
    let world =
        World::new(Plan { disks: vec![encrypted(DiskFault::None), DiskPlan::default()], ..Plan::default() });
    let target = |number: usize, recipient| Target {
        device: Box::leak(Box::new(world.disks[number].device(4))),
        first_block: FIRST,
        blocks: 800,
        uuid: Some(uuid(number)),
        recipient: Some(recipient),
        ownership: Ownership::Shared,
    };
    let machine = world.machine;
    let targets = [target(0, public_key(&SECRET)), target(1, [0; 32])];
    let refused = machine.dump().arm(machine, targets, machine.arena(), config());
    assert_eq!(refused, Err(ArmError::BadRecipient { target: 1 }));
    let mut numbers = Numbers::new(world.plan.seed);
    let mut secret = [0; 32];
    secret.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = numbers.number().to_le_bytes());
    let recipient = public_key(&SECRET);
    let key = Key::agree(&secret, &recipient, &public_key(&secret), &recipient).unwrap();
    let (start, length) = machine.arena_memory();
    // SAFETY: the arena, which is not in use now.
    let arena = unsafe { core::slice::from_raw_parts(start, length) };
    assert_eq!(found(arena, &[*key.bytes(), secret]), 0);
}

#[test]
fn from_an_encrypted_target_to_one_in_the_clear_only_if_the_configuration_says_so() {
    let mixed = |encrypted: [bool; 2], allowed| {
        let disks = encrypted.map(|encrypted| DiskPlan { encrypted, ..DiskPlan::default() });
        let config = Config { clear_after_encrypted: allowed, ..config() };
        World::new(Plan { disks: disks.to_vec(), config, ..Plan::default() }).arm().map(|_| ())
    };
    assert_eq!(mixed([true, false], false), Err(ArmError::InTheClear { target: 1 }));
    assert_eq!(mixed([true, false], true), Ok(()));
    // The first one is in the clear anyway, since it was named first.
    assert_eq!(mixed([false, true], false), Ok(()));
    assert_eq!(mixed([true, true], false), Ok(()));
    assert_eq!(mixed([false, false], false), Ok(()));
}

#[test]
fn without_entropy_a_partition_that_demands_encryption_is_refused_when_armed() {
    let disk = dumpcore::sim::Disk::formatted(FIRST + 800, FIRST, 800, &uuid(0), 1);
    disk.demand_encryption(FIRST, &public_key(&SECRET));
    let arm = |recipient, ownership| {
        let machine: &'static dumpcore::sim::Machine =
            dumpcore::sim::Machine::new(crate::world::ram(), crate::world::ARENA, &disk);
        let target = Target {
            device: Box::leak(Box::new(disk.device(4))),
            first_block: FIRST,
            blocks: 800,
            uuid: Some(uuid(0)),
            recipient,
            ownership,
        };
        machine.dump().arm(machine, [target], machine.arena(), config()).unwrap_err()
    };
    let key = Some(public_key(&SECRET));
    assert_eq!(arm(key, Ownership::Shared), ArmError::NoEntropy { target: 0 });
    assert_eq!(arm(None, Ownership::Exclusive), ArmError::NoEntropy { target: 0 });
}

#[test]
fn a_public_key_with_which_no_secret_is_shared_is_refused_when_armed() {
    let world = World::new(Plan::default());
    let target = Target {
        device: Box::leak(Box::new(world.disks[0].device(4))),
        first_block: FIRST,
        blocks: 800,
        uuid: Some(uuid(0)),
        recipient: Some([0; 32]),
        ownership: Ownership::Shared,
    };
    let machine = world.machine;
    let refused = machine.dump().arm(machine, [target], machine.arena(), config());
    assert_eq!(refused, Err(ArmError::BadRecipient { target: 0 }));
}
