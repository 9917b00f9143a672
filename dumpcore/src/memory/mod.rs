//! The memory to be dumped: the RAM map that `arm()` copies, and the handling of single pages.

pub(crate) mod bytes;
pub mod class;
pub mod lz4;
pub mod map;
pub mod page;
