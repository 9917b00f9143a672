//! From memory to blocks: select, encode, encrypt, set checksums, queue.
//!
//! [`notes`] and [`pages`] select and encode into chunks; [`writer`] encrypts a chunk, sets its checksums and
//! queues it.

pub mod notes;
pub mod pages;
pub mod writer;
