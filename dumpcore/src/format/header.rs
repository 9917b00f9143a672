//! A dump's front and back header.
//!
//! The front header is written before anything else, with status [`Status::InProgress`]; the back header
//! after the last chunk; then, when the medium has all that, the front header once more, now equal to
//! the back one but for the magic and the checksum. A dump whose two headers differ was not finished.

use static_assertions::{const_assert, const_assert_eq};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::Encoding;
use super::cipher::{Cipher, PublicKey, Tag};
use super::frame::{self, Kind, Malformed};
use super::metrics::Metrics;
use super::{BLOCK_SIZE, Block, Uuid, VERSION};

pub use super::class::PASSES;

/// How far a dump got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// The dump was begun. Found after a reboot: the machine stopped in the middle.
    InProgress = 1,
    /// Everything selected was written, and the medium has it.
    Complete = 2,
    /// The dump ended early but in order: see [`Header::incomplete`].
    Incomplete = 3,
    /// Harvested; the pattern is being laid again over its blocks. Only `savecore` writes this.
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
    /// It did not: the dump is complete or in progress.
    No = 0,
    /// The partition was full.
    Full = 1,
    /// The time budget was spent.
    Budget = 2,
    /// The device reported an error or vanished.
    Device = 3,
    /// A block ahead did not hold its pattern.
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

/// What made the kernel call `crash()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[non_exhaustive]
pub enum Trigger {
    /// The kernel panicked.
    Panic = 1,
    /// A processor fault that the kernel could not handle.
    Fault = 2,
    /// A person or program asked for it.
    Request = 3,
    /// A watchdog bit.
    Watchdog = 4,
    /// A non-maskable interrupt: somebody pressed the button, or the hardware reports an error.
    Nmi = 5,
    /// A fault that the kernel survived: it goes on after the dump.
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

/// The processor architecture of the crashed kernel, by its ELF machine number (ELF gABI, e_machine).
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
    /// The architecture that this crate was compiled for; x86_64 on a host of another kind.
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
    /// `DISKDMPF` in front, `DISKDMPB` behind.
    pub magic: [u8; 8],
    /// [`VERSION`], or an earlier one down to [`OLDEST_VERSION`](super::OLDEST_VERSION).
    pub version: U32,
    /// A [`Status`].
    pub status: U32,
    /// The label's uuid.
    pub uuid: Uuid,
    /// This dump's own number, repeated in each of its chunks: no two dumps of a partition share it.
    pub nonce: U64,
    /// 1 for the first dump of the partition, counting up.
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
    /// Pages that held only zeros and take no room.
    pub zero_pages: U64,
    /// Pages left out on purpose: the dump's own arena, devices, and what the level excludes.
    pub excluded_pages: U64,
    /// Pages that the memory map calls RAM but that could not be read, or faulted.
    pub unreadable_pages: U64,
    /// Pages of RAM in the memory map, whatever became of them.
    pub total_pages: U64,
    /// Wall clock at the crash, seconds since 1970-01-01 UTC; 0 when unknown.
    pub wall_clock: U64,
    /// Nanoseconds from the boot of the kernel to the crash; 0 when unknown.
    pub uptime: U64,
    /// Nanoseconds from `crash()` to this header.
    pub elapsed: U64,
    /// An [`Arch`].
    pub arch: U32,
    /// CPUs that the platform has.
    pub cpus: U32,
    /// The CPU that called `crash()`.
    pub crashing_cpu: U32,
    /// A [`Trigger`].
    pub trigger: U32,
    /// Blocks that were in flight together, at most: so many may be torn or missing where an unfinished dump ends.
    pub window_blocks: U32,
    /// Bytes of `build_id` in use, at most 32.
    pub build_id_len: U32,
    /// The kernel's build id.
    pub build_id: [u8; 32],
    /// The kernel's name and release, UTF-8, padded with zeros.
    pub system: [u8; 128],
    /// The panic message, UTF-8, padded with zeros, cut at a character; whole in the notes. Zeros in a dump that is
    /// encrypted: there it stands in the notes alone.
    pub message: [u8; 1024],
    /// A [`Cipher`].
    pub cipher: U32,
    /// Number of the attempt to dump since the key was made; part of the cipher's nonce.
    pub attempt: U32,
    /// The ephemeral public key of an encrypted dump.
    pub ephemeral: PublicKey,
    /// Which of the devices that the dump is striped over this is, from 0.
    pub stripe: U32,
    /// How many devices the dump is striped over, at least 1. Their dumps have the same nonce.
    pub stripes: U32,
    /// The dump level, see [`level`](crate::memory::class::Level).
    pub level: U32,
    /// An [`Encoding`]: how memory was to be written.
    pub encoding: U32,
    /// What the dump took and met, as far as that is known by now.
    pub metrics: Metrics,
    /// In a front header that says [`Status::Saved`]: what proves to the machine that saved the dump that it did. Zeros in
    /// others.
    pub proof: Proof,
    /// Zero.
    pub reserved: [u8; RESERVED],
    /// Authenticates all bytes between magic and this of an encrypted dump's header; zeros in others.
    pub tag: Tag,
    /// Zero.
    pub padding: U32,
    /// CRC-32 of all bytes before.
    pub crc: U32,
}
const_assert_eq!(size_of::<Header>(), BLOCK_SIZE);

/// First byte that a header's tag covers, after the magic; and the tag itself.
pub const TAGGED: core::ops::Range<usize> = 8..frame::CRC_OFFSET - 4 - size_of::<Tag>();
const_assert!((TAGGED.end - TAGGED.start).is_multiple_of(16));
const_assert_eq!(core::mem::offset_of!(Header, tag), TAGGED.end);

/// A keyed checksum (HMAC-SHA256) of a header.
pub type Proof = [u8; 32];

/// What is left of the block.
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
        // Both have a block's size, so this cannot fail.
        let _ = self.write_to(block.as_mut_slice());
        if let Some(magic) = block.first_chunk_mut::<8>() {
            *magic = kind.magic();
        }
        frame::set_checksum(block);
    }

    /// The header in a block that should be of `kind` ([`Kind::Front`] or [`Kind::Back`]).
    ///
    /// # Errors
    /// What [`frame::check`] says, or a field with a value that no header may have.
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

    /// The status; [`Header::parse`] has made sure that it is one.
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

    /// The panic message, as far as it fits.
    pub fn message(&self) -> &str {
        text(&self.message)
    }

    /// Whether the dump is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.cipher.get() != Cipher::None as u32
    }

    /// Whether `self` and `other` say the same, whatever their magics and checksums.
    pub fn agrees_with(&self, other: &Header) -> bool {
        self.as_bytes().get(8..frame::CRC_OFFSET) == other.as_bytes().get(8..frame::CRC_OFFSET)
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

/// Copies text into a zero-padded field, cut at a character boundary where it does not fit.
pub fn put_text(field: &mut [u8], text: &str) {
    let mut length = text.len().min(field.len());
    // Each turn goes back by one byte, and a text begins with a whole character.
    while !text.is_char_boundary(length) {
        length = length.saturating_sub(1);
    }
    field.fill(0);
    for (slot, byte) in field.iter_mut().zip(text.as_bytes().iter().take(length)) {
        *slot = *byte;
    }
}

/// The text in a zero-padded field, as far as it is UTF-8.
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
