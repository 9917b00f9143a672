//! Harvesting at boot, besides the harvest itself: configuration, targets that fail independently, hooks, and
//! a time limit.

pub mod config;
mod each;
mod faults;
pub mod hooks;
pub mod limit;
pub mod rehearsal;

pub use config::{Config, Faults};
pub use each::Opened;
pub use hooks::Hook;
pub use limit::Deadline;
