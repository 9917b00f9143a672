//! What can go wrong, each as one line: what failed, on what, why, what to do.

use std::io;

use dumpcore::format::{OLDEST_VERSION, VERSION};

use crate::source::{Content, Holder};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A target could not be opened.
    #[error("cannot open {target}: {error}")]
    Open {
        /// Which.
        target: String,
        /// Why.
        error: io::Error,
    },
    /// A target is a directory, a character device or the like.
    #[error("{target} is neither a file nor a block device")]
    NotAFile {
        /// Which.
        target: String,
    },
    /// What comes through standard input cannot be used.
    #[error("standard input cannot be used: {why}")]
    StandardInput {
        /// Why, in a clause.
        why: String,
    },
    /// A target is mounted, used as swap, attached to a loop device, held open exclusively, or in use by another process.
    #[error("{target} is {user}: nothing was changed")]
    InUse {
        /// Which.
        target: String,
        /// By whom, in words that follow "is".
        user: String,
    },
    /// Another savecore works on the target.
    #[error("another savecore is working on {target}{}: try again when it is done", by(.holder.as_deref()))]
    Locked {
        /// Which.
        target: String,
        /// Who, if the system tells.
        holder: Option<Box<Holder>>,
    },
    /// A target on which something is to be cleared can only be read.
    #[error("{target} cannot be written: {error}")]
    ReadOnly {
        /// Which.
        target: String,
        /// Why.
        error: io::Error,
    },
    /// What is to be written is not what was read.
    #[error("{target} has changed since it was read, so nothing is written there: try again")]
    Changed {
        /// Which.
        target: String,
    },
    /// Something failed on one of several targets.
    #[error("{target}: {error}")]
    On {
        /// Which.
        target: String,
        /// What.
        error: Box<Error>,
    },
    /// A target was named twice.
    #[error("{target} was named twice: name each target once")]
    NamedTwice {
        /// Which.
        target: String,
    },
    /// An identity is not the one to which dumps are encrypted.
    #[error(
        "{file} does not open dump {sequence} on {target}: it has the key to {own}, but dumps there are encrypted to {recipient}"
    )]
    WrongIdentity {
        /// Where the identity came from.
        file: String,
        /// Which dump.
        sequence: u32,
        /// Where it is.
        target: String,
        /// The identity's public key.
        own: String,
        /// The one to which dumps are encrypted.
        recipient: String,
    },
    /// A disk's partition table is missing or bad.
    #[error("the partition table of {target} cannot be used: {why}")]
    PartitionTable {
        /// Which disk.
        target: String,
        /// Why.
        why: String,
    },
    /// A partition table can be read in two ways, which do not say the same.
    #[error(
        "the partition table of {target} can be read in two ways: {one}, {other}; say which with {options}"
    )]
    TwoReadings {
        /// Which disk or image.
        target: String,
        /// What it says in one of them.
        one: String,
        /// What it says in the other.
        other: String,
        /// What decides.
        options: &'static str,
    },
    /// The partition asked for is not there, or is not the only one of its name.
    #[error("{target} has {hits} partitions called \"{wanted}\", but one is needed; there are: {present}")]
    NoSuchPartition {
        /// Which disk.
        target: String,
        /// What was asked for.
        wanted: String,
        /// How many have that name.
        hits: usize,
        /// What there is.
        present: String,
    },
    /// A whole disk was given.
    #[error("{target} is a disk with partitions: say which with --partition; there are: {present}")]
    WhichPartition {
        /// Which disk.
        target: String,
        /// What there is.
        present: String,
    },
    /// A whole disk was given, and more than one of its partitions has a label.
    #[error("{target} has several dump partitions: say which with --partition; there are: {present}")]
    SeveralDumpPartitions {
        /// Which disk.
        target: String,
        /// The partitions with a label.
        present: String,
    },
    /// A partition does not start where a block starts.
    #[error("{target} starts at byte {start}, not at a multiple of 4096: no dump can go there")]
    Unaligned {
        /// Which.
        target: String,
        /// Where it starts on the disk.
        start: u64,
    },
    /// A partition is smaller than the smallest dump.
    #[error("{target} is too small for a dump: {bytes} bytes, at least 20480 are needed")]
    TooSmall {
        /// Which.
        target: String,
        /// Its size.
        bytes: u64,
    },
    /// There is no label.
    #[error("it is not a dump partition, it holds {holds}; `savecore format` makes it one")]
    Unformatted {
        /// What is there instead.
        holds: Content,
    },
    /// Something on the partition is of a version of the format that is not known here.
    #[error(
        "its {what} has format version {found}, but this savecore reads versions {OLDEST_VERSION} to {VERSION}: use the savecore that belongs to the kernel"
    )]
    Version {
        /// What.
        what: &'static str,
        /// Its version.
        found: u32,
    },
    /// The label is for a partition of another size.
    #[error(
        "its label is for {label} blocks, but it has {partition}: resized or partly copied; format it again"
    )]
    OtherSize {
        /// Blocks that the label says.
        label: u64,
        /// Blocks that there are.
        partition: u64,
    },
    /// A block could not be read.
    #[error("block {block} cannot be read: {error}")]
    Read {
        /// Which.
        block: u64,
        /// Why.
        error: io::Error,
    },
    /// A block that was to be written does not hold its pattern.
    #[error("block {block} holds {holds}, not its pattern: nothing was written")]
    Foreign {
        /// Which.
        block: u64,
        /// What it holds.
        holds: &'static str,
    },
    /// A dump to be freed is not where it was found.
    #[error("block {block} no longer holds the front of the dump: nothing was written; try again")]
    Replaced {
        /// Where the front was.
        block: u64,
    },
    /// A block could not be written.
    #[error("block {block} cannot be written: {error}")]
    Write {
        /// Which, or the first of several.
        block: u64,
        /// Why.
        error: io::Error,
    },
    /// The medium could not be made to keep what was written.
    #[error("cannot sync what was written: {0}")]
    Sync(io::Error),
    /// A block gave other bytes than a moment ago.
    #[error("block {block} was readable before but is not now; the dump was left in place")]
    Unsteady {
        /// Which.
        block: u64,
    },
    /// An encrypted dump was not opened.
    #[error("the dump is encrypted and was not decrypted: name its secret key with --identity")]
    Encrypted,
    /// This machine has too little memory to say where all pages of a dump are.
    #[error(
        "the dump is from a much larger machine: this one has too little memory to index {pages} of its pages; save it with --format raw, and make the core on a larger machine"
    )]
    NoMemory {
        /// Pages of which nothing is known.
        pages: u64,
    },
    /// A kernel's ELF file could not be used for backtraces.
    #[error("the kernel {kernel} cannot be used for backtraces: {why}")]
    Kernel {
        /// Which file.
        kernel: String,
        /// Why.
        why: String,
    },
    /// The core file could not be written.
    #[error("the core cannot be written: {0}")]
    Core(io::Error),
    /// The pages lie so far apart that no file can hold them.
    #[error("the dump claims {pages} pages, more than a file can hold")]
    TooLarge {
        /// How many.
        pages: u64,
    },
    /// There is so little in the dump, and so much memory that it speaks of, that the table of a compressed kdump would be most
    /// of it.
    #[error(
        "the dump claims {pages} pages, for each of which a compressed kdump needs 24 bytes, but holds only {blocks} blocks: save it as ELF, with --format elf"
    )]
    TooSparse {
        /// How many pages would be in the table.
        pages: u64,
        /// How many blocks the dump has on its partitions.
        blocks: u64,
    },
    /// Memory ends at an address for which a compressed kdump would have to be too large.
    #[error(
        "the dump claims memory up to {end:#x}, but a compressed kdump can only describe 256 TiB: save it as ELF, with --format elf"
    )]
    TooHigh {
        /// The first address after it.
        end: u64,
    },
}

/// Who it is, if that is known, in a clause.
fn by(holder: Option<&Holder>) -> String {
    holder.map_or(String::new(), |holder| format!(", {holder}"))
}
