//! What harvesting at boot needs besides harvesting: its configuration, targets that fail one by one, programs before and after,
//! and an end in time.

pub mod config;
mod each;
mod faults;
pub mod hooks;
pub mod limit;
pub mod rehearsal;

pub use config::Config;
pub use each::Opened;
pub use faults::Faults;
pub use hooks::Hook;
pub use limit::Deadline;
