//! File names common to all crashes.

/// The kernel's log.
pub(super) const LOG: &str = "dmesg.txt";

/// Backtraces of each CPU.
pub(super) const BACKTRACE: &str = "backtrace.txt";

/// A page for people.
pub(super) const REPORT: &str = "report.html";
