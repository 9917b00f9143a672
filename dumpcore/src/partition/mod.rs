//! The partitions that receive the dump: labels, pattern checks, and the only way to their blocks.
//!
//! A [`member::Member`] is one partition of one device. A dump usually has one member; a striped dump has
//! several, which share the [pool] of buffers.

pub mod find;
pub mod label;
pub mod member;
pub mod pool;
pub mod range;
pub mod scheduler;
pub mod transfer;
pub mod unfit;
pub mod verify;
pub mod window;
