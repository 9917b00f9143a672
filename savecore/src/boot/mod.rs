//! What harvesting at boot needs besides harvesting: its configuration, targets that fail one by one, programs before and after,
//! and an end in time.

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
