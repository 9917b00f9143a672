//! A disk that is polled: what its driver has to be able to do, and everything else.

use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Geometry, Health, Rejected, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;

use super::name::Name;
use super::pending::{self, Called, DEPTH, Work};
use super::request::{MAX_EXTENTS, MAX_TRANSFER, check_range, check_shape};

/// A flush may take this many times as long as a request: there may be gigabytes in the cache.
pub const FLUSH_TIMES: u64 = 12;
/// After so many polls in a row that find nothing, the device's registers are read, of a driver that otherwise reads
/// memory only. They are slow; a device that is gone is noticed within milliseconds even so.
const POLLS_PER_STATUS: u32 = 1 << 14;

/// All requests that a driver has.
pub type Requests<D> = pending::Requests<<D as PolledDisk>::Command, <D as PolledDisk>::State>;

/// One of them.
pub type Pending<D> = pending::Pending<<D as PolledDisk>::Command, <D as PolledDisk>::State>;

/// What a poll has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing new.
    Nothing,
    /// No request is over, but the device takes another command.
    Room,
    /// A request is over: the device has nothing of it any more.
    Over {
        /// Its index.
        index: usize,
        /// Whether all of it was done.
        result: Result<(), DeviceError>,
    },
}

/// How a device is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// It is at rest, and its cache is empty.
    Normal,
    /// It has failed, or still has commands.
    Abrupt,
}

/// What a controller does. [`Polled`] does the rest.
///
/// The order of calls: `integrity` and `health` at any time; [`take_over`](PolledDisk::take_over), then
/// [`start`](PolledDisk::start), then [`explore`](PolledDisk::explore); then [`serve`](PolledDisk::serve) and
/// [`poll`](PolledDisk::poll); [`shut_down`](PolledDisk::shut_down) last. After an error of the device, nothing but
/// `take_over` and `shut_down`.
///
/// # Implementation safety
/// Of the contract of [`DumpDevice`], `Polled` has the part that is about giving buffers back. A driver has the rest:
/// - The device is told of no memory but the driver's own and what the [requests](Requests) name, which it may write
///   for a read only, and of that only while the request is there.
/// - A request is [over](Progress::Over) when the device has nothing of it any more, whatever the device says.
/// - After `take_over` has returned `Ok`, the device has nothing of any earlier request.
pub unsafe trait PolledDisk: Send + Sized {
    /// What it can be told besides transfers.
    type Command: Copy + Send;
    /// What it keeps of a request.
    type State: Default + Send;

    /// What a read is called that does not end, such as `an NVMe read`.
    const READ: &'static str;
    /// And a write.
    const WRITE: &'static str;
    /// Whether [`poll`](PolledDisk::poll) looks at memory only, so that it does not see that the device is gone.
    const POLLS_MEMORY: bool;

    /// What a command is called.
    fn called(command: Self::Command) -> Called;

    /// How many nanoseconds a request may take.
    fn timeout(&self) -> Nanoseconds;

    /// See [`DumpDevice::controller`].
    fn controller(&self) -> u64;

    /// Size in blocks of 4096 bytes; `None` before it is known.
    fn blocks(&self) -> Option<u64>;

    /// Bytes in a logical sector; `None` before it is known.
    fn sector_size(&self) -> Option<u32>;

    /// Extents that a request may have.
    fn max_extents(&self) -> usize {
        MAX_EXTENTS
    }

    /// Feeds everything that must be the same at the crash as it was when armed.
    fn integrity(&self, digest: &mut Digest);

    /// Looks at the device without changing it, while another driver may be using it.
    fn health(&mut self) -> Health;

    /// Takes the controller over by reset.
    ///
    /// # Errors
    /// Why it cannot be.
    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// After the reset: makes it take commands.
    ///
    /// # Errors
    /// Why it does not.
    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError>;

    /// Once it takes commands: finds out what takes [some](Polled::command).
    ///
    /// # Errors
    /// Why it cannot be used.
    fn explore(disk: &mut Polled<Self>, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let _ = (disk, wait);
        Ok(())
    }

    /// Leaves a device alone that could not be started or explored.
    fn give_up(&mut self, wait: &Wait<'_>) {
        let _ = wait;
    }

    /// Whether the device can take a request, which is of whole blocks and no larger than requests may be.
    ///
    /// # Errors
    /// [`DeviceError::BadBuffer`], or [`DeviceError::Unsupported`].
    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        let _ = request;
        Ok(())
    }

    /// The command that brings what is in the cache to the medium; `None` if there is no cache that could be lost.
    fn flush_command(&self) -> Option<Self::Command>;

    /// Gives the device what waits, oldest first, while it takes commands.
    fn serve(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform);

    /// Looks at the device once, without waiting, and recovers from errors by a step.
    ///
    /// # Errors
    /// The device has failed, not just a request.
    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError>;

    /// The device has failed, with this error. Gives a better reason for it, if there is one: it no longer answers.
    fn explain(&self, error: DeviceError) -> DeviceError;

    /// Leaves the device unable to access memory.
    ///
    /// # Errors
    /// Why it is not certain that it is at rest.
    fn shut_down(&mut self, how: Shutdown, wait: &Wait<'_>) -> Result<(), DeviceError>;
}

/// A polled disk.
///
/// `open` it while the kernel is healthy, move it into the arena with [`Arena::place`](dumpcore::Arena::place), and give
/// it to `arm()`. Opening only looks: another driver may be using the device, until [`quiesce`](DumpDevice::quiesce) takes
/// it over by reset.
///
/// Reset ends everything that was in flight. Buffers of requests that the driver had in flight itself when it failed
/// stay lost: neither a failed device nor a fresh `quiesce` gives them back, so that a device that still writes to them
/// harms nobody. Any failure of the device itself (a wrong answer, a request of [`rw_block`](DumpDevice::rw_block) or
/// [`flush`](DumpDevice::flush) that does not end) ends its use: everything is [`DeviceError::NotReady`] until `quiesce`
/// succeeds again.
///
/// DMA need not be coherent: what a driver shares with the device is cleaned and invalidated through the platform.
pub struct Polled<D: PolledDisk> {
    pub(crate) device: D,
    requests: Requests<D>,
    name: Name,
    /// Quiesced, and not failed since.
    ready: bool,
    /// Polls in a row that found nothing.
    idle: u32,
}

/// What is over.
struct Over<C> {
    work: Work<C>,
    result: Result<(), DeviceError>,
}

impl<D: PolledDisk> Polled<D> {
    /// A disk that is not touched before it is taken over.
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

    /// Whether the device takes requests: taken over, and not failed since.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Ends the use of a device that has failed, and says why.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.device.explain(error)
    }

    /// Takes a request; back if there is no room.
    fn take(&mut self, work: Work<D::Command>, platform: &dyn Platform) -> Result<(), Work<D::Command>> {
        self.requests.push(work)?;
        self.idle = 0;
        self.device.serve(&mut self.requests, platform);
        Ok(())
    }

    /// Whether a transfer can be taken.
    #[inline(never)]
    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        check_shape(request, self.device.max_extents())?;
        self.device.check(request)?;
        check_range(request, self.device.blocks().unwrap_or(0))
    }

    /// Starts a transfer; back if it cannot be.
    fn transfer(&mut self, request: Request, platform: &dyn Platform) -> Result<(), Rejected> {
        if let Err(error) = self.check(&request) {
            return Err(Rejected { request, error });
        }
        match self.take(Work::Transfer(request), platform) {
            Err(Work::Transfer(request)) => Err(Rejected { request, error: DeviceError::QueueFull }),
            // What comes back is what was given, so there is no other failure.
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
        // The next round of this one, or whoever has waited longest.
        self.device.serve(&mut self.requests, wait.platform());
        Ok(over)
    }

    fn check_alive(&mut self) -> Result<(), DeviceError> {
        // What explain() would put in the place of "nothing wrong" is the error.
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
            // The request stays in flight, so nothing is as rw_block takes it to be.
            Err(timed_out) => Err(self.fail(timed_out.into())),
        }
    }

    /// Has the device do a command within `limit` nanoseconds, while it has nothing else to do.
    ///
    /// # Errors
    /// Why it was not done. The device is still [ready](Polled::is_ready) if it only failed the command.
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

    /// From reset to ready.
    fn bring_up(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.device.start(wait)?;
        self.ready = true;
        D::explore(self, wait)
    }
}

// SAFETY: a request is among the pending ones from transfer() on, until it goes back out of there, once, when the driver
// vouches that the device has nothing of it. They are emptied when the driver vouches for a reset, and nothing goes back
// before others have come. What the device is told of, the driver vouches for, too.
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
        // The reset is confirmed. Buffers that were in flight are forgotten, not given back: whoever gave them has
        // been told so.
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

    /// 16, whatever the device takes at once: the others wait in the driver.
    fn depth(&self) -> usize {
        DEPTH
    }

    /// 1 MiB, whatever the device takes at once: a larger request goes to it in rounds.
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
            // What is complete is on the medium.
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
