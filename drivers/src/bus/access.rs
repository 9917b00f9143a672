//! The driver's access to its device.

use dumpcore::platform::Nanoseconds;

/// How a driver reaches its device, and its timeout.
pub struct Access<C, M> {
    /// Configuration space.
    pub config: C,
    /// Maps device registers: a number of bytes at a physical address (uncached, readable and writable, on
    /// every CPU, permanently), or a number of ports from a first one on. Memory or port decoding must be
    /// enabled, as any kernel or firmware leaves it.
    pub map: M,
    /// Time limit in nanoseconds for a reset or one request; a flush may take twelve times as long. A
    /// controller may declare a longer time for its own reset.
    pub timeout: Nanoseconds,
}
