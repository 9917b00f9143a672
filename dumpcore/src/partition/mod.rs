//! The partitions that receive the dump: their labels, their pattern, and the only way to their blocks.
//!
//! A [`lane::Lane`] is one partition of one device. Usually a dump has one; a striped one has several, which share
//! the [pool](io) of buffers.

pub mod io;
pub mod lane;
pub mod place;
pub mod traffic;
pub mod verify;
pub mod window;
