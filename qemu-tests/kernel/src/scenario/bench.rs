//! The benchmarks: the driver without a dump, a dump, and the cost of its stages. Each prints one line:
//! `testkernel: bench name=NAME bytes=N ns=N`, and ` packed=N` bytes if pages are packed.

use core::hint::black_box;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;
use dumpcore::device::{Completion, Direction, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, PAGE_SIZE, Uuid, checksum, pattern};
use dumpcore::helpers::job::{OUT_BYTES, PackBuffers, UNIT_PAGES, Unit, Way};
use dumpcore::memory::class::ClassedPfn;
use dumpcore::memory::lz4;
use dumpcore::wait::{SECOND, Wait};
use dumpcore::{Arena, DumpDevice, PageClass};

use crate::arch::{clock, paging};
use crate::arm::Armed;
use crate::command_line::Options;
use crate::log::log;
use crate::scenario::fill::Filled;
use crate::{dump, memory, witness};

fn report(name: &str, bytes: u64, nanoseconds: u64) {
    log!("testkernel: bench name={name} bytes={bytes} ns={nanoseconds}");
}

/// Number of bytes that the timed dump has to write at least; 0 if none is timed.
static DUMP_BYTES: AtomicU64 = AtomicU64::new(0);

/// Times the next dump, which has to write at least `bytes`.
pub(crate) fn enable(bytes: u64) {
    DUMP_BYTES.store(bytes.max(1), Ordering::Relaxed);
}

/// Reports how long the dump took from the crash on, if requested.
pub(crate) fn report_dump(nanoseconds: u64) {
    let bytes = DUMP_BYTES.swap(0, Ordering::Relaxed);
    if bytes > 0 {
        report("dump", bytes, nanoseconds);
    }
}

/// The operation on the blocks of the dump partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Write them, which destroys their content.
    Write,
    /// Read them.
    Read,
    /// Read them and compare them with their pattern, as a dump does before writing.
    Verify,
}

/// Plain polled transfers over the dump partition, with as many requests in flight as the arena, the device
/// and `bench.depth=` allow, `bench.passes=` times. Ends with a flush, the last time with a shutdown.
pub(crate) fn transfer(armed: Armed, options: &Options, transfer: Transfer) -> Result<(), &'static str> {
    let (device, mut arena) = armed.disk.ok_or("there is no disk")?;
    let [disk, ..] = options.disks;
    let first = disk.first.ok_or("there is no disk.first=")?;
    let request = options.bench_request.min(device.max_transfer()) & !(BLOCK_SIZE - 1);
    let blocks_each = (request / BLOCK_SIZE) as u64;
    // The label is kept.
    if blocks_each == 0 || disk.blocks < 1 + blocks_each {
        return Err("bench.request= is less than a block, or more than the partition has");
    }
    let wait = Wait::new(dump::platform(), None, clock::now() + 600 * SECOND);
    device.quiesce(&wait).map_err(|_| "the disk could not be taken over")?;
    let label = arena.dma(BLOCK_SIZE, BLOCK_SIZE).map_err(|_| "the arena has no room for the label")?;
    let (label, read) = device.rw_block(Direction::Read, first, label, &wait);
    read.map_err(|_| "the label cannot be read")?;
    let label = label.as_ref().and_then(|buffer| Label::parse(buffer.blocks().first()?).ok());
    let uuid = label.ok_or("the partition has no label")?.uuid;
    let free = buffers(&mut arena, request, device.depth().min(options.bench_depth))?;
    let depth = free.len();

    log!("testkernel: request={request} depth={depth}");
    let name = match transfer {
        Transfer::Write => "plain",
        Transfer::Read => "reads",
        Transfer::Verify => "verify",
    };
    let mut transfers = Transfers { device, wait, transfer, first, uuid, free, flying: 0 };
    for pass in 1..=options.bench_passes {
        let begin = clock::now();
        let (mut done, mut block) = (0, 1);
        while done < options.bench_bytes {
            if block + blocks_each > disk.blocks {
                block = 1;
            }
            transfers.start(block)?;
            block += blocks_each;
            done += request as u64;
        }
        while transfers.flying > 0 {
            transfers.reap()?;
        }
        let Transfers { device, wait, .. } = &mut transfers;
        if pass == options.bench_passes {
            device.shutdown(wait).map_err(|_| "the disk could not be shut down")?;
        } else {
            device.flush(wait).map_err(|_| "the disk could not be flushed")?;
        }
        report(name, done, clock::now() - begin);
    }
    Ok(())
}

/// As many filled buffers as fit, up to `depth`.
fn buffers(arena: &mut Arena<'_>, request: usize, depth: usize) -> Result<Vec<DmaBuffer>, &'static str> {
    let mut free = Vec::new();
    while free.len() < depth
        && let Ok(mut buffer) = arena.dma(request, BLOCK_SIZE)
    {
        for (index, byte) in buffer.bytes_mut().iter_mut().enumerate() {
            *byte = index as u8;
        }
        free.push(buffer);
    }
    if free.is_empty() { Err("the arena has no room for one request") } else { Ok(free) }
}

/// Requests in flight, and free buffers.
struct Transfers<'a> {
    device: &'a mut dyn DumpDevice,
    wait: Wait<'a>,
    transfer: Transfer,
    /// The partition's first block on the disk.
    first: u64,
    uuid: Uuid,
    free: Vec<DmaBuffer>,
    flying: usize,
}

impl Transfers<'_> {
    /// Starts a request on the blocks of the partition from `block` on.
    fn start(&mut self, block: u64) -> Result<(), &'static str> {
        while self.free.is_empty() {
            self.reap()?;
        }
        let buffer = self.free.pop().ok_or("no buffer")?;
        let direction = if self.transfer == Transfer::Write { Direction::Write } else { Direction::Read };
        let id = u32::try_from(block).map_err(|_| "the partition is too large for a bench")?;
        let request = Request { id, direction, block: self.first + block, buffer, gather: None };
        match self.device.submit(request, &self.wait) {
            Ok(Some(done)) => self.take(done),
            Ok(None) => {
                self.flying += 1;
                Ok(())
            }
            Err(_) => Err("the disk did not accept a request"),
        }
    }

    /// Waits for one request to finish.
    fn reap(&mut self) -> Result<(), &'static str> {
        let Transfers { device, wait, .. } = self;
        let done = wait
            .until("a transfer", 10 * SECOND, || device.poll(wait).transpose())
            .map_err(|_| "a transfer did not finish")?
            .map_err(|_| "the disk failed")?;
        self.flying -= 1;
        self.take(done)
    }

    fn take(&mut self, done: Completion) -> Result<(), &'static str> {
        done.result.map_err(|_| "a transfer failed")?;
        if self.transfer == Transfer::Verify {
            let mut blocks = (u64::from(done.id)..).zip(done.buffer.blocks());
            if !blocks.all(|(number, block)| pattern::matches(block, &self.uuid, number)) {
                return Err("the partition is not full of its pattern");
            }
        }
        self.free.push(done.buffer);
        Ok(())
    }
}

/// LZ4 alone over the filled memory, in units of several sizes: the dump's own, and a library's for
/// comparison.
pub(crate) fn lz4(filled: &Filled) -> Result<(), &'static str> {
    let mut out = alloc::vec![0; lz4_flex::block::get_maximum_output_size(16 * PAGE_SIZE)];
    let mut table = Box::new(lz4::Table::new());
    for (pages, name) in [(1, "lz4-1"), (2, "lz4-2"), (4, "lz4-4"), (8, "lz4-8"), (15, "lz4-15")] {
        pack_each(filled, pages, name, |raw| {
            // A unit that does not shrink is stored uncompressed.
            lz4::compress(raw, &mut out[..raw.len() - 1], &mut table).unwrap_or(raw.len())
        })?;
    }
    for (pages, name) in [(8, "lz4-flex-8"), (16, "lz4-flex-16")] {
        pack_each(filled, pages, name, |raw| {
            lz4_flex::block::compress_into(raw, &mut out).map_or(raw.len(), |packed| packed.min(raw.len()))
        })?;
    }
    Ok(())
}

/// The dump's own packing, as each CPU does it: test for zeros, copy under the guard, compress.
pub(crate) fn pack(filled: &Filled) -> Result<(), &'static str> {
    let mut out = alloc::vec![0; OUT_BYTES];
    let mut staging = alloc::vec![[0; BLOCK_SIZE]; UNIT_PAGES];
    let mut table = Box::new(lz4::Table::new());
    let mut unit = Unit::new(&mut out);
    let mut pack_buffers = PackBuffers::new(&mut staging, Some(&mut table));
    pack_each(filled, UNIT_PAGES, "pack", |raw| {
        let first = ClassedPfn::new(paging::physical(raw.as_ptr()) / memory::FRAME, PageClass::User);
        let pages: [ClassedPfn; UNIT_PAGES] = core::array::from_fn(|page| first.behind(page as u64));
        unit.set(Way::Pack, &pages);
        unit.work(&mut pack_buffers, dump::platform());
        unit.packed().2.len()
    })
}

/// Times `pack` over the filled memory, in units of this many pages; `pack` returns the packed size of each.
fn pack_each(
    filled: &Filled,
    pages: usize,
    name: &str,
    mut pack: impl FnMut(&[u8]) -> usize,
) -> Result<(), &'static str> {
    let (mut bytes, mut packed) = (0, 0);
    let begin = clock::now();
    for piece in filled.pieces() {
        for unit in piece.chunks_exact(pages * PAGE_SIZE) {
            bytes += unit.len() as u64;
            packed += pack(unit) as u64;
        }
    }
    let nanoseconds = clock::now() - begin;
    if bytes == 0 {
        return Err("it needs a fill=");
    }
    log!("testkernel: bench name={name} bytes={bytes} ns={nanoseconds} packed={packed}");
    Ok(())
}

/// Checksums and copies over RAM, block by block as in a dump: first over zero pages, then over noise.
pub(crate) fn checksums(bytes: u64) -> Result<(), &'static str> {
    let frames = (bytes / BLOCK_SIZE as u64).max(1);
    let mut filled = Filled::default();
    // The class does not matter: there is no dump.
    if memory::take_many(frames, PageClass::User, |frame| filled.add(frame)) < frames {
        return Err("there is not so much free RAM");
    }
    let addresses = || filled.frames();
    for frame in addresses() {
        // SAFETY: the frame is ours, and in the direct map.
        unsafe { paging::direct(frame).write_bytes(0, BLOCK_SIZE) };
    }
    let measure = |name: &str, each: &mut dyn FnMut(&Block, u64)| {
        let begin = clock::now();
        for frame in addresses() {
            // SAFETY: the frame is ours, and is not written meanwhile.
            each(unsafe { &*paging::direct(frame).cast::<Block>() }, frame);
        }
        report(name, frames * BLOCK_SIZE as u64, clock::now() - begin);
    };
    measure("zero-scan", &mut |block, _| {
        black_box(is_zero(block));
    });
    for frame in addresses() {
        // SAFETY: the frame is ours.
        unsafe { witness::fill_page(frame) };
    }
    measure("crc32", &mut |block, _| {
        black_box(crc32fast::hash(block));
    });
    measure("sum64", &mut |block, position| {
        black_box(checksum::block_sum(block, position));
    });
    measure("sum64-version-3", &mut |block, position| {
        black_box(checksum::version3::block_sum(block, position));
    });
    measure("xxh64", &mut |block, position| {
        black_box(xxhash_rust::xxh64::xxh64(block, position));
    });
    measure("fletcher4", &mut |block, _| {
        black_box(fletcher4(block));
    });
    let mut copy = alloc::boxed::Box::new([0_u64; BLOCK_SIZE / 8]);
    measure("copy", &mut |block, _| {
        for (slot, word) in copy.iter_mut().zip(words(block)) {
            *slot = word;
        }
        black_box(&mut *copy);
    });
    measure("still-page", &mut |block, _| {
        // SAFETY: the frame is ours, and a frame is an aligned page.
        black_box(unsafe { dumpcore::memory::page::sum(NonNull::from(block).cast()) });
    });
    let mut stored = Box::new([0; BLOCK_SIZE]);
    let platform = dump::platform();
    measure("page", &mut |block, position| {
        let pfn = paging::physical(block.as_ptr()) / memory::FRAME;
        if dumpcore::memory::page::copied(platform, pfn, &mut stored).is_ok() {
            black_box(checksum::block_sum(&stored, position));
        }
    });
    Ok(())
}

fn words(block: &Block) -> impl Iterator<Item = u64> {
    block.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

fn is_zero(block: &Block) -> bool {
    words(block).fold(0, |any, word| any | word) == 0
}

/// ZFS's fletcher-4 over 32-bit words, with sums of 64 bits.
fn fletcher4(block: &Block) -> [u64; 4] {
    block.as_chunks::<4>().0.iter().fold([0; 4], |[a, b, c, d]: [u64; 4], bytes| {
        let a = a.wrapping_add(u32::from_le_bytes(*bytes).into());
        let b = b.wrapping_add(a);
        let c = c.wrapping_add(b);
        [a, b, c, d.wrapping_add(c)]
    })
}
