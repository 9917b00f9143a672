//! The host bus adapter (AHCI 1.3.1): registers, ports, BIOS hand-off and reset.

use dumpcore::device::{DeviceError, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, SECOND, Wait};

use super::registers::{
    self, BOHC, Bohc, CAP, CAP2, Cap, Event, GENERIC_BYTES, GHC, Ghc, IS, PI, PORT_BYTES, PORTS, port,
};
use crate::bus::access::Access;
use crate::bus::pci::{Command, ConfigSpace, Function, PciDevice};
use crate::bus::registers::Registers;

/// Class code of an HBA in AHCI mode (AHCI 1.3.1, 2.1.5).
const CLASS: u32 = 0x01_06_01;
/// Class and subclass of a RAID controller. Intel's HBAs report it if the firmware is set to RAID, which is a
/// common default, but work as HBAs all the same: their RAID is software.
const CLASS_RAID: u32 = 0x01_04;
const INTEL: u16 = 0x8086;
/// Vendor whose HBAs report fatal link errors that did not happen.
const JMICRON: u16 = 0x197b;

/// In the configuration space of Intel's HBAs: the enabled ports. Firmware sets it; a reset of the function
/// clears it.
const PORTS_ENABLED: u16 = 0x92;

/// CAP2: the hand-off is supported.
const CAP2_HANDOFF: u32 = 1 << 0;

/// Time limit for the BIOS to release the HBA, or to report that it is busy (10.6.3).
const HANDOFF: Nanoseconds = 25 * MILLISECOND;
/// Time limit for a busy BIOS.
const HANDOFF_BUSY: Nanoseconds = 2 * SECOND;
/// Time limit for a reset (10.4.3).
const RESET: Nanoseconds = SECOND;

/// An HBA on PCI.
pub struct Hba<R, C> {
    pci: PciDevice<C>,
    registers: R,
    /// CAP, CAP2 and the ports, read at open.
    cap: Cap,
    cap2: u32,
    ports: u32,
    /// The PI register, read at open.
    pi: u32,
    /// Only for Intel's HBAs: the enabled ports.
    enabled: Option<u16>,
    /// Errors that it reports although they did not happen.
    spurious: Event,
    /// Maximum nanoseconds that the driver may wait for an event.
    timeout: Nanoseconds,
}

impl<R: Registers, C: ConfigSpace> Hba<R, C> {
    /// Reads configuration space and registers, and writes none: another driver may be using the HBA.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the function is not an HBA in AHCI mode, or cannot be mapped;
    /// [`DeviceError::Gone`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
    ) -> Result<Hba<R, C>, DeviceError> {
        let Access { config, mut map, timeout } = access;
        if !is_hba(&function) {
            let what = "an AHCI controller (PCI class 01.06.01)";
            return Err(DeviceError::Unsupported { what, value: function.class.into() });
        }
        let pci = PciDevice::open(config, function, Command::MEMORY)?;
        // The registers tell how many registers there are.
        let generic = pci.map(registers::BAR, 0, GENERIC_BYTES, &mut map)?;
        let (cap, ghc, pi) = (generic.read32(CAP), generic.read32(GHC), generic.read32(PI));
        let cap2 = generic.read32(CAP2);
        if cap == u32::MAX {
            return Err(DeviceError::Gone);
        }
        if !Ghc::from_bits_retain(ghc).contains(Ghc::AHCI) {
            return Err(DeviceError::Unsupported { what: "an HBA in AHCI mode", value: ghc.into() });
        }
        // If the firmware has not set PI, assume the maximum number of ports.
        let ports = if pi == 0 { registers::most_ports(Cap::from_bits_retain(cap)) } else { pi };
        let used = u32::BITS.saturating_sub(ports.leading_zeros()) as usize;
        let length = PORT_BYTES.saturating_mul(used).saturating_add(GENERIC_BYTES);
        let registers = pci.map(registers::BAR, 0, length, &mut map)?;
        let is_intel = function.vendor == INTEL;
        Ok(Hba {
            enabled: is_intel.then(|| pci.config().read16(function.address, PORTS_ENABLED)),
            spurious: if function.vendor == JMICRON { Event::LINK_FATAL } else { Event::empty() },
            pci,
            registers,
            cap: Cap::from_bits_retain(cap),
            cap2,
            ports,
            pi,
            timeout,
        })
    }

    /// The PCI function.
    pub fn pci(&self) -> &PciDevice<C> {
        &self.pci
    }

    /// Its capabilities.
    pub fn cap(&self) -> Cap {
        self.cap
    }

    /// Errors that it reports although they did not happen.
    #[inline]
    pub fn spurious(&self) -> Event {
        self.spurious
    }

    /// Maximum nanoseconds that the driver may wait for an event.
    pub fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    /// The numbers of its ports.
    pub fn ports(&self) -> impl Iterator<Item = u8> + use<R, C> {
        let ports = self.ports;
        (0..PORTS).filter(move |number| ports >> number & 1 == 1)
    }

    /// Reads a register of a port.
    #[inline]
    pub fn read(&self, port: u8, register: usize) -> u32 {
        self.registers.read32(place(port, register))
    }

    /// Writes a register of a port.
    #[inline]
    pub fn write(&self, port: u8, register: usize, value: u32) {
        self.registers.write32(place(port, register), value);
    }

    /// Writes an address, register pair by register pair.
    pub fn write_address(&self, port: u8, register: usize, address: u64) {
        self.write(port, register, address as u32);
        self.write(port, register.wrapping_add(4), (address >> 32) as u32);
    }

    /// The numbers of the ports with a disk, detected by link and signature, without a command. A device that
    /// has not sent its signature yet counts as a disk.
    pub fn disks(&self) -> impl Iterator<Item = u8> + '_ {
        self.ports().filter(|number| self.check_kind(*number).is_ok())
    }

    /// The disk's port: `wanted`, or else the first of [`disks`](Hba::disks).
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`], with the device that is there instead.
    pub fn find_disk(&self, wanted: Option<u8>) -> Result<u8, DeviceError> {
        let Some(wanted) = wanted else {
            let nothing =
                DeviceError::Unsupported { what: "a disk on an AHCI port", value: self.ports.into() };
            let disk = |number: &u8| self.read(*number, port::SIG) != registers::SIGNATURE_SEMB;
            return self.disks().find(disk).or_else(|| self.disks().next()).ok_or(nothing);
        };
        if !self.ports().any(|number| number == wanted) {
            return Err(DeviceError::Unsupported {
                what: "the AHCI port that was asked for",
                value: wanted.into(),
            });
        }
        self.check_kind(wanted).map(|()| wanted)
    }

    fn check_kind(&self, number: u8) -> Result<(), DeviceError> {
        let link = self.read(number, port::SSTS);
        if link & registers::DETECTION != registers::DETECTED {
            return Err(DeviceError::Unsupported { what: "a disk on its AHCI port", value: link.into() });
        }
        match self.read(number, port::SIG) {
            registers::SIGNATURE_NONE => Ok(()),
            signature => check_signature(signature),
        }
    }

    /// Feeds everything that must not change.
    pub fn integrity(&self, digest: &mut Digest) {
        self.pci.integrity(digest);
        self.registers.integrity(digest);
        digest
            .number(self.cap.bits().into())
            .number(self.cap2.into())
            .number(self.ports.into())
            .number(self.pi.into())
            .number(self.enabled.map_or(u64::MAX, u64::from))
            .number(self.timeout);
    }

    /// Checks its health without changing anything.
    pub fn health(&self) -> Health {
        match self.pci.health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        let (cap, ghc) = (self.registers.read32(CAP), self.registers.read32(GHC));
        if cap == u32::MAX || ghc == u32::MAX {
            return Health::Unusable(DeviceError::Gone);
        }
        if cap != self.cap.bits() {
            return Health::Risky(DeviceError::Protocol { what: "its capabilities", value: cap.into() });
        }
        if !Ghc::from_bits_retain(ghc).contains(Ghc::AHCI) || ghc & Ghc::RESET.bits() != 0 {
            return Health::Risky(DeviceError::Protocol { what: "its global control", value: ghc.into() });
        }
        Health::Healthy
    }

    /// Replaces an error by [`DeviceError::Gone`] if the HBA no longer answers.
    pub fn explain(&self, error: DeviceError) -> DeviceError {
        if self.registers.read32(CAP) == u32::MAX { DeviceError::Gone } else { self.pci.explain(error) }
    }

    /// Takes the HBA over: isolates it, takes it from the BIOS, and resets it with all its ports. It cannot
    /// access memory yet.
    ///
    /// # Errors
    /// [`DeviceError::Gone`], [`DeviceError::TimedOut`] if the reset does not end, [`DeviceError::Protocol`]
    /// if its registers have changed.
    pub fn take_over(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // Without bus mastering, the old driver's DMA cannot arrive during the reset.
        self.pci.isolate(wait)?;
        self.enable_ports();
        // The old driver's reset may still be under way.
        self.wait_for_reset(wait)?;
        // Outside AHCI mode, no other register may be accessed (3.1.2).
        self.registers.write32(GHC, Ghc::AHCI.bits());
        self.take_from_bios(wait);
        self.reset(wait)?;
        // Some HBAs lose the values that the BIOS wrote to these registers, and then show ports that are not
        // wired.
        for (register, value) in [(CAP, self.cap.bits()), (CAP2, self.cap2), (PI, self.pi)] {
            if self.registers.read32(register) != value {
                self.registers.write32(register, value);
            }
        }
        self.registers.write32(IS, u32::MAX);
        let (cap, ports) = (self.registers.read32(CAP), self.registers.read32(PI));
        if cap != self.cap.bits() {
            return Err(self.explain(DeviceError::Protocol { what: "its capabilities", value: cap.into() }));
        }
        if ports != self.pi {
            let value = ports.into();
            return Err(self.explain(DeviceError::Protocol { what: "its ports implemented", value }));
        }
        Ok(())
    }

    /// Restores the enabled ports of an Intel HBA that has lost them. A disabled port shows no disk.
    fn enable_ports(&self) {
        let Some(enabled) = self.enabled else { return };
        let (config, address) = (self.pci.config(), self.pci.address());
        let now = config.read16(address, PORTS_ENABLED);
        if now & enabled != enabled {
            config.write16(address, PORTS_ENABLED, now | enabled);
        }
    }

    /// Asks the BIOS for the HBA (10.6.3). If the BIOS does not release it, the reset that follows takes it.
    fn take_from_bios(&self, wait: &Wait<'_>) {
        let handoff = || Bohc::from_bits_retain(self.registers.read32(BOHC));
        if self.cap2 & CAP2_HANDOFF == 0 || !handoff().contains(Bohc::BIOS_OWNED) {
            return;
        }
        self.registers.write32(BOHC, handoff().union(Bohc::OS_OWNED).bits());
        let released = || (!handoff().contains(Bohc::BIOS_OWNED)).then_some(());
        let limit = HANDOFF.min(self.timeout);
        if wait.until("a BIOS that lets go", limit, released).is_err() && handoff().contains(Bohc::BIOS_BUSY)
        {
            let limit = HANDOFF_BUSY.min(self.timeout);
            // The reset takes it in any case.
            let _ = wait.until("a busy BIOS that lets go", limit, released);
        }
    }

    /// Waits until no reset is in progress.
    fn wait_for_reset(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        wait.until("an AHCI reset", RESET.min(self.timeout), || {
            match Ghc::from_bits_retain(self.registers.read32(GHC)) {
                gone if gone.bits() == u32::MAX => Some(Err(DeviceError::Gone)),
                ghc if ghc.contains(Ghc::RESET) => None,
                _ => Some(Ok(())),
            }
        })?
    }

    /// Resets the HBA with all its ports (10.4.3), and leaves it in AHCI mode without interrupts.
    fn reset(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.registers.write32(GHC, Ghc::AHCI.union(Ghc::RESET).bits());
        self.wait_for_reset(wait)?;
        // The reset may have left AHCI mode. It disables interrupts, and they stay disabled.
        self.registers.write32(GHC, Ghc::AHCI.bits());
        match Ghc::from_bits_retain(self.registers.read32(GHC)) {
            gone if gone.bits() == u32::MAX => Err(DeviceError::Gone),
            ghc if ghc.contains(Ghc::AHCI) && !ghc.intersects(Ghc::RESET | Ghc::INTERRUPTS) => Ok(()),
            ghc => Err(DeviceError::Protocol { what: "its global control", value: ghc.bits().into() }),
        }
    }
}

/// Offset of a port's register.
fn place(port: u8, register: usize) -> usize {
    usize::from(port).wrapping_mul(PORT_BYTES).wrapping_add(GENERIC_BYTES).wrapping_add(register)
}

/// Whether a function is an HBA, judging by its class.
pub fn is_hba(function: &Function) -> bool {
    function.class == CLASS || function.vendor == INTEL && function.class >> 8 == CLASS_RAID
}

/// Checks that a signature is that of a disk.
pub fn check_signature(signature: u32) -> Result<(), DeviceError> {
    let what = match signature {
        // For SEMB, the identity data decides.
        registers::SIGNATURE_DISK | registers::SIGNATURE_SEMB => return Ok(()),
        registers::SIGNATURE_ATAPI => "a disk on its AHCI port, not an ATAPI device",
        registers::SIGNATURE_MULTIPLIER => "a disk on its AHCI port, not a port multiplier",
        _ => "a disk on its AHCI port",
    };
    Err(DeviceError::Unsupported { what, value: signature.into() })
}
