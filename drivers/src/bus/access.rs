//! The driver's access to its device.

use dumpcore::platform::Nanoseconds;

/// How a driver reaches its device, and its timeout.
#[non_exhaustive]
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

/// How long a driver waits for its device unless it is told otherwise: 5 s.
const TIMEOUT: Nanoseconds = 5_000_000_000;

impl<C, M> Access<C, M> {
    /// A device in this configuration space, whose registers are mapped like that. A reset or a request may take 5 s.
    pub const fn new(config: C, map: M) -> Access<C, M> {
        Access { config, map, timeout: TIMEOUT }
    }

    /// Sets [`timeout`](Access#structfield.timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Nanoseconds) -> Access<C, M> {
        self.timeout = timeout;
        self
    }
}
