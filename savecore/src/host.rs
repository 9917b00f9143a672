//! This machine's name.

/// The name of the machine that this runs on.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
