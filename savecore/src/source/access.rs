//! What a target is opened for.

/// What a target is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading; others may read too.
    Read,
    /// Reading without a lock, also while another savecore works on it: what that one does may be seen half done.
    Glance,
    /// Reading, and writing from [`Target::make_writable`](super::Target::make_writable) on; nobody else may use it meanwhile, except the kernel that is armed on
    /// it: it writes there when it crashes, and expects dumps to be freed (see [`clear`](crate::partition::clear)). What
    /// somebody else uses already is only read: [`Target::user`](super::Target::user).
    Harvest,
    /// Writing; nobody else may use it, neither the system nor another savecore.
    Write,
    /// As [`Access::Write`], to make a dump partition of what is there: of a disk, the partition must be named.
    Format,
}

impl Access {
    /// Whether nobody else may use the target.
    pub(super) fn is_exclusive(self) -> bool {
        !matches!(self, Access::Read | Access::Glance)
    }

    /// How what is on the way to the target is opened.
    pub(super) fn on_the_way(self) -> Access {
        if self == Access::Glance { Access::Glance } else { Access::Read }
    }

    pub(super) fn writes_at_once(self) -> bool {
        matches!(self, Access::Write | Access::Format)
    }
}
