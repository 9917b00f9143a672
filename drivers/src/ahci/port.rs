//! One port (AHCI 1.3.1, 10): stop, COMRESET, wait for the disk, start. Nothing here waits: each poll
//! advances a restart by a step.

use dumpcore::device::{DeviceError, Health};
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::{MILLISECOND, Wait};

use super::hba::{Hba, check_signature};
use super::registers::{
    DETECTED, DETECTION, Event, LINK_ON, LINK_RESET, PortCommand, SIGNATURE_NONE, TaskFile, port,
};
use crate::bus::pci::ConfigSpace;
use crate::bus::registers::Registers;

/// Time limit for stopping the command list and the FIS receiver (10.1.2).
const STOP: Nanoseconds = 500 * MILLISECOND;
/// Minimum duration of COMRESET (10.4.2).
const COMRESET: Nanoseconds = MILLISECOND;
/// After a COMRESET, a disk may be busy for this many times the request timeout: it may have to spin up.
const READY_TIMES: u64 = 2;

/// Time limit of a whole restart, as a multiple of the request timeout.
pub const RESTART_TIMES: u64 = READY_TIMES + 3;

/// State of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not in use.
    Down,
    /// The command list was told to stop; deadline.
    Stopping(Nanoseconds),
    /// COMRESET is being sent; until this time.
    Resetting(Nanoseconds),
    /// Waiting for the link; deadline.
    Linking(Nanoseconds),
    /// Waiting for the disk to become ready; deadline.
    Readying(Nanoseconds),
    /// The command list is running.
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

    /// Forgets its state: the HBA is about to be reset.
    pub fn clear_state(&mut self) {
        self.phase = Phase::Down;
    }

    /// Whether it has been restarted since then, even if the restart failed.
    pub fn is_in_use(&self) -> bool {
        self.phase != Phase::Down
    }

    /// Whether the command list is running.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The port's events; all ones if the HBA is gone.
    #[inline]
    pub fn events<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>) -> Event {
        match hba.read(self.number, port::IS) {
            u32::MAX => Event::from_bits_retain(u32::MAX),
            events => Event::from_bits_retain(events).difference(hba.spurious()),
        }
    }

    /// Commands in flight: issued or, if queued, not reported by the disk as completed.
    #[inline]
    pub fn pending<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>, queued: bool) -> u32 {
        let active = if queued { hba.read(self.number, port::SACT) } else { 0 };
        hba.read(self.number, port::CI) | active
    }

    /// Issues the command in this command slot.
    #[inline]
    pub fn issue<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>, slot: u8, queued: bool) {
        let bit = 1_u32.wrapping_shl(slot.into());
        if queued {
            // Must precede the issue (5.3.2.3).
            hba.write(self.number, port::SACT, bit);
        }
        hba.write(self.number, port::CI, bit);
    }

    /// A code for an error: for a disk error, its error register (bits 8 to 15) and status (bits 0 to 7); for
    /// a link error, the link's errors; otherwise the events.
    pub fn error_code<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>, errors: Event) -> u32 {
        if errors.contains(Event::TASK_FILE) {
            hba.read(self.number, port::TFD)
        } else if errors.intersects(Event::BUS | Event::BUS_FATAL) {
            errors.bits()
        } else {
            hba.read(self.number, port::SERR)
        }
    }

    /// Checks its health without changing anything, while another driver may be using it.
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
        // An idle port needs no bus mastering; a port in use does.
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

    /// Clears `work` in the command register, then waits until `running` is clear.
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

    /// Stops the command list and then the FIS receiver (10.3.1, 10.3.2), and waits for both.
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

    /// Sets a stopped port's command list and received-FIS base addresses (PxCLB, PxFB), powers it, and
    /// enables its FIS receiver.
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
        // Power and spin-up, for an HBA that leaves these to the driver (10.1.1); otherwise the bits are
        // read-only.
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

    /// Advances the restart if it is time. Returns whether the port runs.
    ///
    /// # Errors
    /// Why it cannot run: [`DeviceError::TimedOut`], [`DeviceError::Gone`], or [`DeviceError::Unsupported`]
    /// if the device is not a disk.
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
                // COMRESET also stops a command list that does not stop by itself (10.4.2).
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
                // Conditions for starting the port (10.3.1).
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

    /// Clears the errors of the link, then those of the port, which mirrors some of them.
    fn clear_errors<R: Registers, C: ConfigSpace>(&self, hba: &Hba<R, C>) {
        hba.write(self.number, port::SERR, u32::MAX);
        hba.write(self.number, port::IS, u32::MAX);
    }
}
