//! A dump's front and back header.
//!
//! The front header is written before anything else, with status [`Status::InProgress`], and the back header
//! after the last chunk. When all of that is on the medium, the front header is rewritten, now equal to the
//! back header except for magic and checksum. A dump whose two headers differ was not finished.

use static_assertions::{const_assert, const_assert_eq};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::Encoding;
use super::cipher::{Cipher, PublicKey, Tag};
use super::frame::{self, Kind, Malformed};
use super::integer::{U32, U64};
use super::metrics::Metrics;
use super::{BLOCK_SIZE, Block, Uuid, VERSION};

pub use super::class::PASSES;

/// How far a dump got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// The dump was begun. After a reboot, this means that the machine stopped in the middle.
    InProgress = 1,
    /// Everything selected was written and is on the medium.
    Complete = 2,
    /// The dump ended early but was closed properly; see [`Header::incomplete`].
    Incomplete = 3,
    /// Saved; its blocks are being overwritten with the pattern. Only `savecore` writes this.
    Saved = 4,
}

impl Status {
    /// The status with this number.
    pub fn from_number(number: u32) -> Option<Status> {
        [Status::InProgress, Status::Complete, Status::Incomplete, Status::Saved]
            .into_iter()
            .find(|status| *status as u32 == number)
    }
}

/// Why an incomplete dump ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum Incomplete {
    /// It did not end early: the dump is complete or in progress.
    No = 0,
    /// The partition was full.
    Full = 1,
    /// The time budget was spent.
    Budget = 2,
    /// The device reported an error or vanished.
    Device = 3,
    /// A block ahead of the writes did not hold its pattern.
    Pattern = 4,
}

impl Incomplete {
    /// The reason with this number.
    pub fn from_number(number: u32) -> Option<Incomplete> {
        [Incomplete::No, Incomplete::Full, Incomplete::Budget, Incomplete::Device, Incomplete::Pattern]
            .into_iter()
            .find(|reason| *reason as u32 == number)
    }

    /// The reason in words; `None` for [`Incomplete::No`].
    pub fn words(self) -> Option<&'static str> {
        match self {
            Incomplete::No => None,
            Incomplete::Full => Some("the partition was full"),
            Incomplete::Budget => Some("the time budget was spent"),
            Incomplete::Device => Some("the device failed"),
            Incomplete::Pattern => Some("a block ahead did not hold its pattern"),
        }
    }
}

/// Why the kernel called `crash()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum Trigger {
    /// The kernel panicked.
    Panic = 1,
    /// A processor fault that the kernel could not handle.
    Fault = 2,
    /// A person or program requested it.
    Request = 3,
    /// A watchdog fired.
    Watchdog = 4,
    /// A non-maskable interrupt: a person pressed the button, or the hardware reported an error.
    Nmi = 5,
    /// A fault that the kernel survived: it continues after the dump.
    Oops = 6,
}

impl Trigger {
    /// The trigger with this number.
    pub fn from_number(number: u32) -> Option<Trigger> {
        [Trigger::Panic, Trigger::Fault, Trigger::Request, Trigger::Watchdog, Trigger::Nmi, Trigger::Oops]
            .into_iter()
            .find(|trigger| *trigger as u32 == number)
    }
}

/// The processor architecture of the crashed kernel, as its ELF machine number (ELF gABI, e_machine).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Arch {
    /// EM_X86_64.
    X86_64 = 62,
    /// EM_AARCH64.
    Aarch64 = 183,
    /// EM_RISCV, 64 bits.
    Riscv64 = 243,
}

impl Arch {
    /// The architecture that this crate was compiled for; x86_64 on any other host.
    pub const fn current() -> Arch {
        if cfg!(target_arch = "aarch64") {
            Arch::Aarch64
        } else if cfg!(target_arch = "riscv64") {
            Arch::Riscv64
        } else {
            Arch::X86_64
        }
    }

    /// The architecture with this ELF machine number.
    pub fn from_number(number: u32) -> Option<Arch> {
        [Arch::X86_64, Arch::Aarch64, Arch::Riscv64].into_iter().find(|arch| *arch as u32 == number)
    }
}

/// The layout of a front or back header on disk.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// `DISKDMPF` in the front header, `DISKDMPB` in the back header.
    pub magic: [u8; 8],
    /// [`VERSION`], or an earlier one down to [`OLDEST_VERSION`](super::OLDEST_VERSION).
    pub version: U32,
    /// A [`Status`].
    pub status: U32,
    /// The label's uuid.
    pub uuid: Uuid,
    /// Unique among the dumps of the partition; repeated in each chunk.
    pub nonce: U64,
    /// Counts the dumps of the partition, from 1.
    pub sequence: U32,
    /// An [`Incomplete`].
    pub incomplete: U32,
    /// Number of the front header's block.
    pub first_block: U64,
    /// Number of the first block after the dump (after the back header); 0 while in progress.
    pub end_block: U64,
    /// Chunks in the dump; 0 while in progress.
    pub chunks: U64,
    /// Pages whose bytes are in the dump.
    pub data_pages: U64,
    /// Pages that held only zeros and take no space.
    pub zero_pages: U64,
    /// Pages left out on purpose: the dump's own arena, devices, and what the level excludes.
    pub excluded_pages: U64,
    /// Pages that the memory map calls RAM but that could not be read, or faulted.
    pub unreadable_pages: U64,
    /// Pages of RAM in the memory map, whatever happened to them.
    pub total_pages: U64,
    /// Wall clock at the crash, in seconds since 1970-01-01 UTC; 0 if unknown.
    pub wall_clock: U64,
    /// Nanoseconds from the kernel's boot to the crash; 0 if unknown.
    pub uptime: U64,
    /// Nanoseconds from `crash()` to this header.
    pub elapsed: U64,
    /// An [`Arch`].
    pub arch: U32,
    /// Number of CPUs of the platform.
    pub cpus: U32,
    /// The CPU that called `crash()`.
    pub crashing_cpu: U32,
    /// A [`Trigger`].
    pub trigger: U32,
    /// The most blocks in flight together: this many may be torn or missing at the end of an unfinished dump.
    pub window_blocks: U32,
    /// Bytes of `build_id` in use, at most 32.
    pub build_id_len: U32,
    /// The kernel's build id.
    pub build_id: [u8; 32],
    /// The kernel's name and release, UTF-8, padded with zeros.
    pub system: [u8; 128],
    /// The panic message, UTF-8, padded with zeros, truncated at a character boundary; the notes have all of
    /// it. Zeros in an encrypted dump, whose message is only in the notes.
    pub message: [u8; 1024],
    /// A [`Cipher`].
    pub cipher: U32,
    /// Number of the attempt since the key was made; part of the cipher's nonce.
    pub attempt: U32,
    /// The ephemeral public key of an encrypted dump.
    pub ephemeral: PublicKey,
    /// Index of this device among those that the dump is striped over, from 0.
    pub stripe: U32,
    /// Number of devices that the dump is striped over, at least 1. Their dumps have the same nonce.
    pub stripes: U32,
    /// The dump level, see [`level`](crate::memory::class::Level).
    pub level: U32,
    /// An [`Encoding`]: how memory is stored.
    pub encoding: U32,
    /// Measurements of the dump, as far as known at this time.
    pub metrics: Metrics,
    /// In a front header with [`Status::Saved`]: proves to the machine that saved the dump that it did.
    /// Otherwise zeros.
    pub proof: Proof,
    /// Zero.
    pub reserved: [u8; RESERVED],
    /// In the header of an encrypted dump: authenticates all bytes between the magic and this field.
    /// Otherwise zeros.
    pub tag: Tag,
    /// Zero.
    pub padding: U32,
    /// CRC-32 of all bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<Header>(), BLOCK_SIZE);

/// The bytes that a header's tag covers: from after the magic up to the tag.
pub const TAGGED: core::ops::Range<usize> = 8..frame::CRC_OFFSET - 4 - size_of::<Tag>();
const_assert!((TAGGED.end - TAGGED.start).is_multiple_of(16));
const_assert_eq!(core::mem::offset_of!(Header, tag), TAGGED.end);

/// A keyed checksum (HMAC-SHA256) of a header.
pub type Proof = [u8; 32];

/// The unused rest of the block.
const RESERVED: usize = BLOCK_SIZE - 1344 - 76 - size_of::<Metrics>() - size_of::<Proof>() - 4;

impl Header {
    /// An empty front header.
    pub fn new() -> Header {
        let mut header = Header::new_zeroed();
        header.clear();
        header
    }

    /// Empties the header in place (it is too large for a small stack).
    pub fn clear(&mut self) {
        self.zero();
        self.magic = Kind::Front.magic();
        self.version = VERSION.into();
        self.stripes = 1.into();
    }

    /// The header as a front ([`Kind::Front`]) or back ([`Kind::Back`]) block, with its checksum.
    pub fn to_block(&self, kind: Kind, block: &mut Block) {
        // Both have the size of a block, so this cannot fail.
        let _ = self.write_to(block.as_mut_slice());
        if let Some(magic) = block.first_chunk_mut::<8>() {
            *magic = kind.magic();
        }
        frame::set_checksum(block);
    }

    /// The header in a block that should be of `kind` ([`Kind::Front`] or [`Kind::Back`]).
    ///
    /// # Errors
    /// As for [`frame::check`]; also a field with a value that the format does not allow.
    pub fn parse(block: &Block, kind: Kind) -> Result<&Header, Malformed> {
        frame::check(block, kind)?;
        let header = Header::ref_from_bytes(block.as_slice())
            .map_err(|_| Malformed::Field { name: "header", value: 0 })?;
        let fields = [
            ("status", header.status.get(), Status::from_number(header.status.get()).is_some()),
            (
                "incomplete",
                header.incomplete.get(),
                Incomplete::from_number(header.incomplete.get()).is_some(),
            ),
            ("arch", header.arch.get(), Arch::from_number(header.arch.get()).is_some()),
            ("trigger", header.trigger.get(), Trigger::from_number(header.trigger.get()).is_some()),
            ("build_id_len", header.build_id_len.get(), header.build_id_len.get() <= 32),
            ("window_blocks", header.window_blocks.get(), header.window_blocks.get() > 0),
            ("cipher", header.cipher.get(), Cipher::from_number(header.cipher.get()).is_some()),
            ("encoding", header.encoding.get(), Encoding::from_number(header.encoding.get()).is_some()),
            ("stripe", header.stripe.get(), header.stripe.get() < header.stripes.get()),
        ];
        for (name, value, allowed) in fields {
            if !allowed {
                return Err(Malformed::Field { name, value: value.into() });
            }
        }
        if header.first_block.get() == 0 {
            return Err(Malformed::Field { name: "first_block", value: 0 });
        }
        let end = header.end_block.get();
        if end != 0 && end < header.first_block.get().saturating_add(2) {
            return Err(Malformed::Field { name: "end_block", value: end });
        }
        Ok(header)
    }

    /// The status. [`Header::parse`] has checked that it is known.
    pub fn status(&self) -> Status {
        Status::from_number(self.status.get()).unwrap_or(Status::InProgress)
    }

    /// Why the dump ended early.
    pub fn incomplete(&self) -> Incomplete {
        Incomplete::from_number(self.incomplete.get()).unwrap_or(Incomplete::No)
    }

    /// The kernel's build id.
    pub fn build_id(&self) -> &[u8] {
        self.build_id.get(..self.build_id_len.get() as usize).unwrap_or_default()
    }

    /// The kernel's name and release.
    pub fn system(&self) -> &str {
        text(&self.system)
    }

    /// The panic message, truncated to the size of the field.
    pub fn message(&self) -> &str {
        text(&self.message)
    }

    /// Whether the dump is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.cipher.get() != Cipher::None as u32
    }

    /// Whether `self` and `other` are equal except for magic and checksum.
    pub fn agrees_with(&self, other: &Header) -> bool {
        self.as_bytes().get(8..frame::CRC_OFFSET) == other.as_bytes().get(8..frame::CRC_OFFSET)
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

/// Copies text into a zero-padded field, truncated at a character boundary if it does not fit.
pub fn put_text(field: &mut [u8], text: &str) {
    let mut length = text.len().min(field.len());
    // Each turn goes back one byte, and a text begins at a character boundary.
    while !text.is_char_boundary(length) {
        length = length.saturating_sub(1);
    }
    field.fill(0);
    for (slot, byte) in field.iter_mut().zip(text.as_bytes().iter().take(length)) {
        *slot = *byte;
    }
}

/// The text in a zero-padded field, up to the first byte that is not UTF-8.
pub fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let bytes = field.get(..end).unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            core::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
    }
}
