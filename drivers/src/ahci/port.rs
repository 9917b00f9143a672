//! One port (AHCI 1.3.1, 10): stopping it, COMRESET, waiting for the disk, starting it. Nothing here waits: a restart goes
//! on by a step at each poll.

use dumpcore::device::{DeviceError, Health};
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, Wait};

use super::hba::{Hba, check_signature};
use super::registers::{
    DETECTED, DETECTION, Event, LINK_ON, LINK_RESET, PortCommand, SIGNATURE_NONE, TaskFile, port,
};
use crate::bus::pci::ConfigSpace;
use crate::bus::registers::Registers;

/// The command list and the FIS receiver stop within so long (10.1.2).
const STOP: Nanoseconds = 500 * MILLISECOND;
/// COMRESET is sent for at least so long (10.4.2).
const COMRESET: Nanoseconds = MILLISECOND;
/// A disk may be busy after a COMRESET for this many times as long as a request takes: it may have to spin up.
const READY_TIMES: u64 = 2;

/// And a restart this many times in all.
pub const RESTART_TIMES: u64 = READY_TIMES + 3;

/// How far a port has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not in use.
    Down,
    /// Told to stop its command list, until this time.
    Stopping(Nanoseconds),
    /// COMRESET is being sent, until this time.
    Resetting(Nanoseconds),
    /// The link has until this time to come up.
    Linking(Nanoseconds),
    /// The disk has until this time to be ready.
    Readying(Nanoseconds),
    /// Works on its command list.
    Running,
}

/// A port.
#[derive(Debug)]
pub struct Port {
    number: u8,
    phase: Phase,
}

impl Port {
    /// A port that is not in use.
    pub fn new(number: u8) -> Port {
        Port { number, phase: Phase::Down }
    }

    /// Its number, 0 to 31.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Clears what is known of its state: the HBA is about to be reset.
    pub fn clear_state(&mut self) {
        self.phase = Phase::Down;
    }

    /// Whether it has been restarted since, even if that has failed.
    pub fn is_in_use(&self) -> bool {
        self.phase != Phase::Down
    }

    /// Whether it works on its command list.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// What has happened, all ones if the HBA is gone.
    #[inline]
    pub fn events<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>) -> Event {
        match hba.read(self.number, port::IS) {
            u32::MAX => Event::from_bits_retain(u32::MAX),
            events => Event::from_bits_retain(events).difference(hba.spurious()),
        }
    }

    /// Commands that are not finished: issued, or, of queued ones, not said by the disk to be done.
    #[inline]
    pub fn pending<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>, queued: bool) -> u32 {
        let active = if queued { hba.read(self.number, port::SACT) } else { 0 };
        hba.read(self.number, port::CI) | active
    }

    /// Issues a command that is laid out in this command slot.
    #[inline]
    pub fn issue<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>, slot: u8, queued: bool) {
        let bit = 1_u32.wrapping_shl(slot.into());
        if queued {
            // Before it is issued (5.3.2.3).
            hba.write(self.number, port::SACT, bit);
        }
        hba.write(self.number, port::CI, bit);
    }

    /// What there is to say of an error: what the disk says if it reported it (its error register in bits 8 to 15, its status
    /// in 0 to 7), the link's errors if it was the link, else the events.
    pub fn error_code<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>, errors: Event) -> u32 {
        if errors.contains(Event::TASK_FILE) {
            hba.read(self.number, port::TFD)
        } else if errors.intersects(Event::BUS | Event::BUS_FATAL) {
            errors.bits()
        } else {
            hba.read(self.number, port::SERR)
        }
    }

    /// Looks at it without changing anything, while another driver may be using it.
    pub fn health<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>) -> Health {
        let Ok(command) = self.command(hba) else { return Health::Unusable(DeviceError::Gone) };
        let link = hba.read(self.number, port::SSTS);
        if link & DETECTION != DETECTED {
            return Health::Risky(DeviceError::Protocol { what: "its link's status", value: link.into() });
        }
        let fatal = Event::LINK_FATAL | Event::BUS | Event::BUS_FATAL | Event::TASK_FILE;
        let events = self.events(hba);
        if events.intersects(fatal) {
            return Health::Risky(DeviceError::Status { what: "stay in operation", code: events.bits() });
        }
        // A port at rest needs no bus mastering; one that somebody uses does.
        if command.contains(PortCommand::START) { hba.pci().health_in_use() } else { Health::Healthy }
    }

    fn command<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>) -> Result<PortCommand, DeviceError> {
        match hba.read(self.number, port::CMD) {
            u32::MAX => Err(DeviceError::Gone),
            command => Ok(PortCommand::from_bits_retain(command)),
        }
    }

    fn change<R: Registers, C: ConfigSpace>(
        &self,
        hba: &Hba<R, C>,
        set: PortCommand,
        clear: PortCommand,
    ) -> Result<(), DeviceError> {
        let command = self.command(hba)?.union(set).difference(clear);
        hba.write(self.number, port::CMD, command.bits());
        Ok(())
    }

    /// Clears bits of the command register, first that of the work, then waits for that of its end.
    fn stop_one<R: Registers, C: ConfigSpace>(
        &self,
        hba: &Hba<R, C>,
        works: PortCommand,
        ends: PortCommand,
        what: &'static str,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        self.change(hba, PortCommand::empty(), works)?;
        wait.until(what, STOP.min(hba.timeout()), || match self.command(hba) {
            Ok(command) if command.intersects(ends) => None,
            Ok(_) => Some(Ok(())),
            Err(gone) => Some(Err(gone)),
        })?
    }

    /// Stops command list and FIS receiver, in this order (10.3.1, 10.3.2), and waits until they have.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] or [`DeviceError::TimedOut`].
    pub fn stop<R: Registers, C: ConfigSpace>(
        &mut self,
        hba: &Hba<R, C>,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        self.phase = Phase::Down;
        let what = "a stopped AHCI command list";
        self.stop_one(hba, PortCommand::START, PortCommand::LIST_RUNNING, what, wait)?;
        let what = "a stopped AHCI FIS receiver";
        self.stop_one(hba, PortCommand::FIS_RECEIVE, PortCommand::FIS_RUNNING, what, wait)
    }

    /// Sets a stopped port's command list and received-FIS base addresses (PxCLB, PxFB), powers it, and enables its FIS
    /// receiver.
    ///
    /// # Errors
    /// [`DeviceError::Gone`].
    pub fn set_up<R: Registers, C: ConfigSpace>(
        &self,
        hba: &Hba<R, C>,
        list: u64,
        received: u64,
    ) -> Result<(), DeviceError> {
        hba.write(self.number, port::IE, 0);
        hba.write_address(self.number, port::CLB, list);
        hba.write_address(self.number, port::FB, received);
        // Power and spin-up where the HBA leaves that to the driver (10.1.1); elsewhere the bits are fixed.
        let on = PortCommand::SPIN_UP | PortCommand::POWER | PortCommand::FIS_RECEIVE;
        self.change(hba, on, PortCommand::MULTIPLIER | PortCommand::AGGRESSIVE_SLEEP)
    }

    /// Begins a restart with COMRESET. [`step`](Port::step) continues it.
    ///
    /// # Errors
    /// [`DeviceError::Gone`].
    pub fn restart<R: Registers, C: ConfigSpace>(
        &mut self,
        hba: &Hba<R, C>,
        now: Nanoseconds,
    ) -> Result<(), DeviceError> {
        self.change(hba, PortCommand::empty(), PortCommand::START)?;
        self.phase = Phase::Stopping(now.saturating_add(STOP.min(hba.timeout())));
        Ok(())
    }

    /// A step of the restart, if it is time for one. Tells whether the port runs.
    ///
    /// # Errors
    /// Why it will not: [`DeviceError::TimedOut`], [`DeviceError::Gone`], or [`DeviceError::Unsupported`] if what is
    /// there is no disk.
    #[inline(never)]
    pub fn step<R: Registers, C: ConfigSpace>(
        &mut self,
        hba: &Hba<R, C>,
        now: Nanoseconds,
    ) -> Result<bool, DeviceError> {
        let late = |what, deadline| {
            let after = hba.timeout();
            if now >= deadline { Err(DeviceError::TimedOut { what, after }) } else { Ok(false) }
        };
        match self.phase {
            Phase::Down => Err(DeviceError::NotReady),
            Phase::Running => Ok(true),
            Phase::Stopping(deadline) => {
                // One that does not stop is stopped by COMRESET (10.4.2).
                if !self.command(hba)?.contains(PortCommand::LIST_RUNNING) || now >= deadline {
                    hba.write(self.number, port::SCTL, LINK_RESET);
                    self.phase = Phase::Resetting(now.saturating_add(COMRESET));
                }
                Ok(false)
            }
            Phase::Resetting(until) => {
                if now >= until {
                    hba.write(self.number, port::SCTL, LINK_ON);
                    self.phase = Phase::Linking(now.saturating_add(hba.timeout()));
                }
                Ok(false)
            }
            Phase::Linking(deadline) => {
                let link = hba.read(self.number, port::SSTS);
                if link == u32::MAX {
                    return Err(DeviceError::Gone);
                }
                if link & DETECTION != DETECTED {
                    return late("the link to an AHCI disk", deadline);
                }
                self.clear_errors(hba);
                let patience = hba.timeout().saturating_mul(READY_TIMES);
                self.phase = Phase::Readying(now.saturating_add(patience));
                Ok(false)
            }
            Phase::Readying(deadline) => {
                let command = self.command(hba)?;
                let status = hba.read(self.number, port::TFD);
                let signature = hba.read(self.number, port::SIG);
                let busy = TaskFile::from_bits_retain(status).intersects(TaskFile::BUSY | TaskFile::REQUEST);
                // These are what starting it takes (10.3.1).
                if busy || signature == SIGNATURE_NONE || command.contains(PortCommand::LIST_RUNNING) {
                    return late("an AHCI disk that is ready", deadline);
                }
                check_signature(signature)?;
                self.clear_errors(hba);
                self.change(hba, PortCommand::START, PortCommand::empty())?;
                self.phase = Phase::Running;
                Ok(true)
            }
        }
    }

    /// Clears what the link and the port have noted: the link first, for the port shows some of it.
    fn clear_errors<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>) {
        hba.write(self.number, port::SERR, u32::MAX);
        hba.write(self.number, port::IS, u32::MAX);
    }
}
