//! A subcommand's finding, which is the exit code; and the result of printing it.

use std::io;

/// The exit codes of most subcommands, for their help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; check: ready, or whole dumps wait, or a whole copy
  1  negative result: check: no dump partition, damaged or unfinished; info, report, save, clear: no dump there;
     list: no dump partition; format, clear, adopt: declined
  2  error: bad arguments, an unusable target or key, a file that cannot be written; one line says which

TARGET is a block device, an image file, or a disk or its image. On a disk, --partition names the partition
by number, name or GUID; it is not needed if there is only one dump partition. - is a dump on standard input,
plain or compressed with zstd or gzip.";

/// A subcommand's finding, other than an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Done, no problems.
    Good,
    /// Done, and the answer is no.
    Negative,
    /// Some of it failed; the errors were printed.
    Failed,
    /// Some of it is left for later.
    Left,
}

impl Finding {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Finding::Good => 0,
            Finding::Negative => 1,
            Finding::Failed => 2,
            Finding::Left => 3,
        }
    }
}

/// The result of printing. Whether the output was read to the end does not change the finding, so a closed
/// pipe is not a failure, and the exit code is that of the finding.
pub(crate) fn printed(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// On one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
