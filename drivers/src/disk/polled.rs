//! A polled disk: the trait for its driver, and the common part.

use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Geometry, Health, Rejected, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;

use super::name::Name;
use super::pending::{self, Called, DEPTH, Work};
use super::request::{MAX_EXTENTS, MAX_TRANSFER, check_range, check_shape};

/// A flush may take this many times the request timeout: there may be gigabytes in the cache.
pub const FLUSH_TIMES: u64 = 12;
/// After this many polls in a row without progress, a driver that otherwise polls memory reads the device's
/// registers. These reads are slow; even so a device that is gone is noticed within milliseconds.
const POLLS_PER_STATUS: u32 = 1 << 14;

/// A driver's requests.
pub type Requests<D> = pending::Requests<<D as PolledDisk>::Command, <D as PolledDisk>::State>;

/// One of them.
pub type Pending<D> = pending::Pending<<D as PolledDisk>::Command, <D as PolledDisk>::State>;

/// Result of a poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// No progress.
    Nothing,
    /// No request is over, but the device accepts another command.
    Room,
    /// A request is over: the device no longer has any part of it.
    Over {
        /// Its index.
        index: usize,
        /// Whether it succeeded.
        result: Result<(), DeviceError>,
    },
}

/// How to leave a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// It is idle, and its cache is flushed.
    Normal,
    /// It has failed, or still has commands.
    Abrupt,
}

/// The controller's part of a driver. [`Polled`] is the rest.
///
/// Order of calls: `integrity` and `health` at any time; [`take_over`](PolledDisk::take_over), then
/// [`start`](PolledDisk::start), then [`explore`](PolledDisk::explore); then [`serve`](PolledDisk::serve) and
/// [`poll`](PolledDisk::poll); [`shut_down`](PolledDisk::shut_down) last. After an error of the device, only
/// `take_over` and `shut_down`.
///
/// # Implementation safety
/// `Polled` fulfils the part of [`DumpDevice`]'s contract that is about returning buffers. A driver must
/// fulfil the rest:
/// - The device is given no memory except the driver's own and that named by the [requests](Requests). It may
///   write the latter only for a read, and access it only while the request is there.
/// - A request is [over](Progress::Over) only when the device no longer has any part of it, whatever the
///   device says.
/// - After `take_over` has returned `Ok`, the device has no part of any earlier request.
pub unsafe trait PolledDisk: Send + Sized {
    /// Commands other than transfers.
    type Command: Copy + Send;
    /// Driver state per request.
    type State: Default + Send;

    /// Name of a read for a timeout, such as `an NVMe read`.
    const READ: &'static str;
    /// Name of a write.
    const WRITE: &'static str;
    /// Whether [`poll`](PolledDisk::poll) reads memory only, and so cannot notice that the device is gone.
    const POLLS_MEMORY: bool;

    /// Names of a command.
    fn called(command: Self::Command) -> Called;

    /// Timeout of a request in nanoseconds.
    fn timeout(&self) -> Nanoseconds;

    /// See [`DumpDevice::controller`].
    fn controller(&self) -> u64;

    /// Size in blocks of 4096 bytes; `None` before it is known.
    fn blocks(&self) -> Option<u64>;

    /// Bytes in a logical sector; `None` before it is known.
    fn sector_size(&self) -> Option<u32>;

    /// Maximum number of extents per request.
    fn max_extents(&self) -> usize {
        MAX_EXTENTS
    }

    /// Feeds everything that must be the same at the crash as when armed.
    fn integrity(&self, digest: &mut Digest);

    /// Checks the device without changing it, while another driver may be using it.
    fn health(&mut self) -> Health;

    /// Takes the controller over by a reset.
    ///
    /// # Errors
    /// Why it failed.
    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Makes the device accept commands after the reset.
    ///
    /// # Errors
    /// Why it failed.
    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Finds out the properties that take [commands](Polled::command), once the device accepts these.
    ///
    /// # Errors
    /// Why the disk cannot be used.
    fn explore(disk: &mut Polled<Self>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let _ = (disk, wait);
        Ok(())
    }

    /// Abandons a device that failed to start or to explore.
    fn give_up(&mut self, wait: &Wait<'_>) {
        let _ = wait;
    }

    /// Checks whether the device can accept a request of whole blocks, within the size limit.
    ///
    /// # Errors
    /// [`DeviceError::BadBuffer`], or [`DeviceError::Unsupported`].
    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        let _ = request;
        Ok(())
    }

    /// The flush command; `None` if there is no volatile cache.
    fn flush_command(&self) -> Option<Self::Command>;

    /// Issues waiting requests, oldest first, while the device accepts commands.
    fn serve(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform);

    /// Polls the device once, without waiting, and advances any error recovery by a step.
    ///
    /// # Errors
    /// If the device has failed, not just a request.
    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError>;

    /// Called after the device failed with `error`. Returns a better reason if there is one, such as a device
    /// that is gone.
    fn explain(&self, error: DeviceError) -> DeviceError;

    /// Disables the device's access to memory.
    ///
    /// # Errors
    /// Why the device may not be idle.
    fn shut_down(&mut self, how: Shutdown, wait: &Wait<'_>) -> Result<(), DeviceError>;
}

/// A polled disk.
///
/// `open` it while the kernel is healthy, move it into the arena with
/// [`Arena::place`](dumpcore::Arena::place), and pass it to `arm()`. Opening only reads: another driver may
/// be using the device, until [`quiesce`](DumpDevice::quiesce) takes it over by a reset.
///
/// The reset ends everything in flight. Buffers of requests that were in flight when this driver failed stay
/// lost: neither a failed device nor another `quiesce` returns them, so a device that still writes to them
/// does no damage. Any failure of the device itself (a wrong response, a request of
/// [`rw_block`](DumpDevice::rw_block) or [`flush`](DumpDevice::flush) that does not end) ends its use: every
/// call returns [`DeviceError::NotReady`] until `quiesce` succeeds again.
///
/// DMA need not be coherent: shared memory is cleaned and invalidated through the platform.
pub struct Polled<D: PolledDisk> {
    pub(crate) device: D,
    requests: Requests<D>,
    name: Name,
    /// Quiesced, and no failure since.
    ready: bool,
    /// Polls in a row without progress.
    idle: u32,
}

/// A request that is over.
struct Over<C> {
    work: Work<C>,
    result: Result<(), DeviceError>,
}

impl<D: PolledDisk> Polled<D> {
    /// A disk; the device is not touched until it is taken over.
    pub fn new(device: D, name: Name) -> Polled<D> {
        Polled { device, requests: pending::Requests::new(), name, ready: false, idle: 0 }
    }

    /// Its driver.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Its driver.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Whether the device accepts requests: taken over, and no failure since.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Ends the use of a device that has failed; returns the reason.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.device.explain(error)
    }

    /// Accepts a request; returns it if there is no room.
    fn take(&mut self, work: Work<D::Command>, platform: &dyn Platform) -> Result<(), Work<D::Command>> {
        self.requests.push(work)?;
        self.idle = 0;
        self.device.serve(&mut self.requests, platform);
        Ok(())
    }

    /// Checks whether a transfer can be accepted.
    #[inline(never)]
    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        check_shape(request, self.device.max_extents())?;
        self.device.check(request)?;
        check_range(request, self.device.blocks().unwrap_or(0))
    }

    /// Starts a transfer; returns it if it cannot be started.
    fn transfer(&mut self, request: Request, platform: &dyn Platform) -> Result<(), Rejected> {
        if let Err(error) = self.check(&request) {
            return Err(Rejected { request, error });
        }
        match self.take(Work::Transfer(request), platform) {
            Err(Work::Transfer(request)) => Err(Rejected { request, error: DeviceError::QueueFull }),
            // A transfer comes back as a transfer, so this is no failure.
            Err(Work::Command(_)) | Ok(()) => Ok(()),
        }
    }

    /// The next request that is over.
    #[inline]
    fn next(&mut self, wait: &Wait<'_>) -> Result<Option<Over<D::Command>>, DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        let progress = match self.device.poll(&mut self.requests, wait) {
            Ok(progress) => progress,
            Err(error) => return Err(self.fail(error)),
        };
        if progress == Progress::Nothing {
            self.idle = self.idle.wrapping_add(1);
            if D::POLLS_MEMORY && self.idle.is_multiple_of(POLLS_PER_STATUS) {
                self.check_alive()?;
            }
            return Ok(None);
        }
        self.idle = 0;
        let over = match progress {
            Progress::Over { index, result } => self.requests.take(index).map(|work| Over { work, result }),
            Progress::Nothing | Progress::Room => None,
        };
        // The next round of this request, or the oldest waiting one.
        self.device.serve(&mut self.requests, wait.platform());
        Ok(over)
    }

    fn check_alive(&mut self) -> Result<(), DeviceError> {
        // If explain() replaces the placeholder, its result is the error.
        let error = self.device.explain(DeviceError::NotReady);
        if error == DeviceError::NotReady {
            return Ok(());
        }
        self.ready = false;
        Err(error)
    }

    /// Waits for the only request in flight.
    fn wait_for_it(
        &mut self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<Over<D::Command>, DeviceError> {
        match wait.until(what, limit, || self.next(wait).transpose()) {
            Ok(result) => result,
            // The request stays in flight, contrary to rw_block's contract.
            Err(timed_out) => Err(self.fail(timed_out.into())),
        }
    }

    /// Executes a command within `limit` nanoseconds, while the device is otherwise idle.
    ///
    /// # Errors
    /// Why it failed. The device is still [ready](Polled::is_ready) if it failed only the command.
    pub fn command(
        &mut self,
        command: D::Command,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if !self.requests.is_empty() || self.take(Work::Command(command), wait.platform()).is_err() {
            return Err(DeviceError::QueueFull);
        }
        match self.wait_for_it(D::called(command).noun, limit, wait)? {
            Over { work: Work::Command(_), result } => result,
            Over { work: Work::Transfer(_), .. } => Err(self.fail(DeviceError::NotReady)),
        }
    }

    /// Brings the device from reset to ready.
    fn bring_up(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.device.start(wait)?;
        self.ready = true;
        D::explore(self, wait)
    }
}

// SAFETY: a request is among the pending ones from transfer() on, until it is returned from there, once, when
// the driver vouches that the device no longer has any part of it. They are dropped when the driver vouches
// for a reset, and none is returned before new ones have come. The driver also vouches for everything that
// the device is given.
unsafe impl<D: PolledDisk> DumpDevice for Polled<D> {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn geometry(&self) -> Option<Geometry> {
        self.device.blocks().map(|blocks| Geometry { blocks })
    }

    fn sector_size(&self) -> Option<u32> {
        self.device.sector_size()
    }

    fn integrity(&self, digest: &mut Digest) {
        self.name.integrity(digest);
        self.device.integrity(digest);
        digest.number(self.device.timeout());
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        self.device.health()
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.ready = false;
        self.device.take_over(wait)?;
        // The reset is confirmed. Buffers that were in flight are dropped, not returned: their owner has been
        // told.
        self.requests.clear();
        self.idle = 0;
        self.bring_up(wait).map_err(|error| {
            let error = self.fail(error);
            self.device.give_up(wait);
            error
        })
    }

    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        let length = buffer.len();
        if length != BLOCK_SIZE {
            return (Some(buffer), Err(DeviceError::BadBuffer { length }));
        }
        if self.ready && !self.requests.is_empty() {
            return (Some(buffer), Err(DeviceError::QueueFull));
        }
        let request = Request { id: 0, direction, block, buffer, gather: None };
        if let Err(Rejected { request, error }) = self.transfer(request, wait.platform()) {
            return (Some(request.buffer), Err(error));
        }
        let what = match direction {
            Direction::Read => D::READ,
            Direction::Write => D::WRITE,
        };
        match self.wait_for_it(what, self.device.timeout(), wait) {
            Ok(Over { work: Work::Transfer(request), result }) => (Some(request.buffer), result),
            Ok(Over { work: Work::Command(_), result }) => (None, result),
            Err(error) => (None, Err(error)),
        }
    }

    fn controller(&self) -> Option<u64> {
        Some(self.device.controller())
    }

    /// 16, whatever the device accepts at once: the others wait in the driver.
    fn depth(&self) -> usize {
        DEPTH
    }

    /// 1 MiB, whatever the device accepts at once: larger requests are issued in rounds.
    fn max_transfer(&self) -> usize {
        MAX_TRANSFER
    }

    fn max_extents(&self) -> usize {
        self.device.max_extents()
    }

    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        self.transfer(request, wait.platform()).map(|()| None)
    }

    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        Ok(match self.next(wait)? {
            Some(Over { work: Work::Transfer(Request { id, buffer, gather, .. }), result }) => {
                Some(Completion { id, buffer, gather, result })
            }
            Some(Over { work: Work::Command(_), .. }) | None => None,
        })
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        match self.device.flush_command() {
            Some(flush) => self.command(flush, self.device.timeout().saturating_mul(FLUSH_TIMES), wait),
            // No volatile cache: completed writes are on the medium.
            None => Ok(()),
        }
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let flushed = self.flush(wait);
        self.ready = false;
        let at_rest = flushed.is_ok() && self.requests.is_empty();
        let how = if at_rest { Shutdown::Normal } else { Shutdown::Abrupt };
        let stopped = self.device.shut_down(how, wait);
        flushed.and(stopped)
    }
}
