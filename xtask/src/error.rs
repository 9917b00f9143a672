//! The error that has an exit code of its own.

use std::fmt;

/// The task could not begin: a bad argument, or a missing tool. Exit code 2.
#[derive(Debug)]
pub(crate) struct CannotBegin(pub(crate) String);

impl fmt::Display for CannotBegin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for CannotBegin {}
