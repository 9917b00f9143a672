//! The fate of the last dump: read from a waiting dump on a target, or reported by user space.

use dump_linux::config::Wanted;
use dumpcore::format::chain::{Extent, front_at};
use dumpcore::format::header::Status;
use dumpcore::format::{Block, Uuid};

use crate::kernel::Target;
use crate::page::Page;

/// Maximum length of the description in bytes.
const LAST: usize = 512;

/// Maximum number of dumps examined on one target.
const DUMPS: usize = 64;

/// The fate of the last dump.
pub(crate) struct Last {
    text: [u8; LAST],
    used: usize,
    /// Whether it describes a dump waiting on a target, rather than a report by user space.
    is_seen: bool,
}

impl Last {
    /// Not known.
    pub(crate) const fn new() -> Last {
        Last { text: [0; LAST], used: 0, is_seen: false }
    }

    /// The description as lines of text; `None` if nothing is known.
    pub(crate) fn text(&self) -> Option<&str> {
        let text = self.text.get(..self.used).and_then(|text| core::str::from_utf8(text).ok());
        text.filter(|text| !text.is_empty())
    }

    /// Records that no dump waits on a target. A description of a waiting dump is dropped, because its fate
    /// is now unknown.
    pub(crate) fn none_waits(&mut self) {
        if self.is_seen {
            self.used = 0;
        }
    }

    /// Stores a report from user space. Returns false if it is not lines of text, or too long.
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

/// Whether it has no control characters for a terminal.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|character| character == '\n' || !character.is_control())
}

/// Finds the newest waiting dump on a target, the first of all targets that has any. Stores its description
/// and returns whether there is one. `block` holds the target's block 1, the first one after its label.
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
        // An unfinished dump has no known end.
        let Extent::Closed { end } = Extent::of(header, blocks) else { break };
        if end >= blocks || !target.read(end, block) {
            break;
        }
        at = end;
    }
    found
}
