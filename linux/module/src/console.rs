//! The dump's console: a serial port that it drives itself, or lines held back for the kernel's log.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use dump_drivers::PortWindow;
use dump_drivers::bus::registers::Registers;
use dumpcore::Platform;
use dumpcore::wait::{MILLISECOND, Wait};

use crate::kernel;

/// Maximum number of bytes held back.
const WAITING: usize = 2048;

/// Registers of a 16550: number, data, line status, and its bit for free space in the transmitter.
const REGISTERS: u16 = 8;
const DATA: usize = 0;
const LINE_STATUS: usize = 5;
const ROOM: u8 = 1 << 5;

/// Timeout for one character: longer than one takes at 300 baud.
const PATIENCE: u64 = 50 * MILLISECOND;

/// A serial port, or a buffer for the log.
pub(crate) struct Console {
    serial: Option<PortWindow>,
    /// Whether the port does not respond.
    mute: AtomicBool,
    /// The end of the output, for a machine without a port.
    waiting: UnsafeCell<([u8; WAITING], usize)>,
}

impl Console {
    /// A console on the port, if there is one.
    pub(crate) fn new(serial: Option<u16>) -> Console {
        // SAFETY: ring 0; whoever armed the dump named the port, which has this many registers.
        let serial = serial.map(|first| unsafe { PortWindow::new(first, REGISTERS) });
        Console { serial, mute: AtomicBool::new(false), waiting: UnsafeCell::new(([0; WAITING], 0)) }
    }

    /// Writes text. Only on the crashing CPU.
    pub(crate) fn write(&self, platform: &dyn Platform, text: &str) {
        match &self.serial {
            Some(port) => {
                for byte in text.bytes() {
                    if byte == b'\n' {
                        self.send(platform, port, b'\r');
                    }
                    self.send(platform, port, byte);
                }
            }
            None => self.keep(text.as_bytes()),
        }
    }

    fn send(&self, platform: &dyn Platform, port: &PortWindow, byte: u8) {
        if self.mute.load(Ordering::Relaxed) {
            return;
        }
        let wait = Wait::aside(platform, u64::MAX);
        let room = || (port.read8(LINE_STATUS) & ROOM != 0).then_some(());
        if wait.until("the serial port", PATIENCE, room).is_err() {
            self.mute.store(true, Ordering::Relaxed);
            return;
        }
        port.write8(DATA, byte);
    }

    fn keep(&self, text: &[u8]) {
        // SAFETY: only the crashing CPU uses it.
        let (bytes, used) = unsafe { &mut *self.waiting.get() };
        let text = text.get(text.len().saturating_sub(WAITING / 2)..).unwrap_or_default();
        if WAITING.saturating_sub(*used) < text.len() {
            // Drop the first half: the last output tells the reason.
            bytes.copy_within(WAITING / 2.., 0);
            *used = used.saturating_sub(WAITING / 2);
        }
        let end = used.saturating_add(text.len());
        if let Some(room) = bytes.get_mut(*used..end) {
            for (slot, byte) in room.iter_mut().zip(text) {
                *slot = *byte;
            }
            *used = end;
        }
    }

    /// Writes the held-back lines to the kernel's log, when the dump is over.
    pub(crate) fn tell(&self) {
        // SAFETY: only the crashing CPU uses it.
        let (bytes, used) = unsafe { &mut *self.waiting.get() };
        let text = bytes.get(..*used).unwrap_or_default();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // The first one may be part of a line, beginning in the middle of a character.
            let line = core::str::from_utf8(line).unwrap_or("…");
            kernel::say(line.strip_prefix("diskdump: ").unwrap_or(line), true);
        }
        *used = 0;
    }
}
