//! Units of compressed pages: honest ones are restored, hostile ones lose only their own pages.

use std::time::Instant;

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{
    ChunkHeader, ChunkKind, Encoding, MAX_CHUNK_PAGES, MAX_UNIT_PAGES, Packing, Run, RunKind,
};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::Header;
use dumpcore::format::{BLOCK_SIZE, Block};
use proptest::prelude::*;
use savecore::corefile::{CoreOptions, elf};
use savecore::dump::{Dump, PageState, Report};
use savecore::partition;
use zerocopy::IntoBytes;

use crate::common::{Machine, Page, Written, block, block_mut, partition, put_packed, put_unit, write_dump};
use crate::damage::assert_core_agrees;
use crate::roundtrip::expected;

/// Where the pages of [`with_units`] begin.
const FIRST: u64 = 0x1000;

/// A dump of a small machine with one more chunk, which has these bytes as payload and claims `pages` pages.
fn with_units(bytes: &[u8], pages: u64) -> (Vec<u8>, Machine, Written) {
    let machine = Machine { unit_pages: Some(4), ..Machine::small() };
    let mut disk = partition(300);
    let written = write_dump(&mut disk, 1, &machine);
    let mut closed = Header::parse(block(&disk, 1), Kind::Front).unwrap().clone();
    let at = written.end - 1;
    let mut header = ChunkHeader::new();
    header.kind = (ChunkKind::Memory as u32).into();
    header.encoding = (Encoding::Units as u32).into();
    header.nonce = machine.nonce.into();
    header.index = closed.chunks;
    header.block = at.into();
    let payload = bytes.len().div_ceil(BLOCK_SIZE);
    header.payload_blocks = (payload as u32).into();
    header.payload_bytes = (bytes.len() as u64).into();
    header.run_count = 1.into();
    header.runs[0] = Run { pfn: FIRST.into(), count: (pages as u32).into(), kind: 1.into(), class: 0.into() };
    for (index, bytes) in bytes.chunks(BLOCK_SIZE).enumerate() {
        let number = at + 1 + index as u64;
        let slot = block_mut(&mut disk, number);
        slot.fill(0);
        slot[..bytes.len()].copy_from_slice(bytes);
        header.sums[index] = block_sum(slot, number).into();
    }
    let slot = block_mut(&mut disk, at);
    slot.copy_from_slice(header.as_bytes());
    frame::set_checksum(slot);
    let end = at + 1 + payload as u64 + 1;
    closed.end_block = end.into();
    closed.chunks = (closed.chunks.get() + 1).into();
    closed.to_block(Kind::Back, block_mut(&mut disk, end - 1));
    closed.to_block(Kind::Front, block_mut(&mut disk, 1));
    (disk, machine, written)
}

fn page_bytes(page: &Page) -> Block {
    match page {
        Page::Data(bytes) => **bytes,
        other => panic!("{other:?} has no bytes"),
    }
}

/// What [`read`] should say of whole pages.
fn known(pages: &[Block]) -> Vec<Option<Box<Block>>> {
    pages.iter().map(|page| Some(Box::new(*page))).collect()
}

/// Reads such a payload back from [`with_units`]: the bytes of each claimed page, if known, and whether the
/// dump is damaged. All other pages must be as written.
fn read(bytes: &[u8], pages: u64) -> (Vec<Option<Box<Block>>>, bool) {
    let (disk, machine, written) = with_units(bytes, pages);
    let partition = partition::scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    for pfn in written.places.keys() {
        assert_eq!(dump.read_page(*pfn).unwrap(), expected(machine.pages.get(pfn)), "page {pfn}");
    }
    let state = |pfn| match dump.read_page(pfn).unwrap() {
        PageState::Data(bytes) => Some(bytes),
        PageState::Damaged => None,
        other => panic!("page {pfn:#x} is {other:?}"),
    };
    let states: Vec<Option<Box<Block>>> = (FIRST..FIRST + pages).map(state).collect();
    let lost = states.iter().filter(|state| state.is_none()).count() as u64;
    assert_eq!(dump.pages().damaged, lost);
    let told = Report::new(&dump).damage.iter().any(|damage| damage.what == "contradicts itself");
    assert_eq!(told, dump.is_damaged());
    assert!(told || lost == 0, "damage that nobody hears of");
    assert_core_agrees(&dump);
    (states, dump.is_damaged())
}

#[test]
fn a_unit_of_one_sort_of_each_comes_back() {
    let mut bytes = Vec::new();
    let mut pages = Vec::new();
    for (seed, count) in [(1, 1), (2, 16), (3, 7), (4, 8)] {
        let unit: Vec<Block> = (0..count)
            .map(|page| page_bytes(&if seed % 2 == 0 { Page::dull(page) } else { Page::of(page) }))
            .collect();
        put_unit(&mut bytes, &unit);
        pages.extend(known(&unit));
    }
    assert_eq!(read(&bytes, 32), (pages, false));
}

#[test]
fn a_unit_that_does_not_unpack_to_its_pages_costs_them_alone() {
    let raw: Vec<Block> = (0..4).map(|page| page_bytes(&Page::dull(page))).collect();
    let packed = lz4_flex::block::compress(raw.as_flattened());
    let short = lz4_flex::block::compress(&raw.as_flattened()[..4 * BLOCK_SIZE - 1]);
    let long = lz4_flex::block::compress(&[raw.as_flattened(), &[1]].concat());
    let cut = packed[..packed.len() - 1].to_vec();
    let garbage: Vec<u8> = (0..3000_u32).map(|index| ((index * index) >> 3) as u8).collect();
    for hostile in [short, long, cut, garbage, vec![0], vec![0xff; 4000]] {
        let mut bytes = Vec::new();
        put_unit(&mut bytes, &raw);
        put_packed(&mut bytes, 4, Packing::Lz4, &hostile);
        put_unit(&mut bytes, &raw);
        let expected = [known(&raw), vec![None; 4], known(&raw)].concat();
        assert_eq!(read(&bytes, 12), (expected, true));
    }
}

#[test]
fn units_that_contradict_themselves_cost_what_comes_behind_them() {
    let raw: Vec<Block> = (0..4).map(|page| page_bytes(&Page::dull(page))).collect();
    let mut good = Vec::new();
    put_unit(&mut good, &raw);
    // Too many stored bytes, too few, or past the end of the payload; no pages, or too many; an unknown
    // packing.
    let headers: [(u32, u16, u16); 7] = [
        (16385, 4, 1),
        (16384, 4, 1),
        (4096, 2, 0),
        (16000, 4, 1),
        (100, 0, 1),
        (100, MAX_UNIT_PAGES as u16 + 1, 1),
        (100, 4, 2),
    ];
    for (stored, pages, packing) in headers {
        let mut bytes = good.clone();
        bytes.extend(stored.to_le_bytes());
        bytes.extend(pages.to_le_bytes());
        bytes.extend(packing.to_le_bytes());
        bytes.resize(bytes.len() + 200, 1);
        let expected = [known(&raw), vec![None; 4]].concat();
        assert_eq!(read(&bytes, 8), (expected, true), "{stored} {pages} {packing}");
    }
    // More pages claimed than were packed, and fewer.
    let expected = [known(&raw), vec![None]].concat();
    assert_eq!(read(&good, 5), (expected.clone(), true));
    assert_eq!(read(&good, 3), (expected[..3].to_vec(), true));
    // Bytes after the last unit.
    assert_eq!(read(&[&good[..], &[0; 8]].concat(), 4), (expected[..4].to_vec(), true));
}

#[test]
fn a_chunk_that_claims_all_the_pages_it_may_is_read_in_no_time() {
    let begin = Instant::now();
    let (states, _) = read(&[0x5a; 100], MAX_CHUNK_PAGES);
    assert!(states.iter().all(Option::is_none));
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

/// Bytes that more or less look like units.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let stored = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..300),
        // Long matches that reach far back, as in an attack on memory.
        prop::collection::vec(prop_oneof![Just(0xff_u8), Just(0x1f), Just(1), Just(0)], 1..3000),
        (1_usize..20, 0_usize..64).prop_map(|(pages, flip)| {
            let raw: Vec<Block> = (0..pages as u64).map(|page| page_bytes(&Page::dull(page))).collect();
            let mut packed = lz4_flex::block::compress(raw.as_flattened());
            let length = packed.len();
            packed[flip * 7 % length] ^= 1 << (flip % 8);
            packed
        }),
    ];
    let unit = (stored, 0_u16..20, 0_u16..3, prop::option::of(any::<u32>()));
    let rest = prop::collection::vec(any::<u8>(), 0..40);
    (prop::collection::vec(unit, 0..12), rest).prop_map(|(units, rest)| {
        let mut bytes = Vec::new();
        for (stored, pages, packing, lie) in units {
            let length = lie.filter(|lie| lie % 5 == 0).unwrap_or(stored.len() as u32);
            bytes.extend(length.to_le_bytes());
            bytes.extend(pages.to_le_bytes());
            bytes.extend(packing.to_le_bytes());
            bytes.extend(&stored);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend(rest);
        if bytes.is_empty() { vec![0] } else { bytes }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hostile_units_are_read_without_panic_and_harm_no_other_page(
        bytes in hostile(), pages in prop_oneof![9 => 1_u64..40, 1 => 1..MAX_CHUNK_PAGES]
    ) {
        // `read` asserts everything that must hold.
        read(&bytes, pages);
    }

    #[test]
    fn a_lost_block_costs_the_units_that_it_hits_and_those_it_leads_to(
        sizes in prop::collection::vec((1_usize..=MAX_UNIT_PAGES, any::<bool>()), 1..12), lost in any::<u16>()
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let mut places = Vec::new();
        for (seed, (count, dull)) in (0..).zip(sizes) {
            let seeds = (0..count as u64).map(|page| seed * 100 + page);
            let page = |seed| page_bytes(&if dull { Page::dull(seed) } else { Page::of(seed) });
            let unit: Vec<Block> = seeds.map(page).collect();
            if expected.len() + count > 120 {
                break;
            }
            let header = bytes.len() / BLOCK_SIZE;
            let place = put_unit(&mut bytes, &unit);
            places.extend(unit.iter().map(|_| (header, place.start / BLOCK_SIZE..place.end.div_ceil(BLOCK_SIZE))));
            expected.extend(unit);
        }
        let (mut disk, ..) = with_units(&bytes, expected.len() as u64);
        let partition = partition::scan(&disk).unwrap();
        let first = partition.dumps[0].end - 1 - bytes.len().div_ceil(BLOCK_SIZE) as u64;
        let lost = usize::from(lost) % bytes.len().div_ceil(BLOCK_SIZE);
        block_mut(&mut disk, first + lost as u64)[1000] ^= 8;
        let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
        let mut broken = false;
        for ((pfn, page), (header, blocks)) in (FIRST..).zip(&expected).zip(&places) {
            broken |= *header == lost;
            let state = match broken || blocks.contains(&lost) {
                true => PageState::Damaged,
                false => PageState::Data(Box::new(*page)),
            };
            prop_assert_eq!(dump.read_page(pfn).unwrap(), state, "page {:#x}", pfn);
        }
        prop_assert!(dump.is_damaged());
        let told: u64 = dump.damage().iter().map(|damage| damage.count).sum();
        prop_assert_eq!(told, 1);
    }
}

#[test]
fn a_unit_may_be_asked_for_in_any_order_and_the_core_does() {
    let mut machine = Machine { unit_pages: Some(8), chunk_pages: 3, ..Machine::new() };
    for pfn in 0..200 {
        machine.pages.insert(pfn, if pfn % 3 == 0 { Page::of(pfn) } else { Page::dull(pfn) });
    }
    let mut disk = partition(400);
    write_dump(&mut disk, 1, &machine);
    let partition = partition::scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    // Back and forth over more chunks than are kept open.
    for turn in 0..600_u64 {
        let pfn = turn * 67 % 200;
        assert_eq!(dump.read_page(pfn).unwrap(), expected(machine.pages.get(&pfn)), "page {pfn}");
    }
    let mut core = Vec::new();
    elf::write(&dump, &CoreOptions::default(), &mut core, &mut ()).unwrap();
    assert_core_agrees(&dump);
}

#[test]
fn pages_left_out_are_told_by_reason_and_are_no_loss() {
    let mut machine = Machine { unit_pages: Some(8), ..Machine::new() };
    machine.pages.insert(1, Page::of(1));
    let reasons = RunKind::ALL.into_iter().filter(|kind| kind.is_left_out() && *kind != RunKind::Arena);
    let mut pfn = 2;
    for (number, reason) in (1..).zip(reasons) {
        for _ in 0..number {
            machine.pages.insert(pfn, Page::LeftOut(reason));
            pfn += 1;
        }
    }
    let mut disk = partition(100);
    write_dump(&mut disk, 1, &machine);
    let partition = partition::scan(&disk).unwrap();
    let dump = Dump::open(&disk, &partition, &partition.dumps[0]);
    let report = Report::new(&dump);
    let pages = report.pages;
    let told = [pages.cache, pages.cache_private, pages.user, pages.free, pages.not_kernel, pages.device];
    assert_eq!(told, [1, 2, 3, 4, 5, 6]);
    assert_eq!((pages.left_out(), pages.missing(), report.missing.len()), (21, 0, 0));
    assert!(report.whole && dump.is_whole());
    assert_eq!(report.encoding, Some("units"));
}
