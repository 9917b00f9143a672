//! A lane: one partition of one device that a dump goes to, and how far it has come there.

use crate::format::Uuid;
use crate::format::crypt::{Key, PublicKey};
use crate::format::header::Header;
use crate::partition::place::Place;
use crate::partition::verify::Checker;
use crate::partition::window::Window;

/// Targets of a dump, at most.
pub const MAX_TARGETS: usize = 4;

/// What a dump is encrypted with.
#[derive(Clone, Copy)]
pub struct Lock<'l> {
    /// The key of its chunks and headers.
    pub key: &'l Key,
    /// The ephemeral public key, to be stored beside them.
    pub ephemeral: &'l PublicKey,
    /// The public key that the label has to demand.
    pub recipient: &'l PublicKey,
}

/// One partition that is written.
pub struct Lane<'l> {
    /// Its place in the list of targets.
    pub target: usize,
    /// The only way to its blocks.
    pub window: Window<'l>,
    /// The label's uuid.
    pub uuid: Uuid,
    /// How its chunks are encrypted, if they are.
    pub lock: Option<Lock<'l>>,
    /// What its headers say.
    pub header: &'l mut Header,
    /// Where its dump begins.
    pub place: Place,
    /// Where its next chunk goes.
    pub next: u64,
    /// Chunks that it has.
    pub chunks: u64,
    /// What of it has been checked.
    pub checker: &'l mut Checker,
}

impl<'l> Lane<'l> {
    /// A lane of which nothing is known yet.
    pub fn new(
        target: usize,
        window: Window<'l>,
        uuid: Uuid,
        lock: Option<Lock<'l>>,
        (header, checker): (&'l mut Header, &'l mut Checker),
    ) -> Lane<'l> {
        let place = Place { block: 0, sequence: 0, free_to: 0 };
        checker.begin(0, 0);
        Lane { target, window, uuid, lock, header, place, next: 0, chunks: 0, checker }
    }

    /// Blocks of payload that the next chunk may have: behind it, the back header has to fit.
    pub fn room(&self) -> u64 {
        self.window.blocks().saturating_sub(self.next).saturating_sub(2)
    }

    /// Authenticates the header as it is now, if the dump is encrypted. `closed` when it is not in progress any more.
    pub fn sign_header(&mut self, closed: bool) {
        if let Some(lock) = self.lock {
            self.header.tag = lock.key.header_tag(self.header, closed).unwrap_or_default();
        }
    }
}

/// The lanes of a dump; usually one.
#[derive(Default)]
pub struct Lanes<'l> {
    lanes: [Option<Lane<'l>>; MAX_TARGETS],
}

impl<'l> Lanes<'l> {
    /// No lanes.
    pub fn new() -> Lanes<'l> {
        Lanes { lanes: [const { None }; MAX_TARGETS] }
    }

    /// Adds a lane; one too many is given up.
    pub fn push(&mut self, lane: Lane<'l>) -> Option<usize> {
        let place = self.lanes.iter().position(Option::is_none)?;
        *self.lanes.get_mut(place)? = Some(lane);
        Some(place)
    }

    /// Forgets a lane.
    pub fn remove(&mut self, lane: usize) {
        if let Some(slot) = self.lanes.get_mut(lane) {
            *slot = None;
        }
    }

    /// A lane.
    pub fn get(&self, lane: usize) -> Option<&Lane<'l>> {
        self.lanes.get(lane)?.as_ref()
    }

    /// A lane, to use.
    pub fn get_mut(&mut self, lane: usize) -> Option<&mut Lane<'l>> {
        self.lanes.get_mut(lane)?.as_mut()
    }

    /// All lanes with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Lane<'l>)> {
        self.lanes.iter().enumerate().filter_map(|(number, lane)| Some((number, lane.as_ref()?)))
    }

    /// All lanes with their numbers, to use.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Lane<'l>)> {
        self.lanes.iter_mut().enumerate().filter_map(|(number, lane)| Some((number, lane.as_mut()?)))
    }

    /// How many lanes there are.
    pub fn len(&self) -> usize {
        self.lanes.iter().flatten().count()
    }

    /// Whether there is no lane.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
