//! The contents of a dump partition: its label, the dumps one after another, and foreign blocks.

mod check;
mod found;
mod glance;
mod growth;
mod lay;
mod scan;

pub use check::{BadBlock, Check, Verdict, check, check_with};
pub(crate) use found::other_version;
pub use found::{Defect, Earlier, Ending, Found, MAX_DUMPS, OtherVersion, Partition};
pub use glance::{Glance, glance};
pub use growth::{Watch, growing};
pub use lay::{Plan, adopt, clear, format, mark_saved};
pub(crate) use scan::{Payload, chunk_at};
pub use scan::{Search, read_label, salvage, scan, scan_with, unmarked, waiting};
