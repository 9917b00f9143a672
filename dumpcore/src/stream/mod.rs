//! From memory to blocks: select, encode, seal, queue.
//!
//! [`notes`] and [`pages`] select and encode into chunks; [`writer`] seals a chunk and queues it.

pub mod notes;
pub mod pages;
pub mod writer;
