//! Names of the files of a crash that are the same for all.

/// The kernel's log.
pub(super) const LOG: &str = "dmesg.txt";

/// What each CPU was doing.
pub(super) const BACKTRACE: &str = "backtrace.txt";

/// A page for people.
pub(super) const REPORT: &str = "report.html";
