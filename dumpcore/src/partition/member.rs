//! A member of a dump: one partition of one device that the dump goes to, and how far it has come there. A
//! striped dump has several, as a stripe set of RAID 0 has member disks.

use crate::format::cipher::PublicKey;
use crate::format::header::{Header, Status};
use crate::format::{Key, Uuid};
use crate::integrity::{Digest, Harm};
use crate::limits::MAX_TARGETS;
use crate::partition::verify::Checker;
use crate::partition::window::Window;

/// What a dump is encrypted with.
#[derive(Clone, Copy)]
pub struct EncryptionKeys<'l> {
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

/// What is known of a member's partition, and of the dump there. It lives in the arena, not on the stack.
pub struct MemberState {
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

impl MemberState {
    /// Empty ones.
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
    /// Its place in the list of targets.
    pub target: usize,
    /// The only way to its blocks.
    pub window: Window<'l>,
    /// How its chunks are encrypted, if they are.
    pub keys: Option<EncryptionKeys<'l>>,
    /// What is known of it.
    pub state: &'l mut MemberState,
    /// The checksum of what must not change while it is used.
    integrity: u32,
}

impl<'l> Member<'l> {
    /// A member of which nothing is known yet but its label's uuid.
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

    /// The checksum of what must not change while it is used: where it writes, for whom, and with which key.
    fn digest(&self) -> u32 {
        let mut digest = Digest::new();
        self.window.integrity(&mut digest);
        digest.bytes(&self.state.uuid).number(core::ptr::from_ref::<MemberState>(self.state) as u64);
        if let Some(keys) = self.keys {
            digest.bytes(keys.key.bytes()).bytes(keys.ephemeral).bytes(keys.recipient);
        }
        digest.finish()
    }

    /// Whether what must not change has not.
    ///
    /// # Errors
    /// That it has.
    pub(crate) fn check_integrity(&self) -> Result<(), Harm> {
        let now = self.digest();
        if now == self.integrity { Ok(()) } else { Err(Harm::Integrity { armed: self.integrity, now }) }
    }

    /// Blocks of payload that the next chunk may have: after it, the back header has to fit.
    pub fn room(&self) -> u64 {
        self.window.blocks().saturating_sub(self.state.next).saturating_sub(2)
    }

    /// Authenticates the header as it is now, if the dump is encrypted.
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

    /// Adds a member; one too many is given up.
    pub fn push(&mut self, member: Member<'l>) -> Option<usize> {
        let place = self.members.iter().position(Option::is_none)?;
        *self.members.get_mut(place)? = Some(member);
        Some(place)
    }

    /// Forgets a member.
    pub fn remove(&mut self, member: usize) {
        if let Some(slot) = self.members.get_mut(member) {
            *slot = None;
        }
    }

    /// A member.
    pub fn get(&self, member: usize) -> Option<&Member<'l>> {
        self.members.get(member)?.as_ref()
    }

    /// A member, to use.
    pub fn get_mut(&mut self, member: usize) -> Option<&mut Member<'l>> {
        self.members.get_mut(member)?.as_mut()
    }

    /// All members with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Member<'l>)> {
        self.members.iter().enumerate().filter_map(|(number, member)| Some((number, member.as_ref()?)))
    }

    /// All members with their numbers, to use.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Member<'l>)> {
        self.members.iter_mut().enumerate().filter_map(|(number, member)| Some((number, member.as_mut()?)))
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.iter().flatten().count()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
