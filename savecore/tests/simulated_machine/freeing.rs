//! The kernel stays armed while savecore marks and frees dumps. Whenever it crashes, and whichever of
//! savecore's writes have reached the disk by then, it writes its dump after what is there and harms nothing,
//! and the next harvest saves everything.

use std::io;

use dumpcore::Outcome;
use dumpcore::Verify;
use dumpcore::format::header::Status;
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::sim::{DiskFault, Numbers};
use savecore::dump::Dump;
use savecore::partition::{self, Found};
use savecore::source::Source;

use super::{Content, FIRST, Memory, UUIDS, Way, World, assert_all_is_freed};

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A partition that accepts no more writes after some moment. Of the writes that were not synced before it,
/// some sectors have arrived.
struct Cut {
    /// The durable contents.
    safe: Vec<u8>,
    /// The contents as read.
    seen: Vec<u8>,
    /// Blocks written since the last sync.
    under_way: Vec<(u64, Block)>,
    /// How many more blocks and syncs it accepts.
    left: usize,
}

impl Cut {
    fn new(image: &[u8], left: usize) -> Cut {
        Cut { safe: image.to_vec(), seen: image.to_vec(), under_way: Vec::new(), left }
    }

    fn step(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(())
    }

    /// The contents of the disk after the machine has crashed: blocks in any order, and torn ones.
    fn crashed(mut self, seed: u64) -> Vec<u8> {
        let mut numbers = Numbers::new(seed);
        for (number, block) in &self.under_way {
            let arrived = numbers.number();
            let place = &mut self.safe[*number as usize * BLOCK_SIZE..][..BLOCK_SIZE];
            let sectors = place.chunks_exact_mut(SECTOR).zip(block.chunks_exact(SECTOR));
            for (bit, (old, new)) in sectors.enumerate() {
                // All sectors of a block arrive, none, or some.
                if arrived & 0x300 == 0 || arrived & 0x300 != 0x100 && arrived >> bit & 1 == 1 {
                    old.copy_from_slice(new);
                }
            }
        }
        self.safe
    }
}

impl Source for Cut {
    fn blocks(&self) -> u64 {
        self.seen.blocks()
    }

    fn read(&self, first: u64, into: &mut [Block]) -> io::Result<()> {
        self.seen.read(first, into)
    }

    fn write(&mut self, first: u64, from: &[Block]) -> io::Result<()> {
        for (number, block) in (first..).zip(from) {
            self.step()?;
            self.seen.write(number, std::slice::from_ref(block))?;
            self.under_way.push((number, *block));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.step()?;
        self.safe.clone_from(&self.seen);
        self.under_way.clear();
        Ok(())
    }
}

/// A harvest's writes to its partition: all saved dumps are marked, then freed from last to first.
fn free(disk: &mut Cut, saved: &[Found]) -> Result<(), savecore::Error> {
    let marked = saved.iter().map(|found| partition::mark_saved(disk, found, None));
    let marked = marked.collect::<Result<Vec<Found>, _>>()?;
    for found in marked.iter().rev() {
        partition::clear(disk, &UUIDS[0], found, &mut ())?;
    }
    Ok(())
}

/// An armed machine, with `image` on its partition if given.
fn machine<'w>(memory: &'w Memory, way: &'w Way, image: Option<&[u8]>) -> World<'w> {
    let world = World::new(memory, way, 7);
    if let Some(image) = image {
        world.disks[0].change(|bytes| {
            bytes[FIRST as usize * BLOCK_SIZE..][..image.len()].copy_from_slice(image);
        });
    }
    world.arm();
    world
}

/// A partition with two dumps: the first is whole, the second is cut off if `is_cut`.
fn two_dumps(memory: &Memory, way: &Way, is_cut: bool) -> Vec<u8> {
    let world = machine(memory, way, None);
    assert_eq!(world.crash(), Outcome::Complete);
    let image = world.images().remove(0);
    let fault = if is_cut { DiskFault::PowerCut { after_blocks: 12, torn: true } } else { DiskFault::None };
    let way = Way { fault, ..way.clone() };
    let world = machine(memory, &way, Some(&image));
    assert_eq!(world.crash() == Outcome::Complete, !is_cut);
    world.images().remove(0)
}

#[test]
fn a_crash_at_any_moment_while_dumps_are_freed_is_dumped_and_harms_nothing() {
    let memory = Memory::plain(0x110, 0xa0..0xb0, Content::Random, None);
    let newer = Memory { seed: 99, ..memory.clone() };
    let way = Way { blocks: 300, ..Way::default() };
    let fresh = World::new(&memory, &way, 7).images().remove(0);
    let mut cuts = 0;
    for (kept, is_cut) in [(0, false), (1, false), (0, true)] {
        let image = two_dumps(&memory, &way, is_cut);
        let dumps = partition::scan(&image).unwrap().dumps;
        assert_eq!(dumps.len(), 2);
        let mut whole = Cut::new(&image, usize::MAX);
        free(&mut whole, &dumps[kept..]).unwrap();
        let steps = usize::MAX - whole.left;
        for left in 0..=steps {
            // The last steps run more often, because each of their blocks can be torn in several ways.
            for seed in 0..if left + 8 > steps { 16 } else { 1 } {
                let mut disk = Cut::new(&image, left);
                let ended = free(&mut disk, &dumps[kept..]);
                assert_eq!(ended.is_ok(), left == steps);
                let before = disk.crashed(seed * 1000 + left as u64);
                let verify = if seed % 2 == 0 { Verify::All } else { Verify::Ahead };
                let way = Way { verify, ..way.clone() };
                let world = machine(&newer, &way, Some(&before));
                let foreign = world.disks[0].bytes();
                let outcome = world.crash();
                let said = world.machine.console_text();
                assert_eq!(outcome, Outcome::Complete, "after {left} of {steps} steps, {seed}: {said}");

                // Nothing else was overwritten, and an unsaved dump is unchanged.
                let after = world.images().remove(0);
                let disk = world.disks[0].bytes();
                let (start, end) = (FIRST as usize * BLOCK_SIZE, (FIRST + way.blocks) as usize * BLOCK_SIZE);
                assert!(disk[..start] == foreign[..start] && disk[end..] == foreign[end..]);
                for found in &dumps[..kept] {
                    let bytes = found.first as usize * BLOCK_SIZE..found.end as usize * BLOCK_SIZE;
                    assert!(after[bytes.clone()] == image[bytes], "a dump that waits was changed");
                }

                // The next harvest saves the new dump whole and frees everything.
                let partition = partition::scan(&after).unwrap();
                let found = partition.waiting().last().unwrap();
                assert_eq!(found.header.status(), Status::Complete, "after {left} of {steps} steps, {seed}");
                let dump = Dump::open(&after, &partition, found);
                world.compare(&dump, true).unwrap();
                let overwritten = before[found.first as usize * BLOCK_SIZE..][..BLOCK_SIZE].to_vec();
                let place = found.first as usize * BLOCK_SIZE;
                assert!(
                    overwritten == fresh[place..place + BLOCK_SIZE],
                    "it went over a block that was not free"
                );
                for kept in &dumps[..kept] {
                    assert!(partition.waiting().any(|found| found.header.nonce == kept.header.nonce));
                }
                assert_all_is_freed(&after, &fresh);
                cuts += 1;
            }
        }
    }
    assert!(cuts > 300, "only {cuts} cuts");
}
