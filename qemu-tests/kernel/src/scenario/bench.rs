//! The benches: the same driver without a dump, a dump, and what a checksum costs. One line each:
//! `testkernel: bench name=NAME bytes=N ns=N`.

use core::hint::black_box;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;
use dumpcore::device::{Completion, Direction, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::checksum;
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::wait::{SECOND, Wait};
use dumpcore::{Arena, DumpDevice};

use crate::arch::{clock, paging};
use crate::arm::Armed;
use crate::command_line::Options;
use crate::log::log;
use crate::{memory, platform, witness};

fn report(name: &str, bytes: u64, nanoseconds: u64) {
    log!("testkernel: bench name={name} bytes={bytes} ns={nanoseconds}");
}

/// Bytes that the timed dump was filled with; 0 if none is timed.
static DUMP_BYTES: AtomicU64 = AtomicU64::new(0);

/// From now on, a dump is timed; `bytes` is what it has to write at least.
pub(crate) fn enable(bytes: u64) {
    DUMP_BYTES.store(bytes.max(1), Ordering::Relaxed);
}

/// Says how long the dump took from the crash on, if that was asked for.
pub(crate) fn report_dump(nanoseconds: u64) {
    let bytes = DUMP_BYTES.swap(0, Ordering::Relaxed);
    if bytes > 0 {
        report("dump", bytes, nanoseconds);
    }
}

/// Plain polled writes over the dump partition, with as many requests in flight as the arena, the device and
/// `bench.depth=` allow, and a shutdown. Destroys what is there, so it needs a partition without a dump to lose.
pub(crate) fn plain(armed: Armed, options: &Options) -> Result<(), &'static str> {
    let (device, mut arena) = armed.disk.ok_or("there is no disk")?;
    let first = options.disk_first.ok_or("there is no disk.first=")?;
    let request = options.bench_request.min(device.max_transfer()) & !(BLOCK_SIZE - 1);
    // The label stays.
    let (first, blocks) = (first + 1, options.disk_blocks.saturating_sub(1));
    let blocks_each = (request / BLOCK_SIZE) as u64;
    if blocks_each == 0 || blocks < blocks_each {
        return Err("bench.request= is less than a block, or more than the partition has");
    }
    let wait = Wait::new(platform::get(), None, clock::now() + 600 * SECOND);
    device.quiesce(&wait).map_err(|_| "the disk could not be taken over")?;
    let mut free = buffers(&mut arena, request, device.depth().min(options.bench_depth))?;
    let depth = free.len();

    let begin = clock::now();
    let mut writer = Writer { device, wait, request, free: &mut free, flying: 0 };
    let mut written = 0;
    let mut block = 0;
    while written < options.bench_bytes {
        if block + blocks_each > blocks {
            block = 0;
        }
        writer.write(first + block)?;
        block += blocks_each;
        written += request as u64;
    }
    while writer.flying > 0 {
        writer.reap()?;
    }
    let Writer { device, wait, .. } = writer;
    device.shutdown(&wait).map_err(|_| "the disk could not be shut down")?;
    let nanoseconds = clock::now() - begin;
    log!("testkernel: request={request} depth={depth}");
    report("plain", written, nanoseconds);
    Ok(())
}

/// As many buffers as fit, up to `depth`, filled with something.
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

/// Requests in flight, and buffers for more.
struct Writer<'a> {
    device: &'a mut dyn DumpDevice,
    wait: Wait<'a>,
    request: usize,
    free: &'a mut Vec<DmaBuffer>,
    flying: usize,
}

impl Writer<'_> {
    fn write(&mut self, block: u64) -> Result<(), &'static str> {
        while self.free.is_empty() {
            self.reap()?;
        }
        let buffer = self.free.pop().ok_or("no buffer")?;
        let request = Request { id: 0, direction: Direction::Write, block, buffer, gather: None };
        match self.device.submit(request, &self.wait) {
            Ok(Some(done)) => self.take(done),
            Ok(None) => {
                self.flying += 1;
                Ok(())
            }
            Err(_) => Err("the disk did not accept a write"),
        }
    }

    /// Waits for one request.
    fn reap(&mut self) -> Result<(), &'static str> {
        let Writer { device, wait, .. } = self;
        let done = wait
            .until("a write", 10 * SECOND, || device.poll().transpose())
            .map_err(|_| "a write did not finish")?
            .map_err(|_| "the disk failed")?;
        self.flying -= 1;
        self.take(done)
    }

    fn take(&mut self, done: Completion) -> Result<(), &'static str> {
        done.result.map_err(|_| "a write failed")?;
        if done.buffer.len() != self.request {
            return Err("the driver gave another buffer back");
        }
        self.free.push(done.buffer);
        Ok(())
    }
}

/// Checksums and copies over RAM, block by block as a dump would: first over pages of zeros, then over noise.
pub(crate) fn checksums(bytes: u64) -> Result<(), &'static str> {
    let frames = (bytes / BLOCK_SIZE as u64).max(1);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let taken = memory::take_many(frames, |frame| match ranges.last_mut() {
        Some(last) if last.end == frame => last.end += BLOCK_SIZE as u64,
        _ => ranges.push(frame..frame + BLOCK_SIZE as u64),
    });
    if taken < frames {
        return Err("there is not so much free RAM");
    }
    let addresses = || ranges.iter().flat_map(|range| range.clone().step_by(BLOCK_SIZE));
    for frame in addresses() {
        // SAFETY: the frame is ours, and in the direct map.
        unsafe { paging::direct(frame).write_bytes(0, BLOCK_SIZE) };
    }
    let measure = |name: &str, each: &mut dyn FnMut(&Block, u64)| {
        let begin = clock::now();
        for frame in addresses() {
            // SAFETY: the frame is ours, and nobody writes to it meanwhile.
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
    measure("still-page", &mut |block, position| {
        // SAFETY: as below.
        black_box(unsafe { dumpcore::memory::page::sum(NonNull::from(block).cast(), position) });
    });
    let mut stored = alloc::boxed::Box::new([0; BLOCK_SIZE]);
    measure("page", &mut |block, position| {
        // SAFETY: the frame is ours, and a frame is an aligned page.
        black_box(unsafe {
            dumpcore::memory::page::copy(NonNull::from(block).cast(), &mut stored, position)
        });
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
