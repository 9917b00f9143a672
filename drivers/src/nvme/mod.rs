//! NVM Express 1.0 and later (sections are those of NVM Express Base Specification 1.4): disks on PCI Express.
//!
//! - `registers`: what the controller shows and takes (3.1).
//! - `command`: what goes into a submission queue and comes back in a completion queue (4.2, 4.6).
//! - `queue`: a pair of such queues (4.1).
//! - `controller`: reset, start, admin commands, shutdown (7.3, 7.6).
//! - [`disk`]: a namespace that receives a dump.

mod command;
mod controller;
pub mod disk;
mod queue;
mod registers;
