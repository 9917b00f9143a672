//! The controller's registers (3.1).

use dumpcore::platform::Nanoseconds;
use dumpcore::wait::MILLISECOND;

/// Capabilities, 64 bits.
pub(super) const CAP: usize = 0x00;
/// Version: major in bits 16 to 31, minor in 8 to 15. In 1.0 and 1.1 they have the same place.
pub(super) const VS: usize = 0x08;
/// Interrupt mask set, for interrupts by pin or MSI.
pub(super) const INTMS: usize = 0x0c;
/// Controller configuration.
pub(super) const CC: usize = 0x14;
/// Controller status.
pub(super) const CSTS: usize = 0x1c;
/// Sizes of the admin queues.
pub(super) const AQA: usize = 0x24;
/// Bus address of the admin submission queue, 64 bits.
pub(super) const ASQ: usize = 0x28;
/// Bus address of the admin completion queue, 64 bits.
pub(super) const ACQ: usize = 0x30;
/// Time limit for becoming ready (2.0, 3.1.4.21), if the capabilities report this register.
pub(super) const CRTO: usize = 0x68;
/// Offset of the doorbells, at the end of the registers (3.1.16).
pub(super) const DOORBELLS: usize = 0x1000;

/// Minimum versions for: the list of active namespaces.
pub(super) const LISTS_NAMESPACES: u32 = 0x0001_0100;
/// The duration of a shutdown.
pub(super) const TELLS_SHUTDOWN: u32 = 0x0001_0200;
/// The controller type, and write protection.
pub(super) const TELLS_KIND: u32 = 0x0001_0400;

/// Unit of the controller's time limits.
const TIME_UNIT: Nanoseconds = 500 * MILLISECOND;

/// The capabilities register (3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Capabilities(pub(super) u64);

impl Capabilities {
    fn field(self, from: u32, bits: u32) -> u32 {
        let mask = 1_u64.wrapping_shl(bits).wrapping_sub(1);
        (self.0.wrapping_shr(from) & mask) as u32
    }

    /// Maximum number of entries of an I/O queue, 1 to 65536 (MQES).
    pub(super) fn entries(self) -> u32 {
        self.field(0, 16).saturating_add(1)
    }

    /// Time limit of a reset or a start (TO), plus one unit: some take a little longer than they report, or
    /// report 0. Other drivers grant at least as much.
    pub(super) fn patience(self) -> Nanoseconds {
        TIME_UNIT.saturating_mul(u64::from(self.field(24, 8)).saturating_add(1))
    }

    /// Whether a separate register has the time limit of a start (CRMS of 2.0).
    pub(super) fn has_ready_timeout(self) -> bool {
        self.field(59, 1) != 0
    }

    /// Bytes between two doorbells: 4 to 128 KiB (DSTRD).
    pub(super) fn stride(self) -> usize {
        4_usize.wrapping_shl(self.field(32, 4))
    }

    /// Command sets, one bit each (CSS).
    pub(super) fn command_sets(self) -> u32 {
        self.field(37, 8)
    }

    /// The smallest memory page, as a power of two of 4096 bytes (MPSMIN).
    pub(super) fn least_page(self) -> u32 {
        self.field(48, 4)
    }
}

/// In CAP.CSS: the NVM command set.
pub(super) const SETS_NVM: u32 = 1 << 0;
/// In CAP.CSS: several command sets, one per namespace.
pub(super) const SETS_SEVERAL: u32 = 1 << 6;

/// Time limit of a start (CRTO.CRWMT).
pub(super) fn ready_timeout(crto: u32) -> Nanoseconds {
    TIME_UNIT.saturating_mul((crto & 0xffff).into())
}

/// CC: enable the controller.
pub(super) const CC_ENABLE: u32 = 1 << 0;
/// CC.CSS: all command sets of the controller.
pub(super) const CC_ALL_SETS: u32 = 6 << 4;
/// CC.SHN: its bits; a normal shutdown, with nothing in flight; and an abrupt one.
pub(super) const CC_SHUTDOWN: u32 = 3 << 14;
pub(super) const CC_SHUTDOWN_NORMAL: u32 = 1 << 14;
pub(super) const CC_SHUTDOWN_ABRUPT: u32 = 2 << 14;
/// CC.IOSQES and CC.IOCQES: entries of 64 and of 16 bytes.
pub(super) const CC_ENTRIES: u32 = 6 << 16 | 4 << 20;

bitflags::bitflags! {
    /// Controller status (3.1.6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Status: u32 {
        /// It accepts commands.
        const READY = 1 << 0;
        /// Fatal error, until a reset.
        const FATAL = 1 << 1;
        /// Shutdown, lower bit: in progress.
        const SHUTTING_DOWN = 1 << 2;
        /// Shutdown, upper bit: complete.
        const SHUT_DOWN = 1 << 3;
        // Keep other bits for error messages.
        const _ = !0;
    }
}

/// Sizes of the admin queues, both the same, 2 to 4096.
pub(super) fn admin_sizes(entries: u16) -> u32 {
    let size = u32::from(entries.saturating_sub(1));
    size << 16 | size
}
