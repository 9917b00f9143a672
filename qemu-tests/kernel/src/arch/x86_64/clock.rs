//! Time: nanoseconds from the time stamp counter, time of day from the CMOS clock.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

/// Frequency of the interval timer, in Hz.
const PIT_HZ: u64 = 1_193_182;
/// Duration of a measurement in ticks of the interval timer: 50 ms.
const MEASURE: u16 = (PIT_HZ / 20) as u16;

/// Maximum number of measurements: a second in total.
const ATTEMPTS: u32 = 20;

/// The counter when the kernel started.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per count, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);

fn counter() -> u64 {
    // SAFETY: every x86_64 CPU has the instruction, which has no side effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures the time stamp counter against channel 2 of the interval timer (Intel 8254).
///
/// A hypervisor may pause this CPU anywhere in a measurement, even between the start of the timer and the
/// first read of the counter: the counter then seems slow, time runs fast, and every deadline comes early. So
/// a measurement only yields bounds for the counts. It is repeated until the intersection of all bounds is
/// narrow.
pub(crate) fn init() {
    let mut bounds = Bounds { least: 1, most: u64::MAX };
    for _ in 0..ATTEMPTS {
        bounds = bounds.and(measure());
        if bounds.close() {
            break;
        }
    }
    let counts = bounds.least.midpoint(bounds.most.max(bounds.least));
    let nanoseconds = u64::from(MEASURE) * 1_000_000_000 / PIT_HZ;
    let scale = ((u128::from(nanoseconds) << 32) / u128::from(counts.max(1))) as u64;
    SCALE.store(scale.max(1), Ordering::Relaxed);
    START.store(counter(), Ordering::Relaxed);
}

/// Bounds of the number of counts in [`MEASURE`].
#[derive(Clone, Copy)]
struct Bounds {
    least: u64,
    most: u64,
}

impl Bounds {
    /// The intersection of both.
    fn and(self, other: Bounds) -> Bounds {
        Bounds { least: self.least.max(other.least), most: self.most.min(other.most) }
    }

    /// Whether they differ by less than a hundredth.
    fn close(self) -> bool {
        self.most.saturating_sub(self.least) < self.least / 100
    }
}

/// One measurement.
fn measure() -> Bounds {
    let mut gate = Port::<u8>::new(0x61);
    let mut command = Port::<u8>::new(0x43);
    let mut channel = Port::<u8>::new(0x42);
    // SAFETY: the ports are those of the PC's interval timer and its gate, which only this code uses.
    unsafe {
        // Gate on, speaker off; then mode 0: the output rises at the end of the count.
        let before = gate.read();
        gate.write((before & !2) | 1);
        command.write(0b1011_0000);
        channel.write(MEASURE as u8);
        let earliest_start = counter();
        // The count begins with its second byte.
        channel.write((MEASURE >> 8) as u8);
        let latest_start = counter();
        let mut not_over = latest_start;
        loop {
            let look = counter();
            if gate.read() & 0x20 != 0 {
                return Bounds {
                    least: not_over.saturating_sub(latest_start),
                    most: counter().saturating_sub(earliest_start),
                };
            }
            not_over = look;
            core::hint::spin_loop();
        }
    }
}

/// Nanoseconds since the kernel started. The counters of all CPUs are synchronous (in QEMU, and on every CPU
/// with an invariant counter). Writes no memory, because the dump calls it while reading memory.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn now() -> u64 {
    let counts = counter().wrapping_sub(START.load(Ordering::Relaxed));
    ((u128::from(counts) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Busy-waits, in the healthy kernel.
pub(crate) fn pause(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Seconds since 1970-01-01 UTC from the CMOS clock (Motorola MC146818), which QEMU runs in UTC. `None` if
/// its values make no sense.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn wall_clock() -> Option<u64> {
    // An update of the registers takes 2 ms at most. Two equal readings outside an update are valid.
    let mut last = None;
    for _ in 0..10_000 {
        if cmos(0x0a) & 0x80 != 0 {
            continue;
        }
        let reading = [0x00, 0x02, 0x04, 0x07, 0x08, 0x09].map(cmos);
        if last == Some(reading) {
            return seconds_since_1970(reading, cmos(0x0b));
        }
        last = Some(reading);
    }
    None
}

#[unsafe(link_section = ".dump_path.text")]
fn cmos(register: u8) -> u8 {
    // SAFETY: index and data port of the CMOS clock; reading a register has no side effect. The index keeps
    // NMIs enabled.
    unsafe {
        Port::<u8>::new(0x70).write(register);
        Port::<u8>::new(0x71).read()
    }
}

/// `mode` is register B: bit 2, binary instead of BCD; bit 1, 24 instead of 12 hours.
#[unsafe(link_section = ".dump_path.text")]
fn seconds_since_1970(reading: [u8; 6], mode: u8) -> Option<u64> {
    let number = |byte: u8| {
        u64::from(if mode & 4 != 0 { byte } else { (byte >> 4).wrapping_mul(10).wrapping_add(byte & 15) })
    };
    let [second, minute, hour, day, month, year] = reading;
    let mut hours = number(hour & 0x7f);
    if mode & 2 == 0 {
        hours = (hours % 12).wrapping_add(if hour & 0x80 != 0 { 12 } else { 0 });
    }
    let (month, year) = (number(month), number(year).wrapping_add(2000));
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days before this one, in years that begin in March, so that the leap day comes last.
    let (year, month) =
        if month > 2 { (year, month.wrapping_sub(3)) } else { (year.wrapping_sub(1), month.wrapping_add(9)) };
    let days = year
        .wrapping_mul(365)
        .wrapping_add(year / 4)
        .wrapping_sub(year / 100)
        .wrapping_add(year / 400)
        .wrapping_add(month.wrapping_mul(153).wrapping_add(2) / 5)
        .wrapping_add(number(day))
        // From 1 March of year 0 to 1 January 1970, and the day itself.
        .wrapping_sub(719_469);
    Some(
        days.wrapping_mul(86400)
            .wrapping_add(hours.wrapping_mul(3600))
            .wrapping_add(number(minute).wrapping_mul(60))
            .wrapping_add(number(second)),
    )
}
