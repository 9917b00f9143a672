//! Errors, each as one line: what failed, on what, why, what to do.

use std::io;

use dumpcore::format::{OLDEST_VERSION, VERSION};

use crate::source::{Content, Holder};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A target could not be opened.
    #[error("cannot open {target}: {error}")]
    Open {
        /// The target.
        target: String,
        /// Why.
        error: io::Error,
    },
    /// A target is a directory, a character device or the like.
    #[error("{target} is neither a file nor a block device")]
    NotAFile {
        /// The target.
        target: String,
    },
    /// Standard input is unusable.
    #[error("standard input cannot be used: {why}")]
    StandardInput {
        /// Why, in a clause.
        why: String,
    },
    /// A target is mounted, used as swap, attached to a loop device, held open exclusively, or in use by
    /// another process.
    #[error("{target} is {user}: nothing was changed")]
    InUse {
        /// The target.
        target: String,
        /// By whom, in words that follow "is".
        user: String,
    },
    /// Another savecore is working on the target.
    #[error("another savecore is working on {target}{}: try again when it is done", by(.holder.as_deref()))]
    Locked {
        /// The target.
        target: String,
        /// The other process, if known.
        holder: Option<Box<Holder>>,
    },
    /// A target to be cleared is read-only.
    #[error("{target} cannot be written: {error}")]
    ReadOnly {
        /// The target.
        target: String,
        /// Why.
        error: io::Error,
    },
    /// The target to be written differs from the one that was read.
    #[error("{target} has changed since it was read, so nothing is written there: try again")]
    Changed {
        /// The target.
        target: String,
    },
    /// An operation failed on one of several targets.
    #[error("{target}: {error}")]
    On {
        /// The target.
        target: String,
        /// The error.
        error: Box<Error>,
    },
    /// A target was named twice.
    #[error("{target} was named twice: name each target once")]
    NamedTwice {
        /// The target.
        target: String,
    },
    /// An identity does not match the key that dumps are encrypted to.
    #[error(
        "{file} does not open dump {sequence} on {target}: it has the key to {own}, but dumps there are encrypted to {recipient}"
    )]
    WrongIdentity {
        /// The source of the identity.
        file: String,
        /// The dump's number.
        sequence: u32,
        /// The dump's target.
        target: String,
        /// The identity's public key.
        own: String,
        /// The public key that dumps are encrypted to.
        recipient: String,
    },
    /// A disk's partition table is missing or bad.
    #[error("the partition table of {target} cannot be used: {why}")]
    PartitionTable {
        /// The disk.
        target: String,
        /// Why.
        why: String,
    },
    /// A partition table has two different readings.
    #[error(
        "the partition table of {target} can be read in two ways: {one}, {other}; say which with {options}"
    )]
    TwoReadings {
        /// The disk or image.
        target: String,
        /// The first reading.
        one: String,
        /// The second reading.
        other: String,
        /// The options that decide.
        options: &'static str,
    },
    /// The requested partition is missing, or its name is not unique.
    #[error("{target} has {hits} partitions called \"{wanted}\", but one is needed; there are: {present}")]
    NoSuchPartition {
        /// The disk.
        target: String,
        /// The request.
        wanted: String,
        /// Number of partitions with that name.
        hits: usize,
        /// The partitions.
        present: String,
    },
    /// A whole disk was given.
    #[error("{target} is a disk with partitions: say which with --partition; there are: {present}")]
    WhichPartition {
        /// The disk.
        target: String,
        /// The partitions.
        present: String,
    },
    /// A whole disk was given, and more than one of its partitions has a label.
    #[error("{target} has several dump partitions: say which with --partition; there are: {present}")]
    SeveralDumpPartitions {
        /// The disk.
        target: String,
        /// The partitions with a label.
        present: String,
    },
    /// A partition is not aligned to blocks.
    #[error("{target} starts at byte {start}, not at a multiple of 4096: no dump can go there")]
    Unaligned {
        /// The partition.
        target: String,
        /// Its start on the disk.
        start: u64,
    },
    /// A partition is smaller than the smallest dump.
    #[error("{target} is too small for a dump: {bytes} bytes, at least 20480 are needed")]
    TooSmall {
        /// The partition.
        target: String,
        /// Its size.
        bytes: u64,
    },
    /// There is no label.
    #[error("it is not a dump partition, it holds {holds}; `savecore format` makes it one")]
    Unformatted {
        /// The partition's actual contents.
        holds: Content,
    },
    /// Something on the partition has an unknown version of the format.
    #[error(
        "its {what} has format version {found}, but this savecore reads versions {OLDEST_VERSION} to {VERSION}: use the savecore that belongs to the kernel"
    )]
    Version {
        /// The object.
        what: &'static str,
        /// Its version.
        found: u32,
    },
    /// The label is for a partition of a different size.
    #[error(
        "its label is for {label} blocks, but it has {partition}: resized or partly copied; format it again"
    )]
    OtherSize {
        /// Blocks according to the label.
        label: u64,
        /// Actual blocks.
        partition: u64,
    },
    /// A block could not be read.
    #[error("block {block} cannot be read: {error}")]
    Read {
        /// The block.
        block: u64,
        /// Why.
        error: io::Error,
    },
    /// A block to be written does not hold its pattern.
    #[error("block {block} holds {holds}, not its pattern: nothing was written")]
    Foreign {
        /// The block.
        block: u64,
        /// Its contents.
        holds: &'static str,
    },
    /// A dump to be freed has moved.
    #[error("block {block} no longer holds the front of the dump: nothing was written; try again")]
    Replaced {
        /// The block of its front.
        block: u64,
    },
    /// A block could not be written.
    #[error("block {block} cannot be written: {error}")]
    Write {
        /// The block, or the first of several.
        block: u64,
        /// Why.
        error: io::Error,
    },
    /// The medium failed to sync.
    #[error("cannot sync what was written: {0}")]
    Sync(io::Error),
    /// A block has changed since it was read.
    #[error("block {block} was readable before but is not now; the dump was left in place")]
    Unsteady {
        /// The block.
        block: u64,
    },
    /// An encrypted dump was not opened.
    #[error("the dump is encrypted and was not decrypted: name its secret key with --identity")]
    Encrypted,
    /// This machine has too little memory for the index of a dump's pages.
    #[error(
        "the dump is from a much larger machine: this one has too little memory to index {pages} of its pages; save it with --format raw, and make the core on a larger machine"
    )]
    NoMemory {
        /// Pages without an index entry.
        pages: u64,
    },
    /// A kernel's ELF file could not be used for backtraces.
    #[error("the kernel {kernel} cannot be used for backtraces: {why}")]
    Kernel {
        /// The file.
        kernel: String,
        /// Why.
        why: String,
    },
    /// The core file could not be written.
    #[error("the core cannot be written: {0}")]
    Core(io::Error),
    /// The pages are too scattered for a file.
    #[error("the dump claims {pages} pages, more than a file can hold")]
    TooLarge {
        /// Number of pages.
        pages: u64,
    },
    /// The dump is so small, and the memory that it mentions so large, that a compressed kdump would consist
    /// mostly of its table.
    #[error(
        "the dump claims {pages} pages, for each of which a compressed kdump needs 24 bytes, but holds only {blocks} blocks: save it as ELF, with --format elf"
    )]
    TooSparse {
        /// Number of pages in the table.
        pages: u64,
        /// Number of the dump's blocks on its partitions.
        blocks: u64,
    },
    /// The memory's end address would make a compressed kdump too large.
    #[error(
        "the dump claims memory up to {end:#x}, but a compressed kdump can only describe 256 TiB: save it as ELF, with --format elf"
    )]
    TooHigh {
        /// The end of memory.
        end: u64,
    },
}

/// The process, if known, in a clause.
fn by(holder: Option<&Holder>) -> String {
    holder.map_or(String::new(), |holder| format!(", {holder}"))
}
