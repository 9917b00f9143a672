//! What became of the last dump: as it waits on a target, or as somebody tells.

use dump_linux::config::Wanted;
use dumpcore::format::chain::{Extent, front_at};
use dumpcore::format::header::Status;
use dumpcore::format::{Block, Uuid};

use crate::kernel::Target;
use crate::page::Page;

/// Bytes that tell it, at most.
const LAST: usize = 512;

/// Dumps on one target that are looked at, at most.
const DUMPS: usize = 64;

/// What became of the last dump.
pub(crate) struct Last {
    text: [u8; LAST],
    used: usize,
    /// Whether it is of a dump that waited on a target, and not what somebody told.
    is_seen: bool,
}

impl Last {
    /// Nothing is known.
    pub(crate) const fn new() -> Last {
        Last { text: [0; LAST], used: 0, is_seen: false }
    }

    /// What became of it, as lines; none if nothing is known.
    pub(crate) fn text(&self) -> Option<&str> {
        let text = self.text.get(..self.used).and_then(|text| core::str::from_utf8(text).ok());
        text.filter(|text| !text.is_empty())
    }

    /// No dump waits on a target. One that was seen there is gone, and nobody has told what became of it.
    pub(crate) fn none_waits(&mut self) {
        if self.is_seen {
            self.used = 0;
        }
    }

    /// Somebody tells. False if what they tell is not lines of text, or too long.
    pub(crate) fn tell(&mut self, text: &[u8]) -> bool {
        let is_text = core::str::from_utf8(text)
            .is_ok_and(|text| text.starts_with("result=") && text.ends_with('\n') && is_harmless(text));
        match self.text.get_mut(..text.len()) {
            Some(room) if is_text => {
                room.copy_from_slice(text);
                (self.used, self.is_seen) = (text.len(), false);
                true
            }
            _ => false,
        }
    }
}

/// Whether it is lines that give no orders to a terminal.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|character| character == '\n' || !character.is_control())
}

/// Looks for the newest dump that waits on a target, which is the first one of all targets that has any; says whether there is one,
/// and keeps what became of it. `block` holds the target's block 1, the first one after its label.
pub(crate) fn find(
    wanted: &Wanted<'_>,
    target: &Target,
    uuid: &Uuid,
    block: &mut Block,
    last: &mut Last,
) -> bool {
    let blocks = target.place().sectors / 8;
    let mut at = 1;
    let mut found = false;
    for _ in 0..DUMPS {
        let Some(header) = front_at(block, uuid, at) else { break };
        let result = match header.status() {
            Status::Complete => "complete",
            Status::Incomplete => "incomplete",
            Status::InProgress => "unfinished",
            // Its blocks are being freed.
            Status::Saved => break,
        };
        found = true;
        let mut page = Page { room: &mut last.text, used: 0 };
        page.line("result", result);
        if let Some(why) = header.incomplete().words() {
            page.line("why", why);
        }
        page.number("time", header.wall_clock.get());
        page.line("place", wanted.path);
        (last.used, last.is_seen) = (page.used, true);
        // One that is unfinished has no end that is known here.
        let Extent::Closed { end } = Extent::of(header, blocks) else { break };
        if end >= blocks || !target.read(end, block) {
            break;
        }
        at = end;
    }
    found
}
