//! Registers of an HBA (AHCI 1.3.1, 3), all in BAR 5. 32 bits each.

/// The BAR with the registers.
pub const BAR: u8 = 5;

/// Capabilities (3.1.1).
pub const CAP: usize = 0x00;
/// Global control (3.1.2).
pub const GHC: usize = 0x04;
/// Ports with an interrupt pending (3.1.3).
pub const IS: usize = 0x08;
/// Implemented ports, one bit each (3.1.4).
pub const PI: usize = 0x0c;
/// Extended capabilities (3.1.10).
pub const CAP2: usize = 0x24;
/// Hand-off from the BIOS to the operating system (3.1.11).
pub const BOHC: usize = 0x28;
/// Bytes of generic registers, before those of the ports.
pub const GENERIC_BYTES: usize = 0x100;

/// Bytes of registers per port (3.3).
pub const PORT_BYTES: usize = 0x80;
/// Maximum number of ports.
pub const PORTS: u8 = 32;

/// Offsets of a port's registers (3.3).
pub mod port {
    /// Command list base address, lower half.
    pub const CLB: usize = 0x00;
    /// The upper half.
    pub const CLBU: usize = 0x04;
    /// FIS base address, lower half.
    pub const FB: usize = 0x08;
    /// The upper half.
    pub const FBU: usize = 0x0c;
    /// Interrupt status: events; write 1 to clear.
    pub const IS: usize = 0x10;
    /// Interrupt enable.
    pub const IE: usize = 0x14;
    /// Command and status.
    pub const CMD: usize = 0x18;
    /// Task file data: the disk's status and error registers.
    pub const TFD: usize = 0x20;
    /// Signature of the device.
    pub const SIG: usize = 0x24;
    /// Link status.
    pub const SSTS: usize = 0x28;
    /// Link control.
    pub const SCTL: usize = 0x2c;
    /// Link errors; write 1 to clear.
    pub const SERR: usize = 0x30;
    /// Queued commands in flight.
    pub const SACT: usize = 0x34;
    /// Issued commands.
    pub const CI: usize = 0x38;
}

bitflags::bitflags! {
    /// Capabilities.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Cap: u32 {
        /// The HBA has only AHCI mode.
        const AHCI_ONLY = 1 << 18;
        /// Staggered spin-up.
        const STAGGERED = 1 << 27;
        /// Native command queuing.
        const NCQ = 1 << 30;
        /// 64-bit addresses.
        const WIDE = 1 << 31;
        const _ = !0;
    }

    /// Global control.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Ghc: u32 {
        /// Reset; reads as 0 when complete.
        const RESET = 1 << 0;
        /// Interrupts enabled.
        const INTERRUPTS = 1 << 1;
        /// AHCI mode.
        const AHCI = 1 << 31;
        const _ = !0;
    }

    /// Hand-off.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Bohc: u32 {
        /// The BIOS owns the HBA.
        const BIOS_OWNED = 1 << 0;
        /// The operating system requests or owns the HBA.
        const OS_OWNED = 1 << 1;
        /// The BIOS has commands in flight.
        const BIOS_BUSY = 1 << 4;
        const _ = !0;
    }

    /// Events of a port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Event: u32 {
        /// Unknown FIS.
        const UNKNOWN_FIS = 1 << 4;
        /// Hot plug or unplug.
        const CONNECT = 1 << 6;
        /// PhyRdy changed.
        const PHY_READY = 1 << 22;
        /// The disk sent more data than requested.
        const OVERFLOW = 1 << 24;
        /// Recoverable link error.
        const LINK = 1 << 26;
        /// Fatal link error.
        const LINK_FATAL = 1 << 27;
        /// Corrupt data from memory.
        const BUS = 1 << 28;
        /// Memory error, such as no answer.
        const BUS_FATAL = 1 << 29;
        /// The disk reported an error.
        const TASK_FILE = 1 << 30;
        const _ = !0;
    }

    /// Command and status of a port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PortCommand: u32 {
        /// Process the command list.
        const START = 1 << 0;
        /// Spin the disk up.
        const SPIN_UP = 1 << 1;
        /// Power for the disk.
        const POWER = 1 << 2;
        /// Store received FISes in memory.
        const FIS_RECEIVE = 1 << 4;
        /// The FIS receiver is running.
        const FIS_RUNNING = 1 << 14;
        /// The command list is running.
        const LIST_RUNNING = 1 << 15;
        /// A port multiplier is attached.
        const MULTIPLIER = 1 << 17;
        /// The idle link goes to sleep.
        const AGGRESSIVE_SLEEP = 1 << 26;
        const _ = !0;
    }

    /// The disk's status: the lowest byte of its task file.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TaskFile: u32 {
        /// It requests a data transfer.
        const REQUEST = 1 << 3;
        /// It is busy.
        const BUSY = 1 << 7;
        const _ = !0;
    }
}

impl Event {
    /// Events that abort the commands in flight.
    pub const ERRORS: Event = Event::UNKNOWN_FIS
        .union(Event::CONNECT)
        .union(Event::PHY_READY)
        .union(Event::OVERFLOW)
        .union(Event::LINK)
        .union(Event::LINK_FATAL)
        .union(Event::BUS)
        .union(Event::BUS_FATAL)
        .union(Event::TASK_FILE);
}

/// Command slots per port according to the capabilities, 1 to 32.
pub fn slots(cap: Cap) -> u32 {
    (cap.bits() >> 8 & 0x1f).saturating_add(1)
}

/// All ports that the capabilities allow, one bit each.
pub fn most_ports(cap: Cap) -> u32 {
    u32::MAX.wrapping_shr(31_u32.saturating_sub(cap.bits() & 0x1f))
}

/// Device detection: the lowest four bits of the link status.
pub const DETECTION: u32 = 0xf;
/// A device is present, and communication is established.
pub const DETECTED: u32 = 3;

/// Link control: send COMRESET; no power saving.
pub const LINK_RESET: u32 = 0x301;
/// Link control: any speed; no power saving.
pub const LINK_ON: u32 = 0x300;

/// Signatures (Serial ATA 3.1, 11.3): a disk.
pub const SIGNATURE_DISK: u32 = 0x0000_0101;
/// An enclosure management bridge; some disks report it too.
pub const SIGNATURE_SEMB: u32 = 0xc33c_0101;
/// An ATAPI device.
pub const SIGNATURE_ATAPI: u32 = 0xeb14_0101;
/// A port multiplier.
pub const SIGNATURE_MULTIPLIER: u32 = 0x9669_0101;
/// The device has not sent its signature yet.
pub const SIGNATURE_NONE: u32 = u32::MAX;
