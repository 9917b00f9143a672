//! Encrypted dumps: with the identity they are like any other, without it they are copied as they are, and
//! nothing that was changed is believed.

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, Run, RunKind, TAG_OFFSET};
use dumpcore::format::crypt::{Tag, public_key};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Header, TAGGED};
use dumpcore::format::{BLOCK_SIZE, Block};
use proptest::prelude::*;
use savecore::corefile::{CoreOptions, elf};
use savecore::dump::{Dump, Encryption, PageState, Report};
use savecore::partition::{self, Ending, Partition, Search, Verdict};
use savecore::{Error, Identity};

use crate::common::{
    Encrypt, Machine, Page, Written, block, block_mut, close, partition, stop_in_the_middle, unwrite,
    write_dump,
};
use crate::damage::{assert_core_agrees, assert_nothing_wrong};
use crate::roundtrip::{expected, machine, pfns};

fn encrypted() -> Machine {
    Machine { encrypt: Some(Encrypt::new()), unit_pages: Some(4), ..Machine::small() }
}

fn dump_of(machine: &Machine) -> (Vec<u8>, Written, Partition) {
    let mut disk = partition(150);
    let written = write_dump(&mut disk, 1, machine);
    let partition = partition::scan(&disk).unwrap();
    (disk, written, partition)
}

/// Makes all checksums of a dump match again, as an attacker without the key would.
fn mend(disk: &mut [u8], chunks: &[u64], headers: &[(u64, Kind)]) {
    for at in chunks {
        let mut header = ChunkHeader::of(block(disk, *at)).unwrap().clone();
        let payload = (header.payload_blocks.get() as u64).min(128);
        for index in 0..payload {
            let number = at + 1 + index;
            if (number as usize + 1) * BLOCK_SIZE <= disk.len() {
                header.sums[index as usize] = block_sum(block(disk, number), number).into();
            }
        }
        put(disk, *at, &header);
    }
    for (at, _) in headers {
        frame::set_checksum(block_mut(disk, *at));
    }
}

fn put(disk: &mut [u8], at: u64, header: &ChunkHeader) {
    let slot = block_mut(disk, at);
    slot.copy_from_slice(zerocopy::IntoBytes::as_bytes(header));
    frame::set_checksum(slot);
}

/// Whether the dump's contents are as in the machine, to the last page, and no damage is reported.
fn is_as_written(dump: &Dump<'_>, machine: &Machine) -> bool {
    !dump.is_damaged()
        && dump.facts().message == machine.message
        && pfns().all(|pfn| dump.read_page(pfn).unwrap() == expected(machine.pages.get(&pfn)))
}

#[test]
fn without_an_identity_a_encrypted_dump_is_known_to_be_whole_and_nothing_of_it_is_read() {
    let machine = encrypted();
    let (disk, _, partition) = dump_of(&machine);
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    assert_eq!((dump.encryption(), dump.authentic()), (Encryption::Encrypted, None));
    assert!(!dump.is_damaged());
    // One page could not be read by the kernel.
    assert_eq!(dump.pages().missing(), 1);
    assert_eq!((dump.pages().data, dump.pages().zero, dump.pages().arena), (0, 6, 1));
    assert_eq!(dump.pages().sealed, machine.pages.len() as u64 - 8);
    assert_eq!(dump.read_page(5).unwrap(), PageState::Encrypted);
    assert_eq!(dump.facts().message, "");
    let report = Report::new(&dump);
    assert_eq!((report.encryption, report.message.as_str(), report.notes_damaged), ("sealed", "", false));
    assert_eq!(report.system, "testkernel 0.1");
    let mut core = Vec::new();
    assert!(matches!(elf::write(&dump, &CoreOptions::default(), &mut core, &mut ()), Err(Error::Encrypted)));
    assert!(core.is_empty());
    let check = partition::check(&disk, &mut ()).unwrap();
    assert_eq!(check.verdict, Verdict::Waiting);
    let check = partition::check_with(&disk, machine.identity().as_ref(), &mut ()).unwrap();
    assert_eq!((check.verdict, check.dumps[0].encryption), (Verdict::Waiting, "opened"));
}

#[test]
fn without_an_identity_a_damaged_block_of_a_encrypted_dump_is_told() {
    let machine = encrypted();
    let (disk, written, partition) = dump_of(&machine);
    for number in written.first..written.end {
        let mut disk = disk.clone();
        block_mut(&mut disk, number)[200] ^= 4;
        let partition = partition::scan(&disk).unwrap();
        let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
        assert!(dump.is_damaged() && !dump.is_whole(), "block {number}");
        assert_eq!(dump.encryption(), Encryption::Encrypted, "block {number}");
    }
    let mut disk = disk;
    unwrite(&mut disk, written.chunks[2] + 1);
    assert!(Dump::open(&disk, &partition, &partition.dumps[0]).is_damaged());
}

#[test]
fn another_identity_opens_nothing_and_says_so() {
    let machine = encrypted();
    let (disk, _, partition) = dump_of(&machine);
    let found = &partition.dumps[0];
    let (right, wrong) = (machine.identity().unwrap(), Identity([8; 32]));
    assert_eq!((right.opens(found), wrong.opens(found)), (Some(true), Some(false)));
    assert_eq!(right.public_key(), public_key(&Encrypt::new().secret));
    let dump = Dump::open_with(&disk, partition.uuid(), found, Some(&wrong), &mut ());
    assert_eq!((dump.encryption(), dump.authentic()), (Encryption::Refused, Some(false)));
    assert!(dump.is_damaged());
    assert_eq!((dump.pages().data, dump.pages().zero), (0, 0));
    assert!(pfns().all(|pfn| matches!(dump.read_page(pfn).unwrap(), PageState::Damaged | PageState::Absent)));
    assert!(matches!(
        elf::write(&dump, &CoreOptions::default(), &mut Vec::new(), &mut ()),
        Err(Error::Encrypted)
    ));
    assert!(!format!("{right:?}").contains('7'), "a secret is shown");
}

#[test]
fn an_identity_is_of_no_use_and_no_harm_where_nothing_is_encrypted() {
    let machine = Machine::small();
    let (disk, _, partition) = dump_of(&machine);
    let identity = Encrypt::new().identity();
    assert_eq!(identity.opens(&partition.dumps[0]), None);
    let dump = Dump::open_with(&disk, partition.uuid(), &partition.dumps[0], Some(&identity), &mut ());
    assert_eq!((dump.encryption(), dump.authentic()), (Encryption::None, None));
    assert!(is_as_written(&dump, &machine));
}

#[test]
fn a_encrypted_dump_that_was_marked_as_saved_is_no_forgery() {
    let machine = encrypted();
    let (mut disk, _, partition) = dump_of(&machine);
    partition::mark_saved(&mut disk, &partition.dumps[0], None).unwrap();
    let partition = partition::scan(&disk).unwrap();
    let found = &partition.dumps[0];
    assert_eq!((found.ending, machine.identity().unwrap().opens(found)), (Ending::Saved, None));
    let dump = machine.open(&disk, &partition, found);
    assert_eq!((dump.authentic(), dump.is_damaged()), (None, false));
    assert_eq!(dump.read_page(5).unwrap(), expected(machine.pages.get(&5)));
}

#[test]
fn a_chunk_in_the_clear_is_not_believed_in_a_encrypted_dump() {
    let machine = encrypted();
    let (disk, written, _) = dump_of(&machine);
    let plain = Machine { encrypt: None, ..Machine::small() };
    let mut forged = plain.clone();
    for pfn in 1..40 {
        forged.pages.insert(pfn, Page::of(pfn + 5000));
    }
    let forged = Machine { unit_pages: machine.unit_pages, ..forged };
    let mut other = partition(150);
    let theirs = write_dump(&mut other, 1, &forged);
    // Chunks of a dump in the clear with the same nonce, at the same places, all checksums right.
    for lost_headers in [false, true] {
        for chunk in 0..theirs.chunks.len().min(written.chunks.len()) {
            let at = theirs.chunks[chunk];
            if written.chunks[chunk] != at {
                break;
            }
            let mut disk = disk.clone();
            let blocks = 1 + u64::from(ChunkHeader::of(block(&other, at)).unwrap().payload_blocks.get());
            for number in at..at + blocks {
                *block_mut(&mut disk, number) = *block(&other, number);
            }
            if lost_headers {
                block_mut(&mut disk, written.first).fill(1);
                block_mut(&mut disk, written.end - 1).fill(1);
            }
            let partition = partition::scan(&disk).unwrap();
            for found in &partition.dumps {
                let dump = machine.open(&disk, &partition, found);
                assert_ne!(dump.encryption(), Encryption::None);
                assert!(dump.is_damaged(), "chunk {chunk}");
                assert_nothing_wrong(&dump, &machine);
            }
        }
    }
}

#[test]
fn a_chunk_for_the_same_recipient_from_another_maker_is_not_believed() {
    let machine = encrypted();
    let (disk, written, _) = dump_of(&machine);
    let mut forged = machine.clone();
    for page in forged.pages.values_mut().filter(|page| matches!(page, Page::Data(_))) {
        *page = Page::of(5000);
    }
    forged.encrypt = Some(Encrypt { ephemeral: [99; 32], ..Encrypt::new() });
    let mut other = partition(150);
    let theirs = write_dump(&mut other, 1, &forged);
    let mut tried = 0;
    for (ours, theirs) in written.chunks.iter().zip(&theirs.chunks) {
        if ours != theirs {
            break;
        }
        let mut disk = disk.clone();
        let blocks = 1 + u64::from(ChunkHeader::of(block(&other, *theirs)).unwrap().payload_blocks.get());
        for number in *theirs..theirs + blocks {
            *block_mut(&mut disk, number) = *block(&other, number);
        }
        let partition = partition::scan(&disk).unwrap();
        let dump = machine.open(&disk, &partition, &partition.dumps[0]);
        assert!(dump.is_damaged());
        assert_eq!(dump.authentic(), Some(true));
        assert_nothing_wrong(&dump, &machine);
        let report = Report::new(&dump);
        assert!(report.damage.iter().any(|damage| damage.what == "tampered with or damaged"));
        tried += 1;
    }
    assert!(tried > 1);
}

#[test]
fn chunks_cut_off_moved_or_from_another_dump_are_found_out_though_all_checksums_are_right() {
    let machine = Machine { unit_pages: None, ..encrypted() };
    let (disk, written, _) = dump_of(&machine);
    let header = Header::parse(block(&disk, 1), Kind::Front).unwrap().clone();
    let assert_found_out = |disk: &Vec<u8>, what: &str| {
        let partition = partition::scan(disk).unwrap();
        let dump = machine.open(disk, &partition, &partition.dumps[0]);
        assert!(dump.is_damaged() && !dump.is_whole(), "{what}");
        assert_nothing_wrong(&dump, &machine);
        let blind = Dump::open(disk, &partition, &partition.dumps[0]);
        assert_eq!(blind.encryption(), Encryption::Encrypted, "{what}");
    };
    let headers = |disk: &mut Vec<u8>, end: u64, chunks: u64| {
        let mut header = header.clone();
        header.end_block = end.into();
        header.chunks = chunks.into();
        header.to_block(Kind::Back, block_mut(disk, end - 1));
        header.to_block(Kind::Front, block_mut(disk, 1));
    };
    // The last chunks cut off, with headers that agree.
    for kept in 1..written.chunks.len() {
        let mut disk = disk.clone();
        let end = written.chunks[kept] + 1;
        for number in end..written.end {
            unwrite(&mut disk, number);
        }
        headers(&mut disk, end, kept as u64);
        assert_found_out(&disk, &format!("{kept} chunks kept"));
    }
    // Two chunks of the same size swapped, with and without their numbers; one chunk twice.
    let sizes: Vec<u64> = (written.chunks.iter())
        .map(|at| u64::from(ChunkHeader::of(block(&disk, *at)).unwrap().payload_blocks.get()))
        .collect();
    let (a, b) = (1..sizes.len())
        .flat_map(|a| (a + 1..sizes.len()).map(move |b| (a, b)))
        .find(|(a, b)| sizes[*a] == sizes[*b])
        .unwrap();
    for (renumbered, twice) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut changed = disk.clone();
        for (from, to) in [(a, b), (b, a)] {
            if twice && from == a {
                continue;
            }
            let index = ChunkHeader::of(block(&disk, written.chunks[to])).unwrap().index;
            let (from, to) = (written.chunks[from], written.chunks[to]);
            for offset in 0..=sizes[a] {
                *block_mut(&mut changed, to + offset) = *block(&disk, from + offset);
            }
            let mut header = ChunkHeader::of(block(&changed, to)).unwrap().clone();
            header.block = to.into();
            if renumbered {
                header.index = index;
            }
            put(&mut changed, to, &header);
        }
        mend(&mut changed, &written.chunks, &[]);
        assert_found_out(&changed, &format!("swapped: {renumbered} {twice}"));
    }
    // A chunk of another dump with the same key, given this dump's nonce.
    let mut second = machine.clone();
    (second.nonce, second.sequence) = (7, 2);
    for pfn in 1..40 {
        second.pages.insert(pfn, Page::of(pfn + 777));
    }
    let mut other = partition(150);
    let theirs = write_dump(&mut other, 1, &second);
    for renamed in [false, true] {
        let mut changed = disk.clone();
        let at = theirs.chunks[1];
        assert_eq!(at, written.chunks[1]);
        for offset in 0..=sizes[1] {
            *block_mut(&mut changed, at + offset) = *block(&other, at + offset);
        }
        if renamed {
            let mut header = ChunkHeader::of(block(&changed, at)).unwrap().clone();
            header.nonce = machine.nonce.into();
            put(&mut changed, at, &header);
        }
        assert_found_out(&changed, &format!("replayed: {renamed}"));
    }
    // The header from the start of the dump, with all chunks after it: not whole, but not forged.
    let mut begun = disk.clone();
    stop_in_the_middle(&mut begun, &written, |number| number + 1 != written.end);
    let partition = partition::scan(&begun).unwrap();
    let dump = machine.open(&begun, &partition, &partition.dumps[0]);
    assert_eq!((dump.authentic(), dump.is_damaged(), dump.is_whole()), (Some(true), false, false));
}

#[test]
fn what_the_header_of_a_chunk_says_is_not_believed_where_its_payload_is_torn() {
    let machine = encrypted();
    let (disk, written, partition) = dump_of(&machine);
    let headers = written.chunks.iter().map(|at| (*at, ChunkHeader::of(block(&disk, *at)).unwrap().clone()));
    let with_zeros = |header: &ChunkHeader| header.runs().iter().position(|run| run.kind() == RunKind::Zero);
    let mut tried = 0;
    for (at, mut header) in headers {
        let (Some(run), 1..) = (with_zeros(&header), header.payload_blocks.get()) else { continue };
        // Claims that there is a page 90, of zeros.
        let zero = (RunKind::Zero as u16).into();
        header.runs[run] = Run { pfn: 90.into(), count: 1.into(), kind: zero, class: 0.into() };
        for unwritten in [false, true] {
            let mut disk = disk.clone();
            put(&mut disk, at, &header);
            if unwritten {
                unwrite(&mut disk, at + 1);
            } else {
                block_mut(&mut disk, at + 1)[9] ^= 1;
            }
            let dump = machine.open(&disk, &partition, &partition.dumps[0]);
            assert!(dump.is_damaged());
            assert_nothing_wrong(&dump, &machine);
            tried += 1;
        }
    }
    assert!(tried > 0);
}

#[test]
fn headers_that_others_have_changed_are_not_authentic() {
    let machine = encrypted();
    let (disk, written, _) = dump_of(&machine);
    let header = Header::parse(block(&disk, 1), Kind::Front).unwrap().clone();
    let changes: [fn(&mut Header); 7] = [
        |header| header.cipher = 0.into(),
        |header| header.attempt = 4.into(),
        |header| header.ephemeral[3] ^= 1,
        |header| header.data_pages = 5.into(),
        |header| header.crashing_cpu = 1.into(),
        |header| header.stripes = 2.into(),
        |header| header.tag[0] ^= 1,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut disk = disk.clone();
        let mut header = header.clone();
        change(&mut header);
        header.to_block(Kind::Back, block_mut(&mut disk, written.end - 1));
        header.to_block(Kind::Front, block_mut(&mut disk, 1));
        let partition = partition::scan(&disk).unwrap();
        let dump = machine.open(&disk, &partition, &partition.dumps[0]);
        assert_eq!((dump.encryption(), dump.authentic()), (Encryption::Opened, Some(false)), "{number}");
        assert!(dump.is_damaged() && !dump.is_whole(), "{number}");
        // The chunks are still what the dump wrote.
        assert_eq!(dump.read_page(5).unwrap(), expected(machine.pages.get(&5)), "{number}");
        assert_nothing_wrong(&dump, &machine);
        // Written by somebody with the key, the same header would be believed.
        if number == 4 {
            close(&mut disk, machine.encrypt.as_ref(), &header);
            let partition = partition::scan(&disk).unwrap();
            assert_eq!(machine.open(&disk, &partition, &partition.dumps[0]).authentic(), Some(true));
        }
    }
}

#[test]
fn an_ephemeral_key_with_which_nobody_can_agree_opens_nothing() {
    let machine = encrypted();
    let (mut disk, written, _) = dump_of(&machine);
    let mut header = Header::parse(block(&disk, 1), Kind::Front).unwrap().clone();
    header.ephemeral = [0; 32];
    header.to_block(Kind::Back, block_mut(&mut disk, written.end - 1));
    header.to_block(Kind::Front, block_mut(&mut disk, 1));
    for at in &written.chunks {
        let mut header = ChunkHeader::of(block(&disk, *at)).unwrap().clone();
        header.ephemeral = [0; 32];
        put(&mut disk, *at, &header);
    }
    let partition = partition::scan(&disk).unwrap();
    let dump = machine.open(&disk, &partition, &partition.dumps[0]);
    assert_eq!(dump.encryption(), Encryption::Refused);
    assert_nothing_wrong(&dump, &machine);
}

/// Whether a change at this offset of a whole block can change what is read: all except the bytes that the
/// tag does not cover and that nobody uses.
fn matters(block: &Block, offset: usize) -> bool {
    const TAG: usize = size_of::<Tag>();
    match Kind::of(block) {
        Some(Kind::Chunk) => offset < TAG_OFFSET + TAG,
        Some(Kind::Front | Kind::Back) => offset < TAGGED.end + TAG,
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_byte_of_a_encrypted_dump_that_is_changed_is_found_out_even_with_all_checksums_made_right(
        machine in machine(),
        attempt: u32,
        changes in prop::collection::vec((any::<u32>(), any::<u16>(), 1_u8..=255), 1..4),
        mended in any::<bool>(),
        both in any::<bool>(),
    ) {
        let machine = Machine { encrypt: Some(Encrypt { attempt, ..Encrypt::new() }), ..machine };
        let mut disk = partition(400);
        let written = write_dump(&mut disk, 1, &machine);
        let whole = disk.clone();
        let mut any = false;
        for (number, offset, bits) in changes {
            let number = 1 + u64::from(number) % (written.end - 1);
            let offset = usize::from(offset) % BLOCK_SIZE;
            let numbers = match both && [written.first, written.end - 1].contains(&number) {
                // The same in both headers, so that they still agree.
                true => vec![written.first, written.end - 1],
                false => vec![number],
            };
            for number in numbers {
                any |= !mended || matters(block(&whole, number), offset);
                block_mut(&mut disk, number)[offset] ^= bits;
            }
        }
        if mended {
            let chunks: Vec<u64> = written.chunks.iter().copied().filter(|at| {
                Kind::of(block(&disk, *at)) == Some(Kind::Chunk)
            }).collect();
            mend(&mut disk, &chunks, &[(written.first, Kind::Front), (written.end - 1, Kind::Back)]);
        }
        prop_assume!(disk != whole);
        let partition = partition::scan_with(&disk, Search::Whole, &mut ()).unwrap();
        for found in &partition.dumps {
            let dump = machine.open(&disk, &partition, found);
            prop_assert_ne!(dump.encryption(), Encryption::None);
            assert_nothing_wrong(&dump, &machine);
            if dump.encryption() == Encryption::Opened {
                assert_core_agrees(&dump);
            }
            if any {
                prop_assert!(dump.is_damaged() && !dump.is_whole());
            } else {
                prop_assert!(dump.is_damaged() || is_as_written(&dump, &machine));
            }
            // Without the identity, a reader gets less, but nothing wrong.
            let blind = Dump::open(&disk, &partition, found);
            prop_assert_eq!(blind.pages().data, 0);
        }
    }
}
