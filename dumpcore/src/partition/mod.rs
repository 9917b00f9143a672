//! The partition that receives the dump: its label, its pattern, and the only way to its blocks.

pub mod io;
pub mod place;
pub mod verify;
pub mod window;
