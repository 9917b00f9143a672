//! Registers of an HBA (AHCI 1.3.1, 3), all in BAR 5. 32 bits each.

/// Which BAR they are in.
pub const BAR: u8 = 5;

/// Capabilities (3.1.1).
pub const CAP: usize = 0x00;
/// Global control (3.1.2).
pub const GHC: usize = 0x04;
/// Ports with an interrupt pending (3.1.3).
pub const IS: usize = 0x08;
/// Ports that there are, one bit each (3.1.4).
pub const PI: usize = 0x0c;
/// More capabilities (3.1.10).
pub const CAP2: usize = 0x24;
/// Hand-off from the BIOS to the operating system (3.1.11).
pub const BOHC: usize = 0x28;
/// Bytes of registers ahead of those of the ports.
pub const GENERIC_BYTES: usize = 0x100;

/// Bytes of registers that a port has (3.3).
pub const PORT_BYTES: usize = 0x80;
/// Ports at most.
pub const PORTS: u8 = 32;

/// Offsets of a port's registers (3.3).
pub mod port {
    /// Command list, its lower half of the address.
    pub const CLB: usize = 0x00;
    /// The upper half.
    pub const CLBU: usize = 0x04;
    /// Where received FISes go, the lower half of the address.
    pub const FB: usize = 0x08;
    /// The upper half.
    pub const FBU: usize = 0x0c;
    /// What has happened; a bit is cleared by writing it.
    pub const IS: usize = 0x10;
    /// What raises an interrupt.
    pub const IE: usize = 0x14;
    /// Command and status.
    pub const CMD: usize = 0x18;
    /// The disk's own status and error registers.
    pub const TFD: usize = 0x20;
    /// What kind of device there is.
    pub const SIG: usize = 0x24;
    /// The link's status.
    pub const SSTS: usize = 0x28;
    /// The link's control.
    pub const SCTL: usize = 0x2c;
    /// The link's errors; a bit is cleared by writing it.
    pub const SERR: usize = 0x30;
    /// Queued commands that the disk has not finished.
    pub const SACT: usize = 0x34;
    /// Commands that are issued.
    pub const CI: usize = 0x38;
}

bitflags::bitflags! {
    /// Capabilities.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Cap: u32 {
        /// The HBA is always in AHCI mode.
        const AHCI_ONLY = 1 << 18;
        /// Disks spin up when they are told to.
        const STAGGERED = 1 << 27;
        /// Native command queuing.
        const NCQ = 1 << 30;
        /// Addresses beyond 4 GiB.
        const WIDE = 1 << 31;
        const _ = !0;
    }

    /// Global control.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Ghc: u32 {
        /// Reset; reads as 0 when that is done.
        const RESET = 1 << 0;
        /// Interrupts of any port.
        const INTERRUPTS = 1 << 1;
        /// AHCI mode.
        const AHCI = 1 << 31;
        const _ = !0;
    }

    /// Hand-off.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Bohc: u32 {
        /// The BIOS has the HBA.
        const BIOS_OWNED = 1 << 0;
        /// The operating system wants it, or has it.
        const OS_OWNED = 1 << 1;
        /// The BIOS has still commands under way.
        const BIOS_BUSY = 1 << 4;
        const _ = !0;
    }

    /// What has happened at a port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Event: u32 {
        /// A FIS that nobody knows.
        const UNKNOWN_FIS = 1 << 4;
        /// Something was connected or pulled.
        const CONNECT = 1 << 6;
        /// The link has gone or come.
        const PHY_READY = 1 << 22;
        /// The disk sent more than was asked for.
        const OVERFLOW = 1 << 24;
        /// A link error that the HBA could go on from.
        const LINK = 1 << 26;
        /// A link error that it could not go on from.
        const LINK_FATAL = 1 << 27;
        /// Wrong data from memory.
        const BUS = 1 << 28;
        /// Memory did not answer.
        const BUS_FATAL = 1 << 29;
        /// The disk reported an error.
        const TASK_FILE = 1 << 30;
        const _ = !0;
    }

    /// Command and status of a port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PortCommand: u32 {
        /// The command list is worked on.
        const START = 1 << 0;
        /// Spin the disk up.
        const SPIN_UP = 1 << 1;
        /// Power for the disk.
        const POWER = 1 << 2;
        /// Received FISes go to memory.
        const FIS_RECEIVE = 1 << 4;
        /// Received FISes do go to memory.
        const FIS_RUNNING = 1 << 14;
        /// The command list is being worked on.
        const LIST_RUNNING = 1 << 15;
        /// There is a port multiplier.
        const MULTIPLIER = 1 << 17;
        /// The link sleeps when there is nothing to do.
        const AGGRESSIVE_SLEEP = 1 << 26;
        const _ = !0;
    }

    /// The disk's status, in the lowest byte of its task file.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TaskFile: u32 {
        /// It wants to move data.
        const REQUEST = 1 << 3;
        /// It is busy.
        const BUSY = 1 << 7;
        const _ = !0;
    }
}

impl Event {
    /// What ends the commands under way.
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

/// Slots of a port that an HBA's capabilities name, 1 to 32.
pub fn slots(cap: Cap) -> u32 {
    (cap.bits() >> 8 & 0x1f).saturating_add(1)
}

/// Ports that its capabilities have room for, one bit each, from the first on.
pub fn most_ports(cap: Cap) -> u32 {
    u32::MAX.wrapping_shr(31_u32.saturating_sub(cap.bits() & 0x1f))
}

/// What the link's status says of a device, in its lowest four bits.
pub const DETECTION: u32 = 0xf;
/// There is a device, and it can be talked to.
pub const DETECTED: u32 = 3;

/// The link's control: send COMRESET, and never sleep.
pub const LINK_RESET: u32 = 0x301;
/// The link's control: any speed, and never sleep.
pub const LINK_ON: u32 = 0x300;

/// Signatures (Serial ATA 3.1, 11.3): a disk.
pub const SIGNATURE_DISK: u32 = 0x0000_0101;
/// An enclosure's management, which some disks take themselves for.
pub const SIGNATURE_SEMB: u32 = 0xc33c_0101;
/// An ATAPI device.
pub const SIGNATURE_ATAPI: u32 = 0xeb14_0101;
/// A port multiplier.
pub const SIGNATURE_MULTIPLIER: u32 = 0x9669_0101;
/// The device has not told its signature yet.
pub const SIGNATURE_NONE: u32 = u32::MAX;
