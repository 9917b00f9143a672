//! A small dump without a kernel, to test the way of a real one: onto a partition, into a store, into a core.

use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Encoding, Run, RunKind};
use dumpcore::format::class::PageClass;
use dumpcore::format::frame::{self, Kind};
use dumpcore::format::header::{Arch, Header, Status, Trigger, put_text};
use dumpcore::format::note::{MemoryRange, NoteKind, RangeKind};
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};
use zerocopy::IntoBytes;

use crate::Error;
use crate::source::{Source, describe_block};

/// The message in place of a kernel's panic message.
pub const MESSAGE: &str = "no crash: this is a rehearsal by savecore drill";

/// Number of pages in it, and the start of its memory.
const PAGES: u64 = 64;
const FIRST_PAGE: u64 = 256;

/// Size of the dump in blocks: two headers, two chunk headers, a block of notes, and the pages.
pub const BLOCKS: u64 = PAGES + 5;

/// The pages of the dump with this nonce, by physical address in bytes.
pub fn pages(nonce: u64) -> impl Iterator<Item = (u64, Block)> {
    (FIRST_PAGE..FIRST_PAGE + PAGES).map(move |pfn| {
        let mut page = [0; BLOCK_SIZE];
        // Contents that exist only in this dump.
        pattern::fill(&mut page, &u128::from(nonce).to_le_bytes(), pfn);
        (pfn * BLOCK_SIZE as u64, page)
    })
}

/// Writes the dump from block `first` on, as a kernel does: only to blocks that hold their pattern. The front
/// header comes last, so that an interrupted run leaves damage that a check finds, and not a dump.
///
/// # Errors
/// [`Error::Foreign`] if a block there does not hold its pattern, before anything is written; errors of the
/// medium.
pub fn write(
    source: &mut dyn Source,
    uuid: &Uuid,
    first: u64,
    arch: Arch,
    nonce: u64,
    now: u64,
) -> Result<(), Error> {
    let blocks = blocks(uuid, first, arch, nonce, now);
    let mut held = vec![[0; BLOCK_SIZE]; blocks.len()];
    source.read(first, &mut held).map_err(|error| Error::Read { block: first, error })?;
    for (block, number) in held.iter().zip(first..) {
        if !pattern::matches(block, uuid, number) {
            return Err(Error::Foreign { block: number, holds: describe_block(block) });
        }
    }
    let failed = |block| move |error| Error::Write { block, error };
    source.write(first + 1, &blocks[1..]).map_err(failed(first + 1))?;
    source.sync().map_err(Error::Sync)?;
    source.write(first, &blocks[..1]).map_err(failed(first))?;
    source.sync().map_err(Error::Sync)
}

fn blocks(uuid: &Uuid, first: u64, arch: Arch, nonce: u64, now: u64) -> Vec<Block> {
    let mut notes = Vec::new();
    let range = MemoryRange {
        start: (FIRST_PAGE * BLOCK_SIZE as u64).into(),
        end: ((FIRST_PAGE + PAGES) * BLOCK_SIZE as u64).into(),
        kind: (RangeKind::Ram as u32).into(),
        reserved: 0.into(),
    };
    note(&mut notes, NoteKind::MemoryRange, &[range.as_bytes()]);
    note(&mut notes, NoteKind::Message, &[&0_u64.to_le_bytes(), MESSAGE.as_bytes()]);
    note(&mut notes, NoteKind::System, &[b"savecore drill"]);
    note(&mut notes, NoteKind::Machine, &[&(arch as u32).to_le_bytes()]);
    let mut page = [0; BLOCK_SIZE];
    page[..notes.len()].copy_from_slice(&notes);
    let run = Run {
        pfn: FIRST_PAGE.into(),
        count: (PAGES as u32).into(),
        kind: (RunKind::Data as u16).into(),
        class: (PageClass::Unknown as u16).into(),
    };
    let memory: Vec<Block> = pages(nonce).map(|(_, page)| page).collect();
    let mut blocks = vec![[0; BLOCK_SIZE]];
    chunk(&mut blocks, first, nonce, ChunkKind::Notes, &[], &[page], notes.len());
    chunk(&mut blocks, first, nonce, ChunkKind::Memory, &[run], &memory, memory.len() * BLOCK_SIZE);

    let mut header = Header::new();
    header.status = (Status::Complete as u32).into();
    header.uuid = *uuid;
    header.nonce = nonce.into();
    header.sequence = 1.into();
    header.first_block = first.into();
    header.end_block = (first + BLOCKS).into();
    header.chunks = 2.into();
    header.data_pages = PAGES.into();
    header.total_pages = PAGES.into();
    header.wall_clock = now.into();
    header.arch = (arch as u32).into();
    header.cpus = 1.into();
    header.trigger = (Trigger::Request as u32).into();
    header.window_blocks = 1.into();
    header.encoding = (Encoding::Plain as u32).into();
    put_text(&mut header.system, "savecore drill");
    put_text(&mut header.message, MESSAGE);
    let mut back = [0; BLOCK_SIZE];
    header.to_block(Kind::Back, &mut back);
    blocks.push(back);
    header.to_block(Kind::Front, &mut blocks[0]);
    blocks
}

/// Appends a chunk to the blocks of a dump that starts at `first`.
fn chunk(
    blocks: &mut Vec<Block>,
    first: u64,
    nonce: u64,
    kind: ChunkKind,
    runs: &[Run],
    payload: &[Block],
    bytes: usize,
) {
    let at = first + blocks.len() as u64;
    let mut header = ChunkHeader::new();
    header.kind = (kind as u32).into();
    header.encoding = (Encoding::Plain as u32).into();
    header.nonce = nonce.into();
    header.index = (u64::from(kind != ChunkKind::Notes)).into();
    header.block = at.into();
    header.pass = 1.into();
    header.payload_blocks = (payload.len() as u32).into();
    header.payload_bytes = (bytes as u64).into();
    header.run_count = (runs.len() as u32).into();
    header.runs[..runs.len()].copy_from_slice(runs);
    for ((sum, block), number) in header.sums.iter_mut().zip(payload).zip(at + 1..) {
        *sum = block_sum(block, number).into();
    }
    let mut block = [0; BLOCK_SIZE];
    block.copy_from_slice(header.as_bytes());
    frame::set_checksum(&mut block);
    blocks.push(block);
    blocks.extend(payload);
}

fn note(notes: &mut Vec<u8>, kind: NoteKind, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    notes.extend((kind as u32).to_le_bytes());
    notes.extend((length as u32).to_le_bytes());
    notes.extend(parts.concat());
    notes.resize(notes.len().next_multiple_of(8), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::Dump;
    use crate::partition::{self, Plan, Verdict};

    fn disk(blocks: usize) -> Vec<u8> {
        let mut disk = vec![0; blocks * BLOCK_SIZE];
        let plan = Plan { uuid: [3; 16], name: String::new(), created: 0, recipient: None, machine: None };
        partition::format(&mut disk, &plan, &mut ()).unwrap();
        disk
    }

    #[test]
    fn it_is_a_whole_dump_with_all_of_its_pages_and_goes_without_a_trace() {
        let mut disk = disk(100);
        let before = disk.clone();
        write(&mut disk, &[3; 16], 1, Arch::Aarch64, 77, 5).unwrap();
        let check = partition::check(&disk, &mut ()).unwrap();
        assert_eq!(check.verdict, Verdict::Waiting);
        let found = check.partition.dumps[0].clone();
        assert_eq!(found.blocks(), BLOCKS);
        let dump = Dump::open(&disk, &check.partition, &found);
        assert!(dump.is_whole() && !dump.is_damaged());
        assert_eq!((dump.pages().data, dump.facts().message.as_str()), (PAGES, MESSAGE));
        partition::clear(&mut disk, &[3; 16], &found, &mut ()).unwrap();
        assert!(disk == before);
    }

    #[test]
    fn no_block_that_is_not_pattern_is_touched() {
        for at in 1..=BLOCKS as usize {
            let mut disk = disk(100);
            disk[at * BLOCK_SIZE + 9] ^= 1;
            let before = disk.clone();
            let error = write(&mut disk, &[3; 16], 1, Arch::X86_64, 77, 5).unwrap_err();
            assert!(matches!(error, Error::Foreign { block, .. } if block == at as u64), "{error}");
            assert!(disk == before);
        }
        assert!(write(&mut disk(BLOCKS as usize), &[3; 16], 1, Arch::X86_64, 77, 5).is_err(), "no room");
    }
}
