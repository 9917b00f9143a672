//! NVM Express 1.0 and later (sections are those of NVM Express Base Specification 1.4): disks on PCI
//! Express.
//!
//! - `registers`: the controller's registers (3.1).
//! - `command`: entries of submission and completion queues (4.2, 4.6).
//! - `queue`: a queue pair (4.1).
//! - `controller`: reset, start, admin commands, shutdown (7.3, 7.6).
//! - [`disk`]: a namespace as a disk for dumps.

mod command;
mod controller;
pub mod disk;
mod queue;
mod registers;
