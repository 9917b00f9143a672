//! The ferry, a controller that does not exist: one command at a time, registers in one BAR.

pub mod disk;
pub mod registers;
