//! From crash to core on a simulated machine: what savecore returns equals the memory, or it says what is
//! missing.
//!
//! One file: the properties share one way from a machine to its core.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use dumpcore::Outcome;
use dumpcore::format::chunk::{ChunkHeader, Encoding, RunKind};
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::{BLOCK_SIZE, Block, PAGE_BYTES};
use dumpcore::platform::{RamRange, Registers};
use dumpcore::sim::{Disk, DiskFault, Helper, Machine, MachineFault};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{Config, Ownership, Target};
use dumpcore::{Level, PageClass, ResetPolicy, Verify};
use object::LittleEndian as LE;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use proptest::prelude::*;
use savecore::Identity;
use savecore::corefile::{CoreOptions, Level as CoreLevel, Selection, elf};
use savecore::dump::{Dump, DumpRef, Encryption, Fate, PageState, Part, Report, gather};
use savecore::partition::{self, Partition};
use zerocopy::FromBytes;

#[path = "simulated_machine/freeing.rs"]
mod freeing;
#[path = "simulated_machine/stored.rs"]
mod stored;

const UUIDS: [[u8; 16]; 3] = [*b"the whole way, 0", *b"the whole way, 1", *b"the whole way, 2"];
const SECRET: [u8; 32] = [0x5e; 32];
const FIRST: u64 = 2;
const ARENA: usize = 512 << 10;

/// What a page holds, or is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    Random,
    Packable,
    Unreadable,
    Faulty,
}

/// A machine's memory, in pages.
#[derive(Clone, Debug)]
struct Memory {
    ram: Vec<RamRange>,
    /// By index among the pages of RAM.
    contents: BTreeMap<usize, Content>,
    /// Ranges of indices among the pages of RAM, and what those pages are used for.
    classes: Vec<(Range<usize>, PageClass)>,
    /// The disk reads pages in place, except every `still`-th.
    still: Option<u64>,
    seed: u64,
}

impl Memory {
    /// Page frames of whole pages in the map.
    fn pfns(&self) -> BTreeSet<u64> {
        let whole = |range: &RamRange| range.start.div_ceil(PAGE_BYTES)..range.end / PAGE_BYTES;
        self.ram.iter().flat_map(whole).collect()
    }

    /// One range of RAM, in which the pages `filled` hold `content`.
    fn plain(pages: u64, filled: Range<usize>, content: Content, still: Option<u64>) -> Memory {
        Memory {
            ram: vec![RamRange { start: 0, end: pages * PAGE_BYTES }],
            contents: filled.map(|place| (place, content)).collect(),
            classes: Vec::new(),
            still,
            seed: 3,
        }
    }
}

fn page_classes() -> impl Strategy<Value = PageClass> {
    prop::sample::select(PageClass::ALL.to_vec())
}

prop_compose! {
    /// Ranges with odd ends, holes and overlaps, the first with room for the arena.
    fn memories()(
        start in 0..8_u64,
        others in proptest::collection::vec((0x100..0x240_u64, 0..0x40_u64, 0..0x1000_u64, 0..0x1000_u64), 0..5),
        high: bool,
        contents in proptest::collection::vec((0x80..0x240_usize, 1..20_usize, prop_oneof![
            4 => Just(Content::Random),
            6 => Just(Content::Packable),
            1 => Just(Content::Unreadable),
            1 => Just(Content::Faulty),
        ]), 0..12),
        classes in proptest::collection::vec((0..0x200_usize, 1..90_usize, page_classes()), 0..12),
        still in proptest::option::of(2..9_u64),
        seed: u64,
    ) -> Memory {
        let mut ram = vec![RamRange { start: start * PAGE_BYTES, end: (start + 0xa0) * PAGE_BYTES }];
        for (first, pages, before, behind) in others {
            let first = if high && first > 0x1a0 { first + 0x10_0000 } else { first };
            let start = first * PAGE_BYTES + before;
            ram.push(RamRange { start, end: start + pages * PAGE_BYTES + behind });
        }
        let mut all = BTreeMap::new();
        for (first, pages, content) in contents {
            let pages = if matches!(content, Content::Random | Content::Packable) { pages } else { pages / 8 + 1 };
            all.extend((first..first + pages).map(|place| (place, content)));
        }
        let classes = classes.into_iter().map(|(first, pages, class)| (first..first + pages, class)).collect();
        Memory { ram, contents: all, classes, still, seed }
    }
}

/// How it is dumped.
#[derive(Clone, Debug)]
struct Way {
    verify: Verify,
    level: Level,
    encoding: Encoding,
    helpers: Vec<Helper>,
    /// Whether each disk demands encryption.
    encrypted: Vec<bool>,
    stripe: bool,
    depth: usize,
    budget: u64,
    blocks: u64,
    tick: u64,
    nested: Option<u64>,
    write_back: bool,
    /// Of the first disk.
    fault: DiskFault,
}

impl Default for Way {
    fn default() -> Way {
        Way {
            verify: Verify::All,
            level: Level::ZERO,
            encoding: Encoding::Units,
            helpers: Vec::new(),
            encrypted: vec![false],
            stripe: false,
            depth: 4,
            budget: 60 * SECOND,
            blocks: 400,
            tick: 1_000,
            nested: None,
            write_back: false,
            fault: DiskFault::None,
        }
    }
}

fn helpers() -> impl Strategy<Value = Vec<Helper>> {
    let helper = prop_oneof![
        3 => Just(Helper::Works),
        1 => (0..20 * MILLISECOND).prop_map(Helper::Late),
        1 => (0..60_u64).prop_map(Helper::Dies),
        1 => (0..60_u64, 0..SECOND).prop_map(|(look, span)| Helper::Stalls { look, span }),
    ];
    proptest::collection::vec(helper, 2)
}

fn verifies() -> impl Strategy<Value = Verify> {
    prop_oneof![
        Just(Verify::All),
        Just(Verify::Ahead),
        (1..70_u64).prop_map(|every| Verify::Sample { every })
    ]
}

prop_compose! {
    fn ways()(
        verify in verifies(),
        // Without the bit for the kernel only: most of these machines have no kernel pages.
        level in 0..32_u32,
        any_level: bool,
        units: bool,
        helpers in helpers(),
        encrypted in proptest::collection::vec(any::<bool>(), 1..4),
        stripe: bool,
        depth in 1..6_usize,
    ) -> Way {
        // A dump is striped only over disks with the same key.
        let encrypted = if stripe { vec![encrypted[0]; encrypted.len()] } else { encrypted };
        Way {
            verify,
            level: if any_level { Level::from_bits_truncate(level) } else { Level::ZERO },
            encoding: if units { Encoding::Units } else { Encoding::Plain },
            helpers,
            encrypted,
            stripe,
            depth,
            ..Way::default()
        }
    }
}

/// A machine that may crash now.
struct World<'w> {
    memory: &'w Memory,
    way: &'w Way,
    machine: &'static Machine,
    disks: Vec<Disk>,
}

/// Scanned partitions, and their bytes.
struct Images {
    bytes: Vec<Vec<u8>>,
    partitions: Vec<Partition>,
}

impl Images {
    fn of(bytes: Vec<Vec<u8>>) -> Images {
        let scan = |image: &Vec<u8>| partition::scan(image).expect("the label is as it was");
        let partitions = bytes.iter().map(scan).collect();
        Images { bytes, partitions }
    }

    /// All dumps, each with its stripes.
    fn dumps(&self, identity: Option<&Identity>) -> Vec<Dump<'_>> {
        let part = |DumpRef { target, dump }: &DumpRef| Part {
            source: &self.bytes[*target],
            uuid: self.partitions[*target].uuid(),
            found: self.partitions[*target].dumps[*dump].clone(),
        };
        let open =
            |places: &Vec<DumpRef>| Dump::open_parts(places.iter().map(part).collect(), identity, &mut ());
        gather(&self.partitions).iter().map(open).collect()
    }
}

impl<'w> World<'w> {
    fn new(memory: &'w Memory, way: &'w Way, seed: u64) -> World<'w> {
        let disks: Vec<Disk> = way
            .encrypted
            .iter()
            .zip(&UUIDS)
            .map(|(encrypted, uuid)| {
                let disk = Disk::formatted(way.blocks + 10, FIRST, way.blocks, uuid, seed);
                if *encrypted {
                    disk.demand_encryption(FIRST, &Identity(SECRET).public_key());
                }
                if way.write_back {
                    disk.set_write_back();
                }
                disk
            })
            .collect();
        let machine = Machine::new(memory.ram.clone(), ARENA, &disks[0]);
        disks.iter().skip(1).for_each(|disk| machine.add_disk(disk));
        let pfns: Vec<u64> = memory.pfns().into_iter().collect();
        for (place, content) in &memory.contents {
            let pfn = pfns[place % pfns.len()];
            match content {
                Content::Random => machine.fill_page(pfn, memory.seed),
                Content::Packable => machine.fill_page_packable(pfn, memory.seed),
                Content::Unreadable => machine.make_unreadable(pfn),
                Content::Faulty => machine.make_faulty(pfn),
            }
        }
        for (places, class) in &memory.classes {
            for place in places.clone() {
                let pfn = pfns[place % pfns.len()];
                machine.set_class(pfn..pfn + 1, *class);
            }
        }
        machine.set_guard();
        machine.set_entropy(seed);
        machine.set_helpers(&way.helpers);
        let mut stopped = Registers::ZERO;
        stopped.general[16] = 0x1234;
        // Pages stay unchanged only if every CPU is stopped.
        let third = memory.still.map(|_| stopped);
        machine.set_cpus(vec![Some(Registers::ZERO), Some(stopped), third]);
        if let Some(every) = memory.still {
            machine.make_still(every);
        }
        machine.set_log((0..20_000_u32).flat_map(|line| format!("{line}\n").into_bytes()).collect());
        machine.set_tick(way.tick);
        if let Some(looks) = way.nested {
            machine.set_fault(MachineFault::NestedCrash(looks));
        }
        World { memory, way, machine, disks }
    }

    fn arm(&self) {
        let Way { verify, level, encoding, stripe, budget, .. } = *self.way;
        let target = |((disk, uuid), encrypted): ((&Disk, &[u8; 16]), &bool)| {
            Target::new(Box::leak(Box::new(disk.device(self.way.depth))), FIRST, self.way.blocks)
                .uuid(*uuid)
                .recipient(encrypted.then(|| Identity(SECRET).public_key()))
                .ownership(Ownership::Shared)
        };
        let targets: Vec<Target<'static>> =
            self.disks.iter().zip(&UUIDS).zip(&self.way.encrypted).map(target).collect();
        let reset = ResetPolicy::Return;
        let config = Config::new()
            .verify(verify)
            .level(level)
            .encoding(encoding)
            .stripe(stripe)
            .budget(budget)
            .reset(reset)
            .clear_after_encrypted(true);
        let machine = self.machine;
        machine.dump().arm(machine, targets, machine.arena(), config).expect("it can be armed");
        self.disks[0].set_fault(self.way.fault);
    }

    fn crash(&self) -> Outcome {
        self.machine.panic("the whole way")
    }

    /// What is on the partitions now.
    fn images(&self) -> Vec<Vec<u8>> {
        let partition = |disk: &Disk| {
            disk.bytes()[FIRST as usize * BLOCK_SIZE..][..self.way.blocks as usize * BLOCK_SIZE].to_vec()
        };
        self.disks.iter().map(partition).collect()
    }

    /// The state of a page that the dump has.
    fn truth(&self, pfn: u64) -> PageState {
        let machine = self.machine;
        if machine.arena_pages().contains(&pfn) {
            return PageState::Arena;
        }
        match self.way.level.leaves_out(machine.class_of(pfn)) {
            Some(RunKind::Cache) => return PageState::LeftOut(Fate::Cache),
            Some(RunKind::CachePrivate) => return PageState::LeftOut(Fate::CachePrivate),
            Some(RunKind::User) => return PageState::LeftOut(Fate::User),
            Some(RunKind::Free) => return PageState::LeftOut(Fate::Free),
            Some(RunKind::Device) => return PageState::LeftOut(Fate::Device),
            Some(other) => panic!("{other:?}"),
            None => (),
        }
        match machine.page_bytes(pfn) {
            Some(bytes) if bytes.iter().all(|byte| *byte == 0) => PageState::Zero,
            Some(bytes) => PageState::Data(Box::new(bytes)),
            None if machine.is_faulty(pfn) => PageState::Faulted,
            None => PageState::Unreadable,
        }
    }

    /// Compares a dump with the machine; returns how many pages it has. A whole dump has all of them.
    fn compare(&self, dump: &Dump<'_>, whole: bool) -> Result<usize, TestCaseError> {
        let mut there = 0;
        let pfns = self.memory.pfns();
        let mut lost = false;
        for pfn in &pfns {
            let state = dump.read_page(*pfn).expect("memory can be read");
            let truth = self.truth(*pfn);
            lost |= matches!(truth, PageState::Unreadable | PageState::Faulted);
            match state {
                PageState::Damaged | PageState::NotWritten | PageState::Absent => {
                    prop_assert!(!whole, "page {pfn:#x} is missing from a whole dump");
                }
                state => {
                    there += usize::from(matches!(state, PageState::Data(_) | PageState::Zero));
                    prop_assert!(state == truth, "page {:#x} is {:?}", pfn, brief(&state));
                    let class = match state {
                        PageState::Arena => PageClass::Unknown,
                        _ => self.machine.class_of(*pfn),
                    };
                    prop_assert_eq!(dump.index().find(*pfn).map(|run| run.class), Some(class));
                }
            }
        }
        // Pages that are not RAM are not in the dump.
        for pfn in (0..0x300).chain(0x10_0100..0x10_0300).filter(|pfn| !pfns.contains(pfn)) {
            prop_assert!(matches!(dump.read_page(pfn).expect("memory can be read"), PageState::Absent));
        }
        if whole {
            prop_assert_eq!(dump.is_whole(), !lost, "an unreadable page is a missing one");
            let facts = dump.facts();
            prop_assert_eq!(facts.message.as_str(), "the whole way");
            prop_assert_eq!(facts.cpus.len(), 3);
            prop_assert!(facts.log.ends_with(b"19998\n19999\n"));
            prop_assert_eq!(facts.log.len(), 64 << 10);
        } else {
            prop_assert!(!dump.is_whole(), "a dump that was cut off says so");
        }
        Ok(there)
    }

    /// The core has each page that is known, and no other.
    fn compare_core(&self, dump: &Dump<'_>) -> Result<(), TestCaseError> {
        let mut found = core_pages(dump, None);
        for pfn in self.memory.pfns() {
            let truth = match self.truth(pfn) {
                PageState::Data(bytes) => Some(bytes),
                PageState::Zero => Some(Box::new([0; BLOCK_SIZE])),
                _ => None,
            };
            prop_assert!(found.remove(&pfn) == truth, "page {:#x} of the core", pfn);
        }
        prop_assert!(found.is_empty(), "pages that are no RAM: {:x?}", found.keys());
        Ok(())
    }
}

/// The pages of the core that a dump becomes.
fn core_pages(dump: &Dump<'_>, level: Option<CoreLevel>) -> BTreeMap<u64, Box<Block>> {
    let mut bytes = Vec::new();
    let options = CoreOptions { level, ..CoreOptions::default() };
    elf::write(dump, &options, &mut bytes, &mut ()).expect("memory can be written");
    let header = FileHeader64::<LE>::parse(&*bytes).expect("it is a core");
    let mut found = BTreeMap::new();
    for segment in header.program_headers(LE, &*bytes).expect("it has segments") {
        if segment.p_type(LE) == PT_LOAD {
            let bytes = segment.data(LE, &*bytes).expect("its bytes are there");
            let first = segment.p_paddr(LE) / PAGE_BYTES;
            let pages = bytes.as_chunks::<BLOCK_SIZE>().0.iter().copied().map(Box::new);
            found.extend((first..).zip(pages));
        }
    }
    found
}

/// A page's state without its bytes.
fn brief(state: &PageState) -> String {
    match state {
        PageState::Data(bytes) => format!("data that begins {:x?}", &bytes[..8]),
        other => format!("{other:?}"),
    }
}

/// Frees all dumps; the partition is then as it was when it was formatted.
fn assert_all_is_freed(image: &[u8], fresh: &[u8]) {
    let mut image = image.to_vec();
    let partition = partition::scan(&image).expect("the label is as it was");
    for found in partition.dumps.iter().rev() {
        partition::clear(&mut image, &partition.uuid(), found, &mut ()).expect("memory can be written");
    }
    assert!(partition.foreign.is_empty(), "blocks that belong to no dump: {:?}", partition.foreign);
    assert!(image == fresh, "something is left of the dump");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn a_complete_dump_gives_back_all_memory(memory in memories(), way in ways(), seed: u64) {
        let world = World::new(&memory, &way, seed);
        let fresh = world.images();
        world.arm();
        prop_assert_eq!(world.crash(), Outcome::Complete, "{}", world.machine.console_text());
        let images = Images::of(world.images());
        for (image, fresh) in images.bytes.iter().zip(&fresh) {
            assert_all_is_freed(image, fresh);
        }
        let identity = Identity(SECRET);
        let dumps = images.dumps(Some(&identity));
        prop_assert_eq!(dumps.len(), 1);
        prop_assert_eq!(dumps[0].parts().len(), if way.stripe { way.encrypted.len() } else { 1 });
        world.compare(&dumps[0], true)?;
        world.compare_core(&dumps[0])?;
        // Even without the key, it is seen to be complete.
        let lost = world.machine.looks() == 0 || dumps[0].pages().missing() > 0;
        let unopened = &images.dumps(None)[0];
        let encrypted = if way.stripe { way.encrypted.contains(&true) } else { way.encrypted[0] };
        if encrypted && !lost {
            prop_assert_eq!(unopened.encryption(), Encryption::Encrypted);
            prop_assert!(unopened.is_whole() && !unopened.is_damaged());
        }
    }

    #[test]
    fn a_core_at_a_tighter_level_is_that_of_a_dump_at_it(
        memory in memories(),
        way in ways(),
        loose in 0..64_u32,
        more in 0..64_u32,
        seed: u64,
    ) {
        // Without these, a dump of the kernel only could not be armed. The arena is before them.
        let classes = memory.classes.iter().cloned().chain([(0x90..0x94, PageClass::Slab)]).collect();
        let memory = Memory { classes, ..memory };
        let saved = |dumped: u32, levels: &[Option<u32>]| {
            let level = Level::from_bits_truncate(dumped);
            let way = Way { level, ..way.clone() };
            let world = World::new(&memory, &way, seed);
            world.arm();
            prop_assert_eq!(world.crash(), Outcome::Complete, "{}", world.machine.console_text());
            let images = Images::of(world.images());
            let identity = Identity(SECRET);
            let dump = &images.dumps(Some(&identity))[0];
            let level = |bits: &Option<u32>| bits.and_then(CoreLevel::new);
            let known = dump.pages().data + dump.pages().zero;
            for level in levels.iter().map(level) {
                let selection = Selection::of(dump, level);
                prop_assert_eq!(selection.pages() + selection.left_out(), known);
                prop_assert_eq!(selection.pages(), core_pages(dump, level).len() as u64);
                let unsaid = level.is_some_and(|level| level.bits() & !33 != 0 && level.bits() < 32);
                let unknown = if unsaid { Report::new(dump).classes.unknown } else { 0 };
                prop_assert_eq!(selection.unknown_pages(), unknown);
                prop_assert_eq!(selection.warning().is_some(), unknown > 0);
            }
            Ok(levels.iter().map(|bits| core_pages(dump, level(bits))).collect::<Vec<_>>())
        };
        let tight = loose | more;
        let of_loose = saved(loose, &[None, Some(0), Some(1), Some(loose), Some(tight)])?;
        let of_tight = saved(tight, &[None, Some(loose)])?;
        for same in [1, 2, 3] {
            prop_assert!(of_loose[same] == of_loose[0], "a level that is no tighter loses a page");
        }
        prop_assert!(of_loose[4] == of_tight[0]);
        prop_assert!(of_tight[1] == of_tight[0], "no level brings back what was not dumped");
    }

    #[test]
    fn a_dump_that_failed_gives_back_what_it_has_and_says_what_it_has_not(
        memory in memories(),
        way in ways(),
        fault in prop_oneof![
            (0..200_u64, any::<bool>()).prop_map(|(after_blocks, torn)| DiskFault::PowerCut { after_blocks, torn }),
            (0..20_u64).prop_map(DiskFault::WriteError),
            (0..40_u64).prop_map(DiskFault::Stuck),
            (0..40_u64).prop_map(DiskFault::Gone),
            (0..40_u64).prop_map(DiskFault::WrongId),
            Just(DiskFault::NoFlush),
            Just(DiskFault::None),
        ],
        blocks in 40..400_u64,
        write_back: bool,
        nested in proptest::option::of(0..4000_u64),
        budget in prop_oneof![Just(60 * SECOND), (0..40 * MILLISECOND).prop_map(|time| time + 1)],
        seed: u64,
    ) {
        let way = Way { fault, blocks, write_back, nested, budget, tick: 20_000, ..way };
        let world = World::new(&memory, &way, seed);
        Disk::share_power(&world.disks);
        let fresh = world.images();
        world.arm();
        let outcome = world.crash();
        let images = Images::of(world.images());
        for ((image, partition), fresh) in images.bytes.iter().zip(&images.partitions).zip(&fresh) {
            // A dump without its first block is found only by a search that asks for it.
            if partition.dumps.first().is_some_and(|dump| dump.first == 1) {
                assert_all_is_freed(image, fresh);
            }
        }
        let identity = Identity(SECRET);
        let mut complete = false;
        let dumps = images.dumps(Some(&identity));
        for dump in &dumps {
            let pages = dump.pages();
            let lost = pages.unreadable + pages.faulted;
            // The very last block may have arrived before the failure was noticed.
            let whole = dump.is_whole()
                || (lost > 0 && pages.missing() == lost && !dump.is_damaged() && dump.missing_stripes().is_empty()
                    && dump.parts().iter().all(|part| part.found.header.status() == dumpcore::format::header::Status::Complete));
            complete |= whole;
            world.compare(dump, whole)?;
        }
        if outcome == Outcome::Complete {
            prop_assert!(complete, "a complete dump is whole\n{}", world.machine.console_text());
        }
        if matches!(outcome, Outcome::Refused(_)) && !matches!(fault, DiskFault::PowerCut { .. }) {
            prop_assert_eq!(dumps.len(), 0, "refused, and yet there is a dump");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_byte_of_a_encrypted_dump_is_changed_nothing_false_comes_out(
        memory in memories(),
        way in ways(),
        changes in proptest::collection::vec((any::<u64>(), 0..BLOCK_SIZE, 1..=255_u8, any::<bool>()), 12),
        seed: u64,
    ) {
        let way = Way { encrypted: vec![true; way.encrypted.len()], ..way };
        let world = World::new(&memory, &way, seed);
        world.arm();
        prop_assert_eq!(world.crash(), Outcome::Complete, "{}", world.machine.console_text());
        let identity = Identity(SECRET);
        let clean = world.images();
        let ends: Vec<u64> = Images::of(clean.clone())
            .partitions
            .iter()
            .map(|partition| partition.dumps.last().map_or(0, |found| found.end))
            .collect();
        for (place, at, bits, cover_up) in changes {
            let mut bytes = clean.clone();
            let disk = place as usize % bytes.len();
            if ends[disk] == 0 {
                continue;
            }
            let block = (1 + place / 7 % (ends[disk] - 1)) as usize;
            let changed = &mut bytes[disk].as_chunks_mut::<BLOCK_SIZE>().0[block];
            changed[at] ^= bits;
            if cover_up && Kind::of(changed).is_some() {
                frame::set_checksum(changed);
            }
            // A chunk's header has room for the checksums of more blocks than its payload has. Those mean nothing.
            let idle = cover_up
                && Kind::of(changed) == Some(Kind::Chunk)
                && ChunkHeader::ref_from_bytes(changed).is_ok_and(|header| {
                    let used = header.payload_blocks.get() as usize * size_of::<u64>();
                    at >= core::mem::offset_of!(ChunkHeader, sums) + used
                });
            let images = Images::of(bytes);
            for dump in images.dumps(Some(&identity)) {
                let untouched = images.bytes == clean;
                // Everything that is shown is true, and everything that is wrong is reported.
                for pfn in memory.pfns() {
                    let state = dump.read_page(pfn).expect("memory can be read");
                    let missing = matches!(
                        state,
                        PageState::Damaged | PageState::NotWritten | PageState::Absent | PageState::Encrypted
                    );
                    prop_assert!(missing || state == world.truth(pfn), "page {:#x} is {}", pfn, brief(&state));
                }
                let told = !dump.is_whole() || dump.authentic() != Some(true) || dump.is_damaged();
                prop_assert!(told || untouched || idle, "disk {}, block {}, byte {}", disk, block, at);
            }
        }
    }
}

#[test]
fn the_power_is_cut_after_every_single_write_and_each_prefix_is_a_dump() {
    let memory = Memory::plain(0x400, 0x120..0x1e0, Content::Random, Some(7));
    let plain = Way { encoding: Encoding::Plain, blocks: 300, ..Way::default() };
    let encrypted = Way { encoding: Encoding::Units, encrypted: vec![true], ..plain.clone() };
    // The first is cut after every write, its variants after every third.
    for (way, torn, write_back, every) in
        [(&plain, true, false, 1), (&plain, true, true, 3), (&encrypted, false, false, 3)]
    {
        let world = World::new(&memory, way, 5);
        world.arm();
        assert_eq!(world.crash(), Outcome::Complete);
        let writes = world.disks[0].blocks_written();
        assert!(writes > 200, "the dump has {writes} writes");
        let mut most = 0;
        for after_blocks in (0..writes).step_by(every) {
            let fault = DiskFault::PowerCut { after_blocks, torn };
            let way = Way { fault, write_back, ..way.clone() };
            let world = World::new(&memory, &way, after_blocks);
            let before = world.disks[0].bytes();
            let fresh = world.images();
            world.arm();
            world.crash();
            let images = Images::of(world.images());
            let identity = Identity(SECRET);
            let dumps = images.dumps(Some(&identity));
            let mut there = None;
            if let Some(dump) = dumps.last() {
                // A front header that was torn while it was closed is excused.
                if !write_back && dump.found().first == 1 {
                    let torn_front = dump.found().ending.is_damaged();
                    assert!(torn_front || !dump.is_damaged(), "after {after_blocks} writes, torn {torn}");
                    assert!(dump.foreign().is_empty(), "after {after_blocks} writes, torn {torn}");
                }
                let whole = dump.is_whole();
                assert!(
                    !whole || after_blocks + 2 >= writes,
                    "whole after {after_blocks} of {writes} writes"
                );
                there = Some(world.compare(dump, whole).expect("what is there is right"));
                assert_all_is_freed(&images.bytes[0], &fresh[0]);
            }
            if !write_back && after_blocks > 60 {
                assert!(there.is_some(), "after {after_blocks} writes nothing could be read");
            }
            most = most.max(there.unwrap_or(0));
            let (after, end) = (world.disks[0].bytes(), (FIRST + way.blocks) as usize * BLOCK_SIZE);
            assert!(
                before[..(FIRST as usize + 1) * BLOCK_SIZE] == after[..(FIRST as usize + 1) * BLOCK_SIZE]
            );
            assert!(before[end..] == after[end..], "behind the partition nothing changed");
        }
        assert!(most > 150, "the longest prefix has only {most} pages");
    }
}

#[test]
fn a_dump_of_a_live_kernel_and_the_one_of_its_crash_both_give_back_what_was_in_memory_then() {
    for encrypted in [vec![false], vec![true, true]] {
        let memory = Memory::plain(0x200, 0x100..0x180, Content::Packable, Some(7));
        let way = Way { stripe: encrypted.len() > 1, encrypted, blocks: 700, ..Way::default() };
        let world = World::new(&memory, &way, 5);
        world.arm();
        assert_eq!(world.machine.snapshot("the whole way"), Outcome::Complete);
        let identity = Identity(SECRET);
        let alive = Images::of(world.images());
        world.compare(&alive.dumps(Some(&identity))[0], true).expect("the first dump is right");
        for pfn in 0x140..0x1a0 {
            world.machine.fill_page(pfn, 99);
        }
        assert_eq!(world.crash(), Outcome::Complete, "{}", world.machine.console_text());
        let both = Images::of(world.images());
        let dumps = both.dumps(Some(&identity));
        assert_eq!(dumps.len(), 2);
        world.compare(&dumps[1], true).expect("the second dump is right");
        let alive = alive.dumps(Some(&identity));
        for pfn in memory.pfns() {
            let read = |dump: &Dump<'_>| dump.read_page(pfn).expect("memory can be read");
            assert!(read(&dumps[0]) == read(&alive[0]), "page {pfn:#x} of the first dump");
        }
    }
}

#[test]
fn a_cache_that_lost_much_of_an_unfinished_dump_leaves_no_block_behind_and_no_overlap() {
    let memory = Memory::plain(0x600, 0xa0..0x560, Content::Random, None);
    let cut = DiskFault::PowerCut { after_blocks: 1100, torn: false };
    let way = Way { encoding: Encoding::Plain, blocks: 4000, depth: 2, fault: cut, ..Way::default() };
    let world = World::new(&memory, &way, 5);
    let fresh = world.images().remove(0);
    world.arm();
    world.crash();
    // What was in the disk's cache is lost: more blocks than were ever in flight together.
    let hole = 40..900;
    world.disks[0].change(|bytes| {
        let partition = &mut bytes[FIRST as usize * BLOCK_SIZE..];
        let bytes = hole.start * BLOCK_SIZE..hole.end * BLOCK_SIZE;
        partition[bytes.clone()].copy_from_slice(&fresh[bytes]);
    });
    world.disks[0].switch_on();
    let image = world.images().remove(0);
    let partition = partition::scan(&image).expect("the label is as it was");
    let [found] = &partition.dumps[..] else { panic!("{} dumps", partition.dumps.len()) };
    assert!(found.header.window_blocks.get() < hole.len() as u32, "the hole is a large one");
    assert!(found.end > hole.end as u64, "what is behind the hole belongs to the dump");
    assert_all_is_freed(&image, &fresh);

    // The next dump goes after all of it, and both are freed.
    assert_eq!(world.crash(), Outcome::Complete);
    let image = world.images().remove(0);
    let partition = partition::scan(&image).expect("the label is as it was");
    assert_eq!(partition.dumps.iter().map(|dump| dump.first).collect::<Vec<_>>(), [1, found.end]);
    assert_all_is_freed(&image, &fresh);
}
