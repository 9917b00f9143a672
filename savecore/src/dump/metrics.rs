//! The metrics of a dump, from its header.

use std::collections::BTreeMap;

use dumpcore::format::chunk::RunKind;
use dumpcore::format::header::{PASSES, text};
use dumpcore::format::metrics::{Metrics, PHASES};
use serde::Serialize;
use zerocopy::IntoBytes;

/// The metrics of a dump.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MetricsReport {
    /// Its phases, in order.
    pub phases: Vec<PhaseReport>,
    /// Seconds from the crash until the device had written the dump's first block.
    pub first_write_seconds: f64,
    /// Its passes over memory, in order.
    pub passes: Vec<PassReport>,
    /// Numbers of pages by their fate when written; only nonzero ones.
    pub pages: BTreeMap<&'static str, u64>,
    /// Number of pattern blocks checked.
    pub checked_blocks: u64,
    /// Bytes of memory before compression.
    pub packed_from: u64,
    /// Bytes after compression.
    pub packed_to: u64,
    /// Ratio of the two; `None` without compression.
    pub compression: Option<f64>,
    /// Units of work.
    pub units: u64,
    /// Units done by helpers.
    pub units_by_helpers: u64,
    /// Units redone because their helper did not finish in time.
    pub units_redone: u64,
    /// Units that did not shrink.
    pub units_stored: u64,
    /// Number of helpers.
    pub helpers: u32,
    /// Helpers that did not finish their work.
    pub helpers_lost: u32,
    /// Maximum number of requests in flight.
    pub depth: u32,
    /// Number of buffers for them.
    pub buffers: u32,
    /// The device's place in the list of targets, from 0.
    pub target: u32,
    /// Number of targets tried before.
    pub refusals: u32,
    /// The first of them.
    pub refused: Vec<RefusalReport>,
}

/// A phase of a dump.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PhaseReport {
    /// Its purpose.
    pub name: &'static str,
    /// Its duration in seconds.
    pub seconds: f64,
}

/// A pass over memory.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PassReport {
    /// Its contents.
    pub name: &'static str,
    /// Number of pages that it covered.
    pub pages: u64,
    /// Bytes that it sent to the device.
    pub bytes: u64,
    /// Its duration in seconds.
    pub seconds: f64,
    /// Million bytes per second; `None` if it took no time.
    pub megabytes_per_second: Option<f64>,
}

/// A device that was tried before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RefusalReport {
    /// Its place in the list of targets, from 0.
    pub target: u32,
    /// Whether a dump was started on it.
    pub begun: bool,
    /// Why it has no complete dump.
    pub why: String,
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The name of a fate of pages.
fn kind_name(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Data => "data",
        RunKind::Zero => "zero",
        RunKind::Arena => "arena",
        RunKind::Unreadable => "unreadable",
        RunKind::Faulted => "faulted",
        RunKind::Cache => "cache",
        RunKind::CachePrivate => "cache_private",
        RunKind::User => "user",
        RunKind::Free => "free",
        RunKind::NotKernel => "not_kernel",
        RunKind::Device => "device",
    }
}

impl MetricsReport {
    /// The metrics of a header; `None` if it has none, as for a dump that was only started.
    pub(super) fn of(metrics: &Metrics) -> Option<MetricsReport> {
        if metrics.as_bytes().iter().all(|byte| *byte == 0) {
            return None;
        }
        let phases = PHASES.iter().zip(&metrics.phases);
        let passes = PASSES.iter().zip(&metrics.passes);
        let pages = RunKind::ALL.into_iter().zip(&metrics.pages);
        let (packed_from, packed_to) = (metrics.packed_from.get(), metrics.packed_to.get());
        Some(MetricsReport {
            phases: phases.map(|(name, time)| PhaseReport { name, seconds: seconds(time.get()) }).collect(),
            first_write_seconds: seconds(metrics.first_write.get()),
            passes: passes
                .map(|(name, pass)| {
                    let (bytes, time) = (pass.bytes.get(), pass.time.get());
                    PassReport {
                        name,
                        pages: pass.pages.get(),
                        bytes,
                        seconds: seconds(time),
                        megabytes_per_second: (time > 0).then(|| bytes as f64 * 1e3 / time as f64),
                    }
                })
                .collect(),
            pages: pages
                .filter(|(_, number)| number.get() > 0)
                .map(|(kind, number)| (kind_name(kind), number.get()))
                .collect(),
            checked_blocks: metrics.checked.get(),
            packed_from,
            packed_to,
            compression: (packed_to > 0).then(|| packed_from as f64 / packed_to as f64),
            units: metrics.units.get(),
            units_by_helpers: metrics.units_by_helpers.get(),
            units_redone: metrics.units_redone.get(),
            units_stored: metrics.units_stored.get(),
            helpers: metrics.helpers.get(),
            helpers_lost: metrics.helpers_lost.get(),
            depth: metrics.depth.get(),
            buffers: metrics.buffers.get(),
            target: metrics.target.get(),
            refusals: metrics.refusals.get(),
            refused: (metrics.refused.iter().take(metrics.refusals.get() as usize))
                .map(|refused| RefusalReport {
                    target: refused.target.get(),
                    begun: refused.begun.get() != 0,
                    why: text(&refused.why).to_owned(),
                })
                .collect(),
        })
    }
}
