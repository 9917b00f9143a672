//! The load for the normal driver: endless reads and writes of its own partition, as many at once as it
//! accepts.
//!
//! Every block that is written is filled with [`MARK`]s, so a block that was written once always reads the
//! same, whatever the order.

use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dumpcore::PageClass;
use dumpcore::format::BLOCK_SIZE;
use spin::Once;

use crate::arch::clock;
use crate::end::give_up;
use crate::{deferred, memory};

/// How long a request may take, in nanoseconds. Disks are throttled in this test.
pub(super) const REQUEST_TIMEOUT: u64 = 10_000_000_000;

/// The byte that is written.
const MARK: u8 = b'L';
/// Number of blocks in a request.
const BLOCKS: u64 = 8;
/// Number of requests in each direction before the crash may happen.
const WARM: u64 = 40;
/// How long they may take, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    /// Its number: below the driver's [`depth`](Disk::depth), and unique among requests in flight.
    pub(super) tag: usize,
    /// Direction: true for a write.
    pub(super) writes: bool,
    /// First block of 4096 bytes on the disk.
    pub(super) block: u64,
    /// Its memory: contiguous whole pages in the direct map. Belongs to the driver until it calls [`done`].
    pub(super) memory: NonNull<[u8]>,
}

/// A disk, as presented by its driver.
pub(super) trait Disk: Sync {
    /// The driver's name.
    fn name(&self) -> &'static str;

    /// Maximum number of requests in flight.
    fn depth(&self) -> usize;

    /// Starts a request. The driver calls [`done`] when it has completed: not from here, and without holding
    /// a lock.
    fn start(&self, transfer: Transfer) -> Result<(), &'static str>;
}

/// The partition to work on, in blocks of 4096 bytes.
pub(super) struct Place {
    /// The first one.
    pub(super) first: u64,
    /// Number of blocks.
    pub(super) blocks: u64,
}

/// Does one request after another.
struct Lane {
    writes: bool,
    memory: NonNull<[u8]>,
    /// The piece in flight.
    piece: AtomicU64,
    /// Whether that piece was written before.
    known: AtomicBool,
}

// SAFETY: only the holder of the lane's request accesses the memory: the device, and after that one tasklet.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

struct Traffic {
    disk: &'static dyn Disk,
    /// The partition's first block.
    first: u64,
    lanes: Vec<Lane>,
    /// For each piece of [`BLOCKS`]: whether it was written.
    written: Vec<AtomicBool>,
}

static TRAFFIC: Once<Traffic> = Once::new();
/// For reads and writes, like the next three: number of pieces begun.
static BEGUN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static IN_FLIGHT: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static DONE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Number of reads of pieces that had been written before.
static KNOWN: AtomicUsize = AtomicUsize::new(0);
/// The first error.
static WHY: Once<&'static str> = Once::new();

/// Fills the driver with requests.
pub(super) fn start(disk: &'static dyn Disk, place: Place) -> Result<(), &'static str> {
    let pieces = place.blocks / BLOCKS;
    if pieces == 0 {
        return Err("live.blocks= must say how many blocks may be written, at least 8");
    }
    let mut lanes = Vec::new();
    for number in 0..disk.depth() {
        let bytes = memory::take_bytes(BLOCKS as usize * BLOCK_SIZE, 1, PageClass::KernelData)
            .ok_or("no memory for the live driver's requests")?;
        let writes = number % 2 == 1;
        if writes {
            bytes.fill(MARK);
        }
        let memory = NonNull::from(bytes);
        lanes.push(Lane { writes, memory, piece: AtomicU64::new(0), known: AtomicBool::new(false) });
    }
    let written = (0..pieces).map(|_| AtomicBool::new(false)).collect();
    let traffic = TRAFFIC.call_once(|| Traffic { disk, first: place.first, lanes, written });
    (0..traffic.lanes.len()).try_for_each(|tag| traffic.go(tag))
}

impl Traffic {
    /// Starts the next request of a lane.
    fn go(&self, tag: usize) -> Result<(), &'static str> {
        let Some(lane) = self.lanes.get(tag) else { return Ok(()) };
        let way = usize::from(lane.writes);
        // A step unrelated to usual sizes, so that neighbouring pieces are seldom in flight together.
        let piece = BEGUN[way].fetch_add(1, Ordering::Relaxed) * 11 % self.written.len() as u64;
        lane.piece.store(piece, Ordering::Relaxed);
        lane.known.store(self.written[piece as usize].load(Ordering::Acquire), Ordering::Relaxed);
        IN_FLIGHT[way].fetch_add(1, Ordering::Relaxed);
        self.disk.start(Transfer {
            tag,
            writes: lane.writes,
            block: self.first + piece * BLOCKS,
            memory: lane.memory,
        })
    }

    fn ended(&self, tag: usize) -> Result<(), &'static str> {
        let Some(lane) = self.lanes.get(tag) else { return Err("a request ended that was never made") };
        let way = usize::from(lane.writes);
        IN_FLIGHT[way].fetch_sub(1, Ordering::Relaxed);
        DONE[way].fetch_add(1, Ordering::Relaxed);
        if lane.writes {
            self.written[lane.piece.load(Ordering::Relaxed) as usize].store(true, Ordering::Release);
        } else if lane.known.load(Ordering::Relaxed) {
            // SAFETY: the driver has returned the request, and the next one is not started yet.
            let bytes = unsafe { lane.memory.as_ref() };
            if bytes.iter().any(|byte| *byte != MARK) {
                return Err("a block was read that is not as it was written");
            }
            KNOWN.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Called by drivers, outside interrupt handlers, when a request has completed. Starts the next one.
pub(super) fn done(tag: usize, result: Result<(), &'static str>) {
    let Some(traffic) = TRAFFIC.get() else { return };
    if let Err(why) = result.and_then(|()| traffic.ended(tag)).and_then(|()| traffic.go(tag)) {
        WHY.call_once(|| why);
    }
}

/// What the boot CPU does while it waits.
pub(crate) fn keep_going() {
    deferred::run();
    if let Some(why) = WHY.get() {
        give_up(format_args!("live driver: {why}"));
    }
    core::hint::spin_loop();
}

/// Waits until enough requests are done and both reads and writes are in flight.
pub(super) fn warm_up() -> Result<(), &'static str> {
    let warm = || {
        let busy = IN_FLIGHT.iter().all(|count| count.load(Ordering::Relaxed) > 0);
        let done = DONE.iter().all(|count| count.load(Ordering::Relaxed) >= WARM);
        busy && done && KNOWN.load(Ordering::Relaxed) > 0
    };
    let waited = wait_for(PATIENCE, || warm() || WHY.get().is_some());
    match WHY.get() {
        Some(why) => Err(why),
        None if !waited => Err("the live driver does not get on with its work"),
        None => Ok(()),
    }
}

/// Polls a condition for at most `limit` nanoseconds, and runs deferred work meanwhile.
fn wait_for(limit: u64, mut look: impl FnMut() -> bool) -> bool {
    let deadline = clock::now() + limit;
    loop {
        deferred::run();
        if look() {
            return true;
        }
        if clock::now() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// The state of the load.
pub(super) struct Flight {
    /// The driver's name.
    pub(super) driver: &'static str,
    /// Reads and writes in flight.
    pub(super) in_flight: [u32; 2],
    /// Number of completed reads and writes.
    pub(super) done: [u64; 2],
}

/// The state of the load, if there is a live driver.
pub(super) fn flight() -> Option<Flight> {
    TRAFFIC.get().map(|traffic| Flight {
        driver: traffic.disk.name(),
        in_flight: IN_FLIGHT.each_ref().map(|count| count.load(Ordering::Relaxed)),
        done: DONE.each_ref().map(|count| count.load(Ordering::Relaxed)),
    })
}
