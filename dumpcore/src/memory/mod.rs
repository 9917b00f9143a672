//! Which memory is dumped: the RAM map as `arm()` takes it over, and one page's way into a buffer.

pub(crate) mod bytes;
pub mod class;
pub mod lz4;
pub mod map;
pub mod page;
