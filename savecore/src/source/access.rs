//! The purpose of opening a target.

/// The purpose of opening a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading; others may read too.
    Read,
    /// Reading without a lock, even while another savecore works on it: may see that one's work half done.
    Glance,
    /// Reading, and writing from [`Target::make_writable`](super::Target::make_writable) on; nobody else may
    /// use it meanwhile, except the kernel that is armed on it: that writes when it crashes, and expects
    /// dumps to be freed (see [`clear`](crate::partition::clear)). A target in use by others is opened only
    /// for reading: [`Target::user`](super::Target::user).
    Harvest,
    /// Writing; nobody else may use it, neither the system nor another savecore.
    Write,
    /// As [`Access::Write`], to turn it into a dump partition: for a disk, the partition must be named.
    Format,
}

impl Access {
    /// Whether it excludes other users of the target.
    pub(super) fn is_exclusive(self) -> bool {
        !matches!(self, Access::Read | Access::Glance)
    }

    /// How to open the devices above the target.
    pub(super) fn on_the_way(self) -> Access {
        if self == Access::Glance { Access::Glance } else { Access::Read }
    }

    pub(super) fn writes_at_once(self) -> bool {
        matches!(self, Access::Write | Access::Format)
    }
}
