//! What the split ring costs: nanoseconds that the driver spends in it for a request, and what share that is
//! of the time in which the device moves the request's data.
//!
//! `cargo run --release -p dump-drivers --features _test-utils --example ring`
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use dump_drivers::bus::shared::Shared;
use dump_drivers::fake::{ClockPlatform, DmaMemory};
use dump_drivers::virtio::{Piece, QUEUE_ALIGN, QUEUE_BYTES, Queue};
use dumpcore::device::DeviceError;

const REQUESTS: u32 = 2_000_000;
/// Bytes in a request.
const REQUEST: u32 = 1 << 20;
/// Bytes that a fast disk takes in a second.
const RATE: f64 = 7e9;

/// Nanoseconds for a request of `pieces` pieces. They include the device's side, which is done here too.
fn measure(pieces: u16) -> Result<f64, Box<dyn std::error::Error>> {
    let memory = DmaMemory::leak(64 << 10);
    let platform = ClockPlatform::new(1);
    let room = memory.arena().dma(QUEUE_BYTES, QUEUE_ALIGN).map_err(DeviceError::from)?;
    let shared = Shared::new(room);
    let mut queue = Queue::new(shared);
    let size = 128;
    queue.start(size, pieces, &platform);
    let used = queue.used_ring();
    let piece = |at: u16| Piece {
        address: u64::from(at) << 20,
        length: REQUEST.div_ceil(pieces.into()),
        writable: at + 1 == pieces,
    };
    let begin = Instant::now();
    for count in 0..REQUESTS {
        let run = queue.free_chain().ok_or("a queue without room")?;
        black_box(queue.publish(run, (0..pieces).map(piece), &platform));
        let head = u64::from(run * pieces);
        let slot = used + 4 + u64::from(count % u32::from(size)) * 8;
        memory.write(slot, &(head | 1 << 32).to_le_bytes()).ok_or("no such memory")?;
        memory.write(used + 2, &(count as u16).wrapping_add(1).to_le_bytes()).ok_or("no such memory")?;
        black_box(queue.pop(&platform)?.ok_or("a request that is lost")?);
    }
    Ok(begin.elapsed().as_nanos() as f64 / f64::from(REQUESTS))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let moved = f64::from(REQUEST) / RATE * 1e9;
    for pieces in [3, 18] {
        let cost = measure(pieces)?;
        println!(
            "{pieces:2} descriptors: {cost:6.0} ns a request, {:.3} % of its time",
            cost / moved * 100.0
        );
    }
    Ok(())
}
