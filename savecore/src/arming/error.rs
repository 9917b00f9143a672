//! Why a kernel cannot be armed, each as one line.

use std::io;

use crate::Error;

/// Why a kernel cannot be armed, or its module cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The running kernel does not have the module.
    #[error("{help}")]
    NotLoaded {
        /// What is missing, and how to get it.
        help: String,
    },
    /// Another savecore is arming.
    #[error("another savecore is arming the kernel and does not finish; `savecore armed` shows the state")]
    Busy,
    /// The targets in the configuration are malformed.
    #[error("the targets in the configuration cannot be understood: correct it, or name a TARGET")]
    Configuration,
    /// A file of the kernel cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A file of the kernel cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// Its path.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The module reports a state unknown to this savecore.
    #[error("{path} says {found:?}: use the savecore that belongs to the module")]
    Unknown {
        /// The file.
        path: String,
        /// Its contents.
        found: String,
    },
    /// The crash kernel's parameter cannot be set.
    #[error(
        "a crash kernel is loaded and would run first, so diskdump would never run, and this order cannot be changed: {error}; boot with crash_kexec_post_notifiers, or unload it"
    )]
    KdumpFirst {
        /// Why.
        error: io::Error,
    },
    /// The devices cannot be listed.
    #[error("cannot list the system's disks: {0}")]
    Devices(io::Error),
    /// No target was named or found.
    #[error(
        "no dump partition was found to arm{}: name a TARGET, or make one with `savecore format`",
        in_parentheses(.left_out)
    )]
    NothingFound {
        /// Unusable targets that were found; empty if there are none.
        left_out: String,
    },
    /// No partition has the given identity.
    #[error("{name}: no such partition; `savecore list` shows dump partitions, and `blkid` shows all")]
    NoSuch {
        /// The given name.
        name: String,
    },
    /// Several partitions have the given identity.
    #[error("{name}: there are several, {found}: name the device")]
    Several {
        /// The given name.
        name: String,
        /// Their devices.
        found: String,
    },
    /// It is not a device of the running kernel.
    #[error(
        "{target} is not a block device of the running kernel, which can dump to nothing else; if the kernel does not show a disk's partitions, `partprobe` makes it look again"
    )]
    NoDevice {
        /// The target.
        target: String,
    },
    /// The target depends on a layer that does not work in a crashed kernel.
    #[error(
        "{target} is made of other devices by the kernel (LVM, RAID, dm-crypt, loop), and a crashed kernel cannot write there: use a plain partition of a disk"
    )]
    Made {
        /// The target.
        target: String,
    },
    /// Another device is built on the target.
    #[error("{target} is part of another device (LVM, RAID, dm-crypt): use a separate partition")]
    Held {
        /// The target.
        target: String,
    },
    /// A target was named twice.
    #[error("{target} was named twice: name each target once")]
    NamedTwice {
        /// The target.
        target: String,
    },
    /// The target cannot be used.
    #[error("{target}: {why}")]
    Unfit {
        /// The target.
        target: String,
        /// Why.
        why: String,
    },
    /// The target cannot be opened, is in use, or the like.
    #[error(transparent)]
    Target(#[from] Error),
    /// More targets were named than the module accepts.
    #[error("{target}: a kernel can be armed on at most {most} targets", most = super::limits::MAX_TARGETS)]
    TooMany {
        /// The first one too many.
        target: String,
    },
    /// Some of the named targets cannot be used.
    #[error("{left} of the targets can be used: {why}")]
    NotAll {
        /// "none", or "not all".
        left: &'static str,
        /// Why each cannot be used.
        why: String,
    },
    /// The module refused.
    #[error("the kernel refused to arm {targets}: {why}{}{}", still(.kept), no_longer(.lost))]
    Refused {
        /// The targets.
        targets: String,
        /// The module's reason.
        why: String,
        /// Targets that were armed before, and still are.
        kept: Vec<String>,
        /// Targets that were armed before, and no longer are.
        lost: Vec<String>,
    },
}

fn still(kept: &[String]) -> String {
    if kept.is_empty() { String::new() } else { format!("; it stays armed on {}", kept.join(", ")) }
}

fn no_longer(lost: &[String]) -> String {
    match lost {
        [] => String::new(),
        [one] => format!("; {one} was armed and no longer is"),
        all => format!("; {} were armed and no longer are", all.join(", ")),
    }
}

fn in_parentheses(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}
