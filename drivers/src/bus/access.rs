//! How a driver is given its device.

use dumpcore::platform::Nanoseconds;

/// How a driver reaches its device, and how long it waits for it.
pub struct Access<C, M> {
    /// Configuration space.
    pub config: C,
    /// Maps so many bytes at a physical address for device registers: uncached, readable and writable, on every CPU and for
    /// ever; or gives access to so many ports from a first one on. Memory or port decoding has to be on, as any kernel or
    /// firmware leaves it.
    pub map: M,
    /// How many nanoseconds a reset or one request may take; a flush may take twelve times as long. A controller may ask
    /// for more time for its own reset.
    pub timeout: Nanoseconds,
}
