//! A lane: one partition of one device that a dump goes to, and how far it has come there.

use crate::format::Uuid;
use crate::format::cipher::PublicKey;
use crate::format::crypt::Key;
use crate::format::header::{Header, Status};
use crate::integrity::{Digest, Harm};
use crate::limits::MAX_TARGETS;
use crate::partition::verify::Checker;
use crate::partition::window::Window;

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

/// Where the next dump begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its first block.
    pub block: u64,
    /// Its number among the dumps of the partition, from 1.
    pub sequence: u32,
    /// Blocks from the first one up to this are known to hold their pattern, because they had to be looked
    /// at.
    pub free_to: u64,
    /// Whether a dump that nobody closed lies in front. A disk that lost its cache may have more of it
    /// further on.
    pub behind_unfinished: bool,
}

impl Place {
    /// Not found yet.
    pub const NOWHERE: Place = Place { block: 0, sequence: 0, free_to: 0, behind_unfinished: false };
}

/// What is known of a lane's partition, and of the dump there. It lives in the arena, not on the stack.
pub struct Books {
    /// The label's uuid.
    pub uuid: Uuid,
    /// What the dump's headers say.
    pub header: Header,
    /// Where the dump begins.
    pub place: Place,
    /// Where its next chunk goes.
    pub next: u64,
    /// Chunks that it has.
    pub chunks: u64,
    /// What of the partition has been checked.
    pub checker: Checker,
}

impl Books {
    /// Empty ones.
    pub fn new() -> Books {
        Books {
            uuid: [0; 16],
            header: Header::new(),
            place: Place::NOWHERE,
            next: 0,
            chunks: 0,
            checker: Checker::new(0, 0),
        }
    }
}

impl Default for Books {
    fn default() -> Books {
        Books::new()
    }
}

/// One partition that is written.
pub struct Lane<'l> {
    /// Its place in the list of targets.
    pub target: usize,
    /// The only way to its blocks.
    pub window: Window<'l>,
    /// How its chunks are encrypted, if they are.
    pub lock: Option<Lock<'l>>,
    /// What is known of it.
    pub books: &'l mut Books,
    /// The checksum of what must not change while it is used.
    sealed: u32,
}

impl<'l> Lane<'l> {
    /// A lane of which nothing is known yet but its label's uuid.
    pub fn new(
        target: usize,
        window: Window<'l>,
        uuid: &Uuid,
        lock: Option<Lock<'l>>,
        books: &'l mut Books,
    ) -> Lane<'l> {
        books.uuid = *uuid;
        books.place = Place::NOWHERE;
        books.next = 0;
        books.chunks = 0;
        books.checker.begin(0, 0);
        let mut lane = Lane { target, window, lock, books, sealed: 0 };
        lane.sealed = lane.digest();
        lane
    }

    /// The checksum of what must not change while it is used: where it writes, for whom, and with which key.
    fn digest(&self) -> u32 {
        let mut digest = Digest::new();
        self.window.seal(&mut digest);
        digest.bytes(&self.books.uuid).number(core::ptr::from_ref::<Books>(self.books) as u64);
        if let Some(lock) = self.lock {
            digest.bytes(lock.key.bytes()).bytes(lock.ephemeral).bytes(lock.recipient);
        }
        digest.finish()
    }

    /// Whether what must not change has not.
    ///
    /// # Errors
    /// That it has.
    pub(crate) fn check_seal(&self) -> Result<(), Harm> {
        let now = self.digest();
        if now == self.sealed { Ok(()) } else { Err(Harm::Seal { armed: self.sealed, now }) }
    }

    /// Blocks of payload that the next chunk may have: after it, the back header has to fit.
    pub fn room(&self) -> u64 {
        self.window.blocks().saturating_sub(self.books.next).saturating_sub(2)
    }

    /// Authenticates the header as it is now, if the dump is encrypted.
    pub fn sign_header(&mut self) {
        if let Some(lock) = self.lock {
            let closed = self.books.header.status() != Status::InProgress;
            self.books.header.tag = lock.key.header_tag(&self.books.header, closed).unwrap_or_default();
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
