//! A machine with disks, made from a plan, and the properties that hold for every plan.
//!
//! One file: a plan, the machine made from it and what must hold for it change together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use dumpcore::Outcome;
use dumpcore::format::chunk::{Encoding, RunKind};
use dumpcore::format::crypt::{SecretKey, public_key};
use dumpcore::format::frame::Kind;
use dumpcore::format::header::{Header, Incomplete, Status};
use dumpcore::format::{BLOCK_SIZE, PAGE_BYTES};
use dumpcore::platform::RamRange;
use dumpcore::sim::{Disk, DiskFault, Helper, Machine, MachineFault};
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{ArmError, ArmReport, Config, Ownership, Target};
use dumpcore::{Level, PageClass, ResetPolicy, Verify};
use proptest::prelude::*;

use crate::reader::{self, Dump, Page};

/// The start of each disk's partition.
pub(crate) const FIRST: u64 = 3;
/// Bytes of the arena.
pub(crate) const ARENA: usize = 1 << 20;
/// Time budget of a dump, unless its plan says otherwise.
pub(crate) const BUDGET: u64 = 60 * SECOND;

/// The contents or kind of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Random,
    Packable,
    Unreadable,
    Faulty,
    Restless,
}

/// A disk, and its faults.
#[derive(Clone, Debug)]
pub(crate) struct DiskPlan {
    pub(crate) blocks: u64,
    pub(crate) depth: usize,
    pub(crate) fault: DiskFault,
    pub(crate) risky: bool,
    pub(crate) write_back: bool,
    pub(crate) encrypted: bool,
    pub(crate) exclusive: bool,
    /// A block of the partition, and a bit of it to flip.
    pub(crate) spoilt: Option<(u64, usize)>,
}

impl Default for DiskPlan {
    fn default() -> DiskPlan {
        DiskPlan {
            blocks: 800,
            depth: 4,
            fault: DiskFault::None,
            risky: false,
            write_back: false,
            encrypted: false,
            exclusive: false,
            spoilt: None,
        }
    }
}

/// All choices of a test.
#[derive(Clone)]
pub(crate) struct Plan {
    /// By index among the pages of RAM.
    pub(crate) contents: BTreeMap<usize, Content>,
    /// Indexes among the pages of RAM, and their classes.
    pub(crate) classes: Vec<(Range<usize>, PageClass)>,
    pub(crate) longest_class_run: Option<u64>,
    pub(crate) guard: bool,
    pub(crate) one_window: bool,
    pub(crate) still: Option<u64>,
    pub(crate) helpers: Vec<Helper>,
    /// Whether those can switch stacks.
    pub(crate) helper_stacks: bool,
    /// Another CPU that does not stop.
    pub(crate) silent: bool,
    pub(crate) tick: u64,
    pub(crate) fault: MachineFault,
    pub(crate) disks: Vec<DiskPlan>,
    pub(crate) config: Config<'static>,
    pub(crate) seed: u64,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("contents", &self.contents)
            .field("classes", &self.classes)
            .field("longest_class_run", &self.longest_class_run)
            .field("guard", &self.guard)
            .field("one_window", &self.one_window)
            .field("still", &self.still)
            .field("helpers", &self.helpers)
            .field("helper_stacks", &self.helper_stacks)
            .field("silent", &self.silent)
            .field("tick", &self.tick)
            .field("fault", &self.fault)
            .field("disks", &self.disks)
            .field("config", &Way(self.config.clone()))
            .field("seed", &self.seed)
            .finish()
    }
}

/// A configuration that can be printed when a test fails.
#[derive(Clone)]
pub(crate) struct Way(pub(crate) Config<'static>);

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { verify, budget, log_tail, level, encoding, .. } = &self.0;
        let Config { helpers, helper_patience, allow_risky, stripe, .. } = &self.0;
        write!(f, "{verify:?}, budget {budget}, log {log_tail}, {level:?}, {encoding:?}, ")?;
        write!(f, "{helpers} helpers for {helper_patience}, risky {allow_risky}, stripe {stripe}")
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            contents: (300..460).map(|place| (place, Content::Packable)).collect(),
            classes: Vec::new(),
            longest_class_run: None,
            guard: true,
            one_window: false,
            still: Some(0),
            helpers: Vec::new(),
            helper_stacks: true,
            silent: false,
            tick: 1_000,
            fault: MachineFault::None,
            disks: vec![DiskPlan::default()],
            config: config(),
            seed: 1,
        }
    }
}

pub(crate) fn config() -> Config<'static> {
    Config::new().budget(BUDGET).reset(ResetPolicy::Return).clear_after_encrypted(true)
}

/// RAM with a hole, odd ends, and a distant part.
pub(crate) fn ram() -> Vec<RamRange> {
    vec![
        RamRange { start: 0x1000, end: 0x18_0000 },
        RamRange { start: 0x20_0123, end: 0x2f_0fff },
        RamRange { start: 0x1_0000_0000, end: 0x1_0000_8000 },
    ]
}

/// Page frames of all whole pages in the RAM map.
pub(crate) fn pfns() -> Vec<u64> {
    ram().iter().flat_map(|range| range.start.div_ceil(PAGE_BYTES)..range.end / PAGE_BYTES).collect()
}

pub(crate) fn uuid(disk: usize) -> [u8; 16] {
    *[b"engine test, 0..", b"engine test, 1..", b"engine test, 2..", b"engine test, 3.."][disk]
}

/// The pass that writes pages of a class.
pub(crate) fn pass_of(class: PageClass) -> u32 {
    match class {
        PageClass::Stack | PageClass::PageTable => 1,
        PageClass::KernelText | PageClass::KernelData | PageClass::Slab => 2,
        _ => 3,
    }
}

/// The recipient of encrypted dumps.
pub(crate) const SECRET: SecretKey = [3; 32];

/// A world made from a plan.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) machine: &'static Machine,
    pub(crate) disks: Vec<Disk>,
}

/// A dump assembled from its stripes.
pub(crate) struct Whole {
    /// The disk of each stripe, and its dump.
    pub(crate) parts: Vec<(usize, Dump)>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> World {
        let disks: Vec<Disk> = (0..plan.disks.len())
            .map(|number| {
                let DiskPlan { blocks, .. } = plan.disks[number];
                let disk = Disk::formatted(FIRST + blocks + 9, FIRST, blocks, &uuid(number), plan.seed);
                if plan.disks[number].encrypted {
                    disk.demand_encryption(FIRST, &public_key(&SECRET));
                }
                if let Some((block, bit)) = plan.disks[number].spoilt {
                    let at = (FIRST + block % blocks) as usize * BLOCK_SIZE + bit / 8;
                    disk.change(|bytes| bytes[at] ^= 1 << (bit % 8));
                }
                disk
            })
            .collect();
        let machine = Machine::new(ram(), ARENA, &disks[0]);
        disks.iter().skip(1).for_each(|disk| machine.add_disk(disk));
        let pfns = pfns();
        for (place, content) in &plan.contents {
            let pfn = pfns[place % pfns.len()];
            match content {
                Content::Random => machine.fill_page(pfn, plan.seed),
                Content::Packable => machine.fill_page_packable(pfn, plan.seed),
                Content::Unreadable => machine.make_unreadable(pfn),
                Content::Faulty if plan.guard => machine.make_faulty(pfn),
                Content::Faulty => (),
                Content::Restless => machine.make_restless(pfn),
            }
        }
        for (places, class) in &plan.classes {
            for place in places.clone() {
                let pfn = pfns[place % pfns.len()];
                machine.set_class(pfn..pfn + 1, *class);
            }
        }
        if let Some(longest) = plan.longest_class_run {
            machine.set_longest_class_run(longest);
        }
        if plan.guard {
            machine.set_guard();
        }
        if plan.one_window {
            machine.set_one_window();
        }
        machine.set_helpers(&plan.helpers);
        if !plan.helper_stacks {
            machine.deny_helper_stacks();
        }
        if let Some(every) = plan.still {
            machine.make_still(every);
        }
        if plan.silent {
            let mut cpus = vec![Some(dumpcore::Registers::ZERO); plan.helpers.len() + 1];
            cpus.push(None);
            machine.set_cpus(cpus);
        }
        machine.set_tick(plan.tick);
        machine.set_fault(plan.fault);
        machine.set_entropy(plan.seed);
        for (disk, plan) in disks.iter().zip(&plan.disks) {
            if plan.risky {
                disk.set_risky();
            }
            if plan.write_back {
                disk.set_write_back();
            }
        }
        World { plan, machine, disks }
    }

    /// Arms, and sets the faults of the disks.
    pub(crate) fn arm(&self) -> Result<ArmReport, ArmError> {
        let targets: Vec<Target<'static>> = self
            .plan
            .disks
            .iter()
            .zip(&self.disks)
            .enumerate()
            .map(|(number, (plan, disk))| {
                Target::new(Box::leak(Box::new(disk.device(plan.depth))), FIRST, plan.blocks)
                    .uuid((!plan.exclusive).then_some(uuid(number)))
                    .recipient((plan.encrypted && !plan.exclusive).then_some(public_key(&SECRET)))
                    .ownership(if plan.exclusive { Ownership::Exclusive } else { Ownership::Shared })
            })
            .collect();
        let report =
            self.machine.dump().arm(self.machine, targets, self.machine.arena(), self.plan.config.clone())?;
        for (disk, plan) in self.disks.iter().zip(&self.plan.disks) {
            disk.set_fault(plan.fault);
        }
        Ok(report)
    }

    pub(crate) fn console(&self) -> String {
        self.machine.console_text()
    }

    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        self.disks.iter().map(Disk::bytes).collect()
    }

    /// The contents of a disk's partition.
    pub(crate) fn dumps_on(&self, disk: usize) -> Vec<Dump> {
        let bytes = self.disks[disk].bytes();
        let secret = self.plan.disks[disk].encrypted.then_some(&SECRET);
        reader::dumps(reader::partition(&bytes, FIRST, self.plan.disks[disk].blocks), secret)
    }

    /// All dumps, with their stripes assembled, in the order of disks.
    pub(crate) fn dumps(&self) -> Vec<Whole> {
        let mut wholes: Vec<Whole> = Vec::new();
        for disk in 0..self.disks.len() {
            for dump in self.dumps_on(disk) {
                let nonce = dump.front.nonce;
                let mine = |whole: &&mut Whole| {
                    let (_, first) = &whole.parts[0];
                    first.front.nonce == nonce && first.front.stripes.get() > 1
                };
                match wholes.iter_mut().find(mine) {
                    Some(whole) => whole.parts.push((disk, dump)),
                    None => wholes.push(Whole { parts: vec![(disk, dump)] }),
                }
            }
        }
        wholes
    }

    /// The expected record of a page, and its bytes if predictable.
    fn truth(&self, pfn: u64) -> (RunKind, Option<Box<[u8; BLOCK_SIZE]>>) {
        let machine = self.machine;
        if machine.arena_pages().contains(&pfn) {
            return (RunKind::Arena, None);
        }
        if let Some(reason) = self.plan.config.level.leaves_out(machine.class_of(pfn)) {
            return (reason, None);
        }
        if machine.is_unreadable(pfn) {
            return (RunKind::Unreadable, None);
        }
        if machine.is_faulty(pfn) {
            return (RunKind::Faulted, None);
        }
        match machine.page_bytes(pfn) {
            Some(bytes) if bytes.iter().all(|byte| *byte == 0) => (RunKind::Zero, None),
            bytes => (RunKind::Data, bytes.map(Box::new)),
        }
    }

    /// A dump's contents are correct and in order; a complete one has everything.
    pub(crate) fn check(&self, whole: &Whole) {
        let pages = whole.pages();
        let ram = pfns();
        for (pfn, page) in &pages {
            assert!(ram.binary_search(pfn).is_ok(), "page {pfn:#x} is no RAM");
            let (kind, bytes) = self.truth(*pfn);
            assert_eq!(page.kind, kind, "page {pfn:#x}, a page of {:?}", self.machine.class_of(*pfn));
            // Arena pages need not be listed.
            let class = if kind == RunKind::Arena { PageClass::Unknown } else { self.machine.class_of(*pfn) };
            assert_eq!(page.class, class, "page {pfn:#x}, which is {kind:?}");
            if let Some(found) = &page.bytes {
                let right = match &bytes {
                    Some(bytes) => found == bytes,
                    None => self.machine.is_restless_version(*pfn, found),
                };
                assert!(right, "page {pfn:#x} is not what was in memory");
                let pass = pass_of(self.machine.class_of(*pfn));
                assert_eq!(page.pass, pass, "page {pfn:#x} of {:?}", self.machine.class_of(*pfn));
            }
        }
        whole.check_order();
        if whole.is_whole() {
            for pfn in &ram {
                assert!(pages.contains_key(pfn), "a whole dump says nothing of page {pfn:#x}");
            }
        }
        for (_, part) in &whole.parts {
            // The front header is closed when everything else is on the medium, unless a hanging request was
            // abandoned.
            let in_order = matches!(part.front.incomplete(), Incomplete::No | Incomplete::Full);
            if part.front.status() != Status::InProgress && in_order {
                assert!(part.is_closed(), "a header tells of what is not there\n{}", self.console());
            }
        }
        self.check_losses(whole, &pages);
        self.check_counts(whole, &pages);
    }

    /// Pages lost for lack of space or time are the least valuable.
    fn check_losses(&self, whole: &Whole, pages: &BTreeMap<u64, Page>) {
        let front = &whole.parts[0].1.front;
        if !matches!(front.incomplete(), Incomplete::Full | Incomplete::Budget) {
            return;
        }
        let missing = pfns().into_iter().filter(|pfn| {
            !pages.contains_key(pfn) && matches!(self.truth(*pfn).0, RunKind::Data | RunKind::Zero)
        });
        let first_missing = missing.map(|pfn| pass_of(self.machine.class_of(pfn))).min();
        let last_present = pages.values().filter(|page| page.bytes.is_some()).map(|page| page.pass).max();
        if let (Some(missing), Some(present)) = (first_missing, last_present) {
            assert!(present <= missing, "pass {missing} lacks a page, and there is one of pass {present}");
        }
    }

    /// The headers' counts match the chunks.
    fn check_counts(&self, whole: &Whole, pages: &BTreeMap<u64, Page>) {
        if whole.parts.iter().any(|(_, part)| part.front.status() == Status::InProgress) {
            return;
        }
        let front = &whole.parts[0].1.front;
        assert_eq!(front.total_pages.get(), pfns().len() as u64);
        if !whole.is_whole() {
            return;
        }
        for kind in RunKind::ALL {
            let count = pages.values().filter(|page| page.kind == kind).count() as u64;
            let told = front.metrics.pages[kind as usize - 1].get();
            assert_eq!(told, count, "pages of {kind:?} in the header's metrics");
        }
        let count =
            |kinds: &[RunKind]| pages.values().filter(|page| kinds.contains(&page.kind)).count() as u64;
        assert_eq!(front.data_pages.get(), count(&[RunKind::Data]));
        assert_eq!(front.zero_pages.get(), count(&[RunKind::Zero]));
        assert_eq!(front.unreadable_pages.get(), count(&[RunKind::Unreadable, RunKind::Faulted]));
        let left_out = pages.values().filter(|page| page.kind.is_left_out()).count() as u64;
        assert_eq!(front.excluded_pages.get(), left_out);
    }

    /// Law 1: since `before`, only blocks that held their pattern were written, and only front headers were
    /// written twice.
    pub(crate) fn check_harm(&self, before: &[Vec<u8>]) {
        for (number, disk) in self.disks.iter().enumerate() {
            let blocks = self.plan.disks[number].blocks;
            let uuid = uuid(number);
            let mut state = before[number].clone();
            let mut fronts = BTreeSet::new();
            let mut written: BTreeMap<u64, Vec<_>> = BTreeMap::new();
            for (at, new) in disk.take_journal() {
                let slot = &mut state.as_chunks_mut::<BLOCK_SIZE>().0[at as usize];
                let inside = (FIRST + 1..FIRST + blocks).contains(&at);
                let free = inside && reader::is_pattern(slot, &uuid, at - FIRST);
                let again = fronts.contains(&at) && Kind::of(&new) == Some(Kind::Front);
                // A sample may miss a damaged block: that is the risk of its user.
                let spoilt = self.plan.disks[number].spoilt.map(|(block, _)| FIRST + block % blocks);
                let sampled =
                    matches!(self.plan.config.verify, Verify::Sample { .. }) && inside && spoilt == Some(at);
                assert!(free || again || sampled, "disk {number}: block {at} was not free to be written");
                if Kind::of(&new) == Some(Kind::Front) {
                    fronts.insert(at);
                }
                *slot = *new;
                written.entry(at).or_default().push(new);
            }
            let after = disk.bytes();
            let pairs = reader::blocks(&before[number]).iter().zip(reader::blocks(&after));
            for (at, (was, is)) in pairs.enumerate() {
                // A lost cache leaves the earlier contents, even if only a front header's first version.
                let known =
                    || written.get(&(at as u64)).is_some_and(|all| all.iter().any(|new| **new == *is));
                assert!(was == is || known(), "disk {number}: block {at} holds what nobody wrote");
            }
        }
    }

    /// Everything that must hold after any dump, whatever its outcome.
    pub(crate) fn check_after(&self, before: &[Vec<u8>], outcome: Outcome) {
        self.check_harm(before);
        let dumps = self.dumps();
        for whole in &dumps {
            self.check(whole);
        }
        match outcome {
            Outcome::Complete => {
                assert!(dumps.iter().any(Whole::is_whole), "a complete dump is whole\n{}", self.console());
            }
            Outcome::Refused(_) => {
                for (disk, before) in self.disks.iter().zip(before) {
                    assert!(&disk.bytes() == before, "refused, and yet something was written");
                }
            }
            _ => (),
        }
    }
}

impl Whole {
    pub(crate) fn header(&self) -> &Header {
        &self.parts[0].1.front
    }

    pub(crate) fn is_whole(&self) -> bool {
        let (_, first) = &self.parts[0];
        let stripes: BTreeSet<u32> = self.parts.iter().map(|(_, part)| part.front.stripe.get()).collect();
        self.parts.iter().all(|(_, part)| part.is_whole())
            && stripes.iter().copied().eq(0..first.front.stripes.get())
            && self.parts.len() == stripes.len()
    }

    pub(crate) fn pages(&self) -> BTreeMap<u64, Page> {
        reader::pages(self.parts.iter().flat_map(|(_, part)| &part.chunks))
    }

    /// Chunks are numbered without gaps, over all stripes in turn, notes first, then the passes in order.
    fn check_order(&self) {
        let stripes = self.header().stripes.get();
        let mut passes: BTreeMap<u64, u32> = BTreeMap::new();
        for (_, part) in &self.parts {
            assert_eq!(part.front.stripes.get(), stripes);
            for chunk in &part.chunks {
                let index = chunk.header.index.get();
                assert!(
                    passes.insert(index, chunk.header.pass.get()).is_none(),
                    "chunk {index} is there twice"
                );
            }
            let mine: Vec<u64> = part.chunks.iter().map(|chunk| chunk.header.index.get()).collect();
            assert!(mine.is_sorted(), "{mine:?}");
            assert!(part.chunks.iter().all(|chunk| chunk.header.is_encrypted() == part.front.is_encrypted()));
        }
        let order: Vec<u32> = passes.values().copied().collect();
        assert!(order.is_sorted(), "passes {order:?}");
        if self.is_whole() {
            assert!(passes.keys().copied().eq(0..passes.len() as u64), "a gap between chunks");
        }
    }
}

prop_compose! {
    fn contents()(
        picks in proptest::collection::vec((0..500_usize, 1..30_usize, prop_oneof![
            4 => Just(Content::Random),
            6 => Just(Content::Packable),
            1 => Just(Content::Unreadable),
            1 => Just(Content::Faulty),
            1 => Just(Content::Restless),
        ]), 0..14),
    ) -> BTreeMap<usize, Content> {
        let mut contents = BTreeMap::new();
        for (first, pages, content) in picks {
            // Few wrong ones, many of the others.
            let pages = if matches!(content, Content::Random | Content::Packable) { pages } else { pages / 8 + 1 };
            contents.extend((first..first + pages).map(|place| (place, content)));
        }
        contents
    }
}

pub(crate) fn page_classes() -> impl Strategy<Value = PageClass> {
    prop::sample::select(PageClass::ALL.to_vec())
}

fn classes() -> impl Strategy<Value = Vec<(Range<usize>, PageClass)>> {
    let class = (0..640_usize, 1..90_usize, page_classes());
    proptest::collection::vec(class.prop_map(|(first, pages, class)| (first..first + pages, class)), 0..16)
}

pub(crate) fn helpers() -> impl Strategy<Value = Vec<Helper>> {
    let helper = prop_oneof![
        3 => Just(Helper::Works),
        1 => Just(Helper::StaysAway),
        1 => (0..20 * MILLISECOND).prop_map(Helper::Late),
        2 => (0..90_u64).prop_map(Helper::Dies),
        2 => (0..90_u64, 0..2 * SECOND).prop_map(|(look, span)| Helper::Stalls { look, span }),
        1 => (0..90_u64).prop_map(Helper::Crashes),
    ];
    proptest::collection::vec(helper, 0..4)
}

pub(crate) fn verifies() -> impl Strategy<Value = Verify> {
    prop_oneof![
        Just(Verify::All),
        Just(Verify::Ahead),
        (0..70_u64).prop_map(|every| Verify::Sample { every }),
    ]
}

prop_compose! {
    /// A way to dump.
    pub(crate) fn configs()(
        verify in verifies(),
        level in 0..64_u32,
        any_level: bool,
        units: bool,
        helpers in 0..5_usize,
        patience in prop_oneof![Just(SECOND / 2), MILLISECOND..20 * MILLISECOND],
        (allow_risky, stripe) in any::<(bool, bool)>(),
        log_tail in prop_oneof![Just(0), Just(10_000_u64)],
    ) -> Way {
        Way(config().verify(verify).level(if any_level { Level::from_bits_truncate(level) } else { Level::ZERO }).encoding(if units { Encoding::Units } else { Encoding::Plain }).helpers(helpers).helper_patience(patience).allow_risky(allow_risky).stripe(stripe).log_tail(log_tail))
    }
}

prop_compose! {
    /// A disk without faults.
    pub(crate) fn good_disks(blocks: Range<u64>)(
        blocks in blocks,
        depth in 1..6_usize,
        (write_back, encrypted, exclusive) in any::<(bool, bool, bool)>(),
    ) -> DiskPlan {
        DiskPlan { blocks, depth, write_back, encrypted, exclusive, ..DiskPlan::default() }
    }
}

pub(crate) fn faults() -> impl Strategy<Value = DiskFault> {
    prop_oneof![
        2 => Just(DiskFault::None),
        2 => (0..200_u64, any::<bool>())
            .prop_map(|(after_blocks, torn)| DiskFault::PowerCut { after_blocks, torn }),
        1 => (0..30_u64).prop_map(DiskFault::ReadError),
        2 => (0..20_u64).prop_map(DiskFault::WriteError),
        1 => (0..40_u64).prop_map(DiskFault::Stuck),
        1 => (0..40_u64).prop_map(DiskFault::StuckOnce),
        1 => (0..40_u64).prop_map(DiskFault::Gone),
        1 => (0..40_u64).prop_map(DiskFault::WrongId),
        1 => Just(DiskFault::NoFlush),
        1 => Just(DiskFault::NoQuiesce),
        1 => Just(DiskFault::Unusable),
    ]
}

prop_compose! {
    /// A disk with any faults.
    pub(crate) fn any_disks()(
        disk in good_disks(20..800),
        fault in faults(),
        risky in prop::bool::weighted(0.2),
        spoilt in prop::option::weighted(0.2, (0..800_u64, 0..BLOCK_SIZE * 8)),
    ) -> DiskPlan {
        DiskPlan { fault, risky, spoilt, ..disk }
    }
}

prop_compose! {
    /// A machine, and a way to dump it.
    pub(crate) fn plans(disks: BoxedStrategy<Vec<DiskPlan>>)(
        (contents, classes) in (contents(), classes()),
        longest_class_run in prop::option::of(0..40_u64),
        (guard, one_window, silent) in (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)),
        still in prop::option::of(prop_oneof![Just(0_u64), 2..9_u64]),
        helpers in helpers(),
        Way(config) in configs(),
        disks in disks,
        seed: u64,
    ) -> Plan {
        Plan {
            contents,
            classes,
            longest_class_run,
            guard,
            one_window,
            still,
            helpers,
            helper_stacks: true,
            silent,
            tick: 20_000,
            fault: MachineFault::None,
            disks,
            config,
            seed,
        }
    }
}
