// SPDX-License-Identifier: MIT OR GPL-2.0

//! diskdump for kernels with CONFIG_RUST: what `../shim.c` is for the others, as a Rust module of the kernel's own kind. What to
//! do with it is decided in `../module/src`, which is the same for both.
//!
//! | file | what it tells |
//! | --- | --- |
//! | `target` | a block device is opened, claimed, and found on its bus |
//! | `healthy` | memory, clocks and the log of a kernel that is well |
//! | `crashed` | the same for one that is not: nothing here sleeps or takes a lock |
//! | `stop` | panics and oopses are noticed, and the other CPUs stopped |
//! | `change` | CPUs and memory come and go |
//! | `sysfs` | /sys/kernel/diskdump, and the module's parameter |
//! | `shared` | what the others need in order to give functions and structures to C |
//! | `bindings` | what bindgen makes of `bindings.h` and `../shim.h` |

use kernel::prelude::*;

#[allow(
    clippy::all,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes,
    improper_ctypes
)]
mod bindings;
mod change;
mod crashed;
mod healthy;
mod shared;
mod stop;
mod sysfs;
mod target;

module! {
    type: Diskdump,
    name: "diskdump",
    author: "The diskdump authors",
    description: "Crash dumps by polled drivers, without a reserved kernel",
    license: "Dual MIT/GPL",
}

/// The module while it is loaded. What it holds goes in the order of the fields: first nobody can ask or order any more,
/// then nothing comes and goes, and at last a dump that is armed is taken back.
struct Diskdump {
    _folder: sysfs::Folder,
    _changes: change::Watch,
    _armed: Armed,
    _lock: sysfs::Lock,
}

impl kernel::Module for Diskdump {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        change::prepare();
        let lock = sysfs::Lock::new()?;
        let armed = Armed;
        let changes = change::Watch::begin()?;
        let folder = sysfs::Folder::create()?;
        sysfs::arm_by_parameter();
        Ok(Diskdump { _folder: folder, _changes: changes, _armed: armed, _lock: lock })
    }
}

/// Whatever is armed at the end.
struct Armed;

impl Drop for Armed {
    fn drop(&mut self) {
        change::finish();
        // SAFETY: nobody else calls any more.
        unsafe { bindings::dd_disarm() };
    }
}
