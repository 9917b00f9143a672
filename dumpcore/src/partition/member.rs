//! A member of a dump: one partition of one device that the dump goes to, with its progress. A striped dump
//! has several, like a stripe set of RAID 0.

use crate::format::Uuid;
use crate::format::cipher::PublicKey;
use crate::format::crypt::Key;
use crate::format::header::{Header, Status};
use crate::integrity::{Digest, Harm};
use crate::limits::MAX_TARGETS;
use crate::partition::verify::Checker;
use crate::partition::window::Window;

/// The keys that a dump is encrypted with.
#[derive(Clone, Copy)]
pub struct EncryptionKeys<'l> {
    /// The key of its chunks and headers.
    pub key: &'l Key,
    /// The ephemeral public key, stored in the headers.
    pub ephemeral: &'l PublicKey,
    /// The public key that the label must demand.
    pub recipient: &'l PublicKey,
}

/// Where the next dump begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its first block.
    pub block: u64,
    /// Its number among the dumps of the partition, from 1.
    pub sequence: u32,
    /// The blocks from the first one up to this are known to hold their pattern, because the search had to
    /// read them.
    pub free_to: u64,
    /// Whether it comes after a dump that was not closed. If the disk lost its cache, more of that dump may
    /// follow.
    pub behind_unfinished: bool,
}

impl Place {
    /// No place yet.
    pub const NOWHERE: Place = Place { block: 0, sequence: 0, free_to: 0, behind_unfinished: false };
}

/// The state of a member's partition and of the dump there. It is in the arena, not on the stack.
pub struct MemberState {
    /// The label's uuid.
    pub uuid: Uuid,
    /// The dump's header.
    pub header: Header,
    /// Where the dump begins.
    pub place: Place,
    /// The block at which its next chunk begins.
    pub next: u64,
    /// Number of its chunks.
    pub chunks: u64,
    /// The progress of the pattern check.
    pub checker: Checker,
}

impl MemberState {
    /// An empty state.
    pub fn new() -> MemberState {
        MemberState {
            uuid: [0; 16],
            header: Header::new(),
            place: Place::NOWHERE,
            next: 0,
            chunks: 0,
            checker: Checker::new(0, 0),
        }
    }
}

impl Default for MemberState {
    fn default() -> MemberState {
        MemberState::new()
    }
}

/// One partition that is written.
pub struct Member<'l> {
    /// Its index in the list of targets.
    pub target: usize,
    /// The only way to its blocks.
    pub window: Window<'l>,
    /// The keys for its chunks, if they are encrypted.
    pub keys: Option<EncryptionKeys<'l>>,
    /// Its state.
    pub state: &'l mut MemberState,
    /// The checksum of everything that must not change while it is in use.
    integrity: u32,
}

impl<'l> Member<'l> {
    /// A new member, of which only the label's uuid is known.
    pub fn new(
        target: usize,
        window: Window<'l>,
        uuid: &Uuid,
        keys: Option<EncryptionKeys<'l>>,
        state: &'l mut MemberState,
    ) -> Member<'l> {
        state.uuid = *uuid;
        state.place = Place::NOWHERE;
        state.next = 0;
        state.chunks = 0;
        state.checker.begin(0, 0);
        let mut member = Member { target, window, keys, state, integrity: 0 };
        member.integrity = member.digest();
        member
    }

    /// The checksum of everything that must not change while it is in use: where it writes, and for which
    /// recipient and with which key.
    fn digest(&self) -> u32 {
        let mut digest = Digest::new();
        self.window.integrity(&mut digest);
        digest.bytes(&self.state.uuid).number(core::ptr::from_ref::<MemberState>(self.state) as u64);
        if let Some(keys) = self.keys {
            digest.bytes(keys.key.bytes()).bytes(keys.ephemeral).bytes(keys.recipient);
        }
        digest.finish()
    }

    /// Checks that the state which must not change is unchanged.
    ///
    /// # Errors
    /// The two checksums, if they differ.
    pub(crate) fn check_integrity(&self) -> Result<(), Harm> {
        let now = self.digest();
        if now == self.integrity { Ok(()) } else { Err(Harm::Integrity { armed: self.integrity, now }) }
    }

    /// Payload blocks that the next chunk may have: the back header must fit after it.
    pub fn room(&self) -> u64 {
        self.window.blocks().saturating_sub(self.state.next).saturating_sub(2)
    }

    /// Authenticates the header in its present state, if the dump is encrypted.
    pub fn sign_header(&mut self) {
        if let Some(keys) = self.keys {
            let closed = self.state.header.status() != Status::InProgress;
            self.state.header.tag = keys.key.header_tag(&self.state.header, closed).unwrap_or_default();
        }
    }
}

/// The members of a dump; usually one.
#[derive(Default)]
pub struct Members<'l> {
    members: [Option<Member<'l>>; MAX_TARGETS],
}

impl<'l> Members<'l> {
    /// No members.
    pub fn new() -> Members<'l> {
        Members { members: [const { None }; MAX_TARGETS] }
    }

    /// Adds a member. Returns `None` and drops it if there are too many.
    pub fn push(&mut self, member: Member<'l>) -> Option<usize> {
        let place = self.members.iter().position(Option::is_none)?;
        *self.members.get_mut(place)? = Some(member);
        Some(place)
    }

    /// Removes a member.
    pub fn remove(&mut self, member: usize) {
        if let Some(slot) = self.members.get_mut(member) {
            *slot = None;
        }
    }

    /// The member with this number, if there is one.
    pub fn get(&self, member: usize) -> Option<&Member<'l>> {
        self.members.get(member)?.as_ref()
    }

    /// The member with this number, mutably, if there is one.
    pub fn get_mut(&mut self, member: usize) -> Option<&mut Member<'l>> {
        self.members.get_mut(member)?.as_mut()
    }

    /// All members with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Member<'l>)> {
        self.members.iter().enumerate().filter_map(|(number, member)| Some((number, member.as_ref()?)))
    }

    /// All members with their numbers, mutably.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Member<'l>)> {
        self.members.iter_mut().enumerate().filter_map(|(number, member)| Some((number, member.as_mut()?)))
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.iter().flatten().count()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
