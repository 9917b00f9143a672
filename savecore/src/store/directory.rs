//! A directory with a folder for each crash.
//!
//! A folder is filled as `.NAME.partial`, locked, and renamed when it and its contents are durable. All
//! accesses go through the directory as opened once, by single names, and links are never followed: nothing
//! is written elsewhere, even if others may write to the directory. Others cannot inject folders either: only
//! those owned by the user or by root count.

mod folder;
mod kept;
mod open;
mod retire;
mod room;
mod safe;
mod shelf;

#[cfg(test)]
mod tests;

use self::folder::Partial;
pub(crate) use self::kept::LATEST;
pub(super) use self::open::Directory;
use self::open::MAX_ALIKE;
use super::error::StoreError;
use super::names;
use super::types::{Begun, Crash, Store};
use crate::corefile::Room;

impl Store for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn keeps_holes(&self) -> bool {
        room::keeps_holes(&self.fd)
    }

    fn begin(&mut self, crash: &Crash, core: &str, room: Option<Room>) -> Result<Begun<'_>, StoreError> {
        self.safety.begin();
        let mut remarks = Vec::new();
        self.remove_leftovers(&mut remarks)?;
        let base = names::folder(crash);
        let old_base = names::old_folder(crash);
        for name in self.entries()? {
            if (names::is_numbered(&name, &base) || names::is_numbered(&name, &old_base))
                && self.may_be(&name, crash, core)?
                && let Some(place) = self.whole(&name, crash, core)?
            {
                return Ok(Begun::AlreadyThere(place));
            }
        }
        self.check_room(room)?;
        for number in 1..=MAX_ALIKE {
            let name = names::numbered(&base, number);
            if !self.is_there(&name)?
                && let Some(partial) = Partial::create(self, names::partial(&name))?
            {
                return Ok(Begun::New(Box::new(folder::Filling::new(partial, base, crash.clone(), remarks))));
            }
        }
        Err(StoreError::Taken { path: self.shown(&base) })
    }
}
