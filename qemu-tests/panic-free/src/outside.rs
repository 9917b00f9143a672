//! A platform and a device with only the required methods, so that everything else is dumpcore's own code.

use core::hint::black_box;
use core::ptr::NonNull;

use dumpcore::device::{DeviceError, Direction, Geometry, Health};
use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, RamRange};
use dumpcore::wait::Wait;
use dumpcore::{DumpDevice, Platform, ResetPolicy};

/// The platform with the required methods only.
pub(crate) struct Least;

// SAFETY: it has no pages, code or stacks to promise anything about, and it never runs.
unsafe impl Platform for Least {
    fn now(&self) -> Nanoseconds {
        black_box(0)
    }

    fn console(&self, text: &str) {
        black_box(text);
    }

    fn ram(&self, visit: &mut dyn FnMut(RamRange)) {
        let _ = black_box(visit);
    }

    fn page(&self, pfn: u64) -> Option<NonNull<u8>> {
        let _ = black_box(pfn);
        black_box(None)
    }

    fn reset(&self, policy: ResetPolicy) {
        black_box(policy);
    }
}

/// A device that does one block at a time.
pub(crate) struct Slowest;

// SAFETY: buffers are returned at once, and nothing is accessed.
unsafe impl DumpDevice for Slowest {
    fn name(&self) -> &str {
        black_box("")
    }

    fn geometry(&self) -> Option<Geometry> {
        black_box(Some(Geometry { blocks: 0 }))
    }

    fn integrity(&self, digest: &mut Digest) {
        black_box(digest);
    }

    fn sanity_check(&mut self, wait: &Wait<'_>) -> Health {
        black_box(wait);
        black_box(Health::Healthy)
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        black_box(wait);
        black_box(Ok(()))
    }

    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        black_box((direction, block, wait));
        #[cfg(feature = "control")]
        black_box(buffer.bytes()[black_box(block) as usize]);
        (Some(buffer), black_box(Ok(())))
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        black_box(wait);
        black_box(Ok(()))
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        black_box(wait);
        black_box(Ok(()))
    }
}
