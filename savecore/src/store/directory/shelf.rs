//! The known folders of a directory.

use std::collections::BTreeMap;

use rustix::fs::Stat;

use super::super::record::Record;

/// A finished folder. There may be more of them than a process may have open files.
pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) stat: Stat,
    /// Disk usage of its files; `None` if it has files that are not savecore's.
    pub(super) bytes: Option<u64>,
}

/// The finished folders of a directory, oldest first. A folder's record is read once: otherwise a harvest of
/// many dumps into a directory with many crashes would read all records for each dump.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) folders: BTreeMap<(u64, String), Kept>,
    pub(super) orders: BTreeMap<String, u64>,
}

impl Shelf {
    pub(super) fn insert(&mut self, name: String, kept: Kept) {
        self.remove(&name);
        let order = kept.record.order.unwrap_or(0);
        self.orders.insert(name.clone(), order);
        self.folders.insert((order, name), kept);
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(order) = self.orders.remove(name) {
            self.folders.remove(&(order, name.to_owned()));
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Kept> {
        self.folders.get(&(*self.orders.get(name)?, name.to_owned()))
    }

    /// Somebody has put files into it since it was read.
    pub(super) fn is_not_only_ours(&mut self, name: &str) {
        let place = self.orders.get(name).map(|order| (*order, name.to_owned()));
        if let Some(kept) = place.and_then(|place| self.folders.get_mut(&place)) {
            kept.bytes = None;
        }
    }

    /// The name of the folder saved last.
    pub(super) fn last(&self) -> Option<&str> {
        self.folders.last_key_value().map(|((_, name), _)| name.as_str())
    }
}
